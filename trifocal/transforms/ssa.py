"""Semantic–spatial aware blocks: the decoder's features are modulated by a text inside a predicted mask."""

import torch
from torch import Tensor, nn

from trifocal.layers import Conv, zero_init

MASK_CHANNELS = 100
HIDDEN_CHANNELS = 256


class TextConditionedNorm(nn.Module):
    """(m · γ(text) + 1) · x̄ + m · β(text), with x̄ the batch-normalised x and m a mask: [B, H, W, C] → same.

    The affine map of SSA-GAN (Liao et al. 2022, section 3.3) with its "+ 1". Cross-modal's equation 2 prints
    m · (γ · x̄ + β), which would erase the signal outside the mask. γ and β are initially zero. Batch
    normalisation has no affine part of its own, and running statistics in evaluation, so a tile is normalised
    like the whole image.

    Args:
        channels: C.
        text_channels: D of the pooled text embedding.
    """

    def __init__(self, channels: int, text_channels: int) -> None:
        super().__init__()
        self.norm = nn.BatchNorm1d(channels, affine=False)
        self.gamma = perceptron(text_channels, channels)
        self.beta = perceptron(text_channels, channels)

    def forward(self, x: Tensor, pooled: Tensor | None, mask: Tensor | None) -> Tensor:
        """x [B, H, W, C], pooled [B, D], mask [B, H, W, 1]; without text and mask only x̄."""
        normal: Tensor = self.norm(x.reshape(-1, x.shape[-1])).reshape(x.shape)
        if pooled is None or mask is None:
            return normal
        gamma, beta = self.gamma(pooled)[:, None, None, :], self.beta(pooled)[:, None, None, :]
        return (mask * gamma + 1) * normal + mask * beta


class SemanticSpatialBlock(nn.Module):
    """x + γ0 · residual(x, text), with γ0 initially zero: [B, H, W, C] → same.

        x ─┬──────────────────────────────────────────────────────────────────── + ── x'
           ├─ conv 3×3 ── batch norm ── ReLU ── conv 1×1 ── sigmoid ── mask      │
           └─ norm(mask) ── ReLU ── conv 3×3 ── norm(mask) ── ReLU ── conv 3×3 ── · γ0

    Both norms are `TextConditionedNorm`.

    The block of SSA-GAN that Cross-modal (section 3.2, figure 5) puts into the decoder. The paper mentions a
    mask predictor, a normalisation and a residual connection, but no number of convolutions; this follows
    SSA-GAN's two. The mask comes from the block's own input (Cross-modal), not from a smaller one (SSA-GAN).

    Args:
        channels: C.
        text_channels: D of the pooled text embedding.
    """

    RECEPTIVE_FIELD = 3  # positions to each side: the mask's convolution and the two after it

    def __init__(self, channels: int, text_channels: int) -> None:
        super().__init__()
        self.mask_features = Conv(channels, MASK_CHANNELS, 3)
        self.mask_norm = nn.BatchNorm1d(MASK_CHANNELS)
        self.mask_head = nn.Linear(MASK_CHANNELS, 1)
        self.norms = nn.ModuleList(TextConditionedNorm(channels, text_channels) for _ in range(2))
        self.convolutions = nn.ModuleList(Conv(channels, channels, 3) for _ in range(2))
        self.strength = nn.Parameter(torch.zeros(1))

    def forward(self, x: Tensor, pooled: Tensor | None) -> Tensor:
        """x [B, H, W, C], pooled [B, D] or None."""
        mask = None if pooled is None else self.mask(x)
        residual = x
        for norm, convolution in zip(self.norms, self.convolutions, strict=True):
            residual = convolution(torch.relu(norm(residual, pooled, mask)))
        return x + self.strength * residual

    def mask(self, x: Tensor) -> Tensor:
        """The mask of the text's effect, 0..1, [B, H, W, 1]."""
        features = self.mask_features(x)
        features = self.mask_norm(features.reshape(-1, MASK_CHANNELS)).reshape(features.shape)
        return torch.sigmoid(self.mask_head(torch.relu(features)))


def perceptron(text_channels: int, channels: int) -> nn.Module:
    """pooled [B, D] → [B, C], initially zero (SSA-GAN)."""
    return nn.Sequential(
        nn.Linear(text_channels, HIDDEN_CHANNELS),
        nn.ReLU(),
        zero_init(nn.Linear(HIDDEN_CHANNELS, channels)),
    )
