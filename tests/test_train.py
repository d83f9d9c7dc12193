"""`fit`: what it computes, what it refuses before anything runs, and what it leaves behind."""

from __future__ import annotations

import dataclasses
import io
import re
import sys
from typing import Any

import jax.numpy as jnp
import numpy as np
import pytest

import jitgrad as jg
from jitgrad import examples, losses, optim
from jitgrad.batches import Batches
from jitgrad.errors import (
    ArgumentError,
    CallError,
    DataError,
    DeviceError,
    DtypeError,
    LabelError,
    NonFiniteError,
    ShapeError,
    TraceError,
)
from jitgrad.history import History
from jitgrad.train import Epoch, FitResult, fit

RNG = np.random.default_rng(7)
X = RNG.normal(size=(23, 2))  # 23: no batch size divides it
Y = X @ [1.5, -0.5] + 0.25
START = {"w": np.zeros(2), "b": 0.0}


def line(params: Any, x: Any, y: Any) -> Any:
    return losses.mse(params["w"] @ x + params["b"], y)


def quick(objective: Any = line, params: Any = START, data: Any = (X, Y), **options: Any) -> FitResult:
    """A fit without compilation or bar."""
    return fit(objective, params, data, **{"device": "interpret", "progress": False, "epochs": 2, **options})


# --- what it computes --------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("device", ["interpret", "cpu"])
def test_a_line_is_found(device: str):
    result = quick(optimizer=optim.adam(0.1), epochs=150, batch_size=8, device=device)
    np.testing.assert_allclose(result.params["w"], [1.5, -0.5], atol=1e-3)
    assert result.params["b"] == pytest.approx(0.25, abs=1e-3)
    assert result.losses[-1] < 1e-5 < result.losses[0]


def gradients(w: np.ndarray, b: float, rows: np.ndarray) -> tuple[np.ndarray, float, np.ndarray]:
    error = X[rows] @ w + b - Y[rows]
    return 2 * error @ X[rows] / len(rows), float(2 * error.mean()), error**2


@pytest.mark.parametrize("reduce", ["mean", "sum"])
def test_an_epoch_is_minibatch_descent_over_a_permutation(reduce: str):
    """The same loop in NumPy: every example once, the last batch partial, losses weighted by example."""
    order_of, w, b = np.random.default_rng(5), np.zeros(2), 0.0
    expected = []
    for _ in range(3):
        seen: list[float] = []
        order = order_of.permutation(23)
        for start in (0, 10, 20):
            rows = order[start : start + 10]
            gw, gb, each = gradients(w, b, rows)
            scale = 0.01 * (len(rows) if reduce == "sum" else 1)
            w, b = w - scale * gw, b - scale * gb
            seen += each.tolist()
        expected.append(np.mean(seen))
    result = quick(optimizer=optim.sgd(0.01), epochs=3, batch_size=10, seed=5, reduce=reduce)
    np.testing.assert_allclose(result.losses, expected, rtol=1e-12)
    np.testing.assert_allclose(result.params["w"], w, rtol=1e-12)
    assert result.steps == 9


@pytest.mark.parametrize("batch_size", [None, 23, 1000])
def test_without_a_smaller_batch_size_every_step_sees_all_examples(batch_size: int | None):
    w, b = np.zeros(2), 0.0
    for _ in range(4):
        gw, gb, _ = gradients(w, b, np.arange(23))
        w, b = w - 0.1 * gw, b - 0.1 * gb
    result = quick(optimizer=optim.sgd(0.1), epochs=4, batch_size=batch_size)
    np.testing.assert_allclose(result.params["w"], w, rtol=1e-12)
    assert result.steps == 4


def test_one_example_and_batches_of_one_work():
    assert quick(data=(X[:1], Y[:1])).steps == 2
    assert quick(data=(X[:5], Y[:5]), batch_size=1).steps == 10


def test_the_seed_decides_the_bits():
    one, same, other = (quick(batch_size=5, seed=seed) for seed in (1, 1, 2))
    np.testing.assert_array_equal(one.params["w"], same.params["w"])
    assert one.losses == same.losses
    assert not np.array_equal(one.params["w"], other.params["w"])


