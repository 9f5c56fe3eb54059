#!/usr/bin/env python3
"""Measure object detection from base layers and from decoded images: results/machine_*.

    python scripts/machine_results.py COCO_VAL [--judge picodet.onnx] [--own-judge faces.onnx] [--resume]

COCO_VAL is a folder of images with COCO's instances.json in it or above it. The tables:

    machine_coco*.csv       AP of the base layer's detector: the base layer, and other codecs at full size and at the detector's
    machine_certainty.csv   standard errors of AP
    machine_decoded*.csv    AP of another detector (--judge) and PSNR of decoded images: layers, layers apart, one layer, AVIF
    machine_own*.csv        AP of a third detector (--own-judge); its detections in the originals are the ground truth
    machine_times.csv       seconds from an opened file to boxes, from the base layer and after decoding
    machine.md              a summary: scripts/machine_page.py
"""

import argparse
import csv
import statistics
import sys
import tempfile
import time
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from machine_page import CERTAINTY, DECODED, LAYERS, OWN_DECODED, REFERENCE, RESULTS, TIMES, write_page

from trifocal import evaluation
from trifocal.cli.console import Console, reporting
from trifocal.container import Bitstream
from trifocal.container.parts import read_base, strip
from trifocal.errors import TrifocalError
from trifocal.evaluation import APWithError, EvaluateOptions, ap_with_errors, create_task
from trifocal.evaluation.candidates.layer_ablations import load_scalable
from trifocal.evaluation.candidates.pillow_codecs import PILLOW_CODECS
from trifocal.evaluation.report.measurements import system_description
from trifocal.evaluation.tasks.task import DETECTOR_LABELS
from trifocal.pictures import Picture, list_pictures

BASE_QUALITIES = (0, 20, 40, 60, 80, 100)
# Rates at which AP begins to fall, at full size and at the detector's input size.
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
LAYERED_QUALITIES = (10, 35, 60, 85)
OTHER_QUALITIES = (10, 30, 50, 70, 90)  # of one layer and of AVIF, as in results/coco.csv
DECODED_METRICS: Sequence[str] = ("psnr", "ms-ssim")
CERTAIN_QUALITIES = (20, 60, 80)  # of the base layer and of AVIF, for standard errors
CERTAIN = {"avif": (45,)}


@dataclass(frozen=True)
class Timing:
    """The median time from a file to boxes over images, and its ratio to REFERENCE's."""

    name: str
    seconds: float
    ratio: float
    pictures: int


def main() -> None:
    arguments = parse()
    asked = Request(**vars(arguments))
    asked.measure_layers()
    if asked.draws:
        write_certainty(asked.out / CERTAINTY, asked.measure_certainty(), asked.draws)
    if asked.judge is not None:
        asked.measure_decoded(asked.judge)
    if asked.own_judge is not None:
        asked.measure_with_own_truth(asked.own_judge)
    if asked.timed:
        write_times(asked.out / TIMES, asked.measure_times())
    print(write_page(asked.out))


def parse() -> argparse.Namespace:
    parser = argparse.ArgumentParser(
        description="Measure a base layer and decoded images beside other codecs."
    )
    parser.add_argument("folder", help="of images, with instances.json in it or above it")
    parser.add_argument("--preset", default="dual-layer-compact")
    parser.add_argument("--detector", default="compact", help="of the base layer")
    parser.add_argument(
        "--judge", help="another detector for decoded images: a torchvision model or an .onnx file"
    )
    parser.add_argument(
        "--own-judge", help="a third detector, whose detections in the originals are the ground truth"
    )
    parser.add_argument(
        "--timed", type=int, default=40, help="number of images to measure times on; 0 for none"
    )
    parser.add_argument("--draws", type=int, default=200, help="bootstrap samples of the images; 0 for none")
    parser.add_argument("--out", type=Path, default=RESULTS, help="the folder of the tables")
    parser.add_argument("--resume", action="store_true", help="keep existing rows")
    return parser.parse_args()


