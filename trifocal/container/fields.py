"""The header of a .tri file: one list of fields to read, write, check and print."""

from collections.abc import Callable
from dataclasses import dataclass
from enum import IntEnum
from functools import partial

from trifocal.errors import Damaged, FormatError, NotTrifocal, OptionError, Truncated, Unsupported
from trifocal.types import LEVELS_PER_QUALITY
from trifocal.utils.limits import max_pixels as current_pixel_limit

MAGIC = b"\xf3TF"
VERSIONS = (1, 2)  # format versions that can be read
VERSION = 2  # written by default; a file that was read keeps its version
MAX_SIDE = 1 << 16  # pixels
MAX_LAYERS = 32
MAX_CHUNKS = 1 << 16  # per layer
VARINT_BYTES = 5


class Tag(IntEnum):
    """Types of layers.

    A reader must know a tag below 128 to read the file; it may skip unknown tags from 128 on.
    """

    LATENT = 1
    BASE = 2
    ENHANCEMENT = 3
    COMPONENTS = 4
    SEED = 5
    ALPHA = 128
    ICC = 129
    EXIF = 130
    TEXT = 131
    PART = 132
    XMP = 133
    DPI = 134


TILED_TAGS = (Tag.LATENT, Tag.ENHANCEMENT)  # one chunk per tile
CODED_TAGS = (Tag.LATENT, Tag.BASE, Tag.ENHANCEMENT)  # coded image data; every file has at least one of them
FIRST_OPTIONAL_TAG = 128
LAST_TAG = 255


class ByteReader:
    """Reads integers from the start of `data`; error messages begin with `name`, the name of the file."""

    def __init__(self, data: bytes, name: str) -> None:
        self.data = data
        self.name = name
        self.at = 0

    @property
    def left(self) -> int:
        return len(self.data) - self.at

    def take(self, count: int) -> bytes:
        """The next `count` bytes. Raises Truncated if fewer are left."""
        if count > self.left:
            raise Truncated(
                f"{self.name} is cut short: it ends after {len(self.data)} bytes, within its header."
            )
        self.at += count
        return self.data[self.at - count : self.at]

    def number(self, count: int) -> int:
        """A big-endian unsigned integer of `count` bytes."""
        return int.from_bytes(self.take(count), "big")

    def varint(self) -> int:
        """An unsigned LEB128 integer of at most VARINT_BYTES bytes.

        Raises Damaged if it is not in its shortest form.
        """
        value = 0
        for index in range(VARINT_BYTES):
            byte = self.number(1)
            value |= (byte & 127) << 7 * index
            if byte < 128:
                if byte == 0 and index > 0:
                    break
                return value
        raise Damaged(f"{self.name} is damaged: a number in its header is not in its shortest form.")


def varint(value: int) -> bytes:
    """Unsigned LEB128, the inverse of ByteReader.varint; 0 <= value < 2**35."""
    out = bytearray()
    while value > 127:
        out.append(value & 127 | 128)
        value >>= 7
    out.append(value)
    return bytes(out)


@dataclass(frozen=True)
class Field:
    """One integer of the header, low..high: `bits` wide, or a varint of `value - low` if bits is 0."""

    name: str
    bits: int
    low: int
    high: int
    error_class: type[FormatError] = Damaged
    show: Callable[[int], object] = int

    def check(self, value: int, file_name: str) -> None:
        if self.low <= value <= self.high:
            return
        allowed = str(self.low) if self.low == self.high else f"{self.low} to {self.high}"
        facts = f"its header has {self.name} {value}, but this version of Trifocal supports {allowed}"
        if self.error_class is Unsupported:
            raise Unsupported(
                f"{file_name} cannot be read: {facts}; update Trifocal, or check that the file is not"
                " damaged."
            )
        raise self.error_class(f"{file_name} is damaged: {facts}.")


def hexadecimal(fingerprint: int, version: int = VERSION) -> str:
    """A fingerprint of weights in hexadecimal: 4 digits in version 1, 8 in version 2."""
    return f"{fingerprint:0{4 * version}x}"


