"""The commands encode and decode."""

import json
from enum import StrEnum
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from trifocal.cli.main import (
    AsJson,
    BaseQuality,
    Bpp,
    EngineName,
    Force,
    InputFiles,
    Jobs,
    KeepSuffix,
    KeepTimes,
    MaxBytes,
    MaxPixels,
    Out,
    Preset,
    Quality,
    Quiet,
    Recursive,
    Refinement,
    SkipExisting,
    Threads,
    Weights,
    WeightsForFile,
    app,
    check_rate,
    console_for,
    force_option,
    images_at_once,
    prepare_coding,
    report_inputs,
    use_threads,
)
from trifocal.cli.options import parse_components, parse_region
from trifocal.cli.text_options import encoder_with_text

if TYPE_CHECKING:
    from trifocal.cli.paths import Job
    from trifocal.container import Bitstream
    from trifocal.pictures import Picture


class Metadata(StrEnum):
    colour = "colour"
    all = "all"


class GrounderName(StrEnum):
    compact = "compact"
    grounding_dino = "grounding-dino"


class Layers(StrEnum):
    base = "base"
    all = "all"


@app.command()
def encode(
    inputs: InputFiles,
    preset: Preset = None,
    quality: Quality = None,
    bpp: Bpp = None,
    max_bytes: MaxBytes = None,
    base_quality: BaseQuality = None,
    refinement: Refinement = None,
    layers: Annotated[
        Layers,
        typer.Option(
            help="base: only the base layer (scalable presets), which `trifocal detect` reads. To "
            "add the rest later, encode again without this option and otherwise with the same options, run "
            "`strip --layers enhancement` on the result, and `merge` the two."
        ),
    ] = Layers.all,
    out: Out = None,
    metadata: Annotated[
        Metadata,
        typer.Option(help="all: keep EXIF, XMP, DPI and the ICC profile. colour: keep only the ICC profile."),
    ] = Metadata.all,
    keep_invisible: Annotated[
        bool, typer.Option("--keep-invisible", help="Keep the colours of fully transparent pixels.")
    ] = False,
    text: Annotated[
        str | None, typer.Option(help="What the images show, for presets that take text.")
    ] = None,
    text_file: Annotated[
        str | None,
        typer.Option(
            metavar="FILE",
            help='A file with the text, or a .json file with one for each image: {"dog.jpg": "a dog"}.',
        ),
    ] = None,
    caption: Annotated[
        str | None,
        typer.Option(
            metavar="auto|MODEL", help="Write the text with a captioning model; needs the extra `text`."
        ),
    ] = None,
    send_text: Annotated[
        bool,
        typer.Option(
            "--send-text",
            help="Store the text in the file. Only for presets whose decoder reads text (cross-modal*).",
        ),
    ] = False,
    attention: Annotated[
        str | None,
        typer.Option(
            metavar="MAP.png",
            help="Also write a copy of the image in which the parts that the text names are bright, and all "
            "others dark. Only for one image with a text, with taco, taco-compact or dual-layer-compact.",
        ),
    ] = None,
    mask: Annotated[
        str | None,
        typer.Option(
            metavar="MASK.png",
            help="Give a larger share of the bits to where this mask is bright. At the same quality the file "
            "can become smaller. The mask has the size of the image. taco-compact and dual-layer-compact "
            "only.",
        ),
    ] = None,
    components: Annotated[
        Any,
        typer.Option(
            parser=parse_components,
            metavar="LABELS",
            help="Give objects bytes of their own, so that `trifocal strip` can keep them alone (scalable "
            "presets and discover only). Entries are separated by commas, or are the lines of @FILE. An "
            "entry is a task (the reserved words detection, segmentation and classification), which is a "
            'list of labels; a label of COCO, such as person; or other words, such as "the red hat".',
        ),
    ] = None,
    grounder: Annotated[
        GrounderName | None,
        typer.Option(
            help="What finds the components. compact: the bundled detector and text encoders. "
            "grounding-dino: Grounding DINO, for any labels; needs the extra `text` and its weights. "
            "[default: compact]",
        ),
    ] = None,
    as_json: AsJson = False,
    force: Annotated[bool, force_option(" or --attention")] = False,
    skip_existing: SkipExisting = False,
    keep_suffix: KeepSuffix = False,
    keep_times: KeepTimes = False,
    max_pixels: MaxPixels = None,
    quiet: Quiet = False,
    engine: EngineName = None,
    weights: Weights = None,
    recursive: Recursive = False,
    threads: Threads = None,
    jobs_at_once: Jobs = None,
) -> None:
    """Encode images to .tri files.

    photo.jpg is written to photo.tri in the same folder. If that exists, the command fails and writes
    nothing, unless -o names that file, or --force or --skip-existing is given. `-` reads standard input.
    """
    prepare_coding(refines=preset is None and refinement != 0)  # the default refines
    check_rate(quality, bpp, max_bytes)
    if sum(source is not None for source in (text, text_file, caption)) > 1:
        raise typer.BadParameter("give only one of --text, --text-file and --caption.")
    from trifocal.cli import console, paths
    from trifocal.options import EncodeOptions
    from trifocal.pictures import PICTURE_SUFFIXES, Picture
    from trifocal.pictures.writing import format_for
    from trifocal.presets import DEFAULT, find
    from trifocal.utils.limits import MAX_PIXELS, limit_pixels

    options = EncodeOptions(
        quality=quality,
        bpp=bpp,
        max_bytes=max_bytes,
        text=text,
        send_text=send_text,
        text_per_image=caption is not None or text_file is not None,
        base_quality=base_quality,
        refinement=refinement,
        mask=None if mask is None else Picture.open(mask),
        components=components,
        grounder=None if grounder is None else grounder.value,
        metadata=metadata.value,
        keep_invisible=keep_invisible,
        base_only=layers is Layers.base,
    )
    chosen = find(preset or DEFAULT)
    found = paths.find_inputs(inputs, recursive, PICTURE_SUFFIXES)
    outputs = paths.Outputs((one.path for one in found.files), force)
    jobs = paths.plan(
        found,
        out,
        ".tri",
        outputs,
        refused=paths.image_suffixes(),
        keep_suffix=keep_suffix,
        skip_existing=skip_existing,
    )
    if attention is not None and len(found.files) > 1:
        raise typer.BadParameter("--attention draws the map of one image; give one.")
    map_output = None if attention is None else outputs.add(Path(attention), named=True, source="the map")
    if map_output is not None:
        format_for(map_output.path)  # refuses unknown formats before the work begins
    outputs.check(skippable=True)
    terminal = console_for(jobs, quiet, as_json)
    report_inputs(terminal, found, jobs)
    together = images_at_once(jobs_at_once, threads, len(jobs))
    use_threads(threads, together)
    given = weights, text_file, caption
    encoder, text_for = encoder_with_text(terminal, jobs, chosen, options, engine, *given)
    sizes: list[tuple[int, int]] = []

    def work(job: paths.Job, progress: console.Progress) -> None:
        picture = encoder.read(job.source)
        image_text = text_for(job, picture)

        def notify(notice: str) -> None:
            terminal.print_notice(f"{job.source.name}: {notice}")

        if map_output is not None:
            from trifocal.codecs.attention_map import attention_map

            condition, _ = encoder.conditioning(image_text, notify)
            with map_output.open() as target:
                attention_map(encoder.codec, picture, condition).write(target, map_output.path)
        stream = encoder.encode_picture(picture, text=image_text, progress=progress, notify=notify)
        with job.output.open() as target:
            stream.save(target)
        if keep_times and not job.input.piped:
            job.output.keep_times(job.source)
        sizes.append((job.source.stat().st_size, stream.size))
        notes = notes_on(picture, stream, sizes[-1][0], rated=bool(bpp or max_bytes))
        for note in notes:
            notify(note)
        if as_json:
            terminal.print_result(json.dumps(encode_facts(job, stream, chosen.name, notes)))
        else:
            terminal.report(encode_line(job, stream))

    with limit_pixels(max_pixels or MAX_PIXELS):
        status = console.run_jobs(terminal, jobs, work, found.errors, together)
    if len(sizes) > 1:
        before, after = map(sum, zip(*sizes))
        terminal.print_notice(f"{len(sizes)} images, {before:,} bytes before and {after:,} bytes after.")
    raise typer.Exit(status)


