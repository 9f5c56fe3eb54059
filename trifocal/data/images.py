"""Training images: read once, kept in memory, and served as random crops with texts."""

import hashlib
import io
import json
import tarfile
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np
import numpy.typing as npt
from PIL import Image

from trifocal.data.categories import clip_boxes, sample_text
from trifocal.data.coco import read_boxes, read_captions
from trifocal.data.prefetching import Prefetcher
from trifocal.errors import OptionError, PictureError
from trifocal.pictures import Picture, is_picture

Annotations = tuple[
    tuple[str, ...], npt.NDArray[np.float32], npt.NDArray[np.int64]
]  # captions, boxes, labels
Record = bytes | Annotations  # KEY.json, or its content

NO_BOXES = np.zeros((0, 4), np.float32), np.zeros(0, np.int64)
HELD_OUT_ONE_IN = 40
DECODED = 4 << 30  # bytes of images that are kept decoded; the others are kept as files in memory
CROPS_AHEAD = 4  # batches made ahead
CAPTION_AREA = 0.45  # share of an image's area from which its captions are taken to be true of a crop


@dataclass(frozen=True)
class TrainingPicture:
    """An image and its annotations.

    Attributes:
        key: file name without suffix.
        kept: uint8 [H, W, 3], or the bytes of an image file, which is decoded at each use.
        captions: sentences.
        boxes: x0, y0, x1, y1 in pixels, [N, 4].
        labels: COCO category ids, [N].
    """

    key: str
    kept: npt.NDArray[np.uint8] | bytes
    captions: tuple[str, ...] = ()
    boxes: npt.NDArray[np.float32] = field(default_factory=lambda: np.zeros((0, 4), np.float32))
    labels: npt.NDArray[np.int64] = field(default_factory=lambda: np.zeros(0, np.int64))

    @property
    def rgb(self) -> npt.NDArray[np.uint8]:
        """The decoded image, uint8 [H, W, 3]."""
        return Picture.open(io.BytesIO(self.kept)).rgb if isinstance(self.kept, bytes) else self.kept

    @property
    def area(self) -> int:
        """Number of pixels. Only the header of a file is read."""
        if isinstance(self.kept, bytes):
            with Image.open(io.BytesIO(self.kept)) as image:
                return image.width * image.height
        return self.kept.shape[0] * self.kept.shape[1]


def read_pictures(
    sources: Sequence[str | Path], smallest: int, progress: Callable[[str], None] | None = None
) -> list[TrainingPicture]:
    """Read all images in folders, files and tar shards (WebDataset: KEY.jpg, KEY.png …, and KEY.json).

    KEY.json is the record of an image, with any of captions, boxes and labels as in TrainingPicture. Images
    in folders may instead have captions.json and instances.json, see `trifocal.data.coco`.

    Args:
        sources: folders (searched recursively), image files, .tar shards.
        smallest: length of a side in pixels; smaller images are skipped, and so are unreadable ones.
        progress: called with the key of each image, and the reason if it is skipped because it cannot be
            read.

    Raises:
        OptionError: if a source does not exist, no image is left, or an annotation file has another layout.
    """
    pictures = []
    left = DECODED
    for key, data, record in _files(sources):
        text = key
        try:
            picture = Picture.open(io.BytesIO(data))
            if min(picture.width, picture.height) >= smallest:
                left -= picture.rgb.nbytes
                pictures.append(
                    TrainingPicture(key, picture.rgb if left >= 0 else data, *_read_record(record))
                )
        except (PictureError, ValueError, TypeError) as error:
            text = f"{key}, left out: {error}"
        if progress:
            progress(text)
    if not pictures:
        raise OptionError(
            f"No image of at least {smallest} pixels a side was found in {', '.join(map(str, sources))}."
        )
    return pictures


def split(pictures: Sequence[TrainingPicture]) -> tuple[list[TrainingPicture], list[TrainingPicture]]:
    """Split images into those for training and those held out.

    One in HELD_OUT_ONE_IN is held out by a hash of its key, the same on every machine. If the hash selects
    none of a few images, those with the lowest remainder are held out.

    Raises:
        OptionError: if none is left for training.
    """
    remainders = [_hash(p.key) % HELD_OUT_ONE_IN for p in pictures]
    lowest = min(remainders)
    held = [p for p, remainder in zip(pictures, remainders) if remainder == lowest]
    training = [p for p, remainder in zip(pictures, remainders) if remainder > lowest]
    if not training:
        raise OptionError("Training needs more images, since at least one is held out for validation.")
    return training, held


@dataclass(frozen=True)
class CropBatch:
    """Crops, uint8 [B, size, size, 3], and a text for each, "" where there is none.

    `boxes` are those of the objects in each crop, x0, y0, x1, y1 in its pixels, [N, 4].
    """

    rgb: npt.NDArray[np.uint8]
    texts: tuple[str, ...]
    boxes: tuple[npt.NDArray[np.float32], ...]


