"""Text embeddings, a text encoder and codecs that read text."""

from collections.abc import Sequence

import torch

from helpers.codecs import small_codec
from trifocal.codecs.codec import Codec
from trifocal.codecs.network import CodecNetwork
from trifocal.codecs.torch_runtime import TorchRuntime
from trifocal.types import Condition, TextEmbedding

TEXT_CHANNELS = 8


def random_text_embedding(count: int, seed: int = 0) -> TextEmbedding:
    """Random embeddings of `count` texts of three tokens."""
    random = torch.Generator().manual_seed(seed)
    tokens = torch.randn(count, 3, TEXT_CHANNELS, generator=random)
    return TextEmbedding(tokens, torch.ones(count, 3, dtype=torch.bool), 2 * tokens.mean(1))


class TextBrightenedNetwork(CodecNetwork):
    """The small codec; text brightens its latent (`reads` "encoder") or its output ("decoder")."""

    reads = ""

    def brightness(self, condition: Condition | None, reader: str) -> torch.Tensor | float:
        if self.reads != reader or condition is None or condition.text is None:
            return 0.0
        return condition.text.pooled.mean()

    def analyse(self, x: torch.Tensor, condition: Condition | None = None) -> torch.Tensor:
        return super().analyse(x) + 20 * self.brightness(condition, "encoder")

    def synthesise(
        self, y_hat: torch.Tensor, level: torch.Tensor, condition: Condition | None = None
    ) -> torch.Tensor:
        return super().synthesise(y_hat, level) + self.brightness(condition, "decoder")


class VowelEncoder:
    """A text encoder that returns the share of vowels; it warns of more than eight words."""

    name, width, length = "letters", 4, 8

    def __call__(self, texts: Sequence[str]) -> TextEmbedding:
        share = [sum(letter in "aeiou" for letter in text) / (len(text) + 1) for text in texts]
        pooled = torch.tensor(share)[:, None].expand(-1, 4)
        return TextEmbedding(pooled[:, None], torch.ones(len(texts), 1, dtype=torch.bool), pooled)

    def notices(self, texts: Sequence[str]) -> list[str]:
        longest = max(len(text.split()) for text in texts)
        return [f"The text has {longest} words; the first 8 count."] if longest > 8 else []


def text_codec(reads: str, seed: int = 0) -> Codec:
    """The small codec whose `reads` (`encoder`, `decoder` or none) depends on text."""
    parts = small_codec(seed).network
    network = TextBrightenedNetwork(parts.analysis, parts.entropy, parts.synthesis, parts.receptive_field)
    network.reads = reads
    return Codec(TorchRuntime(network.eval()))


def attend_left_half(x: torch.Tensor, words: TextEmbedding) -> torch.Tensor:
    """The text is found in the left half of every image; probabilities [B, H/16, W/16]."""
    p = torch.full((len(x), x.shape[2] // 16, x.shape[3] // 16), 0.02)
    p[:, :, : p.shape[2] // 2] = 0.98
    return p
