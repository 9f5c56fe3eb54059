"""Geometry of tiles: a picture is cut into squares that are coded alone, and looked at with a halo around each."""

from dataclasses import dataclass

from trifocal.errors import OptionError

Box = tuple[int, int, int, int]  # x, y, width, height in pixels


@dataclass(frozen=True)
class Tile:
    """One square of a picture: its number in reading order from 0, and the pixels that belong to it alone."""

    index: int
    x: int
    y: int
    width: int
    height: int


def tiles(width: int, height: int, size: int) -> tuple[Tile, ...]:
    """All tiles of a picture, row by row; `size` pixels a side, those at the right and bottom edge clipped."""
    return tiles_of_region(width, height, size, (0, 0, width, height))


def tiles_of_region(width: int, height: int, size: int, region: Box) -> tuple[Tile, ...]:
    """The tiles that hold a pixel of region (x, y, width, height), row by row. Raises OptionError; see check_region."""
    if size < 1:
        raise OptionError(f"A tile is at least 1 pixel a side, not {size}.")
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


def check_region(width: int, height: int, region: Box) -> Box:
    """Gives the region back. Raises OptionError where it is empty or leaves a picture of width x height pixels."""
    x, y, wide, high = region
    if x < 0 or y < 0 or wide < 1 or high < 1 or x + wide > width or y + high > height:
        raise OptionError(
            f"The region {x},{y},{wide},{high} (x,y,width,height) does not lie within the picture's"
            f" {width} x {height} pixels."
        )
    return region
