"""Butteraugli, ColorVideoVDP and FLIP against the reference program and packages, and at the limits of their
ranges.
"""

import logging
import shutil
import subprocess
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

from helpers.images import random_rgb
from trifocal.errors import MissingExtra, NotMeasured
from trifocal.evaluation import METRICS, EvaluateOptions, evaluate, read_results
from trifocal.evaluation.metrics.per_image import Pair

BEST = {"butteraugli": 0, "cvvdp": 10, "flip": 0}
LEAST = {"butteraugli": 8, "cvvdp": 2, "flip": 1}
needs_butteraugli = pytest.mark.skipif(not shutil.which("butteraugli_main"), reason="no butteraugli_main")
three = pytest.mark.parametrize(
    "name", [pytest.param("butteraugli", marks=needs_butteraugli), "cvvdp", "flip"]
)


def noisy(original: np.ndarray, sigma: float) -> np.ndarray:
    noise = np.random.default_rng(2).normal(0, sigma, original.shape)
    return np.clip(original + noise, 0, 255).round().astype(np.uint8)


def measured(name: str, decoded: np.ndarray, original: np.ndarray) -> float:
    value = METRICS[name].load()(Pair(decoded, original))
    assert value is not None
    return value


@three
def test_equal_images_are_best_and_more_noise_is_worse(name: str) -> None:
    original = random_rgb(96, 80, seed=1)
    assert measured(name, original, original) == BEST[name]
    little, much = (METRICS[name].scaled(measured(name, noisy(original, s), original)) for s in (4, 16))
    assert METRICS[name].scaled(BEST[name]) > little > much


@needs_butteraugli
def test_butteraugli_equals_the_programs_default_output(tmp_path: Path) -> None:
    original = random_rgb(60, 44, seed=3)
    decoded = noisy(original, 8)
    paths = [str(tmp_path / "original.png"), str(tmp_path / "decoded.png")]
    for path, pixels in zip(paths, (original, decoded)):
        Image.fromarray(pixels).save(path)
    printed = subprocess.run(["butteraugli_main", *paths], capture_output=True, text=True, check=True).stdout
    value, there = measured("butteraugli", decoded, original), float(printed.split("3-norm:")[1])
    assert value == there > 0
    assert measured("butteraugli", original, decoded) != value  # so the order of the two is the right one


def test_cvvdp_equals_the_package() -> None:
    original = random_rgb(60, 44, seed=3)
    decoded = noisy(original, 8)
    value = measured("cvvdp", decoded, original)
    from pycvvdp import cvvdp  # after `load`, which keeps its warnings away

    expected = float(cvvdp("standard_4k", quiet=True).predict(decoded, original, dim_order="HWC")[0])
    assert value == pytest.approx(expected, abs=1e-4) and value < 9.9


def test_cvvdp_measures_images_of_changing_sizes_with_one_model() -> None:
    of = METRICS["cvvdp"].load()
    large, small = (Pair(noisy(rgb, 8), rgb) for rgb in (random_rgb(60, 44), random_rgb(31, 50)))
    assert [of(large), of(small), of(large)] == [
        measured("cvvdp", pair.decoded, pair.original) for pair in (large, small, large)
    ]


def test_cvvdp_gives_no_warning_for_a_dark_image(caplog: pytest.LogCaptureFixture) -> None:
    black = np.zeros((16, 16, 3), np.uint8)
    with caplog.at_level(logging.WARNING):
        assert measured("cvvdp", black, black) == 10
    assert not caplog.records


def test_flip_equals_the_mean_of_the_packages_map() -> None:
    import flip_evaluator

    original = random_rgb(60, 44, seed=3)
    decoded = noisy(original, 8)
    both = [(pixels / np.float32(255)).astype(np.float32) for pixels in (original, decoded)]
    error, _, settings = flip_evaluator.evaluate(*both, "LDR", applyMagma=False, computeMeanError=False)
    assert settings["ppd"] == pytest.approx(67, abs=0.05)
    assert measured("flip", decoded, original) == pytest.approx(error.mean(), rel=1e-4)


def test_flip_of_black_and_white_is_near_its_maximum() -> None:
    black = np.zeros((20, 20, 3), np.uint8)
    assert 0.9 < measured("flip", black + 255, black) <= 1


@three
def test_minimum_image_sizes(name: str) -> None:
    """Each metric measures sides of LEAST pixels, and returns None below, in either direction."""
    least, of = LEAST[name], METRICS[name].load()
    original = random_rgb(40, 40, seed=5)
    for height, width in ((least, least), (least, 40), (40, least)):
        part = original[:height, :width]
        value = of(Pair(255 - part, part))
        assert value is not None and METRICS[name].scaled(value) < METRICS[name].scaled(BEST[name])
        if least > 1:
            below = original[: height - (height == least), : width - (width == least)]
            assert of(Pair(255 - below, below)) is None


def test_too_small_image_is_noted_in_its_row(tmp_path: Path) -> None:
    Image.fromarray(random_rgb(40, 1)).save(tmp_path / "line.png")
    evaluate(
        ["webp"], tmp_path, tmp_path / "out.csv", EvaluateOptions([80], metrics=["psnr", "cvvdp", "flip"])
    )
    [row] = read_results(tmp_path / "out.csv")
    assert row.values["cvvdp"] is None and row.note == "ColorVideoVDP needs 2 pixels a side"
    assert row.values["flip"] is not None


# ── what is missing ──


def test_missing_program_names_its_installation(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setenv("PATH", str(tmp_path))
    with pytest.raises(
        NotMeasured, match=r"^Butteraugli is not measured: .*apt install libjxl-devtools\)\.$"
    ):
        METRICS["butteraugli"].load()


@pytest.mark.parametrize(
    ("script", "said"),
    [("echo 'cannot read it.' >&2; exit 3", "cannot read it"), ("echo 1.5", "1.5"), ("exit 0", "no message")],
)
def test_a_program_that_fails_gives_no_value(
    script: str, said: str, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    program = tmp_path / "butteraugli_main"
    program.write_text(f"#!/bin/sh\n{script}\n")
    program.chmod(0o755)
    monkeypatch.setenv("PATH", str(tmp_path))
    of, original = METRICS["butteraugli"].load(), random_rgb(16, 16)
    with pytest.raises(NotMeasured, match=rf"butteraugli_main failed \({said}\); reinstall"):
        of(Pair(original, original))


@pytest.mark.parametrize(("package", "name"), [("pycvvdp", "cvvdp"), ("flip_evaluator", "flip")])
def test_a_missing_package_is_named_with_its_extra(
    package: str, name: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setitem(sys.modules, package, None)
    with pytest.raises(MissingExtra, match=r'needs packages.*pip install "trifocal\[evaluate\]"'):
        METRICS[name].load()


def test_evaluation_continues_without_the_program(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    Image.fromarray(random_rgb(40, 40)).save(tmp_path / "a.png")
    said: list[Any] = []
    monkeypatch.setattr("shutil.which", lambda name: None)
    evaluate(
        ["webp"],
        tmp_path,
        tmp_path / "out.csv",
        EvaluateOptions([80], metrics=["butteraugli", "flip"]),
        notify=said.append,
    )
    [row] = read_results(tmp_path / "out.csv")
    assert row.values.keys() == {"flip"} and "libjxl-devtools" in said[0]
