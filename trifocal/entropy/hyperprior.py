"""The entropy model: hyperprior, context, gains and tables, and the walk over them that is written once."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, cast

import torch
from torch import Tensor, nn

from trifocal.entropy.coder import (
    Coder,
    Model,
    ParameterRecorder,
    TrainingRateEstimator,
    cost_table,
    models_of,
)
from trifocal.entropy.context import MEAN_BITS, Context, ContextModel, StepsOfLevel
from trifocal.entropy.exact import Snap, integer_twin
from trifocal.entropy.quantise import Gain
from trifocal.entropy.tables import ROWS, is_table, logistic_frequencies
from trifocal.errors import WeightsError
from trifocal.layers import QualityInterpolation
from trifocal.transforms.dct import BLOCK, ordered_std
from trifocal.transforms.hyper import HyperAnalysis, HyperSynthesis
from trifocal.weights import checksum, checksum_of


class Prior(nn.Module):
    """Mean and scale index of the hyper-latent: a vector each for every quality, the same at all places."""

    def __init__(self, channels: int, knots: int) -> None:
        super().__init__()
        self.mean = QualityInterpolation(torch.zeros(knots, channels))
        self.index = QualityInterpolation(torch.full((knots, channels), 30.0))
        self.snap = Snap(MEAN_BITS)

    def forward(self, level: Tensor) -> tuple[Tensor, Tensor]:
        """[B] → mean and scale index, each [B, 1, 1, Z]."""
        return self.snap(self.mean(level)), self.index(level).clamp(0, ROWS - 1)


class IntegerNetworks(nn.Module):
    """The networks between z_hat and the coder: all that both sides must compute alike.

    Args:
        prior: of z.
        hyper_synthesis: z_hat [B, h/4, w/4, Z] → features [B, h, w, W], of layers that have exact twins.
        context: features and what is decoded → mean and scale index.
    """

    def __init__(self, prior: Prior, hyper_synthesis: nn.Module, context: ContextModel) -> None:
        super().__init__()
        self.prior = prior
        self.hyper_synthesis = hyper_synthesis
        self.context = context


class EntropyModel(nn.Module):
    """y ⇄ coder ⇄ y_hat: gain, hyper analysis, and the exact side (prior, hyper synthesis, context).

    The constructor makes that of the compact network; `of_parts` makes one of any parts.

    Args:
        latent_channels: M, a multiple of 4.
        hyper_channels: Z.
        width: width of the context model.
        blocks: blocks of the context model.
        steps: quantiser step at each quality knot, [K]: where the gains start.
    """

    def __init__(
        self, latent_channels: int, hyper_channels: int, width: int, blocks: int, steps: Tensor
    ) -> None:
        super().__init__()
        spread = (ordered_std(BLOCK, latent_channels)[None] / steps[:, None]).clamp(min=0.02)
        self._take_parts(
            Gain(steps, latent_channels),
            HyperAnalysis(latent_channels, 128, hyper_channels),
            IntegerNetworks(
                Prior(hyper_channels, len(steps)),
                HyperSynthesis(hyper_channels, 128, width),
                Context(latent_channels, width, blocks, spread),
            ),
        )

    @classmethod
    def of_parts(cls, gain: Gain, hyper_analysis: nn.Module, exact_side: IntegerNetworks) -> EntropyModel:
        """Any other entropy model: ELIC's (`groups.py`), a mean–scale hyperprior (`SinglePass`).

        Args:
            gain: quality and channel → the factor before the quantiser.
            hyper_analysis: y in units of its spread [B, h, w, M] → z [B, h/4, w/4, Z], in ordinary floats.
            exact_side: prior, hyper synthesis and context.
        """
        model = cls.__new__(cls)
        nn.Module.__init__(model)
        model._take_parts(gain, hyper_analysis, exact_side)
        return model

    def _take_parts(self, gain: Gain, hyper_analysis: nn.Module, exact_side: IntegerNetworks) -> None:
        self.gain = gain
        self.hyper_analysis = hyper_analysis
        self.exact_side = exact_side
        self.frequencies: Tensor
        self.register_buffer("frequencies", torch.from_numpy(logistic_frequencies()))
        self._twin: IntegerNetworks | None = None
        self._twin_of: tuple[int, ...] = ()
        self._models: list[Model] | None = None
        self._cost: Tensor | None = None
        self._tables_of = 0
        self.latent_channels = gain.log_gain.table.shape[1]

    def code_latents(self, coder: Coder, y: Tensor | None, level: Tensor, size: tuple[int, int]) -> Tensor:
        """The only road between latent and coder.

        Args:
            coder: a Meter, a Writer or a Reader.
            y: latent, [B, h, w, M], or None for a Reader.
            level: [B].
            size: h and w, multiples of 4.

        Returns:
            y_hat, [B, h, w, M], in the units of y.
        """
        learning = self.training and isinstance(coder, (TrainingRateEstimator, ParameterRecorder))
        side = self.exact_side if learning else self.twin()
        gain = self.gain(level)
        scaled = None if y is None else y * gain
        z = None if scaled is None else self.hyper_analysis(scaled * self.exact_side.context.normalise(level))
        z_hat = coder.code(_as(z, not learning), *_everywhere(side.prior(level), size))
        features = side.hyper_synthesis(z_hat)
        y_hat = self._passes(coder, side, _as(scaled, not learning), features, level)
        return y_hat.to(gain.dtype) / gain

    def _passes(
        self, coder: Coder, side: IntegerNetworks, y: Tensor | None, features: Tensor, level: Tensor
    ) -> Tensor:
        y_hat = features.new_zeros(*features.shape[:3], self.latent_channels)
        order = self.exact_side.context
        for step in range(order.passes):
            mean, scale_index = side.context(step, features, y_hat, level)
            part = coder.code(None if y is None else order.take(y, step), mean, scale_index)
            y_hat = y_hat + order.put(part, step)
        return y_hat

    def expected(self, y: Tensor, level: Tensor) -> tuple[Tensor, Tensor]:
        """What the model says of each value when y [B, h, w, M] is coded: mean and scale index in the units of gain · y, both of y's shape."""
        listener = ParameterRecorder()
        self.code_latents(listener, y, level, (y.shape[1], y.shape[2]))
        put = self.exact_side.context.put
        _, *passes = ((mean.to(y), index.to(y)) for mean, index in listener.heard)
        means, indices = ([put(part, step) for step, part in enumerate(parts)] for parts in zip(*passes))
        return torch.stack(means).sum(0), torch.stack(indices).sum(0)

    def twin(self) -> IntegerNetworks:
        """The exact twin of the weights as they are. Raises WeightsError where they are too large to be computed exactly."""
        weights = checksum(self.exact_side)
        if self._twin is None or self._twin_of != weights:
            composed = (IntegerNetworks, Prior, HyperSynthesis, ContextModel, StepsOfLevel)
            try:
                with torch.inference_mode(False), torch.no_grad():  # a later gradient may pass through it
                    twin = integer_twin(self.exact_side, composed)
            except OverflowError as error:
                raise WeightsError(f"The weights of the entropy model cannot be used. {error}") from error
            # Not as a child: it is no part of the state, of a copy's buffers, or of what is trained.
            object.__setattr__(self, "_twin", twin)
            self._twin_of = weights
        return cast(IntegerNetworks, self._twin)

    def models(self) -> list[Model]:
        """The range coder's models of the frequencies as they are."""
        self._forget_other_frequencies()
        if self._models is None:
            self._models = models_of(self.frequencies.cpu().numpy())
        return self._models

    def cost(self) -> Tensor:
        """The Meter's table of the frequencies as they are."""
        self._forget_other_frequencies()
        if self._cost is None:
            with torch.inference_mode(False):
                self._cost = torch.from_numpy(cost_table(self.frequencies.cpu().numpy()))
        return self._cost

    def check_weights(self) -> None:
        """Raises WeightsError unless the frequencies are those of a table."""
        if not is_table(self.frequencies.cpu().numpy()):
            raise WeightsError("The weights hold frequencies that the range coder cannot use; name others.")

    def _forget_other_frequencies(self) -> None:
        total = int(checksum_of(self.frequencies))
        if self._tables_of != total:
            self._models, self._cost, self._tables_of = None, None, total

    def __getstate__(self) -> dict[str, Any]:
        """For copies and pickles: without the range coder's models, which are built again when they are needed."""
        return {**self.__dict__, "_models": None}

    def _apply(self, fn: Callable[[Tensor], Tensor], recurse: bool = True) -> EntropyModel:
        """To another device or precision: the twin is built again there."""
        self._twin = None
        return super()._apply(fn, recurse)


def _as(y: Tensor | None, exact: bool) -> Tensor | None:
    """y in the precision of the side that codes it: float64 where that is the exact twin."""
    return y.double() if y is not None and exact else y


def _everywhere(parameters: tuple[Tensor, Tensor], size: tuple[int, int]) -> tuple[Tensor, Tensor]:
    """[B, 1, 1, Z] → [B, h/4, w/4, Z]."""
    mean, index = (p.expand(-1, size[0] // 4, size[1] // 4, -1) for p in parameters)
    return mean, index
