"""Calling a step: memory is read as it lies and never written, N may change, threads and runs agree to the bit."""

from __future__ import annotations

import itertools
import threading
from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from referees import BACKENDS, FLOAT64, OURS, assert_close, assert_same_bits, forced

import jitgrad as jg
from jitgrad import backends, errors
from jitgrad.backends import cpu, threads

every = pytest.mark.parametrize("backend", BACKENDS)
ours = pytest.mark.parametrize("backend", OURS)


def model(params: Any, x: Any, y: Any) -> Any:
    """A small MLP with every kind of argument; smooth enough to be compared."""
    hidden = jg.tanh(params["W"] @ x + params["b"])
    return (params["v"] @ hidden - y) ** 2 + 0.01 * params["s"] * x[0]


def arguments(n: int, dtype: type = np.float64) -> tuple[Any, Any, Any]:
    draw = np.random.default_rng(n)
    params = {"W": draw.normal(size=(4, 3)), "b": draw.normal(size=4), "v": draw.normal(size=4), "s": draw.normal(size=())}
    return {k: v.astype(dtype) for k, v in params.items()}, draw.normal(size=(n, 3)).astype(dtype), draw.normal(
        size=n).astype(dtype)


def by_hand(params: Any, x: Any, y: Any) -> tuple[Any, dict[str, Any]]:
    """(per-example values, per-example gradients) of `model` in NumPy."""
    h = np.tanh(x @ params["W"].T + params["b"])
    r = 2 * (h @ params["v"] - y)
    delta = r[:, None] * params["v"] * (1 - h**2)
    return (r / 2) ** 2 + 0.01 * params["s"] * x[:, 0], {
        "W": delta[:, :, None] * x[:, None, :], "b": delta, "v": r[:, None] * h, "s": 0.01 * x[:, 0]}


def flat(result: Any) -> Any:
    """(value, gradients) as one vector."""
    value, grads = result
    return np.concatenate([np.ravel(value), *(np.ravel(grads[k]) for k in sorted(grads))])


# The batch size.


@every
def test_one_recording_serves_every_batch_size(backend: str) -> None:
    recordings, compilations = [], []

    def counted(params: Any, x: Any, y: Any) -> Any:
        recordings.append(1)
        return model(params, x, y)

    with forced(backend) as device, pytest.MonkeyPatch.context() as patch:
        make = backends.kernel
        patch.setattr(backends, "kernel", lambda program, name: compilations.append(1) or make(program, name))
        step, rows = (jg.value_and_grad(counted, reduce=r, device=device) for r in ("mean", None))
        for n in (5, 1, 2, 16, 17, 127, 1031, 5):
            args = arguments(n)
            values, grads = by_hand(*args)
            found = step(*args)
            assert_close(found[0], values.mean(), FLOAT64, f"n = {n}")
            for k in grads:
                assert_close(found[1][k], grads[k].mean(axis=0), FLOAT64, f"n = {n}, {k}")
            if n in (1, 17, 1031):
                found = rows(*args)
                assert_close(found[0], values, FLOAT64, f"n = {n}")
                for k in grads:
                    assert_close(found[1][k], grads[k], FLOAT64, f"n = {n}, {k}")
    assert len(recordings) == len(compilations) == 2


@ours
def test_an_empty_batch_is_an_error(backend: str) -> None:
    with forced(backend) as device:
        step = jg.value_and_grad(model, device=device)
        params, x, y = arguments(3)
        with pytest.raises(errors.ShapeError, match="empty"):
            step(params, x[:0], y[:0])
        assert np.isfinite(step(params, x, y)[0])


@ours
def test_padding_beyond_the_batch_does_not_leak(backend: str) -> None:
    """Lanes past the end hold whatever was in the tile: here numbers that would be NaN or infinite."""
    with forced(backend) as device:
        step = jg.value_and_grad(lambda w, x: jg.log(x) * w + 1.0 / x, device=device)
        step(1.0, np.full(1031, np.nan))
        for n in (1, 3, 9, 1030):
            value, grad = step(2.0, np.full(n, 0.5))
            assert_close(value, 2 * np.log(0.5) + 2, FLOAT64)
            assert_close(grad, np.log(0.5), FLOAT64)


# Memory.


LAYOUTS: dict[str, Callable[[Any], Any]] = {
    "fortran": np.asfortranarray,
    "reversed": lambda a: np.ascontiguousarray(a[::-1])[::-1],
    "strided": lambda a: np.repeat(a, 2, axis=0)[::2],
    "broadcast": lambda a: np.broadcast_to(a[:1], a.shape),
    "transposed": lambda a: np.ascontiguousarray(a.T).T,
    "read-only": lambda a: frozen(a.copy()),
    "big-endian": lambda a: a.astype(a.dtype.newbyteorder(">")),
    "a slice": lambda a: np.pad(a, [(1, 1)] * a.ndim)[tuple(slice(1, -1) for _ in range(a.ndim))],
    "unaligned": lambda a: unaligned(a),
}


