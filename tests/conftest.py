"""Fixtures: a small codec with random weights, its preset, and images."""

import os
from functools import partial
from pathlib import Path

if "PYTEST_XDIST_WORKER" in os.environ:  # the processes share the cores
    os.environ.setdefault("OMP_NUM_THREADS", "1")

import pytest

pytest.register_assert_rewrite("helpers")

from PIL import Image

from helpers.codecs import small_codec
from helpers.images import random_rgb
from helpers.presets import small_codec_preset
from trifocal import presets
from trifocal.codecs.codec import Codec
from trifocal.pictures import Picture


@pytest.fixture(scope="session")
def codec() -> Codec:
    return small_codec()


@pytest.fixture(scope="session")
def picture() -> Picture:
    return Picture(random_rgb(200, 136))


@pytest.fixture
def short_validation(monkeypatch: pytest.MonkeyPatch) -> None:
    """Training validates at two quality levels and calibrates on two batches."""
    from trifocal.training import validation
    from trifocal.training.tasks import codec

    monkeypatch.setattr(validation, "LEVELS", (80, 720))
    monkeypatch.setattr(codec, "calibrate", partial(validation.calibrate, batches=2))


@pytest.fixture
def small_preset(short_validation: None, monkeypatch: pytest.MonkeyPatch) -> presets.Preset:
    """The only preset is that of the small codec."""
    preset = small_codec_preset()
    monkeypatch.setattr(presets, "PRESETS", (preset,))
    return preset


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """48 images of 80×72 pixels."""
    data = tmp_path / "data"
    data.mkdir()
    for number in range(48):
        Image.fromarray(random_rgb(80, 72, seed=number)).save(data / f"{number}.png")
    return data
