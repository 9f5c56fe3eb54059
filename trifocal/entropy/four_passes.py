"""The four-pass context of the compact network, on NumPy arrays or torch tensors.

It defines which values a pass codes, and how their mean and scale index are predicted. In every pass, each
position of a 2×2 neighbourhood codes another quarter of the channels, so a value is predicted from its
spatial neighbours and from other channels at its own position. The order of the positions is 0, 3, 1, 2
(diagonal first), rotated for each channel group.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, Protocol

import numpy as np
from numpy.typing import NDArray

from trifocal.entropy.tables import ROWS, ROWS_PER_OCTAVE
from trifocal.utils.arrays import namespace, zeros

__all__ = [
    "MEAN_BITS",
    "MEAN_BOUND",
    "ORDER",
    "PASSES",
    "Layers",
    "decoded_channels",
    "predict",
    "put",
    "take",
]

PASSES = 4
ORDER = (0, 3, 1, 2)
MEAN_BITS, MEAN_BOUND = 4, 2.0**14  # of a predicted mean: its grid and its largest magnitude


class Layers(Protocol):
    """The layers of the context model, float or integer: functions of arrays of one kind.

    Attributes:
        linear_channels: number of leading channels whose mean is also predicted linearly from 3×3 neighbours.
        start, normalise, mean_scale, index: levels [B] → a vector each, [B, 1, 1, C].
        compress, snap_mean: clamps of decoded values and of means.
        adapt, heads, neighbours: a list each, with layers for each pass.
        blocks: the layers that all passes share.
    """

    @property
    def linear_channels(self) -> int: ...
    @property
    def start(self) -> Any: ...
    @property
    def normalise(self) -> Any: ...
    @property
    def mean_scale(self) -> Any: ...
    @property
    def index(self) -> Any: ...
    @property
    def compress(self) -> Any: ...
    @property
    def snap_mean(self) -> Any: ...
    @property
    def adapt(self) -> Any: ...
    @property
    def blocks(self) -> Any: ...
    @property
    def heads(self) -> Any: ...
    @property
    def neighbours(self) -> Any: ...


def take(y: Any, pass_index: int) -> Any:
    """The values of a pass: [B, h, w, M] → [B, h/2, w/2, 4, M/4], h and w even."""
    b, h, w, m = y.shape
    y = y.reshape(b, h // 2, 2, w // 2, 2, m // 4, 4)
    quarters = [y[:, :, p // 2, :, p % 2, :, ORDER[pass_index] ^ p] for p in range(4)]
    return namespace(y).stack(quarters, 3)


def put(part: Any, pass_index: int) -> Any:
    """The inverse of `take`, zero at values of other passes: [B, h/2, w/2, 4, M/4] → [B, h, w, M]."""
    b, h, w, _, m = part.shape
    y = zeros((b, h, 2, w, 2, m, 4), part)
    for p in range(4):
        y[:, :, p // 2, :, p % 2, :, ORDER[pass_index] ^ p] = part[:, :, :, p]
    return y.reshape(b, 2 * h, 2 * w, 4 * m)


def decoded_channels(channels: int, pass_index: int) -> NDArray[np.int64]:
    """Indices of the channels, and then of their magnitudes, that pass `pass_index` can use at each of the
    four positions, [4, 2·pass_index·M/4].
    """
    quarter = 4 * np.arange(channels // 4)
    earlier = [np.concatenate([quarter + (ORDER[s] ^ p) for s in range(pass_index)]) for p in range(4)]
    return np.stack([np.concatenate([own, channels + own]) for own in earlier])


def merge_positions(parts: Any) -> Any:
    """Move the four positions of each neighbourhood into the grid: [B, h/2, w/2, 4, C] → [B, h, w, C]."""
    b, h, w, _, c = parts.shape
    return parts.reshape(b, h, w, 2, 2, c).swapaxes(2, 3).reshape(b, 2 * h, 2 * w, c)


def predict(layers: Layers, pass_index: int, features: Any, y_hat: Any, level: Any) -> tuple[Any, Any]:
    """Mean and scale index (real-valued, within the tables) of the values of a pass.

    The blocks take magnitudes and signed values, since the scale does not depend on the sign of a
    coefficient.

    Args:
        layers: of the context model.
        pass_index: number of the pass.
        features: of the hyper synthesis, [B, h, w, W].
        y_hat: values decoded by earlier passes, zero elsewhere, [B, h, w, M].
        level: [B].

    Returns:
        [B, h/2, w/2, 4, M/4] each.
    """
    hidden = features + layers.start(level)
    if pass_index > 0:
        hidden = hidden + merge_positions(decoded_features(layers, pass_index, y_hat, level))
    raw_mean, raw_index = outputs(layers.heads[4 * pass_index : 4 * pass_index + 4], layers.blocks(hidden))
    mean = raw_mean * in_pass_order(layers.mean_scale(level), pass_index)
    if pass_index > 0:
        near = take(layers.neighbours[pass_index - 1](y_hat[..., : layers.linear_channels]), pass_index)
        mean[..., : near.shape[-1]] += near
    scale_index = raw_index * ROWS_PER_OCTAVE + in_pass_order(layers.index(level), pass_index)
    return layers.snap_mean(mean), scale_index.clip(0, ROWS - 1)


def decoded_features(layers: Layers, pass_index: int, y_hat: Any, level: Any) -> Any:
    """The contribution of the values of earlier passes to the input of the blocks, [B, h/2, w/2, 4, W]."""
    before, normalise = range(pass_index), layers.normalise(level)
    join = namespace(y_hat).concatenate
    decoded = join([take(y_hat, earlier) for earlier in before], -1)
    scale = join([in_pass_order(normalise, earlier) for earlier in before], -1)
    decoded = layers.compress(decoded * scale)
    return layers.adapt[pass_index - 1](join([decoded, abs(decoded)], -1))


def outputs(heads: Sequence[Any], hidden: Any) -> tuple[Any, Any]:
    """Raw mean and scale index from the head of each of the four positions."""
    b, h, w, c = hidden.shape
    positions = hidden.reshape(b, h // 2, 2, w // 2, 2, c)
    raw = [head(positions[:, :, p // 2, :, p % 2]) for p, head in enumerate(heads)]
    both = namespace(hidden).stack(raw, 3)
    quarter = both.shape[-1] // 2
    return both[..., :quarter], both[..., quarter:]


def in_pass_order(values: Any, pass_index: int) -> Any:
    """[B, 1, 1, M] → [B, 1, 1, 4, M/4] in the order of `take`."""
    groups = values.reshape(*values.shape[:3], -1, 4)
    return namespace(values).stack([groups[..., ORDER[pass_index] ^ p] for p in range(4)], 3)
