"""Train the codec of a preset by its recipe.

    crops, quality levels, condition ── network ── objective ── its losses, in turn ── one Adam for each part

Every crop of a batch has its own quality level, so one network learns all rates, unless the recipe names one.
"""

from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import AbstractContextManager, suppress
from dataclasses import asdict
from pathlib import Path
from typing import Any, Unpack

import torch
from accelerate.utils import set_seed
from torch import Tensor, nn
from torch.optim import Optimizer

from trifocal.codecs.base_layer import ScalableNetwork
from trifocal.codecs.network import CodecNetwork
from trifocal.data import CropBatch, CropRules, Crops, TrainingPicture
from trifocal.data.coco import CAPTIONS, INSTANCES, where_to_put
from trifocal.errors import OptionError, WeightsError
from trifocal.layers import branches_in
from trifocal.losses import Objective, spread_levels
from trifocal.presets import Preset, find
from trifocal.recipes import Recipe, with_fields
from trifocal.text.encoder import load_text_encoder
from trifocal.training.batches import RunData, read_run_data
from trifocal.training.checkpoint import load_start
from trifocal.training.components import check_components_recipe, partial_crops, validate_partial
from trifocal.training.optimisers import adam, plateau_schedule, step_decay, train_only
from trifocal.training.run import RunOptions, open_run
from trifocal.training.stages import make_objective, stage_recipe, with_clip
from trifocal.training.task import BatchSource, Notify, Report, TrainingTask, Update, silent
from trifocal.training.trainer import open_trainer
from trifocal.training.validation import HeldOut, calibrate, held_out_crops, to_tensor, validate
from trifocal.types import LEVELS_PER_QUALITY, Batch, Condition
from trifocal.weights import (
    WEIGHTS_FOLDER,
    DecodableFingerprints,
    decodable,
    load_weights,
    network_dead_zones,
    set_dead_zones,
    write_weights,
)

__all__ = ["CodecTask", "train"]