def test_a_history_makes_epochs_when_they_are_looked_at():
    history = History(20)
    history.append(history.made(2.0, 0.5)._replace(validation_loss=3.0, metrics={"m": 1.0}))
    history.extend(np.array([1.5, 1.25]), np.array([0.25, 0.5]))
    history.extend(np.array([1.0]), np.array([0.0]))
    assert len(history) == 4
    assert history.losses.tolist() == [2.0, 1.5, 1.25, 1.0]
    assert [history.score(number) for number in (1, 2, 4)] == [3.0, 1.5, 1.0]
    assert history._waiting, "nobody has looked yet"
    expected = [Epoch(1, 2.0, 0.5, 40.0, 3.0, {"m": 1.0}), Epoch(2, 1.5, 0.25, 80.0), Epoch(3, 1.25, 0.5, 40.0),
                Epoch(4, 1.0, 0.0, 20.0 / 1e-12)]
    assert history == expected
    assert history != expected[:3]
    assert (history[-1], history[1:3]) == (expected[3], expected[1:3])
    history.append(history.made(0.5, 1.0))
    assert list(history)[4] == Epoch(5, 0.5, 1.0, 20.0)
    assert repr(history) == repr([*expected, history[4]])


def test_history_counts_and_times_every_epoch():
    result = quick(epochs=3, batch_size=5)
    assert [epoch.epoch for epoch in result.history] == [1, 2, 3]
    for epoch in result.history:
        assert isinstance(epoch, Epoch)
        assert epoch.seconds > 0
        assert epoch.examples_per_second == pytest.approx(23 / epoch.seconds)
    assert result.seconds == pytest.approx(sum(epoch.seconds for epoch in result.history))
    steady = result.history[1:]
    assert result.examples_per_second == pytest.approx(46 / sum(epoch.seconds for epoch in steady))
    assert re.fullmatch(r"FitResult\(3 epochs, 15 steps, loss .* -> .*, .* examples/s\)", repr(result))


def test_a_custom_optimizer_gets_the_users_tree():
    """Without the promise to be elementwise, parameters are not laid out in one vector."""
    seen = []

    def update(grads: Any, state: int, params: Any) -> tuple[Any, int]:
        seen.append((grads["w"].shape, params["w"].shape, state))
        return {"w": params["w"] - 0.1 * grads["w"], "b": float(params["b"] - 0.1 * grads["b"])}, state + 1

    custom = quick(optimizer=optim.Optimizer(lambda params: 0, update), epochs=3)
    assert seen == [((2,), (2,), 0), ((2,), (2,), 1), ((2,), (2,), 2)]
    np.testing.assert_array_equal(custom.params["w"], quick(optimizer=optim.sgd(0.1), epochs=3).params["w"])


# --- parameters and data as users have them ------------------------------------------------------------------------------


@pytest.mark.parametrize("dtype", [np.float32, np.float64])
def test_parameters_keep_their_structure_and_dtype(dtype: type):
    params = {"w": [0.0, np.array(0.5, dtype)], "m": np.zeros((1, 2), dtype), "s": dtype(1.0)}

    def objective(p: Any, x: Any, y: Any) -> Any:
        return losses.mse(p["w"][0] * x[0] + p["w"][1] * x[1] + (p["m"] @ x)[0] + p["s"], y)

    result = quick(objective, params, (X.astype(dtype), Y.astype(dtype)), optimizer=optim.sgd(0.05))
    found = result.params
    assert type(found["w"][0]) is float
    assert type(found["s"]) is dtype
    assert (type(found["w"][1]), found["w"][1].dtype, found["w"][1].shape) == (np.ndarray, dtype, ())
    assert (found["m"].dtype, found["m"].shape) == (dtype, (1, 2))


