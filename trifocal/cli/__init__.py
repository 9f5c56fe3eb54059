"""The command `trifocal`, a function for each subcommand. Slow imports are inside the functions."""

import gc

gc.set_threshold(100_000)  # before the imports, whose 60,000 objects are not garbage

from trifocal.cli import (  # each adds its commands
    about,
    batch,
    coding,
    detection,
    export,
    layers,
    research,
    serving,
    training,
)
from trifocal.cli.main import app, run

__all__ = [
    "about",
    "app",
    "batch",
    "coding",
    "detection",
    "export",
    "layers",
    "research",
    "run",
    "serving",
    "training",
]
