"""The exceptions that Trifocal raises; each message is one sentence that says what to do.

    TrifocalError
    ├── FormatError           a .tri file cannot be read
    │   ├── NotTrifocal       it is another type of file
    │   ├── Truncated         its end is missing
    │   ├── Damaged           its bytes changed; `tiles` lists the damaged tiles, if only tiles are affected
    │   ├── MissingLayer      it lacks the layer that the operation needs
    │   └── Unsupported       it needs a newer version of Trifocal, or exceeds a limit
    ├── PictureError          an image cannot be read, written or encoded
    ├── PresetError           the preset does not exist, or does not support the operation
    ├── WeightsError          weights are missing, damaged, or not those that the file was encoded with
    ├── MissingExtra          an optional dependency is not installed
    ├── NotMeasured           a metric lacks its weights or its package on this machine
    ├── RateError             even quality 0 exceeds the requested size
    ├── TrainingError         a training run was stopped, or diverged
    └── OptionError           an argument is out of range, or conflicts with another

Errors of the file system (file not found, disk full, permission denied) are raised as OSError.
"""

from collections.abc import Iterator
from contextlib import contextmanager

__all__ = [
    "Damaged",
    "FormatError",
    "MissingExtra",
    "MissingLayer",
    "NotMeasured",
    "NotTrifocal",
    "OptionError",
    "PictureError",
    "PresetError",
    "RateError",
    "TrainingError",
    "TrifocalError",
    "TrifocalWarning",
    "Truncated",
    "Unsupported",
    "WeightsError",
    "optional_packages",
]


class TrifocalError(Exception):
    """Base class of all exceptions that Trifocal raises."""


class TrifocalWarning(UserWarning):
    """A notice: something was done differently from what the caller may expect. The category of all warnings
    of Trifocal.
    """


class FormatError(TrifocalError):
    """A .tri file cannot be read."""


class NotTrifocal(FormatError):
    """The bytes are not a .tri file; the message names the type that they seem to have."""


class Truncated(FormatError):
    """The end of the file is missing."""


class Damaged(FormatError):
    """Bytes of the file changed. `tiles` are the indices of the damaged tiles; empty if they are unknown."""

    def __init__(self, message: str, tiles: tuple[int, ...] = ()) -> None:
        super().__init__(message)
        self.tiles = tiles

    def __reduce__(self) -> tuple[type["Damaged"], tuple[str, tuple[int, ...]]]:
        return type(self), (str(self), self.tiles)


class MissingLayer(FormatError):
    """The file is intact, but lacks the layer that the operation needs; the message says how to get it."""


class Unsupported(FormatError):
    """The file seems intact, but needs a newer version of Trifocal, or a higher limit."""


class PictureError(TrifocalError):
    """An image cannot be read, written or encoded."""


class PresetError(TrifocalError):
    """The preset does not exist, or does not support the operation."""


class WeightsError(TrifocalError):
    """Weights are missing, damaged, or not those that the file was encoded with."""


class MissingExtra(TrifocalError, ImportError):
    """An optional dependency is not installed: MissingExtra("text", "Captioning")."""

    def __init__(self, extra: str, need: str) -> None:
        super().__init__(
            f'{need} needs packages that are not installed; run: pip install "trifocal[{extra}]"'
        )
        self.extra = extra
        self.need = need

    def __reduce__(self) -> tuple[type["MissingExtra"], tuple[str, str]]:
        return type(self), (self.extra, self.need)


@contextmanager
def optional_packages(extra: str, need: str) -> Iterator[None]:
    """Raises MissingExtra, with these arguments, if an import in its body lacks a package."""
    try:
        yield
    except ModuleNotFoundError as error:
        if (error.name or "").partition(".")[0] == "trifocal":
            raise
        raise MissingExtra(extra, need) from error


class NotMeasured(TrifocalError):
    """A metric is unavailable: NotMeasured("DISTS", "its weights are missing", "run it once online")."""

    def __init__(self, what: str, why: str, remedy: str) -> None:
        super().__init__(f"{what} is not measured: {why}; {remedy}.")
        self.what, self.why, self.remedy = what, why, remedy

    def __reduce__(self) -> tuple[type["NotMeasured"], tuple[str, str, str]]:
        return type(self), (self.what, self.why, self.remedy)


class RateError(TrifocalError):
    """Even quality 0 exceeds the requested size; the message gives the size at quality 0."""


class TrainingError(TrifocalError):
    """A training run was stopped, or its loss diverged; the message says how to continue."""


class OptionError(TrifocalError, ValueError):
    """An argument is out of range, or conflicts with another."""
