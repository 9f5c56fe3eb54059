"""The order in which a latent is coded, the same for estimator, encoder and decoder.

    y ── scale ──┬── hyper_analysis ── z ── code ── z_hat ── hyper_synthesis ── features
                 └── take ── code ── put ── correct ── … ── y_hat ── unscale

The functions here work on NumPy arrays and on torch tensors alike: networks and coder of a call take the same
kind.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import Any, Generic, Protocol

from trifocal.entropy.coder import Array, ArrayT, Coder, Reader, Writer
from trifocal.entropy.importance import code_importance
from trifocal.entropy.range_coder import Models
from trifocal.entropy.tables import Floats
from trifocal.errors import OptionError
from trifocal.types import MAX_LEVEL
from trifocal.utils.arrays import zeros

HYPER_STRIDE = 4  # latent positions per hyper-latent position, to a side


class EntropyNetworks(Protocol[ArrayT]):
    """The networks of an entropy model, on arrays of one kind.

    Latents are [B, h, w, M] with h and w multiples of 4; level is [B].
    """

    passes: int
    dead_zone: float  # of the quantiser, in the encoder and in training; see `quantise.dead_zones`
    joins_hyper_latent: bool  # whether y_hat has z_hat as further channels, for a synthesis that reads it

    def scale(self, y: ArrayT, level: ArrayT) -> ArrayT:
        """The latent in quantiser steps."""
        ...

    def unscale(self, y_hat: ArrayT, level: ArrayT) -> ArrayT:
        """The inverse of `scale`."""
        ...

    def hyper_analysis(self, scaled: ArrayT, level: ArrayT) -> ArrayT:
        """The hyper-latent z, [B, h/4, w/4, Z]."""
        ...

    def prior(self, level: ArrayT, size: tuple[int, int]) -> tuple[ArrayT, ArrayT]:
        """Mean and scale index of z for a latent of h × w, each [B, h/4, w/4, Z]."""
        ...

    def hyper_synthesis(self, z_hat: ArrayT) -> Any:
        """Features for `predict`, in whatever form it takes them."""
        ...

    def predict(
        self, pass_index: int, features: Any, y_hat: ArrayT | None, level: ArrayT
    ) -> tuple[ArrayT, ArrayT]:
        """Mean and scale index of the values of a coding pass. y_hat holds the passes before, None for the
        first.
        """
        ...

    def correct(self, pass_index: int, features: Any, y_hat: ArrayT, level: ArrayT) -> ArrayT:
        """y_hat of the passes so far, with the predicted error of this pass's rounding added; y_hat itself
        for an entropy model without such a prediction.
        """
        ...

    def take(self, y: ArrayT, pass_index: int) -> ArrayT:
        """The values of a pass."""
        ...

    def put(self, part: ArrayT, pass_index: int) -> ArrayT:
        """The inverse of `take`, [B, h, w, M], zero elsewhere."""
        ...


class CodingNetworks(EntropyNetworks[Array], Protocol):
    """An entropy model for coding: exact networks on NumPy arrays, and its tables."""

    def models(self) -> Models:
        """Range-coder models of the frequencies."""
        ...

    def cost(self) -> Floats:
        """`cost_table` of the frequencies."""
        ...


def code_latents(
    networks: EntropyNetworks[ArrayT],
    coder: Coder[ArrayT],
    y: Any,
    level: ArrayT,
    size: tuple[int, int],
    has_importance_map: bool = False,
) -> ArrayT:
    """Code a latent. This is the only path between latent and coder.

    Args:
        networks: of the entropy model.
        coder: estimates, writes, or reads.
        y: latent, [B, h, w, M], or None for a Reader. With `has_importance_map` it has one more channel,
            the importance map.
        level: [B].
        size: h and w, multiples of 4.
        has_importance_map: code the map first, and then the latent in quantiser steps that the map makes
            finer or coarser.

    Returns:
        y_hat, [B, h, w, M], in the units of y; [B, h, w, M + Z] if the networks join the hyper-latent to it.

    Raises:
        Damaged: from a Reader.
    """
    side = code_side_information(networks, coder, y, level, size, has_importance_map)
    return side.unscale(networks, code_values(networks, coder, side, level), level)


@dataclass(frozen=True)
class SideInformation(Generic[ArrayT]):
    """What encoder and decoder know before the coding passes.

    Attributes:
        features: of the hyper synthesis.
        scaled: the latent in quantiser steps, [B, h, w, M]; None for a Reader.
        factor: 2^(importance map) as decoded, [B, h, w, 1]; None without a map.
        first: mean and scale index of the first pass, [B, h, w, M] each; None if they are not predicted yet.
        z_hat: the decoded hyper-latent, [B, h/4, w/4, Z].
    """

    features: Any
    scaled: Any
    factor: Any = None
    first: Any = None
    z_hat: Any = None

    def predict_first(self, networks: EntropyNetworks[ArrayT], level: ArrayT) -> SideInformation[ArrayT]:
        """A copy with the prediction of the first pass, so that it is not repeated for each component."""
        predicted = networks.predict(0, self.features, None, level)
        return replace(self, first=tuple(networks.put(part, 0) for part in predicted))

    def window(self, rows: slice, columns: slice) -> SideInformation[ArrayT]:
        """The side information of a part of the latent; only for features [B, h, w, W]."""
        scaled = None if self.scaled is None else self.scaled[:, rows, columns]
        first = None if self.first is None else tuple(part[:, rows, columns] for part in self.first)
        return SideInformation(self.features[:, rows, columns], scaled, first=first)

    def unscale(self, networks: EntropyNetworks[ArrayT], decoded: ArrayT, level: ArrayT) -> ArrayT:
        """Decoded values in quantiser steps → y_hat, in the units of y, with z_hat if it is joined to it."""
        y_hat: Any = networks.unscale(decoded, level)
        y_hat = y_hat if self.factor is None else y_hat / self.factor
        return join_hyper_latent(y_hat, self.z_hat) if networks.joins_hyper_latent else y_hat


def code_side_information(
    networks: EntropyNetworks[ArrayT],
    coder: Coder[ArrayT],
    y: Any,
    level: ArrayT,
    size: tuple[int, int],
    has_importance_map: bool = False,
) -> SideInformation[ArrayT]:
    """Code the importance map, if there is one, and the hyper-latent. Arguments and errors as for
    `code_latents`.
    """
    factor: Any = None
    if has_importance_map:
        factor = code_importance(coder, None if y is None else y[..., -1:], size, level)
        y = None if y is None else y[..., :-1] * factor
    scaled = None if y is None else networks.scale(y, level)
    z = None if scaled is None else networks.hyper_analysis(scaled, level)
    z_hat = coder.code(z, *networks.prior(level, size), networks.dead_zone)
    return SideInformation(networks.hyper_synthesis(z_hat), scaled, factor, z_hat=z_hat)


def join_hyper_latent(y_hat: Any, z_hat: Any) -> Any:
    """y_hat [B, h, w, M] and z_hat [B, h/4, w/4, Z] → [B, h, w, M + Z]; each z_hat fills 4 × 4 positions."""
    b, h, w, m = y_hat.shape
    joined = zeros((b, h, w, m + z_hat.shape[3]), y_hat)
    joined[..., :m] = y_hat
    blocks = joined.reshape(b, h // HYPER_STRIDE, HYPER_STRIDE, w // HYPER_STRIDE, HYPER_STRIDE, -1)
    blocks[..., m:] = z_hat[:, :, None, :, None]
    return joined


def split_hyper_latent(joined: Any, channels: int) -> tuple[Any, Any]:
    """The inverse of `join_hyper_latent`, for y_hat with M channels."""
    return joined[..., :channels], joined[:, ::HYPER_STRIDE, ::HYPER_STRIDE, channels:]


def code_values(
    networks: EntropyNetworks[ArrayT],
    coder: Coder[ArrayT],
    side: SideInformation[ArrayT],
    level: ArrayT,
    mask: ArrayT | None = None,
    known: ArrayT | None = None,
) -> ArrayT:
    """Code the passes over a latent.

    Args:
        networks, coder, level: as for `code_latents`.
        side: of the latent.
        mask: whether a position is coded, [1, h, w, M], equal in all channels; all positions are if None.
            With a mask B is 1.
        known: values at positions that are not coded, in quantiser steps; 0 if None. A pass reads those of
            the passes before it.

    Returns:
        Decoded values and known ones, in quantiser steps, [B, h, w, M].
    """
    decoded: Any = None
    for pass_index in range(networks.passes):
        mean: Any
        if pass_index == 0 and side.first is not None:
            mean, scale_index = (networks.take(part, 0) for part in side.first)
        else:
            mean, scale_index = networks.predict(pass_index, side.features, decoded, level)
        sent = None if side.scaled is None else networks.take(side.scaled, pass_index)
        if mask is None:
            part = coder.code(sent, mean, scale_index, networks.dead_zone)
        else:
            here: Any = networks.take(mask, pass_index)
            here = here[..., 0] > 0  # a position's channels are all coded, or none
            part = zeros(mean.shape, mean) if known is None else networks.take(known, pass_index)
            _code_at(coder, here, part, sent, mean, scale_index, networks.dead_zone)
        placed: Any = networks.put(part, pass_index)
        decoded = placed if decoded is None else decoded + placed
        decoded = networks.correct(pass_index, side.features, decoded, level)
    return decoded


def _code_at(
    coder: Any, here: Any, part: Any, sent: Any, mean: Any, scale_index: Any, dead_zone: float
) -> None:
    """Code the values of a pass where `here` is True, and write them into `part`."""
    values = None if sent is None else sent[here][None]
    part[here] = coder.code(values, mean[here][None], scale_index[here][None], dead_zone)[0]


def write_latents(
    entropy: CodingNetworks, y: Array, level: Array, has_importance_map: bool = False
) -> tuple[bytes, Array, float]:
    """y of one image → its bytes, y_hat, and the seconds spent in the range coder."""
    writer = Writer(entropy.models())
    y_hat = code_latents(entropy, writer, y, level, (y.shape[1], y.shape[2]), has_importance_map)
    return writer.bytes(), y_hat, writer.seconds


def read_latents(
    entropy: CodingNetworks,
    data: bytes,
    level: Array,
    size: tuple[int, int],
    has_importance_map: bool = False,
) -> tuple[Array, float]:
    """The bytes of `write_latents` → y_hat, and the seconds spent in the range coder. Raises Damaged."""
    reader = Reader(entropy.models(), data)
    y_hat = code_latents(entropy, reader, None, level, size, has_importance_map)
    reader.end()
    return y_hat, reader.seconds


def check_latents(shape: tuple[int, ...], channels: int, level: Any) -> None:
    """Raises OptionError unless the shape is that of latents, [B, h, w, channels], and level [B] holds
    integers in 0..800.
    """
    if (
        len(shape) != 4
        or shape[3] != channels
        or shape[1] % HYPER_STRIDE
        or shape[2] % HYPER_STRIDE
        or not all(shape)
    ):
        raise OptionError(
            f"Latents of this model have the shape [B, h, w, {channels}] with h and w multiples of "
            f"{HYPER_STRIDE}, not {list(shape)}."
        )
    check_level(level, shape[0])


def check_level(level: Any, batch: int) -> None:
    """Raises OptionError unless level is an integer array or tensor [B] with values in 0..800."""
    kind, shape = str(getattr(level, "dtype", type(level).__name__)), getattr(level, "shape", None)
    if "int" not in kind or shape is None or tuple(shape) != (batch,):
        found = kind if shape is None else f"{kind} {list(shape)}"
        raise OptionError(
            f"level is an integer tensor [{batch}] with 8 · quality of each image, not {found}; or use "
            "`estimate`, which takes quality."
        )
    if getattr(level, "is_meta", False):  # shapes only, without values
        return
    low, high = int(level.min()), int(level.max())
    if low < 0 or high > MAX_LEVEL:
        raise OptionError(f"Levels go from 0 to {MAX_LEVEL} (8 · quality), not {low if low < 0 else high}.")
