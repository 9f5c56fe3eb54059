"""Words ⇄ the bytes of a TEXT layer: deflated against a dictionary of captions, where that is shorter than their letters."""

import unicodedata
import zlib
from enum import IntEnum
from functools import cache
from pathlib import Path

from trifocal.container.bitstream import Bitstream, Layer
from trifocal.container.fields import Tag
from trifocal.errors import Damaged, OptionError, Unsupported

__all__ = ["MAX_TEXT", "text_from_bytes", "text_layer", "text_of", "text_to_bytes", "tidy"]

MAX_TEXT = 1 << 16  # bytes of UTF-8
RAW_DEFLATE = -zlib.MAX_WBITS  # without zlib's header and check sum, as the layer has its own


class Kind(IntEnum):
    """The first byte of the layer: how the rest of it is written."""

    PLAIN = 0
    DEFLATED = 1


def text_layer(text: str) -> Layer:
    """The layer that carries a text. Raises OptionError as `text_to_bytes` does."""
    return Layer(Tag.TEXT, (text_to_bytes(text),))


def text_of(stream: Bitstream) -> str | None:
    """The text that a file carries; None where it carries none. Raises Damaged and Unsupported."""
    layer = stream.layer(Tag.TEXT)
    if layer is None:
        return None
    if layer.chunks[0] is None:
        raise Damaged("The words of this file do not match their check sum.")
    return text_from_bytes(layer.chunks[0])


def tidy(text: str) -> str:
    """As it is written: Unicode's form NFC, and one space where there were spaces, line ends or control characters.

    Raises:
        OptionError: if it is not Unicode (half of a surrogate pair, as from a terminal with another encoding).
    """
    spaced = "".join(" " if unicodedata.category(letter) == "Cc" else letter for letter in text)
    if any(unicodedata.category(letter) == "Cs" for letter in spaced):
        raise OptionError("The words are not valid Unicode; write them as UTF-8.")
    return unicodedata.normalize("NFC", " ".join(spaced.split()))


def text_to_bytes(text: str) -> bytes:
    """A text, made tidy, as the bytes of a TEXT layer.

    Raises:
        OptionError: for more than MAX_TEXT bytes of UTF-8, or what is not Unicode.
    """
    plain = tidy(text).encode()
    if len(plain) > MAX_TEXT:
        raise OptionError(f"Words of {len(plain)} bytes are above the limit of {MAX_TEXT}; shorten them.")
    deflate = zlib.compressobj(9, wbits=RAW_DEFLATE, memLevel=9, zdict=dictionary())
    deflated = deflate.compress(plain) + deflate.flush()
    if len(deflated) < len(plain):
        return bytes([Kind.DEFLATED]) + deflated
    return bytes([Kind.PLAIN]) + plain


def text_from_bytes(data: bytes) -> str:
    """The inverse; never inflates to more than MAX_TEXT bytes.

    Raises:
        Damaged: if the bytes cannot be unpacked, are too many, or are not UTF-8.
        Unsupported: if they are written in a way that this version does not know.
    """
    if not data:
        raise Damaged("The words of this file are damaged: their layer is empty.")
    if data[0] not in tuple(Kind):
        raise Unsupported(
            f"The words of this file are written in a way (number {data[0]}) that this version does not know;"
            " update Trifocal, unless the file is damaged."
        )
    plain = data[1:] if data[0] == Kind.PLAIN else _inflate(data[1:])
    if len(plain) > MAX_TEXT:
        raise Damaged(f"The words of this file are damaged: they have more than {MAX_TEXT} bytes.")
    try:
        return plain.decode()
    except UnicodeDecodeError as error:
        raise Damaged("The words of this file are damaged: they are not UTF-8.") from error


def _inflate(data: bytes) -> bytes:
    """At most MAX_TEXT + 1 bytes."""
    stream = zlib.decompressobj(wbits=RAW_DEFLATE, zdict=dictionary())
    try:
        plain = stream.decompress(data, MAX_TEXT + 1)
    except zlib.error as error:
        raise Damaged(f"The words of this file cannot be unpacked: {error}.") from error
    if len(plain) <= MAX_TEXT and (not stream.eof or stream.unused_data):
        raise Damaged("The words of this file are damaged: they do not end where they should.")
    return plain


@cache
def dictionary() -> bytes:
    """What a deflated text may refer back to; part of the format, so its bytes never change."""
    return Path(__file__).with_name("dictionary.txt").read_bytes()
