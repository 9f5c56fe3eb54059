"""HiFiC's transforms (Mentzer et al., "High-Fidelity Generative Image Compression", 2020, figure 2).

Sizes and order of the layers are the paper's and its published code's, Apache-2.0. Its ChannelNorm, a
normalisation of each position over its channels, is `nn.LayerNorm` here: the variance divides by C instead of
C − 1, which the learned factor absorbs. The paper has one model per rate; here the quality acts only through
the entropy model's gains, and the synthesis ignores the level.
"""

from itertools import pairwise

import torch
from torch import Tensor, nn

from trifocal.layers import Conv, Deconv, ResidualBlock
from trifocal.transforms.ssa import SemanticSpatialBlock
from trifocal.types import LATENT_STRIDE

WIDTH = 60
LATENT_CHANNELS = 220
HYPER_CHANNELS = 320
RESIDUAL_BLOCKS = 9
HALVINGS = 4
EPSILON = 1e-3  # of ChannelNorm


def channel_norm(channels: int) -> nn.LayerNorm:
    """HiFiC's normalisation of each position, with a learned factor and offset per channel."""
    return nn.LayerNorm(channels, eps=EPSILON)


def layer_widths(width: int) -> tuple[int, ...]:
    """Channels at 1, 1/2, 1/4, 1/8 and 1/16: 60 to 960 in the paper."""
    return tuple(width * 2**i for i in range(HALVINGS + 1))


class HificAnalysis(nn.Module):
    """x [B, 3, H, W] in 0..1 → y [B, H/16, W/16, M].

        x ── conv 7×7 to w ── (conv 3×3 stride 2 to 2w, 4w, 8w, 16w) ── conv 3×3 to M ── y

    with ChannelNorm and ReLU after all but the last. Receptive field 34 pixels to each side.

    Args:
        width: w.
        latent_channels: M.
    """

    def __init__(self, width: int = WIDTH, latent_channels: int = LATENT_CHANNELS) -> None:
        super().__init__()
        widths = layer_widths(width)
        layers: list[nn.Module] = [Conv(3, width, 7), channel_norm(width), nn.ReLU()]
        for inputs, outputs in pairwise(widths):
            layers += [Conv(inputs, outputs, 3, stride=2), channel_norm(outputs), nn.ReLU()]
        self.body = nn.Sequential(*layers, Conv(widths[-1], latent_channels, 3))

    def forward(self, x: Tensor) -> Tensor:
        y: Tensor = self.body(2 * x.permute(0, 2, 3, 1) - 1)
        return y


class NormalisedBlock(ResidualBlock):
    """x + conv, norm, ReLU, conv, norm: [B, H, W, C] → same; receptive field two positions to each side."""

    RECEPTIVE_FIELD = 2

    def __init__(self, channels: int) -> None:
        super().__init__()
        self.body = nn.Sequential(
            Conv(channels, channels, 3),
            channel_norm(channels),
            nn.ReLU(),
            Conv(channels, channels, 3),
            channel_norm(channels),
        )

    def forward(self, x: Tensor) -> Tensor:
        with self.branch_precision(x):
            branch = self.body(x)
        return x + branch


class Upsampling(nn.Module):
    """A transposed convolution, ChannelNorm and ReLU: [B, H, W, I] → [B, 2·H, 2·W, O]; receptive field one
    position to each side.
    """

    RECEPTIVE_FIELD = 1

    def __init__(self, inputs: int, outputs: int) -> None:
        super().__init__()
        self.body = nn.Sequential(Deconv(inputs, outputs, 3), channel_norm(outputs), nn.ReLU())

    def forward(self, x: Tensor) -> Tensor:
        y: Tensor = self.body(x)
        return y


