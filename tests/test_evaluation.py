"""Metrics against values by hand, curves against known pairs, and runs that keep existing rows."""

import csv
import io
import json
import math
import subprocess
import sys
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from numpy.typing import NDArray
from PIL import Image

from trifocal import evaluation
from trifocal.errors import MissingExtra, OptionError, PictureError, PresetError
from trifocal.evaluation import (
    Curve,
    EvaluateOptions,
    ImageResult,
    anchors,
    bd_metric,
    bd_rate,
    evaluate,
    ms_ssim,
    psnr,
)
from trifocal.evaluation.candidates.pillow_codecs import LOSSLESS
from trifocal.evaluation.images import open_image
from trifocal.evaluation.report import curves as rate_curves
from trifocal.pictures import Picture

ROOT = Path(__file__).resolve().parent.parent
TABLE = "results.csv"


class Posteriser:
    """A fake codec: quality is the number of grey levels, and the bytes are a PNG."""

    name = "posteriser"
    weights = "0001"

    def __init__(self) -> None:
        self.encoded = 0

    def encode(self, picture: Picture, quality: float) -> bytes:
        self.encoded += 1
        step = max(1, round(100 - quality))
        coarse = np.minimum(picture.rgb // step * step + step // 2, 255).astype(np.uint8)
        stream = io.BytesIO()
        Image.fromarray(coarse).save(stream, "PNG")
        return stream.getvalue()

    def decode(self, data: bytes) -> NDArray[np.uint8]:
        with Image.open(io.BytesIO(data)) as image:
            return np.asarray(image)


def photograph(width: int, height: int, seed: int = 0) -> NDArray[np.uint8]:
    """Smooth, with some grain."""
    rng = np.random.default_rng(seed)
    rows, columns = np.mgrid[0:height, 0:width]
    waves = 127 + 80 * np.sin(columns / 17 + seed) * np.cos(rows / 23)
    return np.clip(waves[..., None] + rng.normal(0, 6, (height, width, 3)), 0, 255).astype(np.uint8)


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    place = tmp_path / "pictures"
    (place / "more").mkdir(parents=True)
    Image.fromarray(photograph(200, 180)).save(place / "a.png")
    Image.fromarray(photograph(40, 30, 1)).save(place / "more" / "b.png")
    return place


# ── metrics ──


def test_psnr_by_hand() -> None:
    black = np.zeros((2, 2, 3), np.uint8)
    grey = black.copy()
    grey[0, 0] = (3, 0, 255)  # squared error (9 + 255²) / 12
    assert psnr(grey, black) == pytest.approx(10 * math.log10(255**2 * 12 / (9 + 255**2)))
    assert psnr(black, grey) == psnr(grey, black)
    assert psnr(np.full_like(black, 255), black) == 0
    assert psnr(black, black) == math.inf


def test_ms_ssim_of_equal_images_is_one() -> None:
    picture = photograph(192, 180)
    assert ms_ssim(picture, picture) == pytest.approx(1, abs=1e-6)


def test_ms_ssim_of_two_greys_by_hand() -> None:
    """Constant images have no contrast: what remains is SSIM's luminance at the coarsest scale, with its
    exponent.
    """
    dark, light = np.full((176, 200, 3), 60, np.uint8), np.full((176, 200, 3), 200, np.uint8)
    c1 = (0.01 * 255) ** 2
    luminance = (2 * 60 * 200 + c1) / (60**2 + 200**2 + c1)
    assert ms_ssim(dark, light) == pytest.approx(luminance**0.1333, abs=1e-3)


def test_ms_ssim_of_a_small_image_is_none() -> None:
    for width, height in ((175, 400), (400, 175), (1, 1)):
        picture = photograph(width, height)
        assert ms_ssim(picture, picture) is None
    assert ms_ssim(photograph(176, 176), photograph(176, 176)) is not None


def test_images_of_different_sizes_are_refused() -> None:
    with pytest.raises(OptionError, match="one size"):
        psnr(np.zeros((2, 2, 3), np.uint8), np.zeros((2, 3, 3), np.uint8))
    with pytest.raises(OptionError, match="8-bit"):
        ms_ssim(np.zeros((2, 2, 3)), np.zeros((2, 2, 3), np.uint8))  # type: ignore[arg-type]


# ── curves ──

PLAIN = Curve.from_points("plain", [(0.1, 28.0), (0.2, 31.0), (0.4, 33.5), (0.8, 35.0)])


def scaled(curve: Curve, rate: float = 1.0, value: float = 0.0) -> Curve:
    return replace(
        curve, rates=tuple(rate * r for r in curve.rates), values=tuple(v + value for v in curve.values)
    )


def test_bd_rate_of_a_curve_with_itself_is_zero() -> None:
    delta = bd_rate(PLAIN, PLAIN)
    assert delta.value == pytest.approx(0, abs=1e-9) and delta.overlap == (28.0, 35.0)
    gain = bd_metric(PLAIN, PLAIN)
    assert gain.value == pytest.approx(0, abs=1e-9) and gain.overlap == pytest.approx((0.1, 0.8))


@pytest.mark.parametrize("factor", [0.5, 0.9, 1.25, 2.0])
def test_bd_rate_of_scaled_rates_is_the_factor(factor: float) -> None:
    assert bd_rate(PLAIN, scaled(PLAIN, rate=factor)).value == pytest.approx(100 * (factor - 1))


def test_bd_metric_of_a_shifted_metric_is_the_shift() -> None:
    assert bd_metric(PLAIN, scaled(PLAIN, value=0.75)).value == pytest.approx(0.75)


def test_bd_rate_of_straight_lines_by_hand() -> None:
    """log2(rate) is value for one, value / 2 + 1 for the other: over 0..4 they differ by 1 - value / 2, 0 in
    the mean.
    """
    one = Curve.from_points("one", [(2.0**v, v) for v in (0.0, 1.0, 2.0, 4.0)])
    other = Curve.from_points("other", [(2.0 ** (v / 2 + 1), v) for v in (-2.0, 1.0, 3.0, 4.0)])
    assert bd_rate(one, other).value == pytest.approx(0, abs=1e-9)
    assert bd_rate(one, other).overlap == (0.0, 4.0)
    shorter = Curve.from_points("shorter", [(2.0 ** (v / 2 + 1), v) for v in (-2.0, 1.0, 2.0)])
    assert bd_rate(one, shorter).value == pytest.approx(100 * (2**0.5 - 1))  # 1/2 in the mean over 0..2


@pytest.mark.parametrize(
    ("codec", "percent"),
    [
        ("bmshj2018-hyperprior", 30.5),
        ("hyperprior, one variable-rate model", 30.6),
        ("BPG 4:4:4", 22.0),
        ("cheng2020-anchor", 3.7),
        ("ELIC (paper)", -7.0),
        ("MLIC++", -15.0),
    ],
)
def test_published_bd_rates_are_reproduced(codec: str, percent: float) -> None:
    """Against VTM 9.1 on Kodak, as computed by others from the same published points."""
    curves = anchors("psnr")
    assert bd_rate(curves["VTM 9.1"], curves[codec]).value == pytest.approx(percent, abs=0.1)


def test_no_bd_rate_if_curves_do_not_overlap() -> None:
    far = scaled(PLAIN, value=10)
    assert bd_rate(PLAIN, far) == evaluation.BjontegaardDelta(None, None)
    assert bd_metric(PLAIN, scaled(PLAIN, rate=100)) == evaluation.BjontegaardDelta(None, None)
    assert bd_rate(PLAIN, scaled(PLAIN, value=7)).value is None  # they touch in one point
    assert bd_rate(PLAIN, Curve.from_points("a point", [(0.3, 32.0)])).value is None
    assert bd_rate(PLAIN, Curve.from_points("nothing", [])).value is None


def test_dominated_points_are_dropped() -> None:
    curve = Curve.from_points("noisy", [(0.4, 33.5), (0.1, 28.0), (0.3, 27.0), (0.4, 33.0), (0.9, math.inf)])
    assert curve.rates == (0.1, 0.4) and curve.values == (28.0, 33.5)
    with pytest.raises(OptionError, match="above 0"):
        Curve.from_points("free", [(0.0, 30.0)])


def test_every_anchor_has_a_curve_and_a_source() -> None:
    for metric in ("psnr", "ms_ssim"):
        curves = anchors(metric)
        assert {"VTM 9.1", "bmshj2018-hyperprior", "AVIF (Pillow, speed 4)"} <= curves.keys()
        assert all(len(curve.rates) >= 3 for curve in curves.values())
    assert anchors("lpips").keys() == {"MS-ILLM", "HiFiC"}
    with open(rate_curves.ANCHORS, encoding="utf-8", newline="") as stream:
        assert all(line["source"] for line in csv.DictReader(stream))


def test_other_csv_files_are_refused_as_anchors(tmp_path: Path) -> None:
    (tmp_path / "x.csv").write_text("a,b\n1,2\n")
    with pytest.raises(OptionError, match="needs the columns codec and bpp"):
        anchors("psnr", tmp_path / "x.csv")


# ── evaluate ──


def test_rows_are_measured_from_real_files(folder: Path, tmp_path: Path) -> None:
    seen: list[float] = []
    out = tmp_path / "new" / TABLE
    subject = Posteriser()
    results = evaluate([subject], folder, out, EvaluateOptions([60, 90]), progress=seen.append)
    rows = results.rows
    assert [(row.picture, row.quality) for row in rows] == [
        ("a.png", 60), ("more/b.png", 60), ("a.png", 90), ("more/b.png", 90)
    ]  # fmt: skip
    picture = Picture.open(folder / "a.png")
    first = subject.encode(picture, 60)
    assert rows[0].bytes == len(first) and rows[0].bpp == pytest.approx(8 * len(first) / (200 * 180))
    values = rows[0].values
    assert values["psnr"] == pytest.approx(psnr(subject.decode(first), picture.rgb))
    better = rows[2].values
    assert values["psnr"] and better["psnr"] and values["psnr"] < better["psnr"]
    assert values["ms_ssim"] and 0 < values["ms_ssim"] < 1
    assert rows[1].values["ms_ssim"] is None and "176" in rows[1].note and rows[0].note == ""
    assert seen == sorted(seen) and seen[-1] == 1
    read = evaluation.read_results(out)
    assert [row.key for row in read] == [row.key for row in rows]
    assert [row.values["psnr"] for row in read] == pytest.approx(
        [row.values["psnr"] for row in rows], abs=1e-5
    )
    assert read[1].values["ms_ssim"] is None
    assert [(mean.quality, mean.pictures) for mean in results.means] == [(60, 2), (90, 2)]
    written = evaluation.read_means(out.with_name("results_summary.csv"))
    assert [mean.bpp for mean in written] == pytest.approx([mean.bpp for mean in results.means], abs=1e-5)


def test_resume_measures_only_missing_rows(folder: Path, tmp_path: Path) -> None:
    out = tmp_path / TABLE
    evaluate([Posteriser()], folder, out, EvaluateOptions([60]))
    text = out.read_text()
    out.write_text(text + "posteriser,a.png,200,180,90,12")  # a dying run's last line
    subject = Posteriser()
    rows = evaluate([subject], folder, out, EvaluateOptions([60, 90], resume=True)).rows
    assert subject.encoded == 2 and len(rows) == 4
    assert out.read_text().startswith(text) and len(evaluation.read_results(out)) == 4
    evaluate([subject], folder, out, EvaluateOptions([60, 90], resume=True))
    assert subject.encoded == 2
    rows = evaluate(
        [subject], folder, out, EvaluateOptions([60, 90], resume=True, metrics=["psnr", "ssimulacra2"])
    ).rows
    assert subject.encoded == 6 and all(row.values["ssimulacra2"] is not None for row in rows)


def test_without_resume_an_old_table_is_replaced_only_by_rows(folder: Path, tmp_path: Path) -> None:
    out = tmp_path / TABLE
    evaluate([Posteriser()], folder, out, EvaluateOptions([60]))
    before = out.read_bytes()
    with pytest.raises(PictureError, match=r"taco has no trained weights.*Nothing was measured\.$"):
        evaluate(["taco"], folder, out, EvaluateOptions([90]))
    assert out.read_bytes() == before
    evaluate([Posteriser()], folder, out, EvaluateOptions([90]))
    assert {row.quality for row in evaluation.read_results(out)} == {90}


def test_rows_of_other_weights_are_measured_again(folder: Path, tmp_path: Path) -> None:
    out = tmp_path / TABLE
    evaluate([Posteriser()], folder, out, EvaluateOptions([60]))
    trained = Posteriser()
    trained.weights = "0002"
    said: list[str] = []
    evaluate([trained], folder, out, EvaluateOptions([60], resume=True), notify=said.append)
    assert trained.encoded == 2 and "other weights" in said[0]
    assert {row.weights for row in evaluation.read_results(out)} == {"0002"}


def test_damaged_image_is_reported_and_others_are_measured(folder: Path, tmp_path: Path) -> None:
    (folder / "a-broken.png").write_bytes((folder / "a.png").read_bytes()[:300])
    (folder / "empty.jpg").write_bytes(b"")
    out = tmp_path / TABLE
    said: list[str] = []
    with pytest.raises(PictureError, match="2 failed. All other rows are in"):
        evaluate([Posteriser(), "jpeg"], folder, out, EvaluateOptions([60, 90]), notify=said.append)
    assert len(evaluation.read_results(out)) == 8
    assert len(said) == 2 and all(sentence.endswith(".") for sentence in said)
    with pytest.raises(PictureError, match=r"a-broken\.png.*empty\.jpg.*All other rows are in"):
        evaluate([Posteriser(), "jpeg"], folder, out, EvaluateOptions([60, 90], resume=True))


def test_failing_codec_is_reported_with_image_and_quality(folder: Path, tmp_path: Path) -> None:
    class Picky(Posteriser):
        def decode(self, data: bytes) -> NDArray[np.uint8]:
            pixels = super().decode(data)
            if pixels.shape[0] == 30:
                raise PictureError("It is too small.")
            return pixels

    with pytest.raises(PictureError, match=r"posteriser, more/b\.png, quality 60: It is too small"):
        evaluate([Picky()], folder, tmp_path / TABLE, EvaluateOptions([60]))
    assert [row.picture for row in evaluation.read_results(tmp_path / TABLE)] == ["a.png"]


@pytest.mark.parametrize(
    ("change", "sentence"),
    [
        ({"qualities": [50, 101]}, "0 to 100, not 101"),
        ({"qualities": []}, "at least one"),
        ({"presets": []}, "at least one"),
        ({"data": "empty"}, "no image in the folder"),
        ({"data": "nowhere"}, "There is no folder nowhere; name a folder of images"),
    ],
)
def test_invalid_requests_are_refused_before_measuring(
    change: dict[str, object], sentence: str, folder: Path, tmp_path: Path
) -> None:
    (tmp_path / "empty").mkdir()
    change = {key: tmp_path / "empty" if value == "empty" else value for key, value in change.items()}
    asked: dict[str, Any] = {"presets": [Posteriser()], "data": folder, "qualities": [50]} | change
    with pytest.raises(OptionError, match=sentence):
        evaluate(asked["presets"], asked["data"], tmp_path / TABLE, EvaluateOptions(asked["qualities"]))
    assert not (tmp_path / TABLE).exists()


def test_images_are_resized_and_cropped_to_a_square(folder: Path, tmp_path: Path) -> None:
    """By torchvision's Resize and CenterCrop of a PIL image, which papers use for CLIC."""
    transforms = pytest.importorskip("torchvision.transforms")
    whole = Picture.open(folder / "a.png").to_pil()
    expected = transforms.Compose([transforms.Resize(64), transforms.CenterCrop(64)])(whole)
    assert np.array_equal(open_image(folder / "a.png", 64).rgb, np.asarray(expected))
    out = tmp_path / TABLE
    subject = Posteriser()
    row, small = evaluate([subject], folder, out, EvaluateOptions([60], square=64)).rows
    size = len(subject.encode(Picture(np.asarray(expected)), 60))
    assert (row.width, row.height, row.bytes, small.width) == (64, 64, size, 64)
    assert row.bpp == pytest.approx(8 * size / 64**2)
    again = Posteriser()
    evaluate([again], folder, out, EvaluateOptions([60], square=64, resume=True))
    assert again.encoded == 0
    for square in (None, 32):
        rows = evaluate([again], folder, out, EvaluateOptions([60], square=square, resume=True)).rows
        assert rows[0].width == (square or 200)
    assert again.encoded == 4
    with pytest.raises(OptionError, match="1 pixel or more"):
        EvaluateOptions(square=0)


def test_a_foreign_table_is_not_resumed(folder: Path, tmp_path: Path) -> None:
    out = tmp_path / TABLE
    out.write_text("name,price\nbread,2\n")
    with pytest.raises(OptionError, match="is not a table"):
        evaluate([Posteriser()], folder, out, EvaluateOptions([50], resume=True))
    assert out.read_text() == "name,price\nbread,2\n"


def test_damaged_line_is_named_in_the_error(folder: Path, tmp_path: Path) -> None:
    out = tmp_path / TABLE
    evaluate([Posteriser()], folder, out, EvaluateOptions([60]))
    out.write_text(out.read_text() + "posteriser,c.png,wide\n")
    with pytest.raises(OptionError, match="Line 4"):
        evaluation.read_results(out)


def test_ignored_alpha_is_noted(tmp_path: Path) -> None:
    rgba = np.dstack([photograph(180, 180), np.full((180, 180), 128, np.uint8)])
    Image.fromarray(rgba).save(tmp_path / "clear.png")
    rows = evaluate(["webp"], tmp_path, tmp_path / TABLE, EvaluateOptions([80])).rows
    assert rows[0].note == "alpha is coded, not compared"


@pytest.mark.parametrize(
    "rival",
    [rival for rival in evaluation.pillow_codecs() if rival.name != LOSSLESS],
    ids=lambda rival: rival.name,
)
def test_pillow_codecs_write_real_files(rival: evaluation.PillowCodec, tmp_path: Path) -> None:
    picture = Picture(photograph(100, 90))
    small, large = (rival.encode(picture, quality) for quality in (20, 80))
    assert 100 < len(small) < len(large)
    assert psnr(rival.decode(large), picture.rgb) > 25
    with pytest.raises(OptionError, match="whole qualities"):
        rival.encode(picture, 12.5)


def test_means_are_over_images() -> None:
    row = ImageResult("p", "a", 10, 10, 50.0, 20, 1.6, 1.0, 2.0, "beef", "", {"psnr": 30.0, "ms_ssim": 0.9})
    other = replace(row, picture="b", bpp=0.4, values={"psnr": 40.0, "ms_ssim": 0.7})
    rows = [row, other, replace(row, quality=20.0)]
    low, high = evaluation.mean_results(rows)
    assert (low.quality, low.pictures, low.bpp) == (20, 1, 1.6)
    assert (high.pictures, high.bpp, high.values["psnr"], high.weights) == (2, 1.0, 35.0, "beef")
    assert high.values["ms_ssim"] == pytest.approx(0.8)
    unknown = replace(row, picture="b", values={"psnr": 1.0, "ms_ssim": None})
    assert evaluation.mean_results([row, unknown])[0].values == {
        "pooled_bpp": 1.6,
        "psnr": 15.5,
        "ms_ssim": None,
    }


def test_pooled_bpp_is_all_bits_over_all_pixels(folder: Path, tmp_path: Path) -> None:
    results = evaluate([Posteriser()], folder, tmp_path / TABLE, EvaluateOptions([60]))
    bits = 8 * sum(row.bytes for row in results.rows)
    (mean,) = evaluation.read_means(tmp_path / "results_summary.csv")
    assert mean.values["pooled_bpp"] == pytest.approx(bits / (200 * 180 + 40 * 30), abs=1e-6)
    assert mean.bpp != pytest.approx(mean.values["pooled_bpp"], rel=0.01)


def test_a_preset_without_weights_does_not_stop_the_others(folder: Path, tmp_path: Path) -> None:
    with pytest.raises(PictureError, match="taco has no trained weights.*All other rows are in"):
        evaluate(["taco", Posteriser()], folder, tmp_path / TABLE, EvaluateOptions([60]))
    assert len(evaluation.read_results(tmp_path / TABLE)) == 2


def test_an_unknown_name_is_refused_before_anything_is_measured(folder: Path, tmp_path: Path) -> None:
    subject = Posteriser()
    with pytest.raises(PresetError, match="no preset or format 'nonsense'; there are: compact.*avif"):
        evaluate([subject, "nonsense"], folder, tmp_path / TABLE, EvaluateOptions([60]))
    assert subject.encoded == 0 and not (tmp_path / TABLE).exists()


# ── the room ──


def test_evaluation_imports_torch_only_when_needed() -> None:
    code = (
        "import json, sys, trifocal.evaluation; print(json.dumps([n for n in"
        " ('torch', 'accelerate', 'trifocal.training', 'torchmetrics', 'scipy') if n in sys.modules]))"
    )
    run = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True, cwd=ROOT)
    assert json.loads(run.stdout) == []


@pytest.mark.parametrize(
    ("package", "work"),
    [
        ("torchmetrics.functional.image", lambda: ms_ssim(photograph(180, 180), photograph(180, 180))),
        ("scipy.interpolate", lambda: bd_rate(PLAIN, PLAIN)),
    ],
)
def test_a_missing_package_is_named_with_its_extra(
    package: str, work: Callable[[], object], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setitem(sys.modules, package, None)
    with pytest.raises(MissingExtra, match=r'pip install "trifocal\[evaluate\]"'):
        work()
