"""The notebooks of the documentation: each runs to its end, and stands there with what it showed, small enough to keep."""

from __future__ import annotations

import importlib.util
from pathlib import Path
from typing import Any

import nbformat
import pytest
from nbclient.exceptions import CellExecutionError

DOCS = Path(__file__).resolve().parent.parent / "docs"
NOTEBOOKS = sorted((DOCS / "notebooks").glob("*.ipynb"))
MOST_BYTES = 150_000                                   # of all together: they are read in a repository, too


def generator() -> Any:
    spec = importlib.util.spec_from_file_location("gen_notebooks", DOCS / "gen_notebooks.py")
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def shown(notebook: Any) -> list[list[str]]:
    """What kinds of output each cell has; numbers and pictures are the machine's."""
    return [[kind for output in cell.get("outputs", []) for kind in
             (sorted(output["data"]) if "data" in output else [output.get("name", output["output_type"])])]
            for cell in notebook.cells]


@pytest.mark.slow
@pytest.mark.parametrize("path", NOTEBOOKS, ids=lambda path: path.stem)
def test_it_runs_and_shows_what_is_kept(path: Path) -> None:
    kept, ran = nbformat.read(path, as_version=4), generator().run(path)
    assert shown(ran) == shown(kept), "make notebooks"
    assert not any("stderr" in kinds for kinds in shown(ran)), "a warning"


def test_a_notebook_that_fails_is_found(tmp_path: Path) -> None:
    path = tmp_path / "wrong.ipynb"
    nbformat.write(nbformat.v4.new_notebook(cells=[nbformat.v4.new_code_cell("import jitgrad\n1 / 0", id="a")]), path)
    with pytest.raises(CellExecutionError, match="ZeroDivisionError"):
        generator().run(path)


@pytest.mark.parametrize("path", NOTEBOOKS, ids=lambda path: path.stem)
def test_it_was_run_as_it_stands(path: Path) -> None:
    """From top to bottom, in one go."""
    notebook = nbformat.read(path, as_version=4)
    nbformat.validate(notebook)
    code = [cell for cell in notebook.cells if cell.cell_type == "code"]
    assert [cell.execution_count for cell in code] == list(range(1, len(code) + 1))
    assert notebook.metadata.language_info == {"name": "python"}, "make notebooks leaves out what is one machine's"


def test_together_they_are_small() -> None:
    assert len(NOTEBOOKS) >= 3
    assert sum(path.stat().st_size for path in NOTEBOOKS) < MOST_BYTES


def test_each_is_a_page() -> None:
    pages = (DOCS.parent / "mkdocs.yml").read_text(encoding="utf-8")
    for path in NOTEBOOKS:
        assert f": notebooks/{path.stem}.md" in pages
