"""GELU, tanh, layer norm and softmax on the grid: near the float functions, and independent of order."""

import math
from fractions import Fraction

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from trifocal.entropy import integer_network
from trifocal.entropy.integer_arithmetic import ACTIVATION_BITS, ACTIVATION_BOUND, LARGEST_EXACT, to_grid
from trifocal.entropy.integer_functions import (
    EXP_BITS,
    EXP_END,
    MOST_KEYS,
    NORM_BOUND,
    NORM_CHANNELS,
    TABLE_END,
    VALUE_BOUND,
    LayerNorm,
    Offsets,
    SoftmaxAverage,
    activation_grid,
    exp_table,
    gelu_table,
    tanh_table,
)

CPU = torch.device("cpu")
UNIT = 2.0**-ACTIVATION_BITS


def on_grid(*shape: int, spread: float = 1.0, seed: int = 0) -> Tensor:
    generator = torch.Generator().manual_seed(seed)
    return to_grid(torch.randn(*shape, dtype=torch.float64, generator=generator) * spread, ACTIVATION_BITS)


@pytest.mark.parametrize(
    ("table", "function", "end", "bits"),
    [
        (gelu_table, lambda x: x * math.erfc(x / math.sqrt(2)) / 2, TABLE_END, ACTIVATION_BITS),
        (tanh_table, math.tanh, TABLE_END, ACTIVATION_BITS),
        (exp_table, lambda x: math.exp(-x), EXP_END, EXP_BITS),
    ],
)
def test_tables_do_not_depend_on_the_library(table, function, end, bits):
    """Another library gives the same entries, since none is near the middle between two grid values."""
    values = torch.tensor([function(float(x)) for x in activation_grid(end)], dtype=torch.float64)
    assert torch.equal(to_grid(values, bits), table(CPU))
    units = values * 2.0**bits
    from_middle = ((units - units.floor()) - 0.5).abs() * 2.0**-bits
    assert from_middle.min() > 1e-11


@pytest.mark.parametrize("layer", [nn.GELU(), nn.Tanh()])
def test_activations_round_the_float_functions(layer):
    x = torch.cat([on_grid(5000, spread=3.0), torch.tensor([-4096.0, -8.0, 0.0, 8.0, 4096.0]).double()])
    y = integer_network(layer)(x)
    assert torch.equal(y, to_grid(layer(x), ACTIVATION_BITS))


def test_layer_norm_is_the_same_by_fractions():
    """Each step by exact rational arithmetic, with the same three roundings to double."""
    torch.manual_seed(1)
    layer = LayerNorm(7)
    nn.init.normal_(layer.weight)
    nn.init.normal_(layer.bias)
    x = on_grid(40, 7, spread=2.0)
    y = integer_network(layer)(x)
    assert torch.equal(y, to_grid(y, ACTIVATION_BITS))
    assert (y - layer.double()(x)).abs().max() < 4 * UNIT
    for row, normal in zip(x.tolist(), integer_network(LayerNorm(7))(x).tolist(), strict=True):
        mean = round(Fraction(float(sum(map(Fraction, row)) / 7)) / Fraction(UNIT)) * UNIT
        variance = float(sum((Fraction(v) - Fraction(mean)) ** 2 for v in row) / 7)
        root = math.sqrt(variance + 1e-5)
        assert normal == [round((v - mean) / root / UNIT) * UNIT for v in row]


@pytest.mark.parametrize("hidden", [False, True])
def test_softmax_average_is_near_the_float_one(hidden):
    logits, values = on_grid(3, 5, 40, spread=3.0), on_grid(3, 40, 6, spread=2.0, seed=1)
    mask = torch.arange(40) % 3 == 0 if hidden else None
    y = integer_network(SoftmaxAverage())(logits, values, mask)
    assert torch.equal(y, to_grid(y, ACTIVATION_BITS))
    assert (y - SoftmaxAverage()(logits, values, mask)).abs().max() < 4 * UNIT
    if mask is not None:
        other = values + mask[:, None] * 9.0
        assert torch.equal(integer_network(SoftmaxAverage())(logits, other, mask), y)


def test_a_softmax_over_all_positions_of_a_tile_does_not_depend_on_their_order():
    """4096 keys, large values, logits over the whole range; float32 fails this."""
    torch.manual_seed(2)
    logits, values = on_grid(2, 8, 4096, spread=300.0), on_grid(2, 4096, 8, spread=60.0, seed=3)
    order = torch.randperm(4096)
    exact, float32 = integer_network(SoftmaxAverage()), SoftmaxAverage()
    assert torch.equal(exact(logits[..., order], values[:, order]), exact(logits, values))
    flat = logits.float() / 300
    assert not torch.equal(float32(flat[..., order], values[:, order].float()), float32(flat, values.float()))


def test_the_bounds_of_the_sums():
    """The largest sums that the docstring of the module names, in units of their grids."""
    unit = 2**ACTIVATION_BITS
    assert NORM_CHANNELS * (2 * NORM_BOUND * unit) ** 2 <= LARGEST_EXACT
    assert MOST_KEYS * 2**EXP_BITS * VALUE_BOUND * unit <= LARGEST_EXACT
    largest = torch.full((1, 4096), VALUE_BOUND, dtype=torch.float64)
    average = integer_network(SoftmaxAverage())(torch.zeros_like(largest), 3 * largest.T)
    assert average.item() == VALUE_BOUND


def test_what_could_be_rounded_is_refused():
    with pytest.raises(OverflowError, match="512 channels"):
        integer_network(LayerNorm(512))
    many = torch.zeros(1, MOST_KEYS, dtype=torch.float64)
    with pytest.raises(OverflowError, match="tiles"):
        integer_network(SoftmaxAverage())(many, many.T)


def test_gradients_are_those_of_the_float_functions():
    """`estimate` and refinement differentiate the integer networks."""
    x = on_grid(50).requires_grad_()
    for layer in (nn.GELU(), nn.Tanh()):
        (exact,) = torch.autograd.grad(integer_network(layer)(x).sum(), x)
        (smooth,) = torch.autograd.grad(layer(x).sum(), x)
        assert torch.allclose(exact, smooth)
    logits, values = on_grid(4, 9).requires_grad_(), on_grid(9, 2, seed=1).requires_grad_()
    inputs = (logits, values)
    integer = torch.autograd.grad(integer_network(SoftmaxAverage())(*inputs).sum(), inputs)
    floating = torch.autograd.grad(SoftmaxAverage()(*inputs).sum(), inputs)
    assert all(torch.allclose(a, b) for a, b in zip(integer, floating, strict=True))


def test_offsets_are_rounded_and_bounded():
    offsets = Offsets(torch.tensor([0.3, 1e6]))
    assert integer_network(offsets)().tolist() == [round(0.3 / UNIT) * UNIT, ACTIVATION_BOUND]
    assert torch.equal(F.relu(offsets()), offsets.table)
