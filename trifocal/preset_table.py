"""The bundled presets: their networks, recipes, objectives and weights."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, replace
from functools import partial
from importlib import import_module
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

from trifocal.recipes import (
    COMPACT,
    COMPACT_COMPONENTS,
    DISCOVER,
    DISCOVER_DECODER,
    DUAL_LAYER,
    HIFIC,
    HIFIC_ADVERSARIAL,
    TACO,
    UG_ICM,
    UG_ICM_COMPACT,
    UG_ICM_DECODER,
    Recipe,
)

if TYPE_CHECKING:
    from trifocal.codecs.codec import Codec
    from trifocal.losses import Objective

DEFAULT = "dual-layer-compact"
CLIP = "openai/clip-vit-base-patch32"


@dataclass(frozen=True)
class LazyCall:
    """Imports `name` from trifocal's `module` when it is called, and calls it with its arguments."""

    module: str
    name: str

    def __call__(self, **options: Any) -> Any:
        return self.target()(**options)

    def target(self) -> Any:
        """What is called."""
        return getattr(import_module(f"trifocal.{self.module}"), self.name)


def lazy_call(module: str, name: str) -> LazyCall:
    """A function that is imported when it is called; torch takes two seconds to import."""
    return LazyCall(module, name)


RATE_DISTORTION = lazy_call("losses.objective", "Objective")
HIFIC_SECOND_STAGE = lazy_call("losses.cross_modal", "second_stage")
VISUAL = lazy_call("losses", "VisualObjective")
SQUARED_ERROR = "compact-0.1.safetensors"  # earlier weights of compact, for squared error; never replaced


@dataclass(frozen=True, eq=False)
class Preset:
    """A model by its name.

    Attributes:
        name: as users write it.
        id: in the header of its files: 1..47 bundled, given by hand and never reused; 48..62 for private use.
        summary: one line.
        build: makes the codec with untrained weights.
        recipe: how it is trained, in the first stage.
        weights: a file name under trifocal/weights/, or an absolute path.
        objective: makes the training objective, with the arguments in the recipe's `objective`.
        stages: the same for later training stages.
        stage_recipes: the recipes of stages 2, 3, …; if there are fewer recipes than stages, the last recipe
            serves the remaining stages.
        text_used_by: what reads text: "encoder", "decoder", or "" for neither.
        text_encoder: the text encoder: "compact", or a name or folder of CLIP for transformers.
        has_importance_map: whether files have an importance map, which a mask or a text gives. MiniLM then
            reads the text, where it is installed.
        has_base_layer: whether files have a base layer for detectors.
        takes_preference: whether the decoder takes a preference from people (0) to machines (1).
        takes_components: whether files may have components though the preset has no base layer. Those with a
            base layer always may.
        composes: whether the decoder can invent the detail that partial files lack.
        shared_weights: the weight file of the tensors that it shares with another preset; its own file has
            the rest.
        earlier_weights: earlier weight files of this preset; .tri files made with them are still decoded.
    """

    name: str
    id: int
    summary: str
    build: Callable[[], Codec]
    recipe: Recipe
    weights: str
    objective: Callable[..., Objective] = RATE_DISTORTION
    stages: tuple[Callable[..., Objective], ...] = ()
    stage_recipes: tuple[Recipe, ...] = ()
    text_used_by: Literal["", "encoder", "decoder"] = ""
    text_encoder: str = ""
    has_importance_map: bool = False
    has_base_layer: bool = False
    takes_preference: bool = False
    takes_components: bool = False
    composes: bool = False
    shared_weights: str = ""
    earlier_weights: tuple[str, ...] = ()

    def __repr__(self) -> str:
        return f"<Preset {self.name}, id {self.id}>"

    @property
    def has_weights(self) -> bool:
        """Whether the trained weights are installed."""
        return (Path(__file__).with_name("weights") / self.weights).exists()


