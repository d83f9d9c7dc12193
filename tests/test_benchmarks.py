"""The benchmarks run and check what they time; pages and pictures are those of the committed results."""

from __future__ import annotations

import importlib
import json
import os
import re
import shutil
import subprocess
import sys
from collections.abc import Callable, Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from typer.testing import CliRunner

import jitgrad as jg
import jitgrad.cli

ROOT = Path(__file__).resolve().parent.parent
sys.path.insert(0, str(ROOT))                          # benchmarks/ is no part of the installed package

from benchmarks import (  # noqa: E402
    command,
    goals,
    gpu_checks,
    gpu_report,
    gpu_watch,
    peers,
    pictures,
    running,
    scaling,
    tables,
)
from benchmarks.case import Case, Contestant, Setup, Unavailable  # noqa: E402
from benchmarks.cases import CASES  # noqa: E402
from benchmarks.models import scalar_gpt  # noqa: E402

RESULTS = json.loads(command.RESULTS.read_text(encoding="utf-8"))
PAGES = {page.name: page.read_text(encoding="utf-8") for page in command.PAGES}


@pytest.fixture(autouse=True)
def _anew(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    monkeypatch.chdir(ROOT)
    yield
    peers.absent.cache_clear()


# What is committed.

@pytest.mark.parametrize("page", PAGES)
def test_tables_are_those_of_the_committed_results(page: str) -> None:
    assert tables.fill(PAGES[page], RESULTS) == PAGES[page]
    assert "×" in PAGES[page]


# Cases that were added after the committed run; the next whole run has them, and empties this.
AWAITED: list[str] = []


def test_the_committed_results_are_of_one_whole_run() -> None:
    assert set(AWAITED) <= set(CASES)
    assert [record["name"] for record in RESULTS["cases"]] == [name for name in CASES if name not in AWAITED]
    assert not RESULTS["quick"]
    assert not running.failures(RESULTS)


def test_pictures_are_drawn_from_the_committed_results_and_shown() -> None:
    shown = set(re.findall(r"\]\(assets/benchmarks/(\S+)\)", PAGES["benchmarks.md"]))
    assert {path.name for path in command.PICTURES.iterdir()} == shown == {f"{name}.svg" for name in pictures.PICTURES}
    for name in shown:
        text = (command.PICTURES / name).read_text(encoding="utf-8")
        assert pictures.fingerprint(RESULTS) in text, f"{name} was drawn from other results"
        assert len(text) < 100_000


def test_a_report_always_makes_the_same_pictures() -> None:
    once = pictures.draw(RESULTS)
    assert once == pictures.draw(json.loads(json.dumps(RESULTS)))
    assert all(text.startswith("<?xml") and "<dc:date>" not in text for text in once.values())


def test_pictures_can_be_drawn_from_a_part_of_the_cases() -> None:
    part = {**RESULTS, "cases": [record for record in RESULTS["cases"] if record["name"].startswith(("mse", "import"))]}
    assert set(pictures.draw(part)) == {f"{name}.svg" for name in pictures.PICTURES}


def test_a_wrong_marker_is_an_error() -> None:
    with pytest.raises(SystemExit, match="marker is wrong"):
        tables.fill("<!-- benchmarks: no_such_table -->\n<!-- benchmarks end -->", RESULTS)


# Goals.

def test_each_goal_has_a_case_and_a_known_peer() -> None:
    for goal in goals.GOALS:
        assert goal.case in CASES, goal.work
        assert goal.against is None or goal.against in peers.PEERS, goal.work
        assert (goal.against is not None) == (goal.least.kind == "times"), goal.work


def record(name: str, unit: str = "s", items: int = 100, size: float | None = None, **medians: float) -> dict[str, Any]:
    entries = [{"peer": peer, "how": "", "median": m, "low": m, "high": m, "error": 0.0} for peer, m in medians.items()]
    return {"name": name, "title": name, "headline": True, "unit": unit, "items": items, "bytes": size, "flops": None,
            "entries": entries, "failures": [], "skipped": {}}


@pytest.mark.parametrize(("goal", "found", "measured", "verdict"), [
    (goals.Goal("", "a", "JAX", goals.times(2), goals.times(4)), record("a", jitgrad=1.0, JAX=5.0), "5.0×", "aim"),
    (goals.Goal("", "a", "JAX", goals.times(2), goals.times(4)), record("a", jitgrad=1.0, JAX=3.0), "3.0×", "at least"),
    (goals.Goal("", "a", "JAX", goals.times(2), goals.times(4)), record("a", jitgrad=1.0, JAX=1.5), "1.5×", "no"),
    (goals.Goal("", "a", "JAX", goals.times(2), goals.times(4)), record("a", jitgrad=1.0, PyTorch=9.0), "no JAX here", ""),
    (goals.Goal("", "a", "JAX", goals.times(2), goals.COPY), record("a", jitgrad=1.0, JAX=3.0, size=0.7),
     "3.0×, 70% of copy", "at least"),
    (goals.Goal("", "a", None, goals.seconds(2), goals.seconds(1)), record("a", jitgrad=0.5), "500 ms", "aim"),
    (goals.Goal("", "a", None, goals.seconds(1e-6, True), goals.seconds(1e-7, True)), record("a", jitgrad=5e-5), "500 ns",
     "at least"),
    (goals.Goal("", "a", None, goals.mebibytes(64), goals.mebibytes(64)), record("a", "bytes", jitgrad=2.0**27), "128.0 MiB",
     "no"),
    (goals.Goal("", "b", None, goals.seconds(2), goals.seconds(1)), record("a", jitgrad=0.5), "not measured", ""),
])
def test_a_goal_is_judged_by_what_was_measured(goal: goals.Goal, found: dict[str, Any], measured: str, verdict: str) -> None:
    report = {"limits": {"copy_bytes_per_second": 1.0, "sgemm_flops_per_second": 1.0}, "cases": [found]}
    assert tables.goal_row(report, goal)[-2:] == [measured, verdict]


def test_the_binding_limit_is_the_one_that_takes_longer() -> None:
    report = {"limits": {"copy_bytes_per_second": 10.0, "sgemm_flops_per_second": 1000.0}}
    found = {**record("a", jitgrad=4.0, size=20.0), "flops": 500.0}
    assert tables.share(report, found, found["entries"][0]) == (0.5, "copy")
    assert tables.share(report, {**found, "flops": 3000.0}, found["entries"][0]) == (0.75, "sgemm")


# Running.

def few(name: str, n: int, setup: Callable[[int], Setup]) -> Case:
    return Case(name, name, setup, n)


def quick(case: Case) -> tuple[dict[str, Any], str]:
    lines: list[str] = []
    return running.run_case(case, lines.append, running.QUICK), "\n".join(lines)


def assert_sound(report: dict[str, Any]) -> None:
    """Each case has times of jitgrad and of all peers that are here, of right results."""
    for r in report["cases"]:
        assert {"jitgrad"} <= {e["peer"] for e in r["entries"]}, r
        assert not r["failures"]
        assert all(0 <= e["low"] <= e["median"] <= e["high"] and e["error"] <= r["tolerance"] for e in r["entries"]), r
        assert all(peers.absent(peer) for peer in r["skipped"])


def test_a_quick_run_of_a_few_cases_checks_them_and_writes_json(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    patterns = ["mse/16M*", "compile-100", "instructions/micrograd", "rolling/10k", "overhead/1"]
    path = tmp_path / "results.json"
    assert command.main([*patterns, "--quick", "--json", str(path)]) == 0
    report = json.loads(path.read_text(encoding="utf-8"))
    assert [r["name"] for r in report["cases"]] == command.chosen(patterns)
    assert len(report["cases"]) == 6
    assert_sound(report)
    assert {"device", "cores", "load"} <= set(report["machine"])
    assert report["versions"]["jitgrad"]
    assert re.fullmatch(r"unknown|[0-9a-f]{12}(\+changes)?", report["commit"])
    printed = capsys.readouterr()
    assert "The figures mean nothing" in printed.out
    assert "GFLOP/s" in printed.err


@pytest.mark.slow
def test_every_kind_of_case_runs_quickly(tmp_path: Path) -> None:
    """One case of those whose titles differ in numbers alone: at their quick sizes these are alike."""
    kinds = {re.sub(r"[\d,]+", "", case.title): case.name for case in CASES.values()}
    path = tmp_path / "results.json"
    status = command.main([*kinds.values(), "--quick", "--json", str(path)])
    report = json.loads(path.read_text(encoding="utf-8"))
    assert not running.failures(report)
    assert status == 0
    assert len(report["cases"]) == len(kinds) > 25
    assert [r["name"] for r in report["cases"] if not r["entries"]] == []
    assert_sound(report)


def test_json_on_stdout_is_alone_there(capsys: pytest.CaptureFixture[str]) -> None:
    assert command.main(["instructions/micrograd", "--quick", "--json"]) == 0
    report = json.loads(capsys.readouterr().out)
    assert report["quick"]
    assert report["cases"][0]["entries"][0]["median"] > 0


def liar(how: str, answers: Callable[[int], Any], *, fresh: bool = False) -> Contestant:
    calls: list[None] = []

    def run() -> Any:
        calls.append(None)
        return answers(len(calls))
    return Contestant("jitgrad", how, lambda: run, lambda r: [np.asarray(a, np.float64) for a in r], fresh=fresh)


TRUE = (np.array(2.0), np.array([1.0, -3.0]))
HONEST = liar("honest", lambda k: TRUE)
LIES = {
    "a value": liar("liar", lambda k: (2.0 * 1.001, TRUE[1])),
    "an element": liar("liar", lambda k: (2.0, [1.0, -2.99])),
    "NaN in the first array": liar("liar", lambda k: (float("nan"), TRUE[1])),
    "NaN in the last array": liar("liar", lambda k: (2.0, [float("nan"), -3.0])),
    "a shape": liar("liar", lambda k: (2.0, [1.0, -3.0, 0.0])),
    "from the second call on": liar("liar", lambda k: TRUE if k == 1 else (2.0, [0.0, 0.0])),
    "in a fresh run": liar("liar", lambda k: (2.1, TRUE[1]), fresh=True),
}


@pytest.mark.parametrize("what", LIES)
def test_a_wrong_result_is_reported_and_not_timed(what: str) -> None:
    found, said = quick(few("lie", 1, lambda n: Setup((LIES[what], HONEST), TRUE, 1e-4)))
    assert [f["how"] for f in found["failures"]] == ["liar"]
    assert [e["how"] for e in found["entries"]] == ["honest"]
    assert re.search("is off by|answers shapes", found["failures"][0]["why"])
    assert "FAILED" in said


def test_a_wrong_result_of_a_real_case_is_found() -> None:
    """One case, its expected gradient moved by a thousandth: every contestant is then wrong."""
    def moved(n: int) -> Setup:
        setup = CASES["hinge/1M"].setup(n)
        return replace(setup, expected=(setup.expected[0], setup.expected[1] * 1.001))
    found, _ = quick(few("hinge", 500, moved))
    assert found["entries"] == []
    assert {f["peer"] for f in found["failures"]} == {"jitgrad", "JAX", "PyTorch", "Dr.Jit"} - set(found["skipped"])


def test_a_contestant_that_raises_is_reported_and_the_others_go_on() -> None:
    def late(k: int) -> Any:
        if k > 3:
            raise ValueError("tired")
        return TRUE
    found, _ = quick(few("raise", 1, lambda n: Setup((liar("late", late), HONEST), TRUE, 1e-4)))
    assert [e["how"] for e in found["entries"]] == ["honest"]
    assert found["failures"] == [{"peer": "jitgrad", "how": "late", "why": "ValueError: tired"}]


def test_a_failing_case_does_not_end_the_run_but_its_exit_status_says_so(
        monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    def broken(n: int) -> Setup:
        raise RuntimeError("no data")
    honest = few("honest", 1, lambda n: Setup((HONEST,), TRUE, 1e-4))
    for module in (command, running):
        monkeypatch.setattr(module, "CASES", {"broken": few("broken", 1, broken), "honest": honest})
    assert command.main(["--quick"]) == 1
    printed = capsys.readouterr()
    assert "FAILED broken: preparing the case: RuntimeError: no data" in printed.err
    assert "| honest |" in printed.out


def test_an_absent_peer_is_skipped_by_name_with_the_reason(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(peers.PEERS, "PyTorch", "no_such_package")
    peers.absent.cache_clear()
    found, said = quick(few("mse", 500, CASES["mse/1M"].setup))
    assert found["skipped"]["PyTorch"] == "not installed"
    assert "PyTorch    skipped: not installed" in said
    assert not found["failures"]
    assert "jitgrad" in {e["peer"] for e in found["entries"]}


def test_what_cannot_be_measured_here_is_skipped() -> None:
    def make() -> Any:
        raise Unavailable("only on Linux")
    found, _ = quick(few("memory", 1, lambda n: Setup((Contestant("jitgrad", "", make, list),), (), 0.0)))
    assert found["skipped"] == {"jitgrad": "only on Linux"}
    assert not found["failures"]


def test_figures_other_than_time_are_read_from_the_result() -> None:
    def setup(n: int) -> Setup:
        fresh = replace(HONEST, how="fresh", reading=lambda r: 8.0, fresh=True)
        return Setup((replace(HONEST, reading=lambda r: 7.0), fresh), TRUE, 1e-4)
    found, _ = quick(few("figures", 1, setup))
    assert [e["median"] for e in found["entries"]] == [7.0, 8.0]


def test_write_refuses_anything_but_a_whole_run(tmp_path: Path, monkeypatch: pytest.MonkeyPatch,
                                                capsys: pytest.CaptureFixture[str]) -> None:
    monkeypatch.setattr(command, "RESULTS", tmp_path / "cpu.json")
    monkeypatch.setattr(command, "PAGES", ())
    monkeypatch.setattr(command, "PICTURES", tmp_path / "pictures")
    monkeypatch.setattr(command, "CASES", {name: case for name, case in CASES.items() if name not in AWAITED})
    with pytest.raises(SystemExit) as ended:
        command.main(["mse", "--write"])
    assert ended.value.code == 2
    part = tmp_path / "part.json"
    part.write_text(json.dumps({**RESULTS, "cases": RESULTS["cases"][:3]}), encoding="utf-8")
    assert command.main(["--write", "--from", str(part)]) == 1
    assert "wrote nothing into the checkout" in capsys.readouterr().err
    assert not (tmp_path / "cpu.json").exists()
    assert command.main(["--write", "--from", str(ROOT / "benchmarks" / "results" / "cpu.json")]) == 0
    assert json.loads((tmp_path / "cpu.json").read_text(encoding="utf-8")) == RESULTS
    assert len(list((tmp_path / "pictures").iterdir())) == len(pictures.PICTURES)


def test_cases_are_picked_by_name_pattern_or_beginning() -> None:
    assert command.chosen([]) == list(CASES)
    assert command.chosen(["overhead/1"]) == ["overhead/1"]
    assert command.chosen(["overhead"]) == ["overhead/1", "overhead/100"]
    assert command.chosen(["*/16M", "import"]) == ["mse/16M", "hinge/16M", "bce/16M", "import"]
    assert command.chosen(["nothing-like-it"]) == []


# The scalar GPT that two of the cases train.

def test_the_scalar_gpt_agrees_with_its_gradient_by_hand() -> None:
    p, tokens = scalar_gpt.model(scalar_gpt.Value), scalar_gpt.spelled("ivy")
    loss = scalar_gpt.loss_of(p, tokens)
    loss.backward()
    value, gradient = scalar_gpt.in_float64({name: np.array(rows) for name, rows in scalar_gpt.numbers().items()}, tokens)
    assert sum(len(row) for rows in p.values() for row in rows) == 4_192
    assert loss.data == pytest.approx(value, abs=1e-14)
    for name, rows in p.items():
        np.testing.assert_allclose([[x.grad for x in row] for row in rows], gradient[name], atol=1e-14)


# `jitgrad bench`.

def test_the_command_passes_everything_on() -> None:
    result = CliRunner().invoke(jitgrad.cli.app, ["bench", "--list"])
    assert result.exit_code == 0
    assert [line.split()[0] for line in result.stdout.splitlines()] == list(CASES)
    assert "--patience" in CliRunner().invoke(jitgrad.cli.app, ["bench", "--help"]).output
    assert CliRunner().invoke(jitgrad.cli.app, ["bench", "no-such-case"]).exit_code == 2


def test_without_a_checkout_it_says_where_to_get_one(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(jitgrad.cli.machine, "__file__", str(tmp_path / "site" / "jitgrad" / "cli" / "machine.py"))
    monkeypatch.chdir(tmp_path)
    result = CliRunner().invoke(jitgrad.cli.app, ["bench", "--list"])
    assert result.exit_code == 1
    assert "benchmarks are not installed" in result.output
    assert "checkout" in result.output


@pytest.mark.slow
def test_an_installed_jitgrad_is_measured_from_a_checkout(tmp_path: Path) -> None:
    package = Path(importlib.import_module("jitgrad").__file__ or "").parent
    shutil.copytree(package, tmp_path / "jitgrad", ignore=shutil.ignore_patterns("__pycache__"))
    # -P: not the jitgrad of the folder the command is given in.
    words = ["-P", "-m", "jitgrad", "bench", "instructions/micrograd", "memory/mlp", "--quick", "--json"]
    run = subprocess.run([sys.executable, *words], cwd=ROOT, env={**os.environ, "PYTHONPATH": str(tmp_path)},
                         capture_output=True, text=True, check=False)
    assert run.returncode == 0, run.stderr
    report = json.loads(run.stdout)
    assert report["commit"] == "unknown"
    assert [r["name"] for r in report["cases"]] == ["instructions/micrograd", "memory/mlp"]


# Scaling over Dask's workers, a command and a page of its own.

def test_scaling_runs_checks_and_prints_its_tables(capsys: pytest.CaptureFixture[str]) -> None:
    assert scaling.main(["--quick"]) == 0
    printed = capsys.readouterr().out
    assert "the same bits" in printed
    assert "| 400 |" in printed
    assert "steps/s of 4,000 examples" in printed


def test_the_scaling_page_is_that_of_the_committed_results() -> None:
    page, report = scaling.PAGE.read_text(encoding="utf-8"), json.loads(scaling.RESULTS.read_text(encoding="utf-8"))
    assert scaling.fill(page, report) == page
    assert not report["quick"]
    assert report["checked"]["relative_error"] <= scaling.TOLERANCE


def test_the_cost_model_finds_the_costs_it_was_made_from() -> None:
    rows = [{"workers": w, "examples": n, "partitions": p, "median": 50e-9 * n / w + 1e-3 * p + 5e-3}
            for w in (1, 2) for n in (1e4, 1e6) for p in (2, 8)]
    found = scaling.model(rows)
    assert (found["example_ns"], found["task_ms"], found["step_ms"]) == (50.0, 1.0, 5.0)


# A process of a report of five cases, each by what becomes of it: done, failed and the GPU with it, hung, or dead.
PROCESS = """
import json, os, sys, time
path, *fates = sys.argv[1:]
def save():
    with open(path + ".new", "w") as file:
        json.dump(record, file)
    os.replace(path + ".new", path)
record = json.load(open(path))
for number in range(record["done"], len(fates)):
    if fates[number] == "unstartable":
        sys.exit(1)
    record["under way"] = f"case {number}"
    save()
    if fates[number] == "hangs":
        time.sleep(60)
    if fates[number] == "dies":
        os.abort()
    if fates[number] == "faults":
        record["failures"].append({"name": f"case {number}", "why": "a fault", "at": "here"})
    record["done"] = number + 1
    record["right"].append([number, os.getpid()])
    save()
    if fates[number] == "faults":
        sys.exit(3)
"""


@pytest.mark.parametrize(("fates", "failed", "processes"), [
    (["done"] * 3, {}, 1),
    (["done", "faults", "done"], {"case 1": "a fault"}, 2),
    (["dies", "done", "done"], {"case 0": "ended with status -6"}, 1),
    (["done", "hangs", "done"], {"case 1": "was stopped"}, 2),
    (["done", "done", "hangs"], {"case 2": "was stopped"}, 1),
    (["unstartable"], {"": "ended with status 1"}, 0),
], ids=lambda x: " ".join(x) if isinstance(x, list) else "")
def test_a_gpu_report_goes_on_past_what_is_lost(fates: list[str], failed: dict[str, str], processes: int, tmp_path: Path,
                                                monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(gpu_watch, "PATIENCE", 2.0)
    said: list[str] = []
    report = gpu_report.Report(False, 60.0, said.append, tmp_path / "gpu.json")
    report.save()
    gpu_watch.watch(lambda _: [sys.executable, "-c", PROCESS, str(report.path), *fates], report, 60.0)
    assert report.record["done"] == (0 if processes == 0 else len(fates))
    assert [number for number, _ in report.record["right"]] == [
        k for k, fate in enumerate(fates) if fate in ("done", "faults")]
    assert len({process for _, process in report.record["right"]}) == processes
    assert [f["name"] for f in report.record["failures"]] == list(failed)
    for failure in report.record["failures"]:
        assert failed[failure["name"]] in failure["why"]


def test_a_gpu_report_ends_when_its_time_is_up(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(gpu_watch, "GRACE", 1.0)
    report = gpu_report.Report(False, 0.0, lambda _: None, tmp_path / "gpu.json")
    report.save()
    gpu_watch.watch(lambda left: [sys.executable, "-c", PROCESS, str(report.path), "hangs", "done"], report, 1.0)
    assert [f["name"] for f in report.record["failures"]] == ["case 0"]
    assert "was stopped" in report.record["failures"][0]["why"]
    assert report.record["done"] == 1, "no process comes after it"


@pytest.mark.parametrize("name", gpu_checks.families())
def test_every_kind_of_kernel_of_the_gpu_report_is_a_program(name: str) -> None:
    made, arguments = gpu_checks.families()[name]
    fun, options = made()
    given = arguments(np.random.default_rng(0), 2, np.float32)
    assert jg.value_and_grad(fun, device="interpret", **options).lower(*given).program.batched
