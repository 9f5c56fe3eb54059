"""The SEED layer of a file: the number from which a decoder draws its noise."""

from zlib import crc32

from trifocal.container.bitstream import Bitstream
from trifocal.container.fields import Tag
from trifocal.container.table import Layer
from trifocal.errors import Damaged, MissingLayer, OptionError

__all__ = ["pixel_seed", "read_seed", "seed_layer"]

SEED_BYTES = 4


def pixel_seed(pixels: bytes) -> int:
    """A seed that follows from the pixels of an image, so that equal images give equal files."""
    return crc32(pixels)


def seed_layer(seed: int) -> Layer:
    """The layer of a seed, 0..2³² − 1. Raises OptionError for another."""
    if not 0 <= seed < 1 << 8 * SEED_BYTES:
        raise OptionError(f"A seed is from 0 to {(1 << 8 * SEED_BYTES) - 1}, not {seed}.")
    return Layer(Tag.SEED, (seed.to_bytes(SEED_BYTES, "big"),))


def read_seed(stream: Bitstream) -> int:
    """The seed of a file.

    Raises:
        MissingLayer: if the file has none.
        Damaged: if it is damaged.
    """
    found = stream.layer(Tag.SEED)
    if found is None:
        raise MissingLayer(
            "This file lacks its SEED layer, which decoding needs; restore it with `trifocal merge`, or "
            "encode the image again."
        )
    chunk = found.chunks[0]
    if chunk is None or len(chunk) != SEED_BYTES:
        raise Damaged(
            "The SEED layer of this file is damaged; --best-effort (best_effort=True in Python) takes 0 in "
            "its place."
        )
    return int.from_bytes(chunk, "big")
