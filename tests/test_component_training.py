"""Training of the enhancement layer on crops with missing components."""

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from helpers.dual_layer import small_dual_layer, small_dual_layer_compact
from helpers.images import random_rgb
from trifocal.codecs.tile_coding import tile_parts
from trifocal.container import Bitstream, Component
from trifocal.container.components import REST, ComponentLayout
from trifocal.data import TrainingPicture
from trifocal.detection.detector import compact_detector
from trifocal.errors import OptionError
from trifocal.losses import Objective
from trifocal.losses.rate_distortion import crop_weight, quality_lambda
from trifocal.pictures import Picture
from trifocal.presets import Preset, find
from trifocal.recipes import COMPACT_COMPONENTS, with_fields
from trifocal.training.components import partial_crop, partial_crops
from trifocal.training.stages import stage_recipe
from trifocal.training.tasks.codec import CodecTask
from trifocal.training.trainer import Trainer
from trifocal.training.validation import to_tensor
from trifocal.types import BasePreview, Condition, PartialTile
from trifocal.weights import decodable, load_weights, read_decodable_fingerprints, write_weights

OBJECTS = (
    Component("person", (1, 1, 5, 6)),
    Component("car", (4, 2, 9, 5)),
    Component("person", (11, 0, 12, 1)),
)
LEVEL = 400


def compact_codec() -> Any:
    torch.manual_seed(5)
    codec = small_dual_layer_compact(compact_detector().eval().requires_grad_(False))
    codec.preset_id = 8
    return codec


def without(*missing: int) -> PartialTile:
    """The parts of an image of 192 × 128 pixels with OBJECTS."""
    tile = tile_parts(ComponentLayout(OBJECTS, 192, 128), 0)
    return PartialTile(tile.numbers, tile.parts, frozenset(missing))


def preview_of(codec: Any, stream: Bitstream) -> BasePreview:
    _, y_hat, size = codec._decode_base(stream)
    image = codec.network.base.synthesise(torch.from_numpy(y_hat), size[::-1])[1]
    return BasePreview(image, (192, 128), (0, 0, 192, 128))


@pytest.mark.parametrize(
    ("make", "labels"),
    [
        (compact_codec, ("person",)),
        (compact_codec, ("person", "car")),
        (small_dual_layer, ("car",)),
    ],
)
def test_output_for_missing_components_equals_decoded_file(make: Any, labels: tuple[str, ...]) -> None:
    codec, rgb = make(), random_rgb(192, 128, seed=2)
    stream = codec.encode(Picture(rgb), quality=LEVEL / 8, refinement=0, components=OBJECTS)
    part = Bitstream.from_bytes(stream.only(labels).to_bytes())
    tile = without(REST, *(n for n, one in enumerate(OBJECTS, start=1) if one.label not in labels))
    network, condition = codec.network.eval(), Condition(preview=preview_of(codec, stream))
    x, level = to_tensor(rgb[None]), torch.tensor([LEVEL])
    with torch.no_grad():
        output = network(x, level, condition, partial=[tile])
        estimated = network.train()(x, level, condition, partial=[tile])
    y_hat = codec.decode_latents(part).y[..., : network.entropy.latent_channels]
    assert np.array_equal(output.y_hat.numpy(), y_hat)
    pixels = output.x_hat[0].permute(1, 2, 0).mul(255).round().clamp(0, 255).byte().numpy()
    assert np.array_equal(pixels, codec.decode(part).picture.rgb)
    missing = np.isin(tile.numbers, list(tile.missing))
    assert not estimated.y_hat[0, missing].any() and estimated.y_hat[0, ~missing].any()
    if make is compact_codec:  # its float networks round hardly any value in another way
        assert torch.isclose(estimated.y_hat, output.y_hat.float(), atol=1e-3).float().mean() > 0.99
        assert torch.allclose(estimated.x_hat, output.x_hat, atol=0.02)


def test_bits_are_those_of_what_is_present() -> None:
    codec, rgb = compact_codec(), random_rgb(192, 128, seed=2)
    stream = codec.encode(Picture(rgb), quality=LEVEL / 8, refinement=0, components=OBJECTS)
    network, x = codec.network.eval(), to_tensor(rgb[None]).repeat(3, 1, 1, 1)
    preview = preview_of(codec, stream)
    condition = Condition(preview=BasePreview(preview.image.repeat(3, 1, 1, 1), preview.size, preview.region))
    with torch.no_grad():
        levels = torch.full((3,), LEVEL)
        both = network(x, levels, condition, partial=[without(2, REST), None, without()])
        alone = network(x[1:2], levels[1:2], Condition(preview=preview))
    assert torch.allclose(both.x_hat[1], alone.x_hat[0], atol=1e-5) and both.bits[1] == alone.bits[0]
    sizes = [sum(map(len, filter(None, one.layers[1].chunks))) for one in (stream.only("person"), stream)]
    for bits, size in zip(both.bits[[0, 2]].tolist(), sizes, strict=True):
        assert bits / 8 == pytest.approx(size, rel=0.02, abs=12)


