"""Coders of torch tensors: differentiable rate estimators, and one that records means and table rows."""

from __future__ import annotations

import math

import torch
import torch.nn.functional as F
from torch import Tensor

from trifocal.entropy.coder import LARGEST_SYMBOL
from trifocal.entropy.quantise import ZERO_BELOW, dead_zones, quantise
from trifocal.entropy.tables import ROWS_PER_OCTAVE, SMALLEST_SCALE, Floats
from trifocal.types import DEAD_ZONE

THRESHOLDS = torch.from_numpy(ZERO_BELOW)


def logistic_bits(value: Tensor, scale_index: Tensor) -> Tensor:
    """Bits of a value under the quantised logistic of a real-valued row; differentiable in both.

    log P = log σ(a) + log σ(−b) + log(1 − e^(b−a)) with a, b = (±1/2 − |value|)/s,
    which is stable in the tails.
    """
    inverse = torch.exp2(-scale_index / ROWS_PER_OCTAVE) / SMALLEST_SCALE
    magnitude = value.abs()
    inside = F.logsigmoid((0.5 - magnitude) * inverse) + F.logsigmoid((0.5 + magnitude) * inverse)
    return (inside + torch.log(-torch.expm1(-inverse))) * (-1 / math.log(2.0))


def thresholds(dead_zone: float, like: Tensor) -> Tensor:
    """`dead_zones` on the device and in the precision of a tensor, [ROWS]."""
    return (THRESHOLDS if dead_zone == DEAD_ZONE else torch.from_numpy(dead_zones(dead_zone))).to(like)


def quantise_through(residual: Tensor, rows: Tensor, dead_zone: float = DEAD_ZONE) -> Tensor:
    """`quantise`, with the gradient of the identity (straight-through estimator); rows of the same shape."""
    rounded: Tensor = quantise(residual.detach(), thresholds(dead_zone, residual)[rows])
    return residual + (rounded - residual.detach())


def add_noise(x: Tensor) -> Tensor:
    """x plus uniform noise in ±1/2, which has the density of a rounded value (Ballé et al. 2017)."""
    return x + torch.rand_like(x) - 0.5


class TrainingRateEstimator:
    """Bits of the rounded values under the logistic, with two sources of gradient; returned values are
    rounded straight-through.

    The scale learns from the rounded values, which are what a file contains. Noisy values cost 0.3 bits per
    pixel more than values rounded with the dead zone, so a scale that learns from them is too wide. Analysis
    and mean learn from noisy values with the scale detached: rounded zeros have no gradient, and without one
    the encoder shrinks its steps (results/training.csv, run 6).

    Attributes:
        bits: bits of each image so far, [B].
    """

    def __init__(self, batch: int, device: torch.device | str = "cpu") -> None:
        self.bits = torch.zeros(batch, device=device)

    def code(
        self, y: Tensor | None, mean: Tensor, scale_index: Tensor, dead_zone: float = DEAD_ZONE
    ) -> Tensor:
        assert y is not None
        residual = y - mean
        rows = torch.round(scale_index).nan_to_num().long()  # with NaN the loss is NaN, and the run diverged
        rounded = quantise_through(residual, rows, dead_zone)
        noisy = logistic_bits(add_noise(residual), scale_index.detach())
        bits = logistic_bits(rounded.detach(), scale_index) + (noisy - noisy.detach())
        self.bits = self.bits + bits.flatten(1).sum(1)
        return rounded + mean


class PositionRateEstimator:
    """Bits of each value as a file would spend them, with a gradient.

    The value is that of the integer tables at the rounded symbol. The gradient is that of the logistic at the
    value before rounding, so it is smooth, deterministic, and biased where rounding matters.

    Args:
        cost: `cost_table` of the frequencies.

    Attributes:
        bits_by_call: bits of the values of each coding call so far, of the shape that was coded.
    """

    def __init__(self, cost: Floats) -> None:
        self.bits_by_call: list[Tensor] = []
        self._cost = torch.from_numpy(cost)

    def code(
        self, y: Tensor | None, mean: Tensor, scale_index: Tensor, dead_zone: float = DEAD_ZONE
    ) -> Tensor:
        assert y is not None
        residual = y - mean
        rows = torch.round(scale_index).long()
        rounded = quantise_through(residual, rows, dead_zone) * (rows > 0)
        magnitude = rounded.detach().abs().round().long().clamp(max=LARGEST_SYMBOL)
        exact = self._cost.to(rows.device)[rows, magnitude].to(residual)
        smooth = logistic_bits(residual, scale_index)
        self.bits_by_call.append(smooth + (exact - smooth.detach()))
        return rounded + mean


class ParameterRecorder:
    """Codes nothing: rounds, and keeps the predicted parameters.

    Attributes:
        parameters_by_call: mean and scale index of each coding call so far.
    """

    def __init__(self) -> None:
        self.parameters_by_call: list[tuple[Tensor, Tensor]] = []

    def code(
        self, y: Tensor | None, mean: Tensor, scale_index: Tensor, dead_zone: float = DEAD_ZONE
    ) -> Tensor:
        assert y is not None
        self.parameters_by_call.append((mean, scale_index))
        rows = torch.round(scale_index).long()
        symbols: Tensor = quantise(y - mean, thresholds(dead_zone, y)[rows])
        return symbols.clamp(-LARGEST_SYMBOL, LARGEST_SYMBOL) * (rows > 0) + mean
