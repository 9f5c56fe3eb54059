"""Context models, which predict a coding pass from hyper features and earlier passes.

`FourPassContext`, of the compact network, has four passes, after the four-step spatial prior of DCVC's image
model; `four_passes.py` has their order. `SinglePass` has no context: the mean–scale hyperprior. ELIC's is in
`elic.py`, and MLIC++'s in `mlic.py`.
"""

from abc import ABC, abstractmethod
from math import pi, sqrt
from typing import cast

import torch
from torch import Tensor, nn

from trifocal.entropy.four_passes import MEAN_BITS, MEAN_BOUND, PASSES, decoded_channels, predict, put, take
from trifocal.entropy.integer_networks import Clamp
from trifocal.entropy.tables import ROWS, ROWS_PER_OCTAVE, SMALLEST_SCALE
from trifocal.layers import Block, Depthwise, PlacedLinear, QualityInterpolation, zero_init


class ContextModel(nn.Module, ABC):
    """The interface of a context model.

    `forward` and `residual` also run on the integer forms of its children, in float64. They may only add,
    multiply by values on the grid (`integer_arithmetic.py`), permute, and take maxima. The mean and residual
    that they return must come from a `Clamp`, and the scale index must be clamped to 0..ROWS − 1.

    Attributes:
        passes: number of coding passes.
        normalise: factor per quality and channel that scales values in quantiser steps to about unit size,
            also for the hyper analysis.
    """

    passes: int
    normalise: QualityInterpolation

    @abstractmethod
    def take(self, y: Tensor, pass_index: int) -> Tensor:
        """The values that pass `pass_index` codes: [B, h, w, M] → a tensor of any shape, B first."""

    @abstractmethod
    def put(self, part: Tensor, pass_index: int) -> Tensor:
        """The inverse of `take`, [B, h, w, M], zero at values of other passes."""

    @abstractmethod
    def forward(
        self, pass_index: int, features: Tensor, y_hat: Tensor, level: Tensor
    ) -> tuple[Tensor, Tensor]:
        """The mean, in quantiser steps, and the scale index of the values of a pass.

        Args:
            pass_index: number of the pass.
            features: of the hyper synthesis, [B, h, w, W].
            y_hat: values decoded by earlier passes, in quantiser steps, zero elsewhere, [B, h, w, M].
            level: [B].

        Returns:
            Mean, and scale index (real-valued, 0..ROWS-1), each of the shape of `take`.
        """

    def residual(self, pass_index: int, features: Tensor, y_hat: Tensor, level: Tensor) -> Tensor | None:
        """The predicted error of rounding the values of a pass (latent residual prediction, Minnen and Singh
        2020), [B, h, w, M], zero at values of other passes; None without a prediction.

        The arguments are those of `forward`, but y_hat includes the values of this pass.
        """
        return None


class LevelParameters(nn.Module):
    """Converts a network's output, in units of y, to mean and scale index in quantiser steps.

    The size of a step depends on the quality. The published models have one network per rate and do not need
    this.

    Args:
        step_sizes: quantiser step at each quality knot, [K], in units of y.
        channels: M.
    """

    def __init__(self, step_sizes: Tensor, channels: int) -> None:
        super().__init__()
        spread = (1 / step_sizes)[:, None].expand(-1, channels)
        self.mean_scale = QualityInterpolation(spread)
        self.index = QualityInterpolation(_scale_index(spread))
        self.snap = Clamp(MEAN_BITS, bound=MEAN_BOUND)

    def forward(self, raw: Tensor, level: Tensor, channels: slice = slice(None)) -> tuple[Tensor, Tensor]:
        """raw [B, h, w, 2·C], mean and log₂ of the scale of the C latent channels in the slice."""
        raw_mean, raw_index = raw.chunk(2, dim=-1)
        mean = raw_mean * self.mean_scale(level)[..., channels]
        scale_index = raw_index * ROWS_PER_OCTAVE + self.index(level)[..., channels]
        return self.snap(mean), scale_index.clamp(0, ROWS - 1)


class SinglePass(ContextModel):
    """No context: the mean–scale hyperprior (Minnen et al. 2018 without autoregression), as in HiFiC.

    The hyper features are mean and log₂ of the scale in units of y, [B, h, w, 2·M].

    Args:
        latent_channels: M.
        step_sizes: quantiser step at each quality knot, [K], in units of y.
    """

    passes = 1

    def __init__(self, latent_channels: int, step_sizes: Tensor) -> None:
        super().__init__()
        self.normalise = QualityInterpolation(step_sizes[:, None].expand(-1, latent_channels))
        self.of_level = LevelParameters(step_sizes, latent_channels)

    def take(self, y: Tensor, pass_index: int) -> Tensor:
        return y

    def put(self, part: Tensor, pass_index: int) -> Tensor:
        return part

    def forward(
        self, pass_index: int, features: Tensor, y_hat: Tensor, level: Tensor
    ) -> tuple[Tensor, Tensor]:
        return cast(tuple[Tensor, Tensor], self.of_level(features, level))


class ZeroMean(SinglePass):
    """No context and no mean: the scale hyperprior (Ballé et al. 2018).

    The hyper features are log₂ of the scale in units of y, [B, h, w, M].

    Args:
        latent_channels, step_sizes: as in `SinglePass`.
    """

    def forward(
        self, pass_index: int, features: Tensor, y_hat: Tensor, level: Tensor
    ) -> tuple[Tensor, Tensor]:
        raw = torch.cat([torch.zeros_like(features), features], dim=-1)
        return super().forward(pass_index, raw, y_hat, level)


class FourPassContext(ContextModel):
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
        self.compress = Clamp(bound=8.0)
        self.adapt = nn.ModuleList(
            [
                PlacedLinear(
                    2 * latent_channels, width, torch.from_numpy(decoded_channels(latent_channels, s))
                )
                for s in range(1, PASSES)
            ]
        )
        self.blocks = nn.Sequential(*[Block(width) for _ in range(blocks)])
        self.heads = nn.ModuleList([zero_init(nn.Linear(width, 2 * quarter)) for _ in range(4 * PASSES)])
        self.neighbours = nn.ModuleList(
            [zero_init(Depthwise(linear_channels, bias=False)) for _ in range(PASSES - 1)]
        )
        self.snap_mean = Clamp(MEAN_BITS, bound=MEAN_BOUND)

    def take(self, y: Tensor, pass_index: int) -> Tensor:
        return cast(Tensor, take(y, pass_index))

    def put(self, part: Tensor, pass_index: int) -> Tensor:
        return cast(Tensor, put(part, pass_index))

    def forward(
        self, pass_index: int, features: Tensor, y_hat: Tensor, level: Tensor
    ) -> tuple[Tensor, Tensor]:
        return cast(tuple[Tensor, Tensor], predict(self, pass_index, features, y_hat, level))


def _scale_index(spread: Tensor) -> Tensor:
    """Real-valued row of the table whose logistic has this standard deviation (π/√3 times its scale)."""
    return torch.log2(spread * sqrt(3) / pi / SMALLEST_SCALE).mul(ROWS_PER_OCTAVE).clamp(0, ROWS - 1)
