"""Integer networks: networks on integers carried in float64, with identical results on every machine.

Activations are multiples of 2^−ACTIVATION_BITS clamped to ±ACTIVATION_BOUND, weights are multiples of
2^−WEIGHT_BITS. Every product is then a multiple of 2^−(ACTIVATION_BITS + WEIGHT_BITS), and every partial sum
stays below 2^53 of those units. So no sum is rounded, and its order does not matter (other thread counts,
processors, libraries). After each layer the result is rounded to the grid of activations. The only operations
are + × max clamp and round: divisions are by powers of two, and there are no transcendental functions.
Convolutions are matrix products and shifted sums, since Winograd or FFT kernels would leave the grid.
"""

import copy
from collections.abc import Iterator
from itertools import product

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from trifocal.layers import (
    Block,
    Conv,
    Deconv,
    DepthToSpace,
    Depthwise,
    PlacedLinear,
    QualityInterpolation,
    SpaceToDepth,
)

# version of the arithmetic: changes whenever the same weights would give other integers; part of fingerprints
ARITHMETIC = 1
ACTIVATION_BITS = 12
ACTIVATION_BOUND = 2.0**12
WEIGHT_BITS = 14
LARGEST_INPUT = 2.0**16  # of a layer: a sum of up to 16 activations, or a decoded value
LARGEST_EXACT = 2.0**53


def to_grid(x: Tensor, bits: int) -> Tensor:
    """Round to the nearest multiple of 2^−bits, half to even; exact for float64 |x| < 2^(51−bits)."""
    return torch.round(x * 2.0**bits) * 2.0**-bits


def settle_(
    x: Tensor,
    bits: int = ACTIVATION_BITS,
    bound: float = ACTIVATION_BOUND,
    bias: Tensor | float = 0.0,
    low: float | None = None,
) -> Tensor:
    """Add the bias, round to multiples of 2^−bits and clamp to ±bound (or low … bound); in place.

    Adding and subtracting 1.5·2^(52−bits) rounds half to even, since 2^−bits is then the unit in the last
    place of a float64. The bias must be on the same grid, so that adding both rounds only once.
    """
    shift = 1.5 * 2.0 ** (52 - bits)
    return x.add_(bias + shift).sub_(shift).clamp_(-bound if low is None else low, bound)


class Snap(nn.Module):
    """Clamps an activation; its integer form also rounds it to the grid."""

    def __init__(self, bits: int = ACTIVATION_BITS, bound: float = ACTIVATION_BOUND) -> None:
        super().__init__()
        self.bits = bits
        self.bound = bound

    def forward(self, x: Tensor) -> Tensor:
        return x.clamp(-self.bound, self.bound)


class ExactSnap(nn.Module):
    """The integer form of `Snap`."""

    def __init__(self, layer: Snap) -> None:
        super().__init__()
        self.bits = layer.bits
        self.bound = layer.bound

    def forward(self, x: Tensor) -> Tensor:
        return settle_(x.clone(), self.bits, self.bound)


class ExactLinear(nn.Module):
    """The integer form of `nn.Linear` over the last axis: [..., I] → [..., O], float64.

    Args:
        layer: the float layer.
        low: lower end of the clamp; 0 includes a ReLU after the layer.
    """

    weight: Tensor
    bias: Tensor

    def __init__(self, layer: nn.Linear, low: float | None = None) -> None:
        super().__init__()
        weight = to_grid(layer.weight.detach().double(), WEIGHT_BITS)
        bias = to_grid(layer.bias.detach().double(), ACTIVATION_BITS)
        _check_bound(weight.abs().sum(1), bias)
        self.low = low
        self.register_buffer("weight", weight.T.contiguous(), persistent=False)
        self.register_buffer("bias", bias, persistent=False)

    def forward(self, x: Tensor) -> Tensor:
        y = x.reshape(-1, x.shape[-1]) @ self.weight
        return settle_(y, bias=self.bias, low=self.low).reshape(*x.shape[:-1], -1)


