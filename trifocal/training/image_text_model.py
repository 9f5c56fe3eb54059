"""The bundled text and image encoders with their losses.

    captions ── text encoder ── pooled ┐
                                       ├─ contrastive loss (CLIP, Radford et al. 2021)
    views ── image encoder ── pooled ──┘
                 │
                 ├─ positions · pooled phrase ── cross-entropy with boxes of the named objects
                 ├─ ground(positions, tokens of the phrase) ── the same
                 └─ positions at two strides ── linear ── cross-entropy with class scores of a detector

A bag of words (the mean of one embedding per token) is trained on the same captions for comparison.
"""

from collections.abc import Iterable

import torch
import torch.nn.functional as F
from tokenizers import Tokenizer, models, normalizers, pre_tokenizers, trainers
from torch import Tensor, nn

from trifocal.detection.image_encoder import ImageEncoder
from trifocal.losses import contrastive
from trifocal.losses.detection import soft_cross_entropy
from trifocal.text.byte_pairs import BytePairTokenizer
from trifocal.text.compact import TextTransformer, tokenize
from trifocal.text.grounding import GroundingHead
from trifocal.text.tokens import END, PAD, START
from trifocal.training.image_text_batches import ImageTextBatch
from trifocal.types import TextEmbedding

__all__ = ["ImageTextModel", "auc", "ranks", "train_tokenizer"]

CLASSES = 80
VOCABULARY = 4096


class ImageTextModel(nn.Module):
    """Both encoders, the bag of words, and the layers that only training needs.

    Args:
        tokenizer: of the text encoder.
    """

    def __init__(self, tokenizer: BytePairTokenizer) -> None:
        super().__init__()
        self.tokenizer = tokenizer
        vocabulary = len(tokenizer)
        self.image = ImageEncoder()
        self.text = TextTransformer(vocabulary)
        self.ground = GroundingHead(self.text.embedding)
        self.bag = nn.Embedding(vocabulary, self.text.embedding)
        self.scale = nn.Parameter(
            torch.tensor([2.3, 2.3])
        )  # logarithms of the factors of cosines: with captions, and at positions
        self.offset = nn.Parameter(torch.tensor(-4.0))
        self.coarse = nn.Linear(self.image.widths[2], CLASSES)
        self.fine = nn.Linear(self.image.widths[1], CLASSES)
        nn.init.constant_(self.coarse.bias, -5.0)
        nn.init.constant_(self.fine.bias, -5.0)

    def forward(self, batch: ImageTextBatch) -> dict[str, Tensor]:
        """The scalar loss terms by name, before their weights."""
        seen = self.image(batch.x)
        captioned = [number for number, caption in enumerate(batch.captions) if caption]
        texts = [batch.captions[number] for number in captioned] + batch.phrases
        ids, mask = self.tokens(texts)
        embedding: TextEmbedding = self.text(ids, mask)
        pooled = F.normalize(embedding.pooled, dim=-1)
        captions, phrases = pooled[: len(captioned)], pooled[len(captioned) :]
        images = seen.pooled[captioned]
        bag = self.bag_embedding(ids[: len(captioned)], mask[: len(captioned)])
        at = torch.einsum("bhwd,bd->bhw", seen.local, phrases) * self.scale[1].exp() + self.offset
        ground = self.ground(seen.feature_maps[2], embedding.select(slice(len(captioned), None)))
        terms = {
            "captions": contrastive(images, captions, self.scale[0].exp()),
            "bag": contrastive(images.detach(), bag, self.scale[0].exp().detach()),
            "where": F.binary_cross_entropy_with_logits(at, batch.coverage),
            "ground": F.binary_cross_entropy_with_logits(ground, batch.coverage),
        }
        if batch.scores is not None:
            fine, coarse = batch.scores
            terms["teacher"] = class_map_loss(self.coarse(seen.feature_maps[2]), coarse) + class_map_loss(
                self.fine(seen.feature_maps[1]), fine
            )
        return terms

    def tokens(self, texts: list[str]) -> tuple[Tensor, Tensor]:
        """Token ids and mask, [B, T] each, on the device of the model."""
        ids, mask = tokenize(self.tokenizer, texts)
        return ids.to(self.offset.device), mask.to(self.offset.device)

    def bag_embedding(self, ids: Tensor, mask: Tensor) -> Tensor:
        """Token ids and mask [B, T] → the normalised mean embedding [B, D]."""
        return F.normalize((self.bag(ids) * mask[..., None]).sum(1), dim=-1)

    def metrics(self, batch: ImageTextBatch) -> dict[str, float]:
        """Recall at 1 and 5 of images by their captions, also by the bag of words; and the AUC of phrases at
        positions."""
        seen = self.image(batch.x)
        ids, mask = self.tokens(batch.captions)
        pooled = F.normalize(self.text(ids, mask).pooled, dim=-1)
        row = {}
        for name, embedding in (("", pooled), ("bag_", self.bag_embedding(ids, mask))):
            rank = ranks(embedding @ seen.pooled.T)
            row[f"{name}recall_1"] = round(float((rank < 1).float().mean()), 4)
            row[f"{name}recall_5"] = round(float((rank < 5).float().mean()), 4)
        phrases = self.text(*self.tokens(batch.phrases))
        at = torch.einsum("bhwd,bd->bhw", seen.local, F.normalize(phrases.pooled, dim=-1))
        row["where_auc"] = auc(at, batch.coverage)
        row["ground_auc"] = auc(self.ground(seen.feature_maps[2], phrases), batch.coverage)
        return row


def class_map_loss(logits: Tensor, target: Tensor) -> Tensor:
    """`soft_cross_entropy` with the classes last: [B, h, w, K] twice → scalar."""
    return soft_cross_entropy(logits.movedim(-1, 1), target.movedim(-1, 1))


def ranks(similarity: Tensor) -> Tensor:
    """For each text, the number of images that are more similar than its own, which is on the diagonal: [N,
    N] → [N]."""
    return (similarity > similarity.diagonal()[:, None]).sum(1)


def auc(scores: Tensor, where: Tensor) -> float:
    """The probability that a position inside the named boxes scores higher than one outside (of every
    seventh): [B, h, w] twice."""
    inside, outside = scores[where > 0.9], scores[where < 0.1]
    return round(float((inside[:, None] > outside[None, ::7]).float().mean()), 4)


def train_tokenizer(texts: Iterable[str], vocabulary: int = VOCABULARY) -> BytePairTokenizer:
    """Train byte-level BPE on lower-case NFKC text; every byte is a token, so no character is unknown."""
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
    return BytePairTokenizer(tokenizer.to_str())
