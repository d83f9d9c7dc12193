"""Networks on a batch: the mean loss and the gradient of every parameter. Multilayer perceptrons, logistic regression."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import Any

import numpy as np

from benchmarks.case import Array, Case, Contestant, Run, Setup, arrays
from benchmarks.models.demo import network_by_scalars
from benchmarks.models.mlp import BLOCK, CLASSES, SMALL, WIDE, WIDER, Sizes, data, in_float64, parameters
from benchmarks.peers import done, torch


def mlp(sizes: Sizes, n: int, also: Callable[[], Contestant] | None = None) -> Setup:
    """also: one more contestant, for the sizes that it can bear."""
    params, (x, y) = parameters(sizes), data(sizes, n)

    def numbers(result: Any) -> list[Array]:
        value, grads = result
        return arrays(value, *(grads[name] for name in params))
    contestants = [Contestant("jitgrad", "value_and_grad", lambda: _jitgrad(params, x, y), numbers),
                   Contestant("JAX", "jit, batched", lambda: jax_step(params, x, y, False), numbers),
                   Contestant("JAX", "jit(vmap)", lambda: jax_step(params, x, y, True), numbers),
                   Contestant("PyTorch", "eager, batched", lambda: _pytorch(params, x, y), numbers)]
    if also is not None:
        contestants.append(also())
    weights = [p.size for name, p in params.items() if name[0] == "W"]
    # Forward and weight gradient of each layer, and the deltas of all but the first; a product and a sum are two.
    flops = 2 * (2 * sum(weights) + sum(weights[1:])) * n
    return Setup(tuple(contestants), tuple(in_float64(params, x, y)), 2e-4, n, flops=float(flops),
                 bytes=4.0 * n * (sizes[0] + 1))


def _jitgrad(params: dict[str, Array], x: Array, y: Array) -> Run:
    import jitgrad as jg
    depth = len(params) // 2

    def objective(p: dict[str, Any], x: Any, y: Any) -> Any:
        for k in range(1, depth):
            x = jg.relu(p[f"W{k}"] @ x + p[f"b{k}"])
        scores = p[f"W{depth}"] @ x + p[f"b{depth}"]
        return jg.losses.hinge(scores[0], y) if len(scores) == 1 else jg.losses.cross_entropy(scores, y)
    step = jg.value_and_grad(objective)
    return lambda: step(params, x, y)


def jax_step(params: dict[str, Array], x: Array, y: Array, example_by_example: bool) -> Run:
    import jax
    import jax.numpy as jnp
    depth, one_output = len(params) // 2, params[f"b{len(params) // 2}"].size == 1

    def network(p: dict[str, Any], x: Any) -> Any:
        for k in range(1, depth + 1):
            x = x @ p[f"W{k}"].T + p[f"b{k}"]
            x = jax.nn.relu(x) if k < depth else x
        return x

    def loss(p: dict[str, Any], x: Any, y: Any) -> Any:
        z = jax.vmap(network, (None, 0))(p, x) if example_by_example else network(p, x)
        if one_output:
            return jnp.mean(jax.nn.relu(1 - y * z[:, 0]))
        return jnp.mean(jax.nn.logsumexp(z, axis=1) - jnp.take_along_axis(z, y[:, None], axis=1)[:, 0])
    step = jax.jit(jax.value_and_grad(loss))
    p, a, b = jax.tree.map(jnp.asarray, params), jnp.asarray(x), jnp.asarray(y)
    return lambda: done(step(p, a, b))


def _pytorch(params: dict[str, Array], x: Array, y: Array) -> Run:
    t = torch()
    p = {name: t.tensor(value, requires_grad=True) for name, value in params.items()}
    a, b = t.tensor(x), t.tensor(y)
    depth, f = len(params) // 2, t.nn.functional
    if y.dtype.kind == "i":
        b = b.long()

    def step() -> Any:
        h = a
        for k in range(1, depth):
            h = t.relu(f.linear(h, p[f"W{k}"], p[f"b{k}"]))
        z = f.linear(h, p[f"W{depth}"], p[f"b{depth}"])
        loss = t.relu(1 - b * z[:, 0]).mean() if z.shape[1] == 1 else f.cross_entropy(z, b)
        return loss.detach(), dict(zip(p, t.autograd.grad(loss, list(p.values())), strict=True))
    return step


# Logistic regression: one layer, one output, binary cross-entropy of its logit.

def logistic(features: int, n: int) -> Setup:
    rng = np.random.default_rng(6)
    w = (rng.normal(size=features) / np.sqrt(features)).astype(np.float32)
    x, y = rng.standard_normal((n, features), np.float32), (rng.random(n) < 0.5).astype(np.float32)
    bias = np.float32(0.1)
    z = np.concatenate([x[at:at + BLOCK].astype(np.float64) @ w.astype(np.float64) for at in range(0, n, BLOCK)]) + bias
    delta = (1 / (1 + np.exp(-z)) - y) / n
    slope = sum(delta[at:at + BLOCK] @ x[at:at + BLOCK].astype(np.float64) for at in range(0, n, BLOCK))
    expected = (np.mean(np.logaddexp(0, z) - y * z), slope, delta.sum())

    def numbers(result: Any) -> list[Array]:
        value, (by_w, by_bias) = result
        return arrays(value, by_w, by_bias)

    def jitgrad() -> Run:
        import jitgrad as jg
        step = jg.value_and_grad(lambda w, b, x, y: jg.losses.binary_cross_entropy(w @ x + b, y), argnums=(0, 1))
        return lambda: step(w, bias, x, y)

    def jax_form(how: str) -> Callable[[], Run]:
        def make() -> Run:
            import jax
            import jax.numpy as jnp
            forms: dict[str, Callable[[Any, Any], Any]] = {
                "softplus": lambda z, y: jax.nn.softplus(z) - y * z,
                "log1p": lambda z, y: jnp.maximum(z, 0) - z * y + jnp.log1p(jnp.exp(-jnp.abs(z)))}
            step = jax.jit(jax.value_and_grad(lambda w, b, x, y: jnp.mean(forms[how](x @ w + b, y)), (0, 1)))
            given = [jnp.asarray(v) for v in (w, bias, x, y)]
            return lambda: done(step(*given))
        return make

    def pytorch() -> Run:
        t = torch()
        v, c = t.tensor(w, requires_grad=True), t.tensor(bias, requires_grad=True)
        a, b = t.tensor(x), t.tensor(y)

        def step() -> Any:
            loss = t.nn.functional.binary_cross_entropy_with_logits(a @ v + c, b)
            return loss.detach(), t.autograd.grad(loss, [v, c])
        return step
    return Setup((Contestant("jitgrad", "value_and_grad", jitgrad, numbers),
                  *(Contestant("JAX", f"jit, {how}", jax_form(how), numbers) for how in ("softplus", "log1p")),
                  Contestant("PyTorch", "eager, batched", pytorch, numbers)),
                 expected, 2e-4, n, flops=4.0 * features * n, bytes=4.0 * (features + 1) * n)


# What a call costs when there is next to nothing to compute: one weight, one squared error.

def overhead(n: int) -> Setup:
    rng = np.random.default_rng(7)
    w, x, y = np.float32(0.5), rng.random(n, np.float32), rng.random(n, np.float32)
    r = 0.5 * x.astype(np.float64) - y

    def jitgrad() -> Run:
        import jitgrad as jg
        step = jg.value_and_grad(lambda w, x, y: (w * x - y)**2)
        return lambda: step(w, x, y)

    def jax() -> Run:
        import jax
        import jax.numpy as jnp
        step = jax.jit(jax.value_and_grad(lambda w, x, y: jnp.mean((w * x - y)**2)))
        given = [jnp.asarray(v) for v in (w, x, y)]
        return lambda: done(step(*given))

    def pytorch() -> Run:
        t = torch()
        v, a, b = t.tensor(w, requires_grad=True), t.tensor(x), t.tensor(y)

        def step() -> Any:
            loss = ((v * a - b)**2).mean()
            return loss.detach(), t.autograd.grad(loss, [v])[0]
        return step
    return Setup((Contestant("jitgrad", "value_and_grad", jitgrad, lambda r: arrays(*r)),
                  Contestant("JAX", "jit", jax, lambda r: arrays(*r)),
                  Contestant("PyTorch", "eager", pytorch, lambda r: arrays(*r))),
                 (np.mean(r * r), np.mean(2 * r * x)), 1e-4)


def _with_micrograd(n: int) -> Setup:
    return mlp(SMALL, n, lambda: network_by_scalars("micrograd", "micrograd.nn", SMALL, n))


def cases() -> Iterator[Case]:
    for n in (1, 100):
        yield Case(f"overhead/{n}", f"one weight, squared error, N = {n}: what a call costs", overhead, n)
    yield Case("mlp-2-16-16-1/1", "2-16-16-1 MLP, hinge, loss and gradient, N = 1", lambda n: mlp(SMALL, n), 1)
    for sizes, loss, largest in ((SMALL, "hinge", 1_000_000), (WIDE, "hinge", 1_000_000),
                                 (CLASSES, "cross-entropy", 200_000), (WIDER, "hinge", 10_000)):
        dashed = "-".join(map(str, sizes))
        for n, short in ((100, "100"), (10_000, "10k"), (200_000, "200k"), (1_000_000, "1M")):
            if n in (100, 10_000, largest) and (sizes, n) != (WIDER, 100):
                setup = _with_micrograd if (sizes, n) == (SMALL, 100) else lambda n, sizes=sizes: mlp(sizes, n)
                yield Case(f"mlp-{dashed}/{short}", f"{dashed} MLP, {loss}, loss and gradient, N = {n:,}", setup, n, 10,
                           headline=n in (10_000, 1_000_000) or sizes == SMALL)
    for features, n in ((10, 1_000_000), (100, 100_000), (1_000, 10_000)):
        yield Case(f"logistic-{features}", f"logistic regression of {features:,} features, N = {n:,}",
                   lambda n, features=features: logistic(features, n), n, 40, headline=features == 100)
