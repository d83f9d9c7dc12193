"""What every test runs under: no user settings, a code cache of its own, the same Hypothesis examples every time."""

from __future__ import annotations

import os
import shutil
import tempfile
from pathlib import Path

import hypothesis
import pytest

# Kernels that other runs left on disk would hide a compiler that no longer works.
_CACHE = tempfile.mkdtemp(prefix="jitgrad-tests-")
os.environ["JITGRAD_CACHE_DIR"] = _CACHE
os.environ.pop("JITGRAD_DEVICE", None)
os.environ.setdefault("JAX_PLATFORMS", "cpu")  # the referee must not take the GPU's memory

# HYPOTHESIS_PROFILE=explore draws new examples; by default a red test is red for everybody.
hypothesis.settings.register_profile("repeatable", deadline=None, derandomize=True)
hypothesis.settings.register_profile("explore", deadline=None, max_examples=1000)
hypothesis.settings.load_profile(os.environ.get("HYPOTHESIS_PROFILE", "repeatable"))


def pytest_unconfigure(config: pytest.Config) -> None:
    shutil.rmtree(_CACHE, ignore_errors=True)


# The files that take longest, first: where two processes share the files, neither is left with a long one at the end.
LONGEST = ("cuda", "benchmarks", "ptx", "cuda_training", "random_programs", "adding_an_op", "cuda_arrays", "ops", "nn",
           "docs", "cuda_wide", "checkpoint", "estimators", "cli", "distributed", "recorded")


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    place = {f"test_{name}": number for number, name in enumerate(LONGEST)}
    items.sort(key=lambda item: place.get(item.path.stem, len(place)))


@pytest.fixture
def shell(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    """A plain, wide terminal in an empty folder, so that a command that writes where it should not is seen."""
    for name in ("FORCE_COLOR", "JITGRAD_DEVICE", "GITHUB_ACTIONS"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setenv("COLUMNS", "200")
    monkeypatch.setenv("NO_COLOR", "1")
    for name in ("MAX_WIDTH", "FORCE_TERMINAL"):  # typer reads the environment once, when it is imported
        monkeypatch.setattr(f"typer.rich_utils.{name}", None)
    monkeypatch.chdir(tmp_path)
