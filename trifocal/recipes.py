"""Training recipes: the numbers that `trifocal train` uses for each stage of each preset."""

from collections.abc import Mapping
from dataclasses import dataclass, field, fields, replace
from difflib import get_close_matches
from typing import Annotated, Any, Literal

from trifocal.errors import OptionError
from trifocal.types import DEAD_ZONE
from trifocal.utils.annotations import (
    OTHERS,
    Count,
    NonNegative,
    Positive,
    Range,
    Share,
    checked,
    checked_fields,
)

__all__ = [
    "BASE_LAYER",
    "COMPACT",
    "COMPACT_COMPONENTS",
    "DISCOVER",
    "DISCOVER_DECODER",
    "DUAL_LAYER",
    "HIFIC",
    "HIFIC_ADVERSARIAL",
    "TACO",
    "UG_ICM",
    "UG_ICM_COMPACT",
    "UG_ICM_DECODER",
    "BaseLayerRecipe",
    "Recipe",
    "checked_arguments",
    "with_fields",
]

SYMBOLS = {
    "k_p": "perceptual_weight",
    "k_m": "mse_weight",
    "k_j": "joint_weight",
    "beta": "adversary_weight",
}  # of the papers, for arguments of objectives

Momentum = Annotated[float, Range(0, 1, below=True)]
HeldOut = Annotated[int, Range(0, 1_000_000_000)]


@dataclass(frozen=True)
class Recipe:
    """Hyperparameters of one stage of a codec's training. Integers are stored as floats where the type is
    float, and lists as tuples.

    Attributes:
        learning_rate: the peak learning rate of Adam.
        factors: learning-rate factor by substring of the parameter's name: small for linear paths that start
            as a DCT, large for scale indices (in sixths of an octave) and gains.
        warmup: steps until the peak, 1 or more.
        cooldown: the fraction at the end of the run, 0..1, in which the rate falls linearly to a fiftieth; 0
            keeps it constant.
        batch, crop: images per step, in all processes together, and their side in pixels.
        clip: maximum norm of the gradient.
        ema: decay of the exponential moving average of the weights, which is what is exported.
        seed: of weights, crops and noise.
        betas: of Adam.
        weight_decay: of Adam, as an L2 penalty.
        decay: fractions of the run, 0..1, and the factor of the learning rate from there on.
        text: the text of a crop: "captions", "names", "visible" or "none"; see `data.crops.CropRules`.
        wordless: the share of steps without text, 0..1, for presets that take text.
        mirrored: probability that a crop is mirrored, 0..1.
        sampling: of images: "area" (by the square root of it) or "uniform".
        held_out: one image in so many validates the run; 0 trains on all images, also those that validate.
        quality: 0..100 trains a single rate; None all of them.
        level_power: above 1, low quality levels are drawn more often; see `losses.spread_levels`.
        random_base_quality: for presets with a base layer, the share of steps in which the base has any
            quality that `encode` offers, 0..100; the others have its default.
        missing_components: for presets with a base layer, the share of crops, 0..1, that are coded in
            components of which random ones are missing; see `training.components`.
        dead_zone: of the quantiser, as a part of a step for each bit that ±1 costs above 0; 0 is plain
            rounding. The weights keep it for `encode`.
        objective: arguments of the objective, by name: weights of its terms, `lambdas` and so on.

    Raises:
        OptionError: for a value of another type, or out of its range.
    """

    learning_rate: Positive
    factors: Mapping[str, NonNegative]
    warmup: Count
    cooldown: Share
    batch: Annotated[int, Range(1, 1_000_000)]
    crop: Annotated[int, Range(64, 16_384, step=64)]
    clip: Positive
    ema: Share
    seed: Annotated[int, Range(0, 2**32 - 1)]
    betas: tuple[Momentum, Momentum] = (0.9, 0.99)
    weight_decay: NonNegative = 0.0
    decay: tuple[tuple[Share, Positive], ...] = ()
    text: Literal["captions", "names", "visible", "none"] = "visible"
    wordless: Share = 0.1
    mirrored: Share = 0.5
    sampling: Literal["area", "uniform"] = "area"
    held_out: HeldOut = 40
    quality: Annotated[float, Range(0, 100)] | None = None
    level_power: Positive = 1.0
    random_base_quality: Share = 0.5
    missing_components: Share = 0.0
    dead_zone: NonNegative = DEAD_ZONE
    objective: Mapping[str, Any] = field(default_factory=dict)

    def __post_init__(self) -> None:
        store_checked(self)


