#!/usr/bin/env python3
"""Time training steps in float32 and bfloat16, in one process of two threads and in two processes of one
thread.

    python benchmarks/training_speed.py [--preset compact] [--objective preset|mse] [--threads 2] [--steps 40]

The images are noise, since their content does not affect the time. Without bfloat16 instructions, bfloat16 is
emulated and far slower, so a tenth of the steps is timed. The table is written into docs/training.md, between
the two comments that name this script.
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
from trifocal.evaluation.peak_memory import processor
from trifocal.losses import Objective
from trifocal.presets import Preset, find
from trifocal.training import in_processes
from trifocal.training.precision import bfloat16_unit
from trifocal.training.stages import make_objective
from trifocal.training.task import Notify, Report
from trifocal.training.tasks.codec import CodecTask
from trifocal.training.trainer import Trainer

PAGE = Path(__file__).resolve().parent.parent / "docs" / "training.md"
BEGIN, END = "<!-- benchmarks/training_speed.py -->", "<!-- end of benchmarks/training_speed.py -->"
PICTURES, SIDE = 8, 320  # and at least the recipe's crop
OBJECTIVES: dict[str, Callable[[Preset], Objective]] = {
    "preset": lambda preset: make_objective(preset, 1, preset.recipe),
    "mse": lambda preset: Objective(),
}


@dataclass(frozen=True)
class Timing:
    """The speed of one configuration: steps a minute, each of `batch` crops in every process."""

    precision: str
    processes: int
    threads: int
    batch: int
    steps: float


def main() -> None:
    arguments = parse()
    os.environ["CUDA_VISIBLE_DEVICES"] = ""  # time the CPU
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
    notify: Notify,
) -> float:
    """Steps a minute of an untrained network, without validation and checkpoints."""
    chosen = find(preset)
    processes = int(os.environ.get("WORLD_SIZE", "1"))
    recipe = replace(chosen.recipe, batch=batch * processes)
    task = CodecTask(chosen, recipe=recipe, objective=lambda: OBJECTIVES[objective](chosen))
    task.training_images = noise(max(SIDE, recipe.crop))
    with TemporaryDirectory() as out:
        trainer = Trainer(task, out, steps=warmup + steps, precision=precision)
        begun = time.perf_counter()
        with closing(trainer.train_steps()) as losses:
            for number, _ in enumerate(losses, start=1):
                report(trainer.fraction, f"step {number}")
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
    objective = "squared error" if arguments.objective == "mse" else "its own objective"
    return (
        f"`{arguments.preset}` with {objective}, {arguments.steps} steps after "
        f"{arguments.warmup} warm-up steps, on "
        f"{os.cpu_count()} cores of {processor()} ({unit or 'no bfloat16 instructions'}), torch "
        f"{torch.__version__}, {time.strftime('%Y-%m-%d')}:"
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
    """Crops a minute in all processes."""
    return timing.steps * timing.batch * timing.processes


def with_table(page: str, text: str) -> str:
    """The page with the text between its two comments. Raises OptionError if they are missing."""
    before, begin, rest = page.partition(BEGIN)
    _, end, after = rest.partition(END)
    if not begin or not end:
        raise OptionError(f"The page needs a line {BEGIN} followed by a line {END}.")
    return f"{before}{BEGIN}\n{text}\n{END}{after}"


if __name__ == "__main__":
    try:
        main()
    except (TrifocalError, OSError) as error:
        sys.exit(str(error))
