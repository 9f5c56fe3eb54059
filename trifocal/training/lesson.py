"""The loop of what serves codecs: the towers, the detector and its backbone, and the base layer. Codecs have `loop.py`'s."""

import json
import math
import time
from abc import ABC, abstractmethod
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Any, Protocol

import numpy as np
import torch
from accelerate.utils import set_seed
from torch import Tensor, nn
from torch.optim import AdamW, Muon, Optimizer
from torch.optim.swa_utils import AveragedModel, get_ema_multi_avg_fn

from trifocal.data import TrainingPicture, read_pictures, split
from trifocal.errors import OptionError
from trifocal.training.checkpoint import (
    Progress,
    append_row,
    by_one,
    check_length,
    drop_rows_after,
    record_of,
    restore,
    save,
    together,
)
from trifocal.training.precision import choose_precision, new_accelerator

__all__ = [
    "SEED",
    "DataEcho",
    "LessonRun",
    "Note",
    "Report",
    "Source",
    "TrainingTask",
    "pictures_of",
    "silent",
]

SEED, HELD_OUT_BATCHES = 1, 12
Report = Callable[[float, str], None]
Note = Callable[[str], object]
Given = tuple[Any, ...]
"""A batch: the arguments of `TrainingTask.losses`."""


class Source(Protocol):
    """Batches without end."""

    def next(self) -> Given: ...


class DataEcho:
    """Batches of a source that is slower than what learns from it: each comes several times, others in between.

    "Data echoing" (Choi et al. 2019, "Faster neural network training with data echoing").

    Args:
        times: that a batch comes, on average. seed: of the choice.
    """

    kept = 64
    """Batches, of which one is drawn."""

    def __init__(self, source: Source, times: int, seed: int) -> None:
        self.source, self.times = source, times
        self.random = np.random.default_rng(seed)
        self.pool: list[Given] = []

    def next(self) -> Given:
        if len(self.pool) == self.kept and self.random.integers(self.times):
            return self.pool[self.random.integers(self.kept)]
        fresh = self.source.next()
        if len(self.pool) < self.kept:
            self.pool.append(fresh)
        else:
            self.pool[self.random.integers(self.kept)] = fresh
        return fresh


class TrainingTask(nn.Module, ABC):
    """What learns, with all that only training needs.

    Attributes:
        weights: of each term in the loss.
        learning_rate, weight_decay, warmup, ema: AdamW's, the steps until its height, and the decay of the averaged weights.
        matrix_rate: Muon's learning rate, for all that are matrices, where it is used (Jordan et al. 2024, "Muon: an optimizer
            for hidden layers in neural networks"; scaled as Liu et al. 2025, arXiv 2502.16982, section 2.2).
        clip: the norm above which a gradient is shortened to it.
        held_out: batches that are measured on.
        fraction: of the run that is done, 0..1.
    """

    weights: Mapping[str, float]
    fraction = 0.0
    learning_rate = 1e-3
    matrix_rate: float | None = None
    weight_decay = 0.05
    warmup = 100
    ema = 0.998
    clip = 2.0
    held_out = HELD_OUT_BATCHES

    @abstractmethod
    def losses(self, *given: Any) -> dict[str, Tensor]:
        """Each term by its name, before its weight; a mean over the batch."""

    def forward(self, *given: Any) -> dict[str, Tensor]:
        """`losses`, through whatever accelerate wraps around the lesson: on many GPUs gradients are shared there."""
        return self.losses(*given)

    def factor(self, name: str) -> float:
        """Of the learning rate, for the parameter of that name."""
        return 1.0

    def detect_file(self, batches: Sequence[Given]) -> None:
        """Sets, before the first step, what depends on the data; the same for every copy of the lesson."""

    def measure(self, batches: Sequence[Given]) -> dict[str, float]:
        """What the log says of held-out batches: the mean of each loss, as `held_out_NAME`."""
        self.train()  # torchvision's parts give losses only so
        with torch.random.fork_rng():
            torch.manual_seed(SEED)
            rows = [self.losses(*batch) for batch in batches]
        return {f"held_out_{n}": round(float(np.mean([float(r[n]) for r in rows])), 4) for n in rows[0]}


