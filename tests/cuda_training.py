"""`fit` and `sweep` on CUDA against the CPU's: on the PTX machine, and a few in numba's simulator, a process of its own."""

from __future__ import annotations

import sys
import tempfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from cuda_interop import FakeCupy, install
from referees import assert_same_bits

import jitgrad as jg
from jitgrad import errors, loop, optim
from jitgrad.backends import cuda_memory, cuda_training
from jitgrad.backends.work import Work
from jitgrad.compiler import schedule
from jitgrad.kernels import cuda_batch, steps

launches: list[tuple[str, int]] = []                           # (form, models) of each call


def counted(form: type) -> None:
    run = form.run                                             # type: ignore[attr-defined]
    if run.__name__ == "noted":
        return

    def noted(self: Any, numbers: Any, batched: Any, work: Work) -> Any:
        launches.append((form.__name__, len(work.lines)))
        return run(self, numbers, batched, work)
    form.run = noted                                           # type: ignore[attr-defined]


def curve(p: Any, x: Any, y: Any) -> Any:
    """Three parameters: a thread adds up all sums by itself."""
    return (p["a"][0] * jg.tanh(p["a"][1] * x[0]) + p["c"] - y)**2


def network(p: Any, x: Any, y: Any) -> Any:
    """21 parameters: the warp shares its sums."""
    return (p["v"] @ jg.tanh(p["W"] @ x + p["b"]) - y)**2 + 0.01 * p["s"] * x[0]


def parameters(fun: Callable[..., Any], dtype: type, seed: int = 0) -> dict[str, Any]:
    draw = np.random.default_rng(seed)
    if fun is curve:
        return {"a": draw.normal(size=2).astype(dtype), "c": dtype(0.25)}
    return {"W": draw.normal(size=(4, 3)).astype(dtype), "b": draw.normal(size=4).astype(dtype),
            "v": draw.normal(size=4).astype(dtype), "s": dtype(0.5)}


def examples(n: int, dtype: type) -> tuple[Any, Any]:
    draw = np.random.default_rng(n)
    return draw.normal(size=(n, 3)).astype(dtype), draw.normal(size=n).astype(dtype)


def fit(fun: Callable[..., Any], params: Any, data: Any, device: str = "cuda", **options: Any) -> Any:
    return jg.fit(fun, params, data, device=device, progress=False, **options)


def assert_same(found: Any, expected: Any) -> None:
    assert_same_bits(np.array(found.losses), np.array(expected.losses))
    assert found.validation_losses == expected.validation_losses
    assert (found.steps, found.epoch, found.ended) == (expected.steps, expected.epoch, expected.ended)
    for name in expected.params:
        assert_same_bits(found.params[name], expected.params[name])
        assert type(found.params[name]) is type(expected.params[name])


def check_against_the_cpu(form: str, fun: Callable[..., Any], dtype: type, n: int, **options: Any) -> None:
    launches.clear()
    found = fit(fun, parameters(fun, dtype), examples(n, dtype), epochs=2, **options)
    assert {name for name, _ in launches} == {form}
    expected = fit(fun, parameters(fun, dtype), examples(n, dtype), epochs=2, device="cpu", **options)
    close = {"rtol": 1e-5, "atol": 1e-6} if dtype is np.float32 else {"rtol": 1e-12, "atol": 1e-13}
    np.testing.assert_allclose(found.losses, expected.losses, **close)
    for name in expected.params:
        np.testing.assert_allclose(found.params[name], expected.params[name], **close)
    print(form, fun.__name__, dtype.__name__, n, sorted(options), flush=True)


def check_many_against_each_alone() -> None:
    data, common = examples(20, np.float32), {"epochs": 2, "optimizer": optim.adam(0.05)}
    launches.clear()
    together = fit(curve, lambda seed: parameters(curve, np.float32, seed), data, ensemble=4, seed=7, batch_size=8, **common)
    assert launches == [("Resident", 4)]
    for k, model in enumerate(together):
        assert_same(model.result, fit(curve, parameters(curve, np.float32, 7 + k), data, seed=7 + k, batch_size=8, **common))
    # Held-out examples, other data, rates and patience: each has its own row of order and scalars, and its own end.
    subsets = [np.arange(10), np.arange(5, 15)]
    grid = {"optimizer": [optim.adam(0.05), optim.adam(2.0)], "subset": subsets, "patience": [1, 4]}
    launches.clear()
    found = jg.sweep(curve, parameters(curve, np.float32), data, grid=grid, epochs=4, validation=0.2, device="cuda",
                     progress=False)
    assert launches[0] == ("Resident", 8)
    assert 1 < len(launches) <= 4
    assert len({len(model.result.history) for model in found}) > 1
    for model in found:
        settings = dict(model.settings)
        subset = settings.pop("subset")
        own = tuple(array[subset] for array in data)
        assert_same(model.result, fit(curve, parameters(curve, np.float32), own, epochs=4, validation=0.2, **settings))


