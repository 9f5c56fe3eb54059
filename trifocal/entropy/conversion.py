"""Make the integer form of an entropy network: each layer is replaced by its exact form."""

import copy

from torch import nn

from trifocal.entropy.exact_functions import (
    ExactGelu,
    ExactLayerNorm,
    ExactOffsets,
    ExactSoftmaxAverage,
    ExactTanh,
    LayerNorm,
    Offsets,
    SoftmaxAverage,
)
from trifocal.entropy.integer_networks import (
    ExactBlock,
    ExactConv,
    ExactDeconv,
    ExactDepthwise,
    ExactLinear,
    ExactPlacedLinear,
    ExactQualityInterpolation,
    ExactSnap,
    Snap,
)
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

__all__ = ["Composite", "integer_network"]

TWINS = {
    nn.Linear: ExactLinear,
    PlacedLinear: ExactPlacedLinear,
    Depthwise: ExactDepthwise,
    Conv: ExactConv,
    Deconv: ExactDeconv,
    Block: ExactBlock,
    QualityInterpolation: ExactQualityInterpolation,
    Snap: ExactSnap,
    nn.GELU: ExactGelu,
    nn.Tanh: ExactTanh,
    LayerNorm: ExactLayerNorm,
    SoftmaxAverage: ExactSoftmaxAverage,
    Offsets: ExactOffsets,
}


class Composite(nn.Module):
    """A part of an entropy network whose own `forward` only adds, multiplies by grid values, permutes and
    masks; its children are converted recursively, and it has no parameters of its own.
    """


EXACT_AS_THEY_ARE = (nn.Sequential, nn.ModuleList, nn.ReLU, SpaceToDepth, DepthToSpace, Composite)


def integer_network(module: nn.Module, composed_of: tuple[type[nn.Module], ...] = ()) -> nn.Module:
    """Build the integer form of an entropy network.

    Args:
        module: a network of `nn.Linear`, `Conv`, `Deconv`, `Depthwise`, `QualityInterpolation`, `Snap`,
            `nn.ReLU`, `nn.GELU`, `nn.Tanh`, `LayerNorm`, `SoftmaxAverage`, `Offsets`, `Block`, `Composite`
            and the space–depth layers.
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