def header_fields(version: int) -> tuple[Field, ...]:
    """The fields that follow the magic bytes, in file order."""
    fingerprint_bits = 16 * version
    return (
        Field("version", VERSION_BITS, VERSIONS[0], VERSIONS[-1], Unsupported),
        Field("reserved flag", 1, 0, 0, Unsupported),
        Field("partial", 1, 0, 1, show=bool),
        Field("short", 1, 0, 1, show=bool),
        Field("grey", 1, 0, 1, show=bool),
        Field("preset", 6, 1, 62, Unsupported),
        Field("level", 10, 0, 100 * LEVELS_PER_QUALITY),
        Field(
            "fingerprint",
            fingerprint_bits,
            0,
            (1 << fingerprint_bits) - 1,
            show=partial(hexadecimal, version=version),
        ),
        Field("width", 0, 1, MAX_SIDE),
        Field("height", 0, 1, MAX_SIDE),
    )


VERSION_BITS = 4
FIELDS = {version: header_fields(version) for version in VERSIONS}


@dataclass(frozen=True)
class Header:
    """The header of a .tri file.

    Attributes:
        width, height: in pixels, 1..65536.
        preset_id: of the preset that wrote the file, 1..62.
        level: quality times 8, 0..800.
        fingerprint: of the preset's weights, 16 bits in version 1 and 32 bits in version 2.
        grey: whether the image has one channel.
        version: of the file format, 1 or 2.

    Raises:
        OptionError: if a value is out of its range.
    """

    width: int
    height: int
    preset_id: int
    level: int
    fingerprint: int
    grey: bool = False
    version: int = VERSION

    def __post_init__(self) -> None:
        if self.version not in FIELDS:
            raise OptionError(f"The header field 'version' must be 1 or 2, not {self.version}.")
        values = field_values(self)
        for field in FIELDS[self.version]:
            if field.name in values and not field.low <= values[field.name] <= field.high:
                raise OptionError(
                    f"The header field {field.name!r} must be {field.low} to {field.high}, not"
                    f" {values[field.name]}."
                )

    @property
    def fingerprint_hex(self) -> str:
        """The fingerprint in hexadecimal."""
        return hexadecimal(self.fingerprint, self.version)

    @property
    def quality(self) -> float:
        """Quality, 0..100 in steps of 1/8."""
        return self.level / LEVELS_PER_QUALITY

    def check_pixels(self, max_pixels: int | None = None, name: str = "This file") -> None:
        """Check the size of the image before memory is allocated for its pixels.

        Args:
            max_pixels: the limit; by default the one that `trifocal.limit_pixels` sets.
            name: the name of the file, for the message.

        Raises:
            Unsupported: if the image has more pixels.
        """
        max_pixels = current_pixel_limit() if max_pixels is None else max_pixels
        pixels = self.width * self.height
        if pixels > max_pixels:
            raise Unsupported(
                f"{name} holds an image of {self.width} x {self.height} = {pixels / 1e6:.0f} megapixels,"
                " above the"
                f" limit of {max_pixels / 1e6:.0f}; if you trust the file, raise the limit with"
                " --max-pixels, or with trifocal.limit_pixels in Python."
            )