def check_that_one_diverges_and_others_go_on() -> None:
    data, params = examples(9, np.float32), parameters(curve, np.float32)
    grid = {"optimizer": [optim.sgd(1e20), optim.sgd(0.05), optim.sgd(1e38)]}
    found = jg.sweep(curve, params, data, grid=grid, epochs=3, device="cuda", progress=False)
    for model in (found[0], found[2]):
        assert model.result is None
        assert "became" in str(model.error)
        with pytest.raises(errors.NonFiniteError, match="became"):
            fit(curve, params, data, epochs=3, **model.settings)
    assert_same(found[1].result, fit(curve, params, data, epochs=3, **found[1].settings))


def check_that_a_failed_step_changes_nothing(work: int) -> None:
    """Steps 0 and 1 are made; the third meets an infinite loss, a label that is none, an update that overflows."""
    def loss(w: Any, x: Any, y: Any) -> Any:
        return jg.losses.hinge(w[0] * x, y) + w[1]
    reasons = {steps.LOSS_NOT_FINITE: (-np.inf, 1.0, 0.5), steps.CHECK_FAILED: (0.5, 0.5, 0.5),
               steps.PARAMETERS_NOT_FINITE: (0.5, 1.0, np.inf)}
    schedule.RESIDENT_WORK, usual = work, schedule.RESIDENT_WORK
    step = jg.value_and_grad(loss, device="cuda")
    rule = optim.sgd(0.5, momentum=0.9).rule
    assert rule is not None
    for why, (x, y, rate) in reasons.items():
        call = step.prepare(np.ones(2, np.float32), np.ones(4, np.float32), np.ones(4, np.float32))
        update = loop.update_call(rule, np.dtype(np.float32), "interpret").program
        made = cuda_training.Steps(call.kernel, update, 2, 4, True)  # type: ignore[arg-type]
        xs, ys = np.full((16, 1), 0.25, np.float32), np.ones((16, 1), np.float32)
        xs[9], ys[9] = x, y
        order = np.arange(16)[None, ::-1][:, [0, 1, 2, 3, 12, 13, 14, 15, 4, 5, 6, 7, 8, 9, 10, 11]]
        lines, chosen = np.array([(0, 4), (4, 4), (8, 4), (12, 4)]), np.array([(0, 0, 0), (2, 0, 0)])
        scalars = rule.rows(1, 4)[None].repeat(2, axis=0)
        scalars[0, 2, 0], anything = rate, np.full(2, np.inf)
        models, before = (made.models(np.zeros((3, 2), np.float32), np.zeros((3, 1, 2), np.float32), np.zeros(0, np.float32))
                          for _ in range(2))
        rows = made.rows(lambda xs=xs, ys=ys: [xs, ys])
        made.run(before, rows, Work(chosen, lines[:2], order, scalars[:, :2], anything))
        found = made.run(models, rows, Work(chosen, lines, order, scalars, anything))
        assert found.made.tolist() == [2, 2]
        assert found.why.tolist() == [why, why]
        left = np.array(made.numbers(models))
        assert_same_bits(left, np.array(made.numbers(before)))
        assert not left[:, 1].any()                            # took no part
        assert left[:, 0].any()
    schedule.RESIDENT_WORK = usual


def check_errors_and_arguments() -> None:
    x, y = examples(12, np.float64)

    def classify(p: Any, x: Any, scale: Any, y: Any) -> Any:
        return jg.losses.hinge(p @ x * scale[1], y)
    options: dict[str, Any] = {"epochs": 2, "batch_size": 5, "in_axes": (None, 0, None, 0)}
    data = x, np.array([1.0, 0.5]), np.where(y > 0, 1, -1)
    found, expected = (fit(classify, np.ones(3), data, device=device, **options) for device in ("cuda", "cpu"))
    np.testing.assert_allclose(found.params, expected.params, rtol=1e-12)
    wrong = data[2].astype(float)
    wrong[7] = 0.5
    with pytest.raises(errors.LabelError, match="7"):
        fit(classify, np.ones(3), (*data[:2], wrong), **options)


def check_going_on_from_a_checkpoint() -> None:
    data, params = examples(10, np.float64), parameters(curve, np.float64)
    with tempfile.TemporaryDirectory() as folder:
        options: dict[str, Any] = {"batch_size": 4, "seed": 3}
        file = Path(folder) / "training.safetensors"
        whole = fit(curve, params, data, epochs=4, **options)
        fit(curve, params, data, epochs=2, checkpoint=file, **options)
        again = fit(curve, params, data, epochs=4, checkpoint=file, resume=True, **options)
    assert again.resumed == 2
    assert_same(again, whole)


