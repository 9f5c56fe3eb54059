"""Captions and boxes of a folder of pictures, from files in COCO's layout that lie in it or above it."""

from __future__ import annotations

import json
import os
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from trifocal.errors import OptionError

__all__ = ["CAPTIONS", "INSTANCES", "corner_boxes", "find_annotations", "read_boxes", "read_captions"]

CAPTIONS, INSTANCES = "captions.json", "instances.json"

Boxes = tuple[NDArray[np.float32], NDArray[np.int64]]


def find_annotations(data: str | os.PathLike[str], name: str) -> Path | None:
    """The file of that name in the folder or above it; or, as COCO itself has it, annotations/captions_train2014.json above
    the folder train2014."""
    folder = Path(os.path.abspath(data))
    stem, suffix = os.path.splitext(name)
    places = (
        folder / name,
        folder.parent / name,
        folder.parent / "annotations" / f"{stem}_{folder.name}{suffix}",
    )
    return next((path for path in places if path.is_file()), None)


def read_captions(data: str | os.PathLike[str]) -> dict[str, tuple[str, ...]]:
    """The captions by file name from captions.json, in COCO's layout or as {name: text}.

    Empty where there is none. Raises OptionError for one of another layout.
    """
    path = find_annotations(data, CAPTIONS)
    if path is None:
        return {}
    try:
        table = json.loads(path.read_text("utf-8"))
        if "annotations" not in table:
            return {name: (said,) if isinstance(said, str) else tuple(said) for name, said in table.items()}
        captions: dict[str, tuple[str, ...]] = {}
        for name, entry in _entries(table):
            captions[name] = (*captions.get(name, ()), entry["caption"])
        return captions
    except (ValueError, KeyError, TypeError, AttributeError):
        raise OptionError(
            f"{path} is no table of captions: neither COCO's layout nor {{file name: caption}}."
        ) from None


def read_boxes(data: str | os.PathLike[str]) -> dict[str, Boxes]:
    """By file name from instances.json: boxes x0, y0, x1, y1 in pixels, [N, 4], and category ids, [N], without crowds.

    Empty where there is none. Raises OptionError for one of another layout.
    """
    path = find_annotations(data, INSTANCES)
    if path is None:
        return {}
    try:
        found: dict[str, list[dict[str, Any]]] = {}
        for name, entry in _entries(json.loads(path.read_text("utf-8"))):
            if not entry.get("iscrowd"):
                found.setdefault(name, []).append(entry)
        return {name: corner_boxes(entries) for name, entries in found.items()}
    except (ValueError, KeyError, TypeError, AttributeError):
        raise OptionError(f"{path} is not in COCO's layout, with images and annotations.") from None


def _entries(table: Any) -> list[tuple[str, dict[str, Any]]]:
    names = {image["id"]: image["file_name"] for image in table["images"]}
    return [(names[entry["image_id"]], entry) for entry in table["annotations"]]


def corner_boxes(entries: list[dict[str, Any]]) -> Boxes:
    """COCO's objects (bbox as x, y, width, height) as boxes x0, y0, x1, y1, [N, 4], and category ids, [N]."""
    boxes = np.array([entry["bbox"] for entry in entries], np.float32).reshape(-1, 4)
    boxes[:, 2:] += boxes[:, :2]
    return boxes, np.array([entry["category_id"] for entry in entries], np.int64)
