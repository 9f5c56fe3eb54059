"""The `Candidate` interface, and its implementation for presets."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import replace
from functools import partial
from typing import Any, Protocol, runtime_checkable

from PIL import Image

from trifocal import presets
from trifocal.api import Decoder, Encoder
from trifocal.codecs.components import ComponentInput
from trifocal.codecs.rate_control import DEFAULT_BASE, BaseLayerOptions, Rate
from trifocal.container import Bitstream, Tag
from trifocal.container.fields import hexadecimal
from trifocal.detection.detections import Detections, Pixels, resize
from trifocal.errors import OptionError, PresetError, WeightsError
from trifocal.evaluation.candidates.variant import Variant
from trifocal.evaluation.metrics.metric_set import DecodedImage
from trifocal.evaluation.metrics.pair import Pair
from trifocal.evaluation.metrics.per_image import Metric
from trifocal.evaluation.text_ablation import TextKinds
from trifocal.options import DecodeOptions, EncodeOptions
from trifocal.pictures import Picture
from trifocal.presets import check_preference, find, text_encoder_for

__all__ = [
    "BestCaptionCandidate",
    "Candidate",
    "LoadedPreset",
    "PerImageCandidate",
    "PresetCandidate",
    "TextCandidate",
    "candidate_for",
    "decoded_image",
    "text_bytes",
]


class Candidate(Protocol):
    """A codec that can be measured.

    `name` is its name in tables, `weights` the fingerprint of its weights in hexadecimal ("" without).
    `encode` returns the bytes of a whole file, `decode` uint8 [H, W, 3].
    """

    @property
    def name(self) -> str: ...
    @property
    def weights(self) -> str: ...
    def encode(self, picture: Picture, quality: float) -> bytes: ...
    def decode(self, data: bytes) -> Pixels: ...


@runtime_checkable
class PerImageCandidate(Protocol):
    """A codec with a setting that depends on the image."""

    @property
    def name(self) -> str: ...
    @property
    def weights(self) -> str: ...
    def for_image(self, name: str) -> Candidate: ...


class LoadedPreset:
    """A preset with its weights. All encoding and decoding of presets in the evaluation goes through this
    class.

    Raises:
        PresetError: for an unknown preset.
        WeightsError: for weights that are missing, damaged or of another network; the message starts with the
            label.
    """

    def __init__(self, variant: Variant) -> None:
        self.preset = find(variant.codec)
        try:
            self.codec: Any = presets.shared_codec(variant.codec, variant.device, variant.weights)
        except (PresetError, WeightsError) as error:
            if not variant.label:
                raise
            raise type(error)(f"{variant.label}: {error}") from error
        self.fingerprint = hexadecimal(self.codec.fingerprint)
        self.sends_text = self.preset.text_used_by == "decoder"
        self._encoder = self._with_options(None)

    def encode(
        self,
        picture: Picture,
        text: str | None = None,
        *,
        rate: Rate | None = None,
        base: BaseLayerOptions = DEFAULT_BASE,
        components: ComponentInput | None = None,
    ) -> Bitstream:
        """Encode an image. Text that the decoder reads is stored in the file."""
        current = self._encoder.options
        if text != current.text or components != current.components:
            self._encoder = self._with_options(text, components)
        return self._encoder.encode_picture(picture, rate=rate, base=base)

    def _with_options(self, text: str | None, components: ComponentInput | None = None) -> Encoder:
        options = EncodeOptions(
            text=text, send_text=text is not None and self.sends_text, components=components
        )
        return Encoder(self.preset, options, notify=ignore, codec=self.codec)

    def decode(self, data: bytes, preference: float | None = None) -> Pixels:
        """A file → uint8 [H, W, 3], with the text that it carries."""
        decoder = Decoder(DecodeOptions(preference=preference), notify=ignore, codec=self.codec)
        return decoder(data).picture.rgb

    def base_preview(self, data: bytes) -> Pixels:
        """The preview that the base layer of a file gives, uint8 [H, W, 3]."""
        return self.codec.base_preview(Bitstream.from_bytes(data)).rgb

    def detect(self, data: bytes) -> Detections:
        """The objects that the detector finds in the base layer of a file."""
        return self.codec.detect(Bitstream.from_bytes(data))


class PresetCandidate:
    """A preset, with the same text for all images.

    Args:
        variant: the preset, its weights and preference.
        text: what the images show; None for no text.

    Raises:
        PresetError, OptionError: for a preference that the preset does not take.
        PresetError, WeightsError: as `LoadedPreset`.
    """

    def __init__(self, variant: Variant, text: str | None = None) -> None:
        self.name, self.text, self.preference = variant.name, text, variant.preference
        check_preference(find(variant.codec), variant.preference)
        self.loaded = LoadedPreset(variant)
        self.weights = self.loaded.fingerprint

    def encode(self, picture: Picture, quality: float) -> bytes:
        return self.loaded.encode(picture, self.text, rate=Rate(quality)).to_bytes()

    def encode_within(self, picture: Picture, size: int) -> bytes:
        """The best file of at most `size` bytes. Raises RateError if there is none."""
        return self.loaded.encode(picture, self.text, rate=Rate(max_bytes=size)).to_bytes()

    def decode(self, data: bytes) -> Pixels:
        return self.loaded.decode(data, self.preference)


class BestCaptionCandidate(PresetCandidate):
    """A preset with the one of several captions whose decoded image is best: an oracle, see `TextKinds`.

    `encode` codes and decodes with each caption, so its time covers all of them. The first of equal ones is
    taken.

    Args:
        variant: the preset, its weights and preference.
        captions: of the image, at least one.
        loss: of a decoded image and its original; lower is better.
    """

    def __init__(self, variant: Variant, captions: Sequence[str], loss: Callable[[Pair], float]) -> None:
        super().__init__(variant)
        self.captions, self.loss = captions, loss

    def encode(self, picture: Picture, quality: float) -> bytes:
        return self._best(picture, Rate(quality))

    def encode_within(self, picture: Picture, size: int) -> bytes:
        return self._best(picture, Rate(max_bytes=size))

    def _best(self, picture: Picture, rate: Rate) -> bytes:
        files = [self.loaded.encode(picture, text, rate=rate).to_bytes() for text in self.captions]
        return min(files, key=lambda file: self.loss(Pair(self.decode(file), picture.rgb)))


class TextCandidate:
    """A preset whose text depends on the image.

    Args:
        variant: a preset with a kind of text.
        texts: the texts of the images.

    Raises:
        OptionError: if no image has text of this kind.
        PresetError, WeightsError, MissingExtra: for the preset, and for its text encoder.
        NotMeasured, MissingExtra: if the metric that chooses the best text cannot be measured.
    """

    def __init__(self, variant: Variant, texts: TextKinds) -> None:
        self.name, self.variant, self.texts = variant.name, variant, texts
        assert variant.text is not None
        texts.check(variant.text)
        self.weights = PresetCandidate(variant).weights
        if variant.text != "none":
            text_encoder_for(variant.codec)
        self.loss = _loss_by(texts.best_by) if variant.text == "best" else None

    def for_image(self, name: str) -> PresetCandidate:
        """The preset with the text of an image. Raises OptionError if the image has no such text."""
        assert self.variant.text is not None
        if self.loss is not None:
            return BestCaptionCandidate(self.variant, self.texts.choices(name), self.loss)
        return PresetCandidate(self.variant, self.texts.text(self.variant.text, name))


def _loss_by(metric: Metric) -> Callable[[Pair], float]:
    """A metric as a number that is lower for a better image. Raises NotMeasured, MissingExtra."""
    measure = metric.load()

    def loss(pair: Pair) -> float:
        value = measure(pair)
        if value is None:
            raise OptionError(f"The best text cannot be chosen by {metric.name}: {metric.missing_reason}.")
        return -metric.scaled(value)

    return loss


def ignore(notice: str) -> None:
    """Discard a notice."""


def candidate_for(candidate: Candidate | PerImageCandidate, image: str) -> Candidate:
    """The candidate with the text or the objects of an image, if it takes them. Raises OptionError if the
    image has no such text.
    """
    return candidate.for_image(image) if isinstance(candidate, PerImageCandidate) else candidate


def decoded_image(
    candidate: Candidate, data: bytes, decoded: Pixels, original: Picture, name: str
) -> DecodedImage:
    """Resize a decoded image to the original's size for metrics; detectors get the image at its decoded
    size.
    """
    size = original.width, original.height
    if decoded.shape[1::-1] != size:
        decoded = resize(decoded, size, Image.Resampling.BICUBIC)
    detect = getattr(candidate, "detect", None)
    find = None if detect is None else partial(detect, data, size)
    return DecodedImage(decoded, original.rgb, name, find)


def text_bytes(candidate: Candidate, file: bytes) -> int:
    """By how many bytes the text in a candidate's file makes it longer."""
    if not isinstance(candidate, PresetCandidate) or not candidate.loaded.sends_text:
        return 0
    stream = Bitstream.from_bytes(file)
    bare = replace(stream, layers=tuple(layer for layer in stream.layers if layer.tag != Tag.TEXT))
    return stream.size - bare.size
