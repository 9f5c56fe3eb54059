"""At which size detectors look at a picture, and which things they name: no network is needed to know it."""

from __future__ import annotations

import math

__all__ = ["AREA", "COCO_IDS", "STEP", "compact_size", "torchvision_size"]

COCO_IDS = tuple(number for number in range(1, 91) if number not in (12, 26, 29, 30, 45, 66, 68, 69, 71, 83))
AREA = 416 * 416  # pixels to which a larger picture is shrunk for the compact detector: its teacher's
STEP = 32  # pixels: detectors look at whole multiples of it


def compact_size(width: int, height: int, area: int = AREA) -> tuple[int, int]:
    """The width and height at which the compact detector, and so its base layer, looks at a picture of that size."""
    scale = min(1.0, math.sqrt(area / (width * height)))
    most = area // STEP // STEP  # a strip as long as this, one step wide, has the area
    wide, high = (STEP * min(most, max(1, round(side * scale / STEP))) for side in (width, height))
    return wide, high


def torchvision_size(width: int, height: int, least: int = 800, most: int = 1333) -> tuple[int, int]:
    """The same for torchvision's detectors: `least` is for the shorter side and `most` for the longer, in pixels."""
    scale = min(least / min(width, height), most / max(width, height))
    return max(1, int(width * scale)), max(1, int(height * scale))
