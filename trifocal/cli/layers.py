"""The commands strip and merge."""

from enum import StrEnum
from pathlib import Path
from typing import Annotated

import typer

from trifocal.cli.main import (
    Force,
    Out,
    Quiet,
    app,
    console_for,
    report_inputs,
)
from trifocal.errors import OptionError

ENDINGS = {"base": "-base", "enhancement": "-enh"}  # of the names of a file's parts


class LayerPart(StrEnum):
    base = "base"
    enhancement = "enhancement"


@app.command()
def strip(
    files: Annotated[list[str], typer.Argument(metavar="FILES_OR_FOLDERS...", show_default=False)],
    layers: Annotated[
        LayerPart,
        typer.Option(
            help="Layers to keep. base: the base layer. enhancement: all layers but the base layer.",
            show_default=False,
        ),
    ],
    out: Out = None,
    force: Force = False,
    quiet: Quiet = False,
) -> None:
    """Keep one part of layered files.

    street.tri is written to street-base.tri or street-enh.tri in the same folder. `trifocal merge` joins both
    parts.
    """
    from trifocal.cli import console, paths
    from trifocal.container import Bitstream, parts

    found = paths.find_inputs(files, False, [".tri"])
    outputs = paths.Outputs((one.path for one in found.files), force)
    jobs = paths.plan(found, out, f"{ENDINGS[layers]}.tri", outputs, refused=paths.image_suffixes())
    outputs.check()
    terminal = console_for(jobs, quiet)
    report_inputs(terminal, found, jobs)

    def work(job: paths.Job, progress: console.Progress) -> None:
        stream = Bitstream.open(job.source)
        part = parts.strip(stream, layers)
        with job.output.open() as target:
            part.save(target)
        terminal.report(f"{job.output}  {part.size:,} of {stream.size:,} bytes")

    raise typer.Exit(console.run_jobs(terminal, jobs, work, found.errors))


@app.command()
def merge(
    one: Annotated[str, typer.Argument(metavar="PART", show_default=False)],
    other: Annotated[str, typer.Argument(metavar="OTHER_PART", show_default=False)],
    out: Annotated[
        str | None,
        typer.Option(
            "--out",
            "-o",
            metavar="PATH",
            help="Output file or folder, or - for standard output. [default: street.tri for street-base.tri]",
        ),
    ] = None,
    force: Force = False,
    quiet: Quiet = False,
) -> None:
    """Join the two parts of a layered file.

    The result equals the file before `trifocal strip`, byte for byte.
    """
    from trifocal.cli import paths
    from trifocal.container import Bitstream, parts

    inputs = paths.input_at(one), paths.input_at(other)
    target, named = merged_path(Path(one), Path(other), out)
    if named:
        paths.refuse_suffix(out or "", paths.image_suffixes())
    outputs = paths.Outputs((part.path for part in inputs), force)
    output = outputs.add(target, named, "the merged file")
    outputs.check()
    terminal = console_for([paths.Job(inputs[0], output)], quiet)
    whole = parts.merge(*(Bitstream.open(part.path) for part in inputs))
    with output.open() as stream:
        whole.save(stream)
    terminal.report(f"{output}  {whole.size:,} bytes")


def merged_path(one: Path, other: Path, out: str | None) -> tuple[Path, bool]:
    """The path of the merged file, and whether the user named it.

    Raises OptionError if neither part's name ends in -base or -enh.
    """
    if out is not None and not out.endswith("/") and not Path(out).is_dir():
        return Path(out), True
    for part in one, other:
        for ending in ENDINGS.values():
            if part.stem.endswith(ending) and part.stem != ending:
                name = part.stem.removesuffix(ending) + part.suffix
                return (part.with_name(name) if out is None else Path(out, name)), False
    raise OptionError(
        f"The names {one.name} and {other.name} do not end in -base or -enh; name the result with -o."
    )
