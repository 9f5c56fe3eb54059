"""Shifted-window attention (Liu et al., "Swin Transformer", 2021), aligned so that tiles with a halo are
exact.

Windows divide squares of 64 pixels, or are shifted by half a window. Images are padded to such squares, and
tiles and their halos are aligned to them, so a tile has the windows of the whole image.
`swin_receptive_field` gives the joint receptive field.
"""

from collections.abc import Sequence

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from trifocal.layers import Conv, depth_to_space, space_to_depth

__all__ = ["SwinAnalysis", "SwinBlock", "WindowAttention", "swin_receptive_field"]

GRID = 64  # pixels: alignment of tiles and their halos
HALVINGS = (2, 4, 8)  # strides of the scales that have blocks
EXPANSION = 2  # of the width inside a block's perceptron
POSITIONS = 2**18  # processed at a time


class WindowAttention(nn.Module):
    """Multi-head self-attention within windows: [B, H, W, C] → same, H and W multiples of the window.

    Each head has a learned bias for each relative position. Shifted windows at the edges extend beyond the
    feature map; the positions there are zeros that are attended to, as in zero-padded convolutions (Swin
    masks them).

    Args:
        channels: C, a multiple of `heads`.
        heads: number of heads.
        window: side in positions, even.
        shifted: shift windows by half a window, right and down.
    """

    index: Tensor

    def __init__(self, channels: int, heads: int, window: int, shifted: bool) -> None:
        super().__init__()
        self.heads, self.window, self.shift = heads, window, window // 2 if shifted else 0
        self.project_in = nn.Linear(channels, 3 * channels)
        self.project_out = nn.Linear(channels, channels)
        self.distance = nn.Parameter(torch.empty((2 * window - 1) ** 2, heads))
        nn.init.trunc_normal_(self.distance, std=0.02)
        self.register_buffer("index", distances(window), persistent=False)

    def forward(self, x: Tensor) -> Tensor:
        padded = F.pad(x, (0, 0, *[self.shift] * 4))
        windows = space_to_depth(padded, self.window)
        positions = windows.reshape(-1, self.window**2, x.shape[-1])
        bias = self.distance[self.index].permute(2, 0, 1)[None].to(x.dtype)
        attended = [self._attend(part, bias) for part in positions.split(max(1, POSITIONS // self.window**2))]
        padded = depth_to_space(torch.cat(attended).view_as(windows), self.window)
        s = self.shift
        return padded[:, s : s + x.shape[1], s : s + x.shape[2]]

    def _attend(self, positions: Tensor, bias: Tensor) -> Tensor:
        """positions [N, w², C], bias [1, heads, w², w²] → [N, w², C]."""
        query, key, value = (
            self.project_in(positions).unflatten(-1, (3, self.heads, -1)).permute(2, 0, 3, 1, 4)
        )
        attended = F.scaled_dot_product_attention(query, key, value, bias)
        out: Tensor = self.project_out(attended.transpose(1, 2).flatten(2))
        return out


def distances(window: int) -> Tensor:
    """Index of the relative position of each pair of positions in a window, [w², w²]."""
    row, column = torch.meshgrid(torch.arange(window), torch.arange(window), indexing="ij")
    rows, columns = ((p.flatten()[:, None] - p.flatten()) + window - 1 for p in (row, column))
    return rows * (2 * window - 1) + columns


class SwinBlock(nn.Module):
    """x + attention(norm(x)), then + perceptron(norm(·)): [B, H, W, C] → same; arguments as in
    `WindowAttention`.
    """

    def __init__(self, channels: int, heads: int, window: int, shifted: bool) -> None:
        super().__init__()
        self.norm_attention = nn.LayerNorm(channels)
        self.attention = WindowAttention(channels, heads, window, shifted)
        self.norm_perceptron = nn.LayerNorm(channels)
        self.perceptron = nn.Sequential(
            nn.Linear(channels, EXPANSION * channels), nn.GELU(), nn.Linear(EXPANSION * channels, channels)
        )

    def forward(self, x: Tensor) -> Tensor:
        x = x + self.attention(self.norm_attention(x))
        return x + self.perceptron(self.norm_perceptron(x))


def swin_blocks(channels: int, heads: int, window: int, depth: int) -> nn.Sequential:
    """Every second block's windows are shifted."""
    return nn.Sequential(*[SwinBlock(channels, heads, window, bool(block % 2)) for block in range(depth)])


class SwinAnalysis(nn.Module):
    """Residual image, and conditions at three scales → y [B, H/16, W/16, M].

        residual, c1 ── conv 3×3 stride 2, cat c½, blocks ── conv 3×3 stride 2, cat c¼, blocks ── 1/4     (`quarter`)
          ── conv 3×3 stride 2, blocks ── 1/8                                                             (`eighth`)
          ── conv 3×3 stride 2 to M ── y                                                                  (`latent`)

    `cat` is a concatenation and a linear layer. Depths, heads, window and width are those of Lu et al.'s
    "Transformer-based image compression" (2022), whose analysis has this form.

    Args:
        condition_channels: of c1, c½ and c¼.
        channels: of the features at 1/2, 1/4 and 1/8.
        latent_channels: M.
        depths: blocks at each of them.
        heads: of the attentions.
        window: side of the windows in positions: 2, 4 or 8, so that at 1/8 it divides the grid of 64 pixels.
    """

    def __init__(
        self,
        condition_channels: Sequence[int],
        channels: int = 128,
        latent_channels: int = 320,
        depths: Sequence[int] = (2, 4, 6),
        heads: int = 8,
        window: int = 8,
    ) -> None:
        super().__init__()
        n = channels
        self.to_half = Conv(3 + condition_channels[0], n, 3, stride=2)
        self.with_half = nn.Linear(n + condition_channels[1], n)
        self.to_quarter = Conv(n, n, 3, stride=2)
        self.with_quarter = nn.Linear(n + condition_channels[2], n)
        self.to_eighth = Conv(n, n, 3, stride=2)
        self.blocks = nn.ModuleList(swin_blocks(n, heads, window, depth) for depth in depths)
        self.latent = Conv(n, latent_channels, 3, stride=2)

    def quarter(self, residual: Tensor, conditions: Sequence[Tensor]) -> Tensor:
        """residual [B, H, W, 3], H and W multiples of 64, and c1, c½, c¼ → features at 1/4."""
        whole, half, quarter = conditions
        features = self.to_half(torch.cat([residual, whole], dim=-1))
        features = self.blocks[0](self.with_half(torch.cat([features, half], dim=-1)))
        features = self.with_quarter(torch.cat([self.to_quarter(features), quarter], dim=-1))
        features = self.blocks[1](features)
        return features

    def eighth(self, features: Tensor) -> Tensor:
        """Features at 1/4 → at 1/8."""
        eighth: Tensor = self.blocks[2](self.to_eighth(features))
        return eighth


def swin_receptive_field(depths: Sequence[int], window: int) -> int:
    """Receptive field of `SwinAnalysis` for the latents of a box on the grid, pixels to each side; 273 at the
    default sizes.

    From the latents back to the pixels, a convolution adds one position of the finer scale, and windows
    extend to their edges.
    """
    pixels = 0
    for stride, depth in reversed(list(zip(HALVINGS, depths, strict=True))):
        pixels += stride
        for block in reversed(range(depth)):
            offset = stride * (window // 2 if block % 2 else 0)
            pixels += (offset - pixels) % (stride * window)
    return pixels + 1
