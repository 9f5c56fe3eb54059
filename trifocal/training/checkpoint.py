"""A training run on disk: DIR/checkpoint.pt is replaced as a whole, DIR/log.csv grows."""

import csv
import json
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from accelerate import Accelerator
from torch import nn

from trifocal.errors import OptionError, WeightsError
from trifocal.utils.files import atomic_write, write_csv
from trifocal.weights import read_weights


@dataclass
class Progress:
    """How far a run is; `seconds` counts the time spent in steps over all its sessions."""

    step: int = 0
    seconds: float = 0.0

    def fraction(self, steps: int | None, minutes: float | None) -> float:
        """The part that is done of a run of so many steps, or else minutes; 0..1, and over 1 behind its end."""
        if steps is not None:
            return self.step / steps
        return self.seconds / (60 * (minutes or 1))


def together(accelerator: Accelerator, seconds: float) -> float:
    """Their mean over all processes, so that all of them end a run of so many minutes at the same step."""
    if accelerator.num_processes == 1:
        return seconds
    return float(accelerator.reduce(torch.tensor(seconds, device=accelerator.device), "mean"))


def by_one(accelerator: Accelerator, work: Callable[[], object]) -> None:
    """Work that one process does, while the others wait for it: several would write the same files."""
    if accelerator.is_main_process:
        work()
    accelerator.wait_for_everyone()


def save(path: Path, state: dict[str, Any]) -> None:
    """Writes beside the old checkpoint and then takes its place."""
    with atomic_write(path) as stream:
        torch.save(state, stream)


def restore(path: Path) -> dict[str, Any]:
    """What `save` wrote, on the processor; only tensors and plain values are read, no code. Raises OptionError where there is nothing."""
    if not path.exists():
        raise OptionError(
            f"There is no checkpoint in {path.parent} to resume; leave --resume out to begin anew."
        )
    state: dict[str, Any] = torch.load(path, map_location="cpu", weights_only=True)
    return state


def begin_with(network: nn.Module, weights: str | Path) -> None:
    """Puts trained weights into a network; parts that they do not have begin untrained.

    Raises:
        WeightsError: if they are missing or damaged, or have parts that the network has not.
    """
    found = network.load_state_dict(read_weights(Path(weights)), strict=False)
    if found.unexpected_keys:
        raise WeightsError(f"The weights {weights} do not fit: there is no {found.unexpected_keys[0]} here.")


def check_length(steps: int | None, minutes: float | None) -> None:
    """Raises OptionError unless a run is as long as one of them says."""
    if (steps is None) == (minutes is None):
        raise OptionError("Say how long to train: either steps or minutes.")


def append_row(path: Path, row: Mapping[str, object]) -> None:
    """One more line of a CSV file; the first brings the heading."""
    new = not path.exists()
    with path.open("a", newline="") as file:
        writer = csv.DictWriter(file, fieldnames=list(row))
        if new:
            writer.writeheader()
        writer.writerow(row)


def drop_rows_after(path: Path, step: int) -> None:
    """Takes the rows of steps after that one out of a log, which a run wrote and died before its checkpoint; they will come again."""
    if not path.exists():
        return
    with path.open(newline="") as file:
        heading, *rows = [*csv.reader(file)] or [[]]
    kept = [row for row in rows if len(row) == len(heading) and float(row[heading.index("step")]) <= step]
    if len(kept) < len(rows):
        write_csv(path, [heading, *kept], end="\r\n")


def record_of(start: Path) -> object:
    """The record of the run that these weights are from, or their name where there is none."""
    record = start.with_suffix(".json")
    return json.loads(record.read_text("utf-8")) if record.exists() else start.name
