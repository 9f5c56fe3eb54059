"""Between a picture and a detector's middle: the transforms of a base layer.

    x ── BaseAnalysis ── y_obj  ⇄ bytes ⇄  y_obj_hat ── BaseSynthesis ── h_hat ── Extractor ── the first picture

Shen et al., "Dual-layer image codec with text guidance" (section III-B) say what the parts do and leave their sizes open. The
large ones are plain convolutions; the compact ones are the trunk's blocks, and their analysis begins as the detector does, which
has seen what is in the picture before anything must be thrown away. It has those stages as its own: nobody needs the detector for
them, and what stands behind the split may go on learning while base layers and their files stay as they are.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

import torch.nn.functional as F
from torch import Tensor, nn

from trifocal.detection.backbone import CHANNELS, CompactDetectorStem, normalised, stage
from trifocal.detection.input_size import STEP
from trifocal.layers import Block, Conv, Deconv, DepthToSpace, space_to_depth

if TYPE_CHECKING:
    from trifocal.detection.detector import SplitDetector

__all__ = [
    "BaseAnalysis",
    "BaseSynthesis",
    "CompactBaseAnalysis",
    "CompactBaseSynthesis",
    "Extractor",
    "padded",
    "trimmed",
]

PADDING = 64  # pixels: four latents to a hyper-latent


class CompactBaseAnalysis(nn.Module):
    """x [B, 3, H, W] in 0..1, H and W multiples of 64 → y_obj [B, H/16, W/16, M].

        x ── front ─┬─ h at 1/8 ── space to depth 2 ── norm ── linear ── + ── Block × N ── linear ── y_obj
                    └─ middle, at 1/16 ───────────── norm ── linear ────┘

    `front` is the detector's, and is not trained; `middle` begins as the detector's.

    Args:
        channels: width of the blocks.
        latent_channels: M.
        blocks: N.
    """

    def __init__(self, channels: int, latent_channels: int, blocks: int) -> None:
        super().__init__()
        _, fine, deep, _ = CHANNELS
        self.front = CompactDetectorStem().requires_grad_(False)
        self.middle = stage(1)
        self.fine = nn.Sequential(nn.LayerNorm(4 * fine), nn.Linear(4 * fine, channels))
        self.deep = nn.Sequential(nn.LayerNorm(deep), nn.Linear(deep, channels))
        self.blocks = nn.Sequential(*[Block(channels) for _ in range(blocks)])
        self.head = nn.Linear(channels, latent_channels)

    def forward(self, x: Tensor) -> Tensor:
        h = self.front(normalised(x))
        y: Tensor = self.head(self.blocks(self.fine(space_to_depth(h, 2)) + self.deep(self.middle(h))))
        return y

    def begin_like(self, detector: SplitDetector, front_only: bool = False) -> None:
        """Takes over the compact detector's first stages, or its front where `middle` has learned already."""
        self.front.load_state_dict(detector.backbone.front.state_dict())
        if not front_only:
            self.middle.load_state_dict(detector.backbone.rest.get_submodule("middle").state_dict())


class CompactBaseSynthesis(nn.Module):
    """y_obj_hat [B, h, w, M] → h_hat [B, 2·h, 2·w, C]: blocks at 1/16, then at 1/8.

    Args:
        latent_channels: M. channels: width of the blocks at 1/16. fine: C. blocks: how many at each.
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
    """x [B, 3, H, W] in 0..1 → y_obj [B, H/16, W/16, M]: four convolutions of stride 2 (Ballé et al. 2018, with ReLU)."""

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
    """y_obj_hat [B, h, w, M] → h_hat at 1/4, [B, 4·h, 4·w, C]: two transposed convolutions of stride 2, and one of 3×3."""

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


class Extractor(nn.Module):
    """h_hat [B, H/s, W/s, C] → the first picture, [B, 3, H, W], about 0..1.

    Args:
        inputs: C. stride: s. channels: width of the blocks. blocks: how many, at 1/s.
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


def padded(x: Tensor) -> Tensor:
    """With the last row and column repeated up to multiples of PADDING."""
    return F.pad(x, (0, -x.shape[3] % PADDING, 0, -x.shape[2] % PADDING), mode="replicate")


def trimmed(h: Tensor, stride: int, size: tuple[int, int]) -> Tensor:
    """Features [B, h, w, C] of padded pictures of that height and width, without the padding, but for whole STEPs."""
    rows, columns = (-(-side // STEP) * STEP // stride for side in size)
    return h[:, :rows, :columns]
