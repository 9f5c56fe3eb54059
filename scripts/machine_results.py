#!/usr/bin/env python3
"""The command behind results/machine_*: what machines see in a base layer's bytes, and in what others need to show as much.

    python scripts/machine_results.py COCO_VAL [--judge picodet.onnx] [--own-judge faces.onnx] [--resume]

COCO_VAL is a folder of pictures with COCO's instances.json in it or above it. Each part has its tables:

    machine_coco*.csv       AP of one detector: the base layer at base qualities, and rivals, at their own size and at the detector's
    machine_certainty.csv   how far the AP of so many pictures is sure
    machine_decoded*.csv    AP of another detector (--judge) on decoded pictures, and PSNR: layers, layers apart, one layer, AVIF
    machine_own*.csv        AP of one more (--own-judge) on decoded pictures, where what it finds in the originals is the truth
    machine_times.csv       seconds from an opened file to boxes: out of the base layer, and after decoding
    machine.md              what follows from them
"""

import argparse
import csv
import statistics
import sys
import tempfile
import time
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from trifocal import evaluation
from trifocal.console import Desk, reporting
from trifocal.container import Bitstream
from trifocal.container.parts import read_base, strip
from trifocal.errors import TrifocalError
from trifocal.evaluation import Curve, Mean, Sure, bd_metric, bd_rate, certainty, metric_of, rate_at, task_of
from trifocal.evaluation.baselines import LOSSLESS, RIVALS
from trifocal.evaluation.compare import machine
from trifocal.evaluation.layering import dual_layer
from trifocal.evaluation.subjects import title_of
from trifocal.evaluation.tasks import OWN
from trifocal.files import replacing
from trifocal.pictures import Picture, list_pictures

RESULTS = Path(__file__).resolve().parent.parent / "results"
BASE_QUALITIES = (0, 20, 40, 60, 80, 100)
# Where detection begins to suffer, at the pictures' own size and at the detector's.
QUALITIES: dict[str, Sequence[float]] = {
    "avif": (0, 10, 25, 45, 70),
    "heic": (0, 10, 20, 30),
    "webp": (0, 10, 25, 50),
    "jpeg": (5, 10, 20, 40),
    "compact": (0, 20, 40, 60),
    "avif:small": (0, 15, 30, 55),
    "heic:small": (0, 12, 25, 40),
    "webp:small": (0, 10, 30, 60),
    "jpeg:small": (5, 15, 35, 70),
    "compact:small": (0, 20, 40, 60),
}
PICTURE_QUALITIES = (10, 35, 60, 85)
OTHER_QUALITIES = (10, 30, 50, 70, 90)  # of one layer and of AVIF, as in results/coco.csv
PICTURE_METRICS: Sequence[str] = ("psnr", "ms-ssim")
LOSSES = (0.01, 0.02, 0.03, 0.05)  # of AP, that are asked what they save
CERTAIN_QUALITIES = (20, 60, 80)  # of the base layer, where it is asked how sure an AP is, and of a rival
CERTAIN = {"avif": (45,)}
LEAST_POINTS = 3  # of a curve that is compared; two make a straight line, which no codec follows
REFERENCE = "decode, then detect"
NONE = "—"

Table = list[list[str]]


@dataclass(frozen=True)
class Way:
    """How long one way from a file to boxes took, in the median over pictures, and as a part of REFERENCE's time."""

    name: str
    seconds: float
    ratio: float
    pictures: int


def main() -> None:
    arguments = parse()
    asked = Request(**vars(arguments))
    judged = asked.measure_layers()
    sections = [layer_section(f"{asked.preset}:base", label_of(asked.detector), judged)]
    if asked.draws:
        certain = asked.measure_certainty()
        write_certainty(asked.out / "machine_certainty.csv", certain, asked.draws)
        sections.append(certainty_section(certain, asked.draws))
    if asked.judge is not None:
        means = asked.measure_pictures("machine_decoded.csv", asked.judge, PICTURE_METRICS)
        sections.append(picture_section(asked.preset, label_of(asked.judge), means))
    if asked.own_judge is not None:
        means = asked.measure_pictures("machine_own.csv", asked.own_judge, (), OWN)
        sections.append(own_section(asked.preset, label_of(asked.own_judge), means))
    if asked.timed:
        ways = asked.measure_times()
        write_times(asked.out / "machine_times.csv", ways)
        sections.append(time_section(ways))
    pictures = "/".join(Path(asked.folder).absolute().parts[-2:])
    head = f"{asked.preset} on {pictures}, {time.strftime('%Y-%m-%d')}, {machine()}."
    page = "\n\n".join(["# What machines see", head, *sections]) + "\n"
    with replacing(asked.out / "machine.md") as stream:
        stream.write(page.encode())
    print(page)


