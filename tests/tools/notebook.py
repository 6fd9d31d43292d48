"""Runs cells in a real Jupyter kernel, in the environment of `make readers`: `python notebook.py CELLS.json`.

CELLS.json is a list of cells. Prints a JSON list with the outputs of each cell.
"""

from __future__ import annotations

import importlib
import json
import sys
from pathlib import Path


def main() -> None:
    """Run the cells; a cell that raises ends the notebook, but for one that is stopped."""
    nbformat, nbclient = map(importlib.import_module, ("nbformat", "nbclient"))  # of that environment
    cells = json.loads(Path(sys.argv[1]).read_text(encoding="utf-8"))
    notebook = nbformat.v4.new_notebook(cells=[nbformat.v4.new_code_cell(cell) for cell in cells])
    nbclient.NotebookClient(notebook, timeout=300, allow_errors=True, kernel_name="python3").execute()
    print(json.dumps([cell["outputs"] for cell in notebook.cells]))  # noqa: T201 - the output of a command


if __name__ == "__main__":
    main()
