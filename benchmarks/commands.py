#!/usr/bin/env python3
"""Time whole commands, such as `trifocal encode photograph.png`, each in a new process.

    python benchmarks/commands.py [--commands NAMES] [--rounds 7] [--threads 2] [--picture P]

The commands alternate, so that load on the machine affects all of them. Seconds are medians over the rounds
after a warm-up. A ratio is the median, over the rounds, of a command's seconds by those of
`python -c "import numpy"`. Processor seconds are those of all threads, and depend less on the load. Bytecode
is kept, as in an installed package, also if PYTHONDONTWRITEBYTECODE is set. Prints a Markdown table.
"""

import argparse
import os
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path

from PIL import Image
from rich.console import Console
from rich.progress import Progress

from trifocal.demo import PHOTOGRAPH

ANCHOR = 'python -c "import numpy"'
SIZE = (768, 512)
COMPACT = ("--preset", "compact", "-o", "compact.tri")
COMMANDS: Mapping[str, Sequence[str]] = {
    "encode": ("encode", "photograph.png", "-o", "whole.tri"),
    "encode-unrefined": ("encode", "photograph.png", "-o", "unrefined.tri", "--refinement", "0"),
    "encode-base": ("encode", "photograph.png", "-o", "base.tri", "--layers", "base"),
    "encode-compact": ("encode", "photograph.png", *COMPACT),
    "decode": ("decode", "whole.tri", "-o", "whole.png"),
    "decode-compact": ("decode", "compact.tri", "-o", "compact.png"),
    "detect": ("detect", "whole.tri"),
    "info": ("info", "whole.tri"),
}
NEEDED = ("encode", "encode-compact")  # their files are read by other commands


@dataclass
class Runs:
    """The measured runs of a command: seconds, processor seconds, and the largest resident size in bytes."""

    seconds: list[float] = field(default_factory=list)
    processor_seconds: list[float] = field(default_factory=list)
    peak: int = 0


def main() -> None:
    parser = argparse.ArgumentParser(description="Time whole commands, each in a new process.")
    parser.add_argument("--commands", nargs="+", choices=[*COMMANDS], default=[*COMMANDS], metavar="NAME")
    parser.add_argument("--rounds", type=int, default=7, help="after the warm-up")
    parser.add_argument("--threads", type=int, default=os.cpu_count())
    parser.add_argument("--picture", type=Path, default=PHOTOGRAPH, help="resized to 768×512 if needed")
    arguments = parser.parse_args()
    lines = {ANCHOR: [sys.executable, "-c", "import numpy"]}
    for name in arguments.commands:
        lines[name] = [sys.executable, "-m", "trifocal", *COMMANDS[name]]
    with tempfile.TemporaryDirectory(prefix="trifocal-") as folder:
        with Image.open(arguments.picture) as image:
            fitting = image.convert("RGB").resize(SIZE, Image.Resampling.LANCZOS)
            fitting.save(Path(folder, "photograph.png"))
        for name in NEEDED:
            measured([sys.executable, "-m", "trifocal", *COMMANDS[name]], folder, arguments.threads)
        runs = take_turns(lines, arguments.rounds, folder, arguments.threads)
    print(table(runs, arguments.rounds, arguments.threads), end="")


def take_turns(lines: Mapping[str, Sequence[str]], rounds: int, folder: str, threads: int) -> dict[str, Runs]:
    """Run each command line once as a warm-up and once in each round."""
    runs = {name: Runs() for name in lines}
    with Progress(transient=True, console=Console(stderr=True)) as bar:
        task = bar.add_task("commands", total=(rounds + 1) * len(lines))
        for number in range(rounds + 1):
            for name, line in lines.items():
                seconds, processor_seconds, peak = measured(line, folder, threads)
                if number:
                    runs[name].seconds.append(seconds)
                    runs[name].processor_seconds.append(processor_seconds)
                    runs[name].peak = max(runs[name].peak, peak)
                bar.advance(task)
    return runs


def measured(line: Sequence[str], folder: str, threads: int) -> tuple[float, float, int]:
    """Seconds, processor seconds and peak resident bytes of a process; exits if it fails."""
    environment = {**os.environ, "OMP_NUM_THREADS": str(threads), "PYTHONDONTWRITEBYTECODE": ""}
    environment.setdefault("PYTHONPYCACHEPREFIX", str(Path(folder, "bytecode")))
    began = time.perf_counter()
    process = subprocess.Popen(line, cwd=folder, env=environment, stdout=subprocess.DEVNULL)
    _, status, usage = os.wait4(process.pid, 0)
    seconds = time.perf_counter() - began
    process.returncode = os.waitstatus_to_exitcode(status)
    if process.returncode:
        sys.exit(f"This command failed; run it by hand: {' '.join(line)}")
    return seconds, usage.ru_utime + usage.ru_stime, usage.ru_maxrss << 10


def table(runs: Mapping[str, Runs], rounds: int, threads: int) -> str:
    load, cores = os.getloadavg()[0], os.cpu_count()
    lines = [
        f"768×512, {threads} threads on {cores} cores, load average {load:.1f}: medians of {rounds} rounds.",
        "",
        "| command | seconds | ratio | processor seconds | peak MB |",
        "|---|---:|---:|---:|---:|",
    ]
    anchor = runs[ANCHOR].seconds
    for name, run in runs.items():
        command = f"trifocal {' '.join(COMMANDS[name])}" if name in COMMANDS else name
        ratio = statistics.median(own / other for own, other in zip(run.seconds, anchor, strict=True))
        seconds, processor = map(statistics.median, (run.seconds, run.processor_seconds))
        lines.append(
            f"| `{command}` | {seconds:.2f} | {ratio:.1f} | {processor:.2f} | {run.peak / 1e6:.0f} |"
        )
    return "\n".join([*lines, ""])


if __name__ == "__main__":
    main()
