"""The compact detector's pyramid: paths down and up again between its levels (Liu et al. 2018, "Path aggregation network for
instance segmentation"; with 5×5 looks and a fourth level as Yu et al. 2021, arXiv 2111.00902, section 2.2).

    h, 1/8 ── lateral ─────────────────────┬─ top-down ─ "0" ─┐
    middle ── lateral ───┬─ top-down ── n ─┘                  └─ bottom-up, n ─ "1" ─┐
    last ──── lateral l ─┘                                                           └─ bottom-up, l ─ "2" ── extra, l ─ "3"

A pyramid of linear parts (torchvision's) can be taught much less of what a teacher's says: see docs/training.md.
"""

from collections.abc import Sequence

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from trifocal.detection.backbone import DepthwiseConv

__all__ = ["STRIDES", "BottomUp", "ExtraLevel", "Lateral", "Pyramid", "Separable", "TopDown", "awake"]

STRIDES = (8, 16, 32, 64)  # of the levels, in pixels
SIDE = 5  # of a look
GAIN = 3**0.5  # E[hardswish(x)²] = 1/3 for normal x: with it as much comes out as went in


def awake(module: nn.Module) -> None:
    """Begins what is followed by a hardswish, so that many in a row neither die nor explode (after He et al. 2015)."""
    for layer in module.modules():
        if isinstance(layer, nn.Linear | nn.Conv2d):
            nn.init.normal_(layer.weight, std=GAIN / layer.weight[0].numel() ** 0.5)
            if layer.bias is not None:
                nn.init.zeros_(layer.bias)


class Separable(nn.Module):
    """Places, and then channels: [B, H, W, C] → [B, ⌈H/stride⌉, ⌈W/stride⌉, C]."""

    def __init__(self, channels: int, stride: int = 1) -> None:
        super().__init__()
        self.look, self.mix = DepthwiseConv(channels, stride, SIDE), nn.Linear(channels, channels)

    def forward(self, x: Tensor) -> Tensor:
        return F.hardswish(self.mix(F.hardswish(self.look(x))))


class Lateral(nn.Linear):
    """[B, H, W, I] → [B, H, W, O], with hardswish."""

    def forward(self, input: Tensor) -> Tensor:
        return F.hardswish(super().forward(input))


class Join(nn.Module):
    """Two of [B, H, W, C] → one.

    a, b ── linear ── hardswish ── e ─┬──────────────────────────────────────────────────┬─ linear ── hardswish
                                      └─ linear ── hardswish ── separable convolution ───┘
    """

    def __init__(self, channels: int) -> None:
        super().__init__()
        self.enter = nn.Linear(2 * channels, channels)
        self.deep = nn.Linear(channels, channels)
        self.see = Separable(channels)
        self.leave = nn.Linear(2 * channels, channels)

    def forward(self, a: Tensor, b: Tensor) -> Tensor:
        e = F.hardswish(self.enter(torch.cat([a, b], dim=-1)))
        seen = self.see(F.hardswish(self.deep(e)))
        return F.hardswish(self.leave(torch.cat([e, seen], dim=-1)))


class TopDown(Join):
    """What a coarse level says, [B, ⌈H/2⌉, ⌈W/2⌉, C], and a fine one, [B, H, W, C] → [B, H, W, C]."""

    def forward(self, a: Tensor, b: Tensor) -> Tensor:
        wide = a.repeat_interleave(2, 1).repeat_interleave(2, 2)
        return super().forward(wide[:, : b.shape[1], : b.shape[2]], b)


class BottomUp(Join):
    """What a fine level says, [B, H, W, C], and a coarse one, [B, ⌈H/2⌉, ⌈W/2⌉, C] → one as the coarse."""

    def __init__(self, channels: int) -> None:
        super().__init__(channels)
        self.down = Separable(channels, 2)

    def forward(self, a: Tensor, b: Tensor) -> Tensor:
        return super().forward(self.down(a), b)


class ExtraLevel(nn.Module):
    """Two of [B, H, W, C] → a level above them, [B, ⌈H/2⌉, ⌈W/2⌉, C]."""

    def __init__(self, channels: int) -> None:
        super().__init__()
        self.one, self.other = Separable(channels, 2), Separable(channels, 2)

    def forward(self, a: Tensor, b: Tensor) -> Tensor:
        up: Tensor = self.one(a) + self.other(b)
        return up


class Pyramid(nn.Module):
    """Stages at 1/8, 1/16, 1/32, each [B, h, w, C] → {"0", …, "3"}, each [B, channels, h, w], 1/8 to 1/64."""

    def __init__(self, inputs: Sequence[int], channels: int) -> None:
        super().__init__()
        self.lateral = nn.ModuleList([Lateral(c, channels) for c in inputs])
        self.top_down = nn.ModuleList([TopDown(channels), TopDown(channels)])
        self.bottom_up = nn.ModuleList([BottomUp(channels), BottomUp(channels)])
        self.extra = ExtraLevel(channels)
        awake(self)

    def forward(self, stages: Sequence[Tensor]) -> dict[str, Tensor]:
        fine, middle, last = (lateral(stage) for lateral, stage in zip(self.lateral, stages, strict=True))
        middle = self.top_down[0](last, middle)
        fine = self.top_down[1](middle, fine)
        middle = self.bottom_up[0](fine, middle)
        coarse = self.bottom_up[1](middle, last)
        levels = (fine, middle, coarse, self.extra(last, coarse))
        return {str(number): level.permute(0, 3, 1, 2) for number, level in enumerate(levels)}
