"""Pixels under alpha 0: nobody sees them, so their colours are replaced by a smooth continuation of what is seen."""

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from trifocal.pictures.limits import no_limit_of_pillow

GREY = 128  # of a picture that is invisible everywhere

Array = NDArray[np.uint8]
Mask = NDArray[np.bool_]


def flattened(rgb: Array, alpha: Array) -> Array:
    """rgb [H, W, 3] where alpha [H, W] is not 0; elsewhere a continuation that depends on nothing but these pixels.

    Gives `rgb` itself where all of it can be seen.
    """
    seen = alpha > 0
    with no_limit_of_pillow():
        return filled(rgb, seen)


def hides_something(rgb: Array, alpha: Array) -> bool:
    """Whether the pixels under alpha 0 have more than one colour."""
    hidden = rgb[alpha == 0]
    return len(hidden) > 0 and bool((hidden != hidden[0]).any())


def filled(rgb: Array, seen: Mask) -> Array:
    """The mean of each 2 × 2 neighbourhood's visible pixels, filled in turn, is enlarged into the gaps."""
    if seen.all():
        return rgb
    if not seen.any():
        return np.full_like(rgb, GREY)
    height, width = seen.shape
    coarse = Image.fromarray(filled(*halved(rgb, seen)))
    fine = coarse.resize((2 * coarse.width, 2 * coarse.height), Image.Resampling.BILINEAR)
    out = np.array(fine)[:height, :width]
    np.copyto(out, rgb, where=seen[..., None])
    return np.ascontiguousarray(out)


def halved(rgb: Array, seen: Mask) -> tuple[Array, Mask]:
    """[H, W, 3] and [H, W] at half the size, rounded up: means of visible pixels, and where there are any."""
    height, width = seen.shape
    total = np.zeros((-(-height // 2), -(-width // 2), 3), np.uint16)
    count = np.zeros(total.shape[:2], np.uint16)
    for top in (0, 1):
        for left in (0, 1):
            mask = seen[top::2, left::2]
            rows, columns = mask.shape
            total[:rows, :columns] += rgb[top::2, left::2] * mask[..., None]
            count[:rows, :columns] += mask
    share = np.maximum(count, 1)[..., None]
    return ((total + share // 2) // share).astype(np.uint8), count > 0
