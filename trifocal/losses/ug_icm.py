"""The objective of UG-ICM for decoding for machines (Yin 2024)."""

from collections.abc import Iterator

import torch
from torch import Tensor, nn

from trifocal.losses.objective import Objective
from trifocal.losses.perceptual import EncoderDistance, Perceptual
from trifocal.losses.rate_distortion import balance, mean_squared_error, quality_lambda
from trifocal.types import Batch, Condition, Output


class UgIcmObjective(Objective):
    """w · λ(level) · MSE, with all quality levels weighted equally, + a feature distance, of images decoded
    for machines.

    The second half of UG-ICM's second stage: the encoder, the entropy model and the output for people are
    trained before, and frozen. In the paper the distance is that of CLIP's embeddings of the image, of a crop
    and of each instance (equation 7). Here it is that of the features of the bundled image encoder
    (`EncoderDistance`): moving decoded images along the gradient of its pooled embedding (equation 3) did not
    help a detector, and moving them along the gradient of its features did (see MODEL_CARD).

    Args:
        perceptual: x_hat, x [B, 3, H, W] → [B]; None is `EncoderDistance`.
        perceptual_weight: of the distance.
        error_weight: w; 0 in the paper (1 in its code). With 0 the decoded images show artefacts that only
            the image encoder responds to.
    """

    def __init__(
        self, perceptual: Perceptual | None = None, perceptual_weight: float = 6.0, error_weight: float = 0.02
    ) -> None:
        super().__init__()
        self.perceptual: nn.Module = (perceptual or EncoderDistance()).requires_grad_(False).eval()
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
        """Feature distance and PSNR of images decoded for machines, and the distance of those decoded for
        people."""
        machines = codec(x, level, for_machines(x))
        error = mean_squared_error(machines.x_hat, x)
        return {
            "distance": self.perceptual(output.x_hat, x),
            "distance_machine": self.perceptual(machines.x_hat, x),
            "psnr_machine": 10 * torch.log10(255**2 / error),
        }

    def turns(self, codec: nn.Module, batch: Batch, step: int) -> Iterator[tuple[str, Tensor]]:
        output = codec(batch.x, batch.level, for_machines(batch.x))
        perceptual = self.perceptual(output.x_hat, batch.x)
        self.keep_terms(mse=mean_squared_error(output.x_hat, batch.x), perceptual=perceptual)
        error = quality_lambda(batch.level) * mean_squared_error(output.x_hat, batch.x) * balance(batch.level)
        yield (
            "codec",
            (self.error_weight * error + self.perceptual_weight * perceptual).mean(),
        )


def for_machines(x: Tensor) -> Condition:
    """Preference 1 for each image of a batch."""
    return Condition(preference=torch.ones(len(x), device=x.device))
