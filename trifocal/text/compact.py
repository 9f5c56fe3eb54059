"""The compact text tower: a subword tokenizer and a small transformer, trained here together with the image tower.

It ships, so that words work without a download. It learned from English captions of photographs; whatever else is
written becomes bytes that it has hardly seen, and `notes` says so.
"""

from collections.abc import Iterable, Sequence
from functools import lru_cache

import torch
from tokenizers import Tokenizer, models, normalizers, pre_tokenizers, trainers
from torch import Tensor, nn

from trifocal.errors import WeightsError
from trifocal.types import TextEmbedding
from trifocal.weights import FOLDER, load_part

LENGTH = 64
VOCABULARY = 4096
PAD, START, END = "<pad>", "<start>", "<end>"
FAMILIAR = (
    0.5  # tokens for a letter: English captions need about a quarter, bytes of other scripts one and more
)
WEIGHTS, TOKENIZER = FOLDER / "towers.safetensors", FOLDER / "tokenizer.json"


class TextTransformer(nn.Module):
    """Token ids → Words.

    Args:
        vocabulary: number of tokens.
        width, layers, heads: of the transformer.
        embedding: D, of the vectors that come out.
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
        """ids [B, T] and mask [B, T], T at most LENGTH → Words; pooled is the mean over the tokens, projected."""
        x = self.token(ids) + self.position[: ids.shape[1]]
        x = self.norm(self.body(x, src_key_padding_mask=~mask))
        share = mask / mask.sum(1, keepdim=True)
        return TextEmbedding(self.project(x), mask, self.pool((x * share[..., None]).sum(1)))


class CompactTextEncoder:
    """Texts → Words.

    Args:
        tokenizer: made by `train_tokenizer`.
        network: of the same vocabulary.
    """

    name = "compact"
    length = LENGTH

    def __init__(self, tokenizer: Tokenizer, network: TextTransformer) -> None:
        self.tokenizer = tokenizer
        self.network = network
        self.width = network.embedding

    @torch.no_grad()
    def __call__(self, texts: Sequence[str]) -> TextEmbedding:
        """B texts → Words; texts are cut to LENGTH tokens, an empty one is its start and end."""
        ids, mask = tokens_of(self.tokenizer, texts)
        device = self.network.position.device
        words: TextEmbedding = self.network(ids.to(device), mask.to(device))
        return words

    def notes(self, texts: Sequence[str]) -> list[str]:
        """Sentences on what the tower cannot make use of in these texts."""
        said = []
        for text in texts:
            count = len(self.tokenizer.encode(text, add_special_tokens=False).ids)
            if count > LENGTH - 2:
                said.append(f"The text has {count} tokens; the first {LENGTH - 2} count.")
            if count > FAMILIAR * len(text) + 4:
                said.append(
                    "The compact text tower has learned English captions; it will make little of this text."
                )
        return list(dict.fromkeys(said))


def tokens_of(tokenizer: Tokenizer, texts: Sequence[str]) -> tuple[Tensor, Tensor]:
    """Token ids and mask, each [B, T], between START and END, cut to LENGTH and padded to the longest."""
    start, end, pad = (tokenizer.token_to_id(token) for token in (START, END, PAD))
    rows = [
        [start, *tokenizer.encode(text, add_special_tokens=False).ids[: LENGTH - 2], end] for text in texts
    ]
    longest = max(len(row) for row in rows)
    ids = torch.tensor([row + [pad] * (longest - len(row)) for row in rows])
    return ids, torch.tensor([[True] * len(row) + [False] * (longest - len(row)) for row in rows])


def train_tokenizer(texts: Iterable[str], vocabulary: int = VOCABULARY) -> Tokenizer:
    """Byte-level byte pairs over lower-case NFKC text: nothing is unknown, since every byte is a token."""
    tokenizer = Tokenizer(models.BPE())
    tokenizer.normalizer = normalizers.Sequence([normalizers.NFKC(), normalizers.Lowercase()])
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=True)
    trainer = trainers.BpeTrainer(
        vocab_size=vocabulary,
        min_frequency=2,
        special_tokens=[PAD, START, END],
        initial_alphabet=pre_tokenizers.ByteLevel.alphabet(),
        show_progress=False,
    )
    tokenizer.train_from_iterator(texts, trainer)
    return tokenizer


class BagOfWords:
    """Texts → the mean of an embedding of each token, [B, D], of length 1: what the tower is compared with."""

    def __init__(self, tokenizer: Tokenizer, embedding: Tensor) -> None:
        self.tokenizer = tokenizer
        self.embedding = embedding

    def __call__(self, texts: Sequence[str]) -> Tensor:
        ids, mask = tokens_of(self.tokenizer, texts)
        return nn.functional.normalize((self.embedding[ids] * mask[..., None]).sum(1), dim=-1)


@lru_cache(maxsize=2)
def load_compact(device: str = "cpu") -> CompactTextEncoder:
    """The tower with its trained weights, frozen. Raises WeightsError if they are missing or damaged."""
    weights, tokenizer = load_part(WEIGHTS, "text."), load_tokenizer()
    network = TextTransformer(tokenizer.get_vocab_size())
    network.load_state_dict(weights)
    return CompactTextEncoder(tokenizer, network.to(device).eval().requires_grad_(False))


def load_bag() -> BagOfWords:
    """Raises WeightsError if it is missing or damaged."""
    return BagOfWords(load_tokenizer(), load_part(WEIGHTS, "bag.")["weight"])


def load_tokenizer() -> Tokenizer:
    """The one that ships. Raises WeightsError if it is missing."""
    if not TOKENIZER.exists():
        raise WeightsError(f"The tokenizer {TOKENIZER.name} is not installed; install Trifocal again.")
    return Tokenizer.from_str(TOKENIZER.read_text("utf-8"))
