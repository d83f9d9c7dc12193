"""The documentation is true: its snippets run and print what they say, the examples run, the tables are complete."""

from __future__ import annotations

import contextlib
import doctest
import importlib.util
import io
import linecache
import re
import runpy
import shlex
import sys
from pathlib import Path
from types import ModuleType
from typing import Any

import pandas as pd
import pytest
from command import run

import jitgrad as jg
from jitgrad.compiler.graph import OPS

ROOT = Path(__file__).resolve().parent.parent
PAGES = [ROOT / "README.md", *sorted((ROOT / "docs").rglob("*.md"))]
FENCED = re.compile(r"^```(\w+)\n(.*?)^```$", re.MULTILINE | re.DOTALL)
OPTIONS = doctest.ELLIPSIS | doctest.NORMALIZE_WHITESPACE

# Smaller than as written; what each prints is read below.
EXAMPLES = {
    "closed_over_model.py": ["200"],
    "curve_fits.py": ["200"],
    "curve_per_pixel.py": ["50"],
    "digits_classifier.py": ["8", "16"],
    "fused_steps.py": ["20", "cpu"],
    "logistic_regression.py": ["2000"],
    "many_models.py": ["3", "10"],
    "micrograd_moons.py": ["20", "20"],
    "next_letter.py": ["10"],
    "scalar_transformer.py": ["--steps", "3", "--batch", "8", "--width", "8", "--heads", "2"],
}


def load(path: Path, name: str) -> ModuleType:
    spec = importlib.util.spec_from_file_location(name, path)
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


generator = load(ROOT / "docs" / "gen_operations.py", "gen_operations")


@pytest.mark.parametrize("page", [p for p in PAGES if "```python" in p.read_text(encoding="utf-8")],
                         ids=lambda page: page.name)
