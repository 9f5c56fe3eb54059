"""The options of a training run, which its checkpoint keeps for `--resume` and `trifocal export`."""

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import torch

from trifocal.errors import OptionError
from trifocal.training.checkpoint import check_length

__all__ = ["CHECKPOINT", "LOG", "open_run", "read_options"]

CHECKPOINT, LOG = "checkpoint.pt", "log.csv"
LENGTHS = ("steps", "minutes")
PATHS = ("data", "start", "teacher", "clip")


def open_run(
    subject: str,
    out: str | Path,
    given: Mapping[str, Any],
    defaults: Mapping[str, Any],
    resume: bool,
    force: bool,
) -> dict[str, Any]:
    """The options of a run: those that are given, then those of the checkpoint if it is resumed, then the
    defaults.

    Args:
        subject: what is trained: the name of a preset, "towers", "categories",
            "detector" or "base".
        out: folder of the run. Its name is part of the messages.
        given: by name; None, and empty lists and tables, are not given. `fields` is merged with that of the
            checkpoint. Paths are kept independent of the current folder.
        defaults: for options that nothing sets.
        resume: continue from the checkpoint.
        force: without `resume`, remove the checkpoint and the log of an earlier run.

    Raises:
        OptionError: without `resume`, if there is a checkpoint, and not `force`; with it, if there is none,
            or it is of another subject; for a length that is not above 0, or none.
    """
    folder = Path(out)
    kept: dict[str, Any] = {}
    if resume:
        kept = read_options(folder)
        if kept.get("subject", subject) != subject:
            raise OptionError(
                f"The run in {folder} trains {kept['subject']}, not {subject}; resume that, or name another "
                "folder with -o."
            )
    elif (folder / CHECKPOINT).exists():
        if not force:
            raise OptionError(
                f"There is a run in {folder} already; continue it with --resume, or name another folder for "
                "a new one with -o."
            )
        for name in (CHECKPOINT, LOG):
            (folder / name).unlink(missing_ok=True)
    stored: dict[str, Any] = {
        name: absolute(value) if name in PATHS else value for name, value in given.items()
    }
    own = {name: value for name, value in stored.items() if value is not None and value != [] and value != {}}
    if any(name in own for name in LENGTHS):
        kept = {name: value for name, value in kept.items() if name not in LENGTHS}
    options = {**dict.fromkeys(LENGTHS), **defaults, **kept, **own, "subject": subject}
    if "fields" in defaults:
        options["fields"] = {**kept.get("fields", {}), **own.get("fields", {})}
    check_length(options["steps"], options["minutes"])
    return options


def read_options(folder: Path) -> dict[str, Any]:
    """The options in the checkpoint of a run; empty for checkpoints of earlier versions.

    Raises:
        OptionError: if there is no checkpoint.
    """
    path = folder / CHECKPOINT
    if not path.exists():
        raise OptionError(f"There is no checkpoint in {folder} to resume; start anew without --resume.")
    state = torch.load(path, map_location="cpu", weights_only=True, mmap=True)
    options: dict[str, Any] = state.get("options", {})
    return options


def absolute(path: str | Path | Sequence[str | Path] | None) -> str | list[str] | None:
    """A path, or each of several, as an absolute one; None stays None."""
    if path is None or isinstance(path, (str, Path)):
        return None if path is None else str(Path(path).absolute())
    return [str(Path(one).absolute()) for one in path]
