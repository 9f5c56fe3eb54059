"""Stop a run on Ctrl-C or SIGTERM after its current step, and detect runs that diverge."""

import math
import signal
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from types import FrameType

__all__ = ["DivergenceCheck", "StopRequest", "stop_requests"]

SIGNALS = (signal.SIGINT, signal.SIGTERM)
LIMIT = 1e9  # of a loss
PATIENCE = 10  # steps in a row with a loss above the limit


@dataclass
class StopRequest:
    """Whether the run was asked to stop."""

    asked: bool = False


@contextmanager
def stop_requests() -> Iterator[StopRequest]:
    """In this context the first Ctrl-C or SIGTERM sets `asked`; the second acts as usual.

    Signals that are ignored stay ignored. Outside of the main thread nothing is changed.
    """
    request = StopRequest()
    if threading.current_thread() is not threading.main_thread():
        yield request
        return
    before = {number: signal.getsignal(number) for number in SIGNALS}

    def restore() -> None:
        for number, handler in before.items():
            signal.signal(number, signal.SIG_DFL if handler is None else handler)

    def ask(number: int, frame: FrameType | None) -> None:
        request.asked = True
        restore()

    for number, handler in before.items():
        if handler is not signal.SIG_IGN:
            signal.signal(number, ask)
    try:
        yield request
    finally:
        restore()


class DivergenceCheck:
    """Detects a loss that is not finite, or above LIMIT, in PATIENCE steps in a row.

    Attributes:
        count: such steps so far, in a row.
    """

    def __init__(self) -> None:
        self.count = 0

    def add(self, loss: float) -> tuple[bool, bool]:
        """Whether the loss of this step is such, and whether the run has diverged."""
        bad = not math.isfinite(loss) or abs(loss) > LIMIT
        self.count = self.count + 1 if bad else 0
        return bad, self.count >= PATIENCE