def test_snippets_run_and_print_what_stands_below_them(page: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(ROOT)
    text = page.read_text(encoding="utf-8")
    scope: dict[str, Any] = {"__name__": "snippet"}
    printed: str | None = None
    for found in FENCED.finditer(text):
        kind, body = found.groups()
        line = text.count("\n", 0, found.start()) + 2
        if kind == "python":
            assert not printed, f"{page.name}: what the snippet above line {line} prints is not shown: {printed}"
            name = f"{page.name}, line {line}"
            # Errors quote the snippet's own lines.
            linecache.cache[name] = (len(body), None, body.splitlines(keepends=True), name)
            out = io.StringIO()
            with contextlib.redirect_stdout(out):
                exec(compile(body, name, "exec"), scope)
            printed = out.getvalue()
        elif kind == "text" and printed is not None:
            same = doctest.OutputChecker().check_output(body, printed, OPTIONS)
            assert same, f"{page.name}, line {line}: expected\n{body}\ngot\n{printed}"
            printed = None
    assert not printed, f"{page.name}: what the last snippet prints is not shown: {printed}"


@pytest.mark.parametrize("name", EXAMPLES)
def test_examples_run(name: str, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    monkeypatch.setattr(sys, "argv", [name, *EXAMPLES[name]])
    runpy.run_path(str(ROOT / "examples" / name), run_name="__main__")
    assert capsys.readouterr().out.strip()


def test_every_example_is_run_here() -> None:
    assert {path.name for path in (ROOT / "examples").glob("*.py")} == set(EXAMPLES)


def test_the_operations_page_covers_the_table() -> None:
    page = generator.operations_page()
    for op in OPS.values():
        if op.name not in ("constant", "input"):
            assert f"| `{op.name}` |" in page, op.name
        for corner in op.corners:
            assert generator.cell(corner.why) in page, (op.name, corner.why)


@pytest.mark.parametrize(("op", "rule"), [
    ("tanh", "`g * (1 - out * out)`"),
    ("div", "x: `g * (1 / y)`; y: `-(g * out) * (1 / y)`"),
    ("relu", "`where(out > 0, g, 0)`"),
    ("sub", "x: `g`; y: `-g`"),
])
def test_derivatives_are_printed_readably(op: str, rule: str) -> None:
    assert generator.derivative(OPS[op]) == rule


@pytest.mark.parametrize("op", [op for op in OPS.values() if op.vjp is not None and op.arity == 2 and not op.variadic],
                         ids=lambda op: op.name)
def test_printed_derivatives_mean_what_the_rule_says(op: Any) -> None:
    """Read back as Python and compared with the eager derivative."""
    from jitgrad.value import derivative, reference
    x, y, g = 1.25, 0.75, 3.0
    scope = {"g": g, "out": reference(op)(x, y), "x": x, "y": y, "where": lambda c, a, b: a if c else b,
             "log": reference(OPS["log"])}
    printed = [eval(text, scope) for text in re.findall(r"`([^`]*)`", generator.derivative(op))]
    assert printed == pytest.approx(list(derivative(op)(g, scope["out"], x, y)), rel=1e-12)


@pytest.mark.parametrize("name", ["neuron", "graph", "tape"])
def test_the_pictures_of_expressions_are_those_that_the_page_draws(name: str) -> None:
    drawn = load(ROOT / "docs" / "gen_seeing.py", "gen_seeing").pictures()[name]
    kept = (ROOT / "docs" / "assets" / "seeing" / f"{name}.svg").read_text(encoding="utf-8")
    assert kept == drawn, "python docs/gen_seeing.py draws them anew"


def test_every_public_name_is_in_the_reference() -> None:
    page = generator.reference_page((ROOT / "docs" / "reference.md").read_text(encoding="utf-8"))
    missing = [name for name in jg.__all__ if not re.search(rf"\bjg\.{name}\b", page)]
    assert not missing


def test_what_the_reference_names_exists() -> None:
    for target in re.findall(r"^::: (\S+)$", (ROOT / "docs" / "reference.md").read_text(encoding="utf-8"), re.MULTILINE):
        module, _, name = target.rpartition(".")
        found: Any = importlib.import_module(target if importlib.util.find_spec(module) and _is_module(target) else module)
        assert _is_module(target) or hasattr(found, name), target


def _is_module(name: str) -> bool:
    try:
        return importlib.util.find_spec(name) is not None
    except ModuleNotFoundError:
        return False


def test_pages_name_no_place_of_one_machine() -> None:
    for page in PAGES:
        assert not re.search(r"/work\b|/home/|/root/|/tmp/", page.read_text(encoding="utf-8")), page.name


def test_the_page_of_the_command_line_has_every_command_with_its_options() -> None:
    commands = load(ROOT / "docs" / "gen_cli.py", "gen_cli")
    page = commands.cli_page((ROOT / "docs" / "cli.md").read_text(encoding="utf-8"))
    for name in ("train", "predict", "sweep", "demo", "check", "show", "devices", "bench", "cache", "cache info",
                 "cache clear"):
        assert re.search(rf"^###? jitgrad {name}$", page, re.MULTILINE), name
        help_text = commands.help_of(name)
        assert help_text in page
        assert re.search(rf"Usage: jitgrad {name}", help_text, re.IGNORECASE), name
    for option in ("--target", "--grid", "--decimal", "--argnums", "--form", "--quick", "--json"):
        assert option in page


# What the site's hooks write: the table of operations, and a page of each notebook.
GENERATED = {"operations.md", *(f"notebooks/{path.stem}.md" for path in (ROOT / "docs" / "notebooks").glob("*.ipynb"))}


def test_the_site_has_every_page_and_no_other() -> None:
    listed = set(re.findall(r"[\w/-]+\.md", (ROOT / "mkdocs.yml").read_text(encoding="utf-8").split("theme:")[0]))
    written = {path.relative_to(ROOT / "docs").as_posix() for path in (ROOT / "docs").rglob("*.md")}
    assert listed == written | GENERATED


def test_links_between_pages_lead_somewhere() -> None:
    for page in PAGES:
        for target in re.findall(r"\]\((?!https?:)([^)#\s]+)", page.read_text(encoding="utf-8")):
            there = (page.parent / target).resolve()
            generated = there.is_relative_to(ROOT / "docs") and there.relative_to(ROOT / "docs").as_posix() in GENERATED
            assert there.exists() or generated, (page.name, target)


def commands() -> list[str]:
    """Every `jitgrad` command of the pages' shell snippets, up to a pipe, a redirection or a remark."""
    found = [line for page in PAGES for kind, body in FENCED.findall(page.read_text(encoding="utf-8")) if kind == "sh"
             for line in body.splitlines() if line.startswith("jitgrad ") and "completion" not in line]
    return list(dict.fromkeys(re.split(r"\s[|>#]", line)[0].strip() for line in found))


OBJECTIVE = """
import numpy as np
import jitgrad as jg
def objective(params, x, y):
    return jg.losses.mse(params["w"] @ x, y)
objective_args = ({"w": np.ones(2)}, np.ones((4, 2)), np.ones(4))
"""


@pytest.mark.slow
@pytest.mark.usefixtures("shell")
def test_commands_of_the_pages_run_one_after_the_other() -> None:
    """On a table as a reader would have it; trainings are shortened."""
    rows = [(40 + 7 * k, ["Aachen", "Bonn"][k % 2], 1000 * (40 + 7 * k) + 9000 * (k % 2)) for k in range(60)]
    Path("houses.csv").write_text("area,town,price\n" + "".join(f"{a},{t},{p}\n" for a, t, p in rows), encoding="utf-8")
    Path("new.csv").write_text("town,area\nBonn,100\n", encoding="utf-8")
    pd.read_csv("houses.csv").to_parquet("houses.parquet")
    pd.read_csv("new.csv").to_feather("new.feather")
    Path("model.py").write_text(OBJECTIVE, encoding="utf-8")
    texts = commands()
    for name in ("train", "predict", "sweep", "check", "show"):
        assert any(text.startswith(f"jitgrad {name} ") for text in texts), name
    for text in texts:
        words = shlex.split(text)[1:]
        run(*words, *(["--epochs", "2"] if words[0] in ("train", "sweep") else []))
    assert Path("priced.csv").read_text(encoding="utf-8").startswith("town,area,predicted price\nBonn,100,")
