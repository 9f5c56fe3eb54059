"""The objectives of the cross-modal codecs."""

from collections.abc import Iterator
from dataclasses import asdict, replace
from typing import Any

from torch import Tensor, nn

from trifocal.losses.adversary import Discriminator, Game, discriminator_loss, generator_loss
from trifocal.losses.hific import HIFIC_RATE, RateTarget
from trifocal.losses.objective import Objective
from trifocal.losses.perceptual import EncoderDistance, PerceptualName, as_perceptual
from trifocal.losses.rate_distortion import LAMBDA_RANGE, bits_per_pixel, mean_squared_error
from trifocal.types import Batch, Output, TextEmbedding
from trifocal.utils.annotations import NonNegative, Positive


class CrossModalObjective(Objective):
    """λ · bpp + k_M · MSE + k_P · perceptual; in the second stage + β · adversarial loss, and the
    discriminator's own loss.

    Cross-modal (section 3.3, equations 3 to 6) on HiFiC (Mentzer et al. 2020, section 3.2). Cross-modal
    prints k_M = 1 and k_P = 0.075 · 2^−5, the reverse of HiFiC. It also states that its setup is identical to
    HiFiC's, so HiFiC's values are the defaults. In the second stage the codec is updated first, and then the
    discriminator, on the same decoded images.

    Args:
        discriminator: None for the first stage.
        perceptual: x_hat, x [B, 3, H, W] → [B], or a name for `find_perceptual`; None is its default (LPIPS
            with AlexNet, if installed).
        rate: the weight of the rate.
        targets: bpp at qualities 10, 50 and 90, in place of those of `rate`.
        mse_weight: k_M, on the 0..255 scale.
        perceptual_weight: k_P.
        adversary_weight: β.
        game: "bce" as printed, or "hinge" (SSA-GAN's).
        generator_text: whether the codec gets the text. Without it, its blocks only normalise, in training
            and in decoding without text; the paper's ablation (section 4.3) feeds zeros instead.
        discriminator_text: whether the discriminator gets the text. Without it, it gets zeros as in the
            paper's ablation, and no mismatched pairs. Both False is the ablation without any text.
    """

    def __init__(
        self,
        discriminator: Discriminator | None = None,
        perceptual: nn.Module | PerceptualName | None = None,
        rate: RateTarget = HIFIC_RATE,
        targets: tuple[Positive, Positive, Positive] | None = None,
        mse_weight: NonNegative = 0.075 * 2.0**-5,
        perceptual_weight: NonNegative = 1.0,
        adversary_weight: NonNegative = 0.15,
        game: Game = "bce",
        generator_text: bool = True,
        discriminator_text: bool = True,
    ) -> None:
        super().__init__()
        self.discriminator = discriminator
        self.perceptual = as_perceptual(perceptual).requires_grad_(False).eval()
        self.rate = rate if targets is None else replace(rate, targets=tuple(targets))
        self.mse_weight = mse_weight
        self.perceptual_weight = perceptual_weight
        self.adversary_weight = adversary_weight
        self.game: Game = game
        self.generator_text, self.discriminator_text = generator_text, discriminator_text

    def description(self) -> dict[str, object]:
        """Facts for the record, with the stage and all weights."""
        facts = super().description()
        facts.pop("lambdas")  # the rate has a target instead
        return facts | {
            "stage": 1 if self.discriminator is None else 2,
            "generator_text": self.generator_text,
            "discriminator_text": self.discriminator_text,
            "rate": asdict(self.rate),
            "mse_weight": self.mse_weight,
            "perceptual_weight": self.perceptual_weight,
            **(
                {}
                if self.discriminator is None
                else {"adversary_weight": self.adversary_weight, "game": self.game}
            ),
        }

    def auxiliary_networks(self) -> dict[str, nn.Module]:
        """The discriminator, in the second stage."""
        return {} if self.discriminator is None else {"discriminator": self.discriminator}

    def losses(self, codec: nn.Module, batch: Batch, step: int) -> Iterator[tuple[str, Tensor]]:
        """The codec's loss, and in the second stage the discriminator's. The batch may have no text."""
        output = codec(batch.x, batch.level, batch.condition if self.generator_text else None)
        text = batch.condition.text if self.discriminator_text and batch.condition else None
        loss = self.rate_and_distortion(output, batch, step)
        if self.discriminator is None:
            yield "codec", loss.mean()
            return
        adversary = self.adversarial_loss(self.discriminator, output, text)
        self.keep_terms(adversary=adversary)
        yield "codec", (loss + self.adversary_weight * adversary).mean()
        own = discriminator_loss(self.discriminator, batch.x, output.x_hat, output.y_hat, text, self.game)
        self.keep_terms(discriminator=own)
        yield "discriminator", own

    def rate_and_distortion(self, output: Output, batch: Batch, step: int) -> Tensor:
        """The first stage's loss of each image, [B]."""
        bpp = bits_per_pixel(output, batch.x)
        error = mean_squared_error(output.x_hat, batch.x)
        perceptual: Tensor = self.perceptual(output.x_hat, batch.x)
        self.keep_terms(bpp=bpp, mse=error, perceptual=perceptual)
        return (
            self.rate.weight(bpp, batch.level, step) * bpp
            + self.mse_weight * error
            + self.perceptual_weight * perceptual
        )

    def adversarial_loss(
        self, discriminator: Discriminator, output: Output, text: TextEmbedding | None
    ) -> Tensor:
        """The adversarial loss of the codec, [B].

        The gradient passes through the decoded image only. As in HiFiC's code, none reaches the latent that
        conditions the discriminator.
        """
        discriminator.requires_grad_(False)
        logits = discriminator(output.x_hat, output.y_hat.detach(), text)
        discriminator.requires_grad_(True)
        return generator_loss(logits, self.game)


