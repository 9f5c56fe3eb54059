"""The commands detect, strip and merge."""

import json
from collections.abc import Sequence
from enum import StrEnum
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from trifocal.cli.main import (
    EngineName,
    Force,
    InputFiles,
    KeepSuffix,
    MaxPixels,
    Out,
    Quiet,
    Recursive,
    Threads,
    WeightsForFile,
    app,
    console_for,
    report_inputs,
    use_threads,
)
from trifocal.errors import OptionError

if TYPE_CHECKING:
    from trifocal.cli.paths import Input
    from trifocal.file_detection import FileDetections

ENDINGS = {"base": "-base", "enhancement": "-enh"}  # of the names of a file's parts


class Format(StrEnum):
    json = "json"
    coco = "coco"


class LayerPart(StrEnum):
    base = "base"
    enhancement = "enhancement"


@app.command()
def detect(
    inputs: InputFiles,
    threshold: Annotated[
        float, typer.Option(min=0, max=1, help="Minimum score. Scores below 0.02 are never returned.")
    ] = 0.35,
    format: Annotated[
        Format,
        typer.Option(
            "--format",
            "-f",
            help="json: one object per file, each on one line. coco: one array for all files, in COCO's "
            "results format.",
        ),
    ] = Format.json,
    draw: Annotated[
        str | None,
        typer.Option(
            metavar="IMAGE",
            help="Also draw boxes, names and scores on the image. For several inputs, the folder of the "
            "drawings.",
        ),
    ] = None,
    out: Annotated[
        str | None,
        typer.Option(
            "--out",
            "-o",
            metavar="FILE.json",
            help="Output file. For several inputs, the output folder; with --format coco always one file. "
            "[default: standard output]",
        ),
    ] = None,
    force: Force = False,
    keep_suffix: KeepSuffix = False,
    max_pixels: MaxPixels = None,
    quiet: Quiet = False,
    engine: EngineName = None,
    weights: WeightsForFile = None,
    recursive: Recursive = False,
    threads: Threads = None,
) -> None:
    """Detect objects in images and .tri files.

    Prints one JSON object per file; boxes are x0, y0, x1, y1 in pixels. Of a layered .tri file only the base
    layer is read. Other .tri files are decoded first. With --format coco boxes are x, y, width, height, and
    image_id is the file's stem, as a number if it is one.
    """
    from trifocal.api import Detector
    from trifocal.cli import console, paths
    from trifocal.file_detection import drawn, json_objects
    from trifocal.options import DetectOptions
    from trifocal.pictures import PICTURE_SUFFIXES
    from trifocal.utils.limits import MAX_PIXELS, limit_pixels

    found = paths.find_inputs(inputs, recursive, {".tri", *PICTURE_SUFFIXES})
    outputs = paths.Outputs((one.path for one in found.files), force)
    drawings = {} if draw is None else plan_drawings(found, draw, outputs, keep_suffix)
    one_file = paths.STDOUT
    refused = {".tri", *paths.image_suffixes()}
    if format is Format.coco or out in (None, *paths.STDOUT_NAMES):
        jobs = [paths.Job(one, paths.STDOUT) for one in found.files]
        if out is not None:
            paths.refuse_suffix(out, refused)
            one_file = outputs.add(Path(out), named=True, source="the results")
    else:
        jobs = paths.plan(found, out, ".json", outputs, refused=refused, keep_suffix=keep_suffix)
    outputs.check()
    ids = image_ids(found.files) if format is Format.coco else {}
    terminal = console.Console(quiet)
    report_inputs(terminal, found, jobs)
    use_threads(threads)
    detector = Detector(DetectOptions(threshold), engine=engine, weights=weights)
    results: list[dict[str, Any]] = []

    def work(job: paths.Job, progress: console.Progress) -> None:
        detected = detector(job.source, notify=lambda notice: terminal.note(f"{job.source.name}: {notice}"))
        objects = json_objects(detected.objects)
        if format is Format.coco:
            results.extend(coco_results(ids[job.input], objects))
        elif job.output.is_stdout:
            terminal.say(json.dumps(detect_facts(job.input.name, detected, objects)))
        else:
            with job.output.open() as stream:
                stream.write(f"{json.dumps(detect_facts(job.input.name, detected, objects))}\n".encode())
            terminal.report(f"{job.output}  {len(objects)} objects")
        if drawing := drawings.get(job.input):
            with drawing.open() as stream:
                notes = drawn(detected.render(), objects).write(stream, drawing.path)
            for note in (f"{drawing}", *notes):
                terminal.note(note, style="")

    with limit_pixels(max_pixels or MAX_PIXELS):
        status = console.run_jobs(terminal, jobs, work, found.errors)
    if format is Format.coco:
        with one_file.open() as stream:
            stream.write(f"{json.dumps(results)}\n".encode())
        if not one_file.is_stdout:
            terminal.report(f"{one_file}  {len(results)} objects")
    raise typer.Exit(status)


def plan_drawings(found: Any, draw: str, outputs: Any, keep_suffix: bool) -> dict[Any, Any]:
    """The output of each input's drawing. Raises PictureError for a format that cannot be written."""
    from trifocal.cli import paths
    from trifocal.pictures.writing import format_for

    jobs = paths.plan(
        found,
        draw,
        ".png",
        outputs,
        option="--draw",
        may_replace_original=False,
        keep_suffix=keep_suffix,
    )
    for job in jobs:
        format_for(job.output.path)
    return {job.input: job.output for job in jobs}


def image_ids(inputs: Sequence["Input"]) -> dict["Input", int | str]:
    """COCO's image_id of each file: 139 for 000000000139.jpg, or its stem. Raises OptionError if two are
    equal.
    """
    ids: dict[Input, int | str] = {}
    known: dict[int | str, str] = {}
    for one in inputs:
        stem = one.path.stem
        ids[one] = int(stem) if stem.isascii() and stem.isdigit() else stem
        other = known.setdefault(ids[one], one.name)
        if other is not one.name:
            raise OptionError(
                f"{other} and {one.name} would have the same image_id, {ids[one]}; detect them in two runs."
            )
    return ids


def coco_results(image_id: int | str, objects: list[dict[str, Any]]) -> list[dict[str, Any]]:
    """Objects in COCO's results format: image_id, category_id, bbox (x, y, width, height in pixels),
    score.
    """
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


def detect_facts(name: str, detected: "FileDetections", objects: list[dict[str, Any]]) -> dict[str, Any]:
    """What is printed about a file in which objects were detected."""
    return {
        "file": name,
        "width": detected.width,
        "height": detected.height,
        "preset": detected.preset,
        "bytes read": detected.bytes_read,
        "objects": objects,
    }


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
    """The path of the merged file, and whether the user named it. Raises OptionError if no part's name tells
    it.
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
