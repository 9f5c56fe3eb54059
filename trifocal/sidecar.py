"""What a file carries beside the RGB latent: transparency, colour profile, EXIF."""

import numpy as np
from numpy.typing import NDArray

from trifocal.container import Bitstream, Layer, Tag
from trifocal.pictures import Picture
from trifocal.pictures.attachments import (
    alpha_from_bytes,
    alpha_to_bytes,
    metadata_from_bytes,
    metadata_to_bytes,
)
from trifocal.pictures.tiles import Box


def side_layers(picture: Picture) -> tuple[Layer, ...]:
    """The optional layers that a picture needs; none for an opaque sRGB one."""
    layers = []
    if picture.alpha is not None:
        layers.append(Layer(Tag.ALPHA, (alpha_to_bytes(picture.alpha),)))
    if picture.icc is not None:
        layers.append(Layer(Tag.ICC, (metadata_to_bytes(picture.icc),)))
    if picture.exif is not None:
        layers.append(Layer(Tag.EXIF, (metadata_to_bytes(picture.exif),)))
    return tuple(layers)


def picture_of(rgb: NDArray[np.uint8], stream: Bitstream, region: Box) -> Picture:
    """The decoded pixels of a region, [H, W, 3], with what the side layers say of them.

    A damaged side layer (only from a best-effort reading) is left out.
    """
    alpha = _side(stream, Tag.ALPHA)
    icc, exif = _side(stream, Tag.ICC), _side(stream, Tag.EXIF)
    grey = stream.header.grey
    if grey:
        rgb = np.broadcast_to(np.rint(rgb.mean(axis=2, keepdims=True)).astype(np.uint8), rgb.shape)
    x, y, width, height = region
    plane = None if alpha is None else alpha_from_bytes(alpha, stream.header.width, stream.header.height)
    return Picture(
        rgb=rgb,
        alpha=None if plane is None else plane[y : y + height, x : x + width],
        grey=grey,
        icc=None if icc is None else metadata_from_bytes(icc),
        exif=None if exif is None else metadata_from_bytes(exif),
    )


def _side(stream: Bitstream, tag: Tag) -> bytes | None:
    layer = stream.layer(tag)
    return None if layer is None else layer.chunks[0]
