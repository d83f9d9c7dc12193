"""The command line as a whole: help, version, exit statuses, completion, and once as the user's command."""

from __future__ import annotations

import json
import os
import re
import subprocess
import sys
from pathlib import Path

import pytest
from command import QUICK, run
from typer.testing import CliRunner

import jitgrad.cli
from jitgrad import backends
from jitgrad.cli import machine

ROOT = Path(__file__).resolve().parent.parent

COMMANDS = ("train", "predict", "sweep", "demo", "check", "show", "devices", "bench", "cache")

pytestmark = pytest.mark.usefixtures("shell")


# --- help, version, devices -----------------------------------------------------------------------------------------------


def test_help_names_every_command_and_option():
    text = run("--help").output
    for name in (*COMMANDS, "--version", "Exit status"):
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
    assert "{} for moons, {} for digits, {} for a table".format(*widths) in text
    epochs = [recipe.epochs for recipe in (MOONS, DIGITS, Recipe())]
    assert "{} for moons, {} for digits, {} for a table".format(*epochs) in text
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
        ("predict",),
        ("predict", "model.safetensors"),
        ("sweep", "moons"),
        ("sweep", "moons", "--grid", "seed=0..1", "--validation", "0"),
        ("check",),
        ("check", "model.py:f", "--argnums", "x"),
        ("show",),
        ("show", "model.py:f", "--argnums", "x"),
        ("show", "model.py:f", "--form", "wasm"),
    ],
)
def test_a_wrong_command_line_exits_with_2(args: tuple[str, ...]):
    assert "Traceback" not in run(*args, status=2).output


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


def test_a_pipe_that_closes_early_is_no_error():
    process = subprocess.Popen([sys.executable, "-m", "jitgrad", "devices"], cwd=ROOT, stdout=subprocess.PIPE,
                               stderr=subprocess.PIPE, text=True)  # fmt: skip
    assert process.stdout is not None
    process.stdout.close()  # as `| head` does
    assert process.stderr is not None
    with process.stderr:
        assert process.stderr.read() == ""
    process.wait()


def test_main_is_the_installed_command(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]):
    monkeypatch.setattr(sys, "argv", ["jitgrad", "--version"])
    with pytest.raises(SystemExit) as caught:
        jitgrad.cli.main()
    assert caught.value.code == 0
    assert capsys.readouterr().out.startswith("jitgrad ")


MODEL = "import jitgrad as jg\ndef square(w, x):\n    return (w * x) ** 2\n"


@pytest.mark.parametrize("command", [
    ("train", "table.csv", "--target", "y", *QUICK), ("predict", "model", "table.csv"),
    ("sweep", "table.csv", "--target", "y", "--grid", "seed=0..1", *QUICK),
    ("check", "model.py:square", "--device", "interpret"),
    ("show", "model.py:square", "--device", "interpret", "--no-measure"),
    ("devices",), ("cache", "info"), ("cache", "clear")], ids=lambda command: command[0])
