"""The network that composes the latents of missing components, for the compact dual-layer codec."""

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from trifocal.transforms.dct import BLOCK, ordered_std

__all__ = [
    "BLOCKS",
    "FEATURES",
    "LATENT_CHANNELS",
    "MIDDLE_LEVEL",
    "WIDTH",
    "Composition",
    "CompositionBlock",
    "composition",
]

LATENT_CHANNELS, FEATURES, WIDTH, BLOCKS = 384, 192, 192, 5
MIDDLE_LEVEL = 400  # quality 50


class CompositionBlock(nn.Module):
    """x ─┬─ group normalisation ── conv 3×3 ── SiLU ── conv 3×3 ─ + ── x"""

    def __init__(self, width: int) -> None:
        super().__init__()
        self.norm = nn.GroupNorm(8, width)
        self.a = nn.Conv2d(width, width, 3, padding=1)
        self.b = nn.Conv2d(width, width, 3, padding=1)

    def forward(self, x: Tensor) -> Tensor:
        y: Tensor = x + self.b(F.silu(self.a(self.norm(x))))
        return y


class Composition(nn.Module):
    """What to add to the base preview's latent where values are missing.

        known · kept ─┐
        preview ──────┤
        features ─────┼─ conv 1×1 ── CompositionBlock × N ── SiLU ── conv 1×1 ── addition
        kept, level ──┘

    Latents are [1, h, w, M], in amplitudes of the 0..255 scale.

    Args:
        latent_channels: M, at most 768.
        features: channels of the hyper synthesis.
        width: of the blocks.
        blocks: N.
    """

    std: Tensor

    def __init__(self, latent_channels: int, features: int, width: int, blocks: int) -> None:
        super().__init__()
        self.stem = nn.Conv2d(2 * latent_channels + features + 2, width, 1)
        self.blocks = nn.ModuleList(CompositionBlock(width) for _ in range(blocks))
        self.head = nn.Conv2d(width, latent_channels, 1)
        self.register_buffer("std", ordered_std(BLOCK, latent_channels), persistent=False)

    def forward(
        self, known: Tensor, preview: Tensor, features: Tensor, kept: Tensor, level: Tensor
    ) -> Tensor:
        """The addition, [1, h, w, M]; only its values at missing positions mean anything.

        Args:
            known: the latent where it is known; other values have no effect.
            preview: the latent of the base preview.
            features: of the hyper synthesis, [1, h, w, F].
            kept: 1 at known positions and 0 at missing ones, [1, h, w, 1].
            level: 0..800, [1].
        """
        gain = (level.to(kept.dtype) / MIDDLE_LEVEL - 1)[:, None, None, None] * torch.ones_like(kept)
        given = torch.cat([known / self.std * kept, preview / self.std, features, kept, gain], dim=-1)
        x = self.stem(given.permute(0, 3, 1, 2))
        for block in self.blocks:
            x = block(x)
        return self.head(F.silu(x)).permute(0, 2, 3, 1) * self.std


def composition() -> Composition:
    """The network of the bundled weights, untrained; 3.6 M parameters."""
    return Composition(LATENT_CHANNELS, FEATURES, WIDTH, BLOCKS)
