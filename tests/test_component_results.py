"""The tables of partial files, from the results of `trifocal evaluate`."""

import math
from typing import Any

import pytest

from helpers.scripts import load_script
from trifocal.evaluation.report.results_table import ImageResult, MeanResult


def result(preset: str, picture: str, size: int, value: float | None, quality: float = 50) -> ImageResult:
    return ImageResult(preset, picture, 64, 64, quality, size, size / 512, 1.0, 1.0, "", "", {"psnr": value})


def mean(preset: str, bpp: float, value: float) -> MeanResult:
    return MeanResult(preset, 50, 2, bpp, 1.0, 1.0, "", {"ap:judge": value})


@pytest.fixture
def script() -> Any:
    return load_script("scripts/component_results.py")


def test_avif_is_interpolated_over_the_logarithm_of_its_bytes(script: Any) -> None:
    rows = script.avif_rows(
        [
            result("avif", "a.png", 400, 40.0),
            result("avif", "a.png", 100, 20.0),
            result("avif", "a.png", 200, None),
            result("avif", "b.png", 100, 5.0),
            result("jpeg", "a.png", 200, 7.0),
        ]
    )
    assert sorted(rows) == ["a.png", "b.png"] and len(rows["a.png"]) == 3
    assert math.isclose(script.avif_value(rows["a.png"], 200, "psnr"), 30.0)
    assert script.avif_value(rows["a.png"], 99, "psnr") is None
    assert script.avif_value(rows["a.png"], 401, "psnr") is None
    assert script.avif_value((), 200, "psnr") is None


def test_precision_table_has_rates_at_equal_precision(
    script: Any, capsys: pytest.CaptureFixture[str]
) -> None:
    """Half of AVIF's bits at each AP are −50 %; curves without a common AP have no difference."""
    points = [("avif", 1.0, 0.2), ("avif", 2.0, 0.3), ("avif", 4.0, 0.4)]
    points += [(script.WHOLE, rate / 2, value) for _, rate, value in points]
    points += [("jpeg", 1.0, 0.05), ("jpeg", 2.0, 0.1)]
    script.print_precision([mean(*point) for point in points])
    rows = {line.split(" | ")[0].strip("| "): line for line in capsys.readouterr().out.splitlines()}
    assert rows["whole"].endswith("| -50.0 | no overlap |")
    assert rows["AVIF"].endswith("|  | no overlap |")
