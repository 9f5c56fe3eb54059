"""A name for method, sizes, recipe, weights and what was measured. `PRESETS` is the whole list."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from functools import lru_cache, partial
from importlib import import_module
from os import PathLike
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

from trifocal.clock import without_collecting
from trifocal.errors import OptionError, PresetError, WeightsError
from trifocal.recipes import COMPACT, DUAL_LAYER, HIFIC, TACO, Recipe

if TYPE_CHECKING:
    from trifocal.codec import Codec
    from trifocal.container import Header
    from trifocal.losses import Objective
    from trifocal.text import Tower
    from trifocal.types import Condition

DEFAULT = "dual-layer-compact"
CLIP = "openai/clip-vit-base-patch32"


def later(module: str, name: str) -> Callable[[], Any]:
    """A function that calls `name` of trifocal's `module`, imported only then: torch takes two seconds."""

    def call() -> Any:
        return getattr(import_module(f"trifocal.{module}"), name)()

    return call


RATE_DISTORTION = later("losses.objective", "Objective")
VISUAL = later("losses", "VisualObjective")
BEFORE_VISUAL = {
    0x1B77: "compact-psnr.safetensors"
}  # compact and taco-compact until they were trained for perceived quality


@dataclass(frozen=True)
class Preset:
    """A model by its name.

    Attributes:
        name: as the user writes it.
        id: as the file's header has it, 1..62; given by hand, never reused.
        summary: one line.
        build: makes the codec with untrained weights.
        recipe: how it is trained.
        weights: file name under trifocal/weights/.
        objective: makes what training minimises.
        stages: the same for the stages of training that follow, where there is more than one.
        words: who reads them: "encoder", "decoder", or "" where nobody does.
        tower: the text tower that makes vectors of them: "compact", or a name or folder for transformers' CLIP.
        layers: whether a base layer for detectors stands under the picture.
        preference: whether who decodes a file may say that it is for people, for machines, or between.
        shared: file name of the weights that it has in common with another preset; its own are the rest.
        earlier: file names of the weights that wrote older files of this preset, by fingerprint.
    """

    name: str
    id: int
    summary: str
    build: Callable[[], Codec]
    recipe: Recipe
    weights: str
    objective: Callable[[], Objective] = RATE_DISTORTION
    stages: tuple[Callable[[], Objective], ...] = ()
    words: Literal["", "encoder", "decoder"] = ""
    tower: str = ""
    layers: bool = False
    preference: bool = False
    shared: str = ""
    earlier: Mapping[int, str] = field(default_factory=dict)

    @property
    def ships(self) -> bool:
        """Whether trained weights are installed."""
        return (Path(__file__).with_name("weights") / self.weights).exists()


def hific_game(latent_channels: int, word_channels: int = 512) -> Objective:
    """The same and the adversary: the second stage."""
    from trifocal.losses import CrossModalObjective, Discriminator

    return CrossModalObjective(Discriminator(latent_channels, word_channels))


