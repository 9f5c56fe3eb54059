"""A conditional patch discriminator, and the adversarial losses."""

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
    """A patch discriminator, conditioned on latent and text.

        y_hat ── conv 3×3 to 12 ── nearest ×16 ─┐
        x ──────────────────────────────────────┴─ conv 4×4 ×4 (w, 2w, 4w stride 2; 8w) ─┐
        text ── the same vector at every position ───────────────────────────────────────┴─ conv 3×3
                                                                                 ── conv 4×4 ── logits

    After HiFiC (Mentzer et al. 2020, section 3.2 and its published configuration), which has no text. The
    text enters as in Cross-modal (section 3.1): its vector is replicated over space and concatenated with the
    features of the image. Every convolution has spectral normalisation. The paper leaves open where the text
    enters. Here it joins the deepest features, and a 3×3 convolution (8w channels) follows. Zeros represent
    no text, as in the paper's ablation (section 4.3).

    Args:
        latent_channels: M.
        text_channels: D of the pooled text embedding.
        width: w; 64 in HiFiC.
    """

    def __init__(self, latent_channels: int, text_channels: int, width: int = 64) -> None:
        super().__init__()
        self.text_channels = text_channels
        self.latent = spectrally_normalised(nn.Conv2d(latent_channels, LATENT_FEATURES, 3, padding=1))
        widths = (3 + LATENT_FEATURES, width, 2 * width, 4 * width)
        self.features = nn.ModuleList(
            spectrally_normalised(nn.Conv2d(i, o, KERNEL, stride=2, padding=1)) for i, o in pairwise(widths)
        )
        self.features.append(spectrally_normalised(nn.Conv2d(4 * width, 8 * width, KERNEL, padding=1)))
        self.fuse = spectrally_normalised(nn.Conv2d(8 * width + text_channels, 8 * width, 3, padding=1))
        self.head = spectrally_normalised(nn.Conv2d(8 * width, 1, KERNEL, padding=1))

    def forward(self, x: Tensor, y_hat: Tensor, text: TextEmbedding | None) -> Tensor:
        """x [B, 3, H, W] in 0..1, y_hat [B, H/16, W/16, M], text of B images → logits of patches, [B, H/8 −
        2, W/8 − 2]."""
        latent = F.leaky_relu(self.latent(y_hat.permute(0, 3, 1, 2)), SLOPE)
        latent = F.interpolate(latent, scale_factor=LATENT_STRIDE, mode="nearest")
        hidden = torch.cat([2 * x - 1, latent], dim=1)
        for layer in self.features:
            hidden = F.leaky_relu(layer(hidden), SLOPE)
        hidden = F.leaky_relu(self.fuse(torch.cat([hidden, self._spread(text, hidden)], dim=1)), SLOPE)
        logits: Tensor = self.head(hidden)
        return logits[:, 0]

    def _spread(self, text: TextEmbedding | None, hidden: Tensor) -> Tensor:
        """The pooled text embedding at every position, [B, D, h, w]."""
        if text is None:
            return hidden.new_zeros(len(hidden), self.text_channels, *hidden.shape[2:])
        return text.pooled.to(hidden)[:, :, None, None].expand(-1, -1, *hidden.shape[2:])


def spectrally_normalised(layer: nn.Conv2d) -> nn.Module:
    """The layer with its weight divided by its largest singular value (Miyato et al. 2018)."""
    normalised: nn.Module = spectral_norm(layer)
    return normalised


def generator_loss(fake: Tensor, game: Game) -> Tensor:
    """The adversarial loss of the codec from the logits of decoded images: [B, h, w] → [B].

    "bce": −log D(x_hat), the non-saturating form (HiFiC, equation 5). "hinge": −D(x_hat), as Cross-modal
    prints in equation 4 and SSA-GAN has it.
    """
    loss = F.softplus(-fake) if game == "bce" else -fake
    return loss.flatten(1).mean(1)


def classification_loss(logits: Tensor, real: bool, game: Game) -> Tensor:
    """The loss of the discriminator for images that are real, or not: [B, h, w] → [B].

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
    text: TextEmbedding | None,
    game: Game = "bce",
) -> Tensor:
    """The loss of the discriminator, a scalar: real + (fake + mismatched) / 2, or real + fake without text.

    "Mismatched" is a real image with the text of the previous image of the batch, left out where both texts
    have the same embedding. Cross-modal (equation 6) adds the three without weights; the halves are
    SSA-GAN's, and balance real and fake. No gradient reaches the codec.

    Args:
        discriminator: a `Discriminator`.
        x, x_hat: real and decoded images, [B, 3, H, W].
        y_hat: their latents, [B, h, w, M].
        text: their text embeddings, or None.
        game: "bce" or "hinge".
    """
    x_hat, y_hat = x_hat.detach(), y_hat.detach()
    images, latents, texts = [x, x_hat], [y_hat, y_hat], [text, text]
    others = None if text is None else text.rolled()
    if others is not None:
        images, latents, texts = [*images, x], [*latents, y_hat], [*texts, others]
    logits = discriminator(torch.cat(images), torch.cat(latents), concatenate(texts)).chunk(len(images))
    real, fake = (
        classification_loss(logits[0], True, game).mean(),
        classification_loss(logits[1], False, game).mean(),
    )
    if text is None or others is None:
        return real + fake
    differ = (text.pooled != others.pooled).any(1)
    if not differ.any():
        return real + fake
    mismatched = classification_loss(logits[2], False, game)[differ].mean()
    return real + (fake + mismatched) / 2


def concatenate(texts: list[TextEmbedding | None]) -> TextEmbedding | None:
    """The text embeddings of several batches as those of one; None if there are none."""
    there = [text for text in texts if text is not None]
    if not there:
        return None
    return TextEmbedding(
        *(torch.cat(parts) for parts in zip(*((w.tokens, w.mask, w.pooled) for w in there), strict=True))
    )