class HificSynthesis(nn.Module):
    """y_hat [B, h, w, M], pooled [B, D] or None → x_hat [B, 3, 16·h, 16·w], not clamped.

        y_hat ── norm ── conv 3×3 to 16w ── norm ─┬─ residual block × 9 ─ + ── SSA
                                                  └───────────────────────┘
              ── (up ×2 to 8w, 4w, 2w, w, each with SSA) ── conv 7×7 ── x_hat

    The generator of HiFiC with Cross-modal's semantic–spatial aware blocks (SSA), which are left out for
    codecs without text. Cross-modal (section 3.2) divides the decoder into a residual and an upsampling part
    and puts a block "at the end of each part", without a number; for its other backbone (section 4.5) it
    names one after each upsampling. This has one after the residual blocks and one after each of the four
    upsamplings.

    Args:
        width: w.
        latent_channels: M.
        residual_blocks: number of blocks at 1/16, 16w wide.
        text_channels: D, or None for HiFiC's own generator.
    """

    def __init__(
        self,
        width: int = WIDTH,
        latent_channels: int = LATENT_CHANNELS,
        residual_blocks: int = RESIDUAL_BLOCKS,
        text_channels: int | None = None,
    ) -> None:
        super().__init__()
        widths = layer_widths(width)[::-1]
        self.head = nn.Sequential(
            channel_norm(latent_channels), Conv(latent_channels, widths[0], 3), channel_norm(widths[0])
        )
        self.residual = nn.Sequential(*[NormalisedBlock(widths[0]) for _ in range(residual_blocks)])
        self.upsampling = nn.ModuleList(Upsampling(i, o) for i, o in pairwise(widths))
        self.tail = Conv(widths[-1], 3, 7)
        self.aware = nn.ModuleList(
            [] if text_channels is None else [SemanticSpatialBlock(w, text_channels) for w in widths]
        )

    def forward(self, y_hat: Tensor, pooled: Tensor | None = None) -> Tensor:
        features = self.head(y_hat)
        features = self._aware(0, features + self.residual(features), pooled)
        for stage, up in enumerate(self.upsampling, start=1):
            features = self._aware(stage, up(features), pooled)
        x_hat: Tensor = (self.tail(features) + 1) / 2
        return x_hat.permute(0, 3, 1, 2)

    def _aware(self, stage: int, features: Tensor, pooled: Tensor | None) -> Tensor:
        if len(self.aware):
            features = self.aware[stage](features, pooled)
        return features

    @property
    def receptive_field(self) -> int:
        """Pixels to each side, rounded up to whole latents: 432 with nine blocks and text."""
        pixels = LATENT_STRIDE * (1 + NormalisedBlock.RECEPTIVE_FIELD * len(self.residual)) + 3
        for stage in range(HALVINGS + 1):
            stride = LATENT_STRIDE // 2**stage
            pixels += stride * SemanticSpatialBlock.RECEPTIVE_FIELD if len(self.aware) else 0
            pixels += stride * Upsampling.RECEPTIVE_FIELD if stage < HALVINGS else 0
        return pixels + -pixels % LATENT_STRIDE


class HificHyperAnalysis(nn.Module):
    """y [B, h, w, M] → z [B, h/4, w/4, Z]: conv 3×3, then twice conv 5×5 stride 2, with ReLU between."""

    def __init__(self, latent_channels: int = LATENT_CHANNELS, hyper_channels: int = HYPER_CHANNELS) -> None:
        super().__init__()
        self.body = nn.Sequential(
            Conv(latent_channels, hyper_channels, 3),
            nn.ReLU(),
            Conv(hyper_channels, hyper_channels, 5, stride=2),
            nn.ReLU(),
            Conv(hyper_channels, hyper_channels, 5, stride=2),
        )

    def forward(self, y: Tensor) -> Tensor:
        z: Tensor = self.body(y)
        return z


class HificHyperSynthesis(nn.ModuleList):
    """z_hat [B, h/4, w/4, Z] → features [B, h, w, 2·M]: one network for the means and one for the scales.

    Each is twice deconv 5×5 stride 2, then conv 3×3, with ReLU between: all layers have integer forms. It is
    an `nn.ModuleList` because `integer_network` converts lists of networks.
    """

    def __init__(self, latent_channels: int = LATENT_CHANNELS, hyper_channels: int = HYPER_CHANNELS) -> None:
        super().__init__()
        for _ in range(2):
            branch = nn.Sequential(
                Deconv(hyper_channels, hyper_channels, 5),
                nn.ReLU(),
                Deconv(hyper_channels, hyper_channels, 5),
                nn.ReLU(),
                Conv(hyper_channels, latent_channels, 3),
            )
            self.append(branch)

    def forward(self, z_hat: Tensor) -> Tensor:
        return torch.cat([branch(z_hat) for branch in self], dim=-1)