def test_a_dataclass_of_parameters_comes_back_as_one():
    @dataclasses.dataclass
    class Model:
        w: Any
        b: Any

    found = quick(lambda p, x, y: losses.mse(p.w @ x + p.b, y), Model(np.zeros(2), 0.0)).params
    assert isinstance(found, Model)
    np.testing.assert_array_equal(found.w, quick().params["w"])


def test_the_callers_arrays_are_neither_written_nor_shared():
    params, x, y = {"w": np.zeros(2), "b": np.zeros(())}, X.copy(), Y.copy()
    for array in (*params.values(), x, y):
        array.flags.writeable = False
    result = quick(params=params, data=(x, y), batch_size=4)
    assert not np.shares_memory(result.params["w"], params["w"])
    result.params["w"] += 1.0
    np.testing.assert_array_equal(params["w"], 0.0)


def test_data_may_be_trees_lists_and_strided_arrays():
    expected = quick(batch_size=4).losses

    def objective(p: Any, example: Any) -> Any:
        return line(p, example["x"], example["y"])

    assert quick(objective, data=({"x": X, "y": Y},), batch_size=4).losses == expected
    assert quick(data=(X.tolist(), Y.tolist()), batch_size=4).losses == expected
    assert quick(data=(np.asfortranarray(X), np.repeat(Y, 2)[::2]), batch_size=4).losses == expected


def test_in_axes_moves_and_shares():
    expected = quick(batch_size=4).losses

    def scaled(p: Any, x: Any, y: Any, scale: Any) -> Any:
        return line(p, x, y) * scale

    found = quick(scaled, data=(X.T.copy(), Y, np.array(1.0)), in_axes=(None, 1, 0, None), batch_size=4)
    assert found.losses == pytest.approx(expected)


def test_parameters_may_have_a_batch_axis():
    """A thousand fits at once: each example has its own parameter and finds its own minimum."""
    targets = np.linspace(-1.0, 1.0, 11)
    result = quick(lambda p, t: (p - t) ** 2, np.zeros(11), (targets,), in_axes=(0, 0), reduce="sum",
                   optimizer=optim.adam(0.05), epochs=200)  # fmt: skip
    np.testing.assert_allclose(result.params, targets, atol=1e-3)
    with pytest.raises(ArgumentError, match="minibatches"):
        quick(lambda p, t: (p - t) ** 2, np.zeros(11), (targets,), in_axes=(0, 0), batch_size=2)


def test_integer_labels_reach_the_objective_as_integers():
    def objective(p: Any, x: Any, y: Any) -> Any:
        return losses.cross_entropy(p["w"] @ x, y)

    labels = (Y > 0).astype(np.int32)
    result = quick(objective, {"w": np.zeros((2, 2))}, (X, labels), optimizer=optim.adam(0.1), epochs=60)
    assert result.losses[0] == pytest.approx(np.log(2.0))
    assert result.losses[-1] < 0.3


# --- refusals, before anything runs --------------------------------------------------------------------------------------


def never(params: Any, *example: Any) -> Any:
    raise AssertionError("the objective ran")


def with_nan(*index: int, value: float = np.nan) -> np.ndarray:
    array = X.copy()
    array[index] = value
    return array


