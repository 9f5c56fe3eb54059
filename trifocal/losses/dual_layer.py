"""What the enhancement of the dual-layer codec minimises (Shen, Quan and Liu, equation 2)."""

from collections.abc import Iterator

from torch import Tensor, nn
from torch.nn.functional import normalize

from trifocal.losses.image_text import squared_distance
from trifocal.losses.objective import Objective
from trifocal.losses.perceptual import find_perceptual
from trifocal.losses.rate_distortion import balance, bits_per_pixel, quality_lambda
from trifocal.losses.taco import image_embedding
from trifocal.types import Batch

LAMBDAS = (2.0, 0.01)
MSE_WEIGHT = 150.0


class DualLayerObjective(Objective):
    """λ · R + MSE + LPIPS + ‖CLIP(x) − CLIP(x_hat)‖², divided by λ and each quality weighing alike.

    Words have no term: they steer the analysis, as the loop gives them with the batch. The rate is that of both layers, and the
    base's is a constant, since it is frozen.

    What the paper leaves open, and what is done here:

    * λ, which weighs the rate: log-spaced from 2 at quality 0 to 0.01 at 100. With the MSE's weight that is the house's range.
    * The scale of the MSE. At 0..255 it drowns LPIPS, at 0..1 LPIPS drowns it. Here it is on 0..1 and weighs 150 where LPIPS
      weighs 1: MS-ILLM's ratio, and about HiFiC's (152).
    * The net of LPIPS is "typically AlexNet". Where LPIPS is not on this machine the image tower's distance takes its place, and
      `notes` says so.
    * The vectors of CLIP have length 1 here, so that their distance lies in 0..4, near LPIPS's.

    Args:
        tower: the text tower's name, which says what sees the pictures: "compact", or a name or folder of a CLIP.
        perceptual: x_hat, x [B, 3, H, W] → [B]; LPIPS with AlexNet, or what stands in for it, if None.
        images: [B, 3, H, W] in 0..1 → [B, D]; of `tower`, if None.
        lambdas: λ at the lowest and at the highest quality.
        mse_weight, perceptual_weight, image_weight: of the three terms behind the rate.

    Raises:
        MissingExtra, WeightsError: if what sees the pictures is not to be had.
    """

    def __init__(
        self,
        tower: str = "openai/clip-vit-base-patch32",
        perceptual: nn.Module | None = None,
        images: nn.Module | None = None,
        lambdas: tuple[float, float] = LAMBDAS,
        mse_weight: float = MSE_WEIGHT,
        perceptual_weight: float = 1.0,
        image_weight: float = 1.0,
    ) -> None:
        super().__init__()
        self.perceptual = (perceptual or find_perceptual()).requires_grad_(False).eval()
        self.images = (images or image_embedding(tower)).requires_grad_(False).eval()
        self.lambdas = lambdas
        self.mse_weight = mse_weight
        self.perceptual_weight = perceptual_weight
        self.image_weight = image_weight

    def turns(self, codec: nn.Module, batch: Batch, step: int) -> Iterator[tuple[str, Tensor]]:
        output = codec(batch.x, batch.level, batch.condition)
        x_hat = output.x_hat.float()
        distortion = (
            self.mse_weight * (x_hat - batch.x).square().flatten(1).mean(1)
            + self.perceptual_weight * self.perceptual(x_hat, batch.x)
            + squared_distance(self._seen(x_hat), self._seen(batch.x), self.image_weight)
        )
        trade = 1 / quality_lambda(batch.level, self.lambdas)
        each = bits_per_pixel(output, batch.x) + trade * distortion
        low, high = self.lambdas
        yield "codec", (each * balance(batch.level, limits=(1 / low, 1 / high))).mean()

    def _seen(self, x: Tensor) -> Tensor:
        """The pictures' vectors, of length 1, [B, D]."""
        return normalize(self.images(x).float(), dim=-1)

    def description(self) -> dict[str, object]:
        """And the weights."""
        return super().description() | {
            "lambdas": list(self.lambdas),
            "mse_weight": self.mse_weight,
            "perceptual_weight": self.perceptual_weight,
            "image_weight": self.image_weight,
        }
