"""The exact networks of the compact codecs in fixed point (arithmetic 2), on NumPy arrays or torch tensors.

They are built from the weights of `hyperprior.EntropyModel.exact_side`; `fixed_point.py` has their layers.
"""

from __future__ import annotations

from collections.abc import Mapping
from functools import partial
from math import ldexp  # exact in every rounding mode, unlike a power of 2
from typing import Any, TypeAlias

import numpy as np

from trifocal.entropy.coder import Array
from trifocal.entropy.fixed_point import (
    FLOAT32_SUM,
    INT32_SUM,
    Depthwise,
    Grid,
    Linear,
    carried,
    rounded,
)
from trifocal.entropy.four_passes import MEAN_BITS, MEAN_BOUND, PASSES, decoded_channels, predict
from trifocal.entropy.numpy_networks import chain, count, part
from trifocal.entropy.tables import ROWS
from trifocal.types import LEVELS_PER_KNOT
from trifocal.utils.arrays import depth_to_space, namespace
from trifocal.utils.threads import for_rows

__all__ = ["FixedPointNetworks"]

Weights: TypeAlias = Mapping[str, Any]

HIDDEN = Grid(8, -(2**13), 2**13)  # activations
POSITIVE = Grid(8, 0, 2**13)  # activations after a ReLU
DECODED = Grid(9, -(2**12), 2**12)  # normalised values that the context model reads
HYPER_LATENT = Grid(MEAN_BITS, -(2**12), 2**12)
LATENT_VALUES = Grid(MEAN_BITS, -(2**15), 2**15)  # values that a mean is predicted from linearly
TABLE_BITS, TABLE_BOUND = 14, 2.0**12  # of what depends on the quality level


class FixedPointNetworks:
    """The networks between z_hat and the coder.

    Args:
        weights: of `hyperprior.ExactNetworks`; all arrays or all tensors.

    Raises:
        OverflowError: for weights that are too large.
    """

    def __init__(self, weights: Weights) -> None:
        self.prior = Prior(part(weights, "prior."))
        self.hyper_synthesis = HyperSynthesis(part(weights, "hyper_synthesis."))
        self.context = ContextLayers(part(weights, "context."))


class Prior:
    """Levels [B] → mean and row of z, [B, 1, 1, Z]."""

    def __init__(self, weights: Weights) -> None:
        self.mean, self.index = Interpolation(weights, "mean"), Interpolation(weights, "index")

    def __call__(self, level: Any) -> tuple[Any, Any]:
        return snap_mean(self.mean(level)), rows(self.index(level))


class HyperSynthesis:
    """`transforms.hyper.HyperSynthesis`: z_hat [B, h/4, w/4, Z] → [B, h, w, W], in units of HIDDEN."""

    def __init__(self, weights: Weights) -> None:
        double = partial(depth_to_space, factor=2)
        self.body: list[Any] = [
            linear(weights, "body.0", inputs=HYPER_LATENT),
            double,
            Block(weights, "body.2"),
            linear(weights, "body.3"),
            double,
            Block(weights, "body.5"),
        ]

    def __call__(self, z_hat: Any) -> Any:
        return chain(self.body)(on_grid(z_hat, HYPER_LATENT))


class ContextLayers:
    """`four_passes.Layers`; features are in units of HIDDEN, decoded values and outputs are float64."""

    def __init__(self, weights: Weights) -> None:
        channels = weights["normalise.table"].shape[1]
        self._start = Interpolation(weights, "start")
        self.normalise = Interpolation(weights, "normalise")
        self.mean_scale = Interpolation(weights, "mean_scale")
        self.index = Interpolation(weights, "index")
        self.compress, self.snap_mean = partial(on_grid, grid=DECODED), snap_mean
        self.adapt = [
            PlacedLinear(weights, f"adapt.{pass_index - 1}", decoded_channels(channels, pass_index))
            for pass_index in range(1, PASSES)
        ]
        self._blocks = [Block(weights, f"blocks.{n}") for n in range(count(weights, "blocks"))]
        self.heads = [Head(weights, f"heads.{n}") for n in range(4 * PASSES)]
        self.neighbours = [Neighbours(weights, f"neighbours.{n}") for n in range(PASSES - 1)]
        self.linear_channels = len(weights["neighbours.0.weight"])

    def __call__(self, pass_index: int, features: Any, y_hat: Any, level: Any) -> tuple[Any, Any]:
        """Mean and row of the values of a pass; see `four_passes.predict`."""
        mean, index = predict(self, pass_index, features, y_hat, level)
        return mean, rows(index)

    def residual(self, pass_index: int, features: Any, y_hat: Any, level: Any) -> None:
        """There is no predicted rounding error; see `context.ContextModel`."""

    def start(self, level: Any) -> Any:
        return on_grid(self._start(level), HIDDEN)

    def blocks(self, hidden: Any) -> Any:
        return chain(self._blocks)(hidden.clip(HIDDEN.low, HIDDEN.high))


