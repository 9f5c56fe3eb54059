"""Trifocal, a learned image codec. The front door: everything here loads on first use, so `import trifocal` is instant.

    codec = trifocal.load()
    stream = codec.encode(trifocal.Picture.open("photo.jpg"), quality=60)
    stream.save("photo.tri")
    codec.decode(trifocal.Bitstream.open("photo.tri")).picture.save("photo.png")

or in one line each: `trifocal.encode("photo.jpg", bpp=0.25).save("photo.tri")` and
`trifocal.decode("photo.tri").picture.save("photo.png")`.
"""

import os
from importlib import import_module
from os import PathLike
from typing import TYPE_CHECKING, Any, TypeAlias

if TYPE_CHECKING:
    from collections.abc import Callable

    import numpy as np
    import PIL.Image
    from numpy.typing import NDArray

    from trifocal import errors as errors
    from trifocal import presets as presets
    from trifocal.codecs.codec import Decoded as Decoded
    from trifocal.container import Bitstream as Bitstream
    from trifocal.detection.detector import Detections as Detections
    from trifocal.errors import TrifocalError as TrifocalError
    from trifocal.pictures import Picture as Picture
    from trifocal.pictures.picture import KeepMetadata
    from trifocal.presets import load as load
    from trifocal.utils.limits import limit_pixels as limit_pixels

    Pictured: TypeAlias = Picture | PIL.Image.Image | NDArray[np.uint8] | str | PathLike[str]
    Source: TypeAlias = Bitstream | bytes | str | PathLike[str]

os.environ.setdefault("OMP_WAIT_POLICY", "PASSIVE")  # benchmarks/busy.py

__all__ = [
    "Bitstream",
    "Decoded",
    "Detections",
    "Picture",
    "TrifocalError",
    "decode",
    "detect",
    "encode",
    "errors",
    "limit_pixels",
    "load",
    "presets",
]

_HOME = {
    "Bitstream": "container",
    "Decoded": "codecs.codec",
    "Detections": "detection.detector",
    "Picture": "pictures",
    "TrifocalError": "errors",
    "errors": "",
    "limit_pixels": "utils.limits",
    "load": "presets",
    "presets": "",
}


def __getattr__(name: str) -> Any:
    if name not in _HOME:
        raise AttributeError(f"module 'trifocal' has no attribute {name!r}")
    module = import_module(f"trifocal.{_HOME[name] or name}")
    return getattr(module, name) if _HOME[name] else module


def __dir__() -> list[str]:
    return sorted(set(globals()) | set(__all__))


def encode(
    image: "Pictured",
    preset: str | None = None,
    *,
    quality: float | None = None,
    bpp: float | None = None,
    size: int | None = None,
    text: str | None = None,
    send_text: bool = False,
    base_quality: int | None = None,
    refinement: int | None = None,
    metadata: "KeepMetadata" = "all",
    keep_invisible: bool = False,
    weights: "str | PathLike[str] | None" = None,
    note: "Callable[[str], None] | None" = None,
) -> "Bitstream":
    """A picture (a Picture, a Pillow image, a uint8 array [H, W] or [H, W, 3 or 4], or a path) becomes a Bitstream.

    `preset` is one of `trifocal presets`; dual-layer-compact if None. At most one of `quality` (0..100, 50 if none is given),
    `bpp` (bits per pixel) and `size` (bytes of the whole file).
    `base_quality` (0..100) is that of the layer for detectors, for presets that have one; half of `quality`, 20 at most, if not given.
    `refinement` is the number of steps that fit that layer to the picture: 4 for dual-layer-compact if not given, 0 is faster.
    `text` says what the picture shows, for presets that take words; `send_text` puts it into the file, for their decoder.
    `metadata` "all" keeps EXIF, XMP, the resolution and the ICC profile, "colour" the profile alone. Pixels under alpha 0 get a smooth
    continuation of what is seen, unless `keep_invisible`. A Pillow image is turned by its EXIF only if Image.open gave it.
    `weights` is a .safetensors file of your own training. `note` is called with a sentence for what is done otherwise
    than one may think. Raises PictureError, PresetError, WeightsError, MissingExtra, OptionError, RateError, and OSError
    for a path.
    """
    import trifocal.presets
    from trifocal.text_conditioning import for_encoding

    preset = preset or trifocal.presets.DEFAULT
    codec = trifocal.presets.shared_codec(preset, weights=weights)
    condition, layers = for_encoding(preset, text, send_text, note)
    options: dict[str, Any] = trifocal.presets.base_layer_options(
        trifocal.presets.find(preset), base_quality=base_quality, refinement=refinement
    )
    picture = _picture(image, metadata, keep_invisible)
    return codec.encode(
        picture, quality=quality, bpp=bpp, size=size, condition=condition, layers=layers, **options
    )


