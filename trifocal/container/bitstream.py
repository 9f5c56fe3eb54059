"""A .tri file as a header and layers of bytes; FORMAT.md specifies each byte."""

import os
from collections.abc import Sequence
from dataclasses import dataclass, replace
from itertools import pairwise
from pathlib import Path
from typing import IO, TypeAlias
from zlib import crc32

from trifocal.container.fields import (
    CODED_TAGS,
    FIRST_OPTIONAL_TAG,
    LAST_TAG,
    MAX_CHUNKS,
    MAX_LAYERS,
    TILED_TAGS,
    ByteReader,
    Header,
    Tag,
    read_header,
    show_header,
    varint,
    write_header,
)
from trifocal.errors import Damaged, OptionError, Truncated, Unsupported
from trifocal.utils.files import atomic_write

CRC_BYTES = 4
KNOWN_TAGS = frozenset(Tag)
START_BYTES = 4096  # read first, so that other files and invalid headers are refused early

LayerTable = list[tuple[int, list[tuple[int, int]]]]
"""For each layer its tag, and for each of its chunks the length in bytes and the CRC-32."""

FileInput: TypeAlias = "Bitstream | bytes | bytearray | memoryview | str | os.PathLike[str] | IO[bytes]"


@dataclass(frozen=True)
class Layer:
    """A tag and its chunks: one per tile in a tiled layer, else one. A damaged chunk is None.

    Raises:
        OptionError: if no file can have such a layer.
    """

    tag: Tag | int
    chunks: tuple[bytes | None, ...]

    def __post_init__(self) -> None:
        if not 1 <= self.tag <= LAST_TAG:
            raise OptionError(f"The tag of a layer must be 1 to {LAST_TAG}, not {self.tag}.")
        if not 1 <= len(self.chunks) <= MAX_CHUNKS:
            raise OptionError(f"A layer must have 1 to {MAX_CHUNKS} chunks, not {len(self.chunks)}.")
        if self.tag in KNOWN_TAGS:
            object.__setattr__(self, "tag", Tag(self.tag))
        if has_single_chunk(self.tag) and len(self.chunks) != 1:
            raise OptionError(f"The {self.name} layer must have one chunk, not {len(self.chunks)}.")

    @property
    def name(self) -> str:
        return self.tag.name if isinstance(self.tag, Tag) else f"layer {self.tag}"

    @property
    def size(self) -> int:
        """Total bytes of the chunks, without damaged ones."""
        return sum(len(chunk or b"") for chunk in self.chunks)

    @property
    def damaged(self) -> tuple[int, ...]:
        """Indices of the damaged chunks."""
        return tuple(number for number, chunk in enumerate(self.chunks) if chunk is None)


