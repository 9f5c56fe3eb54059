"""Gains that turn a quality level into a quantiser step."""

import torch
from torch import Tensor, nn

from trifocal.layers import QualityInterpolation


class Gain(nn.Module):
    """A factor for each latent channel and quality level, log-linear between learned values.

    Args:
        step_sizes: initial quantiser step at the K knots of `QualityInterpolation` (levels 0, 128, 256, …),
            [K], in the units of y.
        channels: M.
    """

    def __init__(self, step_sizes: Tensor, channels: int) -> None:
        super().__init__()
        self.log_gain = QualityInterpolation(-torch.log(step_sizes)[:, None].expand(-1, channels))

    def forward(self, level: Tensor) -> Tensor:
        """[B] → [B, 1, 1, M], positive."""
        return torch.exp(self.log_gain(level))