def decode(
    source: "Source",
    *,
    region: tuple[int, int, int, int] | None = None,
    best_effort: bool = False,
    text: str | None = None,
    preference: float | None = None,
    weights: "str | PathLike[str] | None" = None,
    note: "Callable[[str], None] | None" = None,
) -> "Decoded":
    """A Bitstream, the bytes of a .tri file, or a path becomes Decoded: `.picture`, and `.damaged` tile numbers.

    `region` is x, y, width, height in pixels. `text` says what the picture shows, for presets whose decoder reads words, in
    the place of words that the file carries; without either it decodes too. `preference` says for whom, 0 for people (as if it is None) … 1
    for machines, for presets whose decoder knows it. `weights` and `note` are those of `encode`.
    Raises FormatError, PresetError, WeightsError, MissingExtra, OptionError, and OSError for a path.
    """
    import trifocal.presets
    from trifocal.container import Bitstream
    from trifocal.text_conditioning import for_decoding

    if isinstance(source, bytes):
        source = Bitstream.from_bytes(source, best_effort=best_effort)
    elif not isinstance(source, Bitstream):
        source = Bitstream.open(source, best_effort=best_effort)
    codec = trifocal.presets.load_for(source.header, weights=weights)
    condition = for_decoding(source, text, best_effort, note)
    preset = trifocal.presets.preset_of(source.header)
    condition = trifocal.presets.with_preference(preset, condition, preference)
    return codec.decode(source, region=region, best_effort=best_effort, condition=condition)


def detect(
    source: "str | PathLike[str]",
    *,
    weights: "str | PathLike[str] | None" = None,
    note: "Callable[[str], None] | None" = None,
) -> "Detections":
    """The objects in a .tri file or an ordinary picture: `.boxes` [N, 4] in its pixels, `.labels` (COCO's category ids), `.scores`.

    Of a file in layers only the base layer is read; others are decoded first. `weights` and `note` are those of `encode`.
    Raises FormatError (MissingLayer where the base layer is not there), PictureError, PresetError, WeightsError and OSError.
    """
    from pathlib import Path

    from trifocal.file_detection import detect_file

    return detect_file(
        Path(source), None if weights is None else str(weights), note or (lambda said: None)
    ).objects


def _picture(image: "Pictured", metadata: "KeepMetadata", keep_invisible: bool) -> "Picture":
    from dataclasses import replace

    import PIL.Image

    from trifocal.pictures import Picture
    from trifocal.pictures.picture import keeps_all_metadata

    if isinstance(image, Picture):
        image = image if keeps_all_metadata(metadata) else replace(image, exif=None, xmp=None, dpi=None)
        return image if keep_invisible else image.fill_invisible()
    if isinstance(image, (str, PathLike)):
        return Picture.open(image, metadata, keep_invisible)
    if not isinstance(image, PIL.Image.Image):
        image = PIL.Image.fromarray(image)
    return Picture.from_pil(image, metadata, keep_invisible)
