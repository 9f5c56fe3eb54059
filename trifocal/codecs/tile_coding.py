"""The coding of tiles: pixels ⇄ latents ⇄ bytes, with a halo around each tile."""

from __future__ import annotations

from collections.abc import Callable, Collection, Iterable, Iterator, Sequence
from dataclasses import replace
from typing import Any, TypeVar

import numpy as np
from numpy.typing import NDArray

from trifocal.codecs.runtime import Runtime
from trifocal.container import Component, Layer, Tag
from trifocal.container.components import ComponentLayout, check_components
from trifocal.entropy import RateEstimator
from trifocal.entropy.coder import Array
from trifocal.entropy.component_coding import (
    TileParts,
    estimate_parts,
    kept_positions,
    read_parts,
    write_parts,
)
from trifocal.entropy.latent_coding import CodingNetworks, code_latents, read_latents, write_latents
from trifocal.errors import Damaged
from trifocal.pictures.canvas import Canvas, paste, region_slices
from trifocal.pictures.tiles import Region, Tile
from trifocal.types import LATENT_STRIDE, Condition
from trifocal.utils.timing import Stopwatch

__all__ = ["Progress", "TileChunks", "TileCoder", "tile_parts", "to_pixels", "track", "with_kept"]

GREY = 128
END_BYTES = 3  # mean bytes of a chunk beyond its values: the end of the stream, and its length in the table

Progress = Callable[[float], None]
T = TypeVar("T")


