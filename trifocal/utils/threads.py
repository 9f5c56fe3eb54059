"""Threads for NumPy: parts of an array are computed side by side, each on one thread.

OpenBLAS has threads of its own, which wait busily: two processes on two cores then take several times as
long. `one_blas_thread` turns them off for a while.
"""

from __future__ import annotations

import os
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor, wait
from contextlib import AbstractContextManager, contextmanager
from functools import lru_cache
from threading import Lock
from typing import Any, Generic, TypeVar

from threadpoolctl import ThreadpoolController

__all__ = ["Background", "for_rows", "one_blas_thread", "pool", "processor_count", "thread_count"]

THREADS = "OMP_NUM_THREADS"  # as torch reads it
Value = TypeVar("Value")
COST_PER_THREAD = 4e6  # multiplications that take longer than starting a thread


def thread_count() -> int:
    """As many threads as torch would use: the variable OMP_NUM_THREADS, or one for each processor."""
    given = os.environ.get(THREADS, "")
    if given.isdecimal() and int(given):
        return int(given)
    return processor_count()


def processor_count() -> int:
    """The processors that this process may use."""
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1


def for_rows(compute: Callable[[slice], object], rows: int, cost: float) -> None:
    """Call a function for all rows of an array, in slices that run side by side. The calling thread takes the
    first: a thread that only waits leaves its processor idle until the system moves another thread there.

    Args:
        compute: for a slice of rows; writes its results into an array of the caller.
        rows: their number.
        cost: multiplications per row.
    """
    parts = max(1, min(thread_count(), rows, int(rows * cost / COST_PER_THREAD)))
    slices = [slice(rows * part // parts, rows * (part + 1) // parts) for part in range(parts)]
    others = [pool().submit(compute, one) for one in slices[1:]]
    try:
        compute(slices[0])
    finally:
        wait(others)
    for one in others:
        one.result()


class BlasLimit:
    """Limits BLAS to one thread while at least one thread of this process wants that."""

    def __init__(self) -> None:
        self._lock, self._users = Lock(), 0
        self._limit: Any = None

    @contextmanager
    def __call__(self) -> Iterator[None]:
        with self._lock:
            if not self._users:
                self._limit = blas().limit(limits=1, user_api="blas")
            self._users += 1
        try:
            yield
        finally:
            with self._lock:
                self._users -= 1
                if not self._users:
                    self._limit.restore_original_limits()


_blas_limit = BlasLimit()


def one_blas_thread() -> AbstractContextManager[None]:
    """While it is open, products of matrices take one thread. Several threads may have it open."""
    return _blas_limit()


@lru_cache(maxsize=1)
def blas() -> ThreadpoolController:
    """The thread pools of the libraries that are loaded at the first call."""
    return ThreadpoolController()


@lru_cache(maxsize=1)
def pool() -> ThreadPoolExecutor:
    """The threads of this process for work that waits for none of their other work."""
    return ThreadPoolExecutor(os.cpu_count() or 1, thread_name_prefix="trifocal")


class Background(Generic[Value]):
    """A value that a thread of the pool computes. A forked process, which has none of the threads, computes
    it anew.
    """

    def __init__(self, compute: Callable[[], Value]) -> None:
        self.compute = compute
        self._begin()

    def _begin(self) -> None:
        self._pool = pool()
        self._future = self._pool.submit(self.compute)

    def result(self) -> Value:
        """The value, as soon as it is there. Raises what its computation raised."""
        if not self._future.done() and self._pool is not pool():
            self._begin()
        return self._future.result()


if hasattr(os, "register_at_fork"):
    os.register_at_fork(after_in_child=pool.cache_clear)  # a forked process has none of the threads
