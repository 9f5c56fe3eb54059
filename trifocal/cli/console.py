"""Terminal output of the commands: results on stdout; messages and progress bars on stderr."""

import os
import sys
import threading
import time
from collections.abc import Callable, Iterable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from contextvars import copy_context
from functools import cached_property, partial
from itertools import starmap
from typing import TYPE_CHECKING

from trifocal.cli.options import printable
from trifocal.cli.paths import Job
from trifocal.errors import TrifocalError

if TYPE_CHECKING:  # rich takes a tenth of a command's start, and many commands print no colours
    from rich.console import Console as RichConsole
    from rich.progress import Progress as ProgressBar
    from rich.progress import ProgressColumn
    from rich.table import Table

    from trifocal.evaluation import MeanResult, TextEffect

BAR_DELAY = 2.0  # seconds of one image's work before a bar appears
LOG_INTERVAL = 60.0  # seconds between lines where stderr is no terminal

Progress = Callable[[float], None]


def sentence(error: Exception) -> str:
    """The message of an expected error."""
    if isinstance(error, OSError) and error.strerror and error.filename:
        return f"{error.filename}: {error.strerror[0].lower()}{error.strerror[1:].rstrip('.')}."
    return str(error)


def effects_table(effects: Sequence["TextEffect"]) -> "Table":
    """A row for each preset, metric and pair of text kinds."""
    from rich.table import Table

    caption = "gain at equal bytes; 95 % bootstrap interval over images; * excludes zero"
    table = Table(box=None, header_style="bold", caption=caption, pad_edge=False, collapse_padding=True)
    for name in ("preset", "metric", "text", "against", "sent text", "difference", "interval", "images"):
        table.add_column(name)
    for one in effects:
        paired = one.paired
        mean = "" if paired.mean is None else f"{paired.mean:+.4g}"
        interval = ""
        if paired.low is not None and paired.high is not None:
            star = "" if paired.low <= 0 <= paired.high else " *"
            interval = f"{paired.low:+.4g} to {paired.high:+.4g}{star}"
        counted = "counted" if one.counted else "left out"
        table.add_row(
            one.preset, one.metric, one.text, one.against, counted, mean, interval, str(paired.pictures)
        )
    return table


def means_table(means: Sequence["MeanResult"]) -> "Table":
    """A row for each codec and quality."""
    from rich.table import Table

    columns = list(dict.fromkeys(column for mean in means for column in mean.values))
    short = [column.partition(":")[0] for column in columns]
    networks = dict.fromkeys(column.partition(":")[2].replace(":", ", short side ") for column in columns)
    if len(set(short)) < len(columns):  # of several networks
        short = columns
    caption = "" if short is columns else "; ".join(filter(None, networks))
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
    """Prints results to stdout and everything else to stderr. A bar is drawn if stderr is a terminal.

    Several threads may print; each can hold its lines back until another prints them (`hold`).

    Args:
        quiet: print only results and errors.
        data_on_stdout: a file is written to stdout, so lines about files go to stderr.
    """

    def __init__(self, quiet: bool = False, data_on_stdout: bool = False) -> None:
        self.quiet = quiet
        self.data_on_stdout = data_on_stdout
        self.bar: ProgressBar | None = None
        self.lock = threading.RLock()  # of the terminal
        self._held = threading.local()

    @cached_property
    def out(self) -> "RichConsole":
        return rich_console(stderr=False)

    @cached_property
    def err(self) -> "RichConsole":
        return rich_console(stderr=True)

    @property
    def shows_bars(self) -> bool:
        """Whether to draw progress bars.

        Does not use rich's detection, which treats any file as a terminal under FORCE_COLOR.
        """
        return sys.stderr.isatty() and not self.quiet

    def print_result(self, *lines: str) -> None:
        """Print results to stdout, with control characters escaped."""
        text = "".join(f"{printable(line)}\n" for line in lines)

        def show() -> None:
            sys.stdout.write(text)
            sys.stdout.flush()

        self._show(show)

    def report(self, line: str) -> None:
        """Print a line about a file that was written."""
        if self.quiet:
            return
        if self.data_on_stdout:
            self.print_notice(line, style="")
        else:
            self.print_result(line)

    def print_notice(self, text: str, style: str = "yellow") -> None:
        """Print a notice to stderr."""
        if not self.quiet:
            self._message(text, style)

    def error(self, error: Exception, name: str = "") -> None:
        """Print an error to stderr, with the name of its file if the message lacks it."""
        text = sentence(error)
        self._message(text if name in text else f"{name}: {text}", "red")

    def _message(self, text: str, style: str) -> None:
        from rich.text import Text

        self._show(lambda: self.err.print(Text(printable(text), style)))

    @contextmanager
    def hold(self) -> Iterator[list[Callable[[], None]]]:
        """Collect what this thread prints in a list, for `print_held`."""
        lines: list[Callable[[], None]] = []
        self._held.lines = lines
        try:
            yield lines
        finally:
            self._held.lines = None

    def print_held(self, lines: Iterable[Callable[[], None]]) -> None:
        """Print what `hold` collected."""
        for show in lines:
            self._show(show)

    def _show(self, show: Callable[[], None]) -> None:
        """Print with the bar hidden, as both may be on one terminal; or add to what this thread holds."""
        if (held := getattr(self._held, "lines", None)) is not None:
            held.append(show)
            return
        with self.lock:
            live = self.bar is not None and self.bar.live.is_started
            if live and self.bar:
                self.bar.stop()
            show()
            if live and self.bar:
                self.bar.start()

    def progress(self, *columns: "ProgressColumn | str", transient: bool) -> "ProgressBar":
        """A bar on stderr."""
        from rich.progress import Progress as ProgressBar

        self.bar = ProgressBar(
            *columns,
            console=self.err,
            transient=transient,
            disable=not self.shows_bars,
            redirect_stdout=False,
            redirect_stderr=False,
        )
        return self.bar


