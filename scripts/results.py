#!/usr/bin/env python3
"""Measure the tables of perceived quality, from real files; interrupted runs can be resumed.

    python scripts/results.py rivals KODAK [--only avif webp]   results/rivals/*.csv, then trifocal/evaluation/report/anchors_measured.csv
    python scripts/results.py kodak KODAK                       results/kodak.csv, kodak_summary.csv and kodak_bd.csv
    python scripts/results.py coco COCO_IMAGES                  results/coco.csv, coco_summary.csv and coco_bd.csv
    python scripts/results.py readme                            the Kodak table of README.md and docs/results.md

Existing rows are kept unless the weights of their preset have changed. Each of the other codecs has its own file, so several processes can
share them (`--only`). Their mean curves ship as anchors and are measured once. BD-rates follow `evaluation.bd_rate_by`.
"""

import argparse
import csv
import sys
import tempfile
from collections.abc import Iterator, Mapping, Sequence
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path

from PIL import features

from trifocal import evaluation
from trifocal.cli.console import Console, reporting
from trifocal.errors import TrifocalError
from trifocal.evaluation import EvaluateOptions, MeanResult
from trifocal.evaluation.candidates.pillow_codecs import LOSSLESS, PILLOW_CODECS
from trifocal.evaluation.report.curves import ANCHORS, PILLOW_CURVES
from trifocal.pictures import list_pictures
from trifocal.presets import DEFAULT
from trifocal.utils.files import atomic_write, write_csv

ROOT = Path(__file__).resolve().parent.parent
RESULTS = ROOT / "results"
PRESETS = ("compact", DEFAULT, "compact-psnr")
METRICS = ("psnr", "ms-ssim", "ssimulacra2", "cvvdp", "flip", "butteraugli")
QUALITIES = tuple(float(quality) for quality in range(0, 101, 10))
COCO_QUALITIES, COCO_IMAGES_USED = (10.0, 30.0, 50.0, 70.0, 90.0), 40
OTHER_CODECS = [name for name in PILLOW_CODECS if name != LOSSLESS]
BD_COLUMNS = ("preset", "anchor", "metric", "bd_rate_percent", "overlap_low", "overlap_high", "weights")
TABLE = ("ssimulacra2", "butteraugli", "cvvdp", "flip", "ms-ssim", "psnr")  # columns of README's table
PAGES = ("README.md", "docs/results.md")
BEGIN, END = "<!-- results.py readme -->", "<!-- end -->"
Points = list[tuple[float, float]]


def main() -> None:
    arguments = parse()
    if arguments.step == "rivals":
        measure_other_codecs(arguments.data, arguments.only or OTHER_CODECS)
        write_anchors(PILLOW_CURVES)
    elif arguments.step == "kodak":
        table = measure(PRESETS, arguments.data, RESULTS / "kodak.csv", QUALITIES)
        write_differences(table, [PILLOW_CURVES, ANCHORS], RESULTS / "kodak_bd.csv")
    elif arguments.step == "coco":
        with FirstImages(arguments.data, COCO_IMAGES_USED) as folder:
            table = measure([*PRESETS, "avif"], folder, RESULTS / "coco.csv", COCO_QUALITIES)
        write_differences_to_avif(table, RESULTS / "coco_bd.csv")
    else:
        for page in PAGES:
            write_table(ROOT / page)


def parse() -> argparse.Namespace:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    steps = parser.add_subparsers(dest="step", required=True)
    others = steps.add_parser("rivals", help="measure other codecs on Kodak")
    others.add_argument("data", help="folder of the 24 Kodak images")
    others.add_argument("--only", nargs="+", choices=OTHER_CODECS, help="some of the other codecs")
    steps.add_parser("kodak", help="measure our presets on Kodak").add_argument("data")
    steps.add_parser("coco", help="measure our presets and AVIF on COCO").add_argument("data")
    steps.add_parser("readme", help="write the Kodak table of README.md")
    return parser.parse_args()


def measure(
    names: Sequence[str],
    data: str | Path,
    out: Path,
    qualities: Sequence[float] | Mapping[str, Sequence[float]],
) -> list[MeanResult]:
    """Measure codecs, keeping the existing rows of `out`; returns the means."""
    terminal = Console()
    with reporting(terminal) as report:
        return evaluation.evaluate(
            names,
            data,
            out,
            EvaluateOptions(qualities, METRICS, resume=True),
            progress=lambda fraction: report(fraction, out.name),
            notify=terminal.print_notice,
        ).means


def measure_other_codecs(data: str, names: Sequence[str]) -> None:
    for name in names:
        measure([name], data, RESULTS / "rivals" / f"{name}.csv", {name: PILLOW_CODECS[name].qualities})


class FirstImages(tempfile.TemporaryDirectory[str]):
    """A temporary folder of links to the first `count` images of a folder, by name."""

    def __init__(self, data: str, count: int) -> None:
        super().__init__(prefix="trifocal-")
        for path in sorted(list_pictures([data], recursive=True))[:count]:
            Path(self.name, path.name).symlink_to(path.resolve())


def write_anchors(path: Path) -> None:
    """Write the means of the other codecs, with the versions of the encoders."""
    rows = []
    for name in OTHER_CODECS:
        summary = RESULTS / "rivals" / f"{name}_summary.csv"
        for mean in evaluation.read_means(summary) if summary.exists() else ():
            values = [mean.values[evaluation.find_metric(metric).column] for metric in METRICS]
            cells = ["" if value is None else f"{value:.6f}" for value in values]
            rows.append(
                [PILLOW_CODECS[name].title, f"{mean.quality:g}", f"{mean.bpp:.6f}", *cells, source(name)]
            )
    columns = [evaluation.find_metric(metric).column for metric in METRICS]
    write_csv(path, [["codec", "quality", "bpp", *columns, "source"], *rows])