@dataclass(frozen=True)
class BaseLayerRecipe:
    """Hyperparameters of the training of a base layer.

    Attributes:
        learning_rate: the peak learning rate of AdamW.
        matrix_rate: that of Muon, which trains matrices; None trains them by AdamW.
        weight_decay: of weights.
        batch: images per step, in all processes together.
        ema: decay of the average of the weights.
        bce: L_BCE of the paper's equation (1). "objectness": binary cross-entropy of the first stage's
            objectness with the detector's. "classes": cross-entropy of the class probabilities with the
            detector's, as the paper prints it.
        augmentation: "full": parts of images, mosaics of four, mirrored, with other brightness, contrast and
            colour. "none": each image whole, or its centre if it is narrower or wider than the batch.
        held_out: one image in so many validates the run; 0 trains on all images, also those that validate.
        dead_zone: of the base layer's quantiser, as in `Recipe`; the weights keep it.
        terms: weights of the terms that differ from the default; 0 leaves a term out.

    Raises:
        OptionError: for a value of another type, or out of its range.
    """

    learning_rate: Positive = 1.5e-3
    matrix_rate: Positive | None = 3e-3
    weight_decay: NonNegative = 0.0
    batch: Annotated[int, Range(1, 1_000_000)] = 8
    ema: Share = 0.997
    bce: Literal["objectness", "classes"] = "objectness"
    augmentation: Literal["full", "none"] = "full"
    held_out: HeldOut = 40
    dead_zone: NonNegative = DEAD_ZONE
    terms: Mapping[str, Any] = field(default_factory=dict)

    def __post_init__(self) -> None:
        store_checked(self)


def store_checked(recipe: Any) -> None:
    """Store the fields of a new recipe in their annotated types. Raises OptionError as `checked`."""
    for name, value in checked_fields(recipe).items():
        object.__setattr__(recipe, name, value)


def with_fields(recipe: Any, values: Mapping[str, object]) -> Any:
    """A recipe with other values.

    Args:
        recipe: a Recipe or a BaseLayerRecipe.
        values: by field name. Names that the recipe lacks are arguments of the objective, or weights of a
            base layer's terms; the papers' k_p, k_m, k_j and beta are `perceptual_weight`, `mse_weight`,
            `joint_weight` and `adversary_weight`.

    Raises:
        OptionError: for a value of another type, or out of its range. Values for the objective are checked
            by `checked_arguments`.
    """
    rest = "objective" if isinstance(recipe, Recipe) else "terms"
    own = {known.name for known in fields(recipe)}
    changes = {name: value for name, value in values.items() if name in own}
    others = {SYMBOLS.get(name, name): value for name, value in values.items() if name not in own}
    further = checked(rest, changes.pop(rest, {}), Mapping[str, Any])
    return replace(recipe, **changes, **{rest: {**getattr(recipe, rest), **further, **others}})


def checked_arguments(subject: str, recipe: Any, kinds: Mapping[str, Any]) -> dict[str, Any]:
    """The arguments of the objective, or the weights of a base layer's terms, in their types.

    Args:
        subject: what is trained, for messages.
        recipe: a Recipe or a BaseLayerRecipe.
        kinds: the type of each by name, as of `argument_types`.

    Raises:
        OptionError: for a value of another type, or out of its range; for a name that is not in `kinds`, with
            the closest name that there is.
    """
    given = recipe.objective if isinstance(recipe, Recipe) else recipe.terms
    own = [known.name for known in fields(recipe)]
    for name in given:
        if name not in kinds and OTHERS not in kinds:
            symbols = [symbol for symbol, argument in SYMBOLS.items() if argument in kinds]
            close = get_close_matches(name, [*own, *kinds, *symbols], n=1)
            meant = f" (did you mean {close[0]}?)" if close else ""
            raise OptionError(
                f"{subject} has no field {name!r}{meant}; its recipe has {', '.join(own)}, and its objective "
                f"{', '.join(kinds) or 'none'}."
            )
    return {name: checked(name, value, kinds.get(name, Any)) for name, value in given.items()}


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

