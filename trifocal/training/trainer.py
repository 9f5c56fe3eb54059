"""The training loop for all tasks: codecs, base layers, detector, text and image encoders.

    task.batches ── task.losses ── optimisers ── average ── task.validate ── log, checkpoint ── task.export

A run is bounded by steps or by minutes. The learning rate depends on the fraction of that bound that is used
up, so the schedule is the same on any machine. Several processes average their gradients; each has batches
and noise of its own. All random numbers of a step follow from the seed, the process and the number of the
step, so a run that is stopped and resumed continues as it would have without the stop.
"""

import json
import math
import time
from collections import deque
from collections.abc import Generator, Iterable, Mapping, Sequence
from contextlib import closing
from dataclasses import asdict
from functools import partial
from pathlib import Path

import numpy as np
import torch
from torch import Tensor, nn
from torch.optim.swa_utils import AveragedModel, get_ema_multi_avg_fn

from trifocal.errors import OptionError, TrainingError, WeightsError
from trifocal.training.checkpoint import (
    ROOM,
    Elapsed,
    append_row,
    check_space,
    drop_rows_after,
    mean_over_processes,
    on_main_process,
    restore,
    save,
    start_record,
    state_size,
)
from trifocal.training.precision import choose_precision, new_accelerator
from trifocal.training.run import CHECKPOINT, LOG, Run
from trifocal.training.stopping import DivergenceCheck, stop_requests
from trifocal.training.task import Notify, Report, TrainingTask, silent

__all__ = ["Trainer", "open_trainer"]

GROUP_OPTIONS = ("weight_decay", "betas", "factor")  # of the resumed run, not of its checkpoint
WINDOW = 100  # steps whose losses are averaged for the log


