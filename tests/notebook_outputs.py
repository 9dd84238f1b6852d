"""Execute the notebooks and keep their outputs: `python tests/notebook_outputs.py`.

Rewrites every notebook in `notebooks/` in place, but none of which a cell fails. What is kept
depends on what was computed alone: no times, no paths, no progress bars.
"""

import os
from pathlib import Path

import nbformat
from nbclient import NotebookClient
from nbformat import NotebookNode
from rich.progress import track

FOLDER = Path(__file__).parents[1] / "notebooks"
NOTEBOOKS = sorted(FOLDER.glob("*.ipynb"))
# of what others warn: bars need ipywidgets, which nobody would see in a file; SLURM is here, unused
IGNORED = ("IProgress not found", 'install "ipywidgets"', "The `srun` command is available")
QUIET = {"PYTHONWARNINGS": ",".join(f"ignore:{text}" for text in IGNORED)}


def read(path: Path) -> NotebookNode:
    """Return a notebook as it is kept."""
    return nbformat.read(path, as_version=4)


def executed(path: Path) -> NotebookNode:
    """Return a notebook after all of its cells have run in a new kernel of this interpreter.

    Raises:
        nbclient.exceptions.CellExecutionError: a cell failed.
    """
    book = read(path)
    place = {"metadata": {"path": str(path.parent)}}
    options = {"timeout": 600, "kernel_name": "python3", "record_timing": False}
    NotebookClient(book, resources=place, **options).execute(env={**os.environ, **QUIET})
    book.metadata["language_info"] = {"name": "python"}  # of whatever version
    return book


if __name__ == "__main__":
    for path in track(NOTEBOOKS, "executing"):
        nbformat.write(executed(path), path)
