"""Training pictures: read once, kept in memory, served as random crops with words of their own."""

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

Said = tuple[tuple[str, ...], npt.NDArray[np.float32], npt.NDArray[np.int64]]  # captions, boxes, labels
Record = bytes | Said  # KEY.json as it is, or what it would say

NO_BOXES = np.zeros((0, 4), np.float32), np.zeros(0, np.int64)
HELD_OUT_ONE_IN = 40
DECODED = 4 << 30  # bytes of pictures that are kept decoded; more are kept as their files have them
CROPS_AHEAD = 4  # batches
MOST_OF_IT = 0.45  # of a picture's area: then its captions are taken to be true of a crop


@dataclass(frozen=True)
class TrainingPicture:
    """A picture, and what its record says of it, if it has one.

    Attributes:
        key: file name without its suffix.
        kept: uint8, [H, W, 3], or a picture file's bytes, which are decoded anew each time.
        captions: sentences.
        boxes: x0, y0, x1, y1 in pixels, [N, 4].
        labels: COCO's category ids, [N].
    """

    key: str
    kept: npt.NDArray[np.uint8] | bytes
    captions: tuple[str, ...] = ()
    boxes: npt.NDArray[np.float32] = field(default_factory=lambda: np.zeros((0, 4), np.float32))
    labels: npt.NDArray[np.int64] = field(default_factory=lambda: np.zeros(0, np.int64))

    @property
    def rgb(self) -> npt.NDArray[np.uint8]:
        """uint8, [H, W, 3]."""
        return Picture.open(io.BytesIO(self.kept)).rgb if isinstance(self.kept, bytes) else self.kept

    @property
    def area(self) -> int:
        """Pixels; of a file only its header is read."""
        if isinstance(self.kept, bytes):
            with Image.open(io.BytesIO(self.kept)) as image:
                return image.width * image.height
        return self.kept.shape[0] * self.kept.shape[1]


def read_pictures(
    sources: Sequence[str | Path], smallest: int, progress: Callable[[str], None] | None = None
) -> list[TrainingPicture]:
    """Reads every picture of the folders, files and tar shards (WebDataset: KEY.jpg, KEY.png …, and KEY.json).

    KEY.json is a picture's record: any of captions, boxes and labels, as in TrainingPicture. Where a folder's pictures have
    none, it may be in captions.json and instances.json, see `trifocal.data.coco`.

    Args:
        sources: folders (searched recursively), picture files, .tar shards.
        smallest: pictures with a shorter side than this, in pixels, are left out; so are those that cannot be read.
        progress: called with the key of each picture that was read, or with why it was not.

    Raises:
        OptionError: if a source does not exist or no picture is left, or for captions.json in another layout.
    """
    pictures = []
    room = DECODED
    for key, data, record in _files(sources):
        said = key
        try:
            picture = Picture.open(io.BytesIO(data))
            if min(picture.width, picture.height) >= smallest:
                room -= picture.rgb.nbytes
                pictures.append(
                    TrainingPicture(key, picture.rgb if room >= 0 else data, *_read_record(record))
                )
        except (PictureError, ValueError, TypeError) as error:
            said = f"{key}, left out: {error}"
        if progress:
            progress(said)
    if not pictures:
        raise OptionError(
            f"No picture of at least {smallest} pixels a side was found in {', '.join(map(str, sources))}."
        )
    return pictures


def split(pictures: Sequence[TrainingPicture]) -> tuple[list[TrainingPicture], list[TrainingPicture]]:
    """(for training, held out): one in HELD_OUT_ONE_IN by a hash of the key, the same on every machine.

    Of a few pictures, among which that finds none, it is those with the lowest remainder.

    Raises:
        OptionError: if none is left for training.
    """
    remainders = [_hash(p.key) % HELD_OUT_ONE_IN for p in pictures]
    lowest = min(remainders)
    held = [p for p, remainder in zip(pictures, remainders) if remainder == lowest]
    training = [p for p, remainder in zip(pictures, remainders) if remainder > lowest]
    if not training:
        raise OptionError("Training needs more pictures, since one at least is held out to measure on.")
    return training, held


