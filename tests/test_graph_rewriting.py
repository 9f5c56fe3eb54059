"""Rewriting ONNX graphs: fewer operations, and the same results bit for bit."""

from collections.abc import Sequence
from typing import Any

import numpy as np
import onnxruntime
import pytest
from numpy.typing import NDArray

onnx: Any = pytest.importorskip("onnx")
helper, FLOAT = onnx.helper, onnx.TensorProto.FLOAT

from trifocal.codecs.graph_rewriting import rewritten

X = (1, "h", "w", 4)  # of the input
RNG = np.random.default_rng(0)
WEIGHT, BACK = (RNG.standard_normal(size).astype(np.float32) for size in ((4, 6), (6, 4)))


def model(nodes: Sequence[Any], constants: dict[str, Any], outputs: Sequence[str] = ("y",)) -> Any:
    """A model from x [1, h, w, 4]."""
    initializers = [
        onnx.numpy_helper.from_array(np.asarray(value), name) for name, value in constants.items()
    ]
    graph = helper.make_graph(
        nodes,
        "g",
        [helper.make_tensor_value_info("x", FLOAT, X)],
        [helper.make_tensor_value_info(name, FLOAT, None) for name in outputs],
        initializers,
    )
    return helper.make_model(graph, opset_imports=[helper.make_opsetid("", 20)], ir_version=10)


def product(source: str, weight: str, target: str, shape: str) -> list[Any]:
    """A product with a matrix, between two reshapes, as the exporter writes it."""
    return [
        helper.make_node("Reshape", [source, "rows"], [f"{target}/in"], allowzero=1),
        helper.make_node("MatMul", [f"{target}/in", weight], [f"{target}/out"]),
        helper.make_node("Reshape", [f"{target}/out", shape], [target], allowzero=1),
    ]


def sizes() -> list[Any]:
    """Nodes for "wide" and "narrow", the shapes [1, h, w, 6] and [1, h, w, 4]."""
    nodes = [helper.make_node("Shape", ["x"], ["some"], end=3)]
    return [
        *nodes,
        *(
            helper.make_node("Concat", ["some", number], [name], axis=0)
            for name, number in (("wide", "six"), ("narrow", "four"))
        ),
    ]


CONSTANTS: dict[str, Any] = {
    "weight": WEIGHT,
    "back": BACK,
    "rows": np.array([-1, 4], np.int64),
    "wide_rows": np.array([-1, 6], np.int64),
    "six": np.array([6], np.int64),
    "four": np.array([4], np.int64),
    "half": np.float32(0.5),
    "zero": np.float32(0),
    "one": np.float32(1),
    "huge": np.float32(1e30),
    "row": RNG.standard_normal(6).astype(np.float32),
}


def results(found: Any, x: NDArray[np.float32]) -> list[NDArray[Any]]:
    session = onnxruntime.InferenceSession(found.SerializeToString(), providers=["CPUExecutionProvider"])
    outputs: list[NDArray[Any]] = session.run(None, {"x": x})
    return outputs


def assert_rewritten(before: Any, fewer: dict[str, int]) -> list[str]:
    """The rewritten model has so many operations of each kind, and the same results. Returns all kinds."""
    after = rewritten(onnx.ModelProto.FromString(before.SerializeToString()))
    kinds = [node.op_type for node in after.graph.node]
    assert {kind: kinds.count(kind) for kind in fewer} == fewer
    for high, wide in ((3, 5), (1, 1), (1, 7)):
        x = RNG.standard_normal((1, high, wide, 4)).astype(np.float32)
        for one, other in zip(results(before, x), results(after, x), strict=True):
            np.testing.assert_array_equal(one, other)
    return kinds


def test_operations_between_products_are_on_matrices() -> None:
    nodes = [
        *sizes(),
        *product("x", "weight", "a", "wide"),
        helper.make_node("Sigmoid", ["a"], ["gate"]),
        helper.make_node("Mul", ["a", "gate"], ["b"]),
        helper.make_node("Sub", ["b", "half"], ["c"]),
        helper.make_node("Reshape", ["c", "wide_rows"], ["d"], allowzero=1),
        helper.make_node("MatMul", ["d", "back"], ["e"]),
        helper.make_node("Reshape", ["e", "narrow"], ["y"], allowzero=1),
    ]
    kinds = assert_rewritten(model(nodes, CONSTANTS), {"Reshape": 2, "MatMul": 2, "Mul": 1, "Sub": 1})
    assert kinds.count("Concat") == 1  # nothing needs the shape between the products


