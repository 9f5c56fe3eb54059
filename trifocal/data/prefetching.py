"""Endless batches that a background thread makes ahead of time."""

from abc import ABC, abstractmethod
from collections import deque
from concurrent.futures import Future, ThreadPoolExecutor
from typing import Generic, Self, TypeVar

__all__ = ["Prefetcher"]

Item = TypeVar("Item")


class Prefetcher(ABC, Generic[Item]):
    """An endless source of batches. One background thread makes them in order, ahead of their use.

    It is a context manager that calls `close`. A subclass must set its attributes before it calls `__init__`,
    which starts the thread.

    Args:
        depth: largest number of batches made ahead, 1 or more.
    """

    def __init__(self, depth: int = 1) -> None:
        self._thread = ThreadPoolExecutor(1)
        self._coming: deque[Future[Item]] = deque(self._thread.submit(self._make) for _ in range(depth))

    def next(self) -> Item:
        """The next batch. Raises the error that making it raised."""
        made = self._coming.popleft()
        self._coming.append(self._thread.submit(self._make))
        return made.result()

    def close(self) -> None:
        """End the thread after its current batch. `next` must not be called afterwards."""
        self._thread.shutdown(cancel_futures=True)

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *error: object) -> None:
        self.close()

    @abstractmethod
    def _make(self) -> Item:
        """Make a batch. Called in the thread only, sequentially."""
