"""Lists of a folder's files, and writing files so that a run that dies leaves the old file or the new one, never half of one."""

import csv
import errno
import io
import os
import re
import secrets
import stat
import time
from collections import Counter
from collections.abc import Collection, Iterable, Iterator, Sequence
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field
from pathlib import Path
from typing import BinaryIO

__all__ = ["Listing", "atomic_write", "buffered", "is_stream", "list_files", "write_csv"]

TEMPORARY = re.compile(r"\.trifocal-[0-9a-f]{16}\.tmp")
LEFTOVER_AGE = 24 * 3600.0  # seconds
swept: set[Path] = set()  # folders that this process has searched for leftovers


@dataclass
class Listing:
    """Files of a folder, what could not be read, and how many entries of each kind were left out."""

    files: list[Path] = field(default_factory=list)
    errors: list[OSError] = field(default_factory=list)
    left_out: Counter[str] = field(default_factory=Counter)


def list_files(folder: Path, recursive: bool, suffixes: Collection[str]) -> Listing:
    """The files with one of `suffixes` (lower case, with the dot), sorted by path; hidden files and linked folders are left out.

    A subfolder that cannot be read becomes an error of the listing, and the others are still read.
    """
    listing = Listing()
    pending = [folder]
    while pending:
        try:
            with os.scandir(pending.pop()) as entries:
                for entry in entries:
                    kind = kind_of(entry, recursive, suffixes)
                    if kind == "file":
                        listing.files.append(Path(entry.path))
                    elif kind == "folder":
                        pending.append(Path(entry.path))
                    else:
                        listing.left_out[kind] += 1
        except OSError as error:
            listing.errors.append(error)
    listing.files.sort()
    return listing


def kind_of(entry: os.DirEntry[str], recursive: bool, suffixes: Collection[str]) -> str:
    """`file` or `folder` for an entry that is taken; else the reason why it is left out: a suffix, or its kind."""
    if entry.is_dir(follow_symlinks=False):
        return "folder" if recursive else "subfolder"
    if entry.is_dir():
        return "linked folder"
    if not entry.is_file():
        return "special file or broken link"
    if entry.name.startswith("."):
        return "hidden file"
    suffix = Path(entry.name).suffix.lower()
    return "file" if suffix in suffixes else suffix or "no suffix"


def is_stream(path: str | os.PathLike[str]) -> bool:
    """Whether a path is a device, a pipe, or an open file of a process; such paths are written to and not replaced."""
    if os.path.abspath(path).startswith(("/dev/fd/", "/dev/std", "/proc/")):
        return os.path.exists(path)
    return os.path.exists(path) and not os.path.isfile(path) and not os.path.isdir(path)


@contextmanager
def atomic_write(path: str | os.PathLike[str], overwrite: bool = True) -> Iterator[BinaryIO]:
    """Gives a binary stream (also seekable and readable) that becomes `path` when the block ends without an error.

    The old file's permissions are kept, and a link is followed if its target exists. Devices and pipes are written to.
    Raises OSError (no such folder, not writable, disk full, a link without a target; FileExistsError without
    `overwrite` if there is a file); the old file is then untouched.
    """
    if is_stream(path):
        with open(path, "wb") as device:
            yield from buffered(device)
        return
    if os.path.islink(path) and not os.path.exists(path):
        raise FileExistsError(
            errno.EEXIST, "The link leads to no file; remove it, or name another file", os.fspath(path)
        )
    target = Path(os.path.realpath(path))
    if not target.parent.is_dir():
        raise FileNotFoundError(errno.ENOENT, "There is no such folder", str(target.parent))
    if target.exists() and not os.access(target, os.W_OK):
        raise PermissionError(errno.EACCES, "The file is write-protected", str(path))
    sweep(target.parent)
    temporary = target.with_name(f".trifocal-{secrets.token_hex(8)}.tmp")
    try:
        with open(temporary, "x+b") as stream:
            yield stream
            stream.flush()
            os.fsync(stream.fileno())
        if overwrite:
            if target.exists():
                os.chmod(temporary, stat.S_IMODE(target.stat().st_mode))
            os.replace(temporary, target)
        else:
            move_to_free(temporary, target)
    except BaseException:
        temporary.unlink(missing_ok=True)
        raise
    sync_folder(target.parent)


def write_csv(path: str | os.PathLike[str], rows: Iterable[Sequence[object]], end: str = "\n") -> None:
    """A table, at once or not at all; `end` is that of its lines. Raises OSError."""
    text = io.StringIO(newline="")
    csv.writer(text, lineterminator=end).writerows(rows)
    with atomic_write(path) as stream:
        stream.write(text.getvalue().encode())


def buffered(stream: BinaryIO) -> Iterator[BinaryIO]:
    """Yields a buffer whose bytes go to a stream that may not be seekable, unless the block fails."""
    buffer = io.BytesIO()
    yield buffer
    stream.write(buffer.getbuffer())
    stream.flush()


def move_to_free(source: Path, target: Path) -> None:
    """Renames a file. Raises FileExistsError where the new name is taken, also if that happened a moment ago."""
    try:
        os.link(source, target)
    except FileExistsError:
        raise FileExistsError(
            errno.EEXIST, "It was made by another program meanwhile, and is kept", str(target)
        ) from None
    except OSError:  # a file system without hard links
        if os.path.lexists(target):
            raise
        os.replace(source, target)
    else:
        source.unlink()


def sync_folder(folder: Path) -> None:
    """Makes a rename last through a power cut, where the system can."""
    with suppress(OSError):
        descriptor = os.open(folder, os.O_RDONLY)
        try:
            os.fsync(descriptor)
        finally:
            os.close(descriptor)


def sweep(folder: Path) -> None:
    """Removes temporary files that a killed run left here over a day ago; once per folder and process."""
    if folder in swept:
        return
    swept.add(folder)
    with suppress(OSError), os.scandir(folder) as entries:
        for entry in entries:
            if TEMPORARY.fullmatch(entry.name):
                with suppress(OSError):
                    if time.time() - entry.stat(follow_symlinks=False).st_mtime > LEFTOVER_AGE:
                        os.unlink(entry.path)
