"""The coding of tiles: pixels ⇄ latents ⇄ bytes, with a halo around each tile."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from typing import Any, TypeVar

import numpy as np
from numpy.typing import NDArray

from trifocal.codecs.runtime import Runtime
from trifocal.entropy import RateEstimator
from trifocal.entropy.coder import Array
from trifocal.entropy.latent_coding import code_latents, read_latents, write_latents
from trifocal.errors import Damaged
from trifocal.pictures.canvas import Canvas, paste, region_slices
from trifocal.pictures.tiles import Region, Tile
from trifocal.types import LATENT_STRIDE, Condition
from trifocal.utils.timing import Stopwatch

__all__ = ["Progress", "TileCoder", "track"]

GREY = 128

Progress = Callable[[float], None]
T = TypeVar("T")


class TileCoder:
    """Codes the tiles of an image.

    Args:
        runtime: runs the networks.
    """

    def __init__(self, runtime: Runtime) -> None:
        self.runtime = runtime

    def read_tiles(
        self,
        chunks: Sequence[bytes | None],
        level: int,
        canvas: Canvas,
        tiles: Sequence[Tile],
        best_effort: bool,
        progress: Progress | None,
        stopwatch: Stopwatch,
    ) -> tuple[Array, set[int]]:
        """y_hat of the frame of the tiles, [1, h, w, M], and the numbers of the damaged ones."""
        frame = canvas.frame(tiles)
        rows_in_all, columns_in_all = frame[3] // LATENT_STRIDE, frame[2] // LATENT_STRIDE
        y_hat = np.zeros((1, rows_in_all, columns_in_all, self.runtime.latent_channels), dtype=np.float32)
        lost = set()
        for tile in track(tiles, progress, (0.0, 0.6)):
            rows, columns = region_slices(canvas.core(tile), frame=frame)
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
        return y_hat, lost

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
        for tile in track(canvas.tiles_in(region), progress, (0.6, 1.0)):
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
        with stopwatch("entropy"):
            data, _, seconds = write_latents(
                self.runtime.entropy(), y, np.array([level]), self.runtime.has_importance_map
            )
        stopwatch.move("entropy", "coding", seconds)
        return data

    def bits(self, y: Array, level: int, stopwatch: Stopwatch) -> float:
        entropy = self.runtime.entropy()
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
                self.runtime.entropy(), data, np.array([level]), size, self.runtime.has_importance_map
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
            values = x_hat[0, :, rows, columns].transpose(1, 2, 0) * np.float32(255)
            np.rint(values, out=values)
            return values.clip(0, 255, out=values).astype(np.uint8)


def track(items: Sequence[T], progress: Progress | None, between: tuple[float, float]) -> Iterator[T]:
    """The items, and after each the progress between the two fractions."""
    for number, item in enumerate(items, start=1):
        yield item
        if progress:
            progress(between[0] + (between[1] - between[0]) * number / len(items))
