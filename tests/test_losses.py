"""Training losses, against values that were computed in another way."""

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


def image_pairs(width: int = 96, height: int = 80, noise: float = 0.05) -> tuple[Tensor, Tensor]:
    """Two images and their noisy versions, x_hat and x, each [2, 3, H, W]."""
    rgb = np.stack([random_rgb(width, height, seed=seed) for seed in (1, 2)])
    x = torch.from_numpy(rgb).permute(0, 3, 1, 2).float() / 255
    return (x + noise * torch.randn(x.shape, generator=torch.Generator().manual_seed(0))).clamp(0, 1), x


def small_tower(seed: int = 0) -> ImageEncoder:
    torch.manual_seed(seed)
    return ImageEncoder(widths=(4, 6, 8), depths=(1, 1, 1), embedding=5)


@pytest.fixture
def random_alexnet(monkeypatch: pytest.MonkeyPatch) -> None:
    """AlexNet's features with fixed random weights, instead of a download."""
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
    """No network and no cache, but an image encoder."""
    pytest.importorskip("torchvision")

    def refuse(**_: object) -> None:
        raise OSError("no network")

    monkeypatch.setattr("torchvision.models.alexnet", refuse)
    monkeypatch.setattr(perceptual, "load_image_encoder", small_tower)


def test_lpips_equals_that_of_another_package(random_alexnet: None) -> None:
    functional = pytest.importorskip("torchmetrics.functional.image")
    x_hat, x = image_pairs()
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


def test_encoder_distance_by_its_formula() -> None:
    tower = small_tower()
    x_hat, x = image_pairs()
    value = losses.EncoderDistance(tower)(x_hat, x)
    expected = np.zeros(2)
    with torch.no_grad():
        for one, other in zip(tower(x_hat).feature_maps, tower(x).feature_maps):
            for picture, (a, b) in enumerate(zip(one.numpy(), other.numpy())):
                places = [
                    np.sum((u / np.linalg.norm(u) - v / np.linalg.norm(v)) ** 2)
                    for u, v in zip(a.reshape(-1, a.shape[-1]), b.reshape(-1, b.shape[-1]))
                ]
                expected[picture] += np.mean(places) / 3
    np.testing.assert_allclose(value, expected, rtol=1e-4)
    assert (value > 0).all() and losses.EncoderDistance(tower)(x, x).max() == 0


def test_shared_encoder_is_copied_before_it_is_frozen() -> None:
    tower = small_tower()
    measure = losses.EncoderDistance(tower)
    assert all(parameter.requires_grad for parameter in tower.parameters()) and tower.training
    assert (
        not any(parameter.requires_grad for parameter in measure.parameters())
        and not measure.encoder.training
    )


def test_ms_ssim_equals_that_of_another_package() -> None:
    torchmetrics = pytest.importorskip("torchmetrics")
    x_hat, x = image_pairs(192, 176)
    value = losses.MsSsim()(x_hat, x)
    theirs = torchmetrics.functional.image.multiscale_structural_similarity_index_measure
    expected = 1 - theirs(x_hat, x, data_range=1.0, reduction="none")
    np.testing.assert_allclose(value, expected, atol=1e-5)
    assert losses.MsSsim()(x, x).abs().max() < 1e-5
    with pytest.raises(OptionError, match="crops of 176 pixels a side, not 175"):
        losses.MsSsim()(x_hat[..., :175, :], x[..., :175, :])


def test_ms_ssim_has_a_gradient_for_inverted_images() -> None:
    pytest.importorskip("torchmetrics")
    _, x = image_pairs(192, 176)
    x_hat = (1 - x).requires_grad_()
    value = losses.MsSsim()(x_hat, x)
    value.sum().backward()
    assert x_hat.grad is not None and x_hat.grad.isfinite().all() and (value > 0.5).all()


