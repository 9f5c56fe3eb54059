"""Latent refinement: gradient steps that adapt a base layer's latent to one image.

    y_obj ── rounded ── h_hat ── the detector's tail ── detections ── compared with those on the image ─┐
      └───────── − gradient of rate + task cost ────────────────────────────────────────────────────────┘

Campos et al. 2019, "Content adaptive optimization for neural image compression" (arXiv 1906.01223), applied
to a detector. The analysis is trained for all images, and rounding errors are arbitrary; a few steps move
values near a rounding boundary to the side that the detector needs, or that costs less. Only the encoder does
this; files decode as before.
"""

from typing import Protocol

import torch
from torch import Tensor

from trifocal.codecs.refinement_steps import LEARNING_RATE, PARAMETER_STEPS, Adam
from trifocal.detection.detector import SplitDetector
from trifocal.detection.feature_codec import crop_features, pad_image
from trifocal.detection.two_stage import DetectorNetwork, FirstStage, first_stage
from trifocal.entropy import EntropyModel
from trifocal.entropy.estimators import logistic_bits, quantise_through
from trifocal.losses.base_layer import (
    first_stage_terms,
    preview_error,
    task_cost,
    task_weight,
)

__all__ = ["refined"]


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
        with torch.no_grad():
            wanted = reference(detector, x)
        size, pixels = (x.shape[2], x.shape[3]), x.shape[2] * x.shape[3]
        gain, weight = base.entropy.gain(level).detach(), task_weight(level)
        adam = Adam(LEARNING_RATE * float((1 / gain).mean()))
        for step in range(steps):
            if step % PARAMETER_STEPS == 0:
                with torch.no_grad():
                    mean, index = base.entropy.predicted_parameters(y, level)
            residual = y * gain - mean
            bits = logistic_bits(residual, index).flatten(1).sum(1)
            y_hat = (quantise_through(residual, torch.round(index).long()) + mean) / gain
            task = feature_cost(detector.network, wanted, x, *base.synthesise(y_hat, size))
            cost = bits / pixels + weight * task
            (gradient,) = torch.autograd.grad(cost.sum(), y)
            with torch.no_grad():
                y.copy_(adam.step(y, gradient))
    return y.detach()


def reference(detector: SplitDetector, x: Tensor) -> FirstStage:
    """The detector's first stage on images x [B, 3, H, W]."""
    h = crop_features(
        detector.front_features(pad_image(x)), detector.backbone.stride, (x.shape[2], x.shape[3])
    )
    return first_stage(detector.network, h)[0]


def feature_cost(
    network: DetectorNetwork, wanted: FirstStage, x: Tensor, h_hat: Tensor, preview: Tensor
) -> Tensor:
    """The task cost used in training, without the terms of the detector's second stage (their gradient does
    not change AP): of h_hat and base previews → [B].
    """
    found, _ = first_stage(network, h_hat)
    return task_cost({**first_stage_terms(found, wanted), "picture": preview_error(preview, x)})