@pytest.mark.parametrize(
    ("data", "options", "error", "says"),
    [
        ((X, Y[:-1]), {}, ShapeError, ["data[0] has 23 examples", "data[1] has 22"]),
        (({"x": X, "y": Y[:9]},), {}, ShapeError, ["data[0]['x'] has 23", "data[0]['y'] has 9"]),
        ((X, np.array(1.0)), {}, ShapeError, ["data[1]", "no axis 0", "in_axes"]),
        ((X, Y), {"in_axes": (None, None, None)}, ShapeError, ["batch axis"]),
        ((X, Y), {"in_axes": (None, 0)}, ShapeError, ["in_axes has 2 entries for 3"]),
        ((X, Y), {"in_axes": (None, 2, 0)}, ShapeError, ["data[0]", "axis 2"]),
        ((X[:0], Y[:0]), {}, DataError, ["empty", "data[0]"]),
        ((), {}, ShapeError, ["at least one array"]),
        (X, {}, ArgumentError, ["tuple", "ndarray"]),
        ([X, Y], {}, ArgumentError, ["tuple", "list"]),
        (([[1.0, 2.0], [3.0]], [1.0, 2.0]), {}, ShapeError, ["ragged"]),
        ((with_nan(4, 1), Y), {}, DataError, ["data[0][4, 1] is nan"]),
        ((with_nan(4, 1, value=-np.inf), Y), {}, DataError, ["data[0][4, 1] is -inf"]),
        ((with_nan(slice(6, 9)), Y), {}, DataError, ["data[0][6, 0] is nan", "6 of its 46"]),
        (({"x": X, "y": np.where(Y > 1e9, Y, np.nan)},), {}, DataError, ["data[0]['y'][0] is nan", "23 of its 23"]),
        ((X, Y.astype(str)), {}, DtypeError, ["data[1]", "text"]),
        ((X, ["a"] * 23), {}, DtypeError, ["data[1]", "text"]),
        ((X, Y.astype(object)), {}, DtypeError, ["data[1]", "objects"]),
        ((X + 0j, Y), {}, DtypeError, ["data[0]", "complex"]),
        ((X.astype(np.float16), Y), {}, DtypeError, ["data[0]", "float16"]),
        ((np.ma.masked_greater(X, 1.0), Y), {}, DataError, ["data[0]", "masked"]),
        ((X, Y), {"callback": "print"}, ArgumentError, ["callback='print'"]),
        ((X, Y), {"metrics": [max]}, ArgumentError, ["metrics must be a dict"]),
        ((X, Y.astype("datetime64[s]")), {}, DtypeError, ["data[1]", "dates"]),
        ((X, Y), {"epochs": 0}, ArgumentError, ["epochs=0"]),
        ((X, Y), {"epochs": 2.0}, ArgumentError, ["epochs=2.0"]),
        ((X, Y), {"epochs": True}, ArgumentError, ["epochs=True"]),
        ((X, Y), {"batch_size": 0}, ArgumentError, ["batch_size=0"]),
        ((X, Y), {"batch_size": -3}, ArgumentError, ["batch_size=-3"]),
        ((X, Y), {"batch_size": "32"}, ArgumentError, ["batch_size='32'"]),
        ((X, Y), {"reduce": None}, ArgumentError, ["reduce=None"]),
        ((X, Y), {"reduce": "max"}, ArgumentError, ["reduce='max'"]),
        ((X, Y), {"seed": -1}, ArgumentError, ["seed=-1"]),
        ((X, Y), {"seed": 0.5}, ArgumentError, ["seed=0.5"]),
        ((X, Y), {"optimizer": "adam"}, ArgumentError, ["optimizer='adam'", "optim.adam"]),
        ((X, Y), {"device": "tpu"}, DeviceError, ["tpu"]),
    ],
)
def test_a_wrong_argument_is_named_before_anything_runs(data: Any, options: Any, error: type, says: list[str]):
    with pytest.raises(error) as caught:
        quick(never, START, data, **options)
    for text in says:
        assert text in str(caught.value)


@pytest.mark.parametrize(
    ("params", "error", "says"),
    [
        ({"w": [np.zeros(2), np.array([0.0, np.nan])]}, DataError, "params['w'][1][1] is nan"),
        ({"w": 1}, DtypeError, "params['w']"),
        ({"w": np.arange(3)}, DtypeError, "params['w']"),
        ({"w": np.array([1j])}, DtypeError, "complex"),
        ({"w": "zero"}, DtypeError, "str"),
        ({"w": jnp.zeros(3)}, DtypeError, "np.asarray"),
        ({}, ArgumentError, "nothing to train"),
        ({"w": np.zeros(0)}, ArgumentError, "nothing to train"),
    ],
)
def test_a_wrong_parameter_is_named_before_anything_runs(params: Any, error: type, says: str):
    with pytest.raises(error, match=re.escape(says)):
        quick(never, params)


