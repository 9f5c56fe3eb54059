"""What training minimises, against values that were computed another way."""

import json
import math
import sys
from collections.abc import Callable
from copy import deepcopy
from dataclasses import replace
from functools import lru_cache
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from PIL import Image
from torch import Tensor, nn

from helpers.codecs import small_codec
from helpers.images import random_rgb
from trifocal import losses, presets
from trifocal.detection.image_encoder import ImageEncoder
from trifocal.errors import MissingExtra, OptionError
from trifocal.losses import perceptual, taco
from trifocal.training import train
from trifocal.types import MAX_LEVEL, Batch, Condition, Output, TextEmbedding

# ── perceptual ──


def two(width: int = 96, height: int = 80, noise: float = 0.05) -> tuple[Tensor, Tensor]:
    """Two pictures and their noisy versions, x_hat and x, each [2, 3, H, W]."""
    rgb = np.stack([random_rgb(width, height, seed=seed) for seed in (1, 2)])
    x = torch.from_numpy(rgb).permute(0, 3, 1, 2).float() / 255
    return (x + noise * torch.randn(x.shape, generator=torch.Generator().manual_seed(0))).clamp(0, 1), x


def small_tower(seed: int = 0) -> ImageEncoder:
    torch.manual_seed(seed)
    return ImageEncoder(widths=(4, 6, 8), depths=(1, 1, 1), embedding=5)


@pytest.fixture
def made_up_weights(monkeypatch: pytest.MonkeyPatch) -> None:
    """AlexNet's features with random weights, the same for every caller, where torchvision would fetch
    trained ones.
    """
    pytest.importorskip("torchvision")
    features = alexnet_features()
    monkeypatch.setattr(
        "torchvision.models.alexnet", lambda **_: SimpleNamespace(features=deepcopy(features))
    )


@lru_cache(maxsize=1)
def alexnet_features() -> nn.Module:
    from torchvision.models import AlexNet

    torch.manual_seed(0)
    features: nn.Module = AlexNet().features
    return features


@pytest.fixture
def offline(monkeypatch: pytest.MonkeyPatch) -> None:
    """As on a machine without network and without any cache, but with an image tower."""
    pytest.importorskip("torchvision")

    def refuse(**_: object) -> None:
        raise OSError("no network")

    monkeypatch.setattr("torchvision.models.alexnet", refuse)
    monkeypatch.setattr(perceptual, "load_image_encoder", small_tower)


def test_lpips_is_that_of_another_package(made_up_weights: None) -> None:
    functional = pytest.importorskip("torchmetrics.functional.image")
    x_hat, x = two()
    measure, unscaled = losses.Lpips("alex"), losses.Lpips("alex", scaled=False)
    value = measure(x_hat, x)
    expected = functional.learned_perceptual_image_patch_similarity(x_hat, x, net_type="alex", normalize=True)
    assert value.shape == (2,) and (value > 1e-4).all() and value[0] != value[1]
    assert value.mean().item() == pytest.approx(expected.item(), rel=1e-3)
    assert measure(x, x).abs().max() < 1e-6
    torch.testing.assert_close(unscaled(2 * x_hat - 1, 2 * x - 1), value)
    assert not torch.allclose(unscaled(x_hat, x), value, rtol=0.05)
    assert measure.title == "LPIPS (alex)" and unscaled.title == "LPIPS (alex), fed 0..1"
    x_hat.requires_grad_()
    measure(x_hat, x).sum().backward()
    assert x_hat.grad is not None and x_hat.grad.abs().sum() > 0
    assert not any(
        parameter.requires_grad or parameter.grad is not None for parameter in measure.parameters()
    )


def test_the_towers_distance_by_its_formula() -> None:
    tower = small_tower()
    x_hat, x = two()
    value = losses.EncoderDistance(tower)(x_hat, x)
    expected = np.zeros(2)
    with torch.no_grad():
        for one, other in zip(tower(x_hat).stages, tower(x).stages):
            for picture, (a, b) in enumerate(zip(one.numpy(), other.numpy())):
                places = [
                    np.sum((u / np.linalg.norm(u) - v / np.linalg.norm(v)) ** 2)
                    for u, v in zip(a.reshape(-1, a.shape[-1]), b.reshape(-1, b.shape[-1]))
                ]
                expected[picture] += np.mean(places) / 3
    np.testing.assert_allclose(value, expected, rtol=1e-4)
    assert (value > 0).all() and losses.EncoderDistance(tower)(x, x).max() == 0


