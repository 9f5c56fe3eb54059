"""How the compact detector's backbone begins: each of its blocks learns, by itself, what a teacher's block does.

    picture ── teacher ── t₀ ── t₁ ── … ── t₁₃        what the teacher's stem and blocks answer
                 block k of the backbone: tₖ₋₁ → tₖ     a small regression each, all of them in one step

Between a teacher's own features the problems are local, so a few thousand pictures teach every block (few-sample knowledge
distillation, Li et al. 2020, arXiv 1812.01839). As the run goes on, blocks stand on each other more and more often, and at its end
always. Then they learn on as a detector (`detector.py`). The teacher is PicoDet (Yu et al. 2021, arXiv 2111.00902): its weights are read by nobody, only
what it answers. The backbone's blocks are the house's own, and wide enough to do what the teacher's do.
"""

from collections.abc import Sequence
from pathlib import Path

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from trifocal.data import TrainingPicture
from trifocal.evaluation.detectors import PICODET_SIDE, preprocess
from trifocal.machine.backbone import CompactFront
from trifocal.machine.detector import CompactRest, SplitDetector
from trifocal.training.lesson import Ahead, Given, Lesson, Source
from trifocal.training.scenes import listening

__all__ = ["ANSWERS", "Answers", "Behind", "Imitation"]

ANSWERS = (
    "pool2d_0.tmp_0",
    "batch_norm_7.tmp_4", "reshape2_1.tmp_0", "reshape2_3.tmp_0",
    "batch_norm_20.tmp_4", *(f"reshape2_{n}.tmp_0" for n in (5, 7, 9, 11, 13, 15)),
    "batch_norm_45.tmp_4", "reshape2_17.tmp_0", "reshape2_19.tmp_0",
)  # fmt: skip
"""Names of the outputs of PicoDet's stem and blocks, in order."""
FRONT_BLOCKS = 4
WHOLE = 0.4  # how often the teacher is shown a whole picture
SOFTEST = 0.02  # of the mean variance, added to each channel's


class Answers(Ahead):
    """Batches without end of what the teacher is shown, [B, 3, 416, 416], and its blocks' answers, each [B, h, w, C].

    Raises OptionError for a file that is not this teacher, MissingExtra.
    """

    def __init__(
        self, pictures: Sequence[TrainingPicture], teacher: str | Path, batch: int, seed: int
    ) -> None:
        self.pictures, self.batch = pictures, batch
        self.random = np.random.default_rng(seed)
        self.session = listening(teacher, ANSWERS)
        super().__init__()

    def _make(self) -> Given:
        shown = [self._view() for _ in range(self.batch)]
        name = self.session.get_inputs()[0].name
        said = [self.session.run(list(ANSWERS), {name: view}) for view in shown]
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


class Behind:
    """The answers of the blocks behind the split, and instead of pictures what the detector's own front makes of them."""

    def __init__(self, answers: Source, detector: SplitDetector) -> None:
        self.answers, self.front = answers, detector.backbone.front

    @torch.no_grad()
    def next(self) -> Given:
        x, said = self.answers.next()
        return self.front(x.to(next(self.front.parameters()).device)), said[FRONT_BLOCKS:]


class Imitation(Lesson):
    """The backbone's blocks, in order; where the front is kept as it is, those behind the split."""

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
        self.first = FRONT_BLOCKS if keep_front else 0
        learns = LATER if keep_front else (FRONT, *LATER)
        for name, parameter in self.named_parameters():
            parameter.requires_grad_(name.startswith(learns))
        self.weights = {f"block {number}": 1.0 for number in range(self.first, len(ANSWERS))}

    def factor(self, name: str) -> float:
        """What stands on the stem suffers most from it, and it has the fewest parameters."""
        return 6.0 if ".stem." in name else 1.0

    def losses(self, x: Tensor, answers: Sequence[Tensor]) -> dict[str, Tensor]:
        """Squared error over the variance, a mean over channels, of every block."""
        front, rest = self.detector.backbone.front, self.detector.backbone.rest
        assert isinstance(front, CompactFront) and isinstance(rest, CompactRest)
        blocks = [front.stem, *front.stage, *rest.middle, *rest.last][self.first :]
        terms = {}
        y = x
        for number, (block, answer) in enumerate(zip(blocks, answers, strict=True)):
            if number and self.training and float(torch.rand(())) > self.fraction:
                y = answers[number - 1]
            y = block(y)
            error = (y - answer).square() / self.variances[number].to(y)
            terms[f"block {self.first + number}"] = error.mean()
        return terms

    def look_at(self, batches: Sequence[Given]) -> None:
        """Sets what the errors are divided by."""
        self.variances = []
        for answers in zip(*(answers for _, answers in batches), strict=True):
            variance = torch.cat([answer.flatten(0, 2) for answer in answers]).var(0)
            self.variances.append(variance + SOFTEST * variance.mean())


FRONT = "detector.network.backbone.front"
LATER = ("detector.network.backbone.rest.middle", "detector.network.backbone.rest.last")
