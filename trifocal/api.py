"""Entry points for encoding, decoding and detection, shared by Python, the command line and Pillow.

The command line, the Pillow plug-in, the demo and the evaluation call this module. `encode`, `decode` and
`detect` serve one file; `Encoder`, `Decoder` and `Detector` are built once, which checks their options, and
called for each of many files.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import replace
from os import PathLike
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypeAlias, cast

from trifocal import presets
from trifocal.codecs.components import ComponentInput, GrounderInput
from trifocal.codecs.mask import Mask
from trifocal.codecs.rate_control import BaseLayerOptions, Rate
from trifocal.container import Bitstream, Tag
from trifocal.container.bitstream import FileInput, as_bitstream
from trifocal.container.fields import MAGIC
from trifocal.container.parts import read_base, strip
from trifocal.errors import MissingLayer, OptionError
from trifocal.file_detection import THRESHOLD, FileDetections, filter_and_name, is_tri
from trifocal.options import DecodeOptions, DetectOptions, EncodeOptions, Region, check_quality_only
from trifocal.pictures import Picture
from trifocal.pictures.conversion import ImageInput, as_picture, binary_content
from trifocal.pictures.picture import KeepMetadata
from trifocal.preset_table import DEFAULT, Preset
from trifocal.text_conditioning import TextConditioning, add_choices, decoding_condition
from trifocal.utils.notices import Notify, warn

if TYPE_CHECKING:
    from trifocal.codecs.codec import Codec, Decoded, Progress
    from trifocal.codecs.loading import Engine
    from trifocal.codecs.scalable import ScalableCodec
    from trifocal.detection.detections import Detections

__all__ = [
    "DecodeOptions",
    "Decoder",
    "DetectOptions",
    "Detector",
    "EncodeOptions",
    "Encoder",
    "FileInput",
    "ImageInput",
    "as_bitstream",
    "decode",
    "detect",
    "encode",
]

WeightsPath: TypeAlias = "str | PathLike[str] | None"


class Encoder:
    """Encode images with one preset and the same options. Arguments and errors as for `encode`.

    Args:
        preset: a name or a Preset.
        options: checked here, once.
        device: of torch, such as "cpu" or "cuda".
        engine, weights, notify: as for `encode`.
        codec: a loaded codec of this preset, to use instead of loading one.
    """

    def __init__(
        self,
        preset: str | Preset = DEFAULT,
        options: EncodeOptions | None = None,
        *,
        device: str = "cpu",
        engine: Engine | None = None,
        weights: WeightsPath = None,
        notify: Notify = warn,
        codec: Codec | None = None,
    ) -> None:
        self.preset = presets.find(preset)
        self.options, self.notify = options or EncodeOptions(), notify
        self.options.check(self.preset)
        self.codec = codec or presets.shared_codec(self.preset, device, weights, engine)
        self.conditioning = TextConditioning(self.preset, self.options.send_text, notify)
        self._components = self.options.request and replace(self.options.request, notify=notify).prepare()
        if self.options.text_per_image and self.preset.text_used_by == "encoder":
            presets.text_encoder_for(self.preset)  # fails here and not at each image
        self.conditioning(self.options.text)

    def __call__(
        self, image: ImageInput, *, text: str | None = None, progress: Progress | None = None
    ) -> Bitstream:
        picture = self.read(image)
        # Most photographs have such notes, so they are not issued as warnings.
        if self.notify is not warn and not isinstance(image, Picture):
            for note in picture.notices:
                self.notify(note)
        return self.encode_picture(picture, text=text, progress=progress)

    def read(self, image: ImageInput) -> Picture:
        """The image as it will be encoded. `picture.notices` has what was converted or left out."""
        options = self.options
        picture = as_picture(image, options.metadata, options.keep_invisible)
        return (
            picture.fill_invisible() if isinstance(image, Picture) and not options.keep_invisible else picture
        )

    def encode_picture(
        self,
        picture: Picture,
        *,
        text: str | None = None,
        rate: Rate | None = None,
        base: BaseLayerOptions | None = None,
        progress: Progress | None = None,
        notify: Notify | None = None,
    ) -> Bitstream:
        """Encode a picture that `read` returned. `text`, `rate` and `base` replace those of the options."""
        options = self.options
        if options.base_only:
            return cast("ScalableCodec", self.codec).encode_base(picture, options.rate, options.base)
        condition, layers = self.conditioning(options.text if text is None else text, notify)
        rate, base = rate or options.rate, base or options.base
        components = self._components and replace(self._components, notify=notify or self.notify)
        return self.codec.encode_picture(
            picture, rate, base, condition, layers, progress, mask=options.mask, components=components
        )

    def in_parts(self, image: ImageInput, *, text: str | None = None) -> Iterator[Bitstream]:
        """The base layer as soon as it is coded, and then the enhancement part; `merge` joins them. Raises as
        `encode`, and OptionError for bpp, max_bytes, mask and components.
        """
        presets.check_base_layer(self.preset)
        check_quality_only(self.options, "in_parts")
        condition, layers = self.conditioning(self.options.text if text is None else text)
        codec, options = cast("ScalableCodec", self.codec), self.options
        made = codec.encode_in_parts(self.read(image), options.rate, options.base, condition, layers)
        yield next(made)
        if not options.base_only:
            yield strip(next(made), "enhancement")


class Decoder:
    """Decode files. Options and errors are those of `decode`; other arguments are as for `Encoder`."""

    def __init__(
        self,
        options: DecodeOptions | None = None,
        *,
        device: str = "cpu",
        engine: Engine | None = None,
        weights: WeightsPath = None,
        notify: Notify = warn,
        codec: Codec | None = None,
    ) -> None:
        self.options, self.notify = options or DecodeOptions(), notify
        self.device, self.engine, self.weights, self.codec = device, engine, weights, codec

    def __call__(
        self, source: FileInput, *, progress: Progress | None = None, notify: Notify | None = None
    ) -> Decoded:
        options, notify = self.options, notify or self.notify
        if options.base_only:
            return self._base_preview(source)
        stream = as_bitstream(source, options.best_effort)
        preset = presets.preset_for(stream.header)
        options.check(preset)
        codec = self.codec or presets.load_for(stream.header, self.device, self.weights, self.engine)
        condition = decoding_condition(preset, stream, options.text, options.best_effort, notify)
        condition = add_choices(condition, options.preference, options.compose)
        decoded = codec.decode(stream, options.region, options.best_effort, condition, progress)
        if decoded.missing_notice:
            notify(decoded.missing_notice)
        return decoded

    def _base_preview(self, source: FileInput) -> Decoded:
        from trifocal.codecs.codec import Decoded

        base = read_base(Path(source))[0] if isinstance(source, str | PathLike) else as_bitstream(source)
        codec = presets.scalable_codec(base.header, self.device, self.weights, self.engine)
        return Decoded(codec.base_preview(base))


class Detector:
    """Find objects. Options and errors are those of `detect`; other arguments are as for `Encoder`."""

    def __init__(
        self,
        options: DetectOptions | None = None,
        *,
        device: str = "cpu",
        engine: Engine | None = None,
        weights: WeightsPath = None,
        notify: Notify = warn,
    ) -> None:
        self.options, self.notify = options or DetectOptions(), notify
        self.device, self.weights, self.engine = device, weights, engine

    def __call__(self, source: FileInput | ImageInput, *, notify: Notify | None = None) -> FileDetections:
        found = self._detect(source, notify or self.notify)
        return replace(found, objects=filter_and_name(found.objects, self.options.threshold))

    def _detect(self, source: Any, notify: Notify) -> FileDetections:
        if isinstance(source, str | PathLike):
            return self._detect_in_file(Path(source), notify)
        if callable(getattr(source, "read", None)):
            source = binary_content(source)
        if isinstance(source, bytes | bytearray | memoryview) and bytes(source[: len(MAGIC)]) == MAGIC:
            source = Bitstream.from_bytes(source)
        if isinstance(source, Bitstream):
            return self._detect_in_stream(source, notify)
        size = len(source) if isinstance(source, bytes | bytearray | memoryview) else 0
        return self._detect_in_picture(as_picture(source), "This image", size)

    def _detect_in_file(self, path: Path, notify: Notify) -> FileDetections:
        if not is_tri(path):
            return self._detect_in_picture(as_picture(path), path.name, path.stat().st_size)
        try:
            base, bytes_read = read_base(path)
        except MissingLayer:
            stream = Bitstream.open(path)
            if presets.preset_for(stream.header).has_base_layer:
                raise
            return self._detect_in_stream(stream, notify)
        return self._detect_in_base(base, bytes_read, lambda: Bitstream.open(path))

    def _detect_in_stream(self, stream: Bitstream, notify: Notify) -> FileDetections:
        preset = presets.preset_for(stream.header)
        if preset.has_base_layer or stream.layer(Tag.BASE) is not None:
            return self._detect_in_base(stream, stream.size, lambda: stream)
        decoder = Decoder(device=self.device, engine=self.engine, weights=self.weights, notify=notify)
        picture = decoder(stream).picture
        notify(f"The preset {preset.name} has no base layer; objects were detected in the decoded image.")
        return replace(self._detect_in_pixels(picture, stream.size), preset_name=preset.name)

    def _detect_in_base(self, base: Bitstream, bytes_read: int, open_file: Any) -> FileDetections:
        header = base.header
        codec = presets.scalable_codec(header, self.device, self.weights, self.engine)

        def render() -> Picture:
            stream = open_file()
            whole = stream.layer(Tag.ENHANCEMENT) is not None
            return codec.decode(stream).picture if whole else codec.base_preview(base)

        preset = presets.preset_for(header).name
        return FileDetections(header.width, header.height, preset, bytes_read, codec.detect(base), render)

    def _detect_in_picture(self, picture: Picture, name: str, bytes_read: int) -> FileDetections:
        if self.weights is not None:
            raise OptionError(
                f"{name} is not a .tri file, so it needs no weights; leave them (--weights) out."
            )
        return self._detect_in_pixels(picture, bytes_read)

    def _detect_in_pixels(self, picture: Picture, bytes_read: int) -> FileDetections:
        from trifocal.codecs.scalable import detect_objects

        objects = detect_objects(picture.fill_invisible(), engine=self.engine, device=self.device)
        return FileDetections(picture.width, picture.height, None, bytes_read, objects, lambda: picture)


def encode(
    image: ImageInput,
    preset: str | Preset | None = None,
    *,
    quality: float | None = None,
    bpp: float | None = None,
    max_bytes: int | None = None,
    text: str | None = None,
    send_text: bool = False,
    base_quality: int | None = None,
    refinement: int | None = None,
    mask: Mask | None = None,
    components: ComponentInput | None = None,
    grounder: GrounderInput | None = None,
    metadata: KeepMetadata = "all",
    keep_invisible: bool = False,
    base_only: bool = False,
    engine: Engine | None = None,
    weights: WeightsPath = None,
    notify: Notify = warn,
) -> Bitstream:
    """Encode an image.

    Args:
        image: a path, the bytes of an image file or a binary stream of them; a Picture; a Pillow image; a
            NumPy array [H, W], [H, W, 1], [H, W, 3] or [H, W, 4]; a torch tensor [C, H, W]. Arrays and
            tensors are uint8, or floating-point in 0..1. A Pillow image is rotated by its EXIF orientation
            only if it comes from `Image.open`.
        preset: a name that `trifocal presets` lists, or a Preset; dual-layer-compact if None.
        quality: 0..100; 50 if none of quality, bpp and max_bytes is given. At most one of the three.
        bpp: the largest number of bits of the whole file per pixel.
        max_bytes: the largest size of the whole file.
        text: what the image shows, for presets that take text.
        send_text: store the text in the file, for presets whose decoder reads it.
        base_quality: 0..100, of the base layer, for scalable presets; by default at most 20.
        refinement: steps that bring the detector's outputs closer to those on the image; None: the preset's.
        mask: where the image matters, for presets with an importance map (`taco-compact`,
            `dual-layer-compact`): [H, W], or an image of that size; bool, float in 0..1, or uint8. Positions
            with 1 get a larger share of the bits; at equal quality the file can become smaller.
        components: objects that get bytes of their own, for scalable presets and discover: labels, words or
            tasks ("person,the red hat", "detection"), or a sequence of them and of `trifocal.Component`.
        grounder: finds the components: "compact" (None), "grounding-dino" or a `Grounder`.
        metadata: "all" keeps EXIF, XMP, the resolution and the ICC profile, "colour" the profile alone.
        keep_invisible: keep the colours under alpha 0, instead of a smooth continuation of what is visible.
        base_only: encode the base layer alone, for scalable presets. To add the rest later, encode the image
            again without this option, and merge that file's enhancement part (`container.parts.strip`).
        engine: "onnx", which needs no torch, or "torch"; by default ONNX for the compact presets.
        weights: a .safetensors file instead of the preset's own weights.
        notify: called with each notice, also about reading the image. By default, notices are
            TrifocalWarnings, except those about reading, which are only in `Picture.notices`.

    Raises:
        PictureError: for an image that cannot be read; the message says what is accepted.
        OptionError, PresetError: for options that are out of range, or that the preset does not use.
        RateError: if quality 0 is larger than bpp or max_bytes allow.
        WeightsError, MissingExtra: if weights or packages are missing.
        OSError: for a path that cannot be opened.
    """
    options = EncodeOptions(
        quality=quality,
        bpp=bpp,
        max_bytes=max_bytes,
        text=text,
        send_text=send_text,
        base_quality=base_quality,
        refinement=refinement,
        mask=mask,
        components=components,
        grounder=grounder,
        metadata=metadata,
        keep_invisible=keep_invisible,
        base_only=base_only,
    )
    return Encoder(preset or DEFAULT, options, engine=engine, weights=weights, notify=notify)(image)


def decode(
    source: FileInput,
    *,
    region: Region | None = None,
    best_effort: bool = False,
    text: str | None = None,
    preference: float | None = None,
    compose: bool = False,
    engine: Engine | None = None,
    weights: WeightsPath = None,
    notify: Notify = warn,
) -> Decoded:
    """Decode a .tri file. The result has `.picture`; `.damaged`, the indices of damaged tiles; and
    `.missing`, the labels of components that the file lacks.

    Args:
        source: a path, the bytes of a file, a binary stream, or a Bitstream.
        region: x, y, width and height in pixels; the whole image if None.
        best_effort: fill damaged tiles with grey instead of raising an error; damaged components count as
            missing.
        text: what the image shows, for presets whose decoder reads text; instead of the text in the file.
        preference: from 0, for people, to 1, for machines, for presets whose decoder takes one; 0 if None.
        compose: invent detail where a partial file lacks components (dual-layer-compact).
        engine: as for `encode`.
        weights: a .safetensors file, or a folder of them to search, instead of the bundled weights.
        notify: called with a sentence for each notice; by default each is issued as a TrifocalWarning.

    Raises:
        FormatError: for a file that cannot be read.
        OptionError, PresetError: for options that are out of range, or that the file's preset has no use for.
        WeightsError, MissingExtra: if weights or packages are missing.
        OSError: for a path that cannot be opened.
    """
    options = DecodeOptions(region, best_effort, text, preference, compose=compose)
    return Decoder(options, engine=engine, weights=weights, notify=notify)(source)


def detect(
    source: FileInput | ImageInput,
    *,
    threshold: float = THRESHOLD,
    engine: Engine | None = None,
    weights: WeightsPath = None,
    notify: Notify = warn,
) -> Detections:
    """Find objects: `.boxes` [N, 4] in pixels, `.labels` (COCO category ids), `.scores` and `.names`, the
    highest score first.

    Of a scalable .tri file only the base layer is read. Other .tri files are decoded first.

    Args:
        source: a .tri file as for `decode`, or an image as for `encode`.
        threshold: the lowest score, 0..1. The detector returns no scores below 0.02.
        engine: as for `encode`.
        weights: as for `decode`, for .tri files.
        notify: called with a sentence for each notice; by default each is issued as a TrifocalWarning.

    Raises:
        MissingLayer: for a file of a scalable preset from which the base layer was removed.
        FormatError, PictureError: for a file that cannot be read.
        OptionError, PresetError, WeightsError, OSError: as for `decode`.
    """
    return Detector(DetectOptions(threshold), engine=engine, weights=weights, notify=notify)(source).objects
