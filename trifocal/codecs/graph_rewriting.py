"""Rewrite an ONNX graph with fewer operations and the same results.

The exporter surrounds each product of matrices with two reshapes, and computes in four dimensions what lies
between two products. `rewritten` computes that in two dimensions, so that most reshapes disappear.
"""

from __future__ import annotations

from typing import Any

import onnx
from onnx import ModelProto, NodeProto, helper, numpy_helper, shape_inference

__all__ = ["rewritten"]

ELEMENTWISE = {
    *("Abs", "Add", "Div", "Erf", "Exp", "HardSigmoid", "LeakyRelu", "Log", "Max", "Min", "Mul", "Neg"),
    *("Reciprocal", "Relu", "Sigmoid", "Sqrt", "Sub", "Tanh"),
}
# With None for a size that depends on the inputs, which the exporter never leaves 1 where another operand has
# more.
Shape = tuple[int | None, ...]


def rewritten(model: ModelProto) -> ModelProto:
    """The graph, rewritten in place."""
    Rewriter(model).rewrite()
    return model


class Rewriter:
    """Rewrites the nodes of a graph in their order.

    Attributes:
        nodes: those of the new graph.
        makers: for each value the node that makes it.
        renamed: values that are not made any more, and what replaces them.
        flat: for each value with the elements of a matrix: that matrix, and the shape that it is reshaped to.
    """

    def __init__(self, model: ModelProto) -> None:
        self.graph = model.graph
        self.outputs = {output.name for output in self.graph.output}
        self.nodes: list[NodeProto] = []
        self.makers: dict[str, NodeProto] = {}
        self.renamed: dict[str, str] = {}
        self.flat: dict[str, tuple[str, str]] = {}
        self.constants: dict[str, Any] = {}
        self.shapes: dict[str, Shape] = {}
        self.types: dict[str, int] = {}
        inferred = shape_inference.infer_shapes(model, data_prop=True).graph
        for value in (*inferred.value_info, *inferred.input, *inferred.output):
            tensor = value.type.tensor_type
            self.types[value.name] = tensor.elem_type
            if tensor.HasField("shape"):
                self.shapes[value.name] = tuple(
                    dim.dim_value if dim.HasField("dim_value") else None for dim in tensor.shape.dim
                )
        for tensor in self.graph.initializer:
            self.types[tensor.name], self.shapes[tensor.name] = tensor.data_type, tuple(tensor.dims)
            if tensor.data_location != onnx.TensorProto.EXTERNAL:
                self.constants[tensor.name] = numpy_helper.to_array(tensor)

    def rewrite(self) -> None:
        for rule in (self._simplify, self._flatten):
            nodes, self.nodes = [*self.graph.node], []
            for node in nodes:
                for place, name in enumerate(node.input):
                    node.input[place] = self.renamed.get(name, name)
                rule(node)
            del self.graph.node[:]
            self.graph.node.extend(self.nodes)
        self._keep_used()

    def _leave_out(self, node: NodeProto, source: str) -> None:
        """Leave out a node whose result is its source, unless it is an output of the graph."""
        if node.output[0] in self.outputs:
            self._add(node)
        else:
            self.renamed[node.output[0]] = source

    def _simplify(self, node: NodeProto) -> None:
        """Leave out casts to the type that a value has, and find gates."""
        if node.op_type == "Cast" and self.types.get(node.input[0]) == attribute(node, "to"):
            self._leave_out(node, node.input[0])
        else:
            self._add(self._as_gate(node))

    def _flatten(self, node: NodeProto) -> None:
        if node.op_type == "Reshape":
            self._reshape(node)
        elif node.op_type in ELEMENTWISE:
            self._elementwise(node)
        else:
            self._add(node)

    def _add(self, node: NodeProto) -> None:
        self.nodes.append(node)
        self.makers |= dict.fromkeys(node.output, node)

    def _as_gate(self, node: NodeProto) -> NodeProto:
        """min(max(factor · x, 0), 1) of floats is one operation."""
        maker: NodeProto | None = node
        for kind, wanted in (("Min", 1), ("Max", 0), ("Mul", None)):
            x, number = self._operand_and_number(maker, kind)
            if number is None or wanted not in (None, number):
                return node
            maker = self.makers.get(x)
        if self.types.get(x) != onnx.TensorProto.FLOAT:
            return node
        return helper.make_node("HardSigmoid", [x], node.output, node.name, alpha=number, beta=0.0)

    def _operand_and_number(self, node: NodeProto | None, kind: str) -> tuple[str, float | None]:
        """Of an operation of that kind on a value and a constant with one element: the value, and the
        constant's number; None for other nodes.
        """
        if node is not None and node.op_type == kind and len(node.input) == 2:
            for x, other in (node.input, [*node.input][::-1]):
                constant = self.constants.get(other)
                if constant is not None and constant.size == 1:
                    return x, float(constant.item())
        return "", None

    def _reshape(self, node: NodeProto) -> None:
        (source, shape), (output,) = node.input, node.output
        source = self.flat[source][0] if source in self.flat else source
        columns = self._columns(source)
        node.input[0] = source
        if columns is None:
            self._add(node)
        elif columns == self._columns(output):
            self._leave_out(node, source)
        else:
            self.flat[output] = source, shape
            self._add(node)

    def _elementwise(self, node: NodeProto) -> None:
        """An operation on reshaped matrices becomes one on the matrices, and a reshape."""
        shape = self._common_shape(node)
        if shape is None:
            self._add(node)
            return
        (output,) = node.output
        matrix = f"{output}/matrix"
        for place, name in enumerate(node.input):
            if name in self.flat:
                node.input[place] = self.flat[name][0]
                self.shapes[matrix] = self.shapes[self.flat[name][0]]
        node.output[0] = matrix
        self._add(node)
        self._add(helper.make_node("Reshape", [matrix, shape], [output], f"{output}/reshape", allowzero=1))
        self.flat[output] = matrix, shape

    def _common_shape(self, node: NodeProto) -> str | None:
        """The shape of the operands that are reshaped matrices, if all are of one size, and the others are
        single numbers.
        """
        operands = [name for name in node.input if name in self.flat]
        sizes = {(self.shapes.get(name), self._columns(self.flat[name][0])) for name in operands}
        others = {self.shapes.get(name) for name in node.input if name not in self.flat}
        return self.flat[operands[0]][1] if len(sizes) == 1 and others <= {(), (1,)} else None

    def _columns(self, name: str) -> int | None:
        """The number of columns of a matrix; None for other values."""
        shape = self.shapes.get(name, ())
        return shape[1] if len(shape) == 2 else None

    def _keep_used(self) -> None:
        """Keep the nodes and constants that the outputs need."""
        used = {*self.outputs}
        kept: list[NodeProto] = []
        for node in reversed(self.nodes):
            if not used.isdisjoint(node.output):
                kept.append(node)
                used |= {*node.input}
        constants = [tensor for tensor in self.graph.initializer if tensor.name in used]
        weights = [t for t in self.graph.initializer if t.name not in used and t.name not in self.constants]
        del self.graph.node[:], self.graph.initializer[:]
        self.graph.node.extend(reversed(kept))
        self.graph.initializer.extend([*constants, *weights])


def attribute(node: NodeProto, name: str) -> Any:
    """The value of an attribute."""
    return next(helper.get_attribute_value(one) for one in node.attribute if one.name == name)
