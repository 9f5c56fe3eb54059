"""The tokenizer of the bundled text encoder: texts → token ids, and notices about texts it does not suit."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray

from trifocal.errors import WeightsError
from trifocal.text.byte_pairs import BytePairTokenizer
from trifocal.weights import WEIGHTS_FOLDER

__all__ = ["END", "LENGTH", "PAD", "START", "load_tokenizer", "notices", "token_ids"]

LENGTH = 64
PAD, START, END = "<pad>", "<start>", "<end>"
MAX_TOKENS_PER_LETTER = 0.5  # English captions need about 0.25, other scripts 1 or more
TOKENIZER = WEIGHTS_FOLDER / "tokenizer.json"


def token_ids(
    tokenizer: BytePairTokenizer, texts: Sequence[str]
) -> tuple[NDArray[np.int64], NDArray[np.bool_]]:
    """Token ids and mask [B, T] of START, text and END, truncated to LENGTH and padded to the longest."""
    start, end, pad = (tokenizer.token_to_id(token) for token in (START, END, PAD))
    rows = [[start, *tokenizer.ids(text)[: LENGTH - 2], end] for text in texts]
    longest = max(len(row) for row in rows)
    ids = np.array([row + [pad] * (longest - len(row)) for row in rows], np.int64)
    return ids, np.array([[True] * len(row) + [False] * (longest - len(row)) for row in rows])


def notices(tokenizer: BytePairTokenizer, texts: Sequence[str]) -> list[str]:
    """A sentence for each limitation that applies: truncation, and text unlike the training data."""
    found = []
    for text in texts:
        count = len(tokenizer.ids(text))
        if count > LENGTH - 2:
            found.append(f"The text has {count} tokens; only the first {LENGTH - 2} are used.")
        if count > MAX_TOKENS_PER_LETTER * len(text) + 4:
            found.append(
                "The bundled text encoder was trained on English captions and may not understand this text."
            )
    return list(dict.fromkeys(found))


def load_tokenizer() -> BytePairTokenizer:
    """The bundled tokenizer. Raises WeightsError if it is missing."""
    if not TOKENIZER.exists():
        raise WeightsError(
            f"The tokenizer {TOKENIZER.name} is missing from the installation; reinstall Trifocal."
        )
    return BytePairTokenizer(TOKENIZER.read_text("utf-8"))
