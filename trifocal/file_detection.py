"""Objects that were detected in a file: with names, as JSON, and drawn on the image."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

from trifocal.container.fields import MAGIC
from trifocal.detection.labels import CATEGORIES, THRESHOLD
from trifocal.pictures import Picture
from trifocal.pictures.drawing import draw_boxes

if TYPE_CHECKING:
    from trifocal.detection.detections import Detections

__all__ = [
    "THRESHOLD",
    "FileDetections",
    "draw_detections",
    "filter_and_name",
    "is_tri",
    "json_detections",
    "json_objects",
]


@dataclass(frozen=True)
class FileDetections:
    """Objects in a file.

    Attributes:
        width, height: of the image, in pixels.
        preset_name: of a .tri file; None for an ordinary image.
        bytes_read: of the file; 0 for an image in memory.
        objects: the detections.
        render: gives the image to draw on.
    """

    width: int
    height: int
    preset_name: str | None
    bytes_read: int
    objects: Detections
    render: Callable[[], Picture]


def is_tri(path: Path) -> bool:
    """Whether a file is a .tri file, by its suffix or else by its first bytes. Raises OSError."""
    if path.suffix.lower() == ".tri":
        return True
    with open(path, "rb") as stream:
        return stream.read(len(MAGIC)) == MAGIC


def filter_and_name(objects: Detections, threshold: float = 0.0) -> Detections:
    """Drop objects below a score, sort the others by descending score, and add the names of their labels."""
    scores = objects.scores.tolist()
    chosen = sorted(
        (index for index, score in enumerate(scores) if score >= threshold), key=lambda index: -scores[index]
    )
    labels = objects.labels[chosen]
    names = tuple(CATEGORIES.get(label, (f"category {label}",))[0] for label in labels.tolist())
    return replace(
        objects, boxes=objects.boxes[chosen], labels=labels, scores=objects.scores[chosen], names=names
    )


def json_objects(objects: Detections) -> list[dict[str, Any]]:
    """The result of `filter_and_name` for JSON: label, category, score and box of each object."""
    return [
        {
            "label": name,
            "category": category,
            "score": round(score, 4),
            "box": [round(edge, 2) for edge in box],
        }
        for name, category, score, box in zip(
            objects.names,
            objects.labels.tolist(),
            objects.scores.tolist(),
            objects.boxes.tolist(),
            strict=True,
        )
    ]


def json_detections(detected: FileDetections, objects: list[dict[str, Any]]) -> dict[str, Any]:
    """The detections of a file for JSON; `objects` as from `json_objects`."""
    return {
        "width": detected.width,
        "height": detected.height,
        "preset": detected.preset_name,
        "bytes read": detected.bytes_read,
        "objects": objects,
    }


def draw_detections(picture: Picture, objects: Sequence[dict[str, Any]]) -> Picture:
    """Draw boxes, names and scores on the image; `objects` as from `json_objects`."""
    names = [f"{one['label']} {one['score']:.2f}" for one in objects]
    return draw_boxes(picture, [one["box"] for one in objects], names, [one["category"] for one in objects])