class TileCoder:
    """Codes the tiles of an image.

    Args:
        runtime: runs the networks.

    Attributes:
        reading_ends: the progress of decoding after the last tile is read, 0..1.
        arithmetic: of the entropy model; None for that of new files.
    """

    reading_ends = 0.6

    def __init__(self, runtime: Runtime, arithmetic: int | None = None) -> None:
        self.runtime, self.arithmetic = runtime, arithmetic

    def entropy(self) -> CodingNetworks:
        return self.runtime.entropy(self.arithmetic)

    @property
    def decoded_channels(self) -> int:
        """Channels of y_hat; M here."""
        return self.runtime.latent_channels

    def needed_tiles(self, canvas: Canvas, region: Region) -> tuple[Tile, ...]:
        """The tiles whose latents `render` needs for a region."""
        return canvas.tiles_around(region)

    def read_tiles(
        self,
        chunks: Sequence[bytes | None],
        level: int,
        canvas: Canvas,
        tiles: Sequence[Tile],
        best_effort: bool,
        progress: Progress | None,
        stopwatch: Stopwatch,
        layout: ComponentLayout | None = None,
    ) -> tuple[Array, set[int], set[tuple[int, int]]]:
        """Decode tiles that fill a rectangle.

        Returns:
            y_hat of the rectangle (`Canvas.frame`), [1, h, w, M]; the indices of damaged tiles; and for a
            file with components the missing parts, each as (part, index of the tile).

        Raises:
            Damaged: for a damaged tile or part, unless `best_effort` is set.
        """
        frame = canvas.frame(tiles)
        rows_in_all, columns_in_all = frame[3] // LATENT_STRIDE, frame[2] // LATENT_STRIDE
        y_hat = np.zeros((1, rows_in_all, columns_in_all, self.decoded_channels), dtype=np.float32)
        lost, missing = set(), set()
        for tile in track(tiles, progress, (0.0, self.reading_ends)):
            rows, columns = region_slices(canvas.core(tile), frame=frame)
            if layout is not None:
                values, parts = self.read_parts(chunks, level, layout, tile, best_effort, stopwatch)
                y_hat[:, rows, columns, : values.shape[3]] = values  # M channels without side information
                missing |= {(part, tile.index) for part in parts}
                continue
            try:
                y_hat[:, rows, columns] = self.read(
                    chunks[tile.index],
                    (rows.stop - rows.start, columns.stop - columns.start),
                    level,
                    stopwatch,
                )
            except Damaged as error:
                if not best_effort:
                    raise Damaged(f"{error} It is tile {tile.index}.", (tile.index,)) from error
                lost.add(tile.index)
        return y_hat, lost, missing

    def read_parts(
        self,
        chunks: Sequence[bytes | None],
        level: int,
        layout: ComponentLayout,
        tile: Tile,
        best_effort: bool,
        stopwatch: Stopwatch,
    ) -> tuple[Array, set[int]]:
        """y_hat of one tile, [1, h, w, M], and its missing parts."""
        parts = tile_parts(layout, tile.index)
        own = {part: chunks[layout.chunks[part, tile.index]] for part in parts.parts}
        channels, has_map = self.runtime.latent_channels, self.runtime.has_importance_map
        with stopwatch("entropy"):
            y_hat, missing, seconds = read_parts(
                self.entropy(), own, np.array([level]), parts, channels, has_map, best_effort
            )
        stopwatch.move("entropy", "coding", seconds)
        return y_hat, missing

    def render(
        self,
        y_hat: Array,
        canvas: Canvas,
        frame: Region,
        region: Region,
        level: int,
        condition: Condition[Any] | None,
        lost: set[int],
        progress: Progress | None,
        stopwatch: Stopwatch,
    ) -> NDArray[np.uint8]:
        """The pixels of a region, uint8 [H, W, 3], from the latents of a frame; damaged tiles are grey."""
        rgb = np.empty((region[3], region[2], 3), dtype=np.uint8)
        for tile in track(canvas.tiles_in(region), progress, (self.reading_ends, 1.0)):
            box = canvas.decoded_part(tile, region)
            rows, columns = region_slices(canvas.halo(box), frame=frame)
            near = y_hat[:, rows, columns]
            part = None if condition is None else condition.within(*region_slices(canvas.halo(box)))
            pixels = GREY if tile.index in lost else self.pixels(near, canvas, box, level, part, stopwatch)
            paste(rgb, region, box, pixels)
        return rgb

    def latent(
        self,
        rgb: NDArray[np.uint8],
        canvas: Canvas,
        tile: Tile,
        condition: Condition[Any] | None,
        stopwatch: Stopwatch,
    ) -> Array:
        """y of one tile, [1, h, w, M], from its pixels and those around them."""
        with stopwatch("analysis"):
            core = canvas.core(tile)
            halo = canvas.halo(core)
            part = None if condition is None else condition.within(*region_slices(halo))
            y = self.runtime.analyse(canvas.crop(rgb, halo), part)
            rows, columns = canvas.within_halo(core, LATENT_STRIDE)
            return np.ascontiguousarray(y[:, rows, columns])

    def write(self, y: Array, level: int, stopwatch: Stopwatch) -> bytes:
        """The chunk of a tile without components."""
        with stopwatch("entropy"):
            data, _, seconds = write_latents(
                self.entropy(), y, np.array([level]), self.runtime.has_importance_map
            )
        stopwatch.move("entropy", "coding", seconds)
        return data

    def write_parts(self, y: Array, level: int, parts: TileParts, stopwatch: Stopwatch) -> dict[int, bytes]:
        """The chunks of a tile with components, by their parts."""
        with stopwatch("entropy"):
            chunks, _, seconds = write_parts(
                self.entropy(), y, np.array([level]), parts, self.runtime.has_importance_map
            )
        stopwatch.move("entropy", "coding", seconds)
        return chunks

    def bits(self, y: Array, level: int, stopwatch: Stopwatch, parts: TileParts | None = None) -> float:
        """The estimated bits of a tile's chunk, or of its chunks if it has parts."""
        entropy = self.entropy()
        if parts is not None:
            with stopwatch("entropy"):
                return estimate_parts(entropy, y, np.array([level]), parts, self.runtime.has_importance_map)
        estimator = RateEstimator(entropy.cost())
        size, has_importance_map = (y.shape[1], y.shape[2]), self.runtime.has_importance_map
        with stopwatch("entropy"):
            code_latents(entropy, estimator, y, np.array([level]), size, has_importance_map)
        return float(estimator.bits[0])

    def read(self, data: bytes | None, size: tuple[int, int], level: int, stopwatch: Stopwatch) -> Array:
        """y_hat of one tile, [1, h, w, M]; size is h and w."""
        if data is None:
            raise Damaged("The coded latent of a tile does not match its check sum.")
        with stopwatch("entropy"):
            y_hat, seconds = read_latents(
                self.entropy(), data, np.array([level]), size, self.runtime.has_importance_map
            )
        stopwatch.move("entropy", "coding", seconds)
        return y_hat

    def pixels(
        self,
        y_hat: Array,
        canvas: Canvas,
        box: Region,
        level: int,
        condition: Condition[Any] | None,
        stopwatch: Stopwatch,
    ) -> NDArray[np.uint8]:
        """A box's pixels, uint8 [H, W, 3], from the latents of its halo, [1, h, w, M]."""
        with stopwatch("synthesis"):
            x_hat = self.runtime.synthesise(y_hat, level, condition)
            rows, columns = canvas.within_halo(box)
            return to_pixels(x_hat[0, :, rows, columns])


