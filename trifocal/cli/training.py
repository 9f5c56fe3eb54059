"""The commands train and export."""

from typing import Annotated, Any

import typer

from trifocal.cli.main import Threads, app, use_threads
from trifocal.cli.options import parse_fields, parse_positive

# What is trained besides presets, and the function of `trifocal.training` for it.
OTHER_TRAININGS = {
    "towers": "train_text_image",
    "categories": "train_text_categories",
    "detector": "train_detector",
    "base": "train_base_layer",
}


@app.command()
def train(
    preset: Annotated[
        str, typer.Argument(show_default=False, help="A preset, towers, categories, detector or base.")
    ],
    more: Annotated[
        list[str] | None,
        typer.Argument(
            metavar="[MORE_DATA]...",
            show_default=False,
            help="More of --data, as from a wildcard: --data shards/*.tar.",
        ),
    ] = None,
    data: Annotated[
        list[str] | None,
        typer.Option(
            metavar="PATH",
            help="Folder of images (or COCO's root folder), image, or WebDataset shard (.tar); repeatable.",
        ),
    ] = None,
    out: Annotated[
        str | None,
        typer.Option(
            "--out",
            "-o",
            metavar="FOLDER",
            help="Folder of the run. [default: runs/PRESET; runs/PRESET-stageN for a later stage N, and "
            "runs/base-OF with --of]",
        ),
    ] = None,
    stage: Annotated[
        int | None,
        typer.Option(
            min=1,
            help="Training stage: 1 to 3 for detector; 1 or 2 for towers, dual-layer-compact, cross-modal, "
            "cross-modal-cheng2020, the ug-icm presets and discover; 1 for all others. Pass the weights of "
            "stage 1 to stage 2 with --start. "
            "Stage 3 starts from the bundled weights unless --start is given. [default: 1]",
        ),
    ] = None,
    steps: Annotated[int | None, typer.Option(min=1, help="Length of the run in steps.")] = None,
    minutes: Annotated[
        float | None,
        typer.Option(parser=parse_positive, metavar="FLOAT", help="Length of the run in minutes, above 0."),
    ] = None,
    batch: Annotated[
        int | None,
        typer.Option(min=1, help="Crops per step, in all processes together. [default: the recipe's]"),
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
            "for a run that will be resumed with more steps or minutes. [default: the recipe's]",
        ),
    ] = None,
    quality: Annotated[
        float | None,
        typer.Option(min=0, max=100, help="Train a single rate: that of this quality. [default: all rates]"),
    ] = None,
    lambda_: Annotated[
        float | None,
        typer.Option("--lambda", min=0, help="Train a single rate: that of this λ of the objective."),
    ] = None,
    fields: Annotated[
        list[str] | None,
        typer.Option(
            "--set",
            metavar="FIELD=VALUE",
            help="Fields of the recipe, or of its objective, such as learning_rate=1e-4 or k_p=3.5; "
            "repeatable, see docs/training.md.",
        ),
    ] = None,
    precision: Annotated[
        str | None,
        typer.Option(
            metavar="auto|bfloat16|float32",
            help="Precision of residual branches (for towers, detector and base: of all convolutions and "
            "matrix products). auto is bfloat16 if the processor or GPU supports it. Exported weights and "
            "decoding do not depend on it. [default: auto]",
        ),
    ] = None,
    processes: Annotated[
        int,
        typer.Option(
            min=1,
            help="Processes on this machine that average gradients. --batch and --threads are totals of all. "
            "If there are GPUs, each process uses one of its own.",
        ),
    ] = 1,
    start: Annotated[str | None, typer.Option(metavar="FILE", help="Initial weights (.safetensors).")] = None,
    clip: Annotated[
        str | None,
        typer.Option(
            metavar="FOLDER", help="Folder with the CLIP model of the preset, in place of the download."
        ),
    ] = None,
    resume: Annotated[
        bool,
        typer.Option("--resume", help="Continue from the checkpoint in the folder, with its options."),
    ] = False,
    teacher: Annotated[
        str | None,
        typer.Option(
            metavar="FILE", help="For towers, detector and base: PicoDet as .onnx, for distillation."
        ),
    ] = None,
    of: Annotated[
        str | None,
        typer.Option(
            metavar="PRESET",
            help="For base: the scalable preset whose base layer is trained. [default: dual-layer-compact]",
        ),
    ] = None,
    keep_front: Annotated[
        bool,
        typer.Option(
            "--keep-front",
            help="Detector only: freeze the layers up to the features that the base layer codes, so that "
            "existing files stay decodable. Stages 1 and 2 then need --start.",
        ),
    ] = False,
    parts: Annotated[
        str | None,
        typer.Option(
            metavar="PART,...", help="Train only these parts of a preset: encoder, decoder, entropy, ..."
        ),
    ] = None,
    every: Annotated[
        float | None, typer.Option(min=0, help="Minutes between checkpoints. [default: 5]")
    ] = None,
    force: Annotated[bool, typer.Option("--force", help="Replace an earlier run in the folder.")] = False,
    count: Annotated[
        bool,
        typer.Option(
            "--count",
            help="Print the operations of a training step, and with --steps the GPU hours of the run. "
            "Nothing is trained, and no data is read.",
        ),
    ] = False,
    threads: Threads = None,
) -> None:
    """Train a preset. Needs the extra `train`.

    `towers` trains the bundled text and image encoders, and the grounding head, which locates what a text
    names, on images with captions and boxes; with `--stage 2` the grounding head alone. `categories` trains
    the classifier that finds out which of COCO's categories a text names, on captions; it needs the extra
    `text`. `detector` trains the bundled detector in three stages (`--stage`): by distillation; on boxes;
    and by distillation of its later layers, half of the time on features from a base layer. `base` trains a
    base layer, so that a frozen detector finds the same on it as on the image; then
    `dual-layer-compact --start WEIGHTS` (or `dual-layer`) trains the enhancement layer.

    Ctrl-C or SIGTERM saves a checkpoint and ends the run; --resume continues it.
    """
    kept: dict[str, Any] = {"stage": stage, "learning_rate": learning_rate, "cooldown": cooldown}
    kept |= {"teacher": teacher, "of": of, "keep_front": keep_front or None, "clip": clip}
    check_training(preset, {**kept, "parts": parts, "quality": quality, "lambda": lambda_, "set": fields})
    values = parse_fields(fields or [])
    if quality is not None:
        values["quality"] = quality
    if lambda_ is not None:
        values |= {"quality": 50.0, "lambdas": [lambda_, lambda_]}
    kept |= {"fields": values or None, "parts": None if parts is None else parts.replace(",", " ").split()}
    if count:
        changes = values | given_fields(batch, learning_rate)
        count_training(preset, of, stage or 1, steps, changes, kept["parts"] or [], threads)
        return
    if preset in ("base", "categories"):  # which have no stages
        kept.pop("stage")
    run_training(
        preset,
        [*(data or []), *(more or [])],
        out or f"runs/{preset}" + (f"-stage{stage}" if (stage or 1) > 1 else "") + (f"-{of}" if of else ""),
        processes,
        threads,
        steps=steps,
        minutes=minutes,
        batch=batch,
        precision=precision,
        start=start,
        resume=resume,
        force=force,
        every=every,
        **{name: value for name, value in kept.items() if value is not None},
    )