def write_header(header: Header, short: bool, partial: bool = False) -> bytes:
    """The magic bytes and the fields; `short` selects the short form instead of the long form, and `partial`
    marks a file that lacks chunks of its table.
    """
    values = field_values(header) | {"reserved flag": 0, "partial": partial, "short": short}
    word, bits = 0, 0
    tail = b""
    for field in FIELDS[header.version]:
        if field.bits:
            word, bits = word << field.bits | int(values[field.name]), bits + field.bits
        else:
            tail += varint(values[field.name] - field.low)
    return MAGIC + word.to_bytes(bits // 8, "big") + tail


def read_header(reader: ByteReader) -> tuple[Header, bool, bool]:
    """The header, whether the short form follows, and whether the file is partial. Raises FormatError."""
    check_magic(reader.data, reader.name)
    reader.take(len(MAGIC))
    word = reader.number(1)
    version, left = word >> 8 - VERSION_BITS, 8
    fields = FIELDS.get(version, FIELDS[VERSION])
    fields[0].check(version, reader.name)
    values: dict[str, int] = {}
    for field in fields:
        while left < field.bits:
            word, left = word << 8 | reader.number(1), left + 8
        left -= field.bits
        value = word >> left & (1 << field.bits) - 1 if field.bits else reader.varint() + field.low
        field.check(value, reader.name)
        values[field.name] = value
    header = Header(
        values["width"],
        values["height"],
        values["preset"],
        values["level"],
        values["fingerprint"],
        bool(values["grey"]),
        version,
    )
    if values["short"] and values["partial"]:
        raise Damaged(f"{reader.name} is malformed: a file in the short form cannot be partial.")
    return header, bool(values["short"]), bool(values["partial"])


def field_values(header: Header) -> dict[str, int]:
    """The values of the header by the names of its fields."""
    values = dict(vars(header))
    values["preset"] = values.pop("preset_id")
    return values


def show_header(header: Header) -> dict[str, object]:
    """Field names and their values for display, in file order."""
    values = field_values(header)
    return {
        field.name: field.show(values[field.name]) for field in FIELDS[header.version] if field.name in values
    }


def check_magic(data: bytes, name: str) -> None:
    """Check that `data` begins like a .tri file.

    Raises NotTrifocal, naming the type of the file, or Truncated.
    """
    start = data[: len(MAGIC)]
    if start == MAGIC:
        return
    if not data:
        raise NotTrifocal(f"{name} is empty.")
    if MAGIC.startswith(start):
        raise Truncated(f"{name} is cut short: it has only {len(data)} bytes.")
    raise NotTrifocal(f"{name} is not a Trifocal file; {describe_other_format(data)}.")


SIGNATURES = (
    (0, b"\x89PNG", "a PNG image"),
    (0, b"\xff\xd8\xff", "a JPEG image"),
    (0, b"GIF8", "a GIF image"),
    (8, b"WEBP", "a WebP image"),
    (4, b"ftypavif", "an AVIF image"),
    (4, b"ftypavis", "an AVIF image"),
    (4, b"ftyphe", "a HEIC image"),
    (4, b"ftypmif1", "a HEIC image"),
    (4, b"ftyp", "a video"),
    (0, b"\xff\x0a", "a JPEG XL image"),
    (4, b"JXL \r\n", "a JPEG XL image"),
    (4, b"jP  \r\n", "a JPEG 2000 image"),
    (0, b"II*\0", "a TIFF image"),
    (0, b"MM\0*", "a TIFF image"),
    (0, b"BM", "a BMP image"),
    (0, b"%PDF", "a PDF document"),
    (0, b"PK\x03\x04", "a ZIP archive"),
    (0, b"\x1f\x8b", "a gzip archive"),
    (257, b"ustar", "a tar archive"),
    (8, b'{"', "a safetensors file"),
)
TEXT = frozenset(range(32, 127)) | frozenset(b"\t\n\r\f")


def describe_other_format(data: bytes) -> str:
    """The likely type of a file that is not a .tri file, by its first 512 bytes, as the end of a sentence."""
    for offset, signature, what in SIGNATURES:
        if data[offset : offset + len(signature)] == signature:
            return f"it seems to be {what}"
    start = data[: len(MAGIC)]
    if (
        len(start) == len(MAGIC)
        and (int.from_bytes(start, "big") ^ int.from_bytes(MAGIC, "big")).bit_count() <= 2
    ):
        return "its first bytes are almost those of one, so it may be damaged"
    if not any(data[:512]):
        return "its first bytes are all zero"
    return "it seems to be text" if is_text(data[:512]) else "its first bytes are not those of one"


def is_text(start: bytes) -> bool:
    if TEXT.issuperset(start):
        return True
    try:
        text = start[:-3].decode("utf-8")
    except UnicodeDecodeError:
        return False
    return all(letter.isprintable() or letter.isspace() for letter in text) and len(text) > 0