# As in DISCOVER's second stage, only the decoder learns, so its weights also decode the files of the first.
COMPACT_COMPONENTS = replace(
    COMPACT,
    learning_rate=3e-4,
    warmup=30,
    ema=0.995,
    factors={
        **{part: 0.0 for part in ("base.", "analysis.", "entropy.", "trust")},
        ".linear.": 0.03,
        ".lapping.": 0.1,
    },
    missing_components=0.5,
)

# From the weights of `compact`. The branch for machines is new; it learns at twice the rate of the rest.
# Machines mostly read small files: half of the crops have a quality below 25.
UG_ICM_COMPACT = replace(
    COMPACT,
    learning_rate=6e-4,
    factors={**COMPACT.factors, "synthesis.preferring.": 2.0, "synthesis.detail.": 2.0},
    warmup=30,
    ema=0.995,
    text="none",
    level_power=2.0,
    objective={"cvvdp_share": 0.25},
)

# As in TACO's code: Adam at 1e-4, a tenth of it after 45 of 50 epochs and a hundredth after 48, and ten times
# the rate for the prior of z, which its auxiliary loss trains; LPIPS is fed 0..1. 50 epochs of COCO train2014
# with captions, images of at least 256 pixels, batches of 8: about 516,000 steps. The tables of indices and
# gains, which TACO lacks, have the factors of COMPACT.
TACO = Recipe(
    learning_rate=1e-4,
    factors={"index.table": 20.0, "log_gain": 3.0, "prior.mean": 10.0},
    warmup=1,
    cooldown=0.0,
    decay=((0.9, 0.1), (0.96, 0.01)),
    batch=8,
    crop=256,
    clip=1.0,
    ema=0.0,
    seed=1,
    betas=(0.9, 0.999),
    text="captions",
    objective={"perceptual": "lpips-unscaled"},
)

# As in HiFiC: Adam at 1e-4, a tenth of it in the second half, two million steps, weight decay 1e-6 as in its
# torch port. Gradients are clipped at a norm that only outliers reach. Cross-modal: 200 epochs of COCO's
# training images for each stage, batches of 8 and then of 16, and rates of 0.15, 0.30 and 0.45 bpp.
HIFIC = Recipe(
    learning_rate=1e-4,
    factors={},
    warmup=1,
    cooldown=0.0,
    decay=((0.5, 0.1),),
    batch=8,
    crop=256,
    clip=10.0,
    ema=0.999,
    seed=1,
    betas=(0.9, 0.999),
    weight_decay=1e-6,
    text="captions",
    objective={"targets": (0.15, 0.30, 0.45)},
)
HIFIC_ADVERSARIAL = replace(HIFIC, batch=16)

# Shen, Quan and Liu name no schedule: that of TACO, with a warm-up for the attentions and a frozen base
# layer.
DUAL_LAYER = replace(TACO, factors={"base.": 0.0, **TACO.factors}, warmup=1000, ema=0.999, objective={})

# Yin et al.: Adam at 1e-4, 200 epochs of 80,000 images of COCO train2017; their command has batches of 128.
# What they do not name is that of TACO: crops, gradient clipping, and the rates of tables and priors. The
# second stage has 10 epochs at 1e-5, and trains the decoder only.
UG_ICM = replace(TACO, batch=128, cooldown=0.0, decay=(), text="none", objective={})
UG_ICM_DECODER = replace(
    UG_ICM, learning_rate=1e-5, factors={"analysis.": 0.0, "entropy.": 0.0, **UG_ICM.factors}
)

# Liu et al.: crops of 512 pixels, 300,000 steps, and 50,000 of the second stage, in which encoder and entropy
# model are frozen. What they do not name is that of DiffEIC, whose network is similar: Adam at 1e-4, batches
# of 4. A warm-up for the control module; tables and priors as in TACO.
DISCOVER = replace(
    TACO, decay=(), warmup=1000, batch=4, crop=512, ema=0.999, text="none", sampling="uniform", objective={}
)
DISCOVER_DECODER = replace(DISCOVER, factors={"analysis.": 0.0, "entropy.": 0.0})

BASE_LAYER = BaseLayerRecipe()
