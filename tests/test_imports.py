"""Imports point one way, heavy packages load on first use, and modules stay small and well named."""

from __future__ import annotations

import ast
import subprocess
import sys
from collections.abc import Iterator
from dataclasses import dataclass
from fnmatch import fnmatchcase
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parent.parent

# Lowest first. A module may import from its own row and from the rows above it. A package stands for all its modules.
LAYERS = [
    ["errors", "layout"],
    ["kernels"],
    ["compiler"],
    ["backends"],
    ["nans", "recording", "rules", "summary"],
    ["ledger"],
    ["operators", "value"],
    ["trace", "arguments", "debug", "soundness", "walk"],
    ["functions", "losses", "module", "layers", "nn", "api", "calls", "device_calls", "blocks", "distributed", "lowered",
     "recorded", "schedules", "optim", "ravel", "metrics", "testing", "derivatives"],
    ["train", "trainer", "cohort", "together", "settings", "loop", "sweeps", "problem", "examples", "batches", "streams",
     "partitions", "history", "progress", "checkpoint", "resume", "data", "tables", "arrow", "plots", "columns", "predictor",
     "recipes", "grids", "discover", "drawing", "curves", "bridges", "roofline"],
    ["estimators", "report", "show", "terminal"],
    ["cli", "__init__", "__main__"],
]
RANK = {name: rank for rank, row in enumerate(LAYERS) for name in row}

# Which modules may import a package at all, at the top of the file or inside a function.
MACHINE_CODE = ["backward", "cpu", "cuda", "cuda_copies", "cuda_forms", "cuda_memory", "cuda_training", "cuda_wide_form",
                "native", "rows"]
GENERATORS = ["jitgrad.kernels.*", "jitgrad.compiler.emit*", *(f"jitgrad.backends.{name}" for name in MACHINE_CODE)]
ALLOWED = {
    "jax": ["jitgrad.backends.jax", "jitgrad.bridges"],
    "jaxlib": ["jitgrad.backends.jax"],
    "numba": GENERATORS,
    "llvmlite": GENERATORS,
    "sklearn": ["jitgrad.estimators", "jitgrad.data"],
    "torch": ["jitgrad.bridges"],
    "dask": ["jitgrad.distributed"],
    "distributed": ["jitgrad.distributed"],
    "pyarrow": ["jitgrad.arrow"],
}
KERNELS_MAY_IMPORT = {"numba", "numpy", "llvmlite"} | sys.stdlib_module_names
# Never loaded by a bare `import jitgrad`.
HEAVY = ["safetensors", "numba", "llvmlite", "jax", "jaxlib", "scipy", "sklearn", "torch", "matplotlib", "pandas",
         "dask", "distributed", "pyarrow"]

LONGEST = 500
VAGUE = {"utils", "util", "helpers", "helper", "misc", "manager", "managers"}


@dataclass(frozen=True)
class Import:
    """One imported module or name, with dots, as seen from `jitgrad`'s parent folder."""

    target: str
    line: int
    lazy: bool  # inside a function, so not run on import


def sources() -> dict[str, Path]:
    """Every module of the package by its import name; the device code is read once, from kernels/."""
    found = {}
    for package, folder in [("jitgrad", ROOT / "jitgrad"), ("jitgrad.kernels", ROOT / "kernels")]:
        for path in sorted(folder.rglob("*.py")):
            parts = path.relative_to(folder).with_suffix("").parts
            if package != "jitgrad" or parts[0] != "kernels":
                found[".".join([package, *parts]).removesuffix(".__init__")] = path
    return found


SOURCES = sources()


def imports(text: str, module: str, is_package: bool = False) -> Iterator[Import]:
    """Every import in a module's text: both statements, relative ones resolved, and importlib with a literal name."""
    package = module.split(".") if is_package else module.split(".")[:-1]

    def resolve(name: str, level: int) -> str:
        return ".".join([*package[: len(package) - level + 1], *filter(None, [name])]) if level else name

    stack: list[tuple[ast.AST, bool]] = [(ast.parse(text), False)]
    while stack:
        node, lazy = stack.pop()
        if isinstance(node, ast.Import):
            yield from (Import(alias.name, node.lineno, lazy) for alias in node.names)
        elif isinstance(node, ast.ImportFrom):
            base = resolve(node.module or "", node.level)
            yield from (Import(f"{base}.{alias.name}", node.lineno, lazy) for alias in node.names)
        elif isinstance(node, ast.Call) and ast.unparse(node.func).endswith(("import_module", "__import__")):
            first = node.args[0] if node.args else None
            if isinstance(first, ast.Constant) and isinstance(first.value, str):
                name = first.value.lstrip(".")
                yield Import(resolve(name, len(first.value) - len(name)), node.lineno, lazy)
        inside = lazy or isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef | ast.Lambda)
        stack.extend((child, inside) for child in ast.iter_child_nodes(node))


def layer(name: str) -> str:
    """The row entry that a dotted name under jitgrad belongs to: `jitgrad.compiler.ops.OPS` -> `compiler`."""
    parts = name.split(".")
    known = len(parts) > 1 and (parts[1] in RANK or f"jitgrad.{parts[1]}" in SOURCES)
    return parts[1] if known else "__init__"  # `from jitgrad import Value` goes through the public face


