"""Training a model, and measuring what it is worth."""

from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from trifocal.cli.main import Force, Threads, app, check_outputs, use_threads
from trifocal.cli.options import SpreadOptions

if TYPE_CHECKING:
    from rich.table import Table

    from trifocal.evaluation import TextEffect


def qualities_of(text: str) -> list[float]:
    try:
        return [float(part) for part in text.replace(",", " ").split()]
    except ValueError:
        raise typer.BadParameter(f"{text!r} is not a list of qualities; write it like 10,30,50.") from None


# What is trained and is no preset, and the function of `trifocal.training` that does it.
APART = {"towers": "train_towers", "detector": "train_detector", "base": "train_base"}


@app.command()
def train(
    preset: Annotated[str, typer.Argument(show_default=False, help="Or towers, detector or base.")],
    more: Annotated[list[str] | None, typer.Argument(metavar="[MORE_DATA]...", show_default=False)] = None,
    data: Annotated[
        list[str] | None, typer.Option(help="A folder of pictures, or tar files of them; may be said again.")
    ] = None,
    out: Annotated[
        str | None, typer.Option("--out", "-o", help="The folder of the run; runs/PRESET, if not said.")
    ] = None,
    stage: Annotated[
        int,
        typer.Option(
            min=1,
            help="Of what has several; 2 goes on with --start from the weights of 1, and 3 of the detector from the installed ones.",
        ),
    ] = 1,
    steps: Annotated[int | None, typer.Option(min=1, help="How long to train, in steps,")] = None,
    minutes: Annotated[float | None, typer.Option(min=0, help="or in minutes.")] = None,
    batch: Annotated[
        int | None, typer.Option(min=1, help="Crops per step of each process; the recipe's, if not given.")
    ] = None,
    learning_rate: Annotated[float | None, typer.Option(min=0, help="Not the recipe's.")] = None,
    cooldown: Annotated[
        float | None,
        typer.Option(
            min=0,
            max=1,
            help="Last part of the run in which the learning rate falls; 0 keeps it level, for a run to be resumed with more "
            "steps or minutes. The recipe's, if not given.",
        ),
    ] = None,
    precision: Annotated[
        str,
        typer.Option(
            metavar="auto|bfloat16|float32",
            help="Of the branches of residual blocks (for towers, detector and base: of all convolutions and matrix products); "
            "auto is bfloat16 where the processor or GPU computes in it. Exported weights and decoding are the same.",
        ),
    ] = "auto",
    processes: Annotated[
        int,
        typer.Option(
            min=1,
            help="Processes on this machine that average their gradients; they share --threads, or have a GPU each.",
        ),
    ] = 1,
    start: Annotated[str | None, typer.Option(help="Weights (.safetensors) to begin from.")] = None,
    resume: Annotated[
        bool, typer.Option("--resume", help="Go on from the checkpoint in the folder.")
    ] = False,
    teacher: Annotated[
        str | None,
        typer.Option(help="For towers, detector and base: PicoDet as .onnx, and what it sees is learned."),
    ] = None,
    of: Annotated[
        str | None, typer.Option(help="For base: the preset that it is of; dual-layer-compact, if not said.")
    ] = None,
    keep_front: Annotated[
        bool,
        typer.Option(
            "--keep-front", help="For detector: only what stands behind the split learns; files stay valid."
        ),
    ] = False,
    every: Annotated[float, typer.Option(min=0, help="Minutes between checkpoints.")] = 5.0,
    force: Annotated[bool, typer.Option("--force", help="Replace the checkpoint of an earlier run.")] = False,
    threads: Threads = None,
) -> None:
    """Trains a preset's network on pictures; needs the extra `train`.

    `towers` names the compact text and image towers, which learn from pictures with captions and boxes beside them;
    `detector` the compact detector, which learns from a teacher, and then from boxes too; `base` a base layer, which learns
    from the detector that it serves, and `dual-layer-compact --start` (or `dual-layer`) then goes on from its weights.
    """
    own: dict[str, Any] = {"stage": None if preset == "base" else stage, "keep_front": keep_front or None}
    own |= {"learning_rate": learning_rate, "cooldown": cooldown, "teacher": teacher, "of": of}
    own = {name: value for name, value in own.items() if value is not None}
    check_training(preset, stage, learning_rate, cooldown, teacher, of, keep_front)
    from trifocal import training
    from trifocal.cli import console

    use_threads(threads)
    desk = console.Console()
    sources = [*(data or []), *(more or [])]
    folder = out or f"runs/{preset}" + (f"-stage{stage}" if stage > 1 else "") + (f"-{of}" if of else "")
    if not resume:
        check_outputs([Path(folder, "checkpoint.pt")], force)
    with console.reporting(desk) as report:
        weights = training.in_processes(
            processes,
            getattr(training, APART.get(preset, "train")),
            *(() if preset in APART else (preset,)),
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
            note=desk.note,
            **own,
        )
    desk.say(str(weights))