def run_training(
    preset: str, data: list[str], out: str, processes: int, threads: int | None, **options: Any
) -> None:
    """Train with a progress bar; the first of several processes prints."""
    from trifocal import training
    from trifocal.cli import console

    use_threads(threads)
    terminal = console.Console(quiet=training.process_rank() > 0)
    with console.reporting(terminal) as report:
        weights = training.in_processes(
            processes,
            getattr(training, OTHER_TRAININGS.get(preset, "train")),
            *(() if preset in OTHER_TRAININGS else (preset,)),
            data,
            out,
            report=report,
            notify=terminal.print_notice,
            **options,
        )
    terminal.report(str(weights))


def given_fields(batch: int | None, learning_rate: float | None) -> dict[str, object]:
    """The options of a run that are fields of its recipe."""
    given = {"batch": batch, "learning_rate": learning_rate}
    return {name: value for name, value in given.items() if value is not None}


def count_training(
    preset: str,
    of: str | None,
    stage: int,
    steps: int | None,
    fields: dict[str, Any],
    parts: list[str],
    threads: int | None,
) -> None:
    """Print the operations of a training step, and the GPU hours of so many steps."""
    from trifocal import training
    from trifocal.cli import console
    from trifocal.training.operations import GPU, TERAFLOPS, UTILISATION

    if preset in ("towers", "detector"):
        raise typer.BadParameter(f"{preset} takes no --count; presets and base do.")
    use_threads(threads)
    terminal = console.Console()
    with console.reporting(terminal) as report:
        report(0.0, "counting operations")
        found = (
            training.count_base_operations(of or "dual-layer-compact", fields)
            if preset == "base"
            else training.count_operations(preset, stage, fields, parts)
        )
        report(1.0, "counting operations")
    image, step = 1e-12 * found.image, 1e-12 * found.step
    terminal.print_result(f"{image:.3g} TFLOP an image, {step:.3g} a step of {found.batch}")
    if steps is not None:
        terminal.print_result(
            f"{steps:,} steps: {found.hours(steps):,.0f} hours of one {GPU}, at {100 * UTILISATION:.0f} % "
            f"of its {TERAFLOPS:.0f} TFLOP/s (TF32)"
        )


