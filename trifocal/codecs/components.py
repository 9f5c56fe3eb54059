"""Which objects of an image become components: by labels and words, or given with their boxes."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import TypeAlias

import numpy as np

from trifocal.container.components import MAX_COMPONENTS, Component, ComponentLayout, check_components
from trifocal.container.text_encoding import normalise_text
from trifocal.detection.compact_onnx import suppress
from trifocal.detection.detections import Pixels
from trifocal.detection.labels import TASK_LABELS
from trifocal.errors import OptionError
from trifocal.grounding.loading import GrounderInput, check_grounder, load_grounder
from trifocal.types import HYPER_LATENT_PIXELS, LATENT_STRIDE
from trifocal.utils.notices import Notify, warn

__all__ = ["ComponentInput", "ComponentRequest", "GrounderInput", "component_at", "component_request"]

SAME_OBJECT = 0.8  # intersection over union of boxes that are one object
LISTED = 5  # labels in a notice

ComponentInput: TypeAlias = "str | Sequence[str | Component]"


@dataclass(frozen=True)
class ComponentRequest:
    """What becomes a component.

    Attributes:
        labels: labels and words that the user names, each one once.
        tasks: whose lists of labels are searched, as far as the grounder can find them.
        components: objects that are given with their boxes.
        grounder: finds labels, words and tasks.
        notify: called with each notice.
    """

    labels: tuple[str, ...] = ()
    tasks: tuple[str, ...] = ()
    components: tuple[Component, ...] = ()
    grounder: GrounderInput = "compact"
    notify: Notify = warn

    def prepare(self) -> ComponentRequest:
        """Load the grounder and give a notice of the labels of tasks that it cannot find.

        Raises:
            MissingExtra, WeightsError: if its packages or weights are missing.
        """
        vocabulary = load_grounder(self.grounder).vocabulary
        listed = self._task_labels()
        if vocabulary is not None and (count := len([*listed]) - len(vocabulary.intersection(listed))):
            self.notify(
                f"{count} of the {len(listed)} labels of {' and '.join(self.tasks)} are not searched: the "
                f"grounder knows {len(vocabulary)} labels; --grounder grounding-dino searches all."
            )
        return self

    def choose(self, pixels: Pixels) -> tuple[Component, ...]:
        """The components of an image, uint8 [H, W, 3]; none, with a notice, if it has no such objects.

        Raises:
            OptionError: for given components that the image cannot have.
            MissingExtra, WeightsError: as `prepare`.
        """
        height, width = pixels.shape[:2]
        found = tuple(dict.fromkeys(self._found(pixels)))
        objects = [*self.components, *found]
        missing = [label for label in self.labels if label not in {one.label for one in found}]
        if not objects:
            self.notify("No such object was found in the image, so the file has no components.")
            return ()
        if missing:
            self.notify(not_found(missing, len(self.labels)))
        if len(objects) > MAX_COMPONENTS:
            self.notify(
                f"The image has {len(objects)} objects; the {MAX_COMPONENTS} with the highest scores become "
                "components."
            )
        check_components(objects[:MAX_COMPONENTS], width, height)
        return with_positions(objects[:MAX_COMPONENTS], width, height)

    def _task_labels(self) -> tuple[str, ...]:
        return tuple(dict.fromkeys(label for task in self.tasks for label in TASK_LABELS[task]))

    def _found(self, pixels: Pixels) -> Iterator[Component]:
        """The objects that are found, the highest score first, and each object once."""
        if not (self.labels or self.tasks):
            return
        grounder = load_grounder(self.grounder)
        known = grounder.vocabulary
        listed = (label for label in self._task_labels() if known is None or label in known)
        found = grounder.find(pixels, tuple(dict.fromkeys((*self.labels, *listed))))
        height, width = pixels.shape[:2]
        for place in suppress(found.boxes.astype(np.float32), found.scores.astype(np.float32), SAME_OBJECT):
            one = component_at(found.labels[place], found.boxes[place].tolist(), width, height)
            if one is not None:
                yield one


def component_request(
    components: ComponentInput | None, notify: Notify = warn, grounder: GrounderInput | None = None
) -> ComponentRequest | None:
    """The request of a user; None for None.

    Args:
        components: labels, words and tasks with commas between them, or a sequence of labels, words, tasks
            and Components. Tasks are the reserved words "detection", "segmentation" and "classification".
        notify: called with each notice.
        grounder: finds labels, words and tasks; a name of `GROUNDERS` or an object; "compact" if None.

    Raises:
        OptionError: for a value without any label or component, or of another type, an unknown grounder, or
            a grounder without components.
    """
    if components is None:
        if grounder is not None:
            raise OptionError(
                "A grounder was given without components; give components too, or leave the grounder out."
            )
        return None
    check_grounder(grounder or "compact")
    parts = components.split(",") if isinstance(components, str) else list(components)
    if not all(isinstance(one, str | Component) for one in parts):
        raise OptionError("components are labels, or trifocal.Component objects; give one or more.")
    given = tuple(one for one in parts if isinstance(one, Component))
    texts = (normalise_text(one).lower() for one in parts if isinstance(one, str))
    words = tuple(dict.fromkeys(text for text in texts if text))
    if with_comma := next((text for text in words if "," in text), None):
        raise OptionError(f"A label of components has no comma; split {with_comma!r} into several.")
    if not (given or words):
        raise OptionError("components must name a label, such as person, or a task, such as detection.")
    labels, tasks = (tuple(w for w in words if (w in TASK_LABELS) is is_task) for is_task in (False, True))
    return ComponentRequest(labels, tasks, given, grounder or "compact", notify)


def not_found(missing: Sequence[str], count: int) -> str:
    """A notice of the named labels that are not found in an image."""
    names = ", ".join(repr(label) for label in missing[:LISTED])
    more = f" and {len(missing) - LISTED} more" if len(missing) > LISTED else ""
    which = f"{names}{more}" if count == 1 else f"{len(missing)} of {count} labels ({names}{more})"
    return (
        f"For {which} nothing was found, or only objects that already have another label, so there is no "
        "such component; try other words."
    )


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