PRESETS = (
    Preset(
        name="compact",
        id=1,
        summary="one layer, variable rate, trained for perceived quality; 3.6 M parameters",
        build=later("trunk", "compact"),
        recipe=COMPACT,
        weights="compact.safetensors",
        objective=VISUAL,
        earlier=BEFORE_VISUAL,
    ),
    Preset(
        name="taco",
        id=2,
        summary="words steer the encoder, 34 M parameters, after Lee et al. on ELIC",
        build=later("methods.taco", "taco"),
        recipe=TACO,
        weights="taco.safetensors",
        objective=later("losses", "TacoObjective"),
        words="encoder",
        tower=CLIP,
    ),
    Preset(
        name="taco-compact",
        id=3,
        summary="words say where the bits go; the trunk and the weights of compact",
        build=later("methods.taco_compact", "taco_compact"),
        recipe=COMPACT,
        weights="compact.safetensors",
        objective=VISUAL,
        words="encoder",
        tower="compact",
        earlier=BEFORE_VISUAL,
    ),
    Preset(
        name="cross-modal",
        id=4,
        summary="words help the decoder, 210 M parameters, after Qin et al. on HiFiC",
        build=later("methods.cross_modal", "cross_modal"),
        recipe=HIFIC,
        weights="cross-modal.safetensors",
        objective=later("losses", "CrossModalObjective"),
        stages=(partial(hific_game, latent_channels=220),),
        words="decoder",
        tower=CLIP,
    ),
    Preset(
        name="cross-modal-compact",
        id=5,
        summary="the decoder may know words; the trunk of compact, 4.0 M parameters",
        build=later("methods.cross_modal_compact", "cross_modal_compact"),
        recipe=replace(
            COMPACT, factors={"analysis.": 0.0, "entropy.": 0.0, ".linear.": 0.03, ".lapping.": 0.1}
        ),
        weights="cross-modal-compact.safetensors",
        objective=later("losses", "PerceptualObjective"),
        words="decoder",
        tower="compact",
    ),
    Preset(
        name="cross-modal-cheng2020",
        id=6,
        summary="words help the decoder, after Qin et al. on Cheng2020's transforms",
        build=later("methods.cross_modal", "cross_modal_cheng2020"),
        recipe=HIFIC,
        weights="cross-modal-cheng2020.safetensors",
        objective=later("losses", "CrossModalObjective"),
        stages=(partial(hific_game, latent_channels=192),),
        words="decoder",
        tower=CLIP,
    ),
    Preset(
        name="dual-layer",
        id=7,
        summary="a base layer for Faster R-CNN, words steer the encoder on it, 53 M parameters, after Shen et al.",
        build=later("methods.dual_layer", "dual_layer"),
        recipe=DUAL_LAYER,
        weights="dual-layer.safetensors",
        objective=later("losses.dual_layer", "DualLayerObjective"),
        words="encoder",
        tower=CLIP,
        layers=True,
    ),
    Preset(
        name="dual-layer-compact",
        id=8,
        summary="the default: a base layer for the compact detector, and on it the trunk of compact for people; 6.0 M parameters",
        build=later("methods.dual_layer_compact", "dual_layer_compact"),
        recipe=replace(COMPACT, learning_rate=8e-4, factors={"base.": 0.0, **COMPACT.factors}),
        weights="dual-layer-compact.safetensors",
        objective=VISUAL,
        words="encoder",
        tower="compact",
        layers=True,
    ),
    Preset(
        name="ug-icm-compact",
        id=9,
        summary="one file, decoded for people or for machines; files as those of compact-psnr, 3.9 M parameters",
        build=later("methods.ug_icm_compact", "ug_icm_compact"),
        recipe=replace(COMPACT, factors={"synthesis.preferring.": 1.0, "synthesis.detail.": 1.0, ".": 0.0}),
        weights="ug-icm-compact.safetensors",
        objective=later("losses.ug_icm", "UgIcmObjective"),
        preference=True,
        shared="compact-psnr.safetensors",
    ),
    Preset(
        name="compact-psnr",
        id=10,
        summary="the network of compact trained for squared error, for comparison with published tables",
        build=later("trunk", "compact"),
        recipe=COMPACT,
        weights="compact-psnr.safetensors",
    ),
)


def find(name: str) -> Preset:
    """The preset of that name.

    Raises:
        PresetError: if there is none; the message lists those there are.
    """
    for preset in PRESETS:
        if preset.name == name:
            return preset
    raise PresetError(f"There is no preset {name!r}; there are: {', '.join(p.name for p in PRESETS)}.")


def preset_of(header: Header) -> Preset:
    """The preset that a file was made with.

    Raises:
        PresetError: if this version of Trifocal does not know it.
    """
    for preset in PRESETS:
        if preset.id == header.preset:
            return preset
    raise PresetError(
        f"The file was made with preset number {header.preset}, which this version does not know."
    )


@without_collecting()
def load(name: str = DEFAULT, device: str = "cpu", weights: str | PathLike[str] | None = None) -> Codec:
    """A codec with its trained weights, ready to encode and decode. The same object is returned for the same arguments.

    Args:
        name: of the preset.
        device: torch's name of it.
        weights: a file (.safetensors) of your own training, in the place of those that ship.

    Raises:
        PresetError: if there is no such preset.
        WeightsError: if its weights are missing or damaged, or do not fit it.
    """
    from trifocal.weights import FOLDER

    preset = find(name)
    path = FOLDER / preset.weights if weights is None else Path(weights).absolute()
    if not path.is_file():
        raise WeightsError(
            f"The preset {name} has no trained weights that ship; train it with `trifocal train {name} --data PICTURES`, "
            "and name them with --weights."
            if weights is None
            else f"There are no weights at {weights}; name the .safetensors file that `trifocal train {name}` wrote."
        )
    return _load(name, device, path, path.stat().st_mtime_ns)


@lru_cache(maxsize=4)
def _load(name: str, device: str, path: Path, changed: int) -> Codec:
    """`changed` is when the file was, in ns, so that weights that were trained further are read again."""
    import torch

    from trifocal.weights import load_weights

    preset = find(name)
    with torch.inference_mode(False):  # who encodes may need a gradient
        codec = preset.build()
        codec.preset_id = preset.id
        codec.fingerprint = load_weights(codec, path, preset.shared)
        return codec.to(device).eval()


