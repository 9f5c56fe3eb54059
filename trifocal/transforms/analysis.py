"""Analysis transform of the compact network: image → latent."""

import torch
from torch import Tensor, nn

from trifocal.layers import Block, SpaceToDepth, space_to_depth, zero_init
from trifocal.transforms.dct import BLOCK, block_transform, ordered_std
from trifocal.transforms.lapped import Lapping

RESIDUAL_UNIT = 8.0  # of y, about the finest quantiser step, so that Adam's steps are small relative to it


class Analysis(nn.Module):
    """x [B, 3, H, W] in 0..1 → y [B, H/16, W/16, M] in amplitudes of the 0..255 scale.

        x ─┬─ lapping ── space to depth 16 ── linear (initially the DCT) ───────────────────── + ── y
           └─ space to depth 8 ── linear ── Block × N at 1/8 ── space to depth 2 ── linear ┘  (initially zero)

    Args:
        channels: width of the blocks at 1/8.
        latent_channels: M, at most 768.
        blocks: number of blocks at 1/8; the receptive field grows by 8 pixels to each side with each.
    """

    def __init__(self, channels: int, latent_channels: int, blocks: int) -> None:
        super().__init__()
        self.lapping = Lapping()
        self.linear = nn.Linear(3 * BLOCK**2, latent_channels)
        self.stem = nn.Linear(192, channels)
        self.blocks = nn.Sequential(*[Block(channels) for _ in range(blocks)])
        self.down = SpaceToDepth(2)
        self.head = zero_init(nn.Linear(4 * channels, latent_channels))
        self._start_from_dct(channels, latent_channels)

    def _start_from_dct(self, channels: int, latent_channels: int) -> None:
        with torch.no_grad():
            self.linear.weight.copy_(block_transform(BLOCK)[:latent_channels])
            nn.init.zeros_(self.linear.bias)
            whitening = 255 / ordered_std(8, channels)[:, None]
            self.stem.weight.copy_(whitening * block_transform(8)[:channels])
            nn.init.zeros_(self.stem.bias)

    def forward(self, x: Tensor) -> Tensor:
        pixels = x.permute(0, 2, 3, 1) - 0.5
        residual = self.down(self.blocks(self.stem(space_to_depth(pixels, 8))))
        lapped = space_to_depth(self.lapping(pixels), BLOCK)
        return 255 * self.linear(lapped) + RESIDUAL_UNIT * self.head(residual)
