"""How the compact detector is trained: on boxes, and on what a teacher says.

Where there is a teacher all parts learn one by one what the teacher's do (`imitation.py`): in the first stage from pictures, in the third,
where the front stays as it is, and with it every base layer that was made for it and every file, from what the front makes of pictures and from
what base layers leave of that; there its regions learn as well what the teacher says in the end. In the second all
but the regions learns from boxes, and from what a teacher says, if there is one:

    scene ── front ── rest: pyramid ── each place's boxes and classes
      └── teacher ── its classes there
"""

from collections.abc import Sequence
from pathlib import Path

from torch import Tensor

from trifocal.codecs.base_layer import ScalableNetwork
from trifocal.detection.detector import SplitDetector, compact_detector
from trifocal.errors import OptionError
from trifocal.losses.detection import Seen, Target, detection_losses, maps_of
from trifocal.presets import load
from trifocal.training.base import PRESET
from trifocal.training.checkpoint import begin_with, by_one
from trifocal.training.detection_batches import DetectionTeacher, Scenes
from trifocal.training.distillation import Answers, FeatureSource, Imitation, Refinement
from trifocal.training.lesson import (
    SEED,
    DataEcho,
    LessonRun,
    Note,
    Report,
    Source,
    TrainingTask,
    pictures_of,
    silent,
)
from trifocal.weights import FOLDER, write_weights

__all__ = ["train_detector"]

BEGUN_FACTOR = 0.15  # of the learning rate
TIMES = 3  # that a batch comes where the front's features are made beforehand
BATCHES = (4, 8, 4)
TERMS = {"scores": 1.0, "boxes": 2.0}


class DetectorTask(TrainingTask):
    """The detector. `begun`: it is trained already, and learns more slowly."""

    weights = TERMS
    learning_rate = 1.5e-3
    matrix_rate = 4e-3

    def __init__(self, detector: SplitDetector, begun: bool) -> None:
        super().__init__()
        self.detector, self.begun = detector, begun
        detector.network.roi_heads.requires_grad_(False)

    def factor(self, name: str) -> float:
        return BEGUN_FACTOR if self.begun else 1.0

    def losses(self, x: Tensor, targets: Sequence[Target], seen: Sequence[Seen] | None) -> dict[str, Tensor]:
        pyramid = self.detector.backbone.rest(self.detector.front(x))
        maps = None if seen is None else maps_of(seen, pyramid)
        return detection_losses(self.detector.network.rpn(pyramid), targets, maps)


def train_detector(
    data: Sequence[str | Path],
    out: str | Path,
    *,
    steps: int | None = None,
    minutes: float | None = None,
    stage: int = 1,
    keep_front: bool = False,
    start: str | Path | None = None,
    teacher: str | Path | None = None,
    resume: bool = False,
    every: float = 5.0,
    batch: int | None = None,
    learning_rate: float | None = None,
    precision: str = "auto",
    report: Report = silent,
    note: Note = silent,
) -> Path:
    """Trains the compact detector.

    Args:
        data: shards or folders of pictures with records (see `read_pictures`); those without boxes need the teacher.
        out: folder of the run: checkpoint.pt, log.csv, and detector.safetensors, .json and .csv at the end.
        steps, minutes: the run's length; one of them.
        stage: 1 for what the teacher's parts do; 2 for boxes, and what the teacher says; 3 as 1, more slowly and each part standing on our
            own, for what stands behind the split, and on base layers as well, those of the installed dual-layer-compact.
        keep_front: only what stands behind the split learns, from what the front of `start` makes of pictures, so that base
            layers and files that were made for it stay valid; in the third stage always so.
        start: detector.safetensors to begin from, as the first stage or an earlier run left it; the third begins with the
            installed one, if not said.
        teacher: PicoDet as ONNX; without it only boxes teach, and there is no first stage and no third.
        resume: go on from the checkpoint in `out`.
        every: minutes between checkpoints.
        batch: pictures a step; 8 in the second stage and 4 in the others if not said.
        learning_rate: AdamW's, not the lesson's, and Muon's in proportion; where a run goes on from weights that have learned
            already, a full one undoes more than minutes bring back.
        precision: "auto", "bfloat16" or "float32"; see `choose_precision`.
        report: called after each step with the fraction done and a line of text.
        note: called with a sentence that is to stay on the screen.

    Returns:
        The weights.

    Raises:
        OptionError: for a run without an end, pictures without boxes and no teacher, no front to keep, no checkpoint to resume.
        WeightsError: in the third stage, if there is no base layer.
    """
    if stage not in (1, 2, 3) or stage != 2 and teacher is None:
        raise OptionError(
            "A detector has stages 1 to 3, and 1 and 3 need a --teacher; without one, train --stage 2."
        )
    training, held_out = pictures_of(data, steps, minutes, report)
    detector, base = compact_detector(), None
    if stage == 3:
        codec = load(PRESET).network
        assert isinstance(codec, ScalableNetwork)
        base, start = codec.base, start or FOLDER / "detector.safetensors"
    keep_front = keep_front or stage == 3
    if keep_front and start is None:
        raise OptionError("To keep a front there must be one: say which with --start.")
    if start is not None:
        begin_with(detector, start)
    batch = batch or BATCHES[stage - 1]
    detector.backbone.front.requires_grad_(not keep_front)
    lesson: Imitation | DetectorTask
    if stage == 1:
        lesson = Imitation(detector, keep_front)
    elif stage == 2:
        lesson = DetectorTask(detector, start is not None)
    else:
        lesson = Refinement(detector)
    run = LessonRun(lesson, Path(out), steps, minutes, learning_rate, precision, note)
    if resume:
        run.resume()
    seed = SEED + run.progress.step + run.accelerator.process_index
    if isinstance(lesson, Imitation):
        assert teacher is not None
        answers: Source = Answers(training, teacher, lesson.names, batch, seed)
        others: Source = Answers(held_out, teacher, lesson.names, 4, SEED)
        if keep_front:
            base = None if base is None else base.to(run.accelerator.device)
            answers, others = (
                DataEcho(FeatureSource(answers, detector, base), TIMES, seed),
                FeatureSource(others, detector, base),
            )
        run.go(answers, others, every, report)
    else:
        seer = None if teacher is None else DetectionTeacher(teacher)
        run.go(Scenes(training, seer, batch, seed), Scenes(held_out, seer, 8, SEED), every, report)
    path = run.out / "detector.safetensors"
    average = run.average
    assert isinstance(average, Imitation | DetectorTask)

    def export() -> None:
        write_weights(average.detector, path)
        parameters = sum(p.numel() for p in average.detector.parameters())
        facts = {"pictures": len(training), "batch": batch, "stage": stage, "parameters": parameters}
        run.describe(path, data, teacher, start, **facts)

    by_one(run.accelerator, export)
    return path
