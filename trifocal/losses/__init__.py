"""Training objectives and their terms."""

from trifocal.losses.adversary import Discriminator, discriminator_loss, generator_loss
from trifocal.losses.cross_modal import CrossModalObjective, PerceptualObjective
from trifocal.losses.cvvdp import Cvvdp
from trifocal.losses.hific import RateTarget
from trifocal.losses.image_text import (
    contrastive,
    cosine_distance,
    frobenius_distance,
    joint_image_text,
    squared_distance,
)
from trifocal.losses.objective import Objective
from trifocal.losses.perceptual import EncoderDistance, Lpips, MsSsim, Perceptual, find_perceptual
from trifocal.losses.rate_distortion import (
    LAMBDA_RANGE,
    bits_per_pixel,
    level_weight,
    mean_squared_error,
    quality_lambda,
    rate_distortion,
    spread_levels,
)
from trifocal.losses.ssimulacra2 import Ssimulacra2, ssimulacra2_score
from trifocal.losses.taco import TacoObjective
from trifocal.losses.visual import VisualObjective

__all__ = [
    "LAMBDA_RANGE",
    "CrossModalObjective",
    "Cvvdp",
    "Discriminator",
    "EncoderDistance",
    "Lpips",
    "MsSsim",
    "Objective",
    "Perceptual",
    "PerceptualObjective",
    "RateTarget",
    "Ssimulacra2",
    "TacoObjective",
    "VisualObjective",
    "bits_per_pixel",
    "contrastive",
    "cosine_distance",
    "discriminator_loss",
    "find_perceptual",
    "frobenius_distance",
    "generator_loss",
    "joint_image_text",
    "level_weight",
    "mean_squared_error",
    "quality_lambda",
    "rate_distortion",
    "spread_levels",
    "squared_distance",
    "ssimulacra2_score",
]
