"""Workers: Ray Data maps the segments of a run to actors, each with a codec of its own."""

from __future__ import annotations

import logging
import os
import socket
from collections.abc import Generator, Iterator, Sequence
from concurrent.futures import Future, wait
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field
from threading import Thread
from typing import Any

from trifocal.batch.coding import Task, code_segment, limit_memory
from trifocal.batch.journal import Row, Segment
from trifocal.batch.operations import Function
from trifocal.errors import OptionError, TrifocalError, optional_packages
from trifocal.utils.limits import limit_pixels
from trifocal.utils.threads import processor_count

os.environ.setdefault("RAY_USAGE_STATS_ENABLED", "0")  # else Ray sends statistics over the network
os.environ.setdefault("RAY_BACKEND_LOG_LEVEL", "fatal")  # of what Ray prints itself
os.environ.setdefault("RAY_worker_niceness", "0")  # else workers on a busy machine get little time
with optional_packages("batch", "trifocal batch"):
    import ray
    import ray.data

__all__ = ["Progress", "Workers", "connected", "run_segments"]

OBJECT_STORE = (
    100 << 20
)  # bytes of shared memory, for the names of images; the least that Ray accepts is 75 MB
POLL = 0.5  # seconds
CONNECT = 10.0  # seconds


@dataclass
class Progress:
    """Images that were done since the last report: their number, and the rows of those that failed."""

    done: int = 0
    failures: list[Row] = field(default_factory=list)


class Tally:
    """An actor that collects the progress of all workers."""

    def __init__(self) -> None:
        self._progress = Progress()

    def add(self, row: Row) -> None:
        self._progress.done += 1
        if row.error is not None:
            self._progress.failures.append(row)

    def take(self) -> Progress:
        """The progress since the last call."""
        taken, self._progress = self._progress, Progress()
        return taken


class Worker:
    """An actor that codes segments. It loads its networks for the first."""

    def __init__(self, task: Task, tally: Any) -> None:
        self._task, self._tally = task, tally
        self._code: Function | None = None

    def __call__(self, row: dict[str, Any]) -> dict[str, str]:
        """Code the segment `name`, of the images `keys`. Returns why the run must stop, or an empty text:
        Ray would try a segment again after an exception.
        """
        task = self._task
        try:
            code = self._load()
            with limit_pixels(task.max_pixels):
                segment = Segment(task.journal, row["name"])
                code_segment(task, code, segment, [str(key) for key in row["keys"]], self._report)
        except (TrifocalError, OSError) as error:
            return {"stopped": str(error)}
        return {"stopped": ""}

    def _load(self) -> Function:
        if self._code is None:
            self._code = self._task.operation.load()
            if self._task.memory is not None:
                limit_memory(self._task.memory)
        return self._code

    def _report(self, row: Row) -> None:
        self._tally.add.remote(row)


@dataclass(frozen=True)
class Workers:
    """The workers of a run: their number, and that of the machines with room for them."""

    count: int
    machines: int


@contextmanager
def connected(address: str | None, jobs: int | None, memory: int | None) -> Iterator[Workers]:
    """Start Ray on this machine, or connect to the cluster at `address`; disconnect at the end.

    Args:
        address: of a cluster, such as "auto" or 10.0.0.1:6379; None for this machine.
        jobs: the largest number of workers; None for one on each processor.
        memory: bytes of each worker; None if it does not limit their number.

    Raises:
        OptionError: if there is no such cluster, or it has no room for a worker.
    """
    own: dict[str, Any] = {}
    if address is None:
        own = {"num_cpus": jobs or processor_count(), "object_store_memory": OBJECT_STORE}
        own["include_dashboard"] = False
    try:
        if address is not None and address.count(":") == 1:  # Ray alone would try for minutes
            host, _, port = address.partition(":")
            socket.create_connection((host, int(port)), timeout=CONNECT).close()
        with hidden_stderr():
            ray.init(address or "local", log_to_driver=False, logging_level=logging.ERROR, **own)
    except (OSError, ValueError) as error:
        if address is None:
            raise
        raise OptionError(
            f"No Ray cluster is at {address}; start one with `ray start --head`, or leave --address out."
        ) from error
    try:
        yield room(jobs, memory)
    finally:
        ray.shutdown()


@contextmanager
def hidden_stderr() -> Iterator[None]:
    """Hide what Ray's libraries write to standard error, such as their log level; errors are raised."""
    kept = os.dup(2)
    with open(os.devnull, "wb") as nowhere:
        os.dup2(nowhere.fileno(), 2)
    try:
        yield
    finally:
        os.dup2(kept, 2)
        os.close(kept)


def room(jobs: int | None, memory: int | None) -> Workers:
    """As many workers as the machines have processors and memory for, and at most `jobs`."""
    rooms = []
    for node in ray.nodes():
        resources = node["Resources"] if node["Alive"] else {}
        fit = int(resources.get("CPU", 0))
        rooms.append(fit if memory is None else min(fit, int(resources.get("memory", 0)) // memory))
    if not sum(rooms):
        if memory is None:
            raise OptionError("No machine of the cluster has a free processor; add machines.")
        raise OptionError(
            f"No machine has a free processor and {memory / 1e6:.0f} MB of free memory for a worker; lower "
            "--memory."
        )
    count = min(sum(rooms), jobs or sum(rooms))
    return Workers(count, min(count, sum(map(bool, rooms))))


def run_segments(
    task: Task, segments: Sequence[tuple[str, Sequence[str]]], workers: Workers
) -> Generator[Progress, None, None]:
    """Code segments, each a name and its images. Gives the progress twice a second.

    Raises:
        OSError: if the workers cannot load their networks, or cannot write. The journal has what was done.
    """
    tally: Any = ray.remote(Tally).options(num_cpus=0, max_restarts=-1).remote()
    result: Future[str] = Future()
    thread = Thread(target=first_stop, args=(mapped(task, segments, workers, tally), result), daemon=True)
    thread.start()  # which ends with the process if this is interrupted
    while wait([result], POLL).not_done:
        yield taken(tally)
    yield taken(tally)
    if stopped := result.result():
        raise OSError(f"{stopped.rstrip('.')}. The run has stopped; continue it with --resume.")


def mapped(task: Task, segments: Sequence[tuple[str, Sequence[str]]], workers: Workers, tally: Any) -> Any:
    """The dataset of the results of all segments, one block for each."""
    logging.getLogger("ray.data").setLevel(logging.CRITICAL)
    context = ray.data.DataContext.get_current()
    context.enable_progress_bars = False
    context.print_on_execution_start = False
    rows = [{"name": name, "keys": [*keys]} for name, keys in segments]
    dataset: Any = ray.data.from_items(rows, override_num_blocks=len(rows))
    return dataset.map(
        Worker,
        fn_constructor_args=(task, tally),
        compute=ray.data.ActorPoolStrategy(size=workers.count, max_tasks_in_flight_per_actor=2),
        num_cpus=1,
        **({} if task.memory is None else {"memory": task.memory}),
    )


def first_stop(dataset: Any, result: Future[str]) -> None:
    """Set the result to why the run must stop, as soon as a worker returns it; to an empty text if all
    segments are done.
    """
    try:
        result.set_result(next((str(row["stopped"]) for row in dataset.iter_rows() if row["stopped"]), ""))
    except BaseException as error:  # noqa: BLE001 - raised by the thread that waits for the result
        result.set_exception(error)


def taken(tally: Any) -> Progress:
    """The progress since the last call; none while the actor restarts."""
    with suppress(ray.exceptions.RayActorError):
        progress: Progress = ray.get(tally.take.remote())
        return progress
    return Progress()
