"""The input sizes of detectors and the image encoder, and COCO's class ids; no network is loaded."""

from __future__ import annotations

import math

from trifocal.types import HYPER_LATENT_PIXELS, LATENT_STRIDE

__all__ = [
    "COCO_IDS",
    "ENCODER_SIDE",
    "ENCODER_STRIDE",
    "MAX_AREA",
    "STEP",
    "base_latent_size",
    "compact_size",
    "encoder_size",
    "torchvision_size",
]

COCO_IDS = tuple(number for number in range(1, 91) if number not in (12, 26, 29, 30, 45, 66, 68, 69, 71, 83))
MAX_AREA = 416 * 416  # pixels of the bundled detector's input, as for its teacher
ENCODER_SIDE = 256  # pixels, the square root of the image encoder's input area: about that of its training
ENCODER_STRIDE = 16  # pixels; the sides of its input are multiples of it
STEP = 32  # pixels; the sides of an input are multiples of it


def compact_size(width: int, height: int, area: int = MAX_AREA) -> tuple[int, int]:
    """The input width and height of the bundled detector and its base layer, for an image of that size."""
    scale = min(1.0, math.sqrt(area / (width * height)))
    longest = area // STEP // STEP  # side in steps, for an input that is one step high
    input_width, input_height = (
        STEP * min(longest, max(1, round(side * scale / STEP))) for side in (width, height)
    )
    return input_width, input_height


def encoder_size(width: int, height: int) -> tuple[int, int]:
    """The input width and height of the bundled image encoder, for an image of that size."""
    scale = ENCODER_SIDE / (width * height) ** 0.5
    wide, high = (
        max(ENCODER_STRIDE, ENCODER_STRIDE * round(side * scale / ENCODER_STRIDE)) for side in (width, height)
    )
    return wide, high


def base_latent_size(width: int, height: int) -> tuple[int, int]:
    """Rows and columns of a base layer's latent for an input of that width and height."""
    rows, columns = ((side + -side % HYPER_LATENT_PIXELS) // LATENT_STRIDE for side in (height, width))
    return rows, columns


def torchvision_size(width: int, height: int, least: int = 800, most: int = 1333) -> tuple[int, int]:
    """The input width and height of torchvision's detectors.

    Args:
        width, height: of the image, in pixels.
        least: of the shorter side of the input, unless the longer side would exceed `most`.
        most: of the longer side of the input.
    """
    scale = min(least / min(width, height), most / max(width, height))
    return max(1, int(width * scale)), max(1, int(height * scale))
