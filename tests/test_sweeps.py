"""Sweeps and ensembles: each model gets the numbers it would get alone, on however many cores."""

from __future__ import annotations

import itertools
import pickle
from typing import Any

import numpy as np
import pytest

import jitgrad as jg
from jitgrad import errors, loop, optim
from jitgrad.backends import threads


def line(params: Any, x: Any, y: Any) -> Any:
    return (params["w"] @ x + params["b"] - y) ** 2


def start(seed: int) -> dict[str, Any]:
    draw = np.random.default_rng(seed)
    return {"w": draw.normal(size=3).astype(np.float32), "b": np.zeros((), np.float32)}


def data(n: int = 60) -> tuple[Any, Any]:
    draw = np.random.default_rng(n)
    x = draw.normal(size=(n, 3)).astype(np.float32)
    return x, (x @ np.array([1.0, -2.0, 0.5], np.float32) + 0.25).astype(np.float32)


COMMON: dict[str, Any] = {"epochs": 4, "batch_size": 16, "progress": False, "device": "cpu"}


def assert_same(found: Any, expected: Any) -> None:
    assert found.losses == expected.losses
    for name in expected.params:
        np.testing.assert_array_equal(found.params[name], expected.params[name])


@pytest.mark.parametrize("cores", [1, 2, 5])
def test_an_ensemble_is_its_models_trained_alone(cores: int, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(threads, "cores", lambda: cores)
    found = jg.fit(line, start, data(), ensemble=7, seed=20, **COMMON)
    assert len(found) == 7
    for k, model in enumerate(found):
        assert model.settings == {"seed": 20 + k}
        assert_same(model.result, jg.fit(line, start(20 + k), data(), seed=20 + k, **COMMON))
    assert found.losses.shape == (7, 4)
    assert found.best.loss == found.losses[:, -1].min()


def test_hundreds_of_models_take_turns_in_one_call_and_each_gets_its_own_numbers() -> None:
    lines: list[int] = []
    run = loop.Compiled.run

    def noted(self: Any, models: Any, rows: Any, work: Any) -> Any:
        lines.append(len(work.lines))
        return run(self, models, rows, work)
    rates = [optim.adam(0.1), optim.adam(1e30), optim.adam(0.01)]
    options = {**COMMON, "epochs": 40}
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(loop, "SLICE_SECONDS", 100.0)
        patch.setattr(loop.Compiled, "run", noted)
        found = jg.sweep(line, start, data(), grid={"seed": range(100), "optimizer": rates}, **options)
    assert max(lines) > 20
    for k in (0, 1, 2, 149, 150, 151, 152, 298, 299):
        seed, optimizer = found[k].settings["seed"], found[k].settings["optimizer"]
        if optimizer is rates[1]:
            with pytest.raises(errors.NonFiniteError) as alone:
                jg.fit(line, start(seed), data(), seed=seed, optimizer=optimizer, **options)
            assert str(found[k].error) == str(alone.value)
            assert found[k].result is None
        else:
            assert_same(found[k].result, jg.fit(line, start(seed), data(), seed=seed, optimizer=optimizer, **options))
    assert np.isnan(found.losses[1::3]).all()
    assert found.best.loss == np.nanmin(found.losses[:, -1])


def test_models_are_made_when_asked_for_and_share_nothing() -> None:
    calls: list[int] = []

    def counted(seed: int) -> Any:
        calls.append(seed)
        return start(seed)
    found = jg.sweep(line, counted, data(), grid={"optimizer": [optim.sgd(0.1), optim.sgd(0.2)], "seed": [3, 4]}, **COMMON)
    assert calls == [3, 4], "a function of the seed is asked once for each"
    assert found[-1] is found[3]
    assert found[1:3] == (found[1], found[2])
    assert found.models == tuple(found)
    with pytest.raises(IndexError):
        _ = found[4]
    assert found[0].result is not None
    before = found.losses.copy()
    found[0].result.params["w"][:] = np.nan
    assert np.isfinite(found[1].result.params["w"]).all()  # type: ignore[union-attr]
    np.testing.assert_array_equal(found.losses, before)
    again = pickle.loads(pickle.dumps(jg.fit(line, start, data(), ensemble=2, **COMMON)))
    assert_same(again[1].result, jg.fit(line, start(1), data(), seed=1, **COMMON))


@pytest.mark.parametrize("device", ["cpu", "interpret"])
def test_a_grid_is_walked_in_order_and_every_setting_counts(device: str) -> None:
    subsets = [np.arange(30), np.arange(60) % 3 == 0]
    grid = {"optimizer": [optim.adam(0.1), optim.adam(0.01), optim.sgd(0.05, momentum=0.9)], "seed": [1, 2],
            "subset": subsets, "batch_size": [None, 7]}
    found = jg.sweep(line, start, data(), grid=grid, epochs=3, progress=False, device=device)
    assert len(found) == 24
    for model, settings in zip(found, itertools.product(*grid.values()), strict=True):
        assert list(model.settings) == list(grid)
        assert all(mine is given for mine, given in zip(model.settings.values(), settings, strict=True))
        optimizer, seed, subset, batch_size = settings
        x, y = data()
        alone = jg.fit(line, start(seed), (x[subset], y[subset]), optimizer=optimizer, seed=seed, batch_size=batch_size,
                       epochs=3, progress=False, device=device)
        assert_same(model.result, alone)


@pytest.mark.parametrize("options", [
    {"validation": 0.25}, {"validation": data(20), "patience": 1}, {"sample_weight": np.linspace(0, 1, 60), "l2": 0.1},
    {"validation": 0.25, "clip_norm": 0.1, "metrics": {"r2": jg.metrics.r2(lambda p, x: p["w"] @ x + p["b"])}}],
    ids=", ".join)
def test_the_settings_of_fit_mean_the_same_in_a_sweep(options: Any) -> None:
    found = jg.sweep(line, start, data(), grid={"seed": [1, 2], "l1": [0.0, 0.3]}, **options, **COMMON)
    for model in found:
        seed = model.settings["seed"]
        alone = jg.fit(line, start(seed), data(), **model.settings, **options, **COMMON)
        assert_same(model.result, alone)
        assert model.result.validation_losses == alone.validation_losses
        assert [e.metrics for e in model.result.history] == [e.metrics for e in alone.history]
        assert (model.result.epoch, model.loss) == (alone.epoch, alone.score)
    assert found.best.loss == min(model.loss for model in found)
    assert not np.array_equal(found[0].result.params["w"], found[1].result.params["w"])


def test_patience_and_clipping_may_be_in_the_grid() -> None:
    grid = {"patience": [1, None], "clip_norm": [None, 0.01]}
    for model in jg.sweep(line, start, data(), grid=grid, optimizer=optim.sgd(0.3), **COMMON):
        assert_same(model.result, jg.fit(line, start(0), data(), optimizer=optim.sgd(0.3), **model.settings, **COMMON))


def test_an_interrupt_ends_the_sweep() -> None:
    def interrupt(*_: Any) -> float:
        raise KeyboardInterrupt
    with pytest.raises(KeyboardInterrupt):
        jg.sweep(line, start, data(), grid={"seed": range(3)}, metrics={"m": interrupt}, **COMMON)


def test_a_model_that_diverges_does_not_end_the_others() -> None:
    found = jg.sweep(line, start(0), data(), grid={"optimizer": [optim.sgd(1e30), optim.sgd(0.05)]}, **COMMON)
    assert isinstance(found[0].error, errors.NonFiniteError)
    assert found[0].result is None
    assert found[1].error is None
    assert found.best is found[1]
    assert np.isnan(found.losses[0]).all()
    assert repr(found).startswith("SweepResult(2 models, 1 diverged, best loss ")
    failed = jg.sweep(line, start(0), data(), grid={"optimizer": [optim.sgd(1e30)]}, **COMMON)
    with pytest.raises(errors.NonFiniteError):
        _ = failed.best


def test_other_errors_end_the_sweep() -> None:
    def wrong(params: Any, x: Any, y: Any) -> Any:
        return jg.losses.hinge(params["w"] @ x, y)
    with pytest.raises(errors.LabelError):
        jg.sweep(wrong, start, data(), grid={"seed": range(6)}, **COMMON)


@pytest.mark.parametrize("grid", [{}, {"sead": [1]}, {"seed": []}, {"seed": 3}, {"seed": iter([3])}])
def test_a_wrong_grid_is_refused(grid: Any) -> None:
    with pytest.raises(errors.ArgumentError, match="optimizer, seed, batch_size"):
        jg.sweep(line, start(0), data(), grid=grid)


@pytest.mark.parametrize("subset", [[60], [-1], [[0]], [0.5], np.zeros(60, bool), np.zeros(3, bool)])
def test_a_subset_must_name_examples(subset: Any) -> None:
    with pytest.raises(errors.ArgumentError, match="examples 0 to 59"):
        jg.sweep(line, start(0), data(), grid={"subset": [subset]}, **COMMON)


def test_an_ensemble_has_no_callback_and_a_positive_size() -> None:
    with pytest.raises(errors.ArgumentError, match="callback"):
        jg.fit(line, start, data(), ensemble=2, callback=lambda *_: None)
    with pytest.raises(errors.ArgumentError, match="ensemble"):
        jg.fit(line, start, data(), ensemble=0)


def test_one_at_a_time_where_there_is_no_compiled_loop() -> None:
    found = jg.fit(line, start, data(), ensemble=2, **{**COMMON, "device": "interpret"})
    for k, model in enumerate(found):
        assert_same(model.result, jg.fit(line, start(k), data(), seed=k, **{**COMMON, "device": "interpret"}))


def test_models_of_other_precisions_read_the_data_in_theirs() -> None:
    starts = [{name: leaf.astype(dtype) for name, leaf in start(0).items()} for dtype in (np.float32, np.float64)]
    for given, model in zip(starts, jg.sweep(line, None, data(), grid={"params": starts}, **COMMON), strict=True):
        assert_same(model.result, jg.fit(line, given, data(), **COMMON))
