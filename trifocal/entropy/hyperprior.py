"""The entropy model: hyperprior, context model, gains and frequency tables."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, cast

import numpy as np
import torch
from torch import Tensor, nn

from trifocal.entropy.coder import (
    Array,
    Coder,
    RateEstimator,
    Reader,
    Writer,
    cost_table,
)
from trifocal.entropy.component_coding import code_present_parts
from trifocal.entropy.context import ContextModel, FourPassContext, LevelParameters
from trifocal.entropy.conversion import integer_network
from trifocal.entropy.estimators import ParameterRecorder
from trifocal.entropy.fixed_point_networks import FixedPointNetworks
from trifocal.entropy.four_passes import MEAN_BITS
from trifocal.entropy.gain import Gain
from trifocal.entropy.integer_networks import Clamp
from trifocal.entropy.latent_coding import (
    HYPER_STRIDE,
    check_latents,
    code_latents,
    read_latents,
    write_latents,
)
from trifocal.entropy.numpy_model import ARITHMETICS, latent_gain
from trifocal.entropy.range_coder import Models, range_coder_models
from trifocal.entropy.tables import ROWS, Floats, is_table, logistic_frequencies
from trifocal.errors import WeightsError
from trifocal.layers import QualityInterpolation
from trifocal.transforms.dct import BLOCK, ordered_std
from trifocal.transforms.hyper import HyperAnalysis, HyperSynthesis
from trifocal.types import DEAD_ZONE, PartialTile
from trifocal.weights import checksum, tensor_checksum

ARRAY_CODERS = (RateEstimator, Reader, Writer)


class Prior(nn.Module):
    """Mean and scale index of the hyper-latent: one vector each per quality, the same at all positions."""

    def __init__(self, channels: int, knots: int) -> None:
        super().__init__()
        self.mean = QualityInterpolation(torch.zeros(knots, channels))
        self.index = QualityInterpolation(torch.full((knots, channels), 30.0))
        self.snap = Clamp(MEAN_BITS)

    def forward(self, level: Tensor) -> tuple[Tensor, Tensor]:
        """[B] → mean and scale index, each [B, 1, 1, Z]."""
        return self.snap(self.mean(level)), self.index(level).clamp(0, ROWS - 1)


class ExactNetworks(nn.Module):
    """The networks between z_hat and the coder, whose results must be identical in encoder and decoder.

    This module computes in floats, with gradients; `EntropyModel.integer_networks` builds its exact form.

    Args:
        prior: of z.
        hyper_synthesis: z_hat [B, h/4, w/4, Z] → features [B, h, w, W]; its layers must have integer forms
            (`integer_networks.py`).
        context: features and decoded values → mean and scale index.
    """

    def __init__(self, prior: Prior, hyper_synthesis: nn.Module, context: ContextModel) -> None:
        super().__init__()
        self.prior = prior
        self.hyper_synthesis = hyper_synthesis
        self.context = context


class EntropyModel(nn.Module):
    """y ⇄ coder ⇄ y_hat: gain, hyper analysis, and the exact networks (prior, hyper synthesis, context).

    The constructor builds the entropy model of the compact codec; `from_parts` takes any parts. It also codes
    latents of other projects: see docs/research.md.

    Attributes:
        dead_zone: the `width` of `quantise.dead_zones`; 0 is plain rounding. Only encoder and training depend
            on it. Weight files store it unless it is the default.
        joins_hyper_latent: whether y_hat has z_hat as further channels (`latent_coding.join_hyper_latent`).

    Args:
        latent_channels: M, a multiple of 4.
        hyper_channels: Z.
        width: width of the context model.
        blocks: blocks of the context model.
        step_sizes: initial quantiser step at the K knots of `QualityInterpolation` (levels 0, 128, …), [K].
    """

    def __init__(
        self, latent_channels: int, hyper_channels: int, width: int, blocks: int, step_sizes: Tensor
    ) -> None:
        super().__init__()
        spread = (ordered_std(BLOCK, latent_channels)[None] / step_sizes[:, None]).clamp(min=0.02)
        self._take_parts(
            Gain(step_sizes, latent_channels),
            HyperAnalysis(latent_channels, 128, hyper_channels),
            ExactNetworks(
                Prior(hyper_channels, len(step_sizes)),
                HyperSynthesis(hyper_channels, 128, width),
                FourPassContext(latent_channels, width, blocks, spread),
            ),
        )

    @classmethod
    def from_parts(cls, gain: Gain, hyper_analysis: nn.Module, exact_networks: ExactNetworks) -> EntropyModel:
        """Any other entropy model: ELIC's (`elic.py`), a mean–scale hyperprior (`SinglePass`).

        Args:
            gain: level and channel → the factor before the quantiser.
            hyper_analysis: normalised y [B, h, w, M] → z [B, h/4, w/4, Z], in ordinary floats.
            exact_networks: prior, hyper synthesis and context.
        """
        model = cls.__new__(cls)
        nn.Module.__init__(model)
        model._take_parts(gain, hyper_analysis, exact_networks)
        return model

    def _take_parts(self, gain: Gain, hyper_analysis: nn.Module, exact_networks: ExactNetworks) -> None:
        self.dead_zone = DEAD_ZONE
        self.joins_hyper_latent = False
        self.gain = gain
        self.hyper_analysis = hyper_analysis
        self.exact_side = exact_networks
        self.frequencies: Tensor
        self.register_buffer("frequencies", torch.from_numpy(logistic_frequencies()))
        self._integer: dict[int, Any] = {}  # exact networks by arithmetic
        self._integer_checksum: tuple[int, ...] = ()
        self._models: Models | None = None
        self._cost: Floats | None = None
        self._tables_checksum = 0
        self.latent_channels = gain.log_gain.table.shape[1]

    @property
    def arithmetics(self) -> tuple[int, ...]:
        """Ids of the arithmetics that the networks have integer forms in, the newest last."""
        kinds = type(self.exact_side.context), type(self.exact_side.hyper_synthesis)  # without subclasses
        return ARITHMETICS if kinds == (FourPassContext, HyperSynthesis) else ARITHMETICS[:1]

    def code_latents(
        self,
        coder: Coder[Any],
        y: Tensor | None,
        level: Tensor,
        size: tuple[int, int],
        has_importance_map: bool = False,
        partial: PartialTile | None = None,
    ) -> Tensor:
        """`latent_coding.code_latents` for tensors. NumPy coders run on the exact networks, without a
        gradient; tensor coders on `exact_side` as trained, in floats, in training mode, and on the integer
        networks otherwise.

        Args:
            coder: any coder.
            y: latent, [B, h, w, M], or None for a Reader; with `has_importance_map` [B, h, w, M + 1].
            level: [B].
            size: h and w, multiples of 4.
            has_importance_map: whether y's last channel is an importance map.
            partial: code y in components, without the missing ones, whose values in y_hat are 0; B is 1.

        Returns:
            y_hat, [B, h, w, M], in the units of y.
        """
        if not isinstance(coder, ARRAY_CODERS):
            networks = TorchEntropyNetworks(self, integer=not self.training)
            if partial is not None:
                tensor: Tensor = code_present_parts(networks, coder, y, level, partial, has_importance_map)
                return tensor
            return code_latents(networks, coder, y, level, size, has_importance_map)
        device = self.frequencies.device
        arrays = self.arrays()
        latent = None if y is None else _to_numpy(y)
        if partial is not None:
            y_hat = code_present_parts(arrays, coder, latent, _to_numpy(level), partial, has_importance_map)
        else:
            y_hat = code_latents(arrays, coder, latent, _to_numpy(level), size, has_importance_map)
        return torch.from_numpy(y_hat).to(device)

    def arrays(self, arithmetic: int | None = None) -> TorchCodingNetworks:
        """The exact networks and tables, for coding NumPy arrays; in the newest arithmetic if None."""
        return TorchCodingNetworks(self, arithmetic or self.arithmetics[-1])

    @torch.no_grad()
    def compress(self, y: Array, level: Array, arithmetic: int | None = None) -> bytes:
        """Code a latent of one image, [1, h, w, M] with h and w multiples of 4, at a level, [1], by default
        in the newest arithmetic. Raises OptionError.
        """
        check_latents(y.shape, self.latent_channels, level)
        return write_latents(self.arrays(arithmetic), y, level)[0]

    @torch.no_grad()
    def decompress(
        self, data: bytes, level: Array, size: tuple[int, int], arithmetic: int | None = None
    ) -> Array:
        """The inverse of `compress`, for h × w → y_hat, [1, h, w, M]. Raises OptionError, Damaged."""
        check_latents((1, *size, self.latent_channels), self.latent_channels, level)
        return read_latents(self.arrays(arithmetic), data, level, size)[0]

    def predicted_parameters(self, y: Tensor, level: Tensor) -> tuple[Tensor, Tensor]:
        """The predicted mean and scale index of each value of y [B, h, w, M], in the units of gain · y, both
        of y's shape.
        """
        recorder = ParameterRecorder()
        self.code_latents(recorder, y, level, (y.shape[1], y.shape[2]))
        put = self.exact_side.context.put
        _, *passes = ((mean.to(y), index.to(y)) for mean, index in recorder.parameters_by_call)
        means, indices = (
            [put(part, pass_index) for pass_index, part in enumerate(parts)] for parts in zip(*passes)
        )
        return torch.stack(means).sum(0), torch.stack(indices).sum(0)

    def integer_networks(self, arithmetic: int | None = None) -> ExactNetworks | FixedPointNetworks:
        """The integer form of the current weights, in the newest of `arithmetics` if None is given. Raises
        WeightsError for weights too large for exact arithmetic.
        """
        arithmetic, weights = arithmetic or self.arithmetics[-1], checksum(self.exact_side)
        if self._integer_checksum != weights:
            self._integer, self._integer_checksum = {}, weights
        if arithmetic not in self._integer:
            exact = self.exact_side
            composed = (ExactNetworks, Prior, HyperSynthesis, ContextModel, LevelParameters)
            try:
                with torch.inference_mode(False), torch.no_grad():  # a later gradient may pass through it
                    self._integer[arithmetic] = (
                        integer_network(exact, composed)
                        if arithmetic == 1
                        else FixedPointNetworks(exact.state_dict())
                    )
            except OverflowError as error:
                raise WeightsError(f"The weights of the entropy model cannot be used. {error}") from error
        return cast(ExactNetworks | FixedPointNetworks, self._integer[arithmetic])

    def models(self) -> Models:
        """Range-coder models of the current frequencies."""
        self._drop_stale_tables()
        if self._models is None:
            self._models = range_coder_models(self.frequencies.cpu().numpy())
        return self._models

    def cost(self) -> Floats:
        """`cost_table` of the current frequencies."""
        self._drop_stale_tables()
        if self._cost is None:
            self._cost = cost_table(self.frequencies.cpu().numpy())
        return self._cost

    def check_weights(self) -> None:
        """Raises WeightsError unless the frequencies form valid tables."""
        if not is_table(self.frequencies.cpu().numpy()):
            raise WeightsError(
                "The weights hold frequencies that the range coder cannot use; give another weight file."
            )

    def _drop_stale_tables(self) -> None:
        total = int(tensor_checksum(self.frequencies))
        if self._tables_checksum != total:
            self._models, self._cost, self._tables_checksum = None, None, total

    def __getstate__(self) -> dict[str, Any]:
        """For copies and pickles: without the range coder's models, which are built again on demand."""
        return {**self.__dict__, "_models": None}

    def _apply(self, fn: Callable[[Tensor], Tensor], recurse: bool = True) -> EntropyModel:
        """Move to another device or precision; the exact networks are built again there."""
        self._integer = {}
        return super()._apply(fn, recurse)