class TileChunks:
    """The chunks of the tiles of one image: one for each tile, or with components one for each of its parts.

    Args:
        tiles: codes the tiles.
        components: of the image; an empty tuple for a file without components.
        width, height: of the image in pixels.

    Raises:
        OptionError: for components that the image cannot have.
    """

    def __init__(self, tiles: TileCoder, components: tuple[Component, ...], width: int, height: int) -> None:
        self.tiles = tiles
        self.layout = ComponentLayout(components, width, height) if components else None
        if components:
            check_components(components, width, height)

    @property
    def layers(self) -> tuple[Layer, ...]:
        """The COMPONENTS layer, if there is one."""
        return () if self.layout is None else (Layer(Tag.COMPONENTS, (self.layout.to_bytes(),)),)

    def count(self, tiles: int) -> int:
        """The number of chunks of so many tiles."""
        return tiles if self.layout is None else len(self.layout.chunks)

    def write(self, latents: Iterable[Array], level: int, stopwatch: Stopwatch) -> tuple[bytes, ...]:
        """The chunks of all tiles, in the order of the file."""
        if self.layout is None:
            return tuple(self.tiles.write(y, level, stopwatch) for y in latents)
        found = [
            self.tiles.write_parts(y, level, tile_parts(self.layout, tile), stopwatch)
            for tile, y in enumerate(latents)
        ]
        return tuple(found[tile][part] for part, tile in self.layout.chunks)

    def bits(self, latents: Iterable[Array], level: int, stopwatch: Stopwatch) -> float:
        """An estimate of the bits of all chunks."""
        if self.layout is None:
            return sum(self.tiles.bits(y, level, stopwatch) for y in latents)
        parts = (tile_parts(self.layout, tile) for tile in range(self.layout.tile_count))
        bits = sum(self.tiles.bits(y, level, stopwatch, one) for y, one in zip(latents, parts, strict=True))
        return bits + 8 * END_BYTES * len(self.layout.chunks)


def to_pixels(x_hat: Array) -> NDArray[np.uint8]:
    """[3, H, W] in 0..1 → uint8 [H, W, 3]."""
    values = x_hat.transpose(1, 2, 0) * np.float32(255)
    np.rint(values, out=values)
    pixels: NDArray[np.uint8] = values.clip(0, 255, out=values).astype(np.uint8)
    return pixels


def with_kept(
    condition: Condition[Any] | None,
    layout: ComponentLayout | None,
    missing: Collection[tuple[int, int]],
    canvas: Canvas,
) -> Condition[Any] | None:
    """The condition with `kept`, if there are missing parts, each as (part, index of the tile)."""
    if layout is None or not missing:
        return condition
    wide, high = canvas.padded
    kept = np.ones((1, high // LATENT_STRIDE, wide // LATENT_STRIDE), np.bool_)
    for tile in canvas.tiles():
        lost = {part for part, index in missing if index == tile.index}
        if lost:
            parts = tile_parts(layout, tile.index)
            rows, columns = region_slices(canvas.core(tile))
            kept[0, rows, columns] = kept_positions(parts.numbers, lost)
    return replace(condition or Condition(), kept=kept)


def tile_parts(layout: ComponentLayout, tile: int) -> TileParts:
    """The parts of one tile."""
    x0, y0, x1, y1 = layout.tile_box(tile)
    numbers = np.frombuffer(layout.positions(tile), np.uint8).reshape(y1 - y0, x1 - x0)
    return TileParts(numbers, layout.parts[tile])


def track(items: Sequence[T], progress: Progress | None, between: tuple[float, float]) -> Iterator[T]:
    """The items, and after each the progress between the two fractions."""
    for number, item in enumerate(items, start=1):
        yield item
        if progress:
            progress(between[0] + (between[1] - between[0]) * number / len(items))
