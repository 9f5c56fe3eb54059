"""The files of a training run: checkpoint.pt and log.csv, and what its processes agree on."""

import csv
import errno
import json
import shutil
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from accelerate import Accelerator
from torch import nn

from trifocal.errors import OptionError, WeightsError
from trifocal.utils.files import atomic_write, write_csv
from trifocal.weights import read_dead_zones, read_weights, set_dead_zones

ROOM = 1 << 20  # bytes of a checkpoint besides its tensors
MAKE_ROOM = "make room and continue with --resume, or name a folder on another disk with -o"


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
    """Raise OptionError unless exactly one of them is given, and above 0."""
    if (steps is None) == (minutes is None):
        raise OptionError("Set the length of the run by either steps or minutes.")
    length = minutes if steps is None else steps
    if length is None or not length > 0:
        raise OptionError(f"The length of a run must be above 0 steps or minutes, not {length}.")


def mean_over_processes(accelerator: Accelerator, *values: float) -> list[float]:
    """The means of numbers over all processes, by which they agree on when to end a run."""
    if accelerator.num_processes == 1:
        return list(values)
    means: list[float] = accelerator.reduce(torch.tensor(values, device=accelerator.device), "mean").tolist()
    return means


def on_main_process(accelerator: Accelerator, work: Callable[[], object]) -> None:
    """Run `work` in the main process only, such as writing files. The other processes wait for it."""
    if accelerator.is_main_process:
        work()
    accelerator.wait_for_everyone()


def check_space(folder: Path, needed: int) -> None:
    """Raise OSError if a file of so many bytes does not fit on the disk."""
    free = shutil.disk_usage(folder).free
    if free < needed:
        problem = (
            f"The disk is full: a checkpoint takes {needed / 1e6:,.0f} MB, and {free / 1e6:,.0f} MB are free"
        )
        raise OSError(errno.ENOSPC, f"{problem}; {MAKE_ROOM}", str(folder))


def state_size(state: Any) -> int:
    """Bytes of the tensors in nested tables and lists, and room for all else."""
    if isinstance(state, torch.Tensor):
        return state.numel() * state.element_size()
    parts = state.values() if isinstance(state, Mapping) else state if isinstance(state, list | tuple) else ()
    return 64 + sum(map(state_size, parts))


def save(path: Path, state: dict[str, Any]) -> None:
    """Write a checkpoint beside the old one, then replace it. Raises OSError if the disk is full."""
    check_space(path.parent, state_size(state) + ROOM)
    try:
        with atomic_write(path) as stream:
            torch.save(state, stream)
    except RuntimeError as error:  # of torch's writer, after an OSError of the stream
        cause = error.__context__
        if not isinstance(cause, OSError):
            raise
        problem = f"The checkpoint could not be written: {cause.strerror}"
        raise OSError(cause.errno, f"{problem}; {MAKE_ROOM}", str(path)) from error


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
    """Load the weights that a run starts from, and the dead zones of their quantisers. Parts of the network
    that the file lacks keep their initial values.

    Raises:
        WeightsError: if the file is missing or damaged, or has tensors that the network lacks.
    """
    found = network.load_state_dict(read_weights(Path(weights)), strict=False)
    if found.unexpected_keys:
        raise WeightsError(
            f"The weights {weights} do not fit: the network has no {found.unexpected_keys[0]}."
        )
    set_dead_zones(network, read_dead_zones(Path(weights)))


def start_record(start: Path) -> object:
    """The record of the run that wrote these weights, or their file name where there is none."""
    record = start.with_suffix(".json")
    return json.loads(record.read_text("utf-8")) if record.exists() else start.name


def log_rows(path: Path) -> list[list[str]]:
    """The rows of a CSV file after its header; none without the file."""
    return read_rows(path)[1:]


def read_rows(path: Path) -> list[list[str]]:
    if not path.exists():
        return []
    with path.open(newline="") as file:
        return [*csv.reader(file)]


def append_row(path: Path, row: Mapping[str, object]) -> None:
    """Append a row to a CSV file. The first row brings the header. New columns are added to all rows."""
    rows = read_rows(path)
    heading = rows[0] if rows else []
    added = [name for name in row if name not in heading]
    cells = [str(row.get(name, "")) for name in [*heading, *added]]
    if added:
        filled = [[*one, *[""] * (len(heading) + len(added) - len(one))] for one in rows[1:]]
        write_csv(path, [[*heading, *added], *filled, cells], end="\r\n")
    else:
        with path.open("a", newline="") as file:
            csv.writer(file).writerow(cells)


def drop_rows_after(path: Path, step: int) -> None:
    """Remove the rows of later steps from a log. They are of an interrupted session, and the resumed run
    writes them again."""
    heading, *rows = read_rows(path) or [[]]
    kept = [row for row in rows if len(row) == len(heading) and float(row[heading.index("step")]) <= step]
    if len(kept) < len(rows):
        write_csv(path, [heading, *kept], end="\r\n")
