"""The objectives of UG-ICM: preferences, the views of MS-CLIP, and both stages of a small preset."""

from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor, nn

from helpers.codecs import randomise_weights
from helpers.images import random_rgb
from trifocal.codecs.codec import Codec
from trifocal.codecs.ug_icm import ug_icm_hyperprior
from trifocal.data import Crops, TrainingPicture
from trifocal.detection.instances import InstanceSegmenter, load_instance_segmenter
from trifocal.errors import OptionError, WeightsError
from trifocal.losses.multi_scale_clip import SIDE, MultiScaleClip, box_masks, object_views
from trifocal.losses.ug_icm import FIRST_STAGE, SECOND_STAGE, PreferenceObjective, first_stage, second_stage
from trifocal.pictures import Picture
from trifocal.presets import find
from trifocal.recipes import UG_ICM, UG_ICM_DECODER
from trifocal.training import train
from trifocal.types import Batch, Output
from trifocal.weights import read_weights


class Averages(nn.Module):
    """Embeddings [B, 48]: the means of 4 × 4 parts, less grey."""

    title = "averages"

    def forward(self, x: Tensor) -> Tensor:
        return nn.functional.adaptive_avg_pool2d(x, 4).flatten(1) - 0.5


class Shifted(nn.Module):
    """A codec whose image for a preference p is x + (0.1 + p) · `offset`; one bit per pixel."""

    def __init__(self) -> None:
        super().__init__()
        self.offset = nn.Parameter(torch.tensor([0.1, 0.0, -0.1])[:, None, None])
        self.preferences: list[Tensor] = []

    def forward(self, x, level, condition):
        self.preferences.append(condition.preference)
        x_hat = x + (0.1 + condition.preference)[:, None, None, None] * self.offset
        return Output(x_hat, x, torch.full((len(x),), float(x.shape[2] * x.shape[3])))


def small(**options: Any) -> PreferenceObjective:
    return PreferenceObjective(images=Averages(), objects="none", **options)


def batch(count: int = 16, side: int = 64) -> Batch:
    x = torch.from_numpy(np.stack([random_rgb(side, side, seed) for seed in range(count)]))
    return Batch(x.permute(0, 3, 1, 2).float() / 255, torch.full((count,), 400))


def loss(objective: PreferenceObjective, codec: nn.Module, inputs: Batch) -> Tensor:
    ((part, value),) = objective.losses(codec, inputs, 0)
    assert part == "codec"
    return value


def test_each_image_draws_zero_or_one():
    codec, objective = Shifted(), small()
    loss(objective, codec, batch(64))
    assert set(codec.preferences[0].tolist()) == {0.0, 1.0}
    loss(small(continuous=True), codec, batch(64))
    assert len(set(codec.preferences[1].tolist())) == 64


@pytest.mark.parametrize("preference", [0.0, 1.0])
def test_a_batch_with_one_preference_has_its_loss(monkeypatch, preference):
    """The published code has no number for it. λ is 0.0093 at the middle level, whose balance is 1."""
    monkeypatch.setattr(torch, "rand", lambda count, device=None: torch.full((count,), preference))
    inputs, codec = batch(), Shifted()
    x_hat = codec(inputs.x, inputs.level, type("C", (), {"preference": torch.full((16,), preference)})).x_hat
    mse = 255**2 * (x_hat - inputs.x).square().mean()
    objective = small(weights="paper", local_side=64)  # the local square is the whole image
    clip = 2 * objective.clip.whole(x_hat, inputs.x).mean()
    trade = (0.0018 * 0.0483) ** 0.5
    expected = 1 + trade * (mse + preference * clip)
    assert torch.allclose(loss(objective, codec, inputs), expected, rtol=1e-4)


def test_the_second_stage_has_no_rate_and_other_weights():
    assert first_stage(images=Averages(), objects="none").weights == FIRST_STAGE["readme"]
    second = second_stage(images=Averages(), objects="none", weights="paper")
    assert second.weights == SECOND_STAGE["paper"] and second.weights.machine_error == 0
    codec = Shifted()
    with torch.no_grad():
        codec.offset.zero_()
    assert abs(loss(second, codec, batch()).item()) < 1e-4
    described = second.description()
    assert described["stage"] == 2 and described["clip"] == 1.0 and described["objects"] == "none"
    with pytest.raises(OptionError, match="weights is readme or paper, not 'mine'"):
        small(weights="mine")


