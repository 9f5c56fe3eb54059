"""The TEXT layer of a file."""

from trifocal.container.bitstream import Bitstream, Layer
from trifocal.container.fields import Tag
from trifocal.container.text_encoding import (
    MAX_TEXT,
    RAW_DEFLATE,
    dictionary,
    normalise_text,
    text_from_bytes,
    text_to_bytes,
)
from trifocal.errors import Damaged

__all__ = [
    "MAX_TEXT",
    "RAW_DEFLATE",
    "dictionary",
    "embedded_text",
    "normalise_text",
    "text_from_bytes",
    "text_layer",
    "text_to_bytes",
]


def text_layer(text: str) -> Layer:
    """A TEXT layer. Raises OptionError; see `text_to_bytes`."""
    return Layer(Tag.TEXT, (text_to_bytes(text),))


def embedded_text(stream: Bitstream) -> str | None:
    """The text in a file, or None if it has no TEXT layer. Raises Damaged or Unsupported."""
    layer = stream.layer(Tag.TEXT)
    if layer is None:
        return None
    if layer.chunks[0] is None:
        raise Damaged("The text of this file does not match its checksum.")
    return text_from_bytes(layer.chunks[0])
