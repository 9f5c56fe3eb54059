"""Split an image into square tiles that are coded independently."""

from dataclasses import dataclass

from trifocal.errors import OptionError

Region = tuple[int, int, int, int]
"""x, y, width and height in pixels. Boxes of detections are x0, y0, x1, y1 instead."""


@dataclass(frozen=True)
class Tile:
    """One tile: its index in row-major order from 0, and its region of the image."""

    index: int
    x: int
    y: int
    width: int
    height: int


def tiles(width: int, height: int, size: int) -> tuple[Tile, ...]:
    """All tiles of an image in row-major order, `size` pixels a side, clipped at the edges."""
    return tiles_in_region(width, height, size, (0, 0, width, height))


def tiles_in_region(width: int, height: int, size: int, region: Region) -> tuple[Tile, ...]:
    """The tiles that overlap a region, in row-major order. Raises OptionError; see check_region."""
    if size < 1:
        raise OptionError(f"The side of a tile must be at least 1 pixel, not {size}.")
    x, y, wide, high = check_region(width, height, region)
    per_row = -(-width // size)
    return tuple(
        Tile(
            row * per_row + column,
            column * size,
            row * size,
            min(size, width - column * size),
            min(size, height - row * size),
        )
        for row in range(y // size, (y + high - 1) // size + 1)
        for column in range(x // size, (x + wide - 1) // size + 1)
    )


def check_region(width: int, height: int, region: Region) -> Region:
    """Return the region. Raises OptionError if it is empty or exceeds an image of width x height pixels."""
    x, y, wide, high = region
    if x < 0 or y < 0 or wide < 1 or high < 1 or x + wide > width or y + high > height:
        raise OptionError(
            f"The region {x},{y},{wide},{high} (x,y,width,height) must lie within the image of"
            f" {width} x {height} pixels."
        )
    return region
