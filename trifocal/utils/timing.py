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
    """Adds seconds to named entries of `timings`; if that is None, the measurements are discarded."""

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
    """Defer the import of torch's compiler (130 MB, 1.6 s), which torchvision imports for one rarely called
    function.

    While the block runs, a placeholder module is in sys.modules; its functions import the compiler when
    called.
    """
    if "torchvision" in sys.modules or COMPILER in sys.modules:
        yield
        return
    placeholder = ModuleType(COMPILER)
    vars(placeholder)["__getattr__"] = _imported_when_called
    sys.modules[COMPILER] = placeholder
    try:
        yield
    finally:
        if sys.modules.get(COMPILER) is placeholder:
            del sys.modules[COMPILER]


def _imported_when_called(name: str) -> Callable[..., Any]:
    """The compiler's function of that name."""
    if name.startswith("__"):
        raise AttributeError(name)
    return lambda *arguments, **named: getattr(import_module(COMPILER), name)(*arguments, **named)
