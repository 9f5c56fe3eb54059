"""The operations of the server: the bytes of a file and options → the bytes of an answer."""

from __future__ import annotations

import io
import json
from collections.abc import Callable
from contextlib import suppress
from functools import partial
from typing import Any

from trifocal.api import Decoder, Detector, Encoder
from trifocal.codecs.scalable import ScalableCodec
from trifocal.container import Bitstream
from trifocal.container.description import describe_file
from trifocal.errors import OptionError, PresetError
from trifocal.evaluation.candidates.pillow_codecs import PILLOW_CODECS, pillow_codecs
from trifocal.file_detection import json_detections, json_objects
from trifocal.options import DecodeOptions, DetectOptions, EncodeOptions
from trifocal.pictures import Picture
from trifocal.presets import all_presets, preset_for, shared_codec
from trifocal.web.declarations import Answer, Operation, Parameter

__all__ = ["COMPARISONS", "TRI", "operations", "preset_facts"]

TRI = "image/x-trifocal"
MEDIA = {"png": "image/png", "jpg": "image/jpeg", "webp": "image/webp", "avif": "image/avif"}
COMPARISONS = {"avif": "image/avif", "webp": "image/webp", "jpeg": "image/jpeg"}
ESTIMATED = (0, 25, 50, 75, 100)  # qualities
DIGITS = 6  # of a number in a region
MOST_REFINEMENT = 16  # gradient steps
QUALITY = "Trifocal-Quality"

Options = dict[str, Any]
Progress = Callable[[float], None]


def as_json(facts: object, notices: list[str] | None = None) -> Answer:
    return Answer(json.dumps(facts).encode(), "application/json", tuple(notices or ()))


def preset_facts() -> list[dict[str, Any]]:
    """The presets with trained weights, and what each takes."""
    return [
        {
            "name": preset.name,
            "summary": preset.summary,
            "base_layer": preset.has_base_layer,
            "components": preset.has_base_layer or preset.takes_components,
            "preference": preset.takes_preference,
            "text": preset.text_used_by,
        }
        for preset in all_presets()
        if preset.has_weights
    ]


def encode(default: str, body: bytes, options: Options, progress: Progress) -> Answer:
    notices: list[str] = []
    preset = options.pop("preset", default)
    stream = Encoder(preset, EncodeOptions(**options), notify=notices.append)(body, progress=progress)
    return Answer(stream.to_bytes(), TRI, tuple(notices), {QUALITY: f"{stream.header.quality:g}"})


def estimate(default: str, body: bytes, options: Options, progress: Progress) -> Answer:
    codec, picture = shared_codec(options.get("preset", default)), Picture.open(io.BytesIO(body))
    if isinstance(codec, ScalableCodec):
        latents = codec.analyse(picture, refinement=0)
    else:
        latents = codec.analyse(picture)
    sizes = []
    for quality in ESTIMATED:
        progress(0.0)
        sizes.append({"quality": quality, "bytes": codec.encode_latents(latents, quality).size})
    return as_json({"sizes": sizes})


def decode(body: bytes, options: Options, progress: Progress) -> Answer:
    notices: list[str] = []
    suffix, kept = options.pop("format", "png"), options.pop("components", None)
    stream = Bitstream.from_bytes(body, options.get("best_effort", False))
    if kept is not None:
        stream = stream.only(kept)
    decoder = Decoder(DecodeOptions(**options), notify=notices.append)
    picture = decoder(stream, progress=progress).picture
    buffer = io.BytesIO()
    notices += picture.save(buffer, suffix)
    return Answer(buffer.getvalue(), MEDIA[suffix], tuple(notices))


def detect(body: bytes, options: Options, progress: Progress) -> Answer:
    notices: list[str] = []
    found = Detector(DetectOptions(**options), notify=notices.append)(body)
    return as_json(json_detections(found, json_objects(found.objects)), notices)


def info(body: bytes, options: Options, progress: Progress) -> Answer:
    stream = Bitstream.from_bytes(body, best_effort=True)
    name = None
    with suppress(PresetError):
        name = preset_for(stream.header).name
    return as_json({"preset name": name, **describe_file(stream)})


def compare(body: bytes, options: Options, progress: Progress) -> Answer:
    codec = PILLOW_CODECS[options["format"]]
    if codec not in pillow_codecs():
        raise OptionError(f"This installation cannot write {codec.title}; choose another format.")
    picture = Picture.open(io.BytesIO(body), "colour")
    data, quality = codec.encode_within(picture, options["max_bytes"], lambda: progress(0.0))
    return Answer(data, COMPARISONS[codec.name], headers={QUALITY: str(quality)})


