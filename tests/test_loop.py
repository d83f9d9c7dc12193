"""The compiled training loop makes the steps that Python makes one by one, bit for bit, and fails as they do."""

from __future__ import annotations

import ctypes
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import numpy as np
import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st

import jitgrad as jg
from jitgrad import errors, loop, optim
from jitgrad.backends import training
from jitgrad.compiler import schedule
from jitgrad.kernels import place
from jitgrad.train import FitResult


def root(t: int) -> float:
    return 0.05 / t**0.5


OPTIMIZERS = {
    "sgd": lambda: optim.sgd(0.05), "momentum": lambda: optim.sgd(0.02, momentum=0.9),
    "nesterov": lambda: optim.sgd(0.02, momentum=0.9, nesterov=True, weight_decay=0.01),
    "decay": lambda: optim.sgd(0.05, weight_decay=0.1), "adam": lambda: optim.adam(0.03),
    "adamw": lambda: optim.adamw(0.03, weight_decay=0.1),
    "cosine": lambda: optim.adam(optim.cosine(0.05, steps=15, warmup=4)),
    "step decay": lambda: optim.sgd(optim.step_decay(0.05, every=3, factor=0.5), momentum=0.9),
    "warmup": lambda: optim.adamw(optim.warmup(root, 5)), "l1": lambda: optim.penalised(optim.sgd(0.05), l1=0.1),
    "l1 and l2": lambda: optim.penalised(optim.adam(root), l1=0.1, l2=0.05),
    "clipped": lambda: optim.clipped(optim.sgd(0.5, momentum=0.5), 0.3),
    "clipped, then l1": lambda: optim.clipped(optim.penalised(optim.adam(root), l1=0.1), 0.3)}


def model(params: Any, x: Any, y: Any) -> Any:
    hidden = jg.tanh(params["W"] @ x + params["b"])
    return (params["v"] @ hidden - y) ** 2 + 0.01 * params["s"] * x[0]


def parameters(dtype: type = np.float64, seed: int = 0) -> dict[str, Any]:
    draw = np.random.default_rng(seed)
    return {"W": draw.normal(size=(4, 3)).astype(dtype), "b": draw.normal(size=4).astype(dtype),
            "v": draw.normal(size=4).astype(dtype), "s": dtype(0.5)}


def examples(n: int, dtype: type = np.float64) -> tuple[Any, Any]:
    draw = np.random.default_rng(n)
    return draw.normal(size=(n, 3)).astype(dtype), draw.normal(size=n).astype(dtype)


