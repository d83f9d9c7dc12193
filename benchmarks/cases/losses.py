"""Elementwise losses: the sum over the batch, and the derivative by each prediction. 12 bytes an element."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Any

import numpy as np

from benchmarks.case import Array, Case, Contestant, Run, Setup, arrays
from benchmarks.peers import done, drjit_done, takes_out, torch


@dataclass(frozen=True)
class Loss:
    """A loss by everybody's best means. p: predictions; t: targets, drawn by `targets`."""

    targets: Callable[[Any, int], Array]
    in_float64: Callable[[Array, Array], tuple[Array, Array]]
    jitgrad: str
    jax: dict[str, Callable[[Any, Any, Any], Any]]          # how -> (jax, p, t); jax.numpy is jax.numpy
    pytorch: Callable[[Any, Any, Any], Any]                 # torch, p, t
    drjit: Callable[[Any, Any, Any], Any]                   # drjit, p, t


def _squared_error(p: Array, t: Array) -> tuple[Array, Array]:
    return np.sum((p - t)**2), 2 * (p - t)


def _hinge(p: Array, t: Array) -> tuple[Array, Array]:
    margin = 1 - t * p
    return np.sum(np.maximum(margin, 0)), np.where(margin > 0, -t, 0.0)


def _cross_entropy(z: Array, y: Array) -> tuple[Array, Array]:
    return np.sum(np.logaddexp(0, z) - y * z), 1 / (1 + np.exp(-z)) - y


def _kept(dr: Any, x: Any) -> Any:
    """max(x, 0) of Dr.Jit; its `maximum` is an instruction that LLVM 15 lacks for AVX-512."""
    return dr.select(x > 0, x, 0)


LOSSES = {
    "mse": Loss(lambda rng, n: rng.normal(size=n), _squared_error, "mse",
                {"jit": lambda jax, p, t: (p - t)**2},
                lambda t, p, y: t.nn.functional.mse_loss(p, y, reduction="sum"),
                lambda dr, p, t: dr.square(p - t)),
    "hinge": Loss(lambda rng, n: np.where(rng.random(n) < 0.5, -1, 1), _hinge, "hinge",
                  {"jit, maximum": lambda jax, p, t: jax.numpy.maximum(1 - t * p, 0),
                   "jit, relu": lambda jax, p, t: jax.nn.relu(1 - t * p)},
                  lambda t, p, y: t.relu(1 - y * p).sum(),
                  lambda dr, p, t: _kept(dr, 1 - t * p)),
    "bce": Loss(lambda rng, n: rng.random(n) < 0.5, _cross_entropy, "binary_cross_entropy",
                {"jit, softplus": lambda jax, z, y: jax.nn.softplus(z) - y * z,
                 "jit, log1p": lambda jax, z, y: (jax.numpy.maximum(z, 0) - z * y
                                                  + jax.numpy.log1p(jax.numpy.exp(-jax.numpy.abs(z))))},
                lambda t, z, y: t.nn.functional.binary_cross_entropy_with_logits(z, y, reduction="sum"),
                lambda dr, z, y: _kept(dr, z) - z * y + dr.log(1 + dr.exp(-dr.abs(z)))),
}


def elementwise(kind: str, n: int, in_place: bool = False) -> Setup:
    """in_place: the gradient goes into memory that was there before (`out=` of jitgrad, a donated buffer of JAX)."""
    loss, rng = LOSSES[kind], np.random.default_rng(2)
    a, b = rng.normal(size=n).astype(np.float32), loss.targets(rng, n).astype(np.float32)
    by_jax = [Contestant("JAX", how + (", donated" if in_place else ""), _jax(form, a, b, in_place), _numbers)
              for how, form in loss.jax.items()]
    contestants = [_jitgrad(loss.jitgrad, a, b, in_place), *by_jax]
    if not in_place:
        contestants += [Contestant("PyTorch", "eager", _pytorch(loss.pytorch, a, b), _numbers),
                        Contestant("Dr.Jit", "backward", _drjit(loss.drjit, a, b), _numbers)]
    return Setup(tuple(contestants), loss.in_float64(a.astype(np.float64), b.astype(np.float64)), 1e-5, n,
                 bytes=12.0 * n)


def _numbers(result: Any) -> list[Array]:
    return arrays(*result)


def _jitgrad(name: str, a: Array, b: Array, in_place: bool) -> Contestant:
    import jitgrad as jg
    loss = getattr(jg.losses, name)
    step = jg.value_and_grad(lambda p, t: loss(p, t), in_axes=(0, 0), reduce="sum")
    if in_place and takes_out(step):
        gradient = np.empty_like(a)
        return Contestant("jitgrad", "value_and_grad, out=", lambda: lambda: step(a, b, out=gradient), _numbers)
    return Contestant("jitgrad", "value_and_grad", lambda: lambda: step(a, b), _numbers)


def _jax(form: Callable[[Any, Any, Any], Any], a: Array, b: Array, donated: bool) -> Callable[[], Run]:
    def make() -> Run:
        import jax
        import jax.numpy as jnp
        step = jax.value_and_grad(lambda p, t: jnp.sum(form(jax, p, t)))
        p, t = jnp.asarray(a), jnp.asarray(b)
        if not donated:
            plain = jax.jit(step)
            return lambda: done(plain(p, t))
        into = jax.jit(lambda p, t, buffer: step(p, t), donate_argnums=2, keep_unused=True)
        kept = [jnp.zeros_like(p)]

        def run() -> Any:
            value, kept[0] = done(into(p, t, kept[0]))
            return value, kept[0]
        return run
    return make


def _pytorch(form: Callable[[Any, Any, Any], Any], a: Array, b: Array) -> Callable[[], Run]:
    def make() -> Run:
        t = torch()
        p, target = t.tensor(a, requires_grad=True), t.tensor(b)

        def run() -> Any:
            value = form(t, p, target)
            return value.detach(), *t.autograd.grad(value, [p])
        return run
    return make


def _drjit(form: Callable[[Any, Any, Any], Any], a: Array, b: Array) -> Callable[[], Run]:
    def make() -> Run:
        import drjit as dr
        from drjit.llvm.ad import Float32
        given, target = Float32(a), Float32(b)
        drjit_done(given, target)

        def run() -> Any:
            p = Float32(given)
            dr.enable_grad(p)
            value = dr.sum(form(dr, p, target))
            dr.backward(value)
            value, gradient = drjit_done(dr.detach(value), dr.grad(p))
            return value[0], gradient
        return run
    return make


TITLES = {"mse": "squared error", "hinge": "hinge loss", "bce": "binary cross-entropy"}


def cases() -> Iterator[Case]:
    for kind, title in TITLES.items():
        yield Case(f"{kind}/1M", f"{title} and its gradient by each of 1,000,000 predictions",
                   lambda n, kind=kind: elementwise(kind, n), 1_000_000, 1_000)
    for kind, title in TITLES.items():
        yield Case(f"{kind}/16M", f"{title} and its gradient by each of 16,000,000 predictions",
                   lambda n, kind=kind: elementwise(kind, n), 16_000_000, 1_000, headline=kind != "hinge")
    for kind, title in TITLES.items():
        yield Case(f"{kind}/16M-in-place", f"{title}, 16,000,000 predictions, the gradient into memory given",
                   lambda n, kind=kind: elementwise(kind, n, in_place=True), 16_000_000, 1_000)