@without_collecting()
def load_for(header: Header, device: str = "cpu", weights: str | PathLike[str] | None = None) -> Codec:
    """The codec that a file was made with, as `load` gives it; for an older file with the weights that wrote it.

    Raises:
        PresetError: if this version of Trifocal does not know the preset.
        WeightsError: if the weights at hand are not those that the file was made with.
    """
    from trifocal.weights import FOLDER, check_fingerprint

    preset = preset_of(header)
    if weights is None and header.fingerprint in preset.earlier:
        weights = FOLDER / preset.earlier[header.fingerprint]
    codec = load(preset.name, device, weights)
    check_fingerprint(codec.fingerprint, header.fingerprint, preset.name)
    return codec


def condition_for(
    name: str,
    texts: Sequence[str],
    device: str = "cpu",
    note: Callable[[str], None] | None = None,
) -> Condition:
    """Texts as what steers a preset: B texts for a batch of B pictures, through the preset's own tower.

    Args:
        name: of the preset.
        texts: a text for each picture; it may be empty.
        device: torch's name of it.
        note: called with a sentence for each thing of the texts that the tower leaves out or does not know.

    Raises:
        PresetError: if there is no such preset, or it takes no words; the message lists those that do.
        WeightsError, MissingExtra: if the tower's weights, or what loads them, are not on this machine.
    """
    import torch

    from trifocal.types import Condition

    tower = tower_for(name, device)
    if note:
        for sentence in tower.notes(texts):
            note(sentence)
    with torch.no_grad():
        return Condition(tower(texts))


def tower_for(name: str, device: str = "cpu") -> Tower:
    """The text tower of the preset `name`. Raises as `condition_for` does."""
    preset = find(name)
    check_words(preset)
    from trifocal.text.encoder import load_tower

    return load_tower(preset.tower, device)


def objective_of(preset: Preset, stage: int) -> Callable[[], Objective]:
    """What makes the objective of a stage of training, 1 for the first.

    Raises:
        OptionError: where the preset has not so many stages.
    """
    stages = (preset.objective, *preset.stages)
    if not 1 <= stage <= len(stages):
        have = f"stages 1 to {len(stages)}, not {stage}" if preset.stages else "one stage; leave --stage out"
        raise OptionError(f"The preset {preset.name} has {have}.")
    return stages[stage - 1]


def check_words(preset: Preset) -> None:
    """Raises PresetError where nobody reads words; the message lists the presets whose words are read."""
    if preset.words:
        return
    names = [other.name for other in PRESETS if other.words]
    *most, last = names or ["no preset"]
    able = f"{', '.join(most)} and {last} do" if most else f"{last} does"
    raise PresetError(f"{preset.name} takes no words; {able}.")


def with_preference(
    preset: Preset, condition: Condition | None, preference: float | None
) -> Condition | None:
    """What steers the decoding of a file, and for whom: 0 for people … 1 for machines; None says nothing.

    Raises:
        PresetError: where the decoder knows no preference; the message names the presets whose decoders do.
        OptionError: for a number out of 0..1.
    """
    check_preference(preset, preference)
    if preference is None:
        return condition
    import torch

    from trifocal.types import Condition

    return replace(condition or Condition(), preference=torch.tensor([float(preference)]))


def check_preference(preset: Preset, preference: float | None) -> None:
    """Raises as `with_preference` does; None is right everywhere."""
    if preference is None:
        return
    if not preset.preference:
        able = [other.name for other in PRESETS if other.preference] or ["no preset"]
        raise PresetError(f"{preset.name} knows no preference; take {' or '.join(able)}.")
    if not 0 <= preference <= 1:
        raise OptionError(f"A preference goes from 0, for people, to 1, for machines, not {preference:g}.")


def check_layers(preset: Preset) -> None:
    """Raises PresetError where a preset makes no base layer; the message names those that do."""
    if not preset.layers:
        able = [other.name for other in PRESETS if other.layers] or ["no preset"]
        raise PresetError(f"{preset.name} makes no base layer; take {' or '.join(able)}.")


def said_of_base(preset: Preset, **options: int | None) -> dict[str, int]:
    """Those options of a base layer that are not None. Raises PresetError where there are some and the preset makes none."""
    said = {name: value for name, value in options.items() if value is not None}
    if said:
        check_layers(preset)
    return said
