"""A picture as the codec takes it and gives it back, and its way from and to files."""

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
from trifocal.pictures.invisible import flattened
from trifocal.pictures.limits import check_size, no_limit_of_pillow
from trifocal.pictures.reading import FORMATS, Reading, read, turned
from trifocal.pictures.writing import fit, format_of
from trifocal.utils.files import atomic_write

Metadata = Literal["colour", "all"]

POSTSCRIPT = "it seems to be PostScript (EPS), which is not opened; convert it to PNG"
STRANGERS = (
    (0, b"\xf3TF", "it is a Trifocal file: decode it first"),
    (0, b"\xff\x0a", 'it seems to be JPEG XL: pip install "pillow-jxl-plugin"'),
    (0, b"\0\0\0\x0cJXL ", 'it seems to be JPEG XL: pip install "pillow-jxl-plugin"'),
    (4, b"ftyphe", 'it seems to be HEIC: pip install "pillow-heif"'),
    (4, b"ftypmif1", 'it seems to be HEIC: pip install "pillow-heif"'),
    (4, b"ftypavi", "it seems to be AVIF that is damaged, or this Pillow was built without it"),
    (4, b"ftyp", "it seems to be a video"),
    (0, b"%PDF", "it seems to be a PDF document"),
    (0, b"%!PS", POSTSCRIPT),
    (0, b"\xc5\xd0\xd3\xc6", POSTSCRIPT),
    (0, b"<svg", "it seems to be an SVG drawing"),
    (0, b"PK\x03\x04", "it seems to be a ZIP archive"),
)


@dataclass(frozen=True, eq=False)
class Picture:
    """What people look at, in 8 bits.

    rgb: uint8 [H, W, 3], sRGB unless `icc` says otherwise; the three channels are equal where `grey`.
    alpha: uint8 [H, W], 0 clear to 255 opaque, or None where all is opaque.
    exif, xmp: as in a JPEG, without an orientation; that of a file is applied to the pixels.
    dpi: pixels per inch, horizontal and vertical, 0.001 to 1,000,000.
    notes: a sentence for each thing that was converted or left out when the picture was read.
    Raises PictureError where shapes and types do not fit, or the picture is too large.
    """

    rgb: NDArray[np.uint8]
    alpha: NDArray[np.uint8] | None = None
    grey: bool = False
    icc: bytes | None = None
    exif: bytes | None = None
    xmp: bytes | None = None
    dpi: tuple[float, float] | None = None
    notes: tuple[str, ...] = ()

    def __post_init__(self) -> None:
        shape, dtype = self.rgb.shape, self.rgb.dtype
        if dtype != np.uint8 or len(shape) != 3 or shape[2] != 3:
            raise PictureError(f"A picture's rgb is uint8 [H, W, 3], not {dtype} {list(shape)}.")
        if self.alpha is not None and (self.alpha.dtype != np.uint8 or self.alpha.shape != shape[:2]):
            raise PictureError("A picture's alpha is uint8 [H, W], with the H and W of its rgb.")
        with errors_about("This picture", "used"):
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
        metadata: Metadata = "all",
        keep_invisible: bool = False,
        turn: bool | None = None,
    ) -> "Picture":
        """Reads an image of any of Pillow's modes, which stays as it is.

        Args:
            image: the image.
            metadata: "all" keeps EXIF, XMP, the resolution and the ICC profile, "colour" the profile alone.
            keep_invisible: keep the colours under alpha 0, instead of a smooth continuation of what is seen.
            turn: whether to turn it as its orientation tag says. If None, only an image that Image.open gave is turned; one that
                was made or turned since is taken as it is.

        Raises PictureError for what is damaged or cannot be an 8-bit picture.
        """
        with errors_about("This image", "read"):
            turn = isinstance(image, ImageFile.ImageFile) if turn is None else turn
            return cls._of(read(image, keeps_all(metadata), turn, keep_invisible))

    @classmethod
    def open(
        cls,
        source: str | os.PathLike[str] | IO[bytes],
        metadata: Metadata = "all",
        keep_invisible: bool = False,
    ) -> "Picture":
        """Reads a file, or a stream of one's bytes; see from_pil.

        Raises PictureError that names the file, and OSError where there is none.
        """
        keep = keeps_all(metadata)
        if isinstance(source, str | os.PathLike):
            with open(source, "rb") as stream:
                return cls.open(stream, metadata, keep_invisible)
        name = getattr(source, "name", None)
        with errors_about(Path(name).name if isinstance(name, str) else "This picture", "read"):
            return cls._of(read_file(source, keep, keep_invisible))

    @classmethod
    def _of(cls, reading: Reading) -> "Picture":
        notes = tuple(reading.notes)
        beside = reading.icc, reading.exif, reading.xmp, reading.dpi
        return cls(reading.rgb, reading.alpha, reading.grey, *beside, notes).turned(reading.orientation)

    def flattened(self) -> "Picture":
        """The same with a smooth continuation of what is seen in the place of the pixels under alpha 0."""
        return self if self.alpha is None else replace(self, rgb=flattened(self.rgb, self.alpha))

    def turned(self, orientation: int) -> "Picture":
        """The same as it should be seen, for EXIF's orientation 1..8."""
        alpha = None if self.alpha is None else turned(self.alpha, orientation)
        dpi = self.dpi[::-1] if self.dpi and orientation >= 5 else self.dpi
        return replace(self, rgb=turned(self.rgb, orientation), alpha=alpha, dpi=dpi)

    def to_pil(self) -> Image.Image:
        """A Pillow image of mode L, LA, RGB or RGBA; ICC profile, EXIF, XMP and the resolution are in its info."""
        image = Image.fromarray(np.ascontiguousarray(self.rgb[..., 0] if self.grey else self.rgb))
        if self.alpha is not None:
            image.putalpha(Image.fromarray(np.ascontiguousarray(self.alpha)))
        beside = {"icc_profile": self.icc, "exif": self.exif, "xmp": self.xmp, "dpi": self.dpi}
        image.info |= {key: value for key, value in beside.items() if value is not None}
        return image

    def thumbnail(self, longest: int) -> "Picture":
        """The opaque pixels, no side longer than that: made smaller if need be, else the picture itself."""
        if max(self.width, self.height) <= longest:
            return self
        image = Image.fromarray(self.rgb)
        image.thumbnail((longest, longest), Image.Resampling.BICUBIC)
        return Picture(np.array(image))

    def save(
        self, target: str | os.PathLike[str] | IO[bytes], format: str | None = None, **options: Any
    ) -> tuple[str, ...]:
        """Write an image file at once or not at all, with Pillow's own options for its format.

        Args:
            target: a path, or a binary stream.
            format: a suffix such as "png"; None for that of the path. A stream needs one.
            options: Pillow's. Lossy formats are written at quality 95 by default.

        Returns:
            A sentence for each thing that the format cannot hold.

        Raises:
            OptionError: for a stream without a format.
            PictureError: if the format is unknown or cannot be written; the message names the file.
            OSError: of the file system.
        """
        if isinstance(target, str | os.PathLike):
            name = os.fspath(target) if format is None else f"{Path(target).name}.{format.lstrip('.')}"
            format_of(name)
            with atomic_write(target) as stream:
                return self.write(stream, name, **options)
        if format is None:
            raise OptionError('A stream has no suffix; name the format, such as save(stream, format="png").')
        buffer = io.BytesIO()
        notes = self.write(buffer, f"This picture.{format.lstrip('.')}", **options)
        target.write(buffer.getbuffer())
        return notes

    def write(self, stream: IO[bytes], name: str | os.PathLike[str], **options: Any) -> tuple[str, ...]:
        """Writes to a seekable stream; `name` has the suffix of the format, and is named in errors. As `save` otherwise."""
        target = format_of(name)
        with errors_about(Path(name).name, "written"):
            image, known, notes = fit(self.to_pil(), target)
            check_writer(target.name)
            image.save(stream, format=target.name, **known | options)
        return notes


