"""What machines see in pictures, and files in layers taken apart and put together."""

import json
from collections.abc import Sequence
from enum import StrEnum
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from trifocal.cli.main import (
    Force,
    KeepSuffix,
    MaxPixels,
    Out,
    Quiet,
    Recursive,
    Threads,
    Weights,
    app,
    desk_for,
    report_inputs,
    use_threads,
)
from trifocal.errors import OptionError

if TYPE_CHECKING:
    from trifocal.cli.paths import Input
    from trifocal.file_detection import Seen

ENDINGS = {"base": "-base", "enhancement": "-enh"}  # of the names of a file's parts


class Format(StrEnum):
    json = "json"
    coco = "coco"


class LayerPart(StrEnum):
    base = "base"
    enhancement = "enhancement"


@app.command()
def detect(
    inputs: Annotated[list[str], typer.Argument(metavar="FILES_OR_FOLDERS...", show_default=False)],
    threshold: Annotated[
        float, typer.Option(min=0, max=1, help="Leave out what is less sure; 0.02 is all there is.")
    ] = 0.35,
    format: Annotated[
        Format,
        typer.Option(
            "--format",
            "-f",
            help="json: an object for each file, on a line. coco: one array for all files, COCO's format of detection results.",
        ),
    ] = Format.json,
    draw: Annotated[
        str | None,
        typer.Option(
            metavar="PICTURE",
            help="Also draw boxes, names and scores on the picture; a folder for several inputs.",
        ),
    ] = None,
    out: Annotated[
        str | None,
        typer.Option(
            "--out",
            "-o",
            metavar="FILE.json",
            help="Instead of standard output; a folder for several inputs, and with coco always one file.",
        ),
    ] = None,
    force: Force = False,
    keep_suffix: KeepSuffix = False,
    max_pixels: MaxPixels = None,
    quiet: Quiet = False,
    weights: Weights = None,
    recursive: Recursive = False,
    threads: Threads = None,
) -> None:
    """Print the objects in pictures, one JSON object for each file: boxes are x0, y0, x1, y1 in pixels.

    Of a .tri file in layers only the base layer is read. Other .tri files are decoded first; ordinary pictures work too.
    With --format coco boxes are x, y, width, height, and image_id is the number that a file's name is, or else its stem.
    """
    from trifocal import file_detection
    from trifocal.cli import console, paths
    from trifocal.pictures import PICTURE_SUFFIXES
    from trifocal.pictures.writing import format_for
    from trifocal.utils.limits import MAX_PIXELS, limit_pixels

    found = paths.find(inputs, recursive, {".tri", *PICTURE_SUFFIXES})
    outputs = paths.Outputs((one.path for one in found.inputs), force)
    drawings: dict[paths.Input, paths.Output] = {}
    if draw is not None:
        drawn = paths.plan(
            found,
            draw,
            ".png",
            outputs,
            option="--draw",
            may_replace_original=False,
            keep_suffix=keep_suffix,
        )
        drawings = {job.input: job.output for job in drawn}
    for drawing in drawings.values():
        format_for(drawing.path)  # refuses, before anything is done, what cannot be written
    one_text = paths.STDOUT
    if format is Format.coco or out in (None, *paths.STDOUT_NAMES):
        jobs = [paths.Job(one, paths.STDOUT) for one in found.inputs]
        if out is not None:
            paths.refuse_suffix(out, {".tri", *paths.picture_suffixes()})
            one_text = outputs.add(Path(out), named=True, source="the results")
    else:
        refused = {".tri", *paths.picture_suffixes()}
        jobs = paths.plan(found, out, ".json", outputs, refused=refused, keep_suffix=keep_suffix)
    outputs.check()
    ids = image_ids(found.inputs) if format is Format.coco else {}
    desk = console.Console(quiet)
    report_inputs(desk, found, jobs)
    use_threads(threads)
    results: list[dict[str, Any]] = []

    def work(job: paths.Job, advance: console.Advance) -> None:
        seen = file_detection.detect_file(
            job.source, weights, lambda note: desk.note(f"{job.source.name}: {note}")
        )
        objects = file_detection.listed(seen.objects, threshold)
        if format is Format.coco:
            results.extend(coco_of(ids[job.input], objects))
        elif job.output.is_stdout:
            desk.say(json.dumps(facts_of(job.input.name, seen, objects)))
        else:
            with job.output.open() as stream:
                stream.write(f"{json.dumps(facts_of(job.input.name, seen, objects))}\n".encode())
            desk.report(f"{job.output}  {len(objects)} objects")
        if drawing := drawings.get(job.input):
            with drawing.open() as stream:
                notes = file_detection.drawn(seen.show(), objects).write(stream, drawing.path)
            for note in (f"{drawing}", *notes):
                desk.note(note, style="")

    with limit_pixels(max_pixels or MAX_PIXELS):
        status = console.work_through(desk, jobs, work, found.errors)
    if format is Format.coco:
        with one_text.open() as stream:
            stream.write(f"{json.dumps(results)}\n".encode())
        if not one_text.is_stdout:
            desk.report(f"{one_text}  {len(results)} objects")
    raise typer.Exit(status)


