"""Formulas, an example each: option prices with all their derivatives, and one curve fitted for each of many pixels."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import Any

import numpy as np

from benchmarks.case import Array, Case, Contestant, Run, Setup, arrays
from benchmarks.peers import done, drjit_done, torch

# Black & Scholes 1973: the price of a European call, and its derivatives by all five arguments, for each option.

def price_by(m: Any, erf: Callable[[Any], Any]) -> Callable[..., Any]:
    """The price in the functions of module `m`."""
    def price(s: Any, k: Any, t: Any, r: Any, v: Any) -> Any:
        d1 = (m.log(s / k) + (r + 0.5 * v * v) * t) / (v * m.sqrt(t))
        d2 = d1 - v * m.sqrt(t)

        def normal(d: Any) -> Any:
            return 0.5 * (1 + erf(d * 0.7071067811865476))
        return s * normal(d1) - k * m.exp(-r * t) * normal(d2)
    return price


def prices_in_float64(s: Array, k: Array, t: Array, r: Array, v: Array) -> list[Array]:
    from scipy.special import ndtr
    root = np.sqrt(t)
    d1 = (np.log(s / k) + (r + v * v / 2) * t) / (v * root)
    d2 = d1 - v * root
    density, discount = np.exp(-d1 * d1 / 2) / np.sqrt(2 * np.pi), np.exp(-r * t)
    return [s * ndtr(d1) - k * discount * ndtr(d2), ndtr(d1), -discount * ndtr(d2),
            s * density * v / (2 * root) + r * k * discount * ndtr(d2), k * t * discount * ndtr(d2), s * density * root]


FIVE = (0, 1, 2, 3, 4)


def black_scholes(n: int) -> Setup:
    rng = np.random.default_rng(3)
    limits = ((80, 120), (80, 120), (0.1, 2.0), (0.0, 0.05), (0.1, 0.5))
    options = [rng.uniform(low, high, n).astype(np.float32) for low, high in limits]

    def numbers(result: Any) -> list[Array]:
        prices, grads = result
        return arrays(prices, *grads)

    def jitgrad() -> Run:
        import jitgrad as jg
        step = jg.value_and_grad(price_by(jg, jg.erf), argnums=FIVE, in_axes=0, reduce=None)
        return lambda: step(*options)

    def pytorch() -> Run:
        t = torch()
        price, given = price_by(t, t.erf), [t.tensor(d, requires_grad=True) for d in options]

        def step() -> Any:
            prices = price(*given)
            return prices.detach(), t.autograd.grad(prices.sum(), given)
        return step
    return Setup((Contestant("jitgrad", "value_and_grad, reduce=None", jitgrad, numbers),
                  Contestant("JAX", "jit(vmap)", lambda: _jax_prices(options, True), numbers),
                  Contestant("JAX", "jit, batched", lambda: _jax_prices(options, False), numbers),
                  Contestant("PyTorch", "eager, batched", pytorch, numbers),
                  Contestant("Dr.Jit", "backward", lambda: _drjit_prices(options, False), numbers),
                  Contestant("Dr.Jit", "backward, frozen", lambda: _drjit_prices(options, True), numbers)),
                 tuple(prices_in_float64(*(d.astype(np.float64) for d in options))), 2e-5, n, bytes=44.0 * n)


def _jax_prices(options: list[Array], example_by_example: bool) -> Run:
    import jax
    import jax.numpy as jnp
    step = per_example(price_by(jnp, jax.lax.erf), FIVE, example_by_example)
    given = [jnp.asarray(d) for d in options]
    return lambda: done(step(*given))


def per_example(function: Callable[..., Any], by: Any, example_by_example: bool) -> Callable[..., Any]:
    """JAX's value and gradient for each example, of a function that takes one example or a whole batch."""
    import jax
    if example_by_example:
        return jax.jit(jax.vmap(jax.value_and_grad(function, by)))

    def total(*args: Any) -> Any:
        values = function(*args)
        return values.sum(), values
    both = jax.value_and_grad(total, by, has_aux=True)

    def batched(*args: Any) -> Any:
        (_, values), grads = both(*args)
        return values, grads
    return jax.jit(batched)


