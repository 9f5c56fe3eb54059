"""After `import trifocal.pillow`, Pillow reads and writes .tri files.

    image = Image.open("photo.tri")             # size and mode at once; pixels when they are needed
    image.save("photo.tri", quality=60)         # or bpp=0.25, or size=20_000 (bytes), and preset=NAME
    image.save("photo.tri", preset=NAME, text="a brown dog", send_text=True)  # the last where a decoder reads words

Words that a file carries are in image.info["text"], and a preset that reads words decodes with them. `weights=FILE` names
your own weights for save; open has no way to be told of them.

Errors come as Pillow's own: UnidentifiedImageError from open, OSError from load and save; the sentence is the same.
"""

from contextlib import suppress
from typing import IO

from PIL import Image, ImageFile, UnidentifiedImageError

from trifocal.container import Bitstream, Tag
from trifocal.container.fields import MAGIC
from trifocal.container.text import text_of
from trifocal.errors import FormatError, TrifocalError
from trifocal.pictures import Picture, metadata_from_bytes

OPTIONS = ("quality", "bpp", "size", "text", "send_text", "weights")
INFO_KEYS = {Tag.ICC: "icc_profile", Tag.EXIF: "exif"}


class TriImageFile(ImageFile.ImageFile):
    """An opened .tri file, all of whose bytes are checked and none of whose pixels are decoded."""

    format = "TRI"
    format_description = "Trifocal learned image"
    _stream: Bitstream | None = None

    def _open(self) -> None:
        assert self.fp is not None
        try:
            stream = Bitstream.from_bytes(self.fp.read(), best_effort=ImageFile.LOAD_TRUNCATED_IMAGES)
            self.info |= {key: data for tag, key in INFO_KEYS.items() if (data := metadata_of(stream, tag))}
        except FormatError as error:
            raise UnidentifiedImageError(str(error)) from error
        self._stream = stream
        self._size = stream.header.width, stream.header.height
        self._mode = ("L" if stream.header.grey else "RGB") + ("A" if stream.layer(Tag.ALPHA) else "")
        self.info["quality"] = stream.header.quality
        with suppress(FormatError):  # words that cannot be read matter only to a preset that reads them
            self.info |= {} if (text := text_of(stream)) is None else {"text": text}

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


def metadata_of(stream: Bitstream, tag: Tag) -> bytes | None:
    layer = stream.layer(tag)
    return metadata_from_bytes(layer.chunks[0]) if layer and layer.chunks[0] else None


def save(image: Image.Image, stream: IO[bytes], name: str | bytes) -> None:
    """What image.save calls. EXIF and another ICC profile are kept when they are given, as for Pillow's own formats."""
    from trifocal import encode

    options = image.encoderinfo
    if "icc_profile" in options or "exif" in options:
        image = image.copy()
        image.info["icc_profile"] = options.get("icc_profile", image.info.get("icc_profile"))
        exif = options.get("exif") or b""
        image.info["exif"] = exif.tobytes() if isinstance(exif, Image.Exif) else exif
    said = {key: options[key] for key in OPTIONS if key in options}
    try:
        picture = Picture.from_pil(image, metadata="all" if options.get("exif") else "colour")
        stream.write(encode(picture, options.get("preset"), **said).to_bytes())
    except TrifocalError as error:
        raise OSError(str(error)) from error


Image.register_open(TriImageFile.format, TriImageFile, lambda start: start.startswith(MAGIC))
Image.register_save(TriImageFile.format, save)
Image.register_extension(TriImageFile.format, ".tri")
Image.register_mime(TriImageFile.format, "image/x-trifocal")
