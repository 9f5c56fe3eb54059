"""The scripts that write results/machine_*: values that follow from tables, by hand, and a whole run on two
images with a small scalable codec.
"""

import csv
import sys
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest

from helpers.detection import BrightDetector, find_bright_box, use_two_jpeg_preset, write_bright_images
from helpers.scripts import load_script
from trifocal.detection.detections import Detections
from trifocal.evaluation import MeanResult, read_means, read_results
from trifocal.evaluation.candidates.pillow_codecs import PILLOW_CODECS
from trifocal.evaluation.tasks import task as tasks
from trifocal.pictures import Picture


@pytest.fixture
def page() -> Any:
    return load_script("scripts/machine_page.py")


@pytest.fixture
def script(page: Any) -> Any:
    return load_script("scripts/machine_results.py")


def codec_means(
    name: str, points: dict[float, tuple[float, float]], column: str = "ap:d"
) -> list[MeanResult]:
    """A codec's means from (bpp, value) by quality."""
    return [
        MeanResult(name, quality, 9, bpp, 0.1, 0.2, "", {column: value, "ap50:d": None})
        for quality, (bpp, value) in points.items()
    ]


def example_means() -> list[MeanResult]:
    """The base layer needs a quarter of AVIF's bits for each AP; WebP's APs are all above the range, JPEG's
    all below.
    """
    return [
        *codec_means("dual-layer-compact:base", {0: (0.02, 0.20), 50: (0.04, 0.25), 100: (0.08, 0.30)}),
        *codec_means("avif", {10: (0.08, 0.20), 20: (0.16, 0.25), 30: (0.32, 0.30)}),
        *codec_means("webp", {10: (0.50, 0.31), 20: (0.60, 0.32)}),
        *codec_means("jpeg", {10: (0.30, 0.10), 20: (0.40, 0.12), 30: (0.50, 0.14)}),
        *codec_means("png", {100: (14.0, 0.31)}),
    ]


def test_bits_at_equal_ap(page: Any) -> None:
    curves = page.codec_curves(example_means(), "ap:d")
    assert (
        set(curves) == {"dual-layer-compact:base", "avif", "webp", "jpeg"}
        and page.original_ap(example_means(), "ap:d") == 0.31
    )
    rows = {row[0]: row[1:] for row in page.equal_precision("dual-layer-compact:base", curves, 0.31)}
    assert rows[""][0] == "AP 0.300 (−0.01)" and len(rows[""]) == len(page.LOSSES)
    assert rows["Trifocal dual-layer-compact, base layer"][0] == "0.0800"
    assert {cell.partition(" ")[2] for cell in rows["AVIF (Pillow, speed 4)"]} == {"(4.00×)"}
    assert rows["WebP (Pillow, method 6)"][0] == "≤ 0.5000 (6.25×)"
    assert set(rows["JPEG (Pillow, progressive, 4:2:0)"]) == {"not reached"}


def test_headline_states_the_rate_near_the_originals_ap(page: Any) -> None:
    curves = page.codec_curves(example_means(), "ap:d")
    assert page.headline("dual-layer-compact:base", curves, 0.31) == (
        "The base layer is within one AP point of 0.310 at 0.0800 bpp, AVIF at 0.3200 bpp, 4.0 times as many."
    )
    less = {name: curve for name, curve in curves.items() if name != "avif"}
    assert page.headline("dual-layer-compact:base", less, 0.31).endswith(
        "AVIF at none of the measured qualities."
    )
    assert page.headline("dual-layer-compact:base", curves, 0.5).endswith("of 0.500: its best is 0.300.")


def test_base_layer_compared_with_each_codec(page: Any) -> None:
    rows = {
        row[0]: row[1:]
        for row in page.differences("dual-layer-compact:base", page.codec_curves(example_means(), "ap:d"))
    }
    assert rows["AVIF (Pillow, speed 4)"][0] == "−75.0 %"
    assert rows["JPEG (Pillow, progressive, 4:2:0)"] == ["—", "—"]
    assert "WebP (Pillow, method 6)" not in rows, "two points are no curve"
    text = page.layer_section("dual-layer-compact:base", "d", example_means())
    assert "## AP of d against bits: 9 images, 0.310 on the originals" in text
    assert "| the original (PNG) | 100 | 14.0000 | 0.3100 | — |" in text


def test_decoded_images_are_compared_in_each_metric(page: Any) -> None:
    both = [
        *codec_means("dual-layer-compact", {10: (0.1, 30.0), 50: (0.2, 35.0), 90: (0.4, 40.0)}, "psnr"),
        *codec_means("dual-layer-compact:apart", {10: (0.2, 30.0), 50: (0.4, 35.0), 90: (0.8, 40.0)}, "psnr"),
        *codec_means("png", {100: (14.0, 0.31)}),
    ]
    text = page.decoded_section("dual-layer-compact", "d", both)
    assert "| Trifocal dual-layer-compact, layers apart | psnr | −50.0 % | +5.0000 |" in text
    assert "| Trifocal dual-layer-compact | 10 | 0.1000 | 30.0000 | — | — | — |" in text


