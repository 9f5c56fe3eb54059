"""What the verbs of the command line share: names of outputs, a progress bar, and what is said when something fails."""

import os
import time
from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from rich.console import Console
from rich.progress import (
    BarColumn,
    MofNCompleteColumn,
    Progress,
    TaskProgressColumn,
    TextColumn,
    TimeRemainingColumn,
)
from rich.table import Table
from rich.text import Text

from trifocal.errors import OptionError, TrifocalError

if TYPE_CHECKING:
    from trifocal.evaluation import Mean

PATIENCE = 2.0  # seconds of one picture's work before a bar appears
BETWEEN_LINES = 60.0  # seconds, where a log is written and not a terminal

Advance = Callable[[float], None]


@dataclass(frozen=True)
class Job:
    """One file to read, and the one that it becomes."""

    source: Path
    target: Path


def sentence(error: Exception) -> str:
    """What to tell a person about an error that was to be expected."""
    if isinstance(error, OSError) and error.strerror and error.filename:
        return f"{error.filename}: {error.strerror[0].lower()}{error.strerror[1:].rstrip('.')}."
    return str(error)


def table_of_means(means: Sequence["Mean"]) -> Table:
    """A line for each codec and quality."""
    columns = list(dict.fromkeys(column for mean in means for column in mean.values))
    short = [column.partition(":")[0] for column in columns]
    judges = dict.fromkeys(column.partition(":")[2].replace(":", ", short side ") for column in columns)
    if len(set(short)) < len(columns):  # of several networks
        short = columns
    caption = "" if short is columns else "; ".join(filter(None, judges))
    table = Table(box=None, header_style="bold", caption=caption, pad_edge=False, collapse_padding=True)
    for name in ("codec", "quality", "bpp", *short, "encode", "decode"):
        table.add_column(name)
    for mean in means:
        values = [mean.values.get(column) for column in columns]
        shown = ["" if value is None else f"{value:.4g}" for value in values]
        seconds = f"{mean.encode_s:.2f} s", f"{mean.decode_s:.2f} s"
        table.add_row(mean.preset, f"{mean.quality:g}", f"{mean.bpp:.4f}", *shown, *seconds)
    return table


class Desk:
    """Where a verb says things: results on stdout, all else on stderr, and a bar on whichever of them is a terminal."""

    def __init__(self) -> None:
        self.out = Console(soft_wrap=True, highlight=False, markup=False, emoji=False)
        self.err = Console(soft_wrap=True, highlight=False, markup=False, emoji=False, stderr=True)
        self.screen = self.out if self.out.is_terminal else self.err

    def say(self, text: str) -> None:
        self.out.print(text)

    def note(self, text: str, style: str = "yellow") -> None:
        (self.screen if self.err.is_terminal else self.err).print(Text(text, style))

    def complain(self, error: Exception, name: str = "") -> None:
        text = sentence(error)
        self.note(text if name in text else f"{name}: {text}", style="red")


def find(inputs: Sequence[str], recursive: bool, suffixes: Iterable[str]) -> dict[Path, Path]:
    """Files, each with the folder that its place in an output folder is relative to. A file is taken whatever its
    name; a folder gives its files with one of `suffixes`, sorted. Raises OptionError where a folder has none."""
    from trifocal.pictures import list_pictures

    found: dict[Path, Path] = {}
    for path in map(Path, inputs):
        files = list_pictures([path], recursive, suffixes)
        if not files:
            raise OptionError(
                f"There is nothing to take in the folder {path}; name files, or try --recursive."
            )
        root = path if path.is_dir() else path.parent
        found |= {file: root for file in files if file not in found}
    return found


def plan(found: Mapping[Path, Path], out: str | None, suffix: str) -> list[Job]:
    """Gives each file its output: beside it, or in the folder `out`, or `out` itself where that is a file's name.

    Where photo.jpg and photo.png would both become photo.tri they become photo.jpg.tri and photo.png.tri.
    Raises OptionError where two files would still become one, or an input would be written over.
    """
    alone = len(found) == 1 and all(file.parent == root for file, root in found.items())
    if out is not None and alone and not Path(out).is_dir() and not out.endswith(("/", os.sep)):
        jobs = [Job(file, Path(out)) for file in found]
    else:
        folders = [f.parent if out is None else Path(out) / f.parent.relative_to(r) for f, r in found.items()]
        jobs = name_apart(list(found), folders, suffix)
    refuse_clashes(jobs)
    return jobs


