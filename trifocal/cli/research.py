"""The commands train, evaluate and compare."""

from pathlib import Path
from typing import Annotated, Any

import typer

from trifocal.cli.main import Force, Threads, app, check_outputs, use_threads
from trifocal.cli.options import MultiValueCommand, parse_qualities

# What is trained besides presets, and the function of `trifocal.training` for it.
OTHER_TRAININGS = {"towers": "train_text_image", "detector": "train_detector", "base": "train_base_layer"}


@app.command()
def train(
    preset: Annotated[str, typer.Argument(show_default=False, help="A preset, towers, detector or base.")],
    more: Annotated[list[str] | None, typer.Argument(metavar="[MORE_DATA]...", show_default=False)] = None,
    data: Annotated[
        list[str] | None, typer.Option(help="Folder of images, or tar files of them; repeatable.")
    ] = None,
    out: Annotated[
        str | None, typer.Option("--out", "-o", help="Folder of the run. [default: runs/PRESET]")
    ] = None,
    stage: Annotated[
        int,
        typer.Option(
            min=1,
            help="Training stage. Stage 2 continues from the weights of stage 1, given with --start; stage "
            "3 of the detector "
            "from the bundled weights.",
        ),
    ] = 1,
    steps: Annotated[int | None, typer.Option(min=1, help="Length of the run in steps.")] = None,
    minutes: Annotated[float | None, typer.Option(min=0, help="Length of the run in minutes.")] = None,
    batch: Annotated[
        int | None,
        typer.Option(min=1, help="Crops per step of each process. [default: the recipe's]"),
    ] = None,
    learning_rate: Annotated[
        float | None, typer.Option(min=0, help="Peak learning rate. [default: the recipe's]")
    ] = None,
    cooldown: Annotated[
        float | None,
        typer.Option(
            min=0,
            max=1,
            help="Fraction at the end of the run in which the learning rate falls; 0 keeps it constant, "
            "for a run that will be "
            "resumed with more steps or minutes. [default: the recipe's]",
        ),
    ] = None,
    precision: Annotated[
        str,
        typer.Option(
            metavar="auto|bfloat16|float32",
            help="Precision of residual branches (for towers, detector and base: of all convolutions and "
            "matrix products). auto is "
            "bfloat16 if the processor or GPU supports it. Exported weights and decoding do not depend on "
            "it.",
        ),
    ] = "auto",
    processes: Annotated[
        int,
        typer.Option(
            min=1,
            help="Processes on this machine that average gradients. They share --threads, or use one GPU "
            "each.",
        ),
    ] = 1,
    start: Annotated[str | None, typer.Option(help="Initial weights (.safetensors).")] = None,
    resume: Annotated[
        bool, typer.Option("--resume", help="Continue from the checkpoint in the folder.")
    ] = False,
    teacher: Annotated[
        str | None,
        typer.Option(help="For towers, detector and base: PicoDet as an .onnx file, for distillation."),
    ] = None,
    of: Annotated[
        str | None,
        typer.Option(help="For base: the preset of the base layer. [default: dual-layer-compact]"),
    ] = None,
    keep_front: Annotated[
        bool,
        typer.Option(
            "--keep-front",
            help="Detector only: freeze the layers before the split, so that existing files stay decodable.",
        ),
    ] = False,
    parts: Annotated[
        str | None, typer.Option(help="Train only these parts of a preset: encoder,decoder,entropy,...")
    ] = None,
    every: Annotated[float, typer.Option(min=0, help="Minutes between checkpoints.")] = 5.0,
    force: Annotated[bool, typer.Option("--force", help="Replace the checkpoint of an earlier run.")] = False,
    threads: Threads = None,
) -> None:
    """Train a preset. Needs the extra `train`.

    `towers` trains the compact text and image encoders on images with captions and boxes. `detector` trains
    the compact detector, first by distillation, then on boxes. `base` trains a base layer against its
    detector; then `dual-layer-compact --start WEIGHTS` (or `dual-layer`) trains the enhancement layer.
    """
    own: dict[str, Any] = {"stage": None if preset == "base" else stage, "keep_front": keep_front or None}
    own |= {"learning_rate": learning_rate, "cooldown": cooldown, "teacher": teacher, "of": of}
    own |= {"parts": None if parts is None else parts.replace(",", " ").split()}
    own = {name: value for name, value in own.items() if value is not None}
    check_training(preset, stage, learning_rate, cooldown, teacher, of, keep_front, parts)
    from trifocal import training
    from trifocal.cli import console

    use_threads(threads)
    terminal = console.Console()
    sources = [*(data or []), *(more or [])]
    folder = out or f"runs/{preset}" + (f"-stage{stage}" if stage > 1 else "") + (f"-{of}" if of else "")
    if not resume:
        check_outputs([Path(folder, "checkpoint.pt")], force)
    with console.reporting(terminal) as report:
        weights = training.in_processes(
            processes,
            getattr(training, OTHER_TRAININGS.get(preset, "train")),
            *(() if preset in OTHER_TRAININGS else (preset,)),
            sources,
            folder,
            steps=steps,
            minutes=minutes,
            batch=batch,
            precision=precision,
            start=start,
            resume=resume,
            every=every,
            report=report,
            note=terminal.print_notice,
            **own,
        )
    terminal.print_result(str(weights))