def problems(module: str, text: str, is_package: bool = False) -> list[str]:
    """What is wrong with a module's imports, each with its line."""
    own = layer(module)
    if own not in RANK:
        return [f"{module} is in no layer: add {own!r} to LAYERS in tests/test_imports.py"]
    found = []
    for imported in imports(text, module, is_package):
        top = imported.target.split(".")[0]
        wrong = []
        if top == "jitgrad":
            theirs = layer(imported.target)
            if RANK.get(theirs, -1) > RANK[own]:
                wrong.append(f"{theirs} is above {own}; imports point down")
            if f"{imported.target}.".startswith("jitgrad.backends.jax.") and not imported.lazy:
                wrong.append("the JAX backend is imported inside the function that needs it")
        permitted = ALLOWED.get(top, [module])
        if not any(fnmatchcase(module, pattern) for pattern in permitted):
            wrong.append(f"only {', '.join(permitted)} may import {top}")
        if own == "kernels" and top not in KERNELS_MAY_IMPORT and not imported.target.startswith("jitgrad.kernels"):
            wrong.append("kernels import numba, numpy, llvmlite and each other")
        found += [f"{module}:{imported.line}: imports {imported.target}: {reason}" for reason in wrong]
    return found


@pytest.mark.parametrize("module", SOURCES)
def test_imports_point_down(module: str) -> None:
    path = SOURCES[module]
    found = problems(module, path.read_text(encoding="utf-8"), path.name == "__init__.py")
    assert not found, "\n".join(found)


@pytest.mark.parametrize("module", SOURCES)
def test_a_module_fits_on_a_few_screens(module: str) -> None:
    lines = len(SOURCES[module].read_text(encoding="utf-8").splitlines())
    assert lines <= LONGEST, f"{module} has {lines} lines; split it by what it does"


@pytest.mark.parametrize("module", SOURCES)
def test_a_module_is_named_for_what_it_does(module: str) -> None:
    assert VAGUE.isdisjoint(part.strip("_") for part in module.split("."))


def test_the_kernels_are_one_folder_without_an_init() -> None:
    assert not (ROOT / "kernels" / "__init__.py").exists()
    link = ROOT / "jitgrad" / "kernels"
    if (ROOT / ".git").exists():  # an unpacked source archive has no links
        assert link.is_symlink()
        assert link.resolve() == ROOT / "kernels"


def test_import_jitgrad_is_light() -> None:
    probe = f"import sys, jitgrad; print(*(name for name in {HEAVY} if name in sys.modules))"
    done = subprocess.run([sys.executable, "-c", probe], cwd=ROOT, capture_output=True, text=True, check=True)
    assert done.stdout.split() == []


@pytest.mark.parametrize(
    ("module", "text", "reason"),
    [
        ("jitgrad.compiler.grad", "from jitgrad.value import Value", "value is above compiler"),
        ("jitgrad.compiler.grad", "from ..value import Value", "value is above compiler"),
        ("jitgrad.compiler.grad", "from .. import value", "value is above compiler"),
        ("jitgrad.compiler.grad", "import jitgrad as jg", "__init__ is above compiler"),
        ("jitgrad.value", "from jitgrad import Value", "__init__ is above value"),
        ("jitgrad.value", "if TYPE_CHECKING:\n    from jitgrad.trace import trace", "trace is above value"),
        ("jitgrad.value", "def f():\n    import jitgrad.trace", "trace is above value"),
        ("jitgrad.value", "importlib.import_module('.trace', 'jitgrad')", "trace is above value"),
        ("jitgrad.testing", "def f():\n    import jax.numpy as jnp", "jitgrad.bridges may import jax"),
        ("jitgrad.testing", "from jitgrad.backends import jax", "inside the function"),
        ("jitgrad.api", "from numba import njit", "may import numba"),
        ("jitgrad.backends.cpuinfo", "import llvmlite", "may import llvmlite"),
        ("jitgrad.kernels.math", "import optree", "kernels import"),
        ("jitgrad.kernels.math", "from jitgrad import errors", "kernels import"),
        ("jitgrad.novelty", "import math", "in no layer"),
    ],
)
def test_a_wrong_import_is_found(module: str, text: str, reason: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(SOURCES, module, Path())
    assert any(reason in problem for problem in problems(module, text))


@pytest.mark.parametrize(
    ("module", "text"),
    [
        ("jitgrad.trace", "from jitgrad.errors import TraceError\nfrom .compiler import graph\nfrom . import value"),
        ("jitgrad.testing", "def f():\n    from jitgrad.backends import jax"),
        ("jitgrad.compiler.emit_llvm", "from numba import njit\nimport llvmlite.ir"),
        ("jitgrad.kernels.math", "import math\nimport numpy as np\nfrom numba import njit\nfrom . import reduce"),
        ("jitgrad.backends.jax", "import jax.numpy as jnp"),
    ],
)
def test_a_right_import_is_left_alone(module: str, text: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(SOURCES, "jitgrad.value", Path())
    assert not problems(module, text)
