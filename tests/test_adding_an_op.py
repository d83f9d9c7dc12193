"""Adding an operation touches ops.py alone: the generated tests take up a new paragraph, and refuse a wrong one."""

from __future__ import annotations

import os
import re
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parent.parent

PARAGRAPHS = '''

ATAN2 = op("atan2", 2, value=math.atan2, spelling="atan2", numpy="arctan2", jax="arctan2", doc="the angle of (y, x)",
           vjp=lambda g, out, y, x: (g * (x / (x * x + y * y)), -(g * (y / (x * x + y * y)))),
           inside=((-4.0, 4.0), (0.25, 4.0)),
           corners=(Corner((0.0, 1.0), 0.0, (1.0, -0.0), "along the axis"),
                    Corner((-0.0, 1.0), -0.0, (1.0, 0.0), "the sign of zero survives"),
                    Corner((NAN, 1.0), NAN, None, "NaN is kept")))

BUMP = op("bump", 1, spelling=lambda x: 1.0 / (1.0 + x * x), doc="1 / (1 + x²)",
          vjp=lambda g, out, x: (-2.0 * g * x * out * out,),
          corners=(Corner((0.0,), 1.0, (-0.0,), "the top"), Corner((INF,), 0.0, None, "vanishes")))

WRONG_SLOPE = op("wrong_slope", 1, value=total(math.sin), spelling="sin", numpy="sin", jax="sin", doc="forgets g",
                 vjp=lambda g, out, x: (COS(x),))

WRONG_KERNEL = op("wrong_kernel", 1, value=total(math.sin), spelling="cos", numpy="sin", jax="sin", doc="says cos",
                  vjp=lambda g, out, x: (g * COS(x),))

WRONG_CORNER = op("wrong_corner", 1, value=total(math.sin), spelling="sin", numpy="sin", jax="sin", doc="promises too much",
                  vjp=lambda g, out, x: (g * COS(x),), corners=(Corner((0.0,), -0.0, (1.0,), "not so"),))
'''


def outcomes(folder: Path) -> dict[str, set[str]]:
    """The generated tests of each new operation that passed and failed, as "passed atan2" and so on."""
    environment = {**os.environ, "PYTHONPATH": str(folder), "JITGRAD_CACHE_DIR": str(folder / "cache")}
    where = subprocess.run([sys.executable, "-c", "import jitgrad; print(jitgrad.__file__)"], cwd=folder,
                           env=environment, capture_output=True, text=True, check=True).stdout
    assert Path(where.strip()).is_relative_to(folder), where
    done = subprocess.run([sys.executable, "-m", "pytest", "-q", "-rA", "--tb=short", "-p", "no:cacheprovider",
                           "-k", "atan2 or bump or wrong", "tests/test_ops.py"],
                          cwd=folder, env=environment, capture_output=True, text=True, check=False)
    found: dict[str, set[str]] = {"stdout": {done.stdout[-6000:] + done.stderr[-2000:]}}
    for verdict, test, parameters in re.findall(r"^(PASSED|FAILED) \S+::(\w+)\[([^\]]*)\]", done.stdout, re.MULTILINE):
        name = next((p for p in parameters.split("-") if p.startswith(("atan2", "bump", "wrong"))), None)
        if name is not None:
            found.setdefault(f"{verdict.lower()} {name}", set()).add(test)
    return found


@pytest.mark.slow
def test_a_new_paragraph_is_tested_and_a_wrong_one_is_refused(tmp_path: Path) -> None:
    shutil.copytree(ROOT / "jitgrad", tmp_path / "jitgrad", symlinks=True,
                    ignore=shutil.ignore_patterns("__pycache__"))
    shutil.copytree(ROOT / "kernels", tmp_path / "kernels", ignore=shutil.ignore_patterns("__pycache__"))
    shutil.copy(ROOT / "pyproject.toml", tmp_path)
    (tmp_path / "tests").mkdir()
    for path in (ROOT / "tests").glob("*.py"):
        if not path.name.startswith("test_") or path.name == "test_ops.py":
            shutil.copy(path, tmp_path / "tests")
    with (tmp_path / "jitgrad" / "compiler" / "ops.py").open("a") as table:
        table.write(PARAGRAPHS)
    found = outcomes(tmp_path)
    (stdout,) = found["stdout"]
    assert not found.get("failed atan2"), stdout
    assert found["passed atan2"] >= {
        "test_value_and_gradient_are_the_eager_ones", "test_float32_is_near_float64", "test_the_derivative_is_the_slope",
        "test_corners_eagerly", "test_corners_in_kernels", "test_corners_in_jax", "test_special_values",
        "test_special_gradients", "test_the_public_function_is_the_operation", "test_a_paragraph_is_whole"}, stdout
    assert not found.get("failed bump"), stdout
    assert {"test_the_derivative_is_the_slope", "test_corners_in_kernels"} <= found["passed bump"], stdout
    assert "test_value_and_gradient_are_the_eager_ones" in found["failed wrong_slope"], stdout
    assert "test_value_and_gradient_are_the_eager_ones" in found["failed wrong_kernel"], stdout
    assert {"test_corners_eagerly", "test_corners_in_kernels", "test_corners_in_jax"} <= found["failed wrong_corner"]
