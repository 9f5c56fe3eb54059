"""The command `trifocal`, a function for each subcommand. Slow imports are inside the functions."""

from trifocal.cli import (  # each adds its commands to the app
    about,
    coding,
    detection,
    layers,
    research,
    training,
)
from trifocal.cli.main import app

__all__ = ["about", "app", "coding", "detection", "layers", "research", "training"]
