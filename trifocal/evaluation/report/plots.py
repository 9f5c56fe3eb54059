"""Rate–distortion plots as PNG files, for a light and a dark page."""

from __future__ import annotations

import io
import math
import textwrap
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Literal

import numpy as np

from trifocal.detection.detections import Floats
from trifocal.errors import MissingExtra
from trifocal.evaluation.report.curves import Curve

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

__all__ = ["DARK", "LIGHT", "MetricInfo", "PlotLine", "Theme", "draw", "is_ms_ssim", "plot_lines", "unscaled"]

DOTS = 220  # pixels per inch; the page shows half of them or fewer
WIDTH, AXES = 5.0, 3.0  # inches: the figure, and the height of the axes
LEFT, RIGHT, ABOVE, BELOW = 0.56, 0.08, 0.62, 0.52
ROW = 0.19  # inches of a line of the legend
NAME_LENGTH = 28  # characters of a line of the legend
LOG_SCALE_RATIO = 6.0  # of the largest and smallest rate, from which the axis is logarithmic

Role = Literal["own", "other", "published"]
MARKERS = ("o", "s", "D", "^", "v", "P", "X")
DASHES = ((5, 2), (1.5, 1.5), (7, 2, 1.5, 2), (3, 1.5), (10, 3), (4, 1.5, 1, 1.5, 1, 1.5))


@dataclass(frozen=True)
class MetricInfo:
    """The labels of a metric's axis; `unit` may be empty."""

    name: str
    title: str
    unit: str
    better: Literal["higher", "lower"]


@dataclass(frozen=True)
class PlotLine:
    """A curve with its role, and its number among the curves of that role, which selects the colour and
    marker.
    """

    curve: Curve
    role: Role
    number: int


@dataclass(frozen=True)
class Theme:
    """Colours. Those of measured curves differ by at least 20 in CIELAB for all types of colour vision
    (simulated as by Machado et al. 2009); all curves have a contrast of at least 3 to the background."""

    name: str
    paper: str
    ink: str
    quiet: str
    line: str
    own: tuple[str, ...]
    other: tuple[str, ...]
    published: tuple[str, ...]

    def colour(self, line: PlotLine) -> str:
        colours = {"own": self.own, "other": self.other, "published": self.published}[line.role]
        return colours[line.number % len(colours)]


LIGHT = Theme(
    "light",
    paper="#ffffff",
    ink="#1b2026",
    quiet="#57616b",
    line="#e3e7eb",
    own=("#0066b8", "#cc4a00", "#690f78"),
    other=("#0fa55a", "#b478a5", "#4b3c00", "#965aff", "#87003c"),
    published=("#3d454d", "#7b858e", "#5c5346", "#8a7f70"),
)
DARK = Theme(
    "dark",
    paper="#14171b",
    ink="#e7eaed",
    quiet="#9ba6b0",
    line="#2b3138",
    own=("#5fb2ff", "#ff8d52", "#e100b4"),
    other=("#c3d200", "#ffb4d2", "#87693c", "#785aff", "#007869"),
    published=("#c3cad1", "#8b959f", "#b3a794", "#968a78"),
)


def plot_lines(
    measured: Mapping[str, Iterable[Curve]],
    published: Mapping[str, Iterable[Curve]],
    is_highlighted: Callable[[str], bool],
) -> dict[str, list[PlotLine]]:
    """The lines of each metric: own curves first, published ones last, without empty curves.

    A codec has the same number, and so the same colour, in all plots.
    """
    lines: dict[str, list[PlotLine]] = {}
    numbers: dict[Role, list[str]] = {"own": [], "other": [], "published": []}
    for role, names in numbers.items():
        for metric, curves in (published if role == "published" else measured).items():
            for curve in curves:
                if not curve.rates or (role != "published" and is_highlighted(curve.name) != (role == "own")):
                    continue
                if curve.name not in names:
                    names.append(curve.name)
                lines.setdefault(metric, []).append(PlotLine(curve, role, names.index(curve.name)))
    return lines


