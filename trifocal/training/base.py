"""How base layers are trained, each against the detector that it serves and that stays as it is.

    scene ── detector's front ── h ── base analysis ── y_obj ── noise ── base synthesis ── h_hat ─┬─ detector's rest
                                 └────────────── losses of equation (1) ──────────────────────────┘  extractor ── first picture

Each scene draws its own quality, so one base layer serves all rates.
"""

from collections.abc import Sequence
from pathlib import Path

import torch
from torch import Tensor

from trifocal.codecs.dual_layer_compact import DualLayerCompact
from trifocal.codecs.scalable import BaseLayer, ScalableCodec
from trifocal.detection.detector import SplitDetector
from trifocal.detection.feature_codec import CompactBaseAnalysis
from trifocal.entropy import RateEstimator
from trifocal.entropy.tables import calibrated_frequencies
from trifocal.losses.base_layer import TASK, TASK_RANGE, Original, task_cost, task_weight
from trifocal.losses.detection import Seen, Target
from trifocal.losses.rate_distortion import balance, spread_levels
from trifocal.presets import check_layers, find
from trifocal.training.checkpoint import begin_with, by_one
from trifocal.training.detection_batches import DetectionTeacher, Scenes
from trifocal.training.lesson import SEED, LessonRun, Note, Report, TrainingTask, pictures_of, silent
from trifocal.training.precision import new_accelerator
from trifocal.types import Condition
from trifocal.weights import write_weights

__all__ = ["train_base"]

PRESET, TRUNK = "dual-layer-compact", "compact"
BATCH = 8
CALIBRATION = 24  # batches
BALANCE = 0.4  # a quality's cost grows about as this power of its task weight


class BaseLayerTask(TrainingTask):
    """The base layer; the detector looks on."""

    weights = {"loss": 1.0} | dict.fromkeys(
        ("rate", *TASK), 0.0
    )  # the parts are said, and are in the loss already
    learning_rate = 1.5e-3
    weight_decay = 0.0
    ema = 0.997
    matrix_rate = 3e-3

    def __init__(self, base: BaseLayer, detector: SplitDetector) -> None:
        super().__init__()
        self.base = base
        self.detector = (detector,)  # in a tuple, so that it is no part of what learns

    def factor(self, name: str) -> float:
        """Scale indices are in sixths of an octave, gains in octaves."""
        return 20.0 if "index.table" in name else 3.0 if "log_gain" in name else 1.0

    def losses(self, x: Tensor, targets: Sequence[Target], seen: Sequence[Seen] | None) -> dict[str, Tensor]:
        level = spread_levels(len(x), x.device)
        output = self.base(x, level)
        rate = output.bits / (x.shape[2] * x.shape[3])
        terms = Original(self.detector[0], x).terms(output.h_hat, output.first, targets)
        cost = (rate + task_weight(level) * task_cost(terms)) * balance(level, BALANCE, TASK_RANGE)
        return {"loss": cost.mean(), "rate": rate.mean()} | {n: t.mean() for n, t in terms.items()}


def train_base(
    data: Sequence[str | Path],
    out: str | Path,
    *,
    of: str = PRESET,
    steps: int | None = None,
    minutes: float | None = None,
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
    """Trains the base layer of a preset with layers; that of dual-layer-compact is put under the trunk of compact.

    Args:
        data: shards or folders of pictures with records; those without boxes need the teacher.
        out: folder of the run: checkpoint.pt, log.csv, and PRESET.safetensors, .json and .csv at the end.
        of: the preset.
        steps, minutes: the run's length; one of them.
        start: weights of the preset to begin from.
        teacher: PicoDet as ONNX, which says what is in pictures that have no boxes.
        resume: go on from the checkpoint in `out`.
        every: minutes between checkpoints.
        batch: scenes a step; 8 if not said.
        learning_rate: AdamW's, not the lesson's, and Muon's in proportion; where a run goes on from weights that have learned
            already, a full one undoes more than minutes bring back.
        precision: "auto", "bfloat16" or "float32"; see `choose_precision`.
        report: called after each step with the fraction done and a line of text.
        note: called with a sentence that is to stay on the screen.

    Returns:
        Weights of the whole preset, whose enhancement is still that of compact, or untrained: `trifocal train PRESET --start`
        goes on.

    Raises:
        PresetError: if there is no such preset, or it has no base layer.
        OptionError: for a run without an end, pictures without boxes and no teacher, no checkpoint to resume.
        WeightsError: if the detector's or compact's weights are not to be had.
    """
    training, held_out = pictures_of(data, steps, minutes, report)
    seer = None if teacher is None else DetectionTeacher(teacher)
    codec, batch = whole_codec(of, start), batch or BATCH
    device = new_accelerator().device
    detector = codec.find_detector(str(device))
    run = LessonRun(
        BaseLayerTask(codec.base, detector), Path(out), steps, minutes, learning_rate, precision, note
    )
    if resume:
        run.resume()
    seed = SEED + run.progress.step + run.accelerator.process_index
    seen_by = detector.categories, codec.input_size
    scenes = Scenes(training, seer, batch, seed, *seen_by)
    run.go(scenes, Scenes(held_out, seer, batch, SEED, *seen_by), every, report)
    average = run.average
    assert isinstance(average, BaseLayerTask)
    codec.base.load_state_dict(average.base.state_dict())
    path = run.out / find(of).weights

    def export() -> None:
        finish(codec.to(device), scenes)
        write_weights(codec, path)
        run.describe(
            path,
            data,
            teacher,
            start,
            preset=of,
            task=TASK,
            pictures=len(training),
            batch=batch,
            parameters=sum(p.numel() for p in average.base.parameters()),
        )

    by_one(run.accelerator, export)
    return path


def whole_codec(of: str, start: str | Path | None) -> ScalableCodec:
    """The preset as in `start`; without it untrained, but for a compact one's enhancement, which is compact's that ships."""
    from trifocal.weights import FOLDER

    check_layers(find(of))
    codec = find(of).build()
    assert isinstance(codec, ScalableCodec)
    analysis = codec.base.analysis
    if isinstance(analysis, CompactBaseAnalysis):
        begin_with(codec, start or FOLDER / find(TRUNK).weights)
        analysis.init_from_detector(codec.detector, front_only=start is not None)
    elif start is not None:
        begin_with(codec, start)
    return codec


@torch.no_grad()
def finish(codec: ScalableCodec, scenes: Scenes) -> None:
    """Sets the base's frequency tables to what scenes hold, and then how much a compact enhancement trusts the first picture."""
    codec.eval()
    base = codec.base
    meter = RateEstimator(base.entropy.cost(), scenes.batch, count=True)
    for _ in range(CALIBRATION):
        x = scenes.next()[0].to(base.entropy.frequencies.device)
        base(x, spread_levels(len(x), x.device), meter)
    assert meter.counts is not None
    base.entropy.frequencies.copy_(torch.from_numpy(calibrated_frequencies(meter.counts)))
    if not isinstance(codec, DualLayerCompact):
        return
    codec.trust.fill_(1.0)
    shared = power = torch.zeros_like(codec.trust)
    for _ in range(CALIBRATION):
        x = scenes.next()[0].to(codec.trust.device)
        first, _ = codec.below(x, spread_levels(len(x), x.device))
        y, p = codec.analysis(x), codec.predict(Condition(preview=first))
        assert p is not None
        shared, power = shared + (y * p).sum((0, 1, 2)), power + p.square().sum((0, 1, 2))
    codec.trust.copy_((shared / power.clamp(min=1e-9)).clamp(0, 1))