def parse() -> argparse.Namespace:
    parser = argparse.ArgumentParser(
        description="Measures a base layer beside rivals, and the pictures above it."
    )
    parser.add_argument("folder", help="of pictures, with instances.json in it or above it")
    parser.add_argument("--preset", default="dual-layer-compact")
    parser.add_argument("--detector", default="compact", help="that the base layer serves")
    parser.add_argument(
        "--judge", help="another detector for decoded pictures: a name of torchvision's, or an .onnx file"
    )
    parser.add_argument(
        "--own-judge", help="another, for whom what it finds in the originals is what is there to be found"
    )
    parser.add_argument("--timed", type=int, default=40, help="pictures to take times on; 0 for no times")
    parser.add_argument(
        "--draws", type=int, default=200, help="bootstrap samples of the pictures; 0 for none"
    )
    parser.add_argument("--out", type=Path, default=RESULTS, help="the folder of the tables")
    parser.add_argument("--resume", action="store_true", help="keep the rows that are there")
    return parser.parse_args()


@dataclass(frozen=True)
class Request:
    """What was asked for."""

    folder: str
    preset: str
    detector: str
    judge: str | None
    own_judge: str | None
    timed: int
    draws: int
    out: Path
    resume: bool

    def measure_layers(self) -> list[Mean]:
        points = {f"{self.preset}:base": BASE_QUALITIES, **at_hand(QUALITIES)}
        return self.measure("machine_coco.csv", points, self.detector, ("psnr",))

    def measure_certainty(self) -> list[Sure]:
        points = {f"{self.preset}:base": CERTAIN_QUALITIES, **at_hand(CERTAIN)}
        with reporting(Desk()) as report_progress:
            return certainty(points, self.folder, self.detector, self.draws, report_progress)

    def measure_pictures(
        self, table: str, judge: str, metrics: Sequence[str], annotations: str | None = None
    ) -> list[Mean]:
        points: dict[str, Sequence[float]] = dict.fromkeys(
            (self.preset, f"{self.preset}:apart"), PICTURE_QUALITIES
        )
        points |= at_hand(dict.fromkeys(("compact", "avif"), OTHER_QUALITIES))
        return self.measure(table, points, judge, metrics, annotations)

    def measure(
        self,
        table: str,
        points: Mapping[str, Sequence[float]],
        detector: str,
        metrics: Sequence[str],
        annotations: str | None = None,
    ) -> list[Mean]:
        desk = Desk()
        with reporting(desk) as report_progress:
            task = task_of("detection", detector, annotations, self.folder, report=report_progress)
            return evaluation.evaluate(
                list(points),
                self.folder,
                self.out / table,
                points,
                self.resume,
                metrics,
                task,
                progress=lambda fraction: report_progress(fraction, table),
                note=desk.note,
            ).means

    def measure_times(self) -> list[Way]:
        from trifocal.layered import objects_in
        from trifocal.presets import load

        codec, single = dual_layer(self.preset), load("compact")
        laps: list[dict[str, float]] = []
        with tempfile.TemporaryDirectory(prefix="trifocal-") as place, reporting(Desk()) as report_progress:
            whole, base, one, avif = (Path(place) / name for name in ("w.tri", "b.tri", "one.tri", "a.avif"))
            ways: dict[str, Callable[[], object]] = {
                "detect, base layer's own file": lambda: codec.detect(Bitstream.open(base)),
                "detect, base layer of the whole file": lambda: codec.detect(read_base(whole)[0]),
                REFERENCE: lambda: objects_in(codec.decode(Bitstream.open(whole)).picture, codec.detector),
                "compact: decode, then detect": lambda: objects_in(
                    single.decode(Bitstream.open(one)).picture, codec.detector
                ),
                "avif: open, then detect": lambda: objects_in(Picture.open(avif), codec.detector),
            }
            paths = list_pictures([self.folder], recursive=True)[: self.timed]
            for number, path in enumerate(paths):
                picture = Picture.open(path)
                stream = codec.encode(picture)
                whole.write_bytes(stream.to_bytes())
                base.write_bytes(strip(stream, "base").to_bytes())
                one.write_bytes(single.encode(picture).to_bytes())
                avif.write_bytes(RIVALS["avif"].encode(picture, 50))
                if not number:
                    lap(ways)  # the first of all is slower
                laps.append(lap(ways))
                report_progress((number + 1) / len(paths), path.name)
        return ways_of(laps)


