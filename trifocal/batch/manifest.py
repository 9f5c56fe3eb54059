"""The manifest of a batch run: a Parquet file with a row for each image, sorted by key."""

from __future__ import annotations

import heapq
import io
import json
from collections.abc import Iterable, Iterator
from contextlib import closing
from dataclasses import asdict, fields
from itertools import groupby, islice
from typing import Any

from trifocal.batch.journal import Journal, Row
from trifocal.batch.storage import Folder
from trifocal.errors import FormatError, optional_packages

__all__ = ["Manifest", "Totals", "merged"]

SETTINGS = b"trifocal"  # in the metadata of the Parquet file
ROWS = 10_000  # of a row group


class Totals:
    """Images of a manifest, those that failed, and the bytes of the others."""

    def __init__(self) -> None:
        self.images = self.failed = self.bytes = 0

    def count(self, row: Row) -> Row:
        """Add a row, and return it."""
        self.images += 1
        self.failed += row.error is not None
        self.bytes += row.bytes or 0
        return row


class Manifest:
    """A Parquet file of rows. `Row` describes the columns.

    Args:
        folder, name: its folder, and its name in it.

    Raises:
        MissingExtra: if pyarrow is not installed.
    """

    def __init__(self, folder: Folder, name: str) -> None:
        self.folder, self.name = folder, name
        with optional_packages("batch", "trifocal batch"):
            import pyarrow.parquet  # noqa: F401

    def __str__(self) -> str:
        return f"{self.folder}/{self.name}"

    def exists(self) -> bool:
        return self.folder.exists(self.name)

    def settings(self) -> dict[str, Any]:
        """The settings of its run. Raises FormatError for a Parquet file of another program, OSError."""
        with closing(self._open()) as file:
            metadata = file.schema_arrow.metadata or {}
        if SETTINGS not in metadata:
            raise FormatError(f"{self} is not a manifest of trifocal batch; name another with --manifest.")
        return dict(json.loads(metadata[SETTINGS]))

    def rows(self) -> Iterator[Row]:
        """The rows by ascending key. Raises OSError, FormatError."""
        with closing(self._open()) as file:
            for batch in file.iter_batches(ROWS):
                yield from (Row(**row) for row in batch.to_pylist())

    def write(self, rows: Iterable[Row], settings: dict[str, Any]) -> Totals:
        """Write rows, which are sorted by key; the file is whole or not there. Raises OSError."""
        import pyarrow as pa
        import pyarrow.parquet as pq

        found = schema().with_metadata({SETTINGS: json.dumps(settings).encode()})
        totals, buffer = Totals(), io.BytesIO()
        source = map(totals.count, rows)
        with pq.ParquetWriter(buffer, found, compression="zstd") as writer:
            while group := [asdict(row) for row in islice(source, ROWS)]:
                writer.write_table(pa.Table.from_pylist(group, found))
        self.folder.write(self.name, buffer.getvalue())
        return totals

    def _open(self) -> Any:
        import pyarrow as pa
        import pyarrow.parquet as pq

        try:
            return pq.ParquetFile(io.BytesIO(self.folder.read(self.name)))
        except pa.ArrowInvalid as error:
            raise FormatError(f"{self} is not a Parquet file; name another with --manifest.") from error


def schema() -> Any:
    """The columns of a manifest, as a pyarrow schema: the fields of `Row`."""
    import pyarrow as pa

    thing = pa.struct(
        {"label": pa.string(), "category": pa.int32(), "score": pa.float64(), "box": pa.list_(pa.float64())}
    )
    types = {
        "key": pa.string(),
        "bytes": pa.int64(),
        "bpp": pa.float64(),
        "quality": pa.float64(),
        "seconds": pa.float64(),
        "sha256": pa.string(),
        "detections": pa.list_(thing),
        "error": pa.string(),
    }
    return pa.schema([(one.name, types[one.name]) for one in fields(Row)])


def merged(manifest: Manifest | None, journal: Journal) -> Iterator[Row]:
    """The rows of an earlier manifest and of all runs of a journal by ascending key, one for each image.

    Of several rows of an image, the last that did not fail counts, or else the last.
    """
    runs = [journal.rows(run) for run in sorted(journal.segments)]
    sources = [*([manifest.rows()] if manifest else []), *runs]
    for _, same in groupby(heapq.merge(*sources, key=lambda row: row.key), key=lambda row: row.key):
        rows = [*same]
        yield next((row for row in reversed(rows) if row.error is None), rows[-1])
