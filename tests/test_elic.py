"""ELIC with real files: integer convolutions, ten passes over groups and checkerboards, tiles, bytes, and
training.
"""

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
from helpers.summation_order import count_mismatches, random_images, with_float32, with_reordered_layers
from trifocal.codecs.codec import Codec
from trifocal.codecs.network import CodecNetwork
from trifocal.codecs.taco import GROUPS
from trifocal.codecs.torch_runtime import TorchRuntime
from trifocal.container import Bitstream
from trifocal.entropy import (
    ElicContext,
    EntropyModel,
    ExactNetworks,
    Gain,
    Prior,
    SinglePass,
    integer_network,
)
from trifocal.entropy.checkerboard import put_checkerboard, take_checkerboard
from trifocal.entropy.elic import elic_hyperprior
from trifocal.entropy.integer_networks import to_grid
from trifocal.layers import Conv, Deconv
from trifocal.losses import level_weight, rate_distortion
from trifocal.pictures import Picture, canvas
from trifocal.transforms.elic import (
    ElicAnalysis,
    ElicSynthesis,
    elic_hyper_analysis,
    elic_hyper_synthesis,
    elic_receptive_field,
)

SIZES = (4, 4, 6, 8, 10)
STEPS = torch.logspace(0.6, -0.6, 8)


def small_elic(seed: int = 0, odd_anchors: bool = True) -> Codec:
    torch.manual_seed(seed)
    network = CodecNetwork(
        analysis=ElicAnalysis(12, sum(SIZES), bottlenecks=1),
        entropy=elic_hyperprior(12, SIZES, STEPS, hidden=(12, 8), odd_anchors=odd_anchors),
        synthesis=ElicSynthesis(12, sum(SIZES), bottlenecks=1),
        receptive_field=elic_receptive_field(bottlenecks=1),
    )
    return randomise_weights(Codec(TorchRuntime(network)), seed)


@pytest.fixture(scope="module")
def elic() -> Codec:
    return small_elic()


@pytest.fixture(scope="module")
def mean_scale() -> Codec:
    """The same transforms with a mean–scale hyperprior: two channels of features for each latent channel."""
    torch.manual_seed(3)
    m = 12
    side = ExactNetworks(Prior(m, len(STEPS)), elic_hyper_synthesis(m), SinglePass(m, STEPS))
    entropy = EntropyModel.from_parts(Gain(STEPS, m), elic_hyper_analysis(m, m), side)
    network = CodecNetwork(ElicAnalysis(8, m, 1), entropy, ElicSynthesis(8, m, 1), elic_receptive_field(1))
    return randomise_weights(Codec(TorchRuntime(network)), 3)


@pytest.fixture(params=["elic", "mean_scale"])
def either(request: pytest.FixtureRequest) -> Codec:
    codec: Codec = request.getfixturevalue(request.param)
    return codec


@pytest.mark.parametrize(("kernel", "stride"), [(1, 1), (3, 1), (5, 1), (7, 1), (3, 2), (5, 2)])
@pytest.mark.parametrize("size", [(6, 8), (5, 7), (1, 3)])
def test_integer_convolutions_equal_float_convolutions_on_the_grid(kernel, stride, size):
    torch.manual_seed(0)
    x = to_grid(torch.randn(2, *size, 5, dtype=torch.float64), 12)
    for layer in (Conv(5, 3, kernel, stride), Deconv(5, 3, kernel, stride)):
        y, expected = integer_network(layer)(x), layer.double()(x)
        assert y.shape == expected.shape and y.is_contiguous()
        assert torch.equal(y, to_grid(y, 12)) and (y - expected).abs().max() < 2e-3


def test_convolutions_return_the_expected_sizes():
    x = torch.randn(1, 6, 10, 4)
    assert Conv(4, 7, 5, stride=2)(x).shape == (1, 3, 5, 7)
    assert Deconv(4, 7, 5)(x).shape == (1, 12, 20, 7)


