"""A distance that tests of objectives use."""

import torch

from trifocal.losses.perceptual import Perceptual


class HalfSizeDistance(Perceptual):
    """The mean squared error of two images at half their size, [B]."""

    title = "half the size"

    def forward(self, x_hat: torch.Tensor, x: torch.Tensor) -> torch.Tensor:
        half = torch.nn.functional.avg_pool2d(x_hat - x, 2)
        return half.square().flatten(1).mean(1)
