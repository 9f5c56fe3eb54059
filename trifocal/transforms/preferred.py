"""latent and preference → image, on the compact trunk."""

import torch
from torch import Tensor, nn

from trifocal.layers import Block, zero_init
from trifocal.transforms.synthesis import Synthesis

__all__ = ["PreferredSynthesis"]


class PreferredSynthesis(Synthesis):
    """`Synthesis`, and beside its last layer a second way for machines: what it adds starts at zero.

        ... Block × N ─┬─ linear ── depth to space 8 ──────────────────────── + ── x_hat
                       └─ Block × K ── linear ── · preference ── depth to space 8 ┘

    The preference scales what the machines' way adds. So 0 is the picture of `Synthesis` to the last bit, and between lies a
    straight line. UG-ICM (equation 8) moves the features of each block by a perceptron of the preference instead, and trains
    its two ends; that a line between two estimates is a good way from one to the other is known of error and perceptual quality
    (Freirich, Michaeli and Meir 2021).

    Args:
        channels, latent_channels, blocks, knots: as in `Synthesis`.
        preferring: how many blocks the second way has; the receptive field grows by 8 pixels to each side with each.
    """

    def __init__(self, channels: int, latent_channels: int, blocks: int, knots: int, preferring: int) -> None:
        super().__init__(channels, latent_channels, blocks, knots)
        self.preferring = nn.Sequential(*[Block(channels) for _ in range(preferring)])
        self.detail = zero_init(nn.Linear(channels, 192))

    def forward(self, y_hat: Tensor, level: Tensor, preference: Tensor | None = None) -> Tensor:
        """preference [B], 0 for people … 1 for machines; None is 0."""
        features = self.features(y_hat, level)
        residual = self.head(features)
        if preference is not None and bool(torch.any(preference != 0)):
            detail = self.detail(self.preferring(features))
            residual = residual + preference.to(detail.dtype)[:, None, None, None] * detail
        return self.picture(y_hat, residual)
