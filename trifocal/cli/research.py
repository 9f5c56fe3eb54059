"""Training a model, and measuring what it is worth."""

from typing import Annotated, Any

import typer

from trifocal.cli.main import Threads, app, use_threads
from trifocal.cli.options import SpreadOptions


def qualities_of(text: str) -> list[float]:
    try:
        return [float(part) for part in text.replace(",", " ").split()]
    except ValueError:
        raise typer.BadParameter(f"{text!r} is not a list of qualities; write it like 10,30,50.") from None


@app.command()
def train(
    preset: Annotated[str, typer.Argument(show_default=False)],
    more: Annotated[list[str] | None, typer.Argument(metavar="[MORE_DATA]...", show_default=False)] = None,
    data: Annotated[
        list[str] | None, typer.Option(help="A folder of pictures, or tar files of them; may be said again.")
    ] = None,
    out: Annotated[
        str | None, typer.Option("--out", "-o", help="The folder of the run; runs/PRESET, if not said.")
    ] = None,
    steps: Annotated[int | None, typer.Option(min=1, help="How long to train, in steps,")] = None,
    minutes: Annotated[float | None, typer.Option(min=0, help="or in minutes.")] = None,
    batch: Annotated[int | None, typer.Option(min=1, help="Crops per step, not the recipe's.")] = None,
    learning_rate: Annotated[float | None, typer.Option(min=0, help="Not the recipe's.")] = None,
    start: Annotated[str | None, typer.Option(help="Weights (.safetensors) to begin from.")] = None,
    resume: Annotated[
        bool, typer.Option("--resume", help="Go on from the checkpoint in the folder.")
    ] = False,
    every: Annotated[float, typer.Option(min=0, help="Minutes between checkpoints.")] = 5.0,
    threads: Threads = None,
) -> None:
    """Trains a preset's network on pictures; needs the extra `train`."""
    from trifocal import console, training

    use_threads(threads)
    desk = console.Desk()
    with console.reporting(desk) as report:
        weights = training.train(
            preset,
            [*(data or []), *(more or [])],
            out or f"runs/{preset}",
            steps=steps,
            minutes=minutes,
            batch=batch,
            learning_rate=learning_rate,
            start=start,
            resume=resume,
            every=every,
            report=report,
        )
    desk.say(str(weights))


Qualities = Annotated[Any, typer.Option(parser=qualities_of, metavar="Q,Q,...", help="Each 0 to 100.")]
KeepRows = Annotated[bool, typer.Option("--resume", help="Keep the rows that are there.")]
Metrics = Annotated[
    list[str] | None,
    typer.Option(
        help="psnr ms-ssim ssimulacra2 lpips lpips-vgg dists clip-score ref-clip-score nima:FILE, and of all pictures "
        "together fid fid-whole kid kid-whole is; psnr and ms-ssim, if not said."
    ),
]
TaskKind = Annotated[
    str | None,
    typer.Option("--task", help="What machines see too: detection, segmentation or classification."),
]
Network = Annotated[
    str | None,
    typer.Option(
        "--detector", "--network", help="A network of torchvision's by its name, or a detector's .onnx file."
    ),
]
Annotations = Annotated[
    str | None, typer.Option(help="What is to be seen; looked for beside the pictures, if not said.")
]
ShortSide = Annotated[
    int | None,
    typer.Option(help="For detection: code each picture resized so, such as 800; see the README on bpp."),
]


@app.command(cls=SpreadOptions)
def evaluate(
    presets: Annotated[
        list[str],
        typer.Argument(
            metavar="PRESETS...", show_default=False, help="Also avif, webp, jpeg, jxl and heic, to compare."
        ),
    ],
    data: Annotated[str, typer.Option(help="A folder of pictures.", show_default=False)],
    out: Annotated[str, typer.Option("--out", "-o", help="The table to write.")] = "results.csv",
    qualities: Qualities = "10,30,50,70,90",
    metrics: Metrics = None,
    task: TaskKind = None,
    detector: Network = None,
    annotations: Annotations = None,
    short_side: ShortSide = None,
    resume: KeepRows = False,
    threads: Threads = None,
) -> None:
    """Measures presets on real files, a row per picture and quality; needs the extra `evaluate`.

    A row has bytes, bits per pixel, the metrics and seconds; the means over pictures are printed, and written too.
    """
    check_task(task, detector, annotations, short_side)
    from trifocal import console, evaluation

    use_threads(threads)
    desk = console.Desk()
    judge = evaluation.task_of(task, detector, annotations, data, short_side) if task else None
    with console.reporting(desk) as report:
        results = evaluation.evaluate(
            presets,
            data,
            out,
            qualities,
            resume,
            metrics or evaluation.DEFAULT_METRICS,
            judge,
            progress=lambda fraction: report(fraction, ""),
            note=desk.note,
        )
    desk.out.print(console.table_of_means(results.means))
    desk.say(f"{out}  {len(results.rows)} rows")


@app.command(cls=SpreadOptions)
def compare(
    subjects: Annotated[
        list[str],
        typer.Argument(
            metavar="PRESETS...", show_default=False, help="Presets, and avif webp jpeg jxl heic."
        ),
    ],
    data: Annotated[str, typer.Option(help="A folder of pictures.", show_default=False)],
    out: Annotated[str, typer.Option("--out", "-o", help="The folder of the report.")] = "report",
    qualities: Qualities = "10,30,50,70,90",
    metrics: Metrics = None,
    task: TaskKind = None,
    detector: Network = None,
    annotations: Annotations = None,
    short_side: ShortSide = None,
    published: Annotated[
        list[str] | None,
        typer.Option(help="More curves: CompressAI's result files, or tables with codec, bpp and metrics."),
    ] = None,
    resume: KeepRows = False,
    threads: Threads = None,
) -> None:
    """Measures presets and other formats, and writes a page with curves, tables and crops; needs the extra `evaluate`.

    The first preset is the one that is looked at: its worst picture is shown beside its best.
    """
    check_task(task, detector, annotations, short_side)
    from trifocal import console
    from trifocal.evaluation import DEFAULT_METRICS, task_of
    from trifocal.evaluation.compare import compare

    use_threads(threads)
    desk = console.Desk()
    judge = task_of(task, detector, annotations, data, short_side) if task else None
    with console.reporting(desk) as report:
        page = compare(
            subjects,
            data,
            out,
            qualities,
            resume,
            metrics or DEFAULT_METRICS,
            judge,
            published or (),
            progress=lambda fraction: report(fraction, ""),
            note=desk.note,
        )
    desk.say(str(page))


def check_task(task: str | None, *its_options: object) -> None:
    if task is None and any(option is not None for option in its_options):
        raise typer.BadParameter("--detector, --annotations and --short-side are of a --task; say which.")
