"""HiFiC's networks and Cross-modal's adversarial training: sizes, blocks, discriminator, rate target, and
both training stages.
"""

import copy
import json
import math
from dataclasses import asdict, replace
from typing import Any

import pytest
import torch
from PIL import Image
from torch import nn
from typer.testing import CliRunner

from helpers.images import random_rgb
from helpers.text import TEXT_CHANNELS, random_text_embedding
from trifocal import presets, recipes
from trifocal.cli import app
from trifocal.codecs.cross_modal import cross_modal, cross_modal_cheng2020
from trifocal.errors import OptionError
from trifocal.losses import (
    CrossModalObjective,
    Discriminator,
    RateTarget,
    discriminator_loss,
    generator_loss,
)
from trifocal.training import train
from trifocal.transforms.hific import (
    HificAnalysis,
    HificHyperAnalysis,
    HificHyperSynthesis,
    HificSynthesis,
    channel_norm,
)
from trifocal.transforms.ssa import SemanticSpatialBlock
from trifocal.types import Batch, Condition, TextEmbedding
from trifocal.weights import read_weights


class SquaredError(nn.Module):
    """A fake perceptual network with a gradient with respect to the image."""

    title = "squared error"

    def forward(self, x_hat: torch.Tensor, x: torch.Tensor) -> torch.Tensor:
        return (x_hat - x).square().flatten(1).mean(1)


def size_of(network: nn.Module) -> int:
    return sum(parameter.numel() for parameter in network.parameters())


def blocks_of(network: nn.Module) -> list[SemanticSpatialBlock]:
    return [block for block in network.modules() if isinstance(block, SemanticSpatialBlock)]


def convolutions_of(network: nn.Module) -> list[nn.Conv2d]:
    return [layer for layer in network.modules() if isinstance(layer, nn.Conv2d)]


def convolution(inputs: int, outputs: int, kernel: int, normed: bool = True) -> int:
    """The number of parameters of a convolution and the ChannelNorm after it."""
    return outputs * (inputs * kernel**2 + 1) + 2 * outputs * normed


@pytest.fixture
def without_initialisation(monkeypatch):
    """Build large networks quickly: memory is allocated, but not filled."""
    monkeypatch.setattr(nn.init, "kaiming_uniform_", lambda tensor, *rest, **more: tensor)


