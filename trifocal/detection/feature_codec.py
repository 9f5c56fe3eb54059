"""The transforms of a base layer: image → latent → detector features → base preview.

    x ── BaseAnalysis ── y_obj  ⇄ bytes ⇄  y_obj_hat
    y_obj_hat ── BaseSynthesis ── h_hat ── PreviewSynthesis ── base preview

Shen et al., "Dual-layer image codec with text guidance", section III-B, describe these parts without their
sizes. Here the large transforms are plain convolutions. The compact ones use the blocks of the compact codec,
and their analysis starts with a copy of the first blocks of the detector's backbone. Because it is a copy,
the detector's layers after the split can be fine-tuned without invalidating base layers or existing files.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

import torch.nn.functional as F
from torch import Tensor, nn

from trifocal.detection.backbone import CHANNELS, CompactDetectorFront, make_stage, normalise
from trifocal.detection.input_size import STEP
from trifocal.layers import Block, Conv, Deconv, DepthToSpace, space_to_depth
from trifocal.types import HYPER_LATENT_PIXELS

if TYPE_CHECKING:
    from trifocal.detection.detector import SplitDetector

__all__ = [
    "BaseAnalysis",
    "BaseSynthesis",
    "CompactBaseAnalysis",
    "CompactBaseSynthesis",
    "PreviewSynthesis",
    "crop_features",
    "pad_image",
]


class CompactBaseAnalysis(nn.Module):
    """x [B, 3, H, W] in 0..1, H and W multiples of 64 → y_obj [B, H/16, W/16, M].

        x ── front ─┬─ h at 1/8 ── space to depth 2 ── norm ── linear ── + ── Block × N ── linear ── y_obj
                    └─ middle, at 1/16 ───────────── norm ── linear ────┘

    `front` is a frozen copy of the detector's; `middle` is initialised from the detector's.

    Args:
        channels: width of the blocks.
        latent_channels: M.
        blocks: N.
    """

    def __init__(self, channels: int, latent_channels: int, blocks: int) -> None:
        super().__init__()
        _, fine, deep, _ = CHANNELS
        self.front = CompactDetectorFront().requires_grad_(False)
        self.middle = make_stage(1)
        self.fine = nn.Sequential(nn.LayerNorm(4 * fine), nn.Linear(4 * fine, channels))
        self.deep = nn.Sequential(nn.LayerNorm(deep), nn.Linear(deep, channels))
        self.blocks = nn.Sequential(*[Block(channels) for _ in range(blocks)])
        self.head = nn.Linear(channels, latent_channels)

    def forward(self, x: Tensor) -> Tensor:
        h = self.front(normalise(x))
        y: Tensor = self.head(self.blocks(self.fine(space_to_depth(h, 2)) + self.deep(self.middle(h))))
        return y

    def init_from_detector(self, detector: SplitDetector, front_only: bool = False) -> None:
        """Copy the detector's first blocks, or its front only, if `middle` is already trained."""
        self.front.load_state_dict(detector.backbone.front.state_dict())
        if not front_only:
            self.middle.load_state_dict(detector.backbone.rest.get_submodule("middle").state_dict())


class CompactBaseSynthesis(nn.Module):
    """y_obj_hat [B, h, w, M] → h_hat [B, 2·h, 2·w, C]: blocks at 1/16, then at 1/8.

    Args:
        latent_channels: M.
        channels: width of the blocks at 1/16.
        fine: C, and width of the blocks at 1/8.
        blocks: number of blocks at each resolution.
    """

    def __init__(self, latent_channels: int, channels: int, fine: int, blocks: int) -> None:
        super().__init__()
        self.body = nn.Sequential(
            nn.Linear(latent_channels, channels),
            *[Block(channels) for _ in range(blocks)],
            nn.Linear(channels, 4 * fine),
            DepthToSpace(2),
            *[Block(fine) for _ in range(blocks)],
            nn.Linear(fine, fine),
        )

    def forward(self, y_hat: Tensor) -> Tensor:
        h_hat: Tensor = self.body(y_hat)
        return h_hat


class BaseAnalysis(nn.Module):
    """x [B, 3, H, W] in 0..1 → y_obj [B, H/16, W/16, M].

    Four convolutions of stride 2, as in Ballé et al. 2018, but with ReLU.
    """

    def __init__(self, channels: int, latent_channels: int) -> None:
        super().__init__()
        self.body = nn.Sequential(
            Conv(3, channels, 5, 2),
            nn.ReLU(),
            Conv(channels, channels, 5, 2),
            nn.ReLU(),
            Conv(channels, channels, 5, 2),
            nn.ReLU(),
            Conv(channels, latent_channels, 5, 2),
        )

    def forward(self, x: Tensor) -> Tensor:
        y: Tensor = self.body(x.permute(0, 2, 3, 1))
        return y


class BaseSynthesis(nn.Module):
    """y_obj_hat [B, h, w, M] → h_hat [B, 4·h, 4·w, C]: two transposed convolutions, and a 3×3 convolution."""

    def __init__(self, latent_channels: int, channels: int, outputs: int) -> None:
        super().__init__()
        self.body = nn.Sequential(
            Deconv(latent_channels, channels, 5),
            nn.ReLU(),
            Deconv(channels, channels, 5),
            nn.ReLU(),
            Conv(channels, outputs, 3),
        )

    def forward(self, y_hat: Tensor) -> Tensor:
        h_hat: Tensor = self.body(y_hat)
        return h_hat


class PreviewSynthesis(nn.Module):
    """h_hat [B, H/s, W/s, C] → base preview [B, 3, H, W], about 0..1, not clipped.

    Args:
        inputs: C.
        stride: s.
        channels: width of the blocks.
        blocks: number of blocks, at 1/s.
    """

    def __init__(self, inputs: int, stride: int, channels: int, blocks: int) -> None:
        super().__init__()
        self.body = nn.Sequential(
            nn.LayerNorm(inputs),
            nn.Linear(inputs, channels),
            *[Block(channels) for _ in range(blocks)],
            nn.Linear(channels, 3 * stride**2),
            DepthToSpace(stride),
        )

    def forward(self, h_hat: Tensor) -> Tensor:
        x: Tensor = self.body(h_hat)
        return x.permute(0, 3, 1, 2) + 0.5


def pad_image(x: Tensor) -> Tensor:
    """Repeat the last row and column of [B, 3, H, W] up to multiples of HYPER_LATENT_PIXELS."""
    high, wide = (-side % HYPER_LATENT_PIXELS for side in x.shape[2:])
    return F.pad(x, (0, wide, 0, high), mode="replicate")


def crop_features(h: Tensor, stride: int, size: tuple[int, int]) -> Tensor:
    """Crop features [B, h, w, C] to images of that height and width, rounded up to multiples of STEP."""
    rows, columns = (-(-side // STEP) * STEP // stride for side in size)
    return h[:, :rows, :columns]
