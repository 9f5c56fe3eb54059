#!/usr/bin/env python3
"""Measure the encoding time with components against without, of whole commands and of the library's call.

    python benchmarks/component_times.py IMAGE ... [--rounds 3] [--components detection "the person"]

All ways take turns on each image, in one run and without refinement. The time of a way is that of its fastest
round, summed over the images: processor time of one thread, and wall-clock time. The first round of the
library's call is a warm-up.
"""

from __future__ import annotations

import argparse
import os
import sys
import tempfile
import time
import warnings
from collections.abc import Callable
from pathlib import Path
from typing import NamedTuple

from rich.progress import track

import trifocal


class Seconds(NamedTuple):
    processor: float
    wall: float


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("images", type=Path, nargs="+")
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--quality", type=float, default=50)
    parser.add_argument("--components", nargs="+", default=["detection", "person,car", "the person"])
    arguments = parser.parse_args()
    os.environ["OMP_NUM_THREADS"] = "1"
    ways: list[str | None] = [None, *arguments.components]
    for name, encode, warm_up in (("command", command, 0), ("library", library(), 1)):
        best: dict[tuple[str | None, Path], Seconds] = {}
        for number in track(range(arguments.rounds + warm_up), name):
            for image in arguments.images:
                for way in ways:
                    taken = encode(image, arguments.quality, way)
                    if number >= warm_up:
                        best[way, image] = Seconds(*map(min, taken, best.get((way, image), taken)))
        print(table(name, ways, arguments.images, best), flush=True)


def command(image: Path, quality: float, components: str | None) -> Seconds:
    """The whole command `trifocal encode`, in a process of its own."""
    with tempfile.TemporaryDirectory() as folder:
        options = [str(image), "-o", f"{folder}/file.tri", "--refinement", "0", "--quality", f"{quality:g}"]
        if components is not None:
            options += ["--components", components]
        began = time.perf_counter()
        process = os.posix_spawn(
            sys.executable,
            [sys.executable, "-m", "trifocal", "encode", "--threads", "1", *options],
            os.environ,
            file_actions=[
                (os.POSIX_SPAWN_OPEN, 1, os.devnull, os.O_WRONLY, 0),
                (os.POSIX_SPAWN_OPEN, 2, f"{folder}/notices", os.O_WRONLY | os.O_CREAT, 0o600),
            ],
        )
        _, status, usage = os.wait4(process, 0)
        if status:
            sys.exit(f"trifocal encode {' '.join(options)} failed: {Path(folder, 'notices').read_text()}")
        return Seconds(usage.ru_utime + usage.ru_stime, time.perf_counter() - began)


def library() -> Callable[[Path, float, str | None], Seconds]:
    """`Codec.encode` with the networks loaded."""
    codec = trifocal.load("dual-layer-compact")

    def encode(image: Path, quality: float, components: str | None) -> Seconds:
        began = time.process_time(), time.perf_counter()
        with warnings.catch_warnings(action="ignore"):
            codec.encode(image, quality=quality, refinement=0, components=components)
        return Seconds(time.process_time() - began[0], time.perf_counter() - began[1])

    return encode


def table(
    name: str, ways: list[str | None], images: list[Path], best: dict[tuple[str | None, Path], Seconds]
) -> str:
    """A row for each way: sums over the images, and the ratio to encoding without components."""
    sums = {way: Seconds(*map(sum, zip(*(best[way, image] for image in images)))) for way in ways}
    rows = [f"| {name} | processor | ratio | wall | ratio |", "|---|---:|---:|---:|---:|"]
    for way, own in sums.items():
        cells = " | ".join(
            f"{taken / len(images):.3f} s | {taken / plain:.2f}" for taken, plain in zip(own, sums[None])
        )
        rows.append(f"| {way or 'no components'} | {cells} |")
    return "\n".join(rows) + "\n"


if __name__ == "__main__":
    main()