def label_of(detector: str) -> str:
    """Its name in columns."""
    return Path(detector).stem if detector.lower().endswith(".onnx") else detector


def at_hand(points: Mapping[str, Sequence[float]]) -> dict[str, Sequence[float]]:
    """Without the formats that nothing here writes."""
    absent = RIVALS.keys() - {rival.name for rival in evaluation.rivals()}
    return {name: qualities for name, qualities in points.items() if name.partition(":")[0] not in absent}


def lap(ways: Mapping[str, Callable[[], object]]) -> dict[str, float]:
    """The seconds of each way, one after the other."""
    seconds = {}
    for name, way in ways.items():
        begun = time.perf_counter()
        way()
        seconds[name] = time.perf_counter() - begun
    return seconds


def ways_of(laps: Sequence[Mapping[str, float]]) -> list[Way]:
    medians = {name: statistics.median(one[name] for one in laps) for name in laps[0]}
    return [Way(name, seconds, seconds / medians[REFERENCE], len(laps)) for name, seconds in medians.items()]


def write_times(path: Path, ways: Iterable[Way]) -> None:
    import torch

    facts = [machine(), str(torch.get_num_threads()), torch.__version__, time.strftime("%Y-%m-%d")]
    with open(path, "w", encoding="utf-8", newline="") as stream:
        writer = csv.writer(stream, lineterminator="\n")
        writer.writerow(["way", "median_s", "ratio", "pictures", "machine", "threads", "torch", "date"])
        for way in ways:
            writer.writerow([way.name, f"{way.seconds:.4f}", f"{way.ratio:.3f}", way.pictures, *facts])


def write_certainty(path: Path, certain: Iterable[Sure], draws: int) -> None:
    with open(path, "w", encoding="utf-8", newline="") as stream:
        writer = csv.writer(stream, lineterminator="\n")
        writer.writerow(["preset", "quality", "ap", "ap_error", "loss", "loss_error", "draws"])
        for one in certain:
            values = (one.ap, one.ap_error, one.loss, one.loss_error)
            writer.writerow([one.name, f"{one.quality:g}", *(f"{value:.4f}" for value in values), draws])


def certainty_section(certain: Sequence[Sure], draws: int) -> str:
    rows = [["", "quality", "AP", "standard error", "less than on the originals", "standard error"]]
    for one in certain:
        loss = (one.loss, one.loss_error) if one.name != LOSSLESS else (None, None)
        cells = [signed(value, ".4f") for value in (one.ap, one.ap_error, *loss)]
        rows.append([title_of(one.name), f"{one.quality:g}", *cells])
    return f"### How sure these pictures make it: {draws} bootstrap samples of them, the same for all rows\n\n{grid(rows)}"


def curves_of(means: Iterable[Mean], column: str) -> dict[str, Curve]:
    """A curve for each codec, from bits per pixel to what the column has; metrics as they are compared."""
    scaled = metric_of(column.replace("_", "-")).scaled if ":" not in column else float
    points: dict[str, list[tuple[float, float]]] = {}
    for mean in means:
        value = mean.values.get(column)
        if mean.preset != LOSSLESS and value is not None:
            points.setdefault(mean.preset, []).append((mean.bpp, scaled(value)))
    return {name: Curve.of(name, pairs) for name, pairs in points.items()}


def layer_section(base: str, detector: str, means: Sequence[Mean]) -> str:
    column = f"ap:{detector}"
    whole = ceiling(means, column)
    curves = curves_of(means, column)
    pictures = max(mean.pictures for mean in means)
    return "\n\n".join(
        [
            f"## AP of {detector} against bits: {pictures} pictures, {whole:.3f} on the originals",
            reach(base, curves, whole),
            "### The fewest bits per pixel for an AP, and how many times the base layer's those are",
            grid(equal_precision(base, curves, whole)),
            "### The base layer against each, where both curves are known",
            grid(differences(base, curves)),
            "### All points",
            grid(all_points(means, column, f"ap50:{detector}")),
        ]
    )


def ceiling(means: Iterable[Mean], column: str) -> float:
    """What the detector reaches on the originals."""
    return next(value for m in means if m.preset == LOSSLESS and (value := m.values.get(column)) is not None)


