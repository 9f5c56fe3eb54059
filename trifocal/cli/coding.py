"""Pictures to files and back."""

import json
from enum import StrEnum
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from trifocal.cli.main import (
    Force,
    KeepSuffix,
    KeepTimes,
    MaxPixels,
    Out,
    Preset,
    Quiet,
    Recursive,
    SkipExisting,
    Threads,
    Weights,
    app,
    desk_for,
    report_inputs,
    use_threads,
)

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

    from trifocal.cli.console import Console
    from trifocal.cli.paths import Job
    from trifocal.container import Bitstream, Layer
    from trifocal.pictures import Picture
    from trifocal.text.captions import Captioner
    from trifocal.types import Condition

UNITS = {"": 1, "k": 1_000, "m": 1_000_000, "g": 1_000_000_000, "ki": 1 << 10, "mi": 1 << 20, "gi": 1 << 30}


class Metadata(StrEnum):
    colour = "colour"
    all = "all"


class DecodeLayers(StrEnum):
    base = "base"
    all = "all"


def size_of(text: str) -> int:
    """`20k` is 20,000 bytes and `1.5M` 1,500,000; Ki, Mi and Gi count in 1,024s."""
    number = text.strip().lower().removesuffix("b")
    digits = number.rstrip("kmgi")
    try:
        size = round(float(digits) * UNITS[number[len(digits) :]])
    except (ValueError, KeyError, OverflowError):
        size = 0
    if size < 1:
        raise typer.BadParameter(f"{text!r} is not a number of bytes; write it like 20000, 20k or 1.5M.")
    return size


def region_of(text: str) -> tuple[int, int, int, int]:
    """`x,y,w,h` in pixels, from the left upper corner."""
    try:
        x, y, width, height = map(int, text.split(","))
    except ValueError:
        raise typer.BadParameter(f"{text!r} is not a region; write it as x,y,w,h in pixels.") from None
    return x, y, width, height


