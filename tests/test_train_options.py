"""`fit`'s options: what is measured on the way, when it ends, weights and penalties."""

from __future__ import annotations

import re
from typing import Any

import numpy as np
import pytest
from test_train import RNG, START, X, Y, line, never, quick, with_nan

import jitgrad as jg
from jitgrad import losses, optim, problem
from jitgrad.errors import (
    ArgumentError,
    DataError,
    NonFiniteError,
    ShapeError,
)
from jitgrad.train import FitResult

# --- what is measured, and when it ends -------------------------------------------------------------------------------


def mean_loss(params: Any, x: Any, y: Any) -> float:
    return float(np.mean((x @ params["w"] + params["b"] - y) ** 2))


OTHERS = (RNG.normal(size=(9, 2)), RNG.normal(size=9))


@pytest.mark.parametrize("reduce", ["mean", "sum"])
def test_validation_data_are_measured_after_each_epoch_and_change_nothing(reduce: str):
    seen = []
    found = quick(validation=OTHERS, batch_size=5, epochs=4, reduce=reduce, callback=lambda e, p: seen.append(p) and None)
    assert found.validation_losses == pytest.approx([mean_loss(p, *OTHERS) for p in seen], rel=1e-12)
    plain = quick(batch_size=5, epochs=4, reduce=reduce)
    assert (found.losses, plain.validation_losses) == (plain.losses, [])
    np.testing.assert_array_equal(found.params["w"], plain.params["w"])
    assert "validation loss" in repr(found)


def test_a_fraction_holds_out_examples_drawn_from_the_seed():
    held: dict[int, list[Any]] = {}

    def note(seed: int) -> Any:
        return lambda params, x, y: held.setdefault(seed, []).append(y) or 0.0

    for seed in (1, 2):
        options = {"seed": seed, "batch_size": 5, "epochs": 3}
        found = quick(validation=0.3, metrics={"note": note(seed)}, **options)
        assert len(held[seed]) == 3
        out = np.flatnonzero(np.isin(Y, held[seed][0]))
        assert len(out) == round(0.3 * 23)
        assert found.steps == 3 * 4  # of 16 examples
        rest = np.setdiff1d(np.arange(23), out)
        by_hand = quick(data=(X[rest], Y[rest]), validation=(X[out], Y[out]), **options)
        assert (found.losses, found.validation_losses) == (by_hand.losses, by_hand.validation_losses)
    assert not np.array_equal(held[1][0], held[2][0])


def test_metrics_are_of_the_training_data_where_there_are_no_others():
    found = quick(metrics={"loss": mean_loss, "r2": jg.metrics.r2(lambda p, x: p["w"] @ x + p["b"], device="interpret")})
    squared = mean_loss(found.params, X, Y)
    assert found.history[-1].metrics["loss"] == pytest.approx(squared)
    assert found.history[-1].metrics["r2"] == pytest.approx(1 - squared / Y.var())
    assert found.history[0].validation_loss is None


def test_ready_made_metrics():
    scores = lambda p, x: [p * x[0], x[1], 0.0 * x[0]]  # noqa: E731
    labels = np.argmax(np.stack([2 * X[:, 0], X[:, 1], 0 * Y], axis=1), axis=1)
    accuracy = jg.metrics.accuracy(scores, device="interpret")
    assert accuracy(2.0, X, labels) == 1.0
    labels[:5] = (labels[:5] + 1) % 3
    assert accuracy(2.0, X, labels) == pytest.approx(18 / 23)
    margin = jg.metrics.accuracy(lambda p, x: p @ x, device="interpret")
    assert margin(np.array([1.0, 0.0]), X, X[:, 0] > 0) == 1.0
    assert margin(np.array([1.0, 0.0]), X, np.where(X[:, 0] > 0, 1, -1)) == 1.0
    wrong = np.where(np.arange(23) < 3, -np.sign(X[:, 0]), np.sign(X[:, 0]))
    assert margin(np.array([1.0, 0.0]), X, wrong) == pytest.approx(20 / 23)
    rmse = jg.metrics.rmse(lambda p, x: p @ x, device="interpret")
    assert rmse(np.array([1.5, -0.5]), X, Y) == pytest.approx(0.25)
    assert jg.metrics.r2(lambda p, x: p @ x, device="interpret")(np.array([1.5, -0.5]), X, Y) == pytest.approx(
        1 - 0.0625 / Y.var())
    assert np.isnan(jg.metrics.r2(lambda p, x: p @ x, device="interpret")(np.zeros(2), X, np.ones(23)))