def frozen(a: Any) -> Any:
    a.flags.writeable = False
    return a


def unaligned(a: Any) -> Any:
    made = np.frombuffer(b"x" + a.tobytes(), a.dtype.newbyteorder("="), a.size, 1).reshape(a.shape)
    assert not made.flags.aligned
    return made


@ours
@pytest.mark.parametrize("layout", LAYOUTS)
def test_any_memory_layout_means_the_same(layout: str, backend: str) -> None:
    change = LAYOUTS[layout]
    params, x, y = arguments(37)
    odd = {k: change(v) if v.ndim else v for k, v in params.items()}, change(x), change(y)
    same = {k: np.array(v, float) for k, v in odd[0].items()}, np.array(odd[1], float), np.array(odd[2], float)
    with forced(backend) as device:
        for reduce in ("mean", None):
            step = jg.value_and_grad(model, reduce=reduce, device=device)
            assert_same_bits(flat(step(*odd)), flat(step(*same)))
        turned = jg.value_and_grad(model, in_axes=(None, 1, 0), device=device)
        assert_same_bits(flat(turned(odd[0], change(x.T) if layout != "broadcast" else change(x).T, odd[2])),
                         flat(jg.value_and_grad(model, device=device)(*same)))


@every
def test_inputs_are_never_written_and_results_are_never_views(backend: str) -> None:
    params, x, y = arguments(9)
    before = {k: v.copy() for k, v in params.items()}, x.copy(), y.copy()
    inputs = [*params.values(), x, y]
    with forced(backend) as device:
        for reduce in ("mean", None):
            step = jg.value_and_grad(model, reduce=reduce, device=device)
            value, grads = step(params, x, y)
            kept = flat((value, grads)).copy()
            for a, b in zip(inputs, [*before[0].values(), *before[1:]], strict=True):
                np.testing.assert_array_equal(a, b)
            results = [a for a in (value, *grads.values()) if isinstance(a, np.ndarray)]
            assert not any(np.shares_memory(r, a) for r in results for a in inputs)
            again = step(params, x + 1.0, y)
            assert_same_bits(flat((value, grads)), kept)     # the first call's results are the caller's own
            assert not np.array_equal(flat(again), kept)
            for r in results:
                r += 1.0                                    # and writable
        echo = jg.jit(lambda x: x, in_axes=0, reduce=None, device=device)
        assert not np.shares_memory(echo(x), x)


# Determinism.


LARGE = 50_021                                              # several chunks, a ragged end


@pytest.mark.parametrize("backend", ["cpu", "cpu-tape"])
@pytest.mark.parametrize("dtype", [np.float64, np.float32])
def test_the_bits_do_not_depend_on_run_or_threads(dtype: type, backend: str, monkeypatch: pytest.MonkeyPatch) -> None:
    args = arguments(LARGE, dtype)
    results = []
    with forced(backend) as device:
        for cores in (1, 2, 5):
            monkeypatch.setattr(threads, "cores", lambda cores=cores: cores)
            step = jg.value_and_grad(model, device=device)
            for least in (1, 10**18):                       # operations of a piece: several pieces a thread, or one
                monkeypatch.setattr(cpu, "PIECE_WORK", least)
                results.append(flat(step(*args)))
        monkeypatch.setattr(cpu, "PARALLEL_WORK", 10**18)   # the calling thread alone
        results.append(flat(jg.value_and_grad(model, device=device)(*args)))
    for r in results[1:]:
        assert_same_bits(r, results[0])
    values, _ = by_hand(*args)
    assert_close(results[0][0], values.mean(), FLOAT64 if dtype is np.float64 else 1e-5)


