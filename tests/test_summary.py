"""summary(): the text and the picture of what became of a recorded expression."""

from __future__ import annotations

import importlib.util
import re
from pathlib import Path
from xml.etree import ElementTree

import pytest

import jitgrad as jg
from jitgrad import Value, errors, summary
from jitgrad.summary import Summary

ROOT = Path(__file__).parent.parent
SVG = "{http://www.w3.org/2000/svg}"


def example() -> jg.recorded.ValueProgram:
    w = [Value(0.1 * k) for k in range(4)]
    x = [[Value(0.01 * k * j) for j in range(4)] for k in range(20)]
    return jg.compile(sum((sum(a * b for a, b in zip(w, row, strict=True)) + 0.5).relu() for row in x) * 0.05, device="cpu")


def texts(found: Summary) -> list[str]:
    return [element.text or "" for element in ElementTree.fromstring(found.svg).iter(f"{SVG}text")]


def test_text_and_picture_say_the_same() -> None:
    program = example()
    found = program.summary()
    assert str(found).startswith(f"{program.values:,} Values: 84 leaves, ")
    forward = len(program._forward.program.rolled[0].instructions)
    assert texts(found)[0].startswith(f"{program.values:,} Values became {forward} instructions")
    assert "batch axis: 20 alike summands, each with 4 leaves and 2 constants of its own" in found
    assert "batch axis: 20 alike summands, each with 4 leaves and 2 constants of its own" in texts(found)
    tape, _ = program._backward.program.rolled
    assert [name for name in texts(found) if name in {i.op.name for i in tape.instructions}] == [
        i.op.name for i in tape.instructions]


def test_bars_count_every_operation_once() -> None:
    program = example()
    found = program.summary()
    counted = dict.fromkeys(("over runs of rows", "operands gathered", "one by one"), 0)
    for element in ElementTree.fromstring(found.svg).iter(f"{SVG}rect"):
        title = element.findtext(f"{SVG}title") or ""
        count, _, way = title.partition(" ")
        if way in counted:
            counted[way] += int(count.replace(",", ""))
    stated = re.search(r"operations: ([\d,]+) over runs, ([\d,]+) with gathered operands, ([\d,]+) one by one", found)
    assert stated is not None
    assert [int(number.replace(",", "")) for number in stated.groups()] == list(counted.values())
    assert sum(counted.values()) > 100


def test_it_is_saved_by_its_ending(tmp_path: Path) -> None:
    found = example().summary()
    for ending, text in ((".svg", found.svg), (".html", found.html), (".TXT", f"{found}\n")):
        assert found.save(tmp_path / f"name{ending}") == str(tmp_path / f"name{ending}")
        assert (tmp_path / f"name{ending}").read_text(encoding="utf-8") == text
    assert found.svg in found.html
    assert "http" not in found.html.replace("http://www.w3.org/2000/svg", ""), "nothing is loaded from elsewhere"
    with pytest.raises(errors.ArgumentError, match=r"must end in \.svg"):
        found.save(tmp_path / "name.png")
    assert len(list(tmp_path.iterdir())) == 3


def test_a_picture_of_very_many_instructions_ends(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(summary, "LONGEST", 3)
    program = example()
    total = len(program._backward.program.rolled[0].instructions)
    assert f"and {total - 3} more instructions" in texts(program.summary())


def test_an_expression_of_one_leaf() -> None:
    found = jg.compile(Value(1.0) * 2, device="cpu").summary()
    assert found.startswith("3 Values")
    assert ElementTree.fromstring(found.svg).tag == f"{SVG}svg"
    alone = jg.compile(Value(1.0), device="cpu").summary()
    assert alone.startswith("1 Values")
    assert ElementTree.fromstring(alone.svg).tag == f"{SVG}svg"


def test_the_picture_in_the_docs_is_what_is_drawn() -> None:
    spec = importlib.util.spec_from_file_location("gen_summary", ROOT / "docs" / "gen_summary.py")
    assert spec is not None
    assert spec.loader is not None
    generator = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(generator)
    assert generator.PICTURE.read_text(encoding="utf-8") == generator.picture(), "run python docs/gen_summary.py"
