"""Losses of a long row an example, and their gradient by each of its numbers: softmax cross-entropy over many classes."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import Any

import numpy as np

from benchmarks.case import Array, Case, Contestant, Run, Setup, arrays
from benchmarks.peers import done, torch


def cross_entropy(n: int, classes: int) -> Setup:
    """The mean over n examples, and its gradient by each logit."""
    rng = np.random.default_rng(7)
    z, y = rng.normal(size=(n, classes)).astype(np.float32), rng.integers(0, classes, n).astype(np.int32)
    by_jax = [Contestant("JAX", how, _jax(form, z, y), _numbers) for how, form in _FORMS.items()]
    contestants = (Contestant("jitgrad", "value_and_grad", lambda: _jitgrad(z, y), _numbers), *by_jax,
                   Contestant("PyTorch", "eager", lambda: _pytorch(z, y), _numbers))
    return Setup(contestants, _in_float64(z.astype(np.float64), y), 1e-5, n, bytes=8.0 * n * classes)


def _numbers(result: Any) -> list[Array]:
    return arrays(*result)


def _in_float64(z: Array, y: Array) -> tuple[Array, Array]:
    powers = np.exp(z - z.max(axis=1, keepdims=True))
    softmax = powers / powers.sum(axis=1, keepdims=True)
    one = np.arange(len(z)), y
    loss = -np.mean(np.log(softmax[one]))
    softmax[one] -= 1
    return loss, softmax / len(z)


def _jitgrad(z: Array, y: Array) -> Run:
    import jitgrad as jg
    step = jg.value_and_grad(lambda z, y: jg.losses.cross_entropy(z, y), in_axes=(0, 0), reduce="mean")
    return lambda: step(z, y)


def _taken(jax: Any, z: Any, y: Any) -> Any:
    return jax.nn.logsumexp(z, axis=1) - jax.numpy.take_along_axis(z, y[:, None], axis=1)[:, 0]


def _one_hot(jax: Any, z: Any, y: Any) -> Any:
    return -jax.numpy.sum(jax.nn.one_hot(y, z.shape[1]) * jax.nn.log_softmax(z), axis=1)


_FORMS = {"jit, take_along_axis": _taken, "jit, one_hot": _one_hot}


def _jax(form: Callable[[Any, Any, Any], Any], z: Array, y: Array) -> Callable[[], Run]:
    def make() -> Run:
        import jax
        step = jax.jit(jax.value_and_grad(lambda z, y: jax.numpy.mean(form(jax, z, y))))
        given, labels = jax.numpy.asarray(z), jax.numpy.asarray(y)
        return lambda: done(step(given, labels))
    return make


def _pytorch(z: Array, y: Array) -> Run:
    t = torch()
    given, labels = t.tensor(z, requires_grad=True), t.tensor(y, dtype=t.int64)

    def run() -> Any:
        loss = t.nn.functional.cross_entropy(given, labels)
        return loss.detach(), *t.autograd.grad(loss, [given])
    return run


def cases() -> Iterator[Case]:
    for name, classes, n in (("65k", 10, 65_536), ("16k", 100, 16_384), ("4k", 1_024, 4_096), ("1k", 32_000, 1_024)):
        yield Case(f"softmax-{classes}/{name}", f"softmax cross-entropy of {classes:,} classes and its gradient by each "
                   f"logit, N = {n:,}", lambda n, classes=classes: cross_entropy(n, classes), n, 64)
