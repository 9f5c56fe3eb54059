"""Text ⇄ its bytes in a file: UTF-8, deflated if that is shorter."""

import unicodedata
import zlib
from enum import IntEnum
from functools import cache
from pathlib import Path

from trifocal.errors import Damaged, OptionError, Unsupported

__all__ = ["MAX_TEXT", "RAW_DEFLATE", "dictionary", "normalise_text", "text_from_bytes", "text_to_bytes"]

MAX_TEXT = 1 << 16  # bytes of UTF-8
RAW_DEFLATE = -zlib.MAX_WBITS  # no zlib header and checksum; the layer has a checksum of its own


class TextEncoding(IntEnum):
    """The first byte of the layer: how the text is encoded."""

    PLAIN = 0
    DEFLATED = 1


def normalise_text(text: str) -> str:
    """Unicode form NFC, with runs of white space and control characters replaced by single spaces.

    Raises:
        OptionError: if the text has a lone surrogate, as from a terminal with another encoding.
    """
    spaced = "".join(" " if unicodedata.category(letter) == "Cc" else letter for letter in text)
    if any(unicodedata.category(letter) == "Cs" for letter in spaced):
        raise OptionError("The text is not valid Unicode; pass it as UTF-8.")
    return unicodedata.normalize("NFC", " ".join(spaced.split()))


def text_to_bytes(text: str) -> bytes:
    """Normalised text as the bytes of a TEXT layer.

    Raises:
        OptionError: if it has more than MAX_TEXT bytes of UTF-8, or is not valid Unicode.
    """
    plain = normalise_text(text).encode()
    if len(plain) > MAX_TEXT:
        raise OptionError(f"The text has {len(plain)} bytes, above the limit of {MAX_TEXT}; shorten it.")
    deflate = zlib.compressobj(9, wbits=RAW_DEFLATE, memLevel=9, zdict=dictionary())
    deflated = deflate.compress(plain) + deflate.flush()
    if len(deflated) < len(plain):
        return bytes([TextEncoding.DEFLATED]) + deflated
    return bytes([TextEncoding.PLAIN]) + plain


def text_from_bytes(data: bytes) -> str:
    """The inverse of `text_to_bytes`; never inflates to more than MAX_TEXT bytes.

    Raises:
        Damaged: if the bytes cannot be inflated, are too many, or are not UTF-8.
        Unsupported: if the encoding is unknown to this version.
    """
    if not data:
        raise Damaged("The text of this file is damaged: its layer is empty.")
    if data[0] not in tuple(TextEncoding):
        raise Unsupported(
            f"The text of this file has the unknown encoding number {data[0]};"
            " update Trifocal, or check that the file is not damaged."
        )
    plain = data[1:] if data[0] == TextEncoding.PLAIN else _inflate(data[1:])
    if len(plain) > MAX_TEXT:
        raise Damaged(f"The text of this file is damaged: it has more than {MAX_TEXT} bytes.")
    try:
        return plain.decode()
    except UnicodeDecodeError as error:
        raise Damaged("The text of this file is damaged: it is not UTF-8.") from error


def _inflate(data: bytes) -> bytes:
    """Inflate to at most MAX_TEXT + 1 bytes. Raises Damaged."""
    stream = zlib.decompressobj(wbits=RAW_DEFLATE, zdict=dictionary())
    try:
        plain = stream.decompress(data, MAX_TEXT + 1)
    except zlib.error as error:
        raise Damaged(f"The text of this file cannot be inflated: {error}.") from error
    if len(plain) <= MAX_TEXT and (not stream.eof or stream.unused_data):
        raise Damaged("The text of this file is damaged: its data ends too early or too late.")
    return plain


@cache
def dictionary() -> bytes:
    """The preset dictionary of deflated text; it is part of the format, so its bytes never change."""
    return Path(__file__).with_name("dictionary.txt").read_bytes()
