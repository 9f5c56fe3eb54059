"""At which size detectors look at a picture, what networks need around it, and which things they name."""

from __future__ import annotations

import math

import torch.nn.functional as F
from torch import Tensor

__all__ = ["AREA", "COCO_IDS", "STEP", "compact_size", "padded", "torchvision_size", "trimmed"]

COCO_IDS = tuple(number for number in range(1, 91) if number not in (12, 26, 29, 30, 45, 66, 68, 69, 71, 83))
AREA = 416 * 416  # pixels to which a larger picture is shrunk for the compact detector: its teacher's
STEP = 32  # pixels: detectors look at whole multiples of it
PADDING = 64  # pixels: four latents to a hyper-latent


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


def padded(x: Tensor) -> Tensor:
    """With the last row and column repeated up to multiples of PADDING."""
    return F.pad(x, (0, -x.shape[3] % PADDING, 0, -x.shape[2] % PADDING), mode="replicate")


def trimmed(h: Tensor, stride: int, size: tuple[int, int]) -> Tensor:
    """Features [B, h, w, C] of padded pictures of that height and width, without the padding, but for whole STEPs."""
    rows, columns = (-(-side // STEP) * STEP // stride for side in size)
    return h[:, :rows, :columns]
