"""Read and write the bytes of .tri files, with the standard library only."""

from trifocal.container.bitstream import Bitstream, Layer
from trifocal.container.components import Component
from trifocal.container.description import describe
from trifocal.container.fields import MAX_SIDE, Header, Tag
from trifocal.utils.limits import MAX_PIXELS

__all__ = ["MAX_PIXELS", "MAX_SIDE", "Bitstream", "Component", "Header", "Layer", "Tag", "describe"]
