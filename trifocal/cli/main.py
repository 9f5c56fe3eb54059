"""The command group, its error handling, and the options that several commands share."""

import atexit
import io
import os
import sys
from collections.abc import Iterable, Sequence
from contextlib import suppress
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, cast

import typer
from typer.core import TyperGroup

from trifocal.cli.options import parse_positive, parse_size
from trifocal.errors import OptionError, TrainingError, TrifocalError

if TYPE_CHECKING:
    from trifocal.cli.console import Console
    from trifocal.cli.paths import Inputs, Job
    from trifocal.codecs.loading import Engine


BLAS_THREADS = "OPENBLAS_NUM_THREADS"
MOST_AT_ONCE = 4  # images, unless --jobs says more: each takes 100 to 600 MB
MEMORY, MEMORY_OF_REFINEMENT = 2**26, 3 * 2**26  # bytes that coding any image takes, and refinement


class CommandGroup(TyperGroup):
    """Prints an expected error as one sentence on stderr, with exit status 1.

    Characters that the terminal's encoding lacks are escaped.
    """

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

            shared = isinstance(error, (OptionError, TrainingError))  # by all processes of torchrun
            if not shared or os.environ.get("RANK", "0") == "0":
                Console().error(error)
            raise typer.Exit(1) from error


app = typer.Typer(
    cls=CommandGroup,
    no_args_is_help=True,
    pretty_exceptions_enable=False,
    rich_markup_mode=None,
    help="Trifocal, a learned image codec.",
)


def print_version(wanted: bool) -> None:
    if wanted:
        import trifocal

        typer.echo(f"trifocal {trifocal.__version__}")
        raise typer.Exit()


InputFiles = Annotated[list[str], typer.Argument(metavar="FILES_OR_FOLDERS...", show_default=False)]
Out = Annotated[
    str | None,
    typer.Option(
        "--out",
        "-o",
        metavar="PATH",
        help="Output file, or - for standard output. If the input is a folder or several files, the output "
        "folder. [default: the folder of the input]",
    ),
]
Preset = Annotated[
    str | None,
    typer.Option(metavar="PRESET", help="Model; see `trifocal presets`. [default: dual-layer-compact]"),
]
Quality = Annotated[
    float | None,
    typer.Option("--quality", "-q", min=0, max=100, help="Quality. [default: 50]"),
]
Bpp = Annotated[
    float | None,
    typer.Option(
        parser=parse_positive,
        metavar="FLOAT",
        help="Maximum bits per pixel, above 0, such as 0.25, instead of a quality.",
    ),
]
MaxBytes = Annotated[
    int | None,
    typer.Option(
        "--bytes",
        parser=parse_size,
        metavar="SIZE",
        help="Maximum size of the file, such as 20k, instead of a quality.",
    ),
]
BaseQuality = Annotated[
    int | None,
    typer.Option(
        min=0,
        max=100,
        help="Quality of the base layer (scalable presets only). [default: min(20, quality / 2); with "
        "--bpp or --bytes, the highest of 20, 10 and 0 at which the base layer takes at most 15 % of the "
        "size]",
    ),
]
Refinement = Annotated[
    int | None,
    typer.Option(
        min=0,
        help="Gradient steps that bring the detector's outputs on the base layer closer to those on the "
        "image, at fewer bits. 0 saves about 0.3 s per image on two cores; at the same base quality the "
        "base layer is then up to 3 % larger, and detection less accurate. [default: 4; dual-layer: 0]",
    ),
]


def check_rate(quality: float | None, bpp: float | None, max_bytes: int | None) -> None:
    """Raises typer.BadParameter if more than one of them is given."""
    if sum(rate is not None for rate in (quality, bpp, max_bytes)) > 1:
        raise typer.BadParameter("give only one of --quality, --bpp and --bytes.")


Recursive = Annotated[bool, typer.Option("--recursive", "-r", help="Recurse into subfolders.")]


def force_option(others: str = "") -> Any:
    """`--force`; others: further options whose files are replaced without it, such as " or --draw"."""
    return typer.Option(
        "--force", help=f"Replace existing files. Without it only a file named with -o{others} is replaced."
    )


Force = Annotated[bool, force_option()]
ForceFolder = Annotated[
    bool, typer.Option("--force", help="Replace the files of an earlier run in the output folder.")
]
SkipExisting = Annotated[bool, typer.Option("--skip-existing", help="Skip inputs whose output file exists.")]
KeepSuffix = Annotated[
    bool,
    typer.Option("--keep-suffix", help="Keep the input suffix: photo.jpg.tri, photo.tri.png."),
]
KeepTimes = Annotated[
    bool, typer.Option("--keep-times", help="Copy access and modification times from input to output.")
]
Quiet = Annotated[bool, typer.Option("--quiet", help="Print only results and errors.")]
MaxPixels = Annotated[
    int | None,
    typer.Option(
        min=1,
        help="Refuse larger images. An image takes up to 600 MB of memory plus 20 bytes per pixel. "
        "[default: 134217728]",
    ),
]
Threads = Annotated[
    int | None,
    typer.Option(
        min=1, help="Processor threads, at most the number of processors. [default: all processors]"
    ),
]
Jobs = Annotated[
    int | None,
    typer.Option(
        "--jobs",
        min=1,
        help="Images that are encoded at the same time; they share the threads, and each takes its own "
        f"memory. [default: one per thread, at most {MOST_AT_ONCE}]",
    ),
]
Weights = Annotated[
    str | None,
    typer.Option(metavar="FILE", help="Custom weights (.safetensors) instead of the bundled ones."),
]
WeightsForFile = Annotated[
    str | None,
    typer.Option(
        "--weights",
        metavar="PATH",
        help="Custom weights: a .safetensors file, or a folder of them, of which each .tri file's "
        "fingerprint selects one.",
    ),
]


