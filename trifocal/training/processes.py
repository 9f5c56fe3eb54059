"""A training function in several processes of this machine, which average their gradients."""

import os
import signal
import socket
import sys
import threading
import warnings
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from multiprocessing import get_context, parent_process
from multiprocessing.queues import SimpleQueue
from typing import Any, TypeVar

import torch
from torch.multiprocessing import ProcessContext, spawn

from trifocal.errors import OptionError, TrifocalError
from trifocal.training.task import Note, Report, silent

__all__ = ["in_processes"]

POLL, GRACE = (
    0.1,
    5.0,
)  # seconds between two looks at the processes, and until one that does not end is killed

Result = TypeVar("Result")
Message = tuple[str, tuple[Any, ...]]
"""Its kind ("report", "note", "result" or "error"), and what belongs to it."""


def in_processes(
    count: int,
    train: Callable[..., Result],
    *args: object,
    report: Report = silent,
    note: Note = silent,
    **options: object,
) -> Result:
    """Runs a training function in so many processes, which share this process's torch threads and average their gradients.

    The processes are started afresh: a script that calls this needs `if __name__ == "__main__":`. They end when the first of
    them fails, and when this one is interrupted.

    Args:
        count: processes; with 1 the function runs in this one.
        train: `train`, `train_base`, `train_detector`, `train_towers`, or another function at the top level of a module that
            trains with accelerate.
        args, options: its arguments. A batch size is that of each process.
        report, note: called in this process with what the first of the others reports.

    Returns:
        What the function returned in the first process.

    Raises:
        OptionError: for no process, more processes than GPUs where there are GPUs, or in a process of torchrun or accelerate.
        TrifocalError, OSError: what the function raised in one of the processes.
    """
    check_count(count)
    if count == 1:
        return train(*args, report=report, note=note, **options)
    messages: SimpleQueue[Message] = get_context("spawn").SimpleQueue()
    told: dict[str, Callable[..., object]] = {"report": report, "note": note}
    work = (surroundings(count), max(1, torch.get_num_threads() // count), messages, train, args, options)
    with deaf_to_interrupts():
        workers = spawn(run_one, work, nprocs=count, join=False)
    try:
        return attend(workers, messages, told)
    finally:
        end(workers)


def check_count(count: int) -> None:
    """Raises OptionError where so many processes cannot train together."""
    if count < 1:
        raise OptionError(f"Training takes one process or more, not {count}.")
    if count > 1 and "RANK" in os.environ:
        raise OptionError(
            "This is one process of several already; leave --processes to torchrun or accelerate."
        )
    if count > (gpus := torch.cuda.device_count()) > 0:
        raise OptionError(
            f"This machine has {gpus} GPUs, and each process needs its own; set --processes to {gpus} at most."
        )


def surroundings(count: int) -> dict[str, str]:
    """Environment variables by which torch.distributed and accelerate find the other processes."""
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    found = {"MASTER_ADDR": "127.0.0.1", "MASTER_PORT": str(port)}
    found |= dict.fromkeys(("WORLD_SIZE", "LOCAL_WORLD_SIZE"), str(count))
    return found if torch.cuda.device_count() else found | {"ACCELERATE_USE_CPU": "1"}


def run_one(
    rank: int,
    variables: Mapping[str, str],
    threads: int,
    messages: "SimpleQueue[Message]",
    train: Callable[..., object],
    args: Sequence[object],
    options: Mapping[str, object],
) -> None:
    """What one of the processes does."""
    threading.Thread(target=leave_with_parent, daemon=True).start()
    signal.signal(
        signal.SIGTERM, lambda number, frame: sys.exit(1)
    )  # half-written files are removed on the way out
    os.environ.update(variables, RANK=str(rank), LOCAL_RANK=str(rank), OMP_NUM_THREADS=str(threads))
    torch.set_num_threads(threads)

    def tell(kind: str) -> Callable[..., None]:
        return lambda *said: messages.put((kind, said)) if rank == 0 else None

    warnings.filterwarnings(
        "ignore", message="Grad strides do not match"
    )  # of depthwise layers, channels-last
    if rank:
        warnings.simplefilter("ignore")
    try:
        tell("result")(train(*args, report=tell("report"), note=tell("note"), **options))
    except (TrifocalError, OSError) as error:
        messages.put(("error", (error,)))
    except SystemExit:
        os._exit(1)  # without waiting for the others, which torch.distributed would
    else:
        if torch.distributed.is_initialized():
            torch.distributed.destroy_process_group()


@contextmanager
def deaf_to_interrupts() -> Iterator[None]:
    """Processes that start in it ignore Ctrl-C, which a terminal sends to all of them; this one ends them."""
    if threading.current_thread() is not threading.main_thread():
        yield
        return
    before = signal.signal(signal.SIGINT, signal.SIG_IGN)
    try:
        yield
    finally:
        signal.signal(signal.SIGINT, before)


def leave_with_parent() -> None:
    """Ends this process when the one that started it is gone, however that came about."""
    parent = parent_process()
    assert parent is not None
    parent.join()
    os._exit(1)


def attend(
    workers: ProcessContext, messages: "SimpleQueue[Message]", told: Mapping[str, Callable[..., object]]
) -> Any:
    """Passes messages on until all processes have ended. Returns the result, or raises the first error."""
    result, running = None, True
    while running:
        try:
            running = not workers.join(POLL)
        finally:  # the error that one process names comes before that of another, which lost it
            while not messages.empty():
                kind, said = messages.get()
                if kind == "error":
                    raise said[0]
                if kind == "result":
                    (result,) = said
                else:
                    told[kind](*said)
    return result


def end(workers: ProcessContext) -> None:
    """Ends the processes that still run."""
    for process in workers.processes:
        if process.is_alive():
            process.terminate()
    for process in workers.processes:
        process.join(GRACE)
        if process.is_alive():
            process.kill()
            process.join()
