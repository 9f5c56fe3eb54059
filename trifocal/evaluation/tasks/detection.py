"""Object detection by the COCO protocol: average precision over classes and IoU thresholds."""

from __future__ import annotations

import contextlib
import io
import json
import math
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from trifocal.data.coco import Boxes, corner_boxes
from trifocal.detection.detections import Detections, ObjectDetector, Pixels, rescale
from trifocal.errors import MissingExtra, OptionError, PictureError
from trifocal.evaluation.tasks.annotations import GroundTruth
from trifocal.pictures import Picture

__all__ = [
    "DETECTOR_LABELS",
    "MAX_LONG_SIDE",
    "Annotations",
    "DetectionTask",
    "annotation",
    "check_installed",
    "protocol_size",
]

DETECTOR_LABELS = "own"  # the detector's own detections in the originals are the ground truth
MIN_LABEL_SCORE = 0.5  # of a detection that counts as ground truth then
MAX_LONG_SIDE = 1333  # pixels, in detectron2's evaluation, whose short side is 800
BOXES, MASKS = ("ap", "ap50", "ap75"), ("mask_ap", "mask_ap50")


@dataclass(frozen=True)
class Annotations:
    """Ground truth in COCO's layout; `voc.read_voc` reads PASCAL VOC's.

    Attributes:
        images: id, width and height of each image by file name.
        objects: the annotations of each image by its id.
        categories: each with its id.
        outlined: whether each object has a polygon or mask, not only a box.
        own: whether these are a detector's own detections.
    """

    images: GroundTruth[dict[str, int]]
    objects: Mapping[int, list[dict[str, Any]]]
    categories: list[dict[str, int]]
    outlined: bool
    own: bool = False

    @property
    def ids(self) -> set[int]:
        """The category ids."""
        return {category["id"] for category in self.categories}

    def scaled_boxes(self, name: str, height: int, width: int) -> Boxes | None:
        """The boxes x0, y0, x1, y1 of an image's objects, [N, 4], in pixels of the image at that size, and
        their category ids, [N]; None if the image is not annotated.
        """
        image = self.images.find(name)
        if image is None:
            return None
        boxes, labels = corner_boxes(self.objects[image["id"]])
        boxes *= np.array([width / image["width"], height / image["height"]] * 2, np.float32)
        return boxes, labels

    @classmethod
    def read(cls, path: str | Path) -> Annotations:
        """Read an `instances.json`. Raises OptionError for a file of another layout, and OSError."""
        try:
            data = json.loads(Path(path).read_text("utf-8"))
            images = {
                image["file_name"]: {key: int(image[key]) for key in ("id", "width", "height")}
                for image in data["images"]
            }
            objects: dict[int, list[dict[str, Any]]] = {image["id"]: [] for image in images.values()}
            for item in data["annotations"]:
                if item["image_id"] in objects:
                    objects[item["image_id"]].append(annotation(item))
            categories = [{"id": int(category["id"])} for category in data["categories"]]
        except (ValueError, KeyError, TypeError) as error:
            raise OptionError(
                f"{path} is not in COCO's layout, with images, annotations and categories ({error!r})."
            ) from None
        outlined = all("segmentation" in item for items in objects.values() for item in items)
        return cls(GroundTruth(Path(path).name, images), objects, categories, outlined)

    @classmethod
    def from_detector(
        cls, detector: ObjectDetector, paths: Mapping[str, Path], report: Callable[[float, str], None]
    ) -> Annotations:
        """A detector's own detections with scores of MIN_LABEL_SCORE and more, as ground truth for images
        without labels.

        Images that cannot be opened are skipped.

        Args:
            paths: the images by name.
            report: called with a fraction and a text before each image.

        Raises:
            OptionError: if the detector finds no objects.
            OSError: if an image cannot be read.
        """
        images, objects, labels = {}, {}, set(detector.categories or ())
        for number, (name, path) in enumerate(paths.items()):
            report(number / len(paths), f"detecting objects in {name}")
            try:
                pixels = Picture.open(path).rgb
            except PictureError:
                continue  # `evaluate` reports it
            height, width = pixels.shape[:2]
            images[name] = {"id": number, "width": width, "height": height}
            output = detector.find(pixels)
            labels |= {int(label) for label in output.labels}
            objects[number] = [
                annotation({"image_id": number, "category_id": int(label), "bbox": _to_xywh(box)})
                for box, label, score in zip(output.boxes, output.labels, output.scores, strict=True)
                if score >= MIN_LABEL_SCORE
            ]
        if not any(objects.values()):
            raise OptionError(
                f"The detector finds no object in these images with a score of {MIN_LABEL_SCORE} or more."
            )
        categories = [{"id": label} for label in sorted(labels)]
        source = "the detections in the originals"
        return cls(GroundTruth(source, images), objects, categories, False, own=True)