def test_targets_may_be_a_column_and_no_table():
    one, several = lambda p, x: p @ x, lambda p, x: p * x
    column, table, params = Y[:, None], np.stack([Y, Y], axis=1), np.array([1.5, -0.5])
    for make, targets in ((jg.metrics.rmse, column), (jg.metrics.r2, column), (jg.metrics.accuracy, column > 0)):
        metric = make(one, device="interpret")
        assert metric(params, X, targets) == metric(params, X, targets[:, 0])
        with pytest.raises(ShapeError, match=r"shape \(23, 2\)"):
            metric(params, X, table)
    for make in (jg.metrics.rmse, jg.metrics.r2):
        with pytest.raises(ShapeError, match=r"shape \(23, 2\)"):
            make(several, device="interpret")(params, X, Y)


def test_every_device_takes_the_same_minibatches_and_measures_the_same():
    options = {"batch_size": 5, "epochs": 4, "validation": 0.25, "patience": 3, "l2": 0.01, "class_weight": "balanced",
               "optimizer": optim.adam(optim.cosine(0.1, steps=16))}
    found = {device: quick(data=(X, (Y > 0).astype(float)), device=device, **options)
             for device in ("interpret", "cpu", "jax")}
    for device in ("cpu", "jax"):
        np.testing.assert_allclose(found[device].losses, found["interpret"].losses, rtol=1e-12)
        np.testing.assert_allclose(found[device].validation_losses, found["interpret"].validation_losses, rtol=1e-12)
        np.testing.assert_allclose(found[device].params["w"], found["interpret"].params["w"], rtol=1e-11)


@pytest.mark.parametrize("patience", [1, 3])
def test_patience_ends_the_training_and_returns_the_best_epoch(patience: int):
    scripted = [5.0, 3.0, 4.0, 2.0, 2.0, 2.5, 2.1, 1.0]  # equal is not better
    seen: list[Any] = []

    def run(**options: Any) -> FitResult:
        losses_left = iter(scripted)
        with pytest.MonkeyPatch.context() as patch:
            patch.setattr(problem.Evaluation, "of", lambda self, params, epoch: (next(losses_left), {}))
            return quick(epochs=8, validation=OTHERS, batch_size=5, callback=lambda e, p: seen.append(p) and None, **options)

    found = run(patience=patience)
    best, made = (2, 3) if patience == 1 else (4, 7)
    assert (found.epoch, len(found.history), found.ended) == (best, made, "patience")
    assert found.score == scripted[best - 1]
    np.testing.assert_array_equal(found.params["w"], seen[best - 1]["w"])
    assert f"best epoch {best}" in repr(found)
    whole = run()
    assert (whole.epoch, whole.ended, whole.score) == (8, "all epochs", 1.0)
    late = run(patience=5)
    assert (late.epoch, late.ended) == (8, "all epochs")


def test_patience_without_validation_watches_the_loss():
    found = quick(optimizer=optim.sgd(0.0), patience=2, epochs=50)
    assert (len(found.history), found.epoch, found.ended) == (3, 1, "patience")


def test_a_validation_loss_that_is_not_finite_ends_the_training():
    with pytest.raises(NonFiniteError, match="validation loss became inf after epoch 1"):
        quick(validation=(X * 1e200, Y))


# --- weights and penalties -----------------------------------------------------------------------------------------------


@pytest.mark.parametrize("device", ["interpret", "cpu"])
def test_weights_multiply_the_losses_of_their_examples(device: str):
    weights = np.arange(23) % 3
    found = quick(sample_weight=weights, batch_size=5, seed=2, validation=OTHERS, device=device)
    by_hand = quick(lambda p, x, y, w: w * line(p, x, y), data=(X, Y, weights.astype(float)), batch_size=5, seed=2,
                    device=device)
    assert found.losses == by_hand.losses
    np.testing.assert_array_equal(found.params["w"], by_hand.params["w"])
    assert found.validation_losses[-1] == pytest.approx(mean_loss(found.params, *OTHERS))  # unweighted


def test_whole_weights_repeat_examples():
    repeats = np.arange(23) % 3
    rows = np.repeat(np.arange(23), repeats)
    found = quick(sample_weight=repeats, reduce="sum", optimizer=optim.sgd(0.001), epochs=5)
    by_hand = quick(data=(X[rows], Y[rows]), reduce="sum", optimizer=optim.sgd(0.001), epochs=5)
    np.testing.assert_allclose(found.params["w"], by_hand.params["w"], rtol=1e-12)


def test_class_weights_go_by_label():
    labels = np.where(np.arange(23) < 5, 0, np.where(np.arange(23) < 12, 1, 7))

    def objective(p: Any, x: Any, y: Any) -> Any:
        return losses.mse(p["w"] @ x + p["b"], y)

    def run(**options: Any) -> FitResult:
        return quick(objective, data=(X, labels), batch_size=5, **options)

    by_label = {0: 2.0, 1: 0.5, 7: 1.0}
    expected = run(sample_weight=np.array([by_label[k] for k in labels.tolist()]))
    np.testing.assert_array_equal(run(class_weight=by_label).params["w"], expected.params["w"])
    balanced = {0: 23 / 15, 1: 23 / 21, 7: 23 / 33}
    np.testing.assert_array_equal(run(class_weight="balanced").params["w"], run(class_weight=balanced).params["w"])
    both = run(class_weight=by_label, sample_weight=np.full(23, 2.0))
    twice = run(class_weight={k: 2 * w for k, w in by_label.items()})
    np.testing.assert_array_equal(both.params["w"], twice.params["w"])