def second_stage(latent_channels: int, text_channels: int, **options: Any) -> CrossModalObjective:
    """The objective of the second stage, with an untrained discriminator.

    Args:
        latent_channels, text_channels: of the codec's latent and of the text embeddings.
        options: as for `CrossModalObjective`.
    """
    return CrossModalObjective(Discriminator(latent_channels, text_channels), **options)


class PerceptualObjective(Objective):
    """bpp + λ(level) · MSE, with all quality levels weighted equally, + k_P · perceptual: the objective of
    cross-modal-compact.

    Args:
        perceptual: x_hat, x [B, 3, H, W] → [B]; None is `EncoderDistance` with the bundled image encoder.
        perceptual_weight: k_P; at 6 its gradient is as large as that of the MSE at quality 20, and a tenth of
            it at 90.
        lambdas: as for `Objective`.
    """

    def __init__(
        self,
        perceptual: nn.Module | None = None,
        perceptual_weight: NonNegative = 6.0,
        lambdas: tuple[Positive, Positive] = LAMBDA_RANGE,
    ) -> None:
        super().__init__(lambdas)
        self.perceptual = (perceptual or EncoderDistance()).requires_grad_(False).eval()
        self.perceptual_weight = perceptual_weight

    def description(self) -> dict[str, object]:
        return super().description() | {"perceptual_weight": self.perceptual_weight}

    def held_out_metrics(
        self, codec: nn.Module, x: Tensor, level: Tensor, output: Output
    ) -> dict[str, Tensor]:
        """The perceptual distance of images decoded without text."""
        return {"distance": self.perceptual(output.x_hat, x)}

    def losses(self, codec: nn.Module, batch: Batch, step: int) -> Iterator[tuple[str, Tensor]]:
        output = codec(batch.x, batch.level, batch.condition)
        perceptual = self.perceptual(output.x_hat, batch.x)
        cost = self.rate_and_error(output, batch)
        self.keep_terms(perceptual=perceptual)
        yield "codec", (cost + self.perceptual_weight * perceptual).mean()
