"""Train the bundled detector on boxes and on the outputs of a teacher.

Stages 1 and 3 distil the parts of a teacher (`distillation.py`): stage 1 from images; stage 3 from the
features of a frozen front and from decoded base layers, so that existing base layers and files stay valid.
Stage 2 trains all but the second detection stage on boxes, and on the class scores of the teacher, if there
is one:

    image ── head ── tail: pyramid ── boxes and classes of each grid point
      └── teacher ── class scores at each grid point
"""

from collections.abc import Sequence
from pathlib import Path
from types import MappingProxyType
from typing import Unpack

import torch
from accelerate.utils import set_seed
from torch import Tensor, nn

from trifocal.codecs.base_layer import BaseLayer, ScalableNetwork
from trifocal.data import TrainingPicture
from trifocal.detection.detector import SplitDetector, compact_detector
from trifocal.errors import OptionError
from trifocal.losses.detection import Target, TeacherDetections, detection_losses, teacher_score_maps
from trifocal.presets import load
from trifocal.training.batches import DataEcho, read_run_data
from trifocal.training.checkpoint import load_start
from trifocal.training.detection_batches import DetectionBatches, DetectionTeacher
from trifocal.training.distillation import (
    ContinuedDistillationLosses,
    DistillationLosses,
    FeatureSource,
    TeacherOutputs,
)
from trifocal.training.run import RunOptions, open_run
from trifocal.training.task import SEED, BatchSource, LossTask
from trifocal.training.tasks.base_layer import PRESET
from trifocal.training.trainer import open_trainer
from trifocal.weights import WEIGHTS_FOLDER, write_weights

__all__ = ["train_detector"]

START_FACTOR = 0.15  # of the learning rate in stage 2, for a detector that is trained already
ECHOES = 3  # of each batch of features
BATCHES = (4, 8, 4)
DEFAULTS = {"stage": 1, "keep_front": False}
NEW_FACTOR = 3.0  # of the learning rate in stage 3, for the second detection stage


class DetectorTask(LossTask):
    """The bundled detector on boxes, and on the class scores of a teacher if there is one.

    Args:
        detector: its second detection stage is frozen here.
        started: whether it is trained already; then it learns more slowly.
        training, held_out: images.
        teacher: of class scores; it finds the objects in images without boxes.
        batch: images in a batch, in all processes together.
        learning_rate: replaces the default.
    """

    name = "detector"
    file_name = "detector.safetensors"
    weights = MappingProxyType({"scores": 1.0, "boxes": 2.0})
    learning_rate = 1.5e-3
    matrix_rate = 4e-3

    def __init__(
        self,
        detector: SplitDetector,
        started: bool,
        training: Sequence[TrainingPicture],
        held_out: Sequence[TrainingPicture],
        teacher: DetectionTeacher | None,
        batch: int,
        learning_rate: float | None = None,
    ) -> None:
        self.started, self.training_images, self.teacher, self.batch = started, training, teacher, batch
        super().__init__(
            DetectorLosses(detector), DetectionBatches(held_out, teacher, 8, SEED), learning_rate
        )

    def batches(self, seed: int, first: int) -> BatchSource:
        return DetectionBatches(self.training_images, self.teacher, self.process_batch, seed, first=first)

    def factor(self, name: str) -> float:
        return START_FACTOR if self.started else 1.0

    def export(self, average: nn.Module, path: Path) -> dict[str, object]:
        assert isinstance(average, DetectorLosses)
        return export_detector(average.detector, path)


class DetectorLosses(nn.Module):
    """The bundled detector with its loss terms."""

    def __init__(self, detector: SplitDetector) -> None:
        super().__init__()
        self.detector = detector
        detector.network.roi_heads.requires_grad_(False)

    def forward(
        self, x: Tensor, targets: Sequence[Target], seen: Sequence[TeacherDetections] | None
    ) -> dict[str, Tensor]:
        """x [B, 3, H, W] in 0..1 → the scalar terms "scores" and "boxes"."""
        pyramid = self.detector.backbone.rest(self.detector.front_features(x))
        maps = None if seen is None else teacher_score_maps(seen, pyramid)
        return detection_losses(self.detector.network.rpn(pyramid), targets, maps)


