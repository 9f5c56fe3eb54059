"""The components of a file: labelled boxes, their positions, and the order of their chunks."""

from collections.abc import Collection, Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import TypeAlias

from trifocal.container.fields import MAX_SIDE, ByteReader, varint
from trifocal.container.text_encoding import normalise_text, text_from_bytes, text_to_bytes
from trifocal.errors import Damaged, OptionError
from trifocal.types import HYPER_LATENT_PIXELS, LATENT_STRIDE, TILE

__all__ = [
    "MAX_COMPONENTS",
    "REST",
    "REST_NAME",
    "SIDE",
    "Component",
    "ComponentLayout",
    "check_components",
    "part_names",
]

MAX_COMPONENTS = 255  # so that a position's component is one byte
# Parts of a tile beside its components 1, 2, …: the side information, and the positions outside of them all.
SIDE, REST = -1, 0
REST_NAME = "the rest"
FORBIDDEN = ","  # separates labels, in files and on the command line
NAME = "The COMPONENTS layer of this file"

Box: TypeAlias = tuple[int, int, int, int]
"""x0, y0, x1, y1 in latent positions; x1 and y1 are exclusive."""


@dataclass(frozen=True)
class Component:
    """An object of an image that has chunks of its own.

    Attributes:
        label: what it is, such as "person"; no commas.
        box: x0, y0, x1, y1 in latent positions, 16 pixels each; x1 and y1 are exclusive.

    Raises:
        OptionError: for an empty box, or a label that no file can hold.
    """

    label: str
    box: tuple[int, int, int, int]

    def __post_init__(self) -> None:
        if not self.label or FORBIDDEN in self.label or normalise_text(self.label) != self.label:
            raise OptionError(
                f"A label must be a text without commas, line breaks and double spaces, not {self.label!r}."
            )
        x0, y0, x1, y1 = self.box
        most = MAX_SIDE // LATENT_STRIDE
        if not (0 <= x0 < x1 <= most and 0 <= y0 < y1 <= most):
            raise OptionError(
                f"The box of a component is x0, y0, x1, y1 in latent positions with 0 ≤ x0 < x1 ≤ {most} and "
                f"0 ≤ y0 < y1 ≤ {most}, not {self.box}."
            )

    def pixels(self, width: int, height: int) -> tuple[int, int, int, int]:
        """x0, y0, x1, y1 in pixels of an image of that size."""
        x0, y0, x1, y1 = (LATENT_STRIDE * edge for edge in self.box)
        return x0, y0, min(x1, width), min(y1, height)


