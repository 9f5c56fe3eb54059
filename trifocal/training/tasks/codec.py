"""Train the codec of a preset by its recipe.

    crops, quality levels, condition ── network ── objective ── its losses, in turn ── one Adam for each part

Every crop of a batch has its own quality level, so one network learns all rates.
"""

from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import AbstractContextManager, suppress
from dataclasses import asdict, replace
from pathlib import Path
from typing import Any

import torch
from accelerate.utils import set_seed
from torch import nn
from torch.optim import Optimizer

from trifocal.codecs.network import CodecNetwork
from trifocal.data import CropBatch, Crops, TrainingPicture, read_pictures, split
from trifocal.entropy.integer_arithmetic import ARITHMETIC
from trifocal.errors import OptionError, WeightsError
from trifocal.layers import branches_in
from trifocal.losses import Objective, spread_levels
from trifocal.presets import Preset, find, objective_of
from trifocal.recipes import Recipe
from trifocal.text.encoder import load_text_encoder
from trifocal.training.checkpoint import check_length, load_start
from trifocal.training.optimisers import adam, plateau_schedule
from trifocal.training.task import BatchSource, Note, Report, TrainingTask, Turn, silent
from trifocal.training.trainer import Trainer
from trifocal.training.validation import calibrate, to_tensor, validate, validation_batch
from trifocal.types import Batch, Condition
from trifocal.weights import FOLDER, Decodes, decodable, load_weights, write_weights

__all__ = ["CodecTask", "train"]

NO_TEXT = 0.1  # of the steps of a preset that takes text
PARTS = {"encoder": "analysis", "decoder": "synthesis"}


class CodecTask(TrainingTask):
    """The network of a codec, with the partners of its objective.

    Args:
        preset: what is built.
        stage: of the preset's training, from 1.
        recipe: in place of the preset's.
        parts: see `train_only`; empty for all.
        objective: makes another objective than that of the stage.

    Raises:
        OptionError: if the preset has no such stage or part.
        WeightsError, MissingExtra: if the preset's text encoder is not on this machine.
    """

    name = "codec"
    reduced = "Residual blocks"

    def __init__(
        self,
        preset: Preset,
        stage: int = 1,
        recipe: Recipe | None = None,
        parts: Sequence[str] = (),
        objective: Callable[[], Objective] | None = None,
    ) -> None:
        objective = objective or objective_of(preset, stage)
        self.preset, self.recipe, self.parts = preset, recipe or preset.recipe, tuple(parts)
        self.text_encoder = load_text_encoder(preset.text_encoder) if preset.text_reader else None
        self.module: nn.Module = preset.build().network
        self.objective = objective()
        self.file_name = f"{preset.name}.safetensors"
        self.seed, self.learning_rate = self.recipe.seed, self.recipe.learning_rate
        self.ema, self.clip = self.recipe.ema, self.recipe.clip
        self.unused_parameters = self.text_encoder is not None or bool(self.objective.partners())
        self.decodes: Decodes = {}
        self.training: list[TrainingPicture] = []
        self.crops = torch.zeros(0)
        if parts:
            train_only(self.module, parts)

    def start_from(self, weights: str | Path | None) -> None:
        """Load weights (.safetensors); parts that they lack keep their initial values, or those of the
        preset's shared file."""
        shared = FOLDER / self.preset.shared if self.preset.shared else None
        for path in (shared, weights):
            if path is not None:
                load_start(self.module, path)
        if weights is not None:
            with suppress(WeightsError):  # weights of parts only: they wrote no files of this preset
                self.decodes = decodable(self.module, Path(weights), ARITHMETIC, self.preset.shared)

    def read(self, data: Sequence[str | Path], report: Report) -> None:
        """Read the images for training and validation."""
        pictures = read_pictures(data, self.recipe.crop, lambda key: report(0.0, f"reading {key}"))
        self.use(*split(pictures))

    def use(self, training: list[TrainingPicture], held_out: list[TrainingPicture]) -> None:
        """Train on these images and validate on those."""
        self.training, self.crops = training, validation_batch(held_out, self.recipe.crop)

    def partners(self) -> dict[str, nn.Module]:
        return self.objective.partners()

    def to(self, device: torch.device) -> None:
        super().to(device)
        self.objective.to(device)

    def optimisers(self) -> dict[str, list[Optimizer]]:
        networks = {self.name: self.module, **self.partners()}
        return {name: [adam(network, self.recipe)] for name, network in networks.items()}

    def schedule(self, step: int, fraction: float) -> float:
        return plateau_schedule(step, fraction, self.recipe.warmup, self.recipe.cooldown)

    def autocast(
        self, module: nn.Module, device: torch.device, dtype: torch.dtype | None
    ) -> AbstractContextManager[object]:
        """Only the branches of residual blocks; all else is float32."""
        return branches_in(dtype, module)

    def batches(self, seed: int) -> BatchSource:
        return Crops(self.training, self.recipe.batch, self.recipe.crop, seed)

    def losses(self, module: nn.Module, batch: CropBatch, step: int, fraction: float) -> Iterator[Turn]:
        """The losses of the objective, for crops with random quality levels and the condition from their
        texts."""
        x = to_tensor(batch.rgb).to(self.device)
        inputs = Batch(x, spread_levels(len(x), x.device), self.condition(batch.texts))
        for part, loss in self.objective.turns(module, inputs, step):
            yield Turn(part, loss, {"loss": loss.detach()} if part == self.name else {})

    def condition(self, texts: Sequence[str]) -> Condition | None:
        """The text embeddings of a batch; now and then none, since the preset must work without text too."""
        if self.text_encoder is None or float(torch.rand(())) < NO_TEXT:
            return None
        return Condition(self.text_encoder(texts)).to(self.device)

    def validate(self, average: nn.Module) -> dict[str, float]:
        assert isinstance(average, CodecNetwork)
        return validate(average, self.crops, self.objective)

    def export(self, average: nn.Module, path: Path) -> dict[str, object]:
        """Calibrate the frequency tables if the entropy model was trained, then write the weights."""
        assert isinstance(average, CodecNetwork)
        before = validate(average, self.crops, self.objective)
        trained = [name for name, parameter in average.named_parameters() if parameter.requires_grad]
        if any(name.startswith("entropy.") for name in trained):
            calibrate(average, self.training, self.recipe)
        decoder_only = all(name.startswith("synthesis.") for name in trained)
        write_weights(average, path, self.preset.shared, self.decodes if decoder_only else None)
        load_weights(average, path.absolute(), self.preset.shared)
        return {
            "parameters": sum(p.numel() for p in average.parameters()),
            "pictures": len(self.training),
            "held_out_before_calibration": before["held_out"],
            "held_out": validate(average, self.crops, self.objective),
        }

    def record(self) -> dict[str, object]:
        settings = {"preset": self.preset.name, "recipe": asdict(self.recipe)}
        return settings | ({"parts": self.parts} if self.parts else {}) | self.objective.description()

    def notes(self) -> list[str]:
        return self.objective.notes()

    def state(self) -> dict[str, Any]:
        return {"decodes": {version: sorted(marks) for version, marks in self.decodes.items()}}

    def load_state(self, state: Mapping[str, Any]) -> None:
        self.decodes = {version: frozenset(marks) for version, marks in state.get("decodes", {}).items()}


