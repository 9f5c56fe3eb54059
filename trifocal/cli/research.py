"""The commands evaluate and compare."""

from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, cast

import typer

from trifocal.cli.main import Force, ForceFolder, Threads, app, check_outputs, use_threads
from trifocal.cli.options import MultiValueCommand, parse_qualities

if TYPE_CHECKING:
    from trifocal.evaluation.candidates.variant import TextKind

Qualities = Annotated[
    Any, typer.Option(parser=parse_qualities, metavar="Q,Q,...", help="Qualities, 0 to 100.")
]
Resume = Annotated[bool, typer.Option("--resume", help="Keep existing rows, and measure what is missing.")]
Metrics = Annotated[
    list[str] | None,
    typer.Option(
        metavar="METRIC...",
        help="Per image: psnr, ssim, ms-ssim, ssimulacra2, butteraugli, cvvdp, flip, lpips, lpips-unscaled "
        "(fed 0..1, as in TACO), lpips-vgg, dists, clip-score, ref-clip-score, nima:FILE, tower (feature "
        "distance in the bundled image encoder), psnr-named and psnr-rest (inside and outside the boxes of "
        "the objects that the caption names), psnr-objects, ssimulacra2-objects and butteraugli-objects "
        "(inside the boxes of annotated objects of at least 64 pixels a side). Over all images: fid, "
        "fid-whole, kid, kid-whole, and is, the Inception Score. [default: psnr ms-ssim]",
    ),
]
Text = Annotated[
    list[str] | None,
    typer.Option(
        metavar="KIND...",
        help="Text ablation for presets that take text: the first caption of each image (true), the caption "
        "whose decoded image is nearest to the original (best, an oracle), an empty text (empty), another "
        "image's caption (mismatched), or no text (none).",
    ),
]
Captions = Annotated[
    str | None,
    typer.Option(
        metavar="FILE[:SET]",
        help="Captions as JSON, and the name of a set for a file that has several. [default: captions.json "
        "in the folder of the images or above it, or COCO's annotations/captions_FOLDER.json]",
    ),
]
BestBy = Annotated[
    str, typer.Option(metavar="METRIC", help="Metric that chooses the caption for --text best.")
]
Square = Annotated[
    int | None,
    typer.Option(
        min=1,
        help="Resize each image to this short side and crop its centre to a square before encoding: 768 for "
        "CLIC as in papers.",
    ),
]
TaskKind = Annotated[
    str | None,
    typer.Option("--task", metavar="TASK", help="Also measure detection, segmentation or classification."),
]
Network = Annotated[
    str | None,
    typer.Option(
        "--detector",
        "--network",
        metavar="NETWORK",
        help="Network for --task: a torchvision name, an .onnx file, efficientnet-lite1 (classification), or "
        "compact: the bundled detector, which reads base layers of dual-layer-compact directly.",
    ),
]
Annotations = Annotated[
    str | None,
    typer.Option(
        metavar="FILE",
        help="Annotation file; or the word `own`, for images without labels: what the same network finds in "
        "the originals is the ground truth. [default: searched in the folder of the images and above it]",
    ),
]
ShortSide = Annotated[
    int | None,
    typer.Option(help="For detection: resize the short side of each image before encoding, such as 800."),
]
Layers = Annotated[
    str | None,
    typer.Option(
        metavar="base",
        help="Measure only the base layer of scalable presets. --qualities are then base qualities.",
    ),
]
Preferences = Annotated[
    list[float] | None,
    typer.Option(
        metavar="P...",
        help="Decode with each of these preferences, from 0 for people to 1 for machines, for presets "
        "whose decoder takes it.",
    ),
]
Device = Annotated[
    str,
    typer.Option(
        metavar="DEVICE",
        help="Device of the presets and of the networks of metrics and tasks: cpu, cuda, or another one of "
        "torch.",
    ),
]

CANDIDATES = (
    "Presets, other formats (avif, avif-444, avif-slow, webp, jpeg, jxl, heic, png), presets with custom "
    "weights as LABEL=PRESET:WEIGHTS (mine=compact:mine.safetensors), and presets with a setting "
    "(dual-layer-compact:base; docs/evaluation.md lists the settings)."
)