class Trainer:
    """One training run: the module, its averaged copy, the optimisers, and the steps done.

    Args:
        task: what is trained.
        out: folder of the run, for checkpoint.pt, log.csv and the exported weights.
        steps, minutes: length of the run; one of them.
        precision: "auto", "bfloat16" or "float32"; see `choose_precision`.
        notify: called with each notice to the user, in the main process.
        options: of the run, which the checkpoint keeps; see `open_run`.

    Raises:
        OptionError: if the batch of the task cannot be divided among the processes.
    """

    def __init__(
        self,
        task: TrainingTask,
        out: str | Path,
        *,
        steps: int | None = None,
        minutes: float | None = None,
        precision: str = "float32",
        notify: Notify = silent,
        options: Mapping[str, object] | None = None,
    ) -> None:
        self.task, self.out = task, Path(out)
        self.steps, self.minutes, self.options = steps, minutes, {**(options or {})}
        self.elapsed = Elapsed()
        self.largest_loss = 0.0
        self.divergence = DivergenceCheck()
        self.accelerator = new_accelerator(task.unused_parameters)
        self.precision = choose_precision(precision, self.accelerator.device, task.bfloat16_operations)
        task.use_processes(self.accelerator.num_processes)
        if self.accelerator.is_main_process:
            for sentence in (*task.notices(), self.precision.reason, task.batch_notice()):
                notify(sentence)
        self.out.mkdir(parents=True, exist_ok=True)
        task.to(self.accelerator.device)
        optimisers = task.optimisers()
        self.module, *own = self.accelerator.prepare(task.module, *optimisers.pop(task.name))
        self.optimisers = {task.name: own}
        for name, others in optimisers.items():
            self.optimisers[name] = [self.accelerator.prepare(optimiser) for optimiser in others]
        self.averaged = AveragedModel(
            self.unwrapped, multi_avg_fn=get_ema_multi_avg_fn(task.ema), use_buffers=False
        )

    @property
    def unwrapped(self) -> nn.Module:
        """The module without the wrapper for several processes."""
        module: nn.Module = self.accelerator.unwrap_model(self.module)
        return module

    @property
    def average(self) -> nn.Module:
        """The module with the averaged weights, which are validated and exported."""
        return self.averaged.module

    @property
    def fraction(self) -> float:
        """The part of the run that is done, 0..1."""
        return min(1.0, self.elapsed.fraction(self.steps, self.minutes))

    def fit(self, every: float, report: Report) -> None:
        """Train until the run's length is reached; validate and save every few minutes and at the end.

        The first Ctrl-C or SIGTERM saves a checkpoint after the current step. A run that starts anew removes
        the checkpoint and the log of an earlier one in its folder.

        Raises:
            TrainingError: if the run was stopped, or the loss diverged.
            OSError: if there is no room for a checkpoint.
        """
        saved = self.elapsed.seconds
        check_space(self.out, state_size(self.state()) + ROOM)
        if not self.elapsed.step:
            on_main_process(self.accelerator, self.remove_earlier_run)
        recent: deque[dict[str, float]] = deque(maxlen=WINDOW)
        with closing(self.train_steps()) as steps:
            for terms in steps:
                recent.append(terms)
                mean = mean_terms(recent)
                text = "  ".join(f"{name} {value:.3f}" for name, value in mean.items())
                report(self.fraction, f"step {self.elapsed.step}  {text}")
                due = self.elapsed.seconds - saved > 60 * every and not self.divergence.count
                if due or self.fraction >= 1:
                    on_main_process(self.accelerator, partial(self.checkpoint, mean))
                    saved = self.elapsed.seconds

    def train_steps(self) -> Generator[dict[str, float], None, None]:
        """Train until the run's length is reached; yield the loss terms of each step. Raises as `fit`."""
        if self.fraction >= 1:
            return
        self.module.train()
        first = self.elapsed.step
        with stop_requests() as stop, closing(self.task.batches(self.seed(), first)) as batches:
            while self.fraction < 1:
                began = time.monotonic()
                torch.manual_seed(self.seed(self.elapsed.step))  # of quality levels and noise
                terms = self.step(batches.next())
                self.elapsed.step += 1
                checked = self.divergence.add(self.largest_loss)
                seconds, stopped, bad, diverged = mean_over_processes(
                    self.accelerator, time.monotonic() - began, stop.asked, *checked
                )
                self.elapsed.seconds += seconds
                if diverged or bad and self.fraction >= 1:
                    raise TrainingError(self.divergence_message())
                yield terms
                if stopped and self.fraction < 1:
                    on_main_process(self.accelerator, self.save)
                    raise TrainingError(self.stop_message())

    def seed(self, *numbers: int) -> int:
        """A seed of this process, and of a step."""
        sequence = np.random.SeedSequence((self.task.seed, self.accelerator.process_index, *numbers))
        return int(sequence.generate_state(1)[0])

    def stop_message(self) -> str:
        """How to continue."""
        subject = self.options.get("subject")
        if subject is None:
            return f"Stopped after step {self.elapsed.step}; the checkpoint in {self.out} is saved."
        return (
            f"Stopped after step {self.elapsed.step} and saved; continue with `trifocal train {subject} -o "
            f"{self.out} --resume`, or write the weights with `trifocal export {self.out}`."
        )

    def divergence_message(self) -> str:
        """What a diverged run says."""
        last = (self.out / CHECKPOINT).exists()
        remedy = f"resume {self.out} from its last checkpoint" if last else "start anew"
        return (
            f"The loss diverged: it is {self.largest_loss:.2g} at step {self.elapsed.step}, and no weights "
            f"are written; {remedy} with a lower --learning-rate."
        )

    def step(self, batch: object) -> dict[str, float]:
        """The updates of one step, each with its optimiser step, then the averaged weights. Returns the loss
        terms."""
        step, fraction = self.elapsed.step, self.fraction
        rate = self.task.learning_rate * self.task.schedule(step, fraction)
        updates = self.task.losses(self.module, batch, step, fraction)
        terms: dict[str, Tensor] = {}
        losses: list[Tensor] = []
        while True:
            with self.task.autocast(self.unwrapped, self.accelerator.device, self.precision.autocast_dtype):
                update = next(updates, None)
            if update is None:
                break
            self.optimise(update.part, update.loss, rate)
            losses.append(update.loss.detach().abs())
            terms |= update.terms
        self.averaged.update_parameters(self.unwrapped)
        self.largest_loss = max((float(loss) for loss in losses), key=lambda loss: (math.isnan(loss), loss))
        return {name: term.item() for name, term in terms.items()}

    def optimise(self, part: str, loss: Tensor, rate: float) -> None:
        """One optimiser step of a part, skipped where the gradient is not finite."""
        optimisers = self.optimisers[part]
        for optimiser in optimisers:
            for group in optimiser.param_groups:
                group["lr"] = rate * group["factor"]
            optimiser.zero_grad()
        self.accelerator.backward(loss)
        if part == self.task.name:
            parameters = list(self.module.parameters())
        else:
            parameters = list(self.task.auxiliary_networks()[part].parameters())
            self.average_gradients(parameters)
        norm = self.accelerator.clip_grad_norm_(parameters, self.task.clip)
        if norm is not None and math.isfinite(float(norm)):
            for optimiser in optimisers:
                optimiser.step()

    def average_gradients(self, parameters: Sequence[nn.Parameter]) -> None:
        """Average an auxiliary network's gradients over all processes.

        The wrapper of the module does this for the module. An auxiliary network has none, since it is called
        several times in a step, for two parts.
        """
        for parameter in parameters:
            if parameter.grad is not None:
                parameter.grad = self.accelerator.reduce(parameter.grad, "mean")

    @torch.no_grad()
    def checkpoint(self, terms: dict[str, float]) -> None:
        """Validate the averaged weights, and write the checkpoint and a row of the log."""
        row: dict[str, object] = {"step": self.elapsed.step, "minutes": round(self.elapsed.seconds / 60, 2)}
        row |= {name: round(value, 4) for name, value in terms.items()}
        try:
            row |= self.task.validate(self.average)
        except (WeightsError, ArithmeticError) as error:  # finite losses of weights that no file can have
            raise TrainingError(self.divergence_message()) from error
        self.save()
        append_row(self.out / LOG, row)

    def save(self) -> None:
        """Write the checkpoint."""
        save(self.out / CHECKPOINT, self.state())

    def state(self) -> dict[str, object]:
        """What the checkpoint has."""
        return {
            "module": self.unwrapped.state_dict(),
            "averaged": self.averaged.state_dict(),
            "partners": {name: part.state_dict() for name, part in self.task.auxiliary_networks().items()},
            "optimisers": {name: [o.state_dict() for o in own] for name, own in self.optimisers.items()},
            "progress": asdict(self.elapsed),
            "task": self.task.state(),
            "options": self.options,
        }

    def resume(self) -> None:
        """Continue from the checkpoint, with its optimiser and its place in the schedule."""
        state = restore(self.out / CHECKPOINT, self.task.name)
        if not self.fits(state):
            raise OptionError(
                f"The checkpoint in {self.out} is of another stage, network or version; leave out --stage "
                "and --parts, which it keeps, or choose another folder with --out."
            )
        self.unwrapped.load_state_dict(state["module"])
        self.averaged.load_state_dict(state["averaged"])
        for name, part in self.task.auxiliary_networks().items():
            part.load_state_dict(state["partners"][name])
        for name, own in self.optimisers.items():
            for optimiser, kept in zip(own, state["optimisers"][name], strict=True):
                fresh = [{**group} for group in optimiser.param_groups]
                optimiser.load_state_dict(kept)
                for group, own_options in zip(optimiser.param_groups, fresh, strict=True):
                    group |= {name: own_options[name] for name in GROUP_OPTIONS if name in own_options}
        self.elapsed = Elapsed(**state["progress"])
        self.task.load_state(state["task"])
        on_main_process(self.accelerator, lambda: drop_rows_after(self.out / LOG, self.elapsed.step))

    def remove_earlier_run(self) -> None:
        """Remove the checkpoint and the log of another run in the folder."""
        for name in (CHECKPOINT, LOG):
            (self.out / name).unlink(missing_ok=True)

    def fits(self, state: dict[str, object]) -> bool:
        """Whether a checkpoint has the networks and the parameter groups of this run."""

        def groups(optimiser: dict[str, list[dict[str, list[int]]]]) -> list[int]:
            return [len(group["params"]) for group in optimiser["param_groups"]]

        expected = {name: [groups(o.state_dict()) for o in own] for name, own in self.optimisers.items()}
        found = {name: [groups(o) for o in own] for name, own in state["optimisers"].items()}  # type: ignore[attr-defined]
        modules = state["module"].keys() == self.unwrapped.state_dict().keys()  # type: ignore[attr-defined]
        return modules and found == expected

    def export(
        self, data: Sequence[str | Path] = (), start: str | Path | None = None, **facts: object
    ) -> Path:
        """Write the averaged weights, NAME.safetensors, the record of the run, NAME.json, and its log,
        NAME.csv."""
        path = self.out / self.task.file_name

        def write() -> None:
            sources = {
                "data": [Path(source).name for source in data],
                "start": None if start is None else start_record(Path(start)),
            }
            exported = self.task.export(self.average, path)
            record = self.record() | sources | facts | exported
            path.with_suffix(".json").write_text(json.dumps(record, indent=2) + "\n", "utf-8")
            if (self.out / LOG).exists():
                path.with_suffix(".csv").write_bytes((self.out / LOG).read_bytes())

        on_main_process(self.accelerator, write)
        return path

    def record(self) -> dict[str, object]:
        """The settings of the run, its length and the machine."""
        return {
            "date": time.strftime("%Y-%m-%d"),
            "precision": self.precision.name,
            "processes": self.accelerator.num_processes,
            "batch": self.task.batch,
            **self.task.record(),
            "steps": self.elapsed.step,
            "minutes": round(self.elapsed.seconds / 60, 1),
            "machine": f"{self.accelerator.device.type}, {torch.get_num_threads()} threads, "
            f"torch {torch.__version__}",
        }


def mean_terms(rows: Iterable[Mapping[str, float]]) -> dict[str, float]:
    """The mean of each term over the steps that have it."""
    found: dict[str, list[float]] = {}
    for row in rows:
        for name, value in row.items():
            found.setdefault(name, []).append(value)
    return {name: float(np.mean(values)) for name, values in found.items()}


def open_trainer(task: TrainingTask, run: Run, precision: str | None = None) -> Trainer:
    """The trainer of a run, at its checkpoint if it is resumed.

    Args:
        precision: in place of that of the options.
    """
    trainer = Trainer(
        task,
        run.out,
        steps=run.options["steps"],
        minutes=run.options["minutes"],
        precision=precision or run.options["precision"],
        notify=run.notify,
        options=run.options,
    )
    if run.resume:
        trainer.resume()
    return trainer
