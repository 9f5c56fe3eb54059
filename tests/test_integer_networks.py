"""Encoder and decoder agree to the last bit with another summation order, number of threads, or precision."""

import copy
from collections.abc import Iterator

import numpy as np
import pytest
import torch
from torch import nn

import trifocal
from helpers.codec_checks import check_thread_counts
from helpers.codecs import small_codec
from helpers.images import random_rgb
from helpers.summation_order import (
    count_mismatches,
    decode_latents,
    encode_latents,
    random_images,
    with_float32,
    with_reordered_sums,
)
from trifocal.demo import PHOTOGRAPH
from trifocal.entropy import Reader, integer_network
from trifocal.entropy.integer_networks import IntegerDepthwise, IntegerLinear, IntegerPlacedLinear, to_grid
from trifocal.layers import Block, Depthwise, PlacedLinear, QualityInterpolation
from trifocal.pictures import Picture


def parts_of_a_photograph(count: int) -> Iterator[np.ndarray]:
    rgb, random = Picture.open(PHOTOGRAPH).rgb, np.random.default_rng(0)
    for _ in range(count):
        top, left = random.integers(rgb.shape[0] - 64), random.integers(rgb.shape[1] - 128)
        yield rgb[top : top + 64, left : left + 128].copy()


def test_decoder_with_another_summation_order_agrees(codec):
    assert count_mismatches(codec, with_reordered_sums(codec), random_images(20)) == 0


def test_float32_networks_lose_streams(codec):
    """Shows that the integer networks are necessary."""
    assert count_mismatches(with_float32(codec, False), with_float32(codec, False), random_images(20)) == 0
    assert count_mismatches(with_float32(codec, False), with_float32(codec, True), random_images(20)) > 0


@pytest.mark.parametrize("threads", [1, 2, 4])
def test_decoder_with_another_number_of_threads_agrees(codec, threads):
    check_thread_counts(codec, threads)


def test_codec_works_in_bfloat16(codec):
    rounded = copy.deepcopy(codec)
    rounded.network.analysis.bfloat16()
    rounded.network.synthesis.bfloat16()
    with torch.inference_mode():
        y_hat, data, _ = encode_latents(rounded, random_rgb(128, 128, 4), 400)
        assert torch.equal(decode_latents(codec, data, y_hat, 400), y_hat)
        x_hat = rounded.network.synthesise(y_hat, torch.tensor([400]))
    assert (x_hat - codec.network.synthesise(y_hat, torch.tensor([400]))).abs().max() < 0.1


@pytest.mark.skipif(not torch.cuda.is_available(), reason="no GPU on this machine")
def test_decoder_on_another_device_agrees(codec):
    other = copy.deepcopy(codec).cuda()
    y_hat, data, _ = encode_latents(codec, random_rgb(128, 128, 5), 300)
    read_there = other.network.code_latents(
        Reader(other.network.entropy.models(), data), None, torch.tensor([300]).cuda(), (8, 8)
    )
    assert torch.equal(read_there.cpu(), y_hat)


def test_file_size_equals_the_rate_estimate(codec):
    for seed, level in enumerate((0, 250, 500, 800)):
        _, data, bits = encode_latents(codec, random_rgb(256, 256, seed), level)
        assert abs(len(data) - bits / 8) <= 0.005 * bits / 8 + 16


@pytest.mark.slow
def test_a_thousand_images_round_trip(codec):
    """500 random images with random weights, 500 parts of a photograph with the bundled weights."""
    assert count_mismatches(codec, with_reordered_sums(codec), random_images(500)) == 0
    compact = trifocal.load("compact")
    assert count_mismatches(compact, with_reordered_sums(compact), parts_of_a_photograph(500)) == 0


def test_integer_layers_stay_on_the_grid():
    torch.manual_seed(0)
    x = to_grid(torch.randn(1, 5, 7, 12, dtype=torch.float64), 12)
    for layer in (nn.Linear(12, 8), Depthwise(12), Block(12)):
        y = integer_network(layer)(x)
        assert torch.equal(y, to_grid(y, 12))
        assert (y - layer.double()(x)).abs().max() < 1e-2


def test_integer_depthwise_equals_a_convolution():
    torch.manual_seed(0)
    layer = Depthwise(6).double()
    x = torch.randn(2, 4, 5, 6, dtype=torch.float64)
    assert (IntegerDepthwise(layer)(x) - layer(x)).abs().max() < 1e-3


def test_linear_layer_at_positions_equals_the_dense_one_with_zeros():
    torch.manual_seed(0)
    columns = torch.stack([torch.randperm(12)[:5] for _ in range(4)])
    layer = PlacedLinear(12, 8, columns)
    parts = to_grid(torch.randn(3, 4, 5, dtype=torch.float64), 12)
    whole = parts.new_zeros(3, 4, 12).scatter(-1, columns.expand(3, 4, 5), parts)
    network = integer_network(layer)
    assert isinstance(network, IntegerPlacedLinear) and torch.equal(
        network(parts), IntegerLinear(layer)(whole)
    )
    layer.double()
    assert torch.allclose(layer(parts), nn.functional.linear(whole, layer.weight, layer.bias), atol=1e-12)
    assert layer.state_dict().keys() == {"weight", "bias"}


def test_integer_quality_interpolation():
    knots = QualityInterpolation(torch.tensor([[0.0, 1.0], [1.0, -1.0], [4.0, 4.0]]))
    exact = integer_network(knots)(torch.tensor([0, 64, 128, 255]))
    assert exact[:3, 0, 0].tolist() == [[0.0, 1.0], [0.5, 0.0], [1.0, -1.0]]
    assert torch.allclose(exact.float(), knots(torch.tensor([0, 64, 128, 255])), atol=1e-3)


def test_modules_without_an_integer_form_are_refused():
    with pytest.raises(TypeError, match="Sigmoid has no integer form; build the network"):
        integer_network(nn.Sequential(nn.Linear(2, 2), nn.Sigmoid()))


def test_inexact_sums_are_refused():
    layer = nn.Linear(4, 2)
    with torch.no_grad():
        layer.weight.fill_(2.0**40)
    with pytest.raises(OverflowError, match="2\\^53"):
        IntegerLinear(layer)


def test_integer_network_is_rebuilt_only_after_weights_change():
    codec = small_codec(seed=1)
    built = codec.network.entropy.integer_networks()
    assert codec.network.train().eval().entropy.integer_networks() is built
    with torch.no_grad():
        next(codec.network.entropy.exact_side.parameters()).add_(1)
    assert codec.network.entropy.integer_networks() is not built
