"""Detectors in ONNX files: PicoDet, and networks whose outputs are boxes, labels and scores."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from trifocal.detection.detections import Detections, Pixels, resize, to_chw
from trifocal.detection.input_size import COCO_IDS
from trifocal.detection.picodet import PICODET_SIDE, decode_picodet, preprocess
from trifocal.errors import MissingExtra, OptionError
from trifocal.graphs.session import session_options

__all__ = ["OnnxDetector", "decode_boxes", "is_picodet", "open_session"]


class OnnxDetector:
    """A detector in an ONNX file, on the CPU.

    Raises:
        OptionError: if the file is no ONNX file, or its inputs and outputs are of another form.
        MissingExtra: without onnxruntime.
        OSError: if there is no such file.
    """

    masks = False

    def __init__(self, path: str | Path) -> None:
        self.session = open_session(Path(path))
        inputs, outputs = self.session.get_inputs(), self.session.get_outputs()
        self.is_picodet = is_picodet(outputs)
        self.categories: Sequence[int] | None = COCO_IDS if self.is_picodet else None
        if len(inputs) != 1 or len(inputs[0].shape) not in ((4,) if self.is_picodet else (3, 4)):
            raise OptionError(f"{path} must take one image as its only input; it takes {_listed(inputs)}.")
        self.input, self.shape = inputs[0].name, inputs[0].shape
        sides = [side if isinstance(side, int) else None for side in self.shape[-2:]]
        self.height, self.width = [
            PICODET_SIDE if self.is_picodet and side is None else side for side in sides
        ]

    def find(self, pixels: Pixels) -> Detections:
        """The objects in an image, uint8 [H, W, 3]."""
        height, width = pixels.shape[:2]
        size = (self.width or width, self.height or height)
        if self.is_picodet:
            outputs = self.session.run(None, {self.input: preprocess(pixels, *size)})
            return decode_picodet(outputs, width, height)
        resized = pixels if size == (width, height) else resize(pixels, size, Image.Resampling.BILINEAR)
        x = to_chw(resized) / 255
        outputs = self.session.run(None, {self.input: x[None] if len(self.shape) == 4 else x})
        return decode_boxes(outputs, width / size[0], height / size[1])


def open_session(model: Path | bytes, threads: int | None = None) -> Any:
    """An onnxruntime session on the CPU for a file, or for its content.

    Args:
        threads: as many as torch uses if None.

    Raises:
        OptionError: if it is no ONNX model.
        MissingExtra: without onnxruntime.
        OSError: if there is no such file.
    """
    try:
        import onnxruntime
    except ImportError:
        raise MissingExtra("evaluate", "A detector in an ONNX file") from None
    import torch

    if isinstance(model, Path):
        model.stat()
    options = session_options(threads or torch.get_num_threads())
    try:
        return onnxruntime.InferenceSession(model, options, providers=["CPUExecutionProvider"])
    except Exception as error:  # noqa: BLE001  onnxruntime's exceptions share no other base class
        raise OptionError(f"{model!s:.200} is no ONNX file that onnxruntime can read: {error}") from None


def is_picodet(outputs: Sequence[Any]) -> bool:
    """True for the outputs of PicoDet with COCO's 80 classes; False for boxes, labels and scores.

    Args:
        outputs: of a session, with name, shape and type.

    Raises:
        OptionError: for any other outputs.
    """
    shapes = [tuple(output.shape or ()) for output in outputs]
    if len(outputs) == 8 and all(len(shape) == 3 for shape in shapes):
        scores, distances = ({shape[2] for shape in half} for half in (shapes[:4], shapes[4:]))
        if scores == {len(COCO_IDS)} and all(
            isinstance(count, int) and count % 4 == 0 for count in distances
        ):
            return True
    integers = [shape for output, shape in zip(outputs, shapes, strict=True) if "int" in output.type]
    if len(outputs) == 3 and len(integers) == 1 and all(len(shape) <= 2 for shape in shapes):
        return False
    raise OptionError(
        "A detector in an ONNX file must be PicoDet with COCO's 80 classes, or return boxes [N, 4], labels "
        "[N] and "
        f"scores [N]; this one returns {_listed(outputs)}."
    )


def decode_boxes(outputs: Sequence[NDArray[Any]], scale_x: float, scale_y: float) -> Detections:
    """Three outputs in any order → objects: the integers are labels, [N, 4] are boxes.

    Raises:
        OptionError: for outputs of other shapes or types.
    """
    labels = [output for output in outputs if output.ndim == 1 and output.dtype.kind in "iu"]
    scores = [output for output in outputs if output.ndim == 1 and output.dtype.kind == "f"]
    boxes = [output for output in outputs if output.ndim == 2 and output.shape[1] == 4]
    one_each = len(labels) == len(scores) == len(boxes) == 1
    if not one_each or not len(labels[0]) == len(scores[0]) == len(boxes[0]):
        given = ", ".join(f"{output.dtype} {list(output.shape)}" for output in outputs)
        raise OptionError(
            f"A detector must return boxes [N, 4], labels [N] and scores [N]; it returned {given}."
        )
    scale = np.array([scale_x, scale_y, scale_x, scale_y])
    return Detections(boxes[0] * scale, labels[0].astype(np.int64), scores[0].astype(np.float64))


def _listed(parts: Sequence[Any]) -> str:
    return ", ".join(f"{part.name} {part.shape} {part.type}" for part in parts) or "nothing"
