"""Counted operations of a training step."""

from dataclasses import replace
from functools import partial

import pytest
import torch

from helpers.cli import run
from helpers.codecs import small_codec
from helpers.dual_layer import small_dual_layer
from helpers.presets import small_codec_preset
from trifocal import presets
from trifocal.codecs.scalable import ScalableCodec
from trifocal.detection.input_size import compact_size
from trifocal.recipes import BASE_LAYER
from trifocal.training import count_base_operations, count_operations
from trifocal.training.operations import CROPS, StepOperations, condition, draw_both_preferences


def test_operations_are_those_of_the_layers() -> None:
    """They grow with the pixels, and those of a layer are counted in three directions."""
    network = small_codec().network
    preset = small_codec_preset()
    whole = count_operations(preset).image
    larger = count_operations(preset, fields={"crop": 128})
    assert larger.image == pytest.approx(4 * whole, rel=0.05)  # by the number of pixels
    decoder = count_operations(preset, parts=["decoder"]).image
    assert decoder < whole
    head = network.synthesis.head
    assert isinstance(head, torch.nn.Linear)
    least = 3 * 2 * (64 // 8) ** 2 * head.weight.numel()  # forward, and the gradients of input and weight
    assert decoder > least


def test_gpu_hours_follow_from_operations() -> None:
    found = StepOperations(image=1e12, batch=8)
    assert found.step == 8e12
    assert found.hours(3600 * 100, teraflops=80, utilisation=0.1) == pytest.approx(100)


def test_two_preferences_are_drawn() -> None:
    draw_both_preferences()
    assert sorted(torch.rand(CROPS).round().tolist()) == [0, 1]


def test_the_command_counts_and_trains_nothing(small_preset: presets.Preset, tmp_path: object) -> None:
    found = count_operations("small", fields={"batch": 6})
    done = run("train", "small", "--count", "--steps", "1000", "--batch", "6", "-o", f"{tmp_path}/run")
    assert done.exit_code == 0, done.output
    first, second = done.stdout.splitlines()
    assert first == f"{found.image * 1e-12:.3g} TFLOP an image, {found.step * 1e-12:.3g} a step of 6"
    assert second.startswith("1,000 steps: ") and "hours of one NVIDIA A100" in second
    assert run("train", "detector", "--count").exit_code == 2


def test_frozen_layers_have_no_gradient_to_count(small_preset: presets.Preset) -> None:
    frozen = replace(small_preset.recipe, factors={"analysis.": 0, "entropy.": 0})
    fewer = count_operations(replace(small_preset, recipe=frozen)).image
    assert fewer == count_operations(small_preset, parts=["decoder"]).image


def test_operations_of_a_base_layer_grow_with_its_input() -> None:
    def build(side: int) -> ScalableCodec:
        codec: ScalableCodec = small_dual_layer()
        codec.network.input_size = partial(compact_size, area=side * side)
        return codec

    small, large = (replace(presets.find("dual-layer"), build=partial(build, side)) for side in (128, 256))
    found, larger = count_base_operations(small, {"batch": 3}), count_base_operations(large)
    assert (found.batch, larger.batch) == (3, BASE_LAYER.batch)
    assert 3 < larger.image / found.image < 5  # four times as many pixels


def test_a_text_is_counted_where_the_preset_takes_one() -> None:
    taco, plain = presets.find("taco-compact"), presets.find("compact")
    found = condition(taco, taco.recipe)
    assert found is not None and found.text is not None and found.text.pooled.shape[0] == CROPS
    assert condition(taco, replace(taco.recipe, text="none")) is None
    assert condition(plain, plain.recipe) is None
