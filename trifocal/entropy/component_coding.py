"""Code the latent of a tile in parts: side information, components, and the rest.

A component is predicted without the others, and the rest with all of them:

    side information ── features ──┬── passes at component 1 ──┐
                                   ├── passes at component 2 ──┤
                                   └── passes at the rest ─────┴── y_hat

FORMAT.md, "COMPONENTS chunks", specifies the order and the windows.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Collection, Mapping
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import numpy.typing as npt

from trifocal.container.components import REST, SIDE
from trifocal.entropy.coder import Array, Coder, RateEstimator, Reader, Writer
from trifocal.entropy.latent_coding import (
    CodingNetworks,
    EntropyNetworks,
    SideInformation,
    code_side_information,
    code_values,
)
from trifocal.errors import Damaged
from trifocal.types import PartialTile, TileParts
from trifocal.utils.arrays import zeros

__all__ = [
    "TileParts",
    "code_present_parts",
    "estimate_parts",
    "kept_positions",
    "read_parts",
    "window",
    "write_parts",
]


class PartCoders(ABC):
    """Gives the coder of each part."""

    @abstractmethod
    def begin(self, part: int) -> Coder[Array] | None:
        """The coder of a part; None if the part is missing."""

    def end(self, part: int) -> None:
        """Called after the last symbol of a part. Raises Damaged."""

    def lose(self, part: int, error: Damaged) -> None:
        """Called for a part that is damaged: raises the error, or counts the part as missing."""
        raise error

    def skip(self, part: int) -> None:
        """Called for a part that cannot be coded, because another one is missing."""


def write_parts(
    entropy: CodingNetworks, y: Array, level: Array, tile: TileParts, has_importance_map: bool = False
) -> tuple[dict[int, bytes], Array, float]:
    """y of one tile, [1, h, w, M] (M + 1 with an importance map) → the chunk of each part, y_hat, and the
    seconds spent in the range coder.
    """
    writers = _Writers(entropy)
    y_hat = _code_parts(entropy, writers, y, level, tile, has_importance_map)
    return writers.chunks, y_hat, writers.seconds


def estimate_parts(
    entropy: CodingNetworks, y: Array, level: Array, tile: TileParts, has_importance_map: bool = False
) -> float:
    """The bits of all chunks of `write_parts`, without writing."""
    estimator = RateEstimator(entropy.cost())
    _code_parts(entropy, _OneCoder(estimator), y, level, tile, has_importance_map)
    return float(estimator.bits[0])


def code_present_parts(
    networks: EntropyNetworks[Any],
    estimator: Coder[Any],
    y: Any,
    level: Any,
    tile: PartialTile,
    has_importance_map: bool = False,
) -> Any:
    """y of one tile, as for `write_parts` → y_hat as `read_parts` has it from a file without the missing
    parts. The estimator counts the bits of the others.
    """
    return _code_parts(networks, _OneCoder(estimator, tile.missing), y, level, tile, has_importance_map)


def read_parts(
    entropy: CodingNetworks,
    chunks: Mapping[int, bytes | None],
    level: Array,
    tile: TileParts,
    channels: int,
    has_importance_map: bool = False,
    best_effort: bool = False,
) -> tuple[Array, set[int], float]:
    """The chunks of `write_parts`, None for those that are absent → y_hat, missing parts, seconds.

    The values of missing parts are 0. If a component of the tile is missing, so is the rest, which is
    predicted from all components; without the side information all parts are missing.

    Args:
        channels: M.
        best_effort: count damaged parts as missing, instead of raising Damaged.
    """
    readers = _Readers(entropy, chunks, best_effort)
    shape = (1, *tile.numbers.shape, channels)
    y_hat = _code_parts(entropy, readers, None, level, tile, has_importance_map, shape)
    return y_hat, readers.missing, readers.seconds


def kept_positions(numbers: Array, missing: Collection[int]) -> npt.NDArray[np.bool_]:
    """Which positions of a tile still have values when some of its parts are missing, [h, w]; none if the
    side information is missing.

    Args:
        numbers: the component of each position, [h, w].
        missing: parts.
    """
    return ~np.isin(numbers, [*missing]) & (SIDE not in missing)


def window(numbers: Array, component: int) -> tuple[slice, slice]:
    """The rows and columns on which a component is coded: the smallest rectangle with even edges that
    contains its positions.
    """
    rows, columns = np.nonzero(numbers == component)
    (top, bottom), (left, right) = (
        (int(at.min()) // 2 * 2, int(at.max()) // 2 * 2 + 2) for at in (rows, columns)
    )
    return slice(top, bottom), slice(left, right)


def _code_parts(
    networks: EntropyNetworks[Any],
    coders: PartCoders,
    y: Any,
    level: Any,
    tile: TileParts,
    has_importance_map: bool,
    shape: tuple[int, ...] = (),
) -> Any:
    """The only path between the latent of a tile with components and its coders. `shape` is that of y_hat,
    for readers.
    """
    size = tile.numbers.shape[0], tile.numbers.shape[1]

    def code_side(coder: Coder[Any]) -> SideInformation[Any]:
        side = code_side_information(networks, coder, y, level, size, has_importance_map)
        return side.predict_first(networks, level)

    side = _attempt(coders, SIDE, code_side)
    if side is None:
        return np.zeros(shape, np.float32)
    decoded = zeros(shape if side.scaled is None else side.scaled.shape, side.first[0])
    intact = True
    for part in tile.components:
        at = (slice(None), *window(tile.numbers, part))
        near, mask = side.window(*at[1:]), _mask(tile.numbers[at[1:]] == part, decoded)

        def code(coder: Coder[Any], near: Any = near, mask: Any = mask) -> Any:
            return code_values(networks, coder, near, level, mask)

        values = _attempt(coders, part, code)
        intact &= values is not None
        if values is not None:
            decoded[at] += values
    if REST in tile.parts and intact:
        mask = _mask(tile.numbers == REST, decoded)
        whole = _attempt(coders, REST, lambda c: code_values(networks, c, side, level, mask, decoded))
        decoded = decoded if whole is None else whole
    elif REST in tile.parts:
        coders.skip(REST)
    return side.unscale(networks, decoded, level)


def _attempt(coders: PartCoders, part: int, code: Any) -> Any:
    """What `code` makes with the part's coder; None if the part is missing or damaged."""
    try:
        coder = coders.begin(part)
        if coder is None:
            return None
        found = code(coder)
        coders.end(part)
    except Damaged as error:
        coders.lose(part, error)
        return None
    return found


