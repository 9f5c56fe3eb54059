"""Object detection as COCO measures it: average precision over classes, recalls and overlaps."""

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

from trifocal.errors import MissingExtra, OptionError, PictureError
from trifocal.evaluation.tasks.annotations import GroundTruth
from trifocal.evaluation.tasks.detectors import Detector, Found, rescaled
from trifocal.evaluation.tasks.networks import EXTRA, Pixels
from trifocal.pictures import Picture

__all__ = ["LONG_SIDE", "OWN", "Annotations", "Detection", "check_installed", "protocol_size"]

OWN = "own"  # annotations that are the detector's own answers
SURE = 0.5  # the least score of what counts as an object where a detector's own answers are the truth
LONG_SIDE = 1333  # pixels, of detectron2's test pictures, whose short side is 800
BOXES, MASKS = ("ap", "ap50", "ap75"), ("mask_ap", "mask_ap50")


@dataclass(frozen=True)
class Annotations:
    """COCO's `instances.json`: its images by file name, the objects of each by image id, and its categories; or the same of
    what a detector found itself."""

    images: GroundTruth[dict[str, int]]
    objects: Mapping[int, list[dict[str, Any]]]
    categories: list[dict[str, int]]
    outlined: bool  # each object has an outline or mask, not just a box
    own: bool = False  # a detector's answers, and nobody's labels

    @property
    def ids(self) -> set[int]:
        return {category["id"] for category in self.categories}

    @classmethod
    def read(cls, path: str | Path) -> Annotations:
        """Raises OptionError where the file is something else, and OSError."""
        try:
            data = json.loads(Path(path).read_text("utf-8"))
            images = {
                image["file_name"]: {key: int(image[key]) for key in ("id", "width", "height")}
                for image in data["images"]
            }
            objects: dict[int, list[dict[str, Any]]] = {image["id"]: [] for image in images.values()}
            for item in data["annotations"]:
                if item["image_id"] in objects:
                    objects[item["image_id"]].append(object_of(item))
            categories = [{"id": int(category["id"])} for category in data["categories"]]
        except (ValueError, KeyError, TypeError) as error:
            raise OptionError(
                f"{path} is not in COCO's form, with images, annotations and categories ({error!r})."
            ) from None
        outlined = all("segmentation" in item for items in objects.values() for item in items)
        return cls(GroundTruth(Path(path).name, images), objects, categories, outlined)

    @classmethod
    def found_by(
        cls, detector: Detector, paths: Mapping[str, Path], report: Callable[[float, str], None]
    ) -> Annotations:
        """What a detector finds in pictures, by name, with a score of SURE or more: of pictures that nobody labelled, whether
        coding them changes its mind.

        Pictures that cannot be opened are passed over. Raises OptionError where it finds nothing, OSError.
        """
        images, objects, labels = {}, {}, set(detector.categories or ())
        for number, (name, path) in enumerate(paths.items()):
            report(number / len(paths), f"looking at {name}")
            try:
                pixels = Picture.open(path).rgb
            except PictureError:
                continue  # said by whoever codes it
            height, width = pixels.shape[:2]
            images[name] = {"id": number, "width": width, "height": height}
            found = detector.find(pixels)
            labels |= {int(label) for label in found.labels}
            objects[number] = [
                object_of({"image_id": number, "category_id": int(label), "bbox": width_and_height(box)})
                for box, label, score in zip(found.boxes, found.labels, found.scores, strict=True)
                if score >= SURE
            ]
        if not any(objects.values()):
            raise OptionError(f"The detector finds nothing in these pictures with a score of {SURE} or more.")
        categories = [{"id": label} for label in sorted(labels)]
        return cls(
            GroundTruth("what it found in the originals", images), objects, categories, False, own=True
        )