def _drjit_prices(options: list[Array], frozen: bool) -> Run:
    """frozen: the recording is kept from call to call (`dr.freeze`)."""
    import drjit as dr
    from drjit.llvm.ad import Float32
    price, given = price_by(dr, dr.erf), [Float32(d) for d in options]
    drjit_done(*given)

    def derive(*args: Any) -> Any:
        leaves = [Float32(a) for a in args]
        dr.enable_grad(leaves)
        prices = price(*leaves)
        dr.backward(prices)
        return dr.detach(prices), [dr.grad(leaf) for leaf in leaves]
    step = dr.freeze(derive) if frozen else derive

    def run() -> Any:
        prices, grads = step(*given)
        drjit_done(prices, *grads)
        return prices, grads
    return run


# One exponential decay for each pixel, at sixteen times: the parameters have a batch axis of their own.

TIMES = np.linspace(0.0, 3.0, 16)


def curves(n: int) -> Setup:
    rng = np.random.default_rng(8)
    theta = np.stack([rng.uniform(0.5, 2.0, n), rng.uniform(0.3, 1.5, n), rng.uniform(0.0, 0.2, n)], axis=1)
    theta = theta.astype(np.float32)
    curve = (np.exp(-TIMES) + 0.1 * rng.normal(size=(n, len(TIMES)))).astype(np.float32)
    times = TIMES.astype(np.float32)
    height, rate, floor = theta.astype(np.float64).T[:, :, None]
    decay = np.exp(-rate * times.astype(np.float64))
    rest = height * decay + floor - curve
    slopes = (2 * rest * decay, -2 * rest * height * times * decay, 2 * rest)
    expected = ((rest**2).sum(axis=1), np.stack([slope.sum(axis=1) for slope in slopes], axis=1))

    def jitgrad() -> Run:
        import jitgrad as jg

        def misfit(theta: Any, curve: Any) -> Any:
            height, rate, floor = theta
            return np.sum((height * jg.exp(-rate * times) + floor - curve)**2)
        step = jg.value_and_grad(misfit, in_axes=0, reduce=None)
        return lambda: step(theta, curve)

    def jax_form(example_by_example: bool) -> Callable[[], Run]:
        def make() -> Run:
            import jax.numpy as jnp

            def misfit(theta: Any, curve: Any) -> Any:
                height, rate, floor = (theta[..., k:k + 1] for k in range(3))
                return jnp.sum((height * jnp.exp(-rate * times) + floor - curve)**2, axis=-1)
            step, given = per_example(misfit, 0, example_by_example), [jnp.asarray(theta), jnp.asarray(curve)]
            return lambda: done(step(*given))
        return make

    def pytorch() -> Run:
        t = torch()
        p, measured, moments = t.tensor(theta, requires_grad=True), t.tensor(curve), t.tensor(times)

        def step() -> Any:
            values = ((p[:, :1] * t.exp(-p[:, 1:2] * moments) + p[:, 2:] - measured)**2).sum(1)
            return values.detach(), t.autograd.grad(values.sum(), [p])[0]
        return step

    def drjit() -> Run:
        import drjit as dr
        from drjit.llvm.ad import Float32
        columns = [Float32(np.ascontiguousarray(c)) for c in curve.T]      # its arrays have one dimension
        given = [Float32(np.ascontiguousarray(c)) for c in theta.T]
        drjit_done(*columns, *given)

        def step() -> Any:
            height, rate, floor = leaves = [Float32(p) for p in given]
            dr.enable_grad(leaves)
            values = sum((dr.square(height * dr.exp(-rate * float(t)) + floor - c)
                          for t, c in zip(times, columns, strict=True)), Float32(0))
            dr.backward(values)
            return drjit_done(dr.detach(values), *(dr.grad(leaf) for leaf in leaves))
        return step
    return Setup((Contestant("jitgrad", "value_and_grad, reduce=None", jitgrad, lambda r: arrays(*r)),
                  Contestant("JAX", "jit(vmap)", jax_form(True), lambda r: arrays(*r)),
                  Contestant("JAX", "jit, batched", jax_form(False), lambda r: arrays(*r)),
                  Contestant("PyTorch", "eager, batched", pytorch, lambda r: arrays(*r)),
                  Contestant("Dr.Jit", "backward, unrolled", drjit,
                             lambda r: arrays(r[0], np.stack([np.asarray(g) for g in r[1:]], axis=1)))),
                 expected, 2e-5, n, bytes=4.0 * (3 + 16 + 1 + 3) * n)


def cases() -> Iterator[Case]:
    yield Case("black-scholes/1M", "Black-Scholes price and five derivatives of 1,000,000 options", black_scholes,
               1_000_000, 1_000, headline=True)
    yield Case("curves/100k", "exponential decay fitted for each of 100,000 pixels: misfit and gradient", curves,
               100_000, 100, headline=True)
