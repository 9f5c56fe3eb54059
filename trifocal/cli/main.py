"""What the verbs share: the command they belong to, how errors are said, and the options that several of them have."""

import atexit
import gc
import io
import os
import sys
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer
from typer.core import TyperGroup

from trifocal.errors import TrifocalError

if TYPE_CHECKING:
    from trifocal.cli.console import Console
    from trifocal.cli.paths import Found, Job


class Verbs(TyperGroup):
    """Expected errors become one sentence on stderr and exit status 1. Characters that a terminal lacks become escapes."""

    def main(self, *args: Any, **options: Any) -> Any:
        for stream in sys.stdout, sys.stderr:
            if isinstance(stream, io.TextIOWrapper):
                stream.reconfigure(errors="backslashreplace")
        return super().main(*args, **options)

    def invoke(self, ctx: Any) -> Any:
        try:
            return super().invoke(ctx)
        except BrokenPipeError:
            raise
        except (TrifocalError, OSError) as error:
            from trifocal.cli.console import Console

            Console().complain(error)
            raise typer.Exit(1) from error


app = typer.Typer(
    cls=Verbs, no_args_is_help=True, pretty_exceptions_enable=False, help="Trifocal, a learned image codec."
)


def show_version(wanted: bool) -> None:
    if wanted:
        from importlib.metadata import version

        typer.echo(f"trifocal {version('trifocal')}")
        raise typer.Exit()


Out = Annotated[
    str | None,
    typer.Option(
        "--out", "-o", help="A file; a folder for several inputs or a folder; - is standard output."
    ),
]
Preset = Annotated[
    str | None, typer.Option(help="Which model; see `trifocal presets`. dual-layer-compact, if not said.")
]
Recursive = Annotated[bool, typer.Option("--recursive", "-r", help="Recurse into subfolders.")]
Force = Annotated[
    bool, typer.Option("--force", help="Replace existing files; by default only a file that -o names.")
]
SkipExisting = Annotated[
    bool, typer.Option("--skip-existing", help="Leave out inputs whose output file exists.")
]
KeepSuffix = Annotated[
    bool,
    typer.Option("--keep-suffix", help="Add to the input's name: photo.jpg.tri instead of photo.tri."),
]
KeepTimes = Annotated[
    bool, typer.Option("--keep-times", help="Give outputs the access and modification times of their inputs.")
]
Quiet = Annotated[
    bool, typer.Option("--quiet", help="Print errors and results only, no progress or notices.")
]
MaxPixels = Annotated[
    int | None,
    typer.Option(
        min=1,
        help="Refuse larger pictures; 134217728 by default. One takes up to 900 MB of memory and 20 bytes a pixel.",
    ),
]
Threads = Annotated[
    int | None,
    typer.Option(
        min=1, help="Processor threads to use, at most as many as the machine has; the default is all."
    ),
]
Weights = Annotated[
    str | None,
    typer.Option(metavar="FILE", help="Your own .safetensors of the preset; in place of those that ship."),
]
Wide = Annotated[
    bool, typer.Option("--version", callback=show_version, is_eager=True, help="Say which version.")
]


@app.callback()
def main(version: Wide = False) -> None:
    atexit.register(leave_at_once)


def leave_at_once() -> None:
    """Python searches all that torch imported for garbage when it leaves: half a second after the answer is there.

    Not where triton is loaded, which complains of each object that stays.
    """
    if "triton" not in sys.modules:
        gc.freeze()


def use_threads(count: int | None) -> None:
    if count is not None:
        from trifocal.utils.timing import gc_paused

        with gc_paused():
            import torch
        torch.set_num_threads(min(count, os.cpu_count() or 1))  # OpenMP crashes where it gets no more threads


def check_outputs(paths: Iterable[Path], force: bool) -> None:
    """Raises OptionError where one of the files that a command will write exists, unless it is forced."""
    from trifocal.cli.paths import Outputs

    outputs = Outputs(force=force)
    for path in paths:
        outputs.add(path, named=False, source=str(path))
    outputs.check()


def desk_for(jobs: "Sequence[Job]", quiet: bool, as_json: bool = False) -> "Console":
    """The desk for a run with these outputs. Raises typer.BadParameter where two kinds of results would mix on stdout."""
    from trifocal.cli.console import Console

    data_on_stdout = any(job.output.is_stdout for job in jobs)
    if data_on_stdout and as_json:
        raise typer.BadParameter("--json prints to standard output, so -o cannot be - too; name a file.")
    if data_on_stdout and sys.stdout.isatty():
        raise typer.BadParameter("standard output is a terminal; name a file with -o, or redirect it.")
    return Console(quiet, data_on_stdout)


def report_inputs(desk: "Console", found: "Found", jobs: "Sequence[Job]") -> None:
    """Prints what of the folders is left out, and how many inputs have their outputs already."""
    if notice := found.notice():
        desk.note(notice)
    if skipped := len(found.inputs) - len(jobs):
        desk.note(f"{skipped} of {len(found.inputs)} inputs were skipped, as their output files exist.")
