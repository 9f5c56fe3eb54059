#!/usr/bin/env python3
"""Time `trifocal encode` of a folder: one image at a time on one thread or all threads, and several at once.

    python benchmarks/batches.py [--images FOLDER] [--count 16] [--jobs 2] [--rounds 5] [--batch]

--batch adds `trifocal batch encode` with as many workers. The ways alternate, so that load on the machine
affects all of them. Seconds are medians of whole commands; ratios are medians of the ratios within a round.
Peak memory is the largest resident size of the process, without Ray's workers.
"""

import argparse
import os
import shutil
import statistics
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

from trifocal.demo import PHOTOGRAPH
from trifocal.utils.files import list_files

SUFFIXES = (".jpg", ".jpeg", ".png", ".webp")


def main() -> None:
    parser = argparse.ArgumentParser(description="Time `trifocal encode` of a folder.")
    parser.add_argument("--images", type=Path, default=PHOTOGRAPH.parent, help="folder; repeated to --count")
    parser.add_argument("--count", type=int, default=16)
    parser.add_argument("--jobs", type=int, default=os.cpu_count() or 2)
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--preset", default="dual-layer-compact")
    parser.add_argument("--batch", action="store_true", help="also `trifocal batch encode`")
    arguments = parser.parse_args()
    threads, jobs = os.cpu_count() or 1, arguments.jobs
    ways = {
        "one thread": ["encode", "--threads", 1, "--jobs", 1],
        "all threads": ["encode", "--threads", threads, "--jobs", 1],
        "at once": ["encode", "--threads", threads, "--jobs", jobs],
    }
    if arguments.batch:
        ways["batch"] = ["batch", "encode", "--jobs", jobs]
    seconds: dict[str, list[float]] = {name: [] for name in ways}
    peaks = dict.fromkeys(ways, 0)
    with tempfile.TemporaryDirectory(prefix="trifocal-") as folder:
        images = copies(arguments.images, arguments.count, Path(folder))
        for _ in range(arguments.rounds):
            for name, words in ways.items():
                taken, peak = encode([*words, images, "--out", Path(folder, "out")], arguments.preset)
                seconds[name].append(taken)
                peaks[name] = max(peaks[name], peak)
    report(seconds, peaks, arguments)


def copies(folder: Path, count: int, target: Path) -> Path:
    """A folder of `count` images, those of `folder` in turn."""
    files = list_files(folder, False, SUFFIXES).files
    (target / "in").mkdir()
    for number in range(count):
        source = files[number % len(files)]
        shutil.copy(source, target / "in" / f"{number:04}{source.suffix}")
    return target / "in"


def encode(words: list[Any], preset: str) -> tuple[float, int]:
    """Seconds and peak memory in bytes of a command that encodes the images."""
    words += ["--preset", preset, "--force", "--quiet"]
    began = time.perf_counter()
    process = subprocess.Popen([sys.executable, "-m", "trifocal", *map(str, words)])
    _, status, usage = os.wait4(process.pid, 0)
    if status:
        sys.exit("An encode failed; run it by hand: trifocal encode IMAGES -o OUT.")
    return time.perf_counter() - began, usage.ru_maxrss << 10


def report(seconds: dict[str, list[float]], peaks: dict[str, int], arguments: argparse.Namespace) -> None:
    """Print the table, with the load of the machine."""
    load, cores = os.getloadavg()[0], os.cpu_count()
    what = f"{arguments.count} images, {arguments.preset}, {arguments.jobs} at once"
    print(f"{what}, {cores} cores, load {load:.1f}\n")
    print("| way | seconds | images/s | peak MB |\n|---|---:|---:|---:|")
    for name, values in seconds.items():
        median = statistics.median(values)
        print(f"| {name} | {median:.2f} | {arguments.count / median:.2f} | {peaks[name] / 1e6:.0f} |")
    rounds = list(zip(*seconds.values()))
    over_one = statistics.median(one / together for one, _, together, *_ in rounds)
    over_best = statistics.median(min(one, every) / together for one, every, together, *_ in rounds)
    print(
        f"Several at once: {over_one:.2f} times one thread, {over_best:.2f} times the better of the others."
    )
    if "batch" in seconds:
        ratio = statistics.median(together / batch for _, _, together, batch in rounds)
        print(f"batch: {ratio:.2f} times several at once.")


if __name__ == "__main__":
    main()
