"""Documentation build only: shows the house's docstrings, one line an argument, as a list instead of one run of text.

    score: real number, the model's margin        ->   - `score`: real number, the model's margin
"""

from __future__ import annotations

import re
from typing import Any

import griffe

ARGUMENT = re.compile(r"(?P<names>[*\w]+(?:, [*\w]+)*|\*\*\w+): (?P<text>\S.*)")


def as_list(text: str) -> str:
    """Each unindented `name: text` line, with its indented continuation, becomes an item; code blocks stay."""
    lines: list[str] = []
    inside = False  # an argument's continuation lines
    fenced = False
    for line in text.splitlines():
        fenced ^= line.startswith("```")
        found = None if fenced else ARGUMENT.fullmatch(line)
        if found:
            if lines and lines[-1] and not inside:
                lines.append("")
            lines.append(f"- `{found['names']}`: {found['text']}")
        elif inside and line.strip() and not line.startswith(" "):
            lines += ["", line]
        else:
            lines.append(line)
        inside = bool(found) or (inside and line.startswith(" "))
    return "\n".join(lines)


class HouseDocstrings(griffe.Extension):
    """Rewrites every docstring as it is collected."""

    def on_instance(self, *, obj: griffe.Object, **_: Any) -> None:
        if obj.docstring is not None:
            obj.docstring.value = as_list(obj.docstring.value)

    def on_module_members(self, *, mod: griffe.Module, **_: Any) -> None:
        # jitgrad's public names come from the table of operations, which griffe, reading the source, cannot know.
        mod.exports = None
