"""The Picture class: 8-bit RGB with alpha and metadata, and its file input and output."""

import io
import os
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass, replace
from importlib import import_module
from pathlib import Path
from typing import IO, Any, Literal

import numpy as np
from numpy.typing import NDArray
from PIL import Image, ImageFile, UnidentifiedImageError

from trifocal.errors import OptionError, PictureError
from trifocal.pictures.invisible import fill_invisible
from trifocal.pictures.limits import check_size, pillow_limit_lifted
from trifocal.pictures.reading import READ_FORMATS, Reading, apply_orientation, read
from trifocal.pictures.writing import format_for, prepare
from trifocal.utils.files import atomic_write

KeepMetadata = Literal["colour", "all"]

POSTSCRIPT = "it seems to be PostScript (EPS), which is not supported; convert it to PNG"
UNREADABLE_FORMATS = (  # offset and bytes of a signature, and the end of a sentence
    (0, b"\xf3TF", "it is a Trifocal file; decode it first"),
    (0, b"\xff\x0a", 'it seems to be JPEG XL; run: pip install "pillow-jxl-plugin"'),
    (0, b"\0\0\0\x0cJXL ", 'it seems to be JPEG XL; run: pip install "pillow-jxl-plugin"'),
    (4, b"ftyphe", 'it seems to be HEIC; run: pip install "pillow-heif"'),
    (4, b"ftypmif1", 'it seems to be HEIC; run: pip install "pillow-heif"'),
    (4, b"ftypavi", "it seems to be AVIF; it is damaged, or this Pillow was built without AVIF support"),
    (4, b"ftyp", "it seems to be a video"),
    (0, b"%PDF", "it seems to be a PDF document"),
    (0, b"%!PS", POSTSCRIPT),
    (0, b"\xc5\xd0\xd3\xc6", POSTSCRIPT),
    (0, b"<svg", "it seems to be an SVG drawing"),
    (0, b"PK\x03\x04", "it seems to be a ZIP archive"),
)