def test_times_are_medians_and_ratios_to_the_reference(script: Any, page: Any, tmp_path: Path) -> None:
    laps = [
        {"a": 1.0, script.REFERENCE: 2.0},
        {"a": 9.0, script.REFERENCE: 8.0},
        {"a": 2.0, script.REFERENCE: 4.0},
    ]
    ways = {way.name: way for way in script.timings(laps)}
    assert ways["a"].seconds == 2 and ways["a"].ratio == 0.5 and ways[script.REFERENCE].ratio == 1
    assert ways["a"].pictures == 3
    script.write_times(tmp_path / "t.csv", ways.values())
    assert "| a | 2000 ms | 0.50 |" in page.time_section(page.read_rows(tmp_path / "t.csv"))
    calls: list[str] = []
    ran = script.time_each({name: lambda name=name: calls.append(name) for name in ("x", "y")})
    assert calls == ["x", "y"] and min(ran.values()) >= 0


def test_whole_run_and_resumed_run(
    script: Any, monkeypatch: pytest.MonkeyPatch, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    pytest.importorskip("faster_coco_eval")
    codec, folder, out = use_two_jpeg_preset(monkeypatch), write_bright_images(tmp_path), tmp_path / "out"
    out.mkdir()
    monkeypatch.setattr(tasks, "create_detector", lambda name, device: BrightDetector())
    monkeypatch.setattr(script, "BASE_QUALITIES", (20, 80))
    monkeypatch.setattr(script, "CERTAIN_QUALITIES", (20, 80))
    monkeypatch.setattr(script, "QUALITIES", {"jpeg": (20, 60), "jpeg:small": (60,), "compact": (50,)})
    monkeypatch.setattr(script, "LAYERED_QUALITIES", (40, 80))
    monkeypatch.setattr(script, "OTHER_QUALITIES", (40, 80))
    monkeypatch.setattr(script, "DECODED_METRICS", ("psnr",))
    fast = replace(PILLOW_CODECS["avif"], options={"speed": 10})
    monkeypatch.setitem(PILLOW_CODECS, "avif", fast)  # at speed 4 an image of this noise takes seconds
    monkeypatch.setattr(type(codec), "network", SimpleNamespace(detector=None))

    def detect_objects(picture: Picture, detector: object) -> Detections:
        box = find_bright_box(picture.rgb)
        return Detections(box, np.array([1]), np.array([0.9]))

    monkeypatch.setattr("trifocal.codecs.scalable.detect_objects", detect_objects)
    words = ["s.py", str(folder), "--preset", "two", "--detector", "bright", "--judge", "x/other.onnx"]
    words += ["--own-judge", "x/faces.onnx"]
    monkeypatch.setattr(sys, "argv", [*words, "--timed", "2", "--draws", "3", "--out", str(out)])
    script.main()
    means = {(mean.preset, mean.quality): mean for mean in read_means(out / "machine_coco_summary.csv")}
    assert {("two:base", 80), ("two:unfitted", 20), ("jpeg:small", 60), ("png", 100)} <= means.keys()
    assert means["two:base", 80].values["ap50:bright"] == 1
    decoded = read_results(out / "machine_decoded.csv")
    assert {row.preset for row in decoded} == {"two", "two:apart", "compact", "avif", "png"}
    assert np.isfinite([row.values["psnr"] or 0 for row in decoded if row.preset != "png"]).all()
    own = {(mean.preset, mean.quality): mean for mean in read_means(out / "machine_own_summary.csv")}
    assert {name for name, _ in own} == {"two", "compact", "avif", "png"}
    assert {k: v for k, v in own["png", 100].values.items() if k != "pooled_bpp"} == {
        "ap:faces-own": 1,
        "ap50:faces-own": 1,
        "ap75:faces-own": 1,
    }
    with open(out / "machine_times.csv", encoding="utf-8", newline="") as stream:
        times = {row["way"]: float(row["ratio"]) for row in csv.DictReader(stream)}
    assert times[script.REFERENCE] == 1 and len(times) == 5 and min(times.values()) > 0
    with open(out / "machine_certainty.csv", encoding="utf-8", newline="") as stream:
        certain = [(row["preset"], row["quality"], row["loss"]) for row in csv.DictReader(stream)]
    assert certain[:3] == [
        ("png", "100", "0.0000"),
        ("two:base", "20", "0.0000"),
        ("two:base", "80", "0.0000"),
    ]
    text = (out / "machine.md").read_text("utf-8")
    assert text.startswith("# Machine vision: two\n") and text in capsys.readouterr().out
    assert "3 bootstrap samples" in text
    assert "| Trifocal two, base layer | 80 | 1.0000 | 0.0000 | 0.0000 |" in text
    assert "AP of other, 1.000 on the originals" in text
    assert "## Decoded images for faces, not used in training" in text
    assert "## Times: medians over 2 images" in text
    before, asked = (out / "machine_coco.csv").read_bytes(), len(codec.asked)
    for table in ("times", "certainty"):
        (out / f"machine_{table}.csv").unlink()
    monkeypatch.setattr(sys, "argv", [*words, "--timed", "0", "--draws", "0", "--out", str(out), "--resume"])
    script.main()
    assert (out / "machine_coco.csv").read_bytes() == before and len(codec.asked) == asked
    again = (out / "machine.md").read_text("utf-8")
    assert "bootstrap" not in again and "Times" not in again and "AP of other" in again