def draw(metric: MetricInfo, lines: Sequence[PlotLine], theme: Theme) -> bytes:
    """Draw a PNG file, 1100 pixels wide; up is always better.

    The axes show all measured curves, and published curves at the same rates.

    Args:
        lines: values on the metric's natural scale (MS-SSIM 0..1).

    Raises:
        MissingExtra: without matplotlib.
    """
    try:
        from matplotlib.backends.backend_agg import FigureCanvasAgg
        from matplotlib.figure import Figure
    except ImportError:
        raise MissingExtra("evaluate", "Drawing curves") from None
    columns = [
        ("Measured here", [line for line in lines if line.role != "published"]),
        ("Published", [line for line in lines if line.role == "published"]),
    ]
    columns = [(title, members) for title, members in columns if members]
    rows = max((sum(len(wrapped_name(line)) for line in members) for _, members in columns), default=0)
    height = ABOVE + AXES + BELOW + ROW * (rows + 1.6)
    figure = Figure(figsize=(WIDTH, height), dpi=DOTS, facecolor=theme.paper)
    canvas = FigureCanvasAgg(figure)
    box = (LEFT / WIDTH, 1 - (ABOVE + AXES) / height, 1 - (LEFT + RIGHT) / WIDTH, AXES / height)
    axes = figure.add_axes(box, facecolor=theme.paper)
    draw_lines(axes, metric, lines, theme)
    draw_frame(axes, theme)
    add_text(figure, 0, height - 0.2, metric_title(metric), theme.ink, size=12, weight="bold")
    add_text(figure, 0, height - 0.42, direction(metric), theme.quiet, size=8.5)
    for number, (title, members) in enumerate(columns):
        draw_legend(figure, title, members, theme, number * WIDTH / 2, height - ABOVE - AXES - BELOW - 0.1)
    stream = io.BytesIO()
    canvas.print_png(stream, metadata={"Software": None})
    return stream.getvalue()


def draw_lines(axes: Axes, metric: MetricInfo, lines: Sequence[PlotLine], theme: Theme) -> None:
    """Draw the curves, and set the limits and ticks of the axes."""
    from matplotlib.ticker import FixedLocator, FuncFormatter, MaxNLocator

    points = [(line, *plottable_points(metric, line.curve)) for line in lines]
    for line, rates, values in points:
        axes.plot(rates, values, **line_style(line, theme))
    measured = [rates for line, rates, _ in points if line.role != "published" and rates.size]
    low, high = rate_limits(np.concatenate(measured or [rates for _, rates, _ in points]))
    logarithmic = high / low >= LOG_SCALE_RATIO
    if logarithmic:
        axes.set_xscale("log")
        axes.xaxis.set_major_locator(FixedLocator([tick for tick in round_rates() if low <= tick <= high]))
        axes.xaxis.set_minor_locator(FixedLocator([]))
    axes.xaxis.set_major_formatter(FuncFormatter(lambda rate, _: f"{rate:g}"))
    edge = (high / low) ** 0.04 if logarithmic else 1 + 0.04 * (high - low) / low
    low, high = (low / edge if logarithmic else max(0.0, 2 * low - low * edge)), high * edge
    axes.set_xlim(low, high)
    axes.set_xlabel("bits per pixel" + (" (logarithmic)" if logarithmic else ""), loc="right")
    bottom, top = value_limits([(rates, values) for _, rates, values in points], low, high)
    axes.set_ylim(*((bottom, top) if metric.better == "higher" or is_ms_ssim(metric) else (top, bottom)))
    if is_ms_ssim(metric):
        ticks = ms_ssim_ticks(bottom, top)
        axes.set_yticks([decibels(tick) for tick in ticks], [f"{tick:.6g}" for tick in ticks])
    else:
        axes.yaxis.set_major_locator(MaxNLocator(7, steps=[1, 2, 2.5, 5, 10]))


def draw_frame(axes: Axes, theme: Theme) -> None:
    axes.grid(True, color=theme.line, linewidth=0.7)
    axes.set_axisbelow(True)
    for side in ("left", "right", "top"):
        axes.spines[side].set_visible(False)
    axes.spines["bottom"].set_color(theme.quiet)
    axes.tick_params(axis="both", colors=theme.quiet, labelsize=9, length=0, pad=5)
    axes.xaxis.label.set(color=theme.quiet, size=9)


def draw_legend(
    figure: Figure, title: str, lines: Sequence[PlotLine], theme: Theme, left: float, top: float
) -> None:
    """A legend below the axes; `left` and `top` are inches from the bottom left of the figure."""
    from matplotlib.lines import Line2D

    width, height = figure.get_size_inches()
    legend = figure.legend(
        [Line2D([], [], **line_style(line, theme)) for line in lines],
        ["\n".join(wrapped_name(line)) for line in lines],
        title=title,
        loc="upper left",
        bbox_to_anchor=(left / width, top / height),
        alignment="left",
        frameon=False,
        borderpad=0,
        borderaxespad=0,
        labelspacing=0.35,
        fontsize=9,
        title_fontsize=8.5,
        labelcolor=theme.ink,
    )
    legend.get_title().set_color(theme.quiet)
    for line, text in zip(lines, legend.get_texts(), strict=True):
        text.set_parse_math(False)  # a dollar sign in a name does not start a formula
        text.set_fontweight("bold" if line.role == "own" else "normal")


