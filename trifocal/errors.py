"""Everything that Trifocal raises on purpose; the message is one whole sentence that says what to do.

TrifocalError
├── FormatError           a .tri file that cannot be read
│   ├── NotTrifocal       it is something else
│   ├── Truncated         its end is missing
│   ├── Damaged           its bytes changed; `tiles` says which, where only tiles are hit
│   ├── MissingLayer      it is a part of a whole, and what was asked for lies in another
│   └── Unsupported       it needs a newer Trifocal, or is above a limit
├── PictureError          a picture that cannot be read, written or coded
├── PresetError           there is no such preset, or it cannot do what was asked
├── WeightsError          weights are missing, damaged, or not the ones that the file was made with
├── MissingExtra          an optional part is not installed
├── NotMeasured           a metric whose weights or package are not on this machine
├── RateError             the asked number of bytes cannot be reached
└── OptionError           an argument is out of its range, or contradicts another

Trouble with the file system itself (no such file, disk full, not permitted) stays the OSError that it is.
"""

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
    "TrifocalError",
    "TrifocalWarning",
    "Truncated",
    "Unsupported",
    "WeightsError",
]


class TrifocalError(Exception):
    """The root: `except TrifocalError` catches all that is below."""


class TrifocalWarning(UserWarning):
    """A notice: something was done differently from what the caller may expect. The category of all warnings of Trifocal."""


class FormatError(TrifocalError):
    """A .tri file cannot be read."""


class NotTrifocal(FormatError):
    """The bytes are not a .tri file; the message names what they seem to be."""


class Truncated(FormatError):
    """The end of the file is missing."""


class Damaged(FormatError):
    """Bytes of the file changed. `tiles` are the numbers of the tiles that are lost; empty where that is not known."""

    def __init__(self, message: str, tiles: tuple[int, ...] = ()) -> None:
        super().__init__(message)
        self.tiles = tiles

    def __reduce__(self) -> tuple[type["Damaged"], tuple[str, tuple[int, ...]]]:
        return type(self), (str(self), self.tiles)


class MissingLayer(FormatError):
    """The file is sound, but has not the layer that is needed; the message says where to find it."""


class Unsupported(FormatError):
    """The file is sound as far as can be seen, but needs a newer Trifocal or a higher limit."""


class PictureError(TrifocalError):
    """A picture cannot be read, written or coded."""


class PresetError(TrifocalError):
    """There is no such preset, or it cannot do what was asked."""


class WeightsError(TrifocalError):
    """Weights are missing, damaged, or not those that the file was made with."""


class MissingExtra(TrifocalError, ImportError):
    """An optional part is not installed: MissingExtra("web", "The browser demo")."""

    def __init__(self, extra: str, need: str) -> None:
        super().__init__(
            f'{need} needs packages that are not installed; run: pip install "trifocal[{extra}]"'
        )
        self.extra = extra
        self.need = need

    def __reduce__(self) -> tuple[type["MissingExtra"], tuple[str, str]]:
        return type(self), (self.extra, self.need)


class NotMeasured(TrifocalError):
    """A metric cannot be measured on this machine: NotMeasured("DISTS", "its weights are missing", "run it once online")."""

    def __init__(self, what: str, why: str, remedy: str) -> None:
        super().__init__(f"{what} is not measured: {why}; {remedy}.")
        self.what, self.why, self.remedy = what, why, remedy

    def __reduce__(self) -> tuple[type["NotMeasured"], tuple[str, str, str]]:
        return type(self), (self.what, self.why, self.remedy)


class RateError(TrifocalError):
    """The asked number of bytes cannot be reached; the message gives the nearest that can."""


class OptionError(TrifocalError, ValueError):
    """An argument is out of its range, or contradicts another."""
