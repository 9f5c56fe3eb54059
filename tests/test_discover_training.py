"""The training of DISCOVER: equation 4, masks, and both stages of a small preset."""

import json
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from helpers.diffusion import FOLDER, N, make_stable_diffusion, small_discover, tiny_discover
from helpers.images import random_rgb
from trifocal.codecs.diffusion_codec import DiffusionCodec
from trifocal.container import Component
from trifocal.losses.discover import DiscoverObjective, random_blocks, second_stage
from trifocal.pictures import Picture
from trifocal.presets import find, load
from trifocal.recipes import DISCOVER, DISCOVER_DECODER
from trifocal.training import train
from trifocal.training.validation import calibrate
from trifocal.types import Batch, Condition, DiffusionOutput
from trifocal.weights import read_weights


class Fixed(nn.Module):
    """A codec with one bit per pixel, a latent error of 0.5 and a noise error of 0.25."""

    def __init__(self) -> None:
        super().__init__()
        self.conditions: list[Condition | None] = []

    def forward(self, x: Tensor, level: Tensor, condition: Condition | None) -> DiffusionOutput:
        self.conditions.append(condition)
        bits = torch.full((len(x),), float(x.shape[2] * x.shape[3]))
        each = torch.ones(len(x))
        return DiffusionOutput(x, x, bits, latent_error=0.5 * each, noise_error=0.25 * each)


def loss(objective: DiscoverObjective, codec: nn.Module, level: int = 400) -> float:
    batch = Batch(torch.rand(3, 3, 128, 64), torch.full((3,), level))
    ((part, value),) = objective.losses(codec, batch, 0)
    assert part == "codec"
    return float(value)


@pytest.mark.parametrize("rate", [1.0, 2.0, 4.0, 8.0])
def test_the_loss_is_equation_4_over_the_weight_of_the_rate(rate: float) -> None:
    found = loss(DiscoverObjective((rate, rate)), Fixed())
    assert found == pytest.approx((rate * 1 + 2 * 0.25 + 0.5) / rate)
    assert DiscoverObjective().description() | {"lambdas": [8.0, 1.0], "noise_weight": 2.0} == (
        DiscoverObjective().description()
    )


def test_the_second_stage_has_masks_and_no_rate() -> None:
    codec, objective = Fixed(), second_stage((2.0, 2.0))
    assert loss(objective, codec) == pytest.approx((2 * 0.25 + 0.5) / 2)
    (condition,) = codec.conditions
    assert condition is not None and condition.kept is not None and condition.kept.shape == (3, 8, 4)
    loss(DiscoverObjective(), codec)
    assert codec.conditions[1] is None


def test_masks_cover_up_to_their_share_in_blocks() -> None:
    kept = random_blocks(torch.zeros(()).expand(200, 3, 512, 512), 0.5)
    assert kept.dtype == torch.bool and kept.shape == (200, 32, 32)
    blocks = kept.reshape(200, 8, 4, 8, 4).float().mean((2, 4))
    assert set(blocks.unique().tolist()) == {0.0, 1.0}
    lost = 1 - blocks.mean((1, 2))
    assert lost.min() < 0.05 and 0.45 < lost.max() <= 0.5 and abs(float(lost.mean()) - 0.25) < 0.03
    assert random_blocks(torch.rand(2, 3, 64, 64), 0.0).all()


