"""`python -m trifocal` runs the command `trifocal`."""

from trifocal.cli import app

app(prog_name="trifocal")