class CodecTask(TrainingTask):
    """The network of a codec, with the auxiliary networks of its objective.

    Args:
        preset: what is built.
        stage: of the preset's training, from 1.
        recipe: in place of that of the stage.
        parts: see `train_only`; empty for all.
        objective: makes another objective than that of the stage.

    Raises:
        OptionError: if the preset has no such stage or part, or its objective no such argument.
        WeightsError, MissingExtra: if the preset's text encoder is not on this machine.
    """

    name = "codec"
    bfloat16_operations = "Residual blocks"

    def __init__(
        self,
        preset: Preset,
        stage: int = 1,
        recipe: Recipe | None = None,
        parts: Sequence[str] = (),
        objective: Callable[[], Objective] | None = None,
    ) -> None:
        self.preset, self.recipe, self.parts = preset, recipe or stage_recipe(preset, stage), tuple(parts)
        check_components_recipe(preset, self.recipe)
        self.stage = stage
        self.objective = objective() if objective else make_objective(preset, stage, self.recipe)
        self.text_encoder = load_text_encoder(preset.text_encoder) if preset.text_used_by else None
        self.network: CodecNetwork = preset.build().network
        self.network.entropy.dead_zone = self.recipe.dead_zone
        self.module: nn.Module = self.network
        if isinstance(self.network, ScalableNetwork):
            self.network.random_base_quality = self.recipe.random_base_quality
        self.file_name = f"{preset.name}.safetensors"
        self.seed, self.learning_rate = self.recipe.seed, self.recipe.learning_rate
        self.ema, self.clip, self.batch = self.recipe.ema, self.recipe.clip, self.recipe.batch
        self.unused_parameters = self.text_encoder is not None or bool(self.objective.auxiliary_networks())
        self.decodable_fingerprints: DecodableFingerprints = {}
        self.training_images: list[TrainingPicture] = []
        self.has_boxes = False
        self.held_out = HeldOut(torch.zeros(0), ())
        self.read_facts: dict[str, object] = {}
        if parts:
            train_only(self.module, parts)

    def start_from(self, weights: str | Path | None) -> None:
        """Load weights (.safetensors); parts that they lack keep their initial values, or those of the
        preset's shared file."""
        assert isinstance(self.module, CodecNetwork)
        self.module.begin_training()
        shared = WEIGHTS_FOLDER / self.preset.shared_weights if self.preset.shared_weights else None
        for path in (shared, weights):
            if path is not None:
                load_start(self.module, path)  # with the dead zone of a base layer
        self.network.entropy.dead_zone = self.recipe.dead_zone
        if weights is not None:
            with suppress(WeightsError):  # weights of parts only: they wrote no files of this preset
                self.decodable_fingerprints = decodable(
                    self.module, Path(weights), self.module.arithmetics, self.preset.shared_weights
                )

    @property
    def level(self) -> int | None:
        """The quality level of a single-rate model, 0..800; None for all rates."""
        quality = self.recipe.quality
        return None if quality is None else round(quality * LEVELS_PER_QUALITY)

    def read(self, data: Sequence[str | Path], report: Report, notify: Notify = silent) -> None:
        """Read the images for training and validation. Raises OptionError if the preset takes text, and no
        image has any that the recipe uses."""
        found = read_run_data(data, report, notify, self.recipe.crop, self.recipe.held_out)
        if self.text_encoder is not None:
            check_texts(self.preset, self.recipe, found)
        self.read_facts = found.record
        self.set_images(found.training, found.held_out)

    def set_images(self, training: list[TrainingPicture], held_out: list[TrainingPicture]) -> None:
        """Train on these images and validate on those."""
        self.training_images, self.held_out = training, held_out_crops(held_out, self.recipe)
        self.has_boxes = any(len(picture.boxes) for picture in training)

    def auxiliary_networks(self) -> dict[str, nn.Module]:
        return self.objective.auxiliary_networks()

    def to(self, device: torch.device) -> None:
        super().to(device)
        self.objective.to(device)
        if self.text_encoder is not None:
            self.text_encoder = load_text_encoder(self.preset.text_encoder, str(device))

    def optimisers(self) -> dict[str, list[Optimizer]]:
        networks = {self.name: self.module, **self.auxiliary_networks()}
        return {name: [adam(network, self.recipe)] for name, network in networks.items()}

    def schedule(self, step: int, fraction: float) -> float:
        rate = plateau_schedule(step, fraction, self.recipe.warmup, self.recipe.cooldown)
        return rate * step_decay(fraction, self.recipe.decay)

    def autocast(
        self, module: nn.Module, device: torch.device, dtype: torch.dtype | None
    ) -> AbstractContextManager[object]:
        """Only the branches of residual blocks; all else is float32."""
        return branches_in(dtype, module)

    def batches(self, seed: int, first: int) -> BatchSource:
        rules = CropRules(self.recipe.text, self.recipe.mirrored, self.recipe.sampling)
        return Crops(self.training_images, self.process_batch, self.recipe.crop, seed, rules, first)

    def levels(self, count: int) -> Tensor:
        """Random quality levels, or that of a single-rate model, [count]."""
        if self.level is None:
            return spread_levels(count, self.device, self.recipe.level_power)
        return torch.full((count,), self.level, device=self.device)

    def losses(self, module: nn.Module, batch: CropBatch, step: int, fraction: float) -> Iterator[Update]:
        """The losses of the objective, for crops with random quality levels and the condition from their
        texts; the terms of the objective, and the share of crops with each kind of text."""
        x = to_tensor(batch.rgb).to(self.device)
        boxes = tuple(torch.from_numpy(own).to(self.device) for own in batch.boxes)
        levels, condition = self.levels(len(x)), self.condition(batch.texts)
        partial = partial_crops(batch.boxes, self.recipe.crop, self.recipe.missing_components)
        inputs = Batch(x, levels, condition, boxes if self.has_boxes else None, partial)
        self.objective.terms.clear()
        shares: dict[str, Tensor] = {}
        if self.text_encoder is not None:
            used = batch.kinds if condition is not None else ()
            shares = {
                f"text_{kind}": torch.tensor(used.count(kind) / len(x)) for kind in ("caption", "names")
            }
        for part, loss in self.objective.losses(module, inputs, step):
            own = {"loss": loss.detach()} if part == self.name else {}
            yield Update(part, loss, own | self.objective.terms | shares)

    def condition(self, texts: Sequence[str]) -> Condition | None:
        """The text embeddings of a batch; now and then none, since the preset must work without text too."""
        if self.text_encoder is None or self.recipe.text == "none":
            return None
        if float(torch.rand(())) < self.recipe.wordless:
            return None
        return Condition(self.text_encoder(texts)).to(self.device)

    def validate(self, average: nn.Module) -> dict[str, float]:
        assert isinstance(average, CodecNetwork)
        set_dead_zones(average, network_dead_zones(self.network))  # which a resumed run knows late
        texts = None
        if self.text_encoder is not None and any(self.held_out.texts):
            with torch.no_grad():
                texts = Condition(self.text_encoder(self.held_out.texts)).to(self.device)
        boxes = self.held_out.boxes if self.has_boxes else None
        row = validate(average, self.held_out.x, self.objective, texts, self.level, boxes)
        if self.recipe.missing_components:
            row |= validate_partial(average, self.held_out, self.level)
        return row

    def export(self, average: nn.Module, path: Path) -> dict[str, object]:
        """Calibrate the frequency tables if the entropy model was trained, then write the weights."""
        assert isinstance(average, CodecNetwork)
        before = self.validate(average)
        trained = [name for name, parameter in average.named_parameters() if parameter.requires_grad]
        if any(name.startswith("entropy.") for name in trained):
            calibrate(average, self.training_images, self.recipe, self.level)
        decoder_only = all(name.startswith("synthesis.") for name in trained)
        decodable_fingerprints = self.decodable_fingerprints if decoder_only else None
        write_weights(average, path, self.preset.shared_weights, decodable_fingerprints, self.level)
        load_weights(average, path.absolute(), self.preset.shared_weights)
        return {
            "parameters": sum(p.numel() for p in average.parameters()),
            "pictures": len(self.training_images),
            "held_out_before_calibration": before["held_out"],
            "held_out": self.validate(average),
        }

    def record(self) -> dict[str, object]:
        settings: dict[str, object] = {"preset": self.preset.name, "stage": self.stage}
        settings |= {"recipe": asdict(self.recipe), **self.read_facts}
        if self.recipe.quality is not None:
            settings |= {"quality": self.recipe.quality, "level": self.level}
        assert isinstance(self.module, CodecNetwork)
        settings |= {"parts": self.parts} if self.parts else {}
        return settings | self.objective.description() | self.module.description()

    def notices(self) -> list[str]:
        return self.objective.notices()

    def state(self) -> dict[str, Any]:
        decodes = {kind: sorted(values) for kind, values in self.decodable_fingerprints.items()}
        return {"decodes": decodes, "dead_zones": network_dead_zones(self.network)}

    def load_state(self, state: Mapping[str, Any]) -> None:
        self.decodable_fingerprints = {
            str(kind): frozenset(values) for kind, values in state.get("decodes", {}).items()
        }
        set_dead_zones(self.network, state.get("dead_zones", {}))
        self.network.entropy.dead_zone = self.recipe.dead_zone


