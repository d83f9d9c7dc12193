"""Generated text, reviewed like code: the graph, the tape and the machine's body of tiny programs.

After an intended change run `JITGRAD_GOLDEN=write python -m pytest tests/test_golden.py` and read the difference.
"""

from __future__ import annotations

import difflib
import os
import re
from pathlib import Path
from typing import Any

import numpy as np
import pytest

import jitgrad as jg
from jitgrad.compiler import schedule

GOLDEN = Path(__file__).parent / "golden"


def line(w: Any, x: Any, y: Any) -> Any:
    return (w[0] * x + w[1] - y) ** 2


def classifier(params: Any, x: Any, label: Any) -> Any:
    hidden = jg.relu(params["W"] @ x + params["b"])
    return jg.losses.cross_entropy([hidden[0] - hidden[1], hidden[1] * 0.5], label)


PROGRAMS = {
    "line": (line, (np.ones(2), np.ones(3), np.ones(3))),
    "classifier": (classifier, ({"W": np.ones((2, 2), np.float32), "b": np.ones(2, np.float32)},
                                np.ones((3, 2), np.float32), np.zeros(3, int))),
    "row": (lambda w, x, y: jg.losses.hinge(w @ x, y), (np.ones(32), np.ones((3, 32)), np.ones(3))),
}
FORMS = [(name, form) for name in PROGRAMS for form in ("graph", "tape", "llvm") if (name, form) != ("row", "graph")]


def body(text: str) -> str:
    """The function of the program itself: not its loop, nor what the module says about the machine it is for."""
    start = text.index("define internal void @\"jitgrad_vector\"") if "jitgrad_vector" in text else text.index("define void")
    return text[start:text.index("\n}", start) + 2]


def tidy(text: str) -> str:
    """The user's lines without their numbers, which move with this file."""
    return "\n".join(t.rstrip() for t in re.sub(r"test_golden\.py:\d+:", "test_golden.py:", text).splitlines()) + "\n"


@pytest.mark.parametrize(("name", "form"), FORMS)
def test_generated_text(name: str, form: str, monkeypatch: pytest.MonkeyPatch) -> None:
    function, args = PROGRAMS[name]
    monkeypatch.setattr(schedule, "VECTOR_BYTES", 32)      # four float64 a vector, on any machine
    text = jg.value_and_grad(function, device="cpu").lower(*args).as_text(form)
    found = tidy(body(text) if form == "llvm" else text)
    path = GOLDEN / f"{name}.{form}.txt"
    if os.environ.get("JITGRAD_GOLDEN") == "write":
        path.write_text(found, encoding="utf-8")
    expected = path.read_text(encoding="utf-8")
    difference = "\n".join(difflib.unified_diff(expected.splitlines(), found.splitlines(), "golden", "found", lineterm=""))
    assert found == expected, f"{path.name} changed (see this file's docstring):\n{difference}"


def test_the_same_program_is_the_same_text() -> None:
    """Nothing in it depends on a set's order, an address or what was compiled before: the disk cache lives by that."""
    function, args = PROGRAMS["classifier"]

    def text() -> list[str]:
        lowered = jg.value_and_grad(function, device="cpu").lower(*args)
        return [lowered.as_text(form) for form in ("graph", "tape", "llvm")]

    first = text()
    jg.value_and_grad(line, device="cpu")(*PROGRAMS["line"][1])
    assert text() == first
