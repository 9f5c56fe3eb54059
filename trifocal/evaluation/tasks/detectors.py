"""Networks that find objects: our own compact one, torchvision's, PicoDet as ONNX, and ONNX files that give boxes themselves."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, Protocol

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from trifocal.detection.input_size import COCO_IDS
from trifocal.errors import MissingExtra, OptionError
from trifocal.evaluation.tasks.networks import EXTRA, Network, Pixels, load
from trifocal.pictures import Picture

if TYPE_CHECKING:
    from trifocal.detection.detector import Detections

__all__ = [
    "COMPACT",
    "CompactDetector",
    "Detector",
    "Found",
    "OnnxDetector",
    "TorchvisionDetector",
    "decode_boxes",
    "decode_picodet",
    "detector_of",
    "found_of",
    "picodet_cells",
    "preprocess",
    "rescaled",
]

COMPACT = "compact"
MEAN, DEVIATION = (123.675, 116.28, 103.53), (58.395, 57.12, 57.375)  # of ImageNet, R G B, 0..255
STRIDES = (8, 16, 32, 64)
PICODET_SIDE = 416  # pixels, where the file leaves it open
LEAST_SCORE = 0.025
OVERLAP = 0.6  # of two boxes of one class that share more of their union, the better one stays
KEPT = 100  # boxes of a picture, as COCO's protocol asks

Floats = NDArray[np.float64]


@dataclass(frozen=True)
class Found:
    """The objects of one picture: boxes [N, 4] as x0 y0 x1 y1 in pixels, labels [N], scores [N], masks [N, H, W]."""

    boxes: Floats
    labels: NDArray[np.int64]
    scores: Floats
    masks: NDArray[np.bool_] | None = None


class Detector(Protocol):
    """`categories` are the numbers that labels can be (None: not known); `masks` says whether it gives outlines."""

    @property
    def categories(self) -> Sequence[int] | None: ...
    @property
    def masks(self) -> bool: ...
    def find(self, pixels: Pixels) -> Found: ...


class CompactDetector:
    """Our own detector, whose second half reads base layers, shown a picture instead.

    It resizes the picture itself (see `compact_size`), and its boxes back. Raises WeightsError.
    """

    categories: Sequence[int] | None = COCO_IDS
    masks = False

    def __init__(self) -> None:
        from trifocal.detection.detector import load_detector

        self.network = load_detector()

    def find(self, pixels: Pixels) -> Found:
        from trifocal.codecs.scalable import detect_objects

        return found_of(detect_objects(Picture(pixels), self.network))

    def look(self, pixels: Pixels) -> Found:
        """The same, of a picture that has the size of `compact_size` already: it is not resized again."""
        import torch

        x = torch.tensor(pixels).permute(2, 0, 1)[None].float() / 255
        with torch.inference_mode():
            return found_of(self.network(x)[0])


class TorchvisionDetector(Network):
    """A detector of torchvision, whose labels are COCO's category ids.

    It resizes the picture itself, and its boxes back: R-CNN, FCOS and RetinaNet to a short side of 800 pixels (long
    side at most 1333; fasterrcnn_mobilenet_v3_large_320_fpn 320 and 640), SSD to 300 x 300, SSDlite to 320 x 320.
    """

    categories: Sequence[int] | None = COCO_IDS

    @property
    def masks(self) -> bool:
        return getattr(getattr(self.model, "roi_heads", None), "mask_predictor", None) is not None

    def find(self, pixels: Pixels) -> Found:
        import torch

        with torch.inference_mode():
            found = self.model([self.input_of(pixels)])[0]
        masks = found.get("masks")
        return Found(
            boxes=found["boxes"].double().cpu().numpy(),
            labels=found["labels"].cpu().numpy(),
            scores=found["scores"].double().cpu().numpy(),
            masks=None if masks is None else (masks[:, 0] > 0.5).cpu().numpy(),
        )


class OnnxDetector:
    """A detector in an ONNX file, on the CPU: PicoDet, or one whose outputs are boxes, labels and scores.

    Raises OptionError where the file is neither, OSError where it is not there, MissingExtra.
    """

    masks = False

    def __init__(self, path: str | Path) -> None:
        self.session = session_of(Path(path))
        inputs, outputs = self.session.get_inputs(), self.session.get_outputs()
        self.is_picodet = is_picodet(outputs)
        self.categories: Sequence[int] | None = COCO_IDS if self.is_picodet else None
        if len(inputs) != 1 or len(inputs[0].shape) not in ((4,) if self.is_picodet else (3, 4)):
            raise OptionError(f"{path} should take one picture, and takes {listed(inputs)}.")
        self.input, self.shape = inputs[0].name, inputs[0].shape
        sides = [side if isinstance(side, int) else None for side in self.shape[-2:]]
        self.height, self.width = [
            PICODET_SIDE if self.is_picodet and side is None else side for side in sides
        ]

    def find(self, pixels: Pixels) -> Found:
        height, width = pixels.shape[:2]
        size = (self.width or width, self.height or height)
        if self.is_picodet:
            outputs = self.session.run(None, {self.input: preprocess(pixels, *size)})
            return decode_picodet(outputs, width, height)
        x = chw(pixels if size == (width, height) else resized(pixels, size, Image.Resampling.BILINEAR)) / 255
        outputs = self.session.run(None, {self.input: x[None] if len(self.shape) == 4 else x})
        return decode_boxes(outputs, width / size[0], height / size[1])


def detector_of(model: str, device: str = "cpu") -> Detector:
    """COMPACT, a path that ends in .onnx, or a name of torchvision's.

    Raises OptionError, NotMeasured, WeightsError, MissingExtra, OSError.
    """
    if model.lower().endswith(".onnx"):
        return OnnxDetector(model)
    if model == COMPACT:
        return CompactDetector()
    return TorchvisionDetector(*load("detection", model), device)


def found_of(objects: Detections) -> Found:
    """What one of the house's own detectors found."""
    boxes, labels, scores = (
        part.detach().cpu().numpy() for part in (objects.boxes, objects.labels, objects.scores)
    )
    return Found(boxes.astype(np.float64), labels.astype(np.int64), scores.astype(np.float64))


