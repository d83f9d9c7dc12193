"""Parameters on disk and trainings that go on: the same bits, and an error for every file that is not whole or not ours."""

from __future__ import annotations

import contextlib
import dataclasses
import json
import os
import pickle
import random
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import pytest
from safetensors.numpy import load_file, save_file
from test_loop import examples, model, one_by_one, parameters

import jitgrad as jg
from jitgrad import checkpoint, errors, optim, resume


class Pair(NamedTuple):
    a: Any
    b: Any


@dataclasses.dataclass
class Layer:
    W: Any
    bias: Any


def tree() -> dict[Any, Any]:
    return {"layers": [Layer(np.arange(6.0, dtype=np.float32).reshape(2, 3), np.float32(0.5)), Layer(np.eye(2), 1.5)],
            "pair": Pair(np.zeros((0, 3)), (np.array(7), True, 3)), 3: np.arange(4)[::2], "nothing": None, "a/b~c": {},
            "half": np.ones(2, np.float16), "columns": np.asfortranarray(np.arange(6.0).reshape(2, 3))}


def same(found: Any, expected: Any) -> None:
    assert type(found) is type(expected)
    if isinstance(expected, np.ndarray):
        assert (found.dtype, found.shape) == (expected.dtype, expected.shape)
        np.testing.assert_array_equal(found, expected)
    elif isinstance(expected, dict):
        assert list(found) == list(expected)
        for key in expected:
            same(found[key], expected[key])
    elif isinstance(expected, list | tuple):
        assert len(found) == len(expected)
        for one, two in zip(found, expected, strict=True):
            same(one, two)
    elif dataclasses.is_dataclass(expected):
        same(vars(found), vars(expected))
    else:
        assert found == expected


# --- save and load -----------------------------------------------------------------------------------------------------


def test_what_is_saved_is_loaded(tmp_path: Path):
    path = tmp_path / "model.safetensors"
    jg.save(path, tree(), {"trained": "today", "numbers": [1, 2.5, None]})
    found, metadata = jg.load(path, like=tree())
    same(found, tree())
    assert metadata == {"trained": "today", "numbers": [1, 2.5, None]}
    plain, _ = jg.load(str(path))
    expected = tree()
    expected["layers"] = [vars(layer) for layer in expected["layers"]]
    expected["pair"] = tuple(expected["pair"])
    same(plain, expected)
    assert [file.name for file in tmp_path.iterdir()] == ["model.safetensors"]


def test_other_tools_read_the_arrays_by_their_paths(tmp_path: Path):
    jg.save(tmp_path / "m", {"layers": [{"a/b": np.arange(3.0)}]})
    np.testing.assert_array_equal(load_file(tmp_path / "m")["params/layers/0/a~1b"], np.arange(3.0))


@pytest.mark.parametrize("params", [np.arange(3.0), 1.5, [], {}])
def test_a_lone_leaf_and_an_empty_tree(params: Any, tmp_path: Path):
    jg.save(tmp_path / "m", params)
    same(jg.load(tmp_path / "m")[0], params)
    same(jg.load(tmp_path / "m", like=params)[0], params)


@pytest.mark.parametrize(("params", "says"), [
    ({"w": "text"}, "params/w"), ({"w": np.array([1j])}, "complex128"), ({"w": np.array([None])}, "object"),
    ({(1, 2): 1.0}, "key"), ({0: 1.0, "0": 2.0}, "same place"), ({"w": {1.0, 2.0}}, "set"), ({"w": 2**70}, "int")])
def test_what_cannot_be_stored_is_named_and_nothing_is_written(params: Any, says: str, tmp_path: Path):
    with pytest.raises(errors.ArgumentError, match=says):
        jg.save(tmp_path / "m", params)
    with pytest.raises(errors.ArgumentError, match="JSON"):
        jg.save(tmp_path / "m", {}, {"model": object()})
    assert not list(tmp_path.iterdir())