class ExactPlacedLinear(nn.Module):
    """The integer form of `PlacedLinear`: [..., P, I'] → [..., P, O], float64."""

    weight: Tensor
    bias: Tensor

    def __init__(self, layer: PlacedLinear) -> None:
        super().__init__()
        whole = ExactLinear(layer)
        self.register_buffer("weight", whole.weight[layer.columns], persistent=False)
        self.register_buffer("bias", whole.bias, persistent=False)

    def forward(self, x: Tensor) -> Tensor:
        y = x.new_empty(*x.shape[:-1], len(self.bias))
        for place, weight in enumerate(self.weight):
            y[..., place, :] = x[..., place, :] @ weight
        return settle_(y, bias=self.bias)


class ExactDepthwise(nn.Module):
    """The integer form of `Depthwise`: nine shifted products, [B, H, W, C], float64."""

    weight: Tensor
    bias: Tensor

    def __init__(self, layer: Depthwise) -> None:
        super().__init__()
        weight = to_grid(layer.weight.detach().double(), WEIGHT_BITS).reshape(-1, 9)
        bias = torch.zeros(len(weight), dtype=torch.float64, device=weight.device)
        if layer.bias is not None:
            bias = to_grid(layer.bias.detach().double(), ACTIVATION_BITS)
        _check_bound(weight.abs().sum(1), bias)
        self.register_buffer("weight", weight.T.contiguous(), persistent=False)
        self.register_buffer("bias", bias, persistent=False)

    def forward(self, x: Tensor) -> Tensor:
        h, w = x.shape[1:3]
        y = x * self.weight[4]
        for tap in (0, 1, 2, 3, 5, 6, 7, 8):
            row, column = tap // 3 - 1, tap % 3 - 1
            there = y[:, max(0, -row) : h - max(0, row), max(0, -column) : w - max(0, column)]
            from_here = x[:, max(0, row) : h - max(0, -row), max(0, column) : w - max(0, -column)]
            there.addcmul_(from_here, self.weight[tap])
        return settle_(y, bias=self.bias)