def rich_console(stderr: bool) -> "RichConsole":
    from rich.console import Console as RichConsole

    return RichConsole(soft_wrap=True, highlight=False, markup=False, emoji=False, stderr=stderr)


def run_jobs(
    console: Console,
    jobs: Sequence[Job],
    work: Callable[[Job, Progress], None],
    unread: Iterable[OSError] = (),
    at_once: int = 1,
) -> int:
    """Run every job even if others fail, and print those that failed. Returns the exit status, 0 or 1.

    `unread` are errors of folders that could not be read; they count as failures. `at_once` jobs run at the
    same time, on threads; what they print keeps the order of the jobs.
    """
    unread = list(unread)
    for error in unread:
        console.error(error)

    def run(job: Job, progress: Progress) -> bool:
        progress(0.0)
        try:
            work(job, progress)
        except BrokenPipeError:
            raise
        except (TrifocalError, OSError) as error:
            console.error(error, job.source.name)
            return False
        finally:
            progress(1.0)
        return True

    with progress_bar(console, jobs) as progress_of_job:
        calls = [(job, progress_of_job(number)) for number, job in enumerate(jobs)]
        done = starmap(run, calls) if at_once == 1 else run_at_once(console, run, calls, at_once)
        failed = [job for job, succeeded in zip(jobs, done) if not succeeded]
    if failed and len(jobs) > 1:
        names = ", ".join(job.input.name for job in failed)
        console.error(TrifocalError(f"{len(failed)} of {len(jobs)} failed: {names}"))
    return 1 if failed or unread else 0


class Stopped(Exception):
    """Ends a job on a thread after another has ended the run."""


def run_at_once(
    console: Console,
    run: Callable[[Job, Progress], bool],
    calls: Sequence[tuple[Job, Progress]],
    count: int,
) -> Iterator[bool]:
    """The results of `run`, in the order of the calls; `count` of them run at the same time.

    An exception here, such as KeyboardInterrupt, ends all: those that run stop at their next progress.
    """
    stopped = threading.Event()

    def held(job: Job, progress: Progress) -> tuple[bool, list[Callable[[], None]]]:
        def progress_or_stop(fraction: float) -> None:
            if stopped.is_set() and fraction < 1:
                raise Stopped
            progress(fraction)

        with console.hold() as lines:
            return run(job, progress_or_stop), lines

    with ThreadPoolExecutor(count, thread_name_prefix="trifocal-job") as pool:
        try:
            for future in [pool.submit(partial(copy_context().run, held, *call)) for call in calls]:
                succeeded, lines = future.result()
                console.print_held(lines)
                yield succeeded
        finally:
            stopped.set()
            pool.shutdown(cancel_futures=True)


@contextmanager
def progress_bar(console: Console, jobs: Sequence[Job]) -> Iterator[Callable[[int], Progress]]:
    """Gives a function from a job's number to its progress callback, which takes the fraction done, 0..1."""
    if not console.shows_bars:
        yield lambda number: lambda fraction: None
        return
    from rich.progress import (
        BarColumn,
        MofNCompleteColumn,
        TaskProgressColumn,
        TextColumn,
        TimeRemainingColumn,
    )

    text = TextColumn("{task.description}", markup=False)
    count = MofNCompleteColumn() if len(jobs) > 1 else TaskProgressColumn()
    bar = console.progress(text, BarColumn(), count, TimeRemainingColumn(), transient=True)
    task = bar.add_task("", total=len(jobs))
    start = time.monotonic()

    def progress_of_job(number: int) -> Progress:
        before = 0.0

        def progress(fraction: float) -> None:
            nonlocal before
            late = len(jobs) > 1 or time.monotonic() - start > BAR_DELAY
            with console.lock:
                if late and not bar.live.is_started:
                    bar.start()
            name = printable(jobs[number].source.name)
            bar.update(task, advance=fraction - before, description=name)
            before = fraction

        return progress

    try:
        yield progress_of_job
    finally:
        bar.stop()


@contextmanager
def reporting(console: Console) -> Iterator[Callable[[float, str], None]]:
    """Gives a callback for a long run, which takes the fraction done and a line of text: a bar, or a line a
    minute in a log.

    Of several processes that train together (torchrun, accelerate) only the first prints.
    """
    if os.environ.get("RANK", "0") != "0":
        yield lambda fraction, text: None
        return
    from rich.progress import BarColumn, TaskProgressColumn, TextColumn, TimeRemainingColumn

    text_column = TextColumn("{task.description}", markup=False)
    last = -LOG_INTERVAL

    def report(fraction: float, text: str) -> None:
        nonlocal last
        bar.update(task, completed=fraction, description=printable(text))
        now = time.monotonic()
        if not console.shows_bars and (now - last >= LOG_INTERVAL or fraction >= 1):
            last = now
            console.print_notice(f"{fraction:4.0%}  {text}", style="")

    with console.progress(
        BarColumn(), TaskProgressColumn(), TimeRemainingColumn(), text_column, transient=False
    ) as bar:
        task = bar.add_task("", total=1.0)
        yield report