Qualities = Annotated[
    Any, typer.Option(parser=parse_qualities, metavar="Q,Q,...", help="Qualities, 0 to 100.")
]
KeepRows = Annotated[bool, typer.Option("--resume", help="Keep existing rows, and measure what is missing.")]
Metrics = Annotated[
    list[str] | None,
    typer.Option(
        help="psnr ms-ssim ssimulacra2 butteraugli cvvdp flip lpips lpips-vgg dists tower clip-score "
        "ref-clip-score "
        "nima:FILE; psnr-named and psnr-rest (inside and outside the boxes of the objects that captions "
        "name); "
        "over all images fid fid-whole kid kid-whole is. [default: psnr ms-ssim]",
    ),
]
Text = Annotated[
    list[Any] | None,
    typer.Option(
        metavar="KIND...",
        help="Text ablation for presets that take text: the captions of captions.json next to the images "
        "(true), an empty text "
        "(empty), another image's caption (mismatched), or no text (none).",
    ),
]
TaskKind = Annotated[
    str | None,
    typer.Option("--task", help="Also measure detection, segmentation or classification."),
]
Network = Annotated[
    str | None,
    typer.Option(
        "--detector",
        "--network",
        help="Network for --task: a torchvision name, an .onnx file, or compact for the bundled detector.",
    ),
]
Annotations = Annotated[
    str | None,
    typer.Option(
        help="Annotation file. own: the detector's own results on the originals, for images without "
        "labels. [default: searched next to the images]",
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
        help="Measure only the base layer of layered presets, at base qualities. --detector compact reads "
        "the layer itself, and the "
        "decoded images of other codecs; avif:small encodes images at the detector's input size.",
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


Device = Annotated[str, typer.Option(help="Device of the presets: cpu, cuda, or another one of torch.")]

CANDIDATES = (
    "Presets; other formats (avif, webp, jpeg, jxl, heic); presets with custom weights as "
    "LABEL=PRESET:WEIGHTS, "
    "such as mine=compact:mine.safetensors."
)


@app.command(cls=MultiValueCommand)
def evaluate(
    presets: Annotated[
        list[str],
        typer.Argument(metavar="PRESETS...", show_default=False, help=CANDIDATES),
    ],
    data: Annotated[str, typer.Option(help="Folder of images.", show_default=False)],
    out: Annotated[
        str | None, typer.Option("--out", "-o", help="Table of results. [default: results.csv]")
    ] = None,
    qualities: Qualities = "10,30,50,70,90",
    metrics: Metrics = None,
    text: Text = None,
    layers: Layers = None,
    preference: Preferences = None,
    device: Device = "cpu",
    task: TaskKind = None,
    detector: Network = None,
    annotations: Annotations = None,
    short_side: ShortSide = None,
    resume: KeepRows = False,
    force: Force = False,
    threads: Threads = None,
) -> None:
    """Measure presets on real files. Needs the extra `evaluate`.

    Writes a row per image and quality with bytes, bits per pixel, metrics and seconds, and prints the means
    over images. With --text it also prints what the text changes at equal bytes: the mean over images with
    its 95 % interval.
    """
    check_task(task, detector, annotations, short_side)
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
            evaluation.create_task(task, detector, annotations, data, short_side, report=report)
            if task
            else None
        )
        options = evaluation.EvaluateOptions(
            qualities=qualities,
            metrics=metrics or evaluation.DEFAULT_METRICS,
            task=measured,
            text=text or (),
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
            note=terminal.print_notice,
        )
    terminal.out.print(console.means_table(results.means))
    if results.effects:
        terminal.out.print(console.effects_table(results.effects))
    terminal.print_result(f"{out}  {len(results.rows)} rows")


@app.command(cls=MultiValueCommand)
def compare(
    subjects: Annotated[
        list[str],
        typer.Argument(metavar="PRESETS...", show_default=False, help=CANDIDATES),
    ],
    data: Annotated[str, typer.Option(help="Folder of images.", show_default=False)],
    out: Annotated[str, typer.Option("--out", "-o", help="Folder of the report.")] = "report",
    qualities: Qualities = "10,30,50,70,90",
    metrics: Metrics = None,
    text: Text = None,
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
            "first preset is worst, median "
            "and best, at the largest error.",
        ),
    ] = None,
    published: Annotated[
        list[str] | None,
        typer.Option(help="More curves: CompressAI result files, or tables with codec, bpp and metrics."),
    ] = None,
    resume: KeepRows = False,
    force: Force = False,
    threads: Threads = None,
) -> None:
    """Measure presets and other formats, and write an HTML report. Needs the extra `evaluate`.

    The report has curves, tables and crops. Crops compare the first preset with the others at equal bytes, at
    a low, a middle and a high rate.
    """
    check_task(task, detector, annotations, short_side)
    from trifocal.cli import console
    from trifocal.evaluation import DEFAULT_METRICS, CompareOptions, create_task, load_custom_weights
    from trifocal.evaluation.compare import compare

    if not resume:
        check_outputs([Path(out, "index.html"), Path(out, "results.csv")], force)
    use_threads(threads)
    terminal = console.Console()
    with console.reporting(terminal) as report:
        load_custom_weights(subjects, device)  # before a task loads its detector
        measured = create_task(task, detector, annotations, data, short_side, report=report) if task else None
        options = CompareOptions(
            qualities=qualities,
            metrics=metrics or DEFAULT_METRICS,
            task=measured,
            text=text or (),
            layers=layers,
            preferences=preference or (),
            device=device,
            resume=resume,
            crops=crop or (),
            published=published or (),
        )
        page = compare(
            subjects,
            data,
            out,
            options,
            progress=lambda fraction: report(fraction, ""),
            note=terminal.print_notice,
        )
    terminal.print_result(str(page))


