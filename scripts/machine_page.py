#!/usr/bin/env python3
"""Write results/machine.md from the tables of scripts/machine_results.py.

    python scripts/machine_page.py [FOLDER]

Sections without a table are left out. All codecs of a table are compared.
"""

import csv
import sys
from collections.abc import Iterable, Iterator, Mapping, Sequence
from pathlib import Path

from trifocal.errors import TrifocalError
from trifocal.evaluation import (
    Curve,
    MeanResult,
    bd_metric,
    bd_rate,
    find_metric,
    parse_variant,
    rate_at,
    read_means,
)
from trifocal.evaluation.candidates.pillow_codecs import LOSSLESS
from trifocal.evaluation.report.results_table import summary_path
from trifocal.evaluation.tasks.task import DETECTOR_LABELS
from trifocal.utils.files import atomic_write

RESULTS = Path(__file__).resolve().parent.parent / "results"
LAYERS, CERTAINTY, DECODED, OWN_DECODED, TIMES = (
    f"machine_{name}.csv" for name in ("coco", "certainty", "decoded", "own", "times")
)
BASE = ":base"
LOSSES = (0.01, 0.02, 0.03, 0.05)  # of AP against the originals
MIN_POINTS = 3  # of a curve that is compared
REFERENCE = "decode, then detect"  # ratios of times are to this one
NONE = "—"

Table = list[list[str]]
Rows = Sequence[Mapping[str, str]]


def main() -> None:
    print(write_page(Path(sys.argv[1]) if len(sys.argv) > 1 else RESULTS))


def write_page(folder: Path) -> str:
    """Write and return the page.

    Raises:
        OptionError: for a table of another form.
        OSError: if there is no table of the base layer.
    """
    layers = read_means(summary_path(folder / LAYERS))
    base = next(mean.preset for mean in layers if mean.preset.endswith(BASE))
    preset = base.removesuffix(BASE)
    certain, times = (read_rows(folder / name) for name in (CERTAINTY, TIMES))
    sections = [layer_section(base, detector_name(layers), layers)]
    if certain:
        sections.append(certainty_section(certain))
    for name, section in ((DECODED, decoded_section), (OWN_DECODED, own_section)):
        if (path := summary_path(folder / name)).exists():
            means = read_means(path)
            sections.append(section(preset, detector_name(means), means))
    if times:
        sections.append(time_section(times))
    page = "\n\n".join([f"# Machine vision: {preset}", *sections]) + "\n"
    with atomic_write(folder / "machine.md") as stream:
        stream.write(page.encode())
    return page


def read_rows(table: Path) -> Rows:
    """The rows of a table; empty if there is no such file."""
    if not table.exists():
        return []
    with table.open(encoding="utf-8", newline="") as stream:
        return list(csv.DictReader(stream))


def detector_name(means: Sequence[MeanResult]) -> str:
    """The detector of the AP columns."""
    return next(
        name for mean in means for column in mean.values if (name := column.removeprefix("ap:")) != column
    )


def layer_section(base: str, detector: str, means: Sequence[MeanResult]) -> str:
    column = f"ap:{detector}"
    whole = original_ap(means, column)
    curves = codec_curves(means, column)
    pictures = max(mean.pictures for mean in means)
    title = "the bundled detector" if detector == "compact" else detector
    return "\n\n".join(
        [
            f"## AP of {title} against bits: {pictures} images, {whole:.3f} on the originals",
            headline(base, curves, whole),
            "### Bits per pixel for an AP, and the ratio to the base layer's",
            grid(equal_precision(base, curves, whole)),
            "### The base layer against each codec, where the curves overlap",
            grid(differences(base, curves)),
            "### All points",
            grid(all_points(means, column, f"ap50:{detector}")),
        ]
    )


def original_ap(means: Iterable[MeanResult], column: str) -> float:
    """The AP on the originals."""
    return next(value for m in means if m.preset == LOSSLESS and (value := m.values.get(column)) is not None)


def headline(base: str, curves: Mapping[str, Curve], whole: float) -> str:
    """The rates at which the base layer and AVIF lose one AP point."""
    ours, theirs = (rate_for(curves.get(name), whole - 0.01) for name in (base, "avif"))
    if ours is None:
        best = max(curves[base].values, default=0) if base in curves else 0
        return f"The base layer does not come within one AP point of {whole:.3f}: its best is {best:.3f}."
    said = f"The base layer is within one AP point of {whole:.3f} at {ours:.4f} bpp"
    if theirs is None:
        return f"{said}, AVIF at none of the measured qualities."
    return f"{said}, AVIF at {theirs:.4f} bpp, {theirs / ours:.1f} times as many."


def rate_for(curve: Curve | None, value: float) -> float | None:
    """The rate at which a curve reaches a value: its lowest rate if it begins above, None if it stays
    below.
    """
    if curve is None or not curve.values:
        return None
    return rate_at(curve, max(value, curve.values[0]))


def equal_precision(base: str, curves: Mapping[str, Curve], whole: float) -> Table:
    goals = [whole - loss for loss in LOSSES]
    rows = [["", *(f"AP {goal:.3f} (−{loss:.2f})" for goal, loss in zip(goals, LOSSES))]]
    ours = [rate_for(curves.get(base), goal) for goal in goals]
    for name, curve in curves.items():
        cells = []
        for goal, own in zip(goals, ours):
            rate = rate_for(curve, goal)
            under = "≤ " if rate is not None and curve.values[0] >= goal else ""
            ratio = f" ({rate / own:.2f}×)" if rate is not None and own is not None and name != base else ""
            cells.append("not reached" if rate is None else f"{under}{rate:.4f}{ratio}")
        rows.append([codec_title(name), *cells])
    return rows


