"""The exact networks of the compact codecs in arithmetic 1, on NumPy arrays.

`integer_networks.py` builds the same networks from torch modules; both compute with `integer_arithmetic.py`
and `four_passes.py`. New files use arithmetic 2, `fixed_point_networks.py`.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from functools import partial
from typing import Any, TypeAlias

import numpy as np

from trifocal.entropy.coder import Array
from trifocal.entropy.four_passes import MEAN_BITS, MEAN_BOUND, PASSES, decoded_channels, predict
from trifocal.entropy.integer_arithmetic import (
    ACTIVATION_BITS,
    ACTIVATION_BOUND,
    WEIGHT_BITS,
    add_bias_round_clamp_,
    check_bound,
    depthwise,
    interpolate,
    to_grid,
)
from trifocal.utils.arrays import depth_to_space
from trifocal.utils.threads import for_rows

__all__ = ["IntegerNetworks"]

ArrayFunction: TypeAlias = Callable[[Array], Array]
Weights: TypeAlias = Mapping[str, Array]

LATENT_BOUND = 8.0  # of the normalised values that the context model reads


class IntegerNetworks:
    """The networks between z_hat and the coder.

    Args:
        weights: of `hyperprior.ExactNetworks`.

    Raises:
        OverflowError: for weights that are too large.
    """

    def __init__(self, weights: Weights) -> None:
        self.prior = Prior(part(weights, "prior."))
        self.hyper_synthesis = HyperSynthesis(part(weights, "hyper_synthesis."))
        self.context = ContextLayers(part(weights, "context."))


class ContextLayers:
    """`four_passes.Layers` in integers.

    Args:
        weights: those of `context.FourPassContext`.
    """

    def __init__(self, weights: Weights) -> None:
        channels = weights["normalise.table"].shape[1]
        self.start, self.normalise, self.mean_scale, self.index = (
            interpolation(weights, name) for name in ("start", "normalise", "mean_scale", "index")
        )
        self.compress, self.snap_mean = snap(bound=LATENT_BOUND), snap(MEAN_BITS, MEAN_BOUND)
        self.adapt = [
            placed_layer(weights, f"adapt.{pass_index - 1}", decoded_channels(channels, pass_index))
            for pass_index in range(1, PASSES)
        ]
        self.blocks = chain([block(weights, f"blocks.{n}") for n in range(count(weights, "blocks"))])
        self.heads = [linear_layer(weights, f"heads.{n}") for n in range(4 * PASSES)]
        self.neighbours = [depthwise_layer(weights, f"neighbours.{n}") for n in range(PASSES - 1)]
        self.linear_channels = len(weights["neighbours.0.weight"])

    def __call__(self, pass_index: int, features: Array, y_hat: Array, level: Array) -> tuple[Array, Array]:
        """Mean and scale index of the values of a pass; see `four_passes.predict`."""
        return predict(self, pass_index, features, y_hat, level)


class HyperSynthesis:
    """`transforms.hyper.HyperSynthesis` in integers: z_hat [B, h/4, w/4, Z] → [B, h, w, W]."""

    def __init__(self, weights: Weights) -> None:
        double = partial(depth_to_space, factor=2)
        self.forward = chain(
            [
                linear_layer(weights, "body.0"),
                double,
                block(weights, "body.2"),
                linear_layer(weights, "body.3"),
                double,
                block(weights, "body.5"),
            ]
        )

    def __call__(self, z_hat: Array) -> Array:
        return self.forward(z_hat)


class Prior:
    """`hyperprior.Prior` in integers: levels [B] → mean and unclipped scale index of z, [B, 1, 1, Z]."""

    def __init__(self, weights: Weights) -> None:
        self.mean, self.index = interpolation(weights, "mean"), interpolation(weights, "index")
        self.snap = snap(MEAN_BITS)

    def __call__(self, level: Array) -> tuple[Array, Array]:
        return self.snap(self.mean(level)), self.index(level)


def part(weights: Weights, prefix: str) -> dict[str, Array]:
    """The weights below a prefix, without it."""
    return {name.removeprefix(prefix): w for name, w in weights.items() if name.startswith(prefix)}


def count(weights: Weights, name: str) -> int:
    """How many numbered layers there are below a name."""
    return len({key.split(".")[1] for key in weights if key.startswith(f"{name}.")})


def chain(layers: Sequence[ArrayFunction]) -> ArrayFunction:
    def forward(x: Array) -> Array:
        for layer in layers:
            x = layer(x)
        return x

    return forward


def linear_layer(weights: Weights, name: str, low: float | None = None) -> ArrayFunction:
    weight, bias = on_grid(weights, name)
    check_bound(abs(weight).sum(1), bias)
    return partial(threaded_linear, weight=np.ascontiguousarray(weight.T), bias=bias, low=low)


def placed_layer(weights: Weights, name: str, columns: Array) -> ArrayFunction:
    weight, bias = on_grid(weights, name)
    check_bound(abs(weight).sum(1), bias)
    return partial(threaded_placed_linear, weight=weight.T[columns], bias=bias)


def depthwise_layer(weights: Weights, name: str) -> ArrayFunction:
    weight, bias = on_grid(weights, name)
    weight = weight.reshape(-1, 9)
    check_bound(abs(weight).sum(1), bias)
    return partial(threaded_depthwise, weight=np.ascontiguousarray(weight.T), bias=bias)


def threaded_linear(x: Array, weight: Array, bias: Array, low: float | None) -> Array:
    """`integer_arithmetic.linear`, on several threads."""
    rows = x.reshape(-1, x.shape[-1])
    y = np.empty((len(rows), weight.shape[1]))

    def compute(part: slice) -> None:
        add_bias_round_clamp_(np.matmul(rows[part], weight, out=y[part]), bias=bias, low=low)

    for_rows(compute, len(rows), weight.size)
    return y.reshape(*x.shape[:-1], -1)


def threaded_placed_linear(x: Array, weight: Array, bias: Array) -> Array:
    """`integer_arithmetic.placed_linear`, on several threads."""
    rows = x.reshape(-1, *x.shape[-2:])
    y = np.empty((*rows.shape[:2], weight.shape[2]))

    def compute(part: slice) -> None:
        for place, own in enumerate(weight):
            y[part, place] = rows[part, place] @ own
        add_bias_round_clamp_(y[part], bias=bias)

    for_rows(compute, len(rows), weight.size)
    return y.reshape(*x.shape[:-1], -1)


def threaded_depthwise(x: Array, weight: Array, bias: Array) -> Array:
    """`integer_arithmetic.depthwise`, on several threads."""
    y = np.empty_like(x)

    def compute(part: slice) -> None:
        first, end = max(0, part.start - 1), min(x.shape[1], part.stop + 1)
        y[:, part] = depthwise(x[:, first:end], weight, bias)[:, part.start - first : part.stop - first]

    for_rows(compute, x.shape[1], 4 * x.shape[0] * x.shape[2] * weight.size)  # it is bound by memory
    return y


def block(weights: Weights, name: str) -> ArrayFunction:
    branch = chain(
        [
            depthwise_layer(weights, f"{name}.depthwise"),
            linear_layer(weights, f"{name}.expand", low=0.0),
            linear_layer(weights, f"{name}.project"),
        ]
    )

    def forward(x: Array) -> Array:
        y = branch(x)
        y += x
        return y

    return forward


def interpolation(weights: Weights, name: str) -> ArrayFunction:
    table = to_grid(weights[f"{name}.table"].astype(np.float64), WEIGHT_BITS)
    return partial(interpolate, table.clip(-ACTIVATION_BOUND, ACTIVATION_BOUND))


def snap(bits: int = ACTIVATION_BITS, bound: float = ACTIVATION_BOUND) -> ArrayFunction:
    def forward(x: Array) -> Array:
        y: Array = add_bias_round_clamp_(x.copy(), bits, bound)
        return y

    return forward


def on_grid(weights: Weights, name: str) -> tuple[Array, Array]:
    """Weight and bias of a layer, [O, ...] and [O], in float64; the bias is 0 where there is none."""
    weight: Any = weights[f"{name}.weight"]
    bias: Any = weights.get(f"{name}.bias", np.zeros(len(weight)))
    return to_grid(weight.astype(np.float64), WEIGHT_BITS), to_grid(bias.astype(np.float64), ACTIVATION_BITS)
