"""The images of an evaluation: found in a folder, and their names in tables."""

from __future__ import annotations

import os
from pathlib import Path

from trifocal.errors import OptionError
from trifocal.pictures import list_pictures

__all__ = ["find_images", "relative_name"]


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


def relative_name(path: Path, data: Path) -> str:
    """The name of an image in results: its path in the folder `data`, or its file name if `data` is the
    image.
    """
    return path.relative_to(data).as_posix() if path != data else path.name
