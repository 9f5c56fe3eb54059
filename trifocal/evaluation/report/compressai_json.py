"""Read and write result files in the JSON format of CompressAI, in which published curves come.

    {"name": ..., "description": ..., "results": {"bpp": [...], "psnr-rgb": [...], "ms-ssim-rgb": [...],
    "encoding_time": [...]}}

Each list has an entry per point of the curve. Times are seconds per image. Older files have psnr and ms-ssim
without "-rgb".
"""

from __future__ import annotations

import json
import os
from collections.abc import Sequence
from pathlib import Path

from trifocal.errors import OptionError
from trifocal.evaluation.metrics.per_image import METRICS, find_metric
from trifocal.evaluation.report.curves import Curve
from trifocal.evaluation.report.results_table import MeanResult
from trifocal.utils.files import atomic_write

__all__ = ["read_compressai", "write_compressai"]

RGB_METRICS = ("psnr", "ms-ssim")  # their names end in -rgb in these files


def write_compressai(
    path: str | os.PathLike[str], name: str, description: str, means: Sequence[MeanResult]
) -> None:
    """Write the points of one codec by increasing bpp. A metric that a point lacks is left out. Raises
    OSError.
    """
    points = sorted(means, key=lambda mean: mean.bpp)
    results: dict[str, list[float]] = {"bpp": [point.bpp for point in points]}
    for metric in METRICS.values():
        values = [value for point in points if (value := point.values.get(metric.column)) is not None]
        if points and len(values) == len(points):
            results[f"{metric.name}-rgb" if metric.name in RGB_METRICS else metric.name] = values
    results["encoding_time"] = [point.encode_s for point in points]
    results["decoding_time"] = [point.decode_s for point in points]
    text = json.dumps({"name": name, "description": description, "results": results}, indent=2) + "\n"
    with atomic_write(Path(path)) as stream:
        stream.write(text.encode())


def read_compressai(path: str | os.PathLike[str]) -> dict[str, Curve]:
    """Read curves by metric, on the scale of `Metric.scaled`. Unknown metrics are skipped.

    Raises:
        OptionError: for a file of another form.
        OSError: if it cannot be read.
    """
    try:
        data = json.loads(Path(path).read_text("utf-8"))
        results = data["results"]
        rates = [float(rate) for rate in results["bpp"]]
        name = str(data.get("name") or Path(path).stem)
        curves = {}
        for key, values in results.items():
            known = key.removesuffix("-rgb")
            if known in METRICS:
                metric = find_metric(known)
                points = zip(rates, (metric.scaled(float(value)) for value in values), strict=True)
                curves[known] = Curve.of(name, points)
    except (ValueError, KeyError, TypeError, AttributeError):
        raise OptionError(
            f"{path} is no result file of CompressAI: it needs results with a list of bpp, and a list of "
            "the same length for each metric."
        ) from None
    return curves
