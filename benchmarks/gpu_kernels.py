"""How fast a GPU's kernels are beside their floors, JAX and PyTorch; what a call costs."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import numpy as np

from benchmarks.gpu_report import Record, Report, Run, device_seconds, distance, flat, host, upload, wait, wall_seconds
from benchmarks.machine import digits
from benchmarks.models import mlp
from benchmarks.peers import absent, done


@dataclass(frozen=True)
class Work:
    """A kernel's work: jitgrad's call with everything on the device, and its peers'.

    expected: arrays to compare `compared` of the result with
    """

    name: str
    items: int
    run: Run
    compared: Callable[[Any], Any]
    expected: Any
    bytes: float
    flops: float
    peers: dict[str, Callable[[], tuple[Run, Callable[[], Any]]]]


def elementwise(report: Report, kind: str) -> Work:
    import jitgrad as jg
    from benchmarks.cases.losses import LOSSES, _jax
    loss, rng, sizes = LOSSES[kind], report.random(kind), report.sizes
    a, b = rng.standard_normal(sizes.tile, np.float32), loss.targets(rng, sizes.tile).astype(np.float32)
    times = sizes.elements // sizes.tile
    value, gradient = loss.in_float64(a.astype(np.float64), b.astype(np.float64))
    a, b = np.tile(a, times), np.tile(b, times)
    function = getattr(jg.losses, loss.jitgrad)
    step = jg.value_and_grad(lambda p, t: function(p, t), in_axes=(0, 0), reduce="sum", device="cuda")
    p, t = upload(a), upload(b)

    def jax() -> tuple[Run, Callable[[], Any]]:
        return _jax(next(iter(loss.jax.values())), a, b, False)(), lambda: None

    def pytorch() -> tuple[Run, Callable[[], Any]]:
        torch, place = _torch(report)
        given, target = torch.tensor(a, device=place, requires_grad=True), torch.tensor(b, device=place)

        def run() -> Any:
            found = loss.pytorch(torch, given, target)
            return found.detach(), torch.autograd.grad(found, [given])
        return run, _torch_wait(torch)
    return Work(f"{kind}, {sizes.elements:,} elements", sizes.elements, lambda: step(p, t),
                lambda found: (host(found[0]), host(found[1])[:sizes.tile]), (value * times, gradient),
                12.0 * sizes.elements, 0.0, {"JAX": jax, "PyTorch": pytorch})


def softmax(report: Report, rows: int, classes: int) -> Work:
    import jitgrad as jg
    rng = report.random(f"softmax {classes}")
    z, y = rng.standard_normal((rows, classes), np.float32), rng.integers(0, classes, rows)
    wide = z.astype(np.float64)
    wide -= wide.max(axis=1, keepdims=True)
    powers = np.exp(wide)
    total = powers.sum(axis=1, keepdims=True)
    value = float(np.sum(np.log(total[:, 0]) - wide[np.arange(rows), y]))
    gradient = powers / total
    gradient[np.arange(rows), y] -= 1
    step = jg.value_and_grad(lambda z, y: jg.losses.cross_entropy(z, y), in_axes=(0, 0), reduce="sum", device="cuda")
    there, labels = upload(z), upload(y)

    def jax() -> tuple[Run, Callable[[], Any]]:
        import jax
        import jax.numpy as jnp

        def loss(z: Any, y: Any) -> Any:
            return jnp.sum(jax.nn.logsumexp(z, axis=1) - jnp.take_along_axis(z, y[:, None], axis=1)[:, 0])
        step, a, b = jax.jit(jax.value_and_grad(loss)), jnp.asarray(z), jnp.asarray(y.astype(np.int32))
        return lambda: done(step(a, b)), lambda: None

    def pytorch() -> tuple[Run, Callable[[], Any]]:
        torch, place = _torch(report)
        given, target = torch.tensor(z, device=place, requires_grad=True), torch.tensor(y, device=place)

        def run() -> Any:
            found = torch.nn.functional.cross_entropy(given, target, reduction="sum")
            return found.detach(), torch.autograd.grad(found, [given])
        return run, _torch_wait(torch)
    return Work(f"softmax cross-entropy, {rows:,} rows of {classes:,}", rows, lambda: step(there, labels), host,
                (value, gradient), 8.0 * rows * classes, 0.0, {"JAX": jax, "PyTorch": pytorch})


def network(report: Report, sizes: mlp.Sizes) -> Work:
    from benchmarks.cases import networks
    n, params = report.sizes.batch, mlp.parameters(sizes)
    x, y = mlp.data(sizes, n)
    weights = [p.size for name, p in params.items() if name[0] == "W"]
    run = networks._jitgrad({k: upload(v) for k, v in params.items()}, upload(x), upload(y))

    def pytorch() -> tuple[Run, Callable[[], Any]]:
        torch, place = _torch(report)
        with torch.device(place):
            return networks._pytorch(params, x, y), _torch_wait(torch)
    return Work(f"network {'-'.join(map(str, sizes))}, {n:,} examples", n, run,
                lambda found: (host(found[0]), [host(found[1])[k] for k in params]), mlp.in_float64(params, x, y),
                4.0 * n * (sizes[0] + 1), 2.0 * (2 * sum(weights) + sum(weights[1:])) * n,
                {"JAX": lambda: (networks.jax_step(params, x, y, False), lambda: None), "PyTorch": pytorch})


def _torch(report: Report) -> tuple[Any, str]:
    import torch
    if not report.simulated and not torch.cuda.is_available():
        raise RuntimeError("this PyTorch has no CUDA")
    return torch, "cpu" if report.simulated else "cuda"


def _torch_wait(torch: Any) -> Callable[[], Any]:
    return torch.cuda.synchronize if torch.cuda.is_available() else lambda: None


def measure(report: Report, make: Callable[[], Work]) -> str:
    """Check a kernel's result, then time it and its peers."""
    work, limits = make(), report.record["limits"]
    error = distance(work.compared(work.run()), _as_lists(work.expected, work.compared(work.run())))
    if not error <= 2e-4:
        raise AssertionError(f"{work.name} is off by {error:.1e}")
    wall, device = wall_seconds(report, work.run, wait), device_seconds(report, work.run)
    floors = {"bytes": work.bytes / limits.get("copy_bytes_per_second", np.inf),
              "flops": work.flops / limits.get("float32_flops_per_second", np.inf)}
    bound = max(floors, key=lambda k: floors[k])
    entry: Record = {"name": work.name, "items": work.items, "error": digits(error, 2), "wall": digits(wall),
                     "device": None if device is None else digits(device), "floor": digits(floors[bound]), "bound": bound,
                     "peers": {}}
    report.record["kernels"].append(entry)
    for peer, prepare in work.peers.items():
        if absent(peer) is not None:
            report.record["skipped"].append({"name": f"{peer}: {work.name}", "why": absent(peer)})
            continue
        found = report.attempt(f"{peer}: {work.name}", lambda prepare=prepare: wall_seconds(report, *prepare()))
        if found is not None:
            entry["peers"][peer] = digits(found)
    return (f"{(device or wall) * 1e6:,.0f} µs on the device, {wall * 1e6:,.0f} µs a call, "
            f"floor {floors[bound] * 1e6:,.0f} µs")


def _as_lists(expected: Any, found: Any) -> Any:
    """Expected arrays in the shapes that were found, so that layouts need not be spelled out twice."""
    arrays = flat(expected)
    return [np.reshape(a, np.shape(b)) for a, b in zip(arrays, flat(found), strict=True)]


def call_cost(report: Report) -> str:
    """Of a call that computes next to nothing: parameters and data on the device, and on the host."""
    import jitgrad as jg
    step = jg.value_and_grad(lambda w, x: (w * x)**2, device="cuda")
    w, x = np.float32(2.0), np.ones(32, np.float32)
    there = upload(np.full((), w)), upload(x)
    found = {"device arrays": wall_seconds(report, lambda: step(*there), wait),
             "host arrays": wall_seconds(report, lambda: step(w, x), wait)}
    report.record["costs"] |= {f"a call with {k}": digits(v) for k, v in found.items()}
    return ", ".join(f"{k} {v * 1e6:.0f} µs" for k, v in found.items())
