"""What a command reads and what it writes. Every output path of every command goes through `Outputs`.

A file that exists is replaced only if the user named exactly that file or gave --force, and an input never is.
`-` is standard input or standard output.
"""

import atexit
import os
import shutil
import sys
import tempfile
import unicodedata
from collections import Counter
from collections.abc import Collection, Iterable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import BinaryIO, Self

import typer

from trifocal.errors import OptionError
from trifocal.utils.files import atomic_write, buffered, is_device, list_files

__all__ = ["Found", "Input", "Job", "Output", "Outputs", "find", "input_at", "plan", "printable"]

MAX_PIPED = 1 << 31  # bytes that are taken from standard input or a pipe
STDOUT_NAMES = ("-", "/dev/stdout", "/dev/fd/1", "/proc/self/fd/1")
# Suffixes of pictures that Trifocal does not write; no other output takes them either.
OTHER_PICTURES = frozenset(
    [
        ".arw",
        ".cr2",
        ".cr3",
        ".dng",
        ".exr",
        ".hdr",
        ".ico",
        ".jxr",
        ".nef",
        ".orf",
        ".psd",
        ".raf",
        ".rw2",
        ".svg",
        ".xcf",
    ]
)


def printable(text: str) -> str:
    """Text for one line of a terminal: control characters and bytes that are no text become escapes."""
    return "".join(one if one.isprintable() else one.encode("unicode_escape").decode("ascii") for one in text)


@dataclass(frozen=True)
class Input:
    """A file to read.

    path: where its bytes are; a temporary copy for standard input and pipes, so that they can be read twice.
    name: what messages and results call it.
    place: its path below an output folder, with its name.
    """

    path: Path
    name: str
    place: Path

    @property
    def piped(self) -> bool:
        return str(self.path) != str(Path(self.name))


@dataclass
class Found:
    """Inputs; whether a folder is among the arguments; what could not be read; how many files were left out, by reason."""

    inputs: list[Input] = field(default_factory=list)
    folders: bool = False
    errors: list[OSError] = field(default_factory=list)
    left_out: Counter[str] = field(default_factory=Counter)

    def __iadd__(self, other: "Found") -> Self:
        self.inputs += other.inputs
        self.folders |= other.folders
        self.errors += other.errors
        self.left_out += other.left_out
        return self

    def notice(self) -> str:
        """A sentence about what was left out of folders; empty if nothing was."""
        suffixes = {why: n for why, n in self.left_out.items() if why.startswith(".")}
        parts = []
        if suffixes:
            shown = ", ".join(f"{n} {suffix}" for suffix, n in sorted(suffixes.items()))
            parts.append(f"{counted(sum(suffixes.values()), 'file')} with other suffixes ({shown})")
        for why, what in (
            ("no suffix", "file%s without a suffix"),
            ("hidden file", "hidden file%s"),
            ("subfolder", "subfolder%s (--recursive takes them)"),
            ("linked folder", "linked folder%s (name them to take their files)"),
            ("special file or broken link", "special file%s or broken links"),
        ):
            if count := self.left_out[why]:
                parts.append(f"{count} {what % ('s' if count > 1 else '')}")
        return f"Left out of the folders: {', '.join(parts)}." if parts else ""


def counted(count: int, what: str) -> str:
    return f"{count} {what}{'s' if count != 1 else ''}"


def find(arguments: Sequence[str], recursive: bool, suffixes: Collection[str]) -> Found:
    """The files that arguments name, none twice. A file is taken whatever its name, a folder gives its files with one of `suffixes`.

    A single folder's files keep their place in it below an output folder; of several arguments each folder also keeps its
    own name, and its path from the folder that has all of them. Raises OptionError for a folder that has none.
    """
    found = Found()
    known: set[Path] = set()
    folders = [Path(argument) for argument in arguments if argument != "-" and Path(argument).is_dir()]
    found.folders = bool(folders)
    several = len({*arguments}) > 1
    above = os.path.commonpath([Path(os.path.abspath(one)).parent for one in folders]) if folders else ""
    for argument in dict.fromkeys(arguments):
        folder = Path(argument)
        if folder not in folders:
            new = [input_at(argument)] if folder not in known else []
            known.add(folder)
        else:
            root = Path(os.path.relpath(os.path.abspath(folder), above)) if several else Path()
            listing = list_files(folder, recursive, suffixes)
            found.errors += listing.errors
            found.left_out += listing.left_out
            if not listing.files and not listing.errors:
                raise OptionError(
                    f"There is nothing to take in the folder {folder}; name files, or try --recursive. {found.notice()}".strip()
                )
            new = [
                Input(path, str(path), root / path.relative_to(folder))
                for path in listing.files
                if path not in known
            ]
            known |= {*listing.files}
        found.inputs += new
    if not found.inputs and found.errors:
        raise found.errors[0]
    return found


