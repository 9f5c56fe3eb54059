"""Convert an entropy network to its bit-exact form, layer by layer."""

import copy

from torch import nn

from trifocal.entropy.integer_functions import (
    IntegerGelu,
    IntegerLayerNorm,
    IntegerOffsets,
    IntegerSoftmaxAverage,
    IntegerTanh,
    LayerNorm,
    Offsets,
    SoftmaxAverage,
)
from trifocal.entropy.integer_networks import (
    Clamp,
    IntegerBlock,
    IntegerClamp,
    IntegerConv,
    IntegerDeconv,
    IntegerDepthwise,
    IntegerLinear,
    IntegerPlacedLinear,
    IntegerQualityInterpolation,
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

INTEGER_FORMS = {
    nn.Linear: IntegerLinear,
    PlacedLinear: IntegerPlacedLinear,
    Depthwise: IntegerDepthwise,
    Conv: IntegerConv,
    Deconv: IntegerDeconv,
    Block: IntegerBlock,
    QualityInterpolation: IntegerQualityInterpolation,
    Clamp: IntegerClamp,
    nn.GELU: IntegerGelu,
    nn.Tanh: IntegerTanh,
    LayerNorm: IntegerLayerNorm,
    SoftmaxAverage: IntegerSoftmaxAverage,
    Offsets: IntegerOffsets,
}


class Composite(nn.Module):
    """A part of an entropy network that has children, which are converted, and no parameters of its own.

    Its `forward` may only add, multiply by values on the grid (`integer_arithmetic.py`), permute and mask.
    """


CONVERTED_BY_CHILDREN = (nn.Sequential, nn.ModuleList, nn.ReLU, SpaceToDepth, DepthToSpace, Composite)


def integer_network(module: nn.Module, composed_of: tuple[type[nn.Module], ...] = ()) -> nn.Module:
    """Build the integer form of an entropy network.

    Args:
        module: a network of `nn.Linear`, `Conv`, `Deconv`, `Depthwise`, `QualityInterpolation`, `Clamp`,
            `nn.ReLU`, `nn.GELU`, `nn.Tanh`, `LayerNorm`, `SoftmaxAverage`, `Offsets`, `Block`, `Composite`
            and the space–depth layers.
        composed_of: further classes whose own `forward` follows the rules of `Composite`, except that it may
            clamp too; their children are converted.

    Raises:
        TypeError: for a layer without an integer form.
        OverflowError: if a sum in some output channel could reach 2^53 units.
    """
    if type(module) in INTEGER_FORMS:
        return INTEGER_FORMS[type(module)](module)
    if not isinstance(module, CONVERTED_BY_CHILDREN + composed_of):
        raise TypeError(
            f"{type(module).__name__} has no integer form; build the network from nn.Linear, Conv, Deconv, "
            "nn.ReLU and QualityInterpolation."
        )
    network = copy.copy(module)
    network._modules = {name: integer_network(child, composed_of) for name, child in module.named_children()}
    return network.eval()
