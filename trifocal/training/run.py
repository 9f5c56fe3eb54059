"""The options of a training run, which its checkpoint keeps for `--resume` and `trifocal export`."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, TypedDict

import torch

from trifocal.errors import OptionError
from trifocal.training.checkpoint import check_length, log_rows
from trifocal.training.task import Notify, Report, silent

__all__ = ["CHECKPOINT", "LOG", "Run", "RunOptions", "open_run", "read_options"]

CHECKPOINT, LOG = "checkpoint.pt", "log.csv"
LENGTHS = ("steps", "minutes")
PATHS = ("data", "start", "teacher", "clip")
CALLS = ("resume", "force", "report", "notify")  # options of a call, which the checkpoint does not keep
DEFAULTS: dict[str, Any] = {"data": [], "precision": "auto", "every": 5.0}


class RunOptions(TypedDict, total=False):
    """Options of every training run; None is not given.

    Attributes:
        steps, minutes: length of the run; one of them.
        batch: images (or texts) in a step, in all processes together; the default is that of the recipe.
        precision: "auto" (the default), "bfloat16" or "float32"; see `choose_precision`.
        start: weights (.safetensors) to start from.
        resume: continue from the checkpoint in the folder of the run, with its options where none are given.
            A run whose length is used up already is exported without a further step.
        force: replace the run in the folder.
        every: minutes between checkpoints; 5 by default.
        report: called after each step with the fraction done and a line of text.
        notify: called with each notice.
    """

    steps: int | None
    minutes: float | None
    batch: int | None
    precision: str | None
    start: str | Path | None
    resume: bool
    force: bool
    every: float | None
    report: Report
    notify: Notify


@dataclass(frozen=True)
class Run:
    """A training run that was opened.

    Attributes:
        out: its folder.
        options: of the run by name, which its checkpoint keeps.
        resume: whether it continues from the checkpoint; otherwise `Trainer.fit` replaces an earlier run.
        report, notify: as in `RunOptions`.
    """

    out: Path
    options: dict[str, Any]
    resume: bool
    report: Report
    notify: Notify


def open_run(
    subject: str,
    data: Sequence[str | Path],
    out: str | Path,
    common: RunOptions,
    own: Mapping[str, Any],
    defaults: Mapping[str, Any],
) -> Run:
    """A run with the options that are given, then those of the checkpoint if it is resumed, then the
    defaults. Nothing is written yet.

    Args:
        subject: what is trained: the name of a preset, "towers", "categories", "detector" or "base".
        data: folders, image files and shards.
        out: folder of the run. Its name is part of the messages.
        common: options that all trainings share.
        own: other options by name; None, and empty lists and tables, are not given. `fields` is merged with
            that of the checkpoint. Paths are kept independent of the current folder.
        defaults: for options that nothing sets, besides those of `DEFAULTS`; of all others it is None.

    Raises:
        OptionError: if the folder has a run that is neither resumed nor replaced; to resume, if it has no
            checkpoint, or one of another subject; for a length that is not above 0, or none.
        TypeError: for an unknown option.
    """
    if unknown := [name for name in common if name not in RunOptions.__annotations__]:
        raise TypeError(f"Training has no argument {unknown[0]!r}.")
    folder, resume = Path(out), common.get("resume", False)
    stored = {"data": data, **own, **{name: value for name, value in common.items() if name not in CALLS}}
    stored = {name: absolute(value) if name in PATHS else value for name, value in stored.items()}
    chosen = {name: value for name, value in stored.items() if value not in (None, [], {})}
    kept = kept_options(folder, subject) if resume else {}
    if not (resume or common.get("force")):
        check_unused(folder)
    if any(name in chosen for name in LENGTHS):
        kept = {name: value for name, value in kept.items() if name not in LENGTHS}
    unset = dict.fromkeys([*LENGTHS, "batch", "start", *own])
    options = {**unset, **DEFAULTS, **defaults, **kept, **chosen, "subject": subject}
    if "fields" in defaults:
        options["fields"] = {**kept.get("fields", {}), **chosen.get("fields", {})}
    check_length(options["steps"], options["minutes"])
    return Run(folder, options, resume, common.get("report", silent), common.get("notify", silent))


def check_unused(folder: Path) -> None:
    """Raise OptionError if a folder has a run: a checkpoint, or rows of a log."""
    if (folder / CHECKPOINT).exists():
        raise OptionError(
            f"There is a run in {folder} already; continue it with --resume, or name another folder for a "
            "new one with -o."
        )
    if log_rows(folder / LOG):
        raise OptionError(
            f"There is the log of a run in {folder} already, without a checkpoint; name another folder for a "
            "new one with -o, or replace it with --force."
        )


def kept_options(folder: Path, subject: str) -> dict[str, Any]:
    """The options in the checkpoint of a run. Raises OptionError if there is none, or of another subject."""
    kept = read_options(folder)
    if kept.get("subject", subject) != subject:
        raise OptionError(
            f"The run in {folder} trains {kept['subject']}, not {subject}; resume that, or name another "
            "folder with -o."
        )
    return kept


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
