"""A gradient as a graph of forward operations, for exporters without autograd."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Any, cast

import torch
from torch import Tensor, nn
from torch._decomp import core_aten_decompositions
from torch.func import functionalize
from torch.fx import GraphModule, Node
from torch.fx.experimental.proxy_tensor import make_fx
from torch.nn import functional as F
from torch.overrides import TorchFunctionMode

__all__ = ["GradientGraph"]

aten = torch.ops.aten


class GradientGraph(nn.Module):
    """Inputs → the gradient of a scalar by the first of them.

    Args:
        cost: a module whose output is a scalar; the weights of this module have the same names.
        inputs: examples of its inputs; sizes above 1 stay variable.
    """

    def __init__(self, cost: nn.Module, inputs: Sequence[Tensor]) -> None:
        super().__init__()
        for name, child in cost.named_children():
            self.add_module(name, child)
        self._forward = forward_operations(cost, inputs)

    def weights(self) -> dict[str, Tensor]:
        return {**dict(self.named_parameters()), **dict(self.named_buffers())}

    def forward(self, *inputs: Tensor) -> Tensor:
        gradient: Tensor = self._forward(self.weights(), *inputs)
        return gradient


def forward_operations(cost: nn.Module, inputs: Sequence[Tensor]) -> Callable[..., Tensor]:
    """A function of the weights by name and the inputs, traced through automatic differentiation."""

    def gradient(weights: dict[str, Tensor], *inputs: Tensor) -> Tensor:
        with torch.enable_grad():
            x = inputs[0].detach().requires_grad_()
            value = torch.func.functional_call(cost, weights, (x, *inputs[1:]))
            return torch.autograd.grad(value, x)[0]

    table = {
        **core_aten_decompositions(),
        aten.convolution_backward.default: convolution_backward,
        aten.hardswish.default: hardswish,
        aten.hardswish_backward.default: hardswish_backward,
        aten.slice_backward.default: slice_backward,
        aten.threshold_backward.default: threshold_backward,
    }
    del table[aten.hardsigmoid.default]  # one operation in ONNX
    weights = {**dict(cost.named_parameters()), **dict(cost.named_buffers())}
    options: dict[str, Any] = {
        "decomposition_table": table,
        "tracing_mode": "symbolic",
        "_allow_non_fake_inputs": True,
    }
    with torch.inference_mode(False):
        with FlatLinear():
            traced: GraphModule = make_fx(gradient, **options)(weights, *inputs)
        with torch.no_grad():
            pure = functionalize(traced, remove="mutations_and_views")
            traced = make_fx(pure, **options)(weights, *inputs)
    for node in traced.graph.nodes:
        replace_copies(node)
        replace_powers(node)
    traced.graph.eliminate_dead_code()
    traced.recompile()
    return lambda *arguments: traced(*arguments)  # not a child: it has no weights of its own


def replace_copies(node: Node) -> None:
    """Replace an operator that copies a view by the view itself, and the result of `copy` by its source."""
    name = getattr(node.target, "__name__", "").partition(".")[0]
    if node.target is aten.copy.default:
        node.replace_all_uses_with(cast(Node, node.args[1]))
    elif node.op == "call_function" and name.endswith("_copy"):
        packet = getattr(aten, name.removesuffix("_copy"))
        node.target = getattr(packet, cast(Any, node.target)._overloadname)


def replace_powers(node: Node) -> None:
    """Replace a first and a second power, which ONNX Runtime computes as slowly as any other."""
    if node.target is not aten.pow.Tensor_Scalar:
        return
    base, exponent = node.args
    if exponent == 1:
        node.replace_all_uses_with(cast(Node, base))
    elif exponent == 2:
        node.target, node.args = aten.mul.Tensor, (base, base)


class FlatLinear(TorchFunctionMode):
    """Computes `linear` as one product of two matrices, whatever the layout of its input; torch would repeat
    the weight for each row of an image.
    """

    def __torch_function__(
        self, func: Any, types: Any, args: Sequence[Any] = (), kwargs: Mapping[str, Any] | None = None
    ) -> Any:
        return (flat_linear if func is F.linear else func)(*args, **(kwargs or {}))


def flat_linear(input: Tensor, weight: Tensor, bias: Tensor | None = None) -> Tensor:
    flat = input.reshape(-1, input.shape[-1])
    product = flat @ weight.T if bias is None else torch.addmm(bias, flat, weight.T)
    return product.reshape(*input.shape[:-1], len(weight))


def hardswish(x: Tensor) -> Tensor:
    """Hard swish as the two operations of ONNX Runtime; its gradient shares the first."""
    y: Tensor = x * aten.hardsigmoid(x)
    return y


def hardswish_backward(gradient: Tensor, x: Tensor) -> Tensor:
    """The gradient of hard swish by its input, without `where`, which is slow in ONNX Runtime."""
    gate = aten.hardsigmoid(x)
    inside = is_positive(gate - gate * gate)  # 1 where the gate is neither 0 nor 1; x / 6 is gate - 0.5 there
    slope: Tensor = gradient * (gate + (gate - 0.5) * inside)
    return slope


def threshold_backward(gradient: Tensor, y: Tensor, threshold: float) -> Tensor:
    """The gradient of ReLU by its input, without `where`; y is its output."""
    assert threshold == 0
    return gradient * is_positive(y)


def is_positive(x: Tensor) -> Tensor:
    """1 where x is positive and 0 elsewhere; one operation after `graph_rewriting`."""
    return torch.clamp(x * 1e30, 0, 1)


def slice_backward(
    gradient: Tensor, sizes: Sequence[int], dim: int, start: int, end: int, step: int
) -> Tensor:
    """The gradient of a slice by its input, without ScatterND, which needs the axis to be the first."""
    assert step == 1
    before = [0, 0] * (len(sizes) - 1 - dim % len(sizes))
    return F.pad(gradient, [*before, start, sizes[dim] - start - gradient.shape[dim]])


def convolution_backward(
    gradient: Tensor,
    x: Tensor,
    weight: Tensor,
    bias_sizes: Any,
    stride: Sequence[int],
    padding: Sequence[int],
    dilation: Sequence[int],
    transposed: bool,
    output_padding: Sequence[int],
    groups: int,
    output_mask: Sequence[bool],
) -> tuple[Tensor | None, None, None]:
    """The gradient of a convolution by its input: a convolution with the flipped kernel for stride 1, else a
    transposed one.
    """
    assert not transposed and set(dilation) == {1} and not any(output_mask[1:])
    if not output_mask[0]:
        return None, None, None
    if set(stride) == {1}:
        o, i, *sides = weight.shape
        kernel = weight.flip(2, 3)
        if i > 1:
            kernel = kernel.reshape(groups, o // groups, i, *sides).transpose(1, 2)
            kernel = kernel.reshape(groups * i, o // groups, *sides)
        around = [side - 1 - own for side, own in zip(sides, padding, strict=True)]
        return (
            aten.convolution(gradient, kernel, None, stride, around, dilation, False, [0, 0], groups),
            None,
            None,
        )
    whole = aten.convolution(gradient, weight, None, stride, [0, 0], dilation, True, [0, 0], groups)
    whole = F.pad(whole, (0, stride[1] - 1, 0, stride[0] - 1))
    (top, left), (h, w) = padding, x.shape[2:]
    return whole[:, :, top : top + h, left : left + w], None, None
