"""A stand-in for MiniLM: an ONNX file whose token vectors are rows of a table, and its vocabulary."""

from pathlib import Path

import numpy as np
from onnx import TensorProto, helper, numpy_helper, save

from trifocal.text.minilm import MiniLmTextEncoder

WORDS = ("a", "the", "dog", "dogs", "cat", "horse", "tree", "on", "grass", "sits", "red", "photo", "of")
WIDTH = 384


def stand_in(folder: Path) -> MiniLmTextEncoder:
    """The encoder; each word of WORDS has a random vector."""
    vocabulary = ["[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]", *WORDS]
    (folder / "vocab.txt").write_text("\n".join(vocabulary) + "\n")
    table = np.random.default_rng(0).normal(size=(len(vocabulary), WIDTH)).astype(np.float32)
    sides = ["batch", "length"]
    inputs = [
        helper.make_tensor_value_info(name, TensorProto.INT64, sides)
        for name in ("input_ids", "attention_mask")
    ]
    outputs = [
        helper.make_tensor_value_info("ids", TensorProto.INT64, sides),
        helper.make_tensor_value_info("hidden", TensorProto.FLOAT, [*sides, WIDTH]),
    ]
    nodes = [
        helper.make_node("Mul", ["input_ids", "attention_mask"], ["ids"]),
        helper.make_node("Gather", ["table", "ids"], ["hidden"]),
    ]
    graph = helper.make_graph(nodes, "words", inputs, outputs, [numpy_helper.from_array(table, name="table")])
    opset = helper.make_opsetid("", 17)
    save(helper.make_model(graph, opset_imports=[opset], ir_version=8), folder / "words.onnx")
    return MiniLmTextEncoder(folder / "words.onnx", folder / "vocab.txt")