def input_at(argument: str) -> Input:
    """The input that an argument names. Raises OptionError for more than MAX_PIPED bytes from a pipe."""
    if argument != "-" and not is_device(argument):
        return Input(Path(argument), argument, Path(Path(argument).name))
    name = "stdin" if argument == "-" else Path(argument).name
    folder = Path(tempfile.mkdtemp(prefix="trifocal-"))
    atexit.register(shutil.rmtree, folder, ignore_errors=True)
    if argument == "-":
        copy(sys.stdin.buffer, folder / name)
    else:
        with open(argument, "rb") as stream:
            copy(stream, folder / name)
    return Input(folder / name, argument, Path(name))


def copy(stream: BinaryIO, target: Path) -> None:
    left = MAX_PIPED
    with open(target, "wb") as out:
        while data := stream.read(1 << 20):
            left -= len(data)
            if left < 0:
                raise OptionError(
                    f"More than {MAX_PIPED >> 30} GiB came through the pipe; save them as a file first."
                )
            out.write(data)


@dataclass(frozen=True)
class Output:
    """Where a result goes; `-` is standard output. `overwrite` says whether a file that exists is replaced."""

    path: Path
    overwrite: bool = False

    @property
    def is_stdout(self) -> bool:
        return str(self.path) in STDOUT_NAMES

    @property
    def is_file(self) -> bool:
        """Whether it is neither standard output nor a pipe or device."""
        return not self.is_stdout and not is_device(self.path)

    def __str__(self) -> str:
        return "standard output" if self.is_stdout else str(self.path)

    @contextmanager
    def open(self) -> Iterator[BinaryIO]:
        """A binary stream, seekable and readable, that becomes the output when the block ends without an error.

        Makes the folder that the file belongs in. Raises OSError, FileExistsError for a file that is not to be replaced.
        """
        if self.is_stdout:
            sys.stdout.flush()
            yield from buffered(sys.stdout.buffer)
            return
        if self.is_file:
            self.path.parent.mkdir(parents=True, exist_ok=True)
        with atomic_write(self.path, self.overwrite) as stream:
            yield stream

    def keep_times(self, source: Path) -> None:
        """Gives the file the times of its source."""
        if self.is_file:
            times = source.stat()
            os.utime(self.path, ns=(times.st_atime_ns, times.st_mtime_ns))


STDOUT = Output(Path("-"))


@dataclass(frozen=True)
class Job:
    """One input, and where its result goes."""

    input: Input
    output: Output

    @property
    def source(self) -> Path:
        return self.input.path


class Outputs:
    """All that one run writes: each path is added, and `check` raises before anything is written.

    Args:
        inputs: the files that the run reads; none of them is ever written to.
        force: replace files that the user did not name.
    """

    def __init__(self, inputs: Iterable[Path] = (), force: bool = False) -> None:
        self.force = force
        self.inputs = [*inputs]
        self.keys = {key_of(path) for path in self.inputs}
        self.identities = {one for path in self.inputs if (one := identity(path))}
        self.taken: dict[str, tuple[Path, str]] = {}
        self.there: list[Path] = []

    def add(self, path: Path, named: bool, source: str = "") -> Output:
        """An output at a path; `named` if the user named exactly this file, `source` what it is made from.

        Raises OptionError where it is an input, a folder, or another output of this run, on some file system at least.
        """
        output = Output(path, named or self.force)
        if not output.is_file:
            return output
        if path.is_dir():
            raise OptionError(f"{path} is a folder; name a file.")
        if key_of(path) in self.keys or identity(path) in self.identities:
            raise OptionError(f"{path} would be written over while it is an input; name another with -o.")
        other, its_source = self.taken.setdefault(key_of(path), (path, source))
        if (other, its_source) != (path, source):
            raise OptionError(clash(its_source, source, other, path))
        if os.path.lexists(path) and not output.overwrite:
            self.there.append(path)
        return output

    def check(self, skippable: bool = False) -> None:
        """Raises OptionError where a file exists that is not to be replaced; `skippable` says that --skip-existing helps."""
        if self.there:
            count = len(self.there) - 1
            others = f" and {count} more are" if count else " is"
            skip = ", --skip-existing to leave it" if skippable else ""
            raise OptionError(
                f"{self.there[0]}{others} there already; use --force to replace{skip}, or -o to write elsewhere."
            )


