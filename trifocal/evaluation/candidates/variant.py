"""`Variant`: a codec, its weights and one setting, parsed from a name such as `compact` or `avif:small`.

compact                     a preset with its bundled weights
avif                        a format that Pillow writes
mine=compact:mine.safetensors     a preset with custom weights, named by a label
taco-compact:true           with the caption of each image (see TEXT_KINDS)
dual-layer-compact:base     the base layer alone (see LAYER_KINDS)
dual-layer-compact:objects  the file that has only the objects (see OBJECT_KINDS)
avif:small                  coding each image at the input size of the bundled detector
ug-icm-compact:0.5          decoded with this preference
discover:objects:1          both
"""

from __future__ import annotations

import re
from collections.abc import Callable, Collection, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, Literal, TypeVar, get_args

from trifocal import presets
from trifocal.errors import OptionError, PresetError, optional_packages
from trifocal.evaluation.candidates.pillow_codecs import PILLOW_CODECS
from trifocal.preset_table import Preset
from trifocal.types import LEVELS_PER_QUALITY
from trifocal.weights import WEIGHTS_FOLDER, read_level

__all__ = [
    "LAYER_KINDS",
    "OBJECT_KINDS",
    "TEXT_KINDS",
    "LayerKind",
    "ObjectKind",
    "TextKind",
    "Variant",
    "check_device",
    "expand_variants",
    "parse_variant",
    "parse_variants",
    "split_text_kind",
]

TextKind = Literal["best", "true", "empty", "mismatched", "none"]
LayerKind = Literal["base", "unfitted", "apart"]
ObjectKind = Literal["objects", "annotated"]
TEXT_KINDS: tuple[TextKind, ...] = get_args(TextKind)
LAYER_KINDS: tuple[LayerKind, ...] = get_args(LayerKind)
OBJECT_KINDS: tuple[ObjectKind, ...] = get_args(ObjectKind)
SMALL = "small"
TITLES = {
    "base": "base layer",
    "unfitted": "base layer without refinement",
    "apart": "layers apart",
    "objects": "detected objects alone",
    "annotated": "annotated objects alone",
    SMALL: "at the detector's size",
    "best": "best caption (oracle)",
}
LABEL = re.compile(r"\w[\w .+-]*")  # also valid as the name of a file
EXAMPLE = "mine=compact:mine.safetensors"

Other = TypeVar("Other")


@dataclass(frozen=True)
class Variant:
    """A codec as it is measured: at most one of text, layers, objects, preference and downscaled is set, or
    objects and preference.

    Attributes:
        codec: the name of a preset or of a Pillow codec.
        label: the user's name for custom weights; "" for the bundled ones.
        weights: a .safetensors file; None for the bundled weights.
        device: of the preset, as torch names it.
        text: which text each image gets: see `TextKinds`.
        layers: the base layer alone, the same without refinement, or both layers without conditioning the
            enhancement layer on the base preview.
        objects: a partial file with the objects that the detector finds in the original image, or with
            those that the data's annotations name.
        preference: of the decoder, 0 for people … 1 for machines; None for the default.
        downscaled: whether images are coded at the input size of the bundled detector.
    """

    codec: str
    label: str = ""
    weights: Path | None = None
    device: str = "cpu"
    text: TextKind | None = None
    layers: LayerKind | None = None
    objects: ObjectKind | None = None
    preference: float | None = None
    downscaled: bool = False

    @property
    def setting(self) -> str:
        """The setting as it follows the colon in `name`; "" if there is none."""
        preference = "" if self.preference is None else f"{self.preference:g}"
        objects = ":".join(part for part in (self.objects, preference) if part)
        return self.text or self.layers or objects or (SMALL if self.downscaled else "")

    @property
    def model_name(self) -> str:
        """The label, or else the codec."""
        return self.label or self.codec

    @property
    def name(self) -> str:
        """As in tables: "compact", "mine", "taco-compact:true"."""
        return f"{self.model_name}:{self.setting}" if self.setting else self.model_name

    @property
    def title(self) -> str:
        """As in legends: "Trifocal dual-layer-compact, base layer"."""
        if self.is_pillow_codec:
            title = PILLOW_CODECS[self.codec].title
        else:
            title = self.label or f"Trifocal {self.codec}"
        if self.preference is not None:
            title = f"{title}, {TITLES[self.objects]}" if self.objects else title
            return f"{title}, preference {self.preference:g}"
        if self.setting in TITLES:
            return f"{title}, {TITLES[self.setting]}"
        return f"{title}:{self.setting}" if self.setting else title

    @property
    def only_quality(self) -> float | None:
        """The quality of weights that were trained for a single rate; None for all rates, and for base layers
        alone. Raises PresetError for a preset that does not exist."""
        if self.is_pillow_codec or self.layers in ("base", "unfitted"):
            return None
        level = read_level(self.weights or WEIGHTS_FOLDER / presets.find(self.codec).weights)
        return None if level is None else level / LEVELS_PER_QUALITY

    @property
    def weights_option(self) -> str:
        """LABEL=PRESET:WEIGHTS; "" for the bundled weights."""
        return f"{self.label}={self.codec}:{self.weights}" if self.label else ""

    @property
    def is_pillow_codec(self) -> bool:
        return self.codec in PILLOW_CODECS

    @property
    def preset(self) -> Preset | None:
        """None for a Pillow codec. Raises PresetError for a preset that does not exist."""
        return None if self.is_pillow_codec else presets.find(self.codec)