@pytest.mark.parametrize(("like", "says"), [
    ({"w": np.zeros(3), "v": 0.0}, "params/v is not in the file"), ({}, "params/w is only in the file"),
    ({"w": np.zeros(4)}, r"params\['w'\] is float64\[4\], and in the file float64\[3\]"),
    ({"w": np.zeros(3, np.float32)}, "is float32"), ({"w": [np.zeros(3)]}, "params/w")])
def test_a_file_must_fit_what_it_is_loaded_like(like: Any, says: str, tmp_path: Path):
    jg.save(tmp_path / "m", {"w": np.zeros(3)})
    with pytest.raises(errors.CheckpointError, match=says):
        jg.load(tmp_path / "m", like=like)


def test_every_torn_file_is_refused(tmp_path: Path):
    path = tmp_path / "m"
    jg.save(path, {"w": np.arange(4.0), "b": 1.0})
    whole = path.read_bytes()
    for length in range(len(whole)):
        path.write_bytes(whole[:length])
        with pytest.raises(errors.CheckpointError, match="m\n"):
            jg.load(path)
    path.write_bytes(whole + b"\0")
    with pytest.raises(errors.CheckpointError):
        jg.load(path)
    # Blocks that never reached the disk read as zeros: as long as the file, and wrong.
    path.write_bytes(whole[:-16] + bytes(16))
    with pytest.raises(errors.CheckpointError, match="checksum"):
        jg.load(path)


class Trap:
    def __reduce__(self) -> Any:
        return os.mkdir, ("sprung",)


