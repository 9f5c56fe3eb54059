#!/usr/bin/env python3
"""Tables and a figure of partial files, from the results of `trifocal evaluate`.

    trifocal evaluate dual-layer-compact dual-layer-compact:objects dual-layer-compact:annotated avif jpeg \
        --data COCO_VAL --metrics psnr psnr-objects ssimulacra2-objects butteraugli-objects \
        --task detection --detector picodet.onnx --out components.csv ...
    python scripts/component_results.py components.csv --data COCO_VAL --figure components.png

Each partial file is compared with the whole file of the same quality, and with AVIF at the same bytes: the
metrics of AVIF are interpolated linearly over the logarithm of its bytes on each image. COCO_VAL is a folder
of images with COCO's instances.json in it or above it; the share of an image that its objects cover is that
of its latent positions. Results of a second detector may follow, without object metrics: they are in the
tables of average precision and in the figure.
"""

from __future__ import annotations

import argparse
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path

import numpy as np

from trifocal.codecs.components import component_at
from trifocal.data.coco import INSTANCES, find_annotations
from trifocal.evaluation import Curve, bd_rate, read_means, read_results
from trifocal.evaluation.report.results_table import ImageResult, MeanResult, summary_path
from trifocal.evaluation.tasks.detection import Annotations
from trifocal.types import LATENT_STRIDE

WHOLE = "dual-layer-compact"
PARTIAL = {f"{WHOLE}:objects": "found objects", f"{WHOLE}:annotated": "annotated objects"}
LABELS = {name: f"partial, {objects}" for name, objects in PARTIAL.items()}
LABELS |= {WHOLE: "whole", "avif": "AVIF", "jpeg": "JPEG"}
METRICS = {"psnr_objects": "PSNR", "ssimulacra2_objects": "SSIMULACRA2", "butteraugli_objects": "Butteraugli"}
TICKS = (0.1, 0.2, 0.5, 1)  # bits per pixel
COVERED = (0.25, 0.45)  # the images of the row "objects cover 35 %"

Rows = Mapping[tuple[str, str, float], ImageResult]
Avif = Mapping[str, Sequence[ImageResult]]  # the rows of each image


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("results", type=Path, nargs="+", help="CSV files of `trifocal evaluate`")
    parser.add_argument("--data", type=Path, required=True, help="the folder of the images")
    parser.add_argument("--figure", type=Path, help="a PNG to write")
    arguments = parser.parse_args()
    results = [row for path in arguments.results for row in read_results(path)]
    means = [mean for path in arguments.results for mean in read_means(summary_path(path))]
    with_objects = [row for row in results if all(row.values.get(name) is not None for name in METRICS)]
    if with_objects:
        rows = {(row.preset, row.picture, row.quality): row for row in with_objects}
        covered = covered_shares(arguments.data, {row.picture: row for row in with_objects})
        print_objects(rows, avif_rows(with_objects), covered)
    print_precision(means)
    if arguments.figure is not None:
        draw(means, arguments.figure)


