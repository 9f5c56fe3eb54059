"""The images of an evaluation: found in a folder, named, opened and, if asked, resized and cropped."""

from __future__ import annotations

import os
from pathlib import Path

from PIL import Image

from trifocal.data.coco import parse_captions, read_captions
from trifocal.detection.detections import resize
from trifocal.errors import OptionError
from trifocal.pictures import Picture, list_pictures

__all__ = ["captions_for", "find_images", "open_image", "relative_name"]


def find_images(data: str | os.PathLike[str]) -> list[Path]:
    """The images in a folder and its subfolders; an image file is a folder of one.

    Raises:
        OptionError: if there is no such folder, or no image in it.
        PictureError: if a folder cannot be read.
    """
    if not Path(data).exists():
        raise OptionError(f"There is no folder {data}; name a folder of images.")
    images = list_pictures([data], recursive=True)
    if not images:
        raise OptionError(f"There is no image in the folder {data}.")
    return images


def open_image(path: Path, square: int | None = None) -> Picture:
    """Open an image.

    Args:
        square: in pixels; if given, the image is resized to this short side (bilinear, as torchvision's
            `Resize`), and its centre of square × square pixels is kept, without transparency and metadata.
            DISCOVER (section IV) prepares the images of CLIC so, with 768; it does not name the filter.

    Raises:
        PictureError, OSError: if it cannot be read.
    """
    picture = Picture.open(path, "colour")
    if square is None:
        return picture
    short = min(picture.width, picture.height)
    size = int(square * picture.width / short), int(square * picture.height / short)
    rgb = resize(picture.rgb, size, Image.Resampling.BILINEAR)
    left, top = (round((side - square) / 2) for side in size)
    return Picture(rgb[top : top + square, left : left + square])


def captions_for(data: str | os.PathLike[str], source: str | None = None) -> dict[str, tuple[str, ...]]:
    """The captions of images by file name.

    Args:
        data: the folder of the images, in which or above which captions.json is searched for.
        source: FILE, or FILE:SET for a file with several sets, instead of captions.json.

    Raises:
        OptionError: if there is no such file or set, or it has another layout (see `parse_captions`).
    """
    if source is None:
        return read_captions(data)
    name, _, chosen = (source, "", "") if Path(source).is_file() else source.rpartition(":")
    if not Path(name).is_file():
        raise OptionError(f"There is no file {source} with captions; name a JSON file as FILE or FILE:SET.")
    return parse_captions(Path(name).read_text("utf-8"), name, chosen or None)


def relative_name(path: Path, data: Path) -> str:
    """The name of an image in results: its path in the folder `data`, or its file name if `data` is the
    image.
    """
    return path.relative_to(data).as_posix() if path != data else path.name