@pytest.fixture
def networks(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    make_stable_diffusion(tmp_path / "networks" / FOLDER)
    monkeypatch.setenv("TRIFOCAL_NETWORKS", str(tmp_path / "networks"))
    monkeypatch.setattr("trifocal.codecs.discover.STEPS", (3, 2))
    return tmp_path


def test_forward_gives_gradients_to_what_is_trained(networks: Path) -> None:
    network: Any = small_discover().network.train()
    x, level = torch.rand(2, 3, 128, 64), torch.tensor([200, 600])
    output: Any = network(x, level)
    assert output.x_hat.numel() == 0 and output.y_hat.shape == (2, 8, 4, 16 + N)
    (output.bits.sum() / 1000 + output.latent_error.sum() + 2 * output.noise_error.sum()).backward()
    missing = {name for name, p in network.named_parameters() if p.grad is None}
    assert not missing
    assert float(network.synthesis.control.controlnet_cond_embedding.conv_in.weight.grad.abs().sum()) > 0
    assert not any("unet" in name or "vae" in name for name in network.state_dict())


def test_masked_positions_have_no_influence_and_validation_repeats(networks: Path) -> None:
    network: Any = small_discover().network.eval()
    y_hat, kept = torch.randn(1, 8, 8, 16 + N), torch.ones(1, 8, 8, dtype=torch.bool)
    kept[:, :4] = False
    changed = y_hat.clone()
    changed[:, :4, :, :16] += 1
    with torch.inference_mode():
        assert torch.equal(network.decoded_latent(y_hat, kept), network.decoded_latent(changed, kept))
        assert not torch.equal(network.decoded_latent(y_hat), network.decoded_latent(changed))
        x, level = torch.rand(1, 3, 64, 64), torch.tensor([400])
        first, second = network(x, level), network(x, level)
    assert torch.equal(first.noise_error, second.noise_error) and first.x_hat.shape == x.shape


@pytest.mark.filterwarnings("ignore::UserWarning")
def test_both_stages_encode_strip_and_decode(networks: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The second stage changes the decoder only, and decodes the files of the first."""
    preset = replace(
        find("discover"),
        build=tiny_discover,
        recipe=replace(DISCOVER, batch=2, crop=64, warmup=1),
        stage_recipes=(replace(DISCOVER_DECODER, batch=2, crop=64, warmup=1),),
    )
    monkeypatch.setattr("trifocal.presets.PRESETS", (preset,))
    monkeypatch.setattr("trifocal.training.tasks.codec.calibrate", partial(calibrate, batches=1))
    (networks / "data").mkdir()
    for number in range(3):
        Picture(random_rgb(80, 72, seed=number)).save(networks / "data" / f"{number}.png")
    monkeypatch.chdir(networks)
    rate = {"quality": 50.0, "lambdas": [4.0, 4.0]}  # as `--lambda 4`
    first = train("discover", ["data"], "one", steps=3, fields=rate)
    second = train("discover", ["data"], "two", stage=2, steps=3, start=first, fields=rate)

    before, after = read_weights(first), read_weights(second)
    own = {"analysis", "entropy", "synthesis"}
    assert {name.partition(".")[0] for name in before} == own
    state = torch.load("one/checkpoint.pt", weights_only=True)
    trained = small_discover().network.state_dict().keys()
    assert state["module"].keys() == trained == before.keys()
    assert {name.removeprefix("module.") for name in state["averaged"]} - {"n_averaged"} == trained
    changed = {name for name in before if not torch.equal(before[name], after[name])}
    assert changed and all(name.startswith("synthesis.") for name in changed)
    assert {name.split(".")[1] for name in changed} == {"latent", "control"}

    record = json.loads(Path("two/discover.json").read_text())
    assert record["diffusion"] == "stabilityai/stable-diffusion-2-1-base" and record["masked"] == 0.5
    assert record["sampler"] == "DDIM, eta 0" and record["diffusers"][0].isdecimal()
    head, row = (line.split(",") for line in Path("one/discover.csv").read_text().splitlines())
    assert {"bpp", "latent", "noise", "held_out_noise"} <= {*head} and len(row) == len(head)

    decoder = load("discover", weights=second)
    assert isinstance(decoder, DiffusionCodec) and decoder.only_level == 400
    stream = load("discover", weights=first).encode(
        Picture(random_rgb(100, 80)), components=[Component("car", (1, 1, 3, 4))]
    )
    assert decoder.decode(stream).missing == ()
    assert decoder.decode(stream.only("car")).missing == ("the rest",)
