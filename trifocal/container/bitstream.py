"""A .tri file as a header and layers of bytes; FORMAT.md specifies each byte."""

import os
from collections.abc import Callable, Collection, Sequence
from dataclasses import dataclass, replace
from functools import cached_property
from pathlib import Path
from typing import IO, TypeAlias
from zlib import crc32

from trifocal.container.components import SIDE, Component, ComponentLayout
from trifocal.container.fields import (
    MAX_LAYERS,
    TILED_TAGS,
    ByteReader,
    Header,
    Tag,
    read_header,
    varint,
    write_header,
)
from trifocal.container.table import (
    CRC_BYTES,
    Layer,
    Row,
    bitmap,
    read_table,
    table_entry,
    tag_conflict,
    uses_short_form,
)
from trifocal.errors import Damaged, MissingLayer, OptionError, Truncated
from trifocal.utils.files import atomic_write

START_BYTES = 4096  # read first, so that other files and invalid headers are refused early

__all__ = ["Bitstream", "FileInput", "Layer", "as_bitstream", "preamble", "raise_if_damaged"]

FileInput: TypeAlias = "Bitstream | bytes | bytearray | memoryview | str | os.PathLike[str] | IO[bytes]"


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

    @property
    def is_partial(self) -> bool:
        """Whether chunks of the whole file are absent here."""
        return any(layer.absent for layer in self.layers)

    @cached_property
    def layout(self) -> ComponentLayout | None:
        """The components and the order of the chunks of LATENT or ENHANCEMENT; None without components.

        Raises Damaged.
        """
        tags = {layer.tag: layer for layer in self.layers}
        if Tag.COMPONENTS not in tags:
            return None
        (chunk,) = tags[Tag.COMPONENTS].chunks
        if chunk is None:
            raise Damaged("The COMPONENTS layer of this file is damaged, and decoding needs it.")
        layout = ComponentLayout.from_bytes(chunk, self.header.width, self.header.height)
        return layout.check(sum(len(tags[tag].chunks) for tag in TILED_TAGS if tag in tags))

    @property
    def components(self) -> tuple[Component, ...]:
        """The objects that have chunks of their own, also those that a partial file lacks. Raises Damaged."""
        return () if self.layout is None else self.layout.components

    def only(self, components: str | Collection[str]) -> "Bitstream":
        """A partial file with these components, without the others and the rest of the image.

        Args:
            components: a label, or several.

        Raises:
            OptionError: for a label that no component has.
            MissingLayer: if the file has no components.
            Damaged: if the COMPONENTS layer is damaged.
        """
        layout = self.layout
        if layout is None:
            raise MissingLayer(
                "This file has no components; encode the image with `trifocal encode --components` first."
            )
        labels = {components} if isinstance(components, str) else {*components}
        there = {one.label for one in layout.components}
        if wrong := sorted(labels - there):
            raise OptionError(
                f"This file has no component {wrong[0]!r}; its labels are {', '.join(sorted(there))}."
            )
        kept = {
            index
            for (part, _), index in layout.chunks.items()
            if part == SIDE or part > 0 and layout.components[part - 1].label in labels
        }
        return self.keep(lambda tag, index: tag not in TILED_TAGS or index in kept)

    def keep(self, kept: Callable[[int, int], bool]) -> "Bitstream":
        """A partial file with the chunks for which `kept(tag, index)` is True. Raises Damaged if a chunk is
        damaged.
        """
        raise_if_damaged(self.layers, "This file")

        def kept_in(tag: int) -> Callable[[int], bool]:
            return lambda index: kept(tag, index)

        return replace(self, layers=tuple(layer.keep(kept_in(layer.tag)) for layer in self.layers))

    def layer(self, tag: Tag | int) -> Layer | None:
        """The layer with that tag; None if the file has none, or no chunk of it."""
        found = (one for one in self.layers if one.tag == tag and len(one.absent) < len(one.chunks))
        return next(found, None)

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
        header, short, partial = read_header(reader)
        layers = _read_short(reader) if short else _read_long(reader, partial, best_effort)
        if not best_effort:
            raise_if_damaged(layers, name)
        stream = cls(header, layers)
        if not best_effort:
            _ = stream.layout  # raises Damaged if the components do not fit their chunks
        return stream


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
    partial = stream.is_partial
    front = write_header(stream.header, short=False, partial=partial) + varint(len(stream.layers))
    front += b"".join(table_entry(layer) for layer in stream.layers)
    if partial:
        front += bitmap([row.present for layer in stream.layers for row in layer.rows])
    return front + crc32(front).to_bytes(CRC_BYTES, "big")


