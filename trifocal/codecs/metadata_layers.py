"""Layers of a file beside the latents: transparency, ICC profile, EXIF, XMP and resolution."""

import numpy as np
from numpy.typing import NDArray

from trifocal.container import Bitstream, Layer, Tag
from trifocal.container.fields import ByteReader, varint
from trifocal.errors import Damaged
from trifocal.pictures import Picture
from trifocal.pictures.attachments import (
    alpha_from_bytes,
    alpha_to_bytes,
    metadata_from_bytes,
    metadata_to_bytes,
)
from trifocal.pictures.metadata import MAX_DPI
from trifocal.pictures.tiles import Region

DPI_STEPS = 1000  # of one pixel per inch


def metadata_layers(picture: Picture) -> tuple[Layer, ...]:
    """The optional layers of a picture; none for an opaque sRGB one without metadata."""
    layers = []
    if picture.alpha is not None:
        layers.append(Layer(Tag.ALPHA, (alpha_to_bytes(picture.alpha),)))
    for tag, data in ((Tag.ICC, picture.icc), (Tag.EXIF, picture.exif), (Tag.XMP, picture.xmp)):
        if data is not None:
            layers.append(Layer(tag, (metadata_to_bytes(data),)))
    if picture.dpi is not None:
        layers.append(Layer(Tag.DPI, (dpi_to_bytes(picture.dpi),)))
    return tuple(layers)


def dpi_to_bytes(dpi: tuple[float, float]) -> bytes:
    """Pixels per inch, horizontal and vertical, in thousandths; the second value is omitted if equal."""
    across, down = (min(max(round(DPI_STEPS * value), 1), DPI_STEPS * MAX_DPI) for value in dpi)
    return varint(across) + (b"" if down == across else varint(down))


def dpi_from_bytes(data: bytes) -> tuple[float, float]:
    """The inverse of `dpi_to_bytes`. Raises Damaged for bytes that it never writes."""
    reader = ByteReader(data, "The resolution of this file")
    across = reader.varint()
    down = reader.varint() if reader.left else across
    dpi = across / DPI_STEPS, down / DPI_STEPS
    if not 0 < min(dpi) <= max(dpi) <= MAX_DPI or dpi_to_bytes(dpi) != data:
        raise Damaged("The resolution of this file is damaged.")
    return dpi


def with_metadata(rgb: NDArray[np.uint8], stream: Bitstream, region: Region) -> Picture:
    """A picture of decoded pixels, [H, W, 3], with the file's metadata layers.

    A damaged metadata layer (only from a best-effort read) is left out.
    """
    alpha = _layer_bytes(stream, Tag.ALPHA)
    icc, exif, xmp = (metadata_in(stream, tag) for tag in (Tag.ICC, Tag.EXIF, Tag.XMP))
    grey = stream.header.grey
    if grey:
        rgb = np.broadcast_to(np.rint(rgb.mean(axis=2, keepdims=True)).astype(np.uint8), rgb.shape)
    x, y, width, height = region
    plane = None if alpha is None else alpha_from_bytes(alpha, stream.header.width, stream.header.height)
    return Picture(
        rgb=rgb,
        alpha=None if plane is None else plane[y : y + height, x : x + width],
        grey=grey,
        icc=icc,
        exif=exif,
        xmp=xmp,
        dpi=dpi_in(stream),
    )


def metadata_in(stream: Bitstream, tag: Tag) -> bytes | None:
    """The ICC profile, EXIF block or XMP packet of a file. Raises Damaged."""
    data = _layer_bytes(stream, tag)
    return None if data is None else metadata_from_bytes(data)


def dpi_in(stream: Bitstream) -> tuple[float, float] | None:
    """The resolution of a file. Raises Damaged."""
    data = _layer_bytes(stream, Tag.DPI)
    return None if data is None else dpi_from_bytes(data)


def _layer_bytes(stream: Bitstream, tag: Tag) -> bytes | None:
    layer = stream.layer(tag)
    return None if layer is None else layer.chunks[0]