class Crops(Prefetcher[CropBatch]):
    """Endless batches of random crops, randomly mirrored, with texts. The same arguments give the same
    batches.

    The text of a crop is a caption of the image, if the crop covers most of it, or names of the objects in
    the crop.

    Args:
        pictures: drawn with a probability proportional to the square root of their area.
        batch: crops in a batch.
        size: of a crop in pixels; no image may be smaller.
        seed: of images, positions, mirroring and texts.
    """

    def __init__(self, pictures: Sequence[TrainingPicture], batch: int, size: int, seed: int) -> None:
        self.pictures = pictures
        self.batch = batch
        self.size = size
        self.random = np.random.default_rng(seed)
        self.text_random = np.random.default_rng(
            seed + 1
        )  # a second one, so that texts do not change the crops
        areas = np.array([picture.area for picture in pictures], dtype=np.float64)
        self.weights = np.sqrt(areas) / np.sqrt(areas).sum()
        super().__init__(CROPS_AHEAD)

    def _make(self) -> CropBatch:
        chosen = self.random.choice(len(self.pictures), self.batch, p=self.weights)
        crops = [self._crop(self.pictures[i]) for i in chosen]
        rgb, texts, boxes = zip(*crops, strict=True)
        return CropBatch(np.stack(rgb), texts, boxes)

    def _crop(self, picture: TrainingPicture) -> tuple[npt.NDArray[np.uint8], str, npt.NDArray[np.float32]]:
        rgb = picture.rgb
        height, width = rgb.shape[:2]
        top = int(self.random.integers(height - self.size + 1))
        left = int(self.random.integers(width - self.size + 1))
        crop = rgb[top : top + self.size, left : left + self.size]
        boxes, seen = clip_boxes(picture.boxes, (left, top, left + self.size, top + self.size))
        most = self.size**2 > CAPTION_AREA * height * width or not len(picture.labels)
        text = sample_text(picture.captions if most else (), picture.labels[seen], self.text_random)
        if self.random.random() < 0.5:
            crop, boxes = crop[:, ::-1], mirrored_boxes(boxes, self.size)
        return crop, text, boxes[seen]


def mirrored_boxes(boxes: npt.NDArray[np.float32], width: int) -> npt.NDArray[np.float32]:
    """The boxes in the image mirrored from left to right."""
    return np.stack([width - boxes[:, 2], boxes[:, 1], width - boxes[:, 0], boxes[:, 3]], axis=1)


def centre_crop(rgb: npt.NDArray[np.uint8], size: int) -> npt.NDArray[np.uint8]:
    """The central size × size pixels."""
    top, left = (rgb.shape[0] - size) // 2, (rgb.shape[1] - size) // 2
    return rgb[top : top + size, left : left + size]


def _files(sources: Sequence[str | Path]) -> Iterator[tuple[str, bytes, Record]]:
    """Key, bytes and record of each image."""
    for source in map(Path, sources):
        if not source.exists():
            raise OptionError(f"There is no {source}; pass a folder, an image or a .tar shard.")
        if source.suffix == ".tar":
            yield from _shard(source)
            continue
        folder = source if source.is_dir() else source.parent
        captions, boxes = read_captions(folder), read_boxes(folder)
        for path in sorted(source.rglob("*")) if source.is_dir() else [source]:
            own = path.with_suffix(".json")
            if path.suffix == ".tar":
                yield from _shard(path)
            elif is_picture(path) and own.exists():
                yield path.stem, path.read_bytes(), own.read_bytes()
            elif is_picture(path):
                found = captions.get(path.name, ()), *boxes.get(path.name, NO_BOXES)
                yield path.stem, path.read_bytes(), found


def _shard(path: Path) -> Iterator[tuple[str, bytes, Record]]:
    """Images of a WebDataset shard, in which the files of a key follow each other."""
    with tarfile.open(path) as archive:
        picture, record, last = b"", b"", ""
        for member in archive:
            name = Path(member.name)
            content = archive.extractfile(member)
            if content is None:
                continue
            if name.stem != last and picture:
                yield last, picture, record
            if name.stem != last:
                picture, record, last = b"", b"", name.stem
            if is_picture(name):
                picture = content.read()
            elif name.suffix == ".json":
                record = content.read()
        if picture:
            yield last, picture, record


def _read_record(source: Record) -> Annotations:
    """Parse a record. Raises ValueError or TypeError if it is malformed."""
    if not isinstance(source, bytes):
        return source
    record = json.loads(source) if source else {}
    boxes = np.asarray(record.get("boxes", ()), np.float32).reshape(-1, 4)
    labels = np.asarray(record.get("labels", ()), np.int64)
    if len(boxes) != len(labels):
        raise ValueError(f"its record has {len(boxes)} boxes and {len(labels)} labels.")
    return tuple(map(str, record.get("captions", ()))), boxes, labels


def _hash(key: str) -> int:
    return int.from_bytes(hashlib.sha256(key.encode()).digest()[:8], "big")