def test_what_needs_four_dimensions_has_them() -> None:
    nodes = [
        *sizes(),
        *product("x", "weight", "a", "wide"),
        helper.make_node("Relu", ["a"], ["b"]),
        helper.make_node("Transpose", ["b"], ["y"], perm=[0, 3, 1, 2]),
    ]
    kinds = assert_rewritten(model(nodes, CONSTANTS), {"Reshape": 2, "Transpose": 1})
    assert kinds.index("Relu") < kinds.index("Transpose")


@pytest.mark.parametrize("other", ["row", "x4"])
def test_operands_of_other_shapes_keep_an_operation_as_it_is(other: str) -> None:
    nodes = [
        *sizes(),
        helper.make_node("Concat", ["x", "x"], ["twice"], axis=3),
        helper.make_node("Slice", ["twice", "zeros", "six", "three"], ["x4"]),
        *product("x", "weight", "a", "wide"),
        helper.make_node("Mul", ["a", other], ["y"]),
    ]
    constants = {**CONSTANTS, "zeros": np.array([0], np.int64), "three": np.array([3], np.int64)}
    assert_rewritten(model(nodes, constants), {"Reshape": 2, "Mul": 1})


def test_matrices_of_different_sizes_are_not_joined() -> None:
    nodes = [
        *sizes(),
        *product("x", "weight", "a", "wide"),
        helper.make_node("ReduceMean", ["x", "axes"], ["mean"]),
        helper.make_node("Reshape", ["mean", "rows"], ["mean/in"], allowzero=1),
        helper.make_node("MatMul", ["mean/in", "weight"], ["mean/out"]),
        helper.make_node("Reshape", ["mean/out", "single"], ["b"], allowzero=1),
        helper.make_node("Add", ["a", "b"], ["y"]),
    ]
    constants = {**CONSTANTS, "axes": np.array([1, 2], np.int64), "single": np.array([1, 1, 1, 6], np.int64)}
    assert_rewritten(model(nodes, constants), {"Reshape": 4, "Add": 1})


def test_gates_are_one_operation() -> None:
    nodes = [
        helper.make_node("Mul", ["x", "huge"], ["a"]),
        helper.make_node("Max", ["a", "zero"], ["b"]),
        helper.make_node("Min", ["b", "one"], ["y"]),
    ]
    assert assert_rewritten(model(nodes, CONSTANTS), {}) == ["HardSigmoid"]


@pytest.mark.parametrize(("least", "most"), [("zero", "half"), ("half", "one")])
def test_other_limits_stay(least: str, most: str) -> None:
    nodes = [
        helper.make_node("Mul", ["x", "huge"], ["a"]),
        helper.make_node("Max", ["a", least], ["b"]),
        helper.make_node("Min", ["b", most], ["y"]),
    ]
    assert assert_rewritten(model(nodes, CONSTANTS), {}) == ["Mul", "Max", "Min"]


def test_limits_of_integers_stay() -> None:
    nodes = [
        helper.make_node("Shape", ["x"], ["size"]),
        helper.make_node("Mul", ["size", "six"], ["a"]),
        helper.make_node("Max", ["a", "none"], ["b"]),
        helper.make_node("Min", ["b", "single"], ["y"]),
    ]
    limits = {"none": np.array([0], np.int64), "single": np.array([1], np.int64)}
    found = model(nodes, {**CONSTANTS, **limits})
    found.graph.output[0].type.tensor_type.elem_type = onnx.TensorProto.INT64
    assert assert_rewritten(found, {}) == ["Shape", "Mul", "Max", "Min"]


def test_casts_to_the_same_type_are_left_out() -> None:
    nodes = [
        helper.make_node("Cast", ["x"], ["same"], to=FLOAT),
        helper.make_node("Cast", ["same"], ["half_precision"], to=onnx.TensorProto.FLOAT16),
        helper.make_node("Cast", ["half_precision"], ["y"], to=FLOAT),
    ]
    assert_rewritten(model(nodes, CONSTANTS), {"Cast": 2})


def test_outputs_keep_their_names() -> None:
    nodes = [
        *sizes(),
        *product("x", "weight", "a", "wide"),
        helper.make_node("Relu", ["a"], ["b"]),
        helper.make_node("Reshape", ["b", "wide_rows"], ["y"], allowzero=1),
        helper.make_node("Cast", ["x"], ["z"], to=FLOAT),
    ]
    found = model(nodes, CONSTANTS, ("y", "z", "a"))
    assert_rewritten(found, {"MatMul": 1})
    assert [output.name for output in rewritten(found).graph.output] == ["y", "z", "a"]