def _mask(here: npt.NDArray[np.bool_], decoded: Any) -> Any:
    """[h, w] → [1, h, w, M], an array of the kind and type of `decoded`."""
    mask = zeros((1, *here.shape, decoded.shape[3]), decoded)
    mask[:, here] = 1
    return mask


@dataclass
class _OneCoder(PartCoders):
    """One coder for all parts but the missing ones."""

    coder: Coder[Any]
    missing: frozenset[int] = frozenset()

    def begin(self, part: int) -> Coder[Any] | None:
        return None if part in self.missing else self.coder


@dataclass
class _Writers(PartCoders):
    entropy: CodingNetworks
    chunks: dict[int, bytes] = field(default_factory=dict)
    seconds: float = 0.0

    def begin(self, part: int) -> Writer:
        self.writer = Writer(self.entropy.models())
        return self.writer

    def end(self, part: int) -> None:
        self.chunks[part] = self.writer.bytes()
        self.seconds += self.writer.seconds


@dataclass
class _Readers(PartCoders):
    entropy: CodingNetworks
    chunks: Mapping[int, bytes | None]
    best_effort: bool
    missing: set[int] = field(default_factory=set)
    seconds: float = 0.0

    def begin(self, part: int) -> Reader | None:
        chunk = self.chunks[part]
        if chunk is None:
            self.skip(part)
            return None
        self.reader = Reader(self.entropy.models(), chunk)
        return self.reader

    def end(self, part: int) -> None:
        self.reader.end()
        self.seconds += self.reader.seconds

    def lose(self, part: int, error: Damaged) -> None:
        if not self.best_effort:
            raise error
        self.skip(part)

    def skip(self, part: int) -> None:
        self.missing |= {*self.chunks} if part == SIDE else {part}
