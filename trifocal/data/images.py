"""Training images: found once, kept decoded as far as memory allows, and read again where it does not."""

import hashlib
import io
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np
import numpy.typing as npt

from trifocal.data.sources import FilePart, ImageFile, list_images
from trifocal.errors import OptionError, PictureError
from trifocal.pictures import Picture

__all__ = ["HELD_OUT_ONE_IN", "TrainingData", "TrainingPicture", "read_data", "read_pictures", "split"]

HELD_OUT_ONE_IN = 40
DECODED = 4 << 30  # bytes of images that are kept decoded, by all processes of a machine together


@dataclass(frozen=True)
class TrainingPicture:
    """An image and its annotations.

    Attributes:
        key: file name without suffix.
        kept: uint8 [H, W, 3], or the file, which is read and decoded at each use.
        captions: sentences.
        boxes: x0, y0, x1, y1 in pixels, [N, 4].
        labels: COCO category ids, [N].
        stored: width and height of an image that is not kept decoded, as stored in its file.
    """

    key: str
    kept: npt.NDArray[np.uint8] | FilePart
    captions: tuple[str, ...] = ()
    boxes: npt.NDArray[np.float32] = field(default_factory=lambda: np.zeros((0, 4), np.float32))
    labels: npt.NDArray[np.int64] = field(default_factory=lambda: np.zeros(0, np.int64))
    stored: tuple[int, int] | None = None

    @property
    def rgb(self) -> npt.NDArray[np.uint8]:
        """The decoded image, uint8 [H, W, 3]. Raises PictureError or OSError if its file cannot be read."""
        if isinstance(self.kept, FilePart):
            return Picture.open(io.BytesIO(self.kept.read())).rgb
        return self.kept

    @property
    def area(self) -> int:
        """Number of pixels."""
        if isinstance(self.kept, FilePart):
            width, height = self.stored or self.kept.dimensions()
            return width * height
        return self.kept.shape[0] * self.kept.shape[1]


@dataclass(frozen=True)
class TrainingData:
    """The images of a run, and those that were left out.

    Attributes:
        pictures: images that are used.
        small: number of images that are smaller than a crop.
        unreadable: reasons by key.
        places: folders and shards.
    """

    pictures: list[TrainingPicture]
    small: int
    unreadable: dict[str, str]
    places: tuple[Path, ...]

    @property
    def captioned(self) -> int:
        """Number of images with captions."""
        return sum(bool(picture.captions) for picture in self.pictures)

    @property
    def boxed(self) -> int:
        """Number of images with boxes."""
        return sum(len(picture.labels) > 0 for picture in self.pictures)

    def record(self) -> dict[str, object]:
        """Facts for the record of a run."""
        return {
            "images": len(self.pictures),
            "with_captions": self.captioned,
            "with_boxes": self.boxed,
            "left_out_small": self.small,
            "left_out_unreadable": self.unreadable,
        }

    def sentence(self, smallest: int) -> str:
        """What was read, and what was left out and why."""
        where = ", ".join(map(str, self.places[:3])) + (", …" if len(self.places) > 3 else "")
        text = (
            f"Read {len(self.pictures)} images of {where}: {self.captioned} with captions, {self.boxed} with "
            f"boxes"
        )
        if self.small:
            text += f"; {self.small} smaller than {smallest} pixels are left out"
        if self.unreadable:
            key, reason = next(iter(self.unreadable.items()))
            text += f"; {len(self.unreadable)} cannot be read, such as {key} ({reason.rstrip('.')})"
        return f"{text}."


def read_data(
    sources: Sequence[str | Path],
    smallest: int,
    progress: Callable[[str], None] | None = None,
    processes: int = 1,
) -> TrainingData:
    """Read all images in folders, files and tar shards (WebDataset: KEY.jpg, KEY.png …, and KEY.json).

    KEY.json is the record of an image, with any of captions, boxes and labels as in TrainingPicture. Images
    in folders may instead have captions.json and instances.json, see `trifocal.data.coco`. Images are decoded
    and kept until they take 4 GiB in all processes together. Of further images only the header is read; each
    use reads the file again.

    Args:
        sources: folders (searched recursively), image files, .tar shards.
        smallest: length of a side in pixels; smaller images are left out, and so are unreadable ones.
        progress: called with the key of each image, and the reason if it cannot be read.
        processes: on this machine, which read the same data.

    Raises:
        OptionError: if a source does not exist, no image is left, or an annotation file has another layout.
    """
    if not sources:
        raise OptionError("Training needs images; name folders or shards with --data.")
    pictures: list[TrainingPicture] = []
    unreadable: dict[str, str] = {}
    places: dict[Path, None] = {}
    small, left = 0, DECODED // processes
    for found in list_images(sources):
        text = found.key
        try:
            picture = _read(found, left > 0)
            if isinstance(picture.kept, np.ndarray):
                side = min(picture.kept.shape[:2])
                left -= picture.kept.nbytes if side >= smallest else 0
                if left < 0:
                    height, width = picture.kept.shape[:2]
                    picture = _unkept(picture, found.content, (width, height))
            else:
                side = min(picture.stored or (0, 0))
            small += side < smallest
            if side >= smallest:
                pictures.append(picture)
                places[found.folder] = None
        except (PictureError, ValueError, TypeError, OSError) as error:
            unreadable[found.key] = str(error)
            text = f"{found.key}, left out: {error}"
        if progress:
            progress(text)
    if not pictures:
        raise OptionError(
            f"No image of at least {smallest} pixels a side was found in {', '.join(map(str, sources))}."
        )
    return TrainingData(pictures, small, unreadable, tuple(places))


def _read(found: ImageFile, decode: bool) -> TrainingPicture:
    annotations = found.annotations()
    if decode:
        rgb = Picture.open(io.BytesIO(found.content.read())).rgb
        return TrainingPicture(found.key, rgb, *annotations)
    return TrainingPicture(found.key, found.content, *annotations, found.content.dimensions())


def _unkept(picture: TrainingPicture, content: FilePart, size: tuple[int, int]) -> TrainingPicture:
    return TrainingPicture(picture.key, content, picture.captions, picture.boxes, picture.labels, size)


def read_pictures(
    sources: Sequence[str | Path], smallest: int, progress: Callable[[str], None] | None = None
) -> list[TrainingPicture]:
    """The images that `read_data` reads; arguments and errors as there."""
    return read_data(sources, smallest, progress).pictures


def split(
    pictures: Sequence[TrainingPicture], one_in: int = HELD_OUT_ONE_IN
) -> tuple[list[TrainingPicture], list[TrainingPicture]]:
    """Split images into those for training and those held out.

    One in `one_in` is held out by a hash of its key, the same on every machine. If the hash selects none of a
    few images, those with the lowest remainder are held out.

    Args:
        one_in: 0 holds none out: all images are for training, and those that would be held out validate too.

    Raises:
        OptionError: if none is left for training.
    """
    remainders = [_hash(p.key) % (one_in or HELD_OUT_ONE_IN) for p in pictures]
    lowest = min(remainders)
    held = [p for p, remainder in zip(pictures, remainders) if remainder == lowest]
    if not one_in:
        return list(pictures), held
    training = [p for p, remainder in zip(pictures, remainders) if remainder > lowest]
    if not training:
        raise OptionError("Training needs more images, since at least one is held out for validation.")
    return training, held


def _hash(key: str) -> int:
    return int.from_bytes(hashlib.sha256(key.encode()).digest()[:8], "big")
