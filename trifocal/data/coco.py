"""Captions and boxes of a folder of images, from annotation files in COCO's layout."""

from __future__ import annotations

import json
import os
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from trifocal.errors import OptionError

__all__ = [
    "CAPTIONS",
    "INSTANCES",
    "corner_boxes",
    "find_annotations",
    "image_folder",
    "parse_captions",
    "read_boxes",
    "read_captions",
    "where_to_put",
]

CAPTIONS, INSTANCES = "captions.json", "instances.json"

Boxes = tuple[NDArray[np.float32], NDArray[np.int64]]


def find_annotations(data: str | os.PathLike[str], name: str) -> Path | None:
    """Find an annotation file: NAME in the folder or its parent, or as in COCO,
    annotations/captions_train2014.json beside the folder train2014. None if there is none."""
    folder = Path(os.path.abspath(data))
    stem, suffix = os.path.splitext(name)
    places = (
        folder / name,
        folder.parent / name,
        folder.parent / "annotations" / f"{stem}_{folder.name}{suffix}",
    )
    return next((path for path in places if path.is_file()), None)


def where_to_put(name: str, place: Path) -> str:
    """Where the annotations of a folder or shard of images belong, as a part of a message.

    Args:
        name: CAPTIONS or INSTANCES.
        place: the folder, or a .tar file.
    """
    stem, suffix = os.path.splitext(name)
    if place.suffix == ".tar":
        return f"put KEY.json with {'captions' if name == CAPTIONS else 'boxes and labels'} beside each image"
    folder = place.parent / "annotations"
    remedy = f"put {stem}_{place.name}{suffix} into {folder}, or {name} into {place}"
    return remedy if folder.is_dir() else f"there is no folder {folder}: {remedy}"


def image_folder(root: Path) -> Path:
    """The folder of training images in a root folder of COCO, which has a folder `annotations`; any other
    folder is returned unchanged.

    Raises:
        OptionError: if there are several; the message names them.
    """
    if not (root / "annotations").is_dir():
        return root
    folders = sorted(path for path in root.iterdir() if path.is_dir() and path.name != "annotations")
    training = [path for path in folders if path.name.startswith("train")] or folders
    if len(training) > 1:
        names = " and ".join(str(path) for path in training)
        raise OptionError(f"{root} has several folders of images; name one of {names}.")
    return training[0] if training else root


def read_captions(data: str | os.PathLike[str]) -> dict[str, tuple[str, ...]]:
    """Captions by file name from captions.json, in COCO's layout or as {name: text}.

    Empty if there is no such file. Raises OptionError for another layout.
    """
    path = find_annotations(data, CAPTIONS)
    if path is None:
        return {}
    return parse_captions(path.read_text("utf-8"), str(path))


def parse_captions(text: str, source: str, name: str | None = None) -> dict[str, tuple[str, ...]]:
    """Captions by file name from JSON in COCO's layout, or as {file name: caption or list of captions}.

    Args:
        text: the JSON.
        source: its file, for messages.
        name: of a set of captions, for files that have several: {name of the set: captions}.

    Raises:
        OptionError: for another layout, and for a file with sets unless `name` is one of them.
    """
    try:
        table = json.loads(text)
        sets = {} if "annotations" in table else {k: v for k, v in table.items() if isinstance(v, dict)}
        chosen = sets.get(name) if sets or name else table
        captions = {} if chosen is None else _captions_in(chosen)
    except (ValueError, KeyError, TypeError, AttributeError):
        raise OptionError(
            f"{source} is not a table of captions; it must have COCO's layout or {{file name: caption}}."
        ) from None
    if chosen is None:
        known = f"it has the sets {', '.join(sets)}" if sets else "it has no sets"
        wrong = "name one as FILE:SET" if name is None else f"it has no set {name!r}"
        raise OptionError(f"{source}: {wrong}; {known}.")
    return captions


def _captions_in(table: Any) -> dict[str, tuple[str, ...]]:
    if "annotations" not in table:
        return {image: (one,) if isinstance(one, str) else tuple(one) for image, one in table.items()}
    captions: dict[str, tuple[str, ...]] = {}
    for image, entry in _entries(table):
        captions[image] = (*captions.get(image, ()), entry["caption"])
    return captions


def read_boxes(data: str | os.PathLike[str]) -> dict[str, Boxes]:
    """Boxes x0, y0, x1, y1 in pixels, [N, 4], and category ids, [N], by file name, from instances.json
    without crowds.

    Empty if there is no such file. Raises OptionError for another layout.
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
    """COCO's annotations (bbox as x, y, width, height) → boxes x0, y0, x1, y1, [N, 4], and category ids,
    [N]."""
    boxes = np.array([entry["bbox"] for entry in entries], np.float32).reshape(-1, 4)
    boxes[:, 2:] += boxes[:, :2]
    return boxes, np.array([entry["category_id"] for entry in entries], np.int64)
