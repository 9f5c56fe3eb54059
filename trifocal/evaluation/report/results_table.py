"""The table of measurements: a row per codec, picture and quality, written as it comes; and its means."""

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
    "Mean",
    "Row",
    "Table",
    "columns_of",
    "means",
    "read_means",
    "read_rows",
    "summary_of",
    "write_means",
]

DIGITS = {"bpp": 6, "encode_s": 4, "decode_s": 4}
VALUE_DIGITS = 6


@dataclass(frozen=True)
class Row:
    """One picture at one quality. `bytes` are those of the file, headers and all; `bpp` is per pixel of the picture.

    `values` are the metrics by column; None for one that cannot judge this picture, and `note` says why.
    """

    preset: str
    picture: str  # relative to the folder, with forward slashes
    width: int
    height: int
    quality: float
    bytes: int
    bpp: float
    encode_s: float  # from pixels in memory to the file's bytes
    decode_s: float  # and back
    weights: str  # the fingerprint of the weights in hexadecimal; empty for a codec that has none
    note: str
    values: Mapping[str, float | None]

    @property
    def key(self) -> tuple[str, str, float]:
        return self.preset, self.picture, self.quality


@dataclass(frozen=True)
class Mean:
    """One codec at one quality, over pictures: bpp and metrics are means, times are medians.

    A metric is None as soon as one picture has none, since a mean over other pictures than bpp's would mislead. Beside the
    metrics of pictures, `values` holds those of the whole set (FID, AP ...), where they were measured.
    """

    preset: str
    quality: float
    pictures: int
    bpp: float
    encode_s: float
    decode_s: float
    weights: str
    values: Mapping[str, float | None]


Line = TypeVar("Line", Row, Mean)


class Table:
    """A CSV file that grows by a row at a time, so that a run that dies keeps all that it had measured.

    An old file is read if `resume`, and replaced otherwise; not before the first new row is there to be written.
    Raises OptionError where the old file is no such table.

    Args:
        path: the file.
        resume: whether its rows are kept.
        columns: the metrics of the rows to come. Old rows keep theirs; what one lacks of the columns stays empty.
    """

    def __init__(self, path: str | os.PathLike[str], resume: bool, columns: Sequence[str] = ()) -> None:
        self.path = Path(path)
        self.rows = read_rows(self.path) if resume and self.path.exists() else []
        self.columns = list(dict.fromkeys([*columns_of(self.rows), *columns]))
        self._begun = False

    def add(self, row: Row) -> None:
        self.rows.append(row)
        if not self._begun:
            self.path.parent.mkdir(parents=True, exist_ok=True)
            _write(self.path, Row, self.rows, self.columns)
            self._begun = True
            return
        with open(self.path, "a", encoding="utf-8", newline="") as stream:
            _writer(stream, Row, self.columns).writerow(_cells(row))

    def drop(self, rows: Sequence[Row]) -> None:
        """Takes rows out; the file follows when the next row is added."""
        self.rows = [row for row in self.rows if row not in rows]
        self._begun = False


def read_rows(path: str | os.PathLike[str]) -> list[Row]:
    """The rows of a table; a last line that a dying run left unfinished is dropped. Raises OptionError, OSError."""
    return _read(path, Row)


def summary_of(table: Path) -> Path:
    """Where the means of a table's rows are."""
    return table.with_name(f"{table.stem}_summary.csv")


def read_means(path: str | os.PathLike[str]) -> list[Mean]:
    """What `write_means` wrote. Raises OptionError, OSError."""
    return _read(path, Mean)


def means(rows: Iterable[Row]) -> list[Mean]:
    """A Mean for each codec and quality, in order of appearance and of quality."""
    groups: dict[tuple[str, float, str], list[Row]] = {}
    for row in rows:
        groups.setdefault((row.preset, row.quality, row.weights), []).append(row)
    order = {preset: place for place, preset in enumerate(dict.fromkeys(key[0] for key in groups))}
    return [
        _mean(*item) for item in sorted(groups.items(), key=lambda item: (order[item[0][0]], item[0][1:]))
    ]


def write_means(path: str | os.PathLike[str], table: Sequence[Mean]) -> None:
    """Writes the file at once or not at all."""
    _write(Path(path), Mean, table, columns_of(table))


def columns_of(table: Iterable[Row | Mean]) -> list[str]:
    """The metrics that any of them has, in order of appearance."""
    return list(dict.fromkeys(column for row in table for column in row.values))


def plain_fields(kind: type) -> list[str]:
    """The columns that come before those of the metrics."""
    return [field.name for field in fields(kind) if field.name != "values"]


def _mean(key: tuple[str, float, str], rows: Sequence[Row]) -> Mean:
    preset, quality, weights = key
    return Mean(
        preset=preset,
        quality=quality,
        pictures=len(rows),
        bpp=statistics.fmean(row.bpp for row in rows),
        encode_s=statistics.median(row.encode_s for row in rows),
        decode_s=statistics.median(row.decode_s for row in rows),
        weights=weights,
        values={column: _mean_of([row.values.get(column) for row in rows]) for column in columns_of(rows)},
    )


def _mean_of(values: Sequence[float | None]) -> float | None:
    known = [value for value in values if value is not None]
    return statistics.fmean(known) if len(known) == len(values) else None


def _write(path: Path, kind: type, table: Sequence[Row] | Sequence[Mean], columns: Sequence[str]) -> None:
    text = io.StringIO(newline="")
    writer = _writer(text, kind, columns)
    writer.writeheader()
    writer.writerows(map(_cells, table))
    with atomic_write(path) as stream:
        stream.write(text.getvalue().encode())


def _writer(stream: Any, kind: type, columns: Sequence[str]) -> csv.DictWriter[str]:
    return csv.DictWriter(stream, [*plain_fields(kind), *columns], lineterminator="\n")


def _cells(row: Row | Mean) -> dict[str, str]:
    cells = {name: _cell(name, getattr(row, name)) for name in plain_fields(type(row))}
    return cells | {
        name: "" if value is None else f"{value:.{VALUE_DIGITS}f}" for name, value in row.values.items()
    }


def _cell(name: str, value: object) -> str:
    if name in DIGITS:
        return f"{value:.{DIGITS[name]}f}"
    return f"{value:g}" if isinstance(value, float) else str(value)


def _read(path: str | os.PathLike[str], kind: type[Line]) -> list[Line]:
    text = Path(path).read_text("utf-8")
    complete = text[: text.rfind("\n") + 1]
    reader = csv.DictReader(io.StringIO(complete, newline=""))
    names = plain_fields(kind)
    if text and list(reader.fieldnames or ())[: len(names)] != names:
        raise OptionError(f"{path} is not a table of `trifocal evaluate`; name another with --out.")
    try:
        return [_line(kind, cells) for cells in reader]
    except (ValueError, TypeError):
        raise OptionError(f"Line {reader.line_num} of {path} is damaged; mend or delete it.") from None


def _line(kind: type[Line], cells: dict[str, str]) -> Line:
    plain = {field.name: _KINDS[str(field.type)] for field in fields(kind) if field.name != "values"}
    values = {name: float(cell) if cell else None for name, cell in cells.items() if name not in plain}
    return kind(**{name: of(cells[name]) for name, of in plain.items()}, values=values)


_KINDS: dict[str, Callable[[str], Any]] = {"str": str, "int": int, "float": float}