@app.command()
def encode(
    inputs: Annotated[list[str], typer.Argument(metavar="FILES_OR_FOLDERS...", show_default=False)],
    preset: Preset = None,
    quality: Annotated[
        float | None, typer.Option("--quality", "-q", min=0, max=100, help="50 if nothing is said.")
    ] = None,
    bpp: Annotated[
        float | None, typer.Option(min=0, help="Bits per pixel to stay at or under, such as 0.25.")
    ] = None,
    size: Annotated[
        int | None,
        typer.Option(
            "--bytes", parser=size_of, metavar="SIZE", help="Bytes to stay at or under, such as 20k."
        ),
    ] = None,
    base_quality: Annotated[
        int | None,
        typer.Option(
            min=0,
            max=100,
            help="Of the part that detectors read, for a preset in layers; half of --quality, 20 at most, if not said.",
        ),
    ] = None,
    refinement: Annotated[
        int | None,
        typer.Option(
            min=0,
            help="Steps that fit that part to the picture, about half a second in all; 4 if not said, 0 is faster and detects less.",
        ),
    ] = None,
    out: Out = None,
    metadata: Annotated[
        Metadata,
        typer.Option(help="all: keep EXIF, XMP, DPI and the colour profile; colour: the last alone."),
    ] = Metadata.all,
    keep_invisible: Annotated[
        bool, typer.Option("--keep-invisible", help="Keep the colours of fully transparent pixels.")
    ] = False,
    text: Annotated[
        str | None, typer.Option(help="What the pictures show, for a preset that takes words.")
    ] = None,
    text_file: Annotated[
        str | None,
        typer.Option(
            metavar="FILE",
            help='A file of these words; a .json file has each picture\'s: {"dog.jpg": "a dog"}.',
        ),
    ] = None,
    caption: Annotated[
        str | None,
        typer.Option(metavar="auto|MODEL", help="Let a network write the words; needs the extra `text`."),
    ] = None,
    send_text: Annotated[
        bool, typer.Option("--send-text", help="Put the words into the file, for a decoder that reads them.")
    ] = False,
    attention: Annotated[
        str | None,
        typer.Option(metavar="MAP.png", help="Also draw where the words send the bits; for one picture."),
    ] = None,
    as_json: Annotated[
        bool, typer.Option("--json", help="Print one JSON object for each file, on a line.")
    ] = False,
    force: Force = False,
    skip_existing: SkipExisting = False,
    keep_suffix: KeepSuffix = False,
    keep_times: KeepTimes = False,
    max_pixels: MaxPixels = None,
    quiet: Quiet = False,
    weights: Weights = None,
    recursive: Recursive = False,
    threads: Threads = None,
) -> None:
    """Encode pictures as .tri files: photo.jpg becomes photo.tri beside it.

    A file that exists is replaced only if -o names exactly that file, or with --force. `-` reads standard input.
    """
    if sum(rate is not None for rate in (quality, bpp, size)) > 1:
        raise typer.BadParameter("say only one of --quality, --bpp and --bytes.")
    if sum(words is not None for words in (text, text_file, caption)) > 1:
        raise typer.BadParameter("say only one of --text, --text-file and --caption.")
    from trifocal.cli import console, paths
    from trifocal.pictures import PICTURE_SUFFIXES, Picture
    from trifocal.pictures.writing import format_for
    from trifocal.presets import DEFAULT, base_layer_options, find, shared_codec
    from trifocal.utils.limits import MAX_PIXELS, limit_pixels

    preset = preset or DEFAULT
    of_base = base_layer_options(find(preset), base_quality=base_quality, refinement=refinement)
    found = paths.find(inputs, recursive, PICTURE_SUFFIXES)
    outputs = paths.Outputs((one.path for one in found.inputs), force)
    jobs = paths.plan(
        found,
        out,
        ".tri",
        outputs,
        refused=paths.picture_suffixes(),
        keep_suffix=keep_suffix,
        skip_existing=skip_existing,
    )
    if attention is not None and len(found.inputs) > 1:
        raise typer.BadParameter("--attention draws one map; name one picture.")
    map_ = None if attention is None else outputs.add(Path(attention), named=True, source="the map")
    if map_ is not None:
        format_for(map_.path)  # refuses, before anything is done, what cannot be written
    outputs.check(skippable=True)
    desk = desk_for(jobs, quiet, as_json)
    report_inputs(desk, found, jobs)
    use_threads(threads)
    codec = shared_codec(preset, weights=weights)
    words_of = source_of_words(desk, jobs, preset, text, text_file, caption, send_text)
    rates: dict[str, Any] = {"quality": quality, "bpp": bpp, "size": size} | of_base

    sizes: list[tuple[int, int]] = []

    def work(job: paths.Job, advance: console.Advance) -> None:
        picture = Picture.open(job.source, metadata.value, keep_invisible)
        condition, layers = words_of(job, picture)
        if map_ is not None:
            from trifocal.codecs.attention_map import attention_map

            drawn = attention_map(codec, picture, condition)
            with map_.open() as target:
                drawn.write(target, map_.path)
        stream = codec.encode(picture, condition=condition, layers=layers, progress=advance, **rates)
        with job.output.open() as target:
            target.write(stream.to_bytes())
        if keep_times and not job.input.piped:
            job.output.keep_times(job.source)
        notes = [*picture.notes]
        if (bpp or size) and stream.header.quality == 100:
            notes.append("The best quality takes fewer bytes than were allowed.")
        source_size = job.source.stat().st_size
        sizes.append((source_size, stream.size))
        if stream.size > source_size:
            notes.append(f"The .tri file is larger than its source ({source_size:,} bytes).")
        for note in notes:
            desk.note(f"{job.source.name}: {note}")
        if as_json:
            desk.say(json.dumps(facts_of(job, stream, preset, notes)))
        else:
            desk.report(line_of(job, stream))

    with limit_pixels(max_pixels or MAX_PIXELS):
        status = console.work_through(desk, jobs, work, found.errors)
    if len(sizes) > 1:
        before, after = map(sum, zip(*sizes))
        desk.note(f"{len(sizes)} pictures, {before:,} bytes before and {after:,} bytes after.")
    raise typer.Exit(status)


def line_of(job: "Job", stream: "Bitstream") -> str:
    """What is printed about a file that was encoded."""
    from trifocal.container import Tag

    base, words = stream.layer(Tag.BASE), stream.layer(Tag.TEXT)
    part = f"  {base.size:,} bytes of base layer" if base else ""
    part += f"  {words.size} bytes of words" if words else ""
    return (
        f"{job.output}  {stream.size:,} bytes  {stream.bpp:.3f} bpp  quality {stream.header.quality:g}{part}"
    )


def facts_of(job: "Job", stream: "Bitstream", preset: str, notes: list[str]) -> dict[str, Any]:
    """What --json prints about a file that was encoded."""
    return {
        "source": job.input.name,
        "file": str(job.output.path),
        "preset": preset,
        "quality": stream.header.quality,
        "width": stream.header.width,
        "height": stream.header.height,
        "bytes": stream.size,
        "bits per pixel": stream.bpp,
        "layers": {layer.name: layer.size for layer in stream.layers},
        "notes": notes,
    }


def source_of_words(
    desk: "Console",
    jobs: "Sequence[Job]",
    preset: str,
    text: str | None,
    text_file: str | None,
    caption: str | None,
    send: bool,
) -> "Callable[[Job, Picture], tuple[Condition | None, tuple[Layer, ...]]]":
    """Gives a function from a job and its picture to what steers the codec, and the layers that carry the words.

    What can be wrong for all pictures is raised here, once.
    """
    from trifocal.presets import find, text_encoder_for
    from trifocal.text_conditioning import check, for_encoding, texts_from

    given = any(words is not None for words in (text, text_file, caption))
    check(find(preset), given, send)
    texts = {} if text_file is None else texts_from(text_file, [job.source for job in jobs])
    if caption is None and len({*texts.values()}) <= 1:
        same = for_encoding(preset, next(iter(texts.values()), text), send, desk.note)
        return lambda job, picture: same
    if find(preset).words == "encoder":
        text_encoder_for(preset)
    captioner = None if caption is None else captioner_of(caption)

    def words_of(job: "Job", picture: "Picture") -> "tuple[Condition | None, tuple[Layer, ...]]":
        said = captioner(picture.rgb) if captioner else texts[job.source]
        if captioner:
            desk.note(f"{job.source.name}: {said}", style="")
        return for_encoding(preset, said, send, lambda note: desk.note(f"{job.source.name}: {note}"))

    return words_of


