"""The objectives of both stages of DISCOVER (Liu et al, equation 4)."""

from collections.abc import Iterator
from dataclasses import replace

import torch
from torch import Tensor, nn
from torch.nn.functional import interpolate

from trifocal.losses.objective import Objective
from trifocal.losses.rate_distortion import bits_per_pixel, level_weight, quality_lambda
from trifocal.types import HYPER_LATENT_PIXELS, LATENT_STRIDE, Batch, Condition
from trifocal.utils.annotations import NonNegative, Positive, Share

__all__ = ["DiscoverObjective", "second_stage"]

RATE_LAMBDAS = (8.0, 1.0)
NOISE_WEIGHT = 2.0
MASKED = 0.5


class DiscoverObjective(Objective):
    """λ_R · R + λ_diff · ‖ε − ε_θ‖² + ‖z_c − z_c_hat‖², divided by λ_R; all quality levels count equally.

    The codec is `codecs.discover.Discover`, whose output has both errors. With a single rate (`--lambda`) the
    division by λ_R only scales the loss.

    The paper leaves open, and here is used:

    * Norms: means over the elements. R is in bits per pixel of the image.
    * λ_R of the one model for all rates: log-spaced from 8 at quality 0 to 1 at quality 100, which are the
      paper's outermost.
    * The masks of the second stage: of each crop a share that is uniform in 0..`masked`, in blocks of 4 × 4
      latents, which one hyper-latent describes.
    * The rate of the second stage, R(ỹ): it has no gradient, as encoder and entropy model are frozen, and is
      left out.

    Args:
        lambdas: λ_R at the lowest and at the highest quality.
        noise_weight: λ_diff.
        rate: whether the rate counts.
        masked: the largest share of y_hat that is zeroed, 0..1.
    """

    def __init__(
        self,
        lambdas: tuple[Positive, Positive] = RATE_LAMBDAS,
        noise_weight: NonNegative = NOISE_WEIGHT,
        rate: bool = True,
        masked: Share = 0.0,
    ) -> None:
        super().__init__(lambdas)
        self.noise_weight, self.rate, self.masked = noise_weight, rate, masked

    def losses(self, codec: nn.Module, batch: Batch, step: int) -> Iterator[tuple[str, Tensor]]:
        condition = batch.condition
        if self.masked:
            condition = replace(condition or Condition(), kept=random_blocks(batch.x, self.masked))
        output = codec(batch.x, batch.level, condition)
        bpp, latent, noise = bits_per_pixel(output, batch.x), output.latent_error, output.noise_error
        self.keep_terms(bpp=bpp, latent=latent, noise=noise)
        each = (latent + self.noise_weight * noise) / quality_lambda(batch.level, self.lambdas)
        if self.rate:
            each = each + bpp
        low, high = self.lambdas
        yield "codec", (each * level_weight(batch.level, limits=(1 / low, 1 / high))).mean()

    def description(self) -> dict[str, object]:
        """Facts for the record, with all weights."""
        return super().description() | {
            "noise_weight": self.noise_weight,
            "stage": 1 if self.rate else 2,
            "masked": self.masked,
        }


def second_stage(
    lambdas: tuple[Positive, Positive] = RATE_LAMBDAS,
    noise_weight: NonNegative = NOISE_WEIGHT,
    masked: Share = MASKED,
) -> DiscoverObjective:
    """The objective of the second stage: masks, and no rate. Arguments as for `DiscoverObjective`."""
    return DiscoverObjective(lambdas, noise_weight, rate=False, masked=masked)


def random_blocks(x: Tensor, largest: float) -> Tensor:
    """Which latent positions of crops are kept: for each crop all but a random share, 0..`largest`.

    Args:
        x: crops, [B, 3, H, W], H and W multiples of 64.
        largest: 0..1.

    Returns:
        [B, H/16, W/16], bool.
    """
    rows, columns = (side // HYPER_LATENT_PIXELS for side in x.shape[2:])
    share = largest * torch.rand(len(x), 1, device=x.device)
    ranks = torch.rand(len(x), rows * columns, device=x.device).argsort(1).argsort(1)
    kept = (ranks + 0.5 > share * rows * columns).float().reshape(len(x), 1, rows, columns)
    return interpolate(kept, scale_factor=HYPER_LATENT_PIXELS // LATENT_STRIDE)[:, 0] > 0
