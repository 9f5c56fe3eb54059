"""Importance masks: which parts of an image get a larger share of the bits."""

from __future__ import annotations

from typing import Any

import numpy as np
from numpy.typing import NDArray

from trifocal.errors import OptionError, PresetError
from trifocal.pictures import Picture
from trifocal.types import HYPER_LATENT_PIXELS, LATENT_STRIDE

__all__ = ["Mask", "importance_from_mask", "log2_gain_map"]

Mask = NDArray[Any] | Picture
IMPORTANCE = 4.0  # weight of the squared error at positions that a text names
MASK_IMPORTANCE = 12.0  # weight where a mask is 1


def importance_from_mask(mask: Mask, picture: Picture, has_importance_map: bool) -> NDArray[np.float32]:
    """A mask → the importance map of the padded image, [1, h, w].

    Args:
        mask: [H, W], [H, W, 1], [H, W, 3] or [H, W, 4] of the image's size; bool, float in 0..1, or uint8.
            Colours are averaged.
        picture: the image.
        has_importance_map: whether the codec codes importance maps.

    Raises:
        PresetError: if it does not.
        OptionError: for another shape, type or range.
    """
    if not has_importance_map:
        raise PresetError(
            "This preset does not read a mask, so it would have no effect; use taco-compact or "
            "dual-layer-compact."
        )
    values = _values(mask, picture)
    high, wide = (side + -side % HYPER_LATENT_PIXELS for side in values.shape)
    padded = np.pad(values, ((0, high - values.shape[0]), (0, wide - values.shape[1])), mode="edge")
    cells = padded.reshape(high // LATENT_STRIDE, LATENT_STRIDE, wide // LATENT_STRIDE, LATENT_STRIDE)
    return log2_gain_map(cells.mean(axis=(1, 3))[None], MASK_IMPORTANCE)


def log2_gain_map(p: NDArray[Any], error_weight: float = IMPORTANCE) -> NDArray[np.float32]:
    """log₂ of the gain (1 / quantiser step) at each position, with mean weight 1: p [B, h, w] → [B, h, w].

    A position's squared error weighs 1 + (error_weight − 1) · p. To first order a quantiser's error falls
    with the square of its step and the rate with its logarithm, so that weighted error plus rate is least for
    step² in proportion to 1/weight.
    """
    weight = 1 + (error_weight - 1) * np.asarray(p, dtype=np.float64)
    return (0.5 * np.log2(weight / weight.mean(axis=(1, 2), keepdims=True))).astype(np.float32)


def _values(mask: Mask, picture: Picture) -> NDArray[np.float64]:
    array = mask.rgb if isinstance(mask, Picture) else np.asarray(mask)
    if array.ndim == 3 and array.shape[2] in (1, 3, 4):
        array = array[..., :3].mean(axis=2, dtype=np.float64) / (255 if array.dtype == np.uint8 else 1)
    elif array.dtype == np.uint8:
        array = array / 255.0
    expected = (picture.height, picture.width)
    if array.shape != expected:
        raise OptionError(
            f"The mask must have the image's size, {expected[1]} x {expected[0]} pixels ([{expected[0]}, "
            f"{expected[1]}]), not "
            f"the shape {list(array.shape)}."
        )
    if array.dtype.kind not in "bf" or not ((array >= 0) & (array <= 1)).all():
        raise OptionError("A mask holds booleans, floats in 0..1, or uint8 values in 0..255.")
    return array.astype(np.float64)
