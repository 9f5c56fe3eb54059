"""The stages of a preset's training: the recipe and the objective of each."""

from collections.abc import Callable, Mapping
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import Any

from torch import nn

from trifocal.errors import OptionError
from trifocal.losses import Objective
from trifocal.preset_table import LazyCall
from trifocal.presets import Preset
from trifocal.recipes import Recipe, checked_arguments
from trifocal.utils.annotations import argument_types, json_types

__all__ = ["make_objective", "objective_arguments", "stage_objective", "stage_recipe", "with_clip"]


def stage_objective(preset: Preset, stage: int) -> Callable[..., Objective]:
    """The function that makes the objective of a training stage, 1 for the first.

    Raises:
        OptionError: if the preset has fewer stages.
    """
    stages = (preset.objective, *preset.stages)
    if not 1 <= stage <= len(stages):
        have = f"stages 1 to {len(stages)}, not {stage}" if preset.stages else "one stage; leave --stage out"
        raise OptionError(f"The preset {preset.name} has {have}.")
    return stages[stage - 1]


def stage_recipe(preset: Preset, stage: int) -> Recipe:
    """The recipe of a training stage, 1 for the first. Raises OptionError if the preset has fewer stages."""
    stage_objective(preset, stage)
    return (preset.recipe, *preset.stage_recipes)[:stage][-1]


def objective_arguments(preset: Preset, stage: int) -> dict[str, Any]:
    """The types of the arguments of a stage's objective, by name."""
    return argument_types(imported(stage_objective(preset, stage)))


def imported(make: Callable[..., Objective]) -> Callable[..., Objective]:
    """What a LazyCall calls, also within a `functools.partial`."""
    if isinstance(make, partial):
        return partial(imported(make.func), *make.args, **make.keywords)
    return make.target() if isinstance(make, LazyCall) else make


def make_objective(
    preset: Preset, stage: int, recipe: Recipe, networks: Mapping[str, nn.Module] | None = None
) -> Objective:
    """The objective of a training stage with the arguments that the recipe has for it.

    Args:
        preset, stage: whose objective is made.
        recipe: with its arguments.
        networks: in place of those that the objective would load, by argument.

    Raises:
        OptionError: if the preset has fewer stages; for an argument that the objective lacks, or one of
            another type or out of its range.
    """
    kinds = json_types(objective_arguments(preset, stage))
    arguments = checked_arguments(preset.name, recipe, kinds)
    return stage_objective(preset, stage)(**{**arguments, **(networks or {})})


def with_clip(preset: Preset, recipe: Recipe, stage: int, folder: str) -> tuple[Preset, Recipe]:
    """The preset and the recipe with the CLIP model in a folder.

    Raises:
        OptionError: if the preset uses no CLIP, or there is no such folder.
    """
    reads_text = preset.text_encoder not in ("", "compact")
    has_tower = "tower" in objective_arguments(preset, stage)
    if not reads_text and not has_tower:
        raise OptionError(f"{preset.name} uses no CLIP; leave out --clip.")
    if not Path(folder).is_dir():
        raise OptionError(f"There is no folder {folder}; --clip names the folder of a CLIP model.")
    if has_tower:
        recipe = replace(recipe, objective={**recipe.objective, "tower": folder})
    return replace(preset, text_encoder=folder) if reads_text else preset, recipe
