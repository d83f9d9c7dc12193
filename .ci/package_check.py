"""Install the built wheel in an empty environment outside the checkout and use it there.

usage: python .ci/package_check.py DIST, where DIST holds one sdist and the wheel built from it
"""

from __future__ import annotations

import os
import subprocess
import sys
import tarfile
import tempfile
import venv
import zipfile
from pathlib import Path

CHECKOUT = Path(__file__).resolve().parent.parent

USE = '''
import importlib.util
import sys
from pathlib import Path

import numpy as np

import jitgrad as jg
import jitgrad.kernels

checkout, *kernels = sys.argv[1:]
for module in ["jitgrad", *(f"jitgrad.kernels.{name}" for name in kernels)]:
    path = Path(importlib.util.find_spec(module).origin).resolve()  # found, not run: some need CUDA
    assert not path.is_relative_to(checkout), f"{module} would come from the checkout: {path}"

x, y, w = np.arange(4.0), np.ones(4), 2.0
value, gradient = jg.value_and_grad(lambda w, x, y: (w * x - y) ** 2, reduce="mean")(w, x, y)
residual = w * x - y
np.testing.assert_allclose(value, np.mean(residual**2), rtol=1e-12)
np.testing.assert_allclose(gradient, np.mean(2.0 * residual * x), rtol=1e-12)
print(f"value {float(value)} and gradient {float(gradient)} equal the formula")
'''


def only(folder: Path, pattern: str) -> Path:
    """The one file that matches; two would mean a stale build."""
    found = sorted(folder.glob(pattern))
    if len(found) != 1:
        sys.exit(f"package_check: expected one {pattern} in {folder}, found {[path.name for path in found]}")
    return found[0]


def check_contents(sdist: Path, wheel: Path) -> list[str]:
    """Every module is in both archives, and nothing else is in the wheel; returns the kernel modules' names."""
    modules = {f"jitgrad/{path.relative_to(CHECKOUT / 'jitgrad').as_posix()}"
               for folder in (".", "backends", "cli", "compiler") for path in (CHECKOUT / "jitgrad" / folder).glob("*.py")}
    kernels = {path.name for path in (CHECKOUT / "kernels").iterdir() if path.suffix in (".py", ".ll")}
    wanted = modules | {f"jitgrad/kernels/{name}" for name in kernels} | {"jitgrad/py.typed"}
    with zipfile.ZipFile(wheel) as archive:
        held = {name for name in archive.namelist() if ".dist-info/" not in name}
    if held != wanted:
        lacking, extra = sorted(wanted - held), sorted(held - wanted)
        sys.exit(f"package_check: {wheel.name} lacks {lacking} and should not hold {extra}")
    with tarfile.open(sdist) as archive:
        held = {name.partition("/")[2] for name in archive.getnames()}
    lacking = (modules | {f"kernels/{name}" for name in kernels} | {"LICENSE", "README.md", "pyproject.toml"}) - held
    if lacking:
        sys.exit(f"package_check: {sdist.name} lacks {sorted(lacking)}")
    return sorted(Path(name).stem for name in kernels if name.endswith(".py"))


def main() -> None:
    dist = Path(sys.argv[1]).resolve()
    wheel = only(dist, "*.whl")
    kernels = check_contents(only(dist, "*.tar.gz"), wheel)
    print(f"package_check: {wheel.name} holds every module and nothing else", flush=True)

    with tempfile.TemporaryDirectory(prefix="jitgrad-package-") as folder:
        home = Path(folder)
        venv.create(home / "env", with_pip=True)
        scripts = home / "env" / ("Scripts" if os.name == "nt" else "bin")
        # The user's settings and caches must not be what makes it work.
        environment = {name: text for name, text in os.environ.items() if not name.startswith(("PYTHON", "JITGRAD"))}

        def run(*command: str | Path) -> None:
            subprocess.run([str(part) for part in command], cwd=home, env=environment, check=True)

        run(scripts / "python", "-m", "pip", "install", "--quiet", "--disable-pip-version-check", wheel)
        environment["XDG_CACHE_HOME"] = str(home / "cache")
        (home / "use.py").write_text(USE, encoding="utf-8")
        run(scripts / "python", home / "use.py", CHECKOUT, *kernels)
        run(scripts / "jitgrad", "devices")
    print("package_check: passed")


if __name__ == "__main__":
    main()