def parse_variant(text: str, device: str = "cpu", labels: Mapping[str, Variant] | None = None) -> Variant:
    """Parse one name, see the module's docstring. Weights are not looked up.

    Args:
        device: for presets.
        labels: the variants with custom weights by label.

    Raises:
        OptionError: for an unknown setting, or a label that is malformed or taken.
        PresetError: for a name that is neither a preset, a format nor a label.
    """
    if "=" in text:
        return _parse_custom_weights(text, device)
    name, _, setting = text.partition(":")
    variant = (labels or {}).get(name) or Variant(_known(name), device=device)
    return replace(variant, **_parse_setting(text, setting)) if setting else variant


def parse_variants(
    candidates: Sequence[str | Preset | Other],
    device: str = "cpu",
    check: Callable[[Variant], object] | None = None,
) -> list[Variant | Other]:
    """Parse all names; a Preset is measured by its name, and registered if it is not known. Other objects are
    kept.

    Args:
        check: called with each variant that has custom weights, to load them.

    Raises:
        OptionError: as `parse_variant`, for a label that is used twice, and for a device that cannot be used.
        PresetError: as `parse_variant`.
    """
    check_device(device)
    labels: dict[str, Variant] = {}
    for text in candidates:
        if isinstance(text, str) and "=" in text:
            variant = parse_variant(text, device)
            if variant.label in labels:
                raise OptionError(
                    f"The label {variant.label!r} is used twice; choose another for one of them."
                )
            labels[variant.label] = variant
    if check is not None:
        for variant in labels.values():
            check(variant)
    names = [_known_name(one) if isinstance(one, Preset) else one for one in candidates]
    return [parse_variant(one, device, labels) if isinstance(one, str) else one for one in names]


def _known_name(preset: Preset) -> str:
    return (preset if preset in presets.all_presets() else presets.register(preset)).name


def split_text_kind(name: str) -> tuple[str, TextKind | None]:
    """A name in tables → the name without its kind of text, and the kind."""
    model, _, setting = name.partition(":")
    kind = next((kind for kind in TEXT_KINDS if kind == setting), None)
    return (name if kind is None else model), kind


def _known(name: str) -> str:
    """The name. Raises PresetError if it is neither a preset nor a format."""
    known = [preset.name for preset in presets.all_presets()]
    if name not in known and name not in PILLOW_CODECS:
        raise PresetError(
            f"There is no preset or format {name!r}; there are: {', '.join([*known, *PILLOW_CODECS])}."
        )
    return name


