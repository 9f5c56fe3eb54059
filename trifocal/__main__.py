"""`python -m trifocal` runs the command `trifocal`."""

from trifocal.cli import run

run()
