"""The training loop, to be read from top to bottom.

    pictures ── crops ── codec(x, level, condition) ── objective ── Adam ── averaged weights ── held-out loss ── checkpoint

An objective's losses come in turns, and each part that learns has its own optimiser: the codec, and an objective's
partners such as a discriminator.

Every picture of a batch draws its own quality, so that one model learns all rates. The run is bounded by steps or by
minutes; the learning rate follows the part of that bound which is used up, whichever machine it runs on. The branches of
residual blocks may train in bfloat16, all else trains in float32. Several processes average their gradients; each has crops,
levels and noise of its own.
"""

import json
import math
import time
from collections.abc import Generator, Sequence
from contextlib import closing
from dataclasses import asdict, replace
from functools import partial
from pathlib import Path

import numpy as np
import torch
from accelerate.utils import set_seed
from torch import Tensor, nn
from torch.optim.swa_utils import AveragedModel, get_ema_multi_avg_fn

from trifocal.codecs.codec import Codec
from trifocal.data import CropBatch, Crops, TrainingPicture, read_pictures, split
from trifocal.errors import OptionError
from trifocal.layers import branches_in
from trifocal.losses import Objective, spread_levels
from trifocal.presets import Preset, find, objective_of
from trifocal.recipes import Recipe
from trifocal.text.encoder import TextEncoder, load_text_encoder
from trifocal.training.checkpoint import (
    Progress,
    append_row,
    begin_with,
    by_one,
    check_length,
    drop_rows_after,
    record_of,
    restore,
    save,
    together,
)
from trifocal.training.lesson import Note, Report, silent
from trifocal.training.precision import choose_precision, new_accelerator
from trifocal.training.validation import calibrate, to_tensor, validate, validation_batch
from trifocal.types import Batch, Condition
from trifocal.weights import FOLDER, load_weights, write_weights

WITHOUT_WORDS = 0.1  # of the steps


def train(
    preset: str | Preset,
    data: Sequence[str | Path],
    out: str | Path,
    *,
    stage: int = 1,
    steps: int | None = None,
    minutes: float | None = None,
    batch: int | None = None,
    learning_rate: float | None = None,
    cooldown: float | None = None,
    precision: str = "auto",
    start: str | Path | None = None,
    resume: bool = False,
    every: float = 5.0,
    report: Report = silent,
    note: Note = silent,
) -> Path:
    """Trains a preset by its recipe. `in_processes` runs it in several processes.

    Args:
        preset: its name, or a Preset.
        data: folders, pictures and WebDataset shards; one picture in forty is held out.
        out: folder of the run: checkpoint.pt, log.csv, and NAME.safetensors at the end.
        stage: of a preset that is trained in several; each is a run of its own, and goes on from the weights of the last.
        steps, minutes: the run's length; one of them.
        batch, learning_rate, cooldown: instead of the recipe's. The batch is that of one process. The cooldown is the last part of
            the run, 0..1, in which the learning rate falls; 0 keeps it level, for a run that `resume` makes longer later.
        precision: of the branches of residual blocks, "auto", "bfloat16" or "float32"; see `choose_precision`.
        start: weights (.safetensors) to begin from; those that the preset shares with another, if None.
        resume: go on from the checkpoint in `out`, with its optimiser and its place in the schedule; a run whose length is used
            up already is exported without a further step.
        every: minutes between checkpoints.
        report: called after each step with the fraction done and a line of text.
        note: called with a sentence that is to stay on the screen.

    Returns:
        The exported weights.

    Raises:
        OptionError: for a run without an end, without data, or without the checkpoint that it should resume; for a stage
            that the preset has not, or a later one without weights to go on from; for a cooldown or precision that is none.
        PresetError: if there is no such preset.
        WeightsError, MissingExtra: if the preset's text tower is not on this machine.
    """
    check_length(steps, minutes)
    chosen = find(preset)
    objective = objective_of(chosen, stage)
    if stage > 1 and start is None and not resume:
        raise OptionError(
            f"Stage {stage} goes on from what stage {stage - 1} trained; name its weights with --start."
        )
    if chosen.layers and start is None and not resume:
        raise OptionError(
            f"{chosen.name} stands on a base layer that is trained before and stays as it is; name its weights with --start."
        )
    if cooldown is not None and not 0 <= cooldown <= 1:
        raise OptionError(f"The cooldown is a part of the run, from 0 to 1, not {cooldown}.")
    recipe = replace(
        chosen.recipe,
        batch=batch or chosen.recipe.batch,
        learning_rate=learning_rate or chosen.recipe.learning_rate,
        cooldown=chosen.recipe.cooldown if cooldown is None else cooldown,
    )
    set_seed(recipe.seed)
    tower = load_text_encoder(chosen.text_encoder) if chosen.text_reader else None
    run = Run(chosen.build(), objective(), recipe, Path(out), steps, minutes, tower, precision)
    start = start or (FOLDER / chosen.shared if chosen.shared else None)
    if start is not None:
        run.start_from(start)
    if resume:
        run.resume()
    for sentence in (*run.objective.notes(), run.precision.reason):
        if run.accelerator.is_main_process:
            note(sentence)
    pictures = read_pictures(data, recipe.crop, lambda key: report(0.0, f"reading {key}"))
    training, held_out = split(pictures)
    run.go(training, held_out, every, report)
    begun: dict[str, object] = {
        "data": [Path(source).name for source in data],
        "start": None if start is None else record_of(Path(start)),
    }
    path = run.out / f"{chosen.name}.safetensors"
    by_one(
        run.accelerator,
        lambda: run.export(path, chosen, training, validation_batch(held_out, recipe.crop), begun),
    )
    return path


