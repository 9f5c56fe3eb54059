"""Inputs and outputs of the commands. Every output path of every command goes through `Outputs`.

An existing file is replaced only if the user named exactly that file or gave --force; an input never is.
"""

import atexit
import os
import shutil
import sys
import tempfile
from collections import Counter
from collections.abc import Collection, Iterable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import BinaryIO, Self

import typer

from trifocal.cli.options import printable
from trifocal.errors import OptionError
from trifocal.utils.files import atomic_write, buffered, folded, is_device, list_files

__all__ = ["Input", "Inputs", "Job", "Output", "Outputs", "find_inputs", "input_at", "plan"]

MAX_PIPED = 1 << 31  # bytes from standard input or a pipe
STDOUT_NAMES = ("-", "/dev/stdout", "/dev/fd/1", "/proc/self/fd/1")
# Suffixes of images that Trifocal does not write; no other output may have them.
OTHER_IMAGES = frozenset(
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


@dataclass(frozen=True)
class Input:
    """A file to read.

    Attributes:
        path: the file; a temporary copy for standard input and pipes, so that they can be read twice.
        name: for messages and results.
        relative_output: its path below an output folder, with its name.
    """

    path: Path
    name: str
    relative_output: Path

    @property
    def piped(self) -> bool:
        return str(self.path) != str(Path(self.name))


@dataclass
class Inputs:
    """The files that the arguments of a command name.

    Attributes:
        files: the files.
        folders: whether a folder is among the arguments.
        errors: of folders that could not be read.
        left_out: the number of files that were left out, by reason.
    """

    files: list[Input] = field(default_factory=list)
    folders: bool = False
    errors: list[OSError] = field(default_factory=list)
    left_out: Counter[str] = field(default_factory=Counter)

    def __iadd__(self, other: "Inputs") -> Self:
        self.files += other.files
        self.folders |= other.folders
        self.errors += other.errors
        self.left_out += other.left_out
        return self

    def notice(self) -> str:
        """A notice about files in folders that were left out; empty if there are none."""
        suffixes = {reason: n for reason, n in self.left_out.items() if reason.startswith(".")}
        parts = []
        if suffixes:
            shown = ", ".join(f"{n} {suffix}" for suffix, n in sorted(suffixes.items()))
            parts.append(f"{counted(sum(suffixes.values()), 'file')} with other suffixes ({shown})")
        for reason, phrase in (
            ("no suffix", "file%s without a suffix"),
            ("hidden file", "hidden file%s"),
            ("subfolder", "subfolder%s (use --recursive)"),
            ("linked folder", "linked folder%s (name them to include their files)"),
            ("special file or broken link", "special file%s or broken links"),
        ):
            if count := self.left_out[reason]:
                parts.append(f"{count} {phrase % ('s' if count > 1 else '')}")
        return f"Files left out: {', '.join(parts)}." if parts else ""


def counted(count: int, noun: str) -> str:
    return f"{count} {noun}{'s' if count != 1 else ''}"


def find_inputs(arguments: Sequence[str], recursive: bool, suffixes: Collection[str]) -> Inputs:
    """The files that arguments name, each once: a file whatever its suffix, and of a folder the files with
    one of `suffixes`.

    Below an output folder, the files of a single folder keep their relative paths. With several arguments
    each folder also keeps its name, and its path from the folder that contains all of them.

    Raises:
        OptionError: for a folder without such files.
    """
    found = Inputs()
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
                advice = f"name files, or try --recursive. {found.notice()}".strip()
                raise OptionError(f"The folder {folder} has no suitable files; {advice}")
            new = [
                Input(path, str(path), root / path.relative_to(folder))
                for path in listing.files
                if path not in known
            ]
            known |= {*listing.files}
        found.files += new
    if not found.files and found.errors:
        raise found.errors[0]
    return found


def input_at(argument: str) -> Input:
    """The input at a path, or from a pipe. Raises OptionError for more than MAX_PIPED bytes from a pipe."""
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
                    f"The pipe gave more than {MAX_PIPED >> 30} GiB; save them as a file first."
                )
            out.write(data)


