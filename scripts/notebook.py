"""Run docs/tutorial.ipynb and store its outputs: `python scripts/notebook.py`; takes a minute."""

import os
from pathlib import Path

import nbformat
from nbclient import NotebookClient
from nbformat import NotebookNode

NOTEBOOK = Path(__file__).resolve().parent.parent / "docs" / "tutorial.ipynb"
CELL_SECONDS = 1_800  # a limit, on a machine that is busy
QUIET = {"PYTHONWARNINGS": "ignore:IProgress not found"}  # tqdm, without ipywidgets


def executed(folder: Path) -> NotebookNode:
    """The notebook with new outputs, run in that folder. Raises CellExecutionError if a cell fails."""
    notebook = nbformat.read(NOTEBOOK, as_version=4)
    client = NotebookClient(
        notebook,
        timeout=CELL_SECONDS,
        record_timing=False,
        coalesce_streams=True,
        resources={"metadata": {"path": str(folder)}},
        on_cell_start=lambda cell, cell_index: print(f"cell {cell_index + 1} of {len(notebook.cells)}"),
    )
    return client.execute(env={**os.environ, **QUIET})


if __name__ == "__main__":
    nbformat.write(executed(NOTEBOOK.parent), NOTEBOOK)
