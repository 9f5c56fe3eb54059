"""Pictures to files and back, and what the files and the models are."""

import json
from contextlib import suppress
from enum import StrEnum
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from trifocal.cli.main import Out, Preset, Recursive, Threads, Weights, app, use_threads
from trifocal.errors import FormatError, TrifocalError

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

    from trifocal.console import Desk, Job
    from trifocal.container import Layer
    from trifocal.pictures import Picture
    from trifocal.text.captions import Captioner
    from trifocal.types import Condition

UNITS = {"": 1, "k": 1_000, "m": 1_000_000, "g": 1_000_000_000, "ki": 1 << 10, "mi": 1 << 20, "gi": 1 << 30}


class Metadata(StrEnum):
    colour = "colour"
    all = "all"


class Shown(StrEnum):
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
    weights: Weights = None,
    recursive: Recursive = False,
    threads: Threads = None,
) -> None:
    """Pictures become .tri files: photo.jpg becomes photo.tri beside it, in the place of one that is there."""
    if sum(rate is not None for rate in (quality, bpp, size)) > 1:
        raise typer.BadParameter("say only one of --quality, --bpp and --bytes.")
    if sum(words is not None for words in (text, text_file, caption)) > 1:
        raise typer.BadParameter("say only one of --text, --text-file and --caption.")
    from trifocal import console
    from trifocal.container import Tag
    from trifocal.pictures import PICTURE_SUFFIXES, Picture
    from trifocal.presets import DEFAULT, find, said_of_base, shared_codec

    preset = preset or DEFAULT
    of_base = said_of_base(find(preset), base_quality=base_quality, refinement=refinement)
    desk = console.Desk()
    jobs = console.plan(console.find(inputs, recursive, PICTURE_SUFFIXES), out, ".tri")
    if attention is not None and len(jobs) > 1:
        raise typer.BadParameter("--attention draws one map; name one picture.")
    use_threads(threads)
    codec = shared_codec(preset, weights=weights)
    words_of = source_of_words(desk, jobs, preset, text, text_file, caption, send_text)
    rates: dict[str, Any] = {"quality": quality, "bpp": bpp, "size": size} | of_base

    def work(job: console.Job, advance: console.Advance) -> None:
        picture = Picture.open(job.source, metadata.value, keep_invisible)
        condition, layers = words_of(job, picture)
        if attention is not None:
            from trifocal.attention import attention_map

            attention_map(codec, picture, condition).save(attention)
        stream = codec.encode(picture, condition=condition, layers=layers, progress=advance, **rates)
        stream.save(job.target)
        for note in picture.notes:
            desk.note(f"{job.source.name}: {note}")
        if (bpp or size) and stream.header.quality == 100:
            desk.note(f"{job.source.name}: the best quality takes fewer bytes than were allowed.")
        if stream.size > (source_size := job.source.stat().st_size):
            desk.note(f"{job.source.name}: The .tri file is larger than its source ({source_size:,} bytes).")
        bits = 8 * stream.size / (stream.header.width * stream.header.height)
        base, words = stream.layer(Tag.BASE), stream.layer(Tag.TEXT)
        part = f"  {base.size:,} bytes of base layer" if base else ""
        part += f"  {words.size} bytes of words" if words else ""
        desk.say(
            f"{job.target}  {stream.size:,} bytes  {bits:.3f} bpp  quality {stream.header.quality:g}{part}"
        )

    raise typer.Exit(console.work_through(desk, jobs, work))


def source_of_words(
    desk: "Desk",
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
    from trifocal.presets import find, tower_for
    from trifocal.words import check, for_encoding, texts_from

    given = any(words is not None for words in (text, text_file, caption))
    check(find(preset), given, send)
    texts = {} if text_file is None else texts_from(text_file, [job.source for job in jobs])
    if caption is None and len({*texts.values()}) <= 1:
        same = for_encoding(preset, next(iter(texts.values()), text), send, desk.note)
        return lambda job, picture: same
    if find(preset).words == "encoder":
        tower_for(preset)
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
        str, typer.Option("--format", "-f", help="png, jpg, webp, ...; -o with a file's name says it too.")
    ] = "png",
    region: Annotated[
        Any, typer.Option(parser=region_of, metavar="X,Y,W,H", help="Only this part, in pixels.")
    ] = None,
    best_effort: Annotated[
        bool, typer.Option("--best-effort", help="Grey out what is damaged, and decode the rest.")
    ] = False,
    layers: Annotated[
        Shown, typer.Option(help="base: the coarse picture that is in the base layer of a file in layers.")
    ] = Shown.all,
    force: Annotated[
        bool, typer.Option("--force", help="Replace pictures that are there, without -o.")
    ] = False,
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
    weights: Weights = None,
    recursive: Recursive = False,
    threads: Threads = None,
) -> None:
    """.tri files become pictures: photo.tri becomes photo.png beside it, unless there is one (it may be the original)."""
    if layers is Shown.base and (best_effort or any(o is not None for o in (region, text, preference))):
        raise typer.BadParameter(
            "with --layers base leave --region, --best-effort, --text and --preference out."
        )
    from trifocal import console
    from trifocal.container import Bitstream
    from trifocal.pictures.writing import format_of
    from trifocal.presets import load_for, preset_of, with_preference
    from trifocal.types import Decoded
    from trifocal.words import for_decoding

    desk = console.Desk()
    jobs = console.plan(console.find(inputs, recursive, [".tri"]), out, f".{format.lstrip('.').lower()}")
    for job in jobs:
        format_of(job.target)  # refuses, before anything is done, what cannot be written
    if out is None and not force:
        console.refuse_to_replace(jobs)
    use_threads(threads)

    def decoded_of(job: console.Job, advance: console.Advance) -> Decoded:
        if layers is Shown.base:
            from trifocal.seeing import first_picture_of

            return Decoded(first_picture_of(job.source, weights))
        stream = Bitstream.open(job.source, best_effort=best_effort)
        codec = load_for(stream.header, weights=weights)
        condition = for_decoding(
            stream, text, best_effort, lambda note: desk.note(f"{job.source.name}: {note}")
        )
        condition = with_preference(preset_of(stream.header), condition, preference)
        return codec.decode(
            stream, region=region, best_effort=best_effort, condition=condition, progress=advance
        )

    def work(job: console.Job, advance: console.Advance) -> None:
        decoded = decoded_of(job, advance)
        for note in decoded.picture.save(job.target):
            desk.note(f"{job.target.name}: {note}")
        if decoded.damaged:
            tiles = ", ".join(map(str, decoded.damaged))
            desk.note(f"{job.source.name} is damaged; greyed out: tile {tiles}.")
        height, width = decoded.picture.rgb.shape[:2]
        desk.say(f"{job.target}  {width}×{height}")

    raise typer.Exit(console.work_through(desk, jobs, work))


