"""A small codec with random weights, and pictures to give it."""

import numpy as np
import pytest
import torch

from trifocal.codec import Codec
from trifocal.entropy import EntropyModel
from trifocal.pictures import Picture
from trifocal.transforms import Analysis, Synthesis


def small_codec(seed: int = 0, noise: float = 0.05) -> Codec:
    """The classes of `compact` at a fraction of its size; weights moved at random, so that no path is zero."""
    torch.manual_seed(seed)
    steps = torch.logspace(2.0, 0.8, 8)
    codec = Codec(
        analysis=Analysis(channels=16, latent_channels=48, blocks=2),
        entropy=EntropyModel(latent_channels=48, hyper_channels=8, width=16, blocks=1, steps=steps),
        synthesis=Synthesis(channels=16, latent_channels=48, blocks=2, knots=8),
        reach=16,
    )
    with torch.no_grad():
        for name, parameter in codec.named_parameters():
            if ".linear." not in name and "log_gain" not in name and "normalise" not in name:
                parameter.add_(noise * torch.randn_like(parameter))
    codec.preset_id = 1
    return codec.eval()


def random_rgb(width: int, height: int, seed: int = 0) -> np.ndarray:
    """A smooth random picture with some noise and edges, uint8 [height, width, 3]."""
    random = np.random.default_rng(seed)
    y, x = np.mgrid[0:height, 0:width] / 32
    waves = sum(
        random.normal(size=3) * np.sin(a * x + b * y + c)[..., None]
        for a, b, c in random.uniform(-2, 2, size=(6, 3))
    )
    edges = 40 * (np.sin(7 * x) > 0.6)[..., None]
    return np.clip(128 + 30 * waves + edges + random.normal(size=(height, width, 3)) * 6, 0, 255).astype(
        np.uint8
    )


@pytest.fixture(scope="session")
def codec() -> Codec:
    return small_codec()


@pytest.fixture(scope="session")
def picture() -> Picture:
    return Picture(random_rgb(200, 136))
