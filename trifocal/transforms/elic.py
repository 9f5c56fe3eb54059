"""ELIC's transforms: strided 5×5 convolutions, bottlenecks, and local attention.

D. He et al., "ELIC: Efficient Learned Image Compression with Unevenly Grouped Space-Channel Contextual
Adaptive Coding" (CVPR 2022), section 3.4 and figure 3; sizes as in CompressAI's `elic2022-official`. The
attention is Z. Cheng et al.'s ("Learned Image Compression with Discretized Gaussian Mixture Likelihoods and
Attention Modules", CVPR 2020): a gate from convolutions, without a sum over the image. The receptive field is
bounded, so tiles with a halo are exact.
"""

import torch
from torch import Tensor, nn

from trifocal.layers import Conv, Deconv, ResidualBlock

ATTENTION_UNITS = 3


class Bottleneck(ResidualBlock):
    """x + 1×1, 3×3, 1×1 with ReLU between, half as wide inside: [B, H, W, C] → same; receptive field one
    position to each side.
    """

    def __init__(self, channels: int) -> None:
        super().__init__()
        half = channels // 2
        self.body = nn.Sequential(
            nn.Linear(channels, half), nn.ReLU(), Conv(half, half, 3), nn.ReLU(), nn.Linear(half, channels)
        )

    def forward(self, x: Tensor) -> Tensor:
        with self.branch_precision(x):
            branch = self.body(x)
        return x + branch


class GatedAttention(nn.Module):
    """x + trunk(x) · sigmoid(gate(x)): [B, H, W, C] → same; receptive field three positions to each side.

    Both branches have three bottlenecks, each followed by a ReLU; the gate ends with a 1×1 layer.
    """

    def __init__(self, channels: int) -> None:
        super().__init__()
        self.trunk = nn.Sequential(*units(channels))
        self.gate = nn.Sequential(*units(channels), nn.Linear(channels, channels))

    def forward(self, x: Tensor) -> Tensor:
        return x + self.trunk(x) * torch.sigmoid(self.gate(x))


def units(channels: int) -> list[nn.Module]:
    """The bottlenecks of `GatedAttention`."""
    return [layer for _ in range(ATTENTION_UNITS) for layer in (Bottleneck(channels), nn.ReLU())]


class ElicAnalysis(nn.Module):
    """x [B, 3, H, W] in 0..1 → y [B, H/16, W/16, M].

        x ── conv 5×5 stride 2, bottlenecks ── conv 5×5 stride 2, bottlenecks ── 1/4      (`quarter`)
          ── attention, conv 5×5 stride 2, bottlenecks ── 1/8                             (`eighth`)
          ── conv 5×5 stride 2 to M, attention ── y                                       (`latent`)

    Args:
        channels: N.
        latent_channels: M.
        bottlenecks: at each of 1/2, 1/4 and 1/8.
    """

    def __init__(self, channels: int = 192, latent_channels: int = 320, bottlenecks: int = 3) -> None:
        super().__init__()
        n, m = channels, latent_channels
        self.quarter = nn.Sequential(
            Conv(3, n, 5, stride=2),
            *[Bottleneck(n) for _ in range(bottlenecks)],
            Conv(n, n, 5, stride=2),
            *[Bottleneck(n) for _ in range(bottlenecks)],
        )
        self.eighth = nn.Sequential(
            GatedAttention(n), Conv(n, n, 5, stride=2), *[Bottleneck(n) for _ in range(bottlenecks)]
        )
        self.latent = nn.Sequential(Conv(n, m, 5, stride=2), GatedAttention(m))

    def forward(self, x: Tensor) -> Tensor:
        y: Tensor = self.latent(self.eighth(self.quarter(x.permute(0, 2, 3, 1))))
        return y


class ElicSynthesis(nn.Module):
    """y_hat [B, h, w, M] → x_hat [B, 3, 16·h, 16·w], not clamped: the analysis in reverse, with transposed
    convolutions.

    Args:
        channels: N.
        latent_channels: M.
        bottlenecks: at each of 1/8, 1/4 and 1/2.
    """

    def __init__(self, channels: int = 192, latent_channels: int = 320, bottlenecks: int = 3) -> None:
        super().__init__()
        n, m = channels, latent_channels
        self.body = nn.Sequential(
            GatedAttention(m),
            Deconv(m, n, 5),
            *[Bottleneck(n) for _ in range(bottlenecks)],
            Deconv(n, n, 5),
            GatedAttention(n),
            *[Bottleneck(n) for _ in range(bottlenecks)],
            Deconv(n, n, 5),
            *[Bottleneck(n) for _ in range(bottlenecks)],
            Deconv(n, 3, 5),
        )

    def forward(self, y_hat: Tensor, level: Tensor) -> Tensor:
        """`level` is unused here: the rate is controlled by the gains at the quantiser."""
        x_hat: Tensor = self.body(y_hat)
        return x_hat.permute(0, 3, 1, 2)


def elic_receptive_field(bottlenecks: int = 3) -> int:
    """Receptive field of analysis and synthesis, pixels to each side, rounded up to whole latents: 144 in the
    paper.

    At each stride a 3×3 kernel adds one position to each side. A strided 5×5 kernel adds two positions of the
    finer scale, and a transposed one a position of the coarser scale, which is as many pixels.
    """
    small = {2: bottlenecks, 4: bottlenecks + ATTENTION_UNITS, 8: bottlenecks, 16: ATTENTION_UNITS}
    strided = (2, 4, 8, 16)
    pixels = sum(stride * kernels for stride, kernels in small.items()) + sum(strided)
    return pixels + -pixels % 16


def elic_hyper_analysis(channels: int = 192, latent_channels: int = 320) -> nn.Sequential:
    """y [B, h, w, M] → z [B, h/4, w/4, N]. Encoder only, so in ordinary floats."""
    n, m = channels, latent_channels
    return nn.Sequential(
        Conv(m, n, 3), nn.ReLU(), Conv(n, n, 5, stride=2), nn.ReLU(), Conv(n, n, 5, stride=2)
    )


def elic_hyper_synthesis(channels: int = 192) -> nn.Sequential:
    """z_hat [B, h/4, w/4, N] → features for the context [B, h, w, 2·N]. All layers have integer forms."""
    n, wide = channels, channels * 3 // 2
    return nn.Sequential(Deconv(n, n, 5), nn.ReLU(), Deconv(n, wide, 5), nn.ReLU(), Conv(wide, 2 * n, 3))