def covered_shares(data: Path, images: Mapping[str, ImageResult]) -> dict[str, float]:
    """The share of each image's latent positions that annotated objects cover."""
    path = find_annotations(data, INSTANCES)
    if path is None:
        raise SystemExit(f"There is no {INSTANCES} in {data} or above it.")
    annotations = Annotations.read(path)
    shares = {}
    for name, row in images.items():
        found = annotations.scaled_boxes(name, row.height, row.width)
        boxes = [] if found is None else found[0].tolist()
        objects = [component_at("object", box, row.width, row.height) for box in boxes]
        size = -(-row.height // LATENT_STRIDE), -(-row.width // LATENT_STRIDE)
        here = np.zeros(size, np.bool_)
        for x0, y0, x1, y1 in (one.box for one in objects if one is not None):
            here[y0:y1, x0:x1] = True
        shares[name] = float(here.mean())
    return shares


def avif_rows(results: Iterable[ImageResult]) -> Avif:
    """The rows of AVIF by image."""
    rows: dict[str, list[ImageResult]] = {}
    for row in results:
        if row.preset == "avif":
            rows.setdefault(row.picture, []).append(row)
    return rows


def print_objects(rows: Rows, avif: Avif, covered: Mapping[str, float]) -> None:
    """What is inside the boxes of the objects, at the bytes of the partial file."""
    title = " | ".join(f"{name}, whole | AVIF" for name in METRICS.values())
    print(f"| components | quality | images | covered | bytes | of the whole | {title} |")
    print("|---|---:|---:|---:|---:|---:|" + "---:|" * 2 * len(METRICS))
    for preset, name in PARTIAL.items():
        for quality in sorted({quality for own, _, quality in rows if own == preset}):
            images = comparable(rows, preset, quality)
            few = [image for image in images if COVERED[0] <= covered[image] <= COVERED[1]]
            for label, chosen in ((name, images), (f"{name}, {COVERED[0]:.0%} to {COVERED[1]:.0%}", few)):
                if chosen:
                    print(object_row(rows, avif, preset, quality, chosen, label, covered))


def comparable(rows: Rows, preset: str, quality: float) -> list[str]:
    """The images of a partial preset at a quality that have a whole file too."""
    return [
        image for own, image, at in rows if (own, at) == (preset, quality) and (WHOLE, image, quality) in rows
    ]


def object_row(
    rows: Rows,
    avif: Avif,
    preset: str,
    quality: float,
    images: Sequence[str],
    label: str,
    covered: Mapping[str, float],
) -> str:
    part = [rows[preset, image, quality] for image in images]
    whole = [rows[WHOLE, image, quality] for image in images]
    size, full = (sum(row.bytes for row in found) for found in (part, whole))
    cells = []
    for metric in METRICS:
        own, of_whole = (np.mean([row.values[metric] for row in found]) for found in (part, whole))
        pairs = [
            (row.values[metric] or 0.0, avif_value(avif.get(row.picture, ()), row.bytes, metric))
            for row in part
        ]
        both = [(ours, other) for ours, other in pairs if other is not None]
        difference = np.mean([ours - other for ours, other in both]) if both else np.nan
        cells.append(f"{own:.2f}, {own - of_whole:+.2f} | {difference:+.2f} ({len(both)})")
    share = float(np.mean([covered[image] for image in images]))
    return (
        f"| {label} | {quality:g} | {len(images)} | {share:.0%} | {size:,} | {size / full:.0%} | "
        + " | ".join(cells)
        + " |"
    )


def avif_value(rows: Iterable[ImageResult], size: int, metric: str) -> float | None:
    """AVIF's value on an image at that many bytes, from its rows of the image; None outside its curve."""
    points = sorted((row.bytes, row.values[metric]) for row in rows if row.values.get(metric) is not None)
    if not points or not points[0][0] <= size <= points[-1][0]:
        return None
    sizes, values = zip(*points, strict=True)
    return float(np.interp(np.log(size), np.log(sizes), values))


def print_precision(means: Sequence[MeanResult]) -> None:
    """The average precision of a detector on decoded images, and BD-rates against AVIF and JPEG."""
    columns = sorted({name for mean in means for name in mean.values if name.startswith("ap:")})
    for column in columns:
        curves = precision_curves(means, column)
        print(f"\n{column}: BD-rate of decoded images in %, negative for fewer bits\n")
        print("| | AP | bpp | against AVIF | against JPEG |\n|---|---|---|---:|---:|")
        for name, curve in curves.items():
            shown = (bd_cell(curves, other, name) for other in ("avif", "jpeg"))
            values = " ".join(f"{value:.3f}" for value in curve.values)
            rates = " ".join(f"{rate:.3f}" for rate in curve.rates)
            print(f"| {LABELS[name]} | {values} | {rates} | {' | '.join(shown)} |")


def bd_cell(curves: Mapping[str, Curve], anchor: str, name: str) -> str:
    """The BD-rate of a curve against an anchor; empty against itself and without the anchor."""
    if anchor not in curves or anchor == name:
        return ""
    delta = bd_rate(curves[anchor], curves[name]).value
    return "no overlap" if delta is None else f"{delta:+.1f}"


def precision_curves(means: Sequence[MeanResult], column: str) -> dict[str, Curve]:
    """The AP of each codec in LABELS over bits per pixel, without points that cost more and are no better."""
    points: dict[str, list[tuple[float, float]]] = {}
    for mean in means:
        value = mean.values.get(column)
        if value is not None and mean.preset in LABELS:
            points.setdefault(mean.preset, []).append((mean.bpp, value))
    return {name: Curve.from_points(name, pairs) for name, pairs in points.items()}


def draw(means: Sequence[MeanResult], path: Path) -> None:
    """AP over bits per pixel."""
    import matplotlib

    matplotlib.use("Agg")
    from matplotlib import pyplot

    columns = sorted({name for mean in means for name in mean.values if name.startswith("ap:")})
    figure, axes = pyplot.subplots(1, len(columns), figsize=(6 * len(columns), 4.2), squeeze=False)
    for axis, column in zip(axes[0], columns, strict=True):
        for name, curve in precision_curves(means, column).items():
            colour = f"C{[*LABELS].index(name)}"
            axis.plot(curve.rates, curve.values, "o-", label=LABELS[name], markersize=4, color=colour)
        axis.set(xscale="log", xlabel="bits per pixel", ylabel=f"AP ({column.removeprefix('ap:')})")
        axis.set_xticks(TICKS, [f"{rate:g}" for rate in TICKS])
        axis.xaxis.set_minor_formatter("")
        axis.grid(alpha=0.3)
        axis.legend(frameon=False)
    figure.tight_layout()
    figure.savefig(path, dpi=120)


if __name__ == "__main__":
    main()
