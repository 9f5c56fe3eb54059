"""One static page of a study, with its plots, crops and tables: it needs no network, no server and no JavaScript."""

from __future__ import annotations

import csv
import io
import json
import math
import os
import re
from collections.abc import Iterable, Sequence
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from trifocal.errors import MissingExtra, OptionError
from trifocal.evaluation.report.curves import Curve
from trifocal.evaluation.report.plots import (
    DARK,
    LIGHT,
    Line,
    MetricInfo,
    draw,
    is_near_one,
    lines_of,
    unscaled,
)
from trifocal.evaluation.text_ablation import TextEffect
from trifocal.utils.files import atomic_write

if TYPE_CHECKING:
    import jinja2

__all__ = [
    "Crop",
    "Difference",
    "LayerBytes",
    "MetricInfo",
    "Panel",
    "Speed",
    "Study",
    "write_report",
]

TEMPLATE = Path(__file__).with_name("report.html")
PAGE_WIDTH = 1136  # CSS pixels between the page's margins, and between two crops
CROP_GAP = 24
CROP_WIDTH = 330  # CSS pixels that an enlarged crop may take, so that it fits a telephone
NONE = "\N{EM DASH}"
MINUS = "\N{MINUS SIGN}"
THIN = "\N{NARROW NO-BREAK SPACE}"


@dataclass(frozen=True)
class Panel:
    """What one codec made of a crop: the bytes of its whole file (0 for the original), and metrics by name."""

    title: str
    bytes: int
    bpp: float
    values: dict[str, float]
    rgb: NDArray[np.uint8]  # [h, w, 3]


@dataclass(frozen=True)
class Crop:
    """The same place out of the original and of each codec's file, at equal bytes; the original comes first."""

    picture: str
    why: str  # it was chosen: "worst", "median", "best"
    box: tuple[int, int, int, int]  # left, top, right, bottom in pixels
    panels: tuple[Panel, ...]


@dataclass(frozen=True)
class Difference:
    """A codec against an anchor; None where the curves do not overlap.

    Attributes:
        bd_rate: percent; -10 says 10 % fewer bytes at the same metric.
        bd_metric: positive says that the codec is better at the same bytes; in dB for MS-SSIM.
        overlap: the interval of the metric that bd_rate is a mean over, natural or as curves are compared.
    """

    codec: str
    anchor: str
    metric: str
    bd_rate: float | None
    bd_metric: float | None
    overlap: tuple[float, float] | None


@dataclass(frozen=True)
class Speed:
    """Median seconds of a picture, and how many times those of the run's reference they are."""

    codec: str
    encode_s: float | None
    decode_s: float | None
    relative_encode: float | None
    relative_decode: float | None
    peak_bytes: int | None


@dataclass(frozen=True)
class LayerBytes:
    """Mean bytes of each layer of a codec's files at one quality."""

    codec: str
    quality: float
    layers: dict[str, float]

    @property
    def total(self) -> float:
        return sum(self.layers.values())


@dataclass(frozen=True)
class Study:
    """All that the page shows.

    Attributes:
        folder: that the pictures are in.
        curves, published: by the metric's name, values on its natural scale (MS-SSIM 0..1).
        notes: whole sentences: what failed, what was not measured, and how to get it.
        own: the codecs of `curves` that are drawn most prominently; empty for those that begin with "Trifocal".
        words: what kinds of words change.
    """

    title: str
    command: str
    machine: str
    date: str
    pictures: int
    folder: str
    metrics: tuple[MetricInfo, ...]
    curves: dict[str, list[Curve]]
    published: dict[str, list[Curve]]
    differences: list[Difference]
    speeds: list[Speed]
    layers: list[LayerBytes]
    crops: list[Crop]
    notes: list[str]
    own: tuple[str, ...] = ()
    words: tuple[TextEffect, ...] = ()

    def is_own(self, codec: str) -> bool:
        return codec in self.own if self.own else codec.startswith("Trifocal")


@dataclass(frozen=True)
class Plot:
    """A metric's curves, and its PNG files by the theme's name."""

    metric: MetricInfo
    lines: list[Line]
    files: dict[str, str]
    width: int  # CSS pixels, half of the file's
    height: int


@dataclass(frozen=True)
class Comparison:
    """The table of differences in one metric; the cells of a row stand in the order of the anchors."""

    metric: MetricInfo
    anchors: list[str]
    rows: list[tuple[str, list[Difference | None]]]


