"""How good a codec is in the middle of a run, on held-out crops, and the tables of frequencies at its end."""

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
PICTURES = 32


def to_tensor(crops: NDArray[np.uint8]) -> Tensor:
    """[B, H, W, 3] uint8 → [B, 3, H, W] float 0..1."""
    return torch.from_numpy(crops).permute(0, 3, 1, 2).float() / 255


def validation_batch(held_out: list[TrainingPicture], crop: int) -> Tensor:
    """Centre crops of held-out pictures, [N, 3, crop, crop]."""
    chosen = held_out[:: max(1, len(held_out) // PICTURES)][:PICTURES]
    return to_tensor(np.stack([centre_crop(p.rgb, crop) for p in chosen]))


@torch.no_grad()
def validate(codec: CodecNetwork, x: Tensor, objective: Objective) -> dict[str, float]:
    """Rounded latents and table bits at five qualities: bpp and PSNR at each, and the geometric mean of the costs; what the objective
    says of each picture besides, as its mean."""
    codec.eval()
    x = x.to(next(codec.parameters()).device)
    row: dict[str, float] = {}
    costs = []
    more: dict[str, list[float]] = {}
    for number in LEVELS:
        level = torch.full((len(x),), number, device=x.device)
        output = codec(x, level)
        error = mean_squared_error(output.x_hat, x)
        row[f"bpp_{number}"] = round(float(bits_per_pixel(output, x).mean()), 4)
        row[f"psnr_{number}"] = round(float((10 * torch.log10(255**2 / error)).mean()), 3)
        costs.append(math.log(float(rate_distortion(output, x, level).mean())))
        for name, values in objective.judge(codec, x, level, output).items():
            more.setdefault(name, []).append(float(values.mean()))
    row["held_out"] = round(math.exp(float(np.mean(costs))), 5)
    row |= {name: round(float(np.mean(values)), 5) for name, values in more.items()}
    codec.train()
    return row


@torch.no_grad()
def calibrate(
    codec: CodecNetwork, pictures: Sequence[TrainingPicture], recipe: Recipe, batches: int = 24
) -> None:
    """Sets the frequency tables to what training crops of all qualities really hold in each row. The same weights and pictures
    give the same tables."""
    codec.eval()
    device = next(codec.parameters()).device
    meter = RateEstimator(codec.entropy.cost(), 8, count=True)
    with Crops(pictures, 8, recipe.crop, recipe.seed + 1) as crops, torch.random.fork_rng():
        torch.manual_seed(recipe.seed)
        for _ in range(batches):
            codec(to_tensor(crops.next().rgb).to(device), spread_levels(8, device), estimator=meter)
    assert meter.counts is not None
    codec.entropy.frequencies.copy_(torch.from_numpy(calibrated_frequencies(meter.counts)))
    codec.train()
