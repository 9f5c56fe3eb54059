"""Compose what a partial file lacks: latents of missing components, from the base preview and what is there.

The file has the hyper-latent of the whole image, so a network reads how much texture a missing position has,
and invents which. It runs on ONNX Runtime, whichever engine runs the codec.
"""

from __future__ import annotations

from collections.abc import Sequence
from functools import lru_cache
from typing import TYPE_CHECKING, Any

import numpy as np

from trifocal.container.components import SIDE, ComponentLayout
from trifocal.entropy.coder import Array, Reader
from trifocal.entropy.latent_coding import code_side_information
from trifocal.graphs.session import Graphs
from trifocal.pictures.canvas import Canvas, intersection, region_slices
from trifocal.pictures.tiles import Region, Tile
from trifocal.types import Condition
from trifocal.weights import WEIGHTS_FOLDER, read_arrays

if TYPE_CHECKING:
    from trifocal.codecs.tile_coding import TileCoder

__all__ = ["WEIGHTS", "add_composition", "load_composition"]

WEIGHTS = WEIGHTS_FOLDER / "composition.safetensors"
MARGIN = 256  # pixels around a tile that the network sees, more than its receptive field of 10 positions
FEATURE_UNIT = {1: 1 / 4, 2: 256 / 4}  # by the arithmetic of a file


@lru_cache(maxsize=1)
def load_composition() -> Graphs:
    """The graph "composition" with the bundled weights. Raises WeightsError without them."""
    return Graphs("composition", read_arrays(WEIGHTS))


def add_composition(
    y_hat: Array,
    chunks: Sequence[bytes | None],
    level: int,
    layout: ComponentLayout | None,
    canvas: Canvas,
    tiles: Sequence[Tile],
    condition: Condition[Any] | None,
    coder: TileCoder,
) -> Array:
    """y_hat of the frame of some tiles, with composed values where components are missing, if the condition
    asks for them; unchanged without a base preview, and in tiles without side information.

    Args:
        y_hat: [1, h, w, M], 0 where values are missing.
        chunks, level, layout: of the file.
        tiles: that fill a rectangle.
        condition: of the whole image.
        coder: of the tiles.
    """
    if layout is None or condition is None or condition.preview is None:
        return y_hat
    if condition.kept is None or not condition.compose:
        return y_hat
    frame = canvas.frame(tiles)
    features = np.zeros((*y_hat.shape[:3], 0), np.float32)
    composed = y_hat.copy()
    for tile in tiles:
        data = chunks[layout.chunks[SIDE, tile.index]]
        if data is not None:
            rows, columns = region_slices(canvas.core(tile), frame=frame)
            own = side_features(coder, data, level, (rows.stop - rows.start, columns.stop - columns.start))
            if not features.shape[3]:
                features = np.zeros((*y_hat.shape[:3], own.shape[3]), np.float32)
            features[:, rows, columns] = own
    for tile in tiles:
        core = canvas.core(tile)
        if chunks[layout.chunks[SIDE, tile.index]] is None or condition.kept[:, *region_slices(core)].all():
            continue
        around = with_margin(core, frame)
        at, within = region_slices(around, frame=frame), region_slices(core, frame=around)
        near = condition.within(*region_slices(around))
        found = addition(coder.runtime, y_hat[:, *at], features[:, *at], level, near)
        assert near.kept is not None
        missing = ~near.kept[:, *within]
        composed[:, *region_slices(core, frame=frame)][missing] = found[:, *within][missing]
    return composed


def side_features(coder: TileCoder, data: bytes, level: int, size: tuple[int, int]) -> Array:
    """The features of the hyper synthesis from a tile's side information, [1, h, w, F], about −16..16."""
    entropy = coder.entropy()
    side = code_side_information(
        entropy,
        Reader(entropy.models(), data),
        None,
        np.array([level]),
        size,
        coder.runtime.has_importance_map,
    )
    features = side.features if isinstance(side.features, np.ndarray) else side.features.cpu().numpy()
    arithmetic = coder.arithmetic or coder.runtime.arithmetics[-1]
    return np.asarray(features / FEATURE_UNIT[arithmetic], np.float32)


def addition(runtime: Any, y_hat: Array, features: Array, level: int, condition: Condition[Any]) -> Array:
    """What to add to the latent of the base preview, [1, h, w, M]."""
    preview = runtime.preview_latent(condition)
    assert condition.kept is not None
    (found,) = load_composition().run(
        "composition",
        known=y_hat + preview * runtime.trust,
        preview=preview,
        features=features,
        kept=condition.kept[..., None].astype(np.float32),
        level=np.array([level]),
    )
    return found


def with_margin(region: Region, frame: Region) -> Region:
    """The region with MARGIN on each side, inside the frame."""
    x, y, width, height = region
    return intersection((x - MARGIN, y - MARGIN, width + 2 * MARGIN, height + 2 * MARGIN), frame)
