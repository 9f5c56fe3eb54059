"""The objective of the dual-layer codec's enhancement (Shen, Quan and Liu, equation 2)."""

from collections.abc import Iterator

from torch import Tensor, nn
from torch.nn.functional import normalize

from trifocal.losses.image_text import squared_distance
from trifocal.losses.objective import Objective
from trifocal.losses.perceptual import PerceptualName, as_perceptual
from trifocal.losses.rate_distortion import bits_per_pixel, crop_weight, quality_lambda
from trifocal.losses.taco import image_embedder
from trifocal.types import Batch
from trifocal.utils.annotations import NonNegative, Positive

RATE_LAMBDAS = (2.0, 0.01)
MSE_WEIGHT = 150.0


class DualLayerObjective(Objective):
    """λ · R + MSE + LPIPS + ‖CLIP(x) − CLIP(x_hat)‖², divided by λ, with all quality levels weighted equally.

    The text has no term of its own; it conditions the analysis. The rate is that of both layers; that of the
    base is a constant, since the base is frozen.

    The paper leaves open, and here is used:

    * λ, the weight of the rate: log-spaced from 2 at quality 0 to 0.01 at 100. With the weight of the MSE
      this is the range of the other presets.
    * The scale of the MSE: 0..1, with a weight of 150 for LPIPS's 1, which is MS-ILLM's ratio, and about
      HiFiC's (152).
    * The network of LPIPS, "typically AlexNet". Where LPIPS is not available, `EncoderDistance` replaces it,
      and `notices` returns a notice.
    * The norm of CLIP's vectors: they are normalised, so their squared distance is in 0..4, close to the
      range of LPIPS.

    Args:
        tower: name of the text encoder, whose image encoder embeds the images: "compact", or a name or folder
            of a CLIP.
        perceptual: x_hat, x [B, 3, H, W] → [B], or a name for `find_perceptual`; None is its default.
        images: [B, 3, H, W] in 0..1 → [B, D]; None is the image encoder of `tower`.
        lambdas: λ at the lowest and at the highest quality.
        mse_weight, perceptual_weight, image_weight: of the three distortion terms.

    Raises:
        MissingExtra, WeightsError: if the image encoder is not available.
    """

    def __init__(
        self,
        tower: str = "openai/clip-vit-base-patch32",
        perceptual: nn.Module | PerceptualName | None = None,
        images: nn.Module | None = None,
        lambdas: tuple[Positive, Positive] = RATE_LAMBDAS,
        mse_weight: NonNegative = MSE_WEIGHT,
        perceptual_weight: NonNegative = 1.0,
        image_weight: NonNegative = 1.0,
    ) -> None:
        super().__init__(lambdas)
        self.perceptual = as_perceptual(perceptual).requires_grad_(False).eval()
        self.images = (images or image_embedder(tower)).requires_grad_(False).eval()
        self.mse_weight = mse_weight
        self.perceptual_weight = perceptual_weight
        self.image_weight = image_weight

    def losses(self, codec: nn.Module, batch: Batch, step: int) -> Iterator[tuple[str, Tensor]]:
        output = batch.run(codec)
        x_hat = output.x_hat.float()
        error = (x_hat - batch.x).square().flatten(1).mean(1)
        perceptual = self.perceptual(x_hat, batch.x)
        image = squared_distance(self._embed(x_hat), self._embed(batch.x))
        distortion = self.mse_weight * error + self.perceptual_weight * perceptual + self.image_weight * image
        distortion_weight = 1 / quality_lambda(batch.level, self.lambdas)
        bpp = bits_per_pixel(output, batch.x)
        self.keep_terms(bpp=bpp, mse=255**2 * error, perceptual=perceptual, image=image)
        each = bpp + distortion_weight * distortion
        low, high = self.lambdas
        yield "codec", (each * crop_weight(batch.level, (1 / low, 1 / high), batch.partial)).mean()

    def _embed(self, x: Tensor) -> Tensor:
        """Normalised embeddings of images, [B, D]."""
        return normalize(self.images(x).float(), dim=-1)

    def description(self) -> dict[str, object]:
        """Facts for the record, with all weights."""
        return super().description() | {
            "mse_weight": self.mse_weight,
            "perceptual_weight": self.perceptual_weight,
            "image_weight": self.image_weight,
        }