def name_apart(files: Sequence[Path], folders: Sequence[Path], suffix: str) -> list[Job]:
    short = [folder / f"{file.stem}{suffix}" for file, folder in zip(files, folders)]
    count = Counter(key_of(path) for path in short)
    return [
        Job(file, path if count[key_of(path)] == 1 else folder / f"{file.name}{suffix}")
        for file, folder, path in zip(files, folders, short)
    ]


def key_of(path: Path) -> str:
    """Equal for paths that are one file on some file system."""
    return str(path.resolve()).casefold()


def refuse_clashes(jobs: Sequence[Job]) -> None:
    seen: dict[str, Path] = {}
    sources = {key_of(job.source) for job in jobs}
    for job in jobs:
        if key_of(job.target) in sources:
            raise OptionError(
                f"{job.target} would be written over while it is an input; name another with -o."
            )
        other = seen.setdefault(key_of(job.target), job.source)
        if other is not job.source:
            raise OptionError(
                f"{other} and {job.source} would both become {job.target}; do them in two runs."
            )


def refuse_to_replace(jobs: Iterable[Job]) -> None:
    """Raises OptionError where an output is there already."""
    there = [job.target for job in jobs if job.target.exists()]
    if there:
        others = f" and {len(there) - 1} more are" if len(there) > 1 else " is"
        raise OptionError(
            f"{there[0]}{others} there already; use --force to replace, or -o to write elsewhere."
        )


def work_through(desk: Desk, jobs: Sequence[Job], work: Callable[[Job, Advance], None]) -> int:
    """Does every job, whatever becomes of the others; names those that failed. Returns the exit status, 0 or 1."""
    failed: list[Job] = []
    with bar_over(desk, jobs) as advance_of:
        for number, job in enumerate(jobs):
            advance_of(number)(0.0)
            try:
                job.target.parent.mkdir(parents=True, exist_ok=True)
                work(job, advance_of(number))
            except BrokenPipeError:
                raise
            except (TrifocalError, OSError) as error:
                desk.complain(error, job.source.name)
                failed.append(job)
            advance_of(number)(1.0)
    if failed and len(jobs) > 1:
        names = ", ".join(str(job.source) for job in failed)
        desk.note(f"{len(failed)} of {len(jobs)} failed: {names}", style="red")
    return 1 if failed else 0


@contextmanager
def bar_over(desk: Desk, jobs: Sequence[Job]) -> Iterator[Callable[[int], Advance]]:
    """Gives a function from a job's number to what that job calls with its fraction done, 0 to 1."""
    columns = [TextColumn("{task.description}"), BarColumn(), TaskProgressColumn(), TimeRemainingColumn()]
    if len(jobs) > 1:
        columns[2] = MofNCompleteColumn()
    bar = Progress(*columns, console=desk.screen, transient=True, disable=not desk.screen.is_terminal)
    task = bar.add_task("", total=len(jobs))
    begun = time.monotonic()

    def advance_of(number: int) -> Advance:
        def advance(fraction: float) -> None:
            if not bar.live.is_started and (len(jobs) > 1 or time.monotonic() - begun > PATIENCE):
                bar.start()
            bar.update(task, completed=number + fraction, description=jobs[number].source.name)

        return advance

    try:
        yield advance_of
    finally:
        bar.stop()


@contextmanager
def reporting(desk: Desk) -> Iterator[Callable[[float, str], None]]:
    """Gives what a long run calls with its fraction done and a line of text: a bar, or now and then a line in a log.

    Of several processes that train together (torchrun, accelerate) the first one reports.
    """
    if os.environ.get("RANK", "0") != "0":
        yield lambda fraction, text: None
        return
    columns = [BarColumn(), TaskProgressColumn(), TimeRemainingColumn(), TextColumn("{task.description}")]
    last = -BETWEEN_LINES

    def report(fraction: float, text: str) -> None:
        nonlocal last
        bar.update(task, completed=fraction, description=text)
        now = time.monotonic()
        if not desk.screen.is_terminal and (now - last >= BETWEEN_LINES or fraction >= 1):
            last = now
            desk.note(f"{fraction:4.0%}  {text}", style="")

    with Progress(*columns, console=desk.screen, disable=not desk.screen.is_terminal) as bar:
        task = bar.add_task("", total=1.0)
        yield report
