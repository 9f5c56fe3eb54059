"""How presets are trained: the numbers that `trifocal train` reads."""

from collections.abc import Mapping
from dataclasses import dataclass, replace

__all__ = ["COMPACT", "DUAL_LAYER", "HIFIC", "TACO", "Recipe"]


@dataclass(frozen=True)
class Recipe:
    """How a preset is trained.

    Attributes:
        learning_rate: Adam's, at its height.
        factors: of it, for parameters with this in their name: the linear paths that start as a DCT move slowly,
            scale indices (in sixths of an octave) and gains fast.
        warmup: steps until the height.
        cooldown: the last part of the run, 0..1, in which the rate falls linearly to a fiftieth; with 0 it stays level.
        batch, crop: pictures a step and their side in pixels.
        clip: largest norm of the gradient.
        ema: decay of the averaged weights, which are the ones that ship.
        seed: of weights, crops and noise.
        betas: Adam's.
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

# TACO's code: Adam at 1e-4, a tenth of it after 45 of 50 epochs and a hundredth after 48, which is a straight line here, since
# the loop has only `cooldown`; ten times the rate for what its auxiliary loss trains, the prior of z. COCO's train2014
# pictures of at least 256 pixels with their captions: 50 epochs in batches of 8 are about 516 000 steps. The house's own
# tables of indices and gains have its own factors.
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

# HiFiC's: Adam at 1e-4, a tenth of it in the second half, which is a straight line here, and two million steps. Its weight
# decay of 1e-6 is left out, and its gradients are not clipped, which here only catches accidents. Cross-modal: 200 epochs of
# COCO's training pictures for each stage, batches of 8 and then of 16 (`--batch 16`).
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

# Shen, Quan and Liu name no schedule. TACO's, with a warm-up for the attentions; the base stays as it was trained before.
DUAL_LAYER = replace(TACO, factors={"base.": 0.0, **TACO.factors}, warmup=1000, ema=0.999)
