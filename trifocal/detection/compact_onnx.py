"""The bundled detector on ONNX Runtime and NumPy, without torch.

    x ── front ── h ── proposals ── selection ── second stage ── non-maximum suppression ── objects

The three networks are graphs; what depends on the values, selection and suppression, is here.
"""

from __future__ import annotations

from functools import lru_cache

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from trifocal.detection.detections import Detections, Pixels, rescale, resize, to_chw
from trifocal.detection.input_size import COCO_IDS, compact_size
from trifocal.graphs.session import Graphs
from trifocal.weights import WEIGHTS_FOLDER, read_arrays

__all__ = ["CompactOnnxDetector", "load_compact_detector", "suppress"]

# As in `proposals.py`, `two_stage.py` and torchvision's Faster R-CNN; a test compares the results.
BEFORE_NMS, AFTER_NMS, PROPOSAL_OVERLAP, MIN_PROBABILITY = 400, 100, 0.8, 1e-3
MIN_SCORE, OVERLAP, MOST, MIN_SIDE = 0.02, 0.5, 100, 0.01
CANONICAL_LEVEL, CANONICAL_SIDE, LOWEST_LEVEL = 4, 224, 3  # of a box of 224 pixels; of the finest level
LEVELS = 4

Floats = NDArray[np.float32]


class CompactOnnxDetector:
    """The bundled detector."""

    def __init__(self, graphs: Graphs) -> None:
        self.graphs = graphs

    def input_size(self, width: int, height: int) -> tuple[int, int]:
        """The width and height of the input for an image of that size."""
        return compact_size(width, height)

    def find(self, pixels: Pixels) -> Detections:
        """The objects in an image, uint8 [H, W, 3], in its pixels."""
        width, height = pixels.shape[1], pixels.shape[0]
        size = self.input_size(width, height)
        x = to_chw(resize(pixels, size, Image.Resampling.BICUBIC))[None] / np.float32(255)
        return rescale(self(x), size[::-1], (width, height))

    def __call__(self, x: Floats) -> Detections:
        """x [1, 3, H, W] in 0..1, H and W multiples of 32 → the objects, in its pixels."""
        self.prefetch()
        return self.detect_from_features(self.graphs.run("front", x=x)[0], (x.shape[2], x.shape[3]))

    def prefetch(self) -> None:
        """Begin to open the graphs of `detect_from_features`."""
        self.graphs.prefetch("proposals", "second_stage")

    def detect_from_features(self, h: Floats, size: tuple[int, int]) -> Detections:
        """h [1, h, w, C] of an image of that height and width → its objects, in its pixels."""
        *levels, classes, boxes, points = self.graphs.run("proposals", h=h)
        chosen = propose(classes[0], boxes[0], size)
        if not len(chosen):
            return detections(np.zeros((0, 4), np.float32), np.zeros((0, len(COCO_IDS)), np.float32))
        clipped = clip_boxes(boxes[0, chosen], size)
        scores, refined = self.graphs.run(
            "second_stage",
            **{f"level{number}": level for number, level in enumerate(levels)},
            chosen=clipped,
            level=np.eye(LEVELS, dtype=np.float32)[pyramid_level(clipped)],
            classes=classes[0, chosen],
            boxes=boxes[0, chosen],
            points=points[chosen].astype(np.float32),
        )
        return detections(clip_boxes(refined, size), scores)


def propose(classes: Floats, boxes: Floats, size: tuple[int, int]) -> NDArray[np.int64]:
    """Indices of the proposals, by descending probability; class logits [A, K], boxes [A, 4]."""
    probability = 1 / (1 + np.exp(-classes.max(axis=1)))
    order = np.argsort(-probability, kind="stable")[:BEFORE_NMS]
    order = order[probability[order] > MIN_PROBABILITY]
    kept = suppress(clip_boxes(boxes[order], size), probability[order], PROPOSAL_OVERLAP, AFTER_NMS)
    found: NDArray[np.int64] = order[kept]
    return found


def detections(boxes: Floats, scores: Floats) -> Detections:
    """The objects after score threshold and non-maximum suppression in each class; boxes [N, 4], scores
    [N, K].
    """
    place, label = np.nonzero(scores > MIN_SCORE)
    found, score = boxes[place], scores[place, label]
    large = ((found[:, 2:] - found[:, :2]) >= MIN_SIDE).all(axis=1)
    found, score, label = found[large], score[large], label[large]
    apart = found + (label * (found.max(initial=0) + 1))[:, None].astype(np.float32)  # classes do not overlap
    kept = suppress(apart, score, OVERLAP, MOST)
    ids = np.array(COCO_IDS, np.int64)
    return Detections(found[kept].astype(np.float64), ids[label[kept]], score[kept].astype(np.float64))


def suppress(boxes: Floats, scores: Floats, overlap: float, most: int | None = None) -> NDArray[np.int64]:
    """Non-maximum suppression: indices of the boxes that no better one overlaps by more than that
    intersection over union, best first; the best `most` of them, or all if None.
    """
    order = np.argsort(-scores, kind="stable")
    x0, y0, x1, y1 = np.ascontiguousarray(boxes[order].T)
    area = (x1 - x0) * (y1 - y0)
    kept: list[int] = []
    while len(order) and len(kept) != most:
        kept.append(order[0])
        width = (np.minimum(x1[0], x1[1:]) - np.maximum(x0[0], x0[1:])).clip(min=0)
        height = (np.minimum(y1[0], y1[1:]) - np.maximum(y0[0], y0[1:])).clip(min=0)
        shared = width * height
        rest = 1 + np.flatnonzero(shared <= overlap * (area[0] + area[1:] - shared))
        order, x0, y0, x1, y1, area = (values[rest] for values in (order, x0, y0, x1, y1, area))
    return np.array(kept, np.int64)


def clip_boxes(boxes: Floats, size: tuple[int, int]) -> Floats:
    """Boxes [N, 4] within an image of that height and width."""
    return boxes.clip(0, np.array([size[1], size[0]] * 2, np.float32))


def pyramid_level(boxes: Floats) -> NDArray[np.int64]:
    """The level of each box, by its size (Lin et al. 2017, equation 1), 0 for the finest."""
    side = np.sqrt((boxes[:, 2] - boxes[:, 0]) * (boxes[:, 3] - boxes[:, 1]))
    with np.errstate(divide="ignore"):
        level = np.floor(CANONICAL_LEVEL + np.log2(side / CANONICAL_SIDE) + 1e-6)
    return (level.clip(LOWEST_LEVEL, LOWEST_LEVEL + LEVELS - 1) - LOWEST_LEVEL).astype(np.int64)


@lru_cache(maxsize=1)
def load_compact_detector() -> CompactOnnxDetector:
    """The detector with its trained weights. Raises WeightsError if they are missing or damaged."""
    return CompactOnnxDetector(Graphs("detector", read_arrays(WEIGHTS_FOLDER / "detector.safetensors")))
