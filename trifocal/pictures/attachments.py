"""What travels beside the RGB picture, as bytes for optional layers: transparency, ICC profile, EXIF, XMP."""

import io
import struct
import zlib

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from trifocal.errors import Damaged, PictureError
from trifocal.pictures.limits import no_limit_of_pillow

MAX_METADATA = 1 << 24  # bytes, inflated
PNG_SIGNATURE = b"\x89PNG\r\n\x1a\n"
GREY_8_BIT = bytes([8, 0, 0, 0, 0])  # bit depth, colour type, compression, filter, interlace
CHUNK_OVERHEAD = 12  # bytes of a PNG's chunk beside its data: length, name, CRC


def alpha_to_bytes(alpha: NDArray[np.uint8]) -> bytes:
    """uint8 [H, W], 0 clear to 255 opaque, as a PNG of 8-bit grey."""
    out = io.BytesIO()
    Image.fromarray(np.ascontiguousarray(alpha)).save(out, format="PNG", optimize=alpha.size < 1 << 22)
    return out.getvalue()


def alpha_from_bytes(data: bytes, width: int, height: int) -> NDArray[np.uint8]:
    """The inverse: uint8 [height, width].

    Raises:
        Damaged: before pixels are unpacked, unless the PNG is one of 8-bit grey and of just that size, made of one IHDR, then
            IDATs, then IEND, and nothing else; and where they cannot be unpacked.
    """
    wrong = Damaged(f"The transparency of this file is not an 8-bit grey PNG of {width} x {height} pixels.")
    chunks = png_chunks(data)
    if chunks[0] != (b"IHDR", struct.pack(">II", width, height) + GREY_8_BIT):
        raise wrong
    if chunks[-1] != (b"IEND", b"") or {name for name, _ in chunks[1:-1]} != {b"IDAT"}:
        raise wrong
    try:
        with no_limit_of_pillow(), Image.open(io.BytesIO(data), formats=("PNG",)) as image:
            if (image.size, image.mode) != ((width, height), "L"):
                raise wrong
            return np.asarray(image)
    except Damaged:
        raise
    except Exception as error:  # Pillow's readers raise nearly anything on damaged bytes
        raise Damaged(f"The transparency of this file cannot be unpacked: {error}.") from error


def png_chunks(data: bytes) -> list[tuple[bytes, bytes]]:
    """Name and data of each chunk, at least one; nothing is unpacked. Raises Damaged unless they fill the bytes exactly."""
    chunks = []
    at = len(PNG_SIGNATURE)
    while data.startswith(PNG_SIGNATURE) and at + CHUNK_OVERHEAD <= len(data):
        end = at + CHUNK_OVERHEAD + int.from_bytes(data[at : at + 4], "big")
        chunks.append((data[at + 4 : at + 8], data[at + 8 : end - 4]))
        at = end
    if not chunks or at != len(data):
        raise Damaged("The transparency of this file is not a whole PNG.")
    return chunks


def metadata_to_bytes(data: bytes) -> bytes:
    """An ICC profile, EXIF block or XMP packet, deflated. Raises PictureError above MAX_METADATA bytes."""
    if len(data) > MAX_METADATA:
        raise PictureError(
            f"Metadata of {len(data)} bytes is above the limit of {MAX_METADATA}; leave it out."
        )
    return zlib.compress(data, 9)


def metadata_from_bytes(data: bytes, limit: int = MAX_METADATA) -> bytes:
    """The inverse; never inflates to more than `limit` bytes. Raises Damaged."""
    stream = zlib.decompressobj()
    try:
        out = stream.decompress(data, limit)
    except zlib.error as error:
        raise Damaged(f"Metadata of this file cannot be unpacked: {error}.") from error
    if not stream.eof or stream.unused_data:
        raise Damaged(f"Metadata of this file does not end where it should, or has more than {limit} bytes.")
    return out
