"""Rounding, and its two stand-ins for training; the gains that turn quality into a step size."""

import torch
from torch import Tensor, nn

from trifocal.layers import Knots


def round_through(x: Tensor) -> Tensor:
    """Rounds; the gradient passes as if it had not (straight-through estimator)."""
    return x + (torch.round(x) - x).detach()


def add_noise(x: Tensor) -> Tensor:
    """x plus uniform noise in ±1/2, which has the density of a rounded value (Ballé et al. 2017)."""
    return x + torch.rand_like(x) - 0.5


class Gain(nn.Module):
    """A factor for each latent channel and quality level, log-linear between learned knots.

    Args:
        steps: quantiser step at each knot, [K], in the units of y.
        channels: M.
    """

    def __init__(self, steps: Tensor, channels: int) -> None:
        super().__init__()
        self.log_gain = Knots(-torch.log(steps)[:, None].expand(-1, channels))

    def forward(self, level: Tensor) -> Tensor:
        """[B] → [B, 1, 1, M], positive."""
        return torch.exp(self.log_gain(level))
