"""The report of a comparison, on small images and with codecs of every Pillow."""

import json
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from trifocal.errors import OptionError, PictureError, PresetError
from trifocal.evaluation import CompareOptions
from trifocal.evaluation.candidates.pillow_codecs import PILLOW_CODECS
from trifocal.evaluation.compare import compare
from trifocal.evaluation.peak_memory import own_peak_memory
from trifocal.evaluation.report.compressai_json import read_compressai
from trifocal.evaluation.report.crops import largest_error_region, largest_file_within, parse_crops
from trifocal.pictures import Picture


def photograph(seed: int) -> np.ndarray:
    """Smooth, with some grain."""
    rng = np.random.default_rng(seed)
    rows, columns = np.mgrid[0:200, 0:220]
    waves = 127 + 80 * np.sin(columns / (9 + 4 * seed)) * np.cos(rows / 23)
    return np.clip(waves[..., None] + rng.normal(0, 6, (200, 220, 3)), 0, 255).astype(np.uint8)


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    place = tmp_path / "pictures"
    place.mkdir()
    for seed in range(3):
        Image.fromarray(photograph(seed)).save(place / f"{seed}.png")
    return place


def test_compare_writes_a_report_page(folder: Path, tmp_path: Path) -> None:
    (folder / "broken.png").write_bytes(b"\x89PNG")
    said: list[str] = []
    other = tmp_path / "other.json"
    other.write_text('{"name": "Another", "results": {"bpp": [0.5, 1, 9], "psnr-rgb": [20, 25, 40]}}')
    page = compare(
        ["webp", "jpeg"],
        folder,
        tmp_path / "report",
        CompareOptions([20, 50, 80], published=[other]),
        notify=said.append,
    )
    text = page.read_text("utf-8")
    assert page == tmp_path / "report" / "index.html" and "worst" in text and "best" in text
    assert any("broken.png" in sentence for sentence in said) and "broken.png" in text
    figures = json.loads((tmp_path / "report" / "report.json").read_text())["differences"]
    speeds = json.loads((tmp_path / "report" / "report.json").read_text())["speeds"]
    assert own_peak_memory() is None or all(speed["peak_bytes"] > 10 << 20 for speed in speeds)
    by_pair = {(entry["codec"], entry["anchor"], entry["metric"]): entry["bd_rate"] for entry in figures}
    webp, jpeg = PILLOW_CODECS["webp"].title, PILLOW_CODECS["jpeg"].title
    assert (webp, "Another", "psnr") in by_pair and (webp, "Another", "ms-ssim") not in by_pair
    assert read_compressai(tmp_path / "report" / "webp.json").keys() == {"psnr", "ms-ssim"}
    there, back = by_pair[webp, jpeg, "psnr"], by_pair[jpeg, webp, "psnr"]
    assert (1 + there / 100) * (1 + back / 100) == pytest.approx(1, abs=1e-6)
    assert {entry["metric"] for entry in figures} == {"psnr", "ms-ssim"}
    before = (tmp_path / "report" / "results.csv").read_bytes()
    compare(["webp", "jpeg"], folder, tmp_path / "report", CompareOptions([20, 50, 80], resume=True))
    assert (tmp_path / "report" / "results.csv").read_bytes() == before


def test_comparison_without_candidates_is_an_error(tmp_path: Path) -> None:
    with pytest.raises(OptionError, match="no image"):
        compare(["webp"], tmp_path, tmp_path / "report")
    Image.fromarray(photograph(0)).save(tmp_path / "a.png")
    with pytest.raises(PresetError, match="no preset or format 'nonsense'"):
        compare(["webp", "nonsense"], tmp_path, tmp_path / "report")
    with pytest.raises(
        PictureError, match=r"^The preset taco has no trained weights.*Nothing was measured\.$"
    ):
        compare(["taco"], tmp_path, tmp_path / "report")
    assert not (tmp_path / "report").exists()


def test_other_codec_is_encoded_within_the_same_bytes() -> None:
    picture = Picture(photograph(1))
    sizes = [len(PILLOW_CODECS["jpeg"].encode(picture, quality)) for quality in (40, 41)]
    kept = largest_file_within(PILLOW_CODECS["jpeg"], picture, sizes[1] - 1)
    assert kept is not None and len(kept) == sizes[0] < sizes[1]
    assert largest_file_within(PILLOW_CODECS["jpeg"], picture, 10) is None


def test_crop_has_the_largest_error() -> None:
    original = np.zeros((400, 600, 3), np.uint8)
    decoded = original.copy()
    decoded[350, 500] = 255
    left, top, right, bottom = largest_error_region(decoded, original)
    assert left <= 500 < right and top <= 350 < bottom and (right - left, bottom - top) == (192, 144)
    assert largest_error_region(decoded[:50, :60], original[:50, :60]) == (0, 0, 60, 50)


def test_requested_crops_are_made_at_three_rates(folder: Path, tmp_path: Path) -> None:
    compare(
        ["webp", "jpeg"],
        folder,
        tmp_path / "report",
        CompareOptions([20, 80], crops=["1.png:20,30,50,40", "2.png"]),
    )
    shown = json.loads((tmp_path / "report" / "report.json").read_text())["crops"]
    assert [(crop["picture"], crop["why"]) for crop in shown] == [
        (picture, f"chosen, {rate}")
        for picture in ("1.png", "2.png")
        for rate in ("low rate", "middle rate", "high rate")
    ]
    assert {tuple(crop["box"]) for crop in shown[:3]} == {(20, 30, 70, 70)}
    assert len({tuple(crop["box"]) for crop in shown[3:]}) == 1
    for crop in shown:
        _, webp, *jpeg = crop["panels"]
        assert all(other["bytes"] <= webp["bytes"] for other in jpeg)
    sizes = [crop["panels"][1]["bytes"] for crop in shown[:3]]
    assert sizes == sorted(set(sizes))


@pytest.mark.parametrize(
    ("written", "said"),
    [
        ("none.png:0,0,9,9", "no image 'none.png'"),
        ("1.png:200,0,30,9", "220×200"),
        ("1.png:0,0,0,9", "220×200"),
    ],
)
def test_invalid_crop_is_refused_before_measuring(folder: Path, written: str, said: str) -> None:
    with pytest.raises(OptionError, match=said):
        parse_crops([written], folder)
