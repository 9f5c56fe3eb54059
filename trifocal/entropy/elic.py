"""ELIC's context model: uneven groups of channels, each coded in two checkerboard passes.

D. He et al., "ELIC: Efficient Learned Image Compression with Unevenly Grouped Space-Channel Contextual
Adaptive Coding" (CVPR 2022), sections 3.1 to 3.3 and figure 3; sizes as in CompressAI's `elic2022-official`.
"""

from collections.abc import Sequence
from itertools import accumulate, pairwise
from typing import cast

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from trifocal.entropy.context import ContextModel, LevelParameters
from trifocal.entropy.gain import Gain
from trifocal.entropy.hyperprior import EntropyModel, IntegerNetworks, Prior
from trifocal.entropy.integer_networks import Clamp
from trifocal.layers import Conv, QualityInterpolation
from trifocal.transforms.elic import elic_hyper_analysis, elic_hyper_synthesis


def take_checkerboard(y: Tensor, odd: bool) -> Tensor:
    """The positions whose row + column is odd (or even), in raster order: [B, h, w, C] → [B, h, w/2, C], h
    and w even.
    """
    b, h, w, c = y.shape
    pairs = y.reshape(b, h // 2, 2, w // 2, 2, c)
    rows = [pairs[:, :, row, :, row ^ odd] for row in (0, 1)]
    return torch.stack(rows, dim=2).reshape(b, h, w // 2, c)


def put_checkerboard(part: Tensor, odd: bool) -> Tensor:
    """The inverse of `take_checkerboard`, zero at other positions: [B, h, w/2, C] → [B, h, w, C]."""
    b, h, half, c = part.shape
    rows = part.reshape(b, h // 2, 2, half, c)
    board = part.new_zeros(b, h // 2, 2, half, 2, c)
    for row in (0, 1):
        board[:, :, row, :, row ^ odd] = rows[:, :, row]
    return board.reshape(b, h, 2 * half, c)


class ElicContext(ContextModel):
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
        super().__init__()
        self.passes = 2 * len(sizes)
        self.odd_anchors = odd_anchors
        self.ranges = list(pairwise(accumulate(sizes, initial=0)))
        channels = sum(sizes)
        self.normalise = QualityInterpolation(step_sizes[:, None].expand(-1, channels))
        self.compress = Clamp()
        self.channel = nn.ModuleList(
            channel_context(begin, *hidden, 2 * (end - begin)) for begin, end in self.ranges[1:]
        )
        self.spatial = nn.ModuleList(Conv(size, 2 * size, 5) for size in sizes)
        self.aggregation = nn.ModuleList(
            three_layer_mlp(width + (4 if begin else 2) * (end - begin), 2 * (end - begin), least=width)
            for begin, end in self.ranges
        )
        self.of_level = LevelParameters(step_sizes, channels)

    def take(self, y: Tensor, pass_index: int) -> Tensor:
        """[B, h, w, M] → [B, h, w/2, G] with G the size of the group, h and w even."""
        begin, end = self.ranges[pass_index // 2]
        return take_checkerboard(y[..., begin:end], self._odd(pass_index))

    def put(self, part: Tensor, pass_index: int) -> Tensor:
        begin, end = self.ranges[pass_index // 2]
        return F.pad(put_checkerboard(part, self._odd(pass_index)), (begin, self.ranges[-1][1] - end))

    def forward(
        self, pass_index: int, features: Tensor, y_hat: Tensor, level: Tensor
    ) -> tuple[Tensor, Tensor]:
        group, is_non_anchor = divmod(pass_index, 2)
        begin, end = self.ranges[group]
        decoded = self.compress(y_hat[..., :end] * self.normalise(level)[..., :end])
        parts = [features]
        if group > 0:
            parts.append(self.channel[group - 1](decoded[..., :begin]))
        if is_non_anchor:
            parts.append(self.spatial[group](decoded[..., begin:]))
        inputs = take_checkerboard(torch.cat(parts, dim=-1), self._odd(pass_index))
        if not is_non_anchor:
            inputs = F.pad(inputs, (0, 2 * (end - begin)))
        raw = self.aggregation[group](inputs)
        return cast(tuple[Tensor, Tensor], self.of_level(raw, level, slice(begin, end)))

    def _odd(self, pass_index: int) -> bool:
        return self.odd_anchors ^ bool(pass_index % 2)


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
        IntegerNetworks(
            Prior(channels, len(step_sizes)),
            elic_hyper_synthesis(channels),
            ElicContext(sizes, 2 * channels, step_sizes, hidden, odd_anchors),
        ),
    )
