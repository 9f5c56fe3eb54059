"""The interface of the text encoders: CLIP and the bundled encoder."""

from __future__ import annotations

from collections.abc import Sequence
from functools import lru_cache
from typing import Protocol

from trifocal.errors import optional_packages
from trifocal.types import TextEmbedding


class TextEncoder(Protocol):
    """A frozen text encoder.

    Attributes:
        name: as for `load_text_encoder`.
        width: D, of token and pooled embeddings.
        length: maximum of T, with start and end tokens. Longer texts are truncated.
    """

    @property
    def name(self) -> str: ...

    @property
    def width(self) -> int: ...

    @property
    def length(self) -> int: ...

    def __call__(self, texts: Sequence[str]) -> TextEmbedding:
        """B texts, at least one → tokens [B, T, D], mask [B, T] and pooled [B, D]."""
        ...

    def notices(self, texts: Sequence[str]) -> list[str]:
        """A notice for each limitation that applies to these texts, such as truncation."""
        ...


@lru_cache(maxsize=4)
def load_text_encoder(name: str, device: str = "cpu") -> TextEncoder:
    """Load a text encoder; it is cached.

    Args:
        name: "compact", or the name or folder of a CLIP model for transformers.
        device: the torch device.

    Raises:
        MissingExtra: if a required package is not installed.
        WeightsError: if the weights are missing or damaged.
    """
    with optional_packages("text", "A text encoder on torch"):
        from trifocal.text.clip import ClipTextEncoder
        from trifocal.text.compact import load_compact
    if name == "compact":
        return load_compact(device)
    return ClipTextEncoder(name, device)