def annotation(item: Mapping[str, Any]) -> dict[str, Any]:
    """The fields of an annotation that COCO's evaluation reads; `bbox` is x y width height.

    Crowds match any number of boxes, or none.
    """
    box = [float(value) for value in item["bbox"]]
    kept = {"image_id": item["image_id"], "category_id": item["category_id"], "bbox": box}
    outline = {"segmentation": item["segmentation"]} if item.get("segmentation") else {}
    area = item.get("area", box[2] * box[3])
    return {**kept, **outline, "area": area, "iscrowd": int(item.get("iscrowd", 0))}


def _to_xywh(box: NDArray[np.float64]) -> list[float]:
    """x0 y0 x1 y1 → x y width height, as COCO stores boxes."""
    return [float(value) for value in (box[0], box[1], box[2] - box[0], box[3] - box[1])]


class DetectionTask:
    """Average precision, 0..1, of the boxes that a detector finds, and of masks where annotations have
    outlines.

    `ap` is the mean over the IoU thresholds 0.50, 0.55 … 0.95; `ap50` and `ap75` are at one threshold. They
    are nan where the images contain no object. Only the images that were added count.

    Args:
        detector: finds the objects.
        annotations: the ground truth.
        short_side: in pixels; if given, images are resized to `protocol_size` before they are coded, and
            boxes are converted back to the pixels of the annotations.
        model: the name of the detector in columns. With the detector's own detections as ground truth, "-own"
            is appended.

    Raises:
        OptionError: if the annotations have categories that the detector does not know.
    """

    def __init__(
        self,
        detector: ObjectDetector,
        annotations: Annotations,
        short_side: int | None = None,
        model: str = "",
    ) -> None:
        unknown = annotations.ids - set(detector.categories or annotations.ids)
        if unknown:
            source = annotations.images.source
            raise OptionError(
                f"{source} has a category {min(unknown)}; the detector knows the ids of COCO only."
            )
        self.masks = detector.masks and annotations.outlined
        self.columns = BOXES + MASKS * self.masks
        self.name, self.model = model, f"{model}-{DETECTOR_LABELS}" if annotations.own else model
        self.detector, self.annotations, self.short_side = detector, annotations, short_side
        self.detections: dict[int, list[dict[str, Any]]] = {}
        self.unknown_labels: set[int] = set()
        if short_side is not None:
            protocol_size(1, 1, short_side)

    @property
    def notices(self) -> list[str]:
        """Sentences about masks, labels and images that were left out."""
        source = self.annotations.images.source
        notices = []
        if self.detector.masks and not self.masks:
            notices.append(f"Masks are not measured: {source} has no outlines.")
        if self.unknown_labels:
            notices.append(
                f"The detector returns labels that {source} does not list: {sorted(self.unknown_labels)}."
            )
        return notices + self.annotations.images.notices

    def begin(self) -> None:
        """Forget all images."""
        self.detections = {}
        self.annotations.images.begin()

    def add(
        self, decoded: Pixels, name: str, find: Callable[[str, ObjectDetector], Detections] | None = None
    ) -> None:
        """Find the objects of an image, uint8 [H, W, 3].

        Images without annotations, or of another size than annotated, are left out with a notice.

        Args:
            find: returns the objects, in the pixels of `decoded`, for the detector's name and the detector;
                None to run the detector on `decoded`.
        """
        image = self.annotations.images.claim(name)
        if image is None:
            return
        size = image["width"], image["height"]
        expected = size if self.short_side is None else protocol_size(*size, self.short_side)
        if decoded.shape[:2] != expected[::-1]:
            self.annotations.images.skip(name, f"of another size than in {self.annotations.images.source}")
            return
        output = self.detector.find(decoded) if find is None else find(self.name, self.detector)
        output = rescale(output, decoded.shape[:2], size)
        if self.detector.categories is None:
            self.unknown_labels |= {int(label) for label in output.labels} - self.annotations.ids
        masks = (
            [{}] * len(output.boxes)
            if not self.masks or output.masks is None
            else map(_encode_mask, output.masks)
        )
        self.detections[image["id"]] = [
            {
                "image_id": image["id"],
                "category_id": int(label),
                "bbox": _to_xywh(box),
                "area": float((box[2] - box[0]) * (box[3] - box[1])),
                "iscrowd": 0,
                "score": float(score),
                **mask,
            }
            for box, label, score, mask in zip(output.boxes, output.labels, output.scores, masks, strict=True)
        ]

    def result(self) -> dict[str, float]:
        """The figures by column. Raises OptionError if no image was measured."""
        if not self.detections:
            raise OptionError(f"No image was added that {self.annotations.images.source} lists.")
        values = self.average_precision("bbox")
        if self.masks:
            values += self.average_precision("segm")[:2]
        return dict(zip(self.columns, values, strict=True))

    def average_precision(self, kind: str, ids: Sequence[int] | None = None) -> tuple[float, ...]:
        """AP, AP50 and AP75 of "bbox" or "segm".

        Args:
            ids: the images that count, each as often as it is listed; None for all that were added.
        """
        known = {image["id"]: image for image in self.annotations.images.values.values()}
        numbered = list(enumerate(sorted(self.detections) if ids is None else ids))
        images = [{**known[own], "id": number} for number, own in numbered]
        truth = _numbered(
            {**item, "image_id": number} for number, own in numbered for item in self.annotations.objects[own]
        )
        detections = _numbered(
            {**item, "image_id": number} for number, own in numbered for item in self.detections[own]
        )
        with contextlib.redirect_stdout(io.StringIO()):  # pycocotools prints its progress
            precision = _coco_precision(images, self.annotations.categories, truth, detections, kind)
        parts = (precision, precision[0], precision[5])
        return tuple(float(part[part >= 0].mean()) if (part >= 0).any() else math.nan for part in parts)


