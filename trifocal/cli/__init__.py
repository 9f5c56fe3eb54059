"""The command `trifocal`, a function for each subcommand. Slow imports are inside the functions."""

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
from trifocal.cli.main import app

__all__ = [
    "about",
    "app",
    "batch",
    "coding",
    "detection",
    "export",
    "layers",
    "research",
    "serving",
    "training",
]
