"""The importance map of a text: where the detector finds the categories that it names.

    text ──── MiniLM ── tokens ── classifier ── a: probability that the text names a category ┐
                                                                                              ├── p
    image ── bundled detector ── boxes ── m: probability that a position shows the category ──┘

p = 1 − Π (1 − a · m), over COCO's 80 categories, is the probability that the text names what a position
shows. Both engines run this on ONNX Runtime and NumPy, so they write the same map.
"""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import numpy as np
from numpy.typing import NDArray

from trifocal.codecs.mask import log2_gain_map
from trifocal.detection.class_map import class_maps
from trifocal.detection.compact_onnx import load_compact_detector
from trifocal.detection.input_size import COCO_IDS
from trifocal.pictures import Picture
from trifocal.types import HYPER_LATENT_PIXELS, LATENT_STRIDE, Condition

__all__ = ["named_probability", "with_named_objects"]


def with_named_objects(picture: Picture, condition: Condition[Any]) -> Condition[Any]:
    """The condition with the importance map of the categories that it names; a map that it has is kept."""
    if condition.categories is None or condition.importance_map is not None:
        return condition
    p = named_probability(picture, condition.categories[0])[None]
    return replace(condition, importance_map=log2_gain_map(p))


def named_probability(picture: Picture, categories: NDArray[np.float32]) -> NDArray[np.float32]:
    """The probability that a position shows what a text names, 0..1, for each latent of the padded image,
    [h, w].

    Args:
        picture: the image.
        categories: the probability that the text names each of COCO's categories, [80].
    """
    rows, columns = (
        (side + -side % HYPER_LATENT_PIXELS) // LATENT_STRIDE for side in (picture.height, picture.width)
    )
    unnamed = np.ones((rows, columns), np.float32)
    found = load_compact_detector().find(picture.rgb)
    for label, map_ in class_maps(found, rows, columns, LATENT_STRIDE):
        unnamed *= 1 - categories[COCO_IDS.index(label)] * map_
    return 1 - unnamed