def differences(base: str, curves: Mapping[str, Curve]) -> Table:
    return [["against", "bits at equal AP", "AP at equal bits"], *against_each(base, curves)]


def against_each(ours: str, curves: Mapping[str, Curve]) -> Iterator[list[str]]:
    """Title, BD-rate, and difference at equal bits, of `ours` against each other codec."""
    for name, curve in curves.items():
        if name != ours and ours in curves and len(curve.values) >= MIN_POINTS:
            rate, gain = bd_rate(curve, curves[ours]).value, bd_metric(curve, curves[ours]).value
            yield [codec_title(name), signed(rate, "+.1f", " %"), signed(gain, "+.4f")]


def all_points(means: Sequence[MeanResult], *columns: str) -> Table:
    rows = [["", "quality", "bpp", *columns]]
    for mean in means:
        values = (mean.values.get(column) for column in columns)
        weights = f" ({mean.weights})" if mean.weights else ""
        rows.append(
            [
                codec_title(mean.preset) + weights,
                f"{mean.quality:g}",
                f"{mean.bpp:.4f}",
                *(signed(v, ".4f") for v in values),
            ]
        )
    return rows


def codec_curves(means: Iterable[MeanResult], column: str) -> dict[str, Curve]:
    """The curve of each codec for a column; metrics are on the scale of `Metric.scaled`."""
    scaled = find_metric(column.replace("_", "-")).scaled if ":" not in column else float
    points: dict[str, list[tuple[float, float]]] = {}
    for mean in means:
        value = mean.values.get(column)
        if mean.preset != LOSSLESS and value is not None:
            points.setdefault(mean.preset, []).append((mean.bpp, scaled(value)))
    return {name: Curve.from_points(name, pairs) for name, pairs in points.items()}


def certainty_section(rows: Rows) -> str:
    cells = [["", "quality", "AP", "standard error", "loss against the originals", "standard error"]]
    for row in rows:
        loss = (NONE, NONE) if row["preset"] == LOSSLESS else (row["loss"], row["loss_error"])
        values = [value.replace("-", "−") for value in (row["ap"], row["ap_error"], *loss)]
        cells.append([codec_title(row["preset"]), row["quality"], *values])
    draws = rows[0]["draws"]
    return (
        f"### Standard errors: {draws} bootstrap samples of the images, the same for all "
        f"rows\n\n{grid(cells)}"
    )


def decoded_section(preset: str, detector: str, means: Sequence[MeanResult]) -> str:
    columns = ("psnr", "ms_ssim", f"ap:{detector}")
    whole = original_ap(means, columns[-1])
    return "\n\n".join(
        [
            f"## Decoded images, both layers counted: AP of {detector}, {whole:.3f} on the originals",
            f"### {codec_title(preset)} against each codec (MS-SSIM in dB)",
            grid(decoded_differences(preset, means, columns)),
            "### All points",
            grid(all_points(means, *columns, f"ap50:{detector}")),
        ]
    )


def own_section(preset: str, detector: str, means: Sequence[MeanResult]) -> str:
    columns = (f"ap:{detector}", f"ap50:{detector}")
    name = detector.removesuffix(f"-{DETECTOR_LABELS}")
    return "\n\n".join(
        [
            f"## Decoded images for {name}, not used in training: AP against its detections in the originals",
            f"### {codec_title(preset)} against each codec",
            grid(decoded_differences(preset, means, columns)),
            "### All points",
            grid(all_points(means, *columns)),
        ]
    )


def decoded_differences(preset: str, means: Sequence[MeanResult], columns: Iterable[str]) -> Table:
    rows = [["against", "metric", "bits at equal quality", "quality at equal bits"]]
    for column in columns:
        each = against_each(preset, codec_curves(means, column))
        rows += [[title, column, *values] for title, *values in each]
    return rows


def time_section(rows: Rows) -> str:
    cells = [["from opened file to boxes", "median", f"of “{REFERENCE}”"]]
    cells += [
        [row["way"], f"{1000 * float(row['median_s']):.0f} ms", f"{float(row['ratio']):.2f}"] for row in rows
    ]
    about = f"medians over {rows[0]['pictures']} images, alternating; {rows[0]['machine']}"
    return f"## Times: {about}\n\n{grid(cells)}"


def codec_title(name: str) -> str:
    """The title of a codec by its name in tables."""
    return parse_variant(name).title


def signed(value: float | None, form: str, unit: str = "") -> str:
    return NONE if value is None else f"{value:{form}}{unit}".replace("-", "−")


def grid(rows: Table) -> str:
    """A table in Markdown."""

    def lines() -> Iterator[str]:
        for number, row in enumerate(rows):
            yield f"| {' | '.join(row)} |"
            if not number:
                yield "|---" + "|---:" * (len(row) - 1) + "|"

    return "\n".join(lines())


if __name__ == "__main__":
    try:
        main()
    except (TrifocalError, OSError) as error:
        sys.exit(str(error))
