"""ELIC's context model: uneven groups of channels, each coded in two checkerboard passes.

D. He et al., "ELIC: Efficient Learned Image Compression with Unevenly Grouped Space-Channel Contextual
Adaptive Coding" (CVPR 2022), sections 3.1 to 3.3 and figure 3; sizes as in CompressAI's `elic2022-official`.
"""

from collections.abc import Sequence
from typing import cast

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from trifocal.entropy.checkerboard import CheckerboardContext, take_checkerboard
from trifocal.entropy.context import LevelParameters
from trifocal.entropy.gain import Gain
from trifocal.entropy.hyperprior import EntropyModel, ExactNetworks, Prior
from trifocal.layers import Conv
from trifocal.transforms.elic import elic_hyper_analysis, elic_hyper_synthesis


class ElicContext(CheckerboardContext):
    """Two passes per group: its anchors, then the non-anchors.

        anchors            features ──────────────────────────────── cat ── three layers ── mean, scale index
        and non-anchors    all groups before ── 5×5, 5×5, 5×5 ───────┤
        non-anchors only   this group's anchors ── 5×5 ──────────────┘ (zero for the anchors)

    The 5×5 kernel needs no checkerboard mask: masked positions are zero, since nothing is decoded there. The
    weights at those taps get no gradient; parameter counts include them, as in the published models.

    Differences from the paper, and choices where paper and code differ:
        - A logistic and a row of the integer tables instead of a Gaussian: the last layer gives the mean and
          log₂ of the scale in units of y, and `LevelParameters` converts them to quantiser
          steps and a scale index.
        - One model for all rates: the paper has one per rate, and neither `normalise` nor `LevelParameters`.
        - Anchors: in TACO's code the positions whose row + column is odd, in CompressAI's the even ones.
        - Channel context from all earlier groups (the paper); the Chandelier re-implementation takes the
          first and the previous one.
        - No state is kept between passes, so a group's channel context is computed in both of its passes.

    Args:
        sizes: channels of each group; their sum is M.
        width: W of the hyper features, 2·N in the paper, and the minimum width inside the three aggregation
            layers.
        step_sizes: quantiser step at each quality knot, [K], in units of y.
        hidden: widths inside the channel context.
        odd_anchors: whether row + column of the anchors is odd.
    """

    def __init__(
        self,
        sizes: Sequence[int],
        width: int,
        step_sizes: Tensor,
        hidden: tuple[int, int] = (224, 128),
        odd_anchors: bool = True,
    ) -> None:
        super().__init__(sizes, step_sizes, odd_anchors)
        self.channel = nn.ModuleList(
            channel_context(group.start, *hidden, 2 * size)
            for group, size in zip(self.groups[1:], sizes[1:], strict=True)
        )
        self.spatial = nn.ModuleList(Conv(size, 2 * size, 5) for size in sizes)
        self.aggregation = nn.ModuleList(
            three_layer_mlp(width + (4 if number else 2) * size, 2 * size, least=width)
            for number, size in enumerate(sizes)
        )
        self.of_level = LevelParameters(step_sizes, sum(sizes))

    def forward(
        self, pass_index: int, features: Tensor, y_hat: Tensor, level: Tensor
    ) -> tuple[Tensor, Tensor]:
        number, is_non_anchor = divmod(pass_index, 2)
        own = self.groups[number]
        decoded = self.decoded_groups(pass_index, y_hat, level)
        parts = [features]
        if number > 0:
            parts.append(self.channel[number - 1](decoded[..., : own.start]))
        if is_non_anchor:
            parts.append(self.spatial[number](decoded[..., own]))
        inputs = take_checkerboard(torch.cat(parts, dim=-1), self.is_odd(pass_index))
        if not is_non_anchor:
            inputs = F.pad(inputs, (0, 2 * (own.stop - own.start)))
        raw = self.aggregation[number](inputs)
        return cast(tuple[Tensor, Tensor], self.of_level(raw, level, own))


def channel_context(inputs: int, first: int, second: int, outputs: int) -> nn.Sequential:
    """Features of earlier groups: three 5×5 convolutions."""
    return nn.Sequential(
        Conv(inputs, first, 5), nn.ReLU(), Conv(first, second, 5), nn.ReLU(), Conv(second, outputs, 5)
    )


def three_layer_mlp(inputs: int, outputs: int, least: int) -> nn.Sequential:
    """Three layers per position, with widths linear from inputs to outputs, but not below `least` inside."""
    first, second = (max(least, inputs + (outputs - inputs) * part // 3) for part in (1, 2))
    return nn.Sequential(
        nn.Linear(inputs, first), nn.ReLU(), nn.Linear(first, second), nn.ReLU(), nn.Linear(second, outputs)
    )


def elic_hyperprior(
    channels: int,
    sizes: Sequence[int],
    step_sizes: Tensor,
    hidden: tuple[int, int] = (224, 128),
    odd_anchors: bool = True,
) -> EntropyModel:
    """ELIC's entropy model: its hyperprior, with N channels of z, and `ElicContext`.

    The prior of z has a mean and a scale per channel and quality, where the paper has an entropy bottleneck.

    Args:
        channels: N.
        sizes, step_sizes, hidden, odd_anchors: as in `ElicContext`.
    """
    return EntropyModel.from_parts(
        Gain(step_sizes, sum(sizes)),
        elic_hyper_analysis(channels, sum(sizes)),
        ExactNetworks(
            Prior(channels, len(step_sizes)),
            elic_hyper_synthesis(channels),
            ElicContext(sizes, 2 * channels, step_sizes, hidden, odd_anchors),
        ),
    )
