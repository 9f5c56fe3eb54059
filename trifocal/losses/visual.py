"""The objective for perceived quality: squared error, SSIMULACRA2 and ColorVideoVDP.

A codec trained on a single metric exploits its weaknesses. SSIMULACRA2 compares local structure,
ColorVideoVDP models contrast sensitivity. Each is converted to squared error at an exchange rate: its worth
in bits along the codec's rate curve, −dR/dD, divided by λ. The rate at a quality level therefore stays about
the same. `scripts/exchange_rates.py` measures the rates.
"""

from collections.abc import Iterator, Sequence

import torch
from torch import Tensor, nn

from trifocal.losses.cvvdp import Cvvdp
from trifocal.losses.objective import Objective
from trifocal.losses.rate_distortion import (
    LAMBDA_RANGE,
    bits_per_pixel,
    crop_weight,
    mean_squared_error,
    quality_lambda,
)
from trifocal.losses.ssimulacra2 import Ssimulacra2, ssimulacra2_score
from trifocal.types import Batch, Output, PartialTile
from trifocal.utils.annotations import NonNegative, Positive, Share

__all__ = ["VisualObjective"]

MSE_PER_SSIMULACRA2 = 11.0  # squared error per unit of S
MSE_PER_JOD = 95.0  # squared error per JOD


class VisualObjective(Objective):
    """bpp + λ · (a · MSE + b · 11 · S + c · 95 · (10 − JOD)), with all quality levels weighted equally.

    Args:
        error_weight: a, of the squared error on the 0..255 scale.
        ssimulacra2_weight: b, of SSIMULACRA2's weighted sum S.
        cvvdp_weight: c, of ColorVideoVDP.
        ssimulacra2_rate, cvvdp_rate: exchange rates: squared error per unit of S and per JOD.
        cvvdp_share: fraction of each batch on which ColorVideoVDP is computed, since it is the slowest term.
        lambdas: as for `Objective`.

    Raises:
        MissingExtra: if the package `cvvdp` is not installed and c is not 0.
    """

    def __init__(
        self,
        error_weight: NonNegative = 0.25,
        ssimulacra2_weight: NonNegative = 0.375,
        cvvdp_weight: NonNegative = 0.375,
        ssimulacra2_rate: Positive = MSE_PER_SSIMULACRA2,
        cvvdp_rate: Positive = MSE_PER_JOD,
        cvvdp_share: Share = 0.5,
        lambdas: tuple[Positive, Positive] = LAMBDA_RANGE,
    ) -> None:
        super().__init__(lambdas)
        self.ssimulacra2 = Ssimulacra2()
        self.cvvdp: nn.Module | None = Cvvdp() if cvvdp_weight else None
        self.error_weight = error_weight
        self.ssimulacra2_weight = ssimulacra2_weight
        self.cvvdp_weight = cvvdp_weight
        self.ssimulacra2_rate = ssimulacra2_rate
        self.cvvdp_rate = cvvdp_rate
        self.cvvdp_share = cvvdp_share

    def losses(self, codec: nn.Module, batch: Batch, step: int) -> Iterator[tuple[str, Tensor]]:
        output = batch.run(codec)
        distortion = self.distortion(output, batch.x, self.cvvdp_share)
        yield "codec", self.weighted(output, batch.x, batch.level, distortion, batch.partial).mean()

    def distortion(self, output: Output, x: Tensor, share: float = 1.0) -> Tensor:
        """a · MSE + b · 11 · S + c · 95 · (10 − JOD), [B].

        Args:
            output: of the codec.
            x: images, [B, 3, H, W] in 0..1.
            share: fraction of the batch, from its start, on which the last term is computed; its weight is
                divided by it.
        """
        x_hat = output.x_hat.float()
        error, s = mean_squared_error(x_hat, x), self.ssimulacra2(x_hat, x)
        self.keep_terms(mse=error, ssimulacra2_error=s)
        total = self.error_weight * error + self.ssimulacra2_weight * self.ssimulacra2_rate * s
        if self.cvvdp is None:
            return total
        count = max(1, round(share * len(x)))
        weight = self.cvvdp_weight * self.cvvdp_rate * len(x) / count
        below = self.cvvdp(x_hat[:count], x[:count])
        self.keep_terms(jod_loss=below)
        return total + weight * torch.cat([below, below.new_zeros(len(x) - count)])

    def weighted(
        self,
        output: Output,
        x: Tensor,
        level: Tensor,
        distortion: Tensor,
        partial: Sequence[PartialTile | None] | None = None,
    ) -> Tensor:
        """bpp + λ · distortion, with all quality levels weighted equally, [B]."""
        bpp = bits_per_pixel(output, x)
        self.keep_terms(bpp=bpp)
        cost = bpp + quality_lambda(level, self.lambdas) * distortion
        return cost * crop_weight(level, self.lambdas, partial)

    def held_out_metrics(
        self, codec: nn.Module, x: Tensor, level: Tensor, output: Output
    ) -> dict[str, Tensor]:
        """The objective, the SSIMULACRA2 score and JOD, each [B]."""
        s = self.ssimulacra2(output.x_hat, x)
        metrics = {
            "objective": self.weighted(output, x, level, self.distortion(output, x)),
            "ssimulacra2": ssimulacra2_score(s),
        }
        return metrics if self.cvvdp is None else metrics | {"jod": 10 - self.cvvdp(output.x_hat, x)}

    def description(self) -> dict[str, object]:
        """Facts for the record, with weights and exchange rates."""
        return super().description() | {
            "error_weight": self.error_weight,
            "ssimulacra2_weight": self.ssimulacra2_weight,
            "cvvdp_weight": self.cvvdp_weight,
            "ssimulacra2_rate": self.ssimulacra2_rate,
            "cvvdp_rate": self.cvvdp_rate,
            "cvvdp_share": self.cvvdp_share,
            "exchange_rates_by": "python scripts/exchange_rates.py compact-psnr --data TRAINING_DATA",
        }