PRESETS = (
    Preset(
        name="compact",
        id=1,
        summary="one layer, variable rate, trained for perceived quality; 3.6 M parameters",
        build=lazy_call("codecs.compact", "compact"),
        recipe=COMPACT,
        weights="compact.safetensors",
        objective=VISUAL,
        earlier_weights=(SQUARED_ERROR,),
    ),
    Preset(
        name="taco",
        id=2,
        summary="text steers the encoder, 34 M parameters, after Lee et al. on ELIC",
        build=lazy_call("codecs.taco", "taco"),
        recipe=TACO,
        weights="taco.safetensors",
        objective=lazy_call("losses", "TacoObjective"),
        text_used_by="encoder",
        text_encoder=CLIP,
    ),
    Preset(
        name="taco-compact",
        id=3,
        summary="text steers the bit allocation; the network and the weights of compact",
        build=lazy_call("codecs.taco_compact", "taco_compact"),
        recipe=COMPACT,
        weights="compact.safetensors",
        objective=VISUAL,
        text_used_by="encoder",
        text_encoder="compact",
        has_importance_map=True,
        earlier_weights=(SQUARED_ERROR,),
    ),
    Preset(
        name="cross-modal",
        id=4,
        summary="text helps the decoder, 210 M parameters, after Qin et al. on HiFiC",
        build=lazy_call("codecs.cross_modal", "cross_modal"),
        recipe=HIFIC,
        weights="cross-modal.safetensors",
        objective=lazy_call("losses", "CrossModalObjective"),
        stages=(partial(HIFIC_SECOND_STAGE, latent_channels=220, text_channels=512),),
        stage_recipes=(HIFIC_ADVERSARIAL,),
        text_used_by="decoder",
        text_encoder=CLIP,
    ),
    Preset(
        name="cross-modal-compact",
        id=5,
        summary="text helps the decoder; the network of compact, 4.0 M parameters",
        build=lazy_call("codecs.cross_modal_compact", "cross_modal_compact"),
        recipe=replace(
            COMPACT, factors={"analysis.": 0.0, "entropy.": 0.0, ".linear.": 0.03, ".lapping.": 0.1}
        ),
        weights="cross-modal-compact.safetensors",
        shared_weights=SQUARED_ERROR,
        objective=lazy_call("losses", "PerceptualObjective"),
        text_used_by="decoder",
        text_encoder="compact",
    ),
    Preset(
        name="cross-modal-cheng2020",
        id=6,
        summary="text helps the decoder, after Qin et al. on the transforms of Cheng2020",
        build=lazy_call("codecs.cross_modal", "cross_modal_cheng2020"),
        recipe=HIFIC,
        weights="cross-modal-cheng2020.safetensors",
        objective=lazy_call("losses", "CrossModalObjective"),
        stages=(partial(HIFIC_SECOND_STAGE, latent_channels=192, text_channels=512),),
        stage_recipes=(HIFIC_ADVERSARIAL,),
        text_used_by="decoder",
        text_encoder=CLIP,
    ),
    Preset(
        name="dual-layer",
        id=7,
        summary="a base layer for Faster R-CNN, and text steers the encoder, 53 M parameters, after Shen "
        "et al.",
        build=lazy_call("codecs.dual_layer", "dual_layer"),
        recipe=DUAL_LAYER,
        weights="dual-layer.safetensors",
        objective=lazy_call("losses.dual_layer", "DualLayerObjective"),
        text_used_by="encoder",
        text_encoder=CLIP,
        has_base_layer=True,
    ),
    Preset(
        name="dual-layer-compact",
        id=8,
        summary="the default: a base layer for the bundled detector, and an enhancement layer for people; "
        "6.4 M parameters",
        build=lazy_call("codecs.dual_layer_compact", "dual_layer_compact"),
        recipe=replace(COMPACT, learning_rate=8e-4, factors={"base.": 0.0, **COMPACT.factors}),
        weights="dual-layer-compact.safetensors",
        objective=VISUAL,
        stages=(VISUAL,),
        stage_recipes=(COMPACT_COMPONENTS,),
        text_used_by="encoder",
        text_encoder="compact",
        has_importance_map=True,
        has_base_layer=True,
        composes=True,
    ),
    Preset(
        name="ug-icm-compact",
        id=9,
        summary="one file, decoded for people or for machines; based on compact, 3.9 M parameters",
        build=lazy_call("codecs.ug_icm_compact", "ug_icm_compact"),
        recipe=UG_ICM_COMPACT,
        weights="ug-icm-compact.safetensors",
        objective=lazy_call("losses.ug_icm_compact", "UgIcmCompactObjective"),
        stages=(lazy_call("losses.ug_icm", "UgIcmObjective"),),
        stage_recipes=(
            replace(COMPACT, factors={"synthesis.preferring.": 1.0, "synthesis.detail.": 1.0, ".": 0.0}),
        ),
        takes_preference=True,
        shared_weights=SQUARED_ERROR,  # of earlier weights, which hold only the branch for machines
    ),
    Preset(
        name="compact-psnr",
        id=10,
        summary="the network of compact trained for squared error, for comparison with published tables",
        build=lazy_call("codecs.compact", "compact"),
        recipe=COMPACT,
        weights=SQUARED_ERROR,
    ),
    Preset(
        name="ug-icm",
        id=11,
        summary="one file, decoded for people or for machines, 82 M parameters, after Yin et al. on MLIC++",
        build=lazy_call("codecs.ug_icm", "ug_icm"),
        recipe=UG_ICM,
        weights="ug-icm.safetensors",
        objective=lazy_call("losses.ug_icm", "first_stage"),
        stages=(lazy_call("losses.ug_icm", "second_stage"),),
        stage_recipes=(UG_ICM_DECODER,),
        takes_preference=True,
    ),
    Preset(
        name="ug-icm-hyperprior",
        id=12,
        summary="as ug-icm, 5.5 M parameters, on the hyperprior of Ballé et al. 2018",
        build=lazy_call("codecs.ug_icm", "ug_icm_hyperprior"),
        recipe=UG_ICM,
        weights="ug-icm-hyperprior.safetensors",
        objective=lazy_call("losses.ug_icm", "first_stage"),
        stages=(lazy_call("losses.ug_icm", "second_stage"),),
        stage_recipes=(UG_ICM_DECODER,),
        takes_preference=True,
    ),
    Preset(
        name="discover",
        id=13,
        summary="objects are sent first, Stable Diffusion fills in the rest, 399 M parameters, after Liu et "
        "al. on ELIC",
        build=lazy_call("codecs.discover", "discover"),
        recipe=DISCOVER,
        weights="discover.safetensors",
        objective=lazy_call("losses.discover", "DiscoverObjective"),
        stages=(lazy_call("losses.discover", "second_stage"),),
        stage_recipes=(DISCOVER_DECODER,),
        takes_preference=True,
        takes_components=True,
    ),
)
