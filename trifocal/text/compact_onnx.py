"""The bundled text encoder and the grounding of its texts on ONNX Runtime, without torch."""

from __future__ import annotations

from collections.abc import Sequence
from functools import lru_cache
from typing import Any

import numpy as np
from numpy.typing import NDArray

from trifocal.graphs.session import Graphs
from trifocal.text.tokens import LENGTH, load_tokenizer, notices, token_ids
from trifocal.types import TextEmbedding
from trifocal.weights import WEIGHTS_FOLDER, read_arrays

__all__ = ["CompactOnnxTextEncoder", "load_compact_onnx", "load_graphs", "text_probability"]

Array = NDArray[Any]


class CompactOnnxTextEncoder:
    """The bundled text encoder on NumPy arrays; as `compact.CompactTextEncoder`."""

    name, length, width = "compact", LENGTH, 256

    def __init__(self) -> None:
        self.tokenizer, self.graphs = load_tokenizer(), load_graphs()

    def __call__(self, texts: Sequence[str]) -> TextEmbedding[Array]:
        """B texts → tokens [B, T, D], mask [B, T] and pooled [B, D]; texts are truncated to LENGTH tokens."""
        ids, mask = token_ids(self.tokenizer, texts)
        counts = mask.sum(1)
        pairs = [
            self.graphs.run("text", ids=own[None, :count], mask=there[None, :count])
            for own, there, count in zip(ids, mask, counts)
        ]
        tokens = np.zeros((*ids.shape, self.width), np.float32)
        for row, (own, _) in enumerate(pairs):
            tokens[row, : counts[row]] = own[0]
        return TextEmbedding(tokens, mask, np.concatenate([pooled for _, pooled in pairs]))

    def notices(self, texts: Sequence[str]) -> list[str]:
        """A sentence for each limitation that applies: truncation, and text unlike the training data."""
        return notices(self.tokenizer, texts)


@lru_cache(maxsize=1)
def load_graphs() -> Graphs:
    """The graphs of the text encoder and of grounding. Raises WeightsError if the weights are missing."""
    return Graphs("text", read_arrays(WEIGHTS_FOLDER / "towers.safetensors"))


@lru_cache(maxsize=1)
def load_compact_onnx() -> CompactOnnxTextEncoder:
    """The encoder with its trained weights. Raises WeightsError if they are missing or damaged."""
    return CompactOnnxTextEncoder()


def text_probability(x: NDArray[np.float32], text: TextEmbedding[Any]) -> NDArray[np.float32]:
    """The probability that a text names what a position shows, [1, H/16, W/16].

    Args:
        x: image, [1, 3, H, W] in 0..1, H and W multiples of 16.
        text: the embedding of one text, by the bundled text encoder.

    Raises:
        WeightsError: if the weights are missing or damaged.
    """
    p: NDArray[np.float32] = load_graphs().run("grounding", x=x, tokens=text.tokens, mask=text.mask)[0]
    return p
