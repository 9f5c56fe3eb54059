"""Measure the time of named steps, and import large packages in less time and memory."""

import gc
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from importlib import import_module
from types import ModuleType
from typing import Any

COMPILER = "torch._dynamo.utils"


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


@contextmanager
def compiler_deferred() -> Iterator[None]:
    """Importing torchvision imports torch's compiler, 130 MB and 1.6 s of it, for a function that is hardly
    ever called. Until this ends a stand-in is found there, whose functions import the compiler when they are
    called."""
    if "torchvision" in sys.modules or COMPILER in sys.modules:
        yield
        return
    stand_in = ModuleType(COMPILER)
    vars(stand_in)["__getattr__"] = _imported_when_called
    sys.modules[COMPILER] = stand_in
    try:
        yield
    finally:
        if sys.modules.get(COMPILER) is stand_in:
            del sys.modules[COMPILER]


def _imported_when_called(name: str) -> Callable[..., Any]:
    """The compiler's function of that name."""
    if name.startswith("__"):
        raise AttributeError(name)
    return lambda *arguments, **named: getattr(import_module(COMPILER), name)(*arguments, **named)