def rescaled(found: Found, shape: tuple[int, int], size: tuple[int, int]) -> Found:
    """Of a picture of that (height, width), in the pixels of one of that (width, height)."""
    (height, width), masks = shape, found.masks
    if (width, height) == size:
        return found
    scale = np.array([size[0] / width, size[1] / height] * 2)
    if masks is not None:
        rows, columns = (
            ((np.arange(n) + 0.5) * m / n).astype(int) for n, m in ((size[1], height), (size[0], width))
        )
        masks = masks[:, rows[:, None], columns]
    return Found(found.boxes * scale, found.labels, found.scores, masks)


def session_of(model: Path | bytes, threads: int | None = None) -> Any:
    """A file, or what would be in it, ready to run on the CPU, in as many threads as torch if none are said.

    Raises OptionError, OSError, MissingExtra.
    """
    try:
        import onnxruntime
    except ImportError:
        raise MissingExtra(EXTRA, "A detector in an ONNX file") from None
    import torch

    if isinstance(model, Path):
        model.stat()
    options = onnxruntime.SessionOptions()
    options.log_severity_level = 3  # errors
    options.intra_op_num_threads = threads or torch.get_num_threads()
    try:
        return onnxruntime.InferenceSession(model, options, providers=["CPUExecutionProvider"])
    except Exception as error:  # noqa: BLE001  onnxruntime's exceptions have no other class in common
        raise OptionError(f"{model!s:.200} is no ONNX file that onnxruntime can read: {error}") from None


def is_picodet(outputs: Sequence[Any]) -> bool:
    """By names, shapes and types of an ONNX file's outputs; False for boxes, labels and scores. Raises OptionError."""
    shapes = [tuple(output.shape or ()) for output in outputs]
    if len(outputs) == 8 and all(len(shape) == 3 for shape in shapes):
        scores, distances = ({shape[2] for shape in half} for half in (shapes[:4], shapes[4:]))
        if scores == {len(COCO_IDS)} and all(
            isinstance(count, int) and count % 4 == 0 for count in distances
        ):
            return True
    whole = [shape for output, shape in zip(outputs, shapes, strict=True) if "int" in output.type]
    if len(outputs) == 3 and len(whole) == 1 and all(len(shape) <= 2 for shape in shapes):
        return False
    raise OptionError(
        "A detector in an ONNX file is PicoDet of COCO's 80 classes or gives boxes [N, 4], labels [N] and scores [N];"
        f" this one gives {listed(outputs)}."
    )


def listed(parts: Sequence[Any]) -> str:
    return ", ".join(f"{part.name} {part.shape} {part.type}" for part in parts) or "nothing"


def preprocess(pixels: Pixels, width: int, height: int) -> NDArray[np.float32]:
    """PicoDet's input, [1, 3, height, width]: the picture stretched to that size (bicubic), less mean, over deviation."""
    stretched = chw(resized(pixels, (width, height), Image.Resampling.BICUBIC))
    mean, deviation = (np.array(values, np.float32)[:, None, None] for values in (MEAN, DEVIATION))
    return ((stretched - mean) / deviation)[None]


def decode_picodet(outputs: Sequence[NDArray[np.float32]], width: int, height: int) -> Found:
    """What PicoDet found, in pixels of a picture of that size. Raises OptionError where shapes do not fit together."""
    boxes, scores = picodet_cells(outputs, width, height)
    cell, number = np.nonzero(scores > LEAST_SCORE)
    labels: NDArray[np.int64] = np.array(COCO_IDS)[number]
    sure: Floats = scores[cell, number]
    candidates = Found(np.clip(boxes, 0, [width, height, width, height])[cell], labels, sure)
    stays = suppress(candidates)[:KEPT]
    return Found(candidates.boxes[stays], labels.take(stays), sure.take(stays))


