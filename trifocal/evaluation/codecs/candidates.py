"""What can be measured: our presets, with words and without, whole and by layers, and the rivals."""

from __future__ import annotations

from collections.abc import Container, Sequence
from dataclasses import replace
from functools import partial
from typing import Protocol, TypeVar

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from trifocal.api import Decoder, Encoder
from trifocal.codecs.rate_control import Rate
from trifocal.container import Bitstream, Tag
from trifocal.container.fields import hexadecimal
from trifocal.errors import NotMeasured, OptionError
from trifocal.evaluation.codecs.custom_weights import BUNDLED, Model, Models
from trifocal.evaluation.codecs.layer_ablations import (
    APART,
    BASE,
    SMALL,
    TITLES,
    UNFITTED,
    BaseLayerCandidate,
    DownscaledCandidate,
    SeparateFilesCandidate,
    layered,
)
from trifocal.evaluation.codecs.pillow_codecs import PILLOW_CODECS, pillow_codecs
from trifocal.evaluation.metrics.metric_set import DecodedImage
from trifocal.evaluation.tasks.detectors import resized
from trifocal.evaluation.text_ablation import KINDS, TextKinds
from trifocal.options import DecodeOptions, EncodeOptions
from trifocal.pictures import Picture
from trifocal.presets import all_presets, check_preference, find

__all__ = [
    "Candidate",
    "PresetCandidate",
    "TextCandidate",
    "candidate_of",
    "decoded_image_of",
    "for_picture",
    "is_pillow_codec",
    "text_bytes",
    "title_of",
    "variants",
]


class Candidate(Protocol):
    """What can be measured: a name, the fingerprint of its weights ("" without), and a way to bytes and back."""

    @property
    def name(self) -> str: ...
    @property
    def weights(self) -> str: ...
    def encode(self, picture: Picture, quality: float) -> bytes: ...
    def decode(self, data: bytes) -> NDArray[np.uint8]: ...


class PresetCandidate:
    """One of our own presets. Raises PresetError, WeightsError, when it is made.

    Args:
        model: the preset, or its name for the bundled weights.
        text: what the picture shows; None for no words. A decoder that reads words finds them in the file.
        title: its name in tables, if not the model's.
        preference: for whom files are decoded, 0 for people … 1 for machines; None says nothing.
    """

    def __init__(
        self, model: str | Model, text: str | None = None, title: str = "", preference: float | None = None
    ) -> None:
        model = Model(model) if isinstance(model, str) else model
        self.name, self.preset, self.text = title or model.name, model.preset, text
        preset = find(model.preset)
        check_preference(preset, preference)
        self.codec = model.load()
        self.weights = hexadecimal(self.codec.fingerprint)
        self.sends = text is not None and preset.text_reader == "decoder"
        options = EncodeOptions(text=text, send_text=self.sends)
        self.encoder = Encoder(preset, options, notify=ignore, codec=self.codec)
        self.decoder = Decoder(DecodeOptions(preference=preference), notify=ignore, codec=self.codec)

    def encode(self, picture: Picture, quality: float) -> bytes:
        return self.stream(picture, quality=quality).to_bytes()

    def stream(self, picture: Picture, quality: float | None = None, size: int | None = None) -> Bitstream:
        """At a quality, or at most of so many bytes. Raises RateError."""
        return self.encoder.encode_picture(picture, rate=Rate(quality, max_bytes=size))

    def decode(self, data: bytes) -> NDArray[np.uint8]:
        return self.decoder(data).picture.rgb


class TextCandidate:
    """A preset with words of one kind: `for_picture` makes the subject with those of a picture.

    Raises PresetError, WeightsError, MissingExtra (of the text tower too) and OptionError, when it is made.

    Args:
        name: preset:kind or label:kind, the kind being one of KINDS.
        wording: the words of the pictures.
        models: what labels stand for.
    """

    def __init__(self, name: str, wording: TextKinds, models: Models = BUNDLED) -> None:
        from trifocal.presets import text_encoder_for

        self.name, self.wording = name, wording
        plain, _, self.kind = name.partition(":")
        self.model = models[plain]
        wording.check(self.kind)
        self.weights = PresetCandidate(self.model).weights
        if self.kind != "none":
            text_encoder_for(self.model.preset)

    def for_picture(self, picture: str) -> PresetCandidate:
        """Raises OptionError where the picture has no such words."""
        return PresetCandidate(self.model, self.wording.text(self.kind, picture), self.name)


def ignore(notice: str) -> None:
    """Measurements print no notices about single files."""


Name = TypeVar("Name", bound=str | Candidate)


def variants(
    presets: Sequence[Name],
    text: Sequence[str] = (),
    layers: str | None = None,
    preferences: Sequence[float] = (),
    models: Models = BUNDLED,
) -> list[Name | str]:
    """Each preset as often as it is to be measured: with each of these kinds of words, by these layers, for whom.

    Labels of `models` count as their presets. Raises OptionError where nothing that is to be measured has what is asked for.
    """
    return preferred(worded(layered(presets, layers, models), text, models), preferences, models)