def parse_engine(name: str) -> "Engine":
    """The engine of that name. Raises typer.BadParameter."""
    if name not in ("onnx", "torch"):
        raise typer.BadParameter(f"--engine is onnx or torch, not {name}.")
    return cast("Engine", name)


EngineName = Annotated[
    Any,
    typer.Option(
        "--engine",
        parser=parse_engine,
        metavar="ENGINE",
        help="onnx, which runs the compact presets on the CPU, or torch. [default: onnx where it can]",
    ),
]
AsJson = Annotated[bool, typer.Option("--json", help="Print one JSON object per file, each on one line.")]
Version = Annotated[
    bool, typer.Option("--version", callback=print_version, is_eager=True, help="Print the version.")
]


Networks = Annotated[
    str | None,
    typer.Option(
        metavar="FOLDER",
        help="Folder of other projects' networks, for machines without network access: CLIP, Stable "
        "Diffusion, Grounding DINO, and the weights of torch's hub; docs/evaluation.md names its files. Or "
        "set TRIFOCAL_NETWORKS.",
    ),
]


@app.callback()
def main(networks: Networks = None, version: Version = False) -> None:
    if networks is not None:
        use_networks(networks)


def use_networks(folder: str) -> None:
    """Name the folder of networks for this process and those that it starts. Raises OptionError if there is
    none.
    """
    from trifocal.utils.local_networks import VARIABLE, networks_folder

    os.environ[VARIABLE] = folder
    networks_folder()


def run() -> None:
    """Run the command that the arguments of this process name, and end the process.

    Its last exit handler ends it, before Python frees one by one the objects that the system frees at once:
    that takes 4 % of the processor time of a decode, and half a second after torch was imported.
    """
    status = 1  # after an error that Python prints

    def leave() -> None:
        with suppress(OSError, ValueError):  # of closed streams, which Python reports
            sys.stdout.flush()
            sys.stderr.flush()
            os._exit(status)

    atexit.register(leave)  # before all other handlers, so that it is called after them
    try:
        app(prog_name="trifocal")
    except SystemExit as end:
        status = end.code if isinstance(end.code, int) else int(end.code is not None)
        raise


def prepare_coding(refines: bool = False) -> None:
    """Settings of a process that codes images. Call it before the first import of NumPy.

    NumPy's OpenBLAS gets one thread, since its others wait busily after the import and after each product, a
    tenth of the processor time of a decode; `utils.threads` divides large products among threads.

    Args:
        refines: whether base layers are refined, which takes more memory.
    """
    from trifocal.utils.memory import keep_freed_memory, take_memory_ahead
    from trifocal.utils.threads import processor_count

    keep_freed_memory()
    if processor_count() > 1:
        take_memory_ahead(MEMORY_OF_REFINEMENT if refines else MEMORY)
    given = os.environ.get(BLAS_THREADS)
    os.environ[BLAS_THREADS] = "1"
    import numpy  # noqa: F401

    if given is None:
        del os.environ[BLAS_THREADS]  # torch's own OpenBLAS reads it too
    else:
        os.environ[BLAS_THREADS] = given


def use_threads(count: int | None, at_once: int = 1) -> None:
    """Set the number of threads of both engines, at most the number of processors; OpenMP crashes if it gets
    no more threads. `at_once` images that are coded at the same time share them.
    """
    if count is None and at_once == 1:
        return
    from trifocal.utils.threads import thread_count

    threads = thread_count() if count is None else min(count, os.cpu_count() or 1)
    each = max(1, threads // at_once)
    os.environ["OMP_NUM_THREADS"] = str(each)  # which NumPy and both engines read
    if (torch := sys.modules.get("torch")) is not None:
        torch.set_num_threads(each)


def images_at_once(wanted: int | None, threads: int | None, images: int) -> int:
    """How many images are coded at the same time: as many as `--jobs` says, or as there are threads up to
    MOST_AT_ONCE; and no more than there are images.
    """
    if wanted is None:
        from trifocal.utils.threads import thread_count

        wanted = min(threads or thread_count(), os.cpu_count() or 1, MOST_AT_ONCE)
    return max(1, min(wanted, images))


def check_outputs(paths: Iterable[Path], force: bool) -> None:
    """Raises OptionError if one of these files exists, unless `force`."""
    from trifocal.cli.paths import Outputs

    outputs = Outputs(force=force)
    for path in paths:
        outputs.add(path, named=False, source=str(path))
    outputs.check()


def console_for(jobs: "Sequence[Job]", quiet: bool, as_json: bool = False) -> "Console":
    """The console for a run with these outputs. Raises typer.BadParameter if two kinds of results would mix
    on stdout.
    """
    from trifocal.cli.console import Console

    data_on_stdout = any(job.output.is_stdout for job in jobs)
    if data_on_stdout and as_json:
        raise typer.BadParameter("--json prints to standard output, so -o cannot be - too; name a file.")
    if data_on_stdout and sys.stdout.isatty():
        raise typer.BadParameter("standard output is a terminal; name a file with -o, or redirect it.")
    return Console(quiet, data_on_stdout)


def report_inputs(console: "Console", inputs: "Inputs", jobs: "Sequence[Job]") -> None:
    """Print which files of the folders are left out, and how many inputs are skipped."""
    if notice := inputs.notice():
        console.print_notice(notice)
    if skipped := len(inputs.files) - len(jobs):
        console.print_notice(
            f"{skipped} of {len(inputs.files)} inputs were skipped, as their output files exist."
        )
