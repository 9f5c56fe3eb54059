"""The feature pyramid of the bundled detector, with a top-down and a bottom-up path.

After Liu et al. 2018, "Path aggregation network for instance segmentation", with 5×5 convolutions and a
fourth level as in Yu et al. 2021 (arXiv 2111.00902, section 2.2).

    h, 1/8 ── lateral ───────────────┬─ top-down ─ "0" ┐
    middle ── lateral ─┬─ top-down n ┘                 └ bottom-up, n ─ "1" ┐
    last ── lateral l ─┘                                                    └ bottom-up, l ─ "2" ─ extra, l ─ "3"

A linear pyramid such as torchvision's can imitate the teacher's pyramid far less well; see docs/training.md.
"""

from collections.abc import Sequence

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from trifocal.detection.backbone import DepthwiseConv

__all__ = [
    "STRIDES",
    "BottomUpFusion",
    "ExtraLevel",
    "LateralConv",
    "Pyramid",
    "SeparableConv",
    "TopDownFusion",
    "init_for_hardswish",
]

STRIDES = (8, 16, 32, 64)  # of the levels, in pixels
SIDE = 5  # of the depthwise convolutions
GAIN = 3**0.5  # E[hardswish(x)²] = 1/3 for a standard normal x, so this gain preserves the variance


def init_for_hardswish(module: nn.Module) -> None:
    """Initialise layers that a hardswish follows, preserving the variance (after He et al. 2015)."""
    for layer in module.modules():
        if isinstance(layer, nn.Linear | nn.Conv2d):
            nn.init.normal_(layer.weight, std=GAIN / layer.weight[0].numel() ** 0.5)
            if layer.bias is not None:
                nn.init.zeros_(layer.bias)


class SeparableConv(nn.Module):
    """Depthwise and pointwise convolution, with hardswish: [B, H, W, C] → [B, ⌈H/stride⌉, ⌈W/stride⌉, C]."""

    def __init__(self, channels: int, stride: int = 1) -> None:
        super().__init__()
        self.look, self.mix = DepthwiseConv(channels, stride, SIDE), nn.Linear(channels, channels)

    def forward(self, x: Tensor) -> Tensor:
        return F.hardswish(self.mix(F.hardswish(self.look(x))))


class LateralConv(nn.Linear):
    """Pointwise convolution with hardswish: [B, H, W, I] → [B, H, W, O]."""

    def forward(self, input: Tensor) -> Tensor:
        return F.hardswish(super().forward(input))


class FusionBlock(nn.Module):
    """Fuses two feature maps, [B, H, W, C] each → [B, H, W, C].

    a, b ── linear ── hardswish ── e
    e ─┬────────────────────────────────────────────────┬─ linear ── hardswish
       └─ linear ── hardswish ── separable convolution ─┘
    """

    def __init__(self, channels: int) -> None:
        super().__init__()
        self.enter = nn.Linear(2 * channels, channels)
        self.deep = nn.Linear(channels, channels)
        self.see = SeparableConv(channels)
        self.leave = nn.Linear(2 * channels, channels)

    def forward(self, a: Tensor, b: Tensor) -> Tensor:
        e = F.hardswish(self.enter(torch.cat([a, b], dim=-1)))
        spatial = self.see(F.hardswish(self.deep(e)))
        return F.hardswish(self.leave(torch.cat([e, spatial], dim=-1)))


class TopDownFusion(FusionBlock):
    """A coarse level [B, ⌈H/2⌉, ⌈W/2⌉, C], upsampled, and a fine level [B, H, W, C] → [B, H, W, C]."""

    def forward(self, a: Tensor, b: Tensor) -> Tensor:
        wide = a.repeat_interleave(2, 1).repeat_interleave(2, 2)
        return super().forward(wide[:, : b.shape[1], : b.shape[2]], b)


class BottomUpFusion(FusionBlock):
    """A fine level [B, H, W, C], downsampled, and a coarse level → [B, ⌈H/2⌉, ⌈W/2⌉, C]."""

    def __init__(self, channels: int) -> None:
        super().__init__(channels)
        self.down = SeparableConv(channels, 2)

    def forward(self, a: Tensor, b: Tensor) -> Tensor:
        return super().forward(self.down(a), b)


class ExtraLevel(nn.Module):
    """The next coarser level from two feature maps, [B, H, W, C] each → [B, ⌈H/2⌉, ⌈W/2⌉, C]."""

    def __init__(self, channels: int) -> None:
        super().__init__()
        self.one, self.other = SeparableConv(channels, 2), SeparableConv(channels, 2)

    def forward(self, a: Tensor, b: Tensor) -> Tensor:
        y: Tensor = self.one(a) + self.other(b)
        return y


class Pyramid(nn.Module):
    """Backbone stages at 1/8, 1/16 and 1/32, [B, h, w, C] each → levels "0" to "3" at 1/8 to 1/64.

    Args:
        inputs: channels of the stages.
        channels: of each level, [B, channels, h, w].
    """

    def __init__(self, inputs: Sequence[int], channels: int) -> None:
        super().__init__()
        self.lateral = nn.ModuleList([LateralConv(c, channels) for c in inputs])
        self.top_down = nn.ModuleList([TopDownFusion(channels), TopDownFusion(channels)])
        self.bottom_up = nn.ModuleList([BottomUpFusion(channels), BottomUpFusion(channels)])
        self.extra = ExtraLevel(channels)
        init_for_hardswish(self)

    def forward(self, stages: Sequence[Tensor]) -> dict[str, Tensor]:
        fine, middle, last = (lateral(stage) for lateral, stage in zip(self.lateral, stages, strict=True))
        middle = self.top_down[0](last, middle)
        fine = self.top_down[1](middle, fine)
        middle = self.bottom_up[0](fine, middle)
        coarse = self.bottom_up[1](middle, last)
        levels = (fine, middle, coarse, self.extra(last, coarse))
        return {str(number): level.permute(0, 3, 1, 2) for number, level in enumerate(levels)}
