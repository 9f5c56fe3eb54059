"""What UG-ICM minimises for machines: pictures that mean the same to a network that saw no task (Yin et al. 2024)."""

from collections.abc import Iterator

import torch
from torch import Tensor, nn

from trifocal.losses.objective import Objective
from trifocal.losses.perceptual import Perceptual, TowerDistance
from trifocal.losses.rate_distortion import balance, mean_squared_error, quality_lambda
from trifocal.types import Batch, Condition, Output


class UgIcmObjective(Objective):
    """w · λ(level) · MSE, each quality weighing alike, + the tower's distance, of pictures that are decoded for machines.

    The second half of UG-ICM's second stage: encoder and entropy model are frozen, and so is the way for people, which was trained
    before. In the paper the distance is that of CLIP's vectors of the picture, of a part and of each instance (equation 7). Here it
    is that of the project's image tower at each place of each of its stages (`TowerDistance`), whose one vector of a whole picture says
    too little: decoded pictures that were moved along its gradient (equation 3) helped no detector, and along this one they did (see
    MODEL_CARD).

    Args:
        perceptual: x_hat, x [B, 3, H, W] → [B]; the image tower's distance if None.
        perceptual_weight: of it.
        error_weight: w; the paper has 0 (its code 1), which leaves patterns that only the tower sees.
    """

    def __init__(
        self, perceptual: Perceptual | None = None, perceptual_weight: float = 6.0, error_weight: float = 0.02
    ) -> None:
        super().__init__()
        self.perceptual: nn.Module = (perceptual or TowerDistance()).requires_grad_(False).eval()
        self.perceptual_weight = perceptual_weight
        self.error_weight = error_weight

    def description(self) -> dict[str, object]:
        return super().description() | {
            "perceptual_weight": self.perceptual_weight,
            "error_weight": self.error_weight,
        }

    def held_out_metrics(
        self, codec: nn.Module, x: Tensor, level: Tensor, output: Output
    ) -> dict[str, Tensor]:
        """The tower's distance and the PSNR of what is decoded for machines, and the distance of what is for people."""
        machines = codec(x, level, for_machines(x))
        error = mean_squared_error(machines.x_hat, x)
        return {
            "distance": self.perceptual(output.x_hat, x),
            "distance_machine": self.perceptual(machines.x_hat, x),
            "psnr_machine": 10 * torch.log10(255**2 / error),
        }

    def turns(self, codec: nn.Module, batch: Batch, step: int) -> Iterator[tuple[str, Tensor]]:
        output = codec(batch.x, batch.level, for_machines(batch.x))
        error = quality_lambda(batch.level) * mean_squared_error(output.x_hat, batch.x) * balance(batch.level)
        yield (
            "codec",
            (
                self.error_weight * error + self.perceptual_weight * self.perceptual(output.x_hat, batch.x)
            ).mean(),
        )


def for_machines(x: Tensor) -> Condition:
    """Preference 1 for each picture of a batch."""
    return Condition(preference=torch.ones(len(x), device=x.device))
