"""Rounding with a dead zone, and its stand-ins for training; the gains that turn quality into a step size."""

import torch
from torch import Tensor, nn

from trifocal.entropy.tables import ROWS, logistic_bits
from trifocal.layers import QualityInterpolation

DEAD_ZONE = 0.025  # of a step for each bit that ±1 costs above 0


def zero_below() -> Tensor:
    """The magnitude under which a value of each row is coded as 0, in steps, [ROWS].

    A ±1 among zeros costs several bits and takes away little error: half a step and `DEAD_ZONE` for each of those bits.
    On held-out pictures it took 1.2 % off the rate at equal PSNR, before the networks were trained with it.
    """
    rows = torch.arange(ROWS, dtype=torch.float64)
    price = logistic_bits(torch.ones_like(rows), rows) - logistic_bits(torch.zeros_like(rows), rows)
    return 0.5 + DEAD_ZONE * price


ZERO_BELOW = zero_below()


def quantise(residual: Tensor, rows: Tensor) -> Tensor:
    """Rounds to integers, with the dead zone of each value's row; residual and rows of the same shape."""
    return torch.round(residual) * (residual.abs() >= ZERO_BELOW.to(residual)[rows])


def quantise_through(residual: Tensor, rows: Tensor) -> Tensor:
    """`quantise`; the gradient passes as if it had not been there (straight-through estimator)."""
    return residual + (quantise(residual, rows) - residual).detach()


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
        self.log_gain = QualityInterpolation(-torch.log(steps)[:, None].expand(-1, channels))

    def forward(self, level: Tensor) -> Tensor:
        """[B] → [B, 1, 1, M], positive."""
        return torch.exp(self.log_gain(level))
