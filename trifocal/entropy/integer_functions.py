"""Integer forms of GELU, tanh, layer normalisation and softmax, with bit-exact results.

IEEE 754 double precision rounds each + − × ÷ √ correctly, so one operation on equal inputs gives equal bits
on every machine; only the order of a sum could change a result. Here every sum is of integers below 2^53
units, so it is exact in any order, and at most one division or root per value follows before it is rounded
to the grid of activations. GELU, tanh and exp are tables over the grid. Their entries are computed in double
precision and rounded; before rounding, none is closer than 1e-11 to the middle between two grid values
(tests/test_integer_functions.py), so every library with a smaller error gives the same tables.

Bounds of the sums, in units of their grids:

    layer norm    Σ x          C · 2^9 · 2^12               < 2^53 for C < 2^32
                  Σ (x − m)²   C · (2^10 · 2^12)²           < 2^53 for C < 2^9
    softmax       Σ e          N · 2^18                     smaller than the next
                  Σ e · v      N · 2^18 · (2^6 · 2^12)      < 2^53 for N < 2^17, the number of keys
"""

import math
from collections.abc import Callable
from functools import lru_cache

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from trifocal.entropy.integer_networks import (
    ACTIVATION_BITS,
    ACTIVATION_BOUND,
    WEIGHT_BITS,
    add_bias_round_clamp_,
    to_grid,
)

TABLE_END = 8.0  # GELU(x) = max(x, 0) and tanh(x) = ±1 on the grid beyond ±8
EXP_BITS = 18  # of the weights of a softmax before its division
EXP_END = 16.0  # e^−16 is 0 on their grid
NORM_BOUND = 2.0**9  # of the input of a layer norm
NORM_CHANNELS = 2**9
VALUE_BOUND = 2.0**6  # of the values that a softmax averages
MOST_KEYS = 2**17
MASKED = -(2.0**11)  # the logit of a key that is not attended to; others are clamped to half of it


@lru_cache(maxsize=4)
def gelu_table(device: torch.device) -> Tensor:
    """max(x, 0) − GELU(x), which is even in x, for x in 0..8 by 2^−12; multiples of 2^−12."""
    return _table(lambda x: x * torch.special.erfc(x / math.sqrt(2)) / 2, TABLE_END, ACTIVATION_BITS, device)


@lru_cache(maxsize=4)
def tanh_table(device: torch.device) -> Tensor:
    """tanh(x) for x in 0..8 by 2^−12; multiples of 2^−12."""
    return _table(torch.tanh, TABLE_END, ACTIVATION_BITS, device)


@lru_cache(maxsize=4)
def exp_table(device: torch.device) -> Tensor:
    """e^−x for x in 0..16 by 2^−12; multiples of 2^−EXP_BITS."""
    return _table(lambda x: torch.exp(-x), EXP_END, EXP_BITS, device)


def _table(function: Callable[[Tensor], Tensor], end: float, bits: int, device: torch.device) -> Tensor:
    with torch.inference_mode(False):
        return to_grid(function(activation_grid(end)), bits).to(device)


def activation_grid(end: float) -> Tensor:
    """The grid of activations from 0 to the end of a table, float64."""
    return torch.arange(int(end * 2**ACTIVATION_BITS) + 1, dtype=torch.float64) * 2.0**-ACTIVATION_BITS


def look_up(table: Tensor, x: Tensor) -> Tensor:
    """The entries of a table at x ≥ 0 on the grid of activations; the last entry beyond its end."""
    return table[(x * 2.0**ACTIVATION_BITS).clamp(max=len(table) - 1).long()]


def with_gradient(value: Tensor, smooth: Callable[[], Tensor]) -> Tensor:
    """The value, with the gradient of a smooth function that it approximates, if gradients are recorded."""
    if not torch.is_grad_enabled():
        return value
    near = smooth()
    return value + (near - near.detach())


class IntegerGelu(nn.Module):
    """The integer form of `nn.GELU`, float64 on the grid of activations."""

    def __init__(self, layer: nn.GELU) -> None:
        super().__init__()

    def forward(self, x: Tensor) -> Tensor:
        known = x.detach()
        value = known.clamp(min=0) - look_up(gelu_table(x.device), known.abs())
        return with_gradient(value, lambda: F.gelu(x))


class IntegerTanh(nn.Module):
    """The integer form of `nn.Tanh`, float64 on the grid of activations."""

    def __init__(self, layer: nn.Tanh) -> None:
        super().__init__()

    def forward(self, x: Tensor) -> Tensor:
        known = x.detach()
        value = known.sign() * look_up(tanh_table(x.device), known.abs())
        return with_gradient(value, lambda: torch.tanh(x))


