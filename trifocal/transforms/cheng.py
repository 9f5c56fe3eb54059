"""Cheng et al., "Learned Image Compression with Discretized Gaussian Mixture Likelihoods and Attention
Modules", 2020.

Its transforms with residual blocks and sub-pixel convolutions, in the form without attention (CompressAI's
`cheng2020-anchor`), and Cross-modal's semantic–spatial aware blocks in the synthesis (section 4.5).
"""

import torch
from torch import Tensor, nn

from trifocal.layers import Conv, DepthToSpace, ResidualBlock
from trifocal.transforms.ssa import SemanticSpatialBlock
from trifocal.types import LATENT_STRIDE

CHANNELS = 192
STAGES = 4
SLOPE = 0.01  # of the leaky ReLUs


class DivisiveNorm(nn.Module):
    """Generalised divisive normalisation (Ballé et al. 2016), or its inverse: x · (β + Σ γ x²)^∓½, [B, H, W,
    C] → same.

    The parameters are the square roots of β and γ, so that they stay positive.
    """

    def __init__(self, channels: int, inverse: bool = False) -> None:
        super().__init__()
        self.inverse = inverse
        self.beta = nn.Parameter(torch.ones(channels))
        self.gamma = nn.Parameter((0.1 * torch.eye(channels) + 1e-4).sqrt())

    def forward(self, x: Tensor) -> Tensor:
        energy = nn.functional.linear(x.square(), self.gamma.square(), self.beta.square() + 1e-6)
        return x * (energy.sqrt() if self.inverse else energy.rsqrt())


def subpixel(inputs: int, outputs: int) -> nn.Sequential:
    """A 3×3 convolution and depth to space: [B, H, W, I] → [B, 2·H, 2·W, O]."""
    return nn.Sequential(Conv(inputs, 4 * outputs, 3), DepthToSpace(2))


class ShortcutBlock(nn.Module):
    """shortcut(x) + body(x)."""

    def __init__(self, body: nn.Module, shortcut: nn.Module) -> None:
        super().__init__()
        self.body = body
        self.shortcut = shortcut

    def forward(self, x: Tensor) -> Tensor:
        y: Tensor = self.shortcut(x) + self.body(x)
        return y


class ConvolutionBlock(ResidualBlock):
    """x + two 3×3 convolutions, each with a leaky ReLU: [B, H, W, C] → same; receptive field two positions to
    each side.
    """

    def __init__(self, channels: int) -> None:
        super().__init__()
        self.body = nn.Sequential(
            Conv(channels, channels, 3),
            nn.LeakyReLU(SLOPE),
            Conv(channels, channels, 3),
            nn.LeakyReLU(SLOPE),
        )

    def forward(self, x: Tensor) -> Tensor:
        with self.branch_precision(x):
            branch = self.body(x)
        return x + branch


def downsample_strided(inputs: int, channels: int) -> ShortcutBlock:
    """3×3 with stride 2, leaky ReLU, 3×3, divisive normalisation; the shortcut is 1×1 with stride 2."""
    body = [
        Conv(inputs, channels, 3, stride=2),
        nn.LeakyReLU(SLOPE),
        Conv(channels, channels, 3),
        DivisiveNorm(channels),
    ]
    return ShortcutBlock(nn.Sequential(*body), Conv(inputs, channels, 1, stride=2))


def upsample_subpixel(channels: int) -> ShortcutBlock:
    """Sub-pixel ×2, leaky ReLU, 3×3, inverse divisive normalisation; the shortcut is sub-pixel ×2."""
    body = [
        subpixel(channels, channels),
        nn.LeakyReLU(SLOPE),
        Conv(channels, channels, 3),
        DivisiveNorm(channels, inverse=True),
    ]
    return ShortcutBlock(nn.Sequential(*body), subpixel(channels, channels))


class ChengAnalysis(nn.Module):
    """x [B, 3, H, W] in 0..1 → y [B, H/16, W/16, N]: (downsampling, residual block) three times, then 3×3
    with stride 2.
    """

    def __init__(self, channels: int = CHANNELS) -> None:
        super().__init__()
        layers: list[nn.Module] = []
        for inputs in (3, channels, channels):
            layers += [downsample_strided(inputs, channels), ConvolutionBlock(channels)]
        self.body = nn.Sequential(*layers, Conv(channels, channels, 3, stride=2))

    def forward(self, x: Tensor) -> Tensor:
        y: Tensor = self.body(x.permute(0, 2, 3, 1))
        return y


class ChengSynthesis(nn.Module):
    """y_hat [B, h, w, N], pooled [B, D] or None → x_hat [B, 3, 16·h, 16·w], not clamped.

        y_hat ── (residual block, ×2, SSA) × 3 ── residual block, sub-pixel ×2 to 3 ── SSA ── x_hat

    Cross-modal cuts this decoder into four stages, one for each upsampling, with a semantic–spatial aware
    block (SSA) after each; the last one works on the image's three channels.

    Args:
        channels: N.
        text_channels: D.
    """

    # pixels: residual block 2, sub-pixel 1 before and 3×3 1 after each upsampling, then SSA
    RECEPTIVE_FIELD = sum(
        stride * 3 + (stride // 2) * (SemanticSpatialBlock.RECEPTIVE_FIELD + (1 if stride > 2 else 0))
        for stride in (16, 8, 4, 2)
    )

    def __init__(self, channels: int, text_channels: int) -> None:
        super().__init__()
        stages = [
            nn.Sequential(ConvolutionBlock(channels), upsample_subpixel(channels)) for _ in range(STAGES - 1)
        ]
        stages.append(nn.Sequential(ConvolutionBlock(channels), subpixel(channels, 3)))
        self.stages = nn.ModuleList(stages)
        self.aware = nn.ModuleList(
            SemanticSpatialBlock(c, text_channels) for c in (*[channels] * (STAGES - 1), 3)
        )

    def forward(self, y_hat: Tensor, pooled: Tensor | None = None) -> Tensor:
        features = y_hat
        for stage, aware in zip(self.stages, self.aware, strict=True):
            features = aware(stage(features), pooled)
        return features.permute(0, 3, 1, 2)

    @property
    def receptive_field(self) -> int:
        """Pixels to each side, rounded up to whole latents."""
        return self.RECEPTIVE_FIELD + -self.RECEPTIVE_FIELD % LATENT_STRIDE
