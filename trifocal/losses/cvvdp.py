"""ColorVideoVDP as a differentiable loss (Mantiuk 2024; the package `cvvdp`)."""

import logging
import warnings
from functools import cache
from importlib.util import find_spec
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from trifocal.errors import MissingExtra
from trifocal.losses.blur import convolve, gaussian

__all__ = ["Cvvdp"]

DISPLAY = "standard_4k"


class Cvvdp(nn.Module):
    """10 − JOD: just-objectionable differences below a perfect image, on a 30-inch 4K display seen from 75
    cm.

    Raises:
        MissingExtra: if the package is not installed.
    """

    def __init__(self) -> None:
        super().__init__()
        if find_spec("pycvvdp") is None:
            raise MissingExtra("train", "ColorVideoVDP as a loss")

    def forward(self, x_hat: Tensor, x: Tensor) -> Tensor:
        """Images [B, 3, H, W] in 0..1, sRGB → 10 − JOD [B], 0 for equal images. x_hat is clamped to 0..1."""
        with torch.autocast(x.device.type, enabled=False):
            test, reference = x_hat.float().clamp(0, 1)[:, :, None], x.float()[:, :, None]
            loss: Tensor = metric_on(x.device).loss(test, reference, dim_order="BCFHW")
            return loss.reshape(-1)


@cache
def metric_on(device: torch.device) -> Any:
    """The metric of the package in training mode, one per device."""
    metric = new_metric(device)
    metric.train(True)
    metric.pu_blur = Blur(metric.pu_dilate)
    return metric


def new_metric(device: torch.device) -> Any:
    """The package's metric for the display DISPLAY. Raises ImportError if it is not installed."""
    logging.getLogger("torch.utils.cpp_extension").setLevel(logging.ERROR)  # it warns about a missing GPU
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # about escape sequences in its source, on first import
        from pycvvdp import cvvdp
    return cvvdp(display_name=DISPLAY, device=device, quiet=True)


class Blur:
    """Replaces the Gaussian blur of the package by one that halves the time of the metric. Borders are
    mirrored."""

    def __init__(self, sigma: float) -> None:
        self.radius = int(4 * sigma) // 2
        self.taps = gaussian(sigma, self.radius)

    def forward(self, planes: Tensor) -> Tensor:
        """[N, 1, H, W] → the same, blurred."""
        return convolve(F.pad(planes, (self.radius,) * 4, mode="reflect"), self.taps)
