"""What TACO minimises (Lee et al. 2024, arXiv 2403.02944)."""

import copy
from collections.abc import Iterator

from torch import Tensor, nn

from trifocal.detection.image_encoder import ImageEncoder, load_image_encoder
from trifocal.losses.image_text import joint_image_text
from trifocal.losses.objective import Objective
from trifocal.losses.perceptual import find_perceptual
from trifocal.losses.rate_distortion import balance, bits_per_pixel, lambda_of, mean_squared_error
from trifocal.types import Batch

LAMBDAS = (0.0004, 0.016)


class TowerImages(nn.Module):
    """Pictures → their vectors by the image tower that belongs to the compact text tower: [B, 3, H, W] in 0..1 → [B, D].

    Args:
        tower: the one that ships, if None. It is copied, and the copy is never trained.
    """

    title = "the project's image tower"

    def __init__(self, tower: ImageEncoder | None = None) -> None:
        super().__init__()
        self.tower = copy.deepcopy(tower or load_image_encoder()).requires_grad_(False).eval()

    def forward(self, x: Tensor) -> Tensor:
        pooled: Tensor = self.tower(x).pooled
        return pooled


class TacoObjective(Objective):
    """bpp + λ · MSE + k_P · LPIPS + k_J · joint image–text.

    The texts are the batch's words: their pooled vectors, from the text tower that shares its space with `images`.

    What paper and code leave open, and what is done here:

    * The paper trains a model for each rate; its code has one λ, 0.0004, with one k_P and one k_J, and the other rates'
      were not found. Here one model has all rates: λ follows the level, log-spaced from 0.0004, which is taken for the
      lowest rate's, over a factor of 40; k_P and k_J stay. The qualities are balanced as in `losses.balance`, except in
      the joint loss, which is one number for the batch.
    * LPIPS sees −1..1, as it was trained. The code feeds it 0..1: `perceptual=Lpips(scaled=False)`.
    * Where LPIPS is not on this machine the image tower's distance takes its place, with the same k_P; `notes` says so
      before the run, and `description` in its record.
    * Two pictures of a batch with the same words count as each other's mismatches, as in the code.

    Args:
        tower: the text tower's name, which says what sees the pictures: "compact", or a name or folder of a CLIP.
        perceptual: x_hat, x [B, 3, H, W] → [B]; LPIPS with AlexNet, or what stands in for it, if None.
        images: [B, 3, H, W] in 0..1 → [B, D]; of `tower`, if None.
        lambdas: λ at the lowest and at the highest quality.
        perceptual_weight: k_P.
        joint_weight: k_J.
        image_weight: of the pictures' distance within the joint loss.

    Raises:
        MissingExtra, WeightsError: if what sees the pictures is not to be had.
    """

    def __init__(
        self,
        tower: str = "openai/clip-vit-base-patch32",
        perceptual: nn.Module | None = None,
        images: nn.Module | None = None,
        lambdas: tuple[float, float] = LAMBDAS,
        perceptual_weight: float = 3.50,
        joint_weight: float = 0.0025,
        image_weight: float = 40.0,
    ) -> None:
        super().__init__()
        perceptual = perceptual or find_perceptual()
        self.perceptual = perceptual.requires_grad_(False).eval()
        self.images = (images or images_of(tower)).requires_grad_(False).eval()
        self.lambdas = lambdas
        self.perceptual_weight = perceptual_weight
        self.joint_weight = joint_weight
        self.image_weight = image_weight

    def turns(self, codec: nn.Module, batch: Batch, step: int) -> Iterator[tuple[str, Tensor]]:
        """The codec's loss; for a batch without words the joint loss compares pictures alone."""
        words = None if batch.condition is None else batch.condition.words
        output = codec(batch.x, batch.level, batch.condition)
        trade = lambda_of(batch.level, self.lambdas)
        each = (
            bits_per_pixel(output, batch.x)
            + trade * mean_squared_error(output.x_hat, batch.x)
            + self.perceptual_weight * self.perceptual(output.x_hat, batch.x)
        )
        balanced = each * balance(batch.level, limits=self.lambdas)
        joint = joint_image_text(
            self.images(output.x_hat.float()),
            self.images(batch.x),
            None if words is None else words.pooled,
            self.image_weight,
        )
        yield "codec", balanced.mean() + self.joint_weight * joint

    def description(self) -> dict[str, object]:
        """And the weights."""
        return super().description() | {
            "lambdas": list(self.lambdas),
            "perceptual_weight": self.perceptual_weight,
            "joint_weight": self.joint_weight,
            "image_weight": self.image_weight,
        }


def images_of(tower: str) -> nn.Module:
    """What sees pictures in the space of that text tower's words. Raises MissingExtra or WeightsError."""
    if tower == "compact":
        return TowerImages()
    from trifocal.text.clip import ClipImageEncoder

    return ClipImageEncoder(tower)
