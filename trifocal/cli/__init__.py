"""The command `trifocal`, a function for each verb. Slow imports are inside the functions."""

from trifocal.cli import about, coding, export, machine, research, training  # each adds its commands
from trifocal.cli.main import app

__all__ = ["about", "app", "coding", "export", "machine", "research", "training"]
