#!/usr/bin/env python3
"""Time one encoding process and several at once, on both engines, with waiting threads that sleep or spin.

    python benchmarks/busy.py [--processes 2] [--pictures 10]

The threads of Trifocal sleep while they wait: OMP_WAIT_POLICY is PASSIVE unless it is set, those of ONNX
Runtime sleep after 20 µs, and OpenBLAS uses one thread. Spinning threads take processor time from other
processes. The policy concerns torch alone.
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

SETTINGS = (("torch", "ACTIVE"), ("torch", "PASSIVE"), ("onnx", "PASSIVE"))


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--processes", type=int, default=os.cpu_count() or 2)
    parser.add_argument("--pictures", type=int, default=10, help="images that each process encodes")
    arguments = parser.parse_args()
    print(f"| engine | OMP_WAIT_POLICY | one process, s | {arguments.processes} processes, s | ratio |")
    print("|---|---|---:|---:|---:|")
    for engine, policy in SETTINGS:
        alone, together = (encode(n, arguments.pictures, engine, policy) for n in (1, arguments.processes))
        print(f"| {engine} | {policy} | {alone:.1f} | {together:.1f} | {together / alone:.2f} |", flush=True)


def encode(processes: int, pictures: int, engine: str, policy: str) -> float:
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
                + ["--preset", "compact", "--engine", engine],
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