@dataclass(frozen=True)
class Output:
    """Destination of a result; `-` is standard output. An existing file is replaced if `overwrite`."""

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
        """A binary stream, seekable and readable, that becomes the output when the block ends without an
        error.

        Creates the folder of the file. Raises OSError; FileExistsError for a file that may not be replaced.
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
        """Copy access and modification times from the source."""
        if self.is_file:
            times = source.stat()
            os.utime(self.path, ns=(times.st_atime_ns, times.st_mtime_ns))


STDOUT = Output(Path("-"))


@dataclass(frozen=True)
class Job:
    """One input and its output."""

    input: Input
    output: Output

    @property
    def source(self) -> Path:
        return self.input.path


class Outputs:
    """All outputs of one run: each path is added, and `check` raises before anything is written.

    Args:
        inputs: the files that the run reads; none of them is ever replaced.
        force: replace files that the user did not name.
    """

    def __init__(self, inputs: Iterable[Path] = (), force: bool = False) -> None:
        self.force = force
        self.inputs = [*inputs]
        self.keys = {file_key(path) for path in self.inputs}
        self.identities = {one for path in self.inputs if (one := identity(path))}
        self.taken: dict[str, tuple[Path, str]] = {}
        self.existing: list[Path] = []

    def add(self, path: Path, named: bool, source: str = "") -> Output:
        """Add an output; `named` if the user named exactly this file, `source` is the name of its input.

        Raises OptionError if it is an input, a folder, or another output of this run, also where a file
        system ignores case.
        """
        output = Output(path, named or self.force)
        if not output.is_file:
            return output
        if path.is_dir():
            raise OptionError(f"{path} is a folder; name a file.")
        if file_key(path) in self.keys or identity(path) in self.identities:
            raise OptionError(f"{path} is an input and would be written over; name another output with -o.")
        other, other_source = self.taken.setdefault(file_key(path), (path, source))
        if (other, other_source) != (path, source):
            raise OptionError(clash_message(other_source, source, other, path))
        if os.path.lexists(path) and not output.overwrite:
            self.existing.append(path)
        return output

    def check(self, skippable: bool = False) -> None:
        """Raises OptionError if a file exists that may not be replaced; `skippable` if --skip-existing is an
        option.
        """
        if self.existing:
            count = len(self.existing) - 1
            others = f" and {count} more exist" if count else " exists"
            skip = ", --skip-existing to keep it" if skippable else ""
            raise OptionError(
                f"{self.existing[0]}{others} already; use --force to replace{skip}, or -o to write elsewhere."
            )


def clash_message(source: str, other_source: str, path: Path, other_path: Path) -> str:
    """The error about two results that would be the same file."""
    if path == other_path:
        return (
            f"{source} and {other_source} would both become {path}; add --keep-suffix if their suffixes "
            "differ, or choose different output folders."
        )
    return (
        f"{source} and {other_source} would become {path} and {other_path}, which are the same file where "
        "case is ignored; rename one of them, or choose different output folders."
    )


def file_key(path: Path) -> str:
    """Equal for paths that may be the same file: case and Unicode normal forms are ignored."""
    return folded(str(path.resolve()))


def identity(path: Path) -> tuple[int, int] | None:
    """Device and inode of the file, equal for all its names; None if there is no file."""
    try:
        found = path.stat()
    except OSError:
        return None
    return found.st_dev, found.st_ino


def plan(
    found: Inputs,
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
    """The output of each input: in the same folder, in the folder `out`, or `out` itself if that is the name
    of a file.

    Args:
        found: the inputs.
        out: the value of `option`. It names a file only if there is a single input that is not from a folder.
        suffix: of the outputs: x.jpg becomes x plus suffix, or with `keep_suffix` x.jpg plus suffix.
        outputs: the run's outputs; the caller calls its `check`.
        refused: suffixes that `out` must not have.
        may_replace_original: false if even a named `out` does not replace a file with its input's folder and
            stem.
        skip_existing: leave out inputs whose output exists.

    Raises:
        typer.BadParameter: if `out` names a file and there are several inputs, or a folder.
        OptionError: as `Outputs.add`, and if `out` has a refused suffix.
    """
    alone = len(found.files) == 1 and not found.folders
    if out is None and any(one.piped for one in found.files):
        if not alone:
            raise OptionError(f"Input from a pipe has no folder; name an output folder with {option}.")
        out = "-"
    named = out is not None and names_file(out, alone, option)
    if named:
        refuse_suffix(out or "", refused, option)
    jobs = []
    for one in found.files:
        if named:
            path = Path(out or "")
        else:
            base = one.path.parent / one.path.name if out is None else Path(out, one.relative_output)
            path = base.with_name(f"{base.name if keep_suffix else base.stem}{suffix}")
        if skip_existing and Output(path).is_file and os.path.lexists(path):
            continue
        original = (path.resolve().parent, path.stem) == (one.path.resolve().parent, one.path.stem)
        exact = named and (may_replace_original or not original)
        jobs.append(Job(one, outputs.add(path, exact, one.name)))
    return jobs


def refuse_suffix(out: str, refused: Collection[str], option: str = "--out") -> None:
    """Raises OptionError if the file name `out`, the value of `option`, has one of these suffixes."""
    if Path(out).suffix.lower() in refused:
        raise OptionError(f"{option} {out} has the suffix of another kind of file; choose another name.")


def names_file(out: str, alone: bool, option: str) -> bool:
    """Whether `out` is the name of a file and not of a folder. Raises typer.BadParameter if it must be a
    folder.
    """
    if out.endswith(("/", os.sep)) or Path(out).is_dir():
        return False
    stream = out in STDOUT_NAMES or is_device(out)
    if not alone and (stream or Path(out).is_file() or has_known_suffix(out)):
        shown = "standard output" if out in STDOUT_NAMES else f"{printable(out)}"
        raise typer.BadParameter(
            f"{option} {shown} is one file, but there are several inputs or a folder; name a folder."
        )
    return alone


def has_known_suffix(out: str) -> bool:
    return Path(out).suffix.lower() in {".tri", ".json", ".csv", *image_suffixes()}


def image_suffixes() -> frozenset[str]:
    """Suffixes of images, also of formats that Trifocal cannot read."""
    from trifocal.pictures import PICTURE_SUFFIXES

    return PICTURE_SUFFIXES | OTHER_IMAGES
