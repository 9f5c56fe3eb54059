"""From a scale index to integer frequencies. The tables are part of the weights; nothing recomputes them at run time.

Row i describes a quantised logistic distribution with scale 0.05 · 2^(i/6), or, once calibrated, what was counted on
training pictures. Rows are symmetric, so a row holds the frequency of 0, of each of ±1 … ±R, and of an escape.
"""

import numpy as np
import numpy.typing as npt
import torch
import torch.nn.functional as F
from torch import Tensor

ROWS = 64
ROWS_PER_OCTAVE = 6
SMALLEST_SCALE = 0.05
RADIUS = 400
PRECISION = 16

Frequencies = npt.NDArray[np.int32]


def scales() -> npt.NDArray[np.float64]:
    """Logistic scale of each row, [ROWS]."""
    return SMALLEST_SCALE * 2.0 ** (np.arange(ROWS) / ROWS_PER_OCTAVE)


def radii() -> npt.NDArray[np.int64]:
    """Largest magnitude that each row codes without an escape, [ROWS]."""
    return np.minimum(np.ceil(scales() * 10), RADIUS).astype(np.int64)


def logistic_bits(value: Tensor, scale_index: Tensor) -> Tensor:
    """Bits of a value under the quantised logistic of a real-valued row; differentiable in both.

    log P = log σ(a) + log σ(−b) + log(1 − e^(b−a)) with a, b = (±1/2 − |value|)/s, which is stable in the tails.
    """
    inverse = torch.exp2(-scale_index / ROWS_PER_OCTAVE) / SMALLEST_SCALE
    magnitude = value.abs()
    inside = F.logsigmoid((0.5 - magnitude) * inverse) + F.logsigmoid((0.5 + magnitude) * inverse)
    return (inside + torch.log(-torch.expm1(-inverse))) * (-1 / np.log(2.0))


def logistic_frequencies() -> Frequencies:
    """The tables before calibration: [ROWS, RADIUS + 2], see `normalise`."""
    magnitudes = torch.arange(RADIUS + 1, dtype=torch.float64)
    bits = logistic_bits(magnitudes[None], torch.arange(ROWS, dtype=torch.float64)[:, None])
    return normalise(np.exp2(-bits.numpy()))


def calibrated_frequencies(counts: npt.NDArray[np.float64], confidence: float = 500.0) -> Frequencies:
    """Tables from counted magnitudes, [ROWS, RADIUS + 1], with the logistic as a prior worth `confidence` counts."""
    prior = logistic_frequencies()[:, :-1] / 2**PRECISION
    both_signs = counts.copy()
    both_signs[:, 1:] /= 2
    return normalise(both_signs + confidence * prior)


def normalise(weights: npt.NDArray[np.float64]) -> Frequencies:
    """Weights of the magnitudes → integer frequencies that fill 2^PRECISION exactly.

    Column m < RADIUS + 1 is the frequency of +m (and again of −m for m > 0), zero beyond the row's radius; the last
    column is the escape's. Each symbol within the radius has a frequency of at least 1.
    """
    table = np.zeros((ROWS, RADIUS + 2), dtype=np.int32)
    for row, radius in enumerate(radii()):
        inside = weights[row, : radius + 1]
        outside = weights[row, radius + 1 :].sum() * 2
        total = 2 * inside.sum() - inside[0] + outside
        room = 2**PRECISION - (2 * radius + 2)
        table[row, 1 : radius + 1] = 1 + np.rint(inside[1:] / total * room)
        table[row, -1] = 1 + np.rint(outside / total * room)
        table[row, 0] = 2**PRECISION - 2 * table[row, 1 : radius + 1].sum() - table[row, -1]
    return table


def is_table(frequencies: npt.NDArray[np.generic]) -> bool:
    """Whether an array is what `normalise` makes: whole numbers, each symbol possible, each row's total 2^PRECISION."""
    if frequencies.shape != (ROWS, RADIUS + 2) or not np.issubdtype(frequencies.dtype, np.integer):
        return False
    inside = np.arange(RADIUS + 1) <= radii()[:, None]
    symbols, escapes = frequencies[:, :-1].astype(np.int64), frequencies[:, -1].astype(np.int64)
    possible = (symbols >= 1) == inside
    totals = 2 * symbols.sum(1) - symbols[:, 0] + escapes
    return bool(
        possible.all() and (symbols >= 0).all() and (escapes >= 1).all() and (totals == 2**PRECISION).all()
    )


def probabilities(frequencies: Frequencies, row: int) -> npt.NDArray[np.float64]:
    """What the range coder takes for a row: the probabilities of −R … R and of the escape, exact multiples of 2^−16."""
    radius = radii()[row]
    positive = frequencies[row, 1 : radius + 1]
    symbols = np.concatenate([positive[::-1], frequencies[row, :1], positive, frequencies[row, -1:]])
    return symbols / 2.0**PRECISION
