"""How far the meaning of a decoded picture is from the original's, or from words, in a space such as CLIP's.

Embeddings are [B, D], of whichever pair of towers shares a space; they are normalised here where the formula wants it.
The weights are those that were published with each form.
"""

import math

import torch
import torch.nn.functional as F
from torch import Tensor

SCALE = math.exp(2.6592)  # of the cosines: where CLIP's own training begins, and TACO's


def cosine_distance(e_hat: Tensor, e: Tensor, weight: float = 0.1) -> Tensor:
    """weight · (1 − cos) of each pair, [B], 0..2·weight (UG-ICM, its code's weight for the last layer)."""
    return weight * (1 - F.cosine_similarity(e_hat.float(), e.float(), dim=-1))


def squared_distance(e_hat: Tensor, e: Tensor, weight: float = 1.0) -> Tensor:
    """weight · ‖e_hat − e‖² of each pair, [B] (dual-layer codec, equation 4; its weight in equation 2 is 1)."""
    return weight * (e_hat.float() - e.float()).square().sum(-1)


def frobenius_distance(e_hat: Tensor, e: Tensor, weight: float = 40.0) -> Tensor:
    """weight · ‖e_hat − e‖ over the whole batch, one number (TACO's code).

    It is no mean: at the same distance of each pair it grows with the root of B. TACO trains with B = 8.
    """
    return weight * torch.linalg.vector_norm(e_hat.float() - e.float())


def contrastive(image: Tensor, text: Tensor, scale: float | Tensor = SCALE) -> Tensor:
    """Which text belongs to which picture, and the reverse: the mean of two cross-entropies over the batch, in nats.

    Radford et al. 2021, figure 3. The texts of the other pictures are what does not match; a batch of one has none, and
    costs nothing.
    """
    image, text = F.normalize(image.float(), dim=-1), F.normalize(text.float(), dim=-1)
    logits = scale * image @ text.T
    own = torch.arange(len(logits), device=logits.device)
    return (F.cross_entropy(logits, own) + F.cross_entropy(logits.T, own)) / 2


def joint_image_text(e_hat: Tensor, e: Tensor, text: Tensor | None, image_weight: float = 40.0) -> Tensor:
    """TACO's joint image–text loss, one number: decoded pictures against their texts, and against the originals.

    contrastive(e_hat, text) + image_weight · ‖e_hat − e‖ over the batch, the pictures' embeddings of length 1. That they
    are normalised in the second term as well is our reading.

    Args:
        e_hat, e, text: embeddings of decoded pictures, originals and texts, each [B, D]; without texts the second term is
            all.
    """
    e_hat, e = F.normalize(e_hat.float(), dim=-1), F.normalize(e.float(), dim=-1)
    images = frobenius_distance(e_hat, e, image_weight)
    return images if text is None else images + contrastive(e_hat, text)
