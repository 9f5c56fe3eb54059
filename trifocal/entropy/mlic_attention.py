"""The attentions of MLIC++'s context model: in windows, and over all positions of a tile.

W. Jiang and R. Wang, "MLIC++: Linear Complexity Multi-Reference Entropy Modeling for Learned Image
Compression" (2023, arXiv 2307.15421), sections 3.3 to 3.5; sizes as in its published code. All parts have
integer forms. Feature maps are channels-last.
"""

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from trifocal.entropy.checkerboard import put_checkerboard, take_checkerboard
from trifocal.entropy.conversion import Composite
from trifocal.entropy.integer_functions import VALUE_BOUND, LayerNorm, Offsets, SoftmaxAverage
from trifocal.entropy.integer_networks import WEIGHT_BITS, Clamp
from trifocal.layers import Conv, Depthwise

__all__ = ["GlobalInterContext", "GlobalIntraContext", "LocalContext"]


def windows(x: Tensor, side: int) -> Tensor:
    """The window around each position, zero outside: [B, h, w, C] → [B, h·w, side·side, C]."""
    b, h, w, c = x.shape
    reach = side // 2
    padded = F.pad(x, (0, 0) + 4 * (reach,))
    views = padded.unfold(1, side, 1).unfold(2, side, 1)  # [B, h, w, C, side, side]
    return views.permute(0, 1, 2, 4, 5, 3).reshape(b, h * w, side * side, c)


def relative_positions(side: int) -> Tensor:
    """Index of the offset between each two positions of a window, [side², side²], in 0..(2·side − 1)² − 1."""
    row, column = torch.arange(side * side) // side, torch.arange(side * side) % side
    rows, columns = row[:, None] - row[None], column[:, None] - column[None]
    return (rows + side - 1) * (2 * side - 1) + columns + side - 1


def depthwise_perceptron(inputs: int, hidden: int, outputs: int) -> nn.Sequential:
    """1×1, GELU, 3×3 of each channel, GELU, 1×1."""
    return nn.Sequential(
        nn.Linear(inputs, hidden), nn.GELU(), Depthwise(hidden), nn.GELU(), nn.Linear(hidden, outputs)
    )


def embedding(channels: int) -> nn.Sequential:
    """1×1 and 3×3 of each channel: queries, keys or values."""
    return nn.Sequential(nn.Linear(channels, channels), Depthwise(channels))