@dataclass(frozen=True)
class Bitstream:
    """One .tri file: a header, and layers sorted by their tags, one per tag.

    Raises:
        OptionError: if no file can have these layers together.
    """

    header: Header
    layers: tuple[Layer, ...]

    def __post_init__(self) -> None:
        tags = sorted(layer.tag for layer in self.layers)
        if len(set(tags)) < len(tags):
            raise OptionError("A Trifocal file has at most one layer of each tag.")
        if len(tags) > MAX_LAYERS:
            raise OptionError(f"A Trifocal file has at most {MAX_LAYERS} layers.")
        if conflict := tag_conflict(tags):
            raise OptionError(f"These layers make no Trifocal file: {conflict}.")
        object.__setattr__(self, "layers", tuple(sorted(self.layers, key=lambda layer: layer.tag)))

    def __repr__(self) -> str:
        header, names = self.header, " ".join(layer.name for layer in self.layers)
        return (
            f"<Bitstream {header.width}x{header.height}, {self.size:,} bytes, preset {header.preset_id}, "
            f"quality {header.quality:g}, {names}>"
        )

    @property
    def size(self) -> int:
        """Bytes of the whole file, without damaged chunks."""
        return len(preamble(self)) + sum(layer.size for layer in self.layers)

    @property
    def bpp(self) -> float:
        """Bits per pixel: the size of the whole file over the number of pixels."""
        return 8 * self.size / (self.header.width * self.header.height)

    def layer(self, tag: Tag | int) -> Layer | None:
        """The layer with that tag, or None."""
        return next((layer for layer in self.layers if layer.tag == tag), None)

    def with_layer(self, layer: Layer) -> "Bitstream":
        """A copy with `layer` added; it replaces a layer with the same tag."""
        others = tuple(other for other in self.layers if other.tag != layer.tag)
        return replace(self, layers=(*others, layer))

    def to_bytes(self) -> bytes:
        """The bytes of the file; there is exactly one encoding. Raises Damaged if a chunk is missing."""
        raise_if_damaged(self.layers, "This stream")
        return preamble(self) + b"".join(chunk or b"" for layer in self.layers for chunk in layer.chunks)

    def save(self, target: str | os.PathLike[str] | IO[bytes]) -> None:
        """Write the file to a path, atomically, or to a binary stream. Raises OSError, or Damaged if a chunk
        is missing.
        """
        data = self.to_bytes()
        if isinstance(target, str | os.PathLike):
            with atomic_write(target) as stream:
                stream.write(data)
        else:
            target.write(data)

    @classmethod
    def open(cls, source: str | os.PathLike[str] | IO[bytes], best_effort: bool = False) -> "Bitstream":
        """Read a file from a path or a binary stream; see from_bytes.

        Raises FormatError with a message that names the file, OSError, and OptionError for a stream of text.
        """
        if isinstance(source, str | os.PathLike):
            with open(source, "rb") as file:
                return cls._read(file, best_effort, Path(source).name)
        name = getattr(source, "name", None)
        return cls._read(source, best_effort, Path(name).name if isinstance(name, str) else "This file")

    @classmethod
    def _read(cls, stream: IO[bytes], best_effort: bool, name: str) -> "Bitstream":
        start = stream.read(START_BYTES)
        if not isinstance(start, bytes):
            raise OptionError(f'{name} must be read as a binary stream; open it with mode "rb".')
        if len(start) == START_BYTES:
            read_header(ByteReader(start, name))  # refuses other files before the rest is read
        return cls.from_bytes(start + stream.read(), best_effort, name)

    @classmethod
    def from_bytes(
        cls, data: bytes | bytearray | memoryview, best_effort: bool = False, name: str = "This file"
    ) -> "Bitstream":
        """Read a file from memory and check every byte; only what `to_bytes` writes is accepted.

        Args:
            data: the whole file.
            best_effort: replace damaged and missing chunks with None, if the header and the table of layers
                are intact.
            name: the name of the file; error messages begin with it.

        Raises:
            FormatError: NotTrifocal, Truncated, Damaged or Unsupported.
        """
        reader = ByteReader(bytes(data), name)
        header, short = read_header(reader)
        layers = _read_short(reader) if short else _read_long(reader, best_effort)
        if not best_effort:
            raise_if_damaged(layers, name)
        return cls(header, layers)


def as_bitstream(source: FileInput, best_effort: bool = False) -> Bitstream:
    """Read a .tri file from a path, bytes or a binary stream. Raises FormatError, OSError, and OptionError
    for other types.
    """
    if isinstance(source, Bitstream):
        return source
    if isinstance(source, bytes | bytearray | memoryview):
        return Bitstream.from_bytes(source, best_effort)
    if isinstance(source, str | os.PathLike) or callable(getattr(source, "read", None)):
        return Bitstream.open(source, best_effort)
    raise OptionError(
        f"A .tri file cannot be of the type {type(source).__name__}; give a path, its bytes, a binary "
        "stream or a Bitstream."
    )


