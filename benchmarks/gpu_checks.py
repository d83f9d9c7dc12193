"""Whether a GPU computes what NumPy does in float64: every operation at its corners, every kind of kernel."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from itertools import pairwise
from typing import Any

import numpy as np

from benchmarks.gpu_report import Report, distance, flat, host, upload
from benchmarks.machine import digits


def table_of_operations(report: Report, dtype: type) -> str:
    """Every operation and its derivative at its corners and at fresh points, on the device and by NumPy in float64."""
    import jitgrad as jg
    from jitgrad.compiler.graph import OPS
    from jitgrad.value import apply
    rng, points = report.random("operations"), {}
    for op in (op for op in OPS.values() if op.arity and not op.variadic):
        count = report.sizes.points
        drawn = [rng.integers(0, 2, count) if k in op.conditions else rng.uniform(low, high, count)
                 for k, (low, high) in enumerate(op.inside[:op.arity])]
        corners = [c.args for c in op.corners]
        points[op.name] = np.concatenate([np.array(corners, float).reshape(-1, op.arity), np.stack(drawn, axis=1)])
    longest = max(map(len, points.values()))
    points = {name: np.resize(p, (longest, p.shape[1])).astype(dtype) for name, p in points.items()}

    def values(points: Any) -> Any:
        return {name: apply(OPS[name], *row) for name, row in points.items()}

    def total(points: Any) -> Any:
        terms = list(values(points).values())
        return sum(terms[1:], terms[0])
    smooth = {name: p for name, p in points.items() if OPS[name].vjp is not None}
    bad = []
    for what, given, make in (("value", points, lambda device: jg.jit(values, in_axes=0, reduce=None, device=device)),
                              ("derivative", smooth, lambda device: jg.grad(total, in_axes=0, reduce="sum", device=device))):
        found = make("cuda")(given)
        expected = make("interpret")({name: p.astype(np.float64) for name, p in given.items()})
        for name in given:
            count = min(len(OPS[name].corners), longest)
            at, wanted = np.asarray(found[name], np.float64), np.asarray(expected[name])
            with np.errstate(over="ignore", invalid="ignore"):
                rounded = wanted.astype(dtype).astype(np.float64)
                ordinary = np.isfinite(rounded) & np.isfinite(at)
                error = np.abs(at - rounded) / np.maximum(np.abs(rounded), 1e-2)
            error = np.where(ordinary, error, np.where((at == rounded) | (np.isnan(at) & np.isnan(rounded)), 0.0, np.inf))
            # In float32 a corner's argument may be another number (1e300 is infinity): there points alone are asked.
            worst = float(np.max(error if dtype is np.float64 else error[count:]))
            if not worst <= (1e-12 if dtype is np.float64 else 2e-5):
                bad.append(f"{what} of {name}: {worst:.1e}")
    report.record["right"].append({"name": f"table of operations, {np.dtype(dtype).name}", "operations": len(points),
                                   "bad": bad})
    return f"{len(points)} operations, {len(bad)} wrong" + "".join(f"\n      {line}" for line in bad)


def families() -> dict[str, tuple[Callable[[], Any], Callable[[Any, int, Any], tuple[Any, ...]]]]:
    """A function for each kind of kernel, and arguments for it: (generator, n, dtype)."""
    import jitgrad as jg

    def network(sizes: Sequence[int], loss: Callable[[Any, Any], Any]) -> Callable[..., Any]:
        def objective(p: Any, x: Any, y: Any) -> Any:
            for k in range(1, len(sizes)):
                x = p[f"W{k}"] @ x + p[f"b{k}"]
                x = jg.relu(x) if k < len(sizes) - 1 else x
            return loss(x, y)
        return objective

    def weights(rng: Any, sizes: Sequence[int], t: Any) -> Any:
        made = {}
        for k, (a, b) in enumerate(pairwise(sizes), 1):
            made |= {f"W{k}": (rng.normal(size=(b, a)) / np.sqrt(a)).astype(t), f"b{k}": rng.normal(size=b).astype(t)}
        return made

    def hinge(out: Any, y: Any) -> Any:
        return jg.losses.hinge(out[0], y)

    def labels(rng: Any, n: int, t: Any) -> Any:
        return np.where(rng.random(n) < 0.5, -1, 1).astype(t)
    small, digits_ = (2, 16, 16, 1), (64, 32, 10)
    return {
        "elementwise": (lambda: (jg.losses.mse, {"in_axes": (0, 0), "reduce": "sum"}),
                        lambda rng, n, t: (rng.normal(size=n).astype(t), rng.normal(size=n).astype(t))),
        "linear": (lambda: (lambda w, x, y: jg.losses.binary_cross_entropy(w @ x, y), {}),
                   lambda rng, n, t: (rng.normal(size=3).astype(t), rng.normal(size=(n, 3)).astype(t),
                                      rng.integers(0, 2, n).astype(t))),
        "softmax": (lambda: (lambda w, x, y: jg.losses.cross_entropy(w @ x, y), {}),
                    lambda rng, n, t: (rng.normal(size=(10, 4)).astype(t), rng.normal(size=(n, 4)).astype(t),
                                       rng.integers(0, 10, n))),
        "network in registers": (lambda: (network(small, hinge), {}),
                                 lambda rng, n, t: (weights(rng, small, t), rng.normal(size=(n, 2)).astype(t),
                                                    labels(rng, n, t))),
        "rows an example": (lambda: (network((2, 4, 3, 1), hinge), {"reduce": None}),
                            lambda rng, n, t: (weights(rng, (2, 4, 3, 1), t), rng.normal(size=(n, 2)).astype(t),
                                               labels(rng, n, t))),
        "whole rows": (lambda: (lambda b, z, y: jg.losses.cross_entropy(z + b, y),
                                {"argnums": (0, 1), "in_axes": (None, 0, 0), "reduce": "sum"}),
                       lambda rng, n, t: (rng.normal(size=1000).astype(t), rng.normal(size=(n, 1000)).astype(t),
                                          rng.integers(0, 1000, n))),
        "tape": (lambda: (network(digits_, jg.losses.cross_entropy), {}),
                 lambda rng, n, t: (weights(rng, digits_, t), rng.normal(size=(n, 64)).astype(t), rng.integers(0, 10, n))),
    }


def family(report: Report, name: str, dtype: type) -> str:
    """A kind of kernel on fresh inputs against NumPy in float64: twice on the device and from the host, the same bits."""
    import jitgrad as jg
    import jitgrad.arguments as trees
    made, arguments = families()[name]
    fun, options = made()
    step = jg.value_and_grad(fun, device="cuda", **options)
    reference = jg.value_and_grad(fun, device="interpret", **options)
    worst, same = 0.0, True
    for n in report.sizes.families:
        given = arguments(report.random(f"{name} {n}"), n, dtype)
        leaves, structure = trees.flatten(given)
        wide = trees.unflatten(structure, [a.astype(np.float64) if a.dtype.kind == "f" else a for a in leaves])
        there = trees.unflatten(structure, [upload(a) for a in leaves])
        poison([n * np.dtype(dtype).itemsize * w for w in (1, 2, 3, 4, 8, 12, 16)])
        first, again, from_host = host(step(*there)), host(step(*there)), host(step(*given))
        same &= all(a.tobytes() == b.tobytes() == c.tobytes()
                    for a, b, c in zip(flat(first), flat(again), flat(from_host), strict=True))
        worst = max(worst, distance(first, host(reference(*wide))))
    allowed = 2e-5 if dtype is np.float32 else 1e-11
    report.record["right"].append({"name": f"{name}, {np.dtype(dtype).name}", "error": digits(worst, 2), "same_bits": same})
    if not worst <= allowed or not same:
        raise AssertionError(f"error {worst:.1e} (allowed {allowed:.0e}), the same bits: {same}")
    return f"error {worst:.0e}"


def poison(sizes: Sequence[int]) -> None:
    """Fill memory that results will lie in with NaN, so that an element which nobody writes is seen."""
    from jitgrad.backends import cuda_memory
    held = [cuda_memory.upload(np.full(max(1, size // 4), np.nan, np.float32)) for size in sizes]
    del held
