"""What is in files: through a base layer, in the picture that is decoded from them, or in an ordinary picture itself."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, cast

from trifocal.container import Bitstream, Header, Tag
from trifocal.container.fields import MAGIC
from trifocal.container.parts import read_base
from trifocal.data.categories import CATEGORIES
from trifocal.errors import Damaged, MissingLayer, OptionError
from trifocal.pictures import Picture
from trifocal.pictures.drawing import draw_boxes
from trifocal.presets import preset_of

if TYPE_CHECKING:
    from trifocal.codecs.scalable import ScalableCodec
    from trifocal.detection.detector import Detections

__all__ = ["SURE", "Seen", "base_preview_of", "detect_file", "drawn", "listed"]

SURE = 0.35  # the compact detector's best balance of what is right and what is found, on held-out training pictures


@dataclass(frozen=True)
class Seen:
    """What a detector found in a file of `width` × `height` pixels, of which it took so many bytes.

    `preset` is None for an ordinary picture. `show` gives the picture to draw on.
    """

    width: int
    height: int
    preset: str | None
    read: int
    objects: Detections
    show: Callable[[], Picture]


def detect_file(path: Path, weights: str | None, note: Callable[[str], None]) -> Seen:
    """What is in a file: through its base layer, through the picture that is decoded from it, or in the picture itself.

    Raises:
        MissingLayer: for a file in layers without a base layer.
        TrifocalError: for one that cannot be read, as its codec does.
        OSError: if it is not there.
    """
    if not is_tri(path):
        return detect_in_image(path, weights)
    try:
        base, read = read_base(path)
    except MissingLayer:
        stream = Bitstream.open(path)
        if preset_of(stream.header).layers:
            raise
        return detect_in_decoded(stream, weights, note)
    return detect_in_base(path, base, read, weights)


def is_tri(path: Path) -> bool:
    """By its name, or else its first bytes."""
    if path.suffix.lower() == ".tri":
        return True
    with open(path, "rb") as stream:
        return stream.read(len(MAGIC)) == MAGIC


def detect_in_base(path: Path, base: Bitstream, read: int, weights: str | None) -> Seen:
    """What the base layer of the file at `path` says is in it."""
    codec = layered_codec(base.header, weights)

    def show() -> Picture:
        stream = Bitstream.open(path)
        if stream.layer(Tag.ENHANCEMENT) is None:
            return codec.base_preview(base)
        return codec.decode(stream).picture

    return seen_of(base.header, read, codec.detect(base), show)


def detect_in_decoded(stream: Bitstream, weights: str | None, note: Callable[[str], None]) -> Seen:
    """What is in the picture of a file without layers."""
    from trifocal.codecs.scalable import detect_objects
    from trifocal.presets import load_for
    from trifocal.text_conditioning import for_decoding

    codec = load_for(stream.header, weights=weights)
    picture = codec.decode(stream, condition=for_decoding(stream, note=note)).picture
    note(f"The preset {preset_of(stream.header).name} has no base layer; it was decoded, and then looked at.")
    return seen_of(stream.header, stream.size, detect_objects(picture.fill_invisible()), lambda: picture)


def detect_in_image(path: Path, weights: str | None) -> Seen:
    """What is in an ordinary picture."""
    from trifocal.codecs.scalable import detect_objects

    if weights is not None:
        raise OptionError(f"{path.name} is not a .tri file, for whose preset --weights are; leave them out.")
    picture = Picture.open(path)
    objects = detect_objects(picture)
    return Seen(picture.width, picture.height, None, path.stat().st_size, objects, lambda: picture)


def seen_of(header: Header, read: int, objects: Detections, show: Callable[[], Picture]) -> Seen:
    return Seen(header.width, header.height, preset_of(header).name, read, objects, show)


def layered_codec(header: Header, weights: str | None) -> ScalableCodec:
    """The codec of a file that has a base layer. Raises Damaged where its preset makes none, and as `load_for`."""
    from trifocal.presets import load_for

    if not (preset := preset_of(header)).layers:
        raise Damaged(f"The file is damaged: it has a base layer, and its preset {preset.name} makes none.")
    return cast("ScalableCodec", load_for(header, weights=weights))


def base_preview_of(path: Path, weights: str | None) -> Picture:
    """What the base layer of a file shows. Raises as `detect_file`."""
    base, _ = read_base(path)
    return layered_codec(base.header, weights).base_preview(base)


def listed(objects: Detections, threshold: float = SURE) -> list[dict[str, Any]]:
    """Those that are as sure as `threshold`, the surest first: label, category, score and box of each."""
    found = [
        {
            "label": CATEGORIES.get(category, (f"category {category}",))[0],
            "category": category,
            "score": round(score, 4),
            "box": [round(place, 2) for place in box],
        }
        for box, category, score in zip(
            objects.boxes.tolist(), objects.labels.tolist(), objects.scores.tolist(), strict=True
        )
        if score >= threshold
    ]
    return sorted(found, key=lambda one: -one["score"])


def drawn(picture: Picture, objects: Sequence[dict[str, Any]]) -> Picture:
    """The picture with what `listed` gave on it."""
    names = [f"{one['label']} {one['score']:.2f}" for one in objects]
    return draw_boxes(picture, [one["box"] for one in objects], names, [one["category"] for one in objects])
