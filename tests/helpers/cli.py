"""Run the command line and check its output."""

from pathlib import Path
from typing import Any

from typer.testing import CliRunner, Result

from trifocal.cli import app


def run(*words: str | Path) -> Result:
    """Run `trifocal` with these arguments in this process."""
    return CliRunner().invoke(app, [str(word) for word in words])


def is_one_sentence(text: str) -> bool:
    """Whether an error message is one line that ends in a full stop, without a traceback."""
    return len(text.strip().splitlines()) == 1 and text.strip().endswith(".") and "Traceback" not in text


class Recorder:
    """Replaces a library function: keeps the arguments and returns `result`."""

    def __init__(self, result: object) -> None:
        self.result = result
        self.words: tuple[Any, ...] = ()
        self.options: dict[str, Any] = {}

    def __call__(self, *words: object, **options: object) -> object:
        self.words, self.options = words, options
        return self.result
