"""Values of recipes and objectives: any JSON is accepted and trains, or is refused in one sentence."""

import json
from dataclasses import fields, replace
from functools import partial
from pathlib import Path
from typing import Any, Literal

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor, nn

from helpers.cli import is_one_sentence, run
from helpers.losses import HalfSizeDistance
from trifocal.errors import OptionError, TrifocalError
from trifocal.losses import Discriminator, Objective
from trifocal.losses.ug_icm import PreferenceObjective
from trifocal.preset_table import PRESETS, Preset
from trifocal.recipes import BASE_LAYER, COMPACT, SYMBOLS, Recipe, with_fields
from trifocal.training import train
from trifocal.training.optimisers import adam, plateau_schedule, step_decay
from trifocal.training.stages import make_objective, objective_arguments, stage_recipe
from trifocal.training.tasks.base_layer import weights_by_term
from trifocal.types import Batch, DiffusionOutput
from trifocal.utils.annotations import OTHERS, argument_types, checked, json_types

STAGES = [(preset, stage) for preset in PRESETS for stage in range(1, 2 + len(preset.stages))]
NETWORKS: dict[str, nn.Module] = {
    "perceptual": HalfSizeDistance(),
    "distance": HalfSizeDistance(),
    "images": nn.Sequential(nn.AdaptiveAvgPool2d(2), nn.Flatten()),
}
SCALARS = st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=5)
NUMBERS = [1e400, 10**400, 0.5, 64, -1]
LISTS = [[1, 2], [0.5, 0.5], [1, 2, 3], [[0.5, 0.1]], [3, 3]]
LIKELY = st.sampled_from([*NUMBERS, *LISTS, {"a": 0.5}, "none", "tower", "boxes", "hinge"])
VALUES = LIKELY | st.recursive(
    SCALARS, lambda own: st.lists(own, max_size=4) | st.dictionaries(st.text(max_size=3), own, max_size=2)
)


