"""The bundled text encoder: a subword tokenizer and a small transformer.

It is bundled with the package, so that text works without a download. It was trained on English captions of
photographs; for other text, which consists of rare tokens, `notices` returns a notice.
"""

from collections.abc import Sequence
from functools import lru_cache

import torch
from torch import Tensor, nn

from trifocal.text.byte_pairs import BytePairTokenizer
from trifocal.text.tokens import LENGTH, load_tokenizer, notices, token_ids
from trifocal.types import TextEmbedding
from trifocal.weights import WEIGHTS_FOLDER, load_part

WEIGHTS = WEIGHTS_FOLDER / "towers.safetensors"


class TextTransformer(nn.Module):
    """Token ids [B, T] → `TextEmbedding`.

    Args:
        vocabulary: number of tokens.
        width, layers, heads: of the transformer.
        embedding: D of the output.
    """

    def __init__(
        self, vocabulary: int, width: int = 192, layers: int = 4, heads: int = 6, embedding: int = 256
    ) -> None:
        super().__init__()
        self.embedding = embedding
        self.token = nn.Embedding(vocabulary, width)
        self.position = nn.Parameter(0.02 * torch.randn(LENGTH, width))
        layer = nn.TransformerEncoderLayer(
            width, heads, 4 * width, dropout=0.1, activation="gelu", batch_first=True, norm_first=True
        )
        self.body = nn.TransformerEncoder(layer, layers, enable_nested_tensor=False)
        self.norm = nn.LayerNorm(width)
        self.project = nn.Linear(width, embedding)
        self.pool = nn.Linear(width, embedding)
        nn.init.normal_(self.token.weight, std=0.02)

    def forward(self, ids: Tensor, mask: Tensor) -> TextEmbedding:
        """ids and mask [B, T], T <= LENGTH → embeddings; `pooled` is the projected mean over the tokens."""
        x = self.token(ids) + self.position[: ids.shape[1]]
        x = self.norm(self.body(x, src_key_padding_mask=~mask))
        share = mask / mask.sum(1, keepdim=True)
        return TextEmbedding(self.project(x), mask, self.pool((x * share[..., None]).sum(1)))


class CompactTextEncoder:
    """The compact `TextEncoder`.

    Args:
        tokenizer: with the vocabulary of the weights.
        network: with the same vocabulary.
    """

    name = "compact"
    length = LENGTH

    def __init__(self, tokenizer: BytePairTokenizer, network: TextTransformer) -> None:
        self.tokenizer = tokenizer
        self.network = network
        self.width = network.embedding

    @torch.no_grad()
    def __call__(self, texts: Sequence[str]) -> TextEmbedding:
        """B texts → tokens [B, T, D], mask [B, T] and pooled [B, D]; texts are truncated to LENGTH tokens."""
        ids, mask = tokenize(self.tokenizer, texts)
        device = self.network.position.device
        embedding: TextEmbedding = self.network(ids.to(device), mask.to(device))
        return embedding

    def notices(self, texts: Sequence[str]) -> list[str]:
        """A sentence for each limitation that applies: truncation, and text unlike the training data."""
        return notices(self.tokenizer, texts)


def tokenize(tokenizer: BytePairTokenizer, texts: Sequence[str]) -> tuple[Tensor, Tensor]:
    """Token ids and mask [B, T] of START, text and END, truncated to LENGTH and padded to the longest."""
    ids, mask = token_ids(tokenizer, texts)
    return torch.from_numpy(ids), torch.from_numpy(mask)


class BagOfWords:
    """Texts → L2-normalised means of token embeddings, [B, D]: a baseline for the text encoder."""

    def __init__(self, tokenizer: BytePairTokenizer, embedding: Tensor) -> None:
        self.tokenizer = tokenizer
        self.embedding = embedding

    def __call__(self, texts: Sequence[str]) -> Tensor:
        ids, mask = tokenize(self.tokenizer, texts)
        return nn.functional.normalize((self.embedding[ids] * mask[..., None]).sum(1), dim=-1)


@lru_cache(maxsize=2)
def load_compact(device: str = "cpu") -> CompactTextEncoder:
    """The frozen encoder with its trained weights. Raises WeightsError if they are missing or damaged."""
    weights, tokenizer = load_part(WEIGHTS, "text."), load_tokenizer()
    network = TextTransformer(len(tokenizer))
    network.load_state_dict(weights)
    return CompactTextEncoder(tokenizer, network.to(device).eval().requires_grad_(False))


def load_bag_of_words() -> BagOfWords:
    """The baseline with its trained embedding. Raises WeightsError if it is missing or damaged."""
    return BagOfWords(load_tokenizer(), load_part(WEIGHTS, "bag.")["weight"])
