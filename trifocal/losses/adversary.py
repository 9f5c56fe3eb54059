"""A discriminator that sees picture, latent and words, and the two losses of its game."""

from itertools import pairwise
from typing import Literal, TypeAlias

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.nn.utils.parametrizations import spectral_norm

from trifocal.types import LATENT_STRIDE, TextEmbedding

Game: TypeAlias = Literal["bce", "hinge"]

SLOPE = 0.2  # of the leaky ReLUs
KERNEL = 4
LATENT_FEATURES = 12


class Discriminator(nn.Module):
    """Is this a real picture of these words? A patch discriminator on picture, latent and words.

        y_hat ── conv 3×3 to 12 ── nearest ×16 ─┐
        x ──────────────────────────────────────┴─ conv 4×4 ×4 (w, 2w, 4w stride 2; 8w) ─┐
        words ── the same vector at every place ─────────────────────────────────────────┴─ conv 3×3 ── conv 4×4 ── logits

    After HiFiC (Mentzer et al. 2020, section 3.2 and its published configuration), which has no words; the words come in
    as in Cross-modal (section 3.1: replicated over space and joined to the picture's features). Every convolution has
    spectral normalisation. Left open by the paper and chosen here: the words join at the deepest features, the vector as
    the tower gives it, and one 3×3 convolution (8w channels) mixes them before the logits; zeros stand for no words,
    as in the paper's ablation (section 4.3).

    Args:
        latent_channels: M.
        word_channels: D of the pooled words.
        width: w; 64 in HiFiC.
    """

    def __init__(self, latent_channels: int, word_channels: int, width: int = 64) -> None:
        super().__init__()
        self.word_channels = word_channels
        self.latent = normed(nn.Conv2d(latent_channels, LATENT_FEATURES, 3, padding=1))
        widths = (3 + LATENT_FEATURES, width, 2 * width, 4 * width)
        self.features = nn.ModuleList(
            normed(nn.Conv2d(i, o, KERNEL, stride=2, padding=1)) for i, o in pairwise(widths)
        )
        self.features.append(normed(nn.Conv2d(4 * width, 8 * width, KERNEL, padding=1)))
        self.fuse = normed(nn.Conv2d(8 * width + word_channels, 8 * width, 3, padding=1))
        self.head = normed(nn.Conv2d(8 * width, 1, KERNEL, padding=1))

    def forward(self, x: Tensor, y_hat: Tensor, words: TextEmbedding | None) -> Tensor:
        """x [B, 3, H, W] in 0..1, y_hat [B, H/16, W/16, M] → logits of patches, [B, H/8 − 2, W/8 − 2]."""
        latent = F.leaky_relu(self.latent(y_hat.permute(0, 3, 1, 2)), SLOPE)
        latent = F.interpolate(latent, scale_factor=LATENT_STRIDE, mode="nearest")
        hidden = torch.cat([2 * x - 1, latent], dim=1)
        for layer in self.features:
            hidden = F.leaky_relu(layer(hidden), SLOPE)
        hidden = F.leaky_relu(self.fuse(torch.cat([hidden, self._spread(words, hidden)], dim=1)), SLOPE)
        logits: Tensor = self.head(hidden)
        return logits[:, 0]

    def _spread(self, words: TextEmbedding | None, hidden: Tensor) -> Tensor:
        """The words' vector at every place, [B, D, h, w]."""
        if words is None:
            return hidden.new_zeros(len(hidden), self.word_channels, *hidden.shape[2:])
        return words.pooled.to(hidden)[:, :, None, None].expand(-1, -1, *hidden.shape[2:])


def normed(layer: nn.Conv2d) -> nn.Module:
    """The layer with its weight divided by its largest singular value (Miyato et al. 2018)."""
    normalised: nn.Module = spectral_norm(layer)
    return normalised


def generator_loss(fake: Tensor, game: Game) -> Tensor:
    """What the codec adds for each picture, from the logits of its pictures: [B, h, w] → [B].

    "bce": −log D(x_hat), the non-saturating form (HiFiC, equation 5). "hinge": −D(x_hat), as Cross-modal prints in
    equation 4 and SSA-GAN has it.
    """
    loss = F.softplus(-fake) if game == "bce" else -fake
    return loss.flatten(1).mean(1)


def truth_loss(logits: Tensor, real: bool, game: Game) -> Tensor:
    """What the discriminator pays for each picture that it should call real, or not: [B, h, w] → [B].

    "bce": −log D or −log(1 − D) (Cross-modal, equation 6). "hinge": max(0, 1 ∓ D) (SSA-GAN).
    """
    signed = -logits if real else logits
    loss = F.softplus(signed) if game == "bce" else F.relu(1 + signed)
    return loss.flatten(1).mean(1)


def discriminator_loss(
    discriminator: nn.Module,
    x: Tensor,
    x_hat: Tensor,
    y_hat: Tensor,
    words: TextEmbedding | None,
    game: Game = "bce",
) -> Tensor:
    """real + (fake + mismatched) / 2, or real + fake where no words can be mismatched; a scalar.

    Mismatched is a real picture with the words of the picture before it in the batch. Pairs whose words happen to be
    the same vector are left out. Cross-modal (equation 6) adds the three without weights; the halves are SSA-GAN's, and keep
    the sides of the game even. x_hat and y_hat are taken as they are, without a way back to the codec.

    Args:
        discriminator: a `Discriminator`.
        x, x_hat: real and decoded pictures, [B, 3, H, W].
        y_hat: their latents, [B, h, w, M].
        words: theirs, or None.
        game: "bce" or "hinge".
    """
    x_hat, y_hat = x_hat.detach(), y_hat.detach()
    pictures, latents, said = [x, x_hat], [y_hat, y_hat], [words, words]
    others = None if words is None else words.rolled()
    if others is not None:
        pictures, latents, said = [*pictures, x], [*latents, y_hat], [*said, others]
    logits = discriminator(torch.cat(pictures), torch.cat(latents), together(said)).chunk(len(pictures))
    real, fake = truth_loss(logits[0], True, game).mean(), truth_loss(logits[1], False, game).mean()
    if words is None or others is None:
        return real + fake
    differ = (words.pooled != others.pooled).any(1)
    if not differ.any():
        return real + fake
    mismatched = truth_loss(logits[2], False, game)[differ].mean()
    return real + (fake + mismatched) / 2


def together(said: list[TextEmbedding | None]) -> TextEmbedding | None:
    """Words of several batches as those of one; None if there are none."""
    there = [words for words in said if words is not None]
    if not there:
        return None
    return TextEmbedding(
        *(torch.cat(parts) for parts in zip(*((w.tokens, w.mask, w.pooled) for w in there), strict=True))
    )
