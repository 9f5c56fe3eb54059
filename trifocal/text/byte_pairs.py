"""Byte pair encoding of text, as the bundled tokenizer.json defines it, without the package tokenizers."""

from __future__ import annotations

import json
import re
import unicodedata
from collections.abc import Iterator
from functools import lru_cache
from itertools import pairwise

__all__ = ["BytePairTokenizer"]

CONTRACTION = re.compile("'(?:s|t|re|ve|m|ll|d)")
RUN = re.compile(r" ?a+| ?0+| ?\.+|[ _]+(?![^ _])|[ _]+")  # of the classes that `character_class` returns
SEPARATORS = "\x1c\x1d\x1e\x1f"  # white space to Python, but not to Unicode


class BytePairTokenizer:
    """Lower-case byte pair encoding of NFKC text (Sennrich et al. 2016, "Neural machine translation of rare
    words with subword units"), on words as GPT-2 splits them. Every byte is a token, so no text is unknown.

    Args:
        definition: a tokenizer.json with this model, as `train_tokenizer` returns it.
    """

    def __init__(self, definition: str) -> None:
        self.definition = definition
        model = json.loads(definition)
        self._ids: dict[str, int] = model["model"]["vocab"]
        self._ranks = {tuple(pair): rank for rank, pair in enumerate(model["model"]["merges"])}
        special = [re.escape(token["content"]) for token in model["added_tokens"]]
        self._special = re.compile(f"({'|'.join(special)})")

    def __len__(self) -> int:
        """The number of tokens in the vocabulary."""
        return len(self._ids)

    def token_to_id(self, token: str) -> int:
        return self._ids[token]

    def ids(self, text: str) -> list[int]:
        """The token ids of a text. A special token that the text contains, such as <pad>, is one id."""
        found: list[int] = []
        for index, part in enumerate(self._special.split(text)):
            found += [self._ids[part]] if index % 2 else self._ordinary_ids(part)
        return found

    def _ordinary_ids(self, text: str) -> list[int]:
        text = "".join(character.lower() for character in unicodedata.normalize("NFKC", text))
        if not text:
            return []
        letters = byte_letters()
        words = split_words(text if text.startswith(" ") else f" {text}")
        spelled = ("".join(letters[byte] for byte in word.encode()) for word in words)
        return [self._ids[token] for word in spelled for token in self._merged(word)]

    def _merged(self, word: str) -> list[str]:
        """The tokens of a word: the pair that was merged first in training is merged first."""
        tokens = list(word)
        while known := [pair for pair in pairwise(tokens) if pair in self._ranks]:
            tokens = merge(tokens, min(known, key=self._ranks.__getitem__))
        return tokens


def merge(tokens: list[str], pair: tuple[str, str]) -> list[str]:
    """Every occurrence of a pair as one token, from left to right."""
    merged: list[str] = []
    for token in tokens:
        if merged and (merged[-1], token) == pair:
            merged[-1] += token
        else:
            merged.append(token)
    return merged


def split_words(text: str) -> Iterator[str]:
    """Contractions, and runs of letters, of digits, of other characters and of white space. A run other than
    white space includes one space before it.
    """
    classes = "".join(map(character_class, text))
    at = 0
    while at < len(text):
        match = CONTRACTION.match(text, at) or RUN.match(classes, at)
        assert match is not None  # every class is in RUN
        yield text[at : match.end()]
        at = match.end()


def character_class(character: str) -> str:
    """A letter is "a", a digit "0", a space " ", other white space "_", and the rest "."."""
    if character == " ":
        return " "
    if character.isspace() and character not in SEPARATORS:
        return "_"
    return {"L": "a", "N": "0"}.get(unicodedata.category(character)[0], ".")


@lru_cache(maxsize=1)
def byte_letters() -> list[str]:
    """A printable character for each byte: itself where it is printable Latin-1, else the next one from 256
    on, as GPT-2 assigns them.
    """
    printable = {*range(33, 127), *range(161, 173), *range(174, 256)}
    others = iter(range(256, 512))
    return [chr(byte if byte in printable else next(others)) for byte in range(256)]
