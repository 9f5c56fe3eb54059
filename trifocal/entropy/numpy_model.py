"""The entropy model of the compact codecs on NumPy arrays, without torch."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from functools import cached_property

import numpy as np

from trifocal.entropy.coder import Array, cost_table, rows_at, symbols_at
from trifocal.entropy.fixed_point_networks import FixedPointNetworks
from trifocal.entropy.four_passes import PASSES, put, take
from trifocal.entropy.latent_coding import HYPER_STRIDE, code_latents
from trifocal.entropy.numpy_networks import IntegerNetworks, part
from trifocal.entropy.range_coder import Models, range_coder_models
from trifocal.entropy.tables import ROWS, Floats, is_table
from trifocal.errors import WeightsError
from trifocal.types import DEAD_ZONE, LEVELS_PER_KNOT
from trifocal.utils.threads import one_blas_thread

__all__ = ["ARITHMETICS", "NumpyCodingNetworks", "latent_gain"]

ARITHMETICS = (1, 2)  # of the compact codecs: `integer_arithmetic.py` and `fixed_point.py`


class NumpyCodingNetworks:
    """`CodingNetworks` for the networks of `hyperprior.EntropyModel` and `context.FourPassContext`.

    Args:
        weights: those of the entropy model; floats as float32.
        analyse: the hyper-analysis: scaled latent and level → z.
        dead_zone: of the quantiser.
        arithmetic: one of ARITHMETICS; new files use the last.

    Raises:
        WeightsError: for invalid frequency tables; and, on first use, for weights too large for exact
            arithmetic.
    """

    passes = PASSES
    joins_hyper_latent = False

    def __init__(
        self,
        weights: Mapping[str, Array],
        analyse: Callable[[Array, Array], Array],
        dead_zone: float = DEAD_ZONE,
        arithmetic: int = ARITHMETICS[-1],
    ) -> None:
        if not is_table(weights["frequencies"]):
            raise WeightsError(
                "The weights hold frequencies that the range coder cannot use; give another weight file."
            )
        self.weights, self.analyse, self.dead_zone = weights, analyse, dead_zone
        self.arithmetic = arithmetic

    @cached_property
    def networks(self) -> IntegerNetworks | FixedPointNetworks:
        weights = part(self.weights, "exact_side.")
        try:
            return IntegerNetworks(weights) if self.arithmetic == 1 else FixedPointNetworks(weights)
        except OverflowError as error:
            raise WeightsError(f"The weights of the entropy model cannot be used. {error}") from error

    @cached_property
    def tables(self) -> Models:
        return range_coder_models(self.weights["frequencies"].astype(np.int32))

    @cached_property
    def costs(self) -> Floats:
        return cost_table(self.weights["frequencies"].astype(np.int32))

    def models(self) -> Models:
        return self.tables

    def cost(self) -> Floats:
        return self.costs

    def scale(self, y: Array, level: Array) -> Array:
        return y * latent_gain(self.weights["gain.log_gain.table"], level)

    def unscale(self, y_hat: Array, level: Array) -> Array:
        return y_hat.astype(np.float32) / latent_gain(self.weights["gain.log_gain.table"], level)

    def hyper_analysis(self, scaled: Array, level: Array) -> Array:
        return self.analyse(scaled, level).astype(np.float64)

    def prior(self, level: Array, size: tuple[int, int]) -> tuple[Array, Array]:
        mean, index = self.networks.prior(level)
        shape = (len(level), size[0] // HYPER_STRIDE, size[1] // HYPER_STRIDE, mean.shape[-1])
        return np.broadcast_to(mean, shape), np.broadcast_to(index.clip(0, ROWS - 1), shape)

    def hyper_synthesis(self, z_hat: Array) -> Array:
        with one_blas_thread():
            features: Array = self.networks.hyper_synthesis(z_hat)
            return features

    def predict(
        self, pass_index: int, features: Array, y_hat: Array | None, level: Array
    ) -> tuple[Array, Array]:
        if y_hat is None:
            y_hat = np.zeros((*features.shape[:3], self.weights["gain.log_gain.table"].shape[1]))
        with one_blas_thread():
            return self.networks.context(pass_index, features, y_hat, level)

    def correct(self, pass_index: int, features: Array, y_hat: Array, level: Array) -> Array:
        return y_hat

    def take(self, y: Array, pass_index: int) -> Array:
        values: Array = take(y, pass_index)
        return values.astype(np.float64)

    def put(self, part: Array, pass_index: int) -> Array:
        placed: Array = put(part, pass_index)
        return placed

    def predicted_parameters(self, y: Array, level: Array) -> tuple[Array, Array]:
        """The predicted mean and scale index of each value of y [B, h, w, M], in the units of gain · y, both
        of y's shape.
        """
        recorder = ParameterRecorder()
        code_latents(self, recorder, y, level, (y.shape[1], y.shape[2]))
        _, *passes = recorder.parameters_by_call
        mean, index = (sum(put(part, n) for n, part in enumerate(parts)) for parts in zip(*passes))
        return mean, index


class ParameterRecorder:
    """Codes nothing: rounds, and keeps the predicted parameters.

    Attributes:
        parameters_by_call: mean and scale index of each coding call so far.
    """

    def __init__(self) -> None:
        self.parameters_by_call: list[tuple[Array, Array]] = []

    def code(self, y: Array | None, mean: Array, scale_index: Array, dead_zone: float = DEAD_ZONE) -> Array:
        assert y is not None
        self.parameters_by_call.append((mean, scale_index))
        return symbols_at(y, mean, rows_at(scale_index), dead_zone) + mean


def latent_gain(log_gain: Array, level: Array) -> Array:
    """The factor between a latent and quantiser steps at levels [B]: [K, M] → [B, 1, 1, M], float32.

    The exponential is rounded from float64, so that decoders with other libraries get the same latents.
    """
    low, fraction = level // LEVELS_PER_KNOT, (level % LEVELS_PER_KNOT / LEVELS_PER_KNOT)[:, None]
    fraction = fraction.astype(np.float32)
    value = log_gain[low] * (1 - fraction) + log_gain[low + 1] * fraction
    gain: Array = np.exp(value.astype(np.float64)).astype(np.float32)
    return gain[:, None, None, :]
