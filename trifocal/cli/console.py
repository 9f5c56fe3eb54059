"""What the commands share: results on stdout, messages and progress bars on stderr."""

import os
import sys
import time
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import contextmanager
from typing import TYPE_CHECKING

from rich.console import Console as RichConsole
from rich.progress import (
    BarColumn,
    MofNCompleteColumn,
    Progress,
    ProgressColumn,
    TaskProgressColumn,
    TextColumn,
    TimeRemainingColumn,
)
from rich.table import Table
from rich.text import Text

from trifocal.cli.paths import Job, printable
from trifocal.errors import TrifocalError

if TYPE_CHECKING:
    from trifocal.evaluation import MeanResult

PATIENCE = 2.0  # seconds of one picture's work before a bar appears
BETWEEN_LINES = 60.0  # seconds, where a log is written and not a terminal

Advance = Callable[[float], None]


def sentence(error: Exception) -> str:
    """What to tell a person about an error that was to be expected."""
    if isinstance(error, OSError) and error.strerror and error.filename:
        return f"{error.filename}: {error.strerror[0].lower()}{error.strerror[1:].rstrip('.')}."
    return str(error)


def table_of_means(means: Sequence["MeanResult"]) -> Table:
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


class Console:
    """Results go to stdout, all else to stderr. A bar is drawn if stderr is a terminal.

    Args:
        quiet: print results and errors only.
        data_on_stdout: a file is written to stdout, so that lines about files go to stderr.
    """

    def __init__(self, quiet: bool = False, data_on_stdout: bool = False) -> None:
        self.out = RichConsole(soft_wrap=True, highlight=False, markup=False, emoji=False)
        self.err = RichConsole(soft_wrap=True, highlight=False, markup=False, emoji=False, stderr=True)
        self.quiet = quiet
        self.data_on_stdout = data_on_stdout
        self.bar: Progress | None = None

    @property
    def shows_bars(self) -> bool:
        """Not what rich says: FORCE_COLOR makes it take any file for a terminal."""
        return sys.stderr.isatty() and not self.quiet

    def say(self, *lines: str) -> None:
        """Results, printed without control characters."""
        text = "".join(f"{printable(line)}\n" for line in lines)
        with self._without_bar():
            sys.stdout.write(text)
            sys.stdout.flush()

    def report(self, line: str) -> None:
        """A line about a file that was written."""
        if self.quiet:
            return
        if self.data_on_stdout:
            self.note(line, style="")
        else:
            self.say(line)

    def note(self, text: str, style: str = "yellow") -> None:
        if not self.quiet:
            self._message(text, style)

    def complain(self, error: Exception, name: str = "") -> None:
        text = sentence(error)
        self._message(text if name in text else f"{name}: {text}", "red")

    def _message(self, text: str, style: str) -> None:
        with self._without_bar():
            self.err.print(Text(printable(text), style))

    @contextmanager
    def _without_bar(self) -> Iterator[None]:
        """Takes the bar away while a line is printed, as both may be on one terminal."""
        live = self.bar is not None and self.bar.live.is_started
        if live and self.bar:
            self.bar.stop()
        yield
        if live and self.bar:
            self.bar.start()

    def progress(self, *columns: ProgressColumn | str, transient: bool) -> Progress:
        """A bar on stderr."""
        self.bar = Progress(
            *columns,
            console=self.err,
            transient=transient,
            disable=not self.shows_bars,
            redirect_stdout=False,
            redirect_stderr=False,
        )
        return self.bar


def work_through(
    desk: Console,
    jobs: Sequence[Job],
    work: Callable[[Job, Advance], None],
    unread: Iterable[OSError] = (),
) -> int:
    """Does every job even if others fail, and names those that failed. Returns the exit status, 0 or 1.

    `unread` are errors of folders that could not be read; they fail too.
    """
    unread = list(unread)
    for error in unread:
        desk.complain(error)
    failed: list[Job] = []
    with bar_over(desk, jobs) as advance_of:
        for number, job in enumerate(jobs):
            advance_of(number)(0.0)
            try:
                work(job, advance_of(number))
            except BrokenPipeError:
                raise
            except (TrifocalError, OSError) as error:
                desk.complain(error, job.source.name)
                failed.append(job)
            advance_of(number)(1.0)
    if failed and len(jobs) > 1:
        names = ", ".join(job.input.name for job in failed)
        desk.complain(TrifocalError(f"{len(failed)} of {len(jobs)} failed: {names}"))
    return 1 if failed or unread else 0


@contextmanager
def bar_over(desk: Console, jobs: Sequence[Job]) -> Iterator[Callable[[int], Advance]]:
    """Gives a function from a job's number to what that job calls with its fraction done, 0 to 1."""
    text = TextColumn("{task.description}", markup=False)
    count = MofNCompleteColumn() if len(jobs) > 1 else TaskProgressColumn()
    bar = desk.progress(text, BarColumn(), count, TimeRemainingColumn(), transient=True)
    task = bar.add_task("", total=len(jobs))
    begun = time.monotonic()

    def advance_of(number: int) -> Advance:
        def advance(fraction: float) -> None:
            late = len(jobs) > 1 or time.monotonic() - begun > PATIENCE
            if late and desk.shows_bars and not bar.live.is_started:
                bar.start()
            bar.update(task, completed=number + fraction, description=printable(jobs[number].source.name))

        return advance

    try:
        yield advance_of
    finally:
        bar.stop()


@contextmanager
def reporting(desk: Console) -> Iterator[Callable[[float, str], None]]:
    """Gives what a long run calls with its fraction done and a line of text: a bar, or now and then a line in a log.

    Of several processes that train together (torchrun, accelerate) the first one reports.
    """
    if os.environ.get("RANK", "0") != "0":
        yield lambda fraction, text: None
        return
    text_column = TextColumn("{task.description}", markup=False)
    last = -BETWEEN_LINES

    def report(fraction: float, text: str) -> None:
        nonlocal last
        bar.update(task, completed=fraction, description=printable(text))
        now = time.monotonic()
        if not desk.shows_bars and (now - last >= BETWEEN_LINES or fraction >= 1):
            last = now
            desk.note(f"{fraction:4.0%}  {text}", style="")

    with desk.progress(
        BarColumn(), TaskProgressColumn(), TimeRemainingColumn(), text_column, transient=False
    ) as bar:
        task = bar.add_task("", total=1.0)
        yield report
