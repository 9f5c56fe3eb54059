"""The command export-onnx."""

from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from trifocal.cli.main import Quiet, Weights, app

if TYPE_CHECKING:
    from trifocal.preset_table import Preset


@app.command("export-onnx")
def export_onnx(
    names: Annotated[list[str], typer.Argument(metavar="PRESETS...", show_default=False)],
    out: Annotated[str, typer.Option("--out", "-o", metavar="FOLDER", help="Folder for the graphs.")],
    weights: Weights = None,
    without_weights: Annotated[
        bool,
        typer.Option(
            "--without-weights",
            help="Write the graphs as the package has them: without weights, which it reads from its "
            ".safetensors files, and with those of the detector, the text encoder and --compose.",
        ),
    ] = False,
    quiet: Quiet = False,
) -> None:
    """Export compact presets as ONNX graphs, with dynamic height and width.

    Writes a file for each transform and a list of them, graphs.json. The exact networks of the entropy
    model, which both encoder and decoder run, are not exported; they stay in NumPy.
    """
    from trifocal import presets
    from trifocal.cli.console import Console
    from trifocal.errors import optional_packages

    with optional_packages("export", "Exporting ONNX graphs"):
        from trifocal.codecs.graph_export import codec_network, export_networks, shared_networks

    console = Console(quiet)
    found = [presets.find(name) for name in names]
    networks = {
        preset.name: codec_network(presets.load(preset, weights=weights, engine="torch"), side_inputs(preset))
        for preset in found
    }
    if without_weights:
        networks |= shared_networks()
    export_networks(
        networks, Path(out), not without_weights, lambda file: console.print_notice(f"Wrote {file}.")
    )


def side_inputs(preset: "Preset") -> list[str]:
    """The side inputs that the transforms of a compact preset take."""
    takes = {
        "text": preset.text_used_by == "decoder",
        "preference": preset.takes_preference,
        "preview": preset.has_base_layer,
    }
    return [name for name, taken in takes.items() if taken]