class LocalContext(Composite):
    """Attention in the window around each position, to the anchors in it: [B, h, w, C] → [B, h, w, 2·C].

        x ── norm ── queries, keys, values ── windows ── attention ── joined to 2·C ─┬───────────────── + ──
                                                                                     └ norm, perceptron ┘

    Each of the window's positions attends to the anchors of the window, with a bias for each relative
    position; then one linear layer joins the positions. The published code also lets the positions without a
    value attend to each other, and to the padding.

    Args:
        channels: C.
        odd_anchors: whether row + column of the anchors is odd.
        side: of the window.
        heads: must divide C.
    """

    index: Tensor

    def __init__(self, channels: int, odd_anchors: bool, side: int = 5, heads: int = 2) -> None:
        super().__init__()
        wide = 2 * channels
        self.odd_anchors, self.side, self.heads = odd_anchors, side, heads
        self.scale = round((channels // heads) ** -0.5 * 2**WEIGHT_BITS) / 2**WEIGHT_BITS
        self.norm = LayerNorm(channels)
        self.project = nn.Linear(channels, 3 * channels)
        self.snap = Clamp(bound=VALUE_BOUND)
        self.bias = Offsets(0.02 * torch.randn((2 * side - 1) ** 2, heads))
        self.register_buffer("index", relative_positions(side), persistent=False)
        self.average = SoftmaxAverage()
        self.join = nn.Sequential(nn.Linear(side * side * channels, wide), nn.Linear(wide, wide))
        self.perceptron = nn.Sequential(
            LayerNorm(wide), nn.Linear(wide, 2 * wide), nn.GELU(), nn.Linear(2 * wide, wide)
        )

    def forward(self, x: Tensor) -> Tensor:
        b, h, w, c = x.shape
        qkv = windows(self.snap(self.project(self.norm(x))), self.side)
        split = qkv.reshape(b, h * w, self.side**2, 3, self.heads, c // self.heads)
        q, k, v = split.permute(3, 0, 1, 4, 2, 5)  # each [B, h·w, heads, side², C/heads]
        logits = self.snap(q * self.scale) @ k.transpose(-1, -2) + self.bias()[self.index].permute(2, 0, 1)
        attended = self.average(logits, v, self.hidden(h, w, x.device))
        joined = self.join(attended.transpose(2, 3).reshape(b, h, w, -1))
        whole: Tensor = joined + self.perceptron(joined)
        return whole

    def hidden(self, height: int, width: int, device: torch.device) -> Tensor:
        """The positions of each window that are no anchors or outside, [h·w, 1, 1, side²]."""
        row, column = torch.arange(height, device=device)[:, None], torch.arange(width, device=device)
        anchors = ((row + column) % 2 == int(self.odd_anchors))[None, :, :, None]
        return ~windows(anchors, self.side)[0].reshape(height * width, 1, 1, -1)


class LinearAttention(Composite):
    """Attention over any number of positions at a cost linear in them (Shen et al. 2021, "Efficient
    Attention"): queries are normalised over channels, keys over positions.

    Args:
        heads: must divide the channels.
    """

    def __init__(self, heads: int) -> None:
        super().__init__()
        self.heads = heads
        self.average = SoftmaxAverage()

    def forward(self, queries: Tensor, keys: Tensor, values: Tensor) -> Tensor:
        """Queries [B, n, C], keys and values [B, m, C] → [B, n, C]."""
        q, k, v = (part.unflatten(-1, (self.heads, -1)).transpose(1, 2) for part in (queries, keys, values))
        summary = self.average(k.transpose(-1, -2), v)  # [B, heads, C/heads, C/heads]
        attended: Tensor = self.average(q, summary)
        return attended.transpose(1, 2).flatten(2)


class GlobalIntraContext(Composite):
    """Attention of the non-anchors to all anchors of the slice: [B, h, w, C] → [B, h, w, 2·C].

    Queries and keys are the values of the slice before at the two kinds of positions; similar positions of
    that slice are taken to be similar in this one.

    Args:
        channels: C.
        odd_anchors: whether row + column of the anchors is odd.
        heads: must divide C.
    """

    def __init__(self, channels: int, odd_anchors: bool, heads: int = 2) -> None:
        super().__init__()
        self.odd_anchors = odd_anchors
        self.queries, self.keys, self.values = (embedding(channels) for _ in range(3))
        self.attend = LinearAttention(heads)
        self.reproject = Conv(channels, 2 * channels, 5)
        self.perceptron = depthwise_perceptron(2 * channels, 4 * channels, 2 * channels)

    def forward(self, before: Tensor, anchors: Tensor) -> Tensor:
        """before: the slice before; anchors: this slice, zero at the non-anchors."""
        odd, even = self.odd_anchors, not self.odd_anchors
        queries = take_checkerboard(
            self.queries(put_checkerboard(take_checkerboard(before, even), even)), even
        )
        keys = take_checkerboard(self.keys(put_checkerboard(take_checkerboard(before, odd), odd)), odd)
        values = take_checkerboard(self.values(anchors), odd)
        attended = self.attend(queries.flatten(1, 2), keys.flatten(1, 2), values.flatten(1, 2))
        reprojected = self.reproject(put_checkerboard(attended.reshape(queries.shape), even))
        whole: Tensor = reprojected + self.perceptron(reprojected)
        return whole


class GlobalInterContext(Composite):
    """Attention between all positions of all slices before: [B, h, w, S·C] → [B, h, w, 2·C].

    Args:
        channels: C.
        slices: S; there is one head for each.
    """

    def __init__(self, channels: int, slices: int) -> None:
        super().__init__()
        inputs = slices * channels
        self.queries, self.keys, self.values = (embedding(inputs) for _ in range(3))
        self.attend = LinearAttention(slices)
        self.reproject = Conv(inputs, 3 * channels, 5)
        self.perceptron = depthwise_perceptron(3 * channels, 4 * channels, 2 * channels)
        self.skip = nn.Linear(3 * channels, 2 * channels)

    def forward(self, before: Tensor) -> Tensor:
        parts = (layers(before).flatten(1, 2) for layers in (self.queries, self.keys, self.values))
        reprojected = self.reproject(self.attend(*parts).reshape(before.shape))
        whole: Tensor = self.skip(reprojected) + self.perceptron(reprojected)
        return whole
