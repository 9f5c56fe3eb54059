"""A file in layers, taken apart and put together, and its base layer read alone. FORMAT.md says what a part is."""

import os
from dataclasses import replace
from pathlib import Path
from typing import BinaryIO
from zlib import crc32

from trifocal.container.bitstream import (
    CRC_BYTES,
    START_BYTES,
    Bitstream,
    Layer,
    Table,
    front_of,
    read_table,
    refuse_damaged,
)
from trifocal.container.fields import Header, Reader, Tag, read_header
from trifocal.errors import Damaged, MissingLayer, OptionError, Truncated

__all__ = ["HALVES", "mark_of", "merge", "read_base", "strip"]

# A part's name, and the layer that makes it this part.
HALVES = {"base": Tag.BASE, "enhancement": Tag.ENHANCEMENT}


def strip(stream: Bitstream, layers: str) -> Bitstream:
    """A part of a stream in layers, marked as such: "base" is its BASE layer alone, "enhancement" all the others.

    Raises:
        MissingLayer: if the stream has not both a BASE and an ENHANCEMENT layer.
        Damaged: if any of it is damaged.
        OptionError: for other names of parts.
    """
    if layers not in HALVES:
        raise OptionError(f'Strip leaves "base" or "enhancement", not {layers!r}.')
    for half, tag in HALVES.items():
        if stream.layer(tag) is None:
            raise MissingLayer(
                f"This file has no {half} layer, so there are no two parts to it; a preset in layers makes such files."
            )
    refuse_damaged(stream.layers, "This file")
    kept = tuple(layer for layer in stream.layers if (layer.tag == Tag.BASE) == (layers == "base"))
    return replace(stream, layers=(*kept, Layer(Tag.PART, (seal_of(stream),))))


def merge(one: Bitstream, other: Bitstream) -> Bitstream:
    """The stream that both are parts of, byte for byte; in either order.

    Raises:
        OptionError: if they are not the two parts of one stream.
        Damaged: if one of them is damaged, or was changed since it was stripped.
    """
    marks = {half_of(part): mark_of(part) for part in (one, other)}
    if len(marks) < 2:
        (half,) = marks
        raise OptionError(
            f"Both are {half} parts; merge takes a base part and the enhancement part of its file."
        )
    if marks["base"] != marks["enhancement"]:
        raise OptionError("The two are parts of different files; merge takes the two that came from one.")
    layers = tuple(layer for part in (one, other) for layer in part.layers if layer.tag != Tag.PART)
    refuse_damaged(layers, "One of the two parts")
    if len({layer.tag for layer in layers}) == len(layers) and one.header == other.header:
        whole = Bitstream(one.header, layers)
        if seal_of(whole) == marks["base"]:
            return whole
    raise Damaged(
        "One of the two parts was changed since it was stripped, so they do not fit together any more."
    )


def half_of(part: Bitstream) -> str:
    """Which of the HALVES. Raises OptionError where it is none."""
    halves = [half for half, tag in HALVES.items() if part.layer(tag) is not None]
    if len(halves) == 2:
        raise OptionError("One of the two is a whole file already; merge takes two parts of one.")
    if not halves or part.layer(Tag.PART) is None:
        raise OptionError(
            "One of the two is no part of a file; merge takes what `trifocal strip` makes of one."
        )
    return halves[0]


def mark_of(stream: Bitstream) -> bytes | None:
    """What parts of one file have in common, 4 bytes; None for a file that is no part. Raises Damaged."""
    layer = stream.layer(Tag.PART)
    if layer is None:
        return None
    mark = layer.chunks[0]
    if mark is None or len(mark) != CRC_BYTES:
        raise Damaged("This part of a file is damaged where it says of which file; strip that file again.")
    return mark


def seal_of(stream: Bitstream) -> bytes:
    """The CRC that ends the table of a stream in the long form: over the header, and the length and CRC of each chunk."""
    return front_of(stream)[-CRC_BYTES:]


def read_base(path: str | os.PathLike[str]) -> tuple[Bitstream, int]:
    """Header and BASE layer of a file, and how many of its first bytes hold them; what follows is not looked at.

    Raises:
        MissingLayer: if it has no BASE layer.
        FormatError: if what is read is damaged, cut short, or not of a .tri file; the sentence names the file.
        OSError: if it cannot be read.
    """
    name = Path(path).name
    with open(path, "rb") as stream:
        reader, header, table = _read_front(stream, name)
        if table and table[0][0] == Tag.BASE:  # nothing stands before it
            ((length, expected),) = table[0][1]
            end = reader.at + length
            return Bitstream(header, (_read_layer(stream, reader, end, length, expected),)), end
    raise MissingLayer(
        f"{name} has no base layer; if it was stripped of it, `trifocal merge` brings it back."
    )


def _read_front(stream: BinaryIO, name: str) -> tuple[Reader, Header, Table]:
    """Reads on until the table is whole. The short form has none."""
    data = stream.read(START_BYTES)
    while True:
        reader = Reader(data, name)
        try:
            header, short = read_header(reader)
            return reader, header, [] if short else read_table(reader)
        except Truncated:
            more = stream.read(len(data))
            if not more:
                raise
            data += more


def _read_layer(stream: BinaryIO, reader: Reader, end: int, length: int, expected: int) -> Layer:
    """The BASE layer whose `length` bytes end at `end`; takes twice the memory that the file justifies at most."""
    data = reader.data
    while len(data) < end and (more := stream.read(min(end, 2 * len(data)) - len(data))):
        data += more
    if len(data) < end:
        raise Truncated(f"{reader.name} is cut short: {end - len(data)} bytes of its base layer are missing.")
    chunk = data[end - length : end]
    if crc32(chunk) != expected:
        raise Damaged(f"{reader.name} is damaged in its BASE layer; nothing can be shown without its base.")
    return Layer(Tag.BASE, (chunk,))
