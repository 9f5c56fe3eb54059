"""MLIC++'s transforms, and its synthesis with a preference, which is UG-ICM's.

W. Jiang and R. Wang, "MLIC++: Linear Complexity Multi-Reference Entropy Modeling for Learned Image
Compression" (2023, arXiv 2307.15421); layers and sizes as in its published code. They are those of Z. Cheng
et al. 2020 (`cheng.py`) with GELU. UG-ICM replaces the residual blocks of the synthesis (`preference.py`).
"""

import torch
from torch import Tensor, nn

from trifocal.layers import Conv, DepthToSpace, ResidualBlock
from trifocal.transforms.cheng import DivisiveNorm, Residual, subpixel
from trifocal.transforms.preference import CODE, PreferenceCode, PreferredBlock

__all__ = [
    "MLIC_RECEPTIVE_FIELD",
    "MlicAnalysis",
    "PreferredMlicSynthesis",
    "mlic_hyper_analysis",
    "mlic_hyper_synthesis",
]

# pixels to each side, of the synthesis: at 1/16, 1/8, 1/4 and 1/2 a block of two positions and a 3×3 kernel
# before depth to space, and after the first three another 3×3 kernel; rounded up to whole latents. The
# analysis has 57.
MLIC_RECEPTIVE_FIELD = 112


class GeluBlock(ResidualBlock):
    """x + two 3×3 convolutions, each with GELU: [B, H, W, C] → same; receptive field two positions."""

    def __init__(self, channels: int) -> None:
        super().__init__()
        self.body = nn.Sequential(
            Conv(channels, channels, 3), nn.GELU(), Conv(channels, channels, 3), nn.GELU()
        )

    def forward(self, x: Tensor) -> Tensor:
        with self.branch_precision(x):
            branch = self.body(x)
        return x + branch


def halving(inputs: int, outputs: int) -> Residual:
    """3×3 with stride 2, GELU, 3×3, divisive normalisation; beside it 1×1 with stride 2."""
    body = [Conv(inputs, outputs, 3, stride=2), nn.GELU(), Conv(outputs, outputs, 3), DivisiveNorm(outputs)]
    return Residual(nn.Sequential(*body), Conv(inputs, outputs, 1, stride=2))


def doubling(channels: int) -> Residual:
    """Sub-pixel ×2, GELU, 3×3, inverse divisive normalisation; beside it sub-pixel ×2."""
    body = [subpixel(channels, channels), nn.GELU(), Conv(channels, channels, 3)]
    return Residual(nn.Sequential(*body, DivisiveNorm(channels, inverse=True)), subpixel(channels, channels))


class MlicAnalysis(nn.Module):
    """x [B, 3, H, W] in 0..1 → y [B, H/16, W/16, M]: (halving, residual block) × 3, then 3×3 with stride 2.

    Args:
        channels: N.
        latent_channels: M.
    """

    def __init__(self, channels: int = 192, latent_channels: int = 320) -> None:
        super().__init__()
        layers: list[nn.Module] = []
        for inputs in (3, channels, channels):
            layers += [halving(inputs, channels), GeluBlock(channels)]
        self.body = nn.Sequential(*layers, Conv(channels, latent_channels, 3, stride=2))

    def forward(self, x: Tensor) -> Tensor:
        y: Tensor = self.body(x.permute(0, 2, 3, 1))
        return y


class PreferredMlicSynthesis(nn.Module):
    """y_hat [B, h, w, M], preference [B] → x_hat [B, 3, 16·h, 16·w], not clamped.

        y_hat ── (block with shifts, doubling) × 3 ── block with shifts ── sub-pixel ×2 to 3 ── x_hat
                        └────────── preference ── code ──────┘

    Args:
        channels: N.
        latent_channels: M.
        code_channels: of the preference's code.
    """

    def __init__(self, channels: int = 192, latent_channels: int = 320, code_channels: int = CODE) -> None:
        super().__init__()
        self.preference = PreferenceCode(code_channels)
        widths = (latent_channels, channels, channels, channels)
        self.blocks = nn.ModuleList(PreferredBlock(inputs, channels, code_channels) for inputs in widths)
        self.up = nn.ModuleList([*(doubling(channels) for _ in range(3)), subpixel(channels, 3)])

    def forward(self, y_hat: Tensor, level: Tensor, preference: Tensor | None = None) -> Tensor:
        """preference [B], 0 for people … 1 for machines; None is 0. `level` is unused here: the rate is
        controlled by the gains at the quantiser.
        """
        code = self.preference(torch.zeros(1).to(y_hat) if preference is None else preference.to(y_hat))
        features = y_hat
        for block, up in zip(self.blocks, self.up, strict=True):
            features = up(block(features, code))
        return features.permute(0, 3, 1, 2)


def mlic_hyper_analysis(channels: int = 192, latent_channels: int = 320) -> nn.Sequential:
    """y [B, h, w, M] → z [B, h/4, w/4, N]. Encoder only, so in ordinary floats."""
    n = channels
    return nn.Sequential(
        *(Conv(latent_channels, n, 3), nn.GELU(), Conv(n, n, 3), nn.GELU(), Conv(n, n, 3, stride=2)),
        *(nn.GELU(), Conv(n, n, 3), nn.GELU(), Conv(n, n, 3, stride=2)),
    )


def mlic_hyper_synthesis(channels: int = 192, latent_channels: int = 320) -> nn.Sequential:
    """z_hat [B, h/4, w/4, N] → features for the context [B, h, w, 2·M]. All layers have integer forms."""
    m, wide = latent_channels, latent_channels * 3 // 2
    return nn.Sequential(
        *(Conv(channels, m, 3), nn.GELU(), Conv(m, 4 * m, 3), DepthToSpace(2), nn.GELU()),
        *(Conv(m, wide, 3), nn.GELU(), Conv(wide, 4 * wide, 3), DepthToSpace(2), nn.GELU()),
        Conv(wide, 2 * m, 3),
    )
