"""Measure the time of named steps, and import large packages faster."""

import gc
import time
from collections.abc import Iterator
from contextlib import contextmanager


class Stopwatch:
    """Adds seconds to named entries of `timings`; without it, the measurements are discarded."""

    def __init__(self, timings: dict[str, float] | None = None) -> None:
        self.timings = {} if timings is None else timings

    @contextmanager
    def __call__(self, name: str) -> Iterator[None]:
        """Add the seconds that the block takes to entry `name`."""
        start = time.perf_counter()
        yield
        self.add(name, time.perf_counter() - start)

    def add(self, name: str, seconds: float) -> None:
        self.timings[name] = self.timings.get(name, 0.0) + seconds

    def move(self, source: str, target: str, seconds: float) -> None:
        """Move `seconds` from entry `source` to entry `target`."""
        self.add(source, -seconds)
        self.add(target, seconds)


@contextmanager
def gc_paused() -> Iterator[None]:
    """Pause garbage collection during an import: it takes a sixth of the time to import torch."""
    collecting = gc.isenabled()
    gc.disable()
    try:
        yield
    finally:
        if collecting:
            gc.enable()
