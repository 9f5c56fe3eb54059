"""CompressAI's result files: one as CompressAI writes it, ours and back, and what is none."""

import json
import math
from dataclasses import replace
from pathlib import Path

import pytest

from trifocal.errors import OptionError
from trifocal.evaluation import (
    ImageResult,
    MeanResult,
    bd_rate,
    mean_results,
    published_curves,
    read_compressai,
    write_compressai,
    write_means,
)
from trifocal.evaluation.report.curves import ANCHORS
from trifocal.evaluation.report.results_table import ResultsFile, summary_path


def mean(bpp: float, **values: float | None) -> MeanResult:
    return MeanResult("p", 50.0, 24, bpp, 0.5, 0.25, "beef", values)


def test_vtm_as_compressai_has_it_is_the_anchor(tmp_path: Path) -> None:
    """Three of the eight points of CompressAI's results/image/kodak/vtm.json, rounded."""
    results = {
        "psnr": [26.14485, 28.49302, 31.19987],
        "ms-ssim": [0.860608, 0.917691, 0.956108],
        "bpp": [0.048245, 0.112495, 0.245817],
        "encoding_time": [18.9, 39.8, 71.2],
    }
    path = tmp_path / "vtm.json"
    path.write_text(json.dumps({"name": "VTM", "description": "VTM", "results": results}))
    curves = read_compressai(path)
    assert curves.keys() == {"psnr", "ms-ssim"} and curves["psnr"].name == "VTM"
    assert curves["ms-ssim"].values[0] == pytest.approx(-10 * math.log10(1 - 0.860608))
    anchor = next(curve for curve in published_curves("psnr", [ANCHORS]) if curve.name == "VTM 9.1")
    difference = bd_rate(anchor, curves["psnr"])
    assert difference.value == pytest.approx(0, abs=0.1) and difference.overlap is not None


def test_what_is_written_is_read(tmp_path: Path) -> None:
    points = [mean(0.9, psnr=34.0, ms_ssim=0.98, lpips=None), mean(0.3, psnr=30.0, ms_ssim=0.95, lpips=0.2)]
    path = tmp_path / "p.json"
    write_compressai(path, "Trifocal p", "two pictures", points)
    results = json.loads(path.read_text())["results"]
    assert results == {
        "bpp": [0.3, 0.9], "psnr-rgb": [30.0, 34.0], "ms-ssim-rgb": [0.95, 0.98],
        "encoding_time": [0.5, 0.5], "decoding_time": [0.25, 0.25],
    }  # fmt: skip
    curves = read_compressai(path)
    assert curves["psnr"].rates == (0.3, 0.9) and curves["psnr"].values == (30.0, 34.0)
    assert curves["ms-ssim"].values == pytest.approx([-10 * math.log10(0.05), -10 * math.log10(0.02)])


def test_a_table_of_curves_may_have_any_metrics(tmp_path: Path) -> None:
    path = tmp_path / "mine.csv"
    path.write_text("codec,bpp,psnr,ssimulacra2\nA,0.5,30,\nA,1,33,60\nB,1,34,\n")
    assert [curve.name for curve in published_curves("psnr", [path])] == ["A", "B"]
    assert published_curves("ssimulacra2", [path])[0].rates == (1.0,)
    assert published_curves("lpips", [path]) == []


def test_tables_of_evaluate_are_published_curves(tmp_path: Path) -> None:
    row = ImageResult(
        "codec", "a", 10, 10, 20.0, 20, 0.2, 1, 1, "beef", "", {"psnr": 30.0, "lpips_alex": 0.3}
    )
    rows = [
        row,
        replace(row, picture="b", bpp=0.4, values={"psnr": 32.0, "lpips_alex": 0.1}),
        replace(row, quality=50.0, bpp=1.0, values={"psnr": 40.0, "lpips_alex": 0.05}),
        replace(row, preset="other", weights="", values={"psnr": 10.0}),
    ]
    table = ResultsFile(tmp_path / "kodak.csv", False, ["psnr", "lpips_alex"])
    for one in rows:
        table.add(one)
    write_means(summary_path(tmp_path / "kodak.csv"), mean_results(rows))
    for path in (tmp_path / "kodak.csv", tmp_path / "kodak_summary.csv"):
        codec, other = published_curves("psnr", [path])
        assert (codec.name, other.name) == ("codec (kodak)", "other (kodak)")
        assert codec.rates == pytest.approx((0.3, 1.0)) and codec.values == (31.0, 40.0)
        (curve,) = published_curves("lpips", [path])
        assert curve.values == pytest.approx((-0.2, -0.05))
    table.add(replace(row, weights="cafe"))
    names = [curve.name for curve in published_curves("psnr", [tmp_path / "kodak.csv"])]
    assert names == ["codec (beef, kodak)", "codec (cafe, kodak)", "other (kodak)"]


@pytest.mark.parametrize(
    "text", ["", "[]", "{}", '{"results": {"bpp": 3}}', '{"results": {"bpp": [1, 2], "psnr": [30]}}']
)
def test_another_file_is_refused(text: str, tmp_path: Path) -> None:
    (tmp_path / "x.json").write_text(text)
    with pytest.raises(OptionError, match=r"x\.json is no result file of CompressAI"):
        read_compressai(tmp_path / "x.json")
