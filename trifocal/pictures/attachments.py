"""Alpha, ICC profile, EXIF and XMP as the bytes of optional layers."""

import io
import struct
import zlib

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from trifocal.errors import Damaged, PictureError
from trifocal.pictures.limits import pillow_limit_lifted

MAX_METADATA = 1 << 24  # bytes after inflation
PNG_SIGNATURE = b"\x89PNG\r\n\x1a\n"
GREY_8_BIT = bytes([8, 0, 0, 0, 0])  # bit depth, colour type, compression, filter, interlace
CHUNK_OVERHEAD = 12  # bytes of a PNG chunk besides its data: length, name and CRC


def alpha_to_bytes(alpha: NDArray[np.uint8]) -> bytes:
    """Alpha, uint8 [H, W], 0 (transparent) to 255 (opaque), as an 8-bit grey PNG."""
    out = io.BytesIO()
    Image.fromarray(np.ascontiguousarray(alpha)).save(out, format="PNG", optimize=alpha.size < 1 << 22)
    return out.getvalue()


def alpha_from_bytes(data: bytes, width: int, height: int) -> NDArray[np.uint8]:
    """The inverse of `alpha_to_bytes`: uint8 [height, width].

    Raises:
        Damaged: if the PNG is not 8-bit grey of that size, has other chunks than IHDR, IDAT and IEND in
            this order (checked before pixels are decompressed), or cannot be decompressed.
    """
    wrong = Damaged(f"The ALPHA layer of this file is not an 8-bit grey PNG of {width} x {height} pixels.")
    chunks = png_chunks(data)
    if chunks[0] != (b"IHDR", struct.pack(">II", width, height) + GREY_8_BIT):
        raise wrong
    if chunks[-1] != (b"IEND", b"") or {name for name, _ in chunks[1:-1]} != {b"IDAT"}:
        raise wrong
    try:
        with pillow_limit_lifted(), Image.open(io.BytesIO(data), formats=("PNG",)) as image:
            if (image.size, image.mode) != ((width, height), "L"):
                raise wrong
            return np.asarray(image)
    except Damaged:
        raise
    except Exception as error:  # damaged files raise almost any exception in Pillow
        raise Damaged(f"The ALPHA layer of this file cannot be decoded: {error}.") from error


def png_chunks(data: bytes) -> list[tuple[bytes, bytes]]:
    """Name and data of each chunk, at least one, still compressed.

    Raises Damaged if the bytes are not a complete PNG.
    """
    chunks = []
    at = len(PNG_SIGNATURE)
    while data.startswith(PNG_SIGNATURE) and at + CHUNK_OVERHEAD <= len(data):
        end = at + CHUNK_OVERHEAD + int.from_bytes(data[at : at + 4], "big")
        chunks.append((data[at + 4 : at + 8], data[at + 8 : end - 4]))
        at = end
    if not chunks or at != len(data):
        raise Damaged("The ALPHA layer of this file is not a complete PNG.")
    return chunks


def metadata_to_bytes(data: bytes) -> bytes:
    """Deflate an ICC profile, EXIF block or XMP packet. Raises PictureError above MAX_METADATA bytes."""
    if len(data) > MAX_METADATA:
        raise PictureError(
            f"The metadata has {len(data)} bytes, above the limit of {MAX_METADATA}; remove or shorten it."
        )
    return zlib.compress(data, 9)


def metadata_from_bytes(data: bytes, limit: int = MAX_METADATA) -> bytes:
    """The inverse of `metadata_to_bytes`; never inflates to more than `limit` bytes. Raises Damaged."""
    stream = zlib.decompressobj()
    try:
        out = stream.decompress(data, limit)
    except zlib.error as error:
        raise Damaged(f"The metadata of this file cannot be inflated: {error}.") from error
    if not stream.eof or stream.unused_data:
        raise Damaged(
            f"The metadata of this file ends too early or too late, or has more than {limit} bytes."
        )
    return out