def image_ids(inputs: Sequence["Input"]) -> dict["Input", int | str]:
    """COCO's image_id of each file: 139 for 000000000139.jpg, or its stem. Raises OptionError where two are equal."""
    ids: dict[Input, int | str] = {}
    known: dict[int | str, str] = {}
    for one in inputs:
        stem = one.path.stem
        ids[one] = int(stem) if stem.isascii() and stem.isdigit() else stem
        other = known.setdefault(ids[one], one.name)
        if other is not one.name:
            raise OptionError(
                f"{other} and {one.name} would have one image_id, {ids[one]}; detect them in two runs."
            )
    return ids


def coco_of(image_id: int | str, objects: list[dict[str, Any]]) -> list[dict[str, Any]]:
    """Objects in COCO's format of results: image_id, category_id, bbox (x, y, width, height in pixels), score."""
    return [
        {
            "image_id": image_id,
            "category_id": one["category"],
            "bbox": [x0, y0, round(x1 - x0, 2), round(y1 - y0, 2)],
            "score": one["score"],
        }
        for one in objects
        for x0, y0, x1, y1 in [one["box"]]
    ]


def facts_of(name: str, seen: "Seen", objects: list[dict[str, Any]]) -> dict[str, Any]:
    return {
        "file": name,
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
        LayerPart, typer.Option(help="What is left: what a detector reads, or all else.", show_default=False)
    ],
    out: Out = None,
    force: Force = False,
    quiet: Quiet = False,
) -> None:
    """Take files in layers apart: street.tri becomes street-base.tri, or street-enh.tri, beside it."""
    from trifocal.cli import console, paths
    from trifocal.container import Bitstream, parts

    found = paths.find(files, False, [".tri"])
    outputs = paths.Outputs((one.path for one in found.inputs), force)
    jobs = paths.plan(found, out, f"{ENDINGS[layers]}.tri", outputs, refused=paths.picture_suffixes())
    outputs.check()
    desk = desk_for(jobs, quiet)
    report_inputs(desk, found, jobs)

    def work(job: paths.Job, advance: console.Advance) -> None:
        stream = Bitstream.open(job.source)
        part = parts.strip(stream, layers)
        with job.output.open() as target:
            target.write(part.to_bytes())
        desk.report(f"{job.output}  {part.size:,} of {stream.size:,} bytes")

    raise typer.Exit(console.work_through(desk, jobs, work, found.errors))


@app.command()
def merge(
    one: Annotated[str, typer.Argument(metavar="PART", show_default=False)],
    other: Annotated[str, typer.Argument(metavar="OTHER_PART", show_default=False)],
    out: Annotated[
        str | None,
        typer.Option(
            "--out",
            "-o",
            help="A file, - for standard output; by default street-base.tri becomes street.tri.",
        ),
    ] = None,
    force: Force = False,
    quiet: Quiet = False,
) -> None:
    """The two parts that `strip` made of a file become that file again, byte for byte."""
    from trifocal.cli import paths
    from trifocal.container import Bitstream, parts

    inputs = paths.input_at(one), paths.input_at(other)
    target, named = whole_of(Path(one), Path(other), out)
    if named:
        paths.refuse_suffix(out or "", paths.picture_suffixes())
    outputs = paths.Outputs((part.path for part in inputs), force)
    output = outputs.add(target, named, "the whole file")
    outputs.check()
    desk = desk_for([paths.Job(inputs[0], output)], quiet)
    whole = parts.merge(*(Bitstream.open(part.path) for part in inputs))
    with output.open() as stream:
        stream.write(whole.to_bytes())
    desk.report(f"{output}  {whole.size:,} bytes")


def whole_of(one: Path, other: Path, out: str | None) -> tuple[Path, bool]:
    """The name of what two parts become, and whether the user named it: `out`, or by the part that says it."""
    if out is not None and not out.endswith("/") and not Path(out).is_dir():
        return Path(out), True
    for part in one, other:
        for ending in ENDINGS.values():
            if part.stem.endswith(ending) and part.stem != ending:
                name = part.stem.removesuffix(ending) + part.suffix
                return (part.with_name(name) if out is None else Path(out, name)), False
    raise OptionError(f"{one.name} and {other.name} do not say how to name what they become; do so with -o.")
