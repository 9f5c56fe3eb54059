"""The command `trifocal`: one verb, one function, one library call. Imports that take time stand inside the verbs."""

from trifocal.cli import about, coding, machine, research  # each adds its verbs to the command
from trifocal.cli.main import app

__all__ = ["about", "app", "coding", "machine", "research"]
