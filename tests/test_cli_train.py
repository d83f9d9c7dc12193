"""`jitgrad train`: what it prints, writes and refuses."""

from __future__ import annotations

import json
import re
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from command import QUICK, run

import jitgrad as jg

pytestmark = pytest.mark.usefixtures("shell")


def test_train_moons_prints_losses_accuracy_and_speed():
    text = run("train", "moons", "--device", "interpret", "--epochs", "12").stdout
    assert "800 training and 200 held-out examples, 2-16-16-1 network, hinge, float32" in text
    losses = [float(found) for found in re.findall(r"^ +\d+ +(\d\.\d+) +[\d,]+$", text, re.MULTILINE)]
    assert len(losses) >= 10
    assert losses[-1] < 0.5 * losses[0]
    accuracy = re.search(r"held-out accuracy: ([\d.]+)%", text)
    assert accuracy is not None
    assert float(accuracy[1]) > 85
    assert re.search(r"192 steps in .* examples/s", text)
    assert list(Path().iterdir()) == []


def test_train_writes_its_files_where_it_is_told():
    record = json.loads(run("train", "moons", *QUICK, "--out", "new/folder", "--json", "--hidden", "3").stdout)
    names = ["model.safetensors", "result.json", "loss.png", "boundary.png"]
    assert [Path(file) for file in record["files"]] == [Path("new/folder") / name for name in names]
    assert sorted(path.name for path in Path("new/folder").iterdir()) == sorted(names)
    assert [path.name for path in Path().iterdir()] == ["new"]
    for name in names[2:]:
        assert Path("new/folder", name).read_bytes()[:8] == b"\x89PNG\r\n\x1a\n"
    params, _ = jg.load("new/folder/model.safetensors")
    shapes = {key: params[key].shape for key in params}
    assert shapes == {"W1": (3, 2), "b1": (3,), "W2": (1, 3), "b2": (1,)}
    assert params["W1"].dtype == np.float32
    del record["files"], record["ok"]
    assert json.loads(Path("new/folder/result.json").read_text()) == record
    assert len(record["history"]) == 2
    assert set(record["metrics"]) == {"train_accuracy", "test_accuracy"}


def test_train_writes_a_report():
    record = json.loads(run("train", "moons", *QUICK, "--hidden", "3", "--report", "new/report.html", "--json").stdout)
    assert record["files"] == ["new/report.html"]
    text = Path("new/report.html").read_text(encoding="utf-8")
    assert f"{record['metrics']['test_accuracy']:.1%}" in text
    assert "wrote other.html" in run("train", "moons", *QUICK, "--hidden", "3", "--report", "other.html").stdout


