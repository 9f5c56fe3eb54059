"""Limits of the server, and the thread pool that works on requests within them."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Awaitable, Callable, Iterator, MutableMapping
from concurrent.futures import ThreadPoolExecutor
from contextlib import asynccontextmanager, contextmanager
from dataclasses import dataclass
from typing import Any, Generic, TypeVar

from trifocal.errors import OptionError, TrifocalError
from trifocal.utils.limits import limit_pixels

__all__ = ["Abandoned", "Limits", "RequestError", "Workload"]

WAITING_PER_THREAD = 4  # requests that wait for each thread of the pool
MOST_UPLOADS = 64  # bodies that are received at the same time
BODIES_IN_MEMORY = 4  # times `max_bytes`: the most bytes of all bodies together
RETRY_AFTER = 2  # seconds

Receive = Callable[[], Awaitable[MutableMapping[str, Any]]]
Work = Callable[[Callable[[float], None]], "T"]
T = TypeVar("T")


class RequestError(TrifocalError):
    """A request that is refused.

    Attributes:
        status: of HTTP.
        retry_after: seconds after which the client may try again, or None.
    """

    def __init__(self, status: int, message: str, retry_after: int | None = None) -> None:
        super().__init__(message)
        self.status, self.retry_after = status, retry_after


class Abandoned(Exception):
    """The client has closed the connection, or the time of the request is over."""


@dataclass(frozen=True)
class Limits:
    """Limits of the server.

    Attributes:
        max_pixels: of an image, 1 or more.
        max_bytes: of the body of a request, 1 or more.
        timeout: seconds, above 0: for receiving a body, for the work, and for sending the answer.
        parallel: requests that are worked on at the same time, 1 or more. Each takes up to 600 MB of memory
            plus 20 bytes per pixel.

    Raises:
        OptionError: for a value out of its range.
    """

    max_pixels: int = 25_000_000
    max_bytes: int = 32_000_000
    timeout: float = 60.0
    parallel: int = 1

    def __post_init__(self) -> None:
        for name in ("max_pixels", "max_bytes", "parallel"):
            if getattr(self, name) < 1:
                raise OptionError(f"{name} must be 1 or more, not {getattr(self, name)}.")
        if not 0 < self.timeout < float("inf"):
            raise OptionError(f"timeout must be above 0 seconds, not {self.timeout:g}.")

    @property
    def most_accepted(self) -> int:
        """Requests that are worked on or wait at the same time; the server answers 503 to further ones."""
        return self.parallel * (1 + WAITING_PER_THREAD)


class Job(Generic[T]):
    """A function that is called with a callback of its progress, which raises Abandoned when `abandoned` is
    set.
    """

    def __init__(self, work: Work[T], limits: Limits) -> None:
        self.work, self.limits = work, limits
        self.started = self.abandoned = False

    def __call__(self) -> T:
        self.started = True
        self.progress(0.0)
        with limit_pixels(self.limits.max_pixels):
            return self.work(self.progress)

    def progress(self, fraction: float) -> None:
        if self.abandoned:
            raise Abandoned


class Workload:
    """The requests of a server: their bodies, and the threads that work on them. Used by one event loop."""

    def __init__(self, limits: Limits) -> None:
        self.limits = limits
        self.uploads = self.accepted = self.bytes_in_memory = 0
        self._pool = ThreadPoolExecutor(limits.parallel, thread_name_prefix="trifocal-web")

    def close(self) -> None:
        """Start no further work."""
        self._pool.shutdown(wait=False, cancel_futures=True)

    @contextmanager
    def accept(self) -> Iterator[None]:
        """A place among the requests that are worked on, wait, or are answered. Raises RequestError (503) if
        there is none.
        """
        self.check_place()
        self.accepted += 1
        try:
            yield
        finally:
            self.accepted -= 1

    def check_place(self) -> None:
        """Raises RequestError (503) if no further request is accepted."""
        if self.accepted >= self.limits.most_accepted:
            raise self.busy()

    def busy(self) -> RequestError:
        return RequestError(503, "The server is busy; try again in a few seconds.", RETRY_AFTER)

    @asynccontextmanager
    async def body(
        self, chunks: AsyncIterator[bytes], declared: int | None, received: Callable[[int], object]
    ) -> AsyncIterator[bytes]:
        """The body of a request, which counts against the memory of all bodies until the context ends.

        Args:
            chunks: of the body.
            declared: its length according to the header, if there is one.
            received: called with the number of bytes of each chunk.

        Raises:
            RequestError: 413 for a body over the limit, 408 for one that takes too long, 503 if the server
                receives too many.
        """
        self.check_place()
        if self.uploads >= MOST_UPLOADS:
            raise self.busy()
        held: list[bytes] = []
        self.uploads += 1
        try:
            try:
                async with asyncio.timeout(self.limits.timeout):
                    await self._receive(chunks, declared or 0, received, held)
            except TimeoutError:
                raise RequestError(
                    408,
                    f"The file was not received within {self.limits.timeout:g} seconds; send a smaller one.",
                ) from None
            finally:
                self.uploads -= 1
            held[:] = [b"".join(held)]
            yield held[0]
        finally:
            self.bytes_in_memory -= sum(map(len, held))

    async def _receive(
        self,
        chunks: AsyncIterator[bytes],
        declared: int,
        received: Callable[[int], object],
        held: list[bytes],
    ) -> None:
        """Append the chunks to `held` and count them. Raises RequestError as `body`."""
        size = 0
        self._check_size(declared)
        async for chunk in chunks:
            received(len(chunk))
            size += len(chunk)
            self._check_size(size)
            if self.bytes_in_memory + len(chunk) > BODIES_IN_MEMORY * self.limits.max_bytes:
                raise self.busy()
            self.bytes_in_memory += len(chunk)
            held.append(chunk)

    def _check_size(self, size: int) -> None:
        if size > self.limits.max_bytes:
            raise RequestError(
                413,
                f"The file has more than {self.limits.max_bytes:,} bytes, the limit of this server; send a "
                "smaller one, or raise the limit with --max-bytes.",
            )

    async def run(self, work: Work[T], receive: Receive) -> T:
        """Call a function in a thread of the pool, with the limit of pixels.

        Args:
            work: called with a callback of its progress, which stops it.
            receive: of the connection, after the body; it returns when the client has closed it.

        Raises:
            RequestError: 503 if the work did not start in time, 504 if it did not end in time.
            Abandoned: if the client has closed the connection.
            Exception: whatever the function raises.
        """
        job = Job(work, self.limits)
        done = asyncio.get_running_loop().run_in_executor(self._pool, job)
        closed = asyncio.ensure_future(receive())
        either: set[asyncio.Future[Any]] = {done, closed}
        try:
            await asyncio.wait(either, timeout=self.limits.timeout, return_when=asyncio.FIRST_COMPLETED)
            if done.done():
                return done.result()
            if closed.done():
                raise Abandoned
            raise self._late() if job.started else self.busy()
        finally:
            job.abandoned = True
            closed.cancel()
            if not done.done():
                done.cancel()  # removed from the queue if it has not started
                done.add_done_callback(lambda future: future.cancelled() or future.exception())

    def _late(self) -> RequestError:
        return RequestError(
            504,
            f"This took longer than {self.limits.timeout:g} seconds, the limit of this server; send a "
            "smaller image, or raise the limit with --timeout.",
        )
