"""Compose what a partial file lacks: latents of missing components, from the base preview and what is there.

The file has the hyper-latent of the whole image, so a network reads how much texture a missing position has,
and invents which. It runs on ONNX Runtime, whichever engine runs the codec. Each tile is composed by itself,
so a region is composed as the whole image is.
"""

from __future__ import annotations

from collections.abc import Collection, Sequence
from dataclasses import dataclass
from functools import lru_cache
from typing import TYPE_CHECKING, Any

import numpy as np

from trifocal.container.components import SIDE, ComponentLayout
from trifocal.entropy.coder import Array, Reader
from trifocal.entropy.latent_coding import code_side_information
from trifocal.errors import OptionError
from trifocal.graphs.session import Graphs
from trifocal.pictures.canvas import Canvas, region_slices
from trifocal.pictures.tiles import Tile
from trifocal.types import Condition
from trifocal.weights import WEIGHTS_FOLDER, as_array, metadata_of, read_arrays

if TYPE_CHECKING:
    from trifocal.codecs.runtime import Runtime
    from trifocal.codecs.tile_coding import TileCoder

__all__ = ["TRAINED_FOR", "WEIGHTS", "Composer", "load_composition"]

WEIGHTS = WEIGHTS_FOLDER / "composition.safetensors"
TRAINED_FOR = "trained_for"  # metadata: the fingerprint of a codec's weights, in version 2 and arithmetic 2
FEATURE_UNIT = {1: 1 / 4, 2: 256 / 4}  # by arithmetic: 2 has 256 times the features of 1


@lru_cache(maxsize=1)
def load_composition() -> Graphs:
    """The graph "composition" with the bundled weights. Raises WeightsError without them."""
    return Graphs("composition", read_arrays(WEIGHTS))


def check_trained_for(runtime: Runtime) -> None:
    """Raises OptionError for a codec whose features and latents the bundled weights do not know, and
    WeightsError if these are missing.
    """
    mark = int(metadata_of(WEIGHTS).get(TRAINED_FOR, "0"), 16)
    if mark != runtime.fingerprint(2, 2, False) and mark not in runtime.decodable_fingerprints(2, 2):
        load_composition()  # its error says so if the weights are missing
        raise OptionError("compose works with the bundled weights of dual-layer-compact only.")


@dataclass(frozen=True)
class Composer:
    """Composes tiles of one file.

    Args:
        coder: of the tiles.
        chunks, level, layout: of the file.

    Raises:
        OptionError: for a codec with other weights than the bundled ones.
        WeightsError: if the weights of the generator are missing.
    """

    coder: TileCoder
    chunks: Sequence[bytes | None]
    level: int
    layout: ComponentLayout

    def __post_init__(self) -> None:
        check_trained_for(self.coder.runtime)

    def add(
        self,
        y_hat: Array,
        canvas: Canvas,
        tiles: Sequence[Tile],
        condition: Condition[Any],
        missing: Collection[tuple[int, int]],
    ) -> set[int]:
        """Write composed values into y_hat where components are missing, in tiles that have side information.

        Args:
            y_hat: of the rectangle that the tiles fill, [1, h, w, M].
            condition: of the whole image, with `preview` and `kept`; without them nothing is composed.
            missing: parts, each as (part, index of the tile).

        Returns:
            The indices of the composed tiles.
        """
        if condition.preview is None or condition.kept is None:
            return set()
        frame = canvas.frame(tiles)
        composed = {tile for _, tile in missing} - {tile for part, tile in missing if part == SIDE}
        for tile in tiles:
            if tile.index in composed:
                core = canvas.core(tile)
                own = y_hat[:, *region_slices(core, frame=frame)]
                near = condition.within(*region_slices(core))
                assert near.kept is not None
                own[~near.kept] = self._addition(tile, own, near)[~near.kept]
        return composed

    def _addition(self, tile: Tile, y_hat: Array, condition: Condition[Any]) -> Array:
        """What to add to the latent of the base preview, [1, h, w, M]."""
        runtime: Any = self.coder.runtime
        preview = runtime.preview_latent(condition)
        assert condition.kept is not None
        (found,) = load_composition().run(
            "composition",
            known=y_hat + preview * runtime.trust,
            preview=preview,
            features=self._features(tile, (y_hat.shape[1], y_hat.shape[2])),
            kept=condition.kept[..., None].astype(np.float32),
            level=np.array([self.level]),
        )
        return found

    def _features(self, tile: Tile, size: tuple[int, int]) -> Array:
        """The features of the hyper synthesis from a tile's side information, [1, h, w, F], about −16..16."""
        entropy, data = self.coder.entropy(), self.chunks[self.layout.chunks[SIDE, tile.index]]
        assert data is not None
        reader, level = Reader(entropy.models(), data), np.array([self.level])
        side = code_side_information(
            entropy, reader, None, level, size, self.coder.runtime.has_importance_map
        )
        arithmetic = self.coder.arithmetic or self.coder.runtime.arithmetics[-1]
        return np.asarray(as_array(side.features) / FEATURE_UNIT[arithmetic], np.float32)
