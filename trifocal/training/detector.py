"""How the compact detector is trained: boxes, and a teacher's soft scores, boxes and features.

    scene ── front ── rest: pyramid ┬─ proposals, regions ── boxes; classes of the boxes and of the teacher
      │                             ├─ linear ── the teacher's features, standardised (1/8 to 1/32)
      └── teacher ──────────────────┴─ linear ── the teacher's class scores at each place

Before that, in the first stage, the backbone's blocks learn one by one what the teacher's blocks do (`imitation.py`). After it, in
the third, the front stays as it is, and with it every base layer that was made for it and every file: what stands behind the
split goes on learning, from the features of pictures, of pictures that were files of other codecs before, and of base layers.
"""

from collections.abc import Sequence
from pathlib import Path

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from trifocal.errors import OptionError
from trifocal.layered import BaseLayer, DualLayer
from trifocal.losses.detection import Seen, Target, detection_losses, resized, soft_cross_entropy
from trifocal.losses.rate_distortion import spread_levels
from trifocal.machine.detector import PYRAMID, SplitDetector, compact_detector
from trifocal.machine.looking import COCO_IDS
from trifocal.presets import load
from trifocal.training.base import PRESET
from trifocal.training.checkpoint import begin_with
from trifocal.training.imitation import Answers, Behind, Imitation
from trifocal.training.lesson import (
    SEED,
    Again,
    Given,
    Lesson,
    LessonRun,
    Report,
    Source,
    pictures_of,
    silent,
)
from trifocal.training.scenes import DetectionTeacher, Scenes
from trifocal.weights import FOLDER, write_weights

__all__ = ["train_detector"]

BACKBONE_FACTOR = 0.3  # of the learning rate, for what begins trained
WORN = 0.25  # of the scenes, in the third stage: files of other codecs before
TIMES = 3  # that a batch comes where the front's features are made beforehand
BATCHES = (4, 8, 8)
TEACHER_CHANNELS, LEVELS = 96, 3
TERMS = {"objectness": 1.0, "proposals": 2.0, "classes": 1.0, "boxes": 2.0, "features": 1.0, "places": 0.5}


class Pupil(Lesson):
    """The detector, and what learns beside it from the teacher."""

    weights = TERMS
    learning_rate = 1.5e-3
    matrix_rate = 4e-3

    def __init__(self, detector: SplitDetector) -> None:
        super().__init__()
        self.detector = detector
        self.features = nn.ModuleList([nn.Conv2d(PYRAMID, TEACHER_CHANNELS, 1) for _ in range(LEVELS)])
        self.places = nn.ModuleList([nn.Conv2d(PYRAMID, len(COCO_IDS), 1) for _ in range(LEVELS)])
        for layer in self.places:
            assert isinstance(layer.bias, Tensor)
            nn.init.constant_(layer.bias, -5.0)
        self.register_buffer("mean", torch.zeros(LEVELS, TEACHER_CHANNELS))
        self.register_buffer("deviation", torch.ones(LEVELS, TEACHER_CHANNELS))
        self.mean: Tensor
        self.deviation: Tensor

    def factor(self, name: str) -> float:
        begun = ".front." in name or ".rest.middle." in name or ".rest.last." in name
        return BACKBONE_FACTOR if begun else 1.0

    def losses(
        self, x: Tensor, targets: Sequence[Target], seen: Sequence[Seen] | None, h: Tensor | None = None
    ) -> dict[str, Tensor]:
        """`h` is what the front makes of x, or what is left of that, where it is known already."""
        detector = self.detector
        pyramid = detector.backbone.rest(detector.front(x) if h is None else h)
        terms = detection_losses(detector, x, pyramid, targets, seen)
        if seen is not None:
            terms |= {"features": x.new_zeros(()), "places": x.new_zeros(())}
            for level in range(LEVELS):
                own = pyramid[str(level)]
                wanted = resized([s.features[level] for s in seen], own)
                wanted = (wanted - self.mean[level, :, None, None]) / self.deviation[level, :, None, None]
                terms["features"] = terms["features"] + F.mse_loss(self.features[level](own), wanted)
                scores = resized([s.maps[level] for s in seen], own)
                terms["places"] = terms["places"] + soft_cross_entropy(self.places[level](own), scores)
        return terms

    def look_at(self, batches: Sequence[Given]) -> None:
        """Sets what the teacher's features are divided by."""
        seen = [said for _, _, batch in batches for said in batch or ()]
        for level in range(LEVELS if seen else 0):
            values = torch.stack([s.features[level] for s in seen]).transpose(0, 1).flatten(1)
            self.mean[level], self.deviation[level] = values.mean(1), values.std(1).clamp(min=1e-3)


