"""The commands info, presets and demo."""

import json
from contextlib import suppress
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from trifocal.cli.main import (
    AsJson,
    ForceFolder,
    InputFiles,
    Preset,
    Recursive,
    Threads,
    app,
    check_outputs,
    report_inputs,
    use_threads,
)
from trifocal.errors import PresetError

if TYPE_CHECKING:
    from trifocal.cli.console import Console
    from trifocal.cli.paths import Input
    from trifocal.demo import DemoRow


@app.command()
def info(inputs: InputFiles, as_json: AsJson = False, recursive: Recursive = False) -> None:
    """Print the header and the layers of .tri files. Needs no weights."""
    from trifocal.cli import console, paths

    found = paths.Inputs()
    for name in inputs:  # one by one, so that a file that is named twice is printed twice
        found += paths.find_inputs([name], recursive, [".tri"])
    jobs = [paths.Job(one, paths.STDOUT) for one in found.files]
    terminal = console.Console()
    report_inputs(terminal, found, jobs)

    def work(job: paths.Job, progress: console.Progress) -> None:
        print_file(terminal, job.input, as_json)

    raise typer.Exit(console.run_jobs(terminal, jobs, work, found.errors))


def print_file(terminal: "Console", one: "Input", as_json: bool) -> None:
    """Print a file's contents, then raise FormatError if a layer is damaged."""
    from trifocal.container import Bitstream
    from trifocal.container.description import describe_file
    from trifocal.container.parts import part_id
    from trifocal.container.text import embedded_text
    from trifocal.presets import preset_for
    from trifocal.text_conditioning import unread_text

    stream = Bitstream.open(one.path, best_effort=True)
    preset = None
    with suppress(PresetError):
        preset = preset_for(stream.header)
    facts: dict[str, Any] = {"file": one.name, "preset name": preset.name if preset else None}
    facts |= describe_file(stream)
    terminal.print_result(*([json.dumps(facts)] if as_json else fact_lines(facts)))
    if any(layer.damaged for layer in stream.layers) or "components" not in facts and stream.components:
        Bitstream.open(one.path)  # raises an error that names the damaged layers
    embedded_text(stream)  # raises FormatError if the text is damaged
    part_id(stream)  # raises Damaged if the part id is damaged
    if preset and (notice := unread_text(preset, stream)):
        terminal.print_notice(f"{one.path.name}: {notice}")


def fact_lines(facts: dict[str, Any]) -> list[str]:
    """A line for each fact, and one for each layer."""
    shown = {key: f"{value:.4g}" if isinstance(value, float) else str(value) for key, value in facts.items()}
    if "text" in facts:
        shown["text"] = repr(facts["text"])  # escapes control characters
    rows = [(key, value) for key, value in shown.items() if key not in ("layers", "components")]
    rows += [(f"layer {layer['name']}", f"{layer['bytes']} bytes") for layer in facts["layers"]]
    rows += [component_row(one) for one in facts.get("components", [])]
    width = max(16, *(len(key) + 1 for key, _ in rows))
    return [f"{key:<{width}}{value}" for key, value in rows]


def component_row(facts: dict[str, Any]) -> tuple[str, str]:
    """Label, and bytes and box (x0,y0,x1,y1 in pixels) of a component."""
    box = f" at {','.join(map(str, facts['box']))}" if "box" in facts else ""
    absent = f", {facts['absent bytes']} bytes missing" if facts["absent bytes"] else ""
    return f"  {facts['label']}", f"{facts['bytes']} bytes{box}{absent}"


@app.command()
def presets() -> None:
    """List the models that --preset takes."""
    from rich.table import Table

    from trifocal.cli.console import Console
    from trifocal.presets import all_presets

    table = Table("preset", "id", "weights", "description", box=None, header_style="bold")
    for preset in all_presets():
        weights = "installed" if preset.has_weights else "to train"
        table.add_row(preset.name, str(preset.id), weights, preset.summary)
    Console().out.print(table)


@app.command()
def demo(
    out: Annotated[str, typer.Option("--out", "-o", metavar="FOLDER", help="Output folder.")] = ".",
    preset: Preset = None,
    force: ForceFolder = False,
    threads: Threads = None,
) -> None:
    """Compare Trifocal with other formats on a sample photograph.

    All files have about the same size. Writes demo.tri and demo.png; for a scalable preset also
    demo-layers.png, with the objects detected in the base layer.
    """
    from trifocal.cli.console import Console
    from trifocal.demo import run
    from trifocal.presets import DEFAULT

    names = "demo.tri", "demo.png", "demo-layers.png"
    check_outputs([Path(out, name) for name in names], force)
    use_threads(threads)
    results = run(out, preset or DEFAULT)
    terminal = Console()
    terminal.out.print(demo_table(results.rows))
    if len(results.layers) > 1:
        sizes = ", ".join(f"{name} {size:,}" for name, size in results.layers)
        terminal.print_result(f"Bytes of each layer: {sizes}.")
    *others, last = map(str, results.files)
    terminal.print_result(f"Wrote {', '.join(others)} and {last}.")


def demo_table(rows: "list[DemoRow]") -> Any:
    """A row for each format."""
    from rich.table import Table

    names = "", "bytes", "bpp", "SSIMULACRA2", "PSNR", "encode", "decode"
    table = Table(*names, box=None, header_style="bold")
    for row in rows:
        score = "needs torch" if row.ssimulacra2 is None else f"{row.ssimulacra2:.1f}"
        values = f"{row.size:,}", f"{row.bpp:.3f}", score, f"{row.psnr:.2f} dB"
        table.add_row(row.name, *values, f"{row.encode_s:.2f} s", f"{row.decode_s:.2f} s")
    return table
