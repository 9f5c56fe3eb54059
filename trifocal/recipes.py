"""Training recipes: the numbers that `trifocal train` uses for each preset."""

from collections.abc import Mapping
from dataclasses import dataclass, replace

__all__ = ["COMPACT", "DUAL_LAYER", "HIFIC", "TACO", "UG_ICM", "Recipe"]


@dataclass(frozen=True)
class Recipe:
    """Hyperparameters of a training run.

    Attributes:
        learning_rate: the peak learning rate of Adam.
        factors: multiples of it for parameters with this in their names: small for linear paths that start as
            a DCT, large for scale indices (in sixths of an octave) and gains.
        warmup: steps until the peak.
        cooldown: the fraction at the end of the run, 0..1, in which the rate falls linearly to a fiftieth; 0
            keeps it constant.
        batch, crop: images per step, and their side in pixels.
        clip: maximum norm of the gradient.
        ema: decay of the exponential moving average of the weights, which is what is exported.
        seed: of weights, crops and noise.
        betas: of Adam.
    """

    learning_rate: float
    factors: Mapping[str, float]
    warmup: int
    cooldown: float
    batch: int
    crop: int
    clip: float
    ema: float
    seed: int
    betas: tuple[float, float] = (0.9, 0.99)


COMPACT = Recipe(
    learning_rate=2e-3,
    factors={".linear.": 0.03, ".lapping.": 0.1, "index.table": 20.0, "log_gain": 3.0},
    warmup=100,
    cooldown=0.5,
    batch=4,
    crop=256,
    clip=2.0,
    ema=0.998,
    seed=1,
)

# As in TACO's code: Adam at 1e-4, a tenth of it after 45 of 50 epochs and a hundredth after 48 (here the
# linear `cooldown`), and ten times the rate for the prior of z, which its auxiliary loss trains. 50 epochs of
# COCO train2014 with captions, images of at least 256 pixels, batches of 8: about 516,000 steps. The tables
# of indices and gains, which TACO lacks, have the factors of COMPACT.
TACO = Recipe(
    learning_rate=1e-4,
    factors={"index.table": 20.0, "log_gain": 3.0, "prior.mean": 10.0},
    warmup=1,
    cooldown=0.1,
    batch=8,
    crop=256,
    clip=1.0,
    ema=0.0,
    seed=1,
    betas=(0.9, 0.999),
)

# As in HiFiC: Adam at 1e-4, a tenth of it in the second half (here the linear `cooldown`), two million steps.
# Differences: no weight decay (HiFiC 1e-6), and gradients are clipped at a norm that only outliers reach.
# Cross-modal: 200 epochs of COCO's training images for each stage, batches of 8 and then of 16 (`--batch
# 16`).
HIFIC = Recipe(
    learning_rate=1e-4,
    factors={},
    warmup=1,
    cooldown=0.5,
    batch=8,
    crop=256,
    clip=10.0,
    ema=0.999,
    seed=1,
    betas=(0.9, 0.999),
)

# Shen, Quan and Liu name no schedule: that of TACO, with a warm-up for the attentions and a frozen base
# layer.
DUAL_LAYER = replace(TACO, factors={"base.": 0.0, **TACO.factors}, warmup=1000, ema=0.999)

# Yin et al.: Adam at 1e-4, 200 epochs of 80,000 images of COCO train2017; their command has batches of 128.
# The second stage has 10 epochs at 1e-5, and trains the decoder only: `--parts decoder --learning-rate
# 1e-5`. What they do not name is that of TACO: crops, gradient clipping, and the rates of tables and priors.
UG_ICM = replace(TACO, batch=128, cooldown=0.0)
