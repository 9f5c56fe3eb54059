"""A header and layers of bytes, as a file. FORMAT.md says what each byte means and why."""

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
    Header,
    Reader,
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
START_BYTES = 4096  # enough to refuse a foreign file or an absurd header before the rest is read

Table = list[
    tuple[int, list[tuple[int, int]]]
]  # of layers: the tag, and for each chunk its length and CRC-32

FileInput: TypeAlias = "Bitstream | bytes | bytearray | memoryview | str | os.PathLike[str] | IO[bytes]"


@dataclass(frozen=True)
class Layer:
    """A tag and its chunks. A layer in tiles has one chunk per tile; None is a chunk whose bytes are damaged."""

    tag: Tag | int
    chunks: tuple[bytes | None, ...]

    def __post_init__(self) -> None:
        if not 1 <= self.tag <= LAST_TAG:
            raise OptionError(f"A layer's tag is 1 to {LAST_TAG}, not {self.tag}.")
        if not 1 <= len(self.chunks) <= MAX_CHUNKS:
            raise OptionError(f"A layer has 1 to {MAX_CHUNKS} chunks, not {len(self.chunks)}.")
        if self.tag in KNOWN_TAGS:
            object.__setattr__(self, "tag", Tag(self.tag))
        if is_single(self.tag) and len(self.chunks) != 1:
            raise OptionError(f"The {self.name} layer has one chunk, not {len(self.chunks)}.")

    @property
    def name(self) -> str:
        return self.tag.name if isinstance(self.tag, Tag) else f"layer {self.tag}"

    @property
    def size(self) -> int:
        """Bytes of its chunks, those that are damaged not counted."""
        return sum(len(chunk or b"") for chunk in self.chunks)

    @property
    def damaged(self) -> tuple[int, ...]:
        """Numbers of the chunks that are damaged."""
        return tuple(number for number, chunk in enumerate(self.chunks) if chunk is None)