def reach(base: str, curves: Mapping[str, Curve], whole: float) -> str:
    """The sentence on what is asked first: an AP within one point of the originals', and at how much of AVIF's bytes."""
    ours, theirs = (fewest(curves.get(name), whole - 0.01) for name in (base, "avif"))
    if ours is None:
        best = max(
            (value for curve in curves.values() if curve.name == base for value in curve.values), default=0
        )
        return f"The base layer does not come within one AP point of {whole:.3f}: its best is {best:.3f}."
    said = f"The base layer is within one AP point of {whole:.3f} at {ours:.4f} bpp"
    if theirs is None:
        return f"{said}, and AVIF at none of its qualities here."
    return f"{said}, and AVIF at {theirs:.4f} bpp, {theirs / ours:.1f} times as many."


def fewest(curve: Curve | None, value: float) -> float | None:
    """The rate at which a curve reaches a value, or its least rate if it begins above; None where it stays below."""
    if curve is None or not curve.values:
        return None
    return rate_at(curve, max(value, curve.values[0]))


def equal_precision(base: str, curves: Mapping[str, Curve], whole: float) -> Table:
    goals = [whole - loss for loss in LOSSES]
    rows = [["", *(f"AP {goal:.3f} (−{loss:.2f})" for goal, loss in zip(goals, LOSSES))]]
    ours = [fewest(curves.get(base), goal) for goal in goals]
    for name, curve in curves.items():
        cells = []
        for goal, own in zip(goals, ours):
            rate = fewest(curve, goal)
            under = "≤ " if rate is not None and curve.values[0] >= goal else ""
            ratio = f" ({rate / own:.2f}×)" if rate is not None and own is not None and name != base else ""
            cells.append("not reached" if rate is None else f"{under}{rate:.4f}{ratio}")
        rows.append([title_of(name), *cells])
    return rows


def differences(base: str, curves: Mapping[str, Curve]) -> Table:
    rows = [["against", "bits for the same AP", "AP for the same bits"]]
    for name, curve in curves.items():
        if name != base and base in curves and len(curve.values) >= LEAST_POINTS:
            rate, gain = bd_rate(curve, curves[base]).value, bd_metric(curve, curves[base]).value
            rows.append([title_of(name), signed(rate, "+.1f", " %"), signed(gain, "+.4f")])
    return rows


def all_points(means: Sequence[Mean], *columns: str) -> Table:
    rows = [["", "quality", "bpp", *columns]]
    for mean in means:
        values = (mean.values.get(column) for column in columns)
        rows.append(
            [
                title_of(mean.preset),
                f"{mean.quality:g}",
                f"{mean.bpp:.4f}",
                *(signed(v, ".4f") for v in values),
            ]
        )
    return rows


def picture_section(preset: str, judge: str, means: Sequence[Mean]) -> str:
    columns = ("psnr", "ms_ssim", f"ap:{judge}")
    whole = ceiling(means, columns[-1])
    return "\n\n".join(
        [
            f"## Decoded pictures: both layers' bytes; AP of {judge}, {whole:.3f} on the originals",
            f"### {title_of(preset)} against each (MS-SSIM in dB)",
            grid(picture_differences(preset, means, columns)),
            "### All points",
            grid(all_points(means, *columns, f"ap50:{judge}")),
        ]
    )


def own_section(preset: str, judge: str, means: Sequence[Mean]) -> str:
    columns = (f"ap:{judge}-own", f"ap50:{judge}-own")
    return "\n\n".join(
        [
            f"## Decoded pictures for {judge}, which no training saw: AP against what it finds in the originals",
            f"### {title_of(preset)} against each",
            grid(picture_differences(preset, means, columns)),
            "### All points",
            grid(all_points(means, *columns)),
        ]
    )


def picture_differences(preset: str, means: Sequence[Mean], columns: Iterable[str]) -> Table:
    rows = [["against", "metric", "bits for the same quality", "quality for the same bits"]]
    for column in columns:
        curves = curves_of(means, column)
        for name, curve in curves.items():
            if name != preset and preset in curves and len(curve.values) >= LEAST_POINTS:
                rate, gain = bd_rate(curve, curves[preset]).value, bd_metric(curve, curves[preset]).value
                rows.append([title_of(name), column, signed(rate, "+.1f", " %"), signed(gain, "+.4f")])
    return rows


def time_section(ways: Sequence[Way]) -> str:
    rows = [["from an opened file to boxes", "median", f"of “{REFERENCE}”"]]
    rows += [[way.name, f"{1000 * way.seconds:.0f} ms", f"{way.ratio:.2f}"] for way in ways]
    return (
        f"## Times, medians over {ways[0].pictures} pictures, one way after the other on each\n\n{grid(rows)}"
    )


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
