"""Pillow plug-in: after `import trifocal.pillow`, Pillow reads and writes .tri files.

    image = Image.open("photo.tri")             # reads size and mode; pixels are decoded when they are needed
    image.save("photo.tri", quality=60)         # or bpp=0.25, or max_bytes=20_000, and preset=NAME
    image.save("photo.tri", preset=NAME, text="a brown dog", send_text=True)  # if it decodes with text
    image.save("photo.tri", exif=image.getexif(), xmp=PACKET, dpi=(300, 300), keep_invisible=True)

As with Pillow's own formats, EXIF, XMP and dpi are stored only if they are given, and the ICC profile always.
An image that Image.open returned is rotated by its EXIF orientation; one that was made or rotated since is
stored unchanged. An orientation in `exif` is applied to the pixels.

The text of a file is in image.info["text"], and presets whose decoder reads text decode with it.
`weights=FILE` names custom weights for save; Image.open takes none.

Errors are those of Pillow, with Trifocal's messages: UnidentifiedImageError from open, OSError from load and
save. Notices are TrifocalWarnings.
"""

from collections.abc import Iterator
from contextlib import contextmanager, suppress
from dataclasses import replace
from typing import IO, Any

from PIL import Image, ImageFile, UnidentifiedImageError

from trifocal.codecs.metadata_layers import dpi_in, metadata_in
from trifocal.container import Bitstream, Tag
from trifocal.container.fields import MAGIC
from trifocal.container.text import embedded_text
from trifocal.errors import FormatError, TrifocalError
from trifocal.pictures import Picture
from trifocal.pictures.metadata import Metadata, extract_metadata

OPTIONS = (
    "quality",
    "bpp",
    "max_bytes",
    "base_quality",
    "refinement",
    "text",
    "send_text",
    "weights",
    "keep_invisible",
)
INFO_KEYS = {Tag.ICC: "icc_profile", Tag.EXIF: "exif", Tag.XMP: "xmp"}


class TriImageFile(ImageFile.ImageFile):
    """An opened .tri file: all bytes are checked, no pixels are decoded."""

    format = "TRI"
    format_description = "Trifocal learned image"
    _stream: Bitstream | None = None

    def _open(self) -> None:
        assert self.fp is not None
        try:
            stream = Bitstream.from_bytes(self.fp.read(), best_effort=ImageFile.LOAD_TRUNCATED_IMAGES)
            self.info |= {key: data for tag, key in INFO_KEYS.items() if (data := metadata_in(stream, tag))}
            self.info |= {"dpi": dpi} if (dpi := dpi_in(stream)) else {}
        except FormatError as error:
            raise UnidentifiedImageError(str(error)) from error
        self._stream = stream
        self._size = stream.header.width, stream.header.height
        self._mode = ("L" if stream.header.grey else "RGB") + ("A" if stream.layer(Tag.ALPHA) else "")
        self.info["quality"] = stream.header.quality
        with suppress(FormatError):  # damaged text matters only to presets that read it
            self.info |= {} if (text := embedded_text(stream)) is None else {"text": text}

    def load(self) -> "Image.core.PixelAccess | None":
        if self._stream is not None:
            from trifocal import decode

            try:
                decoded = decode(self._stream, best_effort=ImageFile.LOAD_TRUNCATED_IMAGES)
            except TrifocalError as error:
                raise OSError(str(error)) from error
            self.im = decoded.picture.to_pil().im
            self._stream = None
            if self._exclusive_fp and self.fp is not None:
                self.fp.close()
                self.fp = None
        return super().load()


def save(image: Image.Image, stream: IO[bytes], name: str | bytes) -> None:
    """Write an image; image.save calls this."""
    from trifocal import encode

    options = image.encoderinfo
    given = {key: options[key] for key in OPTIONS if key in options}
    try:
        picture = to_picture(image, options)
        encode(picture, options.get("preset"), **given).save(stream)
    except TrifocalError as error:
        raise OSError(str(error)) from error


def to_picture(image: Image.Image, options: dict[str, Any]) -> Picture:
    """The image with the metadata in `options` of image.save, rotated by its own EXIF orientation unless they
    have EXIF.
    """
    given = given_metadata(options)
    own_orientation = isinstance(image, ImageFile.ImageFile) and "exif" not in options
    with given_profile(image, options):
        picture = Picture.from_pil(image, "colour", options.get("keep_invisible", False), own_orientation)
    picture = picture if own_orientation else picture.oriented(given.orientation)
    return replace(picture, exif=given.exif, xmp=given.xmp, dpi=given.dpi)


def given_metadata(options: dict[str, Any]) -> Metadata:
    """EXIF, XMP and resolution in `options` of image.save."""
    carrier = Image.new("L", (1, 1))
    exif = options.get("exif") or b""
    given = {"exif": exif.tobytes() if isinstance(exif, Image.Exif) else exif}
    given |= {key: options[key] for key in ("xmp", "dpi") if key in options}
    carrier.info = {key: value for key, value in given.items() if value}
    return extract_metadata(carrier)


@contextmanager
def given_profile(image: Image.Image, options: dict[str, Any]) -> Iterator[None]:
    """Give the image the ICC profile in `options` of image.save while the block runs."""
    info = image.info
    image.info = info | {key: options[key] for key in ("icc_profile",) if key in options}
    try:
        yield
    finally:
        image.info = info


Image.register_open(TriImageFile.format, TriImageFile, lambda start: start.startswith(MAGIC))
Image.register_save(TriImageFile.format, save)
Image.register_extension(TriImageFile.format, ".tri")
Image.register_mime(TriImageFile.format, "image/x-trifocal")
