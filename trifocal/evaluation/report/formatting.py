"""Numbers of a report as text; each function is a filter of its template."""

from __future__ import annotations

import math

from trifocal.evaluation.report.plots import MetricInfo, is_ms_ssim, unscaled

__all__ = ["FILTERS"]

NONE = "\N{EM DASH}"
MINUS = "\N{MINUS SIGN}"
THIN = "\N{NARROW NO-BREAK SPACE}"


def number(value: float | None, metric: MetricInfo) -> str:
    """A value with its significant digits: 34.21 for dB, 0.9874 for MS-SSIM."""
    if value is None or math.isnan(value):
        return NONE
    if math.isinf(value):
        return "∞" if value > 0 else f"{MINUS}∞"
    if is_ms_ssim(metric):
        return f"{value:.4f}"
    text = f"{value:.2f}" if metric.unit == "dB" or abs(value) >= 10 else f"{value:.4f}"
    return text.replace("-", MINUS)


def percent(value: float) -> str:
    """A percentage with its sign."""
    return f"{value:+.1f}{THIN}%".replace("-", MINUS)


def signed(value: float, metric: MetricInfo) -> str:
    """A difference of the metric with its sign, in dB for MS-SSIM too."""
    if metric.unit == "dB" or is_ms_ssim(metric):
        return f"{value:+.2f}{THIN}dB".replace("-", MINUS)
    return f"{value:+.3g}".replace("-", MINUS)


def interval(overlap: tuple[float, float], metric: MetricInfo) -> str:
    """An overlap on the metric's natural scale, the lower value first."""
    low, high = sorted(unscaled(metric, value) for value in overlap)
    digits = 3 if high <= 2 else 2 if high <= 10 else 1
    unit = f"{THIN}{metric.unit}" if metric.unit else ""
    return f"{low:.{digits}f}–{high:.{digits}f}{unit}".replace("-", MINUS)


def bd_rate_class(value: float) -> str:
    """The CSS class of a BD-rate: "less", "more", or "same" if it rounds to 0."""
    return "same" if abs(value) < 0.05 else "less" if value < 0 else "more"


def times(ratio: float | None) -> str:
    """A ratio."""
    return NONE if ratio is None else f"{three_digits(ratio)}×"


def seconds(value: float | None) -> str:
    """A time in ms or s."""
    if value is None:
        return NONE
    return f"{three_digits(1000 * value)}{THIN}ms" if value < 0.9995 else f"{three_digits(value)}{THIN}s"


def three_digits(value: float) -> str:
    """1.00, 0.222, 28.5, 1,234: timings are not more precise."""
    return f"{value:,.0f}" if value >= 99.95 else f"{value:#.3g}"


def size(count: float | None) -> str:
    """Bytes: all digits up to 100 000, then MiB or GiB."""
    if count is None:
        return NONE
    if count < 1e5:
        return f"{count:,.0f}{THIN}B"
    return f"{count / 2**20:,.1f}{THIN}MiB" if count < 2**30 else f"{count / 2**30:,.2f}{THIN}GiB"


FILTERS = (number, percent, signed, interval, times, seconds, size, bd_rate_class)
