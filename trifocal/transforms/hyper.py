"""Hyper transforms of the compact network: latent ⇄ hyper-latent."""

import torch
from torch import Tensor, nn

from trifocal.layers import Block, DepthToSpace, SpaceToDepth


class HyperAnalysis(nn.Module):
    """Normalised y [B, h, w, M] → z [B, h/4, w/4, Z]. Encoder only, so in ordinary floats."""

    def __init__(self, latent_channels: int, channels: int, hyper_channels: int) -> None:
        super().__init__()
        self.stem = nn.Linear(2 * latent_channels, channels)
        self.body = nn.Sequential(
            Block(channels),
            SpaceToDepth(2),
            nn.Linear(4 * channels, channels),
            Block(channels),
            SpaceToDepth(2),
            nn.Linear(4 * channels, hyper_channels),
        )
        self.gain = 4.0

    def forward(self, y: Tensor) -> Tensor:
        magnitude = torch.log1p(y.abs())
        return self.gain * self.body(self.stem(torch.cat([magnitude, y.clamp(-4, 4)], dim=-1)))


class HyperSynthesis(nn.Module):
    """z_hat [B, h/4, w/4, Z] → features for the context model [B, h, w, W]. All layers have integer forms."""

    def __init__(self, hyper_channels: int, channels: int, width: int) -> None:
        super().__init__()
        self.body = nn.Sequential(
            nn.Linear(hyper_channels, 4 * channels),
            DepthToSpace(2),
            Block(channels),
            nn.Linear(channels, 4 * width),
            DepthToSpace(2),
            Block(width),
        )

    def forward(self, z_hat: Tensor) -> Tensor:
        return self.body(z_hat)
