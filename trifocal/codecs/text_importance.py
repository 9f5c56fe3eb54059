"""The importance map of a text: where an image shows what the text names, at the latent's positions.

It works on NumPy arrays. Each engine gives the network in between, so the maps of both agree.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from typing import Any, TypeAlias

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from trifocal.codecs.mask import log2_gain_map
from trifocal.detection.input_size import ENCODER_SIDE, encoder_size
from trifocal.pictures import Picture
from trifocal.types import HYPER_LATENT_PIXELS, LATENT_STRIDE, Condition, TextEmbedding
from trifocal.utils.arrays import image_array

__all__ = ["TextProbability", "text_probability_map", "with_text_importance"]

Floats: TypeAlias = NDArray[np.float32]
TextProbability: TypeAlias = Callable[[Floats, TextEmbedding[Any]], Floats]
"""x [1, 3, H, W] in 0..1, text → probability that the text names what a position shows, [1, H/16, W/16]."""


def with_text_importance(
    picture: Picture, condition: Condition[Any] | None, probability: TextProbability
) -> Condition[Any] | None:
    """The condition with the importance map of its text. A map that the condition has is kept, and without a
    text there is none.
    """
    if condition is None or condition.text is None or condition.importance_map is not None:
        return condition
    p = text_probability_map(picture, condition.text, probability)
    return replace(condition, importance_map=log2_gain_map(p))


def text_probability_map(picture: Picture, text: TextEmbedding[Any], probability: TextProbability) -> Floats:
    """The probability that the text names what a latent position of the padded image shows, [1, h, w], 0..1.

    Args:
        picture: the image; it is resized to the image encoder's input.
        text: the embedding of one text.
        probability: the network.
    """
    small = Image.fromarray(picture.thumbnail(4 * ENCODER_SIDE).rgb)
    small = small.resize(encoder_size(picture.width, picture.height), Image.Resampling.BICUBIC)
    p = Image.fromarray(probability(image_array(np.asarray(small)), text)[0])
    columns, rows = (-(-side // LATENT_STRIDE) for side in (picture.width, picture.height))
    fine = np.asarray(p.resize((columns, rows), Image.Resampling.BILINEAR))
    multiple = HYPER_LATENT_PIXELS // LATENT_STRIDE
    return np.pad(fine, ((0, -rows % multiple), (0, -columns % multiple)), mode="edge")[None]
