"""Rate–distortion curves and Bjøntegaard's differences between them.

A curve is interpolated by PCHIP through (metric, log rate), as CompressAI and the field's papers do, and compared with
an anchor where both are known and nowhere else: no curve is extended past its ends.
"""

import csv
import math
import os
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from trifocal.errors import MissingExtra, OptionError
from trifocal.evaluation.metrics.per_image import metric_of

__all__ = [
    "ANCHORS",
    "MEASURED",
    "Curve",
    "Delta",
    "anchors",
    "bd_metric",
    "bd_rate",
    "bd_rate_by",
    "rate_at",
]

ANCHORS = Path(__file__).with_name("anchors_kodak.csv")  # published
MEASURED = Path(__file__).with_name(
    "anchors_measured.csv"
)  # other codecs by our metrics, by scripts/results.py
Points = Iterable[tuple[float, float]]
COLUMNS = {"psnr": "psnr_db"}  # in a table of anchors, where it is not the metric's own


@dataclass(frozen=True)
class Curve:
    """Points of a codec by increasing rate (bits per pixel, or anything else that counts) and increasing metric."""

    name: str
    rates: tuple[float, ...]
    values: tuple[float, ...]

    @classmethod
    def of(cls, name: str, points: Points) -> "Curve":
        """From (rate, value) in any order. A point that costs more and is no better than another is left out, as
        is one that is not finite. Raises OptionError for a rate that is not above 0."""
        kept: list[tuple[float, float]] = []
        for rate, value in sorted(points, key=lambda point: (point[0], -point[1])):
            if rate <= 0:
                raise OptionError(f"A rate is above 0, and {name} has {rate:g}.")
            if math.isfinite(value) and (not kept or value > kept[-1][1]):
                kept.append((rate, value))
        return cls(name, tuple(rate for rate, _ in kept), tuple(value for _, value in kept))


@dataclass(frozen=True)
class Delta:
    """A mean difference, and the interval (of the metric, or of the rate) that it was taken over; None where the
    curves do not overlap or one has fewer than two points."""

    value: float | None
    overlap: tuple[float, float] | None


def bd_rate(anchor: Curve, test: Curve, limits: tuple[float, float] | None = None) -> Delta:
    """Mean difference of the rate at equal metric in percent: -10 says that `test` needs 10 % less than `anchor`.

    The overlap is of the metric, and lies within `limits` (lowest, highest) where they are given. Raises MissingExtra.
    """
    logs = [[math.log(rate) for rate in curve.rates] for curve in (anchor, test)]
    delta = _mean_gap(anchor.values, logs[0], test.values, logs[1], limits)
    return delta if delta.value is None else Delta(100 * math.expm1(delta.value), delta.overlap)


def bd_rate_by(metric: str, anchor: Points, test: Points) -> Delta:
    """BD-rate of `test` against `anchor` by a metric of `METRICS`, with the conventions of that metric.

    Curves are interpolated on the scale of `Metric.scaled`: metrics that are better when lower (Butteraugli, FLIP, LPIPS)
    are negated, MS-SSIM is -10·log10(1 - x), others are as they are. The overlap is cut to `Metric.limits`: SSIMULACRA2
    is compared from 30 to 90 only. Points outside the limits still shape the curves.

    Args:
        metric: its name, such as "ssimulacra2".
        anchor, test: (rate, value) in any order, the rate above 0, the value as the metric measures it.

    Returns:
        The difference in percent, negative where `test` needs less, and the overlap in values of the metric, the lower
        one first; None for both where the curves have no overlap within the limits.

    Raises:
        OptionError: if there is no such metric, or a rate is not above 0.
        MissingExtra: without scipy.
    """
    chosen = metric_of(metric)
    one, other = (
        Curve.of(name, [(rate, chosen.scaled(value)) for rate, value in points])
        for name, points in (("anchor", anchor), ("test", test))
    )
    delta = bd_rate(one, other, chosen.scaled_limits)
    if delta.overlap is None:
        return delta
    low, high = sorted(map(chosen.natural, delta.overlap))
    return Delta(delta.value, (low, high))


def bd_metric(anchor: Curve, test: Curve) -> Delta:
    """Mean difference of the metric at equal rate, over the logarithm of the rate: 0.5 says that `test` is better
    by 0.5 on the scale of the curves. The overlap is of the rate. Raises MissingExtra."""
    logs = [[math.log(rate) for rate in curve.rates] for curve in (anchor, test)]
    delta = _mean_gap(logs[0], anchor.values, logs[1], test.values)
    if delta.overlap is None:
        return delta
    return Delta(delta.value, (math.exp(delta.overlap[0]), math.exp(delta.overlap[1])))


def rate_at(curve: Curve, value: float) -> float | None:
    """The rate at which a curve reaches a value, interpolated as in `bd_rate`; None where it begins above it or ends below.

    Raises MissingExtra.
    """
    if not curve.values or not curve.values[0] <= value <= curve.values[-1]:
        return None
    if len(curve.values) == 1:
        return curve.rates[0]
    logs = [math.log(rate) for rate in curve.rates]
    return math.exp(float(_interpolated(curve.values, logs)(value)))


def anchors(metric: str = "psnr", path: str | os.PathLike[str] = ANCHORS) -> dict[str, Curve]:
    """The curves of a table with the columns codec, bpp, psnr_db, ms_ssim, ..., source, by codec; those without the
    metric are left out. Values are as `Metric.scaled` makes them. Raises OptionError, OSError."""
    chosen = metric_of(metric)
    column = COLUMNS.get(chosen.name, chosen.column)
    points: dict[str, list[tuple[float, float]]] = {}
    with open(path, encoding="utf-8", newline="") as stream:
        reader = csv.DictReader(stream)
        if not {"codec", "bpp"} <= set(reader.fieldnames or ()):
            raise OptionError(
                f"{path} is no table of anchors: it needs the columns codec and bpp, and the metrics'."
            )
        for line in reader:
            cell = line.get(column) or line.get(chosen.column)
            if cell:
                value = chosen.scaled(float(cell))
                points.setdefault(line["codec"], []).append((float(line["bpp"]), value))
    return {codec: Curve.of(codec, pairs) for codec, pairs in points.items()}


def _mean_gap(
    x: Sequence[float],
    y: Sequence[float],
    other_x: Sequence[float],
    other_y: Sequence[float],
    limits: tuple[float, float] | None = None,
) -> Delta:
    """Mean of other_y - y over the x that both have, within `limits`."""
    if min(len(x), len(other_x)) < 2:
        return Delta(None, None)
    least, most = limits or (-math.inf, math.inf)
    low, high = max(x[0], other_x[0], least), min(x[-1], other_x[-1], most)
    if low >= high:
        return Delta(None, None)
    areas = [float(_interpolated(*pair).integrate(low, high)) for pair in ((x, y), (other_x, other_y))]
    return Delta((areas[1] - areas[0]) / (high - low), (low, high))


def _interpolated(x: Sequence[float], y: Sequence[float]) -> Any:
    """scipy's function through the points."""
    try:
        from scipy.interpolate import PchipInterpolator
    except ImportError:
        raise MissingExtra("evaluate", "Comparing curves") from None
    return PchipInterpolator(x, y)