@app.command()
def info(
    files: Annotated[list[str], typer.Argument(metavar="FILES...", show_default=False)],
    as_json: Annotated[
        bool, typer.Option("--json", help="One JSON object per file, each on a line.")
    ] = False,
) -> None:
    """Says what a .tri file holds: its header, its layers and their bytes. Loads no network."""
    from trifocal.console import Desk
    from trifocal.container import Bitstream, Tag, describe
    from trifocal.container.parts import mark_of
    from trifocal.container.text import text_of
    from trifocal.presets import PRESETS
    from trifocal.words import unread

    desk = Desk()
    preset_of = {preset.id: preset for preset in PRESETS}
    status = 0
    for name in files:
        try:
            stream = Bitstream.open(name, best_effort=True)
            preset = preset_of.get(stream.header.preset)
            facts: dict[str, Any] = {"file": name, "preset name": preset.name if preset else None}
            facts |= describe(stream)
            with suppress(FormatError):
                facts |= {"text": text_of(stream)} if stream.layer(Tag.TEXT) else {}
            with suppress(FormatError):
                facts |= {"part of a whole": mark.hex()} if (mark := mark_of(stream)) else {}
            desk.say(json.dumps(facts) if as_json else table_of(facts))
            if any(layer.damaged for layer in stream.layers):
                Bitstream.open(name)  # raises the sentence that says what is damaged
            text_of(stream)  # and this, why the words cannot be read,
            mark_of(stream)  # or of what it is a part
            if preset and (note := unread(preset, stream)):
                desk.note(f"{Path(name).name}: {note}")
        except BrokenPipeError:
            raise
        except (TrifocalError, OSError) as error:
            desk.complain(error, Path(name).name)
            status = 1
    raise typer.Exit(status)


def table_of(facts: dict[str, Any]) -> str:
    shown = {key: f"{value:.4g}" if isinstance(value, float) else str(value) for key, value in facts.items()}
    if "text" in facts:
        shown["text"] = repr(facts["text"])  # so that nothing in it moves a terminal's cursor
    rows = [(key, value) for key, value in shown.items() if key != "layers"]
    rows += [(f"layer {layer['name']}", f"{layer['bytes']} bytes") for layer in facts["layers"]]
    wide = max(16, *(len(key) + 1 for key, _ in rows))
    return "\n".join(f"{key:<{wide}}{value}" for key, value in rows)


@app.command()
def presets() -> None:
    """Lists the models that can be named with --preset."""
    from rich.table import Table

    from trifocal.console import Desk
    from trifocal.presets import PRESETS

    table = Table("preset", "id", "weights", "what it is", box=None, header_style="bold")
    for preset in PRESETS:
        table.add_row(preset.name, str(preset.id), "ship" if preset.ships else "to train", preset.summary)
    Desk().out.print(table)


@app.command()
def demo(
    out: Annotated[str, typer.Option("--out", "-o", help="The folder for the files.")] = ".",
    preset: Preset = None,
    threads: Threads = None,
) -> None:
    """A photograph becomes demo.tri and comes back as demo.png, beside other formats at the same bytes.

    A preset with layers also leaves demo-layers.png: what a detector finds in the base layer alone.
    """
    from rich.table import Table

    from trifocal.console import Desk
    from trifocal.demo import run
    from trifocal.presets import DEFAULT

    use_threads(threads)
    table = Table(
        "", "bytes", "bpp", "SSIMULACRA2", "PSNR", "encode", "decode", box=None, header_style="bold"
    )
    shown = run(out, preset or DEFAULT)
    for row in shown.rows:
        seconds = f"{row.encode_s:.2f} s", f"{row.decode_s:.2f} s"
        table.add_row(
            row.name,
            f"{row.size:,}",
            f"{row.bpp:.3f}",
            f"{row.ssimulacra2:.1f}",
            f"{row.psnr:.2f} dB",
            *seconds,
        )
    desk = Desk()
    desk.out.print(table)
    if len(shown.layers) > 1:
        parts = ", ".join(f"{name} {size:,}" for name, size in shown.layers)
        desk.say(f"Bytes of each layer: {parts}.")
    *others, last = map(str, shown.files)
    desk.say(f"The files are {', '.join(others)} and {last}.")
