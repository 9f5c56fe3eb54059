"""Rate and distortion of a codec on held-out crops; calibration of its frequency tables."""

import math
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from trifocal.codecs.network import CodecNetwork
from trifocal.data import Crops, TrainingPicture
from trifocal.data.categories import clip_boxes
from trifocal.data.crops import centre_crop, crop_text
from trifocal.entropy import RateEstimator
from trifocal.entropy.tables import calibrated_frequencies
from trifocal.losses import (
    Objective,
    bits_per_pixel,
    mean_squared_error,
    rate_distortion,
    spread_levels,
)
from trifocal.recipes import Recipe
from trifocal.types import Batch, Condition

LEVELS = (80, 240, 400, 560, 720)
CROPS = 32
LAST_STEP = 1 << 30  # of an objective whose weights change at the start of a run


def to_tensor(crops: NDArray[np.uint8]) -> Tensor:
    """[B, H, W, 3] uint8 → [B, 3, H, W] float in 0..1."""
    return torch.from_numpy(crops).permute(0, 3, 1, 2).float() / 255


@dataclass(frozen=True)
class HeldOut:
    """Crops for validation.

    Attributes:
        x: [N, 3, crop, crop] in 0..1.
        texts: of the crops, "" where there is none.
        boxes: of the objects in each crop, x0, y0, x1, y1 in its pixels, [N, 4].
    """

    x: Tensor
    texts: tuple[str, ...]
    boxes: tuple[Tensor, ...] = ()


def validation_pictures(held_out: Sequence[TrainingPicture]) -> Sequence[TrainingPicture]:
    """Up to CROPS of the held-out images."""
    return held_out[:: max(1, len(held_out) // CROPS)][:CROPS]


def validation_batch(held_out: Sequence[TrainingPicture], crop: int) -> Tensor:
    """Centre crops of up to CROPS held-out images, [N, 3, crop, crop]."""
    return to_tensor(np.stack([centre_crop(p.rgb, crop) for p in validation_pictures(held_out)]))


def held_out_crops(held_out: Sequence[TrainingPicture], recipe: Recipe) -> HeldOut:
    """Centre crops of up to CROPS held-out images, with texts as in training."""
    chosen = validation_pictures(held_out)
    random = np.random.default_rng(recipe.seed)
    texts, boxes, size = [], list[Tensor](), recipe.crop
    for picture in chosen:
        height, width = picture.rgb.shape[:2]
        left, top = (width - size) // 2, (height - size) // 2
        texts.append(crop_text(picture, (left, top, size), (height, width), recipe.text, random)[0])
        clipped, seen = clip_boxes(picture.boxes, (left, top, left + size, top + size))
        boxes.append(torch.from_numpy(clipped[seen]))
    return HeldOut(validation_batch(held_out, size), tuple(texts), tuple(boxes))


@torch.no_grad()
def validate(
    network: CodecNetwork,
    x: Tensor,
    objective: Objective,
    texts: Condition | None = None,
    only_level: int | None = None,
    boxes: Sequence[Tensor] | None = None,
) -> dict[str, float]:
    """Evaluate the network of a codec on crops, with rounded latents and the bits of the frequency tables.

    Args:
        network: the network, in float32.
        x: [N, 3, H, W] in 0..1.
        objective: its terms are added as means over the levels, as `held_out_TERM`, and so are its
            `held_out_metrics`.
        texts: the condition of the crops, for a preset that takes text. Only the terms are computed with it.
        only_level: the level of a single-rate model.
        boxes: of the objects in each crop, [N, 4], for data that has boxes.

    Returns:
        `bpp_LEVEL` and `psnr_LEVEL` without text at five quality levels, or that of a single-rate model;
        `held_out`, the geometric mean of the rate–distortion costs.
    """
    network.eval()
    partners = objective.auxiliary_networks().values()
    for partner in partners:
        partner.eval()  # spectral normalisation updates its vectors in training mode
    x = x.to(next(network.parameters()).device)
    objects = None if boxes is None else tuple(own.to(x.device) for own in boxes)
    row: dict[str, float] = {}
    costs = []
    more: dict[str, list[float]] = {}
    for number in LEVELS if only_level is None else (only_level,):
        level = torch.full((len(x),), number, device=x.device)
        output = network(x, level)
        error = mean_squared_error(output.x_hat, x)
        row[f"bpp_{number}"] = round(float(bits_per_pixel(output, x).mean()), 4)
        row[f"psnr_{number}"] = round(float((10 * torch.log10(255**2 / error)).mean()), 3)
        costs.append(math.log(float(rate_distortion(output, x, level).mean())))
        for name, values in objective.held_out_metrics(network, x, level, output).items():
            more.setdefault(name, []).append(float(values.mean()))
        objective.terms.clear()
        for _ in objective.losses(network, Batch(x, level, texts, objects), LAST_STEP):
            pass
        for name, value in objective.terms.items():
            more.setdefault(f"held_out_{name}", []).append(float(value))
    row["held_out"] = round(math.exp(float(np.mean(costs))), 5)
    row |= {name: round(float(np.mean(values)), 5) for name, values in more.items()}
    network.train()
    for partner in partners:
        partner.train()
    return row


@torch.no_grad()
def calibrate(
    network: CodecNetwork,
    pictures: Sequence[TrainingPicture],
    recipe: Recipe,
    level: int | None = None,
    batches: int = 24,
) -> None:
    """Set the frequency tables of the entropy model to the frequencies in training crops of all qualities, or
    at the level of a single-rate model.

    The same weights and images give the same tables.
    """
    network.eval()
    device = next(network.parameters()).device
    estimator = RateEstimator(network.entropy.cost(), 8, count=True)
    with Crops(pictures, 8, recipe.crop, recipe.seed + 1) as crops, torch.random.fork_rng():
        torch.manual_seed(recipe.seed)
        for _ in range(batches):
            levels = spread_levels(8, device) if level is None else torch.full((8,), level, device=device)
            network(to_tensor(crops.next().rgb).to(device), levels, estimator=estimator)
    assert estimator.counts is not None
    network.entropy.frequencies.copy_(torch.from_numpy(calibrated_frequencies(estimator.counts)))
    network.train()
