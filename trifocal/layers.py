"""Layers shared by the networks. Feature maps are channels-last: [B, H, W, C]."""

from collections.abc import Iterator
from contextlib import AbstractContextManager, contextmanager, nullcontext
from typing import TypeVar

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from trifocal.types import LEVELS_PER_KNOT
from trifocal.utils.arrays import depth_to_space, space_to_depth

ModuleT = TypeVar("ModuleT", bound=nn.Module)


class SpaceToDepth(nn.Module):
    """`space_to_depth` as a layer."""

    def __init__(self, factor: int = 2) -> None:
        super().__init__()
        self.factor = factor

    def forward(self, x: Tensor) -> Tensor:
        y: Tensor = space_to_depth(x, self.factor)
        return y


class DepthToSpace(nn.Module):
    """`depth_to_space` as a layer."""

    def __init__(self, factor: int = 2) -> None:
        super().__init__()
        self.factor = factor

    def forward(self, x: Tensor) -> Tensor:
        y: Tensor = depth_to_space(x, self.factor)
        return y


class Depthwise(nn.Module):
    """A 3×3 convolution of each channel by itself, zero-padded: [B, H, W, C] → [B, H, W, C]."""

    def __init__(self, channels: int, bias: bool = True) -> None:
        super().__init__()
        self.weight = nn.Parameter(torch.empty(channels, 1, 3, 3))
        self.bias = nn.Parameter(torch.zeros(channels)) if bias else None
        nn.init.uniform_(self.weight, -1 / 3, 1 / 3)

    def forward(self, x: Tensor) -> Tensor:
        x = x.permute(0, 3, 1, 2)
        x = F.conv2d(x, self.weight.to(x.dtype), self._bias(x), padding=1, groups=x.shape[1])
        return x.permute(0, 2, 3, 1)

    def _bias(self, x: Tensor) -> Tensor | None:
        return None if self.bias is None else self.bias.to(x.dtype)


class PlacedLinear(nn.Linear):
    """A linear layer whose input channels depend on the position: [..., P, I'] → [..., P, O].

    Equals a linear layer of all inputs where the other inputs are zero, without computing them.

    Args:
        inputs, outputs: I and O of the whole layer.
        columns: indices of the I' inputs at each of the P positions, [P, I'].
    """

    columns: Tensor

    def __init__(self, inputs: int, outputs: int, columns: Tensor) -> None:
        super().__init__(inputs, outputs)
        self.register_buffer("columns", columns, persistent=False)

    def forward(self, input: Tensor) -> Tensor:
        columns = zip(input.unbind(-2), self.columns)
        return torch.stack([F.linear(x, self.weight[:, own], self.bias) for x, own in columns], dim=-2)


class Conv(nn.Conv2d):
    """A square convolution, zero-padded by half its kernel: [B, H, W, I] → [B, ⌈H/stride⌉, ⌈W/stride⌉, O].

    Args:
        inputs, outputs: I and O.
        kernel: side, odd.
        stride: in positions.
    """

    def __init__(self, inputs: int, outputs: int, kernel: int, stride: int = 1) -> None:
        super().__init__(inputs, outputs, kernel, stride, padding=kernel // 2)

    def forward(self, input: Tensor) -> Tensor:
        if self.kernel_size == (1, 1):
            # torch 2.14 writes out of bounds in the gradient of a strided 1×1 convolution of 3 channels
            return F.linear(input[:, :: self.stride[0], :: self.stride[1]], self.weight.flatten(1), self.bias)
        return super().forward(input.permute(0, 3, 1, 2)).permute(0, 2, 3, 1)


class Deconv(nn.ConvTranspose2d):
    """A square transposed convolution: [B, H, W, I] → [B, stride·H, stride·W, O].

    Args:
        inputs, outputs: I and O.
        kernel: side, odd.
        stride: upsampling factor.
    """

    def __init__(self, inputs: int, outputs: int, kernel: int, stride: int = 2) -> None:
        super().__init__(inputs, outputs, kernel, stride, padding=kernel // 2, output_padding=stride - 1)

    def forward(self, input: Tensor, output_size: list[int] | None = None) -> Tensor:
        return super().forward(input.permute(0, 3, 1, 2), output_size).permute(0, 2, 3, 1)


class ResidualBlock(nn.Module):
    """A block x + branch(x) whose branch can train in lower precision than the rest of the network.

    Parameters, their gradients and the sum keep the precision of x.

    Attributes:
        branch_dtype: dtype of the branch in training mode; None for that of x. Set by `branches_in`.
    """

    branch_dtype: torch.dtype | None = None

    def branch_precision(self, x: Tensor) -> AbstractContextManager[object]:
        """The autocast context in which `forward` computes the branch."""
        if self.branch_dtype is None or not self.training:
            return nullcontext()
        return torch.autocast(x.device.type, self.branch_dtype)


@contextmanager
def branches_in(dtype: torch.dtype | None, network: nn.Module) -> Iterator[None]:
    """Within this context, residual blocks with trainable parameters compute their branches in `dtype` in
    training mode; None changes nothing."""
    blocks = [
        block
        for block in network.modules()
        if isinstance(block, ResidualBlock) and any(p.requires_grad for p in block.parameters())
    ]
    try:
        for block in blocks:
            block.branch_dtype = dtype
        yield
    finally:
        for block in blocks:
            block.branch_dtype = None


class Block(ResidualBlock):
    """x + project(relu(expand(depthwise(x)))): the residual block of analysis and synthesis. Initialised as
    the identity.

    The depthwise–pointwise form follows DCVC's image model (see MODEL_CARD); it has no normalisation and no
    attention, so its receptive field is one position to each side and tiles with a halo are exact.
    """

    def __init__(self, channels: int, expansion: int = 2) -> None:
        super().__init__()
        self.depthwise = Depthwise(channels)
        self.expand = nn.Linear(channels, expansion * channels)
        self.activation = nn.ReLU(inplace=True)
        self.project = zero_init(nn.Linear(expansion * channels, channels))

    def forward(self, x: Tensor) -> Tensor:
        with self.branch_precision(x):
            branch = self.project(self.activation(self.expand(self.depthwise(x))))
        return x + branch


class QualityInterpolation(nn.Module):
    """A vector for each quality level, interpolated linearly between learned values at K knots, which are the
    levels 0, 128, 256, …

    Args:
        initial: initial values, [K, C]; row k belongs to the knot at level k·SPACING.
    """

    SPACING = LEVELS_PER_KNOT

    def __init__(self, initial: Tensor) -> None:
        super().__init__()
        self.table = nn.Parameter(initial.clone())

    def forward(self, level: Tensor) -> Tensor:
        """[B] integer levels in 0..(K-1)·SPACING-1 → [B, 1, 1, C]."""
        low = level // self.SPACING
        fraction = ((level % self.SPACING) / self.SPACING).to(self.table.dtype)[:, None]
        value = self.table[low] * (1 - fraction) + self.table[low + 1] * fraction
        return value[:, None, None, :]


def zero_init(layer: ModuleT) -> ModuleT:
    """Set weight and bias of a layer to zero, and return it."""
    for parameter in layer.parameters():
        nn.init.zeros_(parameter)
    return layer