class TorchEntropyNetworks:
    """`EntropyNetworks` on tensors.

    Args:
        model: the entropy model that has the networks.
        integer: use the integer form of `exact_side`; otherwise `exact_side` as trained, in floats, with a
            gradient.
        arithmetic: of the integer form; the newest if None.
    """

    def __init__(self, model: EntropyModel, integer: bool, arithmetic: int | None = None) -> None:
        self.model, self.integer = model, integer
        self.networks: Any = model.integer_networks(arithmetic) if integer else model.exact_side
        self.passes, self.dead_zone = model.exact_side.context.passes, model.dead_zone
        self.joins_hyper_latent = model.joins_hyper_latent

    def scale(self, y: Tensor, level: Tensor) -> Tensor:
        scaled: Tensor = y * self.model.gain(level)
        return scaled

    def unscale(self, y_hat: Tensor, level: Tensor) -> Tensor:
        gain: Tensor = self.model.gain(level)
        return y_hat.to(gain.dtype) / gain

    def hyper_analysis(self, scaled: Tensor, level: Tensor) -> Tensor:
        normalised = scaled * self.model.exact_side.context.normalise(level)
        return self._precise(self.model.hyper_analysis(normalised))

    def prior(self, level: Tensor, size: tuple[int, int]) -> tuple[Tensor, Tensor]:
        mean, index = (
            part.expand(-1, size[0] // HYPER_STRIDE, size[1] // HYPER_STRIDE, -1)
            for part in self.networks.prior(level)
        )
        return mean, index

    def hyper_synthesis(self, z_hat: Tensor) -> Tensor:
        features: Tensor = self.networks.hyper_synthesis(z_hat)
        return features

    def predict(
        self, pass_index: int, features: Tensor, y_hat: Tensor | None, level: Tensor
    ) -> tuple[Tensor, Tensor]:
        if y_hat is None:
            y_hat = features.new_zeros(*features.shape[:3], self.model.latent_channels)
        mean, index = self.networks.context(pass_index, features, y_hat, level)
        return mean, index

    def correct(self, pass_index: int, features: Any, y_hat: Tensor, level: Tensor) -> Tensor:
        residual = self.networks.context.residual(pass_index, features, y_hat, level)
        return y_hat if residual is None else y_hat + residual

    def take(self, y: Tensor, pass_index: int) -> Tensor:
        return self._precise(self.model.exact_side.context.take(y, pass_index))

    def put(self, part: Tensor, pass_index: int) -> Tensor:
        return self.model.exact_side.context.put(part, pass_index)

    def _precise(self, values: Tensor) -> Tensor:
        return values.double() if self.integer else values


class TorchCodingNetworks:
    """`CodingNetworks` on torch, for NumPy arrays; on a CPU no array is copied."""

    def __init__(self, model: EntropyModel, arithmetic: int | None = None) -> None:
        self.model = model
        self.device = model.frequencies.device
        self.tensors = TorchEntropyNetworks(model, True, arithmetic)
        self.passes, self.dead_zone = self.tensors.passes, model.dead_zone
        self.joins_hyper_latent = model.joins_hyper_latent

    def models(self) -> Models:
        return self.model.models()

    def cost(self) -> Floats:
        return self.model.cost()

    def scale(self, y: Array, level: Array) -> Array:
        return y * latent_gain(_to_numpy(self.model.gain.log_gain.table), level)

    def unscale(self, y_hat: Array, level: Array) -> Array:
        return y_hat.astype(np.float32) / latent_gain(_to_numpy(self.model.gain.log_gain.table), level)

    @torch.no_grad()
    def hyper_analysis(self, scaled: Array, level: Array) -> Array:
        return _to_numpy(self.tensors.hyper_analysis(self._tensor(scaled), self._tensor(level)))

    @torch.no_grad()
    def prior(self, level: Array, size: tuple[int, int]) -> tuple[Array, Array]:
        mean, index = self.tensors.prior(self._tensor(level), size)
        return _to_numpy(mean), _to_numpy(index)

    @torch.no_grad()
    def hyper_synthesis(self, z_hat: Array) -> Tensor:
        return self.tensors.hyper_synthesis(self._tensor(z_hat))

    @torch.no_grad()
    def predict(
        self, pass_index: int, features: Tensor, y_hat: Array | None, level: Array
    ) -> tuple[Array, Array]:
        decoded = None if y_hat is None else self._tensor(y_hat)
        mean, index = self.tensors.predict(pass_index, features, decoded, self._tensor(level))
        return _to_numpy(mean), _to_numpy(index)

    @torch.no_grad()
    def correct(self, pass_index: int, features: Tensor, y_hat: Array, level: Array) -> Array:
        return _to_numpy(self.tensors.correct(pass_index, features, self._tensor(y_hat), self._tensor(level)))

    def take(self, y: Array, pass_index: int) -> Array:
        return _to_numpy(self.tensors.take(self._tensor(y), pass_index))

    def put(self, part: Array, pass_index: int) -> Array:
        return _to_numpy(self.tensors.put(self._tensor(part), pass_index))

    def _tensor(self, values: Array) -> Tensor:
        return torch.from_numpy(values).to(self.device)


def _to_numpy(values: Tensor) -> Array:
    array: Array = values.detach().cpu().numpy()
    return array