def test_crops_are_divided_as_files_are() -> None:
    random = np.random.default_rng(0)
    boxes = np.array([[3, 3, 100, 120], [20, 30, 60, 60], [20, 30, 60, 60], [250, 250, 256, 256]], np.float32)
    tiles = [partial_crop(boxes, 256, 256, random) for _ in range(200)]
    whole = ComponentLayout(
        tuple(Component("object", box) for box in ((0, 0, 7, 8), (1, 1, 4, 4), (15, 15, 16, 16))), 256, 256
    )
    for tile in tiles:
        assert np.array_equal(tile.numbers, tile_parts(whole, 0).numbers) and REST in tile.missing
    share = np.mean([len(tile.missing) - 1 for tile in tiles]) / 3
    assert 0.2 < share < 0.3  # 0 to 50 % of the objects
    assert any(len(tile.missing) == 1 for tile in tiles)


def test_crops_without_objects_have_random_squares() -> None:
    random = np.random.default_rng(0)
    tiles = [partial_crop(np.zeros((0, 4), np.float32), 128, 128, random) for _ in range(50)]
    assert all(tile.components for tile in tiles)
    assert len({tile.numbers.tobytes() for tile in tiles}) > 40
    covered = np.mean([(tile.numbers > 0).mean() for tile in tiles])
    assert 0.3 < covered < 0.8


@pytest.mark.parametrize("boxes", [[], [[100, 3, 320, 60]]])
def test_crops_need_not_be_square(boxes: list[list[int]]) -> None:
    given = np.array(boxes, np.float32).reshape(-1, 4)
    tiles = [partial_crop(given, 320, 128, np.random.default_rng(seed)) for seed in range(20)]
    assert {tile.numbers.shape for tile in tiles} == {(8, 20)} and all(tile.components for tile in tiles)
    if boxes:
        assert all(tile.numbers[:4, 6:].all() and not tile.numbers[4:].any() for tile in tiles)


def test_share_of_crops_and_seed() -> None:
    boxes = [np.zeros((0, 4), np.float32)] * 3

    def draw(seed: int, share: float = 0.5) -> Any:
        torch.manual_seed(seed)
        return partial_crops(boxes, 64, share)

    counts = [sum(tile is not None for tile in draw(seed)) for seed in range(60)]
    assert set(counts) == {1, 2} and np.mean(counts) == pytest.approx(1.5, abs=0.2)
    one, two = ([None if tile is None else tile.missing for tile in draw(3)] for _ in range(2))
    assert one == two
    assert draw(0, 0.0) is None and all(tile is not None for tile in draw(0, 1.0))


def test_levels_count_equally_in_crops_with_missing_parts() -> None:
    level = torch.tensor([0, 400, 800, 800])
    partial = [without(REST), without(REST), without(REST), without()]
    weight = crop_weight(level, partial=partial)
    cost = weight * quality_lambda(level)
    assert torch.allclose(cost[:3], cost[1].expand(3)) and weight[3] == crop_weight(level)[3]
    assert torch.equal(crop_weight(level, partial=[None] * 4), crop_weight(level))


def test_field_is_refused_where_there_are_no_components() -> None:
    for name, fields, message in (
        ("compact", {"missing_components": 0.5}, "no base layer, and so no components"),
        ("dual-layer-compact", {"missing_components": 0.5, "crop": 2048}, "at most 1024 pixels, not 2048"),
    ):
        recipe = with_fields(stage_recipe(find(name), 1), fields)
        with pytest.raises(OptionError, match=message):
            CodecTask(find(name), 1, recipe)
    with pytest.raises(OptionError, match="missing_components is a number from 0 to 1, not"):
        with_fields(COMPACT_COMPONENTS, {"missing_components": 2})


def small_preset() -> Preset:
    """The second stage of a small dual-layer-compact, for squared error."""
    return Preset(
        name="small-components",
        id=60,
        summary="",
        build=compact_codec,
        recipe=COMPACT_COMPONENTS,
        weights="small-components.safetensors",
        objective=Objective,
        stages=(Objective,),
        stage_recipes=(COMPACT_COMPONENTS,),
        has_base_layer=True,
    )


def pictures(count: int, seed: int) -> list[TrainingPicture]:
    """Images with two objects each."""
    boxes = np.array([[5, 5, 30, 28], [30, 20, 60, 55]], np.float32)
    return [
        TrainingPicture(str(n), random_rgb(64, 64, seed=seed + n), (), boxes, np.array([1, 2]))
        for n in range(count)
    ]


def test_second_stage_lowers_the_error_of_missing_positions_only(tmp_path: Path) -> None:
    fields = {"crop": 64, "batch": 4, "learning_rate": 5e-4, "warmup": 1, "ema": 0.5, "text": "none"}
    task = CodecTask(small_preset(), 2, with_fields(COMPACT_COMPONENTS, fields))
    start = tmp_path / "start.safetensors"
    write_weights(task.module, start)
    task.start_from(start)
    before = {name: value.clone() for name, value in task.module.state_dict().items()}
    task.set_images(pictures(8, 0), pictures(4, 50))
    trainer = Trainer(task, tmp_path, steps=16)
    first = task.validate(trainer.average)
    for _ in trainer.train_steps():
        pass
    last = task.validate(trainer.average)
    assert last["missing_mse"] < 0.98 * first["missing_mse"], (first, last)
    assert last["present_mse"] < first["present_mse"], (first, last)
    assert last["held_out"] < first["held_out"], (first, last)
    changed = {
        name for name, value in trainer.average.state_dict().items() if not torch.equal(value, before[name])
    }
    assert changed and all(name.startswith("synthesis.") for name in changed)
    path = trainer.export()
    exported = compact_codec().network
    load_weights(exported, path)
    assert read_decodable_fingerprints(path) == decodable(exported, start, exported.arithmetics) != {}
