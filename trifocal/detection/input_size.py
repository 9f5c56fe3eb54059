"""The input size of each detector, and COCO's class ids; no network is loaded."""

from __future__ import annotations

import math

__all__ = ["COCO_IDS", "MAX_AREA", "PADDING", "STEP", "compact_size", "torchvision_size"]

COCO_IDS = tuple(number for number in range(1, 91) if number not in (12, 26, 29, 30, 45, 66, 68, 69, 71, 83))
MAX_AREA = 416 * 416  # pixels of the bundled detector's input, as for its teacher
PADDING = 64  # pixels of a base layer's input: one hyper-latent
STEP = 32  # pixels; the sides of an input are multiples of it


def compact_size(width: int, height: int, area: int = MAX_AREA) -> tuple[int, int]:
    """The input width and height of the bundled detector and its base layer, for an image of that size."""
    scale = min(1.0, math.sqrt(area / (width * height)))
    most = area // STEP // STEP  # the number of steps of the longest allowed strip, which is one step wide
    wide, high = (STEP * min(most, max(1, round(side * scale / STEP))) for side in (width, height))
    return wide, high


def torchvision_size(width: int, height: int, least: int = 800, most: int = 1333) -> tuple[int, int]:
    """The input width and height of torchvision's detectors.

    Args:
        width, height: of the image, in pixels.
        least: of the shorter side of the input, unless the longer side would exceed `most`.
        most: of the longer side of the input.
    """
    scale = min(least / min(width, height), most / max(width, height))
    return max(1, int(width * scale)), max(1, int(height * scale))
