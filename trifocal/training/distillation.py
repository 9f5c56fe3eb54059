"""Distil the parts of the bundled detector from the parts of a teacher.

    image ── teacher ── t₀ ── t₁ ── … ── t₃₃        outputs of the teacher's stem, blocks, pyramid and heads
              part k of ours: tₐ, t_b → tₖ           one small regression each, all of them in every step

With the teacher's own features as inputs, the parts can be trained independently, for which a few thousand
images are enough (few-sample knowledge distillation, Li et al. 2020, arXiv 1812.01839). During the run, a
part's input is increasingly often the output of our own preceding part instead of the teacher's; at the end
it always is. The teacher is PicoDet (Yu et al. 2021, arXiv 2111.00902). Only its outputs are used, never its
weights; our parts have an architecture of their own.
"""

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn
from torchvision.ops import generalized_box_iou_loss

from trifocal.codecs.base_layer import BaseLayer
from trifocal.data import TrainingPicture
from trifocal.data.prefetching import Prefetcher
from trifocal.detection.backbone import CompactDetectorFront, denormalise
from trifocal.detection.detector import CompactDetectorRest, SplitDetector
from trifocal.detection.onnx_detector import open_session
from trifocal.detection.picodet import PICODET_SIDE, preprocess
from trifocal.detection.proposals import BINS, CompactProposals
from trifocal.detection.two_stage import second_stage_predictions, select_proposals
from trifocal.errors import MissingExtra, OptionError
from trifocal.losses.detection import excess_cross_entropy, grid_point_errors
from trifocal.losses.rate_distortion import spread_levels
from trifocal.training.detection_batches import DetectionTeacher
from trifocal.training.task import BatchSource

__all__ = [
    "DISTILLED_PARTS",
    "ContinuedDistillationLosses",
    "DistillationLosses",
    "FeatureSource",
    "TeacherOutputs",
]

DistillationBatch = tuple[Tensor, list[Tensor]]
"""Inputs of the first part, and the teacher's outputs for each part."""

BLOCKS = (
    "pool2d_0.tmp_0",
    "batch_norm_7.tmp_4", "reshape2_1.tmp_0", "reshape2_3.tmp_0",
    "batch_norm_20.tmp_4", *(f"reshape2_{n}.tmp_0" for n in (5, 7, 9, 11, 13, 15)),
    "batch_norm_45.tmp_4", "reshape2_17.tmp_0", "reshape2_19.tmp_0",
)  # fmt: skip
"""Names of the output tensors of PicoDet's stem and blocks, in order."""
DISTILLED_PARTS = {
    **{f"block {n}": (answer, (f"block {n - 1}" if n else "picture",)) for n, answer in enumerate(BLOCKS)},
    "lateral 8": ("hardswish_0.tmp_0", ("block 3",)),
    "lateral 16": ("hardswish_1.tmp_0", ("block 10",)),
    "lateral 32": ("hardswish_2.tmp_0", ("block 13",)),
    "top-down 16": ("hardswish_8.tmp_0", ("lateral 32", "lateral 16")),
    "top-down 8": ("hardswish_14.tmp_0", ("top-down 16", "lateral 8")),
    "bottom-up 16": ("hardswish_22.tmp_0", ("top-down 8", "top-down 16")),
    "bottom-up 32": ("hardswish_30.tmp_0", ("bottom-up 16", "lateral 32")),
    "extra 64": ("tmp_0", ("lateral 32", "bottom-up 32")),
    "first 8": ("hardswish_36.tmp_0", ("top-down 8",)),
    "second 8": ("hardswish_38.tmp_0", ("first 8",)),
    "say 8": ("conv2d_223.tmp_0", ("second 8",)),
    "first 16": ("hardswish_40.tmp_0", ("bottom-up 16",)),
    "second 16": ("hardswish_42.tmp_0", ("first 16",)),
    "say 16": ("conv2d_226.tmp_0", ("second 16",)),
    "first 32": ("hardswish_44.tmp_0", ("bottom-up 32",)),
    "second 32": ("hardswish_46.tmp_0", ("first 32",)),
    "say 32": ("conv2d_229.tmp_0", ("second 32",)),
    "first 64": ("hardswish_48.tmp_0", ("extra 64",)),
    "second 64": ("hardswish_50.tmp_0", ("first 64",)),
    "say 64": ("conv2d_232.tmp_0", ("second 64",)),
}
"""Our parts in order: the name of the teacher's tensor that each is trained on, and the parts that it takes
as inputs."""
PYRAMID = ("top-down 8", "bottom-up 16", "bottom-up 32", "extra 64")
PREDICTIONS = tuple(name for name in DISTILLED_PARTS if name.startswith("say"))
FRONT_BLOCKS = 4
WHOLE = 0.4  # probability that the teacher gets a whole image
SMOOTHING = 0.02  # of the mean variance, which is added to that of each channel
REGIONS = {"region classes": 1.0, "region boxes": 2.0}
FRONT = "detector.network.backbone.front"
TAIL = ("detector.network.backbone.rest", "detector.network.rpn")