@dataclass(frozen=True)
class CropBatch:
    """Crops, uint8 [B, size, size, 3], and words for each; "" where nothing is known."""

    rgb: npt.NDArray[np.uint8]
    texts: tuple[str, ...]


class Crops(Prefetcher[CropBatch]):
    """Random crops with random flips, without end. Each has words of its own: a caption of the picture where the crop is
    most of it, names of what is in the crop, or both in turn. The same arguments give the same batches in the same order.

    Args:
        pictures: drawn with a probability that grows as the root of their area.
        batch: crops in a batch.
        size: of a crop's sides, in pixels; no picture may be smaller.
        seed: of pictures, places, flips and words.
    """

    def __init__(self, pictures: Sequence[TrainingPicture], batch: int, size: int, seed: int) -> None:
        self.pictures = pictures
        self.batch = batch
        self.size = size
        self.random = np.random.default_rng(seed)
        self.saying = np.random.default_rng(seed + 1)  # apart, so that words change no crop
        areas = np.array([picture.area for picture in pictures], dtype=np.float64)
        self.weights = np.sqrt(areas) / np.sqrt(areas).sum()
        super().__init__(CROPS_AHEAD)

    def _make(self) -> CropBatch:
        chosen = self.random.choice(len(self.pictures), self.batch, p=self.weights)
        crops = [self._crop(self.pictures[i]) for i in chosen]
        return CropBatch(np.stack([rgb for rgb, _ in crops]), tuple(text for _, text in crops))

    def _crop(self, picture: TrainingPicture) -> tuple[npt.NDArray[np.uint8], str]:
        rgb = picture.rgb
        height, width = rgb.shape[:2]
        top = int(self.random.integers(height - self.size + 1))
        left = int(self.random.integers(width - self.size + 1))
        crop = rgb[top : top + self.size, left : left + self.size]
        _, seen = clip_boxes(picture.boxes, (left, top, left + self.size, top + self.size))
        most = self.size**2 > MOST_OF_IT * height * width or not len(picture.labels)
        text = sample_text(picture.captions if most else (), picture.labels[seen], self.saying)
        return (crop[:, ::-1] if self.random.random() < 0.5 else crop), text


def centre_crop(rgb: npt.NDArray[np.uint8], size: int) -> npt.NDArray[np.uint8]:
    """The middle size×size pixels."""
    top, left = (rgb.shape[0] - size) // 2, (rgb.shape[1] - size) // 2
    return rgb[top : top + size, left : left + size]


def _files(sources: Sequence[str | Path]) -> Iterator[tuple[str, bytes, Record]]:
    """Key and bytes of each picture, and what reads its record."""
    for source in map(Path, sources):
        if not source.exists():
            raise OptionError(f"There is no {source}; name a folder, a picture or a .tar shard.")
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
                said = captions.get(path.name, ()), *boxes.get(path.name, NO_BOXES)
                yield path.stem, path.read_bytes(), said


def _shard(path: Path) -> Iterator[tuple[str, bytes, Record]]:
    """WebDataset's order: the files of a key follow each other."""
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


def _read_record(given: Record) -> Said:
    """Raises ValueError and TypeError for one that is not as it should be."""
    if not isinstance(given, bytes):
        return given
    record = json.loads(given) if given else {}
    boxes = np.asarray(record.get("boxes", ()), np.float32).reshape(-1, 4)
    labels = np.asarray(record.get("labels", ()), np.int64)
    if len(boxes) != len(labels):
        raise ValueError(f"its record has {len(boxes)} boxes and {len(labels)} labels.")
    return tuple(map(str, record.get("captions", ()))), boxes, labels


def _hash(key: str) -> int:
    return int.from_bytes(hashlib.sha256(key.encode()).digest()[:8], "big")
