"""The commands batch encode, batch decode and batch detect."""

import os
from typing import TYPE_CHECKING, Annotated

import typer

from trifocal.cli.main import (
    BaseQuality,
    Bpp,
    EngineName,
    KeepSuffix,
    MaxBytes,
    MaxPixels,
    Preset,
    Quality,
    Quiet,
    Recursive,
    Refinement,
    Weights,
    WeightsForFile,
    app,
    check_rate,
)
from trifocal.cli.options import parse_size
from trifocal.errors import OptionError, TrifocalError

if TYPE_CHECKING:
    from trifocal.batch.operations import Operation

MANIFEST = "manifest.parquet"

batch = typer.Typer(
    no_args_is_help=True,
    pretty_exceptions_enable=False,
    rich_markup_mode=None,
    help="Encode, decode or detect in all images of a folder, with Ray. Needs the extra `batch`.",
)
app.add_typer(batch, name="batch")

Folder = Annotated[
    str,
    typer.Argument(
        metavar="FOLDER",
        show_default=False,
        help="A local folder, or a URL of fsspec such as s3://bucket/photos.",
    ),
]
Out = Annotated[
    str | None,
    typer.Option(
        "--out", "-o", metavar="FOLDER", help="Folder or URL of the outputs. [default: that of the inputs]"
    ),
]
Manifest = Annotated[
    str | None,
    typer.Option(
        metavar="FILE.parquet",
        help="Table with a row for each image; also a URL. [default: manifest.parquet in the output folder]",
    ),
]
Resume = Annotated[
    bool,
    typer.Option(
        "--resume",
        help="Skip images that an earlier run with the same options has done. Images that failed are tried "
        "again.",
    ),
]
Force = Annotated[
    bool, typer.Option("--force", help="Start anew: replace existing outputs, manifest and journal.")
]
Jobs = Annotated[
    int | None,
    typer.Option("--jobs", min=1, help="Maximum number of workers. [default: one for each processor]"),
]
Memory = Annotated[
    int | None,
    typer.Option(
        parser=parse_size,
        metavar="SIZE",
        help="Memory of each worker, such as 2G. Images that need more are refused, and only as many workers "
        "start as fit into the machine's memory. A worker may take 800 MB, 200 MB of them for Ray, plus 20 "
        "bytes per pixel; with torch 1,200 MB. [default: no limit]",
    ),
]
Address = Annotated[
    str | None,
    typer.Option(
        metavar="ADDRESS",
        help="Use this Ray cluster: auto, or HOST:PORT. [default: Ray is started on this machine]",
    ),
]


@batch.command()
def encode(
    folder: Folder,
    preset: Preset = None,
    quality: Quality = None,
    bpp: Bpp = None,
    max_bytes: MaxBytes = None,
    base_quality: BaseQuality = None,
    refinement: Refinement = None,
    out: Out = None,
    manifest: Manifest = None,
    resume: Resume = False,
    force: Force = False,
    recursive: Recursive = False,
    keep_suffix: KeepSuffix = False,
    jobs: Jobs = None,
    memory: Memory = None,
    address: Address = None,
    max_pixels: MaxPixels = None,
    quiet: Quiet = False,
    engine: EngineName = None,
    weights: Weights = None,
) -> None:
    """Encode all images of a folder to .tri files.

    photo.jpg becomes photo.tri. After a crash, the same command with --resume continues.
    """
    check_rate(quality, bpp, max_bytes)
    from trifocal.batch.operations import Encode
    from trifocal.options import EncodeOptions
    from trifocal.presets import DEFAULT

    options = EncodeOptions(
        quality=quality, bpp=bpp, max_bytes=max_bytes, base_quality=base_quality, refinement=refinement
    )
    run_batch(
        Encode(preset or DEFAULT, options, engine, absolute(weights)),
        folder,
        out or folder,
        manifest,
        resume=resume,
        force=force,
        recursive=recursive,
        keep_suffix=keep_suffix,
        jobs=jobs,
        memory=memory,
        address=address,
        max_pixels=max_pixels,
        quiet=quiet,
    )


@batch.command()
def decode(
    folder: Folder,
    format: Annotated[str, typer.Option("--format", "-f", help="png, jpg, webp, ...")] = "png",
    out: Out = None,
    manifest: Manifest = None,
    resume: Resume = False,
    force: Force = False,
    recursive: Recursive = False,
    keep_suffix: KeepSuffix = False,
    jobs: Jobs = None,
    memory: Memory = None,
    address: Address = None,
    max_pixels: MaxPixels = None,
    quiet: Quiet = False,
    engine: EngineName = None,
    weights: WeightsForFile = None,
) -> None:
    """Decode all .tri files of a folder.

    photo.tri becomes photo.png. After a crash, the same command with --resume continues.
    """
    from trifocal.batch.operations import Decode

    run_batch(
        Decode(f".{format.lstrip('.').lower()}", engine, absolute(weights)),
        folder,
        out or folder,
        manifest,
        resume=resume,
        force=force,
        recursive=recursive,
        keep_suffix=keep_suffix,
        jobs=jobs,
        memory=memory,
        address=address,
        max_pixels=max_pixels,
        quiet=quiet,
    )


