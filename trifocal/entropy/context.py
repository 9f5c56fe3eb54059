"""Context models: predict the values of a coding pass from hyper features and earlier passes.

`Context`, of the compact network, has four passes: in every pass, each position of a 2×2 neighbourhood codes
another quarter of the channels, so a value is predicted from its spatial neighbours and from other channels
at its own position. It follows the four-step spatial prior of DCVC's image model; the order of the positions
is 0, 3, 1, 2 (diagonal first), rotated for each channel group. `SinglePass` has no context: the mean–scale
hyperprior. ELIC's is in `groups.py`.
"""

from abc import ABC, abstractmethod
from math import pi, sqrt
from typing import cast

import torch
from torch import Tensor, nn

from trifocal.entropy.integer_networks import Snap
from trifocal.entropy.tables import ROWS, ROWS_PER_OCTAVE, SMALLEST_SCALE
from trifocal.layers import Block, Depthwise, PlacedLinear, QualityInterpolation, zero_init

PASSES = 4
ORDER = (0, 3, 1, 2)
MEAN_BITS = 4


def take(y: Tensor, step: int) -> Tensor:
    """The values that pass `step` codes: [B, h, w, M] → [B, h/2, w/2, 4, M/4], h and w even."""
    b, h, w, m = y.shape
    y = y.reshape(b, h // 2, 2, w // 2, 2, m // 4, 4)
    places = [y[:, :, p // 2, :, p % 2, :, ORDER[step] ^ p] for p in range(4)]
    return torch.stack(places, dim=3)


def put(part: Tensor, step: int) -> Tensor:
    """The inverse of `take`, zero at values of other passes: [B, h/2, w/2, 4, M/4] → [B, h, w, M]."""
    b, h, w, _, m = part.shape
    y = part.new_zeros(b, h, 2, w, 2, m, 4)
    for p in range(4):
        y[:, :, p // 2, :, p % 2, :, ORDER[step] ^ p] = part[:, :, :, p]
    return y.reshape(b, 2 * h, 2 * w, 4 * m)


def known(channels: int, step: int) -> Tensor:
    """Indices of the channels, and then of their magnitudes, that pass `step` knows at each of the four
    positions, [4, 2·step·M/4].
    """
    quarter = 4 * torch.arange(channels // 4)
    places = [torch.cat([quarter + (ORDER[s] ^ p) for s in range(step)]) for p in range(4)]
    return torch.stack([torch.cat([own, channels + own]) for own in places])


def together(parts: Tensor) -> Tensor:
    """Move the four positions of each neighbourhood into the grid: [B, h/2, w/2, 4, C] → [B, h, w, C]."""
    b, h, w, _, c = parts.shape
    return parts.reshape(b, h, w, 2, 2, c).transpose(2, 3).reshape(b, 2 * h, 2 * w, c)


class ContextModel(nn.Module, ABC):
    """The interface of a context model.

    `forward` also runs on the integer forms of its children, in float64. It may only add, multiply by grid
    values, permute, and take maxima; a returned mean has passed a `Snap`, and an index a clamp.

    Attributes:
        passes: number of passes.
        normalise: factor per quality and channel that scales values in quantiser steps to about unit size,
            also for the hyper analysis.
    """

    passes: int
    normalise: QualityInterpolation

    @abstractmethod
    def take(self, y: Tensor, step: int) -> Tensor:
        """The values that pass `step` codes: [B, h, w, M] → a tensor of any shape, B first."""

    @abstractmethod
    def put(self, part: Tensor, step: int) -> Tensor:
        """The inverse of `take`, [B, h, w, M], zero at values of other passes."""

    @abstractmethod
    def forward(self, step: int, features: Tensor, y_hat: Tensor, level: Tensor) -> tuple[Tensor, Tensor]:
        """The mean, in quantiser steps, and the scale index of the values of a pass.

        Args:
            step: number of the pass.
            features: of the hyper synthesis, [B, h, w, W].
            y_hat: values decoded by earlier passes, in quantiser steps, zero elsewhere, [B, h, w, M].
            level: [B].

        Returns:
            Mean, and scale index (real-valued, 0..ROWS-1), each of the shape of `take`.
        """


class LevelParameters(nn.Module):
    """From a network's output in units of y to mean and scale index in quantiser steps, which depend on the
    quality.

    The published models have one network per rate and do not need this.

    Args:
        steps: quantiser step at each quality knot, [K], in units of y.
        channels: M.
    """

    def __init__(self, steps: Tensor, channels: int) -> None:
        super().__init__()
        spread = (1 / steps)[:, None].expand(-1, channels)
        self.mean_scale = QualityInterpolation(spread)
        self.index = QualityInterpolation(_scale_index(spread))
        self.snap = Snap(MEAN_BITS, bound=2.0**14)

    def forward(self, raw: Tensor, level: Tensor, channels: slice = slice(None)) -> tuple[Tensor, Tensor]:
        """raw [B, h, w, 2·C], mean and log₂ of the scale of the C latent channels in the slice."""
        raw_mean, raw_index = raw.chunk(2, dim=-1)
        mean = raw_mean * self.mean_scale(level)[..., channels]
        scale_index = raw_index * ROWS_PER_OCTAVE + self.index(level)[..., channels]
        return self.snap(mean), scale_index.clamp(0, ROWS - 1)


class SinglePass(ContextModel):
    """No context: the mean–scale hyperprior (Minnen et al. 2018, without its autoregressive part; HiFiC's
    too).

    The hyper features are mean and log₂ of the scale in units of y, [B, h, w, 2·M].

    Args:
        latent_channels: M.
        steps: quantiser step at each quality knot, [K], in units of y.
    """

    passes = 1

    def __init__(self, latent_channels: int, steps: Tensor) -> None:
        super().__init__()
        self.normalise = QualityInterpolation(steps[:, None].expand(-1, latent_channels))
        self.of_level = LevelParameters(steps, latent_channels)

    def take(self, y: Tensor, step: int) -> Tensor:
        return y

    def put(self, part: Tensor, step: int) -> Tensor:
        return part

    def forward(self, step: int, features: Tensor, y_hat: Tensor, level: Tensor) -> tuple[Tensor, Tensor]:
        return cast(tuple[Tensor, Tensor], self.of_level(features, level))


class Context(ContextModel):
    """Mean and scale index of the values of one pass, from hyper features and decoded values.

    Args:
        latent_channels: M, a multiple of 4.
        width: W of the hyper features and the blocks.
        blocks: number of blocks, shared by the passes.
        spread: initial standard deviation of each scaled latent channel at each quality knot, [K, M].
        linear_channels: number of leading channels whose mean is also predicted linearly from 3×3 neighbours.
    """

    passes = PASSES

    def __init__(
        self, latent_channels: int, width: int, blocks: int, spread: Tensor, linear_channels: int = 32
    ) -> None:
        super().__init__()
        quarter = latent_channels // 4
        self.linear_channels = linear_channels = min(linear_channels, latent_channels)
        self.normalise = QualityInterpolation(1 / spread)
        self.mean_scale = QualityInterpolation(spread / spread.log().mean(0).exp().sqrt())
        self.index = QualityInterpolation(_scale_index(spread))
        self.start = QualityInterpolation(torch.zeros(len(spread), width))
        self.compress = Snap(bound=8.0)
        self.adapt = nn.ModuleList(
            [PlacedLinear(2 * latent_channels, width, known(latent_channels, s)) for s in range(1, PASSES)]
        )
        self.blocks = nn.Sequential(*[Block(width) for _ in range(blocks)])
        self.heads = nn.ModuleList([zero_init(nn.Linear(width, 2 * quarter)) for _ in range(4 * PASSES)])
        self.neighbours = nn.ModuleList(
            [zero_init(Depthwise(linear_channels, bias=False)) for _ in range(PASSES - 1)]
        )
        self.snap_mean = Snap(MEAN_BITS, bound=2.0**14)

    def take(self, y: Tensor, step: int) -> Tensor:
        return take(y, step)

    def put(self, part: Tensor, step: int) -> Tensor:
        return put(part, step)

    def forward(self, step: int, features: Tensor, y_hat: Tensor, level: Tensor) -> tuple[Tensor, Tensor]:
        """The blocks take magnitudes and signed values, since the scale does not depend on the sign of a
        coefficient.

        features [B, h, w, W], y_hat [B, h, w, M] with zeros for values of later passes, level [B] →
        mean and scale index (real-valued, within the tables), each [B, h/2, w/2, 4, M/4].
        """
        hidden = features + self.start(level)
        if step > 0:
            before = range(step)
            decoded = torch.cat([take(y_hat, earlier) for earlier in before], dim=-1)
            normalise = self.normalise(level)
            decoded = self.compress(
                decoded * torch.cat([self._in_step(normalise, earlier) for earlier in before], dim=-1)
            )
            news = self.adapt[step - 1](torch.cat([decoded, decoded.abs()], dim=-1))
            hidden = hidden + together(news)
        hidden = self.blocks(hidden)
        raw_mean, raw_index = self._heads(step, hidden)
        mean = raw_mean * self._in_step(self.mean_scale(level), step)
        if step > 0:
            mean = mean + self._linear_mean(step, y_hat, raw_mean.shape[-1])
        scale_index = raw_index * ROWS_PER_OCTAVE + self._in_step(self.index(level), step)
        return self.snap_mean(mean), scale_index.clamp(0, ROWS - 1)

    def _heads(self, step: int, hidden: Tensor) -> tuple[Tensor, Tensor]:
        b, h, w, c = hidden.shape
        places = hidden.reshape(b, h // 2, 2, w // 2, 2, c)
        heads = self.heads[4 * step : 4 * step + 4]
        raw = torch.stack([head(places[:, :, p // 2, :, p % 2]) for p, head in enumerate(heads)], dim=3)
        mean, index = raw.chunk(2, dim=-1)
        return mean, index

    def _in_step(self, values: Tensor, step: int) -> Tensor:
        """[B, 1, 1, M] → [B, 1, 1, 4, M/4] in the order of `take`."""
        groups = values.reshape(*values.shape[:3], -1, 4)
        return torch.stack([groups[..., ORDER[step] ^ p] for p in range(4)], dim=3)

    def _linear_mean(self, step: int, y_hat: Tensor, quarter: int) -> Tensor:
        linear = take(self.neighbours[step - 1](y_hat[..., : self.linear_channels]), step)
        return torch.nn.functional.pad(linear, (0, quarter - linear.shape[-1]))


def _scale_index(spread: Tensor) -> Tensor:
    """Real-valued row of the table whose logistic has this standard deviation (π/√3 times its scale)."""
    return torch.log2(spread * sqrt(3) / pi / SMALLEST_SCALE).mul(ROWS_PER_OCTAVE).clamp(0, ROWS - 1)
