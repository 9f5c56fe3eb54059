"""What can be measured: our presets, with words and without, whole and by layers, and the rivals."""

from __future__ import annotations

from collections.abc import Container, Sequence
from dataclasses import replace
from functools import partial
from typing import Protocol, TypeVar

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from trifocal.container import Bitstream, Tag
from trifocal.errors import NotMeasured, OptionError
from trifocal.evaluation.baselines import RIVALS, rivals
from trifocal.evaluation.detectors import resized
from trifocal.evaluation.gauge import Outcome
from trifocal.evaluation.layering import (
    APART,
    BASE,
    SMALL,
    TITLES,
    UNFITTED,
    ApartSubject,
    BaseSubject,
    SmallSubject,
    layered,
)
from trifocal.evaluation.wording import KINDS, Wording
from trifocal.pictures import Picture
from trifocal.presets import check_preference, find, with_preference
from trifocal.words import for_decoding, for_encoding

__all__ = [
    "PresetSubject",
    "Subject",
    "WordedSubject",
    "for_picture",
    "is_rival",
    "outcome_of",
    "subject_of",
    "text_bytes",
    "title_of",
    "variants",
]


class Subject(Protocol):
    """What can be measured: a name, the fingerprint of its weights ("" without), and a way to bytes and back."""

    @property
    def name(self) -> str: ...
    @property
    def weights(self) -> str: ...
    def encode(self, picture: Picture, quality: float) -> bytes: ...
    def decode(self, data: bytes) -> NDArray[np.uint8]: ...


class PresetSubject:
    """One of our own presets. Raises PresetError, WeightsError, when it is made.

    Args:
        name: of the preset.
        text: what the picture shows; None for no words. A decoder that reads words finds them in the file.
        title: its name in tables, if not the preset's.
        preference: for whom files are decoded, 0 for people … 1 for machines; None says nothing.
    """

    def __init__(
        self, name: str, text: str | None = None, title: str = "", preference: float | None = None
    ) -> None:
        from trifocal.presets import load

        self.name, self.preset, self.text = title or name, name, text
        self.preference = preference
        check_preference(find(name), preference)
        self.codec = load(name)
        self.weights = f"{self.codec.fingerprint:04x}"
        self.sends = text is not None and find(name).words == "decoder"

    def encode(self, picture: Picture, quality: float) -> bytes:
        return self.stream(picture, quality=quality).to_bytes()

    def stream(self, picture: Picture, quality: float | None = None, size: int | None = None) -> Bitstream:
        """At a quality, or at most of so many bytes. Raises RateError."""
        condition, layers = for_encoding(self.preset, self.text, self.sends)
        return self.codec.encode(picture, quality=quality, size=size, condition=condition, layers=layers)

    def decode(self, data: bytes) -> NDArray[np.uint8]:
        stream = Bitstream.from_bytes(data)
        condition = with_preference(find(self.preset), for_decoding(stream), self.preference)
        return self.codec.decode(stream, condition=condition).picture.rgb


class WordedSubject:
    """A preset with words of one kind: `for_picture` makes the subject with those of a picture.

    Raises PresetError, WeightsError, MissingExtra (of the text tower too) and OptionError, when it is made.

    Args:
        name: preset:kind, the kind being one of KINDS.
        wording: the words of the pictures.
    """

    def __init__(self, name: str, wording: Wording) -> None:
        from trifocal.presets import tower_for

        self.name, self.wording = name, wording
        self.preset, _, self.kind = name.partition(":")
        wording.check(self.kind)
        self.weights = PresetSubject(self.preset).weights
        if self.kind != "none":
            tower_for(self.preset)

    def for_picture(self, picture: str) -> PresetSubject:
        """Raises OptionError where the picture has no such words."""
        return PresetSubject(self.preset, self.wording.text(self.kind, picture), self.name)


Name = TypeVar("Name", bound=str | Subject)


def variants(
    presets: Sequence[Name],
    text: Sequence[str] = (),
    layers: str | None = None,
    preferences: Sequence[float] = (),
) -> list[Name | str]:
    """Each preset as often as it is to be measured: with each of these kinds of words, by these layers, for whom.

    Raises OptionError where nothing that is to be measured has what is asked for.
    """
    return preferred(worded(layered(presets, layers), text), preferences)