@ours
def test_two_threads_calling_one_step_get_what_one_gets(backend: str) -> None:
    sizes = [1, 33, 700, LARGE // 2]
    with forced(backend) as device:
        expected = {n: flat(jg.value_and_grad(model, device=device)(*arguments(n))) for n in sizes}
        recordings = []

        def counted(params: Any, x: Any, y: Any) -> Any:
            recordings.append(1)
            return model(params, x, y)

        step = jg.value_and_grad(counted, device=device)    # fresh: recording and compiling race as well
        barrier, found, failed = threading.Barrier(4), [], []

        def work(seed: int) -> None:
            try:
                barrier.wait()
                for n in np.random.default_rng(seed).permutation(sizes * 3).tolist():
                    found.append((n, flat(step(*arguments(n)))))
            except BaseException as error:
                failed.append(error)

        threads = [threading.Thread(target=work, args=(seed,)) for seed in range(4)]
        for t in threads:
            t.start()
        for t in threads:
            t.join()
    assert not failed, failed
    assert len(found) == 4 * 3 * len(sizes)
    for n, result in found:
        assert_same_bits(result, expected[n])
    assert len(recordings) == 1


@settings(max_examples=30)
@given(st.lists(st.floats(-1e10, 1e10, width=32), min_size=1, max_size=70), st.sampled_from(OURS))
def test_sums_over_the_batch_are_accurate(numbers: list[float], backend: str) -> None:
    """The reduced value and gradient are within a few ulp of the exact sum, whatever cancels."""
    with forced(backend) as device:
        step = SUMS.setdefault(backend, jg.value_and_grad(lambda w, x: w * x, reduce="sum", device=device))
        value, grad = step(1.0, np.array(numbers))
    exact, size = float(np.sum(np.array(numbers, np.longdouble))), float(np.abs(numbers).sum())
    assert abs(value - exact) <= 1e-14 * size
    assert abs(grad - exact) <= 1e-14 * size


SUMS: dict[str, Any] = {}


@pytest.mark.slow
def test_a_million_examples_in_float32() -> None:
    """No further from float64 than JAX's float32 is, or within 1e-5."""
    n, sizes = 1_000_000, [2, 16, 16, 1]
    draw = np.random.default_rng(0)
    params = [{"w": draw.normal(size=(o, i)) / np.sqrt(i), "b": 0.1 * draw.normal(size=o)}
              for i, o in itertools.pairwise(sizes)]
    x, y = draw.normal(size=(n, 2)), draw.choice([-1.0, 1.0], n)

    def loss(params: Any, x: Any, y: Any) -> Any:
        for layer in params[:-1]:
            x = jg.relu(layer["w"] @ x + layer["b"])
        return jg.losses.hinge((params[-1]["w"] @ x + params[-1]["b"])[0], y)

    def vector(result: Any) -> Any:
        return np.concatenate([np.ravel(result[0]), *(np.ravel(layer[k]) for layer in result[1] for k in "wb")])

    def narrow(a: Any) -> Any:
        return a.astype(np.float32)

    wide = vector(jg.value_and_grad(loss, device="cpu")(params, x, y))
    small = [{k: narrow(v) for k, v in layer.items()} for layer in params], narrow(x), narrow(y)
    ours = vector(jg.value_and_grad(loss, device="cpu")(*small))

    def jax_loss(params: Any, x: Any, y: Any) -> Any:      # as a JAX user writes it: the whole batch at once
        for layer in params[:-1]:
            x = jax.nn.relu(x @ layer["w"].T + layer["b"])
        return jnp.mean(jax.nn.relu(1.0 - y * (x @ params[-1]["w"].T + params[-1]["b"])[:, 0]))

    theirs = vector(jax.jit(jax.value_and_grad(jax_loss))(*small))
    assert theirs.dtype == np.float32
    assert ours.dtype == np.float32
    scale = np.maximum(1e-2, np.abs(wide))
    our_error, their_error = (float((np.abs(a - wide) / scale).max()) for a in (ours, theirs))
    assert our_error <= max(1e-5, their_error), (our_error, their_error)
    assert their_error < 1e-3, "the referee plays the same game"


# debug_nans.


def test_debug_nans_names_the_line_and_the_example() -> None:
    def loss(w: Any, x: Any) -> Any:
        inner = w * x
        risky = jg.log(inner)  # negative here
        return risky + 1.0

    x = np.array([1.0, 2.0, -3.0, 4.0, -5.0])
    line = loss.__code__.co_firstlineno + 2
    for device in ("interpret", "cpu"):
        step = jg.value_and_grad(loss, device=device)
        assert np.isnan(step(1.0, x)[0]), "without it, NaN is an answer"
        with jg.debug_nans():
            with pytest.raises(errors.NonFiniteError, match=rf"`log`.*example 2(.|\n)*test_calls.py:{line}:.*negative here"):
                step(1.0, x)
            assert np.isfinite(step(1.0, np.abs(x))[0])
        assert np.isnan(step(1.0, x)[0]), "and afterwards again"


def test_debug_nans_names_an_input_or_a_derivative() -> None:
    with jg.debug_nans():
        with pytest.raises(errors.NonFiniteError, match=r"input x\[1\] of example 1 is NaN"):
            jg.jit(lambda x: x[0] * x[1], in_axes=0, device="interpret")(np.array([[1.0, 2.0], [3.0, np.nan]]))
        with pytest.raises(errors.NonFiniteError, match="derivative"):
            jg.grad(lambda w, x: jg.sqrt(w * x) * 0.0, device="interpret")(0.0, np.ones(3))
