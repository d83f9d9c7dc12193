"""The contestants: who they are, whether they can run here, and what each needs said before it is at its fastest."""

from __future__ import annotations

import importlib.util
import inspect
import os
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from functools import cache
from typing import Any

# Name in the tables -> module. "Python" is a scalar autograd class in plain Python that comes with the benchmarks.
PEERS = {"jitgrad": "jitgrad", "JAX": "jax", "PyTorch": "torch", "Dr.Jit": "drjit", "micrograd": "micrograd",
         "Python": "sys"}

# Dr.Jit ends the whole process where its LLVM library is missing, too old, or cannot select an instruction.
_DRJIT_PROBE = """
import drjit as dr
from drjit.llvm.ad import Float32
x = dr.linspace(Float32, 0.1, 1, 1000)
dr.enable_grad(x)
y = dr.sum(dr.erf(x) * dr.log(x) + dr.select(x > 0.5, dr.exp(-dr.abs(x)), dr.sqrt(x)))
dr.backward(y)
dr.eval(y, dr.grad(x))
dr.sync_thread()
"""


@cache
def absent(peer: str) -> str | None:
    """Why a peer cannot run here; None where it can."""
    if importlib.util.find_spec(PEERS[peer]) is None:
        return "not installed"
    if peer == "Dr.Jit":
        probe = subprocess.run([sys.executable, "-c", _DRJIT_PROBE], capture_output=True, text=True, check=False)
        if probe.returncode:
            said = probe.stderr.strip().splitlines() or [f"exit status {probe.returncode}"]
            return f"its LLVM backend does not work here: {said[0][:200]}"
    return None


@contextmanager
def environment(**variables: str) -> Iterator[None]:
    """Environment variables for this process and those it starts meanwhile."""
    before = {name: os.environ.get(name) for name in variables}
    os.environ.update(variables)
    try:
        yield
    finally:
        for name, value in before.items():
            if value is None:
                del os.environ[name]
            else:
                os.environ[name] = value


def cores() -> int:
    """The cores this process may use."""
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1


@cache
def torch() -> Any:
    """PyTorch, told to use the cores that the others may use too."""
    import torch as module
    module.set_num_threads(cores())
    return module


def done(result: Any) -> Any:
    """Wait for JAX."""
    import jax
    return jax.block_until_ready(result)


def drjit_done(*results: Any) -> Any:
    """Have Dr.Jit compute these arrays, and wait for it."""
    import drjit
    drjit.eval(*results)
    drjit.sync_thread()
    return results


def takes_out(step: Any) -> bool:
    """Whether jitgrad's transformed functions write gradients into arrays that the caller keeps."""
    return "out" in inspect.signature(type(step).__call__).parameters
