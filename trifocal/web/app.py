"""The application: the API, the page, health, metrics, and answers to errors."""

from __future__ import annotations

import json
import logging
import time
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import asdict
from functools import partial
from importlib.resources import files
from typing import Any

from starlette.applications import Starlette
from starlette.exceptions import HTTPException
from starlette.middleware import Middleware
from starlette.requests import ClientDisconnect, Request
from starlette.responses import JSONResponse, Response
from starlette.routing import Route
from starlette.types import ASGIApp, Message, Receive, Scope, Send

import trifocal
from trifocal.errors import MissingExtra, TrifocalError
from trifocal.evaluation.candidates.pillow_codecs import pillow_codecs
from trifocal.presets import shared_codec
from trifocal.web.declarations import NOTICES, Answer, Operation, openapi
from trifocal.web.limits import Abandoned, Limits, RequestError, Workload
from trifocal.web.metrics import METRICS_MEDIA, Metrics
from trifocal.web.operations import COMPARISONS, operations, preset_facts
from trifocal.web.sending import send_answer

__all__ = ["create_app"]

LOGGER = logging.getLogger("trifocal.web")
STATIC = {
    "/": ("index.html", "text/html; charset=utf-8"),
    "/app.js": ("app.js", "text/javascript; charset=utf-8"),
    "/style.css": ("style.css", "text/css; charset=utf-8"),
    "/icon.svg": ("icon.svg", "image/svg+xml"),
}
SAMPLE = "/sample.png"
CLOSED = 499  # the client closed the connection; a status for metrics only
SECURITY_HEADERS = {
    "Content-Security-Policy": "default-src 'self'; img-src 'self' blob: data:; object-src 'none'; "
    "base-uri 'none'; form-action 'none'; frame-ancestors 'none'",
    "Cross-Origin-Opener-Policy": "same-origin",
    "Cross-Origin-Resource-Policy": "same-origin",
    "Referrer-Policy": "no-referrer",
    "X-Content-Type-Options": "nosniff",
}
MOST_NOTICES, MOST_CHARACTERS = 10, 300


def create_app(preset: str = trifocal.presets.DEFAULT, limits: Limits | None = None) -> Starlette:
    """The application of `trifocal serve`, for an ASGI server. The codec of the preset is loaded.

    Args:
        preset: of requests that name none.
        limits: of the server.

    Raises:
        PresetError, WeightsError, MissingExtra: if the preset cannot be loaded.
    """
    shared_codec(preset)
    limits = limits or Limits()
    workload = Workload(limits)
    metrics = Metrics(workload)
    done = operations(preset)
    pages = {
        "/config": ("The presets and the limits of this server.", "application/json"),
        "/health": ("Whether the server runs.", "application/json"),
        "/metrics": ("Metrics in the text format of Prometheus.", "text/plain"),
        "/openapi.json": ("This description.", "application/json"),
    }
    contents = {path: (read_static(name), media) for path, (name, media) in STATIC.items()}
    contents[SAMPLE] = (files("trifocal.demo").joinpath("astronaut.png").read_bytes(), "image/png")
    contents["/config"] = as_json(config(preset, limits))
    contents["/health"] = as_json({"status": "ok", "version": trifocal.__version__})
    contents["/openapi.json"] = as_json(openapi(done, pages, trifocal.__version__))

    async def report(request: Request) -> Response:
        return Response(metrics.text(), media_type=METRICS_MEDIA)

    @asynccontextmanager
    async def lifespan(app: Starlette) -> AsyncIterator[None]:
        yield
        workload.close()

    routes = [Route(one.path, Endpoint(one, workload, metrics), methods=["POST"]) for one in done]
    routes += [
        Route(path, partial(constant, content, media), methods=["GET"])
        for path, (content, media) in contents.items()
    ]
    routes.append(Route("/metrics", report, methods=["GET"]))
    paths = {route.path for route in routes}
    return Starlette(
        routes=routes,
        middleware=[Middleware(Guard, metrics=metrics, paths=paths)],
        exception_handlers={TrifocalError: refuse, HTTPException: refuse_request, MemoryError: refuse_memory},
        lifespan=lifespan,
    )


def read_static(name: str) -> bytes:
    return files("trifocal.web").joinpath("static", name).read_bytes()


def as_json(facts: object) -> tuple[bytes, str]:
    return json.dumps(facts).encode(), "application/json"


async def constant(content: bytes, media: str, request: Request) -> Response:
    return Response(content, headers={"Content-Type": media, "Cache-Control": "no-cache"})