def preferred(
    presets: Sequence[Name], preferences: Sequence[float], models: Models = BUNDLED
) -> list[Name | str]:
    """Each preset that knows a preference once for each of these, as preset:0.5; all others as they are.

    Raises OptionError for one out of 0..1, and where there are some and no preset knows any.
    """
    if not preferences:
        return [*presets]
    able = {preset.name: preset for preset in all_presets() if preset.preference}
    named = models.named(able)
    if not any(preset in named for preset in presets if isinstance(preset, str)):
        raise OptionError(
            f"There are preferences to compare, and no preset to be measured knows any; these do: {', '.join(able)}."
        )
    for preference in preferences:
        check_preference(next(iter(able.values())), preference)
    return each(presets, named, [f"{preference:g}" for preference in preferences])


def worded(presets: Sequence[Name], kinds: Sequence[str], models: Models = BUNDLED) -> list[Name | str]:
    """Each preset that takes words once for each of these kinds, as preset:kind; all others as they are.

    Raises OptionError for a kind that is none of KINDS, and where there are kinds and no preset takes words.
    """
    if not kinds:
        return [*presets]
    strange = [kind for kind in kinds if kind not in KINDS]
    if strange:
        raise OptionError(f"There are no words of the kind {strange[0]!r}; there are: {', '.join(KINDS)}.")
    able = [preset.name for preset in all_presets() if preset.text_reader]
    named = models.named(able)
    if not any(preset in named for preset in presets if isinstance(preset, str)):
        others = f"; these do: {', '.join(able)}" if able else ""
        raise OptionError(
            f"There are kinds of words to compare, and no preset to be measured takes any{others}."
        )
    return each(presets, named, kinds)


def each(presets: Sequence[Name], able: Container[object], kinds: Sequence[str]) -> list[Name | str]:
    """Those that are able once for each of these kinds, as preset:kind; all others as they are."""
    chosen = dict.fromkeys(kinds)
    return [
        name
        for preset in presets
        for name in ([f"{preset}:{kind}" for kind in chosen] if preset in able else [preset])
    ]


def candidate_of(
    name: str, wording: TextKinds | None = None, models: Models = BUNDLED
) -> Candidate | TextCandidate:
    """By name: a rival, a preset, a label, one of the names of `layering`, or with a wording a preset:kind.

    Raises what making it raises, and NotMeasured.
    """
    plain, _, kind = name.partition(":")
    if wording is not None and kind in KINDS:
        return TextCandidate(name, wording, models)
    if kind == SMALL:
        return DownscaledCandidate(_codec_of(plain, models))
    if kind in (BASE, UNFITTED):
        return BaseLayerCandidate(models[plain], kind)
    if kind == APART:
        return SeparateFilesCandidate(models[plain])
    preference = preference_in(kind)
    if preference is None:
        return _codec_of(name, models)
    return PresetCandidate(models[plain], None, name, preference)


def preference_in(kind: str) -> float | None:
    """Of ug-icm-compact:0.5."""
    try:
        return float(kind)
    except ValueError:
        return None


def _codec_of(name: str, models: Models) -> Candidate:
    if name not in PILLOW_CODECS:
        return PresetCandidate(models[name])
    if PILLOW_CODECS[name] not in pillow_codecs():
        raise NotMeasured(
            PILLOW_CODECS[name].title, "nothing here writes it", f"pip install {PILLOW_CODECS[name].package}"
        )
    return PILLOW_CODECS[name]


def for_picture(subject: Candidate | TextCandidate, picture: str) -> Candidate:
    """The subject, with words for this picture where it takes some. Raises OptionError where there are none."""
    return subject.for_picture(picture) if isinstance(subject, TextCandidate) else subject


def decoded_image_of(
    subject: Candidate, data: bytes, decoded: NDArray[np.uint8], original: Picture, name: str
) -> DecodedImage:
    """What became of a picture. What was decoded at another size is brought to the picture's; a detector is not shown that."""
    size = original.width, original.height
    if decoded.shape[1::-1] != size:
        decoded = resized(decoded, size, Image.Resampling.BICUBIC)
    look = (
        partial(subject.look, data, size)
        if isinstance(subject, (BaseLayerCandidate, DownscaledCandidate))
        else None
    )
    return DecodedImage(decoded, original.rgb, name, look)


def is_pillow_codec(name: str) -> bool:
    """Whether somebody else's codec is so named."""
    return name.partition(":")[0] in PILLOW_CODECS


def title_of(name: str, models: Models = BUNDLED) -> str:
    """As tables and legends have it."""
    plain, _, kind = name.partition(":")
    if preference_in(kind) is not None:
        told = f", preference {kind}"
    elif kind in TITLES:
        told = f", {TITLES[kind]}"
    else:
        told = f":{kind}" if kind else ""
    return (PILLOW_CODECS[plain].title if plain in PILLOW_CODECS else models[plain].title) + told


def text_bytes(subject: Candidate, file: bytes) -> int:
    """By how many bytes the words in a subject's file make it longer."""
    if not isinstance(subject, PresetCandidate) or not subject.sends:
        return 0
    stream = Bitstream.from_bytes(file)
    bare = replace(stream, layers=tuple(layer for layer in stream.layers if layer.tag != Tag.TEXT))
    return stream.size - bare.size