@pytest.mark.parametrize("stage", [first_stage, second_stage])
def test_each_term_is_kept_by_itself(monkeypatch, stage):
    """The weighted terms add up to the loss; without an image for a reader its terms are left out."""
    preference = torch.tensor([0.0, 1.0, 1.0, 0.0])
    monkeypatch.setattr(torch, "rand", lambda count, device=None: preference)
    objective = stage(images=Averages(), objects="boxes", weights="paper", local_side=64)
    objective.weights = replace(objective.weights, people_error=2.0, machine_error=3.0, clip=5.0)
    box = torch.tensor([[8.0, 8.0, 40.0, 40.0]])
    inputs = replace(batch(4), boxes=(box, box, torch.zeros(0, 4), box))
    total = loss(objective, Shifted(), inputs).item()
    terms = {name: float(term) for name, term in objective.terms.items()}
    clip = terms["clip_global"] + terms["clip_local"] + terms["clip_instances"]
    assert (
        terms["clip_global"] == pytest.approx(terms["clip_local"], rel=1e-4) and terms["clip_instances"] > 0
    )
    assert clip / 2 == pytest.approx(terms["clip"], rel=1e-4)  # half of the images are for people
    assert (terms["mse_people"] + terms["mse_machine"]) / 2 == pytest.approx(terms["mse"], rel=1e-4)
    assert terms["mse_machine"] > 10 * terms["mse_people"]
    trade = (0.0018 * 0.0483) ** 0.5
    halves = (2.0 * terms["mse_people"] + 3.0 * terms["mse_machine"] + 5.0 * clip) / 2
    assert total == pytest.approx(trade * halves + objective.rate * terms["bpp"], rel=1e-4)
    preference = torch.zeros(4)
    objective.terms.clear()
    loss(objective, Shifted(), inputs)
    assert objective.terms.keys() == {"bpp", "mse", "clip", "mse_people"}


def test_local_squares_are_the_same_in_both_images():
    seen: list[Tensor] = []

    class Recording(Averages):
        def forward(self, x: Tensor) -> Tensor:
            seen.append(x)
            return super().forward(x)

    x = batch(2).x
    distance = MultiScaleClip(Recording(), local_side=24)
    assert torch.allclose(distance(x, x), torch.zeros(2), atol=1e-6)
    assert torch.equal(seen[2], seen[3]) and seen[2].shape == (2, 3, 24, 24)
    assert distance.title == "averages"


def test_objects_are_masked_squares():
    image = torch.rand(3, 40, 60)
    mask = torch.zeros(1, 40, 60, dtype=torch.bool)
    mask[0, 10:20, 30:50] = True
    (view,) = object_views(image, mask)
    assert view.shape == (3, SIDE, SIDE)
    middle = nn.functional.interpolate(
        (image * mask)[None, :, 5:25, 30:50], (SIDE, SIDE), mode="bicubic", antialias=True
    )[0]
    assert torch.equal(view, middle)
    assert object_views(image, mask[:0]).shape == (0, 3, SIDE, SIDE)


def test_distances_of_objects_are_summed_for_their_image():
    x = batch(2).x
    x_hat = x.clone()
    x_hat[0, 0, 8:24, 8:24] += 0.3
    boxes = torch.tensor([[8.0, 8.0, 24.0, 24.0]])
    distance = MultiScaleClip(Averages(), local_side=64)
    once = distance(x_hat, x, [box_masks(boxes, (64, 64)), box_masks(boxes[:0], (64, 64))])
    twice = distance(x_hat, x, [box_masks(boxes.repeat(2, 1), (64, 64)), box_masks(boxes[:0], (64, 64))])
    without = distance(x_hat, x)
    assert once[0] > without[0] and torch.allclose(once[1], without[1])
    assert torch.allclose(twice[0] - once[0], once[0] - without[0], atol=1e-5)
    limited = MultiScaleClip(Averages(), local_side=64, most_objects=1)
    again = limited(x_hat, x, [box_masks(boxes.repeat(2, 1), (64, 64)), box_masks(boxes[:0], (64, 64))])
    assert torch.allclose(again, once)


def test_boxes_come_with_the_crops_mirrored_like_them():
    """A white box on black stays under its box in every crop."""
    rgb = np.zeros((90, 100, 3), np.uint8)
    rgb[20:50, 30:60] = 255
    picture = TrainingPicture("a", rgb, boxes=np.array([[30, 20, 60, 50]], np.float32), labels=np.array([1]))
    with Crops([picture], batch=32, size=64, seed=0) as crops:
        drawn = crops.next()
    assert any(len(boxes) for boxes in drawn.boxes)
    for crop, boxes in zip(drawn.rgb, drawn.boxes, strict=True):
        if len(boxes):
            white = torch.from_numpy(crop[..., 0] > 0)
            assert torch.equal(box_masks(torch.from_numpy(boxes), (64, 64))[0], white)


