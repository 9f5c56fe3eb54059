"""Find the image files of a folder."""

import os
from collections.abc import Iterable, Iterator
from pathlib import Path

from trifocal.utils.files import list_files

PICTURE_SUFFIXES = frozenset(
    {
        ".apng",
        ".avif",
        ".avifs",
        ".bmp",
        ".dib",
        ".gif",
        ".heic",
        ".heics",
        ".heif",
        ".heifs",
        ".hif",
        ".j2c",
        ".j2k",
        ".jfif",
        ".jp2",
        ".jpc",
        ".jpe",
        ".jpeg",
        ".jpf",
        ".jpg",
        ".jpx",
        ".jxl",
        ".mpo",
        ".pbm",
        ".pgm",
        ".png",
        ".pnm",
        ".ppm",
        ".qoi",
        ".tga",
        ".tif",
        ".tiff",
        ".webp",
    }
)


def is_picture(path: str | os.PathLike[str], suffixes: Iterable[str] = PICTURE_SUFFIXES) -> bool:
    """Whether the suffix is that of an image; false for hidden files. The file is not read."""
    name = Path(path).name
    return not name.startswith(".") and Path(name).suffix.lower() in suffixes


def list_pictures(
    paths: Iterable[str | os.PathLike[str]],
    recursive: bool = False,
    suffixes: Iterable[str] = PICTURE_SUFFIXES,
) -> list[Path]:
    """Replace each folder among `paths` with its image files, sorted by path, and remove duplicates.

    Files keep their order, and paths that do not exist are kept.

    Args:
        paths: files and folders.
        recursive: include subfolders.
        suffixes: of the files to find in folders, in lower case, with the dot.

    Raises:
        OSError: if a folder cannot be read.
    """
    found = (file for path in paths for file in _expand(Path(path), recursive, frozenset(suffixes)))
    return list(dict.fromkeys(found))


def _expand(path: Path, recursive: bool, suffixes: frozenset[str]) -> Iterator[Path]:
    if not path.is_dir():
        yield path
        return
    listing = list_files(path, recursive, suffixes)
    for error in listing.errors:
        raise error
    yield from listing.files