def picodet_cells(outputs: Sequence[NDArray[np.float32]], width: int, height: int) -> tuple[Floats, Floats]:
    """A box from each cell in pixels of a picture of that size, [N, 4], and its scores, [N, 80].

    Raises OptionError where shapes do not fit together.

    Outputs are class scores, 1 x n² x 80, for each of the STRIDES, then distances, 1 x n² x 32, from a cell's middle
    to the four sides: softmax over 8 bins each, and the expected bin is the distance in strides.
    """
    if len(outputs) != 8 or any(output.ndim != 3 or len(output) != 1 for output in outputs):
        raise OptionError(
            f"PicoDet has eight outputs of one picture, not {[output.shape for output in outputs]}."
        )
    boxes, scores = [], []
    for stride, score, distance in zip(STRIDES, outputs[:4], outputs[4:], strict=True):
        side = math.isqrt(score.shape[1])
        if side**2 != score.shape[1] or distance.shape[1] != score.shape[1] or distance.shape[2] % 4:
            raise OptionError(f"PicoDet's scores {score.shape} and distances {distance.shape} do not fit.")
        logits = np.float64(distance[0]).reshape(side**2, 4, -1)
        bins = np.exp(logits - logits.max(axis=2, keepdims=True))
        receptive_field = stride * (bins @ np.arange(bins.shape[2])) / bins.sum(axis=2)
        row, column = np.divmod(np.arange(side**2), side)
        x, y = (place * stride + (stride - 1) / 2 for place in (column, row))
        boxes.append(
            np.stack(
                [
                    x - receptive_field[:, 0],
                    y - receptive_field[:, 1],
                    x + receptive_field[:, 2],
                    y + receptive_field[:, 3],
                ],
                axis=1,
            )
        )
        scores.append(np.float64(score[0]))
    seen = STRIDES[0] * math.isqrt(outputs[0].shape[1])  # pixels a side of the network's input
    scale = np.array([width, height, width, height]) / seen
    return np.concatenate(boxes) * scale, np.concatenate(scores)


def decode_boxes(outputs: Sequence[NDArray[Any]], scale_x: float, scale_y: float) -> Found:
    """What three outputs say, in any order: the integers are labels, [N, 4] are boxes. Raises OptionError."""
    labels = [output for output in outputs if output.ndim == 1 and output.dtype.kind in "iu"]
    scores = [output for output in outputs if output.ndim == 1 and output.dtype.kind == "f"]
    boxes = [output for output in outputs if output.ndim == 2 and output.shape[1] == 4]
    one_each = len(labels) == len(scores) == len(boxes) == 1
    if not one_each or not len(labels[0]) == len(scores[0]) == len(boxes[0]):
        said = ", ".join(f"{output.dtype} {list(output.shape)}" for output in outputs)
        raise OptionError(f"A detector should give boxes [N, 4], labels [N] and scores [N], and gave {said}.")
    scale = np.array([scale_x, scale_y, scale_x, scale_y])
    return Found(boxes[0] * scale, labels[0].astype(np.int64), scores[0].astype(np.float64))


def suppress(found: Found) -> NDArray[np.int64]:
    """Which boxes stay, best score first: of those of one class that overlap by more than OVERLAP, the best."""
    kept: list[int] = []
    for label in np.unique(found.labels):
        rest = np.flatnonzero(found.labels == label)
        rest = rest[np.argsort(-found.scores[rest], kind="stable")]
        while rest.size:
            kept.append(int(rest[0]))
            rest = rest[1:][overlaps(found.boxes[rest[0]], found.boxes[rest[1:]]) <= OVERLAP]
    order = np.argsort(-found.scores[kept], kind="stable")
    return np.array(kept, np.int64)[order]


def overlaps(box: Floats, boxes: Floats) -> Floats:
    """Intersection over union of one box [4] with others [N, 4]."""
    shared = np.minimum(box[2:], boxes[:, 2:]) - np.maximum(box[:2], boxes[:, :2])
    intersection = np.prod(np.maximum(shared, 0), axis=1)
    areas = np.prod(boxes[:, 2:] - boxes[:, :2], axis=1) + np.prod(box[2:] - box[:2])
    return intersection / np.maximum(areas - intersection, 1e-9)


def resized(pixels: Pixels, size: tuple[int, int], how: Image.Resampling) -> Pixels:
    """To (width, height); Pillow averages over what it shrinks."""
    return np.asarray(Image.fromarray(pixels).resize(size, how))


def chw(pixels: Pixels) -> NDArray[np.float32]:
    """[3, H, W], still 0..255."""
    return np.ascontiguousarray(pixels.transpose(2, 0, 1), dtype=np.float32)