def keeps_all(metadata: str) -> bool:
    if metadata not in ("colour", "all"):
        raise OptionError(f'metadata is "colour" or "all", not {metadata!r}.')
    return metadata == "all"


def read_file(stream: IO[bytes], keep: bool, keep_invisible: bool) -> Reading:
    """The image is gone when this returns, so that it and a turned copy never lie in memory together."""
    with no_limit_of_pillow():
        image = open_or_say(stream)
    return read(image, keep, True, keep_invisible)


def open_or_say(stream: IO[bytes]) -> Image.Image:
    """Image.open for FORMATS, with plug-ins where they are needed. Raises PictureError that says what the file seems to be."""
    for register in (Image.preinit, Image.init, use_plug_ins):
        register()
        stream.seek(0)
        with suppress(UnidentifiedImageError):
            return Image.open(stream, formats=[name for name in FORMATS if name in Image.OPEN])
    stream.seek(0)
    raise PictureError(stranger(stream.read(512)))


def stranger(start: bytes) -> str:
    """The end of a sentence: what a file that Pillow does not know looks like."""
    if not start:
        return "it is empty"
    for offset, mark, what in STRANGERS:
        if start[offset : offset + len(mark)] == mark:
            return what
    if start.isascii() and all(chr(byte).isprintable() or chr(byte).isspace() for byte in start):
        return "it seems to be text"
    return "it is damaged, or no picture of a kind that is known here"


def use_plug_ins() -> None:
    """HEIC and JPEG XL are opened by packages of their own, where they are installed."""
    with suppress(ImportError):
        import_module("pillow_heif").register_heif_opener()
    with suppress(ImportError):
        import_module("pillow_jxl")


def check_writer(name: str) -> None:
    """Raises PictureError where neither Pillow nor a plug-in writes the format of this name."""
    Image.preinit()
    if name not in Image.SAVE:
        use_plug_ins()
        Image.init()
    if name not in Image.SAVE:
        raise PictureError(
            f"this Pillow does not write {name}; choose another format, or install a plug-in for it"
        )


@contextmanager
def errors_about(name: str, done: str) -> Iterator[None]:
    """Makes a PictureError with a sentence about `name` of what Pillow raises; errors of the disk stay as they are."""
    try:
        yield
    except PictureError as error:
        raise PictureError(f"{name} cannot be {done}: {error}.") from None
    except MemoryError:
        raise
    except Exception as error:  # Pillow's readers raise nearly anything on damaged bytes
        if isinstance(error, OSError) and error.errno is not None:
            raise
        raise PictureError(f"{name} cannot be {done}: {symptom(error)}.") from error


def symptom(error: Exception) -> str:
    """The end of a sentence, of an exception of Pillow."""
    said = " ".join(str(error).split())[:200].rstrip(".") or type(error).__name__
    cut = any(word in said.lower() for word in ("truncated", "unexpected end", "eof", "not enough"))
    return f"it is cut short or damaged ({said})" if cut else f"Pillow says: {said}"
