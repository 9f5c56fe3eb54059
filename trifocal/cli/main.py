"""What the verbs share: the command they belong to, how errors are said, and the options that several of them have."""

import atexit
import gc
import sys
from typing import Annotated, Any

import typer
from typer.core import TyperGroup

from trifocal.errors import TrifocalError


class Verbs(TyperGroup):
    """Errors that were to be expected become one sentence on stderr and exit status 1."""

    def invoke(self, ctx: Any) -> Any:
        try:
            return super().invoke(ctx)
        except BrokenPipeError:
            raise
        except (TrifocalError, OSError) as error:
            from trifocal.console import Desk

            Desk().complain(error)
            raise typer.Exit(1) from error


app = typer.Typer(
    cls=Verbs, no_args_is_help=True, pretty_exceptions_enable=False, help="Trifocal, a learned image codec."
)


def show_version(wanted: bool) -> None:
    if wanted:
        from importlib.metadata import version

        typer.echo(f"trifocal {version('trifocal')}")
        raise typer.Exit()


Out = Annotated[str | None, typer.Option("--out", "-o", help="A file; a folder where there are several.")]
Preset = Annotated[
    str | None, typer.Option(help="Which model; see `trifocal presets`. dual-layer-compact, if not said.")
]
Recursive = Annotated[
    bool, typer.Option("--recursive", "-r", help="Also take what is in folders in folders.")
]
Threads = Annotated[int | None, typer.Option(min=1, help="Processor threads to use; all, if not said.")]
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
        from trifocal.clock import without_collecting

        with without_collecting():
            import torch
        torch.set_num_threads(count)