def source(name: str) -> str:
    """The command, and the versions of the encoder's packages."""
    parts = [f"Pillow {version('pillow')}"]
    if PILLOW_CODECS[name].format == "AVIF":
        parts.append(f"libavif {features.version_module('avif')}")
    if PILLOW_CODECS[name].package in ("pillow-jxl-plugin", "pillow-heif"):
        parts.append(f"{PILLOW_CODECS[name].package} {installed(PILLOW_CODECS[name].package)}")
    return f"scripts/results.py rivals; {', '.join(parts)}"


def installed(package: str) -> str:
    try:
        return version(package)
    except PackageNotFoundError:
        return "not installed"


def write_differences(table: Sequence[MeanResult], anchor_files: Sequence[Path], out: Path) -> None:
    """Write a row of BD_COLUMNS for each preset, metric and anchor. The first file that has an anchor is used."""
    rows: list[tuple[str, ...]] = []
    for metric in METRICS:
        known: dict[str, Points] = {}
        for path in anchor_files:
            known = anchor_points(path, metric) | known
        for preset in dict.fromkeys(mean.preset for mean in table):
            for anchor, points in known.items():
                rows += difference(table, preset, anchor, points, metric)
    write_rows(out, rows)


def write_differences_to_avif(table: Sequence[MeanResult], out: Path) -> None:
    rows = [
        row
        for preset in dict.fromkeys(mean.preset for mean in table if mean.preset != "avif")
        for metric in METRICS
        for row in difference(table, preset, "avif", curve_points(table, "avif", metric), metric)
    ]
    write_rows(out, rows)


def write_rows(out: Path, rows: Sequence[Sequence[str]]) -> None:
    write_csv(out, [BD_COLUMNS, *rows])
    for preset, anchor, metric, rate, low, high, _ in rows:
        print(f"{preset:20} {metric:12} {rate or 'no overlap':>8} %  {low}..{high}  against {anchor}")


def difference(
    table: Sequence[MeanResult], preset: str, anchor: str, theirs: Points, metric: str
) -> Iterator[tuple[str, ...]]:
    ours = curve_points(table, preset, metric)
    if not ours or not theirs:
        return
    delta = evaluation.bd_rate_by(metric, theirs, ours)
    low, high = ("", "") if delta.overlap is None else (f"{value:.4g}" for value in delta.overlap)
    rate = "" if delta.value is None else f"{delta.value:+.2f}"
    weights = next(mean.weights for mean in table if mean.preset == preset)
    yield preset, anchor, evaluation.find_metric(metric).column, rate, low, high, weights


def curve_points(table: Sequence[MeanResult], preset: str, metric: str) -> Points:
    column = evaluation.find_metric(metric).column
    pairs = ((mean.bpp, mean.values.get(column)) for mean in table if mean.preset == preset)
    return [(bpp, value) for bpp, value in pairs if value is not None]


def anchor_points(path: Path, metric: str) -> dict[str, Points]:
    """The points of each codec, (rate, value on the natural scale)."""
    chosen = evaluation.find_metric(metric)
    return {
        name: [(rate, chosen.natural(value)) for rate, value in zip(curve.rates, curve.values)]
        for name, curve in evaluation.anchors(metric, path).items()
    }


def write_table(path: Path) -> None:
    """Write the Kodak table between its two marks in a page."""
    text = path.read_text("utf-8")
    head, _, rest = text.partition(BEGIN)
    _, _, tail = rest.partition(END)
    with atomic_write(path) as stream:
        stream.write(
            f"{head}{BEGIN}\n{kodak_table(fingerprints=path.name != 'README.md')}{END}{tail}".encode()
        )


def kodak_table(fingerprints: bool) -> str:
    """The BD-rates against AVIF in Markdown: of the presets from kodak_bd.csv, of other codecs from their anchors."""
    avif = PILLOW_CODECS["avif"].title
    with open(RESULTS / "kodak_bd.csv", encoding="utf-8", newline="") as stream:
        ours = {
            (row["preset"], row["metric"]): row for row in csv.DictReader(stream) if row["anchor"] == avif
        }
    columns = [evaluation.find_metric(metric).column for metric in TABLE]
    lines = ["| | " + " | ".join(evaluation.find_metric(metric).title for metric in TABLE) + " |"]
    lines.append("|---" * (len(TABLE) + 1) + "|")
    for preset in PRESETS:
        cells = [percent(ours[preset, column]["bd_rate_percent"]) for column in columns]
        weights = f" ({ours[preset, columns[0]]['weights']})" if fingerprints else ""
        lines.append(f"| `{preset}`{weights} | " + " | ".join(cells) + " |")
    for name in OTHER_CODECS:
        if (title := PILLOW_CODECS[name].title) != avif and title in anchor_points(PILLOW_CURVES, "psnr"):
            lines.append(f"| {title} | " + " | ".join(against_avif(title, metric) for metric in TABLE) + " |")
    return "\n".join(lines) + "\n"


def against_avif(title: str, metric: str) -> str:
    points = anchor_points(PILLOW_CURVES, metric)
    delta = evaluation.bd_rate_by(metric, points[PILLOW_CODECS["avif"].title], points[title])
    return percent("" if delta.value is None else f"{delta.value:.2f}")


def percent(rate: str) -> str:
    return f"{float(rate):+.1f} %".replace("-", "−") if rate else "no overlap"


if __name__ == "__main__":
    try:
        main()
    except (TrifocalError, OSError) as error:
        sys.exit(str(error))
