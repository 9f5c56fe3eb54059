"""What a worker does with a segment: code each image, write its file, and note it in the journal."""

from __future__ import annotations

import errno
import hashlib
import sys
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path, PurePosixPath

from trifocal.batch.journal import Row, Segment
from trifocal.batch.operations import Function, Operation
from trifocal.batch.storage import Folder
from trifocal.errors import OptionError, TrifocalError
from trifocal.utils.limits import MAX_PIXELS

__all__ = ["StorageFull", "Task", "code_segment", "limit_memory", "output_key", "pixel_limit"]

MAX_STARTS = 3  # of an image whose worker ends each time
FULL = {errno.ENOSPC, errno.EDQUOT, errno.EROFS}
FIXED_MEMORY = {"onnx": 800_000_000, "torch": 1_200_000_000}  # bytes of a worker, of which Ray takes 200 MB
PIXEL_MEMORY = 20  # bytes


class StorageFull(OSError):
    """Nothing more can be written, so the run stops."""


@dataclass(frozen=True)
class Task:
    """What is the same for all images of a run.

    Attributes:
        operation: with its options.
        source: the folder of the inputs.
        target: the folder of the outputs; None if the operation writes none.
        journal: the folder of the journal.
        keep_suffix: photo.jpg becomes photo.jpg.tri instead of photo.tri.
        max_pixels: larger images are refused.
        memory: of a worker, in bytes; None for no limit.
    """

    operation: Operation
    source: Folder
    target: Folder | None
    journal: Folder
    keep_suffix: bool = False
    max_pixels: int = MAX_PIXELS
    memory: int | None = None


def output_key(task: Task, key: str) -> str:
    """The key of an image's output."""
    base = key if task.keep_suffix else str(PurePosixPath(key).with_suffix(""))
    return f"{base}{task.operation.suffix}"


def pixel_limit(memory: int, engine: str | None) -> int:
    """The largest number of pixels for a worker with so many bytes. Raises OptionError if it is too few for
    any image.
    """
    fixed = FIXED_MEMORY[engine or "onnx"]
    pixels = (memory - fixed) // PIXEL_MEMORY
    if pixels < 1 << 20:
        least = (fixed + (PIXEL_MEMORY << 20)) / 1e6
        raise OptionError(f"A worker needs {least:.0f} MB for an image of a megapixel; raise --memory.")
    return pixels


def limit_memory(count: int) -> None:
    """Let this process have `count` bytes in memory; beyond them it gets a MemoryError.

    The system can only limit allocated memory, so the limit is what is allocated now, plus `count`, minus the
    memory in use now. Has no effect on systems other than Linux.
    """
    if sys.platform != "linux":
        return
    import resource

    status = dict(line.split(":", 1) for line in Path("/proc/self/status").read_text("utf-8").splitlines())
    resident, allocated = (int(status[name].split()[0]) << 10 for name in ("VmRSS", "VmData"))
    limit = allocated + max(0, count - resident)
    resource.setrlimit(resource.RLIMIT_DATA, (limit, resource.getrlimit(resource.RLIMIT_DATA)[1]))


def code_segment(
    task: Task, code: Function, segment: Segment, keys: Sequence[str], report: Callable[[Row], None]
) -> None:
    """Code the images of a segment that have no row in its file, and call `report` with each new row.

    An image that fails gets a row with the error. So does one whose worker ended MAX_STARTS times, for
    example because the system had no memory left.

    Raises:
        StorageFull: if an output or the journal cannot be written.
    """
    for key in keys:
        if key in segment.rows:
            continue
        try:
            if segment.starts[key] >= MAX_STARTS:
                row = Row(key, error=ended_message(MAX_STARTS))
            else:
                segment.start(key)
                row = code_image(task, code, key)
            segment.add(row)
        except OSError as error:
            raise StorageFull(error.errno, f"{task.journal}: {error.strerror or error}") from error
        report(row)


def code_image(task: Task, code: Function, key: str) -> Row:
    """Read an image, code it and write its output. Raises StorageFull."""
    began = time.perf_counter()
    try:
        source = task.source.read(key)
        coded = code(source)
        if task.target is not None and coded.data is not None:
            write_output(task.target, output_key(task, key), coded.data)
    except StorageFull:
        raise
    except Exception as error:  # noqa: BLE001 - of one image among many: it is named, and the others go on
        return Row(key, seconds=elapsed(began), error=message(error, task))
    data = source if coded.data is None else coded.data
    return Row(
        key,
        bytes=len(data),
        bpp=None if coded.data is None else 8 * len(data) / coded.pixels,
        quality=coded.quality,
        seconds=elapsed(began),
        sha256=hashlib.sha256(data).hexdigest(),
        detections=coded.detections,
    )


def write_output(target: Folder, key: str, data: bytes) -> None:
    try:
        target.write(key, data)
    except OSError as error:
        if error.errno in FULL:
            raise StorageFull(error.errno, f"{target}: {error.strerror or error}") from error
        raise


def elapsed(began: float) -> float:
    return round(time.perf_counter() - began, 4)


def ended_message(count: int) -> str:
    return (
        f"The worker ended {count} times during this image, perhaps because memory ran out; raise --memory, "
        "or use fewer workers with --jobs."
    )


def message(error: Exception, task: Task) -> str:
    """The error of a row."""
    text = " ".join(str(error).split())
    if isinstance(error, MemoryError):
        return "It needs more memory than a worker has; raise --memory."
    if not isinstance(error, TrifocalError | OSError):
        return f"{type(error).__name__}: {text}"
    limited = task.memory is not None and task.max_pixels == pixel_limit(task.memory, task.operation.engine)
    return f"{text} Here --memory sets this limit." if limited and "--max-pixels" in text else text