def test_strided_1x1_convolution_and_its_gradient():
    """As a linear layer: torch 2.14 writes out of bounds in the gradient of its own convolution here."""
    torch.manual_seed(0)
    layer, x = Conv(3, 24, 1, stride=2), torch.rand(2, 64, 64, 3, requires_grad=True)
    y = layer(x)
    expected = nn.functional.conv2d(x.permute(0, 3, 1, 2).contiguous(), layer.weight, layer.bias, 2)
    assert torch.allclose(y, expected.permute(0, 2, 3, 1), atol=1e-6)
    y.sum().backward()
    assert x.grad is not None and x.grad[:, ::2, ::2].any() and not x.grad[:, 1::2].any()


def test_convolution_with_inexact_sums_is_refused():
    for layer in (Conv(4, 2, 3), Deconv(4, 2, 3)):
        nn.init.constant_(layer.weight, 2.0**36)
        with pytest.raises(OverflowError, match="2\\^53"):
            integer_network(layer)


@pytest.mark.parametrize("odd", [True, False])
def test_checkerboard_splits_positions_in_two(odd):
    y = torch.arange(1, 1 + 2 * 4 * 6 * 3).reshape(2, 4, 6, 3)
    there = put_checkerboard(take_checkerboard(y, odd), odd)
    row, column = torch.meshgrid(torch.arange(4), torch.arange(6), indexing="ij")
    coloured = ((row + column) % 2 == odd)[None, :, :, None]
    assert torch.equal(there, torch.where(coloured, y, 0))


@pytest.mark.parametrize("odd", [True, False])
def test_ten_passes_cover_each_value_once(odd):
    context = ElicContext(SIZES, 24, STEPS, hidden=(4, 4), odd_anchors=odd)
    y = torch.arange(1, 1 + 2 * 4 * 6 * sum(SIZES)).reshape(2, 4, 6, sum(SIZES)).float()
    parts = [context.put(context.take(y, step), step) for step in range(context.passes)]
    assert len(parts) == 10 and torch.equal(torch.stack(parts).sum(0), y)
    assert sum((part != 0).sum() for part in parts) == y.numel()
    assert parts[0][0, 0, 1, 0] == (y[0, 0, 1, 0] if odd else 0), "the anchors' colour"