def test_a_shared_tower_is_copied_before_it_is_frozen() -> None:
    tower = small_tower()
    measure = losses.EncoderDistance(tower)
    assert all(parameter.requires_grad for parameter in tower.parameters()) and tower.training
    assert (
        not any(parameter.requires_grad for parameter in measure.parameters()) and not measure.tower.training
    )


def test_ms_ssim_is_that_of_another_package() -> None:
    torchmetrics = pytest.importorskip("torchmetrics")
    x_hat, x = two(192, 176)
    value = losses.MsSsim()(x_hat, x)
    theirs = torchmetrics.functional.image.multiscale_structural_similarity_index_measure
    expected = 1 - theirs(x_hat, x, data_range=1.0, reduction="none")
    np.testing.assert_allclose(value, expected, atol=1e-5)
    assert losses.MsSsim()(x, x).abs().max() < 1e-5
    with pytest.raises(OptionError, match="crops of 176 pixels a side, not 175"):
        losses.MsSsim()(x_hat[..., :175, :], x[..., :175, :])


def test_ms_ssim_has_a_gradient_where_pictures_are_opposite() -> None:
    pytest.importorskip("torchmetrics")
    _, x = two(192, 176)
    x_hat = (1 - x).requires_grad_()
    value = losses.MsSsim()(x_hat, x)
    value.sum().backward()
    assert x_hat.grad is not None and x_hat.grad.isfinite().all() and (value > 0.5).all()


def test_without_lpips_the_tower_takes_its_place_and_it_is_said(offline: None) -> None:
    objective = losses.TacoObjective(images=nn.Identity())
    found = objective.perceptual
    assert isinstance(found, losses.EncoderDistance)
    assert found.title == "distance in the bundled image encoder"
    assert "LPIPS (alex)" in found.note and found.note.endswith(
        "The distance in the bundled image encoder replaces it."
    )
    assert objective.notes() == [found.note]
    assert objective.description()["perceptual"] == found.title


def test_without_the_package_it_is_said_too(offline: None, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "lpips", None)
    assert 'pip install "trifocal[train]"' in losses.find_perceptual().note
    with pytest.raises(MissingExtra):
        losses.Lpips()