def preamble(stream: Bitstream) -> bytes:
    """All bytes before the first chunk: the header, and the table of layers or the checksum."""
    only = stream.layers[0]
    if uses_short_form(only.tag, len(stream.layers), len(only.chunks)):
        head = write_header(stream.header, short=True)
        return head + crc32(only.chunks[0] or b"", crc32(head)).to_bytes(CRC_BYTES, "big")
    front = write_header(stream.header, short=False) + varint(len(stream.layers))
    front += b"".join(_table_entry(layer) for layer in stream.layers)
    return front + crc32(front).to_bytes(CRC_BYTES, "big")


def has_single_chunk(tag: int) -> bool:
    """Whether layers with this tag have exactly one chunk: all known tags except the tiled ones."""
    return tag in KNOWN_TAGS and tag not in TILED_TAGS


def tag_conflict(tags: Sequence[int]) -> str | None:
    """Why a file cannot have layers with these tags, as the end of a sentence; None if it can."""
    coded = {*tags} & {*CODED_TAGS}
    if not coded:
        return "it has no LATENT, BASE or ENHANCEMENT layer"
    if Tag.LATENT in coded and len(coded) > 1:
        return "it has a LATENT layer together with BASE or ENHANCEMENT"
    if Tag.PART in tags and coded not in ({Tag.BASE}, {Tag.ENHANCEMENT}):
        return "it has the PART layer of a split file, but is not one of its two parts"
    return None


def uses_short_form(first_tag: int, layers: int, chunks: int) -> bool:
    """Whether a file is written in the short form: a single LATENT layer with a single chunk."""
    return first_tag == Tag.LATENT and layers == 1 and chunks == 1


def _table_entry(layer: Layer) -> bytes:
    rows = (
        varint(len(chunk or b"")) + crc32(chunk or b"").to_bytes(CRC_BYTES, "big") for chunk in layer.chunks
    )
    return bytes([layer.tag]) + varint(len(layer.chunks)) + b"".join(rows)


def _read_short(reader: ByteReader) -> tuple[Layer, ...]:
    head = reader.data[: reader.at]
    expected = reader.number(CRC_BYTES)
    chunk = reader.take(reader.left)
    return (Layer(Tag.LATENT, (chunk if crc32(chunk, crc32(head)) == expected else None,)),)


def _read_long(reader: ByteReader, best_effort: bool) -> tuple[Layer, ...]:
    table = read_table(reader)
    size = sum(length for _, rows in table for length, _ in rows)
    if not best_effort and reader.left < size:
        raise Truncated(
            f"{reader.name} is cut short: {size - reader.left} of its {reader.at + size} bytes are missing;"
            " --best-effort (best_effort=True in Python) decodes the rest."
        )
    if not best_effort and reader.left > size:
        raise Damaged(f"{reader.name} is damaged: {reader.left - size} bytes follow its end.")
    return tuple(Layer(tag, tuple(_read_chunk(reader, *row) for row in rows)) for tag, rows in table)


def read_table(reader: ByteReader) -> LayerTable:
    """The table of layers. Raises FormatError if its checksum or its content is invalid."""
    layer_count = _count(reader, MAX_LAYERS, "layers", min_bytes=7)
    table = [_read_rows(reader) for _ in range(layer_count)]
    end = reader.at
    if reader.number(CRC_BYTES) != crc32(reader.data[:end]):
        raise Damaged(f"{reader.name} is damaged: its header or table of layers does not match its checksum.")
    _check_tags([tag for tag, _ in table], reader.name)
    if uses_short_form(table[0][0], len(table), len(table[0][1])):
        raise Damaged(f"{reader.name} is malformed: a single LATENT chunk must be in the short form.")
    for tag, rows in table:
        if has_single_chunk(tag) and len(rows) != 1:
            raise Damaged(f"{reader.name} is malformed: its {Tag(tag).name} layer has more than one chunk.")
        if tag == Tag.PART and rows[0][0] != CRC_BYTES:
            raise Damaged(f"{reader.name} is malformed: its PART layer does not have {CRC_BYTES} bytes.")
    return table


