"""Cross-attention between image features and text tokens, in both directions.

TACO's text adapter (Lee et al., ICML 2024): an Injector adds text to image features, and an Extractor adds
image features to tokens. See `codecs/taco.py` for their positions.
"""

import torch
import torch.nn.functional as F
from torch import Tensor, nn

SCORES = 2**25  # of one chunk, over batch and heads: 128 MiB in float32


class CrossAttention(nn.Module):
    """Multi-head attention of Q queries to K keys: [B, Q, C], [B, K, C] → [B, Q, C].

    Queries are processed in chunks, which bounds memory by `SCORES` instead of Q·K.

    Args:
        channels: C, a multiple of `heads`.
        heads: number of heads.
    """

    def __init__(self, channels: int, heads: int) -> None:
        super().__init__()
        self.heads = heads
        self.query, self.key, self.value, self.out = (nn.Linear(channels, channels) for _ in range(4))
        for layer in (self.query, self.key, self.value):
            nn.init.xavier_uniform_(layer.weight)
        for layer in (self.query, self.key, self.value, self.out):
            nn.init.zeros_(layer.bias)

    def forward(self, queries: Tensor, keys: Tensor, mask: Tensor | None = None) -> Tensor:
        """mask: True for keys that are attended to, [B, K]; None for all."""
        key, value = self._by_head(self.key(keys)), self._by_head(self.value(keys))
        attended_keys = None if mask is None else mask[:, None, None]
        parts = [
            F.scaled_dot_product_attention(self._by_head(self.query(part)), key, value, attended_keys)
            for part in self._chunks(queries, keys)
        ]
        attended: Tensor = self.out(torch.cat(parts, dim=2).transpose(1, 2).flatten(2))
        return attended

    def mass(self, queries: Tensor, keys: Tensor, mask: Tensor | None = None) -> Tensor:
        """The share of each query's attention that is not on the first key, mean over heads: [B, Q], 0..1."""
        key = self._by_head(self.key(keys)).transpose(2, 3)
        parts = []
        for part in self._chunks(queries, keys):
            scores = self._by_head(self.query(part)) @ key * (queries.shape[-1] // self.heads) ** -0.5
            if mask is not None:
                scores = scores.masked_fill(~mask[:, None, None], -torch.inf)
            parts.append(1 - scores.softmax(-1)[..., 0].mean(1))
        return torch.cat(parts, dim=1)

    def _by_head(self, x: Tensor) -> Tensor:
        """[B, N, C] → [B, heads, N, C/heads]."""
        return x.unflatten(-1, (self.heads, -1)).transpose(1, 2)

    def _chunks(self, queries: Tensor, keys: Tensor) -> tuple[Tensor, ...]:
        return queries.split(max(1, SCORES // (len(keys) * self.heads * keys.shape[1])), dim=1)


class Injector(nn.Module):
    """Text into a feature map: LN(image) + γ · attention(LN(image) → LN(linear(tokens))), γ per channel,
    initially 0.

    The skip connection carries normalised features, so each position is normalised also for γ = 0 and without
    text.

    Args:
        channels: C of the feature map.
        text_channels: D of the tokens.
        heads: of the attention.
    """

    def __init__(self, channels: int, text_channels: int, heads: int = 8) -> None:
        super().__init__()
        self.project = nn.Linear(text_channels, channels)
        nn.init.kaiming_normal_(self.project.weight)
        nn.init.zeros_(self.project.bias)
        self.norm_image = nn.LayerNorm(channels)
        self.norm_words = nn.LayerNorm(channels)
        self.attention = CrossAttention(channels, heads)
        self.gamma = nn.Parameter(torch.zeros(channels))

    def forward(self, image: Tensor, tokens: Tensor | None, mask: Tensor | None = None) -> Tensor:
        """image [B, H, W, C], tokens [B, T, D] or None, mask [B, T] or None → [B, H, W, C], in the image's
        dtype.
        """
        normal: Tensor = self.norm_image(image.to(self.gamma.dtype))
        if tokens is not None:
            attended = self.attention(normal.flatten(1, 2), self._keys(tokens), mask)
            normal = normal + self.gamma * attended.view_as(normal)
        return normal.to(image.dtype)

    def mass(self, image: Tensor, tokens: Tensor, mask: Tensor | None = None) -> Tensor:
        """The share of each position's attention that is not on the first token: [B, H, W], 0..1."""
        normal = self.norm_image(image.to(self.gamma.dtype))
        return self.attention.mass(normal.flatten(1, 2), self._keys(tokens), mask).view(image.shape[:3])

    def _keys(self, tokens: Tensor) -> Tensor:
        keys: Tensor = self.norm_words(self.project(tokens.to(self.gamma.dtype)))
        return keys


class Extractor(nn.Module):
    """Image features into tokens: LN(tokens) + attention(LN(tokens) → LN(linear(image))), without a gate.

    Every token attends to all positions of the feature map, so only the encoder can use this.

    Args:
        channels: C of the feature map.
        text_channels: D of the tokens, a multiple of `heads`.
        heads: of the attention.
    """

    def __init__(self, channels: int, text_channels: int, heads: int = 8) -> None:
        super().__init__()
        self.project = nn.Linear(channels, text_channels)
        nn.init.kaiming_normal_(self.project.weight)
        nn.init.zeros_(self.project.bias)
        self.norm_image = nn.LayerNorm(text_channels)
        self.norm_words = nn.LayerNorm(text_channels)
        self.attention = CrossAttention(text_channels, heads)

    def forward(self, tokens: Tensor, image: Tensor) -> Tensor:
        """tokens [B, T, D], image [B, H, W, C] → tokens [B, T, D]."""
        dtype = self.project.weight.dtype
        normal: Tensor = self.norm_words(tokens.to(dtype))
        keys = self.norm_image(self.project(image.to(dtype).flatten(1, 2)))
        attended: Tensor = self.attention(normal, keys)
        return normal + attended