def object_of(item: Mapping[str, Any]) -> dict[str, Any]:
    """What measuring needs of one annotation; `bbox` is x y width height. Crowds match any number of boxes, or none."""
    box = [float(value) for value in item["bbox"]]
    kept = {"image_id": item["image_id"], "category_id": item["category_id"], "bbox": box}
    outline = {"segmentation": item["segmentation"]} if item.get("segmentation") else {}
    area = item.get("area", box[2] * box[3])
    return {**kept, **outline, "area": area, "iscrowd": int(item.get("iscrowd", 0))}


def width_and_height(box: NDArray[np.float64]) -> list[float]:
    """x0 y0 x1 y1 as COCO writes boxes, x y width height."""
    return [float(value) for value in (box[0], box[1], box[2] - box[0], box[3] - box[1])]


class Detection:
    """Average precision, 0..1, of the boxes that a detector finds (and of masks, where there are outlines).

    `ap` is the mean over the overlaps 0.50, 0.55 … 0.95, `ap50` and `ap75` are at one; nan where the pictures show no
    object. Only the pictures that were added count. With `short_side`, pictures come resized to `protocol_size`, as
    they were before they were coded, and boxes are brought back to the annotations' pixels. `model` names the detector in
    columns, with -own behind it where its own answers are the truth. Raises OptionError where the detector cannot know
    the annotations' categories.
    """

    def __init__(
        self, detector: Detector, annotations: Annotations, short_side: int | None = None, model: str = ""
    ) -> None:
        strange = annotations.ids - set(detector.categories or annotations.ids)
        if strange:
            source = annotations.images.source
            raise OptionError(
                f"{source} has a category {min(strange)}, and the detector knows COCO's ids only."
            )
        self.masks = detector.masks and annotations.outlined
        self.columns = BOXES + MASKS * self.masks
        self.name, self.model = model, f"{model}-{OWN}" if annotations.own else model
        self.detector, self.annotations, self.short_side = detector, annotations, short_side
        self.found: dict[int, list[dict[str, Any]]] = {}
        self.strange: set[int] = set()
        if short_side is not None:
            protocol_size(1, 1, short_side)

    @property
    def notes(self) -> list[str]:
        bare = self.detector.masks and not self.masks
        source = self.annotations.images.source
        said = [f"Masks are not measured: {source} has no outlines."] * bare
        if self.strange:
            said.append(
                f"The detector gives labels that are no category of {source}: {sorted(self.strange)}."
            )
        return said + self.annotations.images.notes

    def begin(self) -> None:
        self.found = {}
        self.annotations.images.begin()

    def add(self, decoded: Pixels, name: str, look: Callable[[str, Detector], Found] | None = None) -> None:
        """Pictures that are not annotated, or not at this size, are left out with a note.

        `look` finds the objects, in the pixels of `decoded`, for the detector's name and itself; without it the detector is
        shown `decoded`.
        """
        image = self.annotations.images.take(name)
        if image is None:
            return
        size = image["width"], image["height"]
        shown = size if self.short_side is None else protocol_size(*size, self.short_side)
        if decoded.shape[:2] != shown[::-1]:
            self.annotations.images.leave_out(
                name, f"of another size than in {self.annotations.images.source}"
            )
            return
        seen = self.detector.find(decoded) if look is None else look(self.name, self.detector)
        found = rescaled(seen, decoded.shape[:2], size)
        if self.detector.categories is None:
            self.strange |= {int(label) for label in found.labels} - self.annotations.ids
        masks = (
            [{}] * len(found.boxes) if not self.masks or found.masks is None else map(encoded, found.masks)
        )
        self.found[image["id"]] = [
            {
                "image_id": image["id"],
                "category_id": int(label),
                "bbox": width_and_height(box),
                "area": float((box[2] - box[0]) * (box[3] - box[1])),
                "iscrowd": 0,
                "score": float(score),
                **mask,
            }
            for box, label, score, mask in zip(found.boxes, found.labels, found.scores, masks, strict=True)
        ]

    def result(self) -> dict[str, float]:
        """Raises OptionError where no picture was measured."""
        if not self.found:
            raise OptionError(f"No picture was added that {self.annotations.images.source} knows.")
        values = self.precision("bbox")
        if self.masks:
            values += self.precision("segm")[:2]
        return dict(zip(self.columns, values, strict=True))

    def precision(self, what: str, ids: Sequence[int] | None = None) -> tuple[float, ...]:
        """AP, AP50 and AP75 of "bbox" or "segm"; of these pictures, as often as each is named, or of all that were added."""
        known = {image["id"]: image for image in self.annotations.images.known.values()}
        places = list(enumerate(sorted(self.found) if ids is None else ids))
        images = [{**known[own], "id": place} for place, own in places]
        truth = numbered(
            {**item, "image_id": place} for place, own in places for item in self.annotations.objects[own]
        )
        found = numbered({**item, "image_id": place} for place, own in places for item in self.found[own])
        with silence():
            precision = evaluated(images, self.annotations.categories, truth, found, what)
        parts = (precision, precision[0], precision[5])
        return tuple(float(part[part >= 0].mean()) if (part >= 0).any() else math.nan for part in parts)