@dataclass(frozen=True, eq=False)
class Picture:
    """An 8-bit image with its metadata.

    Attributes:
        rgb: uint8 [H, W, 3], in the colour space of `icc`, or sRGB if that is None.
        alpha: uint8 [H, W], 0 (transparent) to 255 (opaque), or None if the image is opaque.
        grey: whether the image has one channel; the three channels of `rgb` are then equal.
        icc: an ICC profile.
        exif, xmp: as in a JPEG file, without an orientation, which is applied to the pixels when a file is
            read.
        dpi: pixels per inch, horizontal and vertical, 0.001 to 1,000,000.
        notices: one sentence for each conversion or loss when the image was read.

    Raises:
        PictureError: if a shape or type is wrong, or the image is too large.
    """

    rgb: NDArray[np.uint8]
    alpha: NDArray[np.uint8] | None = None
    grey: bool = False
    icc: bytes | None = None
    exif: bytes | None = None
    xmp: bytes | None = None
    dpi: tuple[float, float] | None = None
    notices: tuple[str, ...] = ()

    def __post_init__(self) -> None:
        shape, dtype = self.rgb.shape, self.rgb.dtype
        if dtype != np.uint8 or len(shape) != 3 or shape[2] != 3:
            raise PictureError(f"The rgb of a Picture must be uint8 [H, W, 3], not {dtype} {list(shape)}.")
        if self.alpha is not None and (self.alpha.dtype != np.uint8 or self.alpha.shape != shape[:2]):
            raise PictureError("The alpha of a Picture must be uint8 [H, W], with the H and W of its rgb.")
        with image_errors("This image", "used"):
            check_size(self.width, self.height)

    def __repr__(self) -> str:
        mode = ("L" if self.grey else "RGB") + ("" if self.alpha is None else "A")
        extras = {"ICC": self.icc, "EXIF": self.exif, "XMP": self.xmp, "DPI": self.dpi}
        kept = "".join(f", {name}" for name, value in extras.items() if value is not None)
        return f"<Picture {self.width}x{self.height} {mode}{kept}>"

    def __array__(self, dtype: Any = None, copy: bool | None = None) -> NDArray[Any]:
        """What `np.asarray(picture)` gives: uint8 [H, W, 3]; [H, W] if grey; with alpha one channel more."""
        pixels: NDArray[Any] = self.rgb[..., 0] if self.grey else self.rgb
        if self.alpha is not None:
            pixels = np.dstack([pixels, self.alpha])
        return np.array(pixels, dtype, copy=copy)

    @property
    def width(self) -> int:
        return int(self.rgb.shape[1])

    @property
    def height(self) -> int:
        return int(self.rgb.shape[0])

    @classmethod
    def from_pil(
        cls,
        image: Image.Image,
        metadata: KeepMetadata = "all",
        keep_invisible: bool = False,
        use_orientation: bool | None = None,
    ) -> "Picture":
        """Convert a Pillow image of any mode; the image itself is not changed.

        Args:
            image: the image.
            metadata: "all" keeps EXIF, XMP, the resolution and the ICC profile; "colour" keeps the profile
                only.
            keep_invisible: keep the colours of fully transparent pixels instead of replacing them.
            use_orientation: whether to apply the EXIF orientation to the pixels. By default, only for an
                image that comes directly from Image.open.

        Raises:
            PictureError: if the image is damaged or cannot be converted to 8 bits.
        """
        with image_errors("This image", "read"):
            use_orientation = (
                isinstance(image, ImageFile.ImageFile) if use_orientation is None else use_orientation
            )
            return cls._from_reading(
                read(image, keeps_all_metadata(metadata), use_orientation, keep_invisible)
            )

    @classmethod
    def open(
        cls,
        source: str | os.PathLike[str] | IO[bytes],
        metadata: KeepMetadata = "all",
        keep_invisible: bool = False,
    ) -> "Picture":
        """Read an image file, or a binary stream of one; see `from_pil` for the arguments.

        Raises:
            PictureError: if the file cannot be read; the message names it.
            OSError: if the file cannot be opened.
        """
        keep = keeps_all_metadata(metadata)
        if isinstance(source, str | os.PathLike):
            with open(source, "rb") as stream:
                return cls.open(stream, metadata, keep_invisible)
        name = getattr(source, "name", None)
        with image_errors(Path(name).name if isinstance(name, str) else "This image", "read"):
            return cls._from_reading(read_file(source, keep, keep_invisible))

    @classmethod
    def _from_reading(cls, reading: Reading) -> "Picture":
        metadata = reading.icc, reading.exif, reading.xmp, reading.dpi
        return cls(reading.rgb, reading.alpha, reading.grey, *metadata, tuple(reading.notices)).oriented(
            reading.orientation
        )

    def fill_invisible(self) -> "Picture":
        """A copy whose fully transparent pixels have a smooth continuation of the visible colours."""
        return self if self.alpha is None else replace(self, rgb=fill_invisible(self.rgb, self.alpha))

    def oriented(self, orientation: int) -> "Picture":
        """A copy with an EXIF orientation, 1..8, applied to the pixels."""
        alpha = None if self.alpha is None else apply_orientation(self.alpha, orientation)
        dpi = self.dpi[::-1] if self.dpi and orientation >= 5 else self.dpi
        return replace(self, rgb=apply_orientation(self.rgb, orientation), alpha=alpha, dpi=dpi)

    def to_pil(self) -> Image.Image:
        """A Pillow image of mode L, LA, RGB or RGBA; its info holds the profile, EXIF, XMP and resolution."""
        image = Image.fromarray(np.ascontiguousarray(self.rgb[..., 0] if self.grey else self.rgb))
        if self.alpha is not None:
            image.putalpha(Image.fromarray(np.ascontiguousarray(self.alpha)))
        metadata = {"icc_profile": self.icc, "exif": self.exif, "xmp": self.xmp, "dpi": self.dpi}
        image.info |= {key: value for key, value in metadata.items() if value is not None}
        return image

    def thumbnail(self, longest: int) -> "Picture":
        """An opaque copy of at most `longest` pixels a side; the picture itself if it is small enough."""
        if max(self.width, self.height) <= longest:
            return self
        image = Image.fromarray(self.rgb)
        image.thumbnail((longest, longest), Image.Resampling.BICUBIC)
        return Picture(np.array(image))

    def save(
        self, target: str | os.PathLike[str] | IO[bytes], format: str | None = None, **options: Any
    ) -> tuple[str, ...]:
        """Write an image file, atomically if it is a path.

        Args:
            target: a path, or a binary stream.
            format: a suffix such as "png"; None for that of the path. A stream needs one.
            **options: for Pillow's writer of this format. Lossy formats have quality 95 by default.

        Returns:
            One sentence for each part of the image that the format cannot store.

        Raises:
            OptionError: for a stream without a format.
            PictureError: if the format is unknown, or the image cannot be written; the message names the
                file.
            OSError: if the file system refuses.
        """
        if isinstance(target, str | os.PathLike):
            name = os.fspath(target) if format is None else f"{Path(target).name}.{format.lstrip('.')}"
            format_for(name)
            with atomic_write(target) as stream:
                return self.write(stream, name, **options)
        if format is None:
            raise OptionError('A stream has no suffix; name the format, such as save(stream, format="png").')
        buffer = io.BytesIO()
        notes = self.write(buffer, f"This image.{format.lstrip('.')}", **options)
        target.write(buffer.getbuffer())
        return notes

    def write(self, stream: IO[bytes], name: str | os.PathLike[str], **options: Any) -> tuple[str, ...]:
        """Write to a seekable stream, in the format of the suffix of `name`; otherwise the same as `save`."""
        target = format_for(name)
        with image_errors(Path(name).name, "written"):
            image, known, notes = prepare(self.to_pil(), target)
            check_writer(target.name)
            image.save(stream, format=target.name, **known | options)
        return notes


