"""The pictures of seeing.md, drawn by its own snippets: `python docs/gen_seeing.py` writes docs/assets/seeing/."""

from __future__ import annotations

import contextlib
import io
import linecache
import re
from pathlib import Path
from typing import Any

DOCS = Path(__file__).resolve().parent
NAMES = ("neuron", "graph", "tape")


def pictures() -> dict[str, str]:
    """Each picture's name and SVG."""
    scope: dict[str, Any] = {}
    page = (DOCS / "seeing.md").read_text(encoding="utf-8")
    for body in re.findall(r"^```python\n(.*?)^```$", page, re.MULTILINE | re.DOTALL):
        # An operation's tooltip quotes the snippet.
        linecache.cache["seeing.md"] = (len(body), None, body.splitlines(keepends=True), "seeing.md")
        with contextlib.redirect_stdout(io.StringIO()):
            exec(compile(body, "seeing.md", "exec"), scope)
    return {name: scope[name].svg for name in NAMES}


if __name__ == "__main__":
    for name, svg in pictures().items():
        (DOCS / "assets" / "seeing" / f"{name}.svg").write_text(svg, encoding="utf-8")
