"""Batches made ahead of time, in the background."""

from abc import ABC, abstractmethod
from collections import deque
from concurrent.futures import Future, ThreadPoolExecutor
from typing import Generic, Self, TypeVar

__all__ = ["Prefetcher"]

Made = TypeVar("Made")


class Prefetcher(ABC, Generic[Made]):
    """A source of batches without end, which one thread makes in order, a few ahead of those that are used.

    As a context manager it ends with `close`. A subclass sets its attributes before it calls `__init__`, which starts the thread.

    Args:
        depth: batches that wait at most, 1 or more.
    """

    def __init__(self, depth: int = 1) -> None:
        self._thread = ThreadPoolExecutor(1)
        self._coming: deque[Future[Made]] = deque(self._thread.submit(self._make) for _ in range(depth))

    def next(self) -> Made:
        """The next batch, or whatever error its making raised."""
        made = self._coming.popleft()
        self._coming.append(self._thread.submit(self._make))
        return made.result()

    def close(self) -> None:
        """Ends the thread, after the batch that it is making. There is no next batch then."""
        self._thread.shutdown(cancel_futures=True)

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *error: object) -> None:
        self.close()

    @abstractmethod
    def _make(self) -> Made:
        """A batch. Called by the thread only, one call after another."""