@batch.command()
def detect(
    folder: Folder,
    threshold: Annotated[
        float, typer.Option(min=0, max=1, help="Minimum score. Scores below 0.02 are never returned.")
    ] = 0.35,
    out: Annotated[
        str | None,
        typer.Option(
            "--out",
            "-o",
            metavar="FILE.parquet",
            help="Table with a row and the detections of each image; also a URL. [default: manifest.parquet "
            "in the folder of the images]",
        ),
    ] = None,
    resume: Resume = False,
    force: Force = False,
    recursive: Recursive = False,
    jobs: Jobs = None,
    memory: Memory = None,
    address: Address = None,
    max_pixels: MaxPixels = None,
    quiet: Quiet = False,
    engine: EngineName = None,
    weights: WeightsForFile = None,
) -> None:
    """Detect objects in all images and .tri files of a folder, and write them to a table.

    After a crash, the same command with --resume continues.
    """
    from trifocal.batch.operations import Detect

    run_batch(
        Detect(threshold, engine, absolute(weights)),
        folder,
        None,
        out,
        resume=resume,
        force=force,
        recursive=recursive,
        keep_suffix=False,
        jobs=jobs,
        memory=memory,
        address=address,
        max_pixels=max_pixels,
        quiet=quiet,
    )


def absolute(weights: str | None) -> str | None:
    """The path of a weight file or folder, for workers that have another working folder."""
    return None if weights is None else os.path.abspath(weights)


def run_batch(
    operation: "Operation",
    source: str,
    out: str | None,
    manifest: str | None,
    *,
    resume: bool,
    force: bool,
    recursive: bool,
    keep_suffix: bool,
    jobs: int | None,
    memory: int | None,
    address: str | None,
    max_pixels: int | None,
    quiet: bool,
) -> None:
    """Run an operation on the folder `source`, and exit with the status of the command; `out` is None for an
    operation that writes only the manifest.
    """
    if resume and force:
        raise typer.BadParameter("give only one of --resume and --force.")
    from trifocal.batch.coding import Task, pixel_limit
    from trifocal.batch.manifest import Manifest
    from trifocal.batch.run import plan, run
    from trifocal.batch.storage import Folder
    from trifocal.cli import console
    from trifocal.utils.limits import MAX_PIXELS

    pixels = max_pixels or MAX_PIXELS
    if memory is not None:
        pixels = min(pixels, pixel_limit(memory, operation.engine))
    parent, name = split(manifest or f"{out or source}/{MANIFEST}")
    target = None if out is None else Folder(out)
    table = Manifest(Folder(parent), name)
    journal = (target or table.folder) / f"{name}.journal"
    task = Task(operation, Folder(source), target, journal, keep_suffix, pixels, memory)
    terminal = console.Console(quiet)
    planned = plan(task, table, recursive=recursive, resume=resume, force=force)
    if notice := planned.found.notice():
        terminal.print_notice(notice)
    for error in planned.found.errors:
        terminal.error(error)
    if skipped := len(planned.found.keys) - len(planned.pending):
        terminal.print_notice(f"{skipped:,} of {len(planned.found.keys):,} images are done already.")
    with console.reporting(terminal) as report:
        totals = run(
            planned,
            report,
            lambda row: terminal.error(TrifocalError(row.error or ""), row.key),
            terminal.print_notice,
            address=address,
            jobs=jobs,
        )
    terminal.report(f"{table}  {totals.images:,} images  {totals.bytes:,} bytes  {totals.failed:,} failed")
    if totals.failed:
        terminal.error(
            TrifocalError(f"{totals.failed:,} of {totals.images:,} failed; the column error has the reasons.")
        )
    raise typer.Exit(1 if totals.failed or planned.found.errors else 0)


def split(manifest: str) -> tuple[str, str]:
    """The folder and the name of a manifest. Raises OptionError for a name that does not end in .parquet."""
    if not manifest.endswith(".parquet"):
        raise OptionError(f"A manifest is a Parquet file, so {manifest} must end in .parquet.")
    parent, _, name = manifest.rpartition("/")
    return parent or ("/" if manifest.startswith("/") else "."), name
