"""What machines see in pictures, and files in layers taken apart and put together."""

import json
from collections.abc import Iterable, Mapping
from enum import StrEnum
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from trifocal.cli.main import Out, Recursive, Threads, Weights, app, use_threads
from trifocal.errors import OptionError

if TYPE_CHECKING:
    from trifocal.seeing import Seen

NOWHERE = Path("-")  # where results go to stdout, and no file is made
ENDINGS = {"base": "-base", "enhancement": "-enh"}  # of the names of a file's parts


class Half(StrEnum):
    base = "base"
    enhancement = "enhancement"


@app.command()
def detect(
    inputs: Annotated[list[str], typer.Argument(metavar="FILES_OR_FOLDERS...", show_default=False)],
    threshold: Annotated[
        float, typer.Option(min=0, max=1, help="Leave out what is less sure; 0.02 is all there is.")
    ] = 0.35,
    draw: Annotated[
        str | None,
        typer.Option(
            metavar="PICTURE",
            help="Also draw boxes, names and scores on the picture; a folder where there are several.",
        ),
    ] = None,
    out: Annotated[
        str | None,
        typer.Option(
            "--out", "-o", metavar="FILE.json", help="Not stdout; a folder where there are several."
        ),
    ] = None,
    weights: Weights = None,
    recursive: Recursive = False,
    threads: Threads = None,
) -> None:
    """Says what is in pictures, one JSON object for each: its boxes are x0, y0, x1, y1 in pixels.

    Of a .tri file in layers only the base layer is read. Others are decoded first, and ordinary pictures are looked at too.
    """
    from trifocal import console, seeing
    from trifocal.files import replacing
    from trifocal.pictures import PICTURE_SUFFIXES
    from trifocal.pictures.writing import FORMATS, format_of

    desk = console.Desk()
    found = console.find(inputs, recursive, {".tri", *PICTURE_SUFFIXES})
    texts = targets("--out", found, out, ".json", {".json"})
    drawings = targets("--draw", found, draw, ".png", FORMATS)
    for drawing in drawings.values():
        format_of(drawing)  # refuses, before anything is done, what cannot be written
    jobs = [console.Job(file, texts.get(file, NOWHERE)) for file in found]
    use_threads(threads)

    def work(job: console.Job, advance: console.Advance) -> None:
        seen = seeing.look_at(job.source, weights, lambda note: desk.note(f"{job.source.name}: {note}"))
        objects = seeing.listed(seen.objects, threshold)
        said = json.dumps(facts_of(job.source, seen, objects))
        if job.target is NOWHERE:
            desk.say(said)
        else:
            with replacing(job.target) as stream:
                stream.write(f"{said}\n".encode())
            desk.say(f"{job.target}  {len(objects)} objects")
        if drawing := drawings.get(job.source):
            drawing.parent.mkdir(parents=True, exist_ok=True)
            notes = seeing.drawn(seen.show(), objects).save(drawing)
            for note in (f"{drawing}", *notes):
                desk.note(note, style="")

    raise typer.Exit(console.work_through(desk, jobs, work))


def targets(
    option: str, found: Mapping[Path, Path], out: str | None, suffix: str, suffixes: Iterable[str]
) -> dict[Path, Path]:
    """What each file becomes, if it is to become anything. Several do not become one file with one of the suffixes."""
    from trifocal import console

    if out is None:
        return {}
    planned = {job.source: job.target for job in console.plan(found, out, suffix)}
    is_file = Path(out).suffix.lower() in suffixes and not Path(out).is_dir()
    if is_file and Path(out) not in planned.values():
        raise typer.BadParameter(f"{option} {out} is one file, and there are several; name a folder.")
    return planned


def facts_of(path: Path, seen: "Seen", objects: list[dict[str, Any]]) -> dict[str, Any]:
    return {
        "file": str(path),
        "width": seen.width,
        "height": seen.height,
        "preset": seen.preset,
        "bytes read": seen.read,
        "objects": objects,
    }


@app.command()
def strip(
    files: Annotated[list[str], typer.Argument(metavar="FILES...", show_default=False)],
    layers: Annotated[
        Half, typer.Option(help="What is left: what a detector reads, or all else.", show_default=False)
    ],
    out: Out = None,
) -> None:
    """Files in layers become one of their two parts: street.tri becomes street-base.tri, or street-enh.tri, beside it."""
    from trifocal import console
    from trifocal.container import Bitstream, parts

    desk = console.Desk()
    jobs = console.plan(console.find(files, False, [".tri"]), out, f"{ENDINGS[layers]}.tri")

    def work(job: console.Job, advance: console.Advance) -> None:
        stream = Bitstream.open(job.source)
        part = parts.strip(stream, layers)
        part.save(job.target)
        desk.say(f"{job.target}  {part.size:,} of {stream.size:,} bytes")

    raise typer.Exit(console.work_through(desk, jobs, work))


@app.command()
def merge(
    one: Annotated[Path, typer.Argument(metavar="PART", show_default=False)],
    other: Annotated[Path, typer.Argument(metavar="OTHER_PART", show_default=False)],
    out: Annotated[
        str | None, typer.Option("--out", "-o", help="A file; else street-base.tri becomes street.tri.")
    ] = None,
    force: Annotated[bool, typer.Option("--force", help="Replace a file that is there, without -o.")] = False,
) -> None:
    """The two parts that `strip` made of a file become that file again, byte for byte."""
    from trifocal import console
    from trifocal.container import Bitstream, parts

    target = whole_of(one, other, out)
    if out is None and not force:
        console.refuse_to_replace([console.Job(one, target)])
    whole = parts.merge(Bitstream.open(one), Bitstream.open(other))
    target.parent.mkdir(parents=True, exist_ok=True)
    whole.save(target)
    console.Desk().say(f"{target}  {whole.size:,} bytes")


def whole_of(one: Path, other: Path, out: str | None) -> Path:
    """The name of what two parts become: `out`, or, where that is no file's name, by that of the part that says it."""
    if out is not None and not out.endswith("/") and not Path(out).is_dir():
        return Path(out)
    for part in one, other:
        for ending in ENDINGS.values():
            if part.stem.endswith(ending) and part.stem != ending:
                name = part.stem.removesuffix(ending) + part.suffix
                return part.with_name(name) if out is None else Path(out, name)
    raise OptionError(f"{one.name} and {other.name} do not say how to name what they become; do so with -o.")
