#!/usr/bin/env python3
"""The command behind results/kodak*.csv: presets on the 24 Kodak pictures, from real files, against the anchors.

    python scripts/kodak_results.py KODAK_FOLDER [--presets compact dual-layer-compact] [--resume]

Writes kodak.csv (a row per picture and quality), kodak_summary.csv (means over pictures) and kodak_bd.csv (mean
differences to each anchor of trifocal/evaluation/anchors_kodak.csv), and prints the last two.
"""

import argparse
import csv
import sys
from collections.abc import Iterator, Sequence
from pathlib import Path

from trifocal import evaluation
from trifocal.console import Desk, reporting
from trifocal.errors import TrifocalError
from trifocal.evaluation import Curve, Mean
from trifocal.presets import DEFAULT

QUALITIES = [float(quality) for quality in range(0, 101, 10)]
METRICS = ("psnr", "ms-ssim", "ssimulacra2")
ANCHORED = ("psnr", "ms-ssim")  # that the anchors have
PICTURES = 24  # that the anchors are means over
BD_COLUMNS = (
    "preset",
    "anchor",
    "metric",
    "bd_rate_percent",
    "bd_metric_db",
    "overlap_low_db",
    "overlap_high_db",
)
RESULTS = Path(__file__).resolve().parent.parent / "results"


def main() -> None:
    arguments = parse()
    out = arguments.out
    desk = Desk()
    with reporting(desk) as report_progress:
        table = evaluation.evaluate(
            arguments.presets,
            arguments.folder,
            out / "kodak.csv",
            QUALITIES,
            arguments.resume,
            METRICS,
            progress=lambda fraction: report_progress(fraction, "kodak.csv"),
            note=desk.note,
        ).means
    whole = all(mean.pictures == PICTURES for mean in table)
    differences = [row for preset in arguments.presets for row in compare(preset, table)] if whole else []
    with open(out / "kodak_bd.csv", "w", encoding="utf-8", newline="") as stream:
        csv.writer(stream, lineterminator="\n").writerows([BD_COLUMNS, *differences])
    report(table, differences)


def parse() -> argparse.Namespace:
    parser = argparse.ArgumentParser(
        description="Measures presets on Kodak and compares them with the anchors."
    )
    parser.add_argument("folder", help="the folder of the 24 pictures")
    parser.add_argument("--presets", nargs="+", default=["compact", DEFAULT])
    parser.add_argument("--out", type=Path, default=RESULTS, help="the folder of the three tables")
    parser.add_argument("--resume", action="store_true", help="keep the rows that are there")
    return parser.parse_args()


def compare(preset: str, table: Sequence[Mean]) -> Iterator[tuple[str, ...]]:
    """A row of BD_COLUMNS per metric and anchor; figures are empty where the curves do not overlap."""
    for metric in map(evaluation.metric_of, ANCHORED):
        points = [(mean.bpp, mean.values.get(metric.column)) for mean in table if mean.preset == preset]
        ours = Curve.of(preset, [(bpp, metric.scaled(value)) for bpp, value in points if value is not None])
        for name, anchor in evaluation.anchors(metric.name).items():
            rate, gain = evaluation.bd_rate(anchor, ours), evaluation.bd_metric(anchor, ours)
            overlap = rate.overlap or (None, None)
            yield preset, name, metric.column, *map(figure, (rate.value, gain.value, *overlap))


def figure(value: float | None) -> str:
    return "" if value is None else f"{value:.3f}"


def report(table: Sequence[Mean], differences: Sequence[Sequence[str]]) -> None:
    print(
        f"{'preset':20} quality     bpp  encode  decode  "
        + "  ".join(evaluation.metric_of(name).title for name in METRICS)
    )
    for mean in table:
        times = f"{mean.encode_s:.2f} s  {mean.decode_s:.2f} s"
        values = ["" if value is None else f"{value:.4f}" for value in mean.values.values()]
        print(f"{mean.preset:20} {mean.quality:7g}  {mean.bpp:6.4f}  {times}  {'  '.join(values)}")
    if not differences:
        print(f"The anchors are means over {PICTURES} pictures: with fewer there is nothing to compare.")
    for preset, anchor, metric, rate, gain, low, high in differences:
        where = (
            f"{float(rate):+7.2f} %  {float(gain):+6.2f} dB  over {low}..{high} dB" if rate else "no overlap"
        )
        print(f"{preset:20} {metric:8} against {anchor:36} {where}")


if __name__ == "__main__":
    try:
        main()
    except (TrifocalError, OSError) as error:
        sys.exit(str(error))
