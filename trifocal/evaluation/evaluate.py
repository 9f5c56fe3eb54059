"""Every number from real files: a picture is coded to a file, the file is read back, decoded and compared."""

import os
import tempfile
import time
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Protocol, TypeVar

import numpy as np
from numpy.typing import NDArray

from trifocal.container import Bitstream
from trifocal.errors import OptionError, PictureError, TrifocalError
from trifocal.evaluation import metrics
from trifocal.evaluation.baselines import RIVALS, rivals
from trifocal.evaluation.rows import Row, Table
from trifocal.pictures import Picture, list_pictures

__all__ = ["QUALITIES", "Subject", "evaluate"]

QUALITIES = (10.0, 30.0, 50.0, 70.0, 90.0)
SMALL = f"MS-SSIM needs {metrics.MS_SSIM_SIDE} pixels a side"
Result = TypeVar("Result")
CLEAR = "alpha is coded, not compared"


class Subject(Protocol):
    """What can be measured: a name, the fingerprint of its weights ("" without), and a way to bytes and back."""

    @property
    def name(self) -> str: ...
    @property
    def weights(self) -> str: ...
    def encode(self, picture: Picture, quality: float) -> bytes: ...
    def decode(self, data: bytes) -> NDArray[np.uint8]: ...


class PresetSubject:
    """One of our own presets. Raises PresetError, WeightsError, when it is made."""

    def __init__(self, name: str) -> None:
        from trifocal.presets import load

        self.name = name
        self.codec = load(name)
        self.weights = f"{self.codec.fingerprint:04x}"

    def encode(self, picture: Picture, quality: float) -> bytes:
        return self.codec.encode(picture, quality=quality).to_bytes()

    def decode(self, data: bytes) -> NDArray[np.uint8]:
        return self.codec.decode(Bitstream.from_bytes(data)).picture.rgb


def evaluate(
    presets: Sequence[str | Subject],
    data: str | os.PathLike[str],
    out: str | os.PathLike[str],
    qualities: Sequence[float] = QUALITIES,
    resume: bool = False,
    progress: Callable[[float], None] | None = None,
    note: Callable[[str], None] | None = None,
) -> list[Row]:
    """Measures each preset (or rival: avif, webp, jpeg) on each picture of the folder `data` at each quality.

    Rows are appended to the CSV file `out` as they come; with `resume`, those that are there are kept, unless the
    preset's weights have changed since. `progress` is called with the fraction done, 0..1, `note` with a sentence
    for each thing that failed. Gives the rows that were asked for, old and new. What fails does not stop the rest;
    PictureError is raised in the end, with those sentences where there is no `note`. Raises OptionError and
    MissingExtra before anything is done.
    """
    metrics.check_installed()
    presets = list(dict.fromkeys(presets))
    names = list_pictures([data], recursive=True)
    check_request(presets, names, data, qualities)
    table = Table(out, resume)
    run = Run(Path(data), names, sorted(set(map(float, qualities))), table, note or (lambda sentence: None))
    for number, preset in enumerate(presets):
        for fraction in run.preset(preset):
            if progress is not None:
                progress((number + fraction) / len(presets))
    if run.failures:
        said = run.failures if note is None else [f"{len(run.failures)} failed."]
        raise PictureError(f"{' '.join(said)} All other rows are in {table.path}.")
    return run.rows


def check_request(
    presets: Sequence[str | Subject], names: Sequence[Path], data: object, qualities: Sequence[float]
) -> None:
    if not presets or not qualities:
        raise OptionError("Name at least one preset and one quality to measure.")
    if not names:
        raise OptionError(f"There is no picture in the folder {data}.")
    wrong = [quality for quality in qualities if not 0 <= quality <= 100]
    if wrong:
        raise OptionError(f"A quality is 0 to 100, not {wrong[0]:g}.")


