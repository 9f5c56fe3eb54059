"""The base preview at the image's resolution, by bicubic interpolation on NumPy arrays."""

from __future__ import annotations

from typing import Any

import numpy as np
from numpy.typing import NDArray

from trifocal.types import BasePreview
from trifocal.utils.threads import one_blas_thread

__all__ = ["preview_pixels"]

BLOCK = 64  # columns
SHARPNESS = -0.75  # the coefficient a of the cubic kernel, as in torch
Floats = NDArray[np.float32]


def preview_pixels(preview: BasePreview[Any]) -> Floats:
    """`BasePreview.pixels` for one image: the region at full resolution, [1, 3, height, width]."""
    x, y, width, height = preview.region
    picture = np.asarray(preview.image, np.float32)
    across = taps(x, width, preview.size[0], picture.shape[3])
    down = taps(y, height, preview.size[1], picture.shape[2])
    rows = sum(picture[:, :, place] * weight[:, None] for place, weight in zip(*down))
    return interpolated_columns(np.asarray(rows), *across)


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


def interpolated_columns(rows: Floats, indices: NDArray[np.int64], weights: Floats) -> Floats:
    """[..., side] → [..., count]. A block of columns is a product with the few samples that it needs."""
    count = indices.shape[1]
    columns = np.empty((*rows.shape[:-1], count), np.float32)
    with one_blas_thread():
        for start in range(0, count, BLOCK):
            block = slice(start, start + BLOCK)
            first, end = indices[:, block].min(), indices[:, block].max() + 1
            across = matrix(indices[:, block] - first, weights[:, block], end - first)
            np.matmul(rows[..., first:end], across, out=columns[..., block])
    return columns


def matrix(indices: NDArray[np.int64], weights: Floats, side: int) -> Floats:
    """The interpolation as a matrix, [side, count]."""
    found = np.zeros((side, indices.shape[1]), np.float32)
    for place, weight in zip(indices, weights):
        np.add.at(found, (place, np.arange(indices.shape[1])), weight)
    return found
