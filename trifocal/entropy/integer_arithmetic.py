"""Arithmetic 1 of the exact networks, with identical results on every machine.

It works on float64 arrays of NumPy or torch. Activations are multiples of 2^−ACTIVATION_BITS clamped to
±ACTIVATION_BOUND, weights are multiples of 2^−WEIGHT_BITS. Every product is then a multiple of
2^−(ACTIVATION_BITS + WEIGHT_BITS), and every partial sum stays below 2^53 of those units. So no sum is
rounded, and its order does not matter (other libraries, thread counts, processors). After each layer the
result is rounded to the grid of activations. The only operations are + × max clamp and round: divisions are
by powers of two, and there are no transcendental functions.
"""

from __future__ import annotations

from typing import Any

from trifocal.types import LEVELS_PER_KNOT
from trifocal.utils.arrays import clip_, namespace

__all__ = [
    "ACTIVATION_BITS",
    "ACTIVATION_BOUND",
    "ARITHMETIC",
    "WEIGHT_BITS",
    "add_bias_round_clamp_",
    "check_bound",
    "depthwise",
    "interpolate",
    "linear",
    "placed_linear",
    "to_grid",
]

# version of the arithmetic: changes whenever the same weights would give other integers; part of fingerprints
ARITHMETIC = 1
ACTIVATION_BITS = 12
ACTIVATION_BOUND = 2.0**12
WEIGHT_BITS = 14
LARGEST_INPUT = 2.0**16  # of a layer: a sum of up to 16 activations, or a decoded value
LARGEST_EXACT = 2.0**53


def to_grid(x: Any, bits: int) -> Any:
    """Round to the nearest multiple of 2^−bits, half to even; exact for float64 |x| < 2^(51−bits)."""
    return namespace(x).round(x * 2.0**bits) * 2.0**-bits


def add_bias_round_clamp_(
    x: Any,
    bits: int = ACTIVATION_BITS,
    bound: float = ACTIVATION_BOUND,
    bias: Any = 0.0,
    low: float | None = None,
) -> Any:
    """Add the bias, round to multiples of 2^−bits and clamp to ±bound (or low … bound); in place.

    Adding and subtracting 1.5·2^(52−bits) rounds half to even, since 2^−bits is then the unit in the last
    place of a float64. The bias must be on the same grid, so that adding both rounds only once.
    """
    shift = 1.5 * 2.0 ** (52 - bits)
    x += bias + shift
    x -= shift
    return clip_(x, -bound if low is None else low, bound)


def linear(x: Any, weight: Any, bias: Any, low: float | None = None) -> Any:
    """A linear layer over the last axis: [..., I], [I, O], [O] → [..., O]. `low` 0 includes a ReLU."""
    y = x.reshape(-1, x.shape[-1]) @ weight
    return add_bias_round_clamp_(y, bias=bias, low=low).reshape(*x.shape[:-1], -1)


def placed_linear(x: Any, weight: Any, bias: Any) -> Any:
    """A linear layer with other weights at each of P positions: [..., P, I], [P, I, O], [O] → [..., P, O]."""
    products = [x[..., position, :] @ own for position, own in enumerate(weight)]
    return add_bias_round_clamp_(namespace(x).stack(products, -2), bias=bias)


def depthwise(x: Any, weight: Any, bias: Any) -> Any:
    """A zero-padded 3×3 convolution of each channel, as nine shifted products: [B, H, W, C], [9, C], [C]."""
    h, w = x.shape[1:3]
    y = x * weight[4]
    for tap in (0, 1, 2, 3, 5, 6, 7, 8):
        row, column = tap // 3 - 1, tap % 3 - 1
        there = y[:, max(0, -row) : h - max(0, row), max(0, -column) : w - max(0, column)]
        from_here = x[:, max(0, row) : h - max(0, -row), max(0, column) : w - max(0, -column)]
        there += from_here * weight[tap]
    return add_bias_round_clamp_(y, bias=bias)


def interpolate(table: Any, level: Any) -> Any:
    """A table [K, C] at levels [B] → [B, 1, 1, C]; the weights of the interpolation are multiples of
    1/LEVELS_PER_KNOT, a power of two.
    """
    low, part = level // LEVELS_PER_KNOT, (level % LEVELS_PER_KNOT)[:, None]
    value = table[low] * (LEVELS_PER_KNOT - part) + table[low + 1] * part
    return add_bias_round_clamp_(value / LEVELS_PER_KNOT, WEIGHT_BITS)[:, None, None, :]


def check_bound(weight_sums: Any, bias: Any) -> None:
    """Raises OverflowError if a sum could reach 2^53 units; weight_sums is Σ|w| of each output, [O]."""
    units = 2.0 ** (ACTIVATION_BITS + WEIGHT_BITS)
    largest = float(((weight_sums * LARGEST_INPUT + abs(bias)) * units).max())
    if largest >= LARGEST_EXACT:
        raise OverflowError(f"A sum may reach {largest:.3g} units and would be rounded; 2^53 is the limit.")
