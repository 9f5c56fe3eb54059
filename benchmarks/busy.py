#!/usr/bin/env python3
"""Time one encoding process and several at once, with OpenMP threads that spin or sleep while they wait.

    python benchmarks/busy.py [--processes 2] [--pictures 10]

Trifocal sets OMP_WAIT_POLICY=PASSIVE (sleeping threads) unless the variable is set. Spinning threads take
processor time from other processes.
"""

import argparse
import os
import shutil
import subprocess
import sys
import tempfile
import time
from pathlib import Path

from trifocal.demo import PHOTOGRAPH

POLICIES = ("ACTIVE", "PASSIVE")


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--processes", type=int, default=os.cpu_count() or 2)
    parser.add_argument("--pictures", type=int, default=10, help="images that each process encodes")
    arguments = parser.parse_args()
    print(f"| OMP_WAIT_POLICY | one process, s | {arguments.processes} processes, s | ratio |")
    print("|---|---:|---:|---:|")
    for policy in POLICIES:
        alone, together = (encode(count, arguments.pictures, policy) for count in (1, arguments.processes))
        print(f"| {policy} | {alone:.1f} | {together:.1f} | {together / alone:.2f} |", flush=True)


def encode(processes: int, pictures: int, policy: str) -> float:
    """The seconds until all processes have encoded their images."""
    with tempfile.TemporaryDirectory(prefix="trifocal-") as folder:
        source = Path(folder, "in")
        source.mkdir()
        for number in range(pictures):
            shutil.copy(PHOTOGRAPH, source / f"{number}{PHOTOGRAPH.suffix}")
        began = time.perf_counter()
        running = [
            subprocess.Popen(
                [sys.executable, "-m", "trifocal", "encode", str(source), "-o", f"{folder}/{number}"]
                + ["--preset", "compact"],
                env={**os.environ, "OMP_WAIT_POLICY": policy},
                stdout=subprocess.DEVNULL,
                stderr=subprocess.DEVNULL,
            )
            for number in range(processes)
        ]
        if any(process.wait() for process in running):
            sys.exit("An encode failed; run it by hand: trifocal encode PICTURES -o OUT --preset compact")
        return time.perf_counter() - began


if __name__ == "__main__":
    main()