class Run:
    """One training run: model, averaged model, objective, optimisers and how far they are."""

    def __init__(
        self,
        codec: Codec,
        objective: Objective,
        recipe: Recipe,
        out: Path,
        steps: int | None,
        minutes: float | None,
        tower: TextEncoder | None = None,
        precision: str = "float32",
    ) -> None:
        self.accelerator = new_accelerator(unused=tower is not None or bool(objective.partners()))
        self.precision = choose_precision(precision, self.accelerator.device, "Residual blocks")
        self.recipe = recipe
        self.tower = tower
        self.out = out
        self.steps = steps
        self.minutes = minutes
        self.progress = Progress()
        out.mkdir(parents=True, exist_ok=True)
        self.objective = objective.to(self.accelerator.device)
        self.parts: dict[str, nn.Module] = {"codec": codec, **objective.partners()}
        self.optimisers = {}
        for name, part in self.parts.items():
            optimiser = torch.optim.Adam(groups(part, recipe), betas=recipe.betas, fused=True)
            if name == "codec":
                self.parts[name], self.optimisers[name] = self.accelerator.prepare(part, optimiser)
            else:
                self.optimisers[name] = self.accelerator.prepare(optimiser)
        self.averaged = AveragedModel(
            self.bare, multi_avg_fn=get_ema_multi_avg_fn(recipe.ema), use_buffers=False
        )

    @property
    def bare(self) -> Codec:
        """The codec without what accelerate wraps around it."""
        codec: Codec = self.accelerator.unwrap_model(self.parts["codec"])
        return codec

    @property
    def average(self) -> Codec:
        """The averaged weights, as a codec."""
        codec = self.averaged.module
        assert isinstance(codec, Codec)
        return codec

    def go(
        self, training: list[TrainingPicture], held_out: list[TrainingPicture], every: float, report: Report
    ) -> None:
        """Steps until the run's length is reached; validates and saves every few minutes and at the end."""
        validation = validation_batch(held_out, self.recipe.crop)
        saved = self.progress.seconds
        losses: list[float] = []
        with closing(self.train(training)) as steps:
            for loss in steps:
                losses.append(loss)
                recent = float(np.mean(losses[-100:]))
                report(self.fraction, f"step {self.progress.step}  loss {recent:.3f}")
                if self.progress.seconds - saved > 60 * every or self.fraction >= 1:
                    by_one(self.accelerator, partial(self.checkpoint, validation, recent))
                    saved = self.progress.seconds

    def train(self, training: list[TrainingPicture]) -> Generator[float, None, None]:
        """Trains until the run's length is reached, and yields the codec's loss after each step."""
        seed = self.recipe.seed + 1000 * self.progress.step + self.accelerator.process_index
        torch.manual_seed(seed)  # levels and noise, other ones in each process
        self.parts["codec"].train()
        crops = Crops(training, self.recipe.batch, self.recipe.crop, seed)
        with crops, branches_in(self.precision.lower, self.bare):
            while self.fraction < 1:
                began = time.monotonic()
                loss = self.step(crops.next())
                self.progress.step += 1
                self.progress.seconds += together(self.accelerator, time.monotonic() - began)
                yield loss

    @property
    def fraction(self) -> float:
        """The part of the run that is done, 0..1."""
        return min(1.0, self.progress.fraction(self.steps, self.minutes))

    def step(self, crops: CropBatch) -> float:
        """Each part's optimiser step, and the codec's loss."""
        rate = self.recipe.learning_rate * schedule(self.progress.step, self.fraction, self.recipe)
        x = to_tensor(crops.rgb).to(self.accelerator.device)
        batch = Batch(x, spread_levels(len(x), x.device), self.condition(crops.texts))
        codec_loss = math.nan
        for part, loss in self.objective.turns(self.parts["codec"], batch, self.progress.step):
            self.learn(part, loss, rate)
            if part == "codec":
                codec_loss = loss.item()
        self.averaged.update_parameters(self.bare)
        return codec_loss

    def condition(self, texts: Sequence[str]) -> Condition | None:
        """The words of a step; now and then none, for a preset that reads words must do without too."""
        if self.tower is None or float(torch.rand(())) < WITHOUT_WORDS:
            return None
        return Condition(self.tower(texts)).to(self.accelerator.device)

    def learn(self, part: str, loss: Tensor, rate: float) -> None:
        """One optimiser step of a part; one without a finite gradient is left out."""
        optimiser = self.optimisers[part]
        for group in optimiser.param_groups:
            group["lr"] = rate * group["factor"]
        optimiser.zero_grad()
        self.accelerator.backward(loss)
        if part != "codec":
            self.share_gradients(part)
        norm = self.accelerator.clip_grad_norm_(self.parts[part].parameters(), self.recipe.clip)
        if norm is not None and math.isfinite(float(norm)):
            optimiser.step()

    def share_gradients(self, part: str) -> None:
        """The mean of a partner's gradients over all processes; the codec's wrapper has done it for the codec.

        A partner has no wrapper, since the objective calls it several times, and for two parts, between its steps.
        """
        for parameter in self.parts[part].parameters():
            if parameter.grad is not None:
                parameter.grad = self.accelerator.reduce(parameter.grad, "mean")

    def checkpoint(self, validation: Tensor, loss: float) -> None:
        """Validates the averaged weights, writes a log row and the checkpoint; in one process."""
        row = {
            "step": self.progress.step,
            "minutes": round(self.progress.seconds / 60, 2),
            "loss": round(loss, 4),
        }
        append_row(self.out / "log.csv", row | validate(self.average, validation, self.objective))
        state = {
            "codec": self.bare.state_dict(),
            "averaged": self.averaged.state_dict(),
            "partners": {name: part.state_dict() for name, part in self.objective.partners().items()},
            "optimisers": {name: optimiser.state_dict() for name, optimiser in self.optimisers.items()},
            "progress": asdict(self.progress),
        }
        save(self.out / "checkpoint.pt", state)

    def resume(self) -> None:
        """Goes on where `checkpoint` left off."""
        state = restore(self.out / "checkpoint.pt")
        if state["partners"].keys() != self.objective.partners().keys():
            raise OptionError(
                f"The checkpoint in {self.out} is of another stage; say which with --stage, or take another folder."
            )
        self.bare.load_state_dict(state["codec"])
        self.averaged.load_state_dict(state["averaged"])
        for name, part in self.objective.partners().items():
            part.load_state_dict(state["partners"][name])
        for name, optimiser in self.optimisers.items():
            optimiser.load_state_dict(state["optimisers"][name])
        self.progress = Progress(**state["progress"])
        by_one(self.accelerator, lambda: drop_rows_after(self.out / "log.csv", self.progress.step))

    def start_from(self, weights: str | Path) -> None:
        """Begins with trained weights and a fresh optimiser; parts that they do not have begin untrained."""
        begin_with(self.bare, weights)
        self.average.load_state_dict(self.bare.state_dict())

    def export(
        self,
        path: Path,
        preset: Preset,
        training: list[TrainingPicture],
        validation: Tensor,
        begun: dict[str, object],
    ) -> None:
        """Calibrates the tables where what they count has learned, then writes what ships: NAME.safetensors (float16), and
        NAME.json and NAME.csv beside it."""
        before = validate(self.average, validation, self.objective)
        if any(parameter.requires_grad for parameter in self.average.entropy.parameters()):
            calibrate(self.average, training, self.recipe)
        write_weights(self.average, path, preset.shared)
        load_weights(self.average, path.absolute(), preset.shared)
        record = {
            "preset": preset.name,
            "date": time.strftime("%Y-%m-%d"),
            "recipe": asdict(self.recipe),
            "precision": self.precision.name,
            "processes": self.accelerator.num_processes,
            **self.objective.description(),
            "steps": self.progress.step,
            "minutes": round(self.progress.seconds / 60, 1),
            "parameters": sum(p.numel() for p in self.average.parameters()),
            **begun,
            "pictures": len(training),
            "machine": f"{self.accelerator.device.type}, {torch.get_num_threads()} threads, torch {torch.__version__}",
            "held_out_before_calibration": before["held_out"],
            "held_out": validate(self.average, validation, self.objective),
        }
        path.with_suffix(".json").write_text(json.dumps(record, indent=2) + "\n")
        path.with_suffix(".csv").write_bytes((self.out / "log.csv").read_bytes())


def groups(part: nn.Module, recipe: Recipe) -> list[dict[str, object]]:
    """Parameters by their learning-rate factor; each goes to the first group whose key is part of its name. Those with
    a factor of 0 stay as they are, and no gradient is computed for them."""
    factors = {**recipe.factors, "": 1.0}
    parts: dict[str, list[nn.Parameter]] = {key: [] for key in factors}
    for name, parameter in part.named_parameters():
        key = next(key for key in factors if key in name)
        parameter.requires_grad_(factors[key] > 0)
        parts[key].append(parameter)
    return [
        {"params": parts[key], "factor": factor}
        for key, factor in factors.items()
        if parts[key] and factor > 0
    ]


def schedule(step: int, fraction: float, recipe: Recipe) -> float:
    """Warm-up, a plateau, then a straight line down to a fiftieth; of the height, 0..1."""
    rising = min(1.0, (step + 1) / recipe.warmup)
    falling = max(0.02, min(1.0, (1 - fraction) / recipe.cooldown)) if recipe.cooldown else 1.0
    return rising * falling
