"""The rivals that people would pick instead, through Pillow: real bytes, and what a viewer makes of them."""

import io
from collections.abc import Mapping
from dataclasses import dataclass, field

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from trifocal.errors import OptionError, PictureError
from trifocal.pictures import Picture
from trifocal.pictures.picture import register_plug_ins

__all__ = ["LOSSLESS", "PILLOW_CODECS", "PillowCodec", "pillow_codecs"]


LOSSLESS = "png"


@dataclass(frozen=True)
class PillowCodec:
    """A format of Pillow with the options that it is measured with; `quality` is the format's own 0..100.

    PNG has no qualities: it stands for the pictures themselves.

    Attributes:
        name: of the command line and of tables.
        format: Pillow's name of the format.
        title: for tables and legends.
        options: of Pillow's writer.
        weights: always empty; presets have a fingerprint here.
        package: what pip installs to have it.
        qualities: those of the published tables, about 0.1 to 2.5 bits per pixel on Kodak.
        slower: whether it is a slower setting of another rival, which `trifocal demo` leaves out.
    """

    name: str
    format: str
    title: str
    options: Mapping[str, object] = field(default_factory=dict)
    weights: str = ""
    package: str = "--upgrade pillow"
    qualities: tuple[float, ...] = ()
    slower: bool = False

    def encode(self, picture: Picture, quality: float, **options: object) -> bytes:
        """The bytes of a whole file, with more options of Pillow's if any are given.

        Raises PictureError, and OptionError where quality is no whole number.
        """
        if quality != int(quality):
            raise OptionError(f"{self.title} takes whole qualities, not {quality:g}.")
        stream = io.BytesIO()
        try:
            picture.to_pil().save(stream, self.format, quality=int(quality), **{**self.options, **options})
        except (OSError, ValueError) as error:
            raise PictureError(f"{self.title} cannot hold this picture: {error}.") from error
        return stream.getvalue()

    def decode(self, data: bytes) -> NDArray[np.uint8]:
        """uint8 [H, W, 3]."""
        with Image.open(io.BytesIO(data), formats=[self.format]) as image:
            return np.asarray(image.convert("RGB"))


AVIF_QUALITIES = (10, 20, 30, 40, 50, 62, 75, 86)
AVIF_444 = {"speed": 4, "subsampling": "4:4:4", "advanced": {"tune": "ssimulacra2"}}
EVEN = (10, 20, 30, 40, 50, 60, 70, 80)

PILLOW_CODECS = {
    rival.name: rival
    for rival in (
        PillowCodec("avif", "AVIF", "AVIF (Pillow, speed 4)", {"speed": 4}, qualities=AVIF_QUALITIES),
        PillowCodec(
            "avif-444",
            "AVIF",
            "AVIF (Pillow, speed 4, 4:4:4, tune=ssimulacra2)",
            AVIF_444,
            qualities=EVEN,
            slower=True,
        ),
        PillowCodec(
            "avif-slow", "AVIF", "AVIF (Pillow, speed 0)", {"speed": 0}, qualities=AVIF_QUALITIES, slower=True
        ),
        PillowCodec(
            "webp",
            "WEBP",
            "WebP (Pillow, method 6)",
            {"method": 6},
            qualities=(5, 15, 30, 50, 70, 82, 90, 95),
        ),
        PillowCodec(
            "jpeg",
            "JPEG",
            "JPEG (Pillow, progressive, 4:2:0)",
            {"progressive": True, "optimize": True},
            qualities=(8, 15, 25, 40, 60, 78, 88, 94),
        ),
        PillowCodec(
            "jxl",
            "JXL",
            "JPEG XL (pillow-jxl, effort 7)",
            {"effort": 7},
            package="pillow-jxl-plugin",
            qualities=(10, 25, 40, 55, 70, 80, 88, 93),
        ),
        PillowCodec(LOSSLESS, "PNG", "the original (PNG)"),
        PillowCodec("heic", "HEIF", "HEIC (pillow-heif, x265)", package="pillow-heif", qualities=EVEN),
    )
}


def pillow_codecs() -> tuple[PillowCodec, ...]:
    """Those of RIVALS that Pillow and the plug-ins at hand can write."""
    Image.init()
    register_plug_ins()
    return tuple(rival for rival in PILLOW_CODECS.values() if rival.format in Image.SAVE)