def test_data_that_the_objective_does_not_take_cost_no_epoch():
    with pytest.raises(CallError, match=r"line\(params.*\) was called with 2 arguments: missing a required argument: 'y'"):
        quick(data=(X,))
    seen: list[Epoch] = []
    with pytest.raises(ValueError, match="matmul"):
        quick(validation=(X[:, :1], Y), callback=lambda epoch, _: seen.append(epoch))
    assert not seen


def test_a_metric_that_is_no_number_is_named():
    with pytest.raises(ArgumentError, match=r"(?s)'shares' is no number.*array\(\["):
        quick(metrics={"shares": lambda params, x, y: np.ones(2)})


# --- what goes wrong while it runs -----------------------------------------------------------------------------------------


def test_a_loss_that_diverges_stops_with_epoch_step_and_advice():
    with pytest.raises(NonFiniteError) as caught:
        quick(optimizer=optim.sgd(1e60), epochs=50, batch_size=10)
    message = str(caught.value)
    assert re.search(r"became (inf|nan|NaN or infinite) at epoch \d+, step \d of 3, after a loss of ", message)
    assert "sgd(1e+60" in message
    assert "smaller learning rate" in message


def test_a_loss_that_is_not_finite_stops_though_the_gradients_are():
    with pytest.raises(NonFiniteError, match=r"loss became -inf at epoch 1, step 1 of 1, on the very first step"):
        quick(lambda p, x: p["w"] * x + jg.log(0.0 * x), {"w": 1.0}, (np.abs(Y),))


def test_a_gradient_that_is_not_finite_is_named_though_the_loss_is():
    def objective(p: Any, x: Any) -> Any:
        return jg.sqrt(p["a"]["root"]) + p["b"] * x  # the root's derivative at 0 is infinite

    with pytest.raises(NonFiniteError, match=r"gradient of params\['a'\]\['root'\] .*epoch 1, step 1.*first step"):
        quick(objective, {"a": {"root": 0.0}, "b": 1.0}, (Y,))


def test_a_step_that_overflows_is_reported_and_not_returned():
    with pytest.raises(NonFiniteError, match=r"params\['w'\] became NaN or infinite at epoch 1, step 1"):
        quick(lambda p, x: p["w"] * x * 1e300, {"w": 1.0}, (np.abs(Y),), optimizer=optim.sgd(1e300), epochs=1)


@pytest.mark.parametrize("device", ["interpret", "cpu"])
def test_a_wrong_label_is_named_by_its_place_in_the_callers_data(device: str):
    labels = np.where(Y > 0, 1.0, -1.0)
    labels[17] = 0.0

    def objective(p: Any, x: Any, y: Any) -> Any:
        return losses.hinge(p["w"] @ x, y)

    with pytest.raises(LabelError, match=r"(?s)got 0.*\b17\b"):
        quick(objective, {"w": np.zeros(2)}, (X, labels), batch_size=4, device=device)


def test_an_if_in_the_objective_is_a_trace_error():
    def objective(p: Any, x: Any, y: Any) -> Any:
        return p["w"] @ x if y > 0 else p["b"]

    with pytest.raises(TraceError, match=r"test_train\.py"):
        quick(objective)


def test_an_interrupt_returns_what_was_reached_and_leaves_the_callers_parameters_alone():
    params = {"w": np.zeros(2), "b": 0.0}

    def interrupt(epoch: Epoch, current: Any) -> None:
        if epoch.epoch == 3:
            raise KeyboardInterrupt

    found = quick(params=params, callback=interrupt, epochs=9, batch_size=5)
    np.testing.assert_array_equal(params["w"], 0.0)
    whole = quick(epochs=3, batch_size=5)
    np.testing.assert_array_equal(found.params["w"], whole.params["w"])
    assert (found.ended, found.steps, found.losses) == ("interrupted", whole.steps, whole.losses)
    assert "interrupted" in repr(found)


def test_an_interrupt_before_the_first_step_has_nothing_to_return(monkeypatch: pytest.MonkeyPatch):
    def interrupt(*_: Any) -> None:
        raise KeyboardInterrupt

    monkeypatch.setattr(examples.Update, "make", interrupt)
    with pytest.raises(KeyboardInterrupt):
        quick()