class Run:
    """One call of `evaluate`: what it was asked, and what became of it."""

    def __init__(
        self,
        root: Path,
        names: Sequence[Path],
        qualities: Sequence[float],
        table: Table,
        note: Callable[[str], None],
    ) -> None:
        self.root, self.names, self.qualities = root, names, qualities
        self.table, self.note = table, note
        self.rows: list[Row] = []
        self.failures: list[str] = []

    def fail(self, sentence: str) -> None:
        if sentence not in self.failures:
            self.failures.append(sentence)
            self.note(sentence)

    def preset(self, preset: str | Subject) -> Iterator[float]:
        """Measures one preset, and gives the fraction done after each picture."""
        subject = self.attempt(preset, subject_of, preset) if isinstance(preset, str) else preset
        if subject is None:
            yield 1.0
            return
        known = self.known(subject)
        with tempfile.TemporaryDirectory(prefix="trifocal-") as folder:
            for number, path in enumerate(self.names):
                self.picture(subject, path, known, Path(folder) / "file")
                yield (number + 1) / len(self.names)

    def known(self, subject: Subject) -> dict[tuple[str, float], Row]:
        """Rows of this subject that are there already and that its present weights would give again."""
        mine = [row for row in self.table.rows if row.preset == subject.name]
        stale = [row for row in mine if row.weights != subject.weights]
        if stale:
            self.note(f"{subject.name} has other weights than {len(stale)} rows were measured with; they go.")
            self.table.drop(stale)
        return {(row.picture, row.quality): row for row in mine if row not in stale}

    def picture(self, subject: Subject, path: Path, known: dict[tuple[str, float], Row], file: Path) -> None:
        name = path.relative_to(self.root).as_posix() if path != self.root else path.name
        self.rows += [known[name, quality] for quality in self.qualities if (name, quality) in known]
        missing = [quality for quality in self.qualities if (name, quality) not in known]
        if not missing:
            return
        picture = self.attempt(name, Picture.open, path)
        if picture is None:
            return
        for quality in missing:
            what = f"{subject.name}, {name}, quality {quality:g}"
            row = self.attempt(what, measure, subject, picture, name, quality, file)
            if row is not None:
                self.table.add(row)
                self.rows.append(row)

    def attempt(self, name: str, work: Callable[..., Result], *arguments: object) -> Result | None:
        """What is expected to go wrong in `work` becomes a sentence among the failures, and None."""
        try:
            return work(*arguments)
        except (TrifocalError, OSError) as error:
            self.fail(sentence_of(error, name))
            return None


def subject_of(name: str) -> Subject:
    """By name: a rival, or else a preset."""
    if name not in RIVALS:
        return PresetSubject(name)
    if RIVALS[name] not in rivals():
        raise OptionError(f"This Pillow does not write {name}; pip install --upgrade pillow.")
    return RIVALS[name]


def measure(subject: Subject, picture: Picture, name: str, quality: float, file: Path) -> Row:
    """One row: to a real file, and back from it."""
    begun = time.perf_counter()
    data = subject.encode(picture, quality)
    encoded = time.perf_counter()
    file.write_bytes(data)
    size = file.stat().st_size
    read = file.read_bytes()
    reading = time.perf_counter()
    decoded = subject.decode(read)
    done = time.perf_counter()
    similarity = metrics.ms_ssim(decoded, picture.rgb)
    notes = [SMALL] * (similarity is None) + [CLEAR] * (picture.alpha is not None)
    return Row(
        preset=subject.name,
        picture=name,
        width=picture.width,
        height=picture.height,
        quality=quality,
        bytes=size,
        bpp=8 * size / (picture.width * picture.height),
        psnr=metrics.psnr(decoded, picture.rgb),
        ms_ssim=similarity,
        encode_s=encoded - begun,
        decode_s=done - reading,
        weights=subject.weights,
        note="; ".join(notes),
    )


def sentence_of(error: Exception, name: str) -> str:
    """A whole sentence that names what failed."""
    if isinstance(error, OSError) and error.strerror:
        return f"{error.filename or name}: {error.strerror.lower().rstrip('.')}."
    text = str(error)
    return text if Path(name).name in text else f"{name}: {text}"
