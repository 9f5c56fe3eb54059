"""Run the application on uvicorn, with a limit on the time that a client takes for a request's header."""

from __future__ import annotations

import asyncio
import socket
from collections.abc import Callable
from typing import Any

import uvicorn
from uvicorn.protocols.http.h11_impl import H11Protocol

from trifocal.errors import OptionError

__all__ = ["TimedProtocol", "listen", "make_server"]

MOST_CONNECTIONS = 512
KEEP_ALIVE = 5  # seconds between two requests of a connection
HEADER_SECONDS = 10.0
BACKLOG = 128


class TimedProtocol(H11Protocol):
    """Closes a connection on which no complete header arrives within HEADER_SECONDS."""

    timer: asyncio.TimerHandle | None = None

    def connection_made(self, transport: asyncio.Transport) -> None:  # type: ignore[override]
        super().connection_made(transport)
        self.set_timer()

    def data_received(self, data: bytes) -> None:
        super().data_received(data)
        self.set_timer()

    def connection_lost(self, exc: Exception | None) -> None:
        self.stop_timer()
        super().connection_lost(exc)

    @property
    def awaits_header(self) -> bool:
        return self.cycle is None or self.cycle.response_complete

    def set_timer(self) -> None:
        """Start to wait for a header, or stop if it is complete."""
        if not self.awaits_header:
            self.stop_timer()
        elif self.timer is None:
            self.timer = self.loop.call_later(HEADER_SECONDS, self.header_is_late)

    def stop_timer(self) -> None:
        if self.timer is not None:
            self.timer.cancel()
            self.timer = None

    def header_is_late(self) -> None:
        self.timer = None
        if self.awaits_header and not self.transport.is_closing():
            self.transport.abort()


def listen(host: str, port: int) -> socket.socket:
    """A socket that listens at that address; port 0 is any free one. Raises OptionError, which names the
    remedy.
    """
    try:
        family, _, _, _, address = socket.getaddrinfo(host, port, type=socket.SOCK_STREAM)[0]
        return socket.create_server(address[:2], family=family, backlog=BACKLOG)
    except (OSError, OverflowError) as error:
        reason = getattr(error, "strerror", None) or str(error)
        raise OptionError(
            f"The server cannot listen at {host}, port {port} ({reason}); choose others with --host and "
            "--port."
        ) from error


def make_server(app: Callable[..., Any]) -> uvicorn.Server:
    """A server for `run(sockets=[listen(host, port)])`."""
    return uvicorn.Server(
        uvicorn.Config(
            app,
            http=TimedProtocol,
            ws="none",
            log_level="warning",
            access_log=False,
            server_header=False,
            proxy_headers=False,
            limit_concurrency=MOST_CONNECTIONS,
            timeout_keep_alive=KEEP_ALIVE,
            timeout_graceful_shutdown=KEEP_ALIVE,
        )
    )
