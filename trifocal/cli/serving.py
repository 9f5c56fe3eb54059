"""The command serve."""

from typing import Annotated, Any

import typer

from trifocal.cli.main import MOST_AT_ONCE, Preset, app, images_at_once, use_threads
from trifocal.cli.options import parse_size

LOOPBACK = ("127.0.0.1", "::1", "localhost")


@app.command()
def serve(
    port: Annotated[int, typer.Option(min=0, max=65535, help="Port to listen at; 0 is any free one.")] = 8000,
    host: Annotated[
        str,
        typer.Option(
            metavar="ADDRESS",
            help="Address to listen at. 0.0.0.0 accepts connections from other machines; there is no login "
            "and no encryption.",
        ),
    ] = "127.0.0.1",
    preset: Preset = None,
    max_pixels: Annotated[
        int, typer.Option(min=1, help="Refuse images with more pixels, before they are decoded.")
    ] = 25_000_000,
    max_bytes: Annotated[
        Any,
        typer.Option(
            parser=parse_size,
            metavar="SIZE",
            help="Refuse files with more bytes, such as 32M.",
        ),
    ] = "32M",
    timeout: Annotated[
        float,
        typer.Option(
            min=0.1,
            help="Seconds after which a request is ended: for receiving the file, for the work, and for "
            "sending the answer.",
        ),
    ] = 60.0,
    parallel: Annotated[
        int | None,
        typer.Option(
            min=1,
            help="Requests that are worked on at the same time. Each takes up to 600 MB of memory plus 20 "
            "bytes per pixel. Four times as many wait; further ones are answered with status 503. [default: "
            "one per processor, at most 4]",
        ),
    ] = None,
) -> None:
    """Serve a web page and an HTTP API on this machine.

    Open http://localhost:8000 in a browser. docs/serve.md describes the page, the API and the limits. Needs
    the extra `web`.
    """
    from trifocal.cli.console import Console
    from trifocal.errors import optional_packages
    from trifocal.presets import DEFAULT

    with optional_packages("web", "The server"):
        from trifocal.web.app import create_app
        from trifocal.web.limits import Limits
        from trifocal.web.server import listen, make_server

    together = images_at_once(parallel, None, parallel or MOST_AT_ONCE)
    limits = Limits(max_pixels, max_bytes, timeout, together)
    use_threads(None, together)
    terminal = Console()
    server = make_server(create_app(preset or DEFAULT, limits))
    with listen(host, port) as listener:
        terminal.print_notice(f"Serving at {address(host, listener.getsockname()[1])}; stop with Ctrl+C.")
        if host not in LOOPBACK:
            terminal.print_notice(
                "Other machines can connect, without login or encryption; use a reverse proxy for both."
            )
        server.run(sockets=[listener])


def address(host: str, port: int) -> str:
    """The URL of a server."""
    name = "localhost" if host in (*LOOPBACK, "0.0.0.0", "::") else host
    return f"http://{f'[{name}]' if ':' in name else name}:{port}"
