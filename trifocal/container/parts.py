"""Split a scalable file into parts, merge them, or read the base layer alone."""

import os
from collections.abc import Collection
from dataclasses import replace
from pathlib import Path
from typing import BinaryIO
from zlib import crc32

from trifocal.container.bitstream import (
    START_BYTES,
    Bitstream,
    preamble,
    raise_if_damaged,
)
from trifocal.container.fields import ByteReader, Header, Tag, read_header
from trifocal.container.table import CRC_BYTES, Layer, LayerTable, Row, read_table
from trifocal.errors import Damaged, MissingLayer, OptionError, Truncated

__all__ = ["PART_TAGS", "merge", "part_id", "read_base", "strip", "without"]

# Name of a part, and the coded layer that it holds.
PART_TAGS = {"base": Tag.BASE, "enhancement": Tag.ENHANCEMENT}


def strip(stream: Bitstream, layers: str) -> Bitstream:
    """One part of a scalable stream: with a PART layer, or a partial file if it has components.

    Args:
        stream: with a BASE and an ENHANCEMENT layer.
        layers: "base" keeps the BASE layer alone; "enhancement" keeps all other layers.

    Raises:
        MissingLayer: if the stream lacks a BASE or an ENHANCEMENT layer.
        Damaged: if a layer is damaged.
        OptionError: for any other value of `layers`.
    """
    if layers not in PART_TAGS:
        raise OptionError(f'The part to keep must be "base" or "enhancement", not {layers!r}.')
    for part, tag in PART_TAGS.items():
        if stream.layer(tag) is None:
            raise MissingLayer(
                f"This file has no {part} layer, so it cannot be split; encode it with a scalable preset."
            )
    if stream.components:
        return stream.keep(lambda tag, _: tag == Tag.COMPONENTS or (tag == Tag.BASE) == (layers == "base"))
    raise_if_damaged(stream.layers, "This file")
    kept = tuple(layer for layer in stream.layers if (layer.tag == Tag.BASE) == (layers == "base"))
    return replace(stream, layers=(*kept, Layer(Tag.PART, (table_crc(stream),))))


def without(stream: Bitstream, components: str | Collection[str]) -> Bitstream:
    """What `stream.only(components)` leaves out, as a partial file: the other components and the rest, but
    not the base layer, the side information and the metadata. Raises as `Bitstream.only`.
    """
    kept = {layer.tag: layer.absent for layer in stream.only(components).layers}
    return stream.keep(lambda tag, index: tag == Tag.COMPONENTS or index in kept[tag])


def merge(*parts: Bitstream) -> Bitstream:
    """The original stream from its parts, in any order, byte for byte.

    Files with components may be in any number of parts, which may overlap; if chunks are still absent, the
    result is a partial file. Other files have two parts. A base layer that was encoded alone takes the place
    of the base part of a file that was encoded with the same options.

    Raises:
        OptionError: if they are not the parts of one stream.
        Damaged: if a part is damaged, or was changed after `strip`.
    """
    if len(parts) < 2:
        raise OptionError("merge needs two or more parts of a file.")
    if any(part.components for part in parts):
        return _merge_chunks(parts)
    if len(parts) > 2:
        raise OptionError("A file without components has two parts; merge its base and enhancement parts.")
    return _merge_layers(*parts)


def _merge_chunks(parts: Collection[Bitstream]) -> Bitstream:
    first, *others = parts
    for part in parts:
        raise_if_damaged(part.layers, "One of the parts")
    if any(_whole_table(part) != _whole_table(first) for part in others):
        raise OptionError("The files are parts of different files; merge needs parts of the same file.")
    merged = (_merge_layer(same) for same in zip(*(part.layers for part in parts), strict=True))
    return replace(first, layers=tuple(merged))


def _whole_table(part: Bitstream) -> tuple[Header, list[tuple[int, list[tuple[int, int]]]]]:
    """The header, and the table of the whole file."""
    return part.header, [(layer.tag, [row[:2] for row in layer.rows]) for layer in part.layers]


def _merge_layer(layers: Collection[Layer]) -> Layer:
    """One layer with the chunks of all."""
    chunks = tuple(
        next((chunk for chunk in same if chunk is not None), None)
        for same in zip(*(layer.chunks for layer in layers), strict=True)
    )
    first = next(iter(layers))
    absent = {index: row for index, row in first.absent.items() if chunks[index] is None}
    return Layer(first.tag, chunks, absent)