class LayerNorm(nn.LayerNorm):
    """Layer normalisation over the last axis, of inputs that are clamped to ±512."""

    def __init__(self, channels: int) -> None:
        super().__init__(channels)

    def forward(self, input: Tensor) -> Tensor:
        return super().forward(input.clamp(-NORM_BOUND, NORM_BOUND))


class IntegerLayerNorm(nn.Module):
    """The integer form of `LayerNorm`: the mean is rounded to the grid, and the squares of the differences
    are summed exactly.

    Raises:
        OverflowError: for 512 channels or more.
    """

    weight: Tensor
    bias: Tensor

    def __init__(self, layer: LayerNorm) -> None:
        super().__init__()
        self.channels, self.epsilon = layer.normalized_shape[0], layer.eps
        if self.channels >= NORM_CHANNELS:
            raise OverflowError(
                f"A sum of {self.channels} squares would be rounded; use fewer than {NORM_CHANNELS} channels."
            )
        self.register_buffer("weight", to_grid(layer.weight.detach().double(), WEIGHT_BITS), persistent=False)
        self.register_buffer("bias", to_grid(layer.bias.detach().double(), ACTIVATION_BITS), persistent=False)

    def forward(self, x: Tensor) -> Tensor:
        x = x.clamp(-NORM_BOUND, NORM_BOUND)
        mean = add_bias_round_clamp_(x.sum(-1, keepdim=True) / self.channels)
        difference = x - mean
        variance = difference.square().sum(-1, keepdim=True) / self.channels
        normal = add_bias_round_clamp_(difference / torch.sqrt(variance + self.epsilon))
        return add_bias_round_clamp_(normal * self.weight, bias=self.bias)


class SoftmaxAverage(nn.Module):
    """The average of values by the softmax of logits: [..., Q, K] and [..., K, D] → [..., Q, D].

    Logits are clamped to ±1024, and values to ±64.
    """

    def forward(self, logits: Tensor, values: Tensor, mask: Tensor | None = None) -> Tensor:
        """mask: True for keys that are left out, of a shape that expands to that of the logits."""
        return torch.softmax(masked(logits, mask), -1) @ values.clamp(-VALUE_BOUND, VALUE_BOUND)


class IntegerSoftmaxAverage(nn.Module):
    """The integer form of `SoftmaxAverage`: Σ e·v / Σ e with e from a table of exp; one division per result.

    Raises:
        OverflowError: from `forward`, for 2^17 keys or more.
    """

    def __init__(self, layer: SoftmaxAverage) -> None:
        super().__init__()
        self.smooth = layer

    def forward(self, logits: Tensor, values: Tensor, mask: Tensor | None = None) -> Tensor:
        if logits.shape[-1] >= MOST_KEYS:
            raise OverflowError(
                f"A softmax over {logits.shape[-1]} positions would be rounded; use images of fewer than "
                f"{MOST_KEYS} latent positions, or tiles."
            )
        on_grid = masked(add_bias_round_clamp_(logits.detach().clone()), mask)
        weights = look_up(exp_table(logits.device), on_grid.amax(-1, keepdim=True) - on_grid)
        clamped = values.detach().clamp(-VALUE_BOUND, VALUE_BOUND)
        average = add_bias_round_clamp_((weights @ clamped) / weights.sum(-1, keepdim=True))
        return with_gradient(average, lambda: self.smooth(logits, values, mask))


def masked(logits: Tensor, mask: Tensor | None) -> Tensor:
    """The logits, clamped, with those of keys to leave out so low that their weight is 0."""
    clamped = logits.clamp(MASKED / 2, -MASKED / 2)
    return clamped if mask is None else clamped.masked_fill(mask, MASKED)


class Offsets(nn.Module):
    """A learned table that a network adds to its features: () → the table.

    Args:
        initial: its initial values, of any shape.
    """

    def __init__(self, initial: Tensor) -> None:
        super().__init__()
        self.table = nn.Parameter(initial.clone())

    def forward(self) -> Tensor:
        return self.table


class IntegerOffsets(nn.Module):
    """The integer form of `Offsets`."""

    table: Tensor

    def __init__(self, layer: Offsets) -> None:
        super().__init__()
        table = to_grid(layer.table.detach().double(), ACTIVATION_BITS)
        self.register_buffer("table", table.clamp(-ACTIVATION_BOUND, ACTIVATION_BOUND), persistent=False)

    def forward(self) -> Tensor:
        return self.table
