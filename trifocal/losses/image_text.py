"""Losses on image and text embeddings of a shared space, such as CLIP's.

Embeddings are [B, D]; they are normalised where the formula requires it. The default weights are the
published ones.
"""

import math

import torch
import torch.nn.functional as F
from torch import Tensor

SCALE = math.exp(2.6592)  # of the cosines: the initial value in CLIP and in TACO


def cosine_distance(e_hat: Tensor, e: Tensor, weight: float = 0.1) -> Tensor:
    """weight · (1 − cos) of each pair, [B], 0..2·weight (UG-ICM, its code's weight for the last layer)."""
    return weight * (1 - F.cosine_similarity(e_hat.float(), e.float(), dim=-1))


def squared_distance(e_hat: Tensor, e: Tensor, weight: float = 1.0) -> Tensor:
    """weight · ‖e_hat − e‖² of each pair, [B] (dual-layer codec, equation 4; its weight in equation 2 is
    1)."""
    return weight * (e_hat.float() - e.float()).square().sum(-1)


def frobenius_distance(e_hat: Tensor, e: Tensor, weight: float = 40.0) -> Tensor:
    """weight · ‖e_hat − e‖ over the whole batch, a scalar (TACO's code).

    This is not a mean: for equal distances of the pairs it grows with √B. TACO trains with B = 8.
    """
    return weight * torch.linalg.vector_norm(e_hat.float() - e.float())


def contrastive(image: Tensor, text: Tensor, scale: float | Tensor = SCALE) -> Tensor:
    """The symmetric contrastive loss of images and their texts, in nats, a scalar (Radford et al. 2021,
    figure 3).

    The negatives are the texts of the other images; a batch of one has none, and a loss of 0.
    """
    image, text = F.normalize(image.float(), dim=-1), F.normalize(text.float(), dim=-1)
    logits = scale * image @ text.T
    own = torch.arange(len(logits), device=logits.device)
    return (F.cross_entropy(logits, own) + F.cross_entropy(logits.T, own)) / 2


def joint_image_text(e_hat: Tensor, e: Tensor, text: Tensor | None, image_weight: float = 40.0) -> Tensor:
    """TACO's joint image–text loss: contrastive(e_hat, text) + image_weight · ‖e_hat − e‖ over the batch, a
    scalar.

    The paper does not state whether embeddings are normalised in the second term; here they are.

    Args:
        e_hat, e, text: embeddings of decoded images, originals and texts, each [B, D]; without text only the
            second term is used.
    """
    e_hat, e = F.normalize(e_hat.float(), dim=-1), F.normalize(e.float(), dim=-1)
    images = frobenius_distance(e_hat, e, image_weight)
    return images if text is None else images + contrastive(e_hat, text)
