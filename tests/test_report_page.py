"""The report page: all files that it refers to exist, it needs no network, and its figures are those of its
data. All numbers and codecs here are made up.
"""

import ast
import csv
import io
import json
import re
from dataclasses import replace
from html.parser import HTMLParser
from itertools import combinations
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

from trifocal.errors import OptionError
from trifocal.evaluation.report import page as report
from trifocal.evaluation.report import plots
from trifocal.evaluation.report.contents import Crop, CurveComparison, LayerBytes, Panel, ReportData, Speed
from trifocal.evaluation.report.curves import Curve
from trifocal.evaluation.report.page import write_report
from trifocal.evaluation.report.plots import MetricInfo

PSNR = MetricInfo("psnr", "PSNR", "dB", "higher")
MS_SSIM = MetricInfo("ms-ssim", "MS-SSIM", "", "higher")
LPIPS = MetricInfo("lpips", "LPIPS", "", "lower")
EVIL = '<script>alert("made up")</script>.png'
RATES = (0.1, 0.3, 0.9)


def panel(title: str, size: int, **values: float) -> Panel:
    rgb = np.random.default_rng(size).integers(0, 256, (60, 100, 3), dtype=np.uint8)
    return Panel(title, size, size / 1000, values, rgb)


def example_report() -> ReportData:
    """All numbers are made up."""
    psnr = [
        Curve("Trifocal made-up", RATES, (28.0, 32.0, 36.0)),
        Curve("rival & made-up", RATES, (27, 31, 35)),
    ]
    ms_ssim = [Curve("Trifocal made-up", RATES, (0.9, 0.98, 1.0)), Curve("rival & made-up", (0.5,), (0.97,))]
    lpips = [Curve("rival & made-up", (0.3, 0.9), (0.2, 0.1))]
    return ReportData(
        title="A made-up study",
        command="trifocal evaluate made-up --data <folder>",
        machine="a machine that does not exist",
        date="2001-02-03",
        pictures=3,
        folder="made/up",
        metrics=(PSNR, MS_SSIM, LPIPS),
        curves={"psnr": psnr, "ms-ssim": ms_ssim, "lpips": lpips},
        published={"psnr": [Curve("published, $x$ made-up", (0.05, 0.5, 5.0), (26.0, 34.0, 48.0))]},
        differences=[
            CurveComparison("Trifocal made-up", "rival & made-up", "psnr", -12.34, 0.5, (28.0, 35.0)),
            CurveComparison("Trifocal made-up", "far made-up", "psnr", None, None, None),
            CurveComparison("rival & made-up", "Trifocal made-up", "ms-ssim", 20.06, -1.25, (10.0, 20.0)),
            CurveComparison("rival & made-up", "Trifocal made-up", "lpips", 0.01, -0.002, (-0.3, -0.125)),
        ],
        speeds=[
            Speed("rival & made-up", 0.5, 0.02, 1.0, 1.0, 3 * 2**20),
            Speed("Trifocal made-up", 1.25, None, 2.5, None, None),
        ],
        layers=[
            LayerBytes("Trifocal made-up", 50, {"base": 3000.0, "detail": 1000.0}),
            LayerBytes("rival & made-up", 50, {"base": 4000.0}),
        ],
        crops=[
            Crop(EVIL, "worst", (10, 20, 110, 80), (panel("Original", 0), panel("A", 900, psnr=30.125))),
            Crop(
                "plain.png",
                "best",
                (0, 0, 100, 60),
                (
                    panel("Original", 0, psnr=float("inf")),
                    panel("A", 900, psnr=31.0, lpips=0.3),
                    panel("B", 899, psnr=30.0, lpips=0.2),
                ),
            ),
        ],
        notes=["DISTS is made up & not measured; run `made up`."],
    )


class Page(HTMLParser):
    """The files that a page refers to, its tags, the ids of its sections, and its text."""

    def __init__(self, text: str) -> None:
        super().__init__()
        self.references: set[str] = set()
        self.tags: set[str] = set()
        self.sections: list[str] = []
        self.titles: list[str] = []
        self.text = ""
        self.feed(text)

    def handle_starttag(self, tag: str, attributes: list[tuple[str, str | None]]) -> None:
        self.tags.add(tag)
        found = {name: value or "" for name, value in attributes}
        self.references |= {found[name] for name in ("src", "href") if name in found}
        self.references |= {part.split()[0] for part in found.get("srcset", "").split(",") if part.strip()}
        if tag == "section":
            self.sections.append(found["id"])
        if tag == "td" and "title" in found:
            self.titles.append(found["title"])

    def handle_data(self, data: str) -> None:
        self.text += data


