"""Train the base layer of a scalable preset; its detector is frozen.

    image ─┬─ analysis ── y_obj ── rounding ── synthesis ── h_hat ─┬─ detector tail ─┐
           │                                                       └─ base preview ──┼─ losses, equation (1)
           └─ detector front ─ h ────────────────────────────────────────────────────┘

Every image of a batch has its own quality level, so one base layer serves all rates.
"""

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Unpack

import torch
from accelerate.utils import set_seed
from torch import Tensor, nn

from trifocal.codecs.base_layer import BaseLayer, ScalableNetwork
from trifocal.codecs.dual_layer_compact import DualLayerCompact
from trifocal.data import TrainingPicture
from trifocal.detection.detector import SplitDetector
from trifocal.detection.feature_codec import CompactBaseAnalysis
from trifocal.entropy import RateEstimator
from trifocal.entropy.tables import calibrated_frequencies
from trifocal.losses.base_layer import (
    CLASS_CROSS_ENTROPY,
    TERM_WEIGHTS,
    DetectorReference,
    task_cost,
    task_weight,
)
from trifocal.losses.detection import Target, TeacherDetections
from trifocal.losses.rate_distortion import level_weight, spread_levels
from trifocal.presets import Preset, check_base_layer, find
from trifocal.recipes import BASE_LAYER, BaseLayerRecipe, checked_arguments, with_fields
from trifocal.training.batches import read_run_data
from trifocal.training.checkpoint import load_start
from trifocal.training.detection_batches import DetectionBatches, DetectionTeacher
from trifocal.training.precision import new_accelerator
from trifocal.training.run import RunOptions, open_run
from trifocal.training.task import SEED, LossTask
from trifocal.training.trainer import open_trainer
from trifocal.types import BASE_TASK_WEIGHTS, Condition
from trifocal.utils.annotations import NonNegative
from trifocal.weights import WEIGHTS_FOLDER, write_weights

__all__ = ["train_base_layer"]

PRESET, ENHANCEMENT = "dual-layer-compact", "compact"
CALIBRATION = 24  # batches
LEVEL_WEIGHT_EXPONENT = 0.4  # the cost of a quality grows about as this power of its task weight


class BaseLayerLosses(nn.Module):
    """The base layer with its loss terms. The detector has no gradient and is no submodule."""

    def __init__(
        self, base: BaseLayer, detector: SplitDetector, term_weights: Mapping[str, float] = TERM_WEIGHTS
    ) -> None:
        super().__init__()
        self.base, self.term_weights = base, dict(term_weights)
        self.detector = (detector,)  # a tuple hides it from nn.Module

    def forward(
        self, x: Tensor, targets: Sequence[Target], seen: Sequence[TeacherDetections] | None
    ) -> dict[str, Tensor]:
        """x [B, 3, H, W] in 0..1 → scalar terms, of which "loss" is the sum that is minimised."""
        level = spread_levels(len(x), x.device)
        output = self.base(x, level)
        rate = output.bits / (x.shape[2] * x.shape[3])
        terms = DetectorReference(self.detector[0], x).terms(output.h_hat, output.preview, targets)
        cost = (rate + task_weight(level) * task_cost(terms, self.term_weights)) * level_weight(
            level, LEVEL_WEIGHT_EXPONENT, BASE_TASK_WEIGHTS
        )
        return {"loss": cost.mean(), "rate": rate.mean()} | {n: t.mean() for n, t in terms.items()}


def weights_by_term(recipe: BaseLayerRecipe) -> dict[str, float]:
    """The weight of each term of a base layer's loss. Raises OptionError for terms that do not exist."""
    bce = (
        {"objectness": 0.0, CLASS_CROSS_ENTROPY: TERM_WEIGHTS["objectness"]}
        if recipe.bce == "classes"
        else {}
    )
    kinds = dict.fromkeys((*TERM_WEIGHTS, CLASS_CROSS_ENTROPY), NonNegative)
    return {**TERM_WEIGHTS, **bce, **checked_arguments("base", recipe, kinds)}