def split_labels(text: str) -> list[str]:
    """The labels in a list with commas."""
    return [label for part in text.split(",") if (label := part.strip())]


def parse_region(text: str) -> tuple[int, ...]:
    """x, y, width and height. Raises OptionError."""
    parts = text.split(",")
    if len(parts) != 4 or not all(
        part.isascii() and part.isdecimal() and len(part) <= DIGITS for part in parts
    ):
        raise OptionError(f"{text[:40]!r} is not a region; write it as x,y,width,height in pixels.")
    return tuple(map(int, parts))


def encode_parameters(preset: Parameter) -> tuple[Parameter, ...]:
    """The parameters of `encode`, with the names of `trifocal.encode`."""
    return (
        preset,
        Parameter("quality", float, "0 to 100; 50 if quality, bpp and max_bytes are left out.", 0, 100),
        Parameter("bpp", float, "The largest number of bits of the whole file per pixel.", 0),
        Parameter("max_bytes", int, "The largest size of the whole file.", 1),
        Parameter("text", str, "What the image shows, for presets that take text."),
        Parameter("send_text", bool, "Store the text in the file, for presets whose decoder reads it."),
        Parameter("base_quality", int, "Quality of the base layer, for scalable presets.", 0, 100),
        Parameter(
            "refinement",
            int,
            "Gradient steps that fit the base layer to the image; 4 if left out, and 0 is faster.",
            0,
            MOST_REFINEMENT,
        ),
        Parameter(
            "components",
            str,
            "Objects that get bytes of their own, for scalable presets and discover: labels, words and tasks "
            "with commas between them, such as person,the red hat or detection.",
        ),
        Parameter("metadata", str, "What is kept of the metadata.", choices=("all", "colour")),
        Parameter("keep_invisible", bool, "Keep the colours of fully transparent pixels."),
        Parameter("base_only", bool, "Encode the base layer alone, for scalable presets."),
    )


DECODE = (
    Parameter("format", str, "The format of the image; png if left out.", choices=tuple(MEDIA)),
    Parameter("region", str, "Decode only this part: x,y,width,height in pixels.", convert=parse_region),
    Parameter("best_effort", bool, "Decode what is not damaged; damaged tiles are grey."),
    Parameter("text", str, "What the image shows, for presets whose decoder reads text."),
    Parameter(
        "preference", float, "From 0, for people, to 1, for machines, for presets that take one.", 0, 1
    ),
    Parameter(
        "components",
        str,
        "Decode these components alone: labels with commas between them; empty for none.",
        convert=split_labels,
    ),
    Parameter("base_only", bool, "Decode the coarse preview in the base layer of a scalable file."),
)
DETECT = (Parameter("threshold", float, "The lowest score; 0.35 if left out.", 0, 1),)
COMPARE = (
    Parameter("format", str, "The other format.", choices=tuple(COMPARISONS), required=True),
    Parameter("max_bytes", int, "The largest size of the file.", 1, required=True),
)


def operations(default: str) -> tuple[Operation, ...]:
    """All operations; `default` is the preset of requests that name none."""
    names = tuple(facts["name"] for facts in preset_facts())
    preset = Parameter("preset", str, f"The model; {default} if left out.", choices=names)
    image, tri, json_media = "An image file.", "A .tri file.", ("application/json",)
    quality = {QUALITY: "The quality of the file, on the format's own scale."}
    return (
        Operation(
            "/encode",
            "Encode an image.",
            image,
            tri,
            (TRI,),
            partial(encode, default),
            encode_parameters(preset),
            quality,
        ),
        Operation(
            "/decode", "Decode a .tri file.", tri, "An image file.", tuple(MEDIA.values()), decode, DECODE
        ),
        Operation(
            "/detect",
            "Detect objects. Of a scalable .tri file only the base layer is read.",
            "A .tri file or an image file.",
            "Boxes (x0, y0, x1, y1 in pixels), labels and scores, as `trifocal detect` prints them.",
            json_media,
            detect,
            DETECT,
        ),
        Operation(
            "/info",
            "Describe a .tri file.",
            tri,
            "The header, layers and text, as `trifocal info --json` prints them.",
            json_media,
            info,
        ),
        Operation(
            "/estimate",
            "Estimate the size of the .tri file at several qualities, with an unrefined base layer.",
            image,
            "Quality and bytes of each.",
            json_media,
            partial(estimate, default),
            (preset,),
        ),
        Operation(
            "/compare",
            "Encode an image in another format, at about the highest quality within a size.",
            image,
            "A file of that format; quality 0 may take more bytes.",
            tuple(COMPARISONS.values()),
            compare,
            COMPARE,
            quality,
        ),
    )
