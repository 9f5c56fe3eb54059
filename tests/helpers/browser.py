"""An installed Chromium, headless, for tests of the web page."""

import shutil
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import pytest

NAMES = ("chromium", "chromium-browser", "google-chrome")
PATIENCE = 120_000  # milliseconds, on a machine that is busy


@contextmanager
def chromium() -> Iterator[Any]:
    """A browser of playwright. Skips the test where playwright or Chromium is not installed."""
    playwright = pytest.importorskip("playwright.sync_api")
    program = next(filter(None, map(shutil.which, NAMES)), None)
    if program is None:
        pytest.skip("needs Chromium; install it, such as by: apt-get install chromium")
    with playwright.sync_playwright() as engine:
        browser = engine.chromium.launch(executable_path=program, args=["--no-sandbox"])
        yield browser
        browser.close()


@contextmanager
def new_page(browser: Any, url: str, **options: Any) -> Iterator[Any]:
    """A page in a context of its own, at that URL. `page.problems` lists errors of its scripts and
    requests to other servers; the test fails if there are any.
    """
    context = browser.new_context(reduced_motion="reduce", **options)
    context.set_default_timeout(PATIENCE)
    page = context.new_page()
    page.problems = []
    page.on("pageerror", lambda error: page.problems.append(str(error)))
    page.on("request", lambda request: note_request(page.problems, request.url, url))
    page.goto(url, wait_until="networkidle")
    try:
        yield page
        assert not page.problems
    finally:
        context.close()


def note_request(problems: list[str], requested: str, url: str) -> None:
    if not requested.startswith((f"{url}/", "blob:", "data:")):
        problems.append(f"a request to {requested}")


def wait_for_result(page: Any) -> None:
    """Wait until an image is shown and no request is under way."""
    page.wait_for_selector("main.loaded")
    page.wait_for_selector("body:not([aria-busy])")
