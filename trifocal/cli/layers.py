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

# Of the names of a file's parts.
ENDINGS = {"base": "-base", "enhancement": "-enh", "components": "-part", "without": "-without"}


class LayerPart(StrEnum):
    base = "base"
    enhancement = "enhancement"


@app.command()
def strip(
    files: Annotated[list[str], typer.Argument(metavar="FILES_OR_FOLDERS...", show_default=False)],
    layers: Annotated[
        LayerPart | None,
        typer.Option(
            help="Layers to keep. base: the base layer. enhancement: all else, with alpha and metadata.",
        ),
    ] = None,
    components: Annotated[
        str | None,
        typer.Option(
            metavar="LABELS",
            help="Keep these components, such as person,car, with the side information and, if there is one, "
            "the base layer.",
        ),
    ] = None,
    without: Annotated[
        str | None,
        typer.Option(
            metavar="LABELS",
            help="Keep what --components LABELS leaves out: the other components and the rest. It decodes "
            "only after `trifocal merge`.",
        ),
    ] = None,
    out: Out = None,
    force: Force = False,
    quiet: Quiet = False,
) -> None:
    """Keep one part of files with two layers or with components: give --layers, --components or --without.

    street.tri is written to street-base.tri, street-enh.tri, street-part.tri or street-without.tri in the
    same folder. `trifocal merge` joins the parts.
    """
    given = {"components": components, "without": without} | ({layers: layers} if layers else {})
    chosen = [name for name, value in given.items() if value is not None]
    if len(chosen) != 1:
        raise typer.BadParameter("give one of --layers, --components and --without.")
    from trifocal.cli import console, paths
    from trifocal.container import Bitstream, parts

    found = paths.find_inputs(files, False, [".tri"])
    outputs = paths.Outputs((one.path for one in found.files), force)
    jobs = paths.plan(found, out, f"{ENDINGS[chosen[0]]}.tri", outputs, refused=paths.image_suffixes())
    outputs.check()
    terminal = console_for(jobs, quiet)
    report_inputs(terminal, found, jobs)

    def work(job: paths.Job, progress: console.Progress) -> None:
        stream = Bitstream.open(job.source)
        if layers is not None:
            part = parts.strip(stream, layers)
        elif components is not None:
            part = stream.only(split_labels(components))
        else:
            part = parts.without(stream, split_labels(without or ""))
        with job.output.open() as target:
            part.save(target)
        terminal.report(f"{job.output}  {part.size:,} of {stream.size:,} bytes")

    raise typer.Exit(console.run_jobs(terminal, jobs, work, found.errors))


def split_labels(text: str) -> list[str]:
    """`person,car`: labels with commas between them."""
    return [label.strip() for label in text.split(",") if label.strip()]


@app.command()
def merge(
    files: Annotated[list[str], typer.Argument(metavar="PARTS...", show_default=False)],
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
    """Join the parts of a file.

    The result equals the file before `trifocal strip`, byte for byte. Parts of a file with components may
    overlap; if some are still missing, the result is a larger part.
    """
    from trifocal.cli import paths
    from trifocal.container import Bitstream, parts

    inputs = [paths.input_at(name) for name in files]
    target, named = merged_path([Path(name) for name in files], out)
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
    if whole.is_partial:
        terminal.print_notice("Parts of the file are still missing; `trifocal info` lists them.")


def merged_path(parts: list[Path], out: str | None) -> tuple[Path, bool]:
    """The path of the merged file, and whether the user named it.

    Raises OptionError if no part's name ends as `trifocal strip` writes it.
    """
    if out is not None and not out.endswith("/") and not Path(out).is_dir():
        return Path(out), True
    for part in parts:
        for ending in ENDINGS.values():
            if part.stem.endswith(ending) and part.stem != ending:
                name = part.stem.removesuffix(ending) + part.suffix
                return (part.with_name(name) if out is None else Path(out, name)), False
    raise OptionError(
        f"The names {' and '.join(part.name for part in parts)} do not end in "
        f"{', '.join(list(ENDINGS.values())[:-1])} or {list(ENDINGS.values())[-1]}; name the result with -o."
    )
