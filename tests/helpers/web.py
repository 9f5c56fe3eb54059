"""Run the server of `trifocal serve`, in a thread or as a process, and send requests to it."""

import io
import os
import re
import signal
import socket
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest
from PIL import Image

from trifocal.demo import PHOTOGRAPH

ROOT = Path(__file__).resolve().parent.parent.parent
START_SECONDS = 120.0  # on a machine that is busy
PRESET = "dual-layer-compact"


def png(width: int = 64, height: int = 48) -> bytes:
    """A part of the sample photograph as a PNG file."""
    buffer = io.BytesIO()
    with Image.open(PHOTOGRAPH) as image:
        image.crop((180, 60, 180 + width, 60 + height)).save(buffer, "PNG", icc_profile=None)
    return buffer.getvalue()


@contextmanager
def served(preset: str = PRESET, **limits: Any) -> Iterator[str]:
    """The URL of a server in a thread of this process, with these limits."""
    from trifocal.web.app import create_app
    from trifocal.web.limits import Limits
    from trifocal.web.server import listen, make_server

    with listen("127.0.0.1", 0) as listener:
        server = make_server(create_app(preset, Limits(**limits)))
        thread = threading.Thread(target=server.run, kwargs={"sockets": [listener]})
        thread.start()
        try:
            wait_until(lambda: server.started)
            yield f"http://127.0.0.1:{listener.getsockname()[1]}"
        finally:
            server.should_exit = True
            thread.join(START_SECONDS)


def wait_until(condition: Any) -> None:
    end = time.monotonic() + START_SECONDS
    while not condition():
        assert time.monotonic() < end, "the server does not start"
        time.sleep(0.02)


@contextmanager
def serving_process(*words: str) -> Iterator[tuple[str, subprocess.Popen[str]]]:
    """The URL and the process of `trifocal serve --port 0` with further words."""
    environment = {**os.environ, "PYTHONPATH": str(ROOT), "OMP_NUM_THREADS": "1", "PYTHONUNBUFFERED": "1"}
    line = [sys.executable, "-m", "trifocal", "serve", "--port", "0", *words]
    process = subprocess.Popen(line, env=environment, stderr=subprocess.PIPE, text=True)
    assert process.stderr is not None
    try:
        first = process.stderr.readline()
        found = re.search(r"http://localhost:\d+", first)
        assert found, first
        yield found[0].replace("localhost", "127.0.0.1"), process
    finally:
        process.send_signal(signal.SIGINT)
        try:
            process.wait(30)
        finally:
            process.kill()
            process.stderr.close()


def connect(url: str) -> socket.socket:
    """A connection to a server."""
    host, _, port = url.removeprefix("http://").partition(":")
    return socket.create_connection((host, int(port)), timeout=START_SECONDS)


def raw(url: str, data: bytes, hang_up: bool = False) -> bytes:
    """The first bytes of the answer to these bytes; empty if the server closes the connection, and usually
    if the client hangs up without waiting.
    """
    with connect(url) as connection:
        try:
            connection.sendall(data)
            if hang_up:
                connection.shutdown(socket.SHUT_WR)
            return connection.recv(1 << 16)
        except ConnectionError:
            return b""


def metric(text: str, name: str) -> float:
    """The value of a metric without labels, or the sum of those with labels."""
    values = [
        float(line.rpartition(" ")[2]) for line in text.splitlines() if re.match(rf"{name}(\{{.*\}})? ", line)
    ]
    assert values, f"there is no metric {name}"
    return sum(values)


def needs_web() -> None:
    """Skip the module where the extra `web` or httpx is not installed."""
    for package in ("starlette", "uvicorn", "prometheus_client", "httpx"):
        pytest.importorskip(package)
