"""A picture as the networks see it: padded, cut into tiles, each with a halo, on the latent's grid."""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from trifocal.pictures.tiles import Box, Tile, tiles, tiles_of_region

TILE = 1024
PADDING = 64
LATENT_STRIDE = 16
Window = tuple[slice, slice]


@dataclass(frozen=True)
class Canvas:
    """A picture's size in pixels, and how far the transforms look to each side (a multiple of 16 pixels).

    The canvas is the picture with its last row and column repeated up to a multiple of 64. Windows are (rows, columns).
    """

    width: int
    height: int
    reach: int

    @property
    def padded(self) -> tuple[int, int]:
        """Width and height of the canvas."""
        return self.width + -self.width % PADDING, self.height + -self.height % PADDING

    def tiles(self) -> tuple[Tile, ...]:
        """All tiles, in the order of the file's chunks."""
        return tiles(self.width, self.height, TILE)

    def tiles_of(self, region: Box) -> tuple[Tile, ...]:
        """The tiles that hold a pixel of the region."""
        return tiles_of_region(self.width, self.height, TILE, region)

    def tiles_around(self, region: Box) -> tuple[Tile, ...]:
        """The tiles whose latents the region's own tiles need: theirs, and those that their halos touch."""
        inner = self.tiles_of(region)
        first, last = inner[0], inner[-1]
        left, top = max(0, first.x - self.reach), max(0, first.y - self.reach)
        right = min(self.width, last.x + last.width + self.reach)
        bottom = min(self.height, last.y + last.height + self.reach)
        return self.tiles_of((left, top, right - left, bottom - top))

    def core(self, tile: Tile) -> Box:
        """The tile with its share of the padding: x, y, width, height, multiples of 64."""
        wide, high = self.padded
        return tile.x, tile.y, min(TILE, wide - tile.x), min(TILE, high - tile.y)

    def halo(self, tile: Tile) -> Box:
        """The core and `reach` pixels on each side, as far as there is canvas."""
        return Tile(tile.index, *self.core(tile)).with_halo(self.reach, *self.padded)

    def crop(self, rgb: NDArray[np.uint8], tile: Tile) -> NDArray[np.uint8]:
        """The pixels of a tile's halo, [H, W, 3]."""
        x, y, width, height = self.halo(tile)
        inside = rgb[y : y + height, x : x + width]
        below, right = height - inside.shape[0], width - inside.shape[1]
        if not below and not right:
            return np.ascontiguousarray(inside)
        return np.pad(inside, ((0, below), (0, right), (0, 0)), mode="edge")

    def within_halo(self, tile: Tile, stride: int = 1) -> Window:
        """Where the core lies within the halo, in steps of `stride` pixels."""
        x, y, width, height = self.core(tile)
        left, top, _, _ = self.halo(tile)
        return window((x - left, y - top, width, height), stride)

    def frame(self, among: Sequence[Tile]) -> Box:
        """The box of all cores among tiles that are in reading order and fill a rectangle."""
        x, y, _, _ = self.core(among[0])
        right, bottom, width, height = self.core(among[-1])
        return x, y, right + width - x, bottom + height - y

    def paste(
        self, into: NDArray[np.uint8], region: Box, tile: Tile, pixels: NDArray[np.uint8] | int
    ) -> None:
        """Puts a tile's core pixels, or one value for all, where they belong in the picture of a region."""
        x, y, width, height = region
        left, top = max(x, tile.x), max(y, tile.y)
        right, bottom = min(x + width, tile.x + tile.width), min(y + height, tile.y + tile.height)
        if not isinstance(pixels, int):
            pixels = pixels[top - tile.y : bottom - tile.y, left - tile.x : right - tile.x]
        into[top - y : bottom - y, left - x : right - x] = pixels


def window(box: Box, stride: int = LATENT_STRIDE, frame: Box = (0, 0, 0, 0)) -> Window:
    """Rows and columns of a box that lies in a frame, in steps of `stride` pixels from the frame's corner."""
    x, y, width, height = (number // stride for number in box)
    left, top = (number // stride for number in frame[:2])
    return slice(y - top, y - top + height), slice(x - left, x - left + width)