def train_only(network: nn.Module, parts: Sequence[str]) -> None:
    """Freeze all but some parts of a network.

    Args:
        parts: "encoder", "decoder", or names of the network's submodules, such as "entropy".

    Raises:
        OptionError: for a part that the network lacks.
    """
    children = [name for name, child in network.named_children() if any(True for _ in child.parameters())]
    chosen = {PARTS.get(part, part) for part in parts}
    if unknown := sorted(chosen - {*children}):
        names = {name: part for part, name in PARTS.items()}
        have = ", ".join(names.get(name, name) for name in children)
        raise OptionError(f"The network has no part {unknown[0]!r}; choose from {have}.")
    for name, parameter in network.named_parameters():
        parameter.requires_grad_(parameter.requires_grad and name.partition(".")[0] in chosen)


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
    parts: Sequence[str] = (),
    precision: str = "auto",
    start: str | Path | None = None,
    resume: bool = False,
    every: float = 5.0,
    report: Report = silent,
    note: Note = silent,
) -> Path:
    """Train a preset by its recipe. `in_processes` runs this in several processes.

    Args:
        preset: a preset or its name. Several processes need a name, or a preset that can be pickled.
        data: folders, image files and WebDataset shards; one image in forty is held out.
        out: folder of the run: checkpoint.pt, log.csv, and PRESET.safetensors, .json and .csv at the end.
        stage: of a preset that is trained in stages; each is a run of its own, which starts from the weights
            of the last.
        steps, minutes: length of the run; one of them.
        batch, learning_rate, cooldown: replace the recipe's. The batch is that of one process. The cooldown
            is the last part of the run, 0..1, in which the learning rate falls; 0 keeps it level, for a run
            that is resumed and made longer later.
        parts: train only these: "encoder", "decoder", "entropy", or another submodule of the network; empty
            for all. If only the decoder is trained, files of the start weights can be decoded with the
            exported weights.
        precision: of the branches of residual blocks, "auto", "bfloat16" or "float32"; see
            `choose_precision`.
        start: weights (.safetensors) to start from; None starts from those that the preset shares with
            another, if any.
        resume: continue from the checkpoint in `out`. A run whose length is used up already is exported
            without a further step.
        every: minutes between checkpoints.
        report: called after each step with the fraction done and a line of text.
        note: called with each notice.

    Returns:
        The exported weights.

    Raises:
        OptionError: for a run without a length, data, or a checkpoint to resume; for a stage, part, cooldown
            or precision that does not exist; for a later stage, or a preset with a base layer, without
            weights to start from.
        PresetError: if there is no such preset.
        WeightsError, MissingExtra: if the preset's text encoder is not on this machine.
    """
    check_length(steps, minutes)
    chosen = find(preset)
    objective_of(chosen, stage)
    check_start(chosen, stage, start is not None or resume)
    if cooldown is not None and not 0 <= cooldown <= 1:
        raise OptionError(f"The cooldown is a part of the run, from 0 to 1, not {cooldown}.")
    recipe = replace(
        chosen.recipe,
        batch=batch or chosen.recipe.batch,
        learning_rate=learning_rate or chosen.recipe.learning_rate,
        cooldown=chosen.recipe.cooldown if cooldown is None else cooldown,
    )
    set_seed(recipe.seed)
    task = CodecTask(chosen, stage, recipe, parts)
    task.start_from(start)
    trainer = Trainer(task, out, steps=steps, minutes=minutes, precision=precision, note=note)
    if resume:
        trainer.resume()
    task.read(data, report)
    trainer.fit(every, report)
    return trainer.export(data, start or (FOLDER / chosen.shared if chosen.shared else None))


def check_start(preset: Preset, stage: int, given: bool) -> None:
    """Raise OptionError if a run needs weights to start from, and there are none."""
    if given:
        return
    if stage > 1:
        raise OptionError(
            f"Stage {stage} starts from the weights of stage {stage - 1}; pass them with --start."
        )
    if preset.layers:
        raise OptionError(
            f"{preset.name} needs a pretrained, frozen base layer; pass its weights with --start."
        )