def test_an_interrupt_within_an_epoch_returns_the_last_step_or_with_patience_the_best_epoch(monkeypatch: pytest.MonkeyPatch):
    made, step = [], examples.Update.make

    def interrupted(*args: Any) -> Any:
        if len(made) == 13:
            raise KeyboardInterrupt
        made.append(1)
        return step(*args)

    for options in ({}, {"patience": 2}):
        made.clear()
        with monkeypatch.context() as patch:
            patch.setattr(examples.Update, "make", interrupted)
            found = quick(epochs=9, batch_size=5, **options)
        assert (found.ended, found.steps, len(found.history), found.epoch) == ("interrupted", 13, 2, 2)
        whole = quick(epochs=2, batch_size=5)
        assert found.losses == whole.losses
        assert np.array_equal(found.params["w"], whole.params["w"]) is bool(options)


# --- callback and bar --------------------------------------------------------------------------------------------------


def test_the_callback_sees_each_epoch_and_its_own_copy():
    seen = []

    def callback(epoch: Epoch, params: Any) -> None:
        seen.append((epoch, params))
        params["w"][:] = 1e6

    result = quick(epochs=3, callback=callback)
    assert [epoch for epoch, _ in seen] == list(result.history)
    np.testing.assert_array_equal(result.params["w"], quick(epochs=3).params["w"])


def test_the_callback_can_end_the_training():
    result = quick(epochs=100, callback=lambda epoch, params: epoch.epoch == 4)
    assert len(result.history) == 4
    assert result.losses == quick(epochs=4).losses


class Terminal(io.StringIO):
    def isatty(self) -> bool:
        return True


@pytest.mark.parametrize(
    ("stream", "progress", "drawn"),
    [(Terminal, None, True), (Terminal, False, False), (io.StringIO, None, False), (io.StringIO, True, True)],
)
def test_the_bar_is_drawn_on_a_terminal_or_on_demand(
    stream: type[io.StringIO], progress: bool | None, drawn: bool, monkeypatch: pytest.MonkeyPatch
):
    for name in ("TTY_COMPATIBLE", "FORCE_COLOR", "NO_COLOR"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setenv("TERM", "xterm")
    fake = stream()
    monkeypatch.setattr(sys, "stderr", fake)
    quick(epochs=3, batch_size=10, progress=progress)
    assert ("9/9" in fake.getvalue()) is drawn
    assert ("3/3" in fake.getvalue()) is drawn
    assert bool(fake.getvalue()) is drawn


def test_the_bar_shows_losses_and_throughput(monkeypatch: pytest.MonkeyPatch):
    fake = io.StringIO()
    monkeypatch.setattr(sys, "stderr", fake)
    monkeypatch.setenv("COLUMNS", "160")
    monkeypatch.setenv("TERM", "xterm")
    quick(epochs=3, batch_size=10, progress=True, validation=0.2)
    assert re.search(r"loss \d[\d.e+-]*, validation \d", fake.getvalue())
    assert re.search(r"[\d,]+ examples/s", fake.getvalue())


def test_public_names():
    assert jg.fit is fit


# --- batches -------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("batch_size", [1, 3, 7, 22, 23, 50])
def test_an_epoch_of_batches_is_a_permutation_with_rows_kept_together(batch_size: int):
    batches = Batches({}, (np.arange(23), {"twice": np.arange(23)[:, None] * [2, 4]}))
    sizes, seen = [], []
    for update in batches.steps(jg.value_and_grad(line), batch_size, np.random.default_rng(0)):
        (one, tree), size = update.data, update.size
        assert len(one) == size
        np.testing.assert_array_equal(tree["twice"], one[:, None] * [2, 4])
        sizes.append(size)
        seen += one.tolist()
    assert sorted(seen) == list(range(23))
    assert batch_size >= 23 or seen != list(range(23))
    assert sizes[:-1] == [batch_size] * (len(sizes) - 1)
    assert sum(sizes) == 23
