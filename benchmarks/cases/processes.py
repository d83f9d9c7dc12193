"""Whole processes: from the start of Python to the first gradient, importing, and how much memory a call takes."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
import tempfile
import weakref
from collections.abc import Callable, Iterator
from pathlib import Path

import numpy as np

from benchmarks.case import ROOT, Array, Case, Contestant, Run, Setup, Unavailable
from benchmarks.models.mlp import SMALL, data, in_float64, parameters


def python(code: str, caches: str, settings: dict[str, str] | None = None) -> str:
    """What a new interpreter prints, with this jitgrad on its path and its compilers' caches in the folder `caches`."""
    import jitgrad
    paths = [str(Path(jitgrad.__file__).parent.parent), str(ROOT), os.environ.get("PYTHONPATH", "")]
    variables = {"PYTHONPATH": os.pathsep.join(filter(None, paths)), "JITGRAD_CACHE_DIR": f"{caches}/jitgrad",
                 "NUMBA_CACHE_DIR": f"{caches}/numba"}
    done = subprocess.run([sys.executable, "-c", code], env={**os.environ, **variables, **(settings or {})},
                          capture_output=True, text=True, check=False)
    if done.returncode:
        raise RuntimeError(f"exit status {done.returncode}: {done.stderr.strip()[-2000:]}")
    return done.stdout


def process(code: str, filled: bool, cached_jax: bool = False) -> Callable[[], Run]:
    """Run `code` in new processes: each with empty caches, or all with those that the first one filled.

    cached_jax: JAX keeps what it compiles on disk, which it does not do unless told
    """
    def settings(folder: str) -> dict[str, str]:
        if not cached_jax:
            return {}
        return {"JAX_COMPILATION_CACHE_DIR": f"{folder}/jax", "JAX_PERSISTENT_CACHE_MIN_COMPILE_TIME_SECS": "0",
                "JAX_PERSISTENT_CACHE_MIN_ENTRY_SIZE_BYTES": "-1"}

    def make() -> Run:
        def begin_empty() -> str:
            with tempfile.TemporaryDirectory(prefix="jitgrad-benchmarks-") as empty:
                return python(code, empty, settings(empty))
        if not filled:
            return begin_empty
        kept = tempfile.mkdtemp(prefix="jitgrad-benchmarks-")

        def begin_filled() -> str:
            return python(code, kept, settings(kept))
        weakref.finalize(begin_filled, shutil.rmtree, kept, ignore_errors=True)
        return begin_filled
    return make


def printed(text: str) -> list[Array]:
    return [np.array(text.split(), np.float64)]


# Start Python, import, write down a small loss, print its first gradient, exit.

COLD = {
    "jitgrad": """
import numpy as np, jitgrad as jg
x, w = np.linspace(-1, 1, 200, dtype=np.float32).reshape(100, 2), np.full((16, 2), 0.5, np.float32)
def loss(w, x): return np.sum(jg.tanh(w @ x)) ** 2
value, grad = jg.value_and_grad(loss)(w, x)
""",
    "JAX": """
import numpy as np, jax, jax.numpy as jnp
x, w = np.linspace(-1, 1, 200, dtype=np.float32).reshape(100, 2), np.full((16, 2), 0.5, np.float32)
def loss(w, x): return jnp.sum(jnp.tanh(w @ x)) ** 2
value, grad = jax.jit(jax.value_and_grad(lambda w: jnp.mean(jax.vmap(loss, (None, 0))(w, x))))(w)
""",
    "PyTorch": """
import numpy as np, torch
x, w = np.linspace(-1, 1, 200, dtype=np.float32).reshape(100, 2), np.full((16, 2), 0.5, np.float32)
x, w = torch.tensor(x), torch.tensor(w, requires_grad=True)
value = (torch.tanh(x @ w.T).sum(1) ** 2).mean()
grad, value = torch.autograd.grad(value, [w])[0], value.detach()
""",
}


def cold_start(filled: bool) -> Setup:
    x = np.linspace(-1, 1, 200, dtype=np.float32).reshape(100, 2).astype(np.float64)
    t = np.tanh(x @ np.full((16, 2), 0.5).T)
    value = np.mean(t.sum(axis=1)**2)
    grad = np.einsum("n,nk,nj->kj", 2 * t.sum(axis=1), 1 - t * t, x) / len(x)
    state = "filled" if filled else "empty"
    ways = [("jitgrad", f"caches {state}", False), ("JAX", "no cache, its default", False), ("JAX", f"cache {state}", True),
            ("PyTorch", "eager", False)]
    show = "print(float(value), *np.asarray(grad).ravel())"
    return Setup(tuple(Contestant(peer, how, process(COLD[peer] + show, filled, cached), printed, fresh=not filled)
                       for peer, how, cached in ways), (np.array([value, *grad.ravel()]),), 2e-5)


def importing() -> Setup:
    modules = {"jitgrad": "jitgrad", "JAX": "jax, jax.numpy", "PyTorch": "torch", "Dr.Jit": "drjit"}
    code = "import time; began = time.perf_counter(); import {}; print(1, time.perf_counter() - began)"
    return Setup(tuple(Contestant(peer, "import, in a new process", process(code.format(names), True),
                                  lambda text: [np.array(text.split()[:1], np.float64)],
                                  reading=lambda text: float(text.split()[1])) for peer, names in modules.items()),
                 (np.ones(1),), 0.0)


