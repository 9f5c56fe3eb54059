"""Write a report: one static HTML page with plots, crops and tables, without network or JavaScript."""

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

from PIL import Image

from trifocal.errors import MissingExtra
from trifocal.evaluation.report.contents import Crop, CurveComparison, ReportData
from trifocal.evaluation.report.formatting import FILTERS
from trifocal.evaluation.report.plots import DARK, LIGHT, MetricInfo, PlotLine, draw, plot_lines
from trifocal.utils.files import atomic_write

if TYPE_CHECKING:
    import jinja2

__all__ = ["write_report"]

TEMPLATE = Path(__file__).with_name("report.html")
PAGE_WIDTH = 1136  # CSS pixels between the margins of the page
CROP_GAP = 24  # CSS pixels between two crops
CROP_WIDTH = 330  # CSS pixels of an enlarged crop at most, so that it fits a phone


@dataclass(frozen=True)
class Plot:
    """The curves of a metric, and its PNG files by the name of the theme."""

    metric: MetricInfo
    lines: list[PlotLine]
    files: dict[str, str]
    width: int  # CSS pixels, half of the pixels of the file
    height: int


@dataclass(frozen=True)
class ComparisonTable:
    """The comparisons in one metric; each row has the name of a codec and a cell for each anchor."""

    metric: MetricInfo
    anchors: list[str]
    rows: list[tuple[str, list[CurveComparison | None]]]


def write_report(report: ReportData, folder: str | os.PathLike[str]) -> Path:
    """Write index.html, its PNG files, bd.csv and report.json into a folder; returns the path of index.html.

    Each file is written atomically, index.html last.

    Raises:
        OptionError: if parts of the report contradict each other.
        MissingExtra: without jinja2 or matplotlib.
        OSError: if a file cannot be written.
    """
    report.check()
    page = load_template()
    files: dict[str, bytes] = {}
    plots = draw_plots(report, files)
    names = cut_crops(report, files)
    texts = {
        "bd.csv": comparisons_csv(report.differences),
        "report.json": json.dumps(json_contents(report, plots, names), indent=1, ensure_ascii=False),
        "index.html": page.render(template_variables(report, plots, names)),
    }
    # Names of files may contain bytes that are not valid text; they become question marks.
    files |= {name: text.encode(errors="replace") for name, text in texts.items()}
    target = Path(folder)
    target.mkdir(parents=True, exist_ok=True)
    for name, data in files.items():
        with atomic_write(target / name) as stream:
            stream.write(data)
    return target / "index.html"


def draw_plots(report: ReportData, files: dict[str, bytes]) -> list[Plot]:
    """A plot for each metric that has points; the PNG files are added to `files`."""
    lines = plot_lines(report.curves, report.published, report.is_highlighted)
    plots = []
    for number, metric in enumerate(report.metrics, 1):
        if not lines.get(metric.name):
            continue
        stem = f"plot-{number}-" + re.sub(r"[^a-z0-9]+", "-", metric.name.lower()).strip("-")
        names = {theme.name: f"{stem}-{theme.name}.png" for theme in (LIGHT, DARK)}
        for theme in (LIGHT, DARK):
            files[names[theme.name]] = draw(metric, lines[metric.name], theme)
        with Image.open(io.BytesIO(files[names[LIGHT.name]])) as image:
            plots.append(Plot(metric, lines[metric.name], names, image.width // 2, image.height // 2))
    return plots


def cut_crops(report: ReportData, files: dict[str, bytes]) -> list[list[str]]:
    """The names of the PNG files by crop and panel; the files are added to `files`."""
    names: list[list[str]] = []
    for number, crop in enumerate(report.crops, 1):
        names.append([f"crop-{number}-{index}.png" for index in range(len(crop.panels))])
        for name, panel in zip(names[-1], crop.panels):
            stream = io.BytesIO()
            Image.fromarray(panel.rgb).save(stream, "PNG")
            files[name] = stream.getvalue()
    return names


def comparisons_csv(differences: Iterable[CurveComparison]) -> str:
    """All comparisons as CSV."""
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


def json_contents(
    report: ReportData, plots: Sequence[Plot], names: Sequence[Sequence[str]]
) -> dict[str, object]:
    """The contents of report.json: names of files instead of pixels, null for infinite values."""
    crops = [
        {
            **asdict(replace(crop, panels=())),
            "panels": [
                {"file": name, **{k: v for k, v in vars(panel).items() if k != "rgb"}}
                for name, panel in zip(files, crop.panels)
            ],
        }
        for files, crop in zip(names, report.crops)
    ]
    plain = {**asdict(replace(report, crops=[])), "crops": crops}
    plain["plots"] = {plot.metric.name: plot.files for plot in plots}
    cleaned = without_infinities(plain)
    assert isinstance(cleaned, dict)
    return cleaned


def without_infinities(value: object) -> object:
    """The same with None for each float that JSON cannot represent."""
    if isinstance(value, dict):
        return {key: without_infinities(one) for key, one in value.items()}
    if isinstance(value, (list, tuple)):
        return [without_infinities(one) for one in value]
    return None if isinstance(value, float) and not math.isfinite(value) else value


def load_template() -> jinja2.Template:
    """The template of the page. Raises MissingExtra."""
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
    for one in FILTERS:
        environment.filters[one.__name__] = one
    return environment.get_template(TEMPLATE.name)


def template_variables(
    report: ReportData, plots: Sequence[Plot], names: Sequence[Sequence[str]]
) -> dict[str, object]:
    """The variables of the template."""
    references = [one.codec for one in report.speeds if one.relative_encode == one.relative_decode == 1]
    return {
        "report": report,
        "themes": (LIGHT, DARK),
        "plots": plots,
        "comparisons": comparisons(report),
        "reference": references[0] if references else "",
        "layers": list(dict.fromkeys(layer for one in report.layers for layer in one.layers)),
        "crops": [
            (crop, list(zip(files, crop.panels)), enlargement(crop))
            for crop, files in zip(report.crops, names)
        ],
        "best_value": best_value,
    }


def comparisons(report: ReportData) -> list[ComparisonTable]:
    """A table for each metric."""
    found = {(one.metric, one.codec, one.anchor): one for one in report.differences}
    tables = []
    for metric in report.metrics:
        codecs = list(dict.fromkeys(codec for name, codec, _ in found if name == metric.name))
        anchors = list(dict.fromkeys(anchor for name, _, anchor in found if name == metric.name))
        rows = [(codec, [found.get((metric.name, codec, anchor)) for anchor in anchors]) for codec in codecs]
        if rows:
            tables.append(ComparisonTable(metric, anchors, rows))
    return tables


def enlargement(crop: Crop) -> int:
    """The integer factor by which a crop is enlarged; all panels fit in one row of a wide page if a factor of
    2 allows it.
    """
    width = max((panel.rgb.shape[1] for panel in crop.panels), default=1)
    width_per_panel = (PAGE_WIDTH + CROP_GAP) // max(1, len(crop.panels)) - CROP_GAP
    maximum = CROP_WIDTH // width
    return max(1, min(maximum, max(2, width_per_panel // width)))


def best_value(crop: Crop, metric: MetricInfo) -> float | None:
    """The best value among the codecs, if there are several."""
    values = [
        panel.values[metric.name] for panel in crop.panels if panel.bytes and metric.name in panel.values
    ]
    if len(values) < 2:
        return None
    return max(values) if metric.better == "higher" else min(values)