@dataclass(frozen=True)
class Bitstream:
    """One .tri file. Layers are kept in the order of their tags, one per tag. Raises OptionError for layers that no file has."""

    header: Header
    layers: tuple[Layer, ...]

    def __post_init__(self) -> None:
        tags = sorted(layer.tag for layer in self.layers)
        if len(set(tags)) < len(tags):
            raise OptionError("A Trifocal file has at most one layer of each tag.")
        if len(tags) > MAX_LAYERS:
            raise OptionError(f"A Trifocal file has at most {MAX_LAYERS} layers.")
        if fault := fault_of(tags):
            raise OptionError(f"There is no such Trifocal file: {fault}.")
        object.__setattr__(self, "layers", tuple(sorted(self.layers, key=lambda layer: layer.tag)))

    def __repr__(self) -> str:
        header, names = self.header, " ".join(layer.name for layer in self.layers)
        return (
            f"<Bitstream {header.width}x{header.height}, {self.size:,} bytes, preset {header.preset}, "
            f"quality {header.quality:g}, {names}>"
        )

    @property
    def size(self) -> int:
        """Bytes of the whole file, damaged chunks not counted."""
        return len(front_of(self)) + sum(layer.size for layer in self.layers)

    @property
    def bpp(self) -> float:
        """Bits of the whole file for each pixel of the picture."""
        return 8 * self.size / (self.header.width * self.header.height)

    def layer(self, tag: Tag | int) -> Layer | None:
        return next((layer for layer in self.layers if layer.tag == tag), None)

    def with_layer(self, layer: Layer) -> "Bitstream":
        """The same with `layer` added, or put in the place of the one that has its tag."""
        others = tuple(other for other in self.layers if other.tag != layer.tag)
        return replace(self, layers=(*others, layer))

    def to_bytes(self) -> bytes:
        """The one way to write this stream. Raises Damaged where a chunk is lost."""
        refuse_damaged(self.layers, "This stream")
        return front_of(self) + b"".join(chunk or b"" for layer in self.layers for chunk in layer.chunks)

    def save(self, target: str | os.PathLike[str] | IO[bytes]) -> None:
        """Write the file to a path, at once or not at all, or to a binary stream. Raises OSError, or Damaged where a chunk is lost."""
        data = self.to_bytes()
        if isinstance(target, str | os.PathLike):
            with atomic_write(target) as stream:
                stream.write(data)
        else:
            target.write(data)

    @classmethod
    def open(cls, source: str | os.PathLike[str] | IO[bytes], best_effort: bool = False) -> "Bitstream":
        """Read a file from a path or a binary stream; see from_bytes.

        Raises FormatError with a sentence that names the file, OSError, and OptionError for a stream of text.
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
            read_header(Reader(start, name))  # refuses a foreign file before the rest of it is read
        return cls.from_bytes(start + stream.read(), best_effort, name)

    @classmethod
    def from_bytes(
        cls, data: bytes | bytearray | memoryview, best_effort: bool = False, name: str = "This file"
    ) -> "Bitstream":
        """Reads and checks all bytes; accepts only what to_bytes would write. `name` begins the sentences of errors.

        With best_effort, a chunk that is damaged or missing becomes None as long as the header and the table of
        layers are sound. Raises FormatError: NotTrifocal, Truncated, Damaged, Unsupported.
        """
        reader = Reader(bytes(data), name)
        header, short = read_header(reader)
        layers = _read_short(reader) if short else _read_long(reader, best_effort)
        if not best_effort:
            refuse_damaged(layers, name)
        return cls(header, layers)


def as_bitstream(source: FileInput, best_effort: bool = False) -> Bitstream:
    """Read a .tri file from a path, bytes or a binary stream. Raises FormatError, OSError, and OptionError for other types."""
    if isinstance(source, Bitstream):
        return source
    if isinstance(source, bytes | bytearray | memoryview):
        return Bitstream.from_bytes(source, best_effort)
    if isinstance(source, str | os.PathLike) or callable(getattr(source, "read", None)):
        return Bitstream.open(source, best_effort)
    raise OptionError(
        f"A .tri file cannot be of the type {type(source).__name__}; give a path, its bytes, a binary stream or a Bitstream."
    )


def front_of(stream: Bitstream) -> bytes:
    """All that stands before the first chunk."""
    only = stream.layers[0]
    if is_short(only.tag, len(stream.layers), len(only.chunks)):
        head = write_header(stream.header, short=True)
        return head + crc32(only.chunks[0] or b"", crc32(head)).to_bytes(CRC_BYTES, "big")
    front = write_header(stream.header, short=False) + varint(len(stream.layers))
    front += b"".join(_table_of(layer) for layer in stream.layers)
    return front + crc32(front).to_bytes(CRC_BYTES, "big")


def is_single(tag: int) -> bool:
    """Whether a layer has just one chunk, as all that are known have but those in tiles."""
    return tag in KNOWN_TAGS and tag not in TILED_TAGS


def fault_of(tags: Sequence[int]) -> str | None:
    """Why no file has layers of these tags together, as the end of a sentence; None where a file may."""
    coded = {*tags} & {*CODED_TAGS}
    if not coded:
        return "it has no LATENT, BASE or ENHANCEMENT layer"
    if Tag.LATENT in coded and len(coded) > 1:
        return "it has a LATENT layer beside BASE or ENHANCEMENT"
    if Tag.PART in tags and coded not in ({Tag.BASE}, {Tag.ENHANCEMENT}):
        return "it is whole, and has the PART layer of a part of a file"
    return None


def is_short(first_tag: int, layers: int, chunks: int) -> bool:
    """Whether a file is written in the short form: a LATENT layer alone, in one chunk."""
    return first_tag == Tag.LATENT and layers == 1 and chunks == 1


def _table_of(layer: Layer) -> bytes:
    rows = (
        varint(len(chunk or b"")) + crc32(chunk or b"").to_bytes(CRC_BYTES, "big") for chunk in layer.chunks
    )
    return bytes([layer.tag]) + varint(len(layer.chunks)) + b"".join(rows)


def _read_short(reader: Reader) -> tuple[Layer, ...]:
    head = reader.data[: reader.at]
    expected = reader.number(CRC_BYTES)
    chunk = reader.take(reader.left)
    return (Layer(Tag.LATENT, (chunk if crc32(chunk, crc32(head)) == expected else None,)),)


def _read_long(reader: Reader, best_effort: bool) -> tuple[Layer, ...]:
    table = read_table(reader)
    size = sum(length for _, rows in table for length, _ in rows)
    if not best_effort and reader.left < size:
        raise Truncated(
            f"{reader.name} is cut short: {size - reader.left} of its {reader.at + size} bytes are missing;"
            " best effort shows what is left."
        )
    if not best_effort and reader.left > size:
        raise Damaged(f"{reader.name} is damaged: {reader.left - size} bytes follow its end.")
    return tuple(Layer(tag, tuple(_read_chunk(reader, *row) for row in rows)) for tag, rows in table)


def read_table(reader: Reader) -> Table:
    """The table of layers, checked before any of it is believed."""
    layer_count = _count(reader, MAX_LAYERS, "layers", least_bytes=7)
    table = [_read_rows(reader) for _ in range(layer_count)]
    end = reader.at
    if reader.number(CRC_BYTES) != crc32(reader.data[:end]):
        raise Damaged(
            f"{reader.name} is damaged: its header or table of layers does not match its check sum."
        )
    _check_tags([tag for tag, _ in table], reader.name)
    if is_short(table[0][0], len(table), len(table[0][1])):
        raise Damaged(f"{reader.name} is not well formed: a LATENT chunk alone belongs in the short form.")
    for tag, rows in table:
        if is_single(tag) and len(rows) != 1:
            raise Damaged(
                f"{reader.name} is not well formed: its {Tag(tag).name} layer has more than one chunk."
            )
        if tag == Tag.PART and rows[0][0] != CRC_BYTES:
            raise Damaged(f"{reader.name} is not well formed: its PART layer has not {CRC_BYTES} bytes.")
    return table


def _read_rows(reader: Reader) -> tuple[int, list[tuple[int, int]]]:
    tag = reader.number(1)
    chunk_count = _count(reader, MAX_CHUNKS, "chunks", least_bytes=1 + CRC_BYTES)
    return tag, [(reader.varint(), reader.number(CRC_BYTES)) for _ in range(chunk_count)]


def _count(reader: Reader, most: int, what: str, least_bytes: int) -> int:
    """How many entries follow; refused at once where the rest of the file has no room for them."""
    count = reader.varint()
    if not 1 <= count <= most:
        raise Damaged(f"{reader.name} is damaged: it claims {count} {what}, and 1 to {most} are allowed.")
    if count * least_bytes > reader.left:
        raise Truncated(
            f"{reader.name} is cut short or damaged: it ends before its table of {count} {what} does."
        )
    return count


def _check_tags(tags: Sequence[int], name: str) -> None:
    if any(later <= earlier for earlier, later in pairwise(tags)) or min(tags) < 1:
        raise Damaged(f"{name} is not well formed: its layers do not stand in the order of their tags.")
    unknown = [tag for tag in tags if tag not in KNOWN_TAGS and tag < FIRST_OPTIONAL_TAG]
    if unknown:
        raise Unsupported(
            f"{name} needs a newer Trifocal: it has a layer with tag {unknown[0]}, which cannot be skipped."
        )
    if fault := fault_of(tags):
        raise Damaged(f"{name} is not well formed: {fault}.")


def _read_chunk(reader: Reader, length: int, expected: int) -> bytes | None:
    if length > reader.left:
        reader.take(reader.left)
        return None
    chunk = reader.take(length)
    return chunk if crc32(chunk) == expected else None


def refuse_damaged(layers: Sequence[Layer], name: str) -> None:
    """Raises Damaged, with the tiles that are lost, where a chunk is None."""
    hit = [layer for layer in layers if layer.damaged]
    if not hit:
        return
    if len(layers) == 1 and len(layers[0].chunks) == 1:
        tiles = (0,) if layers[0].tag in TILED_TAGS else ()
        raise Damaged(f"{name} is damaged or cut short: its bytes do not match their check sum.", tiles)
    lost = {number for layer in hit if layer.tag in TILED_TAGS for number in layer.damaged}
    parts = " and ".join(_damage_of(layer) for layer in hit)
    base = any(layer.tag == Tag.BASE for layer in hit)
    rest = "nothing can be shown without its base" if base else "best effort shows the rest"
    raise Damaged(f"{name} is damaged in {parts}; {rest}.", tuple(sorted(lost)))


def _damage_of(layer: Layer) -> str:
    name = f"its {layer.name}" + (" layer" if isinstance(layer.tag, Tag) else "")
    if len(layer.chunks) == 1:
        return name
    part = "tile" if layer.tag in TILED_TAGS else "part"
    numbers = ", ".join(map(str, layer.damaged[:20])) + (", ..." if len(layer.damaged) > 20 else "")
    return f"{name} ({part}{'s' if len(layer.damaged) > 1 else ''} {numbers} of {len(layer.chunks)})"


def describe(stream: Bitstream) -> dict[str, object]:
    """What `info` prints, ready for JSON: the header's fields, sizes in bytes, and a row per layer."""
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
