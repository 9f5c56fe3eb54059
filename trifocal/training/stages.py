"""The stages of a preset's training: the recipe and the objective of each."""

from collections.abc import Callable
from dataclasses import fields, replace
from inspect import Parameter, signature
from pathlib import Path

from trifocal.errors import OptionError
from trifocal.losses import Objective
from trifocal.preset_table import LazyCall
from trifocal.presets import Preset
from trifocal.recipes import Recipe, check_like

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


def objective_arguments(preset: Preset, stage: int) -> tuple[str, ...]:
    """The names of the arguments of a stage's objective, as far as they are known before it is made."""
    make = stage_objective(preset, stage)
    return tuple(signature(make.target() if isinstance(make, LazyCall) else make).parameters)


def default_arguments(make: Callable[..., Objective]) -> dict[str, Parameter]:
    """The arguments of an objective by name, with those that a class passes on to its parents."""
    target = make.target() if isinstance(make, LazyCall) else make
    kinds = reversed(target.__mro__) if isinstance(target, type) else [target]
    return {name: own for kind in kinds for name, own in signature(kind).parameters.items()}


def make_objective(preset: Preset, stage: int, recipe: Recipe) -> Objective:
    """The objective of a training stage with the arguments that the recipe has for it.

    Raises:
        OptionError: if the preset has fewer stages, for an argument of another type than its default, or if
            the objective has no such argument; the message lists those that there are.
    """
    make = stage_objective(preset, stage)
    for name, parameter in default_arguments(make).items():
        if name in recipe.objective:
            check_like(name, recipe.objective[name], parameter.default)
    try:
        return make(**recipe.objective)
    except TypeError as error:
        if "unexpected keyword argument" not in str(error):
            raise
        own = [known.name for known in fields(recipe)]
        names = [name for name in signature(type(make())).parameters if name != "discriminator"]
        unknown = next((name for name in recipe.objective if name not in names), "")
        raise OptionError(
            f"{preset.name} has no field {unknown!r}; its recipe has {', '.join(own)}, and its objective "
            f"{', '.join(names) or 'none'}."
        ) from None


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
