"""Two sides that sum in another order, on other threads, in another precision, must still agree to the last
bit.
"""

import copy
from collections.abc import Iterable, Iterator

import numpy as np
import pytest
import torch
from conftest import random_rgb, small_codec
from torch import nn

import trifocal
from trifocal.codecs.codec import Codec
from trifocal.demo import PHOTOGRAPH
from trifocal.entropy import RateEstimator, Reader, Writer, integer_network
from trifocal.entropy.exact import ExactDepthwise, ExactLinear, ExactPlacedLinear, to_grid
from trifocal.errors import Damaged
from trifocal.layers import Block, Depthwise, PlacedLinear, QualityInterpolation
from trifocal.pictures import Picture


class AnotherOrder(nn.Module):
    """A linear layer that adds its input channels up in another order, one block of channels at a time."""

    def __init__(self, weight: torch.Tensor, bias: torch.Tensor, low: float | None, seed: int) -> None:
        super().__init__()
        self.order = torch.randperm(len(weight), generator=torch.Generator().manual_seed(seed))
        self.weight, self.bias, self.low = weight, bias, low

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        total = torch.zeros_like(self.bias)
        for part in self.order.split(5):
            total = total + x[..., part] @ self.weight[part]
        return total + self.bias


class AnotherExactOrder(AnotherOrder):
    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return to_grid(super().forward(x), 12).clamp(-4096 if self.low is None else self.low, 4096)


class AtEachPlace(nn.Module):
    """A `PlacedLinear` of one layer for each place."""

    def __init__(self, layers: Iterable[nn.Module]) -> None:
        super().__init__()
        self.layers = nn.ModuleList(layers)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return torch.stack([layer(x[..., place, :]) for place, layer in enumerate(self.layers)], dim=-2)


def replace_linear(module: nn.Module, kind: type[nn.Module], make: type[AnotherOrder]) -> None:
    for name, child in module.named_children():
        if isinstance(child, ExactPlacedLinear) and kind is ExactLinear:
            setattr(
                module, name, AtEachPlace(make(w, child.bias, None, seed=len(name)) for w in child.weight)
            )
        elif isinstance(child, PlacedLinear) and kind is nn.Linear:
            weights, bias = child.weight.detach().T[child.columns], child.bias.detach()
            setattr(module, name, AtEachPlace(make(w, bias, None, seed=len(name)) for w in weights))
        elif isinstance(child, ExactLinear) and kind is ExactLinear:
            setattr(module, name, make(child.weight, child.bias, child.low, seed=len(name)))
        elif isinstance(child, nn.Linear) and kind is nn.Linear:
            setattr(module, name, make(child.weight.detach().T, child.bias.detach(), None, seed=len(name)))
        else:
            replace_linear(child, kind, make)


def with_another_order(codec: Codec) -> Codec:
    """The same codec, whose exact side adds up in another order."""
    other = copy.deepcopy(codec)
    replace_linear(other.network.entropy.integer_networks(), ExactLinear, AnotherExactOrder)
    return other


@torch.inference_mode()
def latents(codec: Codec, rgb: np.ndarray, level: int) -> tuple[torch.Tensor, bytes, float]:
    """y_hat on the writing side, the bytes, and the bits that a Meter counts."""
    x = torch.from_numpy(rgb).permute(2, 0, 1)[None].float() / 255
    y, q = codec.network.analyse(x), torch.tensor([level])
    size = (y.shape[1], y.shape[2])
    writer, meter = Writer(codec.network.entropy.models()), RateEstimator(codec.network.entropy.cost())
    y_hat = codec.network.code_latents(writer, y, q, size)
    assert torch.equal(codec.network.code_latents(meter, y, q, size), y_hat)
    return y_hat, writer.bytes(), float(meter.bits.sum())


@torch.inference_mode()
def read(codec: Codec, data: bytes, y_hat: torch.Tensor, level: int) -> torch.Tensor:
    size = (y_hat.shape[1], y_hat.shape[2])
    return codec.network.code_latents(
        Reader(codec.network.entropy.models(), data), None, torch.tensor([level]), size
    )


def random_pictures(count: int) -> Iterator[np.ndarray]:
    return (random_rgb(128, 64, seed) for seed in range(count))


def parts_of_a_photograph(count: int) -> Iterator[np.ndarray]:
    rgb, random = Picture.open(PHOTOGRAPH).rgb, np.random.default_rng(0)
    for _ in range(count):
        top, left = random.integers(rgb.shape[0] - 64), random.integers(rgb.shape[1] - 128)
        yield rgb[top : top + 64, left : left + 128].copy()


def disagreements(writing: Codec, reading: Codec, pictures: Iterable[np.ndarray]) -> int:
    failures = 0
    for number, rgb in enumerate(pictures):
        level = number * 37 % 801
        y_hat, data, _ = latents(writing, rgb, level)
        try:
            failures += not torch.equal(read(reading, data, y_hat, level), y_hat)
        except Damaged:
            failures += 1
    return failures


def test_another_summation_order(codec):
    assert disagreements(codec, with_another_order(codec), random_pictures(20)) == 0


class InFloat(nn.Module):
    """A network of the exact side as every other codec runs it: in float32, nothing rounded to a grid."""

    def __init__(self, network: nn.Module) -> None:
        super().__init__()
        self.network = network

    def forward(self, *args):
        as_float = [a.float() if torch.is_tensor(a) and a.is_floating_point() else a for a in args]
        result = self.network(*as_float)
        return tuple(r.double() for r in result) if isinstance(result, tuple) else result.double()


