"""The objective of TACO (Lee 2024, arXiv 2403.02944)."""

import copy
from collections.abc import Iterator

from torch import Tensor, nn

from trifocal.detection.image_encoder import ImageEncoder, load_image_encoder
from trifocal.losses.image_text import joint_image_text
from trifocal.losses.objective import Objective
from trifocal.losses.perceptual import PerceptualName, as_perceptual
from trifocal.losses.rate_distortion import bits_per_pixel, level_weight, mean_squared_error, quality_lambda
from trifocal.types import Batch
from trifocal.utils.annotations import NonNegative, Positive

DISTORTION_LAMBDAS = (0.0004, 0.016)


class CompactImageEmbedder(nn.Module):
    """Image embeddings in the space of the bundled text encoder: [B, 3, H, W] in 0..1 → [B, D].

    Args:
        encoder: an image encoder; None is the bundled one. A copy of it is used, and never trained.
    """

    title = "the bundled image encoder"

    def __init__(self, encoder: ImageEncoder | None = None) -> None:
        super().__init__()
        self.encoder = copy.deepcopy(encoder or load_image_encoder()).requires_grad_(False).eval()

    def forward(self, x: Tensor) -> Tensor:
        pooled: Tensor = self.encoder(x).pooled
        return pooled


class TacoObjective(Objective):
    """bpp + λ · MSE + k_P · LPIPS + k_J · joint image–text.

    The text embeddings are the pooled ones of the batch, in the same space as `images`.

    Differences from the paper and its code, and what they leave open:

    * The paper trains one model per rate. Its code has one λ, 0.0004, with one k_P and one k_J; those of the
      other rates are not published. Here one model covers all rates: λ is log-spaced from 0.0004, taken as
      that of the lowest rate, over a factor of 40, and k_P and k_J are constant. The quality levels are
      balanced as in `losses.level_weight`, except in the joint loss, which is a scalar of the batch.
    * The code feeds LPIPS inputs in 0..1, and the preset's recipe does so too ("lpips-unscaled"). Without
      that argument they are in −1..1, as in the training of LPIPS.
    * Where LPIPS is not available, `EncoderDistance` replaces it with the same k_P; `notices` returns a
    notice,
      and `description` records it.
    * As in the code, two images of a batch with the same text are negatives of each other. The batch is that
      of all processes.

    Args:
        tower: name of the text encoder, whose image encoder embeds the images: "compact", or a name or folder
            of a CLIP.
        perceptual: x_hat, x [B, 3, H, W] → [B], or a name for `find_perceptual`; None is its default.
        images: [B, 3, H, W] in 0..1 → [B, D]; None is the image encoder of `tower`.
        lambdas: λ at the lowest and at the highest quality.
        perceptual_weight: k_P.
        joint_weight: k_J.
        image_weight: of the image distance within the joint loss.

    Raises:
        MissingExtra, WeightsError: if the image encoder is not available.
    """

    def __init__(
        self,
        tower: str = "openai/clip-vit-base-patch32",
        perceptual: nn.Module | PerceptualName | None = None,
        images: nn.Module | None = None,
        lambdas: tuple[Positive, Positive] = DISTORTION_LAMBDAS,
        perceptual_weight: NonNegative = 3.50,
        joint_weight: NonNegative = 0.0025,
        image_weight: NonNegative = 40.0,
    ) -> None:
        super().__init__(lambdas)
        self.perceptual = as_perceptual(perceptual).requires_grad_(False).eval()
        self.images = (images or image_embedder(tower)).requires_grad_(False).eval()
        self.perceptual_weight = perceptual_weight
        self.joint_weight = joint_weight
        self.image_weight = image_weight

    def losses(self, codec: nn.Module, batch: Batch, step: int) -> Iterator[tuple[str, Tensor]]:
        """The loss of the codec; for a batch without text the joint loss has only its image term."""
        text = None if batch.condition is None else batch.condition.text
        output = codec(batch.x, batch.level, batch.condition)
        distortion_weight = quality_lambda(batch.level, self.lambdas)
        bpp, error = bits_per_pixel(output, batch.x), mean_squared_error(output.x_hat, batch.x)
        perceptual = self.perceptual(output.x_hat, batch.x)
        each = bpp + distortion_weight * error + self.perceptual_weight * perceptual
        balanced = each * level_weight(batch.level, limits=self.lambdas)
        joint = joint_image_text(
            self.images(output.x_hat.float()),
            self.images(batch.x),
            None if text is None else text.pooled,
            self.image_weight,
        )
        self.keep_terms(bpp=bpp, mse=error, perceptual=perceptual, joint=joint)
        yield "codec", balanced.mean() + self.joint_weight * joint

    def description(self) -> dict[str, object]:
        """Facts for the record, with all weights."""
        return super().description() | {
            "perceptual_weight": self.perceptual_weight,
            "joint_weight": self.joint_weight,
            "image_weight": self.image_weight,
        }


def image_embedder(text_encoder: str) -> nn.Module:
    """The image encoder that belongs to a text encoder. Raises MissingExtra or WeightsError."""
    if text_encoder == "compact":
        return CompactImageEmbedder()

    from trifocal.text.clip import ClipImageEncoder

    return ClipImageEncoder(text_encoder)
