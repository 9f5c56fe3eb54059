"""Integer frequency tables of the range coder, indexed by a scale index.

Row i describes a quantised logistic distribution with scale 0.05 · 2^(i/6), or, after calibration, the values
counted on training images. Rows are symmetric: a row holds the frequency of 0, of each of ±1 … ±R, and of an
escape symbol. Trained tables are part of the weights; inference never recomputes them.
"""

from functools import lru_cache

import numpy as np
import numpy.typing as npt

ROWS = 64
ROWS_PER_OCTAVE = 6
SMALLEST_SCALE = 0.05
RADIUS = 400
FREQUENCY_BITS = 16

Frequencies = npt.NDArray[np.int32]
Floats = npt.NDArray[np.float64]


def scales() -> Floats:
    """Logistic scale of each row, [ROWS]."""
    return SMALLEST_SCALE * 2.0 ** (np.arange(ROWS) / ROWS_PER_OCTAVE)


@lru_cache(maxsize=1)
def radii() -> npt.NDArray[np.int64]:
    """Largest magnitude that each row codes without an escape, [ROWS]: ten scales, rounded up, computed in
    integers as the smallest n with (2n)^6 ≥ 2^row.
    """
    smallest = [
        next(n for n in range(1, RADIUS + 1) if (2 * n) ** 6 >= 2**row or n == RADIUS) for row in range(ROWS)
    ]
    return np.array(smallest)


def table_bits(magnitude: Floats, scale_index: Floats) -> Floats:
    """Bits of integers under the quantised logistic of each row; `estimators.logistic_bits` is its
    differentiable form.
    """
    inverse = np.exp2(-scale_index / ROWS_PER_OCTAVE) / SMALLEST_SCALE
    inside = np.logaddexp(0, (magnitude - 0.5) * inverse) + np.logaddexp(0, (-magnitude - 0.5) * inverse)
    return np.asarray((inside - np.log(-np.expm1(-inverse))) / np.log(2.0))


def logistic_frequencies() -> Frequencies:
    """The tables before calibration: [ROWS, RADIUS + 2], see `normalise`."""
    magnitudes = np.arange(RADIUS + 1, dtype=np.float64)
    return normalise(np.exp2(-table_bits(magnitudes[None], np.arange(ROWS, dtype=np.float64)[:, None])))


def calibrated_frequencies(counts: Floats, confidence: float = 500.0) -> Frequencies:
    """Tables from counted magnitudes, [ROWS, RADIUS + 1], with the logistic as a prior worth `confidence`
    counts.
    """
    prior = logistic_frequencies()[:, :-1] / 2**FREQUENCY_BITS
    both_signs = counts.copy()
    both_signs[:, 1:] /= 2
    return normalise(both_signs + confidence * prior)


def normalise(weights: Floats) -> Frequencies:
    """Weights of the magnitudes → integer frequencies with a total of 2^FREQUENCY_BITS.

    Column m < RADIUS + 1 is the frequency of +m (and again of −m for m > 0), zero beyond the row's radius;
    the last column is the escape's. Each symbol within the radius has a frequency of at least 1.
    """
    table = np.zeros((ROWS, RADIUS + 2), dtype=np.int32)
    for row, radius in enumerate(radii()):
        inside = weights[row, : radius + 1]
        outside = weights[row, radius + 1 :].sum() * 2
        total = 2 * inside.sum() - inside[0] + outside
        available = 2**FREQUENCY_BITS - (2 * radius + 2)
        table[row, 1 : radius + 1] = 1 + np.rint(inside[1:] / total * available)
        table[row, -1] = 1 + np.rint(outside / total * available)
        table[row, 0] = 2**FREQUENCY_BITS - 2 * table[row, 1 : radius + 1].sum() - table[row, -1]
    return table


def is_table(frequencies: npt.NDArray[np.generic]) -> bool:
    """Whether an array satisfies the contract of `normalise`: integers, each symbol possible, row totals of
    2^FREQUENCY_BITS.
    """
    if frequencies.shape != (ROWS, RADIUS + 2) or not np.issubdtype(frequencies.dtype, np.integer):
        return False
    inside = np.arange(RADIUS + 1) <= radii()[:, None]
    symbols, escapes = frequencies[:, :-1].astype(np.int64), frequencies[:, -1].astype(np.int64)
    possible = (symbols >= 1) == inside
    totals = 2 * symbols.sum(1) - symbols[:, 0] + escapes
    return bool(
        possible.all()
        and (symbols >= 0).all()
        and (escapes >= 1).all()
        and (totals == 2**FREQUENCY_BITS).all()
    )


def symbol_frequencies(frequencies: Frequencies, row: int) -> npt.NDArray[np.int32]:
    """Frequencies of −R … R and of the escape in a row, [2 R + 2], as the range coder takes them."""
    positive = frequencies[row, 1 : radii()[row] + 1]
    return np.concatenate([positive[::-1], frequencies[row, :1], positive, frequencies[row, -1:]])
