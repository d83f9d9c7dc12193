"""A trained model in a file: new rows get what they would have got among the training's."""

from __future__ import annotations

import csv
import io
import json
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from command import QUICK, run

import jitgrad as jg
from jitgrad import data, predictor, recipes
from jitgrad.errors import ArgumentError, CheckpointError, DataError, DtypeError, ShapeError

pytestmark = pytest.mark.usefixtures("shell")

TRAINING = recipes.Recipe(hidden=(4,), epochs=3, device="interpret")


def table(target: str, rows: int = 40) -> Path:
    """A file with a column of each kind; `target` is "price", "plan" (three classes) or "risk" (two)."""
    draw = np.random.default_rng(0)
    lines = ["id,area,town,built,price,plan,risk"]
    for k, (area, when) in enumerate(draw.uniform(size=(rows, 2))):
        cells = [f"n{k}", "" if k % 5 == 3 else f"{100 * area:.1f}", ["Bonn", "Ulm"][k % 2], f"20{10 + int(9 * when)}-05-01",
                 f"{1000 * area:.2f}", ["low", "mid", "high"][k % 3], str(k % 2)]
        lines.append(",".join(cells))
    keep = [k for k, name in enumerate(lines[0].split(",")) if name not in {"price", "plan", "risk"} - {target}]
    text = "".join(",".join(line.split(",")[k] for k in keep) + "\n" for line in lines)
    path = Path("table.csv")
    path.write_text(text)
    return path


@pytest.mark.parametrize(("target", "loss"), [
    ("price", "mse"), ("plan", "cross_entropy"), ("risk", "binary_cross_entropy"), ("risk", "cross_entropy"),
    ("risk", "hinge")])
@pytest.mark.parametrize("dtype", ["float32", "float64"])
def test_a_saved_model_predicts_what_the_training_computed(target: str, loss: str, dtype: str):
    path = table(target)
    dataset = data.load_table(path, target, held_out=0.0)
    trained = recipes.run(dataset, replace(TRAINING, loss=loss, dtype=dtype), progress=False)
    trained.predictor.save("model.safetensors")
    loaded = predictor.load("model.safetensors").on("interpret")
    found = loaded.predict_table(path)
    outputs = trained.predict(dataset.train[0])
    if target == "price":
        np.testing.assert_array_equal(found.values, outputs[:, 0].astype(np.float64) * dataset.target_std
                                      + dataset.target_mean)
        assert found.metrics == {"rmse": pytest.approx(trained.metrics["train_rmse"], rel=1e-6)}
    else:
        chosen = np.array(dataset.classes)[trained.predicted_classes(dataset.train[0])]
        np.testing.assert_array_equal(found.values, chosen)
        assert found.metrics == {"accuracy": trained.metrics["train_accuracy"]}
    if loss in ("mse", "hinge"):
        assert found.probabilities is None
    else:
        logits = outputs.astype(np.float64)
        logits = np.column_stack([0 * logits, logits]) if logits.shape[1] == 1 else logits
        expected = np.exp(logits) / np.exp(logits).sum(axis=1, keepdims=True)
        np.testing.assert_allclose(found.probabilities, expected, rtol=1e-12)
    raw = dataset.train[0] * dataset.std + dataset.mean
    np.testing.assert_array_equal(loaded.predict(raw)[:5], found.values[:5])


def test_the_result_is_the_table_with_columns_added():
    path = table("plan")
    trained = recipes.run(data.load_table(path, "plan"), TRAINING, progress=False)
    found = trained.predictor.predict_table(path)
    rows = list(csv.reader(io.StringIO(found.csv())))
    given = list(csv.reader(io.StringIO(path.read_text())))
    assert [row[:5] for row in rows] == given
    assert rows[0][5:] == ["predicted plan", "probability of high", "probability of low", "probability of mid"]
    for row in rows[1:]:
        chances = [float(cell) for cell in row[6:]]
        assert sum(chances) == pytest.approx(1.0, abs=2e-6)
        assert row[5] == ["high", "low", "mid"][int(np.argmax(chances))]


def test_columns_may_be_elsewhere_and_others_are_carried_along():
    path = table("price")
    model = recipes.run(data.load_table(path, "price"), TRAINING, progress=False).predictor
    rows = list(csv.DictReader(io.StringIO(path.read_text())))
    with open("new.csv", "w", newline="") as file:
        writer = csv.DictWriter(file, ["remark", "town", "built", "area"], delimiter=";", extrasaction="ignore")
        writer.writeheader()
        writer.writerows({**row, "remark": "x", "area": row["area"].replace(".", ",")} for row in rows)
    found, same = model.predict_table("new.csv"), model.predict_table(path)
    np.testing.assert_array_equal(found.values, same.values)
    assert found.metrics == {}
    assert found.table.header == ["remark", "town", "built", "area"]


def test_a_category_that_the_training_never_met_counts_as_none_and_is_reported():
    path = table("price")
    model = recipes.run(data.load_table(path, "price"), TRAINING, progress=False).predictor
    Path("new.csv").write_text("area,town,built\n50,Rome,2012-05-01\n50,,2012-05-01\n50,Ulm,2012-05-01\n")
    found = model.predict_table("new.csv")
    assert found.unknown == {"town": [(2, "Rome")]}
    assert found.values[0] == found.values[1] != found.values[2]


