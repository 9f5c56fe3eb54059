"""Replace the colours of fully transparent pixels by extending the visible ones."""

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from trifocal.pictures.limits import pillow_limit_lifted

GREY = 128  # colour of an image without visible pixels

Array = NDArray[np.uint8]
Mask = NDArray[np.bool_]


def fill_invisible(rgb: Array, alpha: Array) -> Array:
    """Extend the visible pixels of `rgb` [H, W, 3] to where `alpha` [H, W] is 0.

    The result depends on visible pixels only. Returns `rgb` itself if all of it is visible.
    """
    with pillow_limit_lifted():
        return fill(rgb, alpha > 0)


def hides_something(rgb: Array, alpha: Array) -> bool:
    """Whether the pixels with alpha 0 have more than one colour."""
    hidden = rgb[alpha == 0]
    return len(hidden) > 0 and bool((hidden != hidden[0]).any())


def fill(rgb: Array, visible: Mask) -> Array:
    """Fill a copy at half the size recursively, enlarge it, and use it where pixels are not visible."""
    if visible.all():
        return rgb
    if not visible.any():
        return np.full_like(rgb, GREY)
    height, width = visible.shape
    coarse = Image.fromarray(fill(*downsample(rgb, visible)))
    fine = coarse.resize((2 * coarse.width, 2 * coarse.height), Image.Resampling.BILINEAR)
    out = np.array(fine)[:height, :width]
    np.copyto(out, rgb, where=visible[..., None])
    return np.ascontiguousarray(out)


def downsample(rgb: Array, visible: Mask) -> tuple[Array, Mask]:
    """Means of the visible pixels of 2×2 blocks, and whether there are any, at half the size, rounded up."""
    height, width = visible.shape
    total = np.zeros((-(-height // 2), -(-width // 2), 3), np.uint16)
    count = np.zeros(total.shape[:2], np.uint16)
    for top in (0, 1):
        for left in (0, 1):
            mask = visible[top::2, left::2]
            rows, columns = mask.shape
            total[:rows, :columns] += rgb[top::2, left::2] * mask[..., None]
            count[:rows, :columns] += mask
    divisor = np.maximum(count, 1)[..., None]
    return ((total + divisor // 2) // divisor).astype(np.uint8), count > 0
