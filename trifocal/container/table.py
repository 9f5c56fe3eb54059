"""Layers, and the table of layers of a .tri file; FORMAT.md specifies each byte."""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from itertools import pairwise
from typing import NamedTuple
from zlib import crc32

from trifocal.container.fields import (
    CODED_TAGS,
    FIRST_OPTIONAL_TAG,
    LAST_TAG,
    MAX_CHUNKS,
    MAX_LAYERS,
    TILED_TAGS,
    ByteReader,
    Tag,
    varint,
)
from trifocal.errors import Damaged, OptionError, Truncated, Unsupported

CRC_BYTES = 4  # also of the PART and SEED layers
KNOWN_TAGS = frozenset(Tag)


class Row(NamedTuple):
    """A chunk in the table of layers: its length in bytes, its CRC-32, and whether this file holds it.

    A partial file keeps the rows of the chunks that it lacks; their `present` is False.
    """

    length: int
    crc: int
    present: bool = True


LayerTable = list[tuple[int, list[Row]]]
"""The tag and the chunks of each layer."""


@dataclass(frozen=True)
class Layer:
    """A tag and its chunks: one per tile in a tiled layer (more with components), else one. A damaged chunk
    is None.

    Attributes:
        absent: rows of the chunks that a partial file lacks, by chunk index; these chunks are None.

    Raises:
        OptionError: if no file can have such a layer.
    """

    tag: Tag | int
    chunks: tuple[bytes | None, ...]
    absent: Mapping[int, Row] = field(default_factory=dict, hash=False)

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
        return tuple(
            number for number, chunk in enumerate(self.chunks) if chunk is None and number not in self.absent
        )

    @property
    def rows(self) -> tuple[Row, ...]:
        """The row of each chunk in the table of layers."""
        return tuple(
            self.absent.get(number) or Row(len(chunk or b""), crc32(chunk or b""))
            for number, chunk in enumerate(self.chunks)
        )

    def keep(self, kept: Callable[[int], bool]) -> "Layer":
        """A copy with the chunks whose index satisfies `kept`; the others become absent."""
        dropped = {
            number: Row(*row[:2], present=False) for number, row in enumerate(self.rows) if not kept(number)
        }
        chunks = (None if number in dropped else chunk for number, chunk in enumerate(self.chunks))
        return Layer(self.tag, tuple(chunks), dropped | dict(self.absent))


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
    if Tag.COMPONENTS in tags and not {*tags} & {*TILED_TAGS}:
        return "it has a COMPONENTS layer without a LATENT or ENHANCEMENT layer"
    if Tag.COMPONENTS in tags and Tag.PART in tags:
        return "it has a COMPONENTS layer together with a PART layer"
    return None


def uses_short_form(first_tag: int, layers: int, chunks: int) -> bool:
    """Whether a file is written in the short form: a single LATENT layer with a single chunk."""
    return first_tag == Tag.LATENT and layers == 1 and chunks == 1


def table_entry(layer: Layer) -> bytes:
    rows = (varint(row.length) + row.crc.to_bytes(CRC_BYTES, "big") for row in layer.rows)
    return bytes([layer.tag]) + varint(len(layer.chunks)) + b"".join(rows)


def bitmap(present: Sequence[bool]) -> bytes:
    """A bit per chunk, the first in the top bit; the last byte is filled up with zeros."""
    bits = "".join("01"[one] for one in present)
    return bytes(int(bits[first : first + 8].ljust(8, "0"), 2) for first in range(0, len(bits), 8))


def read_table(reader: ByteReader, partial: bool) -> LayerTable:
    """The table of layers, and in a partial file the bitmap after it. Raises FormatError if its checksum or
    its content is invalid.
    """
    layer_count = _count(reader, MAX_LAYERS, "layers", min_bytes=7)
    table = [_read_rows(reader) for _ in range(layer_count)]
    if partial:
        table = _read_bitmap(reader, table)
    end = reader.at
    if reader.number(CRC_BYTES) != crc32(reader.data[:end]):
        raise Damaged(f"{reader.name} is damaged: its header or table of layers does not match its checksum.")
    _check_tags([tag for tag, _ in table], reader.name)
    if uses_short_form(table[0][0], len(table), len(table[0][1])):
        raise Damaged(f"{reader.name} is malformed: a single LATENT chunk must be in the short form.")
    for tag, rows in table:
        if has_single_chunk(tag) and len(rows) != 1:
            raise Damaged(f"{reader.name} is malformed: its {Tag(tag).name} layer has more than one chunk.")
        if tag in (Tag.PART, Tag.SEED) and rows[0][0] != CRC_BYTES:
            raise Damaged(
                f"{reader.name} is malformed: its {Tag(tag).name} layer does not have {CRC_BYTES} bytes."
            )
    return table


def _read_rows(reader: ByteReader) -> tuple[int, list[Row]]:
    tag = reader.number(1)
    chunk_count = _count(reader, MAX_CHUNKS, "chunks", min_bytes=1 + CRC_BYTES)
    return tag, [Row(reader.varint(), reader.number(CRC_BYTES)) for _ in range(chunk_count)]


def _read_bitmap(reader: ByteReader, table: LayerTable) -> LayerTable:
    """The table with `present` of each row as in the bitmap that follows it."""
    count = sum(len(rows) for _, rows in table)
    data = reader.take(-(-count // 8))
    present = [data[index // 8] >> 7 - index % 8 & 1 == 1 for index in range(count)]
    if all(present) or bitmap(present) != data:
        raise Damaged(f"{reader.name} is malformed: its bitmap of chunks is not that of a partial file.")
    bits = iter(present)
    read = [(tag, [row._replace(present=next(bits)) for row in rows]) for tag, rows in table]
    if not any(tag == Tag.COMPONENTS and rows[0].present for tag, rows in read):
        raise Damaged(f"{reader.name} is malformed: it is partial, and has no COMPONENTS layer.")
    return read


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