@app.command()
def export(
    run: Annotated[str, typer.Argument(metavar="RUN", show_default=False, help="Folder of a training run.")],
    data: Annotated[
        list[str] | None,
        typer.Option(
            help="Training images, from whose symbols the range coder's frequency tables are computed. "
            "[default: those of the run]"
        ),
    ] = None,
    threads: Threads = None,
) -> None:
    """Write the weights of a training run's checkpoint. Needs the extra `train`.

    The run may still be going on, or may have been stopped. Nothing is trained.
    """
    from trifocal import training
    from trifocal.cli import console

    use_threads(threads)
    terminal = console.Console()
    with console.reporting(terminal) as report:
        weights = training.export_run(run, data or [], report=report, notify=terminal.print_notice)
    terminal.print_result(str(weights))


def check_training(preset: str, given: dict[str, Any]) -> None:
    """Raises typer.BadParameter for options that this kind of training would ignore."""
    is_preset, stage = preset not in OTHER_TRAININGS, given["stage"]
    if given["teacher"] is not None and (is_preset or preset == "categories"):
        raise typer.BadParameter(f"{preset} takes no --teacher; towers, detector, base do.")
    if preset == "towers" and given["learning_rate"] is not None:
        raise typer.BadParameter("towers takes no --learning-rate; each of its stages has its own.")
    if not is_preset and given["cooldown"] is not None:
        raise typer.BadParameter(f"{preset} takes no --cooldown; its learning rate falls over the whole run.")
    for name in ("parts", "quality", "lambda", "clip"):
        if not is_preset and given[name] is not None:
            raise typer.BadParameter(f"{preset} takes no --{name}; presets do.")
    if preset in ("towers", "categories", "detector") and given["set"]:
        raise typer.BadParameter(f"{preset} takes no --set; presets and base do.")
    if given["quality"] is not None and given["lambda"] is not None:
        raise typer.BadParameter("give --quality or --lambda, not both.")
    if preset != "base" and given["of"] is not None:
        raise typer.BadParameter(f"--of is for base, not for {preset}.")
    if preset != "detector" and given["keep_front"]:
        raise typer.BadParameter(f"--keep-front is for detector, not for {preset}.")
    if preset in ("base", "categories") and stage not in (None, 1):
        raise typer.BadParameter(f"{preset} has one stage; omit --stage.")