def _merge_layers(one: Bitstream, other: Bitstream) -> Bitstream:
    ids = {part_name(part): part_id(part) for part in (one, other)}
    if len(ids) < 2:
        (name,) = ids
        raise OptionError(
            f"Both files are {name} parts; merge needs the base part and the enhancement part of one file."
        )
    if ids["base"] not in (None, ids["enhancement"]):
        raise OptionError(
            "The two files are parts of different files; merge needs two parts of the same file."
        )
    layers = tuple(layer for part in (one, other) for layer in part.layers if layer.tag != Tag.PART)
    raise_if_damaged(layers, "One of the two parts")
    if len({layer.tag for layer in layers}) == len(layers) and one.header == other.header:
        whole = Bitstream(one.header, layers)
        if table_crc(whole) == ids["enhancement"]:
            return whole
    if ids["base"] is None:
        raise OptionError(
            "The base layer and the enhancement part are of different files; encode the base layer with the "
            "same options."
        )
    raise Damaged("One of the two parts was changed after `trifocal strip`; strip the original file again.")


def part_name(part: Bitstream) -> str:
    """The part's key in PART_TAGS. Raises OptionError if `part` is not a part of a file."""
    names = [name for name, tag in PART_TAGS.items() if part.layer(tag) is not None]
    if len(names) == 2:
        raise OptionError("One of the two is a complete file already; merge needs the two parts of one file.")
    if names != ["base"] and part.layer(Tag.PART) is None:
        raise OptionError(
            "One of the two is not a part of a file; merge needs the output of `trifocal strip`."
        )
    return names[0]


def part_id(stream: Bitstream) -> bytes | None:
    """4 bytes that identify the file that a part comes from; None if the stream is no part.

    Raises Damaged.
    """
    layer = stream.layer(Tag.PART)
    if layer is None:
        return None
    chunk = layer.chunks[0]
    if chunk is None or len(chunk) != CRC_BYTES:
        raise Damaged("The PART layer of this file is damaged; strip the original file again.")
    return chunk


def table_crc(stream: Bitstream) -> bytes:
    """The CRC-32 of the long form's header and table of layers, 4 bytes."""
    return preamble(stream)[-CRC_BYTES:]


def read_base(path: str | os.PathLike[str]) -> tuple[Bitstream, int]:
    """Read the header and the BASE layer of a file, without loading the layers after it.

    Returns:
        A stream with the BASE layer alone, and the offset in the file at which that layer ends, in bytes.

    Raises:
        MissingLayer: if the file has no BASE layer.
        FormatError: if those bytes are damaged, cut short, or not of a .tri file; the message names the file.
        OSError: if the file cannot be read.
    """
    name = Path(path).name
    with open(path, "rb") as stream:
        reader, header, table = _read_table(stream, name)
        if table and table[0][0] == Tag.BASE and table[0][1][0].present:  # always the first layer
            (row,) = table[0][1]
            end = reader.at + row.length
            return Bitstream(header, (_read_layer(stream, reader, end, row),)), end
    raise MissingLayer(
        f"{name} has no base layer; if it was removed by `trifocal strip`, restore it with `trifocal merge`."
    )


def _read_table(stream: BinaryIO, name: str) -> tuple[ByteReader, Header, LayerTable]:
    """Read until the table of layers is complete; it is empty for the short form."""
    data = stream.read(START_BYTES)
    while True:
        reader = ByteReader(data, name)
        try:
            header, short, partial = read_header(reader)
            return reader, header, [] if short else read_table(reader, partial)
        except Truncated:
            more = stream.read(len(data))
            if not more:
                raise
            data += more


def _read_layer(stream: BinaryIO, reader: ByteReader, end: int, row: Row) -> Layer:
    """The BASE layer whose bytes end at `end`; memory is at most twice the size of the file."""
    data = reader.data
    while len(data) < end and (more := stream.read(min(end, 2 * len(data)) - len(data))):
        data += more
    if len(data) < end:
        raise Truncated(f"{reader.name} is cut short: {end - len(data)} bytes of its base layer are missing.")
    chunk = data[end - row.length : end]
    if crc32(chunk) != row.crc:
        raise Damaged(
            f"{reader.name} is damaged in its BASE layer; it cannot be decoded without its base layer."
        )
    return Layer(Tag.BASE, (chunk,))
