"""The objects in an image as NumPy arrays, and the interface of detectors."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Protocol

import numpy as np
from numpy.typing import NDArray
from PIL import Image

__all__ = ["Detections", "Floats", "ObjectDetector", "Pixels", "rescale", "resize", "to_chw"]

Floats = NDArray[np.float64]
Pixels = NDArray[np.uint8]


@dataclass(frozen=True)
class Detections:
    """The objects of one image.

    Attributes:
        boxes: [N, 4], x0, y0, x1, y1 in pixels.
        labels: [N], COCO's category ids.
        scores: [N], 0..1.
        masks: [N, H, W]; None where the detector gives none.
        names: [N], the category name of each object, from `trifocal.detect`; empty from a detector.
    """

    boxes: Floats
    labels: NDArray[np.int64]
    scores: Floats
    masks: NDArray[np.bool_] | None = None
    names: tuple[str, ...] = ()

    def __len__(self) -> int:
        return len(self.scores)

    def __repr__(self) -> str:
        names = self.names or [f"category {label}" for label in self.labels.tolist()]
        shown = [f"{name} {score:.2f}" for name, score in zip(names, self.scores.tolist())][:5]
        return f"<Detections {len(self)}: {', '.join(shown)}{', ...' if len(self) > 5 else ''}>"


class ObjectDetector(Protocol):
    """Finds objects in an image.

    `categories` are the category ids that labels can have (None: not known). `masks` is True for instance
    segmentation.
    """

    @property
    def categories(self) -> Sequence[int] | None: ...
    @property
    def masks(self) -> bool: ...
    def find(self, pixels: Pixels) -> Detections:
        """The objects in an image, uint8 [H, W, 3]."""
        ...


def rescale(found: Detections, shape: tuple[int, int], size: tuple[int, int]) -> Detections:
    """Convert from the pixels of an image of shape (height, width) to those of one of size (width,
    height).
    """
    (height, width), masks = shape, found.masks
    if (width, height) == size:
        return found
    scale = np.array([size[0] / width, size[1] / height] * 2)
    if masks is not None:
        rows, columns = (
            ((np.arange(n) + 0.5) * m / n).astype(int) for n, m in ((size[1], height), (size[0], width))
        )
        masks = masks[:, rows[:, None], columns]
    return replace(found, boxes=found.boxes * scale, masks=masks)


def resize(pixels: Pixels, size: tuple[int, int], resample: Image.Resampling) -> Pixels:
    """Resize to (width, height) with Pillow, which antialiases when it shrinks."""
    return np.asarray(Image.fromarray(pixels).resize(size, resample))


def to_chw(pixels: Pixels) -> NDArray[np.float32]:
    """uint8 [H, W, 3] → float32 [3, H, W], still 0..255."""
    return np.ascontiguousarray(pixels.transpose(2, 0, 1), dtype=np.float32)