@dataclass(frozen=True)
class ComponentLayout:
    """The parts of each tile, and the chunks of a LATENT or ENHANCEMENT layer with components.

    A position belongs to the smallest box that covers it, the first one of equal size; the other positions
    belong to the rest.

    Attributes:
        components: numbered from 1.
        width, height: of the image in pixels.
    """

    components: tuple[Component, ...]
    width: int
    height: int

    @property
    def tile_count(self) -> int:
        return -(-self.width // TILE) * -(-self.height // TILE)

    def tile_box(self, tile: int) -> tuple[int, int, int, int]:
        """x0, y0, x1, y1 of a tile in latent positions; at the edges with its part of the padding."""
        row, column = divmod(tile, -(-self.width // TILE))
        wide, high = (_padded(side) for side in (self.width, self.height))
        side = TILE // LATENT_STRIDE
        return column * side, row * side, min((column + 1) * side, wide), min((row + 1) * side, high)

    def positions(self, tile: int) -> bytes:
        """The number of each position's component, row by row; 0 for the rest."""
        left, top, right, bottom = self.tile_box(tile)
        width, height = right - left, bottom - top
        found = bytearray(width * height)
        for number, (x0, y0, x1, y1) in reversed(self._boxes_in(left, top, right, bottom)):
            run = bytes([number]) * (x1 - x0)
            for start in range(y0 * width + x0, y1 * width + x0, width):
                found[start : start + x1 - x0] = run
        return bytes(found)

    def _boxes_in(self, left: int, top: int, right: int, bottom: int) -> list[tuple[int, Box]]:
        """The numbers of the components in a tile and their boxes there, the smallest box first. Those behind
        a box that covers the tile are left out, which bounds the work for files with many tiles.
        """
        found = []
        for number in self._smallest_first:
            x0, y0, x1, y1 = self.components[number - 1].box
            box = max(x0, left) - left, max(y0, top) - top, min(x1, right) - left, min(y1, bottom) - top
            if box[0] < box[2] and box[1] < box[3]:
                found.append((number, box))
                if box == (0, 0, right - left, bottom - top):
                    break
        return found

    @cached_property
    def parts(self) -> tuple[tuple[int, ...], ...]:
        """For each tile the parts that have a chunk, in the order of coding: SIDE, components, REST."""
        return tuple(self._tile_parts(tile) for tile in range(self.tile_count))

    @cached_property
    def chunks(self) -> dict[tuple[int, int], int]:
        """The index of each chunk by its part and tile. The file has the side information of all tiles first,
        then component 1 of all tiles, component 2 and so on, and last the rest of all tiles.
        """
        order = (SIDE, *range(1, len(self.components) + 1), REST)
        tiles_by_part: dict[int, list[int]] = {part: [] for part in order}
        for tile, parts in enumerate(self.parts):
            for part in parts:
                tiles_by_part[part].append(tile)
        keys = ((part, tile) for part in order for tile in tiles_by_part[part])
        return {key: index for index, key in enumerate(keys)}

    def check(self, chunk_count: int) -> "ComponentLayout":
        """Return the layout itself. Raises Damaged unless the layout has so many chunks."""
        # Each tile has two chunks or more, so that tables of few bytes make no work for many tiles.
        if chunk_count < 2 * self.tile_count or chunk_count != len(self.chunks):
            raise Damaged(f"{NAME} does not fit its {chunk_count} chunks; the file is malformed.")
        return self

    @cached_property
    def _smallest_first(self) -> tuple[int, ...]:
        def key(number: int) -> tuple[int, int]:
            x0, y0, x1, y1 = self.components[number - 1].box
            return (x1 - x0) * (y1 - y0), number

        return tuple(sorted(range(1, len(self.components) + 1), key=key))

    def _tile_parts(self, tile: int) -> tuple[int, ...]:
        numbers = sorted(set(self.positions(tile)))
        rest = numbers[0] == REST
        return (SIDE, *numbers[rest:], *([REST] if rest else []))

    def to_bytes(self) -> bytes:
        """The COMPONENTS chunk."""
        labels = list(dict.fromkeys(one.label for one in self.components))
        data = varint(len(self.components))
        for one in self.components:
            x0, y0, x1, y1 = one.box
            row = (labels.index(one.label), x0, y0, x1 - x0 - 1, y1 - y0 - 1)
            data += b"".join(map(varint, row))
        return data + text_to_bytes(FORBIDDEN.join(labels))

    @classmethod
    def from_bytes(cls, data: bytes, width: int, height: int) -> "ComponentLayout":
        """The inverse of `to_bytes`. Raises Damaged for bytes that it never writes, and Unsupported."""
        reader = ByteReader(data, NAME)
        count = reader.varint()
        if not 1 <= count <= MAX_COMPONENTS or 5 * count > reader.left:
            raise Damaged(f"{NAME} is damaged: it claims {count} components.")
        rows = [[reader.varint() for _ in range(5)] for _ in range(count)]
        labels = text_from_bytes(reader.take(reader.left)).split(FORBIDDEN)
        firsts = list(dict.fromkeys(row[0] for row in rows))
        if firsts != list(range(len(labels))) or len({*labels}) < len(labels):
            raise Damaged(f"{NAME} is damaged: its labels do not fit its boxes.")
        try:
            components = tuple(
                Component(labels[label], (x, y, x + wide + 1, y + high + 1))
                for label, x, y, wide, high in rows
            )
            check_components(components, width, height)
        except OptionError as error:
            raise Damaged(f"{NAME} is damaged: {error}") from error
        return cls(components, width, height)


def check_components(components: Sequence[Component], width: int, height: int) -> None:
    """Raises OptionError if an image of that size in pixels cannot have these components."""
    if not 1 <= len(components) <= MAX_COMPONENTS:
        raise OptionError(f"A file has 1 to {MAX_COMPONENTS} components, not {len(components)}.")
    for one in components:
        if one.box[2] > _padded(width) or one.box[3] > _padded(height):
            raise OptionError(
                f"The box {one.box} of a component ends beyond the {_padded(width)} x {_padded(height)} "
                "positions of the image."
            )


def part_names(layout: ComponentLayout, parts: Collection[int]) -> tuple[str, ...]:
    """The labels of parts of a tile, each one once and in the order of the file, and "the rest"."""
    labels = [one.label for number, one in enumerate(layout.components, start=1) if number in parts]
    return (*dict.fromkeys(labels), *([REST_NAME] if REST in parts else []))


def _padded(side: int) -> int:
    return -(-side // HYPER_LATENT_PIXELS) * (HYPER_LATENT_PIXELS // LATENT_STRIDE)
