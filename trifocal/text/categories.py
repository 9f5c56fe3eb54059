"""Which of COCO's 80 categories a text names, by a small classifier on the token vectors of MiniLM.

    tokens ── normalise ── hidden ── ReLU ── output ── logits of each token ── log-sum-exp ── of the text

`trifocal/training/tasks/text_categories.py` has the training; `trifocal/weights/categories.json` records its
data and results. Words that the training texts lack are understood as far as MiniLM places them near words
that they have.
"""

from __future__ import annotations

from functools import lru_cache
from typing import Any

import numpy as np
from numpy.typing import NDArray

from trifocal.types import Arrays, TextEmbedding
from trifocal.weights import WEIGHTS_FOLDER, check_arrays, read_arrays

__all__ = [
    "CATEGORIES",
    "EPSILON",
    "HIDDEN",
    "WEIGHTS",
    "WIDTH",
    "CategoryClassifier",
    "load_category_classifier",
]

Array = NDArray[Any]
WIDTH, HIDDEN, CATEGORIES = 384, 128, 80  # of MiniLM's token vectors, of the hidden layer, of the output
EPSILON = 1e-5  # added to the variance of a token vector
WEIGHTS = WEIGHTS_FOLDER / "categories.safetensors"
SHAPES = {
    "hidden.weight": ("f", [HIDDEN, WIDTH]),
    "hidden.bias": ("f", [HIDDEN]),
    "output.weight": ("f", [CATEGORIES, HIDDEN]),
    "output.bias": ("f", [CATEGORIES]),
}


class CategoryClassifier:
    """Token vectors of texts → the probability that each text names each category.

    Args:
        weights: "hidden" and "output", a weight and a bias each.
    """

    def __init__(self, weights: Arrays) -> None:
        self.weights = weights

    def __call__(self, embedding: TextEmbedding[Array]) -> NDArray[np.float32]:
        """Token vectors [B, T, 384] of B texts → probabilities [B, 80], in the order of COCO's ids."""
        w, x = self.weights, embedding.tokens
        x = (x - x.mean(-1, keepdims=True)) / np.sqrt(x.var(-1, keepdims=True) + EPSILON)
        hidden = np.maximum(x @ w["hidden.weight"].T + w["hidden.bias"], 0)
        logits = hidden @ w["output.weight"].T + w["output.bias"]
        logits[~embedding.mask] = -np.inf
        found: NDArray[np.float32] = 1 / (1 + np.exp(-np.logaddexp.reduce(logits, axis=1)))
        return found


@lru_cache(maxsize=1)
def load_category_classifier() -> CategoryClassifier:
    """The classifier with its trained weights. Raises WeightsError if they are missing or damaged."""
    weights = read_arrays(WEIGHTS)
    check_arrays(weights, SHAPES, WEIGHTS.name)
    return CategoryClassifier(weights)