def _read_rows(reader: ByteReader) -> tuple[int, list[tuple[int, int]]]:
    tag = reader.number(1)
    chunk_count = _count(reader, MAX_CHUNKS, "chunks", min_bytes=1 + CRC_BYTES)
    return tag, [(reader.varint(), reader.number(CRC_BYTES)) for _ in range(chunk_count)]


def _count(reader: ByteReader, maximum: int, what: str, min_bytes: int) -> int:
    """The number of entries that follow. Raises FormatError if the rest of the file is too short for them."""
    count = reader.varint()
    if not 1 <= count <= maximum:
        raise Damaged(
            f"{reader.name} is damaged: it claims {count} {what}, but only 1 to {maximum} are allowed."
        )
    if count * min_bytes > reader.left:
        raise Truncated(f"{reader.name} is cut short or damaged: it ends within its table of {count} {what}.")
    return count


def _check_tags(tags: Sequence[int], name: str) -> None:
    if any(later <= earlier for earlier, later in pairwise(tags)) or min(tags) < 1:
        raise Damaged(f"{name} is malformed: its layers are not in the order of their tags.")
    unknown = [tag for tag in tags if tag not in KNOWN_TAGS and tag < FIRST_OPTIONAL_TAG]
    if unknown:
        raise Unsupported(
            f"{name} needs a newer version of Trifocal: it has a required layer with the unknown tag"
            f" {unknown[0]}."
        )
    if conflict := tag_conflict(tags):
        raise Damaged(f"{name} is malformed: {conflict}.")


def _read_chunk(reader: ByteReader, length: int, expected: int) -> bytes | None:
    if length > reader.left:
        reader.take(reader.left)
        return None
    chunk = reader.take(length)
    return chunk if crc32(chunk) == expected else None


def raise_if_damaged(layers: Sequence[Layer], name: str) -> None:
    """Raises Damaged, with the numbers of the lost tiles, if a chunk is None."""
    damaged = [layer for layer in layers if layer.damaged]
    if not damaged:
        return
    if len(layers) == 1 and len(layers[0].chunks) == 1:
        tiles = (0,) if layers[0].tag in TILED_TAGS else ()
        raise Damaged(f"{name} is damaged or cut short: its bytes do not match their checksum.", tiles)
    lost = {number for layer in damaged if layer.tag in TILED_TAGS for number in layer.damaged}
    parts = " and ".join(_describe_damage(layer) for layer in damaged)
    base = any(layer.tag == Tag.BASE for layer in damaged)
    advice = (
        "it cannot be decoded without its base layer"
        if base
        else "--best-effort (best_effort=True in Python) decodes the rest"
    )
    raise Damaged(f"{name} is damaged in {parts}; {advice}.", tuple(sorted(lost)))


def _describe_damage(layer: Layer) -> str:
    name = f"its {layer.name}" + (" layer" if isinstance(layer.tag, Tag) else "")
    if len(layer.chunks) == 1:
        return name
    part = "tile" if layer.tag in TILED_TAGS else "part"
    numbers = ", ".join(map(str, layer.damaged[:20])) + (", ..." if len(layer.damaged) > 20 else "")
    return f"{name} ({part}{'s' if len(layer.damaged) > 1 else ''} {numbers} of {len(layer.chunks)})"


def describe(stream: Bitstream) -> dict[str, object]:
    """What `trifocal info` prints, as JSON values: the header, sizes in bytes, and one entry per layer."""
    header = stream.header
    rows = [
        {"tag": int(layer.tag), "name": layer.name, "chunks": len(layer.chunks), "bytes": layer.size}
        | ({"damaged": list(layer.damaged)} if layer.damaged else {})
        for layer in stream.layers
    ]
    return show_header(header) | {
        "quality": header.quality,
        "bytes": stream.size,
        "overhead": stream.size - sum(layer.size for layer in stream.layers),
        "bits per pixel": stream.bpp,
        "layers": rows,
    }