def add_text(
    figure: Figure, x: float, y: float, text: str, colour: str, size: float, weight: str = "normal"
) -> None:
    """Text at inches from the bottom left, vertically centred; dollar signs do not start formulas."""
    width, height = figure.get_size_inches()
    figure.text(
        x / width,
        y / height,
        text,
        color=colour,
        size=size,
        weight=weight,
        va="center_baseline",
        parse_math=False,
    )


def line_style(line: PlotLine, theme: Theme) -> dict[str, Any]:
    """The keyword arguments of matplotlib's `plot`."""
    colour = theme.colour(line)
    if line.role == "published":
        dashes = (0, DASHES[line.number % len(DASHES)])
        return {"color": colour, "linewidth": 1.1, "linestyle": dashes, "zorder": 2}
    own = line.role == "own"
    return {
        "color": colour,
        "linewidth": 2.3 if own else 1.4,
        "marker": MARKERS[line.number % len(MARKERS)],
        "markersize": 5.5 if own else 5.0,
        "markerfacecolor": colour if own else theme.paper,
        "markeredgecolor": theme.paper if own else colour,
        "markeredgewidth": 0.8 if own else 1.2,
        "zorder": 4 if own else 3,
    }


def wrapped_name(line: PlotLine) -> list[str]:
    return textwrap.wrap(line.curve.name, NAME_LENGTH, break_on_hyphens=False) or ["(no name)"]


def metric_title(metric: MetricInfo) -> str:
    return f"{metric.title}, {metric.unit}" if metric.unit else metric.title


def direction(metric: MetricInfo) -> str:
    """Which values are better, and how the axis is transformed."""
    if is_ms_ssim(metric):
        return "higher is better; on the scale of −10·log₁₀(1 − x)"
    return "higher is better" if metric.better == "higher" else "lower is better; the axis is inverted"


def is_ms_ssim(metric: MetricInfo) -> bool:
    """Whether the metric is MS-SSIM, which is plotted and compared in dB."""
    return metric.name.replace("-", "_") == "ms_ssim"


def decibels(value: float) -> float:
    return -10 * math.log10(1 - value) if value < 1 else math.inf


def unscaled(metric: MetricInfo, value: float) -> float:
    """Convert a value to the metric's natural scale if it is on that of `Metric.scaled`.

    The scale follows from the value: no natural MS-SSIM is above 1, and no natural lower-is-better metric
    is below 0.
    """
    if is_ms_ssim(metric):
        return 1 - 10 ** (-value / 10) if value > 1 else value
    return -value if metric.better == "lower" and value < 0 else value


def plottable_points(metric: MetricInfo, curve: Curve) -> tuple[Floats, Floats]:
    """Rates and values on the scale of the axis, float [n] each, without infinite ones (an MS-SSIM of 1)."""
    values = [decibels(value) if is_ms_ssim(metric) else value for value in curve.values]
    pairs = [(rate, value) for rate, value in zip(curve.rates, values) if math.isfinite(value) and rate > 0]
    rates, finite = np.array(sorted(pairs), dtype=float).reshape(-1, 2).T
    return rates, finite


def rate_limits(rates: Floats) -> tuple[float, float]:
    """The smallest and largest rate; two different values even for one point or none."""
    if not rates.size:
        return 0.1, 1.0
    low, high = float(rates.min()), float(rates.max())
    return (low, high) if low < high else (low / 1.5, high * 1.5)


def value_limits(points: Iterable[tuple[Floats, Floats]], low: float, high: float) -> tuple[float, float]:
    """The range of the values between two rates, with a margin."""
    visible: list[float] = []
    for rates, values in points:
        visible += values[(rates >= low) & (rates <= high)].tolist()
        if rates.size:
            edges = [edge for edge in (low, high) if rates[0] <= edge <= rates[-1]]
            visible += np.interp(edges, rates, values).tolist()
    bottom, top = min(visible, default=0.0), max(visible, default=1.0)
    edge = 0.05 * (top - bottom) or 0.5
    return bottom - edge, top + edge


def round_rates() -> list[float]:
    return [digit * 10.0**power for power in range(-3, 3) for digit in (1, 2, 5)]


def ms_ssim_ticks(bottom: float, top: float) -> list[float]:
    """Round natural values (0.9, 0.95, 0.98, 0.99, ...) between two values in dB."""
    from matplotlib.ticker import MaxNLocator

    ticks = [0.0] + [round(1 - digit * 10.0**-power, 7) for power in range(1, 7) for digit in (5, 2, 1)]
    ticks = [tick for tick in ticks if bottom <= decibels(tick) <= top]
    if len(ticks) > 2:
        return ticks
    natural = [1 - 10 ** (-edge / 10) for edge in (bottom, top)]
    even = MaxNLocator(5).tick_values(*natural)
    return [round(float(tick), 9) for tick in even if natural[0] <= tick <= natural[1]]