@app.command(cls=MultiValueCommand)
def evaluate(
    presets: Annotated[
        list[str],
        typer.Argument(metavar="CODECS...", show_default=False, help=CANDIDATES),
    ],
    data: Annotated[str, typer.Option(metavar="FOLDER", help="Folder of images.", show_default=False)],
    out: Annotated[
        str | None,
        typer.Option("--out", "-o", metavar="FILE", help="Table of results. [default: results.csv]"),
    ] = None,
    qualities: Qualities = "10,30,50,70,90",
    metrics: Metrics = None,
    text: Text = None,
    captions: Captions = None,
    best_by: BestBy = "lpips",
    square: Square = None,
    layers: Layers = None,
    preference: Preferences = None,
    device: Device = "cpu",
    task: TaskKind = None,
    detector: Network = None,
    annotations: Annotations = None,
    short_side: ShortSide = None,
    resume: Resume = False,
    force: Force = False,
    threads: Threads = None,
) -> None:
    """Measure presets and other formats on encoded files. Needs the extra `evaluate`.

    Writes a row per image and quality with bytes, bits per pixel, metrics and seconds, and prints the means
    over images. With --text it also prints what the text changes at equal bytes: the mean over images with
    its 95 % interval.
    """
    check_task(task, detector, annotations, short_side, square)
    from trifocal import evaluation
    from trifocal.cli import console

    if out is None and not resume:
        check_outputs([Path("results.csv")], force)
    out = out or "results.csv"
    use_threads(threads)
    terminal = console.Console()
    with console.reporting(terminal) as report:
        evaluation.load_custom_weights(presets, device)  # before a task loads its detector
        measured = (
            evaluation.create_task(task, detector, annotations, data, short_side, device, report)
            if task
            else None
        )
        options = evaluation.EvaluateOptions(
            qualities=qualities,
            metrics=metrics or evaluation.DEFAULT_METRICS,
            task=measured,
            text=cast("Sequence[TextKind]", text or ()),
            captions=captions,
            best_by=best_by,
            square=square,
            layers=layers,
            preferences=preference or (),
            device=device,
            resume=resume,
        )
        results = evaluation.evaluate(
            presets,
            data,
            out,
            options,
            progress=lambda fraction: report(fraction, ""),
            notify=terminal.print_notice,
        )
    terminal.out.print(console.means_table(results.means))
    if results.effects:
        terminal.out.print(console.effects_table(results.effects))
    terminal.print_result(f"{out}  {len(results.rows)} rows")


@app.command(cls=MultiValueCommand)
def compare(
    candidates: Annotated[
        list[str],
        typer.Argument(metavar="CODECS...", show_default=False, help=CANDIDATES),
    ],
    data: Annotated[str, typer.Option(metavar="FOLDER", help="Folder of images.", show_default=False)],
    out: Annotated[
        str, typer.Option("--out", "-o", metavar="FOLDER", help="Folder of the report.")
    ] = "report",
    qualities: Qualities = "10,30,50,70,90",
    metrics: Metrics = None,
    text: Text = None,
    captions: Captions = None,
    best_by: BestBy = "lpips",
    square: Square = None,
    layers: Layers = None,
    preference: Preferences = None,
    device: Device = "cpu",
    task: TaskKind = None,
    detector: Network = None,
    annotations: Annotations = None,
    short_side: ShortSide = None,
    crop: Annotated[
        list[str] | None,
        typer.Option(
            metavar="IMAGE:X,Y,WIDTH,HEIGHT",
            help="Crop to show, in pixels; repeatable. The default crops are from the images where the "
            "first codec is worst, median and best against the second, each where the error is largest.",
        ),
    ] = None,
    published: Annotated[
        list[str] | None,
        typer.Option(
            metavar="FILE...",
            help="More curves: CompressAI result files, tables of `trifocal evaluate`, or CSV tables with "
            "the columns codec, bpp and one per metric.",
        ),
    ] = None,
    without_text_bits: Annotated[
        bool,
        typer.Option(
            "--without-text-bits",
            help="Leave the text that files store out of the bits of curves and BD-rates.",
        ),
    ] = False,
    resume: Resume = False,
    force: ForceFolder = False,
    threads: Threads = None,
) -> None:
    """Measure presets and other formats, and write an HTML report. Needs the extra `evaluate`.

    The report has curves, tables and crops. Crops show the other codecs at no more bytes than the first,
    at a low, a middle and a high rate.
    """
    check_task(task, detector, annotations, short_side, square)
    from trifocal.cli import console
    from trifocal.evaluation import DEFAULT_METRICS, CompareOptions, create_task, load_custom_weights
    from trifocal.evaluation.compare import compare

    if not resume:
        check_outputs([Path(out, "index.html"), Path(out, "results.csv")], force)
    use_threads(threads)
    terminal = console.Console()
    with console.reporting(terminal) as report:
        load_custom_weights(candidates, device)  # before a task loads its detector
        measured = (
            create_task(task, detector, annotations, data, short_side, device, report) if task else None
        )
        options = CompareOptions(
            qualities=qualities,
            metrics=metrics or DEFAULT_METRICS,
            task=measured,
            text=cast("Sequence[TextKind]", text or ()),
            captions=captions,
            best_by=best_by,
            square=square,
            layers=layers,
            preferences=preference or (),
            device=device,
            resume=resume,
            crops=crop or (),
            published=published or (),
            without_text_bits=without_text_bits,
        )
        page = compare(
            candidates,
            data,
            out,
            options,
            progress=lambda fraction: report(fraction, ""),
            notify=terminal.print_notice,
        )
    terminal.print_result(str(page))


def check_task(
    task: str | None,
    detector: str | None,
    annotations: str | None,
    short_side: int | None,
    square: int | None,
) -> None:
    """Raises typer.BadParameter for options of a task without a task, and for --square with one."""
    if task is None and any(option is not None for option in (detector, annotations, short_side)):
        raise typer.BadParameter("--detector, --annotations and --short-side need a --task.")
    if task is not None and square is not None:
        raise typer.BadParameter("--square crops the images, so annotations do not fit; omit it or --task.")
