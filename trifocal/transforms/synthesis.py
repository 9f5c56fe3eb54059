"""Synthesis transform of the compact network: latent → image."""

import torch
from torch import Tensor, nn

from trifocal.layers import (
    Block,
    DepthToSpace,
    QualityInterpolation,
    depth_to_space,
    space_to_depth,
    zero_init,
)
from trifocal.transforms.dct import BLOCK, block_transform, ordered_std
from trifocal.transforms.lapped import Lapping

RESIDUAL_UNIT = 0.05  # of x_hat, so that Adam's steps are small relative to a grey level


class Synthesis(nn.Module):
    """y_hat [B, h, w, M] in amplitudes of the 0..255 scale → x_hat [B, 3, 16·h, 16·w], not clamped.

        y_hat ─┬─ linear (initially the inverse DCT) ── depth to space 16 ── inverse lapping ───── + ── x_hat
               └─ linear ── depth to space 2 ── · scale(level) + shift(level) ── Block × N ── linear ── depth to space 8 ┘

    Args:
        channels: width of the blocks at 1/8.
        latent_channels: M, at most 768.
        blocks: number of blocks at 1/8.
        knots: number of quality knots for the scale and shift.
    """

    std: Tensor

    def __init__(self, channels: int, latent_channels: int, blocks: int, knots: int) -> None:
        super().__init__()
        self.lapping = Lapping(inverse=True)
        self.linear = nn.Linear(latent_channels, 3 * BLOCK**2)
        self.stem = nn.Linear(latent_channels, 4 * channels)
        self.up = DepthToSpace(2)
        self.scale = QualityInterpolation(torch.ones(knots, channels))
        self.shift = QualityInterpolation(torch.zeros(knots, channels))
        self.blocks = nn.Sequential(*[Block(channels) for _ in range(blocks)])
        self.head = zero_init(nn.Linear(channels, 192))
        self.register_buffer("std", ordered_std(BLOCK, latent_channels), persistent=False)
        self._start_from_dct(channels, latent_channels)

    def _start_from_dct(self, channels: int, latent_channels: int) -> None:
        """Initialise the stem to the whitened 8×8 coefficients of the linear path's image."""
        with torch.no_grad():
            inverse = block_transform(BLOCK)[:latent_channels].T
            self.linear.weight.copy_(inverse)
            nn.init.zeros_(self.linear.bias)
            quarters = space_to_depth(depth_to_space(inverse.T[:, None, None, :], BLOCK), 8)
            coefficients = quarters @ block_transform(8)[:channels].T / ordered_std(8, channels)
            self.stem.weight.copy_(
                (coefficients.reshape(latent_channels, 4 * channels) * self.std[:, None]).T
            )
            nn.init.zeros_(self.stem.bias)

    def forward(self, y_hat: Tensor, level: Tensor) -> Tensor:
        return self.to_image(y_hat, self.head(self.features(y_hat, level)))

    def features(self, y_hat: Tensor, level: Tensor) -> Tensor:
        """Features after the blocks, [B, 2·h, 2·w, channels]."""
        features = self.up(self.stem(y_hat / self.std))
        features = self.blocks(features * self.scale(level) + self.shift(level))
        return features

    def to_image(self, y_hat: Tensor, residual: Tensor) -> Tensor:
        """The image: linear path of y_hat plus the residual of each 8×8 block, [B, 2·h, 2·w, 192]."""
        pixels = self.lapping(depth_to_space(self.linear(y_hat / 255), BLOCK))
        pixels = pixels + RESIDUAL_UNIT * depth_to_space(residual, 8)
        return (pixels + 0.5).permute(0, 3, 1, 2)
