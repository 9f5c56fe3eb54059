"""List the files of a folder, and write files atomically."""

import csv
import errno
import io
import os
import re
import secrets
import stat
import time
import unicodedata
from collections import Counter
from collections.abc import Collection, Iterable, Iterator, Sequence
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field
from pathlib import Path
from typing import BinaryIO

__all__ = ["Listing", "atomic_write", "buffered", "folded", "is_device", "list_files", "write_csv"]

TEMPORARY = re.compile(r"\.trifocal-[0-9a-f]{16}\.tmp")
LEFTOVER_AGE = 24 * 3600.0  # seconds
swept: set[Path] = set()  # folders already searched for leftovers by this process


@dataclass
class Listing:
    """The matching files of a folder, errors, and the number of skipped entries by kind."""

    files: list[Path] = field(default_factory=list)
    errors: list[OSError] = field(default_factory=list)
    left_out: Counter[str] = field(default_factory=Counter)


def folded(name: str) -> str:
    """Equal for names of the same file on disks that ignore case and Unicode's normal forms."""
    return unicodedata.normalize("NFC", unicodedata.normalize("NFC", name).casefold())


def list_files(folder: Path, recursive: bool, suffixes: Collection[str]) -> Listing:
    """List the files with one of `suffixes` (lower case, with the dot), sorted by path.

    Hidden files and symbolic links to folders are skipped. A subfolder that cannot be read is added to the
    errors of the listing.
    """
    listing = Listing()
    pending = [folder]
    while pending:
        try:
            with os.scandir(pending.pop()) as entries:
                for entry in entries:
                    kind = entry_kind(entry, recursive, suffixes)
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


def entry_kind(entry: os.DirEntry[str], recursive: bool, suffixes: Collection[str]) -> str:
    """`file` or `folder` for an entry to use; else the suffix or kind under which it is counted."""
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


def is_device(path: str | os.PathLike[str]) -> bool:
    """Whether a path is a device, a pipe or a file descriptor, which is written to instead of replaced."""
    if os.path.abspath(path).startswith(("/dev/fd/", "/dev/std", "/proc/")):
        return os.path.exists(path)
    return os.path.exists(path) and not os.path.isfile(path) and not os.path.isdir(path)


@contextmanager
def atomic_write(path: str | os.PathLike[str], overwrite: bool = True) -> Iterator[BinaryIO]:
    """Yield a binary stream (seekable and readable) that replaces `path` if the block ends without an error.

    The data is written to a temporary file in the same folder, which is renamed at the end, so that a
    killed run leaves either the old or the new file. The permissions of an existing file are kept, and
    symbolic links are followed. Devices and pipes are written to directly.

    Raises:
        OSError: if the folder is missing, the disk is full, or the target is write-protected or a broken
            link. An existing file is then unchanged.
        FileExistsError: if the file exists and `overwrite` is false.
    """
    if is_device(path):
        with open(path, "wb") as device:
            yield from buffered(device)
        return
    if os.path.islink(path) and not os.path.exists(path):
        raise FileExistsError(
            errno.EEXIST, "The symbolic link is broken; remove it, or choose another path", os.fspath(path)
        )
    target = Path(os.path.realpath(path))
    if not target.parent.is_dir():
        raise FileNotFoundError(errno.ENOENT, "The folder does not exist", str(target.parent))
    if target.exists() and not os.access(target, os.W_OK):
        raise PermissionError(errno.EACCES, "The file is write-protected", str(path))
    remove_leftovers(target.parent)
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
            rename_without_overwrite(temporary, target)
    except BaseException:
        temporary.unlink(missing_ok=True)
        raise
    sync_folder(target.parent)


def write_csv(path: str | os.PathLike[str], rows: Iterable[Sequence[object]], end: str = "\n") -> None:
    """Write a CSV file atomically, with `end` at the end of each line. Raises OSError."""
    text = io.StringIO(newline="")
    csv.writer(text, lineterminator=end).writerows(rows)
    with atomic_write(path) as stream:
        stream.write(text.getvalue().encode())


def buffered(stream: BinaryIO) -> Iterator[BinaryIO]:
    """Yield a buffer, and write it to the stream, which need not be seekable, if the block succeeds."""
    buffer = io.BytesIO()
    yield buffer
    stream.write(buffer.getbuffer())
    stream.flush()


def rename_without_overwrite(source: Path, target: Path) -> None:
    """Rename a file. Raises FileExistsError if the target exists, without a race between test and rename."""
    try:
        os.link(source, target)
    except FileExistsError:
        raise FileExistsError(
            errno.EEXIST, "Another program created this file meanwhile; it is kept", str(target)
        ) from None
    except OSError:  # a file system without hard links
        if os.path.lexists(target):
            raise
        os.replace(source, target)
    else:
        source.unlink()


def sync_folder(folder: Path) -> None:
    """Flush the folder to disk, where the system supports it, so that a rename survives a power failure."""
    with suppress(OSError):
        descriptor = os.open(folder, os.O_RDONLY)
        try:
            os.fsync(descriptor)
        finally:
            os.close(descriptor)


def remove_leftovers(folder: Path) -> None:
    """Remove temporary files of killed runs that are over a day old, once per folder and process."""
    if folder in swept:
        return
    swept.add(folder)
    with suppress(OSError), os.scandir(folder) as entries:
        for entry in entries:
            if TEMPORARY.fullmatch(entry.name):
                with suppress(OSError):
                    if time.time() - entry.stat(follow_symlinks=False).st_mtime > LEFTOVER_AGE:
                        os.unlink(entry.path)