def preferred(presets: Sequence[Name], preferences: Sequence[float]) -> list[Name | str]:
    """Each preset that knows a preference once for each of these, as preset:0.5; all others as they are.

    Raises OptionError for one out of 0..1, and where there are some and no preset knows any.
    """
    from trifocal.presets import PRESETS

    if not preferences:
        return [*presets]
    able = {preset.name: preset for preset in PRESETS if preset.preference}
    if not any(preset in able for preset in presets if isinstance(preset, str)):
        raise OptionError(
            f"There are preferences to compare, and no preset to be measured knows any; these do: {', '.join(able)}."
        )
    for preference in preferences:
        check_preference(next(iter(able.values())), preference)
    return each(presets, able, [f"{preference:g}" for preference in preferences])


def worded(presets: Sequence[Name], kinds: Sequence[str]) -> list[Name | str]:
    """Each preset that takes words once for each of these kinds, as preset:kind; all others as they are.

    Raises OptionError for a kind that is none of KINDS, and where there are kinds and no preset takes words.
    """
    from trifocal.presets import PRESETS

    if not kinds:
        return [*presets]
    strange = [kind for kind in kinds if kind not in KINDS]
    if strange:
        raise OptionError(f"There are no words of the kind {strange[0]!r}; there are: {', '.join(KINDS)}.")
    able = [preset.name for preset in PRESETS if preset.words]
    if not any(preset in able for preset in presets if isinstance(preset, str)):
        others = f"; these do: {', '.join(able)}" if able else ""
        raise OptionError(
            f"There are kinds of words to compare, and no preset to be measured takes any{others}."
        )
    return each(presets, able, kinds)


def each(presets: Sequence[Name], able: Container[object], kinds: Sequence[str]) -> list[Name | str]:
    """Those that are able once for each of these kinds, as preset:kind; all others as they are."""
    chosen = dict.fromkeys(kinds)
    return [
        name
        for preset in presets
        for name in ([f"{preset}:{kind}" for kind in chosen] if preset in able else [preset])
    ]


def subject_of(name: str, wording: Wording | None = None) -> Subject | WordedSubject:
    """By name: a rival, a preset, one of the names of `layering`, or with a wording a preset:kind. Raises what making it
    raises, and NotMeasured."""
    plain, _, kind = name.partition(":")
    if wording is not None and kind in KINDS:
        return WordedSubject(name, wording)
    if kind == SMALL:
        return SmallSubject(_codec_of(plain))
    if kind in (BASE, UNFITTED):
        return BaseSubject(plain, kind)
    if kind == APART:
        return ApartSubject(plain)
    preference = preference_in(kind)
    return _codec_of(name) if preference is None else PresetSubject(plain, None, name, preference)


def preference_in(kind: str) -> float | None:
    """Of ug-icm-compact:0.5."""
    try:
        return float(kind)
    except ValueError:
        return None


def _codec_of(name: str) -> Subject:
    if name not in RIVALS:
        return PresetSubject(name)
    if RIVALS[name] not in rivals():
        raise NotMeasured(RIVALS[name].title, "nothing here writes it", f"pip install {RIVALS[name].package}")
    return RIVALS[name]


def for_picture(subject: Subject | WordedSubject, picture: str) -> Subject:
    """The subject, with words for this picture where it takes some. Raises OptionError where there are none."""
    return subject.for_picture(picture) if isinstance(subject, WordedSubject) else subject


def outcome_of(
    subject: Subject, data: bytes, decoded: NDArray[np.uint8], original: Picture, name: str
) -> Outcome:
    """What became of a picture. What was decoded at another size is brought to the picture's; a detector is not shown that."""
    size = original.width, original.height
    if decoded.shape[1::-1] != size:
        decoded = resized(decoded, size, Image.Resampling.BICUBIC)
    look = partial(subject.look, data, size) if isinstance(subject, (BaseSubject, SmallSubject)) else None
    return Outcome(decoded, original.rgb, name, look)


def is_rival(name: str) -> bool:
    """Whether somebody else's codec is so named."""
    return name.partition(":")[0] in RIVALS


def title_of(name: str) -> str:
    """As tables and legends have it."""
    plain, _, kind = name.partition(":")
    if preference_in(kind) is not None:
        told = f", preference {kind}"
    else:
        plain, told = (plain, f", {TITLES[kind]}") if kind in TITLES else (name, "")
    return (RIVALS[plain].title if plain in RIVALS else f"Trifocal {plain}") + told


def text_bytes(subject: Subject, file: bytes) -> int:
    """By how many bytes the words in a subject's file make it longer."""
    if not isinstance(subject, PresetSubject) or not subject.sends:
        return 0
    stream = Bitstream.from_bytes(file)
    bare = replace(stream, layers=tuple(layer for layer in stream.layers if layer.tag != Tag.TEXT))
    return stream.size - bare.size
