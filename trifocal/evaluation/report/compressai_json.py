"""CompressAI's result files, read and written: the form in which the field's published curves come.

    {"name": ..., "description": ..., "results": {"bpp": [...], "psnr-rgb": [...], "ms-ssim-rgb": [...], "encoding_time": [...]}}

Lists run over the points of a curve, times are seconds per picture. Its older files have psnr and ms-ssim without "-rgb".
"""

from __future__ import annotations

import json
import os
from collections.abc import Sequence
from pathlib import Path

from trifocal.errors import OptionError
from trifocal.evaluation.metrics.per_image import METRICS, metric_of
from trifocal.evaluation.report.curves import Curve, anchors
from trifocal.evaluation.report.results_table import Mean
from trifocal.utils.files import atomic_write

__all__ = ["published_curves", "read_results", "write_results"]

OF_RGB = ("psnr", "ms-ssim")  # metrics whose names end in -rgb there


def write_results(path: str | os.PathLike[str], name: str, description: str, means: Sequence[Mean]) -> None:
    """One codec's points as a result file, by increasing bpp. A metric that some point lacks is left out. Raises OSError."""
    points = sorted(means, key=lambda mean: mean.bpp)
    results: dict[str, list[float]] = {"bpp": [point.bpp for point in points]}
    for metric in METRICS.values():
        values = [value for point in points if (value := point.values.get(metric.column)) is not None]
        if points and len(values) == len(points):
            results[f"{metric.name}-rgb" if metric.name in OF_RGB else metric.name] = values
    results["encoding_time"] = [point.encode_s for point in points]
    results["decoding_time"] = [point.decode_s for point in points]
    text = json.dumps({"name": name, "description": description, "results": results}, indent=2) + "\n"
    with atomic_write(Path(path)) as stream:
        stream.write(text.encode())


def read_results(path: str | os.PathLike[str]) -> dict[str, Curve]:
    """A result file's curves by metric, on the scale of comparison (`Metric.scaled`). What is no metric of ours is passed
    over. Raises OptionError where it is no result file, OSError."""
    try:
        data = json.loads(Path(path).read_text("utf-8"))
        results = data["results"]
        rates = [float(rate) for rate in results["bpp"]]
        name = str(data.get("name") or Path(path).stem)
        curves = {}
        for key, values in results.items():
            known = key.removesuffix("-rgb")
            if known in METRICS:
                metric = metric_of(known)
                points = zip(rates, (metric.scaled(float(value)) for value in values), strict=True)
                curves[known] = Curve.of(name, points)
    except (ValueError, KeyError, TypeError, AttributeError):
        raise OptionError(
            f"{path} is no result file of CompressAI's: it needs results, with a list of bpp and one as long for each metric."
        ) from None
    return curves


def published_curves(metric: str, paths: Sequence[str | os.PathLike[str]]) -> list[Curve]:
    """The curves of a metric in CompressAI's .json files and in .csv tables as `anchors` reads them. Raises OptionError, OSError."""
    curves: list[Curve] = []
    for path in paths:
        if Path(path).suffix.lower() == ".csv":
            curves += anchors(metric, path).values()
        else:
            curves += [curve for name, curve in read_results(path).items() if name == metric]
    return curves
