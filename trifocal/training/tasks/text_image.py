"""Train the bundled text and image encoders (`image_text_model.py`)."""

from collections.abc import Sequence
from pathlib import Path

from safetensors.torch import save
from tokenizers import Tokenizer
from torch import nn

from trifocal.errors import OptionError
from trifocal.text.compact import train_tokenizer
from trifocal.training.batches import read_data
from trifocal.training.checkpoint import load_start
from trifocal.training.image_text_batches import (
    ClassMapTeacher,
    ImageTextBatches,
    RepeatedBatch,
    View,
    make_views,
)
from trifocal.training.image_text_model import ImageTextModel
from trifocal.training.precision import new_accelerator
from trifocal.training.task import BatchSource, LossTask, Note, Report, TrainingTask, move, silent
from trifocal.training.tasks.grounding import GroundingTask
from trifocal.training.trainer import Trainer
from trifocal.utils.files import atomic_write

__all__ = ["train_text_image"]

BATCH = 32
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

    def batches(self, seed: int) -> BatchSource:
        return ImageTextBatches(self.views, self.batch, seed)

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
    steps: int | None = None,
    minutes: float | None = None,
    stage: int = 1,
    start: str | Path | None = None,
    teacher: str | Path | None = None,
    resume: bool = False,
    every: float = 5.0,
    batch: int | None = None,
    precision: str = "auto",
    report: Report = silent,
    note: Note = silent,
) -> Path:
    """Train the bundled text and image encoders.

    Args:
        data: shards or folders of images with records: captions, boxes, labels (see `read_pictures`).
        out: folder of the run: checkpoint.pt, log.csv, and towers.safetensors, .json and .csv, and
            tokenizer.json at the end.
        steps, minutes: length of the run; one of them.
        stage: 1 trains everything, 2 only `ground`.
        start: towers.safetensors to start from, with its tokenizer.json beside it; stage 2 needs it.
        teacher: PicoDet as ONNX, whose class scores are distilled into the image encoder; without it that
            loss is left out.
        resume: continue from the checkpoint in `out`.
        every: minutes between checkpoints.
        batch: views in a batch of stage 1; 32 by default.
        precision: "auto", "bfloat16" or "float32"; see `choose_precision`. Stage 2 is always in float32.
        report: called after each step with the fraction done and a line of text.
        note: called with each notice.

    Returns:
        The exported weights.

    Raises:
        OptionError: for a run without a length, images without captions, no checkpoint to resume, or a second
            stage without weights to start from.
    """
    if stage not in (1, 2) or stage == 2 and start is None:
        raise OptionError(
            "towers has stages 1 and 2; stage 2 needs the towers.safetensors of stage 1 as --start."
        )
    if stage == 2 and precision == "bfloat16":
        raise OptionError("Stage 2 of towers trains in float32; leave out --precision.")
    training, held_out = read_data(data, steps, minutes, report)
    captions = [caption for picture in training for caption in picture.captions]
    if not captions or not any(picture.captions for picture in held_out):
        raise OptionError("towers needs captions: shards or folders with KEY.json beside KEY.jpg.")
    model = new_model(captions, start)
    seer = None if teacher is None else ClassMapTeacher(teacher)
    views = make_views(training, seer, progress=lambda f: report(0.0, f"computing class scores, {f:.0%}"))
    others = make_views([p for p in held_out if p.captions], None, ("whole",))
    task: TrainingTask
    if stage == 1:
        task = TextImageTask(model, views, others, batch or BATCH, seer is not None)
    else:
        model.to(new_accelerator().device)
        task = GroundingTask(
            model, views, others, write_encoders, lambda f: report(0.0, f"computing features, {f:.0%}")
        )
        precision = "float32"
    trainer = Trainer(task, out, steps=steps, minutes=minutes, precision=precision, note=note)
    if resume:
        trainer.resume()
    trainer.fit(every, report)
    facts = {"pictures": len(training), "views": len(views), "batch": batch or BATCH, "stage": stage}
    return trainer.export(data, start, teacher=None if teacher is None else Path(teacher).name, **facts)


def new_model(captions: Sequence[str], start: str | Path | None) -> ImageTextModel:
    """An untrained model with a tokenizer trained on the captions, or the model and the tokenizer of
    `start`."""
    if start is None:
        return ImageTextModel(train_tokenizer(captions))
    model = ImageTextModel(Tokenizer.from_str(Path(start).with_name("tokenizer.json").read_text("utf-8")))
    load_start(model, start)
    return model


def write_encoders(model: ImageTextModel, path: Path) -> dict[str, object]:
    """Write the exported parts as float16, and tokenizer.json beside them. Returns the number of parameters
    of each part."""
    weights = {k: v for k, v in model.state_dict().items() if k.startswith(EXPORTED)}
    with atomic_write(path) as stream:
        stream.write(save({k: v.half().cpu().contiguous() for k, v in weights.items()}))
    path.with_name("tokenizer.json").write_text(model.tokenizer.to_str(), "utf-8")
    sizes = {
        part.rstrip("."): sum(v.numel() for k, v in weights.items() if k.startswith(part))
        for part in EXPORTED
    }
    return {"parameters": sizes}
