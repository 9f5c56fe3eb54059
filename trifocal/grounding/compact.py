"""Bundled grounding: the bundled detector for COCO's labels, and the text encoders for other words.

    label of COCO ───────────────────────────────── category ┐
    words ── MiniLM ── classifier, if it names categories ───┴── bundled detector ── boxes
    words ── bundled text encoder ── relevance map ── threshold ── connected components ── boxes

MiniLM needs the extra `text`. Without it, and for words that name no category, the relevance map is used.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence

import numpy as np

from trifocal.detection.compact_onnx import load_compact_detector
from trifocal.detection.detections import Detections, Pixels
from trifocal.detection.input_size import COCO_IDS, encoder_size
from trifocal.detection.labels import CATEGORY_BY_NAME, CATEGORY_BY_SYNONYM, THRESHOLD
from trifocal.errors import MissingExtra
from trifocal.grounding.grounder import Grounded, join
from trifocal.grounding.relevance import connected_boxes, relevance_map
from trifocal.text.categories import load_category_classifier
from trifocal.text.compact_onnx import load_compact_onnx
from trifocal.text.minilm import load_minilm

__all__ = ["CompactGrounder", "DetectorGrounder", "NamedCategories"]

NAMED = 0.5  # lowest probability that words name a category
RELEVANT = 0.5  # of a position: best precision and recall of boxes on held-out training images

NamedCategories = Mapping[str, Mapping[int, float]]
"""For each label or words the COCO ids of the categories that they name, each with its probability."""


def detect_compact(pixels: Pixels) -> Detections:
    """The objects that the bundled detector finds in an image, uint8 [H, W, 3]. Raises WeightsError."""
    return load_compact_detector().find(pixels)


class DetectorGrounder:
    """Finds labels of COCO and their synonyms, such as "bike"; other labels are never found.

    Args:
        detect: pixels → objects with COCO ids; by the bundled detector if None.
    """

    vocabulary: frozenset[str] | None = frozenset(CATEGORY_BY_NAME)

    def __init__(self, detect: Callable[[Pixels], Detections] | None = None) -> None:
        self.detect = detect or detect_compact

    def find(self, pixels: Pixels, labels: Sequence[str]) -> Grounded:
        """The objects of the labels with a score of at least `labels.THRESHOLD`."""
        known = [label for label in labels if label in CATEGORY_BY_SYNONYM]
        return self.locate(pixels, {label: {CATEGORY_BY_SYNONYM[label]: 1.0} for label in known})

    def locate(self, pixels: Pixels, named: NamedCategories) -> Grounded:
        """The objects of named categories. A score is the detector's times the category's probability."""
        if not named:
            return join([])
        objects = self.detect(pixels)
        rows = [
            (box, label, score * categories[category])
            for box, category, score in zip(objects.boxes, objects.labels.tolist(), objects.scores)
            if score >= THRESHOLD
            for label, categories in named.items()
            if category in categories
        ]
        boxes, labels, scores = zip(*rows) if rows else ((), (), ())
        return Grounded(
            np.array(boxes, np.float64).reshape(-1, 4), tuple(labels), np.array(scores, np.float64)
        )


class CompactGrounder:
    """Finds labels of COCO, and words as far as the bundled encoders place them.

    Words that name categories of COCO give the boxes of all their objects: "the red car" gives every car.
    Other words give boxes around the positions of the relevance map, which has about 16 × 16 positions.

    Args:
        detector: for labels and words that name categories.
        named_categories: the categories that words name; by MiniLM and `text/categories.py` if None.
    """

    vocabulary = DetectorGrounder.vocabulary

    def __init__(
        self,
        detector: DetectorGrounder | None = None,
        named_categories: Callable[[Sequence[str]], NamedCategories] | None = None,
    ) -> None:
        self.detector = detector or DetectorGrounder()
        self.named_categories = named_categories or categories_by_minilm

    def find(self, pixels: Pixels, labels: Sequence[str]) -> Grounded:
        """The objects, those of the detector first. Raises WeightsError."""
        named = {label: {CATEGORY_BY_SYNONYM[label]: 1.0} for label in labels if label in CATEGORY_BY_SYNONYM}
        words = [label for label in labels if label not in named]
        named |= {text: dict(found) for text, found in self.named_categories(words).items() if found}
        others = [text for text in words if text not in named]
        return join([self.detector.locate(pixels, named), *(find_relevant(pixels, text) for text in others)])


def find_relevant(pixels: Pixels, words: str) -> Grounded:
    """Boxes around the positions that words name, by the bundled encoders. Raises WeightsError."""
    height, width = pixels.shape[:2]
    p = relevance_map(pixels, load_compact_onnx()([words]), encoder_size(width, height))
    boxes, scores = connected_boxes(p, RELEVANT)
    cell = width / p.shape[1], height / p.shape[0]
    return Grounded(boxes * np.array([*cell, *cell]), (words,) * len(boxes), scores)


def categories_by_minilm(words: Sequence[str]) -> NamedCategories:
    """The categories that words name; none without the extra `text`. Raises WeightsError."""
    if not words:
        return {}
    try:
        encoder = load_minilm()
    except MissingExtra:
        return {}
    rows = load_category_classifier()(encoder(words))
    return {
        text: {COCO_IDS[place]: float(row[place]) for place in np.flatnonzero(row >= NAMED)}
        for text, row in zip(words, rows)
    }
