"""Pictures to files and back, and what the files and the models are."""

import json
from enum import StrEnum
from pathlib import Path
from typing import Annotated, Any

import typer

from trifocal.cli.main import Out, Preset, Recursive, Threads, app, use_threads
from trifocal.errors import TrifocalError

UNITS = {"": 1, "k": 1_000, "m": 1_000_000, "g": 1_000_000_000, "ki": 1 << 10, "mi": 1 << 20, "gi": 1 << 30}


class Metadata(StrEnum):
    colour = "colour"
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
    preset: Preset = "compact",
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
    out: Out = None,
    metadata: Annotated[
        Metadata, typer.Option(help="What to keep beside the pixels: the colour profile, or also EXIF.")
    ] = Metadata.colour,
    recursive: Recursive = False,
    threads: Threads = None,
) -> None:
    """Pictures become .tri files: photo.jpg becomes photo.tri beside it, in the place of one that is there."""
    if sum(rate is not None for rate in (quality, bpp, size)) > 1:
        raise typer.BadParameter("say only one of --quality, --bpp and --bytes.")
    from trifocal import console
    from trifocal.pictures import PICTURE_SUFFIXES, Picture
    from trifocal.presets import load

    desk = console.Desk()
    jobs = console.plan(console.find(inputs, recursive, PICTURE_SUFFIXES), out, ".tri")
    use_threads(threads)
    codec = load(preset)

    def work(job: console.Job, advance: console.Advance) -> None:
        picture = Picture.open(job.source, metadata=metadata.value)
        stream = codec.encode(picture, quality=quality, bpp=bpp, size=size, progress=advance)
        stream.save(job.target)
        for note in picture.notes:
            desk.note(f"{job.source.name}: {note}")
        if (bpp or size) and stream.header.quality == 100:
            desk.note(f"{job.source.name}: the best quality takes fewer bytes than were allowed.")
        bits = 8 * stream.size / (stream.header.width * stream.header.height)
        desk.say(f"{job.target}  {stream.size:,} bytes  {bits:.3f} bpp  quality {stream.header.quality:g}")

    raise typer.Exit(console.work_through(desk, jobs, work))


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
    force: Annotated[
        bool, typer.Option("--force", help="Replace pictures that are there, without -o.")
    ] = False,
    recursive: Recursive = False,
    threads: Threads = None,
) -> None:
    """.tri files become pictures: photo.tri becomes photo.png beside it, unless there is one (it may be the original)."""
    from trifocal import console
    from trifocal.container import Bitstream
    from trifocal.pictures.writing import format_of
    from trifocal.presets import load_for

    desk = console.Desk()
    jobs = console.plan(console.find(inputs, recursive, [".tri"]), out, f".{format.lstrip('.').lower()}")
    for job in jobs:
        format_of(job.target)  # refuses, before anything is done, what cannot be written
    if out is None and not force:
        console.refuse_to_replace(jobs)
    use_threads(threads)

    def work(job: console.Job, advance: console.Advance) -> None:
        stream = Bitstream.open(job.source, best_effort=best_effort)
        codec = load_for(stream.header)
        decoded = codec.decode(stream, region=region, best_effort=best_effort, progress=advance)
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
    from trifocal.container import Bitstream, describe
    from trifocal.presets import PRESETS

    desk = Desk()
    preset_name = {preset.id: preset.name for preset in PRESETS}
    status = 0
    for name in files:
        try:
            stream = Bitstream.open(name, best_effort=True)
            facts = {"file": name, "preset name": preset_name.get(stream.header.preset)} | describe(stream)
            desk.say(json.dumps(facts) if as_json else table_of(facts))
            if any(layer.damaged for layer in stream.layers):
                Bitstream.open(name)  # raises the sentence that says what is damaged
        except BrokenPipeError:
            raise
        except (TrifocalError, OSError) as error:
            desk.complain(error)
            status = 1
    raise typer.Exit(status)


def table_of(facts: dict[str, Any]) -> str:
    shown = {key: f"{value:.4g}" if isinstance(value, float) else str(value) for key, value in facts.items()}
    rows = [(key, value) for key, value in shown.items() if key != "layers"]
    rows += [(f"layer {layer['name']}", f"{layer['bytes']} bytes") for layer in facts["layers"]]
    return "\n".join(f"{key:<16}{value}" for key, value in rows)


@app.command()
def presets() -> None:
    """Lists the models that can be named with --preset."""
    from rich.table import Table

    from trifocal.console import Desk
    from trifocal.presets import PRESETS

    table = Table("preset", "id", "what it is", box=None, header_style="bold")
    for preset in PRESETS:
        table.add_row(preset.name, str(preset.id), preset.summary)
    Desk().out.print(table)


@app.command()
def demo(
    out: Annotated[str, typer.Option("--out", "-o", help="The folder for demo.tri and demo.png.")] = ".",
    preset: Preset = "compact",
    threads: Threads = None,
) -> None:
    """A photograph becomes demo.tri and comes back as demo.png, beside other formats at the same bytes."""
    from rich.table import Table

    from trifocal.console import Desk
    from trifocal.demo import run

    use_threads(threads)
    table = Table("", "bytes", "bpp", "PSNR", "encode", "decode", box=None, header_style="bold")
    for row in run(out, preset):
        seconds = f"{row.encode_s:.2f} s", f"{row.decode_s:.2f} s"
        table.add_row(row.name, f"{row.size:,}", f"{row.bpp:.3f}", f"{row.psnr:.2f} dB", *seconds)
    desk = Desk()
    desk.out.print(table)
    desk.say(f"The files are {Path(out, 'demo.tri')} and {Path(out, 'demo.png')}.")
