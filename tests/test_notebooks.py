"""The notebooks run from the first cell to the last, show their figures, and are kept small."""

from __future__ import annotations

from pathlib import Path

import nbformat
import pytest

from notebooks import run_notebook

NOTEBOOKS = sorted((Path(__file__).parents[1] / "examples" / "notebooks").glob("*.ipynb"))
LARGEST = 150_000
"""Bytes of a notebook, its outputs included."""


def cells_of(path: Path, kind: str) -> list[str]:
    notebook = nbformat.read(path, as_version=4)  # type: ignore[no-untyped-call]
    return [cell.source for cell in notebook.cells if cell.cell_type == kind]


@pytest.mark.parametrize("path", [path for path in NOTEBOOKS if ".zh" not in path.name], ids=lambda path: path.name)
def test_a_notebook_runs(path: Path, tmp_path: Path) -> None:
    notebook = nbformat.read(path, as_version=4)  # type: ignore[no-untyped-call]
    run_notebook(notebook, tmp_path)
    outputs = [output for cell in notebook.cells for output in cell.get("outputs", [])]
    assert not [output for output in outputs if output.output_type == "error"]
    assert path.stat().st_size < LARGEST
    if path.name != "serving.ipynb":
        kinds = {kind for output in outputs for kind in output.get("data", {})}
        assert {"text/html", "image/png"} <= kinds, "a table and a plot"


@pytest.mark.parametrize("path", [path for path in NOTEBOOKS if ".zh" in path.name], ids=lambda path: path.name)
def test_a_translated_notebook_has_the_code_of_its_original(path: Path) -> None:
    original = path.with_name(path.name.replace(".zh", ""))
    assert cells_of(path, "code") == cells_of(original, "code")
    assert len(cells_of(path, "markdown")) == len(cells_of(original, "markdown"))