# The most memory a call has beyond what it is given and what it answers. A small call goes before: what it loads and
# compiles is not the large call's. Whatever the large call is first to need counts.

MEMORY = """
import ctypes, gc, numpy as np
from benchmarks.models.mlp import SMALL, data, parameters

def status(name):
    with open("/proc/self/status") as lines:
        return next(int(line.split()[1]) << 10 for line in lines if line.startswith(name + ":"))

def trim():
    try:                                       # what glibc keeps of freed memory, the large call would use unseen
        ctypes.CDLL(None).malloc_trim(0)
    except (OSError, AttributeError):
        pass

def measure(step, inputs, prepare, leaves):
    small = [prepare(a[:1000].copy()) for a in inputs]
    step(*small)
    inputs = [prepare(a) for a in inputs]
    gc.collect()
    trim()
    with open("/proc/self/clear_refs", "w") as peak:
        peak.write("5")
    before = status("VmRSS")
    result = leaves(step(*inputs))
    beyond = status("VmHWM") - before - sum(np.asarray(leaf).nbytes for leaf in result)
    return beyond, [np.asarray(leaf) for leaf in result]

rng = np.random.default_rng(2)
{body}
print(beyond, float(result[0]), *(x for g in result[1:] for x in (g.ravel() if g.size < 1000 else g[::{stride}])))
"""
ELEMENTS = "a, b = rng.standard_normal({n}, np.float32), rng.standard_normal({n}, np.float32)\n"
BODIES = {
    ("squared error", "jitgrad"): ELEMENTS + """
import jitgrad as jg
step = jg.value_and_grad(lambda p, t: jg.losses.mse(p, t), in_axes=(0, 0), reduce="sum")
beyond, result = measure(step, [a, b], lambda x: x, list)
""",
    ("squared error", "JAX"): ELEMENTS + """
import jax, jax.numpy as jnp
step = jax.jit(jax.value_and_grad(lambda p, t: jnp.sum((p - t)**2)))
beyond, result = measure(step, [a, b], lambda x: jax.block_until_ready(jnp.asarray(x)), jax.block_until_ready)
""",
    ("squared error", "PyTorch"): ELEMENTS + """
import torch
def step(p, t):
    p.requires_grad_()
    value = torch.nn.functional.mse_loss(p, t, reduction="sum")
    return value.detach(), torch.autograd.grad(value, [p])[0]
beyond, result = measure(step, [a, b], torch.tensor, list)
""",
    ("network", "jitgrad"): """
import jitgrad as jg
params, (x, y) = parameters(SMALL), data(SMALL, {n} // 16)
x, y = np.tile(x, (16, 1)), np.tile(y, 16)
def loss(p, x, y):
    for k in (1, 2):
        x = jg.relu(p[f"W{{k}}"] @ x + p[f"b{{k}}"])
    return jg.losses.hinge((p["W3"] @ x + p["b3"])[0], y)
step = jg.value_and_grad(loss)
beyond, result = measure(lambda x, y: step(params, x, y), [x, y], lambda x: x,
                         lambda r: [r[0], *(r[1][name] for name in params)])
""",
}


def memory(what: str, n: int) -> Setup:
    stride = max(1, n // 1_000)
    if what == "network":
        params = parameters(SMALL)
        # Sixteen times the same examples have the same mean, and are sooner made.
        expected = np.concatenate([np.ravel(a) for a in in_float64(params, *data(SMALL, n // 16))])
    else:
        rng = np.random.default_rng(2)
        a, b = (rng.standard_normal(n, np.float32).astype(np.float64) for _ in range(2))
        expected = np.array([np.sum((a - b)**2), *(2 * (a - b))[::stride]])

    def measured(code: str) -> Callable[[], Run]:
        def make() -> Run:
            if not os.access("/proc/self/clear_refs", os.W_OK):
                raise Unavailable("the peak of a process's memory can only be reset on Linux")
            return process(code, True)()
        return make

    def numbers(text: str) -> list[Array]:
        return [np.array(part, np.float64) for part in (text.split()[1:2], text.split()[2:])]
    codes = {peer: MEMORY.format(body=body.format(n=n), stride=stride)
             for (kind, peer), body in BODIES.items() if kind == what}
    return Setup(tuple(Contestant(peer, "a new process", measured(code), numbers,
                                  reading=lambda text: float(text.split()[0]), fresh=True) for peer, code in codes.items()),
                 (expected[:1], expected[1:]), 2e-4)


def cases() -> Iterator[Case]:
    yield Case("cold-start/empty", "process start to first gradient, nothing cached", lambda _: cold_start(False),
               headline=True)
    yield Case("cold-start/filled", "process start to first gradient, compiled code cached on disk",
               lambda _: cold_start(True), headline=True)
    yield Case("import", "`import` in a new process", lambda _: importing())
    yield Case("memory/mse", "squared error, N = 16,000,000: memory beyond inputs and results",
               lambda n: memory("squared error", n), 16_000_000, 10_000, unit="bytes")
    yield Case("memory/mlp", "2-16-16-1 MLP, N = 16,000,000: memory beyond inputs and results",
               lambda n: memory("network", n), 16_000_000, 10_000, unit="bytes")
