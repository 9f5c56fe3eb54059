"""The image files of folders and WebDataset shards, with their annotations; contents are read when needed."""

import json
import os
import tarfile
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import IO, cast

import numpy as np
import numpy.typing as npt
from PIL import Image
from PIL.ContainerIO import ContainerIO

from trifocal.data.coco import image_folder, read_boxes, read_captions
from trifocal.errors import OptionError
from trifocal.pictures import is_picture

__all__ = ["FilePart", "ImageAnnotations", "ImageFile", "list_images"]

ImageAnnotations = tuple[
    tuple[str, ...], npt.NDArray[np.float32], npt.NDArray[np.int64]
]  # captions, boxes, labels

NO_BOXES = np.zeros((0, 4), np.float32), np.zeros(0, np.int64)


@dataclass(frozen=True)
class FilePart:
    """A file, or a member of an uncompressed tar file.

    Attributes:
        path: of the file.
        offset, size: of the member's content in bytes; size −1 is the whole file.
    """

    path: Path
    offset: int = 0
    size: int = -1

    def read(self) -> bytes:
        """The content."""
        with open(self.path, "rb") as file:
            file.seek(self.offset)
            return file.read(self.size)

    def dimensions(self) -> tuple[int, int]:
        """Width and height of the image, from its header. Raises OSError for what Pillow cannot read."""
        with open(self.path, "rb") as file:
            size = self.size if self.size >= 0 else os.fstat(file.fileno()).st_size
            part = ContainerIO(file, self.offset, size)
            with Image.open(cast(IO[bytes], part)) as image:
                return image.size


@dataclass(frozen=True)
class ImageFile:
    """An image that was found, and what is known of it.

    Attributes:
        key: file name without suffix.
        content: where its bytes are.
        folder: of the image, or the shard.
        record: where KEY.json is, or what COCO's files have.
    """

    key: str
    content: FilePart
    folder: Path
    record: FilePart | ImageAnnotations | None

    def annotations(self) -> ImageAnnotations:
        """Captions, boxes and labels. Raises ValueError or TypeError if the record is malformed."""
        if isinstance(self.record, tuple):
            return self.record
        record = json.loads(self.record.read()) if self.record else {}
        boxes = np.asarray(record.get("boxes", ()), np.float32).reshape(-1, 4)
        labels = np.asarray(record.get("labels", ()), np.int64)
        if len(boxes) != len(labels):
            raise ValueError(f"its record has {len(boxes)} boxes and {len(labels)} labels.")
        return tuple(map(str, record.get("captions", ()))), boxes, labels


def list_images(sources: Sequence[str | Path]) -> Iterator[ImageFile]:
    """The images of folders (searched recursively), image files, and WebDataset shards.

    In the root folder of COCO, which has a folder `annotations`, only the training images are listed.

    Raises:
        OptionError: if a source does not exist, is a root of COCO with several training folders, or has an
            annotation file of another layout.
    """
    for source in map(Path, sources):
        if not source.exists():
            raise OptionError(f"There is no {source}; pass a folder, an image or a .tar shard.")
        if source.suffix == ".tar":
            yield from _shard(source)
        elif source.is_dir():
            yield from _folder(image_folder(source))
        else:
            yield _file(source, _tables(source.parent))


def _folder(root: Path) -> Iterator[ImageFile]:
    whole = _tables(root)
    folder, tables = root, whole
    for path in sorted(root.rglob("*")):
        if path.suffix == ".tar":
            yield from _shard(path)
        elif is_picture(path):
            if path.parent != folder:
                folder, tables = path.parent, [*_tables(path.parent), *whole]
            yield _file(path, tables)


Table = tuple[dict[str, tuple[str, ...]], dict[str, tuple[npt.NDArray[np.float32], npt.NDArray[np.int64]]]]


def _tables(folder: Path) -> list[Table]:
    return [(read_captions(folder), read_boxes(folder))]


def _file(path: Path, tables: Sequence[Table]) -> ImageFile:
    own = path.with_suffix(".json")
    record: FilePart | ImageAnnotations
    if own.exists():
        record = FilePart(own)
    else:
        captions: tuple[str, ...] = next((found[path.name] for found, _ in tables if path.name in found), ())
        boxes = next((found[path.name] for _, found in tables if path.name in found), NO_BOXES)
        record = (captions, *boxes)
    return ImageFile(path.stem, FilePart(path), path.parent, record)


def _shard(path: Path) -> Iterator[ImageFile]:
    """Images of a WebDataset shard, in which the files of a key follow each other. Only headers are read."""
    found: dict[str, FilePart] = {}
    last = ""
    for member in _members(path):
        name = Path(member.name)
        if name.stem != last:
            if "image" in found:
                yield ImageFile(last, found["image"], path, found.get("record"))
            found, last = {}, name.stem
        part = FilePart(path, member.offset_data, member.size)
        if is_picture(name):
            found["image"] = part
        elif name.suffix == ".json":
            found["record"] = part
    if "image" in found:
        yield ImageFile(last, found["image"], path, found.get("record"))


def _members(path: Path) -> list[tarfile.TarInfo]:
    try:
        with tarfile.open(path, "r:") as archive:
            return [member for member in archive if member.isfile()]
    except tarfile.TarError as error:
        raise OptionError(f"{path} is not an uncompressed tar file, as shards must be: {error}.") from None
