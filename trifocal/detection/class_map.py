"""The probability that a position shows an object of a category, from the boxes of the bundled detector."""

from __future__ import annotations

from collections.abc import Iterator

import numpy as np
from numpy.typing import NDArray

from trifocal.detection.detections import Detections

__all__ = ["class_maps", "coverage"]


def class_maps(
    found: Detections, rows: int, columns: int, cell: float
) -> Iterator[tuple[int, NDArray[np.float32]]]:
    """For each category of the objects, its COCO id and its map, [rows, columns], 0..1.

    A position's value is the highest score of the category's boxes there, times the share of the position
    that the box covers.

    Args:
        found: boxes in pixels of the image.
        rows, columns: of the map.
        cell: side of a position in pixels.
    """
    across = coverage(found.boxes[:, 0], found.boxes[:, 2], columns, cell)
    down = coverage(found.boxes[:, 1], found.boxes[:, 3], rows, cell)
    for label in np.unique(found.labels):
        map_ = np.zeros((rows, columns), np.float32)
        for place in np.flatnonzero(found.labels == label):
            np.maximum(map_, found.scores[place] * np.outer(down[place], across[place]), out=map_)
        yield int(label), map_


def coverage(
    low: NDArray[np.float64], high: NDArray[np.float64], count: int, cell: float
) -> NDArray[np.float32]:
    """The share of each of `count` cells in a row that the intervals from low to high cover: [N] → [N,
    count]."""
    edges = cell * np.arange(count + 1)
    shared = np.minimum(high[:, None], edges[1:]) - np.maximum(low[:, None], edges[:-1])
    return (shared.clip(0) / cell).astype(np.float32)