def protocol_size(width: int, height: int, short_side: int) -> tuple[int, int]:
    """(width, height) after detectron2's resizing: the short side as given, the long one at most
    MAX_LONG_SIDE.

    TransTIC and Adapt-ICMH resize images so, to 800, before they code them, and count bits per pixel of the
    resized image, which has 2.8 times the pixels of a 640×480 image.

    Raises:
        OptionError: for a short side outside 1..MAX_LONG_SIDE.
    """
    if not 1 <= short_side <= MAX_LONG_SIDE:
        raise OptionError(f"The short side is 1 to {MAX_LONG_SIDE} pixels, not {short_side}.")
    scale = min(short_side / min(width, height), MAX_LONG_SIDE / max(width, height))
    return max(1, int(width * scale + 0.5)), max(1, int(height * scale + 0.5))


def check_installed() -> None:
    """Raise MissingExtra if no package for COCO's evaluation is installed."""
    _coco_tools()


def _coco_tools() -> tuple[Any, Any, Any]:
    """COCO, its evaluation and its masks, from faster-coco-eval or pycocotools."""
    try:
        import faster_coco_eval as faster

        return faster.COCO, faster.COCOeval_faster, faster.mask
    except ImportError:
        pass
    try:
        from pycocotools import coco, cocoeval, mask

        return coco.COCO, cocoeval.COCOeval, mask
    except ImportError:
        raise MissingExtra("evaluate", "Measuring average precision") from None


def _coco_precision(
    images: Sequence[dict[str, int]],
    categories: Sequence[dict[str, int]],
    truth: Sequence[dict[str, Any]],
    detections: Sequence[dict[str, Any]],
    kind: str,
) -> Any:
    """Precision [threshold, recall, category] over objects of every size; -1 where a category has no
    object.
    """
    coco, evaluation, _ = _coco_tools()
    sides = []
    for items in (truth, detections):
        side = coco()
        side.dataset = {"info": {}, "images": images, "categories": categories, "annotations": items}
        side.createIndex()
        sides.append(side)
    run = evaluation(*sides, kind)
    run.params.areaRng, run.params.areaRngLbl = run.params.areaRng[:1], run.params.areaRngLbl[:1]
    run.params.maxDets = run.params.maxDets[-1:]
    run.evaluate()
    run.accumulate()
    return run.eval["precision"][:, :, :, 0, -1]


def _numbered(items: Iterator[dict[str, Any]]) -> list[dict[str, Any]]:
    """Copies, since COCO's evaluation modifies them, with ids from 1: id 0 would count as never matched."""
    return [{**item, "id": number} for number, item in enumerate(items, 1)]


def _encode_mask(mask: Any) -> dict[str, Any]:
    _, _, masks = _coco_tools()
    return {"segmentation": masks.encode(np.asfortranarray(mask, np.uint8))}
