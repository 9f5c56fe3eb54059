"""Rate and distortion of a codec on held-out crops; calibration of its frequency tables."""

import math
from collections.abc import Sequence

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from trifocal.codecs.network import CodecNetwork
from trifocal.data import Crops, TrainingPicture
from trifocal.data.images import centre_crop
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

LEVELS = (80, 240, 400, 560, 720)
CROPS = 32


def to_tensor(crops: NDArray[np.uint8]) -> Tensor:
    """[B, H, W, 3] uint8 → [B, 3, H, W] float in 0..1."""
    return torch.from_numpy(crops).permute(0, 3, 1, 2).float() / 255


def validation_batch(held_out: Sequence[TrainingPicture], crop: int) -> Tensor:
    """Centre crops of up to CROPS held-out images, [N, 3, crop, crop]."""
    chosen = held_out[:: max(1, len(held_out) // CROPS)][:CROPS]
    return to_tensor(np.stack([centre_crop(p.rgb, crop) for p in chosen]))


@torch.no_grad()
def validate(network: CodecNetwork, x: Tensor, objective: Objective) -> dict[str, float]:
    """Evaluate the network of a codec on crops, with rounded latents and the bits of the frequency tables.

    Args:
        network: the network, in float32.
        x: [N, 3, H, W] in 0..1.
        objective: its `held_out_metrics` are added as means.

    Returns:
        `bpp_LEVEL` and `psnr_LEVEL` at five quality levels; `held_out`, the geometric mean of the
        rate–distortion costs.
    """
    network.eval()
    x = x.to(next(network.parameters()).device)
    row: dict[str, float] = {}
    costs = []
    more: dict[str, list[float]] = {}
    for number in LEVELS:
        level = torch.full((len(x),), number, device=x.device)
        output = network(x, level)
        error = mean_squared_error(output.x_hat, x)
        row[f"bpp_{number}"] = round(float(bits_per_pixel(output, x).mean()), 4)
        row[f"psnr_{number}"] = round(float((10 * torch.log10(255**2 / error)).mean()), 3)
        costs.append(math.log(float(rate_distortion(output, x, level).mean())))
        for name, values in objective.held_out_metrics(network, x, level, output).items():
            more.setdefault(name, []).append(float(values.mean()))
    row["held_out"] = round(math.exp(float(np.mean(costs))), 5)
    row |= {name: round(float(np.mean(values)), 5) for name, values in more.items()}
    network.train()
    return row


@torch.no_grad()
def calibrate(
    network: CodecNetwork, pictures: Sequence[TrainingPicture], recipe: Recipe, batches: int = 24
) -> None:
    """Set the frequency tables of the entropy model to the frequencies in training crops of all qualities.

    The same weights and images give the same tables.
    """
    network.eval()
    device = next(network.parameters()).device
    estimator = RateEstimator(network.entropy.cost(), 8, count=True)
    with Crops(pictures, 8, recipe.crop, recipe.seed + 1) as crops, torch.random.fork_rng():
        torch.manual_seed(recipe.seed)
        for _ in range(batches):
            network(to_tensor(crops.next().rgb).to(device), spread_levels(8, device), estimator=estimator)
    assert estimator.counts is not None
    network.entropy.frequencies.copy_(torch.from_numpy(calibrated_frequencies(estimator.counts)))
    network.train()
