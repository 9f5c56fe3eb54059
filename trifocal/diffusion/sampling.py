"""Sampling: from noise to an image, under the control of a decoded latent.

DDIM without added noise (J. Song, C. Meng and S. Ermon, "Denoising Diffusion Implicit Models", ICLR 2021), by
diffusers' scheduler. Latents that are larger than a window are sampled in overlapping windows, whose
predicted noise is averaged in each step (O. Bar-Tal et al., "MultiDiffusion", ICML 2023).
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
import torch
from torch import Tensor

from trifocal.diffusion.stable_diffusion import EXTRA, NEED, StableDiffusion
from trifocal.errors import optional_packages
from trifocal.types import TILE

__all__ = ["SAMPLER", "decode_in_windows", "sample", "start_noise"]

STRIDE = 8  # pixels of a position of a VAE's latent
WINDOW = TILE // STRIDE  # positions to a side
OVERLAP = 4  # of two windows: this part of a side
SAMPLER = "DDIM, eta 0"


def start_noise(seed: int, size: tuple[int, int]) -> Tensor:
    """The noise of a seed, [1, 4, h, w]; the same on every machine and with every version of NumPy.

    Args:
        seed: 0..2³² − 1.
        size: h and w.
    """
    noise = np.random.RandomState(seed).standard_normal((*size, 4))  # its stream is frozen (NEP 19)
    return torch.from_numpy(noise.astype(np.float32)).permute(2, 0, 1)[None].contiguous()


@torch.no_grad()
def sample(
    diffusion: StableDiffusion,
    control: Any,
    z_c: Tensor,
    noise: Tensor,
    steps: int,
    progress: Callable[[float], None] | None = None,
) -> Tensor:
    """Denoise a latent.

    Args:
        diffusion: the frozen networks.
        control: the control module.
        z_c: the decoded latent, [B, 4, h, w], h and w multiples of 8.
        noise: to start from, of that shape.
        steps: of the sampler, 1 or more.
        progress: called with the fraction done, 0..1.

    Returns:
        The latent of the image, [B, 4, h, w].
    """
    with optional_packages(EXTRA, NEED):
        from diffusers import DDIMScheduler
    scheduler = DDIMScheduler.from_config(diffusion.schedule)
    scheduler.set_timesteps(steps, device=z_c.device)
    parts = windows(z_c.shape[2], z_c.shape[3])
    count = _overlaps(z_c, parts)
    z, total = noise.to(z_c) * scheduler.init_noise_sigma, steps * len(parts)
    for step, time in enumerate(scheduler.timesteps):
        predicted = torch.zeros_like(z)
        for number, (rows, columns) in enumerate(parts, start=1):
            near = (..., rows, columns)
            predicted[near] += diffusion.predict_noise(z[near], time, control, z_c[near])
            if progress:
                progress((step * len(parts) + number) / total)
        z = scheduler.step(predicted / count, time, z, eta=0.0, return_dict=False)[0]
    return z


@torch.no_grad()
def decode_in_windows(diffusion: StableDiffusion, z: Tensor) -> Tensor:
    """`StableDiffusion.decode` of a latent of any size. Windows that overlap are blended linearly."""
    height, width = z.shape[2:]
    parts = windows(height, width)
    if len(parts) == 1:
        return diffusion.decode(z)
    total = z.new_zeros(len(z), 3, STRIDE * height, STRIDE * width)
    weights = z.new_zeros(1, 1, *total.shape[2:])
    for rows, columns in parts:
        pixels = [slice(STRIDE * one.start, STRIDE * one.stop) for one in (rows, columns)]
        ramp = _ramp(pixels[0], total.shape[2], z)[:, None] * _ramp(pixels[1], total.shape[3], z)
        total[..., pixels[0], pixels[1]] += ramp * diffusion.decode(z[..., rows, columns])
        weights[..., pixels[0], pixels[1]] += ramp
    return total / weights


def windows(height: int, width: int) -> list[tuple[slice, slice]]:
    """The windows that cover a latent, as rows and columns; one for a latent that fits into it."""
    rows, columns = (_starts(side) for side in (height, width))
    return [
        (slice(top, min(top + WINDOW, height)), slice(left, min(left + WINDOW, width)))
        for top in rows
        for left in columns
    ]


def _starts(side: int) -> list[int]:
    """Where windows begin along a side; the last one ends with it."""
    last = max(0, side - WINDOW)
    return [*range(0, last, WINDOW - WINDOW // OVERLAP), last]


def _overlaps(z: Tensor, parts: list[tuple[slice, slice]]) -> Tensor:
    """How many windows cover each position, [1, 1, h, w]."""
    count = z.new_zeros(1, 1, *z.shape[2:])
    for rows, columns in parts:
        count[..., rows, columns] += 1
    return count


def _ramp(part: slice, side: int, like: Tensor) -> Tensor:
    """Weights along a side of a window in pixels: they rise from the edges that lie inside the image."""
    at = torch.arange(part.start, part.stop, device=like.device, dtype=like.dtype)
    width = STRIDE * (WINDOW // OVERLAP)
    left = (at - part.start + 1) / width if part.start else torch.ones_like(at)
    right = (part.stop - at) / width if part.stop < side else torch.ones_like(at)
    return torch.minimum(left, right).clamp(max=1)
