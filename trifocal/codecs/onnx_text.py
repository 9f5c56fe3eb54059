"""The importance map of a text, on ONNX Runtime; `roi.py` has the same on torch."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from trifocal.codecs.mask import log2_gain_map
from trifocal.detection.input_size import ENCODER_SIDE, encoder_size
from trifocal.grounding.relevance import relevance_map
from trifocal.pictures import Picture
from trifocal.pictures.canvas import Canvas
from trifocal.types import LATENT_STRIDE, Condition, TextEmbedding

__all__ = ["with_importance"]


def with_importance(picture: Picture, condition: Condition[Any], receptive_field: int) -> Condition[Any]:
    """The condition with the importance map of its text; a map that it has is kept."""
    if condition.importance_map is not None or condition.text is None:
        return condition
    p = text_probability_map(picture, condition.text, receptive_field)
    return replace(condition, importance_map=log2_gain_map(p))


def text_probability_map(
    picture: Picture, text: TextEmbedding[Any], receptive_field: int
) -> NDArray[np.float32]:
    """The probability that the text names it, for each latent of the padded image, [1, h, w], 0..1."""
    size = encoder_size(picture.width, picture.height)
    p = relevance_map(picture.thumbnail(4 * ENCODER_SIDE).rgb, text, size)
    latents = -(-picture.width // LATENT_STRIDE), -(-picture.height // LATENT_STRIDE)
    fine = np.asarray(Image.fromarray(p).resize(latents, Image.Resampling.BILINEAR))
    wide, high = (
        side // LATENT_STRIDE for side in Canvas(picture.width, picture.height, receptive_field).padded
    )
    return np.pad(fine, ((0, high - latents[1]), (0, wide - latents[0])), mode="edge")[None]