def teacher_session(teacher: str | Path, names: Sequence[str]) -> Any:
    """An ONNX Runtime session of PicoDet that also returns these inner tensors. It uses one thread.

    Raises:
        OptionError: for another file, or a PicoDet without these tensors.
        MissingExtra: if onnx is not installed.
    """
    try:
        import onnx
    except ImportError:
        raise MissingExtra("train", "A teacher in an ONNX file") from None
    DetectionTeacher(teacher)  # raises for other files
    model = onnx.load(str(teacher))
    have = {name for node in model.graph.node for name in node.output}
    if missing := [name for name in names if name not in have]:
        raise OptionError(
            f"{teacher} is not the PicoDet that Trifocal supports: it has no tensor {missing[0]}."
        )
    for name in names:
        model.graph.output.append(onnx.helper.make_tensor_value_info(name, onnx.TensorProto.FLOAT, None))
    return open_session(model.SerializeToString(), threads=1)


class TeacherOutputs(Prefetcher[DistillationBatch]):
    """Endless batches of inputs of the teacher, [B, 3, 416, 416], and the outputs of its parts, each [B, h,
    w, C].

    Args:
        pictures: random parts of these are the inputs.
        teacher: PicoDet as ONNX.
        parts: names from DISTILLED_PARTS.
        batch: inputs in a batch.
        seed: of the choice.
        first: number of the first batch; each depends only on the arguments and its number.

    Raises:
        OptionError: for a file that is not this teacher.
        MissingExtra: if onnx is not installed.
    """

    def __init__(
        self,
        pictures: Sequence[TrainingPicture],
        teacher: str | Path,
        parts: Sequence[str],
        batch: int,
        seed: int,
        first: int = 0,
    ) -> None:
        self.pictures, self.batch, self.seed, self.number = pictures, batch, seed, first
        self.tensors = [DISTILLED_PARTS[name][0] for name in parts]
        self.session = teacher_session(teacher, self.tensors)
        super().__init__()

    def _make(self) -> DistillationBatch:
        self.random = np.random.default_rng((self.seed, self.number))
        self.number += 1
        inputs = [self._view() for _ in range(self.batch)]
        name = self.session.get_inputs()[0].name
        rows = [self.session.run(self.tensors, {name: view}) for view in inputs]
        outputs = [torch.from_numpy(np.concatenate(parts)).permute(0, 2, 3, 1) for parts in zip(*rows)]
        return torch.from_numpy(np.concatenate(inputs)), outputs

    def _view(self) -> NDArray[np.float32]:
        """A whole image or a random part, perhaps mirrored, as the teacher's input."""
        rgb = self.pictures[int(self.random.integers(len(self.pictures)))].rgb
        height, width = rgb.shape[:2]
        if self.random.random() > WHOLE:
            share = self.random.uniform(0.4, 1.0)
            wide = int(width * share)
            high = int(np.clip(height * share * self.random.uniform(0.75, 1.33), 48, height))
            x = self.random.integers(width - wide + 1)
            y = self.random.integers(height - high + 1)
            rgb = rgb[y : y + high, x : x + wide]
        if self.random.random() < 0.5:
            rgb = np.ascontiguousarray(rgb[:, ::-1])
        return preprocess(rgb, PICODET_SIDE, PICODET_SIDE)