def test_an_unusable_report_is_reported_before_the_training(monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr("jitgrad.recipes.run", lambda *args, **options: pytest.fail("it trained"))
    assert "must end in .html" in run("train", "moons", "--report", "report.pdf", status=1).output
    Path("file").touch()
    run("train", "moons", "--report", "file/report.html", status=1)


def test_the_saved_parameters_are_the_trained_network():
    """Redo the forward pass in NumPy from the parameters alone: the reported accuracy must come out."""
    from jitgrad.data import load_moons

    record = json.loads(run("train", "moons", *QUICK, "--out", ".", "--json").stdout)
    inputs, labels = load_moons().test
    p, _ = jg.load("model.safetensors")
    hidden = np.maximum(p["W1"] @ inputs.T + p["b1"][:, None], 0)
    hidden = np.maximum(p["W2"] @ hidden + p["b2"][:, None], 0)
    score = (p["W3"] @ hidden + p["b3"][:, None])[0]
    assert np.mean((score > 0) == (labels > 0)) == pytest.approx(record["metrics"]["test_accuracy"])


def test_the_seed_changes_the_training_and_not_the_split():
    one, same, other = (
        json.loads(run("train", "moons", *QUICK, "--seed", seed, "--json").stdout) for seed in ("1", "1", "2")
    )
    losses = [[epoch["loss"] for epoch in record["history"]] for record in (one, same, other)]
    assert losses[0] == losses[1] != losses[2]


@pytest.fixture
def tables(shell: None) -> None:
    """A number, two classes and three classes to predict from the same two columns."""
    generator = np.random.default_rng(0)
    a, b = generator.uniform(0, 100, (2, 120))
    lines = ["a,b,price,risk,kind,name"]
    for x, y in zip(a, b, strict=True):
        kind = "low" if x + y < 70 else "mid" if x + y < 130 else "high"
        lines.append(f"{x:.3f},{y:.3f},{1000 + 3 * x - y:.2f},{int(x > y)},{kind},row")
    Path("table.csv").write_text("\n".join(lines) + "\n")


TRAIN_TABLE = ("train", "table.csv", "--features", "a, b", "--device", "interpret", "--hidden", "8", "--epochs", "40",
               "--batch-size", "16", "--json")  # fmt: skip


@pytest.mark.parametrize(
    ("target", "loss", "chosen", "outputs"),
    [
        ("price", "auto", "mse", 1),
        ("price", "huber", "huber", 1),
        ("risk", "auto", "binary_cross_entropy", 1),
        ("risk", "hinge", "hinge", 1),
        ("risk", "cross_entropy", "cross_entropy", 2),
        ("risk", "mse", "mse", 1),
        ("kind", "auto", "cross_entropy", 3),
    ],
)
@pytest.mark.usefixtures("tables")
def test_train_a_table(target: str, loss: str, chosen: str, outputs: int):
    record = json.loads(run(*TRAIN_TABLE, "--target", target, "--loss", loss).stdout)
    assert record["ok"]
    assert record["loss"] == chosen
    assert record["layers"] == [2, 8, outputs]
    assert [feature["name"] for feature in record["features"]] == ["a", "b"]
    assert record["examples"] == {"train": 96, "test": 24}
    metrics = record["metrics"]
    if chosen in ("mse", "huber"):
        assert metrics["test_r2"] > (0.95 if target == "price" else 0.5)
        if target == "price":  # in the target's own unit: of its spread of about 90, a tenth
            assert 0.1 < metrics["test_rmse"] < 20
    else:
        assert metrics["test_accuracy"] > 0.85


@pytest.mark.parametrize(
    ("args", "says"),
    [
        (("--target", "cost"), ["DataError", "no column 'cost'", "a, b, price, risk, kind, name"]),
        (("--target", "price", "--features", "a,name"), ["DataError", "'name' cannot be a feature", "the same text"]),
        (("--target", "kind", "--loss", "hinge"), ["ArgumentError", "3 classes", "loss='hinge'", "cross_entropy"]),
        (("--target", "kind", "--loss", "mse"), ["DataError", "column 'kind'"]),
        (("--target", "price", "--device", "tpu"), ["DeviceError", "tpu"]),
        (("--target", "price", "--learning-rate", "-1"), ["ArgumentError", "learning_rate=-1.0"]),
        (("--target", "price", "--learning-rate", "1e300"), ["NonFiniteError", "epoch 1", "smaller learning rate"]),
    ],
)
@pytest.mark.parametrize("as_json", [False, True])
@pytest.mark.usefixtures("tables")
def test_bad_input_is_reported_without_a_traceback(args: tuple[str, ...], says: list[str], as_json: bool):
    features = () if "--features" in args else ("--features", "a,b")
    result = run("train", "table.csv", *QUICK, *features, *args, *(["--json"] if as_json else []), status=1)
    assert "Traceback" not in result.output
    if as_json:
        record = json.loads(result.stdout)
        assert record["ok"] is False
        text = f"{record['error']['type']}: {record['error']['message']}"
    else:
        assert "held-out" not in result.stdout
        text = result.stderr
    for part in says:
        assert part in text


@pytest.mark.usefixtures("tables")
def test_what_each_column_was_taken_for_is_printed():
    path = Path("table.csv")
    path.write_text(path.read_text().replace("\n", "\n,5,1,0,low,row\n", 1))
    text = run("train", "table.csv", *QUICK, "--target", "price").stdout
    assert re.search(r"^price +a number to predict$", text, re.MULTILINE)
    assert re.search(r"^a +number; 1 missing in training rows, which take the mean", text, re.MULTILINE)
    assert re.search(r"^kind +3 categories: high, low, mid$", text, re.MULTILINE)
    assert re.search(r"^name +left out; every row has the same text$", text, re.MULTILINE)
    record = json.loads(run("train", "table.csv", *QUICK, "--target", "price", "--ignore", "kind,name", "--json").stdout)
    assert [column["name"] for column in record["columns"]] == ["a", "b", "risk"]


@pytest.mark.usefixtures("tables")
def test_a_missing_target_lists_the_columns():
    text = run("train", "table.csv", status=2).output
    assert "A table needs --target COLUMN" in text
    assert "a, b, price, risk, kind, name" in text
    assert "No such file" in run("train", "absent.csv", "--target", "y", status=1).stderr
    assert "No such file" in run("train", "absent.csv", status=1).stderr


@pytest.mark.usefixtures("tables")
def test_without_matplotlib_a_model_is_written_and_a_report_refused(monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setitem(sys.modules, "matplotlib", None)
    result = run("train", "table.csv", *QUICK, "--target", "price", "--out", "out")
    assert "pip install matplotlib" in result.stderr
    assert sorted(path.name for path in Path("out").iterdir()) == ["model.safetensors", "result.json"]
    monkeypatch.setattr("jitgrad.recipes.run", lambda *args, **options: pytest.fail("it trained"))
    for command in (("train", "table.csv", "--target", "price", "--report", "r.html"), ("demo",)):
        assert "MissingPackageError" in run(*command, status=1).stderr


def test_an_unusable_folder_is_reported_before_the_training(monkeypatch: pytest.MonkeyPatch):
    Path("file").write_text("")
    monkeypatch.setattr("jitgrad.recipes.run", lambda *args, **options: pytest.fail("it trained"))
    assert "FileExistsError" in run("train", "moons", "--out", "file", status=1).stderr
    monkeypatch.setattr("os.access", lambda path, mode: False)
    for option in (("--out", "locked"), ("--report", "locked/r.html")):
        assert "Permission denied: 'locked'" in run("train", "moons", *option, status=1).stderr


def test_an_interrupt_exits_with_130_and_writes_nothing(monkeypatch: pytest.MonkeyPatch):
    def interrupt(*args: Any, **options: Any) -> None:
        raise KeyboardInterrupt

    monkeypatch.setattr("jitgrad.recipes.fit", interrupt)
    record = json.loads(run("train", "moons", *QUICK, "--json", status=130).stdout)
    assert record == {"ok": False, "error": {"type": "KeyboardInterrupt", "message": "Interrupted."}}
    assert "Interrupted" in run("train", "moons", "--out", "out", status=130).stderr
    assert list(Path("out").iterdir()) == []


def test_an_interrupted_training_is_reported_and_exits_with_130(monkeypatch: pytest.MonkeyPatch):
    from jitgrad import problem

    def interrupt(self: Any, params: Any, epoch: int) -> Any:
        if epoch == 3:
            raise KeyboardInterrupt
        return 0.5, {"accuracy": 0.5}

    monkeypatch.setattr(problem.Evaluation, "of", interrupt)
    args = ("train", "moons", "--device", "interpret", "--epochs", "9", "--validation", "0.2", "--out", "out")
    result = run(*args, status=130)
    assert "Interrupted" in result.stderr
    assert re.search(r"^ +2 +\d\.\d+ +0\.50000 +0\.5000 ", result.stdout, re.MULTILINE)
    assert len(json.loads(Path("out/result.json").read_text())["history"]) == 2
    record = json.loads(run(*args[:-2], "--json", status=130).stdout)
    assert record["ended"] == "interrupted"


def test_training_options_reach_the_training():
    options = ("--validation", "0.25", "--schedule", "cosine", "--patience", "1", "--learning-rate", "0.3")
    record = json.loads(run("train", "moons", "--device", "interpret", "--epochs", "40", *options, "--json").stdout)
    assert "cosine(0.3, steps=480, warmup=24" in record["optimizer"]  # 600 of the 800 examples, 50 a step
    assert (record["validation"], record["patience"], record["ended"]) == (0.25, 1, "patience")
    losses = [epoch["validation_loss"] for epoch in record["history"]]
    assert record["epoch"] == len(losses) - 1
    assert min(losses) == losses[-2]
    assert 0.5 < record["history"][0]["metrics"]["accuracy"] <= 1.0
    text = run("train", "moons", "--device", "interpret", "--epochs", "40", *options).stdout
    assert "ended after 1 epochs without a better one" in text
    record = json.loads(run("train", "moons", *QUICK, "--schedule", "step", "--json").stdout)
    assert "step_decay(0.01, every=16, factor=0.1)" in record["optimizer"]


def test_a_training_goes_on_from_its_checkpoint():
    args = ("train", "moons", "--device", "interpret", "--json", "--epochs")
    whole = json.loads(run(*args, "5").stdout)
    first = json.loads(run(*args, "2", "--checkpoint", "run.safetensors", "--resume").stdout)
    rest = json.loads(run(*args, "5", "--checkpoint", "run.safetensors", "--resume").stdout)
    assert (first["resumed"], rest["resumed"]) == (0, 2)
    assert [e["loss"] for e in rest["history"]] == [e["loss"] for e in whole["history"]]
    assert rest["metrics"] == whole["metrics"]
    other = run("train", "moons", *QUICK, "--checkpoint", "run.safetensors", "--resume", "--seed", "3", status=1)
    assert "seed: 0 in the file, 3 here" in other.stderr
    Path("run.safetensors").write_text("torn")
    assert "CheckpointError" in run(*args, "5", "--checkpoint", "run.safetensors", "--resume", status=1).stdout
    run("train", "moons", "--resume", status=2)


@pytest.mark.usefixtures("tables")
def test_a_training_goes_on_with_its_own_network_and_table_alone():
    args = ("train", "table.csv", *QUICK, "--target", "price", "--checkpoint", "run.safetensors", "--resume")
    run(*args)
    assert "activation: 'tanh' in the file, 'relu' here" in run(*args, "--activation", "relu", status=1).stderr
    assert "loss: 'mse' in the file, 'huber' here" in run(*args, "--loss", "huber", status=1).stderr
    assert "layers: [" in run(*args, "--hidden", "3", status=1).stderr
    text = Path("table.csv").read_text().splitlines()
    Path("table.csv").write_text("\n".join([text[0], *text[:0:-1]]) + "\n")  # other rows are held out
    assert "mean" in run(*args, status=1).stderr


def test_an_error_of_our_own_keeps_its_traceback(monkeypatch: pytest.MonkeyPatch):
    def bug(*args: Any, **options: Any) -> None:
        raise RuntimeError("a bug")

    monkeypatch.setattr("jitgrad.recipes.fit", bug)
    with pytest.raises(RuntimeError, match="a bug"):
        run("train", "moons")
