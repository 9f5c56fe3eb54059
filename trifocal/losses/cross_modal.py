"""What Cross-modal minimises, in its two stages."""

from collections.abc import Iterator
from dataclasses import asdict

from torch import Tensor, nn

from trifocal.losses.adversary import Discriminator, Game, discriminator_loss, generator_loss
from trifocal.losses.hific import HIFIC_RATE, RateTarget
from trifocal.losses.objective import Objective
from trifocal.losses.perceptual import TowerDistance, find_perceptual
from trifocal.losses.rate_distortion import (
    balance,
    bits_per_pixel,
    mean_squared_error,
    rate_distortion,
)
from trifocal.types import Batch, Output, TextEmbedding


class CrossModalObjective(Objective):
    """λ · bpp + k_M · MSE + k_P · perceptual, and in the second stage + β · adversary, with a discriminator that learns too.

    Cross-modal (section 3.3, equations 3 to 6) on HiFiC (Mentzer et al. 2020, section 3.2). Cross-modal prints k_M = 1 and
    k_P = 0.075 · 2^−5, the reverse of HiFiC's; since it also says that its setup is identical to HiFiC's, HiFiC's are the
    defaults. The stages are two objects: without a discriminator it is the first, with one the second. In the second the
    codec's turn comes first, and only the codec learns from it; then the discriminator's, on the same pictures.

    Args:
        discriminator: the codec's opponent, or None for the first stage.
        perceptual: x_hat, x [B, 3, H, W] → [B]; `find_perceptual()` if None (LPIPS with AlexNet where it is at hand).
        rate: the rate's weight.
        mse_weight: k_M, on the 0..255 scale.
        perceptual_weight: k_P.
        adversary_weight: β.
        game: "bce" as printed, or "hinge" (SSA-GAN's).
    """

    def __init__(
        self,
        discriminator: Discriminator | None = None,
        perceptual: nn.Module | None = None,
        rate: RateTarget = HIFIC_RATE,
        mse_weight: float = 0.075 * 2.0**-5,
        perceptual_weight: float = 1.0,
        adversary_weight: float = 0.15,
        game: Game = "bce",
    ) -> None:
        super().__init__()
        self.discriminator = discriminator
        self.perceptual = (perceptual or find_perceptual()).requires_grad_(False).eval()
        self.rate = rate
        self.mse_weight = mse_weight
        self.perceptual_weight = perceptual_weight
        self.adversary_weight = adversary_weight
        self.game: Game = game

    def description(self) -> dict[str, object]:
        """Besides what every objective says: the stage and all weights."""
        return super().description() | {
            "stage": 1 if self.discriminator is None else 2,
            "rate": asdict(self.rate),
            "mse_weight": self.mse_weight,
            "perceptual_weight": self.perceptual_weight,
            **(
                {}
                if self.discriminator is None
                else {"adversary_weight": self.adversary_weight, "game": self.game}
            ),
        }

    def partners(self) -> dict[str, nn.Module]:
        """The discriminator, in the second stage."""
        return {} if self.discriminator is None else {"discriminator": self.discriminator}

    def turns(self, codec: nn.Module, batch: Batch, step: int) -> Iterator[tuple[str, Tensor]]:
        """The codec's loss, and in the second stage the discriminator's. The batch's words may be None."""
        output = codec(batch.x, batch.level, batch.condition)
        words = None if batch.condition is None else batch.condition.words
        loss = self.rate_and_distortion(output, batch, step)
        if self.discriminator is None:
            yield "codec", loss.mean()
            return
        yield "codec", (loss + self.adversary_weight * self.fooling(self.discriminator, output, words)).mean()
        yield (
            "discriminator",
            discriminator_loss(self.discriminator, batch.x, output.x_hat, output.y_hat, words, self.game),
        )

    def rate_and_distortion(self, output: Output, batch: Batch, step: int) -> Tensor:
        """The first stage's loss of each picture, [B]."""
        bpp = bits_per_pixel(output, batch.x)
        perceptual: Tensor = self.perceptual(output.x_hat, batch.x)
        return (
            self.rate.weight(bpp, batch.level, step) * bpp
            + self.mse_weight * mean_squared_error(output.x_hat, batch.x)
            + self.perceptual_weight * perceptual
        )

    def fooling(self, discriminator: Discriminator, output: Output, words: TextEmbedding | None) -> Tensor:
        """What the codec pays where its pictures are seen through, [B]; the gradient reaches the picture alone.

        The latent's own way is shut, as in HiFiC's code: the codec shall not write y_hat to please the judge.
        """
        discriminator.requires_grad_(False)
        logits = discriminator(output.x_hat, output.y_hat.detach(), words)
        discriminator.requires_grad_(True)
        return generator_loss(logits, self.game)


class PerceptualObjective(Objective):
    """bpp + λ(level) · MSE, each quality weighing alike, + k_P · perceptual: `cross-modal-compact`'s, without an adversary.

    Args:
        perceptual: x_hat, x [B, 3, H, W] → [B]; the project's image tower if None, which ships.
        perceptual_weight: k_P; at 6 its gradient is as large as the error's at quality 20, and a tenth of it at 90.
    """

    def __init__(self, perceptual: nn.Module | None = None, perceptual_weight: float = 6.0) -> None:
        super().__init__()
        self.perceptual = (perceptual or TowerDistance()).requires_grad_(False).eval()
        self.perceptual_weight = perceptual_weight

    def description(self) -> dict[str, object]:
        return super().description() | {"perceptual_weight": self.perceptual_weight}

    def held_out_metrics(
        self, codec: nn.Module, x: Tensor, level: Tensor, output: Output
    ) -> dict[str, Tensor]:
        """The distance of what is decoded without words."""
        return {"distance": self.perceptual(output.x_hat, x)}

    def turns(self, codec: nn.Module, batch: Batch, step: int) -> Iterator[tuple[str, Tensor]]:
        output = codec(batch.x, batch.level, batch.condition)
        fidelity = rate_distortion(output, batch.x, batch.level) * balance(batch.level)
        yield "codec", (fidelity + self.perceptual_weight * self.perceptual(output.x_hat, batch.x)).mean()