def keeps_all_metadata(metadata: str) -> bool:
    """Whether the option `metadata` is "all". Raises OptionError for other values than "colour" and "all"."""
    if metadata not in ("colour", "all"):
        raise OptionError(f'metadata must be "colour" or "all", not {metadata!r}.')
    return metadata == "all"


def read_file(stream: IO[bytes], keep_metadata: bool, keep_invisible: bool) -> Reading:
    """Read an image file; the Pillow image is freed before an orientation is applied, which saves a copy."""
    with pillow_limit_lifted():
        image = open_image(stream)
    return read(image, keep_metadata, True, keep_invisible)


def open_image(stream: IO[bytes]) -> Image.Image:
    """Image.open for READ_FORMATS, with plug-ins if needed.

    Raises PictureError that names the type of the file.
    """
    for register in (Image.preinit, Image.init, register_plug_ins):
        register()
        stream.seek(0)
        with suppress(UnidentifiedImageError):
            return Image.open(stream, formats=[name for name in READ_FORMATS if name in Image.OPEN])
    stream.seek(0)
    raise PictureError(describe_unreadable(stream.read(512)))


def describe_unreadable(start: bytes) -> str:
    """The likely type of a file that Pillow cannot open, as the end of a sentence."""
    if not start:
        return "it is empty"
    for offset, signature, what in UNREADABLE_FORMATS:
        if start[offset : offset + len(signature)] == signature:
            return what
    if start.isascii() and all(chr(byte).isprintable() or chr(byte).isspace() for byte in start):
        return "it seems to be text"
    return "it is damaged, or not an image of a supported format"


def register_plug_ins() -> None:
    """Register the Pillow plug-ins for HEIC and JPEG XL, if they are installed."""
    with suppress(ImportError):
        import_module("pillow_heif").register_heif_opener()
    with suppress(ImportError):
        import_module("pillow_jxl")


def check_writer(name: str) -> None:
    """Raises PictureError if neither Pillow nor a plug-in can write the format of this name."""
    Image.preinit()
    if name not in Image.SAVE:
        register_plug_ins()
        Image.init()
    if name not in Image.SAVE:
        raise PictureError(
            f"this Pillow cannot write {name}; choose another format, or install a plug-in for it"
        )


@contextmanager
def image_errors(name: str, action: str) -> Iterator[None]:
    """Convert what Pillow raises to a PictureError: `name` cannot be `action` ("read", "written" or "used").

    Errors of the file system are not converted.
    """
    try:
        yield
    except PictureError as error:
        raise PictureError(f"{name} cannot be {action}: {error}.") from None
    except MemoryError:
        raise
    except Exception as error:  # damaged files raise almost any exception in Pillow
        if isinstance(error, OSError) and error.errno is not None:
            raise
        raise PictureError(f"{name} cannot be {action}: {describe_error(error)}.") from error


def describe_error(error: Exception) -> str:
    """The cause of an exception of Pillow, as the end of a sentence."""
    message = " ".join(str(error).split())[:200].rstrip(".") or type(error).__name__
    cut = any(word in message.lower() for word in ("truncated", "unexpected end", "eof", "not enough"))
    return f"it is cut short or damaged ({message})" if cut else f"Pillow reports: {message}"
