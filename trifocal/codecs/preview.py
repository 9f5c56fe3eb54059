"""The base preview at the image's resolution, by bicubic interpolation on NumPy arrays."""

from __future__ import annotations

from typing import Any

import numpy as np
from numpy.typing import NDArray

from trifocal.types import BasePreview

__all__ = ["preview_pixels"]

SHARPNESS = -0.75  # the coefficient a of the cubic kernel, as in torch
Floats = NDArray[np.float32]


def preview_pixels(preview: BasePreview[Any]) -> Floats:
    """`BasePreview.pixels` for one image: the region at full resolution, [1, 3, height, width]."""
    x, y, width, height = preview.region
    picture = np.asarray(preview.image, np.float32)
    across = taps(x, width, preview.size[0], picture.shape[3])
    down = taps(y, height, preview.size[1], picture.shape[2])
    rows = sum(picture[:, :, place] * weight[:, None] for place, weight in zip(*down))
    columns: Any = np.asarray(rows) @ matrix(*across, picture.shape[3])
    return np.ascontiguousarray(columns, np.float32)


def taps(start: int, count: int, whole: int, side: int) -> tuple[NDArray[np.int64], Floats]:
    """Indices of the four samples of each of `count` pixels from `start`, and their weights, [4, count] each.

    Args:
        whole: side of the full image.
        side: that of the preview; its edges are repeated.
    """
    place = (start + 0.5 + np.arange(count)) / whole * side - 0.5
    first = np.floor(place)
    t = place - first
    indices = (first.astype(np.int64) + np.arange(-1, 3)[:, None]).clip(0, side - 1)
    return indices, np.stack([far(t + 1), near(t), near(1 - t), far(2 - t)]).astype(np.float32)


def near(t: Any) -> Any:
    """The cubic kernel at distances 0..1."""
    return ((SHARPNESS + 2) * t - (SHARPNESS + 3)) * t * t + 1


def far(t: Any) -> Any:
    """The cubic kernel at distances 1..2."""
    return ((t - 5) * t + 8) * t * SHARPNESS - 4 * SHARPNESS


def matrix(indices: NDArray[np.int64], weights: Floats, side: int) -> Floats:
    """The interpolation as a matrix, [side, count]."""
    found = np.zeros((side, indices.shape[1]), np.float32)
    for place, weight in zip(indices, weights):
        np.add.at(found, (place, np.arange(indices.shape[1])), weight)
    return found