def write_report(study: Study, folder: str | os.PathLike[str]) -> Path:
    """Writes index.html, its PNG files, bd.csv and report.json into the folder, and gives the path of index.html.

    Each file is there whole or not at all, and index.html is the last. Raises OptionError where the study contradicts
    itself, MissingExtra, OSError.
    """
    check(study)
    page = template()
    files: dict[str, bytes] = {}
    plots = draw_plots(study, files)
    names = cut_crops(study, files)
    texts = {
        "bd.csv": differences_csv(study.differences),
        "report.json": json.dumps(figures(study, plots, names), indent=1, ensure_ascii=False),
        "index.html": page.render(context(study, plots, names)),
    }
    # A file's name may hold bytes that are no text; each is a question mark then.
    files |= {name: text.encode(errors="replace") for name, text in texts.items()}
    target = Path(folder)
    target.mkdir(parents=True, exist_ok=True)
    for name, data in files.items():
        with atomic_write(target / name) as stream:
            stream.write(data)
    return target / "index.html"


def check(study: Study) -> None:
    known = {metric.name for metric in study.metrics}
    panels = [panel for crop in study.crops for panel in crop.panels]
    used = {*study.curves, *study.published, *(one.metric for one in study.differences)}
    used.update((effect.metric for effect in study.words), *(panel.values for panel in panels))
    if strangers := used - known:
        raise OptionError(f"The study uses metrics that it does not list: {', '.join(sorted(strangers))}.")
    for metric in filter(is_near_one, study.metrics):
        for curve in [*study.curves.get(metric.name, []), *study.published.get(metric.name, [])]:
            if max(curve.values, default=0) > 1.001:
                raise OptionError(f"{metric.title} is 0 to 1 in a report, and {curve.name} has it in dB.")
    for panel in panels:
        if panel.rgb.dtype != np.uint8 or panel.rgb.ndim != 3 or panel.rgb.shape[2] != 3:
            raise OptionError(
                f"A crop is 8-bit RGB, not {panel.rgb.dtype} {list(panel.rgb.shape)} ({panel.title})."
            )


