"""Synthesis of the compact network with a preference: latent and preference → image."""

import torch
from torch import Tensor, nn

from trifocal.layers import Block, zero_init
from trifocal.transforms.synthesis import Synthesis

__all__ = ["PreferenceConditionedSynthesis"]


class PreferenceConditionedSynthesis(Synthesis):
    """`Synthesis`, with a second output branch for machines, initially zero.

        ... Block × N ─┬─ linear ── depth to space 8 ──────────────────────── + ── x_hat
                       └─ Block × K ── linear ── · preference ── depth to space 8 ┘

    The preference scales the branch. So 0 is the image of `Synthesis` to the last bit, and values between
    interpolate linearly. UG-ICM (equation 8) instead shifts the features of each block by a perceptron of the
    preference, and trains at 0 and 1. Linear interpolation between two estimators is known to trade squared
    error for perceptual quality well (Freirich, Michaeli and Meir 2021).

    Args:
        channels, latent_channels, blocks, knots: as in `Synthesis`.
        preference_blocks: number of blocks of the branch; each adds 8 pixels to each side of the receptive
            field.
    """

    def __init__(
        self, channels: int, latent_channels: int, blocks: int, knots: int, preference_blocks: int
    ) -> None:
        super().__init__(channels, latent_channels, blocks, knots)
        self.preferring = nn.Sequential(*[Block(channels) for _ in range(preference_blocks)])
        self.detail = zero_init(nn.Linear(channels, 192))

    def forward(self, y_hat: Tensor, level: Tensor, preference: Tensor | None = None) -> Tensor:
        """preference [B], 0 for people … 1 for machines; None is 0."""
        features = self.features(y_hat, level)
        residual = self.head(features)
        if preference is not None and (torch.compiler.is_exporting() or bool(torch.any(preference != 0))):
            detail = self.detail(self.preferring(features))
            residual = residual + preference.to(detail.dtype)[:, None, None, None] * detail
        return self.to_image(y_hat, residual)
