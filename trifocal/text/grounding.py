"""Find where an image shows what a text names: a logit for each position, by cross-attention to tokens."""

from functools import lru_cache

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from trifocal.types import TextEmbedding
from trifocal.weights import WEIGHTS_FOLDER, load_part


class GroundingHead(nn.Module):
    """x [B, h, w, D] and text → [B, h, w]: the logit that the text names what is at the position.

    Cross-attention from positions to tokens, with padding masked as in TACO's injector; its output is
    compared with the position's own features, channel by channel.

    Args:
        width: D of positions and tokens.
        heads: number of attention heads.
        hidden: width of the comparison.
    """

    def __init__(self, width: int = 256, heads: int = 4, hidden: int = 128) -> None:
        super().__init__()
        self.heads = heads
        self.ask = nn.Linear(width, width)
        self.answer = nn.Linear(width, 2 * width)
        self.place = nn.Linear(width, width)
        answer = nn.Linear(hidden, 1)
        self.compare = nn.Sequential(nn.Linear(2 * width, hidden), nn.GELU(), answer)
        self.place_norm = nn.LayerNorm(width)
        self.token_norm = nn.LayerNorm(width)
        nn.init.constant_(answer.bias, -2.0)

    def forward(self, features: Tensor, text: TextEmbedding) -> Tensor:
        """features [B, h, w, D] and the embeddings of B texts → logits [B, h, w]."""
        b, h, w, _ = features.shape
        x = self.place_norm(features).flatten(1, 2)
        keys, values = self.answer(self.token_norm(text.tokens)).chunk(2, dim=-1)
        query, keys, values = (
            t.unflatten(-1, (self.heads, -1)).transpose(1, 2) for t in (self.ask(x), keys, values)
        )
        attended = F.scaled_dot_product_attention(query, keys, values, attn_mask=text.mask[:, None, None])
        attended = attended.transpose(1, 2).flatten(2)
        match = F.layer_norm(self.place(x), x.shape[-1:]) * F.layer_norm(attended, x.shape[-1:])
        logits: Tensor = self.compare(torch.cat([match, attended], dim=-1))
        return logits.reshape(b, h, w)


@lru_cache(maxsize=2)
def load_grounding_head(device: str = "cpu") -> GroundingHead:
    """The frozen head with its trained weights. Raises WeightsError if they are missing or damaged."""
    head = GroundingHead()
    head.load_state_dict(load_part(WEIGHTS_FOLDER / "towers.safetensors", "ground."))
    return head.to(device).eval().requires_grad_(False)