Qualities = Annotated[Any, typer.Option(parser=qualities_of, metavar="Q,Q,...", help="Each 0 to 100.")]
KeepRows = Annotated[bool, typer.Option("--resume", help="Keep the rows that are there.")]
Metrics = Annotated[
    list[str] | None,
    typer.Option(
        help="psnr ms-ssim ssimulacra2 butteraugli cvvdp flip lpips lpips-vgg dists tower clip-score ref-clip-score "
        "nima:FILE, psnr-named and psnr-rest (inside and outside of the boxes of what the captions name), "
        "and of all pictures together fid fid-whole kid kid-whole is; psnr and ms-ssim, if not said."
    ),
]
Text = Annotated[
    list[Any] | None,
    typer.Option(
        metavar="KIND...",
        help="What words change: measure presets that take words with those of the captions.json beside the pictures "
        "(true), an empty text, those of another picture (mismatched), or none.",
    ),
]
TaskKind = Annotated[
    str | None,
    typer.Option("--task", help="What machines see too: detection, segmentation or classification."),
]
Network = Annotated[
    str | None,
    typer.Option(
        "--detector",
        "--network",
        help="A network of torchvision's by its name, a detector's .onnx file, or compact: our own.",
    ),
]
Annotations = Annotated[
    str | None,
    typer.Option(
        help="What is to be seen; looked for beside the pictures, if not said. own: what the detector finds itself in the "
        "originals, of pictures that nobody labelled."
    ),
]
ShortSide = Annotated[
    int | None,
    typer.Option(help="For detection: code each picture resized so, such as 800; see the README on bpp."),
]


Layers = Annotated[
    str | None,
    typer.Option(
        metavar="base",
        help="Measure presets with layers by their base layer alone, at base qualities. With --detector compact that reads "
        "the layer, and looks at what others decoded; avif:small codes pictures as small as it looks at them.",
    ),
]


Preferences = Annotated[
    list[float] | None,
    typer.Option(
        metavar="P...",
        help="For presets whose decoder knows it: decode files for people (0), for machines (1), or between.",
    ),
]


Device = Annotated[str, typer.Option(help="Where presets run: cpu, cuda, or another device of torch.")]

SUBJECTS = (
    "Presets; other formats (avif, webp, jpeg, jxl, heic); and presets with your own weights as LABEL=PRESET:WEIGHTS, "
    "such as mine=compact:mine.safetensors."
)


