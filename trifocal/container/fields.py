"""What stands in a .tri header: one description that serves reading, writing, checking and printing."""

from collections.abc import Callable
from dataclasses import dataclass
from enum import IntEnum
from functools import partial

from trifocal.errors import Damaged, FormatError, NotTrifocal, OptionError, Truncated, Unsupported
from trifocal.types import LEVELS_PER_QUALITY
from trifocal.utils.limits import max_pixels as limit_of_pixels

MAGIC = b"\xf3TF"
VERSIONS = (1, 2)  # that are read
VERSION = 2  # that is written, unless a file of another is written again
MAX_SIDE = 1 << 16  # pixels
MAX_LAYERS = 32
MAX_CHUNKS = 1 << 16  # per layer
VARINT_BYTES = 5


class Tag(IntEnum):
    """What a layer holds. Below 128: nobody who does not know it can read the file. From 128: it may be skipped."""

    LATENT = 1
    BASE = 2
    ENHANCEMENT = 3
    ALPHA = 128
    ICC = 129
    EXIF = 130
    TEXT = 131
    PART = 132
    XMP = 133
    DPI = 134


TILED_TAGS = (Tag.LATENT, Tag.ENHANCEMENT)  # a chunk per tile
CODED_TAGS = (Tag.LATENT, Tag.BASE, Tag.ENHANCEMENT)  # of the picture itself; a file has at least one
FIRST_OPTIONAL_TAG = 128
LAST_TAG = 255


class Reader:
    """Takes numbers off the front of bytes; `name` is the file's name, for the sentences."""

    def __init__(self, data: bytes, name: str) -> None:
        self.data = data
        self.name = name
        self.at = 0

    @property
    def left(self) -> int:
        return len(self.data) - self.at

    def take(self, count: int) -> bytes:
        if count > self.left:
            raise Truncated(
                f"{self.name} is cut short: it ends after {len(self.data)} bytes, before its header does."
            )
        self.at += count
        return self.data[self.at - count : self.at]

    def number(self, count: int) -> int:
        """An unsigned integer of `count` bytes, the most significant first."""
        return int.from_bytes(self.take(count), "big")

    def varint(self) -> int:
        """LEB128 in its shortest form: 7 bits per byte, the least significant first."""
        value = 0
        for place in range(VARINT_BYTES):
            byte = self.number(1)
            value |= (byte & 127) << 7 * place
            if byte < 128:
                if byte == 0 and place > 0:
                    break
                return value
        raise Damaged(f"{self.name} is damaged: a number in its header is not written in the shortest way.")


def varint(value: int) -> bytes:
    """The inverse of Reader.varint; 0 <= value < 2**35."""
    out = bytearray()
    while value > 127:
        out.append(value & 127 | 128)
        value >>= 7
    out.append(value)
    return bytes(out)


@dataclass(frozen=True)
class Field:
    """One number of the header: `bits` wide, or a varint of `value - low` where bits is 0; low <= value <= high."""

    name: str
    bits: int
    low: int
    high: int
    refusal: type[FormatError] = Damaged
    show: Callable[[int], object] = int

    def check(self, value: int, file_name: str) -> None:
        if self.low <= value <= self.high:
            return
        allowed = str(self.low) if self.low == self.high else f"{self.low} to {self.high}"
        facts = f"its header says {self.name} {value}, and this version of Trifocal knows {allowed}"
        if self.refusal is Unsupported:
            raise Unsupported(
                f"{file_name} cannot be read: {facts}; update Trifocal, unless the file is damaged."
            )
        raise self.refusal(f"{file_name} is damaged: {facts}.")


def hexadecimal(fingerprint: int, version: int = VERSION) -> str:
    """4 digits in version 1 and 8 in version 2."""
    return f"{fingerprint:0{4 * version}x}"


def fields_of(version: int) -> tuple[Field, ...]:
    bits = 16 * version  # of the fingerprint
    return (
        Field("version", VERSION_BITS, VERSIONS[0], VERSIONS[-1], Unsupported),
        Field("reserved flags", 2, 0, 0, Unsupported),
        Field("short", 1, 0, 1, show=bool),
        Field("grey", 1, 0, 1, show=bool),
        Field("preset", 6, 1, 62, Unsupported),
        Field("level", 10, 0, 100 * LEVELS_PER_QUALITY),
        Field("fingerprint", bits, 0, (1 << bits) - 1, show=partial(hexadecimal, version=version)),
        Field("width", 0, 1, MAX_SIDE),
        Field("height", 0, 1, MAX_SIDE),
    )


VERSION_BITS = 4
FIELDS = {version: fields_of(version) for version in VERSIONS}