def test_each_command_prints_one_json_object_and_nothing_else(command: tuple[str, ...], monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setenv("JITGRAD_CACHE_DIR", str(Path("kept").absolute()))
    Path("table.csv").write_text("x,y\n" + "".join(f"{k * k},{k / 7}\n" for k in range(20)))
    Path("model.py").write_text(MODEL)
    if command[0] == "predict":
        run("train", "table.csv", "--target", "y", *QUICK, "--out", "model")
    result = run(*command, "--json")
    assert json.loads(result.stdout)["ok"] is True
    assert result.stderr == ""


@pytest.mark.parametrize("command", [
    ("train", "absent.csv", "--target", "y"), ("predict", "absent", "absent.csv"), ("sweep", "moons", "--grid", "sead=0"),
    ("check", "absent.py:f"), ("show", "absent.py:f"), ("bench",)], ids=lambda command: command[0])
def test_a_failing_command_says_so_in_json(command: tuple[str, ...], monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr(machine, "__file__", str(Path("site/jitgrad/cli/machine.py").absolute()))  # no checkout around it
    record = json.loads(run(*command, "--json", status=1).stdout)
    assert record["ok"] is False
    assert set(record["error"]) == {"type", "message"}


def test_an_error_of_our_own_is_a_traceback_and_json_too(monkeypatch: pytest.MonkeyPatch):
    def broken() -> None:
        raise KeyError("lost")
    monkeypatch.setattr("jitgrad.backends.devices", broken)
    result = CliRunner().invoke(jitgrad.cli.app, ["devices", "--json"])
    assert isinstance(result.exception, KeyError)
    assert json.loads(result.stdout)["error"] == {"type": "KeyError", "message": "'lost'"}


def test_a_terminal_without_some_letters():
    """Help, a source line and a category that ASCII or Latin-1 cannot write."""
    Path("model.py").write_text("def square(w): return w * w  # größer als Ω\n", encoding="utf-8")
    Path("table.csv").write_text("size,town\n" + "".join(f"{k},{'ΩÄ'[k % 2]}\n" for k in range(20)), encoding="utf-8")

    def ended(*args: str) -> tuple[int, str, str]:
        done = subprocess.run([sys.executable, "-m", "jitgrad", *args], capture_output=True, encoding="latin-1",
                              env={**os.environ, "PYTHONIOENCODING": "latin-1", "PYTHONPATH": str(ROOT)})
        assert "Traceback" not in done.stderr
        return done.returncode, done.stdout, done.stderr
    assert ended("train", "--help")[0] == 0
    status, said, _ = ended("show", "model.py:square", "--no-measure", "--device", "interpret")
    assert status == 0
    assert "größer als ?" in said
    status, said, _ = ended("train", "table.csv", "--target", "town", *QUICK, "--out", "model")
    assert status == 0
    assert "2 classes: Ä, ?" in said
    status, said, error = ended("predict", "model", "table.csv")
    assert (status, said) == (1, "")
    assert "PYTHONUTF8=1" in error


# --- completion -----------------------------------------------------------------------------------------------------------


def complete(shell: str, line: str) -> list[str]:
    """What a shell is told when the tab key is pressed at the end of the line."""
    words = line.split(" ")
    environment = {**os.environ, "_JITGRAD_COMPLETE": f"complete_{shell}", "COMP_WORDS": line,
                   "COMP_CWORD": str(len(words) - 1), "_TYPER_COMPLETE_ARGS": line, "PYTHONPATH": str(ROOT),
                   "_TYPER_COMPLETE_FISH_ACTION": "get-args"}
    code = "import sys; sys.argv[0] = 'jitgrad'; import jitgrad.cli; jitgrad.cli.app(prog_name='jitgrad')"
    done = subprocess.run([sys.executable, "-c", code], env=environment, capture_output=True, text=True, check=True)
    return [line for line in done.stdout.splitlines() if line]


@pytest.mark.parametrize(
    ("line", "completions"),
    [
        ("jitgrad de", ["demo", "devices"]),
        ("jitgrad train ", ["moons", "digits", "folder/", "table.csv"]),
        ("jitgrad train m", ["moons"]),
        ("jitgrad train folder/", ["folder/inner.csv", "folder/model.safetensors/"]),
        ("jitgrad sweep d", ["digits"]),
        ("jitgrad predict model", ["model.safetensors"]),
        ("jitgrad predict model.safetensors t", ["table.csv"]),
        ("jitgrad check m", ["model.py:"]),
        ("jitgrad show absent/", []),
        ("jitgrad train moons --device c", ["cpu", "cuda"]),
        ("jitgrad train moons --loss cross", ["cross_entropy"]),
        ("jitgrad train moons --learn", ["--learning-rate"]),
    ],
)
def test_a_shell_completes_commands_data_sets_files_and_devices(line: str, completions: list[str]):
    for name in ("table.csv", "model.safetensors", "model.py", "other.png", ".hidden.csv"):
        Path(name).touch()
    Path("folder/model.safetensors").mkdir(parents=True)
    Path("folder/inner.csv").touch()
    assert complete("bash", line) == completions


@pytest.mark.parametrize("shell", ["zsh", "fish"])
def test_other_shells_are_told_the_same(shell: str):
    told = "\n".join(complete(shell, "jitgrad train moons --device c"))
    assert "cpu" in told
    assert "cuda" in told
    assert "interpret" not in told


@pytest.mark.parametrize(("shell", "begins"), [("bash", "complete -o default -F"), ("zsh", "#compdef jitgrad"),
                                               ("fish", "complete --command jitgrad")])
def test_show_completion_prints_a_script(shell: str, begins: str, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr("shellingham.detect_shell", lambda *_: (shell, f"/bin/{shell}"))
    result = CliRunner().invoke(jitgrad.cli.app, ["--show-completion"], prog_name="jitgrad")
    assert result.exit_code == 0
    assert begins in result.output
    assert "_JITGRAD_COMPLETE" in result.output
