"""The table of measurements: a row per codec, picture and quality, written as it comes; and its means."""

import csv
import io
import os
import statistics
from collections.abc import Iterable, Sequence
from dataclasses import asdict, dataclass, fields
from pathlib import Path
from typing import Any

from trifocal.errors import OptionError
from trifocal.files import replacing

__all__ = ["Mean", "Row", "Table", "means", "read_rows", "write_means"]

DIGITS = {"bpp": 6, "psnr": 4, "ms_ssim": 6, "encode_s": 4, "decode_s": 4}


@dataclass(frozen=True)
class Row:
    """One picture at one quality. `bytes` are those of the file, headers and all; `bpp` is per pixel of the picture."""

    preset: str
    picture: str  # relative to the folder, with forward slashes
    width: int
    height: int
    quality: float
    bytes: int
    bpp: float
    psnr: float  # dB
    ms_ssim: float | None
    encode_s: float  # from pixels in memory to the file's bytes
    decode_s: float  # and back
    weights: str  # the fingerprint of the weights in hexadecimal; empty for a codec that has none
    note: str

    @property
    def key(self) -> tuple[str, str, float]:
        return self.preset, self.picture, self.quality


@dataclass(frozen=True)
class Mean:
    """One codec at one quality, over pictures: bpp, PSNR and MS-SSIM are means, times are medians.

    `ms_ssim` is None as soon as one picture has none, since a mean over other pictures than bpp's would mislead.
    """

    preset: str
    quality: float
    pictures: int
    bpp: float
    psnr: float
    ms_ssim: float | None
    encode_s: float
    decode_s: float
    weights: str


class Table:
    """A CSV file that grows by a row at a time, so that a run that dies keeps all that it had measured.

    An old file is read if `resume`, and replaced otherwise; not before the first new row is there to be written.
    Raises OptionError where the old file is no such table.
    """

    def __init__(self, path: str | os.PathLike[str], resume: bool) -> None:
        self.path = Path(path)
        self.rows = read_rows(self.path) if resume and self.path.exists() else []
        self._begun = False

    def add(self, row: Row) -> None:
        self.rows.append(row)
        if not self._begun:
            self.path.parent.mkdir(parents=True, exist_ok=True)
            _write(self.path, Row, self.rows)
            self._begun = True
            return
        with open(self.path, "a", encoding="utf-8", newline="") as stream:
            _writer(stream, Row).writerow(_cells(row))

    def drop(self, rows: Sequence[Row]) -> None:
        """Takes rows out; the file follows when the next row is added."""
        self.rows = [row for row in self.rows if row not in rows]
        self._begun = False


def read_rows(path: str | os.PathLike[str]) -> list[Row]:
    """The rows of a table; a last line that a dying run left unfinished is dropped. Raises OptionError, OSError."""
    text = Path(path).read_text("utf-8")
    complete = text[: text.rfind("\n") + 1]
    reader = csv.DictReader(io.StringIO(complete, newline=""))
    names = [field.name for field in fields(Row)]
    if text and reader.fieldnames != names:
        raise OptionError(f"{path} is not a table of `trifocal evaluate`; name another with --out.")
    try:
        return [_row(cells) for cells in reader]
    except (ValueError, TypeError):
        raise OptionError(f"Line {reader.line_num} of {path} is damaged; mend or delete it.") from None


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
    _write(Path(path), Mean, table)


def _mean(key: tuple[str, float, str], rows: Sequence[Row]) -> Mean:
    preset, quality, weights = key
    similarities = [row.ms_ssim for row in rows if row.ms_ssim is not None]
    return Mean(
        preset=preset,
        quality=quality,
        pictures=len(rows),
        bpp=statistics.fmean(row.bpp for row in rows),
        psnr=statistics.fmean(row.psnr for row in rows),
        ms_ssim=statistics.fmean(similarities) if len(similarities) == len(rows) else None,
        encode_s=statistics.median(row.encode_s for row in rows),
        decode_s=statistics.median(row.decode_s for row in rows),
        weights=weights,
    )


def _write(path: Path, kind: type, table: Sequence[Row] | Sequence[Mean]) -> None:
    text = io.StringIO(newline="")
    writer = _writer(text, kind)
    writer.writeheader()
    writer.writerows(map(_cells, table))
    with replacing(path) as stream:
        stream.write(text.getvalue().encode())


def _writer(stream: Any, kind: type) -> "csv.DictWriter[str]":
    return csv.DictWriter(stream, [field.name for field in fields(kind)], lineterminator="\n")


def _cells(row: Row | Mean) -> dict[str, str]:
    return {name: _cell(name, value) for name, value in asdict(row).items()}


def _cell(name: str, value: object) -> str:
    if value is None:
        return ""
    if name in DIGITS:
        return f"{value:.{DIGITS[name]}f}"
    return f"{value:g}" if isinstance(value, float) else str(value)


def _row(cells: dict[str, str]) -> Row:
    return Row(
        preset=cells["preset"],
        picture=cells["picture"],
        width=int(cells["width"]),
        height=int(cells["height"]),
        quality=float(cells["quality"]),
        bytes=int(cells["bytes"]),
        bpp=float(cells["bpp"]),
        psnr=float(cells["psnr"]),
        ms_ssim=float(cells["ms_ssim"]) if cells["ms_ssim"] else None,
        encode_s=float(cells["encode_s"]),
        decode_s=float(cells["decode_s"]),
        weights=cells["weights"],
        note=cells["note"],
    )