def test_boxes_of_the_data_are_needed_if_asked_for(monkeypatch):
    monkeypatch.setattr(torch, "rand", lambda count, device=None: torch.ones(count))
    objective = PreferenceObjective(images=Averages(), objects="boxes")
    inputs = batch(2)
    with pytest.raises(OptionError, match="no boxes"):
        loss(objective, Shifted(), inputs)
    boxes = (torch.tensor([[8.0, 8.0, 40.0, 40.0]]), torch.zeros(0, 4))
    assert loss(objective, Shifted(), replace(inputs, boxes=boxes)).isfinite()


def test_masks_of_torchvision(monkeypatch):
    """Mask R-CNN with untrained weights: all its scores are low, and a threshold of 0 keeps the masks."""
    from torchvision.models.detection import maskrcnn_resnet50_fpn

    monkeypatch.setattr(
        "trifocal.detection.instances.get_model",
        lambda name, weights, progress: maskrcnn_resnet50_fpn(
            weights=None, weights_backbone=None, min_size=64, max_size=64, box_detections_per_img=3
        ),
    )
    torch.manual_seed(0)
    segmenter = load_instance_segmenter()
    assert not segmenter.train().network.training
    x = torch.rand(2, 3, 64, 64)
    segmenter.min_score = 0.0
    masks = segmenter(x)
    assert len(masks) == 2
    assert all(own.dtype == torch.bool and own.shape[1:] == (64, 64) for own in masks)
    with pytest.raises(OptionError, match="choose from maskrcnn_resnet50_fpn"):
        load_instance_segmenter("fasterrcnn_resnet50_fpn")
    assert isinstance(segmenter, InstanceSegmenter)


def test_masks_come_from_the_folder_of_networks(tmp_path, monkeypatch):
    """By its name; it would be downloaded to there."""
    import torch.hub

    asked = []

    def no_network(url, file, *given, **more):
        asked.append(file)
        raise OSError("no network")

    monkeypatch.setenv("TRIFOCAL_NETWORKS", str(tmp_path))
    monkeypatch.setattr(torch.hub, "download_url_to_file", no_network)
    with pytest.raises(WeightsError, match=r"put maskrcnn_\w+-\w+\.pth into FOLDER/checkpoints"):
        load_instance_segmenter()
    assert Path(asked[0]).parent == tmp_path / "checkpoints"


def tiny_codec() -> Codec:
    torch.manual_seed(0)
    return randomise_weights(ug_icm_hyperprior(6, 8, 8), 0)


def test_both_stages_of_a_run(short_validation, tmp_path, monkeypatch):
    """The second stage changes the decoder only, and writes weights that decode the first one's files."""
    preset = replace(
        find("ug-icm-hyperprior"),
        build=tiny_codec,
        recipe=replace(UG_ICM, batch=2, crop=64),
        stage_recipes=(replace(UG_ICM_DECODER, batch=2, crop=64),),
        objective=lambda **options: first_stage(images=Averages(), objects="none", **options),
        stages=(lambda **options: second_stage(images=Averages(), objects="none", **options),),
    )
    monkeypatch.setattr("trifocal.presets.PRESETS", (preset,))
    for number in range(3):
        Picture(random_rgb(80, 72, seed=number)).save(tmp_path / f"{number}.png")
    monkeypatch.chdir(tmp_path)
    first = train("ug-icm-hyperprior", [tmp_path], "one", steps=3)
    second = train("ug-icm-hyperprior", [tmp_path], "two", stage=2, steps=3, start=first)
    before, after = read_weights(first), read_weights(second)
    changed = {name for name in before if not torch.equal(before[name], after[name])}
    assert changed and all(name.startswith("synthesis.") for name in changed)
    assert any("preference" in name for name in changed) and any("shifts" in name for name in changed)
    terms = {"mse_people", "mse_machine", "clip_global", "clip_local", "clip_instances"}
    for run in ("one", "two"):
        columns = (tmp_path / run / "ug-icm-hyperprior.csv").read_text().splitlines()[0].split(",")
        assert {"psnr_machine", *terms, *(f"held_out_{term}" for term in terms)} < {*columns}