def test_what_is_preferred_is_taken(made_up_weights: None, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(perceptual, "load_image_encoder", small_tower)
    found = [losses.find_perceptual(name) for name in ("lpips-alex", "ms-ssim", "tower")]
    titles = ["LPIPS (alex)", "1 − MS-SSIM", "distance in the bundled image encoder"]
    assert [one.title for one in found] == titles and not any(one.note for one in found)
    with pytest.raises(OptionError, match="no perceptual loss 'dists'"):
        losses.find_perceptual("dists")


# ── image and text ──


def test_distances_by_hand() -> None:
    e_hat = torch.tensor([[3.0, 4.0], [0.0, 2.0]])
    e = torch.tensor([[4.0, 3.0], [-2.0, 0.0]])
    assert losses.cosine_distance(e_hat, e).tolist() == pytest.approx([0.1 * (1 - 24 / 25), 0.1])
    assert losses.squared_distance(e_hat, e).tolist() == pytest.approx([2.0, 8.0])
    assert losses.frobenius_distance(e_hat, e).item() == pytest.approx(40 * math.sqrt(10))
    assert losses.frobenius_distance(e_hat, e, 1.0).item() == pytest.approx(math.sqrt(10))


def test_the_contrastive_loss_by_hand() -> None:
    """Two pictures whose cosines to the texts are 1, 0.6 and 0, 0.8: the lengths of the vectors do not
    count.
    """
    image, text = torch.tensor([[2.0, 0.0], [0.0, 0.5]]), torch.tensor([[3.0, 0.0], [0.6, 0.8]])
    scale = math.exp(2.6592)

    def nats(right: float, wrong: float) -> float:
        return math.log(1 + math.exp(scale * (wrong - right)))

    of_pictures = (nats(1.0, 0.6) + nats(0.8, 0.0)) / 2
    of_texts = (nats(1.0, 0.0) + nats(0.8, 0.6)) / 2
    assert losses.contrastive(image, text).item() == pytest.approx((of_pictures + of_texts) / 2, rel=1e-5)
    assert losses.contrastive(image, text.flip(0)) > losses.contrastive(image, text)
    assert losses.contrastive(image[:1], text[:1]).item() == 0
    assert losses.contrastive(image, image[:1].expand(2, 2)).item() == pytest.approx(
        math.log(2) / 2 + (nats(1.0, 0.0) + nats(0.0, 1.0)) / 4, rel=1e-5
    )


def test_the_contrastive_loss_is_the_librarys() -> None:
    modeling = pytest.importorskip("transformers.models.clip.modeling_clip")
    torch.manual_seed(0)
    image, text = torch.randn(5, 7), torch.randn(5, 7)
    cosines = F.cosine_similarity(text[:, None], image[None], dim=-1)
    expected = modeling.image_text_contrastive_loss(losses.image_text.SCALE * cosines)
    torch.testing.assert_close(losses.contrastive(image, text), expected)


def test_the_joint_loss_is_both_on_directions() -> None:
    torch.manual_seed(0)
    e_hat, e, text = torch.randn(3, 4, 6)
    unit = F.normalize(e_hat, dim=-1), F.normalize(e, dim=-1)
    expected = losses.contrastive(e_hat, text) + 40 * (unit[0] - unit[1]).norm()
    torch.testing.assert_close(losses.joint_image_text(e_hat, e, text), expected)
    torch.testing.assert_close(losses.joint_image_text(5 * e_hat, 2 * e, 3 * text), expected)


def test_equal_embeddings_have_a_finite_gradient() -> None:
    e_hat = torch.randn(3, 4).requires_grad_()
    e = e_hat.detach().clone()
    parts: list[Callable[[Tensor, Tensor], Tensor]] = [
        losses.cosine_distance,
        losses.squared_distance,
        losses.frobenius_distance,
    ]
    for distance in parts:
        (gradient,) = torch.autograd.grad(distance(e_hat, e).sum(), e_hat)
        assert gradient.isfinite().all()


# ── TACO ──


class Far(losses.Perceptual):
    """Stands in for LPIPS."""

    title = "mean distance"

    def forward(self, x_hat: Tensor, x: Tensor) -> Tensor:
        return (x_hat - x).abs().flatten(1).mean(1)


class Colours(nn.Module):
    """Stands in for CLIP's image half: three numbers of a picture, through a weight that must not learn."""

    title = "mean colours"

    def __init__(self) -> None:
        super().__init__()
        self.weight = nn.Parameter(torch.eye(3))

    def forward(self, x: Tensor) -> Tensor:
        return x.mean((2, 3)) @ self.weight


class Fixed(nn.Module):
    """Stands in for a codec: adds a number to the picture, at a price of 500 bits."""

    def __init__(self) -> None:
        super().__init__()
        self.shift = nn.Parameter(torch.tensor(0.1))
        self.seen: list[Condition | None] = []

    def forward(self, x: Tensor, level: Tensor, condition: Condition | None = None) -> Output:
        self.seen.append(condition)
        shifted = x + self.shift * torch.tensor([1.0, 0.5, 0.0])[:, None, None]
        return Output(shifted, x, torch.full((len(x),), 500.0) + 100 * self.shift)


def batch_of(x: Tensor, level: list[int], pooled: Tensor) -> Batch:
    words = TextEmbedding(pooled[:, None], torch.ones(len(x), 1, dtype=torch.bool), pooled)
    return Batch(x, torch.tensor(level), Condition(words))


def test_tacos_loss_by_hand() -> None:
    torch.manual_seed(0)
    x, pooled = torch.rand(2, 3, 8, 8), torch.randn(2, 3)
    codec, objective = Fixed(), losses.TacoObjective(perceptual=Far(), images=Colours())
    batch = batch_of(x, [0, MAX_LEVEL], pooled)
    ((part, loss),) = objective.turns(codec, batch, 0)
    assert part == "codec" and codec.seen == [batch.condition]
    each = []
    for trade in (0.0004, 0.016):
        bpp = 510 / 64
        error = 255**2 * (0.1**2 + 0.05**2) / 3
        each.append(
            (bpp + trade * error + 3.5 * (0.1 + 0.05) / 3) * (trade / math.sqrt(0.0004 * 0.016)) ** -0.45
        )
    e = x.mean((2, 3))
    e_hat = e + torch.tensor([0.1, 0.05, 0.0])
    unit, unit_hat = (v / v.norm(dim=1, keepdim=True) for v in (e, e_hat))
    logits = math.exp(2.6592) * unit_hat @ (pooled / pooled.norm(dim=1, keepdim=True)).T
    own = logits.diagonal()
    nats = ((logits.logsumexp(1) - own).mean() + (logits.logsumexp(0) - own).mean()) / 2
    joint = nats + 40 * (unit_hat - unit).square().sum().sqrt()
    assert loss.item() == pytest.approx(sum(each) / 2 + 0.0025 * joint.item(), rel=1e-5)
    loss.backward()
    assert codec.shift.grad is not None and codec.shift.grad.isfinite()
    assert not any(parameter.requires_grad for parameter in objective.parameters())


def test_tacos_words_count() -> None:
    """Pictures in the colours of their texts: the words of another picture cost more."""
    x = torch.tensor([[0.8, 0.1, 0.1], [0.1, 0.1, 0.8]])[:, :, None, None].expand(2, 3, 8, 8)
    pooled = torch.tensor([[1.0, 0.0, 0.0], [0.0, 0.0, 1.0]])
    objective = losses.TacoObjective(perceptual=Far(), images=Colours())
    ((_, right),) = objective.turns(Fixed(), batch_of(x, [400, 400], pooled), 0)
    ((_, wrong),) = objective.turns(Fixed(), batch_of(x, [400, 400], pooled.flip(0)), 0)
    assert wrong > right + 0.01
    for condition in (None, Condition()):  # without words the pictures are compared, and nothing else
        ((_, without),) = objective.turns(Fixed(), Batch(x, torch.tensor([400, 400]), condition), 0)
        nats = losses.contrastive(Colours()(Fixed()(x, x).x_hat), pooled)
        assert without.item() == pytest.approx(right.item() - 0.0025 * nats.item(), rel=1e-5)


def test_taco_says_what_it_is_made_of() -> None:
    objective = losses.TacoObjective(perceptual=Far(), images=Colours(), joint_weight=0.5)
    assert objective.description() == {
        "objective": "TacoObjective",
        "perceptual": "mean distance",
        "images": "mean colours",
        "lambdas": [0.0004, 0.016],
        "perceptual_weight": 3.5,
        "joint_weight": 0.5,
        "image_weight": 40.0,
    }
    assert objective.notes() == [] and objective.partners() == {}
    assert losses.Objective((0.01, 0.01)).description() == {"objective": "Objective", "lambdas": [0.01, 0.01]}


def test_tacos_networks_are_found_by_the_towers_name(monkeypatch: pytest.MonkeyPatch) -> None:
    tower = small_tower()
    monkeypatch.setattr(taco, "load_image_encoder", lambda: tower)
    monkeypatch.setattr("trifocal.losses.perceptual.find_perceptual", Far)
    objective = losses.TacoObjective("compact")
    assert objective.description()["images"] == "the bundled image encoder"
    assert isinstance(objective.perceptual, Far)
    x = torch.rand(2, 3, 32, 48)
    torch.testing.assert_close(objective.images(x), tower(x).pooled)
    monkeypatch.setattr("trifocal.text.clip.ClipImageEncoder", lambda name: nn.Linear(1, len(name)))
    found = losses.TacoObjective("a/clip", perceptual=Far()).images
    assert isinstance(found, nn.Linear) and found.out_features == 6


def test_a_few_steps_lower_tacos_loss() -> None:
    torch.manual_seed(0)
    codec = small_codec().network.train()
    objective = losses.TacoObjective(perceptual=losses.EncoderDistance(small_tower()), images=Colours())
    x = torch.from_numpy(np.stack([random_rgb(64, 64, seed=n) for n in range(2)])).permute(0, 3, 1, 2) / 255
    batch = batch_of(x, [200, 600], torch.randn(2, 3))
    optimiser = torch.optim.Adam(codec.parameters(), 2e-3)
    seen = []
    for step in range(15):
        ((_, loss),) = objective.turns(codec, batch, step)
        optimiser.zero_grad()
        loss.backward()
        optimiser.step()
        seen.append(loss.item())
    assert np.mean(seen[-3:]) < 0.9 * np.mean(seen[:3])


# ── in a run ──


class Substitute(losses.Objective):
    """One whose judge stands in for another."""

    def __init__(self) -> None:
        super().__init__()
        self.perceptual = Far()
        self.perceptual.note = "Far takes the place of LPIPS."


def test_a_run_says_what_judges_and_writes_it_down(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    for number in range(3):
        Image.fromarray(random_rgb(72, 72, seed=number)).save(tmp_path / f"{number}.png")
    recipe = replace(presets.find("compact").recipe, batch=1, crop=64)
    preset = presets.Preset(
        "small",
        9,
        "for tests",
        small_codec,
        recipe,
        "small.safetensors",
        Substitute,
    )
    monkeypatch.setattr(presets, "PRESETS", (preset,))
    said: list[str] = []
    weights = train("small", [tmp_path], tmp_path / "run", steps=1, every=99, note=said.append)
    assert said[0] == "Far takes the place of LPIPS." and said.count(said[0]) == 1
    record = json.loads(weights.with_suffix(".json").read_text())
    assert record["objective"] == "Substitute" and record["perceptual"] == "mean distance"