def _read_short(reader: ByteReader) -> tuple[Layer, ...]:
    head = reader.data[: reader.at]
    expected = reader.number(CRC_BYTES)
    chunk = reader.take(reader.left)
    return (Layer(Tag.LATENT, (chunk if crc32(chunk, crc32(head)) == expected else None,)),)


def _read_long(reader: ByteReader, partial: bool, best_effort: bool) -> tuple[Layer, ...]:
    table = read_table(reader, partial)
    size = sum(row.length for _, rows in table for row in rows if row.present)
    if not best_effort and reader.left < size:
        raise Truncated(
            f"{reader.name} is cut short: {size - reader.left} of its {reader.at + size} bytes are missing;"
            " --best-effort (best_effort=True in Python) decodes the rest."
        )
    if not best_effort and reader.left > size:
        raise Damaged(f"{reader.name} is damaged: {reader.left - size} bytes follow its end.")
    return tuple(
        Layer(
            tag,
            tuple(_read_chunk(reader, row) for row in rows),
            {index: row for index, row in enumerate(rows) if not row.present},
        )
        for tag, rows in table
    )


def _read_chunk(reader: ByteReader, row: Row) -> bytes | None:
    if not row.present:
        return None
    if row.length > reader.left:
        reader.take(reader.left)
        return None
    chunk = reader.take(row.length)
    return chunk if crc32(chunk) == row.crc else None


def raise_if_damaged(layers: Sequence[Layer], name: str) -> None:
    """Raises Damaged, with the numbers of the lost tiles, if a chunk is None."""
    damaged = [layer for layer in layers if layer.damaged]
    if not damaged:
        return
    if len(layers) == 1 and len(layers[0].chunks) == 1:
        tiles = (0,) if layers[0].tag in TILED_TAGS else ()
        raise Damaged(f"{name} is damaged or cut short: its bytes do not match their checksum.", tiles)
    by_tile = not any(layer.tag == Tag.COMPONENTS for layer in layers)
    lost = {n for layer in damaged if by_tile and layer.tag in TILED_TAGS for n in layer.damaged}
    parts = " and ".join(_describe_damage(layer, by_tile) for layer in damaged)
    needed = [layer for layer in damaged if layer.tag in (Tag.BASE, Tag.COMPONENTS)]
    advice = (
        f"it cannot be decoded without its {'base' if needed[0].tag == Tag.BASE else 'COMPONENTS'} layer"
        if needed
        else "--best-effort (best_effort=True in Python) decodes the rest"
    )
    raise Damaged(f"{name} is damaged in {parts}; {advice}.", tuple(sorted(lost)))


def _describe_damage(layer: Layer, by_tile: bool) -> str:
    name = f"its {layer.name}" + (" layer" if isinstance(layer.tag, Tag) else "")
    if len(layer.chunks) == 1:
        return name
    part = ("tile" if by_tile else "chunk") if layer.tag in TILED_TAGS else "part"
    numbers = ", ".join(map(str, layer.damaged[:20])) + (", ..." if len(layer.damaged) > 20 else "")
    return f"{name} ({part}{'s' if len(layer.damaged) > 1 else ''} {numbers} of {len(layer.chunks)})"
