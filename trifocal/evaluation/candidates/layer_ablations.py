"""Variants of scalable presets: base layer alone, unconditioned enhancement, the detector's input size."""

from __future__ import annotations

from typing import TYPE_CHECKING

from PIL import Image

from trifocal.codecs.rate_control import BaseLayerOptions, Rate
from trifocal.container.parts import strip
from trifocal.detection.detections import Detections, ObjectDetector, Pixels, rescale, resize
from trifocal.detection.input_size import compact_size
from trifocal.errors import OptionError
from trifocal.evaluation.candidates.candidate import Candidate, LoadedPreset
from trifocal.evaluation.candidates.variant import SMALL, Variant
from trifocal.evaluation.tasks.detectors import COMPACT, CompactDetector
from trifocal.pictures import Picture
from trifocal.presets import check_base_layer, find

if TYPE_CHECKING:
    from trifocal.codecs.scalable import ScalableCodec

__all__ = [
    "BASE_LAYER_DETECTORS",
    "BaseLayerCandidate",
    "DownscaledCandidate",
    "UnconditionedCandidate",
    "load_scalable",
]

# The detector that reads the base layer, by preset.
BASE_LAYER_DETECTORS = {"dual-layer": "fasterrcnn_resnet50_fpn", "dual-layer-compact": COMPACT}


class BaseLayerCandidate:
    """The base layer of a scalable preset alone: the file that `trifocal strip --layers base` writes.

    Qualities are base qualities, whole numbers. `encode` codes both layers and drops one, so its time covers
    both.

    Raises:
        PresetError: for a preset without layers.
        WeightsError: as `LoadedPreset`.
    """

    def __init__(self, variant: Variant) -> None:
        self.name = variant.name
        self.refinement = 0 if variant.layers == "unfitted" else None
        self.loaded = _load_scalable(variant)
        self.weights = self.loaded.fingerprint
        self.detector = BASE_LAYER_DETECTORS.get(variant.codec)

    def encode(self, picture: Picture, quality: float) -> bytes:
        """Raises OptionError for a quality that is not a whole number."""
        if quality != int(quality):
            raise OptionError(f"A base layer takes whole qualities, not {quality:g}.")
        stream = self.loaded.encode(picture, base=BaseLayerOptions(int(quality), self.refinement))
        return strip(stream, "base").to_bytes()

    def decode(self, data: bytes) -> Pixels:
        """The base preview."""
        return self.loaded.base_preview(data)

    def detect(self, data: bytes, size: tuple[int, int], model: str, detector: ObjectDetector) -> Detections:
        """The objects in a file, in the pixels of the image of that (width, height).

        The detector of the base layer reads the layer; any other detector gets the base preview.
        """
        if model == self.detector:
            return self.loaded.detect(data)
        return detector.find(self.decode(data))


class UnconditionedCandidate:
    """A scalable preset whose enhancement layer is not conditioned on the base preview.

    Raises:
        PresetError: for a preset without layers.
        WeightsError: as `LoadedPreset`.
    """

    def __init__(self, variant: Variant) -> None:
        self.name = variant.name
        self.loaded = _load_scalable(variant)
        self.weights = self.loaded.fingerprint

    def encode(self, picture: Picture, quality: float) -> bytes:
        return self.loaded.encode(
            picture, rate=Rate(quality), base=BaseLayerOptions(condition_enhancement=False)
        ).to_bytes()

    def decode(self, data: bytes) -> Pixels:
        return self.loaded.decode(data)


class DownscaledCandidate:
    """A codec that codes each image at the input size of the bundled detector.

    Detectors get the decoded image at that size. Bits are counted per pixel of the original.
    """

    def __init__(self, codec: Candidate) -> None:
        self.name, self.weights = f"{codec.name}:{SMALL}", codec.weights
        self.codec = codec

    def encode(self, picture: Picture, quality: float) -> bytes:
        size = compact_size(picture.width, picture.height)
        return self.codec.encode(Picture(resize(picture.rgb, size, Image.Resampling.BICUBIC)), quality)

    def decode(self, data: bytes) -> Pixels:
        return self.codec.decode(data)

    def detect(self, data: bytes, size: tuple[int, int], model: str, detector: ObjectDetector) -> Detections:
        """The objects in a file, in the pixels of the original of that (width, height)."""
        small = self.decode(data)
        find = detector.find_in_resized if isinstance(detector, CompactDetector) else detector.find
        return rescale(find(small), small.shape[:2], size)


def load_scalable(preset: str) -> ScalableCodec:
    """The codec of a scalable preset. Raises PresetError for another, WeightsError."""
    from trifocal.codecs.scalable import ScalableCodec

    codec = _load_scalable(Variant(preset)).codec
    assert isinstance(codec, ScalableCodec)
    return codec


def _load_scalable(variant: Variant) -> LoadedPreset:
    check_base_layer(find(variant.codec))
    return LoadedPreset(variant)
