"""UG-ICM on MLIC++ and on Ballé's hyperprior: bytes, tiles, regions, damage, and preferences."""

from collections.abc import Iterator

import numpy as np
import pytest
import torch
from torch import nn

from helpers.codec_checks import (
    check_best_effort_fills_damaged_tile,
    check_forged_payloads,
    check_forward_matches_decode,
    check_tiled_analysis,
    check_tiles_leave_no_seams,
)
from helpers.codecs import randomise_weights
from helpers.images import random_rgb
from helpers.scripts import load_script
from helpers.summation_order import count_mismatches, random_images, with_float32, with_reordered_layers
from trifocal.codecs.codec import Codec
from trifocal.codecs.ug_icm import quality_steps, ug_icm, ug_icm_hyperprior
from trifocal.container import Bitstream
from trifocal.entropy.mlic import MlicContext, MlicWidths
from trifocal.entropy.mlic_attention import LocalContext
from trifocal.pictures import Picture, canvas
from trifocal.presets import find
from trifocal.transforms.bmshj2018 import BMSHJ_RECEPTIVE_FIELD, BmshjAnalysis, PreferredBmshjSynthesis
from trifocal.transforms.mlic import MLIC_RECEPTIVE_FIELD, MlicAnalysis, PreferredMlicSynthesis
from trifocal.transforms.preference import PreferenceCode
from trifocal.types import Condition

N, M, SLICES, CODE = 8, 12, 3, 16
WIDTHS = MlicWidths(channel=(8, 6), parameters=(10, 8, 6), residual=(8, 6))


def small(name: str, seed: int = 0) -> Codec:
    torch.manual_seed(seed)
    if name == "hyperprior":
        return randomise_weights(ug_icm_hyperprior(N, M, CODE), seed)
    return randomise_weights(ug_icm(N, M, SLICES, WIDTHS, CODE), seed)


@pytest.fixture(scope="module")
def mlic() -> Codec:
    return small("mlic")


@pytest.fixture(scope="module", params=["mlic", "hyperprior"])
def codec(request: pytest.FixtureRequest) -> Codec:
    return small(request.param)


