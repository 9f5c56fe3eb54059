"""Arithmetic 2: fixed-point layers whose sums are integers of at most 24 bits, which float32 carries exactly.

Activations are integers in units of a power of two (`Grid`). The weights of an output are integers times
2^−e; e is chosen for each output from its weights alone, as large as `overflow_bound` allows. Every partial
sum is then an integer that float32 represents, so a matrix product gives the same bits in any order, with any
library, instruction set, number of threads and rounding mode. NumPy carries the integers in float32, torch in
float64, since torch can be set to a lower precision for float32. FORMAT.md defines the integers.
"""

from __future__ import annotations

import sys
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from trifocal.utils.arrays import clip_
from trifocal.utils.threads import for_rows

__all__ = [
    "ARITHMETIC",
    "FLOAT32_SUM",
    "INT32_SUM",
    "Depthwise",
    "Grid",
    "Linear",
    "carried",
    "overflow_bound",
    "quantised_weights",
    "rounded",
]

Floats = NDArray[np.float64]

ARITHMETIC = 2  # its id in fingerprints
FLOAT32_SUM = 2**24  # float32 has all integers up to it
INT32_SUM = 2**31 - 1
LARGEST_WEIGHT = 127
MOST_BITS = 14  # largest e
SMALLEST = 2.0**-60  # stands for 0 in divisions


@dataclass(frozen=True)
class Grid:
    """Fixed-point numbers: the integers low … high, times 2^−bits; low ≤ 0 ≤ high."""

    bits: int
    low: int
    high: int


def rounded(x: Any) -> Any:
    """The nearest integer, halves up. Exact for float64 |x| < 2^51 in every rounding mode, since `floor` does
    not depend on it. The gradient of a tensor passes unchanged.
    """
    return floored(x + 0.5)


def floored(x: Any) -> Any:
    """x rounded down; arrays, and tensors without a gradient, in place."""
    if isinstance(x, np.ndarray):
        return np.floor(x, out=x)
    return x + (x.detach().floor() - x.detach()) if x.requires_grad else x.floor_()


def carried(values: Floats, like: Any, dtype: type[np.floating[Any]] = np.float32) -> Any:
    """Values for computing with an array (of that dtype) or a tensor (float64, on its device)."""
    if isinstance(like, np.ndarray):
        return np.ascontiguousarray(values, dtype)
    return sys.modules["torch"].tensor(values, device=like.device)


def overflow_bound(weight: Floats, offset: Floats, inputs: Grid) -> Floats:
    """The largest magnitude that a sum of each output can reach, or a part of the sum in any order, [O].

    Args:
        weight: integers, [I, O].
        offset: integers, added last, [O].
        inputs: the range of the inputs.
    """
    # The larger of p·high − n·low and n·high − p·low, where p and −n are the sums of the weights of one sign.
    total, magnitudes = weight.sum(0), abs(weight).sum(0)
    twice = magnitudes * (inputs.high - inputs.low) + abs(total * (inputs.high + inputs.low))
    bound: Floats = twice / 2 + abs(offset)
    return bound


def quantised_weights(
    weight: Floats, bias: Floats, inputs: Grid, outputs: Grid | None, largest_sum: int = FLOAT32_SUM
) -> tuple[Floats, Floats, NDArray[np.int64]]:
    """Integer weights [I, O], integer offsets [O], and e of each output, [O].

    Args:
        weight, bias: of a layer, [I, O] and [O].
        inputs: the range of the inputs.
        outputs: what the outputs are rounded to; their offset includes half a unit. None for outputs that
            are not rounded.
        largest_sum: what `overflow_bound` may reach.

    Raises:
        OverflowError: if no e is small enough for an output.
    """
    lost_bits = 0 if outputs is None else max(0, outputs.bits - inputs.bits)
    lost_to_rounding = len(weight) * (inputs.high - inputs.low) / 2  # at most, of the sums
    reached = overflow_bound(weight, np.zeros_like(bias), inputs)
    exponents = np.minimum(
        doublings(abs(weight).max(0), LARGEST_WEIGHT + 0.5),
        doublings(reached, largest_sum + lost_to_rounding),
    ).clip(max=MOST_BITS)

    def attempt(columns: Any) -> tuple[Floats, Floats, NDArray[np.bool_]]:
        """Weights and offsets of these outputs with their exponents, and whether the sums fit."""
        e = exponents[columns]
        if e.min() <= lost_bits:
            raise OverflowError(f"The weights of a layer are too large for sums of up to {largest_sum}.")
        w = rounded(weight[:, columns] * np.ldexp(1.0, e))
        b = rounded(np.ldexp(bias[columns], inputs.bits + e))
        if outputs is not None:
            b += np.ldexp(1.0, inputs.bits + e - outputs.bits - 1)
        return w, b, (abs(w).max(0) <= LARGEST_WEIGHT) & (overflow_bound(w, b, inputs) <= largest_sum)

    whole, offset, fits = attempt(slice(None))
    columns = np.flatnonzero(~fits)
    while len(columns):
        exponents[columns] -= 1
        whole[:, columns], offset[columns], fits = attempt(columns)
        columns = columns[~fits]
    return whole, offset, exponents


