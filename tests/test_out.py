"""`out=`: results written into the user's own arrays, whatever their shape, place and size."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
from referees import BACKENDS, OURS, assert_same_bits, forced

import jitgrad as jg
from jitgrad import errors
from jitgrad.compiler import schedule

every = pytest.mark.parametrize("backend", BACKENDS)


def residual(p: Any, y: Any) -> Any:
    return (p - y) ** 2


def curve(p: Any, x: Any, y: Any) -> Any:
    return (p["a"] * jg.exp(-p["b"] * x) + p["c"][0] * p["c"][1] - y) ** 2


def curve_arguments(n: int, dtype: type = np.float64) -> tuple[Any, Any, Any]:
    draw = np.random.default_rng(n)
    params = {"a": draw.normal(size=n), "b": draw.uniform(size=n), "c": draw.normal(size=(n, 2))}
    return ({k: v.astype(dtype) for k, v in params.items()}, draw.uniform(size=n).astype(dtype),
            draw.normal(size=n).astype(dtype))


@every
@pytest.mark.parametrize("n", [1, 7, 1500])
@pytest.mark.parametrize("reduce", ["mean", "sum", None])
def test_the_gradient_lands_in_out_and_is_what_it_is_without(backend: str, n: int, reduce: str | None) -> None:
    args = curve_arguments(n)
    with forced(backend) as device:
        step = jg.value_and_grad(curve, in_axes=(0, 0, 0), reduce=reduce, device=device)
        value, expected = step(*args)
        out = {k: np.full_like(v, np.nan) for k, v in args[0].items()}
        again, found = step(*args, out=out)
        assert found is out
        alone = jg.grad(curve, in_axes=(0, 0, 0), reduce=reduce, device=device)
        out2 = {k: np.full_like(v, np.nan) for k, v in args[0].items()}
        assert alone(*args, out=out2) is out2
    assert_same_bits(again, value)
    for k in out:
        assert_same_bits(out[k], expected[k])
        assert_same_bits(out2[k], expected[k])


@every
def test_shared_parameters_and_values_land_in_out(backend: str) -> None:
    x, y = np.arange(5.0), np.ones(5)
    with forced(backend) as device:
        step = jg.grad(lambda w, x, y: (w[0] * x + w[1] - y) ** 2, device=device)
        out = np.empty(2)
        assert step(np.array([0.5, 1.0]), x, y, out=out) is out
        assert_same_bits(out, step(np.array([0.5, 1.0]), x, y))
        predict = jg.jit(lambda w, x: {"line": w * x, "both": np.array([x, w])}, argnums=0, reduce=None, device=device)
        kept = {"line": np.empty(5), "both": np.empty((5, 2))}
        assert predict(2.0, x, out=kept) is kept
        expected = predict(2.0, x)
        for k in kept:
            assert_same_bits(kept[k], expected[k])


@pytest.mark.parametrize("dtype", [np.float32, np.float64])
@pytest.mark.parametrize("offset", [0, 1, 5, 15])
def test_large_results_are_written_past_the_caches_wherever_they_begin(dtype: type, offset: int,
                                                                      monkeypatch: pytest.MonkeyPatch) -> None:
    draw = np.random.default_rng(offset)
    for n in (3, 1000, 2048 + 13, 70_001):
        p, y = draw.normal(size=(2, n)).astype(dtype)
        step = jg.value_and_grad(residual, in_axes=(0, 0), reduce="sum", device="cpu")
        monkeypatch.setattr(schedule, "STREAMED_BYTES", 1 << 40)
        expected = step(p, y)
        monkeypatch.setattr(schedule, "STREAMED_BYTES", 0)
        room = np.full(n + 32, 77, dtype)
        out = room[offset:offset + n]
        value, gradient = step(p, y, out=out)
        assert gradient is out
        assert_same_bits(value, expected[0])
        assert_same_bits(out, expected[1])
        assert (room[:offset] == 77).all()
        assert (room[offset + n:] == 77).all()


@every
def test_out_may_be_any_view(backend: str) -> None:
    p, y = np.random.default_rng(0).normal(size=(2, 40))
    room = np.zeros((40, 3))
    with forced(backend) as device:
        step = jg.value_and_grad(residual, in_axes=(0, 0), device=device)
        _, gradient = step(p, y, out=room[:, 1])
        assert_same_bits(room[:, 1], step(p, y)[1])
        columns = jg.value_and_grad(lambda p, y: (p[0] - y) ** 2 * p[1], in_axes=(1, 0), device=device)
        wide = np.empty((2, 40))
        columns(np.stack([p, y]), y, out=wide)
        assert_same_bits(wide, columns(np.stack([p, y]), y)[1])
    assert not room[:, [0, 2]].any()
    assert np.shares_memory(gradient, room)


def test_what_does_not_fit_is_refused() -> None:
    p, y = np.ones(4), np.zeros(4)
    step = jg.value_and_grad(residual, in_axes=(0, 0), device="cpu")
    with pytest.raises(errors.ShapeError, match=r"the gradient by p must have shape \(4,\); got \(5,\)"):
        step(p, y, out=np.empty(5))
    with pytest.raises(errors.DtypeError, match="dtype float64; got float32"):
        step(p, y, out=np.empty(4, np.float32))
    with pytest.raises(errors.ArgumentError, match="memory of an argument"):
        step(p, y, out=p)
    with pytest.raises(errors.ArgumentError, match="writeable"):
        step(p, y, out=np.broadcast_to(np.float64(0), 4))
    with pytest.raises(errors.ArgumentError, match="structure"):
        step(p, y, out=[np.empty(4)])
    with pytest.raises(errors.ArgumentError, match="one Value"):
        w = jg.Value(1.0)
        jg.batch(lambda x: w * x)(p, out=np.empty(()))


@pytest.mark.parametrize("backend", OURS)
def test_the_mean_divides_every_row_once(backend: str) -> None:
    p, y = np.random.default_rng(3).normal(size=(2, 33))
    with forced(backend) as device:
        total = jg.grad(residual, in_axes=(0, 0), reduce="sum", device=device)(p, y)
        mean = jg.grad(residual, in_axes=(0, 0), reduce="mean", device=device)(p, y)
    assert_same_bits(mean, total / 33)