@pytest.fixture(scope="module")
def index(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_report(example_report(), tmp_path_factory.mktemp("study") / "new" / "report")


@pytest.fixture(scope="module")
def page(index: Path) -> Page:
    return Page(index.read_text("utf-8"))


@pytest.fixture
def quick(monkeypatch: pytest.MonkeyPatch) -> None:
    """Plots are one white pixel, for tests of other parts."""
    pixel = Image.new("RGB", (2, 2), "white")

    def draw(metric: MetricInfo, lines: list[plots.PlotLine], theme: plots.Theme) -> bytes:
        stream = io.BytesIO()
        pixel.save(stream, "PNG")
        return stream.getvalue()

    monkeypatch.setattr(report, "draw", draw)


def written(study: ReportData, folder: Path) -> Page:
    return Page(write_report(study, folder).read_text("utf-8"))


def test_written_files_are_exactly_those_referred_to(index: Path, page: Page) -> None:
    there = {path.name for path in index.parent.iterdir()}
    files = {name for name in page.references if not name.startswith("#")}
    assert files == there - {"index.html"}
    assert {name[1:] for name in page.references if name.startswith("#")} == set(page.sections)
    assert len([name for name in files if name.startswith("plot-")]) == 2 * 3
    assert len([name for name in files if name.startswith("crop-")]) == 2 + 3


def test_page_needs_no_network(index: Path) -> None:
    text = index.read_text("utf-8")
    assert not re.search(r"https?:|//[a-z]|url\(|@import|<link|<script", text)


def test_names_are_escaped(index: Path, page: Page) -> None:
    text = index.read_text("utf-8")
    assert EVIL in page.text and EVIL not in text
    assert "script" not in page.tags
    assert "rival & made-up" in page.text and "--data <folder>" in page.text


def test_page_states_computer_date_and_command(page: Page) -> None:
    for part in (
        "A made-up study",
        "trifocal evaluate",
        "does not exist",
        "2001-02-03",
        "3 in made/up",
        "DISTS",
    ):
        assert part in page.text
    assert page.sections == ["curves", "differences", "crops", "speed", "layers", "notes"]


def test_differences_have_sign_class_and_overlap(page: Page) -> None:
    text = page.text.replace("\N{NARROW NO-BREAK SPACE}", " ")
    assert re.search(r"▼\s+−12.3 %\s+\+0.50 dB\s+over 28.0–35.0 dB", text)
    assert re.search(r"▲\s+\+20.1 %\s+−1.25 dB\s+over 0.900–0.990\s", text)
    assert re.search(r"\s\+0.0 %\s+−0.002\s+over 0.125–0.300\s", text)
    assert any("far made-up" in title and "do not overlap" in title for title in page.titles)


def test_speeds_are_relative_to_the_reference(page: Page) -> None:
    text = page.text.replace("\N{NARROW NO-BREAK SPACE}", " ")
    assert "1× is rival & made-up." in text
    assert re.search(r"2\.50×\s*1\.25 s\s*—\s*—\s*—", text) and re.search(
        r"1\.00×\s*20\.0 ms\s*3\.0 MiB", text.replace("500 ms", "")
    )


def test_layer_bytes_are_shown_as_shares(index: Path, page: Page) -> None:
    assert "width: 75.00%" in index.read_text("utf-8")
    assert "3,000 75.0 %" in page.text and "4,000 100.0 %" in page.text


def test_best_value_of_a_crop_is_bold_and_excludes_the_original(index: Path) -> None:
    text = index.read_text("utf-8")
    assert re.findall(r"<dd><b>(.*?)</b>", text) == ["31.00 dB", "0.2000"]
    assert "∞ dB" in text


def test_png_files_have_the_stated_sizes(index: Path) -> None:
    for path in index.parent.glob("*.png"):
        with Image.open(path) as image:
            image.load()
            if path.name.startswith("crop"):
                assert image.size == (100, 60)
            else:
                assert image.width == 1100 and 900 < image.height < 1300
    for light in index.parent.glob("plot-*-light.png"):
        pair = [
            Image.open(path).convert("RGB") for path in (light, Path(str(light).replace("light", "dark")))
        ]
        corners = [image.getpixel((0, 0)) for image in pair]
        assert pair[0].size == pair[1].size
        assert corners == [(255, 255, 255), (0x14, 0x17, 0x1B)]


def test_crops_have_the_given_pixels(index: Path) -> None:
    with Image.open(index.parent / "crop-2-1.png") as image:
        assert (np.asarray(image) == example_report().crops[1].panels[1].rgb).all()


def test_json_file_has_all_figures(index: Path) -> None:
    study, read = example_report(), json.loads((index.parent / "report.json").read_text("utf-8"))
    for metric, curves in study.curves.items():
        found = [
            Curve(one["name"], tuple(one["rates"]), tuple(one["values"])) for one in read["curves"][metric]
        ]
        assert found == curves
    assert [
        CurveComparison(**{**one, "overlap": one["overlap"] and tuple(one["overlap"])})
        for one in read["differences"]
    ] == study.differences
    assert [Speed(**one) for one in read["speeds"]] == study.speeds
    assert [LayerBytes(**one) for one in read["layers"]] == study.layers
    assert tuple(MetricInfo(**one) for one in read["metrics"]) == study.metrics
    assert read["notes"] == study.notes and read["command"] == study.command
    assert read["crops"][0]["picture"] == EVIL
    assert read["crops"][0]["panels"][1]["values"] == {"psnr": 30.125}
    assert read["crops"][1]["panels"][0] == {
        "file": "crop-2-0.png",
        "title": "Original",
        "bytes": 0,
        "bpp": 0.0,
        "values": {"psnr": None},  # which JSON has no infinity for
    }
    assert (index.parent / read["plots"]["lpips"]["dark"]).exists()


def test_csv_of_differences(index: Path) -> None:
    with open(index.parent / "bd.csv", encoding="utf-8", newline="") as stream:
        rows = list(csv.reader(stream))
    assert rows == [
        ["codec", "anchor", "metric", "bd_rate_percent", "bd_metric", "overlap_low", "overlap_high"],
        ["Trifocal made-up", "rival & made-up", "psnr", "-12.34", "0.5", "28", "35"],
        ["Trifocal made-up", "far made-up", "psnr", "", "", "", ""],
        ["rival & made-up", "Trifocal made-up", "ms-ssim", "20.06", "-1.25", "10", "20"],
        ["rival & made-up", "Trifocal made-up", "lpips", "0.01", "-0.002", "-0.3", "-0.125"],
    ]


def test_empty_sections_are_left_out(tmp_path: Path) -> None:
    bare = replace(
        example_report(), curves={}, published={}, differences=[], speeds=[], layers=[], crops=[], notes=[]
    )
    page = written(bare, tmp_path)
    assert page.sections == [] and page.references == {"report.json"}
    assert "A made-up study" in page.text
    page = written(replace(bare, notes=["Nothing was measured."]), tmp_path)
    assert page.sections == ["notes"]


def test_names_with_invalid_characters_are_written(tmp_path: Path, quick: None) -> None:
    crop = replace(example_report().crops[1], picture=b"a\xffb.png".decode(errors="surrogateescape"))
    assert "a?b.png" in written(replace(example_report(), crops=[crop]), tmp_path).text


def test_a_second_report_replaces_the_first(tmp_path: Path, quick: None) -> None:
    write_report(example_report(), tmp_path)
    page = written(replace(example_report(), title="Another"), tmp_path)
    assert "Another" in page.text and "A made-up study" not in page.text
    assert not list(tmp_path.glob("*.tmp"))


@pytest.mark.parametrize(
    ("changes", "words"),
    [
        ({"metrics": (PSNR,)}, "lpips, ms-ssim"),
        ({"published": {"ms-ssim": [Curve("in dB", (1.0,), (12.0,))]}}, "in dB has it in dB"),
        (
            {
                "crops": [
                    Crop("x", "best", (0, 0, 1, 1), (Panel("A", 1, 1.0, {}, np.zeros((1, 1, 4), np.uint8)),))
                ]
            },
            "1, 1, 4",
        ),
    ],
)
def test_inconsistent_report_data_is_refused(changes: dict[str, Any], words: str, tmp_path: Path) -> None:
    with pytest.raises(OptionError, match=words):
        write_report(replace(example_report(), **changes), tmp_path / "never")
    assert not (tmp_path / "never").exists()


def test_highlighted_codecs_can_be_named(tmp_path: Path) -> None:
    study = replace(example_report(), own=("rival & made-up",))
    lines = plots.plot_lines(study.curves, study.published, study.is_highlighted)["psnr"]
    assert [(line.curve.name, line.role) for line in lines] == [
        ("rival & made-up", "own"),
        ("Trifocal made-up", "other"),
        ("published, $x$ made-up", "published"),
    ]


def test_codec_has_one_colour_in_all_plots() -> None:
    a, b = Curve("a", (1.0,), (1.0,)), Curve("b", (1.0,), (1.0,))
    lines = plots.plot_lines({"psnr": [a, b], "lpips": [b, Curve("none", (), ())]}, {}, lambda name: False)
    assert [line.number for line in lines["lpips"]] == [lines["psnr"][1].number]


@pytest.mark.parametrize(
    ("width", "panels", "expected"),
    [(96, 3, 3), (110, 4, 2), (64, 8, 2), (160, 7, 2), (200, 2, 1), (500, 2, 1)],
)
def test_crops_are_enlarged_by_integers_to_fit_a_row(width: int, panels: int, expected: int) -> None:
    one = Panel("A", 1, 1.0, {}, np.zeros((10, width, 3), np.uint8))
    assert report.enlargement(Crop("x", "best", (0, 0, width, 10), (one,) * panels)) == expected


def test_axes_are_inverted_so_that_up_is_better() -> None:
    from matplotlib.figure import Figure

    study = example_report()
    lines = plots.plot_lines(study.curves, study.published, study.is_highlighted)
    seen = {}
    for metric in study.metrics:
        axes = Figure().add_axes((0, 0, 1, 1))
        plots.draw_lines(axes, metric, lines[metric.name], plots.LIGHT)
        seen[metric] = axes
    low, high = seen[LPIPS].get_ylim()
    assert low > 0.2 and high < 0.1
    low, high = seen[PSNR].get_ylim()
    assert low < 27 and 36 < high < 40, (
        "what was published far outside the rates that were measured is not shown"
    )
    low, high = seen[PSNR].get_xlim()
    assert 0.08 < low < 0.1 and 0.9 < high < 1.1 and seen[PSNR].get_xscale() == "log"
    assert seen[LPIPS].get_xscale() == "linear"
    labels = [label.get_text() for label in seen[MS_SSIM].get_yticklabels()]
    assert labels == ["0.9", "0.95", "0.98"]


def test_ticks_of_a_narrow_axis_differ() -> None:
    ticks = plots.ms_ssim_ticks(plots.decibels(0.9604), plots.decibels(0.9788))
    assert len(ticks) > 2 and all(0.96 < tick < 0.98 for tick in ticks)
    assert all(len(f"{tick:.6g}") <= 6 for tick in ticks)


# Linear RGB to XYZ, and what people without red, green or blue cones see (Machado et al. 2009, severity 1).
XYZ = np.array([[0.4124, 0.3576, 0.1805], [0.2126, 0.7152, 0.0722], [0.0193, 0.1192, 0.9505]])
VISIONS = np.array(
    [
        [[0.152286, 1.052583, -0.204868], [0.114503, 0.786281, 0.099216], [-0.003882, -0.048116, 1.051998]],
        [[0.367322, 0.860646, -0.227968], [0.280085, 0.672501, 0.047413], [-0.011820, 0.042940, 0.968881]],
        [[1.255528, -0.076749, -0.178779], [-0.078411, 0.930809, 0.147602], [0.004733, 0.691367, 0.303900]],
    ]
)


def linear(colour: str) -> np.ndarray:
    channels = np.array([int(colour[at : at + 2], 16) / 255 for at in (1, 3, 5)])
    return np.where(channels <= 0.04045, channels / 12.92, ((channels + 0.055) / 1.055) ** 2.4)


def lab(rgb: np.ndarray) -> np.ndarray:
    """CIELAB of linear RGB."""
    ratios = XYZ @ np.clip(rgb, 0, 1) / XYZ.sum(1)
    x, y, z = np.where(ratios > 0.008856, np.cbrt(ratios), 7.787 * ratios + 16 / 116)
    return np.array([116 * y - 16, 500 * (x - y), 200 * (y - z)])


@pytest.mark.parametrize("theme", [plots.LIGHT, plots.DARK], ids=lambda theme: theme.name)
def test_colours_are_distinguishable_for_all_types_of_colour_vision(theme: plots.Theme) -> None:
    for one, other in combinations(theme.own + theme.other, 2):
        for vision in (np.eye(3), *VISIONS):
            assert np.linalg.norm(lab(vision @ linear(one)) - lab(vision @ linear(other))) > 20, (one, other)


@pytest.mark.parametrize("theme", [plots.LIGHT, plots.DARK], ids=lambda theme: theme.name)
def test_colours_have_contrast_to_the_background(theme: plots.Theme) -> None:
    def contrast(colour: str) -> float:
        low, high = sorted(float(XYZ[1] @ linear(one)) for one in (colour, theme.paper))
        return (high + 0.05) / (low + 0.05)

    assert min(map(contrast, theme.own + theme.other + theme.published)) >= 3
    assert contrast(theme.quiet) >= 4.5 and contrast(theme.ink) >= 7


def test_report_needs_no_torch() -> None:
    for module in (report, plots):
        tree = ast.parse(Path(str(module.__file__)).read_text("utf-8"))
        assert "torch" not in ast.dump(tree)
