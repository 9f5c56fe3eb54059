"""Result tables: a row per codec, image and quality, appended as measured, and their means."""

from __future__ import annotations

import csv
import io
import os
import statistics
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, fields
from pathlib import Path
from typing import Any, TypeVar

from trifocal.errors import OptionError
from trifocal.utils.files import atomic_write

__all__ = [
    "POOLED_BPP",
    "ImageResult",
    "MeanResult",
    "ResultsFile",
    "mean_results",
    "metric_columns",
    "read_means",
    "read_results",
    "summary_path",
    "write_means",
]

DIGITS = {"bpp": 6, "encode_s": 4, "decode_s": 4}
VALUE_DIGITS = 6
POOLED_BPP = "pooled_bpp"  # a column of means: the bits of all files over the pixels of all images


@dataclass(frozen=True)
class ImageResult:
    """One image at one quality.

    Attributes:
        preset: the name of the codec, as `Variant.name`.
        picture: the path of the image in its folder, with forward slashes.
        bytes: of the file, with its header.
        bpp: bits per pixel of the original image.
        encode_s: seconds from pixels in memory to bytes.
        decode_s: seconds from bytes to pixels.
        weights: the fingerprint in hexadecimal; empty for a codec without weights.
        note: reasons for missing metrics.
        values: the metrics by column; None for one that cannot measure this image.
    """

    preset: str
    picture: str
    width: int
    height: int
    quality: float
    bytes: int
    bpp: float
    encode_s: float
    decode_s: float
    weights: str
    note: str
    values: Mapping[str, float | None]

    @property
    def key(self) -> tuple[str, str, float]:
        return self.preset, self.picture, self.quality


@dataclass(frozen=True)
class MeanResult:
    """One codec at one quality over all images: means of bpp and metrics, medians of times.

    `values` also holds metrics of the whole set (FID, AP ...), and `pooled_bpp`: the bits of all files over
    the pixels of all images, where `bpp` is the mean of the images' bits per pixel. A metric is None if one
    image has none: its mean would cover other images than that of bpp.
    """

    preset: str
    quality: float
    pictures: int
    bpp: float
    encode_s: float
    decode_s: float
    weights: str
    values: Mapping[str, float | None]


Record = TypeVar("Record", ImageResult, MeanResult)


class ResultsFile:
    """A CSV file that is written row by row, so that an interrupted evaluation can be resumed.

    The old file is replaced when the first new row is added.

    Args:
        path: the file.
        resume: whether to keep the rows of the old file.
        columns: the metrics of the new rows. Old rows keep theirs; cells of missing columns stay empty.

    Raises:
        OptionError: if the old file is not such a table.
    """

    def __init__(self, path: str | os.PathLike[str], resume: bool, columns: Sequence[str] = ()) -> None:
        self.path = Path(path)
        self.rows = read_results(self.path) if resume and self.path.exists() else []
        self.columns = list(dict.fromkeys([*metric_columns(self.rows), *columns]))
        self._begun = False

    def add(self, row: ImageResult) -> None:
        """Append a row to the file. Raises OSError."""
        self.rows.append(row)
        if not self._begun:
            self.path.parent.mkdir(parents=True, exist_ok=True)
            _write(self.path, ImageResult, self.rows, self.columns)
            self._begun = True
            return
        with open(self.path, "a", encoding="utf-8", newline="") as stream:
            _writer(stream, ImageResult, self.columns).writerow(_cells(row))

    def drop(self, rows: Sequence[ImageResult]) -> None:
        """Remove rows; the file changes when the next row is added."""
        self.rows = [row for row in self.rows if row not in rows]
        self._begun = False


def read_results(path: str | os.PathLike[str]) -> list[ImageResult]:
    """The rows of a table; an incomplete last line is dropped. Raises OptionError, OSError."""
    return _read(path, ImageResult)


def summary_path(table: Path) -> Path:
    """The file of a table's means: results.csv → results_summary.csv."""
    return table.with_name(f"{table.stem}_summary.csv")


def read_means(path: str | os.PathLike[str]) -> list[MeanResult]:
    """Read the file that `write_means` wrote. Raises OptionError, OSError."""
    return _read(path, MeanResult)


