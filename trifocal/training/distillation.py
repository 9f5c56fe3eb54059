"""How the compact detector begins: each of its parts learns, by itself, what a teacher's part does.

    picture ── teacher ── t₀ ── t₁ ── … ── t₃₃          what the teacher's stem, blocks, pyramid and heads answer
                 part k of ours: tₐ, t_b → tₖ             a small regression each, all of them in one step

Between a teacher's own features the problems are local, so a few thousand pictures teach every part (few-sample knowledge
distillation, Li et al. 2020, arXiv 1812.01839). As the run goes on, parts stand on each other more and more often, and at its end
always. The teacher is PicoDet (Yu et al. 2021, arXiv 2111.00902): its weights are read by nobody, only
what it answers. The parts are the house's own, and wide enough to do what the teacher's do.
"""

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn
from torchvision.ops import generalized_box_iou_loss

from trifocal.codecs.scalable import BaseLayer
from trifocal.data import TrainingPicture
from trifocal.data.prefetching import Prefetcher
from trifocal.detection.backbone import CompactDetectorStem, pixels_of
from trifocal.detection.detector import CompactDetectorTail, SplitDetector
from trifocal.detection.onnx_detector import open_session
from trifocal.detection.picodet import PICODET_SIDE, preprocess
from trifocal.detection.proposals import BINS, CompactProposals
from trifocal.detection.two_stage import corrected, proposed_by
from trifocal.errors import MissingExtra, OptionError
from trifocal.losses.detection import excess_cross_entropy, place_errors
from trifocal.losses.rate_distortion import spread_levels
from trifocal.training.detection_batches import DetectionTeacher
from trifocal.training.lesson import Given, Source, TrainingTask

__all__ = ["PARTS", "Answers", "FeatureSource", "Imitation", "Refinement"]