@dataclass(frozen=True)
class Header:
    """What a reader must know before it makes room for a picture.

    width, height: pixels, 1..65536.  preset: 1..62.  level: 0..800, which is quality times 8.
    fingerprint: of the weights, 16 bits in version 1 and 32 in version 2.  grey: the picture has one channel.
    version: of the file format, 1 or 2.  Raises OptionError.
    """

    width: int
    height: int
    preset: int
    level: int
    fingerprint: int
    grey: bool = False
    version: int = VERSION

    def __post_init__(self) -> None:
        if self.version not in FIELDS:
            raise OptionError(f"A header's version is 1 or 2, not {self.version}.")
        values = vars(self)
        for field in FIELDS[self.version]:
            if field.name in values and not field.low <= values[field.name] <= field.high:
                raise OptionError(
                    f"A header's {field.name} is {field.low} to {field.high}, not {values[field.name]}."
                )

    @property
    def mark(self) -> str:
        """The fingerprint in hexadecimal."""
        return hexadecimal(self.fingerprint, self.version)

    @property
    def quality(self) -> float:
        """0..100 in steps of 1/8."""
        return self.level / LEVELS_PER_QUALITY

    def check_pixels(self, max_pixels: int | None = None, name: str = "This file") -> None:
        """Raises Unsupported where the picture has more pixels than `max_pixels`, by default those of `limit_pixels`.

        Ask before making room for it.
        """
        max_pixels = limit_of_pixels() if max_pixels is None else max_pixels
        pixels = self.width * self.height
        if pixels > max_pixels:
            raise Unsupported(
                f"{name} holds a picture of {self.width} x {self.height} = {pixels / 1e6:.0f} megapixels, above the"
                f" limit of {max_pixels / 1e6:.0f}; if you trust the file, raise it with"
                " --max-pixels, or trifocal.limit_pixels in Python."
            )


def write_header(header: Header, short: bool) -> bytes:
    """Magic and fields; `short` says which of the two forms follows."""
    values = vars(header) | {"reserved flags": 0, "short": short}
    word, bits = 0, 0
    tail = b""
    for field in FIELDS[header.version]:
        if field.bits:
            word, bits = word << field.bits | int(values[field.name]), bits + field.bits
        else:
            tail += varint(values[field.name] - field.low)
    return MAGIC + word.to_bytes(bits // 8, "big") + tail


def read_header(reader: Reader) -> tuple[Header, bool]:
    """The header and whether the short form follows. Raises FormatError."""
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
    return header, bool(values["short"])


def show_header(header: Header) -> dict[str, object]:
    """Field names and what a person wants to see of them, in the order of the file."""
    values = vars(header)
    return {
        field.name: field.show(values[field.name]) for field in FIELDS[header.version] if field.name in values
    }


def check_magic(data: bytes, name: str) -> None:
    """Raises NotTrifocal, saying what the file seems to be, or Truncated, unless `data` begins as a .tri file does."""
    start = data[: len(MAGIC)]
    if start == MAGIC:
        return
    if not data:
        raise NotTrifocal(f"{name} is empty.")
    if MAGIC.startswith(start):
        raise Truncated(f"{name} is cut short: only {len(data)} of its bytes are there.")
    raise NotTrifocal(f"{name} is not a Trifocal file; {seems_to_be(data)}.")


SIGNATURES = (
    (0, b"\x89PNG", "a PNG picture"),
    (0, b"\xff\xd8\xff", "a JPEG picture"),
    (0, b"GIF8", "a GIF picture"),
    (8, b"WEBP", "a WebP picture"),
    (4, b"ftypavif", "an AVIF picture"),
    (4, b"ftypavis", "an AVIF picture"),
    (4, b"ftyphe", "a HEIC picture"),
    (4, b"ftypmif1", "a HEIC picture"),
    (4, b"ftyp", "a video"),
    (0, b"\xff\x0a", "a JPEG XL picture"),
    (4, b"JXL \r\n", "a JPEG XL picture"),
    (4, b"jP  \r\n", "a JPEG 2000 picture"),
    (0, b"II*\0", "a TIFF picture"),
    (0, b"MM\0*", "a TIFF picture"),
    (0, b"BM", "a BMP picture"),
    (0, b"%PDF", "a PDF document"),
    (0, b"PK\x03\x04", "a ZIP archive"),
    (0, b"\x1f\x8b", "a gzip archive"),
    (257, b"ustar", "a tar archive"),
    (8, b'{"', "a safetensors file"),
)
TEXT = frozenset(range(32, 127)) | frozenset(b"\t\n\r\f")


def seems_to_be(data: bytes) -> str:
    """The end of a sentence: what foreign bytes look like by their first few hundred."""
    for offset, mark, what in SIGNATURES:
        if data[offset : offset + len(mark)] == mark:
            return f"it seems to be {what}"
    start = data[: len(MAGIC)]
    if (
        len(start) == len(MAGIC)
        and (int.from_bytes(start, "big") ^ int.from_bytes(MAGIC, "big")).bit_count() <= 2
    ):
        return "its first bytes are almost those of one, so it may be one that is damaged"
    if not any(data[:512]):
        return "its first bytes are all zero"
    return "it seems to be text" if is_text(data[:512]) else "it does not begin as one does"


def is_text(start: bytes) -> bool:
    if TEXT.issuperset(start):
        return True
    try:
        text = start[:-3].decode("utf-8")
    except UnicodeDecodeError:
        return False
    return all(letter.isprintable() or letter.isspace() for letter in text) and len(text) > 0
