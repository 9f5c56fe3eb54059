"""Rate–distortion curves and Bjøntegaard differences between them.

Curves are interpolated by PCHIP through (metric, log rate), as CompressAI and recent papers do. Two curves
are compared over their overlap only; no curve is extrapolated.
"""

import csv
import math
import os
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from trifocal.errors import MissingExtra, OptionError
from trifocal.evaluation.metrics.per_image import find_metric

__all__ = [
    "ANCHORS",
    "PILLOW_CURVES",
    "BjontegaardDelta",
    "Curve",
    "anchors",
    "bd_metric",
    "bd_rate",
    "bd_rate_by",
    "rate_at",
]

ANCHORS = Path(__file__).with_name("anchors_kodak.csv")  # published curves
PILLOW_CURVES = Path(__file__).with_name("anchors_measured.csv")  # measured by scripts/results.py
Points = Iterable[tuple[float, float]]
COLUMNS = {"psnr": "psnr_db"}  # in a table of anchors, where it differs from Metric.column


@dataclass(frozen=True)
class Curve:
    """Points of a codec by increasing rate (such as bits per pixel) and increasing metric."""

    name: str
    rates: tuple[float, ...]
    values: tuple[float, ...]

    @classmethod
    def from_points(cls, name: str, points: Points) -> "Curve":
        """Sort (rate, value) points, and drop those that are not finite, or cost more than another and are no
        better.

        Raises:
            OptionError: for a rate that is not above 0.
        """
        kept: list[tuple[float, float]] = []
        for rate, value in sorted(points, key=lambda point: (point[0], -point[1])):
            if rate <= 0:
                raise OptionError(f"A rate must be above 0; {name} has {rate:g}.")
            if math.isfinite(value) and (not kept or value > kept[-1][1]):
                kept.append((rate, value))
        return cls(name, tuple(rate for rate, _ in kept), tuple(value for _, value in kept))


@dataclass(frozen=True)
class BjontegaardDelta:
    """A Bjøntegaard difference.

    Attributes:
        value: the mean difference; None if the curves do not overlap, or one has fewer than two points.
        overlap: the interval of the metric, or of the rate, that the mean covers.
    """

    value: float | None
    overlap: tuple[float, float] | None


def bd_rate(anchor: Curve, test: Curve, limits: tuple[float, float] | None = None) -> BjontegaardDelta:
    """The mean difference of the rate at equal metric, in percent: -10 means that `test` needs 10 % fewer
    bits.

    Args:
        limits: the lowest and highest value of the metric that the mean covers.

    Raises:
        MissingExtra: without scipy.
    """
    logs = [[math.log(rate) for rate in curve.rates] for curve in (anchor, test)]
    delta = _mean_difference(anchor.values, logs[0], test.values, logs[1], limits)
    return delta if delta.value is None else BjontegaardDelta(100 * math.expm1(delta.value), delta.overlap)


def bd_rate_by(metric: str, anchor: Points, test: Points) -> BjontegaardDelta:
    """The BD-rate of `test` against `anchor` by a metric of `METRICS`, with the conventions of that metric.

    Curves are interpolated on the scale of `Metric.scaled`: metrics that are better when lower (Butteraugli,
    FLIP, LPIPS) are negated, MS-SSIM is -10·log10(1 - x), others are unchanged. The overlap is
    limited to `Metric.limits`: SSIMULACRA2 is compared from 30 to 90. Points outside the limits still
    affect the curves.

    Args:
        metric: its name, such as "ssimulacra2".
        anchor, test: (rate, value) in any order, the rate above 0, the value on the metric's natural scale.

    Returns:
        The difference in percent, negative if `test` needs fewer bits, and the overlap on the metric's
        natural scale, the lower value first; None for both if the curves do not overlap within the limits.

    Raises:
        OptionError: for an unknown metric, or a rate that is not above 0.
        MissingExtra: without scipy.
    """
    chosen = find_metric(metric)
    one, other = (
        Curve.from_points(name, [(rate, chosen.scaled(value)) for rate, value in points])
        for name, points in (("anchor", anchor), ("test", test))
    )
    delta = bd_rate(one, other, chosen.scaled_limits)
    if delta.overlap is None:
        return delta
    low, high = sorted(map(chosen.natural, delta.overlap))
    return BjontegaardDelta(delta.value, (low, high))