def test_weights_leave_the_dtype_and_in_axes_alone():
    single = {"w": np.zeros(2, np.float32), "b": np.float32(0.0)}
    found = quick(params=single, data=(X.astype(np.float32), Y.astype(np.float32)), sample_weight=np.ones(23))
    plain = quick(params=single, data=(X.astype(np.float32), Y.astype(np.float32)))
    assert found.losses == plain.losses

    def scaled(p: Any, x: Any, y: Any, scale: Any) -> Any:
        return line(p, x, y) * scale

    data = (X.T.copy(), Y, np.array(1.0))
    found = quick(scaled, data=data, in_axes=(None, 1, 0, None), sample_weight=np.ones(23), validation=0.2, batch_size=4)
    plain = quick(scaled, data=data, in_axes=(None, 1, 0, None), validation=0.2, batch_size=4)
    assert (found.losses, found.validation_losses) == (plain.losses, plain.validation_losses)


@pytest.mark.parametrize("device", ["interpret", "cpu"])
def test_penalties_are_part_of_what_is_minimised(device: str):
    def penalised(p: Any, x: Any, y: Any) -> Any:
        return line(p, x, y) + 0.1 * (abs(p["w"][0]) + abs(p["w"][1]) + abs(p["b"])) + 0.3 * (p["w"] @ p["w"] + p["b"] ** 2)

    options = {"batch_size": 5, "epochs": 20, "device": device, "optimizer": optim.adam(0.05)}
    found, by_hand = quick(l1=0.1, l2=0.3, **options), quick(penalised, **options)
    np.testing.assert_allclose(found.params["w"], by_hand.params["w"], rtol=1e-9)
    assert found.losses[-1] < by_hand.losses[-1]  # reported without the penalty
    assert np.abs(found.params["w"]).sum() < np.abs(quick(**options).params["w"]).sum()


def test_clipping_bounds_the_step():
    found = quick(clip_norm=0.01, optimizer=optim.sgd(1.0), epochs=1)
    assert np.hypot(np.linalg.norm(found.params["w"]), found.params["b"]) == pytest.approx(0.01)
    loose = quick(clip_norm=1e6, optimizer=optim.sgd(0.1), batch_size=5)
    np.testing.assert_array_equal(loose.params["w"], quick(optimizer=optim.sgd(0.1), batch_size=5).params["w"])


@pytest.mark.parametrize(
    ("options", "error", "says"),
    [
        ({"validation": 1.5}, ArgumentError, "validation=1.5"),
        ({"validation": 1}, ArgumentError, "validation=1"),
        ({"validation": [X, Y]}, ArgumentError, "a list"),
        ({"validation": 0.01}, ArgumentError, "would hold out 0"),
        ({"validation": 0.99}, ArgumentError, "would hold out 23"),
        ({"validation": (X,)}, ArgumentError, "1 arguments where data has 2"),
        ({"validation": (with_nan(3, 0), Y)}, DataError, "validation[0][3, 0] is nan"),
        ({"validation": (X, Y[:4])}, ShapeError, "validation[1] has 4"),
        ({"metrics": {"accuracy": 0.5}}, ArgumentError, "'accuracy'"),
        ({"patience": 0}, ArgumentError, "patience=0"),
        ({"sample_weight": np.ones(22)}, ShapeError, "(22,) for 23 examples"),
        ({"sample_weight": -np.ones(23)}, ArgumentError, "at least 0"),
        ({"sample_weight": np.zeros(23)}, ArgumentError, "not all 0"),
        ({"sample_weight": np.full(23, np.nan)}, DataError, "sample_weight[0] is nan"),
        ({"class_weight": "fair"}, ArgumentError, "class_weight='fair'"),
        ({"class_weight": {0: 1.0}}, ArgumentError, "every class"),
        ({"class_weight": "balanced", "data": (Y, X)}, ArgumentError, "data[-1] is (23, 2)"),
        ({"class_weight": {0: 0.0, 1: 1.0}, "data": (X, np.zeros(23))}, ArgumentError, "weight of 0"),
        ({"l1": -0.1}, ArgumentError, "l1=-0.1"),
        ({"l2": "big"}, ArgumentError, "l2='big'"),
        ({"clip_norm": 0}, ArgumentError, "norm=0"),
    ],
)
def test_an_option_that_makes_no_sense_is_named_before_anything_runs(options: Any, error: type, says: str):
    with pytest.raises(error, match=re.escape(says)):
        quick(never, START, **options)