def config(preset: str, limits: Limits) -> dict[str, Any]:
    """What the page needs to know of the server."""
    there = {codec.name for codec in pillow_codecs()}
    return {
        "presets": preset_facts(),
        "preset": preset,
        "limits": asdict(limits),
        "comparisons": [name for name in COMPARISONS if name in there],
        "version": trifocal.__version__,
    }


class Endpoint:
    """Answers the requests of an operation: options from the URL, a file from the body, work in a thread."""

    def __init__(self, operation: Operation, workload: Workload, metrics: Metrics) -> None:
        self.operation, self.workload, self.metrics = operation, workload, metrics

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        request = Request(scope, receive)
        options = self.operation.parse(request.query_params.multi_items())
        declared = request.headers.get("content-length")
        size = int(declared) if declared and declared.isdecimal() else None
        async with self.workload.body(request.stream(), size, self.metrics.received.inc) as body:
            with self.workload.accept():
                work = partial(self.operation.run, body, options)
                answer = await self.workload.run(work, receive)
                await send_answer(answer.content, answer_headers(answer), send, self.workload.limits.timeout)


def answer_headers(answer: Answer) -> dict[str, str]:
    """Media type, notices and other headers."""
    headers = {"Content-Type": answer.media, "Cache-Control": "no-store", **answer.headers}
    if answer.notices:
        notices = [notice[:MOST_CHARACTERS] for notice in answer.notices[:MOST_NOTICES]]
        headers[NOTICES] = json.dumps(notices)
    return headers


def error_response(status: int, message: str, name: str, headers: dict[str, str] | None = None) -> Response:
    return JSONResponse({"error": message, "type": name}, status, headers)


async def refuse(request: Request, error: Exception) -> Response:
    """The answer to an error of the library: its sentence."""
    status, headers = 501 if isinstance(error, MissingExtra) else 422, {}
    if isinstance(error, RequestError):
        status = error.status
        headers = {"Retry-After": str(error.retry_after)} if error.retry_after else {}
    return error_response(status, str(error), type(error).__name__, headers)


async def refuse_request(request: Request, error: Exception) -> Response:
    """The answer to an unknown path or a wrong method."""
    assert isinstance(error, HTTPException)
    messages = {
        404: "There is nothing at this path; /openapi.json lists all paths.",
        405: f"This path does not take {request.method}; /openapi.json lists what it takes.",
    }
    message = messages.get(error.status_code, f"{error.detail}.")
    return error_response(error.status_code, message, "RequestError", dict(error.headers or {}))


async def refuse_memory(request: Request, error: Exception) -> Response:
    message = "The server has too little memory for this image; send a smaller one."
    return error_response(503, message, "MemoryError")


class Guard:
    """Refuses requests from pages of other sites, adds security headers, counts requests, and turns bugs into
    answers.
    """

    def __init__(self, app: ASGIApp, metrics: Metrics, paths: set[str]) -> None:
        self.app, self.metrics, self.paths = app, metrics, paths

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] != "http":
            await self.app(scope, receive, send)
            return
        begin, status, sent = time.perf_counter(), CLOSED, 0

        async def guarded(message: Message) -> None:
            nonlocal status, sent
            if message["type"] == "http.response.start":
                headers = [(k.lower().encode(), v.encode()) for k, v in SECURITY_HEADERS.items()]
                message["headers"] = [*message.get("headers", []), *headers]
            try:
                await send(message)
            except Exception as error:  # of the HTTP server, if what the client sent was no HTTP
                raise Abandoned from error
            status = message.get("status", status)
            sent += len(message.get("body", b""))

        try:
            if is_cross_origin(Request(scope)):
                message = "Requests from pages of other sites are refused; use the page of this server."
                await error_response(403, message, "RequestError")(scope, receive, guarded)
            else:
                await self.app(scope, receive, guarded)
        except (Abandoned, ClientDisconnect, TimeoutError):
            pass  # the HTTP server closes a connection whose answer is not complete
        except Exception:
            LOGGER.exception("An unexpected error; please report it as a bug.")
            if status == CLOSED:
                message = "An unexpected error, which is a bug of Trifocal; the server's log has the details."
                await error_response(500, message, "InternalError")(scope, receive, guarded)
        finally:
            path = scope["path"] if scope["path"] in self.paths else "other"
            self.metrics.answered(path, status, time.perf_counter() - begin, sent)


def is_cross_origin(request: Request) -> bool:
    """Whether a browser says that the request comes from a page of another site."""
    origin = request.headers.get("origin")
    return origin is not None and origin.partition("://")[2] != request.headers.get("host", "")
