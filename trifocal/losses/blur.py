"""Separable Gaussian blur of all planes of a batch in two depthwise convolutions."""

import torch
import torch.nn.functional as F
from torch import Tensor


def gaussian(sigma: float, radius: int) -> Tensor:
    """2 · radius + 1 taps, which sum to 1; sigma in pixels."""
    taps = torch.exp(-torch.arange(-radius, radius + 1).square() / (2 * sigma**2))
    return taps / taps.sum()


def convolve(padded: Tensor, taps: Tensor) -> Tensor:
    """Filter planes with 2r + 1 taps in both directions: [B, C, H + 2r, W + 2r] → [B, C, H, W]."""
    flat = padded.flatten(0, 1)[None]
    kernels = taps.to(padded).expand(flat.shape[1], 1, 1, -1)
    down = F.conv2d(flat, kernels.mT, groups=flat.shape[1])
    across = F.conv2d(down, kernels, groups=flat.shape[1])
    return across[0].unflatten(0, padded.shape[:2])
