"""Training pictures: read once, kept decoded in memory, served as random crops."""

import hashlib
import io
import tarfile
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import numpy.typing as npt

from trifocal.errors import OptionError, PictureError
from trifocal.pictures import Picture, is_picture

HELD_OUT_ONE_IN = 40


@dataclass(frozen=True)
class TrainingPicture:
    """key: file name without its suffix; rgb: uint8, [H, W, 3]."""

    key: str
    rgb: npt.NDArray[np.uint8]


def read_pictures(
    sources: Sequence[str | Path], smallest: int, progress: Callable[[str], None] | None = None
) -> list[TrainingPicture]:
    """Decodes every picture of the folders, files and tar shards (WebDataset: KEY.jpg, KEY.png …).

    Args:
        sources: folders (searched recursively), picture files, .tar shards.
        smallest: pictures with a shorter side than this, in pixels, are left out; so are those that cannot be read.
        progress: called with the key of each picture that was read, or with why it was not.

    Raises:
        OptionError: if a source does not exist or no picture is left.
    """
    pictures = []
    for key, data in _files(sources):
        said = key
        try:
            picture = Picture.open(io.BytesIO(data))
            if min(picture.width, picture.height) >= smallest:
                pictures.append(TrainingPicture(key, picture.rgb))
        except PictureError as error:
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


class Crops:
    """Random crops with random flips, [B, size, size, 3] uint8, without end."""

    def __init__(self, pictures: Sequence[TrainingPicture], batch: int, size: int, seed: int) -> None:
        self.pictures = pictures
        self.batch = batch
        self.size = size
        self.random = np.random.default_rng(seed)
        areas = np.array([p.rgb.shape[0] * p.rgb.shape[1] for p in pictures], dtype=np.float64)
        self.weights = np.sqrt(areas) / np.sqrt(areas).sum()

    def __iter__(self) -> Iterator[npt.NDArray[np.uint8]]:
        while True:
            chosen = self.random.choice(len(self.pictures), self.batch, p=self.weights)
            yield np.stack([self._crop(self.pictures[i].rgb) for i in chosen])

    def _crop(self, rgb: npt.NDArray[np.uint8]) -> npt.NDArray[np.uint8]:
        top = self.random.integers(rgb.shape[0] - self.size + 1)
        left = self.random.integers(rgb.shape[1] - self.size + 1)
        crop = rgb[top : top + self.size, left : left + self.size]
        return crop[:, ::-1] if self.random.random() < 0.5 else crop


def centre_crop(rgb: npt.NDArray[np.uint8], size: int) -> npt.NDArray[np.uint8]:
    """The middle size×size pixels."""
    top, left = (rgb.shape[0] - size) // 2, (rgb.shape[1] - size) // 2
    return rgb[top : top + size, left : left + size]


def _files(sources: Sequence[str | Path]) -> Iterator[tuple[str, bytes]]:
    for source in map(Path, sources):
        if not source.exists():
            raise OptionError(f"There is no {source}; name a folder, a picture or a .tar shard.")
        if source.suffix == ".tar":
            yield from _shard(source)
            continue
        for path in sorted(source.rglob("*")) if source.is_dir() else [source]:
            if path.suffix == ".tar":
                yield from _shard(path)
            elif is_picture(path):
                yield path.stem, path.read_bytes()


def _shard(path: Path) -> Iterator[tuple[str, bytes]]:
    with tarfile.open(path) as archive:
        for member in archive:
            name = Path(member.name)
            content = archive.extractfile(member) if is_picture(name) else None
            if content is not None:
                yield name.stem, content.read()


def _hash(key: str) -> int:
    return int.from_bytes(hashlib.sha256(key.encode()).digest()[:8], "big")