def captioner_of(name: str) -> "Captioner":
    from trifocal.text.captions import CAPTIONER, Captioner

    return Captioner(CAPTIONER if name == "auto" else name)


@app.command()
def decode(
    inputs: Annotated[list[str], typer.Argument(metavar="FILES_OR_FOLDERS...", show_default=False)],
    out: Out = None,
    format: Annotated[
        str,
        typer.Option("--format", "-f", help="png, jpg, webp, ...; the suffix of a file that -o names wins."),
    ] = "png",
    region: Annotated[
        Any, typer.Option(parser=region_of, metavar="X,Y,W,H", help="Only this part, in pixels.")
    ] = None,
    best_effort: Annotated[
        bool, typer.Option("--best-effort", help="Grey out what is damaged, and decode the rest.")
    ] = False,
    layers: Annotated[
        DecodeLayers,
        typer.Option(help="base: the coarse picture that is in the base layer of a file in layers."),
    ] = DecodeLayers.all,
    text: Annotated[
        str | None,
        typer.Option(
            help="What the picture shows, for a decoder that reads words; not the file's own words."
        ),
    ] = None,
    preference: Annotated[
        float | None,
        typer.Option(
            help="For people (0), for machines (1), or between, for a decoder that knows it; 0, if not said."
        ),
    ] = None,
    force: Force = False,
    skip_existing: SkipExisting = False,
    keep_suffix: KeepSuffix = False,
    keep_times: KeepTimes = False,
    max_pixels: MaxPixels = None,
    quiet: Quiet = False,
    weights: Weights = None,
    recursive: Recursive = False,
    threads: Threads = None,
) -> None:
    """Decode .tri files to pictures: photo.tri becomes photo.png beside it.

    A picture that exists may be the original: it is replaced only if -o names exactly that file, or with --force.
    """
    if layers is DecodeLayers.base and (
        best_effort or any(o is not None for o in (region, text, preference))
    ):
        raise typer.BadParameter(
            "with --layers base leave --region, --best-effort, --text and --preference out."
        )
    from trifocal.cli import console, paths
    from trifocal.codecs.codec import Decoded
    from trifocal.container import Bitstream
    from trifocal.pictures.writing import format_for
    from trifocal.presets import load_for, preset_of, with_preference
    from trifocal.text_conditioning import for_decoding
    from trifocal.utils.limits import MAX_PIXELS, limit_pixels

    suffix = f".{format.lstrip('.').lower()}"
    found = paths.find(inputs, recursive, [".tri"])
    outputs = paths.Outputs((one.path for one in found.inputs), force)
    jobs = paths.plan(found, out, suffix, outputs, keep_suffix=keep_suffix, skip_existing=skip_existing)
    names = {job: job.output.path if job.output.is_file else Path(f"{job.output}{suffix}") for job in jobs}
    for name in names.values():
        format_for(name)  # refuses, before anything is done, what cannot be written
    outputs.check(skippable=True)
    desk = desk_for(jobs, quiet)
    report_inputs(desk, found, jobs)
    use_threads(threads)

    def decoded_of(job: paths.Job, advance: console.Advance) -> Decoded:
        if layers is DecodeLayers.base:
            from trifocal.file_detection import base_preview_of

            return Decoded(base_preview_of(job.source, weights))
        stream = Bitstream.open(job.source, best_effort=best_effort)
        codec = load_for(stream.header, weights=weights)
        condition = for_decoding(
            stream, text, best_effort, lambda note: desk.note(f"{job.source.name}: {note}")
        )
        condition = with_preference(preset_of(stream.header), condition, preference)
        return codec.decode(
            stream, region=region, best_effort=best_effort, condition=condition, progress=advance
        )

    def work(job: paths.Job, advance: console.Advance) -> None:
        decoded = decoded_of(job, advance)
        with job.output.open() as target:
            notes = decoded.picture.write(target, names[job])
        if keep_times and not job.input.piped:
            job.output.keep_times(job.source)
        for note in notes:
            desk.note(f"{names[job].name}: {note}")
        if decoded.damaged:
            tiles = ", ".join(map(str, decoded.damaged))
            desk.note(f"{job.source.name} is damaged; greyed out: tile {tiles}.")
        height, width = decoded.picture.rgb.shape[:2]
        desk.report(f"{job.output}  {width}×{height}")

    with limit_pixels(max_pixels or MAX_PIXELS):
        status = console.work_through(desk, jobs, work, found.errors)
    raise typer.Exit(status)
