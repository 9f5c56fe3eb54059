"""Synthesis of the compact network with a text: latent and text embedding → image."""

import torch
from torch import Tensor, nn

from trifocal.layers import Depthwise, ResidualBlock, zero_init
from trifocal.transforms.synthesis import Synthesis
from trifocal.types import TextEmbedding

__all__ = ["TextConditionedBlock", "TextConditionedSynthesis"]


class TextConditionedBlock(ResidualBlock):
    """The residual block of the compact network with a semantic–spatial affine map: [B, H, W, C] → same.

        x ─┬────────────────────────────────────────────────────────────── + ── x'
           └─ depthwise ─┬─ linear ── (m·γ + 1)·h + m·β ── ReLU ── linear ─┘
                         └─ linear ── sigmoid ── m, one per position

    γ and β come from a perceptron of the pooled text embedding, initially zero (SSA-GAN's form with the "+
    1", Liao et al. 2022, section 3.3). There is no batch normalisation, so tiles stay exact.

    Args:
        channels: C.
        text_channels: D of the pooled text embedding.
        expansion: width of the hidden features relative to C.
    """

    def __init__(self, channels: int, text_channels: int, expansion: int = 2) -> None:
        super().__init__()
        width = expansion * channels
        self.depthwise = Depthwise(channels)
        self.expand = nn.Linear(channels, width)
        self.mask = nn.Linear(channels, 1)
        self.affine = nn.Sequential(
            nn.LayerNorm(text_channels),
            nn.Linear(text_channels, 128),
            nn.ReLU(),
            zero_init(nn.Linear(128, 2 * width)),
        )
        self.project = zero_init(nn.Linear(width, channels))

    def forward(self, x: Tensor, pooled: Tensor | None) -> Tensor:
        """x [B, H, W, C], pooled [B, D] or None."""
        with self.branch_precision(x):
            features = self.depthwise(x)
            hidden: Tensor = self.expand(features)
            if pooled is not None:
                gamma, beta = self.affine(pooled)[:, None, None, :].chunk(2, dim=-1)
                mask = torch.sigmoid(self.mask(features))
                hidden = hidden + mask * (gamma * hidden + beta)
            branch = self.project(torch.relu(hidden))
        return x + branch


class TextConditionedSynthesis(Synthesis):
    """`Synthesis`, with a second output branch that takes a text, initially zero.

        ... Block × N ─┬─ linear ── depth to space 8 ───────────────────────── + ── x_hat
                       └─ TextConditionedBlock × K (text) ── linear ── depth to space 8 ┘

    Args:
        channels, latent_channels, blocks, knots: as in `Synthesis`.
        text_channels: D of the pooled text embedding.
        text_blocks: number of blocks of the branch; each adds 8 pixels to each side of the receptive field.
    """

    def __init__(
        self,
        channels: int,
        latent_channels: int,
        blocks: int,
        knots: int,
        text_channels: int,
        text_blocks: int,
    ) -> None:
        super().__init__(channels, latent_channels, blocks, knots)
        self.worded = nn.ModuleList(
            [TextConditionedBlock(channels, text_channels) for _ in range(text_blocks)]
        )
        self.detail = zero_init(nn.Linear(channels, 192))

    def forward(self, y_hat: Tensor, level: Tensor, text: TextEmbedding | None = None) -> Tensor:
        features = self.features(y_hat, level)
        detail = features
        for block in self.worded:
            detail = block(detail, None if text is None else text.pooled.to(features.dtype))
        return self.to_image(y_hat, self.head(features) + self.detail(detail))
