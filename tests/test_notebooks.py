"""Every notebook runs from top to bottom."""

from __future__ import annotations

from pathlib import Path

import nbformat
import pytest
from nbclient import NotebookClient

NOTEBOOKS = sorted((Path(__file__).resolve().parents[1] / "notebooks").glob("*.ipynb"))


@pytest.mark.parametrize("notebook", NOTEBOOKS, ids=lambda n: n.stem)
def test_the_notebook_runs(notebook: Path) -> None:
    NotebookClient(nbformat.read(notebook, as_version=4), timeout=300, kernel_name="python3").execute()


def test_there_are_notebooks_and_they_are_committed_without_output() -> None:
    assert NOTEBOOKS
    for notebook in NOTEBOOKS:
        cells = nbformat.read(notebook, as_version=4).cells
        assert all(not c.outputs for c in cells if c.cell_type == "code"), notebook