def test_an_alien_file_is_refused_and_nothing_is_executed(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.chdir(tmp_path)
    Path("pickled").write_bytes(pickle.dumps(Trap()))
    np.savez("arrays.npz", w=np.zeros(3))
    save_file({"w": np.zeros(3)}, "theirs", {"format": "pt"})
    Path("text").write_text("hello\n" * 100)
    for name in ("pickled", "arrays.npz", "theirs", "text"):
        with pytest.raises(errors.CheckpointError, match=name):
            jg.load(name)
    assert not Path("sprung").exists()
    with pytest.raises(FileNotFoundError):
        jg.load("missing")


@pytest.mark.parametrize("change", [
    lambda c: c.update(version=99), lambda c: c.update(trees=[]), lambda c: c.pop("metadata"), lambda c: c.pop("crc32"),
    lambda c: c["trees"].update(params={"leaf": "eval"}), lambda c: c["trees"].update(params={"call": "os.system"}),
    lambda c: c["trees"].update(params={"dict": [["x", {"leaf": "array"}]]}), lambda c: c["trees"].clear(),
    lambda c: c["trees"].update(params=7), lambda c: c["trees"].update(params={"dict": 7})])
def test_metadata_that_are_not_ours_are_refused(change: Any, tmp_path: Path):
    path = tmp_path / "m"
    jg.save(path, {"w": np.arange(4.0)})
    tensors, text = checkpoint._read(str(path))
    content = json.loads(text)
    change(content)
    save_file(tensors, path, {"jitgrad": json.dumps(content)})
    with pytest.raises(errors.CheckpointError):
        jg.load(path)
    save_file(tensors, path, {"jitgrad": "[" * 100_000})
    with pytest.raises(errors.CheckpointError):
        jg.load(path)


@pytest.mark.parametrize("fails", ["fsync", "replace"])
def test_a_write_that_fails_leaves_the_old_file(fails: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    jg.save(tmp_path / "m", {"w": 1.0})

    def full(*_: Any) -> None:
        raise OSError("no space left")
    monkeypatch.setattr(os, fails, full)
    with pytest.raises(OSError, match="no space"):
        jg.save(tmp_path / "m", {"w": 2.0})
    assert jg.load(tmp_path / "m")[0] == {"w": 1.0}
    assert len(list(tmp_path.iterdir())) == 1


# --- trainings that go on ------------------------------------------------------------------------------------------------


def custom() -> optim.Optimizer:
    base = optim.sgd(0.02, momentum=0.9)
    return optim.Optimizer(base.init, base.update, "mine")


OPTIONS: dict[str, dict[str, Any]] = {
    "adam": {}, "momentum": {"optimizer": optim.sgd(0.02, momentum=0.9)}, "whole batches": {"batch_size": None},
    "schedule": {"optimizer": optim.adam(optim.cosine(0.05, steps=40, warmup=5)), "l1": 0.01},
    "custom": {"optimizer": custom()}, "clipped": {"clip_norm": 0.5},
    "patience": {"patience": 4, "validation": 0.3, "optimizer": optim.adam(0.2), "seed": 0}}


def stop_at(number: int) -> Any:
    def callback(epoch: Any, params: Any) -> None:
        if epoch.epoch == number:
            raise RuntimeError("the machine is switched off")
    return callback


def assert_same_training(found: Any, expected: Any) -> None:
    for name in expected.params:
        np.testing.assert_array_equal(found.params[name], expected.params[name])
        assert type(found.params[name]) is type(expected.params[name])
    assert (found.losses, found.validation_losses) == (expected.losses, expected.validation_losses)
    assert (found.steps, found.epoch, found.ended) == (expected.steps, expected.epoch, expected.ended)


@pytest.mark.parametrize("compiled", [True, False], ids=["compiled", "one by one"])
@pytest.mark.parametrize("name", OPTIONS)
def test_a_training_that_goes_on_ends_as_one_that_was_never_stopped(name: str, compiled: bool, tmp_path: Path):
    options = {"epochs": 12, "batch_size": 7, "seed": 3, "progress": False, "device": "cpu", **OPTIONS[name]}
    path = tmp_path / "run.safetensors"

    def run() -> None:
        whole = jg.fit(model, parameters(), examples(30), **options)
        with pytest.raises(RuntimeError, match="switched off"):
            jg.fit(model, parameters(), examples(30), checkpoint=path, callback=stop_at(8), **options)
        assert len(jg.load(path)[1]["history"]) == 7
        found = jg.fit(model, parameters(), examples(30), checkpoint=path, resume=True, **options)
        assert found.resumed == 7
        assert_same_training(found, whole)
        again = jg.fit(model, parameters(), examples(30), checkpoint=path, resume=True, **options)
        assert again.resumed == len(whole.history)
        assert_same_training(again, whole)
        np.testing.assert_array_equal(jg.load(path)[0]["W"], whole.params["W"])
    if compiled:
        run()
    else:
        with one_by_one():
            run()


def test_a_training_goes_on_with_what_the_other_loop_wrote(tmp_path: Path):
    options: dict[str, Any] = {"batch_size": 7, "progress": False, "device": "cpu", "checkpoint": tmp_path / "run"}
    with one_by_one():
        jg.fit(model, parameters(), examples(30), epochs=3, **options)
    found = jg.fit(model, parameters(), examples(30), epochs=6, resume=True, **options)
    assert_same_training(found, jg.fit(model, parameters(), examples(30), epochs=6, batch_size=7, device="cpu"))


def test_float_parameters_and_dataclasses_go_on(tmp_path: Path):
    def line(p: Any, x: Any, y: Any) -> Any:
        return (p.W @ x + p.bias - y) ** 2
    options: dict[str, Any] = {"batch_size": 8, "progress": False, "device": "interpret"}
    for epochs in (2, 5):
        found = jg.fit(line, Layer(np.zeros(3), 0.5), examples(20), epochs=epochs, checkpoint=tmp_path / "run", resume=True,
                       **options)
    whole = jg.fit(line, Layer(np.zeros(3), 0.5), examples(20), epochs=5, **options)
    same(found.params, whole.params)


def test_a_checkpoint_keeps_the_users_own_metadata(tmp_path: Path):
    options: dict[str, Any] = {"checkpoint": tmp_path / "run", "device": "interpret", "progress": False}
    jg.fit(model, parameters(), examples(9), epochs=1, metadata={"run": 1}, **options)
    assert jg.load(tmp_path / "run")[1]["metadata"] == {"run": 1}
    found = jg.fit(model, parameters(), examples(9), epochs=2, resume=True, metadata={"run": 2}, **options)
    assert found.resumed == 1
    assert jg.load(tmp_path / "run")[1]["metadata"] == {"run": 2}
    jg.fit(model, parameters(), examples(9), epochs=1, **options)
    assert "metadata" not in jg.load(tmp_path / "run")[1]
    with pytest.raises(errors.ArgumentError, match="cannot be written as JSON"):
        jg.fit(model, parameters(), examples(9), epochs=1, metadata={"run": {1}}, **options)
    with pytest.raises(errors.ArgumentError, match="kept in a checkpoint"):
        jg.fit(model, parameters(), examples(9), metadata={})


def test_every_says_how_often_and_the_end_is_always_written(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    written: list[int] = []
    write = resume.TrainingFile.write

    def noted(self: Any, trainer: Any, best: Any, generator: Any, history: Any) -> None:
        written.append(len(history))
        write(self, trainer, best, generator, history)
    monkeypatch.setattr(resume.TrainingFile, "write", noted)
    options: dict[str, Any] = {"progress": False, "device": "interpret", "checkpoint": tmp_path / "run"}
    jg.fit(model, parameters(), examples(9), epochs=8, every=3, **options)
    jg.fit(model, parameters(), examples(9), epochs=8, every=5, callback=lambda e, _: e.epoch == 2, **options)
    assert written == [3, 6, 8, 2]


@pytest.mark.parametrize(("change", "says"), [
    ({"optimizer": optim.adam(0.5)}, r"optimizer: 'adam\(0.01.*adam\(0.5"), ({"seed": 1}, "seed: 0 in the file, 1 here"),
    ({"batch_size": 5}, "batch_size: 7 in the file, 5 here"), ({"l2": 0.1}, "penalised"), ({"reduce": "sum"}, "reduce"),
    ({"validation": 0.5}, "validation: False"), ({"patience": 3}, "patience: False"), ({"data": examples(31)}, "data: ")])
def test_another_training_does_not_go_on(change: Any, says: str, tmp_path: Path):
    options: dict[str, Any] = {"data": examples(30), "batch_size": 7, "epochs": 2, "progress": False, "device": "interpret",
                               "checkpoint": tmp_path / "run"}
    jg.fit(model, parameters(), **options)
    with pytest.raises(errors.CheckpointError, match=says):
        jg.fit(model, parameters(), resume=True, **{**options, **change})


def test_other_parameters_and_files_do_not_go_on(tmp_path: Path):
    options: dict[str, Any] = {"epochs": 2, "progress": False, "device": "interpret", "checkpoint": tmp_path / "run"}
    jg.fit(model, parameters(), examples(9), **options)
    with pytest.raises(errors.CheckpointError, match="float32"):
        jg.fit(model, parameters(np.float32), examples(9), **options, resume=True)
    jg.save(tmp_path / "run", parameters())
    with pytest.raises(errors.CheckpointError, match="no training"):
        jg.fit(model, parameters(), examples(9), **options, resume=True)
    (tmp_path / "run").write_bytes(b"torn")
    with pytest.raises(errors.CheckpointError):
        jg.fit(model, parameters(), examples(9), **options, resume=True)
    with pytest.raises(errors.ArgumentError, match="Make its folder"):
        jg.fit(model, parameters(), examples(9), **{**options, "checkpoint": tmp_path / "nowhere" / "run"})
    with pytest.raises(errors.ArgumentError, match="checkpoint"):
        jg.fit(model, parameters(), examples(9), resume=True)
    with pytest.raises(errors.ArgumentError, match="every"):
        jg.fit(model, parameters(), examples(9), **options, every=0)


@pytest.mark.parametrize("change", [{"random": {}}, {"random": None}, {"history": 3}, {"history": []}, {"steps": "x"}])
def test_a_checkpoint_that_describes_no_training_is_refused(change: Any, tmp_path: Path):
    options: dict[str, Any] = {"epochs": 2, "progress": False, "device": "interpret", "checkpoint": tmp_path / "run"}
    jg.fit(model, parameters(), examples(9), **options)
    file = checkpoint.File(tmp_path / "run")
    trees = {name: file.tree(name) for name in ("params", "optimizer")}
    checkpoint.write(tmp_path / "run", trees, {**file.metadata, **change})
    with pytest.raises(errors.CheckpointError, match="describe a training"):
        jg.fit(model, parameters(), examples(9), **options, resume=True)


def test_what_a_killed_process_left_is_removed(tmp_path: Path):
    options: dict[str, Any] = {"epochs": 2, "progress": False, "device": "interpret", "checkpoint": tmp_path / "run[1]"}
    for name in ("run[1].0123abcd.partial", "run[1].mine.partial", "run1.0123abcd.partial"):
        (tmp_path / name).write_text("half")
    jg.fit(model, parameters(), examples(9), **options)
    assert {path.name for path in tmp_path.iterdir()} == {"run[1]", "run[1].mine.partial", "run1.0123abcd.partial"}


# --- kill -9 ---------------------------------------------------------------------------------------------------------------

class Trainings:
    """Processes that train, one at a time; see killed_training.py."""

    def __init__(self) -> None:
        tests = Path(__file__).resolve().parent
        paths = os.pathsep.join([str(tests.parent), str(tests)])
        self._server = subprocess.Popen([sys.executable, "-m", "killed_training"], text=True, stdin=subprocess.PIPE,
                                        stdout=subprocess.PIPE, cwd=tests.parent, env={**os.environ, "PYTHONPATH": paths})

    def start(self, epochs: int, path: Path) -> int:
        """The number of a process that begins to train."""
        assert self._server.stdin is not None
        print(epochs, path, file=self._server.stdin, flush=True)
        return self._said()

    def code(self) -> int:
        """What the process ended with."""
        return self._said()

    def finish(self, epochs: int, path: Path) -> None:
        self.start(epochs, path)
        assert self.code() == 0

    def _said(self) -> int:
        assert self._server.stdout is not None
        return int(self._server.stdout.readline())

    def end(self) -> None:
        self._server.communicate()
        assert self._server.returncode == 0


def runs(process: int) -> bool:
    try:
        os.kill(process, 0)
    except ProcessLookupError:
        return False
    return True


def killed_and_resumed(folder: Path, kills: int, seed: int) -> int:
    """Kill a training at random moments, until `kills` have hit it; it must end as one that ran alone. Returns the hits."""
    draw, epochs, trainings = random.Random(seed), 120, Trainings()
    trainings.finish(epochs, folder / "alone")
    expected, what = jg.load(folder / "alone.end")
    hits = 0
    for number in range(kills):
        path = folder / f"run{number}"
        process = trainings.start(epochs, path)
        wait = draw.uniform(0.0, 0.15)
        began = time.monotonic()
        # From the first checkpoint on, or, one time in four, from the very beginning.
        while number % 4 and not path.exists() and runs(process) and time.monotonic() - began < 60:
            time.sleep(0.002)
        time.sleep(wait)
        with contextlib.suppress(ProcessLookupError):           # it has ended
            os.kill(process, signal.SIGKILL)
        hits += trainings.code() == -signal.SIGKILL and path.exists()
        trainings.finish(epochs, path)
        # What was half written of the checkpoint is gone. (Of the model that `save` wrote it may still lie there.)
        assert not list(folder.glob(f"{path.name}.????????.partial"))
        found, how = jg.load(f"{path}.end")
        assert how["losses"] == what["losses"]
        for name, array in expected.items():
            np.testing.assert_array_equal(found[name], array)
    trainings.end()
    return hits


@pytest.fixture
def folder(tmp_path: Path) -> Iterator[Path]:
    """In memory where that can be: a killed process leaves the same there, and thousands of writes need not reach a disk."""
    memory = Path("/dev/shm")
    with tempfile.TemporaryDirectory(dir=memory if os.access(memory, os.W_OK) else tmp_path) as name:
        yield Path(name)


@pytest.mark.skipif(os.name != "posix", reason="there is no SIGKILL")
def test_a_killed_training_goes_on_to_the_same_bits(folder: Path):
    assert killed_and_resumed(folder, 5, seed=1) >= 1


@pytest.mark.slow
@pytest.mark.skipif(os.name != "posix", reason="there is no SIGKILL")
def test_fifty_killed_trainings_go_on_to_the_same_bits(folder: Path):
    assert killed_and_resumed(folder, 50, seed=2) >= 20
