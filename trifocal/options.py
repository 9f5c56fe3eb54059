"""Options of encoding, decoding and detection, checked once."""

from __future__ import annotations

from dataclasses import dataclass
from functools import cached_property
from typing import TypeAlias

from trifocal import presets
from trifocal.codecs.components import ComponentInput, ComponentRequest, GrounderInput, component_request
from trifocal.codecs.mask import Mask
from trifocal.codecs.rate_control import BaseLayerOptions, Rate
from trifocal.errors import OptionError, PresetError
from trifocal.file_detection import THRESHOLD
from trifocal.pictures.picture import KeepMetadata, keeps_all_metadata
from trifocal.preset_table import Preset

__all__ = ["DecodeOptions", "DetectOptions", "EncodeOptions", "Region"]

Region: TypeAlias = tuple[int, int, int, int]


@dataclass(frozen=True)
class EncodeOptions:
    """Options of `encode`, with the same names and meanings as its arguments.

    With `text_per_image` each call of an `Encoder` has a text of its own. Raises OptionError for values that
    no preset takes.
    """

    quality: float | None = None
    bpp: float | None = None
    max_bytes: int | None = None
    text: str | None = None
    send_text: bool = False
    text_per_image: bool = False
    base_quality: int | None = None
    refinement: int | None = None
    mask: Mask | None = None
    components: ComponentInput | None = None
    grounder: GrounderInput | None = None
    metadata: KeepMetadata = "all"
    keep_invisible: bool = False
    base_only: bool = False

    def __post_init__(self) -> None:
        if self.base_only:
            check_quality_only(self, "base_only (--layers base)")
        keeps_all_metadata(self.metadata)
        _ = self.rate, self.base, self.request  # constructing them checks their values

    @cached_property
    def rate(self) -> Rate:
        return Rate(self.quality, self.bpp, self.max_bytes)

    @cached_property
    def base(self) -> BaseLayerOptions:
        return BaseLayerOptions(self.base_quality, self.refinement)

    @cached_property
    def request(self) -> ComponentRequest | None:
        return component_request(self.components, grounder=self.grounder)

    def check(self, preset: Preset) -> None:
        """Raises PresetError for options that the preset does not use, OptionError if `send_text` is set and
        there is no text.
        """
        presets.check_text(preset, self.text is not None or self.text_per_image, self.send_text)
        if not self.base.is_default or self.base_only:
            presets.check_base_layer(preset)
        if self.components is not None:
            presets.check_components(preset)


def check_quality_only(options: EncodeOptions, name: str) -> None:
    """Raises OptionError for bpp, max_bytes, mask and components, which cannot be used where the base layer
    is written alone (`base_only`) or first (`in_parts`).
    """
    given = (options.bpp, options.max_bytes, options.mask, options.components)
    if any(option is not None for option in given):
        raise OptionError(
            f"{name} takes quality and base_quality, but no bpp, max_bytes, mask or components (--bpp, "
            "--bytes, --mask, --components); leave them out."
        )


@dataclass(frozen=True)
class DecodeOptions:
    """The options of `decode`, and one more: `base_only` decodes the preview of the base layer. Raises
    OptionError for options that exclude each other.
    """

    region: Region | None = None
    best_effort: bool = False
    text: str | None = None
    preference: float | None = None
    base_only: bool = False
    compose: bool = False

    def __post_init__(self) -> None:
        flags, others = self.best_effort or self.compose, (self.region, self.text, self.preference)
        if self.base_only and (flags or any(option is not None for option in others)):
            raise OptionError("base_only excludes region, best_effort, text, preference and compose.")

    def check(self, preset: Preset) -> None:
        """Raises PresetError for options that the preset's decoder does not use, OptionError for a
        preference outside 0..1.
        """
        presets.check_text(preset, self.text is not None)
        if self.text is not None and preset.text_used_by != "decoder":
            raise PresetError(f"The decoder of {preset.name} needs no text; decode without it.")
        presets.check_preference(preset, self.preference)
        if self.compose and not preset.composes:
            raise PresetError(f"Files of {preset.name} are decoded without compose.")


@dataclass(frozen=True)
class DetectOptions:
    """`threshold`: the lowest score of the objects, 0..1. Raises OptionError outside 0..1."""

    threshold: float = THRESHOLD

    def __post_init__(self) -> None:
        if not 0 <= self.threshold <= 1:
            raise OptionError(f"A threshold is from 0 to 1, not {self.threshold:g}.")