def _parse_setting(text: str, setting: str) -> dict[str, Any]:
    if setting in TEXT_KINDS:
        return {"text": setting}
    if setting in LAYER_KINDS:
        return {"layers": setting}
    kind, _, rest = setting.partition(":")
    if kind in OBJECT_KINDS:
        return {"objects": kind} | (_parse_setting(text, rest) if rest else {})
    if setting == SMALL:
        return {"downscaled": True}
    try:
        return {"preference": float(setting)}
    except ValueError:
        settings = ", ".join([*TEXT_KINDS, *LAYER_KINDS, *OBJECT_KINDS, SMALL])
        raise OptionError(
            f"{text!r} has an unknown setting {setting!r}; use one of {settings}, or a preference of 0 to 1."
        ) from None


def _parse_custom_weights(text: str, device: str) -> Variant:
    label, _, rest = text.partition("=")
    preset, _, weights = rest.partition(":")
    if not (label and preset and weights):
        raise OptionError(f"{text!r} is not LABEL=PRESET:WEIGHTS; write it like {EXAMPLE}.")
    if not LABEL.fullmatch(label):
        raise OptionError(
            f"The label {label!r} may contain letters, digits, spaces and . _ + - only, and starts with a "
            "letter or digit."
        )
    if label in PILLOW_CODECS or any(label == known.name for known in presets.all_presets()):
        raise OptionError(f"The label {label!r} is the name of a preset or format; choose another.")
    return Variant(presets.find(preset).name, label, Path(weights), device)


def expand_variants(
    candidates: Sequence[Variant | Other],
    text: Sequence[TextKind] = (),
    layers: str | None = None,
    preferences: Sequence[float] = (),
) -> list[Variant | Other]:
    """Repeat each preset for each setting that it supports; other candidates are kept once.

    Args:
        text: kinds of text, for presets that read text.
        layers: "base" measures scalable presets by their base layer alone.
        preferences: for presets whose decoder takes a preference.

    Raises:
        OptionError: if there are settings and no candidate supports them.
    """
    if layers is not None:
        candidates = _expand(
            candidates, "layers", [layers], "has_base_layer", "--layers base needs a scalable preset"
        )
    if text:
        candidates = _expand(
            candidates, "text", text, "text_used_by", "--text needs a preset that reads text"
        )
    if preferences:
        message = "--preference needs a preset whose decoder takes one"
        candidates = _expand(candidates, "preference", preferences, "takes_preference", message)
    return [*candidates]


def _expand(
    candidates: Sequence[Variant | Other],
    field: str,
    values: Collection[object],
    support: str,
    message: str,
) -> list[Variant | Other]:
    """A variant for each value of `field` where the preset's attribute `support` is true and nothing is set
    yet.
    """
    expanded: list[Variant | Other] = []
    supported = False
    for candidate in candidates:
        if not isinstance(candidate, Variant) or not getattr(candidate.preset, support, False):
            expanded.append(candidate)
            continue
        supported = True
        if candidate.setting and not (field == "preference" and candidate.setting == candidate.objects):
            expanded.append(candidate)
        else:
            settings: list[dict[str, Any]] = [{field: value} for value in dict.fromkeys(values)]
            expanded += [replace(candidate, **setting) for setting in settings]
    if not supported:
        names = ", ".join(preset.name for preset in presets.all_presets() if getattr(preset, support))
        raise OptionError(f"{message}; choose one of: {names}." if names else f"{message}; there is none.")
    return expanded


def check_device(name: str) -> None:
    """Raise OptionError if torch does not know the device, or it cannot be used on this machine."""
    if name == "cpu":
        return
    with optional_packages("torch", "Another device than the CPU"):
        import torch

    try:
        torch.zeros(1, device=name).cpu()
    except (RuntimeError, AssertionError) as error:
        raise OptionError(
            f"The device {name!r} cannot be used here; choose a device of torch, such as cpu or cuda."
        ) from error
