"""Which files of a folder are meant."""

import os
from collections.abc import Iterable, Iterator
from pathlib import Path

PICTURE_SUFFIXES = frozenset(
    {
        ".avif",
        ".bmp",
        ".dib",
        ".gif",
        ".heic",
        ".heif",
        ".hif",
        ".j2k",
        ".jfif",
        ".jp2",
        ".jpe",
        ".jpeg",
        ".jpg",
        ".jxl",
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
    """By its name alone; hidden files are none."""
    name = Path(path).name
    return not name.startswith(".") and Path(name).suffix.lower() in suffixes


def list_pictures(
    paths: Iterable[str | os.PathLike[str]],
    recursive: bool = False,
    suffixes: Iterable[str] = PICTURE_SUFFIXES,
) -> list[Path]:
    """Files stay as they are named, in their order; a folder becomes its pictures, sorted by path. Nothing twice.

    A path that does not exist is kept: opening it will say so. `suffixes` (lower case, with the dot) looks for others.
    """
    found = (file for path in paths for file in _expand(Path(path), recursive, frozenset(suffixes)))
    return list(dict.fromkeys(found))


def _expand(path: Path, recursive: bool, suffixes: frozenset[str]) -> Iterator[Path]:
    if not path.is_dir():
        yield path
        return
    entries = path.rglob("*") if recursive else path.iterdir()
    yield from sorted(entry for entry in entries if is_picture(entry, suffixes) and entry.is_file())
