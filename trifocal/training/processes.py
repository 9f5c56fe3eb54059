"""Run a training function in several processes that average their gradients."""

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
from torch.multiprocessing import (
    ProcessContext,
    ProcessExitedException,
    ProcessRaisedException,
    spawn,
)

from trifocal.errors import OptionError, TrifocalError
from trifocal.training.stopping import StopRequest, stop_requests
from trifocal.training.task import Notify, Report, silent

__all__ = ["in_processes", "local_processes", "process_rank"]

POLL = 0.1  # seconds between checks of the processes
KILL_AFTER = 5.0  # seconds until a process that does not end is killed

Result = TypeVar("Result")
Message = tuple[str, tuple[Any, ...]]
"""A kind ("report", "notify", "result" or "error") and its values."""


def in_processes(
    count: int,
    train: Callable[..., Result],
    *args: object,
    report: Report = silent,
    notify: Notify = silent,
    **options: object,
) -> Result:
    """Run a training function in several processes, which share the torch threads of this one and average
    their gradients.

    The processes are spawned, so a script that calls this needs `if __name__ == "__main__":`. All of them end
    when one fails. The first Ctrl-C or SIGTERM of this one stops training as it does in a single process; the
    second ends all of them at once.

    Args:
        count: number of processes; 1 runs the function in this one.
        train: `train`, `train_base_layer`, `train_detector`, `train_text_image`, or another function at the
            top level of a module that trains with accelerate.
        args, options: its arguments, which must be picklable.
        report, notify: called in this process with the values of the first of the others.

    Returns:
        The result of the first process.

    Raises:
        OptionError: for a count below 1 or above the number of GPUs, if there are any, or under torchrun or
            accelerate; if accelerate started fewer processes than it was asked for.
        TrifocalError, OSError: if the function raised it in one of the processes.
        KeyboardInterrupt: if it was interrupted before training began.
    """
    check_count(count)
    if count == 1:
        return train(*args, report=report, notify=notify, **options)
    messages: SimpleQueue[Message] = get_context("spawn").SimpleQueue()
    callbacks: dict[str, Callable[..., object]] = {"report": report, "notify": notify}
    work = (environment(count), max(1, torch.get_num_threads() // count), messages, train, args, options)
    with interrupts_ignored():
        workers = spawn(run_one, work, nprocs=count, join=False)
    try:
        with stop_requests() as stop:
            return forward_messages(workers, messages, callbacks, stop)
    finally:
        terminate(workers)


def process_rank() -> int:
    """The number of this process among those that train together, 0 for the first."""
    return int(os.environ.get("RANK", "0"))


def local_processes() -> int:
    """How many processes on this machine train together."""
    return int(os.environ.get("LOCAL_WORLD_SIZE", "1"))


def check_count(count: int) -> None:
    """Raise OptionError if this number of processes cannot train together."""
    if count < 1:
        raise OptionError(f"The number of processes must be 1 or more, not {count}.")
    if count > 1 and "RANK" in os.environ:
        raise OptionError(
            "This process was started by torchrun or accelerate, which set the number of processes; "
            "leave out --processes."
        )
    if {"ACCELERATE_MIXED_PRECISION", "MASTER_ADDR"} <= os.environ.keys() and "RANK" not in os.environ:
        raise OptionError(
            "accelerate was asked for several processes and starts one, as it does on CPUs; start them by "
            "`accelerate launch --multi_gpu --num_processes N`, which needs no GPU, by torchrun, or by "
            "--processes without accelerate."
        )
    if count > (gpus := torch.cuda.device_count()) > 0:
        raise OptionError(
            f"Each process needs a GPU, and this machine has {gpus}; set --processes to {gpus} at most."
        )


def environment(count: int) -> dict[str, str]:
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
    """The body of one process."""
    threading.Thread(target=exit_with_parent, daemon=True).start()
    signal.signal(
        signal.SIGTERM, lambda number, frame: sys.exit(1)
    )  # exits through `finally`, which removes unfinished files
    os.environ.update(variables, RANK=str(rank), LOCAL_RANK=str(rank), OMP_NUM_THREADS=str(threads))
    torch.set_num_threads(threads)

    def sender(kind: str) -> Callable[..., None]:
        return lambda *values: messages.put((kind, values)) if rank == 0 else None

    if rank:
        warnings.simplefilter("ignore")
    try:
        sender("result")(train(*args, report=sender("report"), notify=sender("notify"), **options))
    except (TrifocalError, OSError) as error:
        messages.put(("error", (error,)))
    except SystemExit:
        os._exit(1)  # torch.distributed would wait for the others
    else:
        if torch.distributed.is_initialized():
            torch.distributed.destroy_process_group()


@contextmanager
def interrupts_ignored() -> Iterator[None]:
    """Processes started in this context ignore Ctrl-C, which a terminal sends to all of them; this one ends
    them."""
    if threading.current_thread() is not threading.main_thread():
        yield
        return
    before = signal.signal(signal.SIGINT, signal.SIG_IGN)
    try:
        yield
    finally:
        signal.signal(signal.SIGINT, before)


def exit_with_parent() -> None:
    """End this process when its parent ends, in whatever way."""
    parent = parent_process()
    assert parent is not None
    parent.join()
    os._exit(1)


def forward_messages(
    workers: ProcessContext,
    messages: "SimpleQueue[Message]",
    callbacks: Mapping[str, Callable[..., object]],
    stop: StopRequest,
) -> Any:
    """Forward messages until all processes have ended. Return the result, or raise the first error. A request
    to stop is forwarded once."""
    result, running, forwarded = None, True, False
    while running:
        if stop.asked and not forwarded:
            forwarded = True
            for process in workers.processes:
                process.terminate()
        try:
            running = not workers.join(POLL)
        except (ProcessExitedException, ProcessRaisedException):
            if forwarded and messages.empty():
                raise KeyboardInterrupt from None
            raise
        finally:  # the original error takes precedence over that of processes that lost the connection
            while not messages.empty():
                kind, values = messages.get()
                if kind == "error":
                    raise values[0]
                if kind == "result":
                    (result,) = values
                else:
                    callbacks[kind](*values)
    return result


def terminate(workers: ProcessContext) -> None:
    """End the processes that still run."""
    for process in workers.processes:
        if process.is_alive():
            process.terminate()
    for process in workers.processes:
        process.join(KILL_AFTER)
        if process.is_alive():
            process.kill()
            process.join()
