"""What layers are worth: the base layer alone, layers that know nothing of each other, and rivals that code small pictures.

NAME:base     the base layer's file; the detector that it serves reads it, and people see the first picture
NAME:unfitted the same, as analysis makes it for all pictures alike: without what the encoder does for this one
NAME:apart    both layers, the enhancement without what the base layer shows
NAME:small    any codec, given the picture as small as the detector looks at it
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, TypeVar

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from trifocal.codecs.rate_control import BaseLayerOptions, Rate
from trifocal.container import Bitstream
from trifocal.container.fields import hexadecimal
from trifocal.container.parts import strip
from trifocal.detection.input_size import compact_size
from trifocal.errors import OptionError
from trifocal.evaluation.codecs.custom_weights import BUNDLED, Model, Models
from trifocal.evaluation.tasks.detectors import (
    COMPACT,
    CompactDetector,
    Detector,
    Found,
    found_of,
    rescaled,
    resized,
)
from trifocal.pictures import Picture
from trifocal.presets import all_presets, check_layers, find

if TYPE_CHECKING:
    from trifocal.codecs.scalable import ScalableCodec
    from trifocal.evaluation.codecs.candidates import Candidate

__all__ = [
    "APART",
    "BASE",
    "SMALL",
    "TITLES",
    "UNFITTED",
    "BaseLayerCandidate",
    "DownscaledCandidate",
    "SeparateFilesCandidate",
    "dual_layer",
    "layered",
]

BASE, UNFITTED, APART, SMALL = "base", "unfitted", "apart", "small"
TITLES = {
    BASE: "base layer",
    UNFITTED: "base layer without refinement",
    APART: "layers apart",
    SMALL: "at the detector's size",
}
OWN_DETECTOR = {
    "dual-layer": "fasterrcnn_resnet50_fpn",
    "dual-layer-compact": COMPACT,
}  # whom the base layer serves

Pixels = NDArray[np.uint8]
Name = TypeVar("Name")


class BaseLayerCandidate:
    """The base layer alone of a preset with layers: the file that `trifocal strip --layers base` makes.

    Qualities are base qualities, whole numbers. The whole picture is encoded for it, and `encode_s` is of that. `kind` is BASE
    or UNFITTED. Raises PresetError, WeightsError.
    """

    def __init__(self, model: Model, kind: str = BASE) -> None:
        self.name = f"{model.name}:{kind}"
        self.refinement = 0 if kind == UNFITTED else None
        self.codec = loaded(model)
        self.weights = hexadecimal(self.codec.fingerprint)
        self.detector = OWN_DETECTOR.get(model.preset)

    def encode(self, picture: Picture, quality: float) -> bytes:
        if quality != int(quality):
            raise OptionError(f"A base layer takes whole qualities, not {quality:g}.")
        stream = self.codec.encode(picture, base_quality=int(quality), refinement=self.refinement)
        return strip(stream, "base").to_bytes()

    def decode(self, data: bytes) -> Pixels:
        """The first picture."""
        return self.codec.base_preview(Bitstream.from_bytes(data)).rgb

    def look(self, data: bytes, size: tuple[int, int], model: str, detector: Detector) -> Found:
        """What a detector finds in a file of a picture of that (width, height), in its pixels: the one that the layer serves
        reads the layer, and any other is shown the first picture."""
        if model == self.detector:
            return found_of(self.codec.detect(Bitstream.from_bytes(data)))
        return detector.find(self.decode(data))


class SeparateFilesCandidate:
    """A preset with layers whose enhancement does without the first picture. Raises PresetError, WeightsError."""

    def __init__(self, model: Model) -> None:
        self.name = f"{model.name}:{APART}"
        self.codec = loaded(model)
        self.weights = hexadecimal(self.codec.fingerprint)

    def encode(self, picture: Picture, quality: float) -> bytes:
        return self.codec.encode_picture(
            picture, Rate(quality), BaseLayerOptions(conditions=False)
        ).to_bytes()

    def decode(self, data: bytes) -> Pixels:
        return self.codec.decode(Bitstream.from_bytes(data)).picture.rgb


class DownscaledCandidate:
    """A codec that is given a picture at the size at which the compact detector looks at it, and decodes it at that size.

    A detector is shown that. Bits are counted per pixel of the picture that it was made from.
    """

    def __init__(self, codec: Candidate) -> None:
        self.name, self.weights = f"{codec.name}:{SMALL}", codec.weights
        self.codec = codec

    def encode(self, picture: Picture, quality: float) -> bytes:
        size = compact_size(picture.width, picture.height)
        return self.codec.encode(Picture(resized(picture.rgb, size, Image.Resampling.BICUBIC)), quality)

    def decode(self, data: bytes) -> Pixels:
        return self.codec.decode(data)

    def look(self, data: bytes, size: tuple[int, int], model: str, detector: Detector) -> Found:
        """What a detector finds in a file of a picture of that (width, height), in its pixels."""
        small = self.decode(data)
        found = detector.look(small) if isinstance(detector, CompactDetector) else detector.find(small)
        return rescaled(found, small.shape[:2], size)


def layered(subjects: Sequence[Name], layers: str | None, models: Models = BUNDLED) -> list[Name | str]:
    """Each preset with layers by its base layer alone, as preset:base, where `layers` is "base"; as they are where it is None.

    Raises OptionError for other layers, and where no subject has layers.
    """
    if layers is None:
        return [*subjects]
    if layers != BASE:
        raise OptionError(f"A {BASE} layer can be measured alone, and no layers {layers!r}.")
    able = [preset.name for preset in all_presets() if preset.layers]
    named = models.named(able)
    if not any(isinstance(subject, str) and subject.partition(":")[0] in named for subject in subjects):
        others = f"; these have: {', '.join(able)}" if able else ""
        raise OptionError(f"A base layer is to be measured, and nothing to be measured has one{others}.")
    return [f"{subject}:{BASE}" if subject in named else subject for subject in subjects]


def dual_layer(preset: str) -> ScalableCodec:
    """The codec of a preset with layers. Raises PresetError for another, WeightsError."""
    return loaded(Model(preset))


def loaded(model: Model) -> ScalableCodec:
    """Raises PresetError for a preset without layers, WeightsError."""
    from trifocal.codecs.scalable import ScalableCodec

    check_layers(find(model.preset))
    codec = model.load()
    assert isinstance(codec, ScalableCodec)
    return codec
