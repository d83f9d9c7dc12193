"""The notebooks: `python docs/gen_notebooks.py` (or `make notebooks`) runs them and keeps what they show.

For mkdocs it is a hook that makes a page of each notebook as it stands, without running it. A test runs them.
"""

from __future__ import annotations

import sys
from pathlib import Path
from typing import Any

FOLDER = Path(__file__).resolve().parent / "notebooks"


def run(path: Path) -> Any:
    """The notebook after all of its cells have run, in a kernel of this Python. Raises CellExecutionError."""
    import nbclient
    import nbformat

    notebook = nbformat.read(path, as_version=4)
    nbclient.NotebookClient(notebook, timeout=300, kernel_name="python3", record_timing=False, coalesce_streams=True,
                            resources={"metadata": {"path": str(FOLDER.parents[1])}}).execute()
    # What else a run notes differs from machine to machine.
    notebook.metadata = {"kernelspec": {"display_name": "Python 3", "language": "python", "name": "python3"},
                         "language_info": {"name": "python"}}
    return notebook


def page(path: Path) -> tuple[str, dict[str, bytes]]:
    """(Markdown, pictures by name) of a notebook."""
    from nbconvert import MarkdownExporter

    text, resources = MarkdownExporter().from_filename(str(path), resources={"unique_key": path.stem})
    footer = f"[This page as a notebook]({path.name}). Its times are those of the machine that ran it last."
    return f"{text.rstrip()}\n\n---\n\n{footer}\n", resources["outputs"]


# What mkdocs calls.

def on_files(files: Any, config: Any) -> Any:
    """Add the pages."""
    from mkdocs.structure.files import File

    for path in sorted(FOLDER.glob("*.ipynb")):
        text, pictures = page(path)
        for name, content in {f"{path.stem}.md": text, **pictures}.items():
            files.append(File.generated(config, f"notebooks/{name}", content=content))
    return files


if __name__ == "__main__":
    import nbformat

    for found in sorted(FOLDER.glob("*.ipynb")):
        sys.stdout.write(f"{found.name}\n")
        nbformat.write(run(found), found)