class Middles:
    """Scenes with the features at the split, of half of them what a base layer leaves, at any quality."""

    def __init__(self, scenes: Source, detector: SplitDetector, base: BaseLayer) -> None:
        self.scenes, self.detector, self.base = scenes, detector, base

    @torch.no_grad()
    def next(self) -> Given:
        x, targets, seen = self.scenes.next()
        x = x.to(self.base.entropy.frequencies.device)
        h = self.detector.front(x)
        coded = torch.randperm(len(x), device=x.device)[: len(x) // 2]
        if len(coded):
            h[coded] = self.base(x[coded], spread_levels(len(coded), x.device)).h_hat
        return x, targets, seen, h


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
    report: Report = silent,
) -> Path:
    """Trains the compact detector.

    Args:
        data: shards or folders of pictures with records (see `read_pictures`); those without boxes need the teacher.
        out: folder of the run: checkpoint.pt, log.csv, and detector.safetensors, .json and .csv at the end.
        steps, minutes: the run's length; one of them.
        stage: 1 for the backbone, which learns from the teacher alone; 2 for all of it; 3 for what stands behind the split, on
            base layers as well, those of the installed dual-layer-compact.
        keep_front: only what stands behind the split learns, from what the front of `start` makes of pictures, so that base
            layers and files that were made for it stay valid; in the third stage always so.
        start: detector.safetensors to begin from, as the first stage or an earlier run left it; the third begins with the
            installed one, if not said.
        teacher: PicoDet as ONNX; without it only boxes teach, and there is no first stage.
        resume: go on from the checkpoint in `out`.
        every: minutes between checkpoints.
        batch: pictures a step; 4 in the first stage and 8 later if not said.
        report: called after each step with the fraction done and a line of text.

    Returns:
        The weights.

    Raises:
        OptionError: for a run without an end, pictures without boxes and no teacher, no front to keep, no checkpoint to resume.
        WeightsError: in the third stage, if there is no base layer.
    """
    if stage not in (1, 2, 3) or stage == 1 and teacher is None:
        raise OptionError(
            "A detector has stages 1 to 3, and 1 needs a --teacher; without one, train --stage 2."
        )
    training, held_out = pictures_of(data, steps, minutes, report)
    detector, base = compact_detector(), None
    if stage == 3:
        codec = load(PRESET)
        assert isinstance(codec, DualLayer)
        base, start = codec.base, start or FOLDER / "detector.safetensors"
    keep_front = keep_front or stage == 3
    if keep_front and start is None:
        raise OptionError("To keep a front there must be one: say which with --start.")
    if start is not None:
        begin_with(detector, start)
    batch = batch or BATCHES[stage - 1]
    detector.backbone.front.requires_grad_(not keep_front)
    lesson = Imitation(detector, keep_front) if stage == 1 else Pupil(detector)
    run = LessonRun(lesson, Path(out), steps, minutes)
    if resume:
        run.resume()
    seed = SEED + run.progress.step + run.accelerator.process_index
    if isinstance(lesson, Imitation):
        assert teacher is not None
        answers: Source = Answers(training, teacher, batch, seed)
        others: Source = Answers(held_out, teacher, 4, SEED)
        if keep_front:
            answers, others = Again(Behind(answers, detector), TIMES, seed), Behind(others, detector)
        run.go(answers, others, every, report)
    else:
        seer = None if teacher is None else DetectionTeacher(teacher)
        source: Source = Scenes(training, seer, batch, seed, worn=0.0 if base is None else WORN)
        if base is not None:
            source = Again(Middles(source, detector, base.to(run.accelerator.device)), TIMES, seed)
        run.go(source, Scenes(held_out, seer, 8, SEED), every, report)
    path = run.out / "detector.safetensors"
    average = run.average
    assert isinstance(average, Imitation | Pupil)
    write_weights(average.detector, path)
    parameters = sum(p.numel() for p in average.detector.parameters())
    run.describe(
        path, data, teacher, start, pictures=len(training), batch=batch, stage=stage, parameters=parameters
    )
    return path
