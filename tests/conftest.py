"""A small codec with random weights, pictures to give it, and what several tests ask of such codecs."""

import os
from dataclasses import replace
from pathlib import Path

if "PYTEST_XDIST_WORKER" in os.environ:  # the processes share the cores
    os.environ.setdefault("OMP_NUM_THREADS", "1")

import numpy as np
import pytest
import torch
from PIL import Image

from trifocal import presets
from trifocal.codecs.codec import Codec
from trifocal.codecs.network import CodecNetwork
from trifocal.codecs.torch_runtime import TorchRuntime
from trifocal.entropy import EntropyModel
from trifocal.losses.perceptual import Perceptual
from trifocal.pictures import Picture, canvas
from trifocal.transforms import Analysis, Synthesis
from trifocal.types import Condition


def small_codec(seed: int = 0, noise: float = 0.05) -> Codec:
    """The classes of `compact` at a fraction of its size; weights moved at random, so that no path is
    zero.
    """
    torch.manual_seed(seed)
    steps = torch.logspace(2.0, 0.8, 8)
    network = CodecNetwork(
        analysis=Analysis(channels=16, latent_channels=48, blocks=2),
        entropy=EntropyModel(latent_channels=48, hyper_channels=8, width=16, blocks=1, steps=steps),
        synthesis=Synthesis(channels=16, latent_channels=48, blocks=2, knots=8),
        receptive_field=16,
    )
    with torch.no_grad():
        for name, parameter in network.named_parameters():
            if ".linear." not in name and "log_gain" not in name and "normalise" not in name:
                parameter.add_(noise * torch.randn_like(parameter))
    codec = Codec(TorchRuntime(network.eval()))
    codec.preset_id = 1
    return codec


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


def largest_seam(codec: Codec, condition: Condition, monkeypatch: pytest.MonkeyPatch) -> int:
    """By how many levels a picture that is decoded in six tiles differs from the same latents decoded at
    once.
    """
    picture = Picture(random_rgb(300, 200, seed=5))
    monkeypatch.setattr(canvas, "TILE", 128)
    stream = codec.encode(picture, quality=60)
    assert len(stream.layers[0].chunks) == 6
    by_tile = codec.decode(stream, condition=condition).picture.rgb
    y_hat = torch.from_numpy(codec.decode_latents(stream).y)
    with torch.inference_mode():
        at_once = codec.network.synthesise(y_hat, torch.tensor([480]), condition)[0, :, :200, :300]
    return int(np.abs(at_once.permute(1, 2, 0).mul(255).round().clamp(0, 255).numpy() - by_tile).max())


class Halved(Perceptual):
    """A distance of the pictures at half of their size."""

    title = "half the size"

    def forward(self, x_hat: torch.Tensor, x: torch.Tensor) -> torch.Tensor:
        half = torch.nn.functional.avg_pool2d(x_hat - x, 2)
        return half.square().flatten(1).mean(1)


@pytest.fixture(scope="session")
def codec() -> Codec:
    return small_codec()


@pytest.fixture(scope="session")
def picture() -> Picture:
    return Picture(random_rgb(200, 136))


def tiny_preset() -> presets.Preset:
    """The small codec with the recipe of `compact` for small crops."""
    recipe = replace(presets.find("compact").recipe, batch=2, crop=64, warmup=2, ema=0.5)
    return presets.Preset("small", 9, "for tests", small_codec, recipe, "small.safetensors")


@pytest.fixture
def small_preset(monkeypatch: pytest.MonkeyPatch) -> presets.Preset:
    """`tiny_preset` as the only one there is."""
    preset = tiny_preset()
    monkeypatch.setattr(presets, "PRESETS", (preset,))
    return preset


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """48 pictures of 80×72 pixels."""
    data = tmp_path / "data"
    data.mkdir()
    for number in range(48):
        Image.fromarray(random_rgb(80, 72, seed=number)).save(data / f"{number}.png")
    return data
