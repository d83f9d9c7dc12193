"""The command line, run in this process (fast) and once as the user's command."""

from __future__ import annotations

import json
import re
import subprocess
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from typer.testing import CliRunner

import jitgrad.cli
from jitgrad import backends, discover
from jitgrad.cli import app
from jitgrad.errors import ArgumentError

ROOT = Path(__file__).resolve().parent.parent


@pytest.fixture(autouse=True)
def _plain_wide_terminal(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    for name in ("FORCE_COLOR", "JITGRAD_DEVICE", "GITHUB_ACTIONS"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setenv("COLUMNS", "200")
    monkeypatch.setenv("NO_COLOR", "1")
    monkeypatch.chdir(tmp_path)  # a command that writes where it should not is seen below


def run(*args: str, status: int = 0) -> Any:
    """Run a command; the exit status must be `status`, and an exception is only ever typer's own exit."""
    result = CliRunner().invoke(app, list(args))
    if result.exception is not None and not isinstance(result.exception, SystemExit):
        raise result.exception
    assert result.exit_code == status, result.output
    return result


QUICK = ("--device", "interpret", "--epochs", "2")


# --- help, version, devices -----------------------------------------------------------------------------------------------


def test_help_names_every_command_and_option():
    text = run("--help").output
    for name in ("train", "demo", "check", "show", "devices", "--version", "Exit status"):
        assert name in text
    text = run("train", "--help").output
    for option in ("--target", "--device", "--epochs", "--batch-size", "--learning-rate", "--hidden", "--seed", "--out",
                   "--report", "--loss", "--json", "moons, digits"):  # fmt: skip
        assert option in text
    assert "FUNCTION_args" in run("check", "--help").output


def test_help_states_the_defaults_that_train_uses():
    from jitgrad.recipes import DIGITS, MOONS, Recipe

    text = " ".join(run("train", "--help").output.replace("│", " ").split())
    widths = [",".join(map(str, recipe.hidden)) for recipe in (MOONS, DIGITS, Recipe())]
    assert "{} for moons, {} for digits, {} for CSV".format(*widths) in text
    epochs = [recipe.epochs for recipe in (MOONS, DIGITS, Recipe())]
    assert "{} for moons, {} for digits, {} for CSV".format(*epochs) in text
    assert f"{MOONS.batch_size} for moons, else {DIGITS.batch_size}" in text
    assert DIGITS.batch_size == Recipe().batch_size
    assert {MOONS.learning_rate, DIGITS.learning_rate, Recipe().learning_rate} == {0.01}


def test_version():
    assert re.fullmatch(r"jitgrad \d+\.\d+\.\d+\S*\n", run("--version").output)


def test_devices_lists_each_backend_with_its_reason_and_autos_rule():
    table = run("devices").output
    record = json.loads(run("devices", "--json").stdout)
    assert [d["name"] for d in record["devices"]] == [d.name for d in backends.devices()]
    for device in backends.devices():
        assert re.search(rf"^{device.name} +{'yes' if device.available else 'no '}", table, re.MULTILINE)
        assert device.detail.split()[0] in table
    assert f"{backends.GPU_WORK:,}" in record["auto"]
    assert record["auto"] in table.replace("\n", " ")


@pytest.mark.parametrize(
    "args",
    [
        (),
        ("fly",),
        ("train",),
        ("train", "moon"),
        ("train", "moons", "--epochs", "0"),
        ("train", "moons", "--epochs", "many"),
        ("train", "moons", "--batch-size", "0"),
        ("train", "moons", "--validation", "1"),
        ("train", "moons", "--patience", "0"),
        ("train", "moons", "--schedule", "linear"),
        ("train", "moons", "--loss", "perceptron"),
        ("train", "moons", "--hidden", "16,x"),
        ("train", "moons", "--hidden", "0"),
        ("train", "moons", "--target", "y"),
        ("train", "table.csv"),
        ("check",),
        ("check", "model.py:f", "--argnums", "x"),
        ("show",),
        ("show", "model.py:f", "--argnums", "x"),
        ("show", "model.py:f", "--form", "wasm"),
    ],
)
def test_a_wrong_command_line_exits_with_2(args: tuple[str, ...]):
    assert "Traceback" not in run(*args, status=2).output


# --- train -----------------------------------------------------------------------------------------------------------------


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
    names = ["loss.png", "boundary.png", "params.npz", "result.json"]
    assert [Path(file) for file in record["files"]] == [Path("new/folder") / name for name in names]
    assert sorted(path.name for path in Path("new/folder").iterdir()) == sorted(names)
    assert [path.name for path in Path().iterdir()] == ["new"]
    for name in names[:2]:
        assert Path("new/folder", name).read_bytes()[:8] == b"\x89PNG\r\n\x1a\n"
    with np.load("new/folder/params.npz") as params:
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
    """Redo the forward pass in NumPy from params.npz and result.json: the reported accuracy must come out."""
    from jitgrad.data import load_moons

    record = json.loads(run("train", "moons", *QUICK, "--out", ".", "--json").stdout)
    inputs, labels = load_moons().test
    with np.load("params.npz") as p:
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
def tables() -> None:
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
        (("--target", "price", "--features", "a,name"), ["DataError", "'row'", "column 'name'", "Line 2"]),
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
        assert result.stdout == ""
        text = result.stderr
    for part in says:
        assert part in text


@pytest.mark.usefixtures("tables")
def test_missing_cells_and_files_are_reported():
    path = Path("table.csv")
    path.write_text(path.read_text().replace("\n", "\n,5,1,0,low,row\n", 1))
    assert "Line 2 has no value in column 'a'" in run(*TRAIN_TABLE[:-1], "--target", "price", status=1).stderr
    assert "No such file" in run("train", "absent.csv", "--target", "y", status=1).stderr


def test_an_unusable_folder_is_reported_before_the_training(monkeypatch: pytest.MonkeyPatch):
    Path("file").write_text("")
    monkeypatch.setattr("jitgrad.recipes.run", lambda *args, **options: pytest.fail("it trained"))
    assert "FileExistsError" in run("train", "moons", "--out", "file", status=1).stderr


def test_an_interrupt_exits_with_130_and_writes_nothing(monkeypatch: pytest.MonkeyPatch):
    def interrupt(*args: Any, **options: Any) -> None:
        raise KeyboardInterrupt

    monkeypatch.setattr("jitgrad.recipes.fit", interrupt)
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


def test_an_error_of_our_own_keeps_its_traceback(monkeypatch: pytest.MonkeyPatch):
    def bug(*args: Any, **options: Any) -> None:
        raise RuntimeError("a bug")

    monkeypatch.setattr("jitgrad.recipes.fit", bug)
    with pytest.raises(RuntimeError, match="a bug"):
        run("train", "moons")


# --- check -----------------------------------------------------------------------------------------------------------------

MODEL = """
import neighbour
import numpy as np
import jitgrad as jg
from jitgrad import losses

X, Y = np.random.default_rng(0).normal(size=(2, 6))
WEIGHTS = {"w": 0.5, "b": neighbour.BIAS}
example_args = (WEIGHTS, X, Y)


def objective(params, x, y):
    return losses.mse(jg.tanh(params["w"] * x) + params["b"], y)


def margin(params, x, label):
    return losses.hinge(params["w"] * x, label)


def margin_args():
    return WEIGHTS, X, np.sign(Y)


def listed(params, x):
    return params * x


listed_args = [1.0, X]


def failing(params):
    return params


def failing_args():
    return 1 // 0


def wobble(params, x, y):
    if x > 0:
        return x
    return y


_hidden = 3
"""

SCALARS = """
import jitgrad as jg
def smooth(a, b, c=2.0):
    return jg.exp(a) * jg.sin(b) + c
def variadic(*values):
    return values[0]
"""


@pytest.fixture
def model() -> None:
    Path("models").mkdir()
    Path("models/model.py").write_text(MODEL)
    Path("models/neighbour.py").write_text("BIAS = 0.25\n")
    Path("scalars.py").write_text(SCALARS)


@pytest.mark.usefixtures("model")
def test_check_takes_its_arguments_from_the_file():
    text = run("check", "models/model.py:objective").stdout
    assert "models/model.py:objective agrees" in text
    assert "model.py: example_args" in text
    assert "params['w']" in text
    assert "margin_args" in run("check", "models/model.py:margin").stdout
    assert str(Path("models").absolute()) not in sys.path
    assert "model" not in sys.modules  # its own name stays free for others


@pytest.mark.usefixtures("model")
def test_check_makes_scalars_from_the_signature():
    record = json.loads(run("check", "scalars.py:smooth", "--json", "--seed", "3").stdout)
    assert record["ok"]
    assert record["target"] == "scalars.py:smooth"
    assert "8 random examples of 2 scalars" in record["arguments"]
    assert "a" in record["report"]
    assert "b" in record["report"]
    subject = discover.find("scalars.py:smooth", seed=3)
    assert (subject.argnums, subject.in_axes, len(subject.args)) == ((0, 1), (0, 0), 2)
    assert not np.array_equal(subject.args[0], discover.find("scalars.py:smooth", seed=4).args[0])


@pytest.mark.usefixtures("model")
def test_argnums_chooses_what_is_differentiated():
    assert discover.find("models/model.py:objective", (1, 2)).argnums == (1, 2)
    assert discover.find("scalars.py:smooth", (1,)).argnums == (1,)
    record = json.loads(run("check", "scalars.py:smooth", "--argnums", "1", "--device", "interpret", "--json").stdout)
    assert "∂/∂b" in record["report"]
    assert "∂/∂a" not in record["report"]
    assert "device interpret" in record["report"]


@pytest.mark.usefixtures("model")
def test_check_fails_with_1_when_the_referee_disagrees():
    from jitgrad.compiler.graph import OPS, vjp_graph

    sin = OPS["sin"]
    right = sin.vjp
    object.__setattr__(sin, "vjp", lambda g, out, x: (g * out,))  # frozen, and sin' is not sin
    vjp_graph.cache_clear()
    try:
        result = run("check", "scalars.py:smooth", status=1)
        record = json.loads(run("check", "scalars.py:smooth", "--json", status=1).stdout)
    finally:
        object.__setattr__(sin, "vjp", right)
        vjp_graph.cache_clear()
    assert result.stderr.startswith("GradientError")
    assert re.search(r"\bb\b", result.stderr)  # the argument of the sine
    assert (record["ok"], record["error"]["type"]) == (False, "GradientError")
    run("check", "scalars.py:smooth")


@pytest.mark.parametrize(
    ("target", "says"),
    [
        ("models/model.py", ["FILE:FUNCTION"]),
        (":objective", ["FILE:FUNCTION"]),
        ("absent.py:objective", ["no such file", "absent.py"]),
        ("models/model.py:objectiv", ["no function 'objectiv'", "objective, margin"]),
        ("models/model.py:X", ["no function 'X'"]),
        ("models/model.py:listed", ["listed_args must be a tuple", "not list"]),
        ("models/model.py:failing", ["ZeroDivisionError", "model.py:36:  return 1 // 0"]),
        ("models/model.py:wobble", ["TraceError", "model.py", "if x > 0"]),
        ("scalars.py:variadic", ["variadic_args"]),
        ("broken.py:f", ["SyntaxError", "broken.py"]),
        ("raises.py:f", ["KeyError", "raises.py:2:  {}['x']"]),
        ("text.txt:f", [".py"]),
    ],
)
@pytest.mark.usefixtures("model")
def test_check_says_what_is_wrong_with_its_target(target: str, says: list[str]):
    Path("broken.py").write_text("def f(:\n")
    Path("raises.py").write_text("import math\n{}['x']\n")
    Path("text.txt").write_text("f = 1\n")
    result = run("check", target, status=1)
    assert "Traceback" not in result.output
    for part in says:
        assert part in result.stderr


# --- show -----------------------------------------------------------------------------------------------------------------


@pytest.mark.usefixtures("model")
def test_show_prints_graph_tape_cost_and_roofline():
    text = run("show", "models/model.py:objective", "--device", "interpret").stdout
    for part in ("lowered for interpret", "model.py: example_args", "params['w']", "one an example", "\ngraph (the loss:",
                 "\ntape (rolled up", "cost of one example", "roofline", "of the roof", "flops a byte"):  # fmt: skip
        assert part in text, part
    assert re.search(r"model\.py:\d+: ", text)  # the user's lines beside the nodes
    assert list(Path().glob("*.svg")) == []


@pytest.mark.usefixtures("model")
def test_show_prints_one_form_whole():
    import jitgrad as jg

    subject = discover.find("scalars.py:smooth")
    lowered = jg.value_and_grad(subject.function, subject.argnums, subject.in_axes).lower(*subject.args)
    for form in ("graph", "tape"):
        assert run("show", "scalars.py:smooth", "--form", form).stdout == lowered.as_text(form) + "\n"
    assert "define " in run("show", "scalars.py:smooth", "--form", "llvm", "--device", "cpu").stdout
    assert "jitgrad_body" in run("show", "scalars.py:smooth", "--form", "asm").stdout
    assert run("show", "scalars.py:smooth", "--form", "jaxpr").stdout.count("lambda")
    assert "has no form 'asm'" in run("show", "scalars.py:smooth", "--form", "asm", "--device", "interpret", status=1).output


@pytest.mark.usefixtures("model")
def test_show_compiles_for_a_gpu_that_is_not_there():
    pytest.importorskip("numba_cuda")
    assert ".target sm_" in run("show", "scalars.py:smooth", "--form", "ptx").stdout
    text = run("show", "scalars.py:smooth", "--device", "cuda").stdout
    assert "lowered for cuda" in text
    assert "state the machine's limits with --limits" in text
    stated = run("show", "scalars.py:smooth", "--device", "cuda", "--limits", "4.8e12,67e12", "--no-measure").stdout
    assert "4.8 TB/s" in stated
    assert "It took" not in stated


@pytest.mark.usefixtures("model")
def test_show_as_json():
    command = ("show", "models/model.py:objective", "--device", "interpret", "--limits", "1e10,1e11", "--json")
    record = json.loads(run(*command, "--form", "tape").stdout)
    assert record["ok"] is True
    assert record["cost"]["flops"] > 0
    assert record["tape"].startswith("rows 0:")
    assert {leaf["path"]: leaf["shared"] for leaf in record["leaves"]}["params['w']"] is True
    found = record["roofline"]
    assert found["bound"] in ("memory", "arithmetic")
    assert found["share"] == pytest.approx(found["floor_seconds"] / found["seconds"])
    assert found["flops_per_byte"] == pytest.approx(record["cost"]["flops"] / record["cost"]["bytes"])
    still = json.loads(run(*command, "--no-measure").stdout)
    assert still["roofline"]["seconds"] is None
    assert {**still, "roofline": None} == {**record, "roofline": None}
    assert json.loads(run(*command, "--limits", "fast", status=1).stdout)["ok"] is False


@pytest.mark.usefixtures("model")
def test_show_draws_the_tape():
    run("show", "scalars.py:smooth", "--device", "interpret", "--no-measure", "--draw", "tape.svg")
    assert Path("tape.svg").read_text(encoding="utf-8").startswith("<svg")
    assert ".svg, .html or .dot" in run("show", "scalars.py:smooth", "--draw", "tape.gif", status=1).output
    assert "no function 'nothing'" in run("show", "scalars.py:nothing", status=1).output
    assert "reduce must be" in run("show", "scalars.py:smooth", "--reduce", "max", status=1).output
    run("show", "scalars.py:smooth", "--reduce", "none", "--no-measure", "--draw", "tape.dot")
    assert "d / d a" in Path("tape.dot").read_text(encoding="utf-8")


def test_a_module_that_was_loaded_before_is_left_alone():
    Path("json.py").write_text("def f(x):\n    return x * x\n")
    with pytest.raises(ArgumentError, match="no function 'g'"):
        discover.find("json.py:g")
    assert sys.modules["json"] is json


# --- the whole command ---------------------------------------------------------------------------------------------------


def test_the_module_runs_as_a_command_and_imports_lazily(tmp_path: Path):
    code = (
        "import sys, jitgrad.cli\n"
        f"heavy = {['numba', 'llvmlite', 'jax', 'sklearn', 'scipy', 'matplotlib']}\n"
        "assert not [name for name in heavy if name in sys.modules]\n"
        "jitgrad.cli.main()\n"
    )
    done = subprocess.run([sys.executable, "-W", "error", "-c", code, "devices", "--json"], cwd=ROOT,
                          capture_output=True, text=True, check=True)  # fmt: skip
    assert json.loads(done.stdout)["ok"]
    failed = subprocess.run([sys.executable, "-m", "jitgrad", "check", "absent.py:f"], cwd=ROOT, capture_output=True,
                            text=True)  # fmt: skip
    assert (failed.returncode, failed.stdout) == (1, "")
    assert failed.stderr.startswith("ArgumentError: There is no such file.")


def test_demo_reaches_its_accuracies_in_time():
    """The issue's promise, on the default device: under 60 seconds, digits at 0.96 or better."""
    text = run("demo", "--out", "pictures").stdout
    moons, digits = (float(found) for found in re.findall(r"held-out accuracy: ([\d.]+)%", text))
    assert moons >= 95.0
    assert digits >= 96.0
    seconds = [float(found) for found in re.findall(r"steps in ([\d.]+) s", text)]
    assert len(seconds) == 2
    assert sum(seconds) < 60
    pictures = sorted(path.name for path in Path("pictures").glob("*.png"))
    assert pictures == ["digits-loss.png", "moons-boundary.png", "moons-loss.png"]
    for name in pictures:
        assert 10_000 < Path("pictures", name).stat().st_size < 1_000_000
    record = json.loads(Path("pictures/digits-result.json").read_text())
    assert record["layers"] == [64, 32, 10]
    assert record["examples"] == {"train": 1437, "test": 360}
    losses = [epoch["loss"] for epoch in record["history"]]
    assert losses[0] > 1.0 > 0.05 > losses[-1]


def test_main_is_the_installed_command(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]):
    monkeypatch.setattr(sys, "argv", ["jitgrad", "--version"])
    with pytest.raises(SystemExit) as caught:
        jitgrad.cli.main()
    assert caught.value.code == 0
    assert capsys.readouterr().out.startswith("jitgrad ")
