"""Ground truth by image name, and the list of images without any."""

from collections import Counter
from collections.abc import Mapping, Sequence
from pathlib import PurePosixPath
from typing import Generic, TypeVar

from trifocal.errors import OptionError

__all__ = ["GroundTruth"]

Value = TypeVar("Value")


class GroundTruth(Generic[Value]):
    """A value for each image, found by its path with forward slashes, or by its file name where that is
    unique.

    Args:
        source: the file or folder of the values, for messages.
        values: the values by name.
        suffixes: if False, a.png and a.jpg are the same name.

    Raises:
        OptionError: if there are no values.
    """

    def __init__(self, source: str, values: Mapping[str, Value], suffixes: bool = True) -> None:
        if not values:
            raise OptionError(f"{source} has annotations for no image.")
        self.source, self.suffixes = source, suffixes
        self.values = {self._key(name): value for name, value in values.items()}
        counts = Counter(PurePosixPath(key).name for key in self.values)
        self.paths = {
            PurePosixPath(key).name: key for key in self.values if counts[PurePosixPath(key).name] == 1
        }
        self.claimed: dict[str, str] = {}
        self.skipped: dict[str, list[str]] = {}

    def begin(self) -> None:
        """Start a new pass over the images; notices are kept."""
        self.claimed = {}

    def find(self, name: str) -> Value | None:
        """The value of an image; None if it has none."""
        path = self._path(name)
        return None if path is None else self.values[path]

    def claim(self, name: str) -> Value | None:
        """As `find`, but record images that have no value, or whose value is already used by another image of
        this
        pass.
        """
        path = self._path(name)
        if path is None:
            self.skip(name, f"not in {self.source}")
            return None
        if self.claimed.setdefault(path, name) != name:
            self.skip(name, f"ambiguous in {self.source} (which names no folder)")
            return None
        return self.values[path]

    def skip(self, name: str, reason: str) -> None:
        """Record an image that is left out."""
        names = self.skipped.setdefault(reason, [])
        if name not in names:
            names.append(name)

    def check_any(self, names: Sequence[str]) -> None:
        """Raise OptionError if none of these images has a value."""
        if not any(self._path(name) is not None for name in names):
            theirs, ours = next(iter(self.values)), names[0] if names else "nothing"
            raise OptionError(
                f"{self.source} matches none of these images: it lists e.g. {theirs}; the folder contains "
                f"e.g. {ours}."
            )

    @property
    def notices(self) -> list[str]:
        """A sentence for each reason why images were left out."""
        return [
            f"{len(names)} image{'s' * (len(names) > 1)} left out, {reason}: {', '.join(names[:3])}"
            f"{', …' if len(names) > 3 else '.'}"
            for reason, names in self.skipped.items()
        ]

    def _key(self, name: str) -> str:
        return name if self.suffixes else str(PurePosixPath(name).with_suffix(""))

    def _path(self, name: str) -> str | None:
        key = self._key(name)
        return key if key in self.values else self.paths.get(PurePosixPath(key).name)