def clash(one: str, other: str, its: Path, path: Path) -> str:
    """A sentence about two results that would be one file."""
    if its == path:
        return (
            f"{one} and {other} would both become {path}; add --keep-suffix if their suffixes differ, or choose"
            " different output folders."
        )
    return (
        f"{one} and {other} would become {its} and {path}, which are one file where case is ignored; rename one of them,"
        " or choose different output folders."
    )


def key_of(path: Path) -> str:
    """Equal for paths that are one file on some file system: case and Unicode's normal forms are ignored."""
    return unicodedata.normalize("NFC", unicodedata.normalize("NFC", str(path.resolve())).casefold())


def identity(path: Path) -> tuple[int, int] | None:
    """Device and number of the file, equal for all its names; None where there is none."""
    try:
        found = path.stat()
    except OSError:
        return None
    return found.st_dev, found.st_ino


def plan(
    found: Found,
    out: str | None,
    suffix: str,
    outputs: Outputs,
    *,
    option: str = "--out",
    refused: Collection[str] = (),
    may_replace_original: bool = True,
    keep_suffix: bool = False,
    skip_existing: bool = False,
) -> list[Job]:
    """Gives each input its output: beside it, in the folder `out`, or `out` itself if that is a file's name.

    Args:
        found: the inputs.
        out: what the user gave as `option`. It names a file only if there is one input that no folder gave.
        suffix: of the outputs: x.jpg becomes x plus suffix, or with `keep_suffix` x.jpg plus suffix.
        outputs: the run's outputs; its `check` is left to the caller.
        refused: suffixes that `out` must not have.
        may_replace_original: false if even a named `out` does not replace a file that has its input's folder and stem.
        skip_existing: leave out inputs whose output exists.

    Raises:
        typer.BadParameter: where `out` names a file and there are several inputs, or a folder.
        OptionError: as `Outputs.add`, and where `out` has a refused suffix.
    """
    alone = len(found.inputs) == 1 and not found.folders
    if out is None and any(one.piped for one in found.inputs):
        if not alone:
            raise OptionError(f"What comes through a pipe has no folder; name one with {option}.")
        out = "-"
    named = out is not None and names_file(out, alone, option)
    if named:
        refuse_suffix(out or "", refused, option)
    jobs = []
    for one in found.inputs:
        if named:
            path = Path(out or "")
        else:
            base = one.path.parent / one.path.name if out is None else Path(out, one.place)
            path = base.with_name(f"{base.name if keep_suffix else base.stem}{suffix}")
        if skip_existing and Output(path).is_file and os.path.lexists(path):
            continue
        original = (path.resolve().parent, path.stem) == (one.path.resolve().parent, one.path.stem)
        exact = named and (may_replace_original or not original)
        jobs.append(Job(one, outputs.add(path, exact, one.name)))
    return jobs


def refuse_suffix(out: str, refused: Collection[str], option: str = "--out") -> None:
    """Raises OptionError where a file's name, which the user gave as `option`, has one of these suffixes."""
    if Path(out).suffix.lower() in refused:
        raise OptionError(f"{option} {out} has the suffix of another kind of file; choose another name.")


def names_file(out: str, alone: bool, option: str) -> bool:
    """Whether `out` is a file's name, not a folder's. Raises typer.BadParameter where it cannot be a file's."""
    if out.endswith(("/", os.sep)) or Path(out).is_dir():
        return False
    stream = out in STDOUT_NAMES or is_device(out)
    if not alone and (stream or Path(out).is_file() or has_known_suffix(out)):
        shown = "standard output" if out in STDOUT_NAMES else f"{printable(out)}"
        raise typer.BadParameter(
            f"{option} {shown} is one file, and there are several inputs or a folder; name a folder."
        )
    return alone


def has_known_suffix(out: str) -> bool:
    return Path(out).suffix.lower() in {".tri", ".json", ".csv", *picture_suffixes()}


def picture_suffixes() -> frozenset[str]:
    """Suffixes of pictures, also of those that only other programs write."""
    from trifocal.pictures import PICTURE_SUFFIXES

    return PICTURE_SUFFIXES | OTHER_PICTURES