class Shifted(nn.Module):
    """A codec whose images are a little brighter; it has the output of every codec."""

    def __init__(self, latent_channels: int) -> None:
        super().__init__()
        self.offset, self.latent_channels = nn.Parameter(torch.tensor(0.1)), latent_channels

    def forward(self, x: Tensor, level: Tensor, condition: object = None, partial: object = None) -> Any:
        y_hat = x.new_zeros(len(x), x.shape[2] // 16, x.shape[3] // 16, self.latent_channels)
        rate = torch.full((len(x),), 4096.0) * (1 + self.offset)
        return DiffusionOutput(x + self.offset, y_hat, rate, rate / 4096, rate / 4096)


def latent_channels(preset: Preset, stage: int) -> int:
    make = (preset.objective, *preset.stages)[stage - 1]
    return int(make.keywords.get("latent_channels", 4)) if isinstance(make, partial) else 4


@pytest.mark.parametrize(("preset", "stage"), STAGES, ids=lambda one: getattr(one, "name", str(one)))
def test_a_field_with_any_json_is_refused_or_trains(
    preset: Preset, stage: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("trifocal.losses.visual.Cvvdp", HalfSizeDistance)
    monkeypatch.setattr("trifocal.losses.cross_modal.Discriminator", partial(Discriminator, width=2))
    kinds = objective_arguments(preset, stage)
    assert OTHERS not in kinds
    networks = {name: network for name, network in NETWORKS.items() if name in kinds}
    if "segmenter" in kinds:
        networks["segmenter"] = Segmenter()
    names = [known.name for known in fields(Recipe)] + [*json_types(kinds), *SYMBOLS]
    codec = Shifted(latent_channels(preset, stage))
    batch = Batch(torch.rand(2, 3, 64, 64), torch.tensor([0, 800]))

    @settings(max_examples=60, deadline=None)
    @given(st.sampled_from(names) | st.text(max_size=4), VALUES)
    def attempt(name: str, value: object) -> None:
        try:
            recipe = with_fields(stage_recipe(preset, stage), {name: value})
            objective = make_objective(preset, stage, recipe, networks)
            adam(nn.Linear(2, 2), recipe)
        except TrifocalError as error:
            assert is_one_sentence(f"Error: {error}") and "\n" not in str(error)
            return
        step_decay(0.5, recipe.decay)
        plateau_schedule(0, 0.5, recipe.warmup, recipe.cooldown)
        json.dumps(recipe.objective)
        for _, loss in objective.losses(codec, batch, 0):
            loss.backward()

    attempt()


class Segmenter(nn.Module):
    """One object in each image: its left half."""

    def forward(self, x: Tensor) -> list[Tensor]:
        mask = torch.zeros(1, *x.shape[2:], dtype=torch.bool)
        mask[..., :32] = True
        return [mask] * len(x)


@settings(max_examples=100, deadline=None)
@given(
    st.sampled_from([*(known.name for known in fields(BASE_LAYER)), "stages", "class_cross_entropy"]), VALUES
)
def test_a_field_of_the_base_layer_with_any_json_is_refused_or_fits(name: str, value: object) -> None:
    try:
        weights = weights_by_term(with_fields(BASE_LAYER, {name: value}))
    except OptionError as error:
        assert "\n" not in str(error)
        return
    assert all(isinstance(weight, float) and weight >= 0 for weight in weights.values())


@pytest.mark.parametrize(
    ("word", "message"),
    [
        ("betas=[1,2,3]", "betas is a list of 2 numbers from 0 to below 1, not [1, 2, 3]."),
        ("decay=[1,2]", "decay is a list of [a number from 0 to 1, a number above 0], not [1, 2]."),
        ("held_out=1e400", "held_out is an integer from 0 to 1,000,000,000, not inf."),
        ('factors={"a":"b"}', "factors is a JSON object of numbers of 0 or more, not {'a': 'b'}."),
        ("lambdas=[1,2,3]", "lambdas is a list of 2 numbers above 0, not [1, 2, 3]."),
        ("crop=100", "crop is an integer from 64 to 16,384 in steps of 64, not 100."),
        ("text=poems", "text is captions, names, visible or none, not 'poems'."),
        ("objective=3", "objective is a JSON object, not 3."),
        ("learning_rat=1", "compact-psnr has no field 'learning_rat' (did you mean learning_rate?)"),
        ("lambda=1", "compact-psnr has no field 'lambda' (did you mean lambdas?)"),
        ("zzz=1", "compact-psnr has no field 'zzz'; its recipe has learning_rate, "),
    ],
)
def test_wrong_values_are_refused_before_data_is_read(word: str, message: str, tmp_path: Path) -> None:
    done = run("train", "compact-psnr", "--data", tmp_path / "none", "--steps", "1", "--set", word)
    assert done.exit_code == 1 and is_one_sentence(done.stderr)
    assert message in " ".join(done.stderr.split())


def test_a_typo_among_arguments_that_are_passed_on_is_refused(tmp_path: Path) -> None:
    """cvvdp_share is an argument of the parent class, `perceptual` of the class that a function returns."""
    for name, stage, field, meant in (
        ("ug-icm-compact", 1, "cvvdp_shar", "cvvdp_share"),
        ("cross-modal", 2, "perceptua", "perceptual"),
    ):
        with pytest.raises(OptionError, match=rf"no field '{field}' \(did you mean {meant}\?\)"):
            start = tmp_path / "start.safetensors"
            train(name, [tmp_path], tmp_path / "run", stage=stage, steps=1, start=start, fields={field: 1})


def test_arguments_are_those_of_parents_and_of_what_a_function_returns() -> None:
    class Child(Objective):
        def __init__(self, depth: int = 1, **more: Any) -> None:
            super().__init__(**more)

    def make(width: int, **more: Any) -> Child:
        return Child(**more)

    def unknown(**more: Any) -> Any:
        return more

    assert [*argument_types(Child)] == ["depth", "lambdas"]
    assert [*argument_types(make)] == ["width", "depth", "lambdas"]
    assert [*argument_types(partial(make, width=3))] == ["depth", "lambdas"]
    assert [*argument_types(lambda: Child())] == []
    assert [*argument_types(unknown)] == [OTHERS]
    assert {"images", "segmenter"} < argument_types(PreferenceObjective).keys()
    assert not {"images", "segmenter"} & json_types(argument_types(PreferenceObjective)).keys()
    preset = replace(PRESETS[0], objective=unknown)
    taken: object = make_objective(preset, 1, replace(COMPACT, objective={"any": "thing"}))
    assert taken == {"any": "thing"}  # a function that takes every name gets them


@pytest.mark.parametrize(
    ("value", "kind", "expected"),
    [
        (3, float, 3.0),
        (3.0, int, 3),
        ([1, 2], tuple[float, float], (1.0, 2.0)),
        (None, float | None, None),
        ("a", Literal["a", "b"], "a"),
        ({"a": 1}, dict[str, float], {"a": 1.0}),
        (float("nan"), float, OptionError),
        (float("inf"), float, OptionError),
        (True, float, OptionError),
        (1, bool, OptionError),
        (3.5, int, OptionError),
        ([], tuple[float, float], OptionError),
        ("ab", tuple[str, ...], OptionError),
        ([1], Literal["a"], OptionError),
    ],
)
def test_values_are_converted_or_refused(value: object, kind: Any, expected: Any) -> None:
    if expected is OptionError:
        with pytest.raises(OptionError, match="^depth is .*, not "):
            checked("depth", value, kind)
    else:
        found = checked("depth", value, kind)
        assert found == expected and type(found) is type(expected)
