"""The relevance map of words in an image, by the bundled encoders on ONNX Runtime, and boxes from it."""

from __future__ import annotations

from typing import Any

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from trifocal.detection.detections import Floats, Pixels
from trifocal.text.compact_onnx import text_probability
from trifocal.types import TextEmbedding
from trifocal.utils.arrays import image_array

__all__ = ["connected_boxes", "relevance_map"]


def relevance_map(pixels: Pixels, text: TextEmbedding[Any], size: tuple[int, int]) -> NDArray[np.float32]:
    """The probability that a text names what a position shows, 0..1, [h, w].

    Args:
        pixels: uint8 [H, W, 3].
        text: the embedding of one text, by the bundled text encoder.
        size: width and height of the image encoder's input in pixels, 16 times those of the map.

    Raises:
        WeightsError: if the weights are missing or damaged.
    """
    small = Image.fromarray(pixels).resize(size, Image.Resampling.BICUBIC)
    return text_probability(image_array(np.asarray(small)), text)[0]


def connected_boxes(p: NDArray[np.float32], threshold: float) -> tuple[Floats, Floats]:
    """The box of each connected component of the positions at or over a threshold, and its highest value.

    Positions are connected to those above, below, left and right. Boxes [N, 4] are in positions.
    """
    inside = p >= threshold
    numbers = connected_components(inside)
    boxes, scores = [], []
    for number in np.unique(numbers[inside]):
        rows, columns = np.nonzero(numbers == number)
        boxes.append((columns.min(), rows.min(), columns.max() + 1, rows.max() + 1))
        scores.append(p[rows, columns].max())
    return np.array(boxes, np.float64).reshape(-1, 4), np.array(scores, np.float64)


def connected_components(inside: NDArray[np.bool_]) -> NDArray[np.int64]:
    """A number for each connected component, the highest index of its positions from 1; 0 outside."""
    numbers = np.where(inside, np.arange(1, inside.size + 1).reshape(inside.shape), 0)
    while True:
        padded = np.pad(numbers, 1)
        near = (padded[1:-1, 1:-1], padded[:-2, 1:-1], padded[2:, 1:-1], padded[1:-1, :-2], padded[1:-1, 2:])
        spread = np.where(inside, np.max(near, axis=0), 0)
        if np.array_equal(spread, numbers):
            return numbers
        numbers = spread
