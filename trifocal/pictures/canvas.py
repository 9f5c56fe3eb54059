"""Geometry of the padded image: tiles, their halos, and the grid of the latent."""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from trifocal.pictures.tiles import Region, Tile, tiles, tiles_in_region
from trifocal.types import HYPER_LATENT_PIXELS, LATENT_STRIDE, TILE

Slices = tuple[slice, slice]  # rows, columns


@dataclass(frozen=True)
class Canvas:
    """The padded image: its last row and column are repeated up to multiples of HYPER_LATENT_PIXELS.

    Attributes:
        width, height: of the image, in pixels.
        receptive_field: of the transforms to each side, in pixels, a multiple of 16.
    """

    width: int
    height: int
    receptive_field: int

    @property
    def padded(self) -> tuple[int, int]:
        """Width and height of the canvas."""
        return (
            self.width + -self.width % HYPER_LATENT_PIXELS,
            self.height + -self.height % HYPER_LATENT_PIXELS,
        )

    def tiles(self) -> tuple[Tile, ...]:
        """All tiles, in the order of the chunks in the file."""
        return tiles(self.width, self.height, TILE)

    def tiles_in(self, region: Region) -> tuple[Tile, ...]:
        """The tiles that overlap a region."""
        return tiles_in_region(self.width, self.height, TILE, region)

    def tiles_around(self, region: Region) -> tuple[Tile, ...]:
        """The tiles whose latents are needed to decode a region: those that overlap its halo."""
        x, y, width, height = self.halo(snap_to_latents(region))
        return self.tiles_in((x, y, min(width, self.width - x), min(height, self.height - y)))

    def core(self, tile: Tile) -> Region:
        """The tile with its part of the padding; multiples of HYPER_LATENT_PIXELS."""
        width, height = self.padded
        return tile.x, tile.y, min(TILE, width - tile.x), min(TILE, height - tile.y)

    def decoded_part(self, tile: Tile, region: Region) -> Region:
        """The part of the tile's core that a region needs, in whole latents."""
        return intersection(self.core(tile), snap_to_latents(region))

    def halo(self, region: Region) -> Region:
        """The region with `receptive_field` pixels added on each side, clipped to the canvas."""
        x, y, width, height = region
        wider = (
            x - self.receptive_field,
            y - self.receptive_field,
            width + 2 * self.receptive_field,
            height + 2 * self.receptive_field,
        )
        return intersection(wider, (0, 0, *self.padded))

    def crop(self, rgb: NDArray[np.uint8], region: Region) -> NDArray[np.uint8]:
        """The pixels of a region of the canvas, [H, W, 3]."""
        x, y, width, height = region
        inside = rgb[y : y + height, x : x + width]
        below, right = height - inside.shape[0], width - inside.shape[1]
        if not below and not right:
            return np.ascontiguousarray(inside)
        return np.pad(inside, ((0, below), (0, right), (0, 0)), mode="edge")

    def within_halo(self, region: Region, stride: int = 1) -> Slices:
        """The slices of a region within its halo, in units of `stride` pixels."""
        return region_slices(region, stride, frame=self.halo(region))

    def frame(self, among: Sequence[Tile]) -> Region:
        """The region of all cores, for tiles that are in row-major order and fill a rectangle."""
        x, y, _, _ = self.core(among[0])
        right, bottom, width, height = self.core(among[-1])
        return x, y, right + width - x, bottom + height - y


def paste(into: NDArray[np.uint8], region: Region, part: Region, pixels: NDArray[np.uint8] | int) -> None:
    """Copy the pixels of `part`, or one value for all of them, to their position in an image of `region`."""
    common = intersection(part, region)
    if not isinstance(pixels, int):
        pixels = pixels[region_slices(common, 1, frame=part)]
    into[region_slices(common, 1, frame=region)] = pixels


def snap_to_latents(region: Region) -> Region:
    """The smallest region of whole latents that contains a region."""
    x, y, width, height = region
    left, top = x - x % LATENT_STRIDE, y - y % LATENT_STRIDE
    right, bottom = x + width, y + height
    return left, top, right + -right % LATENT_STRIDE - left, bottom + -bottom % LATENT_STRIDE - top


def intersection(a: Region, b: Region) -> Region:
    """The intersection of two overlapping regions."""
    left, top = max(a[0], b[0]), max(a[1], b[1])
    right, bottom = min(a[0] + a[2], b[0] + b[2]), min(a[1] + a[3], b[1] + b[3])
    return left, top, right - left, bottom - top


def region_slices(region: Region, stride: int = LATENT_STRIDE, frame: Region = (0, 0, 0, 0)) -> Slices:
    """The slices of a region within a frame, in units of `stride` pixels from the frame's corner."""
    x, y, width, height = region
    left, top = (x - frame[0]) // stride, (y - frame[1]) // stride
    return slice(top, top + height // stride), slice(left, left + width // stride)
