"""The report of a training: one file, complete, the same for the same run, and true."""

from __future__ import annotations

import base64
import re
from dataclasses import replace
from html.parser import HTMLParser
from pathlib import Path

import numpy as np
import pytest

import jitgrad as jg
from jitgrad import data, recipes, report
from jitgrad.errors import ArgumentError
from jitgrad.recipes import Training

VOID = {"meta", "img", "path", "rect"}


@pytest.fixture(scope="module")
def moons() -> Training:
    recipe = replace(recipes.MOONS, hidden=(3,), epochs=3, device="interpret")
    return recipes.run(data.load_moons(n=120), recipe, progress=False)


@pytest.fixture(scope="module")
def text(moons: Training) -> str:
    return report.page(moons)


class Page(HTMLParser):
    """Checks that elements nest, and collects text, tables and pictures."""

    def __init__(self, text: str) -> None:
        super().__init__()
        self.open: list[str] = []
        self.rows: list[list[str]] = []
        self.pictures: dict[str, tuple[str, bytes]] = {}
        self.attributes: list[tuple[str, str | None]] = []
        self.feed(text)
        self.close()
        assert self.open == []

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.attributes += attrs
        if tag not in VOID:
            self.open.append(tag)
        if tag == "tr":
            self.rows.append([])
        if tag in ("td", "th"):
            self.rows[-1].append("")
        if tag == "img":
            kind, _, encoded = dict(attrs)["src"].removeprefix("data:").partition(";base64,")
            self.pictures[dict(attrs)["alt"]] = kind, base64.b64decode(encoded)

    def handle_startendtag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.attributes += attrs

    def handle_endtag(self, tag: str) -> None:
        if tag not in VOID:
            assert self.open.pop() == tag

    def handle_data(self, text: str) -> None:
        if "td" in self.open or "th" in self.open:
            self.rows[-1][-1] += text

    def cell(self, name: str) -> str:
        return next(row[1] for row in self.rows if row[0] == name)


def test_everything_is_in_it(moons: Training, text: str):
    for heading in ("Data", "Settings", "Loss", "Results", "Weights and gradients", "Program", "Versions"):
        assert f"<h2>{heading}</h2>" in text
    page = Page(text)
    assert page.cell("batch size") == "50"
    assert page.cell("parameters") == str(3 * 2 + 3 + 3 + 1)
    assert page.cell("held-out accuracy") == f"{moons.metrics['test_accuracy']:.1%}"
    assert page.cell("instructions, gradient included").isdigit()
    assert page.cell("device") == "interpret"
    assert page.cell("numpy") == np.__version__
    assert {name: kind for name, (kind, _) in page.pictures.items()} == {
        "Loss by epoch": "image/svg+xml", "Decision boundary": "image/png",
        "Histograms of each layer's weights and gradients": "image/svg+xml"}
    assert page.pictures["Decision boundary"][1].startswith(b"\x89PNG")
    assert page.pictures["Loss by epoch"][1].startswith(b"<?xml")
    assert "d / d params[&#x27;W1&#x27;]" in text  # the tape, drawn
    assert "rows 0:" in text  # and written


def test_it_loads_nothing_from_elsewhere(text: str):
    for name, value in Page(text).attributes:
        if name in ("src", "href", "xlink:href", "srcset", "data", "action"):
            assert value is not None
            assert value.startswith("data:")
    assert set(re.findall(r"https?://[^\"' <)]*", text)) <= {"http://www.w3.org/2000/svg"}
    assert "<script" not in text
    assert "@import" not in text
    assert str(Path.cwd()) not in text


def test_the_same_run_is_the_same_file(moons: Training, text: str, tmp_path: Path):
    assert Path(report.write(moons, tmp_path / "deep/er/a.HTML")).read_bytes() == text.encode()
    with pytest.raises(ArgumentError, match=r"\.html"):
        report.write(moons, tmp_path / "other" / "c.pdf")
    assert [path.name for path in tmp_path.iterdir()] == ["deep"]


def test_a_second_run_differs_in_its_times_alone(moons: Training, text: str):
    again = recipes.run(moons.dataset, moons.recipe, progress=False)
    assert again.result.losses == moons.result.losses
    assert report.page(replace(again, result=replace(again.result, history=moons.result.history))) == text


def test_the_confusion_table_counts_the_held_out_examples(moons: Training, text: str):
    page = Page(text)
    inputs, targets = moons.dataset.test
    found = moons.predict(inputs)[:, 0] > 0
    for name, sign in (("-1", -1), ("+1", 1)):
        row = [row for row in page.rows if row[0] == name][-1]
        of_class = found[recipes.class_indices(targets) == (sign > 0)]
        assert row == [name, str(int((~of_class).sum())), str(int(of_class.sum())), f"{np.mean(of_class == (sign > 0)):.1%}"]


def test_the_gradient_that_is_shown_is_that_of_the_last_parameters(moons: Training, monkeypatch: pytest.MonkeyPatch):
    seen = {}

    def spy(columns: dict, path: str, title: str) -> None:
        seen.update(columns)
        Path(path).write_bytes(b"<svg/>")

    monkeypatch.setattr("jitgrad.plots.histograms", spy)
    report.page(moons)
    expected = jg.grad(moons.objective, device="jax")(moons.result.params, *moons.examples)
    assert seen["weights"] is moons.result.params
    for name, gradient in seen["gradients"].items():
        np.testing.assert_allclose(gradient, expected[name], rtol=1e-4, atol=1e-6)


def test_numbers_are_shown_as_predictions_and_names_are_escaped(tmp_path: Path):
    rows = np.random.default_rng(0).normal(size=(50, 2))
    table = tmp_path / "table.csv"
    table.write_text("<a>&,price\n" + "".join(f"{a},{3 * a + b / 10}\n" for a, b in rows))
    training = recipes.run(data.load_table(str(table), "price"), recipes.Recipe(hidden=(), epochs=2, device="interpret"),
                           progress=False)  # fmt: skip
    text = report.page(training)
    page = Page(text)
    assert page.pictures["Predicted over true numbers"][0] == "image/png"
    assert "Decision boundary" not in page.pictures
    assert "<a>&" in [row[0] for row in page.rows]
    assert "held-out r2" in [row[0] for row in page.rows]
    assert page.cell("hidden") == "none"


def test_a_program_too_large_to_draw_is_said_to_be(moons: Training, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr("jitgrad.report.draw", lambda *args, **options: jg.draw(*args, **options, limit=2))
    assert re.search(r"The tape has \d+ instructions, more than a picture can show", report.page(moons))