BLOCKS = (
    "pool2d_0.tmp_0",
    "batch_norm_7.tmp_4", "reshape2_1.tmp_0", "reshape2_3.tmp_0",
    "batch_norm_20.tmp_4", *(f"reshape2_{n}.tmp_0" for n in (5, 7, 9, 11, 13, 15)),
    "batch_norm_45.tmp_4", "reshape2_17.tmp_0", "reshape2_19.tmp_0",
)  # fmt: skip
"""Names of the outputs of PicoDet's stem and blocks, in order."""
PARTS = {
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
"""Our parts in order: the name of the teacher's output that each learns, and what it stands on."""
LEVELS = ("top-down 8", "bottom-up 16", "bottom-up 32", "extra 64")
SAYS = tuple(name for name in PARTS if name.startswith("say"))
FRONT_BLOCKS = 4
WHOLE = 0.4  # how often the teacher is shown a whole picture
SOFTEST = 0.02  # of the mean variance, added to each channel's
REGIONS = {"region classes": 1.0, "region boxes": 2.0}
NEW_FACTOR = 3.0  # of the learning rate


def listening(teacher: str | Path, names: Sequence[str]) -> Any:
    """PicoDet, ready to run in one thread (beside the networks that learn), with more of its inside to be asked for.

    Raises OptionError for another file or another PicoDet, MissingExtra.
    """
    try:
        import onnx
    except ImportError:
        raise MissingExtra("train", "A teacher in an ONNX file") from None
    DetectionTeacher(teacher)  # which says if it is none
    model = onnx.load(str(teacher))
    there = {name for node in model.graph.node for name in node.output}
    if missing := [name for name in names if name not in there]:
        raise OptionError(
            f"{teacher} is another PicoDet than the one that is known here: it has no {missing[0]}."
        )
    for name in names:
        model.graph.output.append(onnx.helper.make_tensor_value_info(name, onnx.TensorProto.FLOAT, None))
    return open_session(model.SerializeToString(), threads=1)


class Answers(Prefetcher[Given]):
    """Batches without end of what the teacher is shown, [B, 3, 416, 416], and the answers of its parts of those names, each [B, h, w, C].

    Raises OptionError for a file that is not this teacher, MissingExtra.
    """

    def __init__(
        self,
        pictures: Sequence[TrainingPicture],
        teacher: str | Path,
        parts: Sequence[str],
        batch: int,
        seed: int,
    ) -> None:
        self.pictures, self.batch = pictures, batch
        self.random = np.random.default_rng(seed)
        self.asked = [PARTS[name][0] for name in parts]
        self.session = listening(teacher, self.asked)
        super().__init__()

    def _make(self) -> Given:
        shown = [self._view() for _ in range(self.batch)]
        name = self.session.get_inputs()[0].name
        said = [self.session.run(self.asked, {name: view}) for view in shown]
        answers = [torch.from_numpy(np.concatenate(parts)).permute(0, 2, 3, 1) for parts in zip(*said)]
        return torch.from_numpy(np.concatenate(shown)), answers

    def _view(self) -> NDArray[np.float32]:
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
    """The same answers, and instead of pictures what the detector's own front makes of them; of half of them what a base layer
    leaves of that, at any quality, where there is one."""

    def __init__(self, answers: Source, detector: SplitDetector, base: BaseLayer | None = None) -> None:
        self.answers, self.front, self.base = answers, detector.backbone.front, base

    @torch.no_grad()
    def next(self) -> Given:
        x, said = self.answers.next()
        x = x.to(next(self.front.parameters()).device)
        h = self.front(x)
        coded = torch.randperm(len(x), device=x.device)[: len(x) // 2]
        if self.base is not None and len(coded):
            h[coded] = self.base(pixels_of(x[coded]), spread_levels(len(coded), x.device)).h_hat
        return h, said


class Imitation(TrainingTask):
    """The detector's parts in order; where the front is kept as it is, those behind the split."""

    learning_rate = 4e-3
    matrix_rate = 1e-2
    weight_decay = 0.0
    ema = 0.995
    held_out = 4

    def __init__(self, detector: SplitDetector, keep_front: bool = False) -> None:
        super().__init__()
        self.detector = detector
        self.variances: list[Tensor] = []
        self.fraction = 0.0
        self.first, self.given = (FRONT_BLOCKS, "block 3") if keep_front else (0, "picture")
        self.names = list(PARTS)[self.first :]
        learns = LATER if keep_front else (FRONT, *LATER)
        for name, parameter in self.named_parameters():
            parameter.requires_grad_(name.startswith(learns))
        self.weights = dict.fromkeys(self.names, 1.0)

    def factor(self, name: str) -> float:
        """What stands on the stem suffers most from it, and it has the fewest parameters."""
        return 6.0 if ".stem." in name else 1.0

    def losses(self, x: Tensor, answers: Sequence[Tensor]) -> dict[str, Tensor]:
        """Squared error over the variance, a mean over channels, of every part; of what is said, `said_error`."""
        return self.errors(self.answers(x, answers), answers)

    def answers(self, x: Tensor, answers: Sequence[Tensor]) -> dict[str, Tensor]:
        """What our parts say, by their names, where the teacher's say that."""
        true, own = dict(zip(self.names, answers, strict=True)), {self.given: x}
        for name, part in zip(self.names, parts_of(self.detector)[self.first :], strict=True):
            own[name] = part(*[self.either(own[source], true.get(source)) for source in PARTS[name][1]])
        return own

    def errors(self, own: Mapping[str, Tensor], answers: Sequence[Tensor]) -> dict[str, Tensor]:
        """The term of each part."""
        terms = {}
        for name, true, variance in zip(self.names, answers, self.variances, strict=True):
            if name.startswith("say"):
                terms[name] = said_error(own[name], true)
            else:
                terms[name] = ((own[name] - true).square() / variance.to(true)).mean()
        return terms

    def either(self, own: Tensor, true: Tensor | None) -> Tensor:
        """What a part stands on: our own, or the teacher's, which is rarer as the run goes on."""
        borrowed = self.training and true is not None and float(torch.rand(())) > self.fraction**0.5
        return true if borrowed and true is not None else own

    def detect_file(self, batches: Sequence[Given]) -> None:
        """Sets what the errors are divided by."""
        self.variances = []
        for answers in zip(*(answers for _, answers in batches), strict=True):
            variance = torch.cat([answer.flatten(0, 2) for answer in answers]).var(0)
            self.variances.append(variance + SOFTEST * variance.mean())


class Refinement(Imitation):
    """The lesson of a detector that has learned already: each part stands on those before it from the first step, what is said
    counts twice, and all of it learns at a fifth of the rate; but for the second stage, which learns only here, of each region what the
    teacher says at the place that proposed it."""

    learning_rate = 8e-4
    matrix_rate = 2e-3
    ema = 0.998

    def __init__(self, detector: SplitDetector) -> None:
        super().__init__(detector, keep_front=True)
        detector.network.roi_heads.requires_grad_(True)
        self.weights = {name: 2.0 if name.startswith("say") else 1.0 for name in self.names} | REGIONS

    def factor(self, name: str) -> float:
        """What begins at nothing may hurry."""
        return NEW_FACTOR if ".roi_heads." in name else 1.0

    def losses(self, x: Tensor, answers: Sequence[Tensor]) -> dict[str, Tensor]:
        """Those of the parts, and of `region_errors`."""
        own, true = self.answers(x, answers), dict(zip(self.names, answers, strict=True))
        network, images = self.detector.network, self.detector.framed(x)
        pyramid = {str(number): own[name].permute(0, 3, 1, 2) for number, name in enumerate(LEVELS)}
        rpn = network.rpn
        assert isinstance(rpn, CompactProposals)
        first = proposed_by(rpn.dense([own[name] for name in SAYS]), images)
        found = corrected(network, pyramid, first, images)
        wanted_scores, wanted_boxes, _ = rpn.dense([true[name] for name in SAYS]).at(first.places)
        return self.errors(own, answers) | region_errors(*found, wanted_scores, wanted_boxes)

    def either(self, own: Tensor, true: Tensor | None) -> Tensor:
        """Our own."""
        return own


def parts_of(detector: SplitDetector) -> list[nn.Module]:
    """Those that `PARTS` names."""
    front, rest, proposals = detector.backbone.front, detector.backbone.rest, detector.network.rpn
    assert isinstance(front, CompactDetectorStem) and isinstance(rest, CompactDetectorTail)
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


def said_error(found: Tensor, wanted: Tensor) -> Tensor:
    """`place_errors` of classes and distances, logits [B, h, w, K + 4·BINS] twice, over all that is there."""
    split = [found.shape[-1] - 4 * BINS, 4 * BINS]
    errors, sure = place_errors(*found.split(split, dim=-1), *wanted.split(split, dim=-1))
    return errors.sum() / sure.sum().clamp(min=1.0)


def region_errors(
    scores: Tensor, boxes: Tensor, true_scores: Tensor, true_boxes: Tensor
) -> dict[str, Tensor]:
    """The terms of `REGIONS`: of the classes cross-entropy less its least value, of the boxes 1 less the generalised overlap where there
    is something; both over how sure the teacher is in all. Logits [N, K] and boxes [N, 4] twice."""
    p = true_scores.sigmoid()
    sure = p.amax(1)
    apart = generalized_box_iou_loss(boxes, true_boxes, reduction="none")
    classes = excess_cross_entropy(scores, p).sum()
    return dict(zip(REGIONS, (part / sure.sum().clamp(min=1.0) for part in (classes, (sure * apart).sum()))))


FRONT = "detector.network.backbone.front"
LATER = ("detector.network.backbone.rest", "detector.network.rpn")
