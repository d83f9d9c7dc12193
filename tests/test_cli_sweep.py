"""`jitgrad sweep`: every combination of a grid, each as it would train alone, and the best of them."""

from __future__ import annotations

import itertools
import json
import re
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from command import QUICK, run

import jitgrad as jg
from jitgrad import data, grids, predictor, recipes
from jitgrad.errors import ArgumentError, NonFiniteError
from jitgrad.recipes import Recipe

pytestmark = pytest.mark.usefixtures("shell")

SMALL = replace(recipes.MOONS, hidden=(3,), epochs=2, validation=0.25, device="interpret")


@pytest.mark.parametrize(("texts", "grid"), [
    (["lr=0.01,1e-3"], {"learning_rate": (0.01, 1e-3)}),
    (["seed=0..3", "l2=0, 0.5"], {"seed": (0, 1, 2, 3), "l2": (0.0, 0.5)}),
    (["seed=7..7,9,7"], {"seed": (7, 9)}),
    (["hidden=8,16x4,none"], {"hidden": ((8,), (16, 4), ())}),
    (["activation=tanh,relu", "schedule=cosine"], {"activation": ("tanh", "relu"), "schedule": ("cosine",)}),
    (["batch=1..2", "epochs=5", " l1 =0"], {"batch_size": (1, 2), "epochs": (5,), "l1": (0.0,)}),
])
def test_a_grid_is_read(texts: list[str], grid: dict[str, Any]):
    assert grids.read(texts) == grid
    replace(Recipe(), **{field: values[0] for field, values in grid.items()})  # a recipe has these fields


@pytest.mark.parametrize("text", ["lr", "sead=1", "seed=", "seed=-1", "seed=3..1", "seed=1..x", "lr=fast", "lr=nan",
                                  "hidden=0", "hidden=8,", "activation=cube", "batch=0", "epochs=1.5",
                                  "schedule=linear", "=1"])
def test_a_wrong_grid_is_an_error_that_says_what_is_right(text: str):
    with pytest.raises(ArgumentError, match=re.escape(f"--grid {text}")) as caught:
        grids.read([text])
    assert "lr, seed" in str(caught.value) or f"{text.split('=')[0]}=" in str(caught.value).splitlines()[-1]


def test_a_setting_is_named_once_and_a_grid_is_not_empty():
    with pytest.raises(ArgumentError, match="names seed twice"):
        grids.read(["seed=1", "seed=2"])
    with pytest.raises(ArgumentError, match="needs a grid"):
        grids.read([])


def test_each_model_is_the_one_that_fit_trains_alone():
    moons = data.load_moons(n=120)
    grid = {"seed": (0, 1), "hidden": ((3,), ()), "learning_rate": (0.01, 0.1), "epochs": (1, 2), "schedule": ("cosine",)}
    swept = grids.run(moons, SMALL, grid, progress=False)
    assert len(swept.models) == 16
    losses = [model.loss for model in swept.models]
    assert losses == sorted(losses)
    found = {tuple(model.settings.values()): model for model in swept.models}
    assert set(found) == set(itertools.product(*grid.values()))
    trained, validating = data.split(moons.train[1], 0.25, SMALL.seed, stratify=True)
    assert swept.validated == len(validating)
    for settings, model in found.items():
        own = replace(SMALL, validation=0.0, **dict(zip(grid, settings, strict=True)))
        task = recipes.Task.of(moons, own)
        alone = jg.fit(task.objective, task.start(own.seed), task.examples(moons.train[0][trained], moons.train[1][trained]),
                       optimizer=recipes.optimizer(own, len(trained)), epochs=own.epochs, batch_size=own.batch_size,
                       seed=own.seed, device="interpret", progress=False,
                       validation=task.examples(moons.train[0][validating], moons.train[1][validating]))
        assert alone.losses == model.result.losses
        assert alone.score == model.loss
        for name, value in alone.params.items():
            np.testing.assert_array_equal(model.result.params[name], value)
    best = swept.models[0]
    assert swept.best.result is best.result
    assert swept.best.layers == (2, *best.settings["hidden"], 1)
    assert swept.best.metrics["test_accuracy"] == np.mean(
        swept.best.predicted_classes(moons.test[0]) == (moons.test[1] > 0))


def test_a_model_that_diverges_is_last_and_all_of_them_an_error():
    moons = data.load_moons(n=60)
    regression = replace(moons, classes=(), train=(moons.train[0], moons.train[1] * 1.0), test=(moons.test[0],
                                                                                               moons.test[1] * 1.0))
    recipe = replace(SMALL, loss="mse")
    swept = grids.run(regression, recipe, {"learning_rate": (1e300, 0.01)}, progress=False)
    assert swept.diverged == 1
    assert [model.settings["learning_rate"] for model in swept.models] == [0.01, 1e300]
    assert "error" in swept.as_json()["models"][1]
    with pytest.raises(NonFiniteError, match=r"(?s)All 1 models diverged.*became"):
        grids.run(regression, recipe, {"learning_rate": (1e300,)}, progress=False)


def test_validation_needs_an_example():
    with pytest.raises(ArgumentError, match="none would choose"):
        grids.run(data.load_moons(n=20), replace(SMALL, validation=0.01), {"seed": (0,)}, progress=False)


def test_the_command_prints_the_best_and_writes_them():
    args = ("sweep", "moons", *QUICK, "--grid", "hidden=3,none", "--grid", "seed=0..6", "--grid", "lr=0.01")
    text = run(*args).stdout
    assert "14 models, chosen by 160 validation examples; the best 10:" in text
    assert re.search(r"^rank +hidden +seed +learning rate +validation loss +accuracy +epoch$", text, re.MULTILINE)
    rows = re.findall(r"^ +(\d+) +(3|none) +\d +0.01 +(\d\.\d+) +\d\.\d+ +2$", text, re.MULTILINE)
    assert [int(rank) for rank, _, _ in rows] == list(range(1, 11))
    assert [loss for *_, loss in rows] == sorted(loss for *_, loss in rows)
    assert "held-out accuracy" in text
    assert list(Path().iterdir()) == []

    record = json.loads(run(*args, "--out", "best", "--json").stdout)
    assert record["ok"]
    assert [f"{model['validation_loss']:.5f}" for model in record["models"][:10]] == [loss for *_, loss in rows]
    names = ["model.safetensors", "result.json", "loss.png", "boundary.png", "sweep.json"]
    assert [Path(file) for file in record["files"]] == [Path("best") / name for name in names]
    del record["files"], record["ok"]
    kept = json.loads(Path("best/sweep.json").read_text())
    assert kept["models"] == record["models"]
    assert kept["best"]["layers"] == record["best"]["layers"]
    assert predictor.load("best").layers == tuple(record["best"]["layers"])


@pytest.mark.parametrize("as_json", [False, True])
def test_a_wrong_grid_ends_the_command(as_json: bool):
    result = run("sweep", "moons", "--grid", "sead=1", *(["--json"] if as_json else []), status=1)
    text = json.loads(result.stdout)["error"]["message"] if as_json else result.stderr
    assert "the names are lr, seed, hidden" in text
