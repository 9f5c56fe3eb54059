"""The command detect."""

import json
from collections.abc import Sequence
from enum import StrEnum
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from trifocal.cli.main import (
    EngineName,
    InputFiles,
    KeepSuffix,
    MaxPixels,
    Quiet,
    Recursive,
    Threads,
    WeightsForFile,
    app,
    force_option,
    prepare_coding,
    report_inputs,
    use_threads,
)
from trifocal.errors import OptionError

if TYPE_CHECKING:
    from trifocal.cli.paths import Input


class Format(StrEnum):
    json = "json"
    coco = "coco"


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
            metavar="DRAWING.png",
            help="Also write a copy of the image with boxes, names and scores. For several inputs, the "
            "folder of the copies.",
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
    force: Annotated[bool, force_option(" or --draw")] = False,
    keep_suffix: KeepSuffix = False,
    max_pixels: MaxPixels = None,
    quiet: Quiet = False,
    engine: EngineName = None,
    weights: WeightsForFile = None,
    recursive: Recursive = False,
    threads: Threads = None,
) -> None:
    """Detect objects in images and .tri files.

    Prints one JSON object per file; boxes are x0, y0, x1, y1 in pixels. Of a scalable .tri file only the base
    layer is read. Other .tri files are decoded first. With --format coco boxes are x, y, width, height, and
    image_id is the file's stem, as a number if it is one.
    """
    prepare_coding()
    from trifocal.api import Detector
    from trifocal.cli import console, paths
    from trifocal.file_detection import draw_detections, json_detections, json_objects
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
        detected = detector(
            job.source, notify=lambda notice: terminal.print_notice(f"{job.source.name}: {notice}")
        )
        objects = json_objects(detected.objects)
        facts = {"file": job.input.name, **json_detections(detected, objects)}
        if format is Format.coco:
            results.extend(coco_results(ids[job.input], objects))
        elif job.output.is_stdout:
            terminal.print_result(json.dumps(facts))
        else:
            with job.output.open() as stream:
                stream.write(f"{json.dumps(facts)}\n".encode())
            terminal.report(f"{job.output}  {len(objects)} objects")
        if drawing := drawings.get(job.input):
            with drawing.open() as stream:
                notices = draw_detections(detected.render(), objects).write(stream, drawing.path)
            for line in (f"{drawing}", *notices):
                terminal.print_notice(line, style="")

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