def check_training(
    preset: str,
    stage: int,
    learning_rate: float | None,
    cooldown: float | None,
    teacher: str | None,
    of: str | None,
    keep_front: bool,
    parts: str | None,
) -> None:
    """Raises typer.BadParameter for options that this kind of training would ignore."""
    if preset not in OTHER_TRAININGS and teacher is not None:
        raise typer.BadParameter(f"{preset} takes no --teacher; {', '.join(OTHER_TRAININGS)} do.")
    if preset == "towers" and learning_rate is not None:
        raise typer.BadParameter("towers takes no --learning-rate; each of its stages has its own.")
    if preset in OTHER_TRAININGS and cooldown is not None:
        raise typer.BadParameter(f"{preset} takes no --cooldown; its learning rate falls over the whole run.")
    if preset in OTHER_TRAININGS and parts is not None:
        raise typer.BadParameter(f"{preset} takes no --parts; presets do.")
    if preset != "base" and of is not None:
        raise typer.BadParameter(f"--of is for base, not for {preset}.")
    if preset != "detector" and keep_front:
        raise typer.BadParameter(f"--keep-front is for detector, not for {preset}.")
    if preset == "base" and stage != 1:
        raise typer.BadParameter("base has one stage; omit --stage.")


def check_task(task: str | None, *options: object) -> None:
    """Raises typer.BadParameter for options of a task without a task."""
    if task is None and any(option is not None for option in options):
        raise typer.BadParameter("--detector, --annotations and --short-side need a --task.")
