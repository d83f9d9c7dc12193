"""Training on a GPU: one small model, thousands of them, one with many examples; beside a jitted JAX loop and scan."""

from __future__ import annotations

import time
from collections.abc import Callable
from functools import cache
from typing import Any

import numpy as np

from benchmarks.case import Array
from benchmarks.gpu_report import Record, Report
from benchmarks.machine import digits
from benchmarks.models import mlp
from benchmarks.peers import absent, done
from benchmarks.tables import figure_text

RATE = 1e-2
ALLOWED = 1e-3                                     # between losses: float32 rounded in another order, step after step
COMPARED = 20                                      # steps after which losses are compared; rounding errors grow


@cache
def objective() -> Any:
    """The hinge loss of a 2-16-16-1 network, recorded once for all trainings."""
    import jitgrad as jg
    from jitgrad.api import recorded_once

    def loss(p: Any, x: Any, y: Any) -> Any:
        x = jg.relu(p["W1"] @ x + p["b1"])
        x = jg.relu(p["W2"] @ x + p["b2"])
        return jg.losses.hinge((p["W3"] @ x + p["b3"])[0], y)
    return recorded_once(loss)


def one_model(report: Report) -> str:
    """Adam, all examples in every step: fit on the device, a loop around a jitted JAX step, and JAX's scan."""
    return _beside_jax(report, report.sizes.moons, report.sizes.steps, ("loop", "scan"))


def large_batch(report: Report) -> str:
    """The same of so many examples that a step takes many blocks: queued launches."""
    return _beside_jax(report, report.sizes.batch, report.sizes.batch_steps, ("loop", "scan"))


def _beside_jax(report: Report, n: int, steps: int, hows: tuple[str, ...]) -> str:
    import jitgrad as jg
    params, (x, y) = mlp.parameters(mlp.SMALL), mlp.data(mlp.SMALL, n)

    def fit(device: str = "cuda", epochs: int = steps) -> Any:
        return jg.fit(objective(), params, (x, y), optimizer=jg.optim.adam(RATE), epochs=epochs, device=device,
                      progress=False)
    compared = min(COMPARED, steps)
    _check(fit(epochs=compared).losses, fit("cpu", compared).losses)
    entry: Record = {"name": f"{n:,} examples, {steps:,} Adam steps", "jitgrad fit": digits(_seconds(fit))}
    report.record["training"].append(entry)
    if absent("JAX") is None:
        for how, run in _jax(params, x, y, steps).items():
            if how in hows:
                entry[f"JAX {how}"] = digits(_seconds(run))
    return _said(entry)


def many_models(report: Report) -> str:
    """Models that differ in where they start, side by side: an ensemble, and JAX's scan under vmap.

    Beside the call of fit, of which Python takes part, stands the time that its launches took.
    """
    import jitgrad as jg
    models, n, steps = report.sizes.models, report.sizes.moons, report.sizes.steps
    params, (x, y) = mlp.parameters(mlp.SMALL), mlp.data(mlp.SMALL, n)
    draw = report.random("models")
    starts = {name: (p + 0.1 * draw.normal(size=(models, *p.shape))).astype(np.float32) for name, p in params.items()}

    def start(seed: int) -> Any:
        return {name: every[seed] for name, every in starts.items()}

    def fit(epochs: int = steps) -> Any:
        return jg.fit(objective(), start, (x, y), optimizer=jg.optim.adam(RATE), epochs=epochs, ensemble=models,
                      device="cuda", progress=False)
    found = fit()
    last = models - 1
    alone = jg.fit(objective(), start(last), (x, y), optimizer=jg.optim.adam(RATE), epochs=steps, device="cuda",
                   progress=False)
    if alone.losses != found[last].result.losses:
        raise AssertionError(f"model {last} has other losses than it has alone")
    taken, again = _seconds(fit, keep := []), keep[-1]
    entry: Record = {"name": f"{models:,} models, {n} examples, {steps:,} Adam steps each", "jitgrad fit": digits(taken),
                     "of which launches": digits(again[0].result.seconds)}
    report.record["training"].append(entry)
    if absent("JAX") is None:
        entry["JAX vmap of scan"] = digits(_seconds(_jax(starts, x, y, steps, many=True)["scan"]))
    return _said(entry)


def _check(found: Any, expected: Any) -> None:
    error = float(np.max(np.abs(np.array(found) - expected)))
    if not error <= ALLOWED:
        raise AssertionError(f"the losses are off by {error:.1e}")


def _seconds(run: Callable[[], Any], keep: list[Any] | None = None) -> float:
    """Of the second call; the first compiles."""
    run()
    start = time.perf_counter()
    found = run()
    seconds = time.perf_counter() - start
    if keep is not None:
        keep.append(found)
    return seconds


def _said(entry: Record) -> str:
    return ", ".join(f"{k} {figure_text(v, 's')}" for k, v in entry.items() if k != "name")


def _jax(params: dict[str, Array], x: Array, y: Array, steps: int, many: bool = False) -> dict[str, Callable[[], Any]]:
    import jax
    import jax.numpy as jnp
    x, y = jnp.asarray(x), jnp.asarray(y)

    def loss(p: Any) -> Any:
        h = jax.nn.relu(x @ p["W1"].T + p["b1"])
        h = jax.nn.relu(h @ p["W2"].T + p["b2"])
        return jnp.mean(jax.nn.relu(1 - y * (h @ p["W3"].T + p["b3"])[:, 0]))

    def adam(state: Any, _: Any) -> Any:
        p, m, v, k = state
        value, g = jax.value_and_grad(loss)(p)
        m = jax.tree.map(lambda m, g: 0.9 * m + 0.1 * g, m, g)
        v = jax.tree.map(lambda v, g: 0.999 * v + 0.001 * g * g, v, g)
        p = jax.tree.map(lambda p, m, v: p - RATE * (m / (1 - 0.9**k)) / (jnp.sqrt(v / (1 - 0.999**k)) + 1e-8), p, m, v)
        return (p, m, v, k + 1), value

    def train(p: Any) -> Any:
        zeros = jax.tree.map(jnp.zeros_like, p)
        return jax.lax.scan(adam, (p, zeros, zeros, jnp.float32(1)), length=steps)
    begin = {name: jnp.asarray(p) for name, p in params.items()}
    step, scan = jax.jit(adam), jax.jit(jax.vmap(train) if many else train)

    def loop() -> Any:
        zeros = jax.tree.map(jnp.zeros_like, begin)
        state = begin, zeros, zeros, jnp.float32(1)
        for _ in range(steps):
            state, _ = step(state, None)
        return done(state)
    return {"loop": loop, "scan": lambda: done(scan(begin))}
