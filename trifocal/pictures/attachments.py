"""What travels beside the RGB picture, as bytes for optional layers: transparency, ICC profile, EXIF."""

import io
import struct
import zlib

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from trifocal.errors import Damaged, PictureError
from trifocal.pictures.limits import no_limit_of_pillow

MAX_METADATA = 1 << 24  # bytes, inflated
PNG_START = b"\x89PNG\r\n\x1a\n\0\0\0\rIHDR"
GREY_8_BIT = bytes([8, 0, 0, 0, 0])  # bit depth, colour type, compression, filter, interlace


def alpha_to_bytes(alpha: NDArray[np.uint8]) -> bytes:
    """uint8 [H, W], 0 clear to 255 opaque, as a PNG of 8-bit grey."""
    out = io.BytesIO()
    Image.fromarray(np.ascontiguousarray(alpha)).save(out, format="PNG", optimize=alpha.size < 1 << 22)
    return out.getvalue()


def alpha_from_bytes(data: bytes, width: int, height: int) -> NDArray[np.uint8]:
    """The inverse: uint8 [height, width]. Raises Damaged unless the PNG has just that size, before it is unpacked."""
    expected = PNG_START + struct.pack(">II", width, height) + GREY_8_BIT
    if data[: len(expected)] != expected:
        raise Damaged(f"The transparency of this file is not an 8-bit grey PNG of {width} x {height} pixels.")
    try:
        with no_limit_of_pillow(), Image.open(io.BytesIO(data), formats=("PNG",)) as image:
            return np.asarray(image)
    except Exception as error:  # Pillow's readers raise nearly anything on damaged bytes
        raise Damaged(f"The transparency of this file cannot be unpacked: {error}.") from error


def metadata_to_bytes(data: bytes) -> bytes:
    """An ICC profile or EXIF block, deflated. Raises PictureError above MAX_METADATA bytes."""
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