class FeatureSource:
    """Yields the front features of a source's images, with the teacher's outputs.

    Args:
        source: of images and teacher outputs.
        detector: whose front is used.
        base: if given, half of the features are coded by this base layer, at random qualities.
    """

    def __init__(self, source: BatchSource, detector: SplitDetector, base: BaseLayer | None = None) -> None:
        self.source, self.front, self.base = source, detector.backbone.front, base

    @torch.no_grad()
    def next(self) -> DistillationBatch:
        """Features [B, h, w, C], and the outputs of the teacher."""
        x, outputs = self.source.next()
        x = x.to(next(self.front.parameters()).device)
        h = self.front(x)
        coded = torch.randperm(len(x), device=x.device)[: len(x) // 2]
        if self.base is not None and len(coded):
            h[coded] = self.base(denormalise(x[coded]), spread_levels(len(coded), x.device)).h_hat
        return h, outputs

    def close(self) -> None:
        """Close the source."""
        self.source.close()


class DistillationLosses(nn.Module):
    """The parts of the bundled detector with their loss terms.

    Args:
        detector: its parts are trained, but not its second detection stage.
        keep_front: freeze the parts before the split; inputs are then features [B, h, w, C] instead of
            images.

    Attributes:
        weights: of the terms in the loss.
        fraction: of the run that is done, 0..1; while training, a part gets our own output instead of the
            teacher's with probability √fraction.
    """

    def __init__(self, detector: SplitDetector, keep_front: bool = False) -> None:
        super().__init__()
        self.detector, self.keep_front = detector, keep_front
        self.variances: list[Tensor] = []
        self.fraction = 0.0
        self.first, self.input = (FRONT_BLOCKS, "block 3") if keep_front else (0, "picture")
        self.names = list(DISTILLED_PARTS)[self.first :]
        trained = TAIL if keep_front else (FRONT, *TAIL)
        for name, parameter in self.named_parameters():
            parameter.requires_grad_(name.startswith(trained))
        self.weights = dict.fromkeys(self.names, 1.0)

    def set_variances(self, batches: Sequence[Sequence[Tensor]]) -> None:
        """Set the variances that errors are divided by, from teacher outputs of a few batches."""
        self.variances = []
        for outputs in zip(*batches, strict=True):
            variance = torch.cat([output.flatten(0, 2) for output in outputs]).var(0)
            self.variances.append(variance + SMOOTHING * variance.mean())

    def forward(self, x: Tensor, teacher_outputs: Sequence[Tensor]) -> dict[str, Tensor]:
        """Inputs and teacher outputs → for each part the squared error over the variance, or
        `prediction_error`."""
        return self.errors(self.outputs(x, teacher_outputs), teacher_outputs)

    def outputs(self, x: Tensor, teacher_outputs: Sequence[Tensor]) -> dict[str, Tensor]:
        """The outputs of our parts by name."""
        teacher, own = dict(zip(self.names, teacher_outputs, strict=True)), {self.input: x}
        for name, part in zip(self.names, detector_parts(self.detector)[self.first :], strict=True):
            own[name] = part(
                *[self.choose(own[source], teacher.get(source)) for source in DISTILLED_PARTS[name][1]]
            )
        return own

    def errors(self, own: Mapping[str, Tensor], teacher_outputs: Sequence[Tensor]) -> dict[str, Tensor]:
        """The term of each part."""
        terms = {}
        for name, wanted, variance in zip(self.names, teacher_outputs, self.variances, strict=True):
            if name in PREDICTIONS:
                terms[name] = prediction_error(own[name], wanted)
            else:
                terms[name] = ((own[name] - wanted).square() / variance.to(wanted)).mean()
        return terms

    def choose(self, own: Tensor, teacher_output: Tensor | None) -> Tensor:
        """The input of a part: our own output, or the teacher's."""
        if teacher_output is None or not self.training or float(torch.rand(())) <= self.fraction**0.5:
            return own
        return teacher_output


class ContinuedDistillationLosses(DistillationLosses):
    """Distillation of a trained detector with a frozen front: every part gets our own outputs as inputs, and
    predictions weigh twice.

    The second detection stage is trained too: for each region, on the teacher's prediction at the grid point
    that proposed it.
    """

    def __init__(self, detector: SplitDetector) -> None:
        super().__init__(detector, keep_front=True)
        detector.network.roi_heads.requires_grad_(True)
        self.weights = {name: 2.0 if name in PREDICTIONS else 1.0 for name in self.names} | REGIONS

    def forward(self, x: Tensor, teacher_outputs: Sequence[Tensor]) -> dict[str, Tensor]:
        """As in distillation, with the terms of `region_errors`."""
        own, teacher = self.outputs(x, teacher_outputs), dict(zip(self.names, teacher_outputs, strict=True))
        network, images = self.detector.network, self.detector.image_list(x)
        pyramid = {str(number): own[name].permute(0, 3, 1, 2) for number, name in enumerate(PYRAMID)}
        rpn = network.rpn
        assert isinstance(rpn, CompactProposals)
        first = select_proposals(rpn.dense([own[name] for name in PREDICTIONS]), images)
        found = second_stage_predictions(network, pyramid, first, images)
        wanted_scores, wanted_boxes, _ = rpn.dense([teacher[name] for name in PREDICTIONS]).gather(
            first.indices
        )
        return self.errors(own, teacher_outputs) | region_errors(*found, wanted_scores, wanted_boxes)

    def choose(self, own: Tensor, teacher_output: Tensor | None) -> Tensor:
        """Our own output."""
        return own


def detector_parts(detector: SplitDetector) -> list[nn.Module]:
    """The modules that DISTILLED_PARTS names, in its order."""
    front, rest, proposals = detector.backbone.front, detector.backbone.rest, detector.network.rpn
    assert isinstance(front, CompactDetectorFront) and isinstance(rest, CompactDetectorRest)
    assert isinstance(proposals, CompactProposals)
    up = rest.pyramid
    heads = [part for level in proposals.levels for part in (level.first, level.second, level.say)]
    return [
        front.stem,
        *front.stage,
        *rest.middle,
        *rest.last,
        *up.lateral,
        *up.top_down,
        *up.bottom_up,
        up.extra,
        *heads,
    ]


def prediction_error(found: Tensor, wanted: Tensor) -> Tensor:
    """`grid_point_errors` of class scores and box distances over the teacher's confidence: logits [B, h, w, K
    +
    4·BINS] twice → scalar."""
    split = [found.shape[-1] - 4 * BINS, 4 * BINS]
    errors, confidence = grid_point_errors(*found.split(split, dim=-1), *wanted.split(split, dim=-1))
    return errors.sum() / confidence.sum().clamp(min=1.0)


def region_errors(
    scores: Tensor, boxes: Tensor, teacher_scores: Tensor, teacher_boxes: Tensor
) -> dict[str, Tensor]:
    """The terms of REGIONS, over the sum of the teacher's confidences.

    Args:
        scores, teacher_scores: class logits [N, K]; the term is the cross-entropy above its minimum.
        boxes, teacher_boxes: [N, 4]; the term is 1 − generalised IoU, weighted by the teacher's confidence.
    """
    p = teacher_scores.sigmoid()
    confidence = p.amax(1)
    distance = generalized_box_iou_loss(boxes, teacher_boxes, reduction="none")
    total = confidence.sum().clamp(min=1.0)
    classes = excess_cross_entropy(scores, p).sum()
    return dict(zip(REGIONS, (classes / total, (confidence * distance).sum() / total)))
