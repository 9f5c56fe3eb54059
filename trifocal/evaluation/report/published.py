"""Curves that were measured earlier or elsewhere, from tables and result files.

| file | from |
|---|---|
| .json | CompressAI, and each candidate of a `trifocal compare` |
| .csv with the columns codec, bpp and metrics | a table of your own |
| .csv with the columns preset, quality and bpp | `trifocal evaluate`: the rows, or their means |
"""

from __future__ import annotations

import csv
import os
from collections.abc import Sequence
from pathlib import Path

from trifocal.evaluation.metrics.per_image import find_metric
from trifocal.evaluation.report.compressai_json import read_compressai
from trifocal.evaluation.report.curves import Curve, anchors
from trifocal.evaluation.report.results_table import mean_results, read_means, read_results

__all__ = ["published_curves"]


def published_curves(metric: str, paths: Sequence[str | os.PathLike[str]]) -> list[Curve]:
    """The curves of a metric in files, see the module's docstring; values are on the scale of
    `Metric.scaled`.

    A curve from a table of `trifocal evaluate` is named after the codec and the table: "compact (kodak)".

    Raises:
        OptionError: for a file of another form.
        OSError: if it cannot be read.
    """
    return [curve for path in paths for curve in _read(metric, Path(path))]


def _read(metric: str, path: Path) -> list[Curve]:
    if path.suffix.lower() != ".csv":
        return [curve for name, curve in read_compressai(path).items() if name == metric]
    with open(path, encoding="utf-8", newline="") as stream:
        columns = next(csv.reader(stream), [])
    if {"preset", "quality", "bpp"} <= {*columns}:
        return _read_results(metric, path, has_means="pictures" in columns)
    return [*anchors(metric, path).values()]


def _read_results(metric: str, path: Path, has_means: bool) -> list[Curve]:
    """A curve for each codec and each of its weights in a table of `trifocal evaluate`."""
    chosen = find_metric(metric)
    means = read_means(path) if has_means else mean_results(read_results(path))
    weights = {
        preset: {mean.weights for mean in means if mean.preset == preset}
        for preset in dict.fromkeys(mean.preset for mean in means)
    }
    source = path.stem.removesuffix("_summary")
    points: dict[str, list[tuple[float, float]]] = {}
    for mean in means:
        value = mean.values.get(chosen.column)
        if value is not None:
            marks = [source] if len(weights[mean.preset]) == 1 else [mean.weights, source]
            curve = points.setdefault(f"{mean.preset} ({', '.join(marks)})", [])
            curve.append((mean.bpp, chosen.scaled(value)))
    return [Curve.from_points(name, pairs) for name, pairs in points.items()]
