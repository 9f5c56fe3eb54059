"""Train the bundled text and image encoders (`image_text_model.py`)."""

from collections.abc import Sequence
from pathlib import Path
from typing import Unpack

from accelerate.utils import set_seed
from safetensors.torch import save
from torch import nn

from trifocal.errors import OptionError
from trifocal.text.byte_pairs import BytePairTokenizer
from trifocal.training.batches import read_run_data
from trifocal.training.checkpoint import load_start
from trifocal.training.image_text_batches import (
    ClassMapTeacher,
    ImageTextBatches,
    RepeatedBatch,
    View,
    make_views,
)
from trifocal.training.image_text_model import ImageTextModel, train_tokenizer
from trifocal.training.precision import new_accelerator
from trifocal.training.run import RunOptions, open_run
from trifocal.training.task import SEED, BatchSource, LossTask, TrainingTask, move
from trifocal.training.tasks.grounding import GroundingTask
from trifocal.training.trainer import open_trainer
from trifocal.utils.files import atomic_write

__all__ = ["train_text_image"]

DEFAULTS = {"stage": 1, "batch": 32}
WEIGHTS = {"captions": 1.0, "bag": 0.2, "where": 0.5, "ground": 1.0, "teacher": 1.0}
EXPORTED = ("image.", "text.", "ground.", "bag.")


class TextImageTask(LossTask):
    """Both encoders together.

    Args:
        model: to be trained.
        views, held_out: for training and validation.
        batch: views in a batch.
        teacher: whether the views have the class scores of a teacher.
    """

    name = "encoders"
    file_name = "towers.safetensors"
    ema = 0.995
    clip = 1.0
    validation_batches = 1

    def __init__(
        self,
        model: ImageTextModel,
        views: Sequence[View],
        held_out: Sequence[View],
        batch: int,
        teacher: bool,
    ) -> None:
        self.views, self.batch = views, batch
        self.weights = {name: weight for name, weight in WEIGHTS.items() if teacher or name != "teacher"}
        super().__init__(model, RepeatedBatch(held_out))

    def batches(self, seed: int, first: int) -> BatchSource:
        return ImageTextBatches(self.views, self.process_batch, seed, first)

    def validate(self, average: nn.Module) -> dict[str, float]:
        """Retrieval and localisation on held-out views."""
        assert isinstance(average, ImageTextModel)
        ((batch,),) = self.validation
        return average.eval().metrics(move(batch, self.device))

    def export(self, average: nn.Module, path: Path) -> dict[str, object]:
        assert isinstance(average, ImageTextModel)
        return write_encoders(average, path)


def train_text_image(
    data: Sequence[str | Path],
    out: str | Path,
    *,
    stage: int | None = None,
    teacher: str | Path | None = None,
    **common: Unpack[RunOptions],
) -> Path:
    """Train the bundled text and image encoders.

    Args:
        data: shards or folders of images with records: captions, boxes, labels (see `read_pictures`).
        out: folder of the run: checkpoint.pt, log.csv, and towers.safetensors, .json and .csv, and
            tokenizer.json at the end.
        stage: 1, the default, trains everything, 2 only `ground`.
        teacher: PicoDet as ONNX, whose class scores are distilled into the image encoder; without it that
            loss is left out.
        common: see `RunOptions`. `batch` counts the views of stage 1, 32 by default; `start` is a
            towers.safetensors with its tokenizer.json beside it, which stage 2 needs; stage 2 is always in
            float32.

    Returns:
        The exported weights.

    Raises:
        OptionError: for a run without a length, images without captions, no checkpoint to resume or one that
            the run would replace, or a second stage without weights to start from.
        TrainingError, OSError: as for `train`.
    """
    run = open_run("towers", data, out, common, {"stage": stage, "teacher": teacher}, DEFAULTS)
    options, report = run.options, run.report
    stage, start, teacher = options["stage"], options["start"], options["teacher"]
    if stage not in (1, 2) or stage == 2 and start is None:
        raise OptionError(
            "towers has stages 1 and 2; stage 2 needs the towers.safetensors of stage 1 as --start."
        )
    if stage == 2 and options["precision"] == "bfloat16":
        raise OptionError("Stage 2 of towers trains in float32; leave out --precision.")
    set_seed(SEED)
    found = read_run_data(options["data"], report, run.notify)
    captions = [caption for picture in found.training for caption in picture.captions]
    if not captions or not any(picture.captions for picture in found.held_out):
        raise OptionError("towers needs captions: shards or folders with KEY.json beside KEY.jpg.")
    model = new_model(captions, start)
    teacher_model = None if teacher is None else ClassMapTeacher(teacher)
    views = make_views(
        found.training, teacher_model, progress=lambda f: report(0.0, f"computing class scores, {f:.0%}")
    )
    others = make_views([p for p in found.held_out if p.captions], None, ("whole",))
    task: TrainingTask
    if stage == 1:
        task = TextImageTask(model, views, others, options["batch"], teacher_model is not None)
    else:
        model.to(new_accelerator().device)
        task = GroundingTask(
            model, views, others, write_encoders, lambda f: report(0.0, f"computing features, {f:.0%}")
        )
    trainer = open_trainer(task, run, "float32" if stage == 2 else None)
    trainer.fit(options["every"], report)
    facts = {"pictures": len(found.training), "views": len(views), "stage": stage, **found.record}
    name = None if teacher is None else Path(teacher).name
    return trainer.export(options["data"], start, teacher=name, **facts)


def new_model(captions: Sequence[str], start: str | Path | None) -> ImageTextModel:
    """An untrained model with a tokenizer trained on the captions, or the model and the tokenizer of
    `start`."""
    if start is None:
        return ImageTextModel(train_tokenizer(captions))
    model = ImageTextModel(BytePairTokenizer(Path(start).with_name("tokenizer.json").read_text("utf-8")))
    load_start(model, start)
    return model


def write_encoders(model: ImageTextModel, path: Path) -> dict[str, object]:
    """Write the exported parts as float16, and tokenizer.json beside them. Returns the number of parameters
    of each part."""
    weights = {k: v for k, v in model.state_dict().items() if k.startswith(EXPORTED)}
    with atomic_write(path) as stream:
        stream.write(save({k: v.half().cpu().contiguous() for k, v in weights.items()}))
    path.with_name("tokenizer.json").write_text(model.tokenizer.definition, "utf-8")
    sizes = {
        part.rstrip("."): sum(v.numel() for k, v in weights.items() if k.startswith(part))
        for part in EXPORTED
    }
    return {"parameters": sizes}