def train(
    preset: str | Preset,
    data: Sequence[str | Path],
    out: str | Path,
    *,
    stage: int | None = None,
    learning_rate: float | None = None,
    cooldown: float | None = None,
    fields: Mapping[str, object] | None = None,
    parts: Sequence[str] = (),
    clip: str | Path | None = None,
    **common: Unpack[RunOptions],
) -> Path:
    """Train a preset by its recipe. `in_processes` runs this in several processes.

    Args:
        preset: a preset or its name. Several processes need a name, or a preset that can be pickled.
        data: folders, image files and WebDataset shards; one image in forty is held out.
        out: folder of the run: checkpoint.pt, log.csv, and PRESET.safetensors, .json and .csv at the end.
        stage: of a preset that is trained in stages, 1 by default; each is a run of its own, which starts
            from the weights of the last.
        learning_rate, cooldown: the same as in `fields`.
        fields: values in place of the recipe's, by name, and arguments of the objective; see
            `recipes.Recipe` and `recipes.with_fields`. `batch` is the total of all processes. `cooldown` is
            the last part of the run, 0..1, in which the learning rate falls; 0 keeps it level, for a run that
            is resumed and made longer later. `quality` trains a single rate.
        parts: train only these: "encoder", "decoder", "entropy", or another submodule of the network; empty
            for all. If only the decoder is trained, files of the start weights can be decoded with the
            exported weights.
        clip: a folder with the CLIP model of a preset that takes text by CLIP, and of its objective, in place
            of the download.
        common: see `RunOptions`. `batch` is the same as in `fields`; without `start` a run starts from the
            weights that the preset shares with another, if any; `precision` is that of the branches of
            residual blocks.

    Returns:
        The exported weights.

    Raises:
        OptionError: for a run without a length, data, or a checkpoint to resume, or with one that it would
            replace; for a stage, part, field or precision that does not exist, or a value out of range; for a
            later stage, or a preset with a base layer, without weights to start from; for data without texts
            for a preset that takes them.
        TrainingError: if the run was stopped, after its checkpoint was saved; or if the loss diverged.
        PresetError: if there is no such preset.
        WeightsError, MissingExtra: if the preset's text encoder is not on this machine.
        OSError: if the disk is full.
    """
    chosen = find(preset)
    more = {"batch": common.pop("batch", None), "learning_rate": learning_rate, "cooldown": cooldown}
    own = {
        "stage": stage,
        "fields": {**(fields or {}), **{name: value for name, value in more.items() if value is not None}},
        "parts": list(parts),
        "clip": clip,
    }
    run = open_run(chosen.name, data, out, common, own, {"stage": 1, "fields": {}, "parts": []})
    options, start, stage = run.options, run.options["start"], int(run.options["stage"])
    recipe = with_fields(stage_recipe(chosen, stage), options["fields"])
    if options["clip"] is not None:
        chosen, recipe = with_clip(chosen, recipe, stage, options["clip"])
    check_start(chosen, stage, start is not None or run.resume)
    set_seed(recipe.seed)
    task = CodecTask(chosen, stage, recipe, options["parts"])
    task.start_from(None if run.resume else start)
    trainer = open_trainer(task, run)
    task.read(options["data"], run.report, run.notify)
    trainer.fit(options["every"], run.report)
    return trainer.export(
        options["data"], start or (WEIGHTS_FOLDER / chosen.shared_weights if chosen.shared_weights else None)
    )


def check_texts(preset: Preset, recipe: Recipe, found: RunData) -> None:
    """Raise OptionError if the recipe asks for texts, and no image has any."""
    usable = {"captions": found.captioned, "names": found.boxed, "visible": found.captioned + found.boxed}
    if recipe.text == "none" or usable[recipe.text]:
        return
    kind = {"captions": "captions", "names": "boxes", "visible": "captions or boxes"}[recipe.text]
    remedy = where_to_put(INSTANCES if recipe.text == "names" else CAPTIONS, found.places[0])
    raise OptionError(
        f"{preset.name} trains on text, and no image of {', '.join(map(str, found.places))} has {kind}; "
        f"{remedy}, or train without text by --set text=none."
    )


def check_start(preset: Preset, stage: int, given: bool) -> None:
    """Raise OptionError if a run needs weights to start from, and there are none."""
    if given:
        return
    if stage > 1:
        raise OptionError(
            f"Stage {stage} starts from the weights of stage {stage - 1}; pass them with --start."
        )
    if preset.has_base_layer:
        raise OptionError(
            f"{preset.name} needs a pretrained, frozen base layer; pass its weights with --start."
        )