def in_float(codec: Codec, another_order: bool) -> Codec:
    other = copy.deepcopy(codec)
    side = copy.deepcopy(other.network.entropy.exact_side)
    if another_order:
        replace_linear(side, nn.Linear, AnotherOrder)
    for name, network in list(side.named_children()):
        setattr(side, name, InFloat(network))
    other.network.entropy.integer_networks = side.eval  # type: ignore[method-assign]  # it returns the side itself
    return other


def test_the_test_above_can_fail(codec):
    """In float32 the same change of order does lose streams: this is what the exact side is for."""
    assert disagreements(in_float(codec, False), in_float(codec, False), random_pictures(20)) == 0
    assert disagreements(in_float(codec, False), in_float(codec, True), random_pictures(20)) > 0


@pytest.mark.parametrize("threads", [1, 2, 4])
def test_thread_counts(codec, threads):
    before = torch.get_num_threads()
    y_hat, data, _ = latents(codec, random_rgb(256, 192, 3), 500)
    try:
        torch.set_num_threads(threads)
        assert torch.equal(read(codec, data, y_hat, 500), y_hat)
    finally:
        torch.set_num_threads(before)


def test_analysis_and_synthesis_in_bfloat16(codec):
    rounded = copy.deepcopy(codec)
    rounded.network.analysis.bfloat16()
    rounded.network.synthesis.bfloat16()
    with torch.inference_mode():
        y_hat, data, _ = latents(rounded, random_rgb(128, 128, 4), 400)
        assert torch.equal(read(codec, data, y_hat, 400), y_hat)
        x_hat = rounded.network.synthesise(y_hat, torch.tensor([400]))
    assert (x_hat - codec.network.synthesise(y_hat, torch.tensor([400]))).abs().max() < 0.1


@pytest.mark.skipif(not torch.cuda.is_available(), reason="no GPU on this machine")
def test_the_other_device(codec):
    other = copy.deepcopy(codec).cuda()
    y_hat, data, _ = latents(codec, random_rgb(128, 128, 5), 300)
    read_there = other.network.code_latents(
        Reader(other.network.entropy.models(), data), None, torch.tensor([300]).cuda(), (8, 8)
    )
    assert torch.equal(read_there.cpu(), y_hat)


def test_bytes_are_what_the_meter_says(codec):
    for seed, level in enumerate((0, 250, 500, 800)):
        _, data, bits = latents(codec, random_rgb(256, 256, seed), level)
        assert abs(len(data) - bits / 8) <= 0.005 * bits / 8 + 16


@pytest.mark.slow
def test_a_thousand_pictures(codec):
    """500 random ones through random weights, 500 parts of a photograph through the weights that ship."""
    assert disagreements(codec, with_another_order(codec), random_pictures(500)) == 0
    compact = trifocal.load("compact")
    assert disagreements(compact, with_another_order(compact), parts_of_a_photograph(500)) == 0


def test_exact_layers_stay_on_the_grid():
    torch.manual_seed(0)
    x = to_grid(torch.randn(1, 5, 7, 12, dtype=torch.float64), 12)
    for layer in (nn.Linear(12, 8), Depthwise(12), Block(12)):
        y = integer_network(layer)(x)
        assert torch.equal(y, to_grid(y, 12))
        assert (y - layer.double()(x)).abs().max() < 1e-2


def test_exact_depthwise_is_a_convolution():
    torch.manual_seed(0)
    layer = Depthwise(6).double()
    x = torch.randn(2, 4, 5, 6, dtype=torch.float64)
    assert (ExactDepthwise(layer)(x) - layer(x)).abs().max() < 1e-3


def test_a_placed_linear_layer_is_the_whole_one_on_zeros():
    torch.manual_seed(0)
    columns = torch.stack([torch.randperm(12)[:5] for _ in range(4)])
    layer = PlacedLinear(12, 8, columns)
    parts = to_grid(torch.randn(3, 4, 5, dtype=torch.float64), 12)
    whole = parts.new_zeros(3, 4, 12).scatter(-1, columns.expand(3, 4, 5), parts)
    network = integer_network(layer)
    assert isinstance(network, ExactPlacedLinear) and torch.equal(network(parts), ExactLinear(layer)(whole))
    layer.double()
    assert torch.allclose(layer(parts), nn.functional.linear(whole, layer.weight, layer.bias), atol=1e-12)
    assert layer.state_dict().keys() == {"weight", "bias"}


def test_exact_knots():
    knots = QualityInterpolation(torch.tensor([[0.0, 1.0], [1.0, -1.0], [4.0, 4.0]]))
    exact = integer_network(knots)(torch.tensor([0, 64, 128, 255]))
    assert exact[:3, 0, 0].tolist() == [[0.0, 1.0], [0.5, 0.0], [1.0, -1.0]]
    assert torch.allclose(exact.float(), knots(torch.tensor([0, 64, 128, 255])), atol=1e-3)


def test_what_has_no_exact_form_is_refused():
    with pytest.raises(TypeError, match="Sigmoid has no exact form"):
        integer_network(nn.Sequential(nn.Linear(2, 2), nn.Sigmoid()))


def test_a_sum_that_could_be_rounded_is_refused():
    layer = nn.Linear(4, 2)
    with torch.no_grad():
        layer.weight.fill_(2.0**40)
    with pytest.raises(OverflowError, match="2\\^53"):
        ExactLinear(layer)


def test_the_integer_network_is_built_again_only_when_weights_change():
    codec = small_codec(seed=1)
    built = codec.network.entropy.integer_networks()
    assert codec.network.train().eval().entropy.integer_networks() is built
    with torch.no_grad():
        next(codec.network.entropy.exact_side.parameters()).add_(1)
    assert codec.network.entropy.integer_networks() is not built