def draw_plots(study: Study, files: dict[str, bytes]) -> list[Plot]:
    """A plot for each metric that has a curve with a point; the PNG files are added to `files`."""
    lines = lines_of(study.curves, study.published, study.is_own)
    plots = []
    for number, metric in enumerate(study.metrics, 1):
        if not lines.get(metric.name):
            continue
        stem = f"plot-{number}-" + re.sub(r"[^a-z0-9]+", "-", metric.name.lower()).strip("-")
        names = {theme.name: f"{stem}-{theme.name}.png" for theme in (LIGHT, DARK)}
        for theme in (LIGHT, DARK):
            files[names[theme.name]] = draw(metric, lines[metric.name], theme)
        with Image.open(io.BytesIO(files[names[LIGHT.name]])) as image:
            plots.append(Plot(metric, lines[metric.name], names, image.width // 2, image.height // 2))
    return plots


def cut_crops(study: Study, files: dict[str, bytes]) -> list[list[str]]:
    """The PNG file of each crop and panel, at its own size; they are added to `files`."""
    names: list[list[str]] = []
    for number, crop in enumerate(study.crops, 1):
        names.append([f"crop-{number}-{place}.png" for place in range(len(crop.panels))])
        for name, panel in zip(names[-1], crop.panels):
            stream = io.BytesIO()
            Image.fromarray(panel.rgb).save(stream, "PNG")
            files[name] = stream.getvalue()
    return names


def differences_csv(differences: Iterable[Difference]) -> str:
    text = io.StringIO(newline="")
    writer = csv.writer(text, lineterminator="\n")
    writer.writerow(
        ("codec", "anchor", "metric", "bd_rate_percent", "bd_metric", "overlap_low", "overlap_high")
    )
    for one in differences:
        numbers = (one.bd_rate, one.bd_metric, *(one.overlap or (None, None)))
        cells = ("" if number is None else f"{number:.6g}" for number in numbers)
        writer.writerow((one.codec, one.anchor, one.metric, *cells))
    return text.getvalue()


def figures(study: Study, plots: Sequence[Plot], names: Sequence[Sequence[str]]) -> dict[str, object]:
    """The study for report.json: pixels are the names of their files, and what is not finite is null."""
    crops = [
        {
            **asdict(replace(crop, panels=())),
            "panels": [
                {"file": name, **{k: v for k, v in vars(panel).items() if k != "rgb"}}
                for name, panel in zip(files, crop.panels)
            ],
        }
        for files, crop in zip(names, study.crops)
    ]
    plain = {**asdict(replace(study, crops=[])), "crops": crops}
    plain["plots"] = {plot.metric.name: plot.files for plot in plots}
    cleaned = finite(plain)
    assert isinstance(cleaned, dict)
    return cleaned


def finite(value: object) -> object:
    """The same with None for each float that JSON cannot say."""
    if isinstance(value, dict):
        return {key: finite(one) for key, one in value.items()}
    if isinstance(value, (list, tuple)):
        return [finite(one) for one in value]
    return None if isinstance(value, float) and not math.isfinite(value) else value


def template() -> jinja2.Template:
    try:
        import jinja2
    except ImportError:
        raise MissingExtra("evaluate", "Writing a report") from None
    environment = jinja2.Environment(
        loader=jinja2.FileSystemLoader(TEMPLATE.parent),
        autoescape=True,
        undefined=jinja2.StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
    )
    for one in (number, percent, signed, interval, times, seconds, size, direction_of):
        environment.filters[one.__name__] = one
    return environment.get_template(TEMPLATE.name)


def context(study: Study, plots: Sequence[Plot], names: Sequence[Sequence[str]]) -> dict[str, object]:
    references = [one.codec for one in study.speeds if one.relative_encode == one.relative_decode == 1]
    return {
        "study": study,
        "themes": (LIGHT, DARK),
        "plots": plots,
        "comparisons": comparisons(study),
        "reference": references[0] if references else "",
        "layers": list(dict.fromkeys(layer for one in study.layers for layer in one.layers)),
        "crops": [
            (crop, list(zip(files, crop.panels)), zoom(crop)) for crop, files in zip(study.crops, names)
        ],
        "best": best,
    }


def comparisons(study: Study) -> list[Comparison]:
    found = {(one.metric, one.codec, one.anchor): one for one in study.differences}
    tables = []
    for metric in study.metrics:
        codecs = list(dict.fromkeys(codec for name, codec, _ in found if name == metric.name))
        anchors = list(dict.fromkeys(anchor for name, _, anchor in found if name == metric.name))
        rows = [(codec, [found.get((metric.name, codec, anchor)) for anchor in anchors]) for codec in codecs]
        if rows:
            tables.append(Comparison(metric, anchors, rows))
    return tables


def zoom(crop: Crop) -> int:
    """How many times a crop is enlarged: a whole number, so that each of its pixels is a square. All panels stand in
    one row of a wide page if twice is enough for that."""
    width = max((panel.rgb.shape[1] for panel in crop.panels), default=1)
    abreast = (PAGE_WIDTH + CROP_GAP) // max(1, len(crop.panels)) - CROP_GAP
    most = CROP_WIDTH // width
    return max(1, min(most, max(2, abreast // width)))


def best(crop: Crop, metric: MetricInfo) -> float | None:
    """The best value among the codecs, where there are several."""
    values = [
        panel.values[metric.name] for panel in crop.panels if panel.bytes and metric.name in panel.values
    ]
    if len(values) < 2:
        return None
    return max(values) if metric.better == "higher" else min(values)


def number(value: float | None, metric: MetricInfo) -> str:
    """With the digits that mean something: 34.21 for dB, 0.9874 for MS-SSIM."""
    if value is None or math.isnan(value):
        return NONE
    if math.isinf(value):
        return "∞" if value > 0 else f"{MINUS}∞"
    if is_near_one(metric):
        return f"{value:.4f}"
    text = f"{value:.2f}" if metric.unit == "dB" or abs(value) >= 10 else f"{value:.4f}"
    return text.replace("-", MINUS)


def percent(value: float) -> str:
    return f"{value:+.1f}{THIN}%".replace("-", MINUS)


def signed(value: float, metric: MetricInfo) -> str:
    """A difference of the metric, in dB also for MS-SSIM."""
    if metric.unit == "dB" or is_near_one(metric):
        return f"{value:+.2f}{THIN}dB".replace("-", MINUS)
    return f"{value:+.3g}".replace("-", MINUS)


def interval(overlap: tuple[float, float], metric: MetricInfo) -> str:
    """On the metric's natural scale, the lower value first."""
    low, high = sorted(unscaled(metric, value) for value in overlap)
    digits = 3 if high <= 2 else 2 if high <= 10 else 1
    unit = f"{THIN}{metric.unit}" if metric.unit else ""
    return f"{low:.{digits}f}–{high:.{digits}f}{unit}".replace("-", MINUS)


def direction_of(value: float) -> str:
    """The class of a BD-rate: "less", "more", or "same" where its digits say 0."""
    return "same" if abs(value) < 0.05 else "less" if value < 0 else "more"


def times(ratio: float | None) -> str:
    return NONE if ratio is None else f"{three_digits(ratio)}×"


def seconds(value: float | None) -> str:
    if value is None:
        return NONE
    return f"{three_digits(1000 * value)}{THIN}ms" if value < 0.9995 else f"{three_digits(value)}{THIN}s"


def three_digits(value: float) -> str:
    """1.00, 0.222, 28.5, 1,234: as many as a timing on one machine is good for."""
    return f"{value:,.0f}" if value >= 99.95 else f"{value:#.3g}"


def size(count: float | None) -> str:
    """Bytes: all digits up to 100 000, and then in units of 1024."""
    if count is None:
        return NONE
    if count < 1e5:
        return f"{count:,.0f}{THIN}B"
    return f"{count / 2**20:,.1f}{THIN}MiB" if count < 2**30 else f"{count / 2**30:,.2f}{THIN}GiB"