class LessonRun:
    """One run: a lesson, its average, optimiser, and how far they are. A learning rate takes the place of the lesson's, and its matrix
    rate goes along. In bfloat16 all of the lesson is under autocast, but for what needs its digits and says so."""

    def __init__(
        self,
        lesson: TrainingTask,
        out: Path,
        steps: int | None,
        minutes: float | None,
        learning_rate: float | None = None,
        precision: str = "float32",
        note: Note | None = None,
    ) -> None:
        if learning_rate is not None:
            if lesson.matrix_rate is not None:
                lesson.matrix_rate *= learning_rate / lesson.learning_rate
            lesson.learning_rate = learning_rate
        self.accelerator = new_accelerator()
        self.precision = choose_precision(
            precision, self.accelerator.device, "Convolutions and matrix products"
        )
        if note is not None and self.accelerator.is_main_process:
            note(self.precision.reason)
        self.out, self.steps, self.minutes = out, steps, minutes
        out.mkdir(parents=True, exist_ok=True)
        self.lesson, *self.optimisers = self.accelerator.prepare(lesson, *optimisers_of(lesson))
        self.averaged = AveragedModel(
            self.bare, multi_avg_fn=get_ema_multi_avg_fn(lesson.ema), use_buffers=False
        )
        self.progress = Progress()

    @property
    def bare(self) -> TrainingTask:
        lesson: TrainingTask = self.accelerator.unwrap_model(self.lesson)
        return lesson

    @property
    def average(self) -> TrainingTask:
        lesson = self.averaged.module
        assert isinstance(lesson, TrainingTask)
        return lesson

    @property
    def fraction(self) -> float:
        """The part of the run that is done, 0..1."""
        return min(1.0, self.progress.fraction(self.steps, self.minutes))

    def go(self, source: Source, held_out: Source, every: float, report: Report) -> None:
        others = [held_out.next() for _ in range(self.bare.held_out)]
        for lesson in (self.bare, self.average):
            lesson.detect_file(others)
        torch.manual_seed(SEED + self.progress.step + self.accelerator.process_index)  # levels and noise
        saved = self.progress.seconds
        terms: list[dict[str, float]] = []
        self.lesson.train()
        while self.fraction < 1:
            began = time.monotonic()
            terms.append(self.step(source.next()))
            self.progress.step += 1
            self.progress.seconds += together(self.accelerator, time.monotonic() - began)
            mean = {name: float(np.mean([t[name] for t in terms[-50:]])) for name in terms[-1]}
            said = "  ".join(f"{name} {value:.3f}" for name, value in mean.items())
            report(self.fraction, f"step {self.progress.step}  {said}")
            if self.progress.seconds - saved > 60 * every or self.fraction >= 1:
                self.checkpoint(others, mean)
                saved = self.progress.seconds

    def step(self, given: Given) -> dict[str, float]:
        lesson = self.bare
        lesson.fraction = self.fraction
        rising = min(1.0, (self.progress.step + 1) / lesson.warmup)
        rate = lesson.learning_rate * rising * (0.02 + 0.98 * 0.5 * (1 + math.cos(math.pi * self.fraction)))
        for optimiser in self.optimisers:
            for group in optimiser.param_groups:
                group["lr"] = rate * group["factor"]
        device, lower = self.accelerator.device, self.precision.lower
        with torch.autocast(device.type, lower, enabled=lower is not None):
            terms = self.lesson(*moved(given, device))
        terms = {name: term.float() for name, term in terms.items()}
        loss = sum((lesson.weights[name] * term for name, term in terms.items()), torch.zeros(()))
        for optimiser in self.optimisers:
            optimiser.zero_grad()
        self.accelerator.backward(loss)
        norm = self.accelerator.clip_grad_norm_(self.lesson.parameters(), lesson.clip)
        if norm is not None and math.isfinite(float(norm)):
            for optimiser in self.optimisers:
                optimiser.step()
        self.averaged.update_parameters(lesson)
        return {name: term.item() for name, term in terms.items()}

    @torch.no_grad()
    def checkpoint(self, held_out: Sequence[Given], terms: dict[str, float]) -> None:
        if not self.accelerator.is_main_process:
            return
        self.average.fraction = 1.0
        row: dict[str, object] = {
            "step": self.progress.step,
            "minutes": round(self.progress.seconds / 60, 2),
            **{name: round(value, 4) for name, value in terms.items()},
            **self.average.measure([moved(given, self.accelerator.device) for given in held_out]),
        }
        append_row(self.out / "log.csv", row)
        state = {
            "lesson": self.bare.state_dict(),
            "averaged": self.averaged.state_dict(),
            "optimisers": [optimiser.state_dict() for optimiser in self.optimisers],
            "progress": asdict(self.progress),
        }
        save(self.out / "checkpoint.pt", state)

    def resume(self) -> None:
        state = restore(self.out / "checkpoint.pt")
        same = state.get("lesson", {}).keys() == self.bare.state_dict().keys()
        if not same or len(state.get("optimisers", ())) != len(self.optimisers):
            raise OptionError(
                f"The checkpoint in {self.out} is of another stage, network or version; name it, or take another folder."
            )
        self.bare.load_state_dict(state["lesson"])
        self.averaged.load_state_dict(state["averaged"])
        for optimiser, kept in zip(self.optimisers, state["optimisers"], strict=True):
            optimiser.load_state_dict(kept)
        self.progress = Progress(**state["progress"])
        by_one(self.accelerator, lambda: drop_rows_after(self.out / "log.csv", self.progress.step))

    def describe(
        self,
        weights: Path,
        data: Sequence[str | Path],
        teacher: str | Path | None,
        start: str | Path | None,
        **facts: object,
    ) -> None:
        """Writes what the run was beside its weights, NAME.json, and its log, NAME.csv."""
        record = self.record() | {
            "data": [Path(source).name for source in data],
            "teacher": None if teacher is None else Path(teacher).name,
            "start": None if start is None else record_of(Path(start)),
        }
        weights.with_suffix(".json").write_text(json.dumps(record | facts, indent=2) + "\n", "utf-8")
        if (self.out / "log.csv").exists():
            weights.with_suffix(".csv").write_bytes((self.out / "log.csv").read_bytes())

    def record(self) -> dict[str, object]:
        """What it can say of itself."""
        lesson = self.bare
        return {
            "date": time.strftime("%Y-%m-%d"),
            "learning_rate": lesson.learning_rate,
            "matrix_rate": lesson.matrix_rate,
            "weight_decay": lesson.weight_decay,
            "precision": self.precision.name,
            "processes": self.accelerator.num_processes,
            "ema": lesson.ema,
            "terms": dict(lesson.weights),
            "seed": SEED,
            "steps": self.progress.step,
            "minutes": round(self.progress.seconds / 60, 1),
            "machine": f"{self.accelerator.device.type}, {torch.get_num_threads()} threads, torch {torch.__version__}",
        }


