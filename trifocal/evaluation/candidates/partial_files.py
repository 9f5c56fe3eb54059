"""Presets measured by partial files, with the detected or the annotated objects only."""

from __future__ import annotations

from collections.abc import Callable
from functools import partial

import numpy as np

from trifocal.codecs.components import ComponentInput, component_at
from trifocal.codecs.rate_control import Rate
from trifocal.container import Bitstream
from trifocal.container.components import Component
from trifocal.container.parts import strip
from trifocal.detection.labels import CATEGORIES
from trifocal.evaluation.candidates.candidate import LoadedPreset
from trifocal.evaluation.candidates.variant import Variant
from trifocal.evaluation.metrics.pair import Pixels
from trifocal.evaluation.tasks.detection import Annotations
from trifocal.pictures import Picture
from trifocal.presets import check_components, check_preference, find

__all__ = ["AnnotatedObjectsCandidate", "ObjectsCandidate"]


class ObjectsCandidate:
    """A preset by its partial files: those that `trifocal strip --components` writes, with all components.

    The file of an image without objects is its base layer; if the preset has no base layer, it is the whole
    file. `encode` codes the whole file and drops the rest, so its time covers both.

    Args:
        variant: the preset, its weights and preference.
        objects: gives the objects of an image; by default those that the bundled detector finds.

    Raises:
        PresetError, OptionError: for a preset without components, or a preference that it does not take.
        WeightsError: as `LoadedPreset`.
    """

    def __init__(
        self, variant: Variant, objects: Callable[[Picture], ComponentInput] = lambda picture: "detection"
    ) -> None:
        check_components(find(variant.codec))
        check_preference(find(variant.codec), variant.preference)
        self.name, self.objects, self.preference = variant.name, objects, variant.preference
        self.loaded = LoadedPreset(variant)
        self.weights = self.loaded.fingerprint

    def encode(self, picture: Picture, quality: float) -> bytes:
        stream = self.loaded.encode(picture, rate=Rate(quality), components=self.objects(picture) or None)
        labels = {component.label for component in stream.components}
        if not labels and not self.loaded.preset.has_base_layer:
            return stream.to_bytes()
        return (stream.only(labels) if labels else strip(stream, "base")).to_bytes()

    def decode(self, data: bytes) -> Pixels:
        """The objects, and the base preview where there are none."""
        if Bitstream.from_bytes(data).components or not self.loaded.preset.has_base_layer:
            return self.loaded.decode(data, self.preference)
        return self.loaded.base_preview(data)


class AnnotatedObjectsCandidate:
    """A preset by partial files with the annotated objects of each image.

    Args:
        variant: the preset and its weights.
        annotations: of the images.

    Raises:
        PresetError, WeightsError: as `ObjectsCandidate`.
    """

    def __init__(self, variant: Variant, annotations: Annotations) -> None:
        self.name, self.variant, self.annotations = variant.name, variant, annotations
        self.weights = ObjectsCandidate(variant).weights

    def for_image(self, name: str) -> ObjectsCandidate:
        """The candidate with the objects of an image."""
        return ObjectsCandidate(self.variant, partial(self._components, name))

    def _components(self, name: str, picture: Picture) -> list[Component]:
        height, width = picture.height, picture.width
        boxes, labels = self.annotations.scaled_boxes(name, height, width) or (np.empty((0, 4)), np.empty(0))
        found = (
            component_at(CATEGORIES[label][0], box, width, height)
            for box, label in zip(boxes.tolist(), labels.tolist(), strict=True)
        )
        return [component for component in found if component is not None]
