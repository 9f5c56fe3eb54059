"""Losses on image and text embeddings of a shared space, such as CLIP's.

Embeddings are [B, D]; they are normalised where the formula requires it. The default weights are the
published ones.
"""

import math

import torch
import torch.distributed as dist
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

    In a training step of several processes the batch is that of all of them, as in a single process with the
    same total batch; all processes must call this. Without gradient, as in validation, it is this one's.

    Args:
        e_hat, e, text: embeddings of decoded images, originals and texts, each [B, D]; without text only the
            second term is used. Processes may differ in whether they have text.
    """
    e_hat, e = F.normalize(e_hat.float(), dim=-1), F.normalize(e.float(), dim=-1)
    count = dist.get_world_size() if dist.is_available() and dist.is_initialized() else 1
    if count > 1 and torch.is_grad_enabled():
        e_hat, e, text = gather_embeddings(e_hat, e, text, count)
    images = frobenius_distance(e_hat, e, image_weight)
    if text is None:
        return images
    if count > 1:
        with_text = text.abs().sum(-1) > 0
        e_hat, text = e_hat[with_text], text[with_text]
    return images + contrastive(e_hat, text)


def gather_embeddings(
    e_hat: Tensor, e: Tensor, text: Tensor | None, count: int
) -> tuple[Tensor, Tensor, Tensor | None]:
    """The embeddings of all processes, each [count·B, D]; text is 0 where a process has none, and None if no
    process has any.

    Only those of this process have a gradient. It is `count` times as large, since the gradients of the
    parameters are averaged over the processes, and each has its own part of this sum.
    """
    own = torch.cat([e_hat, e, torch.zeros_like(e) if text is None else text.float()], dim=-1).detach()
    parts = [torch.empty_like(own) for _ in range(count)]
    dist.all_gather(parts, own.contiguous())
    all_hat, all_e, all_text = torch.cat(parts).chunk(3, dim=-1)
    scaled = e_hat.detach() + count * (e_hat - e_hat.detach())
    first = dist.get_rank() * len(e_hat)
    all_hat = torch.cat([all_hat[:first], scaled, all_hat[first + len(e_hat) :]])
    return all_hat, all_e, all_text if bool(all_text.any()) else None
