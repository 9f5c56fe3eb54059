#!/usr/bin/env python3
"""Times training steps in float32 and in bfloat16, in one process of two threads and in two of one, all in one run.

    python benchmarks/training_speed.py [--preset compact] [--objective preset|mse] [--threads 2] [--steps 40]

Pictures are noise, since their content does not change the time. Where the processor has no bfloat16 instructions, bfloat16 is
emulated and far slower, and a tenth of the steps is timed. Writes its table into docs/training.md, between the
two comments there that name this script.
"""

import argparse
import os
import sys
import time
from collections.abc import Callable, Sequence
from contextlib import closing
from dataclasses import dataclass, replace
from pathlib import Path
from tempfile import TemporaryDirectory

import numpy as np
import torch

from trifocal.data import TrainingPicture
from trifocal.errors import OptionError, TrifocalError
from trifocal.evaluation.memory import processor
from trifocal.losses import Objective
from trifocal.presets import Preset, find, objective_of
from trifocal.text.encoder import load_text_encoder
from trifocal.training import in_processes
from trifocal.training.lesson import Note, Report
from trifocal.training.loop import Run
from trifocal.training.precision import bfloat16_unit

PAGE = Path(__file__).resolve().parent.parent / "docs" / "training.md"
BEGIN, END = "<!-- benchmarks/training_speed.py -->", "<!-- end of benchmarks/training_speed.py -->"
PICTURES, SIDE = 8, 320  # and at least the recipe's crop
OBJECTIVES: dict[str, Callable[[Preset], Objective]] = {
    "preset": lambda preset: objective_of(preset, 1)(),
    "mse": lambda preset: Objective(),
}


@dataclass(frozen=True)
class Timing:
    """Of one combination: steps a minute, each of `batch` crops in every process."""

    precision: str
    processes: int
    threads: int
    batch: int
    steps: float


def main() -> None:
    arguments = parse()
    os.environ["CUDA_VISIBLE_DEVICES"] = ""  # the processor is what is timed
    batch = arguments.batch or find(arguments.preset).recipe.batch
    unit = bfloat16_unit(torch.device("cpu"))
    timings = []
    for precision in ("float32", "bfloat16"):
        for processes in dict.fromkeys((1, arguments.threads)):
            torch.set_num_threads(arguments.threads)
            steps = in_processes(
                processes,
                measure,
                arguments.preset,
                arguments.objective,
                precision,
                batch,
                arguments.warmup,
                arguments.steps if unit or precision == "float32" else -(-arguments.steps // 10),
            )
            name = precision if unit or precision == "float32" else f"{precision}, emulated"
            timings.append(Timing(name, processes, arguments.threads // processes, batch, steps))
            print(f"{name}, {processes} processes: {steps:.1f} steps a minute", file=sys.stderr)
    text = "\n".join([caption(arguments, unit), "", *table(timings)])
    print(text)
    page = arguments.page.read_text("utf-8")
    arguments.page.write_text(with_table(page, text), "utf-8")


def parse() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description="Times training steps of a preset.")
    parser.add_argument("--preset", default="compact")
    parser.add_argument("--objective", choices=OBJECTIVES, default="preset", help="what the steps minimise")
    parser.add_argument(
        "--threads", type=int, default=2, help="in all; also the number of processes of one thread"
    )
    parser.add_argument("--batch", type=int, help="crops a step of each process; the recipe's if not given")
    parser.add_argument("--warmup", type=int, default=5, help="steps that are not timed, 1 or more")
    parser.add_argument("--steps", type=int, default=40, help="steps that are timed")
    parser.add_argument("--page", type=Path, default=PAGE, help="the page with the two comments")
    return parser.parse_args()


def measure(
    preset: str,
    objective: str,
    precision: str,
    batch: int,
    warmup: int,
    steps: int,
    *,
    report: Report,
    note: Note,
) -> float:
    """Steps a minute of an untrained network, in this process of a run; validation and checkpoints are not counted."""
    chosen = find(preset)
    recipe = replace(chosen.recipe, batch=batch)
    tower = load_text_encoder(chosen.text_encoder) if chosen.text_reader else None
    with TemporaryDirectory() as out:
        run = Run(
            chosen.build(),
            OBJECTIVES[objective](chosen),
            recipe,
            Path(out),
            warmup + steps,
            None,
            tower,
            precision,
        )
        begun = time.perf_counter()
        with closing(run.train(noise(max(SIDE, recipe.crop)))) as losses:
            for number, _ in enumerate(losses, start=1):
                report(run.fraction, f"step {number}")
                if number == warmup:
                    begun = time.perf_counter()
        return 60 * steps / (time.perf_counter() - begun)


def noise(side: int) -> list[TrainingPicture]:
    random = np.random.default_rng(0)
    shape = PICTURES, side, side, 3
    return [
        TrainingPicture(str(number), rgb)
        for number, rgb in enumerate(random.integers(0, 256, shape, np.uint8))
    ]


def caption(arguments: argparse.Namespace, unit: str) -> str:
    return (
        f"`{arguments.preset}`, objective {arguments.objective}, {arguments.steps} steps after {arguments.warmup} to warm up, on "
        f"{os.cpu_count()} cores of {processor()} ({unit or 'no bfloat16 instructions'}), torch {torch.__version__}, {time.strftime('%Y-%m-%d')}:"
    )


def table(timings: Sequence[Timing]) -> list[str]:
    """Lines of Markdown; the last column is the ratio of crops to those of the first timing."""
    lines = [
        "| precision | processes | threads of each | batch of each | steps a minute | crops a minute | |"
    ]
    lines.append("|---|---:|---:|---:|---:|---:|---:|")
    first = crops(timings[0])
    for one in timings:
        cells = one.precision, one.processes, one.threads, one.batch, f"{one.steps:.1f}", f"{crops(one):.0f}"
        lines.append(f"| {' | '.join(map(str, cells))} | ×{crops(one) / first:.2f} |")
    return lines


def crops(timing: Timing) -> float:
    """A minute, in all processes."""
    return timing.steps * timing.batch * timing.processes


def with_table(page: str, text: str) -> str:
    """The page with the text between its two comments. Raises OptionError where they are missing."""
    before, begin, rest = page.partition(BEGIN)
    _, end, after = rest.partition(END)
    if not begin or not end:
        raise OptionError(f"The page needs a line {BEGIN} and behind it a line {END}.")
    return f"{before}{BEGIN}\n{text}\n{END}{after}"


if __name__ == "__main__":
    try:
        main()
    except (TrifocalError, OSError) as error:
        sys.exit(str(error))
