"""A text tower turns texts into vectors. There are two: CLIP's, through transformers, and the compact one that ships."""

from __future__ import annotations

from collections.abc import Sequence
from functools import lru_cache
from typing import Protocol

from trifocal.types import TextEmbedding


class TextEncoder(Protocol):
    """Texts → Words, frozen.

    `name` is what `load_text_encoder` takes; `width` is D, that of tokens and pooled vector; `length` is T at most: a text's
    tokens with its start and its end. Longer texts are cut, and an empty one is its start and end.
    """

    @property
    def name(self) -> str: ...

    @property
    def width(self) -> int: ...

    @property
    def length(self) -> int: ...

    def __call__(self, texts: Sequence[str]) -> TextEmbedding:
        """B texts, at least one → Words."""
        ...

    def notes(self, texts: Sequence[str]) -> list[str]:
        """Sentences on what the tower leaves out of these texts, or cannot make use of; each only once."""
        ...


@lru_cache(maxsize=4)
def load_text_encoder(name: str, device: str = "cpu") -> TextEncoder:
    """The tower of that name. The same object is returned for the same arguments.

    Args:
        name: "compact", or a name or folder for transformers' CLIP.
        device: where it computes.

    Raises:
        MissingExtra: if a package that it needs is not installed.
        WeightsError: if its weights are not to be had, or are damaged.
    """
    if name == "compact":
        from trifocal.text.compact import load_compact

        return load_compact(device)
    from trifocal.text.clip import ClipTextEncoder

    return ClipTextEncoder(name, device)