def test_published_sizes(without_initialisation):
    """Mentzer et al. 2020, figure 2: 181 million parameters without the discriminator."""
    widths = [60, 120, 240, 480, 960]
    analysis = convolution(3, 60, 7) + convolution(960, 220, 3, normed=False)
    analysis += sum(convolution(2 * w // 2, 2 * w, 3) for w in widths[:-1])
    synthesis = 2 * 220 + convolution(220, 960, 3) + 9 * 2 * convolution(960, 960, 3)
    synthesis += sum(convolution(2 * w, w, 3) for w in widths[:-1]) + convolution(60, 3, 7, normed=False)
    hyper = convolution(220, 320, 3, normed=False) + 2 * convolution(320, 320, 5, normed=False)
    hyper += 2 * (2 * convolution(320, 320, 5, normed=False) + convolution(320, 220, 3, normed=False))
    assert size_of(HificAnalysis()) == analysis
    assert size_of(HificSynthesis()) == synthesis
    assert size_of(HificHyperAnalysis()) + size_of(HificHyperSynthesis()) == hyper
    assert analysis + synthesis + hyper == pytest.approx(181.5e6, rel=0.001)


def test_published_discriminator_size():
    discriminator = Discriminator(220, 512)
    shapes = [tuple(layer.weight.shape) for layer in convolutions_of(discriminator.features)]
    assert shapes == [(64, 15, 4, 4), (128, 64, 4, 4), (256, 128, 4, 4), (512, 256, 4, 4)]
    assert discriminator.latent.weight.shape == (12, 220, 3, 3)


def test_presets_have_the_published_sizes(without_initialisation):
    whole, other = cross_modal().network, cross_modal_cheng2020().network
    assert [block.mask_features.in_channels for block in blocks_of(whole)] == [960, 480, 240, 120, 60]
    assert sum(map(size_of, blocks_of(whole))) == pytest.approx(28.3e6, rel=0.01) and size_of(
        whole
    ) == pytest.approx(209.8e6, rel=0.01)
    assert whole.entropy.latent_channels == 220 and whole.receptive_field == 432
    assert [block.mask_features.in_channels for block in blocks_of(other)] == [192, 192, 192, 3]


def test_channel_norm_depends_on_its_own_position_only():
    torch.manual_seed(0)
    x = torch.randn(2, 3, 3, 16)
    other = x.clone()
    other[:, 1, 1] += 5 * torch.randn(2, 16)
    norm = channel_norm(16)
    changed = (norm(x) != norm(other)).any(dim=-1)
    assert changed[:, 1, 1].all() and changed.sum() == 2
    expected = (x - x.mean(-1, keepdim=True)) / (x.var(-1, keepdim=True, correction=0) + 1e-3).sqrt()
    assert torch.allclose(norm(x), expected, atol=1e-5)


@pytest.fixture
def judge():
    torch.manual_seed(1)
    return Discriminator(6, TEXT_CHANNELS, width=4)


def test_discriminator_depends_on_image_latent_and_text(judge):
    judge.eval()
    x, y_hat, words = torch.rand(2, 3, 64, 96), torch.randn(2, 4, 6, 6), random_text_embedding(2)
    logits = judge(x, y_hat, words)
    assert logits.shape == (2, 6, 10)
    for other in (judge(1 - x, y_hat, words), judge(x, -y_hat, words), judge(x, y_hat, words.rolled())):
        assert not torch.allclose(other, logits)
    nothing = TextEmbedding(words.tokens, words.mask, torch.zeros_like(words.pooled))
    assert torch.equal(judge(x, y_hat, None), judge(x, y_hat, nothing))


def test_spectral_norms_of_the_discriminator_are_one(judge):
    with torch.no_grad():
        for name, parameter in judge.named_parameters():
            if name.endswith("weight.original"):
                parameter.mul_(7)
        for _ in range(60):
            judge(torch.rand(1, 3, 64, 64), torch.randn(1, 4, 4, 6), random_text_embedding(1))
    layers = convolutions_of(judge.eval())
    assert len(layers) == 7
    for layer in layers:
        assert torch.linalg.matrix_norm(layer.weight.flatten(1), 2).item() == pytest.approx(1, abs=0.02)


class Recorder(nn.Module):
    """A discriminator that returns 1, 2 and 3 for real, decoded and mismatched images; keeps its inputs."""

    def forward(self, x, y_hat, words):
        self.seen = x, y_hat, words
        count = len(x) // (2 if words is None or len(x) == 2 else 3)
        return torch.arange(1.0, 4.0)[: len(x) // count].repeat_interleave(count)[:, None, None]


def test_discriminator_gets_mismatched_texts():
    x, x_hat, y_hat, words = (
        torch.rand(3, 3, 8, 8),
        torch.rand(3, 3, 8, 8),
        torch.rand(3, 1, 1, 2),
        random_text_embedding(3),
    )
    recorder = Recorder()
    loss = discriminator_loss(recorder, x, x_hat, y_hat, words)
    pictures, latents, said = recorder.seen
    assert torch.equal(pictures, torch.cat([x, x_hat, x]))
    assert torch.equal(latents, torch.cat([y_hat] * 3))
    assert torch.equal(said.pooled, torch.cat([words.pooled, words.pooled, words.pooled[[2, 0, 1]]]))

    def cost(logit: float, real: bool) -> float:
        chance = 1 / (1 + math.exp(-logit))
        return -math.log(chance if real else 1 - chance)

    assert loss.item() == pytest.approx(cost(1, True) + (cost(2, False) + cost(3, False)) / 2)
    assert discriminator_loss(recorder, x, x_hat, y_hat, words, "hinge").item() == pytest.approx(
        0 + (3 + 4) / 2
    )
    assert discriminator_loss(recorder, x, x_hat, y_hat, None, "hinge").item() == pytest.approx(0 + 3)


def test_equal_texts_are_not_mismatched():
    """A batch of one, and images with the same text, have no mismatched pairs."""
    x, y_hat, words = torch.rand(2, 3, 8, 8), torch.rand(2, 1, 1, 2), random_text_embedding(1)
    twice = TextEmbedding(*(part.expand(2, *part.shape[1:]) for part in vars(words).values()))
    for count, said in ((1, words), (2, twice)):
        loss = discriminator_loss(Recorder(), x[:count], x[:count], y_hat[:count], said, "hinge")
        assert loss.item() == pytest.approx(0 + 3)


def test_codec_loss_by_hand():
    logits = torch.tensor([[[0.0, 2.0]], [[-1.0, -1.0]]])
    bce = [-math.log(1 / (1 + math.exp(-value))) for value in (0, 2, -1)]
    assert generator_loss(logits, "bce").tolist() == pytest.approx([(bce[0] + bce[1]) / 2, bce[2]])
    assert generator_loss(logits, "hinge").tolist() == [-1.0, 1.0]


def test_rate_target_selects_the_rate_weight():
    rate, level = RateTarget(), torch.tensor([80, 240, 400, 720])
    late, early = rate.warm_steps, 0
    middle = math.sqrt(0.14 * 0.30)
    assert rate.target(level, late).tolist() == pytest.approx([0.14, middle, 0.30, 0.45])
    assert rate.target(level, early)[0].item() == pytest.approx(0.20)
    ends = rate.target(torch.tensor([0, 800]), late)
    assert 0.11 < ends[0] < 0.14 and 0.45 < ends[1] < 0.5
    target = rate.target(level, late)
    assert rate.weight(1.01 * target, level, late).tolist() == pytest.approx([2, math.sqrt(2), 1, 0.5])
    assert rate.weight(0.99 * target, level, late).tolist() == [1 / 16] * 4
    assert rate.weight(1.5 * target, level, early).tolist() == pytest.approx([1, math.sqrt(0.5), 0.5, 0.25])
    assert rate.weight(1.4 * target, level, early).tolist() == [1 / 32] * 4
    uneven = target * torch.tensor([2.5, 0.6, 0.6, 0.6])  # in the mean too many bits
    assert rate.weight(uneven, level, late)[1].item() == pytest.approx(math.sqrt(2))


def small():
    torch.manual_seed(0)
    return cross_modal(
        width=4, latent_channels=6, hyper_channels=4, residual_blocks=1, text_channels=TEXT_CHANNELS
    )


def smooth_batch(count: int) -> Batch:
    """Smooth images, for which a few steps lower the loss."""
    random = torch.Generator().manual_seed(0)
    x = nn.functional.interpolate(
        torch.rand(count, 3, 4, 4, generator=random), size=(64, 64), mode="bilinear"
    )
    return Batch(x, torch.linspace(0, 800, count).long(), Condition(random_text_embedding(count)))


def gradients(network: nn.Module) -> list[torch.Tensor | None]:
    return [None if p.grad is None else p.grad.clone() for p in network.parameters()]


def test_codec_and_discriminator_are_updated_separately(judge):
    codec, batch = small().network.train(), smooth_batch(3)
    objective = CrossModalObjective(judge, SquaredError())
    assert objective.auxiliary_networks() == {"discriminator": judge}
    turns = objective.losses(codec, batch, 0)
    part, loss = next(turns)
    loss.backward()
    assert part == "codec" and all(gradient is None for gradient in gradients(judge))
    assert all(gradient is not None for gradient in gradients(codec.analysis))
    before = gradients(codec)
    part, loss = next(turns)
    loss.backward()
    assert part == "discriminator" and all(gradient is not None for gradient in gradients(judge))
    for old, new in zip(before, gradients(codec), strict=True):
        assert (old is new is None) or (old is not None and new is not None and torch.equal(old, new))
    assert next(turns, None) is None


def test_adversarial_gradient_reaches_the_image_but_not_the_latent(judge):
    codec, batch = small().network.train(), smooth_batch(2)
    objective = CrossModalObjective(judge, SquaredError(), adversary_weight=1.0)
    output = codec(batch.x, batch.level, batch.condition)
    output.y_hat.retain_grad()
    x_hat = output.x_hat.detach().requires_grad_()
    fooled = objective.adversarial_loss(judge, replace(output, x_hat=x_hat), random_text_embedding(2))
    fooled.sum().backward()
    assert x_hat.grad is not None and x_hat.grad.any() and output.y_hat.grad is None


def test_stage_without_text():
    codec, batch = small().network.train(), smooth_batch(2)
    objective = CrossModalObjective(Discriminator(6, TEXT_CHANNELS, width=4), SquaredError())
    for condition in (None, Condition()):
        losses = dict(objective.losses(codec, Batch(batch.x, batch.level, condition), 0))
        assert all(torch.isfinite(loss) for loss in losses.values()) and len(losses) == 2


@pytest.mark.parametrize("generator", [True, False])
@pytest.mark.parametrize("discriminator", [True, False])
def test_text_is_left_out_of_either_side(generator, discriminator):
    """The ablations of the paper's Table 1; a side that reads the text passes a gradient to it."""
    network, batch = small().network.train(), smooth_batch(3)
    assert batch.condition is not None and batch.condition.text is not None
    words = replace(batch.condition.text, pooled=batch.condition.text.pooled.clone().requires_grad_())
    batch = replace(batch, condition=Condition(words))
    seen = []

    def recording(x, level, condition):
        seen.append(condition)
        return network(x, level, condition)

    codec: Any = recording

    objective = CrossModalObjective(
        Discriminator(6, TEXT_CHANNELS, width=4),
        SquaredError(),
        generator_text=generator,
        discriminator_text=discriminator,
    )
    for part, loss in objective.losses(codec, batch, 0):
        words.pooled.grad = None
        loss.backward()
        reads = discriminator or (generator and part == "codec")
        assert (words.pooled.grad is not None) is reads
    assert seen == [batch.condition if generator else None]
    record = objective.description()
    assert (record["generator_text"], record["discriminator_text"]) == (generator, discriminator)


@pytest.mark.parametrize("game", [None, "bce", "hinge"], ids=["stage 1", "bce", "hinge"])
def test_training_lowers_the_losses(game, judge):
    codec, batch = small().network.train(), smooth_batch(3)
    objective = CrossModalObjective(judge if game else None, SquaredError(), game=game or "bce")
    parts = {"codec": codec, **objective.auxiliary_networks()}
    optimisers = {name: torch.optim.Adam(part.parameters(), 3e-3) for name, part in parts.items()}
    losses: dict[str, list[float]] = {name: [] for name in parts}
    for step in range(25):
        for part, loss in objective.losses(codec, batch, step):
            optimisers[part].zero_grad()
            loss.backward()
            optimisers[part].step()
            losses[part].append(loss.item())
    for run in losses.values():
        assert len(run) == 25 and sum(run[-5:]) < 0.9 * sum(run[:5])


def test_record_describes_the_objective(judge):
    first = CrossModalObjective(None, SquaredError()).description()
    second = CrossModalObjective(judge, SquaredError()).description()
    assert first["objective"] == "CrossModalObjective" and first["perceptual"] == "squared error"
    assert (first["stage"], second["stage"]) == (1, 2) and "adversary_weight" not in first
    assert second["adversary_weight"] == 0.15 and first["perceptual_weight"] == 1
    assert first["mse_weight"] == 0.075 / 32 and first["rate"] == asdict(RateTarget())


def test_perceptual_network_is_frozen(judge):
    judged = nn.Conv2d(3, 1, 1)

    class Network(SquaredError):
        def __init__(self) -> None:
            super().__init__()
            self.layer = copy.deepcopy(judged)

        def forward(self, x_hat, x):
            return super().forward(self.layer(x_hat), self.layer(x))

    objective = CrossModalObjective(judge, Network())
    assert not any(p.requires_grad for p in objective.perceptual.parameters())
    assert all(p.requires_grad for p in judge.parameters())


@pytest.fixture
def staged(short_validation, monkeypatch, tmp_path):
    """A preset with two stages, and a folder of training images."""
    recipe = replace(recipes.HIFIC, batch=2, crop=64, learning_rate=1e-3, objective={})
    preset = presets.Preset(
        "small",
        9,
        "for tests",
        small,
        recipe,
        "small.safetensors",
        objective=lambda: CrossModalObjective(None, SquaredError()),
        stages=(lambda: CrossModalObjective(Discriminator(6, TEXT_CHANNELS, width=4), SquaredError()),),
    )
    whole = replace(preset, name="whole", stages=())
    monkeypatch.setattr(presets, "PRESETS", (preset, whole))
    data = tmp_path / "data"
    data.mkdir()
    for number in range(4):
        Image.fromarray(random_rgb(72, 70, seed=number)).save(data / f"{number}.png")
    return data


def test_two_stages_of_training(staged, tmp_path):
    first = train("small", [staged], tmp_path / "one", steps=2, every=99)
    second = train("small", [staged], tmp_path / "two", stage=2, steps=2, every=99, start=first)
    for weights, stage in ((first, 1), (second, 2)):
        record = json.loads(weights.with_suffix(".json").read_text())
        assert record["stage"] == stage and record["objective"] == "CrossModalObjective"
    assert any(not torch.equal(a, b) for a, b in zip(*map(trained, (first, second)), strict=True))
    checkpoint = torch.load(tmp_path / "two" / "checkpoint.pt", weights_only=True)
    assert checkpoint["partners"].keys() == {"discriminator"}
    untrained = Discriminator(6, TEXT_CHANNELS, width=4).state_dict()
    learned = checkpoint["partners"]["discriminator"]
    assert learned.keys() == untrained.keys()
    train("small", [staged], tmp_path / "two", stage=2, steps=3, every=99, resume=True)
    again = torch.load(tmp_path / "two" / "checkpoint.pt", weights_only=True)
    moved = (again["partners"]["discriminator"]["head.bias"] - learned["head.bias"]).abs()
    assert 0 < moved < 0.01, "it went on from where it was"
    with pytest.raises(OptionError, match="another stage"):
        train("small", [staged], tmp_path / "two", stage=1, steps=9, resume=True)


def trained(weights):
    return [tensor for name, tensor in sorted(read_weights(weights).items()) if "analysis" in name]


def test_missing_training_stages_are_refused(staged, tmp_path):
    with pytest.raises(OptionError, match="--start"):
        train("small", [staged], tmp_path / "run", stage=2, steps=1)
    with pytest.raises(OptionError, match="stages 1 to 2, not 3"):
        train("small", [staged], tmp_path / "run", stage=3, steps=1)
    with pytest.raises(OptionError, match="one stage; leave --stage out"):
        train("whole", [staged], tmp_path / "run", stage=2, steps=1)


def test_stage_option_of_the_command_line(staged, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    runner = CliRunner()
    data = ["--data", str(staged), "--steps", "1"]
    refused = runner.invoke(app, ["train", "small", *data, "--stage", "2"])
    assert refused.exit_code == 1 and "--start" in refused.output
    for more, folder in (
        ([], "small"),
        (["--stage", "2", "--start", "runs/small/small.safetensors"], "small-stage2"),
    ):
        result = runner.invoke(app, ["train", "small", *data, *more])
        assert result.exit_code == 0, result.output
        assert (tmp_path / "runs" / folder / "small.safetensors").exists()
