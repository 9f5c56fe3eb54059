"""The torch network of a codec: analysis, entropy model and synthesis.

Training updates its weights.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from trifocal.entropy import Coder, EntropyModel, RateEstimator, TrainingRateEstimator
from trifocal.entropy.component_coding import kept_positions
from trifocal.entropy.estimators import PositionRateEstimator
from trifocal.entropy.latent_coding import HYPER_STRIDE, check_level
from trifocal.errors import OptionError
from trifocal.pictures import Picture
from trifocal.types import HYPER_LATENT_PIXELS, LEVELS_PER_QUALITY, Condition, Output, PartialTile

__all__ = ["CodecNetwork", "Estimate", "module_dtype", "quality_levels"]


@dataclass(frozen=True)
class Estimate:
    """The result of `CodecNetwork.estimate`.

    Attributes:
        x_hat: decoded images, [B, 3, H, W], about 0..1, not clamped.
        y_hat: decoded latents, [B, ⌈H/64⌉·4, ⌈W/64⌉·4, M].
        bits: of each image, [B].
        bit_map: bits of each latent position, [B, ⌈H/64⌉·4, ⌈W/64⌉·4]; sums to `bits`.
    """

    x_hat: Tensor
    y_hat: Tensor
    bits: Tensor
    bit_map: Tensor


class CodecNetwork(nn.Module):
    """The network of a codec. A subclass for each paper overrides the methods that differ.

        x ── analyse ── y ── code_latents ── y_hat ── synthesise ── x_hat

    Args:
        analysis: x → y.
        entropy: y ⇄ coder ⇄ y_hat.
        synthesis: y_hat, level → x_hat.
        receptive_field: of analysis and synthesis, pixels to each side, a multiple of 16.

    Attributes:
        has_importance_map: whether `analyse` appends an importance map to y, which is coded before the
            latent.
    """

    has_importance_map = False

    def __init__(
        self, analysis: nn.Module, entropy: EntropyModel, synthesis: nn.Module, receptive_field: int
    ) -> None:
        super().__init__()
        self.analysis = analysis
        self.entropy = entropy
        self.synthesis = synthesis
        self.receptive_field = receptive_field

    @property
    def device(self) -> torch.device:
        """The device of the parameters."""
        return next(self.parameters()).device

    @property
    def arithmetics(self) -> tuple[int, ...]:
        """Ids of the arithmetics in which files of this network can be coded, the newest last."""
        return self.entropy.arithmetics

    def prepare(self, picture: Picture, condition: Condition | None) -> Condition | None:
        """Compute the parts of the condition that depend on the whole image, before its tiles are analysed.
        This base class has no such parts and returns the condition unchanged.
        """
        return condition

    def begin_training(self) -> None:
        """Set parameters that training starts from, before those of `--start` are loaded; none here."""

    def description(self) -> dict[str, object]:
        """Facts for the record of a run, besides those of the objective; none here."""
        return {}

    def analyse(self, x: Tensor, condition: Condition | None = None) -> Tensor:
        """x [B, 3, H, W] in 0..1 → y [B, H/16, W/16, M]. The condition has no effect here."""
        y: Tensor = self.analysis(x.to(module_dtype(self.analysis)))
        return y.float()

    def code_latents(
        self, coder: Coder[Any], y: Tensor | None, level: Tensor, size: tuple[int, int]
    ) -> Tensor:
        """y, or the bytes of a Reader → y_hat [B, h, w, M]; see `EntropyModel.code_latents`."""
        return self.entropy.code_latents(coder, y, level, size, self.has_importance_map)

    def synthesise(self, y_hat: Tensor, level: Tensor, condition: Condition | None = None) -> Tensor:
        """y_hat [B, h, w, M] → x_hat [B, 3, 16·h, 16·w]. The condition has no effect here."""
        x_hat: Tensor = self.synthesis(y_hat.to(module_dtype(self.synthesis)), level)
        return x_hat.float()

    def forward(
        self,
        x: Tensor,
        level: Tensor,
        condition: Condition | None = None,
        estimator: RateEstimator | TrainingRateEstimator | None = None,
        partial: Sequence[PartialTile | None] | None = None,
    ) -> Output:
        """One training or validation step.

        In training mode the rate is that of `TrainingRateEstimator`, in evaluation mode that of the integer
        tables.

        Args:
            x: [B, 3, H, W] in 0..1, H and W multiples of 64.
            level: 8 · quality, integers in 0..800, [B].
            condition: side input of B images or of one.
            estimator: counts the bits; by default a new one.
            partial: for each image its components and which of them are missing; None for an image without
                components. If given, images have at most TILE pixels a side, and `estimator` is None.

        Raises:
            OptionError: for another shape or level; the message says what is accepted.
        """
        check_images(x)
        check_level(level, len(x))
        if x.shape[2] % HYPER_LATENT_PIXELS or x.shape[3] % HYPER_LATENT_PIXELS:
            raise OptionError(
                f"Height and width must be multiples of {HYPER_LATENT_PIXELS}, not {x.shape[2]} and "
                f"{x.shape[3]}; crop or pad x, or use `estimate`, which takes any size."
            )
        return self._forward(x, level, condition, estimator, partial)

    def _forward(
        self,
        x: Tensor,
        level: Tensor,
        condition: Condition | None,
        estimator: RateEstimator | TrainingRateEstimator | None,
        partial: Sequence[PartialTile | None] | None = None,
    ) -> Output:
        y = self.analyse(x, condition)
        if partial is not None:
            y_hat, bits = self._code_partial(y, level, partial)
            kept = torch.ones(y.shape[:3], dtype=torch.bool, device=y.device)
            for row, tile in enumerate(partial):
                if tile is not None:
                    kept[row] = torch.from_numpy(kept_positions(tile.numbers, tile.missing))
            condition = replace(condition or Condition(), kept=kept)
            return Output(self.synthesise(y_hat, level, condition), y_hat, bits)
        estimator = estimator or rate_estimator(self.entropy, x)
        y_hat = self.code_latents(estimator, y, level, (y.shape[1], y.shape[2]))
        return Output(self.synthesise(y_hat, level, condition), y_hat, torch.as_tensor(estimator.bits))

    def _code_partial(
        self, y: Tensor, level: Tensor, partial: Sequence[PartialTile | None]
    ) -> tuple[Tensor, Tensor]:
        """y → y_hat and the bits of each image, [B]; images with components one by one."""
        whole = [row for row, tile in enumerate(partial) if tile is None]
        groups = [whole] * bool(whole) + [[row] for row, tile in enumerate(partial) if tile is not None]
        coded = []
        for rows in groups:
            estimator, size = rate_estimator(self.entropy, y[rows]), (y.shape[1], y.shape[2])
            y_hat = self.entropy.code_latents(
                estimator, y[rows], level[rows], size, self.has_importance_map, partial[rows[0]]
            )
            coded.append((y_hat, torch.as_tensor(estimator.bits)))
        order = torch.tensor([row for rows in groups for row in rows], device=y.device).argsort()
        return torch.cat([one for one, _ in coded])[order], torch.cat([one for _, one in coded])[order]

    def estimate(
        self, x: Tensor, quality: float | Tensor = 50.0, condition: Condition | None = None
    ) -> Estimate:
        """x_hat and a differentiable rate, without writing a file.

        The state of the codec does not change. In evaluation mode the value of `bits` is that of
        the file's latent layer, within 1 % (files add about 18 bytes of header, and images above 1024 pixels
        are coded in tiles). Its gradient is that of the logistic at the latent before rounding, and rounding
        itself passes gradients unchanged; both are biased for values inside the dead zone. In
        training mode the float networks are used in place of the integer ones, so that gradients also reach
        the entropy model; the value then differs from a file by up to 5 %.

        Args:
            x: float images, [B, 3, H, W] in 0..1, of any size; padded inside by repeating the last row and
                column.
            quality: 0..100, one for all images or a tensor [B].
            condition: side input of B images or of one.

        Raises:
            OptionError: for another shape, dtype or quality.
        """
        check_images(x)
        level = quality_levels(quality, len(x), x.device)
        height, width = x.shape[2:]
        wide, high = (-side % HYPER_LATENT_PIXELS for side in (width, height))
        padded = F.pad(x, (0, wide, 0, high), mode="replicate")
        y = self.analyse(padded, condition)
        size = y.shape[1], y.shape[2]
        estimator = PositionRateEstimator(self.entropy.cost())
        y_hat = self.code_latents(estimator, y, level, size)
        bit_map = self._bit_map(estimator.bits_by_call, size)
        x_hat = self.synthesise(y_hat, level, condition)[:, :, :height, :width]
        return Estimate(x_hat, y_hat, bit_map.sum((1, 2)), bit_map)

    def _bit_map(self, bits_by_call: list[Tensor], size: tuple[int, int]) -> Tensor:
        """Bits of each coding call → bits of each latent position. The bits of the importance map and of z
        are spread evenly over the positions that they describe.
        """
        *importance_bits, z = bits_by_call[: len(bits_by_call) - self.entropy.exact_side.context.passes]
        passes = bits_by_call[len(importance_bits) + 1 :]
        put = self.entropy.exact_side.context.put
        bits = torch.stack([put(part, index).sum(-1) for index, part in enumerate(passes)]).sum(0)
        spread = z.sum(-1).repeat_interleave(HYPER_STRIDE, 1).repeat_interleave(HYPER_STRIDE, 2)
        bits = bits + spread / HYPER_STRIDE**2
        for part in importance_bits:
            bits = bits + (part.flatten(1).sum(1) / (size[0] * size[1]))[:, None, None]
        return bits.float()


def rate_estimator(entropy: EntropyModel, x: Tensor) -> RateEstimator | TrainingRateEstimator:
    """The estimator of a forward pass: differentiable in training mode; in evaluation mode, the bits of the
    integer tables.
    """
    if entropy.training:
        return TrainingRateEstimator(len(x), x.device)
    return RateEstimator(entropy.cost(), len(x))


def quality_levels(quality: float | Tensor, batch: int, device: torch.device | str = "cpu") -> Tensor:
    """Qualities 0..100 → levels [B]. Raises OptionError for others."""
    values = torch.as_tensor(quality, dtype=torch.float64, device=device)
    if values.shape not in ((), (batch,)):
        raise OptionError(f"quality is one number, or a tensor [{batch}], not a tensor {list(values.shape)}.")
    if not bool(((values >= 0) & (values <= 100)).all()):
        raise OptionError(f"Quality goes from 0 to 100, not {float(values.reshape(-1)[0]):g}.")
    return (values * LEVELS_PER_QUALITY).round().long().expand(batch)


def check_images(x: Tensor) -> None:
    """Raises OptionError unless x is a float tensor [B, 3, H, W]."""
    if x.ndim != 4 or x.shape[1] != 3 or not x.is_floating_point() or not x.numel():
        raise OptionError(
            "x is a float tensor [B, 3, H, W] with values in 0..1, not "
            f"{str(x.dtype).removeprefix('torch.')} {list(x.shape)}."
        )


def module_dtype(module: nn.Module) -> torch.dtype:
    """The dtype of a transform; analysis and synthesis may run in bfloat16."""
    return next(module.parameters()).dtype