def notes_on(picture: "Picture", stream: "Bitstream", source_size: int, rated: bool) -> list[str]:
    """Notices about an image that was encoded; `rated` if a size was requested."""
    notes = [*picture.notices]
    if rated and stream.header.quality == 100:
        notes.append("The best quality takes fewer bytes than were allowed.")
    if stream.size > source_size:
        notes.append(f"The .tri file is larger than its source ({source_size:,} bytes).")
    return notes


def encode_line(job: "Job", stream: "Bitstream") -> str:
    """What is printed about a file that was encoded."""
    from trifocal.container import Tag

    base, text = stream.layer(Tag.BASE), stream.layer(Tag.TEXT)
    layers = f"  {base.size:,} bytes of base layer" if base else ""
    layers += f"  {text.size} bytes of text" if text else ""
    layers += f"  {len(stream.components)} components" if stream.components else ""
    rate = f"{stream.size:,} bytes  {stream.bpp:.3f} bpp  quality {stream.header.quality:g}"
    return f"{job.output}  {rate}{layers}"


def encode_facts(job: "Job", stream: "Bitstream", preset: str, notes: list[str]) -> dict[str, Any]:
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
        "components": [one.label for one in stream.components],
        "notes": notes,
    }


@app.command()
def decode(
    inputs: InputFiles,
    out: Out = None,
    format: Annotated[
        str,
        typer.Option("--format", "-f", help="png, jpg, webp, ... Ignored if -o names a file with a suffix."),
    ] = "png",
    region: Annotated[
        Any, typer.Option(parser=parse_region, metavar="X,Y,W,H", help="Decode only this part, in pixels.")
    ] = None,
    best_effort: Annotated[
        bool, typer.Option("--best-effort", help="Decode what is not damaged; damaged tiles are grey.")
    ] = False,
    layers: Annotated[
        Layers,
        typer.Option(help="base: only the coarse preview in the base layer of a scalable file."),
    ] = Layers.all,
    text: Annotated[
        str | None,
        typer.Option(help="What the image shows, if the preset's decoder reads text; replaces the file's."),
    ] = None,
    preference: Annotated[
        float | None,
        typer.Option(
            help="From 0, for people, to 1, for machines, for presets whose decoder takes it. [default: 0]",
        ),
    ] = None,
    compose: Annotated[
        bool,
        typer.Option(
            "--compose",
            help="Invent detail where a partial file lacks components: it was never in the image.",
        ),
    ] = False,
    force: Force = False,
    skip_existing: SkipExisting = False,
    keep_suffix: KeepSuffix = False,
    keep_times: KeepTimes = False,
    max_pixels: MaxPixels = None,
    quiet: Quiet = False,
    engine: EngineName = None,
    weights: WeightsForFile = None,
    recursive: Recursive = False,
    threads: Threads = None,
) -> None:
    """Decode .tri files.

    photo.tri is written to photo.png in the same folder. If that exists (it may be the original), the command
    fails and writes nothing, unless -o names that file, or --force or --skip-existing is given.
    """
    prepare_coding()
    base_only = layers is Layers.base
    if base_only and (best_effort or compose or any(one is not None for one in (region, text, preference))):
        others = "--region, --best-effort, --text, --preference and --compose"
        raise typer.BadParameter(f"--layers base excludes {others}.")
    from trifocal.api import Decoder
    from trifocal.cli import console, paths
    from trifocal.options import DecodeOptions
    from trifocal.pictures.writing import format_for
    from trifocal.utils.limits import MAX_PIXELS, limit_pixels

    options = DecodeOptions(region, best_effort, text, preference, base_only, compose)
    suffix = f".{format.lstrip('.').lower()}"
    found = paths.find_inputs(inputs, recursive, [".tri"])
    outputs = paths.Outputs((one.path for one in found.files), force)
    jobs = paths.plan(found, out, suffix, outputs, keep_suffix=keep_suffix, skip_existing=skip_existing)
    names = {job: job.output.path if job.output.is_file else Path(f"{job.output}{suffix}") for job in jobs}
    for name in names.values():
        format_for(name)  # refuses unknown formats before the work begins
    outputs.check(skippable=True)
    terminal = console_for(jobs, quiet)
    report_inputs(terminal, found, jobs)
    use_threads(threads)
    decoder = Decoder(options, engine=engine, weights=weights)

    def work(job: paths.Job, progress: console.Progress) -> None:
        def notify(notice: str) -> None:
            terminal.print_notice(f"{job.source.name}: {notice}")

        decoded = decoder(job.source, progress=progress, notify=notify)
        with job.output.open() as target:
            notes = decoded.picture.write(target, names[job])
        if keep_times and not job.input.piped:
            job.output.keep_times(job.source)
        for note in notes:
            terminal.print_notice(f"{names[job].name}: {note}")
        if decoded.damaged:
            tiles = ", ".join(map(str, decoded.damaged))
            terminal.print_notice(f"{job.source.name} is damaged; filled with grey: tile {tiles}.")
        height, width = decoded.picture.rgb.shape[:2]
        terminal.report(f"{job.output}  {width}×{height}")

    with limit_pixels(max_pixels or MAX_PIXELS):
        status = console.run_jobs(terminal, jobs, work, found.errors)
    raise typer.Exit(status)