@pytest.mark.parametrize(("text", "says"), [
    ("area,built\n1,2012-05-01\n", ["a column that the file does not have: town", "area, built"]),
    ("a\n1\n", ["columns that the file does not have: area, town, built"]),
    ("area,town,built\nbig,Ulm,2012-05-01\n", ["new.csv:2", "'big' in column 'area'", "numbers are wanted"]),
    ("area,town,built\n1,Ulm,May\n", ["new.csv:2", "'May' in column 'built'", "dates are wanted"]),
    ("area,town,built\n", ["no row"]),
])
def test_a_table_that_does_not_fit_is_an_error(text: str, says: list[str]):
    model = recipes.run(data.load_table(table("price"), "price"), TRAINING, progress=False).predictor
    Path("new.csv").write_text(text)
    with pytest.raises(DataError) as caught:
        model.predict_table("new.csv")
    for part in says:
        assert part in str(caught.value)
    with pytest.raises(ShapeError, match=r"takes 5 features.*\n.*\(2, 3\)\n.*area, area missing, town=Bonn"):
        model.predict(np.zeros((2, 3)))
    with pytest.raises(DtypeError, match=r"takes 5 numbers an example: could not convert.*\n.*predict_table"):
        model.predict([["50", "", "Ulm", "2012-05-01", "0"]])


@pytest.mark.parametrize("truth", ["", "?", "dear", "1e"])
def test_a_target_that_is_not_known_is_not_needed(truth: str):
    model = recipes.run(data.load_table(table("price"), "price"), TRAINING, progress=False).predictor
    Path("new.csv").write_text(f"area,town,built,price\n50,Ulm,2012-05-01,{truth}\n50,Ulm,2012-05-01,9\n")
    found = model.predict_table("new.csv")
    assert found.metrics == {}
    assert found.values[0] == found.values[1]


def test_a_checkpoint_is_a_model_too():
    path = table("risk")
    dataset = data.load_table(path, "risk")
    recipe = replace(TRAINING, validation=0.2, patience=1)
    trained = recipes.run(dataset, recipe, progress=False, checkpoint="run.safetensors")
    np.testing.assert_array_equal(predictor.load("run.safetensors").predict_table(path).values,
                                  trained.predictor.predict_table(path).values)


def _broken(about: Any) -> list[Any]:
    return [None, {}, {"model": None}, {"model": {}}, {"model": {**about, "layers": [5, 3, 1]}},
            {"model": {**about, "activation": "cube"}}, {"model": {**about, "columns": [{"name": "a"}]}},
            {"metadata": about}, [about]]


@pytest.mark.parametrize("activation", jg.nn.ACTIVATIONS)
def test_any_of_the_activations_may_follow_a_hidden_layer(activation: str):
    dataset = data.load_table(table("price"), "price", held_out=0.0)
    trained = recipes.run(dataset, replace(TRAINING, activation=activation), progress=False)
    trained.predictor.save("model.safetensors")
    outputs = predictor.load("model.safetensors").on("interpret").outputs(dataset.train[0])
    np.testing.assert_array_equal(outputs, trained.predict(dataset.train[0]))


def test_an_activation_that_there_is_not_is_named():
    dataset = data.load_table(table("price"), "price")
    with pytest.raises(ArgumentError, match=r"(?s)no activation 'cube'.*Choose from gelu"):
        recipes.run(dataset, replace(TRAINING, activation="cube"), progress=False)


def test_other_files_are_refused():
    trained = recipes.run(data.load_table(table("price"), "price"), TRAINING, progress=False)
    for metadata in _broken(trained.predictor.as_json()):
        jg.save("other.safetensors", trained.result.params, metadata)
        with pytest.raises(CheckpointError, match="not what is needed to predict"):
            predictor.load("other.safetensors")
    jg.save("other.safetensors", [1.0], {"model": trained.predictor.as_json()})
    with pytest.raises(CheckpointError, match="not what is needed to predict"):
        predictor.load("other.safetensors")
    Path("torn.safetensors").write_bytes(b"torn")
    with pytest.raises(CheckpointError):
        predictor.load("torn.safetensors")
    with pytest.raises(FileNotFoundError):
        predictor.load("absent")


def test_the_command():
    path = table("risk")
    run("train", str(path), *QUICK, "--target", "risk", "--out", "risk")
    plain = run("predict", "risk", str(path))
    assert plain.stdout.startswith("id,area,town,built,risk,predicted risk,probability of 0,probability of 1\n")
    assert "accuracy: " in plain.stderr
    said = run("predict", "risk/model.safetensors", str(path), "--out", "new.csv").stdout
    assert said == "wrote new.csv: 40 predictions of risk\n"
    assert Path("new.csv").read_text() == plain.stdout
    record = json.loads(run("predict", "risk", str(path), "--json").stdout)
    assert record["ok"]
    assert record["predictions"] == [line.split(",")[5] for line in plain.stdout.splitlines()[1:]]
    assert record["metrics"]["accuracy"] == np.mean([line.split(",")[4] == line.split(",")[5]
                                                     for line in plain.stdout.splitlines()[1:]])
    path.write_text("area,town,built\n1,Rome,2012-05-01\n")
    assert "column 'town': no category that the training had in rows: 1, such as 'Rome' in line 2" in run(
        "predict", "risk", str(path)).stderr
    path.write_text("area\n1\n")
    assert "DataError" in run("predict", "risk", str(path), status=1).stderr
    assert json.loads(run("predict", "nowhere", str(path), "--json", status=1).stdout)["ok"] is False


def test_built_in_data_sets_are_predicted_for_by_their_columns_names():
    run("train", "moons", *QUICK, "--out", "moons")
    Path("points.csv").write_text("x2,x1\n0.5,-1\n-0.5,1\n")
    loaded = predictor.load("moons")
    np.testing.assert_array_equal(loaded.predict_table("points.csv").values, loaded.predict([[-1.0, 0.5], [1.0, -0.5]]))
