"""The scripts that write the tables in results/, without measuring anything."""

import argparse
import csv
import math
import os
import subprocess
import sys
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from numpy.typing import NDArray
from torch import Tensor

from helpers.scripts import load_script
from trifocal.demo import PHOTOGRAPH
from trifocal.evaluation import MeanResult, anchors, read_means
from trifocal.evaluation.report.curves import ANCHORS
from trifocal.losses import quality_lambda
from trifocal.pictures import Picture
from trifocal.types import Output

ROOT = Path(__file__).resolve().parent.parent


def photograph() -> NDArray[np.uint8]:
    """uint8 [512, 512, 3]."""
    return Picture.open(PHOTOGRAPH).rgb


def as_measured(preset: str, metric: str, points: list[tuple[float, float]]) -> list[MeanResult]:
    """Means of a preset with only this metric, at rates and values."""
    return [
        MeanResult(preset, float(number), 24, rate, 0.1, 0.2, "beef", {metric: value})
        for number, (rate, value) in enumerate(points)
    ]


def test_anchor_compared_with_itself_has_no_difference(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    script = load_script("scripts/results.py")
    table = as_measured("us", "psnr", script.anchor_points(ANCHORS, "psnr")["VTM 9.1"])
    script.write_differences(table, [ANCHORS], tmp_path / "bd.csv")
    with open(tmp_path / "bd.csv", encoding="utf-8", newline="") as stream:
        rows = {row["anchor"]: row for row in csv.DictReader(stream)}
    assert rows.keys() == anchors("psnr").keys()
    assert abs(float(rows["VTM 9.1"]["bd_rate_percent"])) < 0.01 and rows["VTM 9.1"]["weights"] == "beef"
    hyperprior = float(rows["bmshj2018-hyperprior"]["bd_rate_percent"])
    assert hyperprior == pytest.approx(100 / 1.305 - 100, abs=0.1)
    assert "+0.00 %" in capsys.readouterr().out


def test_missing_overlap_is_stated(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    script = load_script("scripts/results.py")
    table = as_measured("us", "psnr", [(0.1, 5.0), (0.6, 10.0)])
    script.write_differences(table, [ANCHORS], tmp_path / "bd.csv")
    assert "no overlap %  ..  against VTM 9.1" in capsys.readouterr().out


def test_pillow_codecs_are_written_as_anchors_and_as_a_table(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """From measuring to README's table, on two small images, with two codecs and a curve of ours that is
    JPEG's at nine tenths of the rate.
    """
    script = load_script("scripts/results.py")
    for number in range(2):
        shown = Picture(photograph()[64 * number : 64 * number + 96, 196:292])
        shown.save(tmp_path / f"{number}.png")
    monkeypatch.setattr(script, "RESULTS", tmp_path / "results")
    monkeypatch.setattr(script, "METRICS", ("psnr", "ssimulacra2"))
    monkeypatch.setattr(script, "TABLE", ("psnr", "ssimulacra2"))
    monkeypatch.setattr(script, "PRESETS", ("ours",))
    monkeypatch.setattr(script, "PILLOW_CURVES", tmp_path / "anchors.csv")
    script.measure_other_codecs(str(tmp_path), ["avif", "jpeg"])
    script.write_anchors(tmp_path / "anchors.csv")
    rows = (tmp_path / "anchors.csv").read_text("utf-8").splitlines()
    assert rows[0] == "codec,quality,bpp,psnr,ssimulacra2,source" and len(rows) == 1 + 8 + 8
    assert "libavif" in rows[1] and "libavif" not in rows[-1]
    avif = read_means(tmp_path / "results" / "rivals" / "avif_summary.csv")
    ours = [replace(mean, preset="ours", bpp=0.9 * mean.bpp, weights="beef") for mean in avif]
    script.write_differences(ours, [script.PILLOW_CURVES], tmp_path / "results" / "kodak_bd.csv")
    table = script.kodak_table(fingerprints=False).splitlines()
    assert table[2] == "| `ours` | −10.0 % | −10.0 % |"
    assert script.kodak_table(fingerprints=True).splitlines()[2] == "| `ours` (beef) | −10.0 % | −10.0 % |"
    assert table[3].startswith("| JPEG (Pillow, progressive, 4:2:0) | +")
    readme = tmp_path / "README.md"
    readme.write_text(f"before\n{script.BEGIN}\nold\n{script.END}\nafter\n", "utf-8")
    script.write_table(readme)
    assert readme.read_text("utf-8").splitlines() == ["before", script.BEGIN, *table, script.END, "after"]


def test_first_images_of_a_folder_are_used(tmp_path: Path) -> None:
    script = load_script("scripts/results.py")
    for name in "cab":
        Picture(photograph()[:16, :16]).save(tmp_path / f"{name}.png")
    with script.FirstImages(str(tmp_path), 2) as folder:
        assert sorted(path.name for path in Path(folder).iterdir()) == ["a.png", "b.png"]


def lap(total: float, **parts: float) -> dict[str, Any]:
    return {"encode": {**parts, "total": total}, "decode": {**parts, "total": 2 * total}, "bytes": 900}


def test_speed_ratios_are_medians_within_rounds() -> None:
    speed = load_script("benchmarks/speed.py")
    ours = speed.Contender("Trifocal", print, [lap(1, coding=0.1), lap(5, coding=0.5), lap(2, coding=0.3)])
    anchor = speed.Contender(speed.ANCHOR, print, [lap(2), lap(20), lap(4)])
    absent = speed.Contender("CompressAI Elic2022Official", None)
    assert ours.seconds("encode") == 2 and ours.seconds("encode", "entropy") is None
    assert ours.ratio("encode", anchor) == 0.5 and absent.ratio("encode", anchor) is None
    ours.peak = 3 << 20
    rows = speed.table([ours, anchor, absent])
    assert (rows[0]["encode_ratio"], rows[1]["decode_ratio"]) == ("0.500", "1.000")
    facts = dict.fromkeys(("machine", "cores", "threads", "repeats", "torch", "date"), "?") | {
        "load_s": "1.00",
        "torch_s": "0.90",
    }
    text = speed.markdown(rows, facts)
    assert "| Trifocal | encode | 2000.0 |  |  |  | 300.0 |  | 0.500 | 3 |" in text
    assert "not measured: pip install compressai" in text
    assert "15.0% of encode and 7.5% of decode" in text


def test_speed_of_large_images_has_no_ratio_to_the_small_one(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    speed = load_script("benchmarks/speed.py")
    monkeypatch.setattr(speed, "LARGE", {"40 pixels": (8, 5)})
    seen = []

    def ours(preset: str, picture: Any, quality: float) -> Any:
        seen.append((preset, picture.width, picture.height, quality))
        return speed.Contender(f"Trifocal {preset}", lambda: lap(3))

    monkeypatch.setattr(speed, "ours", ours)
    monkeypatch.setattr(speed, "peak_memory", lambda variant, copy, quality: copy.stat().st_size << 20)
    arguments = argparse.Namespace(picture=PHOTOGRAPH, presets=["compact"], quality=40)
    (large,) = speed.measure_large(arguments, tmp_path)
    assert seen == [("compact", 8, 5, 40)]
    row = speed.table([speed.Contender(speed.ANCHOR, print, [lap(1)]), large])[1]
    assert (row["codec"], row["encode_s"]) == ("Trifocal compact, 40 pixels", "3.0000")
    assert row["encode_ratio"] == "" and int(row["peak_mib"]) == (tmp_path / "large.png").stat().st_size


def test_first_round_is_a_warm_up() -> None:
    speed = load_script("benchmarks/speed.py")
    turns = iter(range(100))
    contenders = [speed.Contender("one", lambda: next(turns)), speed.Contender("absent", None)]
    speed.take_turns(contenders, 3)
    assert contenders[0].laps == [1, 2, 3] and contenders[1].laps == []


def test_conversion_factors_are_slopes_of_the_rate_curve() -> None:
    """Of a codec with a known curve: R = log2(1/D), so −dR/dD is 1 / (D · ln 2)."""
    script = load_script("scripts/exchange_rates.py")

    class Known(torch.nn.Module):
        def forward(self, x: Tensor, level: Tensor) -> Output:
            d = torch.exp2(-level / 100.0)
            return Output(x + d[:, None, None, None], x, torch.log2(1 / d) * x.shape[-1] * x.shape[-2])

    x = torch.zeros(2, 3, 16, 16)
    (row,) = script.exchange_rates(
        Known(),
        x,
        {"d": lambda a, b: (a - b).mean((1, 2, 3))},
        lambda fraction: None,
        levels=(400,),
    )
    slope = 1 / (2.0**-4 * math.log(2)) / float(quality_lambda(torch.tensor(400.0)))
    assert row[0] == pytest.approx(slope, rel=0.02)


def test_detection_is_compared_at_equal_bytes() -> None:
    """Between the other's points at 0.1 and 0.4 bpp, 0.2 is the middle of the logarithm."""
    script = load_script("scripts/detection_difference.py")
    aps = np.array([[0.30, 0.20, 0.26], [0.25, 0.20, 0.30]])
    found = script.differences(aps, [0.2, 0.1, 0.4], 1)
    assert found[:, 0].tolist() == pytest.approx([0.07, 0.0])


@pytest.mark.parametrize(("asked", "expected"), [(None, "PASSIVE"), ("ACTIVE", "ACTIVE")])
def test_openmp_wait_policy_is_passive_unless_set(asked: str | None, expected: str) -> None:
    environment = {name: value for name, value in os.environ.items() if name != "OMP_WAIT_POLICY"}
    told = subprocess.run(
        [sys.executable, "-c", "import trifocal, os; print(os.environ['OMP_WAIT_POLICY'])"],
        env=environment | ({} if asked is None else {"OMP_WAIT_POLICY": asked}),
        check=True,
        capture_output=True,
        text=True,
    )
    assert told.stdout.strip() == expected
