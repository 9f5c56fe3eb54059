"""Batch runs without a codec: an operation that is fast, and one whose worker ends; a task of either."""

import os
import signal
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from trifocal.batch.coding import Task
from trifocal.batch.manifest import Manifest
from trifocal.batch.operations import Coded, Function
from trifocal.batch.storage import Folder
from trifocal.errors import PictureError


@dataclass(frozen=True)
class Reverse:
    """Writes the bytes of each file in reverse order. A file that begins with "bad" cannot be read, "bug" is
    an error in the code, and "kill" ends the process as a lack of memory does.
    """

    engine: None = None
    name = "encode"
    inputs = frozenset({".txt"})
    suffix = ".rev"

    def settings(self) -> dict[str, Any]:
        return {"operation": "reverse"}

    def load(self) -> Function:
        return reverse


def reverse(data: bytes) -> Coded:
    if data.startswith(b"bad"):
        raise PictureError("It is bad.")
    if data.startswith(b"bug"):
        raise ZeroDivisionError("It divides\nby zero.")
    if data.startswith(b"kill"):
        os.kill(os.getpid(), signal.SIGKILL)
    return Coded(data[::-1], pixels=2, quality=50.0)


def write_texts(folder: Path, texts: dict[str, str]) -> Path:
    """A folder of files with these names and contents."""
    for name, text in texts.items():
        path = folder / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(text)
    return folder


def reverse_task(source: Path | str, out: Path | str) -> Task:
    """The task that reverses the files of `source` into `out`."""
    target = Folder(str(out))
    return Task(Reverse(), Folder(str(source)), target, target / "manifest.parquet.journal")


def manifest_in(out: Path | str) -> Manifest:
    return Manifest(Folder(str(out)), "manifest.parquet")