class DistillationTask(LossTask):
    """The parts of the bundled detector, each on the outputs of the teacher's part.

    Args:
        module: the detector with its losses.
        training, held_out: images.
        teacher: PicoDet as ONNX.
        batch: images in a batch.
        learning_rate: replaces the default.
        base: a base layer, through which half of the features pass; only where the front is frozen.
    """

    name = "detector"
    file_name = "detector.safetensors"
    learning_rate = 4e-3
    matrix_rate = 1e-2
    weight_decay = 0.0
    ema = 0.995
    validation_batches = 4

    def __init__(
        self,
        module: DistillationLosses,
        training: Sequence[TrainingPicture],
        held_out: Sequence[TrainingPicture],
        teacher: str | Path,
        batch: int,
        learning_rate: float | None = None,
        base: BaseLayer | None = None,
    ) -> None:
        self.training_images, self.teacher, self.batch, self.base = training, teacher, batch, base
        self.detector, self.names, self.weights = module.detector, module.names, module.weights
        self.keep_front = module.keep_front
        super().__init__(module, self.source(held_out, 4, SEED), learning_rate)
        module.set_variances([outputs for _, outputs in self.validation])

    def to(self, device: torch.device) -> None:
        super().to(device)
        if self.base is not None:
            self.base.to(device)

    def source(
        self, pictures: Sequence[TrainingPicture], batch: int, seed: int, first: int = 0
    ) -> BatchSource:
        """Images, or their features where the front is frozen, with the outputs of the teacher."""
        outputs = TeacherOutputs(pictures, self.teacher, self.names, batch, seed, first)
        return FeatureSource(outputs, self.detector, self.base) if self.keep_front else outputs

    def batches(self, seed: int, first: int) -> BatchSource:
        """A resumed run with a frozen front fills the pool of its echoes anew."""
        source = self.source(self.training_images, self.process_batch, seed, first)
        return DataEcho(source, ECHOES, seed + first) if self.keep_front else source

    def factor(self, name: str) -> float:
        """The stem has the fewest parameters, and every other part depends on it."""
        return 6.0 if ".stem." in name else 1.0

    def terms(self, module: nn.Module, batch: object, fraction: float) -> dict[str, Tensor]:
        """The loss terms by part; parts use each other's outputs more often as the run goes on."""
        inner = module.module if isinstance(module, nn.parallel.DistributedDataParallel) else module
        assert isinstance(inner, DistillationLosses)
        inner.fraction = fraction
        return super().terms(module, batch, fraction)

    def export(self, average: nn.Module, path: Path) -> dict[str, object]:
        assert isinstance(average, DistillationLosses)
        return export_detector(average.detector, path)


def export_detector(detector: SplitDetector, path: Path) -> dict[str, object]:
    """Write the weights of a detector. Returns the number of its parameters for the record."""
    write_weights(detector, path)
    return {"parameters": sum(p.numel() for p in detector.parameters())}


class ContinuedDistillationTask(DistillationTask):
    """A trained detector, more slowly; its second detection stage is trained only here."""

    learning_rate = 8e-4
    matrix_rate = 2e-3
    ema = 0.998

    def factor(self, name: str) -> float:
        """The second detection stage starts from zero and learns faster."""
        return NEW_FACTOR if ".roi_heads." in name else 1.0


def train_detector(
    data: Sequence[str | Path],
    out: str | Path,
    *,
    stage: int | None = None,
    keep_front: bool | None = None,
    teacher: str | Path | None = None,
    learning_rate: float | None = None,
    **common: Unpack[RunOptions],
) -> Path:
    """Train the bundled detector.

    Args:
        data: shards or folders of images with records (see `read_pictures`); images without boxes need the
            teacher.
        out: folder of the run: checkpoint.pt, log.csv, and detector.safetensors, .json and .csv at the end.
        stage: 1, the default, distils the parts of the teacher; 2 trains on boxes, and on the class scores of
            the teacher; 3 distils more slowly, from the base layer of the installed dual-layer-compact too.
        keep_front: freeze the layers before the split, so that base layers and files stay valid; always so in
            stage 3.
        teacher: PicoDet as ONNX; stages 1 and 3 need it.
        learning_rate: of AdamW, in place of the default; Muon's is scaled along. With weights from an earlier
            run use a lower one than the default.
        common: see `RunOptions`. `batch` is 8 in stage 2 and 4 in the others by default; stage 3 starts from
            the installed detector.safetensors by default.

    Returns:
        The exported weights.

    Raises:
        OptionError: for a run without a length, images without boxes and no teacher, no weights to keep the
            front of, no checkpoint to resume, or one that the run would replace.
        TrainingError, OSError: as for `train`.
        WeightsError: in stage 3, if no base layer is installed.
    """
    own = {"stage": stage, "keep_front": keep_front, "teacher": teacher, "learning_rate": learning_rate}
    run = open_run("detector", data, out, common, own, DEFAULTS)
    options, stage, teacher = run.options, int(run.options["stage"]), run.options["teacher"]
    if stage not in (1, 2, 3) or stage != 2 and teacher is None:
        raise OptionError(
            "The detector has stages 1 to 3. Stages 1 and 3 need a --teacher; without one, use --stage 2."
        )
    set_seed(SEED)
    found = read_run_data(options["data"], run.report, run.notify)
    detector, base = compact_detector(), None
    start = options["start"]
    if stage == 3:
        base, start = installed_base_layer(), start or WEIGHTS_FOLDER / "detector.safetensors"
    keep_front = options["keep_front"] or stage == 3
    if keep_front and start is None:
        raise OptionError("--keep-front requires --start WEIGHTS.")
    if start is not None:
        load_start(detector, start)
    detector.backbone.front.requires_grad_(not keep_front)
    batch, rate = options["batch"] or BATCHES[stage - 1], options["learning_rate"]
    task: LossTask
    if stage == 2:
        teacher_model = None if teacher is None else DetectionTeacher(teacher)
        task = DetectorTask(
            detector, start is not None, found.training, found.held_out, teacher_model, batch, rate
        )
    else:
        kind = DistillationTask if stage == 1 else ContinuedDistillationTask
        losses = (
            DistillationLosses(detector, keep_front) if stage == 1 else ContinuedDistillationLosses(detector)
        )
        task = kind(losses, found.training, found.held_out, teacher, batch, rate, base)
    trainer = open_trainer(task, run)
    trainer.fit(options["every"], run.report)
    facts = {"pictures": len(found.training), "stage": stage, **found.record}
    name = None if teacher is None else Path(teacher).name
    return trainer.export(options["data"], start, teacher=name, **facts)


def installed_base_layer() -> BaseLayer:
    """The base layer of the installed dual-layer-compact."""
    codec = load(PRESET).network
    assert isinstance(codec, ScalableNetwork)
    return codec.base
