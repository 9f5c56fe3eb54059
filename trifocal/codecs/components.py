"""Which objects of an image become components: by labels that a detector finds, or given with their boxes."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, TypeAlias

import numpy as np

from trifocal.container.components import MAX_COMPONENTS, Component, ComponentLayout, check_components
from trifocal.detection.labels import CATEGORIES, CATEGORY_BY_NAME, TASK_LABELS, THRESHOLD
from trifocal.errors import OptionError
from trifocal.types import HYPER_LATENT_PIXELS, LATENT_STRIDE
from trifocal.utils.notices import Notify, warn

if TYPE_CHECKING:
    from trifocal.detection.detections import Detections

__all__ = ["ComponentInput", "ComponentRequest", "component_at", "component_request"]

ComponentInput: TypeAlias = "str | Sequence[str | Component]"


@dataclass(frozen=True)
class ComponentRequest:
    """What becomes a component.

    Attributes:
        labels: of the detector's categories.
        unknown: labels that the detector does not know.
        components: objects that are given with their boxes.
        notify: called with each notice.
    """

    labels: tuple[str, ...] = ()
    unknown: tuple[str, ...] = ()
    components: tuple[Component, ...] = ()
    notify: Notify = warn

    def choose(self, detect: Callable[[], Detections], width: int, height: int) -> tuple[Component, ...]:
        """The components of an image; none, with a notice, if it has no such objects.

        Args:
            detect: gives the objects in the image; boxes in its pixels.
            width, height: of the image in pixels.

        Raises:
            OptionError: for given components that the image cannot have.
        """
        for label in self.unknown:
            self.notify(unknown_label(label))
        found = self._found(detect(), width, height) if self.labels else []
        objects = [*self.components, *found]
        if len(objects) > MAX_COMPONENTS:
            self.notify(
                f"The image has {len(objects)} objects; the {MAX_COMPONENTS} with the highest scores become "
                "components."
            )
        if not objects:
            self.notify("No such objects were found, so the file has no components.")
            return ()
        check_components(objects[:MAX_COMPONENTS], width, height)
        return with_positions(objects[:MAX_COMPONENTS], width, height)

    def _found(self, objects: Detections, width: int, height: int) -> list[Component]:
        """The detected objects of the labels, the highest score first."""
        names = {CATEGORY_BY_NAME[label]: label for label in self.labels}
        rows = sorted(
            zip(objects.scores.tolist(), objects.labels.tolist(), objects.boxes.tolist()), reverse=True
        )
        found = (
            component_at(names[category], box, width, height)
            for score, category, box in rows
            if score >= THRESHOLD and category in names
        )
        return list(dict.fromkeys(one for one in found if one is not None))


def component_request(components: ComponentInput | None, notify: Notify = warn) -> ComponentRequest | None:
    """The request of a user; None for None.

    Args:
        components: labels with commas between them, or a task: "detection", "segmentation" or
            "classification", of whose list the labels count that the detector knows; or a sequence of labels
            and Components.
        notify: called with each notice when an image is encoded.

    Raises:
        OptionError: for a value without any label or component, or of another type.
    """
    if components is None:
        return None
    parts = components.split(",") if isinstance(components, str) else list(components)
    if not all(isinstance(one, str | Component) for one in parts):
        raise OptionError("components are labels, or trifocal.Component objects; give one or more.")
    given = tuple(one for one in parts if isinstance(one, Component))
    labels: list[str] = []
    unknown: list[str] = []
    for word in (one.strip() for one in parts if isinstance(one, str)):
        if word in TASK_LABELS:
            labels += [label for label in TASK_LABELS[word] if label in CATEGORY_BY_NAME]
        elif word:
            (labels if word.lower() in CATEGORY_BY_NAME else unknown).append(word.lower())
    if not (given or labels or unknown):
        raise OptionError("components must name a label, such as person, or a task, such as detection.")
    return ComponentRequest(tuple(dict.fromkeys(labels)), tuple(dict.fromkeys(unknown)), given, notify)


def unknown_label(label: str) -> str:
    """A notice about a label that the detector does not know."""
    near = next((names[0] for names in CATEGORIES.values() if label in names), None)
    advice = f"use {near}" if near else "`trifocal detect` uses the 80 labels of COCO"
    return f"The detector has no label {label!r}, so it gives no components; {advice}."


def component_at(label: str, box: Sequence[float], width: int, height: int) -> Component | None:
    """The component of a box x0, y0, x1, y1 in pixels; None for a box without pixels of the image.

    The box grows to whole latent positions, and at the right and bottom edges of the image into the padding.
    """
    x0, y0, x1, y1 = np.clip(box, 0, [width, height, width, height])
    if x1 <= x0 or y1 <= y0:
        return None
    right, bottom = (
        side + -side % HYPER_LATENT_PIXELS if edge >= side else edge
        for edge, side in ((x1, width), (y1, height))
    )
    low = int(x0 // LATENT_STRIDE), int(y0 // LATENT_STRIDE)
    return Component(label, (*low, int(-(-right // LATENT_STRIDE)), int(-(-bottom // LATENT_STRIDE))))


def with_positions(components: Sequence[Component], width: int, height: int) -> tuple[Component, ...]:
    """The components that the boxes of others do not cover completely."""
    layout = ComponentLayout(tuple(components), width, height)
    there = {part for parts in layout.parts for part in parts}
    return tuple(one for number, one in enumerate(components, start=1) if number in there)
