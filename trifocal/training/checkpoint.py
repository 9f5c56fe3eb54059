"""The files of a training run: checkpoint.pt and log.csv."""

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
class Elapsed:
    """The steps of a run, and the seconds spent in them, over all its sessions."""

    step: int = 0
    seconds: float = 0.0

    def fraction(self, steps: int | None, minutes: float | None) -> float:
        """The fraction done of a run of that many steps, or else minutes. It exceeds 1 after the end."""
        if steps is not None:
            return self.step / steps
        return self.seconds / (60 * (minutes or 1))


def check_length(steps: int | None, minutes: float | None) -> None:
    """Raise OptionError unless exactly one of them is given."""
    if (steps is None) == (minutes is None):
        raise OptionError("Set the length of the run by either steps or minutes.")


def mean_over_processes(accelerator: Accelerator, value: float) -> float:
    """The mean of a number over all processes; with it they end a run of so many minutes at the same step."""
    if accelerator.num_processes == 1:
        return value
    return float(accelerator.reduce(torch.tensor(value, device=accelerator.device), "mean"))


def on_main_process(accelerator: Accelerator, work: Callable[[], object]) -> None:
    """Run `work` in the main process only, such as writing files. The other processes wait for it."""
    if accelerator.is_main_process:
        work()
    accelerator.wait_for_everyone()


def save(path: Path, state: dict[str, Any]) -> None:
    """Write a checkpoint beside the old one, then replace it."""
    with atomic_write(path) as stream:
        torch.save(state, stream)


def restore(path: Path, name: str) -> dict[str, Any]:
    """Read a checkpoint to the CPU. Only tensors and plain values are loaded, never code.

    Args:
        name: of the task, under which earlier versions' optimisers are returned.

    Raises:
        OptionError: if there is no checkpoint.
    """
    if not path.exists():
        raise OptionError(f"There is no checkpoint in {path.parent} to resume; start anew without --resume.")
    state: dict[str, Any] = torch.load(path, map_location="cpu", weights_only=True)
    return state if "module" in state else upgrade(state, name)


def upgrade(state: dict[str, Any], name: str) -> dict[str, Any]:
    """A checkpoint of Trifocal 0.1, whose module was called "codec" or "lesson", in today's layout."""
    optimisers = state.get("optimisers", {})
    if isinstance(optimisers, list):
        optimisers = {name: optimisers}
    else:
        optimisers = {part: [optimiser] for part, optimiser in optimisers.items()}
    module = state.get("codec", state.get("lesson", {}))
    return {"partners": {}, "task": {}, **state, "module": module, "optimisers": optimisers}


def load_start(network: nn.Module, weights: str | Path) -> None:
    """Load the weights that a run starts from. Parts of the network that the file lacks keep their initial
    values.

    Raises:
        WeightsError: if the file is missing or damaged, or has tensors that the network lacks.
    """
    found = network.load_state_dict(read_weights(Path(weights)), strict=False)
    if found.unexpected_keys:
        raise WeightsError(
            f"The weights {weights} do not fit: the network has no {found.unexpected_keys[0]}."
        )


def start_record(start: Path) -> object:
    """The record of the run that wrote these weights, or their file name where there is none."""
    record = start.with_suffix(".json")
    return json.loads(record.read_text("utf-8")) if record.exists() else start.name


def append_row(path: Path, row: Mapping[str, object]) -> None:
    """Append a row to a CSV file. The first row brings the header."""
    new = not path.exists()
    with path.open("a", newline="") as file:
        writer = csv.DictWriter(file, fieldnames=list(row))
        if new:
            writer.writeheader()
        writer.writerow(row)


def drop_rows_after(path: Path, step: int) -> None:
    """Remove the rows of later steps from a log. They are of an interrupted session, and the resumed run
    writes them again."""
    if not path.exists():
        return
    with path.open(newline="") as file:
        heading, *rows = [*csv.reader(file)] or [[]]
    kept = [row for row in rows if len(row) == len(heading) and float(row[heading.index("step")]) <= step]
    if len(kept) < len(rows):
        write_csv(path, [heading, *kept], end="\r\n")