class BaseLayerTask(LossTask):
    """The base layer of a codec; the codec is exported as a whole.

    Args:
        codec: as from `codec_with_base`.
        training, held_out: images.
        teacher: finds the objects in images without boxes.
        recipe: rates, batch and terms.
    """

    name = "base"
    weights = {"loss": 1.0} | dict.fromkeys(
        ("rate", *TERM_WEIGHTS, CLASS_CROSS_ENTROPY), 0.0
    )  # "loss" contains the others

    def __init__(
        self,
        preset: Preset,
        codec: ScalableNetwork,
        training: Sequence[TrainingPicture],
        held_out: Sequence[TrainingPicture],
        teacher: DetectionTeacher | None,
        recipe: BaseLayerRecipe = BASE_LAYER,
    ) -> None:
        self.preset, self.codec, self.training_images = preset, codec, training
        self.teacher, self.recipe, self.batch = teacher, recipe, recipe.batch
        self.learning_rate, self.matrix_rate = recipe.learning_rate, recipe.matrix_rate
        self.weight_decay, self.ema = recipe.weight_decay, recipe.ema
        self.term_weights = weights_by_term(recipe)
        self.file_name = preset.weights
        codec.base.entropy.dead_zone = recipe.dead_zone
        self.detector = codec.find_detector(str(new_accelerator().device))
        module = BaseLayerLosses(codec.base, self.detector, self.term_weights)
        super().__init__(module, self.source(held_out, SEED))

    def source(self, pictures: Sequence[TrainingPicture], seed: int, first: int = 0) -> DetectionBatches:
        """Batches at the detector's input size, with its labels."""
        return DetectionBatches(
            pictures,
            self.teacher,
            self.process_batch,
            seed,
            self.detector.categories,
            self.codec.input_size,
            first,
            augmented=self.recipe.augmentation == "full",
        )

    def batches(self, seed: int, first: int) -> DetectionBatches:
        return self.source(self.training_images, seed, first)

    def factor(self, name: str) -> float:
        """Scale indices are in sixths of an octave, gains in octaves."""
        return 20.0 if "index.table" in name else 3.0 if "log_gain" in name else 1.0

    def export(self, average: nn.Module, path: Path) -> dict[str, object]:
        """Calibrate the codec with the trained base layer, and write all of its weights."""
        assert isinstance(average, BaseLayerLosses)
        self.codec.base.load_state_dict(average.base.state_dict())
        with self.source(self.training_images, SEED) as batches:
            calibrate(self.codec.to(self.device), batches)
        write_weights(self.codec, path)
        return {
            "preset": self.preset.name,
            "task": self.term_weights,
            "bce": self.recipe.bce,
            "augmentation": self.recipe.augmentation,
            "dead_zone": self.recipe.dead_zone,
            "pictures": len(self.training_images),
            "parameters": sum(p.numel() for p in average.base.parameters()),
        }


