"""Folders of files on any file system of fsspec: local disks, S3, and others."""

from __future__ import annotations

import os
import shutil
from collections import Counter
from collections.abc import Collection, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from dataclasses import dataclass, field
from functools import cached_property
from pathlib import Path
from typing import Any

from trifocal.errors import OptionError, TrifocalError, optional_packages
from trifocal.utils.files import atomic_write, list_files

__all__ = ["Folder", "Found"]

PARALLEL = 16  # files that are read or removed at the same time


@dataclass
class Found:
    """Files of a folder: their keys, sorted; errors of subfolders; the number of files left out by kind."""

    keys: list[str] = field(default_factory=list)
    errors: list[OSError] = field(default_factory=list)
    left_out: Counter[str] = field(default_factory=Counter)

    def notice(self) -> str:
        """A notice about files that were left out; empty if there are none."""
        shown = ", ".join(f"{count:,} {kind}" for kind, count in sorted(self.left_out.items()))
        return f"Files left out: {shown}." if shown else ""


@contextmanager
def as_os_errors(url: str) -> Iterator[None]:
    """Raises errors of a remote file system, such as missing credentials, as OSError with the URL."""
    try:
        yield
    except (OSError, TrifocalError, MemoryError):
        raise
    except Exception as error:
        raise OSError(f"{url}: {error}") from error


class Folder:
    """A folder of files, each named by its key: the path below the folder, with `/`.

    It can be pickled, and then names the same folder on another machine.

    Args:
        url: a local path, or a URL such as s3://bucket/photos.

    Raises:
        MissingExtra: if fsspec is not installed.
        OptionError: for an unknown protocol, or one that needs another package.
    """

    def __init__(self, url: str) -> None:
        with optional_packages("batch", "trifocal batch"):
            from fsspec.core import url_to_fs
        try:
            system, root = url_to_fs(url)
        except (ImportError, ValueError) as error:
            raise OptionError(f"{url} cannot be opened: {str(error).rstrip('.')}.") from error
        self.is_local = "file" in (system.protocol, *system.protocol)
        self.url = root if self.is_local else url.rstrip("/")

    def __str__(self) -> str:
        return self.url

    def __eq__(self, other: object) -> bool:
        return isinstance(other, Folder) and other.url == self.url

    def __hash__(self) -> int:
        return hash(self.url)

    def __reduce__(self) -> tuple[type[Folder], tuple[str]]:
        return type(self), (self.url,)

    @cached_property
    def _opened(self) -> tuple[Any, str]:
        from fsspec.core import url_to_fs

        system, root = url_to_fs(self.url)
        return system, root.rstrip("/")

    def __truediv__(self, name: str) -> Folder:
        return Folder(f"{self.url}/{name}")

    def path(self, key: str) -> str:
        """The path of a key in its file system."""
        return f"{self._opened[1]}/{key}"

    def find(self, recursive: bool = True, suffixes: Collection[str] | None = None) -> Found:
        """The files with one of `suffixes` (lower case, with the dot), or all files; hidden ones are left
        out. A folder that does not exist is empty. Raises OSError.
        """
        if self.is_local and suffixes is not None:
            listing = list_files(Path(self.url), recursive, suffixes)
            keys = sorted(path.relative_to(self.url).as_posix() for path in listing.files)
            return Found(keys, listing.errors, listing.left_out)
        system, root = self._opened
        with as_os_errors(self.url):
            system.invalidate_cache()
            paths = system.find(root, maxdepth=None if recursive else 1) if system.exists(root) else []
        found = Found()
        for key in sorted(path[len(root) + 1 :] for path in paths):
            suffix = os.path.splitext(key)[1].lower()
            if any(part.startswith(".") for part in key.split("/")):
                found.left_out["hidden file"] += 1
            elif suffixes is None or suffix in suffixes:
                found.keys.append(key)
            else:
                found.left_out[suffix or "no suffix"] += 1
        return found

    def exists(self, key: str) -> bool:
        """Whether the file exists. Raises OSError."""
        with as_os_errors(self.path(key)):
            self._opened[0].invalidate_cache()
            return bool(self._opened[0].exists(self.path(key)))

    def read(self, key: str) -> bytes:
        """The bytes of a file. Raises OSError."""
        with as_os_errors(self.path(key)):
            return bytes(self._opened[0].cat_file(self.path(key)))

    def read_all(self, keys: Sequence[str]) -> list[bytes]:
        """The bytes of several files, read at the same time. Raises OSError."""
        with ThreadPoolExecutor(PARALLEL) as pool:
            return [*pool.map(self.read, keys)]

    def write(self, key: str, data: bytes) -> None:
        """Write a whole file: a killed process leaves the old file or the new one. Raises OSError."""
        if self.is_local:
            path = Path(self.url, key)
            path.parent.mkdir(parents=True, exist_ok=True)
            with atomic_write(path) as stream:
                stream.write(data)
            return
        with as_os_errors(self.path(key)):
            self._opened[0].pipe_file(self.path(key), data)

    def append(self, key: str, before: bytes, data: bytes) -> None:
        """Add `data` to a file whose content is `before`. Raises OSError.

        Remote files cannot grow, so they are written again.
        """
        if not self.is_local:
            self.write(key, before + data)
            return
        path = Path(self.url, key)
        path.parent.mkdir(parents=True, exist_ok=True)
        with open(path, "ab", buffering=0) as stream:
            stream.write(data)

    def remove(self) -> None:
        """Remove the folder with all its files, if it exists. Raises OSError."""
        if self.is_local:
            if os.path.isdir(self.url):
                shutil.rmtree(self.url)
            return
        paths = [self.path(key) for key in self.find().keys]
        with as_os_errors(self.url), ThreadPoolExecutor(PARALLEL) as pool:
            for _ in pool.map(self._opened[0].rm_file, paths):
                pass