def check_data_on_the_device() -> None:
    """Examples that another library has put there are read where they lie, whatever makes the steps."""
    install("cupy", "cupy", FakeCupy)
    x, y = examples(12, np.float32)
    params, there = parameters(curve, np.float32), (FakeCupy(x), FakeCupy(y))
    uploads: list[tuple[int, ...]] = []
    fill = cuda_memory.fill

    def noted(target: Any, host: Any) -> None:
        uploads.append(host.shape)
        fill(target, host)
    ways: list[dict[str, Any]] = [{}, {"batch_size": 4}, {"validation": 0.3}, {"clip_norm": 0.5, "batch_size": 8}]
    for options in ways:
        expected = fit(curve, params, (x, y), epochs=2, **options)
        with pytest.MonkeyPatch.context() as patch:
            patch.setattr(cuda_memory, "fill", noted)
            assert_same(fit(curve, params, there, device="auto", epochs=2, **options), expected)
        assert not {x.shape, y.shape, (*y.shape, 1)} & set(uploads), "data went through the host"
    # Another axis and dtype are put in order on the device; labels on the host go there; metrics are given NumPy's arrays.
    found = fit(curve, params, (FakeCupy(x.T.astype(np.float64)), y), epochs=2, in_axes=(None, 1, 0), batch_size=4,
                metrics={"mean": lambda p, x, y: float(np.mean(x) + np.mean(y))})
    np.testing.assert_allclose(found.losses, fit(curve, params, (x, y), epochs=2, batch_size=4).losses, rtol=1e-6)
    assert found.history[-1].metrics["mean"] == pytest.approx(float(x.mean() + y.mean()), rel=1e-6)
    with pytest.raises(errors.NonFiniteError, match="became"):
        fit(curve, params, there, epochs=3, optimizer=optim.sgd(1e30))
    with pytest.raises(errors.DeviceError, match="lies on the GPU"):
        fit(curve, params, there, device="cpu")


def check_three_trips() -> None:
    """Of a block of two warps, folded twice."""
    schedule.TRAINING_BLOCK, block = 64, schedule.TRAINING_BLOCK
    cuda_batch.FOLD, fold = 2, cuda_batch.FOLD
    check_against_the_cpu("Resident", network, np.float32, 150)
    check_against_the_cpu("Resident", curve, np.float64, 150, batch_size=140)
    schedule.TRAINING_BLOCK, cuda_batch.FOLD = block, fold


def check_optimizers() -> None:
    """Rates that change, penalties, momentum; a formula without scalars."""
    for optimizer in (optim.sgd(0.05), optim.adamw(optim.cosine(0.05, steps=2)),
                      optim.penalised(optim.sgd(0.02, momentum=0.9, nesterov=True), l1=0.1, l2=0.05)):
        check_against_the_cpu("Resident", curve, np.float64, 9, optimizer=optimizer, reduce="sum")
    fixed = optim.elementwise(optim.Rule(lambda p, g: (p - 0.05 * g,), 0, lambda t: ()), "no scalars")
    check_against_the_cpu("Resident", curve, np.float32, 9, optimizer=fixed)


def check_queued() -> None:
    """Steps that are better made by many blocks."""
    schedule.RESIDENT_WORK, usual = 0, schedule.RESIDENT_WORK
    check_against_the_cpu("Queued", network, np.float32, 9, sample_weight=np.linspace(0, 1, 9))
    check_against_the_cpu("Queued", curve, np.float64, 9, batch_size=4)
    schedule.RESIDENT_WORK = usual


def check_interpreted() -> None:
    """A loss that is a tape."""
    schedule.FUSED_LIMIT, usual = 5, schedule.FUSED_LIMIT
    check_against_the_cpu("Queued", curve, np.float64, 9, batch_size=8)
    schedule.FUSED_LIMIT = usual


# What the PTX machine is asked; the simulator, which runs a thread a thread, is asked a few.
CHECKS: dict[str, Callable[[], None]] = {
    "float32": lambda: check_against_the_cpu("Resident", network, np.float32, 37, batch_size=16),
    "float64": lambda: check_against_the_cpu("Resident", network, np.float64, 37, batch_size=16),
    "optimizers": check_optimizers,
    "three trips": check_three_trips,
    "many": check_many_against_each_alone,
    "one diverges": check_that_one_diverges_and_others_go_on,
    "a failed step": lambda: check_that_a_failed_step_changes_nothing(schedule.RESIDENT_WORK),
    "a failed step of a queue": lambda: check_that_a_failed_step_changes_nothing(0),
    "errors": check_errors_and_arguments,
    "resume": check_going_on_from_a_checkpoint,
    "queued": check_queued,
    "interpreted": check_interpreted,
}


def count_launches() -> None:
    """Note the launches of both forms."""
    for form in (cuda_training.Resident, cuda_training.Queued):
        counted(form)


def main() -> None:
    count_launches()
    check_against_the_cpu("Resident", curve, np.float32, 9, batch_size=4)
    check_queued()
    check_data_on_the_device()


if __name__ == "__main__":
    sys.exit(main())