def train_base_layer(
    data: Sequence[str | Path],
    out: str | Path,
    *,
    of: str | Preset | None = None,
    teacher: str | Path | None = None,
    learning_rate: float | None = None,
    fields: Mapping[str, object] | None = None,
    **common: Unpack[RunOptions],
) -> Path:
    """Train the base layer of a scalable preset. The enhancement of dual-layer-compact starts as `compact`.

    Args:
        data: shards or folders of images with records (see `read_data`); images without boxes need the
            teacher.
        out: folder of the run: checkpoint.pt, log.csv, and PRESET.safetensors, .json and .csv at the end.
        of: the preset or its name; "dual-layer-compact" by default.
        teacher: PicoDet as ONNX, which finds the objects in images without boxes.
        learning_rate: the same as in `fields`.
        fields: values in place of those of `recipes.BaseLayerRecipe`, by name, and weights of terms. With
            another learning rate Muon's is scaled along. With weights from an earlier run use a lower one
            than the default.
        common: see `RunOptions`. `batch` is the same as in `fields`.

    Returns:
        Weights of the whole preset. Its enhancement is that of compact, or untrained; continue with
        `trifocal train PRESET --start`.

    Raises:
        PresetError: if there is no such preset, or it has no base layer.
        OptionError: for a run without a length, images without boxes and no teacher, a field that does not
            exist, no checkpoint to resume, or one that the run would replace.
        TrainingError, OSError: as for `train`.
        WeightsError: if the weights of the detector or of compact are not installed.
    """
    more = {"batch": common.pop("batch", None), "learning_rate": learning_rate}
    own = {
        "of": None if of is None else find(of).name,
        "fields": {**(fields or {}), **{name: value for name, value in more.items() if value is not None}},
        "teacher": teacher,
    }
    run = open_run("base", data, out, common, own, {"of": PRESET, "fields": {}})
    options, start, teacher = run.options, run.options["start"], run.options["teacher"]
    recipe = base_recipe(options["fields"])
    set_seed(SEED)
    preset = of if isinstance(of, Preset) else find(options["of"])
    check_base_layer(preset)
    found = read_run_data(options["data"], run.report, run.notify, held_out=recipe.held_out)
    teacher_model = None if teacher is None else DetectionTeacher(teacher)
    codec = codec_with_base(preset, start)
    task = BaseLayerTask(preset, codec, found.training, found.held_out, teacher_model, recipe)
    trainer = open_trainer(task, run)
    trainer.fit(options["every"], run.report)
    name = None if teacher is None else Path(teacher).name
    return trainer.export(options["data"], start, teacher=name, **found.record)


def base_recipe(values: Mapping[str, object]) -> BaseLayerRecipe:
    """The recipe with other values; Muon's rate is scaled along with another learning rate."""
    if "learning_rate" in values and "matrix_rate" not in values and BASE_LAYER.matrix_rate is not None:
        recipe: BaseLayerRecipe = with_fields(BASE_LAYER, values)
        scale = recipe.learning_rate / BASE_LAYER.learning_rate
        return with_fields(recipe, {"matrix_rate": BASE_LAYER.matrix_rate * scale})
    return with_fields(BASE_LAYER, values)


def codec_with_base(of: str | Preset, start: str | Path | None) -> ScalableNetwork:
    """The codec of a preset with the weights in `start`. Without it, it is untrained, but for a compact
    enhancement, which starts as the bundled compact."""
    check_base_layer(find(of))
    codec = find(of).build().network
    assert isinstance(codec, ScalableNetwork)
    analysis = codec.base.analysis
    if isinstance(analysis, CompactBaseAnalysis):
        load_start(codec, start or WEIGHTS_FOLDER / find(ENHANCEMENT).weights)
        analysis.init_from_detector(codec.detector, front_only=start is not None)
    elif start is not None:
        load_start(codec, start)
    return codec


@torch.no_grad()
def calibrate(codec: ScalableNetwork, batches: DetectionBatches) -> None:
    """Set the frequency tables of the base layer, and the weight of the preview's prediction in a compact
    enhancement, from training batches."""
    codec.eval()
    base = codec.base
    estimator = RateEstimator(base.entropy.cost(), batches.batch, count=True)
    for _ in range(CALIBRATION):
        x = batches.next()[0].to(base.entropy.frequencies.device)
        base(x, spread_levels(len(x), x.device), estimator)
    assert estimator.counts is not None
    base.entropy.frequencies.copy_(torch.from_numpy(calibrated_frequencies(estimator.counts)))
    if not isinstance(codec, DualLayerCompact):
        return
    covariance = power = torch.zeros_like(codec.trust)
    for _ in range(CALIBRATION):
        x = batches.next()[0].to(codec.trust.device)
        preview, _ = codec.simulate_base_layer(x, spread_levels(len(x), x.device))
        y, p = codec.analysis(x), codec.preview_latent(Condition(preview=preview))
        assert p is not None
        covariance, power = covariance + (y * p).sum((0, 1, 2)), power + p.square().sum((0, 1, 2))
    codec.trust.copy_((covariance / power.clamp(min=1e-9)).clamp(0, 1))
