"""A picture as the networks see it: padded, cut into tiles, each with a halo, on the latent's grid."""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from trifocal.pictures.tiles import Box, Tile, tiles, tiles_of_region
from trifocal.types import LATENT_STRIDE

TILE = 1024
PADDING = 64
Window = tuple[slice, slice]


@dataclass(frozen=True)
class Canvas:
    """A picture's size in pixels, and how far the transforms look to each side (a multiple of 16 pixels).

    The canvas is the picture with its last row and column repeated up to a multiple of 64. Windows are (rows, columns).
    """

    width: int
    height: int
    receptive_field: int

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
        """The tiles whose latents the region needs: those that its latents and `receptive_field` around them touch."""
        x, y, width, height = self.halo(snapped(region))
        return self.tiles_of((x, y, min(width, self.width - x), min(height, self.height - y)))

    def core(self, tile: Tile) -> Box:
        """The tile with its share of the padding: x, y, width, height, multiples of 64."""
        wide, high = self.padded
        return tile.x, tile.y, min(TILE, wide - tile.x), min(TILE, high - tile.y)

    def shown(self, tile: Tile, region: Box) -> Box:
        """The part of the core that shows a region, a whole number of latents."""
        return intersection(self.core(tile), snapped(region))

    def halo(self, box: Box) -> Box:
        """The box and `receptive_field` pixels on each side, as far as there is canvas."""
        x, y, width, height = box
        wider = (
            x - self.receptive_field,
            y - self.receptive_field,
            width + 2 * self.receptive_field,
            height + 2 * self.receptive_field,
        )
        return intersection(wider, (0, 0, *self.padded))

    def crop(self, rgb: NDArray[np.uint8], box: Box) -> NDArray[np.uint8]:
        """The pixels of a box of the canvas, [H, W, 3]."""
        x, y, width, height = box
        inside = rgb[y : y + height, x : x + width]
        below, right = height - inside.shape[0], width - inside.shape[1]
        if not below and not right:
            return np.ascontiguousarray(inside)
        return np.pad(inside, ((0, below), (0, right), (0, 0)), mode="edge")

    def within_halo(self, box: Box, stride: int = 1) -> Window:
        """Where the box lies within its halo, in steps of `stride` pixels."""
        return window(box, stride, frame=self.halo(box))

    def frame(self, among: Sequence[Tile]) -> Box:
        """The box of all cores among tiles that are in reading order and fill a rectangle."""
        x, y, _, _ = self.core(among[0])
        right, bottom, width, height = self.core(among[-1])
        return x, y, right + width - x, bottom + height - y


def paste(into: NDArray[np.uint8], region: Box, box: Box, pixels: NDArray[np.uint8] | int) -> None:
    """Puts a box's pixels, or one value for all, where they belong in the picture of a region."""
    common = intersection(box, region)
    if not isinstance(pixels, int):
        pixels = pixels[window(common, 1, frame=box)]
    into[window(common, 1, frame=region)] = pixels


def snapped(box: Box) -> Box:
    """The smallest box of whole latents around a box."""
    x, y, width, height = box
    left, top = x - x % LATENT_STRIDE, y - y % LATENT_STRIDE
    right, bottom = x + width, y + height
    return left, top, right + -right % LATENT_STRIDE - left, bottom + -bottom % LATENT_STRIDE - top


def intersection(a: Box, b: Box) -> Box:
    """What two boxes that meet have in common."""
    left, top = max(a[0], b[0]), max(a[1], b[1])
    right, bottom = min(a[0] + a[2], b[0] + b[2]), min(a[1] + a[3], b[1] + b[3])
    return left, top, right - left, bottom - top


def window(box: Box, stride: int = LATENT_STRIDE, frame: Box = (0, 0, 0, 0)) -> Window:
    """Rows and columns of a box that lies in a frame, in steps of `stride` pixels from the frame's corner."""
    x, y, width, height = box
    left, top = (x - frame[0]) // stride, (y - frame[1]) // stride
    return slice(top, top + height // stride), slice(left, left + width // stride)