def bd_metric(anchor: Curve, test: Curve) -> BjontegaardDelta:
    """The mean difference of the metric at equal rate, over the logarithm of the rate.

    0.5 means that `test` is better by 0.5 on the scale of the curves. The overlap is an interval of the rate.

    Raises:
        MissingExtra: without scipy.
    """
    logs = [[math.log(rate) for rate in curve.rates] for curve in (anchor, test)]
    delta = _mean_difference(logs[0], anchor.values, logs[1], test.values)
    if delta.overlap is None:
        return delta
    return BjontegaardDelta(delta.value, (math.exp(delta.overlap[0]), math.exp(delta.overlap[1])))


def rate_at(curve: Curve, value: float) -> float | None:
    """The rate at which a curve reaches a value, interpolated as in `bd_rate`; None outside the curve.

    Raises MissingExtra.
    """
    if not curve.values or not curve.values[0] <= value <= curve.values[-1]:
        return None
    if len(curve.values) == 1:
        return curve.rates[0]
    logs = [math.log(rate) for rate in curve.rates]
    return math.exp(float(_interpolate(curve.values, logs)(value)))


def anchors(metric: str = "psnr", path: str | os.PathLike[str] = ANCHORS) -> dict[str, Curve]:
    """Read curves by codec from a CSV file with the columns codec, bpp, and the metrics'.

    Codecs without the metric are left out. Values are on the scale of `Metric.scaled`.

    Raises:
        OptionError: for an unknown metric, or a file without the columns codec and bpp.
        OSError: if it cannot be read.
    """
    chosen = find_metric(metric)
    column = COLUMNS.get(chosen.name, chosen.column)
    points: dict[str, list[tuple[float, float]]] = {}
    with open(path, encoding="utf-8", newline="") as stream:
        reader = csv.DictReader(stream)
        if not {"codec", "bpp"} <= set(reader.fieldnames or ()):
            raise OptionError(
                f"{path} is not a table of curves: it needs the columns codec and bpp, and those of metrics."
            )
        for line in reader:
            cell = line.get(column) or line.get(chosen.column)
            if cell:
                value = chosen.scaled(float(cell))
                points.setdefault(line["codec"], []).append((float(line["bpp"]), value))
    return {codec: Curve.from_points(codec, pairs) for codec, pairs in points.items()}


def _mean_difference(
    x: Sequence[float],
    y: Sequence[float],
    other_x: Sequence[float],
    other_y: Sequence[float],
    limits: tuple[float, float] | None = None,
) -> BjontegaardDelta:
    """The mean of other_y - y over the overlap of x and other_x, within `limits`."""
    if min(len(x), len(other_x)) < 2:
        return BjontegaardDelta(None, None)
    minimum, maximum = limits or (-math.inf, math.inf)
    low, high = max(x[0], other_x[0], minimum), min(x[-1], other_x[-1], maximum)
    if low >= high:
        return BjontegaardDelta(None, None)
    areas = [float(_interpolate(*pair).integrate(low, high)) for pair in ((x, y), (other_x, other_y))]
    return BjontegaardDelta((areas[1] - areas[0]) / (high - low), (low, high))


def _interpolate(x: Sequence[float], y: Sequence[float]) -> Any:
    """The PCHIP interpolator through the points."""
    try:
        from scipy.interpolate import PchipInterpolator
    except ImportError:
        raise MissingExtra("evaluate", "Comparing curves") from None
    return PchipInterpolator(x, y)
