"""The integer forms of torch layers, on the arithmetic of `integer_arithmetic.py`.

Convolutions are matrix products and shifted sums, since Winograd or FFT kernels would leave the grid.
The results are bit-exact: the same on every machine. `integer_functions.py` has transcendental functions, and
`conversion.py` converts float networks.
"""

from collections.abc import Iterator
from itertools import product

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from trifocal.entropy.integer_arithmetic import (
    ACTIVATION_BITS,
    ACTIVATION_BOUND,
    WEIGHT_BITS,
    add_bias_round_clamp_,
    check_bound,
    depthwise,
    interpolate,
    linear,
    placed_linear,
    to_grid,
)
from trifocal.layers import Block, Conv, Deconv, Depthwise, PlacedLinear, QualityInterpolation


class Clamp(nn.Module):
    """Clamps an activation; its integer form also rounds it to the grid."""

    def __init__(self, bits: int = ACTIVATION_BITS, bound: float = ACTIVATION_BOUND) -> None:
        super().__init__()
        self.bits = bits
        self.bound = bound

    def forward(self, x: Tensor) -> Tensor:
        return x.clamp(-self.bound, self.bound)


class IntegerClamp(nn.Module):
    """The integer form of `Clamp`."""

    def __init__(self, layer: Clamp) -> None:
        super().__init__()
        self.bits = layer.bits
        self.bound = layer.bound

    def forward(self, x: Tensor) -> Tensor:
        y: Tensor = add_bias_round_clamp_(x.clone(), self.bits, self.bound)
        return y


class IntegerLinear(nn.Module):
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
        check_bound(weight.abs().sum(1), bias)
        self.low = low
        self.register_buffer("weight", weight.T.contiguous(), persistent=False)
        self.register_buffer("bias", bias, persistent=False)

    def forward(self, x: Tensor) -> Tensor:
        y: Tensor = linear(x, self.weight, self.bias, self.low)
        return y


class IntegerPlacedLinear(nn.Module):
    """The integer form of `PlacedLinear`: [..., P, I'] → [..., P, O], float64."""

    weight: Tensor
    bias: Tensor

    def __init__(self, layer: PlacedLinear) -> None:
        super().__init__()
        whole = IntegerLinear(layer)
        self.register_buffer("weight", whole.weight[layer.columns], persistent=False)
        self.register_buffer("bias", whole.bias, persistent=False)

    def forward(self, x: Tensor) -> Tensor:
        y: Tensor = placed_linear(x, self.weight, self.bias)
        return y


class IntegerDepthwise(nn.Module):
    """The integer form of `Depthwise`: nine shifted products, [B, H, W, C], float64."""

    weight: Tensor
    bias: Tensor

    def __init__(self, layer: Depthwise) -> None:
        super().__init__()
        weight = to_grid(layer.weight.detach().double(), WEIGHT_BITS).reshape(-1, 9)
        bias = torch.zeros(len(weight), dtype=torch.float64, device=weight.device)
        if layer.bias is not None:
            bias = to_grid(layer.bias.detach().double(), ACTIVATION_BITS)
        check_bound(weight.abs().sum(1), bias)
        self.register_buffer("weight", weight.T.contiguous(), persistent=False)
        self.register_buffer("bias", bias, persistent=False)

    def forward(self, x: Tensor) -> Tensor:
        y: Tensor = depthwise(x, self.weight, self.bias)
        return y


class IntegerConv(nn.Module):
    """The integer form of `Conv`: the sum of a matrix product per tap of the kernel, float64."""

    weight: Tensor
    bias: Tensor

    def __init__(self, layer: Conv) -> None:
        super().__init__()
        weight, bias = _on_grid(layer)
        check_bound(weight.abs().sum((1, 2, 3)), bias)
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
        settled: Tensor = add_bias_round_clamp_(y.reshape(b, rows, columns, -1), bias=self.bias)
        return settled


class IntegerDeconv(nn.Module):
    """The integer form of `Deconv`: a matrix product per tap, added at the tap's positions, float64."""

    weight: Tensor
    bias: Tensor

    def __init__(self, layer: Deconv) -> None:
        super().__init__()
        weight, bias = _on_grid(layer)
        check_bound(weight.abs().sum((0, 2, 3)), bias)
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
        settled: Tensor = add_bias_round_clamp_(y[:, inside[0], inside[1]].contiguous(), bias=self.bias)
        return settled


class IntegerBlock(nn.Module):
    """The integer form of `Block`."""

    def __init__(self, layer: Block) -> None:
        super().__init__()
        self.depthwise = IntegerDepthwise(layer.depthwise)
        self.expand = IntegerLinear(layer.expand, low=0.0)
        self.project = IntegerLinear(layer.project)

    def forward(self, x: Tensor) -> Tensor:
        residual: Tensor = self.project(self.expand(self.depthwise(x)))
        return residual.add_(x)


class IntegerQualityInterpolation(nn.Module):
    """The integer form of `QualityInterpolation`."""

    table: Tensor

    def __init__(self, layer: QualityInterpolation) -> None:
        super().__init__()
        table = to_grid(layer.table.detach().double(), WEIGHT_BITS)
        self.register_buffer("table", table.clamp(-ACTIVATION_BOUND, ACTIVATION_BOUND), persistent=False)

    def forward(self, level: Tensor) -> Tensor:
        value: Tensor = interpolate(self.table, level)
        return value


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