def protocol_size(width: int, height: int, short_side: int) -> tuple[int, int]:
    """(width, height) after detectron2's resizing: the short side as asked, the long one at most LONG_SIDE.

    TransTIC and Adapt-ICMH resize so, to 800, before they code, and count bits per pixel of that picture, which are 2.8
    times as many pixels as a 640×480 picture has. Raises OptionError where the short side is above LONG_SIDE, or below 1.
    """
    if not 1 <= short_side <= LONG_SIDE:
        raise OptionError(f"The short side is 1 to {LONG_SIDE} pixels, not {short_side}.")
    scale = min(short_side / min(width, height), LONG_SIDE / max(width, height))
    return max(1, int(width * scale + 0.5)), max(1, int(height * scale + 0.5))


def check_installed() -> None:
    """Raises MissingExtra where measuring would fail later."""
    tools()


def tools() -> tuple[Any, Any, Any]:
    """COCO, its evaluation and its masks, of faster-coco-eval or of pycocotools. Raises MissingExtra."""
    try:
        import faster_coco_eval as faster

        return faster.COCO, faster.COCOeval_faster, faster.mask
    except ImportError:
        pass
    try:
        from pycocotools import coco, cocoeval, mask

        return coco.COCO, cocoeval.COCOeval, mask
    except ImportError:
        raise MissingExtra(EXTRA, "Measuring average precision") from None


def evaluated(
    images: Sequence[dict[str, int]],
    categories: Sequence[dict[str, int]],
    truth: Sequence[dict[str, Any]],
    found: Sequence[dict[str, Any]],
    what: str,
) -> Any:
    """Precision [overlap, recall, category] over objects of every size; -1 where a category has no object."""
    coco, evaluation, _ = tools()
    sides = []
    for items in (truth, found):
        side = coco()
        side.dataset = {"info": {}, "images": images, "categories": categories, "annotations": items}
        side.createIndex()
        sides.append(side)
    run = evaluation(*sides, what)
    run.params.areaRng, run.params.areaRngLbl = run.params.areaRng[:1], run.params.areaRngLbl[:1]
    run.params.maxDets = run.params.maxDets[-1:]
    run.evaluate()
    run.accumulate()
    return run.eval["precision"][:, :, :, 0, -1]


def numbered(items: Iterator[dict[str, Any]]) -> list[dict[str, Any]]:
    """Copies, since measuring writes into them, with ids from 1: an object with id 0 would count as never matched."""
    return [{**item, "id": number} for number, item in enumerate(items, 1)]


def encoded(mask: Any) -> dict[str, Any]:
    _, _, masks = tools()
    return {"segmentation": masks.encode(np.asfortranarray(mask, np.uint8))}


def silence() -> contextlib.AbstractContextManager[Any]:
    """pycocotools prints what it does."""
    return contextlib.redirect_stdout(io.StringIO())