@pytest.fixture(scope="module")
def tiled(codec: Codec) -> Iterator[Bitstream]:
    """The file of an image of nine tiles."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(canvas, "TILE", 128)
        yield codec.encode(Picture(random_rgb(300, 270, seed=5)), quality=60)


def context() -> MlicContext:
    torch.manual_seed(1)
    return MlicContext(M, SLICES, quality_steps(), WIDTHS)


def test_decoding_gives_what_forward_gives(codec):
    check_forward_matches_decode(codec)
    check_forged_payloads(codec, Picture(random_rgb(64, 64)), 2)


def test_tiles_and_damage(tiled, codec):
    check_tiles_leave_no_seams(tiled, codec)
    check_best_effort_fills_damaged_tile(tiled, codec)
    region = (100, 60, 90, 130)
    part = codec.decode(tiled, region=region).picture.rgb
    whole = codec.decode(tiled).picture.rgb[60:190, 100:190]
    assert part.shape == (130, 90, 3) and np.abs(part.astype(int) - whole).max() <= 1
    check_tiled_analysis(codec)


def test_another_order_of_summation_decodes_the_same(mlic):
    assert count_mismatches(mlic, with_reordered_layers(mlic), random_images(2)) == 0


def test_float32_does_not():
    mlic = small("mlic")
    writing, reading = with_float32(mlic, False), with_float32(mlic, True)
    assert count_mismatches(writing, reading, random_images(3)) > 0


def test_passes_cover_each_value_once():
    parts = context()
    y = torch.arange(1, 1 + 2 * 4 * 6 * M).reshape(2, 4, 6, M).float()
    placed = [parts.put(parts.take(y, step), step) for step in range(parts.passes)]
    assert len(placed) == 2 * SLICES and torch.equal(torch.stack(placed).sum(0), y)
    assert placed[0][0, 0, 1, 0] == y[0, 0, 1, 0], "anchors have an odd row + column"


def test_each_pass_uses_all_earlier_positions_and_none_later():
    """Global attention reaches the farthest corner; values of later passes have no influence."""
    parts = context().double()
    features, level = torch.randn(1, 8, 8, 2 * M).double(), torch.tensor([400])
    for step in range(2, parts.passes):
        known = torch.randn(1, 8, 8, M).double().requires_grad_()
        decoded = torch.stack([parts.put(parts.take(known, s), s) for s in range(step)]).sum(0)
        mean, _ = parts(step, features, decoded, level)
        (grad,) = torch.autograd.grad(mean[:, 0, 0].sum(), known)
        before = M // SLICES * (step // 2)
        assert (grad[0, -2:, -2:, :before] != 0).any(dim=(0, 1)).all()
        assert torch.equal(grad * parts.put(parts.take(torch.ones_like(known), step), step), 0 * grad)
    own = torch.randn(1, 8, 8, M).double().requires_grad_()
    (grad,) = torch.autograd.grad(parts.residual(3, features, own, level).abs().sum(), own)
    assert grad[..., : 2 * M // SLICES].any() and not grad[..., 2 * M // SLICES :].any()


def test_windows_see_the_anchors_near_them():
    layer = LocalContext(4, odd_anchors=True)
    hidden = layer.hidden(4, 6, torch.device("cpu"))
    assert hidden.shape == (24, 1, 1, 25)
    corner = ~hidden[0].reshape(5, 5)  # position 0, 0 is the middle of its window
    assert corner.nonzero().tolist() == [[2, 3], [3, 2], [3, 4], [4, 3]]


@torch.inference_mode()
def test_residuals_belong_to_y_hat(mlic):
    """The decoded latent is off the grid of means and symbols by multiples of 1/256, up to half a step."""
    entropy, y = mlic.network.entropy, mlic.network.analyse(torch.rand(1, 3, 64, 64))
    level = torch.tensor([400])
    stream = entropy.compress(y.numpy(), level.numpy())
    y_hat = torch.from_numpy(entropy.decompress(stream, level.numpy(), (4, 4)))
    steps = (y_hat * entropy.gain(level)).double()
    fine = steps * 256
    assert (fine - fine.round()).abs().max() < 1e-2
    assert ((steps * 16 - (steps * 16).round()).abs() > 1e-2).any()


@torch.inference_mode()
def test_a_preference_changes_the_image_and_not_the_file(codec):
    stream = codec.encode(Picture(random_rgb(64, 48)))
    images = [
        codec.decode(stream, condition=condition).picture.rgb.astype(int)
        for condition in (None, *(Condition(preference=torch.tensor([p])) for p in (0.0, 0.5, 1.0)))
    ]
    assert np.array_equal(images[0], images[1])
    assert (images[1] != images[2]).any() and (images[2] != images[3]).any()
    y_hat, level = torch.randn(2, 4, 4, M), torch.tensor([400, 400])
    both = codec.network.synthesise(y_hat, level, Condition(preference=torch.tensor([0.0, 1.0])))
    people = codec.network.synthesise(y_hat, level)
    assert torch.allclose(both[0], people[0], atol=1e-5) and not torch.allclose(both[1], people[1], atol=1e-5)


def test_the_code_of_a_preference_is_continuous():
    code = PreferenceCode(CODE)
    with torch.inference_mode():
        near, far = code(torch.tensor([0.5, 0.5001])), code(torch.tensor([0.0, 1.0]))
    assert near.shape == (2, CODE)
    assert (near[0] - near[1]).abs().max() < 0.2 * (far[0] - far[1]).abs().max()


def test_exact_arithmetic_costs_few_bits(mlic):
    """The script that measures it, on random weights; docs/training.md has the figure of a trained model."""
    script = load_script("scripts/exact_cost.py")
    x = torch.from_numpy(random_rgb(128, 128)).permute(2, 0, 1)[None].float() / 255
    in_float, exact = (script.bits(mlic.network, x, torch.tensor([400]), exact) for exact in (False, True))
    assert in_float != exact and abs(exact / in_float - 1) < 0.01


def positive(network: nn.Module) -> nn.Module:
    """With weights under which no influence cancels."""
    for parameter in network.double().parameters():
        nn.init.constant_(parameter, 0.1)
    return network


@pytest.mark.parametrize(
    ("analysis", "synthesis", "receptive_field"),
    [
        (MlicAnalysis, PreferredMlicSynthesis, MLIC_RECEPTIVE_FIELD),
        (BmshjAnalysis, PreferredBmshjSynthesis, BMSHJ_RECEPTIVE_FIELD),
    ],
)
def test_receptive_fields(analysis, synthesis, receptive_field):
    size, middle = 320, 160
    x = torch.rand(1, 3, size, size, dtype=torch.float64, requires_grad=True)
    positive(analysis(2, 2))(x)[0, middle // 16, middle // 16].sum().backward()
    y = torch.rand(1, 20, 20, 2, dtype=torch.float64, requires_grad=True)
    positive(synthesis(2, 2, 4))(y, torch.tensor([0]))[0, :, middle, middle].sum().backward()
    assert x.grad is not None and y.grad is not None
    pixels = x.grad.abs().sum((0, 1, 3)).nonzero().flatten()
    latents = 16 * y.grad.abs().sum((0, 2, 3)).nonzero().flatten()
    furthest = [int((seen - middle).abs().max()) for seen in (pixels, latents)]
    assert max(furthest) <= receptive_field < max(furthest) + 32


def test_the_published_sizes():
    """Channels and parameters at full size, counted without memory for the weights."""
    with torch.device("meta"):
        shift = 2 * 4 * 192 * 512
        code = 22 * 512 + 513 * 512
        assert count(PreferenceCode()) == code
        blocks = count(PreferredMlicSynthesis().blocks)
    assert blocks == shift + 320 * 192 * 9 + 7 * 192 * 192 * 9 + 8 * 192 + 321 * 192
    for name in ("ug-icm", "ug-icm-hyperprior"):
        preset = find(name)
        assert preset.takes_preference and not preset.has_weights


def count(network: nn.Module) -> int:
    return sum(parameter.numel() for parameter in network.parameters())
