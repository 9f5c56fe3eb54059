"""Which picture an annotation, label map or class belongs to; and which pictures have none."""

from collections import Counter
from collections.abc import Mapping, Sequence
from pathlib import Path, PurePosixPath
from typing import Generic, TypeVar

from trifocal.errors import OptionError

__all__ = ["GroundTruth", "name_of"]

Value = TypeVar("Value")


class GroundTruth(Generic[Value]):
    """What is known of each picture, by its path with forward slashes, or else by its file name where that is unique.

    `source` is the file or folder that says so, for sentences. With `suffixes=False`, a.png and a.jpg are one name.
    """

    def __init__(self, source: str, known: Mapping[str, Value], suffixes: bool = True) -> None:
        if not known:
            raise OptionError(f"{source} says nothing of any picture.")
        self.source, self.suffixes = source, suffixes
        self.known = {self._key(name): value for name, value in known.items()}
        counts = Counter(PurePosixPath(key).name for key in self.known)
        self.paths = {
            PurePosixPath(key).name: key for key in self.known if counts[PurePosixPath(key).name] == 1
        }
        self.taken: dict[str, str] = {}
        self.left_out: dict[str, list[str]] = {}

    def begin(self) -> None:
        """Every picture may be taken again; notes stay."""
        self.taken = {}

    def find(self, name: str) -> Value | None:
        path = self._path(name)
        return None if path is None else self.known[path]

    def take(self, name: str) -> Value | None:
        """As `find`, noting a picture of which nothing is known, or that takes what another picture took already."""
        path = self._path(name)
        if path is None:
            self.leave_out(name, f"not in {self.source}")
            return None
        if self.taken.setdefault(path, name) != name:
            self.leave_out(name, f"of which {self.source} cannot tell the folder")
            return None
        return self.known[path]

    def leave_out(self, name: str, reason: str) -> None:
        names = self.left_out.setdefault(reason, [])
        if name not in names:
            names.append(name)

    def check_any(self, names: Sequence[str]) -> None:
        """Raises OptionError where nothing is known of any of these."""
        if not any(self._path(name) is not None for name in names):
            theirs, ours = next(iter(self.known)), names[0] if names else "none"
            raise OptionError(
                f"{self.source} is about other pictures: it names {theirs}, for instance, and here is {ours}."
            )

    @property
    def notes(self) -> list[str]:
        return [
            f"{len(names)} picture{'s' * (len(names) > 1)} left out, {reason}: {', '.join(names[:3])}"
            f"{', …' if len(names) > 3 else '.'}"
            for reason, names in self.left_out.items()
        ]

    def _key(self, name: str) -> str:
        return name if self.suffixes else str(PurePosixPath(name).with_suffix(""))

    def _path(self, name: str) -> str | None:
        key = self._key(name)
        return key if key in self.known else self.paths.get(PurePosixPath(key).name)


def name_of(path: Path, data: Path) -> str:
    """A picture's, as rows have it."""
    return path.relative_to(data).as_posix() if path != data else path.name