@dataclass(frozen=True)
class Request:
    """The options of the command line."""

    folder: str
    preset: str
    detector: str
    judge: str | None
    own_judge: str | None
    timed: int
    draws: int
    out: Path
    resume: bool

    def measure_layers(self) -> None:
        layers = dict.fromkeys((f"{self.preset}:base", f"{self.preset}:unfitted"), BASE_QUALITIES)
        points = {**layers, **available(QUALITIES)}
        self.measure(LAYERS, points, self.detector, ("psnr",))

    def measure_certainty(self) -> list[APWithError]:
        points = {f"{self.preset}:base": CERTAIN_QUALITIES, **available(CERTAIN)}
        with reporting(Console()) as report_progress:
            return ap_with_errors(points, self.folder, self.detector, self.draws, report_progress)

    def measure_decoded(self, detector: str) -> None:
        points = decoded_points(self.preset, f"{self.preset}:apart")
        self.measure(DECODED, points, detector, DECODED_METRICS)

    def measure_with_own_truth(self, detector: str) -> None:
        self.measure(OWN_DECODED, decoded_points(self.preset), detector, (), DETECTOR_LABELS)

    def measure(
        self,
        table: str,
        points: Mapping[str, Sequence[float]],
        detector: str,
        metrics: Sequence[str],
        annotations: str | None = None,
    ) -> None:
        terminal = Console()
        with reporting(terminal) as report_progress:
            task = create_task("detection", detector, annotations, self.folder, report=report_progress)
            evaluation.evaluate(
                list(points),
                self.folder,
                self.out / table,
                EvaluateOptions(points, metrics, task, resume=self.resume),
                progress=lambda fraction: report_progress(fraction, table),
                notify=terminal.print_notice,
            )

    def measure_times(self) -> list[Timing]:
        from trifocal.codecs.scalable import detect_objects
        from trifocal.presets import load

        codec, single = load_scalable(self.preset), load("compact")
        laps: list[dict[str, float]] = []
        with (
            tempfile.TemporaryDirectory(prefix="trifocal-") as place,
            reporting(Console()) as report_progress,
        ):
            whole, base, one, avif = (Path(place) / name for name in ("w.tri", "b.tri", "one.tri", "a.avif"))
            ways: dict[str, Callable[[], object]] = {
                "detect, base layer's own file": lambda: codec.detect(Bitstream.open(base)),
                "detect, base layer of the whole file": lambda: codec.detect(read_base(whole)[0]),
                REFERENCE: lambda: detect_objects(
                    codec.decode(Bitstream.open(whole)).picture, codec.network.detector
                ),
                "compact: decode, then detect": lambda: detect_objects(
                    single.decode(Bitstream.open(one)).picture, codec.network.detector
                ),
                "avif: open, then detect": lambda: detect_objects(Picture.open(avif), codec.network.detector),
            }
            paths = list_pictures([self.folder], recursive=True)[: self.timed]
            for number, path in enumerate(paths):
                picture = Picture.open(path, "colour")
                stream = codec.encode(picture)
                whole.write_bytes(stream.to_bytes())
                base.write_bytes(strip(stream, "base").to_bytes())
                one.write_bytes(single.encode(picture).to_bytes())
                avif.write_bytes(PILLOW_CODECS["avif"].encode(picture, 50))
                if not number:
                    time_each(ways)  # warm up
                laps.append(time_each(ways))
                report_progress((number + 1) / len(paths), path.name)
        return timings(laps)


def decoded_points(*layered: str) -> dict[str, Sequence[float]]:
    """The qualities of layered codecs, and of the codecs they are compared with."""
    beside = available(dict.fromkeys(("compact", "avif"), OTHER_QUALITIES))
    return {**dict.fromkeys(layered, LAYERED_QUALITIES), **beside}


def available(points: Mapping[str, Sequence[float]]) -> dict[str, Sequence[float]]:
    """Leave out formats that no installed package writes."""
    absent = PILLOW_CODECS.keys() - {codec.name for codec in evaluation.pillow_codecs()}
    return {name: qualities for name, qualities in points.items() if name.partition(":")[0] not in absent}


def time_each(ways: Mapping[str, Callable[[], object]]) -> dict[str, float]:
    """The seconds of each, one after the other."""
    seconds = {}
    for name, way in ways.items():
        begun = time.perf_counter()
        way()
        seconds[name] = time.perf_counter() - begun
    return seconds


def timings(laps: Sequence[Mapping[str, float]]) -> list[Timing]:
    medians = {name: statistics.median(one[name] for one in laps) for name in laps[0]}
    return [
        Timing(name, seconds, seconds / medians[REFERENCE], len(laps)) for name, seconds in medians.items()
    ]


def write_times(path: Path, ways: Iterable[Timing]) -> None:
    import torch

    facts = [system_description(), str(torch.get_num_threads()), torch.__version__, time.strftime("%Y-%m-%d")]
    with open(path, "w", encoding="utf-8", newline="") as stream:
        writer = csv.writer(stream, lineterminator="\n")
        writer.writerow(["way", "median_s", "ratio", "pictures", "machine", "threads", "torch", "date"])
        for way in ways:
            writer.writerow([way.name, f"{way.seconds:.4f}", f"{way.ratio:.3f}", way.pictures, *facts])


def write_certainty(path: Path, certain: Iterable[APWithError], draws: int) -> None:
    with open(path, "w", encoding="utf-8", newline="") as stream:
        writer = csv.writer(stream, lineterminator="\n")
        writer.writerow(["preset", "quality", "ap", "ap_error", "loss", "loss_error", "draws"])
        for one in certain:
            values = (one.ap, one.ap_error, one.loss, one.loss_error)
            writer.writerow([one.name, f"{one.quality:g}", *(f"{value:.4f}" for value in values), draws])


if __name__ == "__main__":
    try:
        main()
    except (TrifocalError, OSError) as error:
        sys.exit(str(error))
