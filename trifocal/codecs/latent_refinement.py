"""Latent refinement: gradient steps at the encoder that adapt a base layer's latent to one image.

    y_obj ── rounded ── h_hat ── the detector's tail ── detections ── compared with those on the image ─┐
      └───────── − gradient of rate + task cost ────────────────────────────────────────────────────────┘

Campos et al. 2019, "Content adaptive optimization for neural image compression" (arXiv 1906.01223), applied
to a detector. The analysis is trained for all images, and rounding errors are arbitrary; a few steps move
values near a rounding boundary to the side that the detector needs, or that costs less. The decoder is
unaffected.
"""

from typing import Protocol

import torch
from torch import Tensor

from trifocal.detection.detector import SplitDetector
from trifocal.entropy import EntropyModel
from trifocal.entropy.estimators import logistic_bits, quantise_through
from trifocal.losses.base_layer import DetectorReference, task_cost, task_weight

__all__ = ["refined"]

LEARNING_RATE = 0.0125  # of Adam, in quantiser steps
BETAS = (0.8, 0.95)  # short memory for few steps
EPSILON = 1e-8


class RefinableBaseLayer(Protocol):
    """The parts of `base_layer.BaseLayer` that refinement uses."""

    entropy: EntropyModel

    def synthesise(self, y_hat: Tensor, size: tuple[int, int]) -> tuple[Tensor, Tensor]:
        """y_obj_hat [B, h, w, M], and height and width of small images → h_hat and base previews."""
        ...


def refined(
    base: RefinableBaseLayer, detector: SplitDetector, x: Tensor, y: Tensor, level: Tensor, steps: int
) -> Tensor:
    """y_obj after some steps of Adam.

    Args:
        detector: of the base layer, frozen, in evaluation mode.
        x: small images, [B, 3, H, W] in 0..1.
        y: their latents, [B, h, w, M].
        level: [B].
        steps: 0 returns y unchanged.
    """
    with torch.inference_mode(False), torch.enable_grad():
        x, y, level = x.clone(), y.clone().requires_grad_(), level.clone()  # no inference tensors
        original = DetectorReference(detector, x)
        size, pixels = (x.shape[2], x.shape[3]), x.shape[2] * x.shape[3]
        gain, weight = base.entropy.gain(level).detach(), task_weight(level)
        adam = Adam(y, LEARNING_RATE * float((1 / gain).mean()))
        for _ in range(steps):
            with torch.no_grad():
                mean, index = base.entropy.predicted_parameters(y, level)
            residual = y * gain - mean
            bits = logistic_bits(residual, index).flatten(1).sum(1)
            y_hat = (quantise_through(residual, torch.round(index).long()) + mean) / gain
            cost = bits / pixels + weight * task_cost(original.terms(*base.synthesise(y_hat, size)))
            adam.step(*torch.autograd.grad(cost.sum(), y))
    return y.detach()


class Adam:
    """Kingma and Ba 2015, for one tensor. Same result as torch.optim.Adam, without importing torch's compiler
    (130 MB).
    """

    def __init__(self, x: Tensor, rate: float) -> None:
        self.x, self.rate, self.steps = x, rate, 0
        self.mean, self.square = torch.zeros_like(x), torch.zeros_like(x)

    @torch.no_grad()
    def step(self, gradient: Tensor) -> None:
        """Update x by one step against a gradient of its shape."""
        self.steps += 1
        beta1, beta2 = BETAS
        self.mean.lerp_(gradient, 1 - beta1)
        self.square.mul_(beta2).addcmul_(gradient, gradient, value=1 - beta2)
        spread = (self.square.sqrt() / (1 - beta2**self.steps) ** 0.5).add_(EPSILON)
        self.x.addcdiv_(self.mean, spread, value=-self.rate / (1 - beta1**self.steps))