@app.command(cls=SpreadOptions)
def evaluate(
    presets: Annotated[
        list[str],
        typer.Argument(metavar="PRESETS...", show_default=False, help=SUBJECTS),
    ],
    data: Annotated[str, typer.Option(help="A folder of pictures.", show_default=False)],
    out: Annotated[
        str | None, typer.Option("--out", "-o", help="The table to write; results.csv by default.")
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
    """Measures presets on real files, a row per picture and quality; needs the extra `evaluate`.

    A row has bytes, bits per pixel, the metrics and seconds; the means over pictures are printed, and written too. After
    --text, so is what the words change: at equal bytes, the mean over pictures with its 95 % interval.
    """
    check_task(task, detector, annotations, short_side)
    from trifocal import evaluation
    from trifocal.cli import console

    if out is None and not resume:
        check_outputs([Path("results.csv")], force)
    out = out or "results.csv"
    use_threads(threads)
    desk = console.Console()
    with console.reporting(desk) as report:
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
            presets, data, out, options, progress=lambda fraction: report(fraction, ""), note=desk.note
        )
    desk.out.print(console.table_of_means(results.means))
    if results.effects:
        desk.out.print(table_of_effects(results.effects))
    desk.say(f"{out}  {len(results.rows)} rows")


@app.command(cls=SpreadOptions)
def compare(
    subjects: Annotated[
        list[str],
        typer.Argument(metavar="PRESETS...", show_default=False, help=SUBJECTS),
    ],
    data: Annotated[str, typer.Option(help="A folder of pictures.", show_default=False)],
    out: Annotated[str, typer.Option("--out", "-o", help="The folder of the report.")] = "report",
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
            metavar="PICTURE:X,Y,WIDTH,HEIGHT",
            help="A place to look at, in pixels; may be said again. By default those pictures where the first preset is worst, "
            "as usual and best, where it errs most.",
        ),
    ] = None,
    published: Annotated[
        list[str] | None,
        typer.Option(help="More curves: CompressAI's result files, or tables with codec, bpp and metrics."),
    ] = None,
    resume: KeepRows = False,
    force: Force = False,
    threads: Threads = None,
) -> None:
    """Measures presets and other formats, and writes a page with curves, tables and crops; needs the extra `evaluate`.

    The first preset is the one that is looked at: crops of its files stand beside those of the others at equal bytes, at low,
    middle and high rate.
    """
    check_task(task, detector, annotations, short_side)
    from trifocal.cli import console
    from trifocal.evaluation import DEFAULT_METRICS, CompareOptions, create_task, load_custom_weights
    from trifocal.evaluation.compare import compare

    if not resume:
        check_outputs([Path(out, "index.html"), Path(out, "results.csv")], force)
    use_threads(threads)
    desk = console.Console()
    with console.reporting(desk) as report:
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
            subjects, data, out, options, progress=lambda fraction: report(fraction, ""), note=desk.note
        )
    desk.say(str(page))


def table_of_effects(effects: Sequence["TextEffect"]) -> "Table":
    """A line for each preset, metric and two kinds of words."""
    from rich.table import Table

    caption = "better at equal bytes, by so much; 95 % bootstrap interval over pictures; * excludes zero"
    table = Table(box=None, header_style="bold", caption=caption, pad_edge=False, collapse_padding=True)
    for name in ("preset", "metric", "words", "against", "sent words", "difference", "interval", "pictures"):
        table.add_column(name)
    for one in effects:
        paired = one.paired
        mean = "" if paired.mean is None else f"{paired.mean:+.4g}"
        interval = ""
        if paired.low is not None and paired.high is not None:
            star = "" if paired.low <= 0 <= paired.high else " *"
            interval = f"{paired.low:+.4g} to {paired.high:+.4g}{star}"
        counted = "counted" if one.counted else "left out"
        table.add_row(
            one.preset, one.metric, one.words, one.against, counted, mean, interval, str(paired.pictures)
        )
    return table


def check_training(
    preset: str,
    stage: int,
    learning_rate: float | None,
    cooldown: float | None,
    teacher: str | None,
    of: str | None,
    keep_front: bool,
) -> None:
    """Refuses what this kind of training would pass over in silence."""
    if preset not in APART and teacher is not None:
        raise typer.BadParameter(f"{preset} takes no --teacher; {', '.join(APART)} do.")
    if preset == "towers" and learning_rate is not None:
        raise typer.BadParameter("towers take no --learning-rate; each of their stages has its own.")
    if preset in APART and cooldown is not None:
        raise typer.BadParameter(
            f"{preset} takes no --cooldown; its learning rate falls from the first step to the last."
        )
    if preset != "base" and of is not None:
        raise typer.BadParameter(f"--of is for base, not for {preset}.")
    if preset != "detector" and keep_front:
        raise typer.BadParameter(f"--keep-front is for detector, not for {preset}.")
    if preset == "base" and stage != 1:
        raise typer.BadParameter("base has one stage; leave --stage out.")


def check_task(task: str | None, *its_options: object) -> None:
    if task is None and any(option is not None for option in its_options):
        raise typer.BadParameter("--detector, --annotations and --short-side are of a --task; say which.")
