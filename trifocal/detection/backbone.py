"""The backbone of the bundled detector: inverted residuals with channel gates.

"Compact detector" names the architecture, and "bundled detector" this network with the weights of
the package.

The blocks combine depthwise convolutions and channel gates (Howard et al. 2019, "Searching for MobileNetV3";
Ma et al. 2018, "ShuffleNet V2") with a linear skip path. There is no normalisation, so that the images of a
batch are independent, and the positions of an image interact at a distance through the gates only.

    x ── stem ── 1/4, 24 channels
      ── DownsampleBlock, InvertedResidual × 2 ── h: 1/8, 96 channels
      ── DownsampleBlock, InvertedResidual × 6 ── 1/16, 192 channels
      ── DownsampleBlock, InvertedResidual × 2 ── 1/32, 384 channels
"""

from collections.abc import Sequence

import torch
import torch.nn.functional as F
from torch import Tensor, nn

__all__ = [
    "BLOCKS",
    "CHANNELS",
    "CompactDetectorFront",
    "DownsampleBlock",
    "InvertedResidual",
    "StemConv",
    "denormalise",
    "make_stage",
    "normalise",
]

MEAN, DEVIATION = (0.485, 0.456, 0.406), (0.229, 0.224, 0.225)  # of ImageNet's pixels
CHANNELS = (24, 96, 192, 384)  # of the stem, and at 1/8, 1/16 and 1/32
BLOCKS = (2, 6, 2)  # InvertedResidual blocks at 1/8, 1/16 and 1/32
HIDDEN = (32, 64, 160)
DOWN_HIDDEN = (64, 64, 192)


class SqueezeExcitation(nn.Module):
    """Scales channels by a function of their means over the image (Hu et al. 2018): [B, H, W, C] → same."""

    def __init__(self, channels: int, reduction: int = 4) -> None:
        super().__init__()
        self.squeeze = nn.Linear(channels, channels // reduction)
        self.excite = nn.Linear(channels // reduction, channels)

    def forward(self, x: Tensor) -> Tensor:
        weight = F.hardsigmoid(self.excite(F.relu(self.squeeze(x.mean(dim=(1, 2))))))
        return x * weight[:, None, None, :]


class DepthwiseConv(nn.Conv2d):
    """A depthwise convolution, side×side: [B, H, W, C] → [B, ⌈H/stride⌉, ⌈W/stride⌉, C]."""

    def __init__(self, channels: int, stride: int = 1, side: int = 3) -> None:
        super().__init__(channels, channels, side, stride, padding=side // 2, groups=channels)

    def forward(self, input: Tensor) -> Tensor:
        return super().forward(input.permute(0, 3, 1, 2)).permute(0, 2, 3, 1)


class StemConv(nn.Module):
    """x [B, 3, H, W] → [B, H/4, W/4, channels]."""

    def __init__(self, channels: int) -> None:
        super().__init__()
        self.conv = nn.Conv2d(3, channels, 3, 2, padding=1)
        self.pool = nn.MaxPool2d(3, 2, padding=1)

    def forward(self, x: Tensor) -> Tensor:
        y: Tensor = self.pool(F.hardswish(self.conv(x)))
        return y.permute(0, 2, 3, 1)


class InvertedResidual(nn.Module):
    """[B, H, W, C] → same.

        x ─┬─ linear ── hardswish ── a ─┬─────────────────────────────┬─ gate ── linear ── hardswish ── + ── y
           │                            └─ depthwise 3×3 ── hardswish ┘                                 │
           └─ linear ───────────────────────────────────────────────────────────────────────────────────┘

    Args:
        channels: C.
        hidden: channels of a.
    """

    def __init__(self, channels: int, hidden: int) -> None:
        super().__init__()
        self.skip = nn.Linear(channels, channels)
        self.enter = nn.Linear(channels, hidden)
        self.look = DepthwiseConv(hidden)
        self.gate = SqueezeExcitation(2 * hidden)
        self.leave = nn.Linear(2 * hidden, channels)

    def forward(self, x: Tensor) -> Tensor:
        a = F.hardswish(self.enter(x))
        both = self.gate(torch.cat([a, F.hardswish(self.look(a))], dim=-1))
        return self.skip(x) + F.hardswish(self.leave(both))


class DownsampleBlock(nn.Module):
    """[B, H, W, I] → [B, H/2, W/2, O].

    x ─┬─ linear ── hardswish ─┐
       └───────────────────────┴─ depthwise, stride 2 ── gate
         ── linear ── hardswish ── depthwise ── hardswish ── linear ── hardswish ── y

    Args:
        inputs: I.
        outputs: O.
        hidden: channels that are added to the input.
    """

    def __init__(self, inputs: int, outputs: int, hidden: int) -> None:
        super().__init__()
        self.enter = nn.Linear(inputs, hidden)
        self.first = DepthwiseConv(inputs + hidden, 2)
        self.gate = SqueezeExcitation(inputs + hidden)
        self.middle = nn.Linear(inputs + hidden, 2 * outputs)
        self.second = DepthwiseConv(2 * outputs)
        self.leave = nn.Linear(2 * outputs, outputs)

    def forward(self, x: Tensor) -> Tensor:
        y = self.gate(self.first(torch.cat([x, F.hardswish(self.enter(x))], dim=-1)))
        y = F.hardswish(self.second(F.hardswish(self.middle(y))))
        return F.hardswish(self.leave(y))


def make_stage(number: int) -> nn.Sequential:
    """The untrained blocks at 1/8, 1/16 or 1/32, for number 0, 1 or 2."""
    inputs, channels, hidden = CHANNELS[number], CHANNELS[number + 1], HIDDEN[number]
    return nn.Sequential(
        DownsampleBlock(inputs, channels, DOWN_HIDDEN[number]),
        *[InvertedResidual(channels, hidden) for _ in range(BLOCKS[number])],
    )


class CompactDetectorFront(nn.Module):
    """The layers before the split, up to 1/8: x [B, 3, H, W], normalised → h [B, H/8, W/8, 96]."""

    def __init__(self) -> None:
        super().__init__()
        self.stem, self.stage = StemConv(CHANNELS[0]), make_stage(0)

    def forward(self, x: Tensor) -> Tensor:
        h: Tensor = self.stage(self.stem(x))
        return h


def normalise(x: Tensor, mean: Sequence[float] = MEAN, deviation: Sequence[float] = DEVIATION) -> Tensor:
    """Normalise pixels in 0..1, [B, 3, H, W], for a detector; by default for the bundled one."""
    return (x - x.new_tensor(mean)[:, None, None]) / x.new_tensor(deviation)[:, None, None]


def denormalise(x: Tensor) -> Tensor:
    """The inverse of `normalise` for the compact detector, [B, 3, H, W], clipped to 0..1."""
    return (x * x.new_tensor(DEVIATION)[:, None, None] + x.new_tensor(MEAN)[:, None, None]).clamp(0, 1)
