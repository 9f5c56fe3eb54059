"""The interface of grounding: pixels and labels or words → boxes with a label and a score."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Protocol

import numpy as np

from trifocal.detection.detections import Floats, Pixels

__all__ = ["Grounded", "Grounder", "join"]


@dataclass(frozen=True)
class Grounded:
    """What was found in one image.

    Attributes:
        boxes: [N, 4], x0, y0, x1, y1 in pixels.
        labels: N of the labels that were searched.
        scores: [N], 0..1.
    """

    boxes: Floats
    labels: tuple[str, ...]
    scores: Floats

    def __len__(self) -> int:
        return len(self.labels)


class Grounder(Protocol):
    """Finds what labels and words name in an image."""

    @property
    def vocabulary(self) -> frozenset[str] | None:
        """The labels of task lists that it can find; None for all. Other labels and words may be searched."""
        ...

    def find(self, pixels: Pixels, labels: Sequence[str]) -> Grounded:
        """The objects in an image, uint8 [H, W, 3], that labels or words in lower case name."""
        ...


def join(parts: Sequence[Grounded]) -> Grounded:
    """The objects of all parts, in their order."""
    boxes, scores = [part.boxes for part in parts], [part.scores for part in parts]
    labels = tuple(label for part in parts for label in part.labels)
    return Grounded(
        np.concatenate([np.zeros((0, 4)), *boxes]), labels, np.concatenate([np.zeros(0), *scores])
    )