def test_encoder_distance_replaces_missing_lpips_with_a_notice(offline: None) -> None:
    objective = losses.TacoObjective(images=nn.Identity())
    found = objective.perceptual
    assert isinstance(found, losses.EncoderDistance)
    assert found.title == "distance in the bundled image encoder"
    assert "LPIPS (alex)" in found.notice and found.notice.endswith(
        "The distance in the bundled image encoder replaces it."
    )
    assert objective.notices() == [found.notice]
    assert objective.description()["perceptual"] == found.title


def test_missing_lpips_package_gives_a_notice(offline: None, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "lpips", None)
    assert 'pip install "trifocal[train]"' in losses.find_perceptual().notice
    with pytest.raises(MissingExtra):
        losses.Lpips()


def test_perceptual_loss_is_found_by_name(random_alexnet: None, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(perceptual, "load_image_encoder", small_tower)
    found = [losses.find_perceptual(name) for name in ("lpips-alex", "ms-ssim", "tower")]
    titles = ["LPIPS (alex)", "1 − MS-SSIM", "distance in the bundled image encoder"]
    assert [one.title for one in found] == titles and not any(one.notice for one in found)
    with pytest.raises(OptionError, match="no perceptual loss 'dists'"):
        losses.find_perceptual("dists")  # type: ignore[arg-type]


# ── image and text ──


def test_distances_by_hand() -> None:
    e_hat = torch.tensor([[3.0, 4.0], [0.0, 2.0]])
    e = torch.tensor([[4.0, 3.0], [-2.0, 0.0]])
    assert losses.cosine_distance(e_hat, e).tolist() == pytest.approx([0.1 * (1 - 24 / 25), 0.1])
    assert losses.squared_distance(e_hat, e).tolist() == pytest.approx([2.0, 8.0])
    assert losses.frobenius_distance(e_hat, e).item() == pytest.approx(40 * math.sqrt(10))
    assert losses.frobenius_distance(e_hat, e, 1.0).item() == pytest.approx(math.sqrt(10))


def test_contrastive_loss_by_hand() -> None:
    """Two images with cosines 1, 0.6 and 0, 0.8 to the texts; vector lengths do not count."""
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


def test_contrastive_loss_equals_transformers() -> None:
    modeling = pytest.importorskip("transformers.models.clip.modeling_clip")
    torch.manual_seed(0)
    image, text = torch.randn(5, 7), torch.randn(5, 7)
    cosines = F.cosine_similarity(text[:, None], image[None], dim=-1)
    expected = modeling.image_text_contrastive_loss(losses.image_text.SCALE * cosines)
    torch.testing.assert_close(losses.contrastive(image, text), expected)


def test_joint_loss_sums_both_terms_on_unit_vectors() -> None:
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


class FakeLpips(losses.Perceptual):
    """A fake LPIPS."""

    title = "mean distance"

    def forward(self, x_hat: Tensor, x: Tensor) -> Tensor:
        return (x_hat - x).abs().flatten(1).mean(1)


class FakeImageEncoder(nn.Module):
    """A fake CLIP image encoder: three numbers per image, through a weight that must not be trained."""

    title = "mean colours"

    def __init__(self) -> None:
        super().__init__()
        self.weight = nn.Parameter(torch.eye(3))

    def forward(self, x: Tensor) -> Tensor:
        return x.mean((2, 3)) @ self.weight


class AddingCodec(nn.Module):
    """A fake codec that adds a number to the image, and takes 500 bits."""

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
    codec, objective = AddingCodec(), losses.TacoObjective(perceptual=FakeLpips(), images=FakeImageEncoder())
    batch = batch_of(x, [0, MAX_LEVEL], pooled)
    ((part, loss),) = objective.losses(codec, batch, 0)
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


def test_taco_loss_depends_on_the_text() -> None:
    """Images in the colours of their texts: the text of another image gives a higher loss."""
    x = torch.tensor([[0.8, 0.1, 0.1], [0.1, 0.1, 0.8]])[:, :, None, None].expand(2, 3, 8, 8)
    pooled = torch.tensor([[1.0, 0.0, 0.0], [0.0, 0.0, 1.0]])
    objective = losses.TacoObjective(perceptual=FakeLpips(), images=FakeImageEncoder())
    ((_, right),) = objective.losses(AddingCodec(), batch_of(x, [400, 400], pooled), 0)
    ((_, wrong),) = objective.losses(AddingCodec(), batch_of(x, [400, 400], pooled.flip(0)), 0)
    assert wrong > right + 0.01
    for condition in (None, Condition()):  # without words the pictures are compared, and nothing else
        ((_, without),) = objective.losses(AddingCodec(), Batch(x, torch.tensor([400, 400]), condition), 0)
        nats = losses.contrastive(FakeImageEncoder()(AddingCodec()(x, x).x_hat), pooled)
        assert without.item() == pytest.approx(right.item() - 0.0025 * nats.item(), rel=1e-5)


def test_taco_record_describes_its_losses() -> None:
    objective = losses.TacoObjective(perceptual=FakeLpips(), images=FakeImageEncoder(), joint_weight=0.5)
    assert objective.description() == {
        "objective": "TacoObjective",
        "perceptual": "mean distance",
        "images": "mean colours",
        "lambdas": [0.0004, 0.016],
        "perceptual_weight": 3.5,
        "joint_weight": 0.5,
        "image_weight": 40.0,
    }
    assert objective.notices() == [] and objective.auxiliary_networks() == {}
    assert losses.Objective((0.01, 0.01)).description() == {"objective": "Objective", "lambdas": [0.01, 0.01]}


def test_taco_networks_are_found_by_the_text_encoders_name(monkeypatch: pytest.MonkeyPatch) -> None:
    tower = small_tower()
    monkeypatch.setattr(taco, "load_image_encoder", lambda: tower)
    monkeypatch.setattr("trifocal.losses.perceptual.find_perceptual", FakeLpips)
    objective = losses.TacoObjective("compact")
    assert objective.description()["images"] == "the bundled image encoder"
    assert isinstance(objective.perceptual, FakeLpips)
    x = torch.rand(2, 3, 32, 48)
    torch.testing.assert_close(objective.images(x), tower(x).pooled)
    monkeypatch.setattr("trifocal.text.clip.ClipImageEncoder", lambda name: nn.Linear(1, len(name)))
    found = losses.TacoObjective("a/clip", perceptual=FakeLpips()).images
    assert isinstance(found, nn.Linear) and found.out_features == 6


def test_training_lowers_tacos_loss() -> None:
    torch.manual_seed(0)
    codec = small_codec().network.train()
    objective = losses.TacoObjective(
        perceptual=losses.EncoderDistance(small_tower()), images=FakeImageEncoder()
    )
    x = torch.from_numpy(np.stack([random_rgb(64, 64, seed=n) for n in range(2)])).permute(0, 3, 1, 2) / 255
    batch = batch_of(x, [200, 600], torch.randn(2, 3))
    optimiser = torch.optim.Adam(codec.parameters(), 2e-3)
    seen = []
    for step in range(15):
        ((_, loss),) = objective.losses(codec, batch, step)
        optimiser.zero_grad()
        loss.backward()
        optimiser.step()
        seen.append(loss.item())
    assert np.mean(seen[-3:]) < 0.9 * np.mean(seen[:3])


# ── in a run ──


class SubstituteObjective(losses.Objective):
    """An objective whose perceptual loss replaces another."""

    def __init__(self) -> None:
        super().__init__()
        self.perceptual = FakeLpips()
        self.perceptual.notice = "Far takes the place of LPIPS."


def test_run_reports_and_records_the_perceptual_loss(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
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
        SubstituteObjective,
    )
    monkeypatch.setattr(presets, "PRESETS", (preset,))
    said: list[str] = []
    weights = train("small", [tmp_path], tmp_path / "run", steps=1, every=99, notify=said.append)
    assert said[0] == "Far takes the place of LPIPS." and said.count(said[0]) == 1
    record = json.loads(weights.with_suffix(".json").read_text())
    assert record["objective"] == "SubstituteObjective" and record["perceptual"] == "mean distance"
