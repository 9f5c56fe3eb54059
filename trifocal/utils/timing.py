"""Where the seconds go, and fewer of them for a start."""

import gc
import time
from collections.abc import Iterator
from contextlib import contextmanager


class Stopwatch:
    """Adds seconds to named entries of a dictionary; without one it measures for nobody."""

    def __init__(self, timings: dict[str, float] | None = None) -> None:
        self.timings = {} if timings is None else timings

    @contextmanager
    def __call__(self, name: str) -> Iterator[None]:
        start = time.perf_counter()
        yield
        self.add(name, time.perf_counter() - start)

    def add(self, name: str, seconds: float) -> None:
        self.timings[name] = self.timings.get(name, 0.0) + seconds

    def move(self, source: str, target: str, seconds: float) -> None:
        """Of the seconds of `source`, these belong to `target`."""
        self.add(source, -seconds)
        self.add(target, seconds)


@contextmanager
def gc_paused() -> Iterator[None]:
    """Importing torch makes 200,000 objects that all stay; to search them for garbage is a sixth of the time that it takes."""
    collecting = gc.isenabled()
    gc.disable()
    try:
        yield
    finally:
        if collecting:
            gc.enable()