class ExactConv(nn.Module):
    """The integer form of `Conv`: the sum of a matrix product per tap of the kernel, float64."""

    weight: Tensor
    bias: Tensor

    def __init__(self, layer: Conv) -> None:
        super().__init__()
        weight, bias = _on_grid(layer)
        _check_bound(weight.abs().sum((1, 2, 3)), bias)
        self.stride, self.padding = layer.stride[0], layer.kernel_size[0] // 2
        self.register_buffer("weight", weight.permute(2, 3, 1, 0).contiguous(), persistent=False)
        self.register_buffer("bias", bias, persistent=False)

    def forward(self, x: Tensor) -> Tensor:
        b, h, w, c = x.shape
        rows, columns = ((side - 1) // self.stride + 1 for side in (h, w))
        x = F.pad(x, (0, 0) + 4 * (self.padding,))
        y = x.new_zeros(b * rows * columns, len(self.bias))
        for i, j in _taps(self.weight):
            there = x[:, _every(self.stride, i, rows), _every(self.stride, j, columns)]
            y.addmm_(there.reshape(-1, c), self.weight[i, j])
        return settle_(y.reshape(b, rows, columns, -1), bias=self.bias)


class ExactDeconv(nn.Module):
    """The integer form of `Deconv`: a matrix product per tap, added at the tap's positions, float64."""

    weight: Tensor
    bias: Tensor

    def __init__(self, layer: Deconv) -> None:
        super().__init__()
        weight, bias = _on_grid(layer)
        _check_bound(weight.abs().sum((0, 2, 3)), bias)
        self.stride, self.padding = layer.stride[0], layer.kernel_size[0] // 2
        self.register_buffer("weight", weight.permute(2, 3, 0, 1).contiguous(), persistent=False)
        self.register_buffer("bias", bias, persistent=False)

    def forward(self, x: Tensor) -> Tensor:
        b, h, w, c = x.shape
        rows, columns = self.stride * h, self.stride * w
        y = x.new_zeros(b, rows + 2 * self.padding, columns + 2 * self.padding, len(self.bias))
        for i, j in _taps(self.weight):
            part = x.reshape(-1, c) @ self.weight[i, j]
            y[:, _every(self.stride, i, h), _every(self.stride, j, w)] += part.reshape(b, h, w, -1)
        inside = slice(self.padding, self.padding + rows), slice(self.padding, self.padding + columns)
        return settle_(y[:, inside[0], inside[1]].contiguous(), bias=self.bias)


class ExactBlock(nn.Module):
    """The integer form of `Block`."""

    def __init__(self, layer: Block) -> None:
        super().__init__()
        self.depthwise = ExactDepthwise(layer.depthwise)
        self.expand = ExactLinear(layer.expand, low=0.0)
        self.project = ExactLinear(layer.project)

    def forward(self, x: Tensor) -> Tensor:
        residual: Tensor = self.project(self.expand(self.depthwise(x)))
        return residual.add_(x)


class ExactQualityInterpolation(nn.Module):
    """The integer form of `QualityInterpolation`: the interpolation weights are multiples of 1/SPACING, a
    power of two.
    """

    table: Tensor

    def __init__(self, layer: QualityInterpolation) -> None:
        super().__init__()
        table = to_grid(layer.table.detach().double(), WEIGHT_BITS)
        self.register_buffer("table", table.clamp(-ACTIVATION_BOUND, ACTIVATION_BOUND), persistent=False)

    def forward(self, level: Tensor) -> Tensor:
        low = level // QualityInterpolation.SPACING
        part = (level % QualityInterpolation.SPACING).double()[:, None]
        value = self.table[low] * (QualityInterpolation.SPACING - part) + self.table[low + 1] * part
        return settle_(value / QualityInterpolation.SPACING, WEIGHT_BITS)[:, None, None, :]


TWINS = {
    nn.Linear: ExactLinear,
    PlacedLinear: ExactPlacedLinear,
    Depthwise: ExactDepthwise,
    Conv: ExactConv,
    Deconv: ExactDeconv,
    Block: ExactBlock,
    QualityInterpolation: ExactQualityInterpolation,
    Snap: ExactSnap,
}
EXACT_AS_THEY_ARE = (nn.Sequential, nn.ModuleList, nn.ReLU, SpaceToDepth, DepthToSpace)


def integer_network(module: nn.Module, composed_of: tuple[type[nn.Module], ...] = ()) -> nn.Module:
    """Build the integer form of an entropy network.

    Args:
        module: a network of `nn.Linear`, `Conv`, `Deconv`, `Depthwise`, `QualityInterpolation`, `Snap`,
            `nn.ReLU`, `Block` and the space–depth layers.
        composed_of: further classes whose own `forward` only adds, multiplies by grid values and snaps, on
            float64 tensors; their children are converted recursively.

    Raises:
        TypeError: for a layer without an integer form.
        OverflowError: if a sum in some output channel could reach 2^53 units.
    """
    if type(module) in TWINS:
        return TWINS[type(module)](module)
    if not isinstance(module, EXACT_AS_THEY_ARE + composed_of):
        raise TypeError(
            f"{type(module).__name__} has no exact form; use linear, convolution, ReLU and knots."
        )
    network = copy.copy(module)
    network._modules = {name: integer_network(child, composed_of) for name, child in module.named_children()}
    return network.eval()


def _on_grid(layer: Conv | Deconv) -> tuple[Tensor, Tensor]:
    """Weight and bias on their grids, float64."""
    weight = to_grid(layer.weight.detach().double(), WEIGHT_BITS)
    assert layer.bias is not None
    return weight, to_grid(layer.bias.detach().double(), ACTIVATION_BITS)


def _taps(weight: Tensor) -> Iterator[tuple[int, int]]:
    """Row and column of each tap of a kernel [k, k, I, O]."""
    return product(range(weight.shape[0]), range(weight.shape[1]))


def _every(stride: int, first: int, count: int) -> slice:
    """`count` positions from the first."""
    return slice(first, first + stride * (count - 1) + 1, stride)


def _check_bound(weight_sums: Tensor, bias: Tensor) -> None:
    """weight_sums: Σ|w| for each output channel, [O]."""
    units = 2.0 ** (ACTIVATION_BITS + WEIGHT_BITS)
    largest = float(((weight_sums * LARGEST_INPUT + bias.abs()) * units).max())
    if largest >= LARGEST_EXACT:
        raise OverflowError(f"A sum may reach {largest:.3g} units and would be rounded; 2^53 is the limit.")
