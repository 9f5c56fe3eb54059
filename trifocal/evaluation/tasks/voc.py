"""Ground truth in PASCAL VOC's layout: a folder of XML files, one for each image."""

from __future__ import annotations

import xml.etree.ElementTree as ET
from pathlib import Path
from typing import Any

from trifocal.errors import OptionError
from trifocal.evaluation.tasks.annotations import GroundTruth
from trifocal.evaluation.tasks.detection import Annotations, annotation

__all__ = ["VOC_CLASSES", "read_voc"]

# The names in VOC's order, which is alphabetical, and the ids of the same categories in COCO.
VOC_CLASSES = {
    "aeroplane": 5, "bicycle": 2, "bird": 16, "boat": 9, "bottle": 44, "bus": 6, "car": 3, "cat": 17,
    "chair": 62, "cow": 21, "diningtable": 67, "dog": 18, "horse": 19, "motorbike": 4, "person": 1,
    "pottedplant": 64, "sheep": 20, "sofa": 63, "train": 7, "tvmonitor": 72,
}  # fmt: skip


def read_voc(folder: Path, coco_ids: bool = True) -> Annotations:
    """Read VOC's folder `Annotations` (Everingham et al. 2010).

    Images are found by name without suffix. Objects that are marked as difficult count neither as found nor
    as missed, like COCO's crowds. VOC counts pixels from 1 and includes the last one.

    Args:
        coco_ids: number the 20 classes as in COCO, for detectors of COCO's categories; otherwise 1 to 20 in
            VOC's order.

    Raises:
        OptionError: for a folder without XML files, and for a file of another layout.
        OSError: if a file cannot be read.
    """
    numbers = VOC_CLASSES if coco_ids else {name: n for n, name in enumerate(VOC_CLASSES, 1)}
    images: dict[str, dict[str, int]] = {}
    objects: dict[int, list[dict[str, Any]]] = {}
    paths = sorted(folder.glob("*.xml"))
    if not paths:
        raise OptionError(f"{folder} has no .xml files; name the folder Annotations of PASCAL VOC.")
    for number, path in enumerate(paths):
        try:
            root = ET.parse(path).getroot()
            size = {side: int(_text(root, f"size/{side}")) for side in ("width", "height")}
            images[path.stem] = {"id": number, **size}
            objects[number] = [_object(item, number, numbers) for item in root.iter("object")]
        except (ET.ParseError, ValueError, KeyError) as error:
            raise OptionError(f"{path} is not an annotation in PASCAL VOC's layout ({error!r}).") from None
    categories = [{"id": number} for number in sorted(numbers.values())]
    return Annotations(GroundTruth(folder.name, images, suffixes=False), objects, categories, outlined=False)


def _object(item: ET.Element, image: int, numbers: dict[str, int]) -> dict[str, Any]:
    left, top, right, bottom = (
        float(_text(item, f"bndbox/{side}")) for side in ("xmin", "ymin", "xmax", "ymax")
    )
    return annotation(
        {
            "image_id": image,
            "category_id": numbers[_text(item, "name")],
            "bbox": [left - 1, top - 1, right - left + 1, bottom - top + 1],
            "iscrowd": int(item.findtext("difficult") or 0),
        }
    )


def _text(element: ET.Element, path: str) -> str:
    """The text of a child. Raises ValueError if there is none."""
    found = element.findtext(path)
    if found is None:
        raise ValueError(f"no {path}")
    return found.strip()