class Block:
    """`layers.Block`, in units of HIDDEN."""

    def __init__(self, weights: Weights, name: str) -> None:
        weight, bias = parameters(weights, f"{name}.depthwise")
        self.depthwise = Depthwise(weight.reshape(-1, 9).T, bias, HIDDEN, HIDDEN, like(weights))
        self.expand = linear(weights, f"{name}.expand", outputs=POSITIVE)
        self.project = linear(weights, f"{name}.project", inputs=POSITIVE)

    def __call__(self, x: Any) -> Any:
        if not isinstance(x, np.ndarray):
            return self._rest(self.depthwise(x), x)
        y = np.empty_like(x)

        def compute(part: slice) -> None:
            y[:, part] = self._rest(self.depthwise.rows_on_one_thread(x, part), x[:, part])

        pixels = x.shape[0] * x.shape[2]
        products = pixels * (self.expand.weight.size + self.project.weight.size)
        for_rows(compute, x.shape[1], self.depthwise.cost(x) + products)
        return y

    def _rest(self, near: Any, x: Any) -> Any:
        return self.project.on_one_thread(self.expand.on_one_thread(near), residual=x)


class PlacedLinear:
    """`layers.PlacedLinear`: another layer at each of the four positions, [..., 4, I] → [..., 4, O]."""

    def __init__(self, weights: Weights, name: str, columns: Array) -> None:
        weight, bias = parameters(weights, name)
        self.layers = [Linear(weight.T[own], bias, DECODED, HIDDEN, like(weights)) for own in columns]

    def __call__(self, x: Any) -> Any:
        return namespace(x).stack([layer(x[..., p, :]) for p, layer in enumerate(self.layers)], -2)


class Head:
    """The last layer of a position, exact, in float64."""

    def __init__(self, weights: Weights, name: str) -> None:
        self.layer = linear(weights, name, outputs=None)

    def __call__(self, hidden: Any) -> Any:
        y = self.layer(hidden)
        return y.astype(np.float64) if isinstance(y, np.ndarray) else y


class Neighbours:
    """A mean from the 3×3 neighbours, exact, in float64."""

    def __init__(self, weights: Weights, name: str) -> None:
        weight, bias = parameters(weights, name)
        taps = weight.reshape(-1, 9).T
        self.layer = Depthwise(taps, bias, LATENT_VALUES, None, like(weights), INT32_SUM)

    def __call__(self, y_hat: Any) -> Any:
        return self.layer(
            (y_hat * ldexp(1.0, LATENT_VALUES.bits)).clip(LATENT_VALUES.low, LATENT_VALUES.high)
        )


class Interpolation:
    """`layers.QualityInterpolation`: levels [B] → [B, 1, 1, C], float64 multiples of 2^−TABLE_BITS."""

    def __init__(self, weights: Weights, name: str) -> None:
        table = rounded(as_float64(weights[f"{name}.table"]) * ldexp(1.0, TABLE_BITS)) * ldexp(
            1.0, -TABLE_BITS
        )
        self.table = carried(table.clip(-TABLE_BOUND, TABLE_BOUND), like(weights), np.float64)

    def __call__(self, level: Any) -> Any:
        low, fraction = level // LEVELS_PER_KNOT, (level % LEVELS_PER_KNOT)[:, None]
        value = self.table[low] * (LEVELS_PER_KNOT - fraction) + self.table[low + 1] * fraction
        value = rounded(value * (ldexp(1.0, TABLE_BITS) / LEVELS_PER_KNOT)) * ldexp(1.0, -TABLE_BITS)
        return value[:, None, None, :]


def on_grid(x: Any, grid: Grid) -> Any:
    """x in units of a grid, rounded and clamped."""
    y = rounded(x * ldexp(1.0, grid.bits)).clip(grid.low, grid.high)
    return y.astype(np.float32) if isinstance(y, np.ndarray) else y


def snap_mean(x: Any) -> Any:
    """A mean, rounded to 2^−MEAN_BITS and clamped."""
    return (rounded(x * ldexp(1.0, MEAN_BITS)) * ldexp(1.0, -MEAN_BITS)).clip(-MEAN_BOUND, MEAN_BOUND)


def rows(scale_index: Any) -> Any:
    """The table row of a scale index."""
    return rounded(scale_index).clip(0, ROWS - 1)


def linear(weights: Weights, name: str, inputs: Grid = HIDDEN, outputs: Grid | None = HIDDEN) -> Linear:
    weight, bias = parameters(weights, name)
    return Linear(weight.T, bias, inputs, outputs, like(weights), FLOAT32_SUM)


def parameters(weights: Weights, name: str) -> tuple[Array, Array]:
    """Weight and bias of a layer, [O, ...] and [O], in float64; the bias is 0 where there is none."""
    weight, bias = as_float64(weights[f"{name}.weight"]), weights.get(f"{name}.bias")
    return weight, np.zeros(len(weight)) if bias is None else as_float64(bias)


def as_float64(values: Any) -> Array:
    array = values if isinstance(values, np.ndarray) else values.detach().cpu().numpy()
    return array.astype(np.float64)


def like(weights: Weights) -> Any:
    """Any array of the engine that has the weights."""
    return next(iter(weights.values()))
