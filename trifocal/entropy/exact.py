"""A float network's exact twin: the same function on integers carried in float64, the same on every machine.

Activations are multiples of 2^−ACTIVATION_BITS clamped to ±ACTIVATION_BOUND, weights are multiples of 2^−WEIGHT_BITS.
Every product is then a multiple of 2^−(ACTIVATION_BITS + WEIGHT_BITS), and every partial sum stays below 2^53 of those
units, so that no sum is ever rounded and its order cannot matter (other thread counts, processors, libraries). After
each layer the result is rounded back to the grid of activations. Only + × max clamp and round occur: no division but by
powers of two, no transcendental function. Convolutions are matrix products and shifted sums, since Winograd or FFT
kernels would leave the grid.
"""

import copy

import torch
from torch import Tensor, nn

from trifocal.layers import Block, DepthToSpace, Depthwise, Knots, SpaceToDepth

ACTIVATION_BITS = 12
ACTIVATION_BOUND = 2.0**12
WEIGHT_BITS = 14
LARGEST_EXACT = 2.0**53


def to_grid(x: Tensor, bits: int) -> Tensor:
    """Rounds to the nearest multiple of 2^−bits, half to even; exact for float64 |x| < 2^(51−bits)."""
    return torch.round(x * 2.0**bits) * 2.0**-bits


def settle_(x: Tensor, bits: int = ACTIVATION_BITS, bound: float = ACTIVATION_BOUND) -> Tensor:
    """`to_grid` and clamp, in place. Adding and taking away 1.5·2^(52−bits) rounds, since that is float64's last place."""
    shift = 1.5 * 2.0 ** (52 - bits)
    return x.clamp_(-bound, bound).add_(shift).sub_(shift)


class Snap(nn.Module):
    """Rounds an activation to its grid where coding must be exact; in training only the clamp is there."""

    def __init__(self, bits: int = ACTIVATION_BITS, bound: float = ACTIVATION_BOUND) -> None:
        super().__init__()
        self.bits = bits
        self.bound = bound

    def forward(self, x: Tensor) -> Tensor:
        return x.clamp(-self.bound, self.bound)


class ExactSnap(nn.Module):
    """The twin of `Snap`."""

    def __init__(self, layer: Snap) -> None:
        super().__init__()
        self.bits = layer.bits
        self.bound = layer.bound

    def forward(self, x: Tensor) -> Tensor:
        return settle_(x.clone(), self.bits, self.bound)


class ExactLinear(nn.Module):
    """The twin of `nn.Linear` over the last axis: [..., I] → [..., O], float64."""

    def __init__(self, layer: nn.Linear) -> None:
        super().__init__()
        weight = to_grid(layer.weight.detach().double(), WEIGHT_BITS)
        bias = to_grid(layer.bias.detach().double(), WEIGHT_BITS)
        _check_bound(weight.abs().sum(1), bias)
        self.register_buffer("weight", weight.T.contiguous(), persistent=False)
        self.register_buffer("bias", bias, persistent=False)

    def forward(self, x: Tensor) -> Tensor:
        y = torch.addmm(self.bias, x.reshape(-1, x.shape[-1]), self.weight)
        return settle_(y).reshape(*x.shape[:-1], -1)


class ExactDepthwise(nn.Module):
    """The twin of `Depthwise`: nine shifted products, [B, H, W, C], float64."""

    def __init__(self, layer: Depthwise) -> None:
        super().__init__()
        weight = to_grid(layer.weight.detach().double(), WEIGHT_BITS).reshape(-1, 9)
        bias = torch.zeros(len(weight), dtype=torch.float64, device=weight.device)
        if layer.bias is not None:
            bias = to_grid(layer.bias.detach().double(), WEIGHT_BITS)
        _check_bound(weight.abs().sum(1), bias)
        self.register_buffer("weight", weight.T.contiguous(), persistent=False)
        self.register_buffer("bias", bias, persistent=False)

    def forward(self, x: Tensor) -> Tensor:
        b, h, w, c = x.shape
        padded = x.new_zeros(b, h + 2, w + 2, c)
        padded[:, 1:-1, 1:-1] = x
        y = self.bias.expand(b, h, w, c).clone()
        for tap in range(9):
            row, column = divmod(tap, 3)
            y.addcmul_(padded[:, row : row + h, column : column + w], self.weight[tap])
        return settle_(y)


class ExactKnots(nn.Module):
    """The twin of `Knots`: the interpolation weights are multiples of 1/SPACING, a power of two."""

    def __init__(self, layer: Knots) -> None:
        super().__init__()
        table = to_grid(layer.table.detach().double(), WEIGHT_BITS)
        self.register_buffer("table", table.clamp(-ACTIVATION_BOUND, ACTIVATION_BOUND), persistent=False)

    def forward(self, level: Tensor) -> Tensor:
        low = level // Knots.SPACING
        part = (level % Knots.SPACING).double()[:, None]
        value = self.table[low] * (Knots.SPACING - part) + self.table[low + 1] * part
        return settle_(value / Knots.SPACING, WEIGHT_BITS)[:, None, None, :]


TWINS = {nn.Linear: ExactLinear, Depthwise: ExactDepthwise, Knots: ExactKnots, Snap: ExactSnap}
EXACT_AS_THEY_ARE = (nn.Sequential, nn.ModuleList, nn.ReLU, SpaceToDepth, DepthToSpace, Block)


def exact_twin(module: nn.Module, composed_of: tuple[type[nn.Module], ...] = ()) -> nn.Module:
    """Builds the exact twin of an entropy network.

    Args:
        module: a network of `nn.Linear`, `Depthwise`, `Knots`, `Snap`, `nn.ReLU`, `Block` and the space–depth layers.
        composed_of: further classes whose own `forward` only adds, multiplies by grid values and snaps, and whose
            children are twinned in turn. Their forward must take the twin's float64 tensors.

    Raises:
        TypeError: for a layer that has no exact form.
        OverflowError: if a sum in some output channel could reach 2^53 units.
    """
    if type(module) in TWINS:
        return TWINS[type(module)](module)
    if not isinstance(module, EXACT_AS_THEY_ARE + composed_of):
        raise TypeError(f"{type(module).__name__} has no exact form; use linear, depthwise, ReLU and knots.")
    twin = copy.copy(module)
    twin._modules = {name: exact_twin(child, composed_of) for name, child in module.named_children()}
    return twin.eval()


def _check_bound(weight_sums: Tensor, bias: Tensor) -> None:
    """weight_sums: Σ|w| for each output channel, [O]."""
    units = 2.0 ** (ACTIVATION_BITS + WEIGHT_BITS)
    largest = float(((weight_sums * ACTIVATION_BOUND + bias.abs()) * units).max())
    if largest >= LARGEST_EXACT:
        raise OverflowError(f"A sum may reach {largest:.3g} units and would be rounded; 2^53 is the limit.")
