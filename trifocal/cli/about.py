"""What files and models are, and a demonstration."""

import json
from contextlib import suppress
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from trifocal.cli.main import (
    Force,
    Preset,
    Recursive,
    Threads,
    app,
    check_outputs,
    report_inputs,
    use_threads,
)
from trifocal.errors import FormatError

if TYPE_CHECKING:
    from trifocal.cli.console import Console
    from trifocal.cli.paths import Input


@app.command()
def info(
    inputs: Annotated[list[str], typer.Argument(metavar="FILES_OR_FOLDERS...", show_default=False)],
    as_json: Annotated[
        bool, typer.Option("--json", help="One JSON object per file, each on a line.")
    ] = False,
    recursive: Recursive = False,
) -> None:
    """Print what .tri files hold: header, layers and their bytes. Loads no network."""
    from trifocal.cli import console, paths

    found = paths.Found()
    for name in inputs:  # one by one, so that a file that is named twice is printed twice
        found += paths.find([name], recursive, [".tri"])
    jobs = [paths.Job(one, paths.STDOUT) for one in found.inputs]
    desk = console.Console()
    report_inputs(desk, found, jobs)

    def work(job: paths.Job, advance: console.Advance) -> None:
        show(desk, job.input, as_json)

    raise typer.Exit(console.work_through(desk, jobs, work, found.errors))


def show(desk: "Console", one: "Input", as_json: bool) -> None:
    """Prints what a file holds. Raises FormatError, after that, where some of it is damaged."""
    from trifocal.container import Bitstream, Tag, describe
    from trifocal.container.parts import part_id
    from trifocal.container.text import embedded_text
    from trifocal.presets import PRESETS
    from trifocal.text_conditioning import unread

    stream = Bitstream.open(one.path, best_effort=True)
    preset = {preset.id: preset for preset in PRESETS}.get(stream.header.preset)
    facts: dict[str, Any] = {"file": one.name, "preset name": preset.name if preset else None}
    facts |= describe(stream)
    with suppress(FormatError):
        facts |= {"text": embedded_text(stream)} if stream.layer(Tag.TEXT) else {}
    with suppress(FormatError):
        facts |= {"part of a whole": mark.hex()} if (mark := part_id(stream)) else {}
    desk.say(*([json.dumps(facts)] if as_json else table_of(facts)))
    if any(layer.damaged for layer in stream.layers):
        Bitstream.open(one.path)  # raises the sentence that says what is damaged
    embedded_text(stream)  # and this, why the words cannot be read,
    part_id(stream)  # or of what it is a part
    if preset and (note := unread(preset, stream)):
        desk.note(f"{one.path.name}: {note}")


def table_of(facts: dict[str, Any]) -> list[str]:
    shown = {key: f"{value:.4g}" if isinstance(value, float) else str(value) for key, value in facts.items()}
    if "text" in facts:
        shown["text"] = repr(facts["text"])  # so that nothing in it moves a terminal's cursor
    rows = [(key, value) for key, value in shown.items() if key != "layers"]
    rows += [(f"layer {layer['name']}", f"{layer['bytes']} bytes") for layer in facts["layers"]]
    wide = max(16, *(len(key) + 1 for key, _ in rows))
    return [f"{key:<{wide}}{value}" for key, value in rows]


@app.command()
def presets() -> None:
    """Lists the models that can be named with --preset."""
    from rich.table import Table

    from trifocal.cli.console import Console
    from trifocal.presets import PRESETS

    table = Table("preset", "id", "weights", "what it is", box=None, header_style="bold")
    for preset in PRESETS:
        table.add_row(preset.name, str(preset.id), "ship" if preset.ships else "to train", preset.summary)
    Console().out.print(table)


@app.command()
def demo(
    out: Annotated[str, typer.Option("--out", "-o", help="The folder for the files.")] = ".",
    preset: Preset = None,
    force: Force = False,
    threads: Threads = None,
) -> None:
    """A photograph becomes demo.tri and comes back as demo.png, beside other formats at the same bytes.

    A preset with layers also leaves demo-layers.png: what a detector finds in the base layer alone.
    """
    from rich.table import Table

    from trifocal.cli.console import Console
    from trifocal.demo import run
    from trifocal.presets import DEFAULT

    names = "demo.tri", "demo.png", "demo-layers.png"
    check_outputs([Path(out, name) for name in names], force)
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
    desk = Console()
    desk.out.print(table)
    if len(shown.layers) > 1:
        parts = ", ".join(f"{name} {size:,}" for name, size in shown.layers)
        desk.say(f"Bytes of each layer: {parts}.")
    *others, last = map(str, shown.files)
    desk.say(f"The files are {', '.join(others)} and {last}.")
