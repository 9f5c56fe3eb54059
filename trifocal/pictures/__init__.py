"""Image files ⇄ 8-bit RGB arrays with metadata, and a notice for each conversion.

`Picture` is the class of an image with its metadata; all other text says "image".
"""

from trifocal.pictures.attachments import (
    MAX_METADATA,
    alpha_from_bytes,
    alpha_to_bytes,
    metadata_from_bytes,
    metadata_to_bytes,
)
from trifocal.pictures.folders import PICTURE_SUFFIXES, is_picture, list_pictures
from trifocal.pictures.frames import FrameConverter
from trifocal.pictures.limits import MAX_SIDE
from trifocal.pictures.picture import Picture
from trifocal.pictures.tiles import Tile, check_region, tiles, tiles_in_region
from trifocal.utils.limits import MAX_PIXELS

__all__ = [
    "MAX_METADATA",
    "MAX_PIXELS",
    "MAX_SIDE",
    "PICTURE_SUFFIXES",
    "FrameConverter",
    "Picture",
    "Tile",
    "alpha_from_bytes",
    "alpha_to_bytes",
    "check_region",
    "is_picture",
    "list_pictures",
    "metadata_from_bytes",
    "metadata_to_bytes",
    "tiles",
    "tiles_in_region",
]