def test_each_pass_uses_all_decoded_neighbours():
    """All channels of earlier groups and, for non-anchors, the anchors of their own group."""
    torch.manual_seed(1)
    context = ElicContext(SIZES, 24, STEPS, hidden=(12, 8))
    for step in range(1, context.passes):
        known = torch.randn(1, 8, 8, sum(SIZES), requires_grad=True)
        decoded = torch.stack([context.put(context.take(known, s), s) for s in range(step)]).sum(0)
        mean, index = context(step, torch.randn(1, 8, 8, 24), decoded, torch.tensor([400]))
        assert mean.shape == index.shape == context.take(known, step).shape
        (mean.sum() + index.sum()).backward()
        assert known.grad is not None
        used = (known.grad != 0).any(dim=(0, 1)).any(dim=0)
        begin, end = context.groups[step // 2].start, context.groups[step // 2].stop
        assert used[: end if step % 2 else begin].all() and not used[end if step % 2 else begin :].any()


def test_decoder_with_other_summation_order_and_convolution_agrees(either):
    assert count_mismatches(either, with_reordered_layers(either), random_images(4)) == 0


def test_float32_networks_lose_streams(elic):
    """Shows that the integer networks are necessary."""
    writing, reading = with_float32(elic, False), with_float32(elic, True)
    assert count_mismatches(writing, reading, random_images(3)) > 0


def test_forward_equals_decode_and_estimated_bits_equal_bytes(either):
    check_forward_matches_decode(either)


@torch.inference_mode()
def decoded_by_forward(codec: Codec, picture: Picture) -> np.ndarray:
    x = torch.from_numpy(picture.rgb).permute(2, 0, 1)[None].float() / 255
    x_hat = codec.network(x, torch.tensor([400])).x_hat[0]
    return x_hat.permute(1, 2, 0).mul(255).round().clamp(0, 255).byte().numpy()


def test_even_anchors_give_another_valid_stream(elic):
    even, picture = small_elic(odd_anchors=False), Picture(random_rgb(64, 64))
    stream = even.encode(picture)
    assert np.array_equal(even.decode(stream).picture.rgb, decoded_by_forward(even, picture))
    assert stream.to_bytes() != elic.encode(picture).to_bytes()


def test_file_size_increases_with_quality(elic, picture):
    sizes = [elic.encode(picture, quality=quality).size for quality in (0, 25, 50, 75, 100)]
    assert sizes == sorted(sizes) and sizes[-1] > 2 * sizes[0]


@pytest.mark.parametrize("seed", range(3))
def test_forged_payload_raises_only_trifocal_errors(elic, seed):
    check_forged_payloads(elic, Picture(random_rgb(64, 64)), seed)


@pytest.fixture(scope="module")
def tiled(elic: Codec) -> Iterator[tuple[Picture, Bitstream]]:
    """An image of nine tiles."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(canvas, "TILE", 128)
        picture = Picture(random_rgb(300, 270, seed=5))
        yield picture, elic.encode(picture, quality=60)


def test_damaged_tile_is_reported_and_greyed_out(tiled, elic):
    check_best_effort_fills_damaged_tile(tiled[1], elic)


def test_tiles_equal_the_whole_image(tiled, elic):
    check_tiles_leave_no_seams(tiled[1], elic)


def test_analysis_of_a_tile_equals_that_of_the_whole_image(tiled, elic):
    check_tiled_analysis(elic)


def positive(network: nn.Module) -> nn.Module:
    """Make all weights positive, so that no influence is hidden by a ReLU."""
    for parameter in network.double().parameters():
        nn.init.constant_(parameter, 0.1)
    return network


@pytest.mark.parametrize("bottlenecks", [1, 3])
def test_receptive_field_is_exact(bottlenecks):
    size, middle = 320, 160
    x = torch.rand(1, 3, size, size, dtype=torch.float64, requires_grad=True)
    analysis = positive(ElicAnalysis(2, 2, bottlenecks))
    analysis(x)[0, middle // 16, middle // 16].sum().backward()
    assert x.grad is not None
    rows = x.grad.abs().sum((0, 1, 3)).nonzero().flatten()
    y = torch.rand(1, 20, 20, 2, dtype=torch.float64, requires_grad=True)
    synthesis = positive(ElicSynthesis(2, 2, bottlenecks))
    synthesis(y, torch.tensor([0]))[0, :, middle, middle].sum().backward()
    assert y.grad is not None
    latents = 16 * y.grad.abs().sum((0, 2, 3)).nonzero().flatten()
    receptive_field = elic_receptive_field(bottlenecks)
    for seen in (rows, latents):
        furthest = int((seen - middle).abs().max())
        assert receptive_field - 16 <= furthest <= receptive_field


def test_published_sizes(monkeypatch):
    """Parameters as in CompressAI's `elic2022-official`: 32 074 200 with its entropy bottleneck for z."""

    def count(network: nn.Module) -> int:
        return sum(parameter.numel() for parameter in network.parameters())

    for draw in ("kaiming_uniform_", "uniform_"):
        monkeypatch.setattr(nn.init, draw, lambda tensor, *args, **options: tensor)
    analysis, synthesis, context = ElicAnalysis(), ElicSynthesis(), ElicContext(GROUPS, 384, torch.ones(8))
    hyper = count(elic_hyper_analysis()) + count(elic_hyper_synthesis())
    of_quality = count(context.normalise) + count(context.of_level)
    assert (count(analysis), count(synthesis)) == (7_337_792, 7_337_475)
    assert count(context.channel) == 6_158_816
    assert count(context.spatial) + count(context.aggregation) == 5_531_477
    total = count(analysis) + count(synthesis) + count(context) - of_quality + hyper
    assert 32_000_000 < total < 32_074_200 and elic_receptive_field() == 144


def test_training_lowers_the_loss():
    codec = small_elic(seed=7)
    codec.network.train()
    x = torch.from_numpy(np.stack([random_rgb(64, 64, seed) for seed in range(2)]))
    x, level = x.permute(0, 3, 1, 2).float() / 255, torch.tensor([250, 550])
    optimiser = torch.optim.Adam(codec.network.parameters(), 3e-3)
    losses = []
    for _ in range(25):
        loss = (rate_distortion(codec.network(x, level), x, level) * level_weight(level)).mean()
        optimiser.zero_grad()
        loss.backward()
        optimiser.step()
        losses.append(loss.item())
    assert np.mean(losses[-3:]) < 0.7 * losses[0]