def mean_results(rows: Iterable[ImageResult]) -> list[MeanResult]:
    """The means for each codec and quality: codecs in order of appearance, qualities rising."""
    groups: dict[tuple[str, float, str], list[ImageResult]] = {}
    for row in rows:
        groups.setdefault((row.preset, row.quality, row.weights), []).append(row)
    order = {preset: place for place, preset in enumerate(dict.fromkeys(key[0] for key in groups))}
    return [
        _mean(*item) for item in sorted(groups.items(), key=lambda item: (order[item[0][0]], item[0][1:]))
    ]


def write_means(path: str | os.PathLike[str], table: Sequence[MeanResult]) -> None:
    """Write means as CSV, atomically. Raises OSError."""
    _write(Path(path), MeanResult, table, metric_columns(table))


def metric_columns(table: Iterable[ImageResult | MeanResult]) -> list[str]:
    """The columns of metrics that any row has, in order of appearance."""
    return list(dict.fromkeys(column for row in table for column in row.values))


def _fixed_columns(kind: type) -> list[str]:
    """The columns before those of the metrics."""
    return [field.name for field in fields(kind) if field.name != "values"]


def _mean(key: tuple[str, float, str], rows: Sequence[ImageResult]) -> MeanResult:
    preset, quality, weights = key
    return MeanResult(
        preset=preset,
        quality=quality,
        pictures=len(rows),
        bpp=statistics.fmean(row.bpp for row in rows),
        encode_s=statistics.median(row.encode_s for row in rows),
        decode_s=statistics.median(row.decode_s for row in rows),
        weights=weights,
        values={POOLED_BPP: 8 * sum(row.bytes for row in rows) / sum(row.width * row.height for row in rows)}
        | {
            column: _mean_or_none([row.values.get(column) for row in rows]) for column in metric_columns(rows)
        },
    )


def _mean_or_none(values: Sequence[float | None]) -> float | None:
    known = [value for value in values if value is not None]
    return statistics.fmean(known) if len(known) == len(values) else None


def _write(
    path: Path, kind: type, table: Sequence[ImageResult] | Sequence[MeanResult], columns: Sequence[str]
) -> None:
    text = io.StringIO(newline="")
    writer = _writer(text, kind, columns)
    writer.writeheader()
    writer.writerows(map(_cells, table))
    with atomic_write(path) as stream:
        stream.write(text.getvalue().encode())


def _writer(stream: Any, kind: type, columns: Sequence[str]) -> csv.DictWriter[str]:
    return csv.DictWriter(stream, [*_fixed_columns(kind), *columns], lineterminator="\n")


def _cells(row: ImageResult | MeanResult) -> dict[str, str]:
    cells = {name: _cell(name, getattr(row, name)) for name in _fixed_columns(type(row))}
    return cells | {
        name: "" if value is None else f"{value:.{VALUE_DIGITS}f}" for name, value in row.values.items()
    }


def _cell(name: str, value: object) -> str:
    if name in DIGITS:
        return f"{value:.{DIGITS[name]}f}"
    return f"{value:g}" if isinstance(value, float) else str(value)


def _read(path: str | os.PathLike[str], kind: type[Record]) -> list[Record]:
    text = Path(path).read_text("utf-8")
    complete = text[: text.rfind("\n") + 1]
    reader = csv.DictReader(io.StringIO(complete, newline=""))
    names = _fixed_columns(kind)
    if text and list(reader.fieldnames or ())[: len(names)] != names:
        raise OptionError(f"{path} is not a table of `trifocal evaluate`; choose another file with --out.")
    try:
        return [_line(kind, cells) for cells in reader]
    except (ValueError, TypeError):
        raise OptionError(f"Line {reader.line_num} of {path} is damaged; fix or delete it.") from None


def _line(kind: type[Record], cells: dict[str, str]) -> Record:
    plain = {field.name: _KINDS[str(field.type)] for field in fields(kind) if field.name != "values"}
    values = {name: float(cell) if cell else None for name, cell in cells.items() if name not in plain}
    return kind(**{name: of(cells[name]) for name, of in plain.items()}, values=values)


_KINDS: dict[str, Callable[[str], Any]] = {"str": str, "int": int, "float": float}
