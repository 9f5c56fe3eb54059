"""Which weights a preset is measured with: the bundled ones, or a file of the user's under a label."""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, TypeVar

from trifocal.errors import OptionError, PresetError, WeightsError
from trifocal.evaluation.codecs.pillow_codecs import PILLOW_CODECS
from trifocal.presets import Preset, all_presets, find, register

if TYPE_CHECKING:
    from trifocal.codecs.codec import Codec

__all__ = ["BUNDLED", "Model", "Models", "labelled"]

LABEL = re.compile(r"\w[\w .+-]*")  # also the name of a file, and no kind of text or layer after a colon
EXAMPLE = "mine=compact:mine.safetensors"
Named = TypeVar("Named")


@dataclass(frozen=True)
class Model:
    """A preset and what it is loaded with.

    Attributes:
        preset: its name.
        label: the user's name for it; "" for the bundled weights.
        weights: a .safetensors file; None for the bundled weights.
        device: torch's name of it.
    """

    preset: str
    label: str = ""
    weights: Path | None = None
    device: str = "cpu"

    @property
    def name(self) -> str:
        """In tables."""
        return self.label or self.preset

    @property
    def title(self) -> str:
        """In legends."""
        return self.label or f"Trifocal {self.preset}"

    @property
    def spec(self) -> str:
        """What the user writes for it."""
        return f"{self.label}={self.preset}:{self.weights}" if self.label else self.preset

    def load(self) -> Codec:
        """Raises PresetError and WeightsError, with the label if there is one."""
        from trifocal.presets import shared_codec

        try:
            return shared_codec(self.preset, self.device, self.weights)
        except (PresetError, WeightsError) as error:
            if not self.label:
                raise
            raise type(error)(f"{self.label}: {error}") from error


@dataclass(frozen=True)
class Models:
    """The models of one run by name. A name without a model of its own is a preset with the bundled weights.

    Attributes:
        own: models with weights of the user's by label.
        device: for presets, torch's name of it.
    """

    own: Mapping[str, Model] = field(default_factory=dict)
    device: str = "cpu"

    def __getitem__(self, name: str) -> Model:
        return self.own.get(name) or Model(name, device=self.device)

    def named(self, presets: Iterable[str]) -> set[str]:
        """Names of these presets, and labels of models of them."""
        chosen = set(presets)
        return chosen | {label for label, model in self.own.items() if model.preset in chosen}


BUNDLED = Models()


def labelled(
    subjects: Sequence[Named | str | Preset], device: str = "cpu"
) -> tuple[list[Named | str], Models]:
    """Replace each LABEL=PRESET:WEIGHTS by its label, and load its weights once to check them.

    Raises:
        OptionError: for another form, a label that is taken or cannot name a file, or a device that cannot be used.
        PresetError, WeightsError: for an unknown preset, and weights that are missing, damaged or of another network.
    """
    check_device(device)
    own: dict[str, Model] = {}
    names: list[Named | str] = []
    for subject in subjects:
        if isinstance(subject, Preset):
            names.append(subject.name if subject in all_presets() else register(subject).name)
            continue
        if not isinstance(subject, str) or "=" not in subject:
            names.append(subject)
            continue
        model = model_in(subject, device)
        if model.label in own:
            raise OptionError(f"There are two models with the label {model.label!r}; choose another for one.")
        own[model.label] = model
        names.append(model.label)
    for model in own.values():
        model.load()
    return names, Models(own, device)


def model_in(spec: str, device: str) -> Model:
    """Of LABEL=PRESET:WEIGHTS. Raises OptionError, PresetError."""
    label, _, rest = spec.partition("=")
    preset, _, weights = rest.partition(":")
    if not (label and preset and weights):
        raise OptionError(f"{spec!r} is not LABEL=PRESET:WEIGHTS; write it like {EXAMPLE}.")
    if not LABEL.fullmatch(label):
        raise OptionError(
            f"The label {label!r} can have letters, digits, spaces and . _ + - only, and starts with a letter or digit."
        )
    if label in PILLOW_CODECS or any(label == one.name for one in all_presets()):
        raise OptionError(f"The label {label!r} is the name of a preset or format; choose another.")
    return Model(find(preset).name, label, Path(weights), device)


def check_device(name: str) -> None:
    """Raises OptionError where torch has no such device, or it cannot be used on this machine."""
    if name == "cpu":
        return
    import torch

    try:
        torch.zeros(1, device=name).cpu()
    except (RuntimeError, AssertionError) as error:
        raise OptionError(
            f"The device {name!r} cannot be used here; name one of torch's, such as cpu or cuda."
        ) from error