def doublings(values: Floats, limit: float) -> NDArray[np.int64]:
    """How often each value may be doubled to stay at most at the limit; sometimes one more than that."""
    _, powers = np.frexp(limit / values.clip(min=SMALLEST))
    return powers.astype(np.int64) - 1


class FixedPointLayer:
    """A layer of arrays or tensors.

    Args:
        weight, bias: as for `quantised_weights`.
        inputs: the range of the inputs, which come in its units.
        outputs: what outputs are rounded and clamped to, in its units; None for exact outputs in units of 1.
        like: an array of the engine that computes.
        largest_sum: of the sums; float64 carries those beyond FLOAT32_SUM.

    Attributes:
        weight, offset: in units of the output, [I, O] and [O].
        exponents: e of each output, [O].

    Raises:
        OverflowError: as `quantised_weights`.
    """

    def __init__(
        self,
        weight: Floats,
        bias: Floats,
        inputs: Grid,
        outputs: Grid | None,
        like: Any,
        largest_sum: int = FLOAT32_SUM,
    ) -> None:
        whole, offset, exponents = quantised_weights(weight, bias, inputs, outputs, largest_sum)
        unit = np.ldexp(1.0, (0 if outputs is None else outputs.bits) - inputs.bits - exponents)
        dtype = np.float32 if largest_sum <= FLOAT32_SUM else np.float64
        self.weight, self.offset = carried(whole * unit, like, dtype), carried(offset * unit, like, dtype)
        self.inputs, self.outputs, self.exponents, self.largest_sum = inputs, outputs, exponents, largest_sum

    def settle(self, y: Any, residual: Any = None) -> Any:
        """Sums without offset → outputs, plus a residual before they are clamped; in place where possible."""
        y += self.offset
        if self.outputs is None:
            return y
        y = floored(y)
        if residual is not None:
            y += residual
        return clip_(y, self.outputs.low, self.outputs.high)


class Linear(FixedPointLayer):
    """A linear layer over the last axis: [..., I] → [..., O]."""

    def __call__(self, x: Any) -> Any:
        if not isinstance(x, np.ndarray):
            return self.on_one_thread(x)
        rows = x.reshape(-1, x.shape[-1])
        y = np.empty((len(rows), self.weight.shape[1]), self.weight.dtype)

        def compute(part: slice) -> None:
            self.settle(np.matmul(rows[part], self.weight, out=y[part]))

        for_rows(compute, len(rows), self.weight.size)
        return y.reshape(*x.shape[:-1], -1)

    def on_one_thread(self, x: Any, residual: Any = None) -> Any:
        """The outputs; a residual [..., O] is added before they are clamped."""
        rows = x.reshape(-1, x.shape[-1])
        more = None if residual is None else residual.reshape(len(rows), -1)
        return self.settle(rows @ self.weight, more).reshape(*x.shape[:-1], -1)


class Depthwise(FixedPointLayer):
    """A zero-padded 3×3 convolution of each channel, [B, H, W, C]; its weight is [9, C]."""

    def __call__(self, x: Any) -> Any:
        if not isinstance(x, np.ndarray):
            return self.settle(self._sums(x))
        y = np.empty_like(x)

        def compute(part: slice) -> None:
            y[:, part] = self.rows_on_one_thread(x, part)

        for_rows(compute, x.shape[1], self.cost(x))
        return y

    def rows_on_one_thread(self, x: Any, part: slice) -> Any:
        """Some rows of the outputs, [B, rows, W, C]."""
        first, end = max(0, part.start - 1), min(x.shape[1], part.stop + 1)
        return self.settle(self._sums(x[:, first:end])[:, part.start - first : part.stop - first])

    def cost(self, x: Any) -> float:
        """Of a row of an image, in multiplications of a product of matrices; it is bound by memory."""
        return 4.0 * x.shape[0] * x.shape[2] * self.weight.size

    def _sums(self, x: Any) -> Any:
        """The sum of nine shifted products."""
        h, w = x.shape[1:3]
        y = x * self.weight[4]
        for tap in (0, 1, 2, 3, 5, 6, 7, 8):
            row, column = tap // 3 - 1, tap % 3 - 1
            there = y[:, max(0, -row) : h - max(0, row), max(0, -column) : w - max(0, column)]
            from_here = x[:, max(0, row) : h - max(0, -row), max(0, column) : w - max(0, -column)]
            there += from_here * self.weight[tap]
        return y