def optimisers_of(lesson: TrainingTask) -> list[Optimizer]:
    """For what learns of it; each group's `factor` is of the lesson's learning rate. Muon is the second, where it is used."""
    groups: dict[tuple[bool, float, bool], list[nn.Parameter]] = {}
    for name, parameter in lesson.named_parameters():
        if parameter.requires_grad:
            turned = lesson.matrix_rate is not None and parameter.ndim == 2
            groups.setdefault((turned, lesson.factor(name), parameter.ndim > 1), []).append(parameter)
    of_both: dict[bool, list[dict[str, Any]]] = {False: [], True: []}
    for (turned, factor, wide), parameters in groups.items():
        decay = lesson.weight_decay if wide else 0.0
        if turned:
            factor *= (lesson.matrix_rate or 0) / lesson.learning_rate
        of_both[turned].append({"params": parameters, "weight_decay": decay, "factor": factor})
    optimisers: list[Optimizer] = [AdamW(of_both[False], lr=lesson.learning_rate, betas=(0.9, 0.98))]
    if of_both[True]:
        optimisers.append(Muon(of_both[True], lr=lesson.learning_rate, adjust_lr_fn="match_rms_adamw"))
    return optimisers


def pictures_of(
    data: Sequence[str | Path], steps: int | None, minutes: float | None, report: Report
) -> tuple[list[TrainingPicture], list[TrainingPicture]]:
    """What every run begins with: its pictures for training, and those held out. Raises OptionError for a run without an end."""
    check_length(steps, minutes)
    set_seed(SEED)
    return split(read_pictures(data, 64, lambda key: report(0.0, f"reading {key}")))


def silent(*said: object) -> None:
    """A report or a note to nobody."""


def moved(given: Any, device: torch.device) -> Any:
    """The batch where the networks are."""
    if device.type == "cpu" or given is None:
        return given
    if isinstance(given, tuple | list):
        return type(given)(moved(part, device) for part in given)
    return given.to(device)
