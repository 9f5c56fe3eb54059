"""The journal of a batch run: what was started and what was done, written by the workers as they go.

A run is divided into segments of at most 64 images. A segment's file has a JSON object on each line:
{"start": KEY} before an image is coded, and its row afterwards. A worker first reads the file of its
segment, so that it continues where a killed worker ended. An image that was started and has no row is coded
again, and its output is replaced by equal bytes.
"""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import Iterator
from dataclasses import asdict, dataclass
from functools import cached_property
from typing import Any

from trifocal.batch.storage import Folder

__all__ = ["Journal", "Row", "Segment"]

SETTINGS = "settings.json"
READ_AT_ONCE = 64  # segments


@dataclass(frozen=True, slots=True)
class Row:
    """One image of a manifest.

    Attributes:
        key: its path below the folder of the inputs.
        bytes: of the file that was written; of the input for detection. None if the image failed, as are
            bpp, quality, sha256 and detections.
        bpp: bits of that file per pixel; None for detection.
        quality: of the .tri file; None for detection.
        seconds: reading, coding and writing.
        sha256: of the file that `bytes` counts, in hexadecimal.
        detections: of detection: label, category, score and box (x0, y0, x1, y1 in pixels) of each object.
        error: why it failed, in a sentence; None if it did not.
    """

    key: str
    bytes: int | None = None
    bpp: float | None = None
    quality: float | None = None
    seconds: float = 0.0
    sha256: str | None = None
    detections: list[dict[str, Any]] | None = None
    error: str | None = None


class Segment:
    """The file of one segment.

    Attributes:
        rows: of the images that are done, by key.
        starts: how often each image was started.

    Raises:
        OSError: from the constructor, `start` and `add`.
    """

    def __init__(self, folder: Folder, name: str) -> None:
        self._folder, self._name = folder, name
        self._content = folder.read(name) if folder.exists(name) else b""
        self.rows, self.starts = parse(self._content)

    def start(self, key: str) -> None:
        """Note that an image is about to be coded."""
        self._append({"start": key})
        self.starts[key] += 1

    def add(self, row: Row) -> None:
        """Note what was done with an image."""
        self._append(asdict(row))
        self.rows[row.key] = row

    def _append(self, entry: dict[str, Any]) -> None:
        data = f"{json.dumps(entry)}\n".encode()
        if self._content and not self._content.endswith(b"\n"):
            data = b"\n" + data  # a killed worker had written half a line
        self._folder.append(self._name, self._content, data)
        self._content += data


def parse(content: bytes) -> tuple[dict[str, Row], Counter[str]]:
    """The rows of a segment's file by key, and how often each image was started. Half lines are ignored."""
    rows: dict[str, Row] = {}
    starts: Counter[str] = Counter()
    for line in content.splitlines():
        try:
            entry = json.loads(line)
        except ValueError:
            continue
        if "start" in entry:
            starts[entry["start"]] += 1
        else:
            rows[entry["key"]] = Row(**entry)
    return rows, starts


class Journal:
    """All segments of a batch run, and of the runs that it resumes."""

    def __init__(self, folder: Folder) -> None:
        self.folder = folder

    @cached_property
    def segments(self) -> dict[int, list[str]]:
        """The names of the segments that exist, in order, by the number of their run. Raises OSError."""
        found: dict[int, list[str]] = {}
        for name in self.folder.find().keys:
            if name.endswith(".jsonl"):
                found.setdefault(int(name.partition("-")[0]), []).append(name)
        return found

    @cached_property
    def settings(self) -> dict[str, Any] | None:
        """The settings of the run; None if there is no journal. Raises OSError."""
        found: Any = json.loads(self.folder.read(SETTINGS)) if self.folder.exists(SETTINGS) else None
        return None if found is None else dict(found)

    def begin(self, settings: dict[str, Any]) -> None:
        """Note the settings, before any segment. Raises OSError."""
        self.folder.write(SETTINGS, json.dumps(settings).encode())

    def name(self, run: int, number: int) -> str:
        """The name of a segment: names sort as their runs and numbers do."""
        return f"{run:04}-{number:07}.jsonl"

    def read(self, run: int) -> Iterator[tuple[dict[str, Row], Counter[str]]]:
        """Rows and starts of each segment of a run. Raises OSError."""
        names = self.segments.get(run, [])
        for first in range(0, len(names), READ_AT_ONCE):
            yield from map(parse, self.folder.read_all(names[first : first + READ_AT_ONCE]))

    def rows(self, run: int) -> Iterator[Row]:
        """The rows of a run by ascending key: the segments of a run divide its sorted images."""
        for rows, _ in self.read(run):
            yield from (rows[key] for key in sorted(rows))

    def unfinished(self) -> set[str]:
        """Images that were started and have no row in their segment. Raises OSError."""
        return {
            key
            for run in self.segments
            for rows, starts in self.read(run)
            for key in starts
            if key not in rows
        }
