"""Read and write the bytes of .tri files, with the standard library only."""

from trifocal.container.bitstream import Bitstream, Layer, describe
from trifocal.container.fields import MAX_SIDE, Header, Tag
from trifocal.utils.limits import MAX_PIXELS

__all__ = ["MAX_PIXELS", "MAX_SIDE", "Bitstream", "Header", "Layer", "Tag", "describe"]