@contextmanager
def one_by_one() -> Iterator[None]:
    """`fit` makes every step from Python."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(loop.Loops, "of", lambda *_: None)
        yield


@contextmanager
def counting_slices() -> Iterator[list[int]]:
    """The steps of each call of the compiled loop."""
    calls: list[int] = []
    run = loop.Compiled.run

    def counted(self: Any, models: Any, rows: Any, work: Any) -> Any:
        calls.append(len(work.steps))
        return run(self, models, rows, work)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(loop.Compiled, "run", counted)
        yield calls


def assert_same(found: FitResult, expected: FitResult) -> None:
    assert (found.steps, found.epoch, found.ended) == (expected.steps, expected.epoch, expected.ended)
    for one, two in zip(found.history, expected.history, strict=True):
        assert (one.loss, one.validation_loss, one.metrics) == (two.loss, two.validation_loss, two.metrics)
    assert found.params.keys() == expected.params.keys()
    for name in expected.params:
        np.testing.assert_array_equal(found.params[name], expected.params[name])
        assert type(found.params[name]) is type(expected.params[name])
        assert found.params[name].dtype == expected.params[name].dtype


def both(objective: Any = model, **keywords: Any) -> tuple[FitResult, FitResult]:
    with counting_slices() as calls:
        compiled = jg.fit(objective, progress=False, device="cpu", **keywords)
    assert sum(calls) == compiled.steps
    with one_by_one():
        return compiled, jg.fit(objective, progress=False, device="cpu", **keywords)


@pytest.mark.parametrize("name", OPTIMIZERS)
@pytest.mark.parametrize("dtype", [np.float32, np.float64])
def test_every_optimizer_makes_the_same_steps(name: str, dtype: type) -> None:
    assert_same(*both(params=parameters(dtype), data=examples(37, dtype), optimizer=OPTIMIZERS[name](), epochs=5,
                      batch_size=10, seed=3))


@pytest.mark.parametrize("dtype", [np.float32, np.float64])
def test_a_model_over_long_rows_makes_the_same_steps(dtype: type) -> None:
    draw = np.random.default_rng(0)
    x, y = draw.normal(size=(150, 50)).astype(dtype), draw.integers(0, 2, 150).astype(dtype)
    assert_same(*both(lambda p, x, y: jg.losses.binary_cross_entropy(p["w"] @ x + p["b"], y),
                      params={"w": np.zeros(50, dtype), "b": dtype(0)}, data=(x, y), epochs=3, batch_size=40, seed=3))


@pytest.mark.parametrize("options", [
    {"validation": 0.3, "metrics": {"first": lambda params, x, y: params["b"][0] * len(y)}},
    {"patience": 2, "validation": examples(11), "optimizer": optim.adam(0.2)}, {"patience": 1, "reduce": "sum"},
    {"sample_weight": np.linspace(0.0, 2.0, 37), "validation": 0.2}, {"l1": 0.01, "l2": 0.1},
    {"clip_norm": 0.3, "l2": 0.1, "patience": 3}], ids=lambda o: ", ".join(o))
@pytest.mark.parametrize("dtype", [np.float32, np.float64])
def test_every_option_makes_the_same_steps(options: dict[str, Any], dtype: type) -> None:
    assert_same(*both(params=parameters(dtype), data=examples(37, dtype), epochs=9, batch_size=10, seed=3, **options))


NUMBERS = st.floats(width=32) | st.sampled_from([0.0, -0.0, 1e-300, 1e300, 3e38, 1e-45, float("nan"), float("inf")])


@settings(deadline=None)
@given(numbers=st.lists(NUMBERS, min_size=1, max_size=40), norm=st.floats(1e-300, 1e300),
       dtype=st.sampled_from(["f4", "f8"]))
@example([3.0, 4.0], 5.0, "f8")                             # as long as it may be
@example([0.0] * 9, 1.0, "f4")
@example([float("inf"), 1.0], 1.0, "f8")
def test_machine_code_shortens_a_gradient_as_numpy_does(numbers: list[float], norm: float, dtype: str) -> None:
    with np.errstate(over="ignore"):
        gradient = np.array(numbers).astype(dtype)
    (expected,) = optim.shortened([gradient], norm)
    row = np.zeros(len(numbers) + -len(numbers) % place.SQUARES, dtype)
    row[:len(numbers)] = gradient
    code = training._training(np.dtype(dtype), 64 // row.itemsize).address("jitgrad_clip")
    ctypes.CFUNCTYPE(None, *[ctypes.c_int64] * 6)(code)(row.ctypes.data, len(numbers), int(np.float64(norm).view(np.int64)),
                                                        0, 0, 0)
    assert row[:len(numbers)].tobytes() == expected.tobytes()
    assert not row[len(numbers):].any()


@settings(max_examples=25, deadline=None)
@given(n=st.integers(1, 90), batch_size=st.integers(1, 100) | st.none(), epochs=st.integers(1, 6), seed=st.integers(0, 9),
       reduce=st.sampled_from(["mean", "sum"]), tape=st.booleans(), most=st.integers(1, 40))
def test_any_batches_make_the_same_steps(n: int, batch_size: int | None, epochs: int, seed: int, reduce: str, tape: bool,
                                         most: int) -> None:
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(loop, "FIRST_STEPS", most)
        patch.setattr(loop, "SLICE_EXAMPLES", 3 * most)
        if tape:
            patch.setattr(schedule, "FUSED_LIMIT", 30)          # the update's formula stays below it
        assert_same(*both(params=parameters(), data=examples(n), optimizer=optim.adam(0.02), epochs=epochs,
                          batch_size=batch_size, seed=seed, reduce=reduce))


@given(count=st.integers(1, 40), takes=st.lists(st.integers(0, 90), max_size=8), seed=st.integers(0, 2**70))
def test_examples_are_shuffled_as_one_permutation_after_the_other(count: int, takes: list[int], seed: int) -> None:
    generator, expected = np.random.default_rng(seed), np.random.default_rng(seed)
    shuffled = loop.Shuffled(count, generator)
    found = np.concatenate([np.zeros(0, np.intp), *[shuffled.take(some) for some in takes]])
    epochs = [expected.permutation(count) for _ in range(-(-sum(takes) // count))]
    np.testing.assert_array_equal(found, np.concatenate([np.zeros(0, np.intp), *epochs])[:sum(takes)])
    assert generator.bit_generator.state == expected.bit_generator.state, "no epoch was drawn before it was needed"


@given(count=st.integers(1, 40), batch_size=st.integers(1, 50) | st.none(), epochs=st.integers(0, 5),
       most=st.integers(1, 30), by_epoch=st.booleans(), room=st.integers(1, 60))
def test_slices_are_the_steps_of_all_epochs(count: int, batch_size: int | None, epochs: int, most: int, by_epoch: bool,
                                            room: int) -> None:
    size = count if batch_size is None else min(batch_size, count)
    sizes = [min(size, count - first) for first in range(0, count, size)]
    found = list(loop.slices(count, None if batch_size is None else size, epochs, [most], by_epoch, room))
    assert [n for steps in found for n in steps[:, 1].tolist()] == sizes * epochs
    made = 0
    for steps in found:
        firsts = np.cumsum(steps[:, 1]) - steps[:, 1]
        np.testing.assert_array_equal(steps[:, 0], 0 if batch_size is None else firsts)
        assert 1 <= len(steps) <= most
        assert batch_size is None or firsts[-1] < room
        assert not by_epoch or made // len(sizes) == (made + len(steps) - 1) // len(sizes)
        made += len(steps)


def test_many_chunks_and_many_steps_make_the_same_steps() -> None:
    assert_same(*both(params=parameters(np.float32), data=examples(5000, np.float32), epochs=2, batch_size=2300))
    assert_same(*both(params=parameters(np.float32), data=examples(20, np.float32), epochs=400))


def test_a_callback_sees_every_epochs_parameters_and_may_end_the_training() -> None:
    def run() -> tuple[list[Any], FitResult]:
        seen: list[Any] = []

        def callback(epoch: Any, params: Any) -> bool:
            seen.append((epoch.epoch, epoch.loss, params["W"].copy()))
            return epoch.epoch == 4
        return seen, jg.fit(model, parameters(), examples(23), epochs=9, batch_size=7, progress=False, device="cpu",
                            callback=callback)
    seen, result = run()
    with one_by_one():
        expected, other = run()
    assert_same(result, other)
    assert len(seen) == len(expected) == 4
    for one, two in zip(seen, expected, strict=True):
        assert one[:2] == two[:2]
        np.testing.assert_array_equal(one[2], two[2])


def test_parameters_that_are_zero_have_no_l1_slope() -> None:
    found, expected = both(params={"W": np.zeros((4, 3)), "b": np.zeros(4), "v": np.zeros(4), "s": np.float64(0.0)},
                           data=examples(20), epochs=3, l1=0.1, optimizer=optim.sgd(0.1))
    assert_same(found, expected)
    np.testing.assert_array_equal(found.params["W"], 0.0)


def test_an_interrupt_returns_the_steps_that_were_made() -> None:
    run, calls = loop.Compiled.run, []

    def interrupted(self: Any, *args: Any) -> Any:
        calls.append(1)
        if len(calls) == 3:
            run(self, *args)                                # made, and never told
            raise KeyboardInterrupt
        return run(self, *args)
    options: dict[str, Any] = {"batch_size": 5, "progress": False, "device": "cpu"}
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(loop, "FIRST_STEPS", 3)
        patch.setattr(loop.Compiled, "run", interrupted)
        found = jg.fit(model, parameters(), examples(15), epochs=1000, **options)
    assert found.ended == "interrupted"
    assert found.steps % 3 == 0
    assert 6 <= found.steps < 3000
    expected = jg.fit(model, parameters(), examples(15), epochs=found.steps // 3, **options)
    np.testing.assert_array_equal(found.params["W"], expected.params["W"])
    assert found.losses == expected.losses


def test_data_are_not_written_to_and_other_arguments_are_shared() -> None:
    def scaled(params: Any, x: Any, scale: Any, label: Any) -> Any:
        return (params["W"][0] @ x * scale[1] - label) ** 2 + params["s"] ** 2
    x, y = examples(30)
    labels, scale = (y > 0).astype(int), np.array([1.0, 0.5])
    for array in (x, labels, scale):
        array.flags.writeable = False
    keywords: dict[str, Any] = {"epochs": 3, "batch_size": 8, "progress": False, "device": "cpu",
                                "in_axes": (None, 0, None, 0)}
    params = {k: parameters()[k] for k in ("W", "s")}
    with counting_slices() as calls:
        found = jg.fit(scaled, params, (x, scale, labels), **keywords)
    assert calls
    with one_by_one():
        assert_same(found, jg.fit(scaled, params, (x, scale, labels), **keywords))


@pytest.mark.parametrize("batch_size", [None, 5])
def test_a_diverging_training_fails_as_it_does_from_python(batch_size: int | None) -> None:
    def explode() -> str:
        with pytest.raises(errors.NonFiniteError) as error:
            jg.fit(model, parameters(np.float32), examples(23, np.float32), optimizer=optim.sgd(50.0), epochs=200,
                   batch_size=batch_size, progress=False, device="cpu")
        return str(error.value)
    with counting_slices() as calls:
        found = explode()
    assert calls
    with one_by_one():
        assert explode() == found


def test_parameters_that_overflow_while_the_loss_is_finite_are_named() -> None:
    def steep(params: Any, x: Any) -> Any:
        return params["w"][0] * x * 1e200 + params["v"][0]

    def explode() -> str:
        with pytest.raises(errors.NonFiniteError, match=r"params\['w'\] became NaN or infinite") as error:
            jg.fit(steep, {"v": np.ones(2), "w": np.ones(1)}, (np.ones(4),), epochs=30, optimizer=optim.sgd(1e150),
                   progress=False, device="cpu")
        return str(error.value)
    with counting_slices() as calls:
        found = explode()
    assert calls
    with one_by_one():
        assert explode() == found


def test_a_wrong_label_is_named_by_the_callers_index() -> None:
    def classify(params: Any, x: Any, y: Any) -> Any:
        return jg.losses.hinge(params["v"][:3] @ x, y)
    x, y = examples(40)
    y = np.sign(y)
    y[31] = 0.5

    def wrong() -> str:
        with pytest.raises(errors.LabelError) as error:
            jg.fit(classify, {"v": np.ones(4)}, (x, y), epochs=3, batch_size=6, progress=False, device="cpu")
        return str(error.value)
    with counting_slices() as calls:
        found = wrong()
    assert calls
    assert "31" in found
    with one_by_one():
        assert wrong() == found


@pytest.mark.parametrize("why", ["custom optimizer", "float parameters", "mixed dtypes", "debug_nans", "large", "device",
                                 "clipped twice", "penalty before clipping"])
def test_where_the_loop_is_not_taken(why: str, monkeypatch: pytest.MonkeyPatch) -> None:
    params, keywords = parameters(), {"epochs": 2, "progress": False, "device": "cpu"}
    if why == "custom optimizer":
        keywords["optimizer"] = optim.Optimizer(optim.sgd(0.1).init, optim.sgd(0.1).update)
    elif why == "float parameters":
        params["s"] = 0.5
    elif why == "mixed dtypes":
        params["b"] = params["b"].astype(np.float32)
    elif why == "large":
        monkeypatch.setattr(loop, "STEP_WORK", 100)
    elif why == "device":
        keywords["device"] = "interpret"
    elif why == "clipped twice":
        keywords |= {"optimizer": optim.clipped(optim.sgd(0.1), 2.0), "clip_norm": 1.0}
    elif why == "penalty before clipping":
        keywords |= {"optimizer": optim.clipped(optim.sgd(0.1), 2.0), "l2": 0.1}
    with counting_slices() as calls:
        if why == "debug_nans":
            with jg.debug_nans():
                jg.fit(model, params, examples(20), **keywords)
        else:
            jg.fit(model, params, examples(20), **keywords)
    assert not calls
