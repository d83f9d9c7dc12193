"""Files larger than memory: the numbers of the same examples in memory, and never more than a few blocks of them there."""

from __future__ import annotations

import subprocess
import sys
import textwrap
import tracemalloc
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pytest
from hypothesis import given
from hypothesis import strategies as st
from pyarrow import feather, parquet

import jitgrad as jg
from jitgrad import blocks, data, losses, optim, streams
from jitgrad.arguments import flatten
from jitgrad.errors import ArgumentError, DataError, DtypeError, LabelError, ShapeError

RNG = np.random.default_rng(11)
N = 1000
X = RNG.normal(size=(N, 3))
Y = X @ [1.0, -2.0, 0.5] + 0.1 * RNG.normal(size=N)
START = {"w": np.zeros(3), "b": 0.0}


def line(params: Any, x: Any, y: Any) -> Any:
    return losses.mse(params["w"] @ x + params["b"], y)


@pytest.fixture
def small_blocks(monkeypatch: pytest.MonkeyPatch) -> None:
    """Blocks of 64 examples, windows of 320."""
    monkeypatch.setattr(blocks, "BLOCK_BYTES", 64 * 32)
    monkeypatch.setattr(streams, "WINDOW_BYTES", 320 * 32)


def mapped(folder: Path, *arrays: np.ndarray) -> tuple[np.ndarray, ...]:
    paths = [folder / f"{k}.npy" for k in range(len(arrays))]
    for path, array in zip(paths, arrays, strict=True):
        np.save(path, array)
    return data.open_arrays(*paths)


def frame() -> pa.Table:
    return pa.table({"a": X[:, 0], "b": X[:, 1], "c": X[:, 2], "y": Y})


# --- the tree ------------------------------------------------------------------------------------------------------------


@given(st.integers(1, 200), st.sampled_from([2, 4, 16]))
def test_the_tree_adds_neighbours_in_pairs_and_so_do_its_branches(count: int, branch: int):
    """Each level by hand; and whole branches, added up apart, give the same bits."""
    vectors = [RNG.normal(size=3) * 10.0 ** RNG.integers(-8, 8) for _ in range(count)]
    level = vectors
    while len(level) > 1:
        level = [level[k] + level[k + 1] if k + 1 < len(level) else level[k] for k in range(0, len(level), 2)]
    parts = [blocks.Sums(vectors[k:k + branch]).total() for k in range(0, count, branch)]
    np.testing.assert_array_equal(blocks.Sums(vectors).total(), level[0])
    np.testing.assert_array_equal(blocks.Sums(parts).total(), level[0])


# --- calls over memory maps ------------------------------------------------------------------------------------------------


@pytest.mark.usefixtures("small_blocks")
@pytest.mark.parametrize("reduce", ["mean", "sum"])
@pytest.mark.parametrize("transform", [jg.value_and_grad, jg.grad, jg.jit])
def test_a_call_over_memory_maps_is_the_call_in_memory(transform: Callable[..., Any], reduce: str, tmp_path: Path):
    x, y = mapped(tmp_path, X, Y)
    step = transform(line, reduce=reduce)
    params = {"w": np.array([0.5, 0.25, -1.0]), "b": 0.125}
    found, expected = step(params, x, y), step(params, X, Y)
    for one, other in zip(*(flatten(tree)[0] for tree in (found, expected)), strict=True):
        assert type(one) is type(other)
        np.testing.assert_allclose(one, other, rtol=1e-12)


@pytest.mark.usefixtures("small_blocks")
def test_maps_along_another_axis_and_of_another_dtype(tmp_path: Path):
    x, y = mapped(tmp_path, X.T.astype(np.float32).copy(), (Y > 0).astype(np.int8))

    def objective(w: Any, x: Any, y: Any) -> Any:
        return losses.binary_cross_entropy(w @ x, y)
    step = jg.value_and_grad(objective, in_axes=(None, 1, 0))
    w = np.array([0.5, 0.25, -1.0], np.float32)
    found, expected = step(w, x, y), step(w, np.asarray(x), np.asarray(y))
    np.testing.assert_allclose(found[0], expected[0], rtol=1e-6)
    np.testing.assert_allclose(found[1], expected[1], rtol=1e-6)
    assert found[1].dtype == np.float32


def test_maps_of_different_length_are_different_calls(tmp_path: Path):
    step, (x, y) = jg.value_and_grad(line), mapped(tmp_path, X, Y)
    for count in (10, 20):
        np.testing.assert_array_equal(step(START, x[:count], y[:count])[0], step(START, X[:count], Y[:count])[0])


@pytest.mark.usefixtures("small_blocks")
def test_results_for_each_example_are_those_in_memory(tmp_path: Path):
    x, y = mapped(tmp_path, X, Y)
    np.testing.assert_array_equal(jg.jit(line, reduce=None)(START, x, y), jg.jit(line, reduce=None)(START, X, Y))
    own = jg.value_and_grad(lambda w, x: (w - x)**2, in_axes=(0, 0))
    np.testing.assert_array_equal(own(Y, y)[1], own(Y, Y.copy())[1])


@pytest.mark.usefixtures("small_blocks")
def test_a_wrong_label_is_named_by_its_number_in_the_file(tmp_path: Path):
    labels = (Y > 0).astype(float)
    labels[777] = 3.0
    x, y = mapped(tmp_path, X, labels)
    step = jg.value_and_grad(lambda w, x, y: losses.binary_cross_entropy(w @ x, y))
    with pytest.raises(LabelError, match=r"got 3 \(example 777 of"):
        step(np.zeros(3), x, y)
    with pytest.raises(LabelError, match=r"got 3 \(example 777 of"):
        jg.fit(step.fun, np.zeros(3), (x, y), epochs=1, batch_size=10, progress=False)


@pytest.mark.usefixtures("small_blocks")
def test_a_loss_closed_over_values_takes_memory_maps_too(tmp_path: Path):
    x, y = mapped(tmp_path, X, Y)
    found = []
    for args in ((x, y), (X, Y)):
        w = [jg.Value(0.5), jg.Value(-1.0), jg.Value(2.0)]
        loss = jg.batch(lambda x, y, w=w: losses.mse(sum(a * b for a, b in zip(w, x, strict=True)), y))(*args)
        loss.backward()
        found.append([loss.data, *(value.grad for value in w)])
    np.testing.assert_allclose(found[0], found[1], rtol=1e-12)


# --- training --------------------------------------------------------------------------------------------------------------


def fit(given: Any, **options: Any) -> Any:
    return jg.fit(line, START, given, **{"optimizer": optim.sgd(0.05), "epochs": 3, "progress": False, "device": "interpret",
                                         **options})


def sources(folder: Path) -> dict[str, Any]:
    parquet.write_table(frame(), folder / "one.parquet", row_group_size=64)
    parts = folder / "parts"
    parts.mkdir()
    parquet.write_table(frame()[:300], parts / "0.parquet", row_group_size=64)
    feather.write_feather(frame()[300:], str(parts / "1.feather"), chunksize=64)
    return {"npy": mapped(folder, X, Y), "parquet": data.open_table(folder / "one.parquet", "y"),
            "folder": data.open_table(parts, "y")}


@pytest.mark.usefixtures("small_blocks")
@pytest.mark.parametrize("kind", ["npy", "parquet", "folder"])
@pytest.mark.parametrize("reduce", ["mean", "sum"])
def test_full_batches_are_those_in_memory(kind: str, reduce: str, tmp_path: Path):
    found = fit(sources(tmp_path)[kind], reduce=reduce, optimizer=optim.sgd(0.05 / (1 if reduce == "mean" else N)))
    expected = fit((X, Y), reduce=reduce, optimizer=optim.sgd(0.05 / (1 if reduce == "mean" else N)))
    np.testing.assert_allclose(found.params["w"], expected.params["w"], rtol=1e-12)
    np.testing.assert_allclose(found.losses, expected.losses, rtol=1e-12)


@pytest.mark.usefixtures("small_blocks")
@pytest.mark.parametrize("kind", ["npy", "parquet", "folder"])
def test_an_epoch_meets_every_example_once_and_mixes_blocks(kind: str, tmp_path: Path):
    """An objective whose gradient is the batch's mean of x, seen by an optimizer that writes it down."""
    seen: list[np.ndarray] = []

    def update(grads: Any, state: Any, params: Any) -> tuple[Any, Any]:
        seen.append(np.array(grads["w"]))
        return params, state
    spy = optim.Optimizer(lambda params: (), update)

    def linear(params: Any, x: Any, y: Any) -> Any:
        return params["w"] @ x + 0.0 * y
    given = sources(tmp_path)[kind]
    for _ in range(2):
        jg.fit(linear, {"w": np.zeros(3)}, given, optimizer=spy, epochs=2, batch_size=1, progress=False, device="interpret",
               seed=4)
    one, two, *again = (np.array(seen[k:k + N]) for k in range(0, 4 * N, N))
    for epoch in (one, two):
        np.testing.assert_array_equal(np.sort(epoch, axis=0), np.sort(X, axis=0))
    assert not np.array_equal(one, two)
    np.testing.assert_array_equal([one, two], again)
    places = [int(np.flatnonzero((row == X).all(axis=1))[0]) // 64 for row in one[:64]]
    assert len(set(places)) >= 3


class Numbers(streams.Blocked):
    """0, 1, 2, … in blocks of these sizes, beside an array that all of them share."""

    def __init__(self, sizes: list[int]):
        ends = np.cumsum(sizes).tolist()
        self.count, self.arguments, self.example_bytes = ends[-1], 2, 1
        self.bounds = [(end - size, end) for end, size in zip(ends, sizes, strict=True)]

    def read(self, block: int) -> tuple[Any, ...]:
        return np.arange(*self.bounds[block])[None], np.ones(2)

    def axes(self) -> list[int | None]:
        return [1, None]

    def kinds(self) -> list[tuple[str, list[int]]]:
        return []

    def measure(self, metric: Any, params: Any) -> float:
        return 0.0


@given(st.lists(st.integers(1, 9), min_size=1, max_size=12), st.integers(1, 30), st.integers(1, 40), st.integers(0, 9))
def test_batches_of_any_blocks_meet_every_example_once(sizes: list[int], window: int, batch_size: int, seed: int):
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(streams, "WINDOW_BYTES", window)
        steps = list(Numbers(sizes).steps(jg.value_and_grad(line), batch_size, np.random.default_rng(seed)))
    batches = [step.data[0][0].tolist() for step in steps]
    assert sorted(number for batch in batches for number in batch) == list(range(sum(sizes)))
    assert all(len(batch) == step.size == batch_size for batch, step in zip(batches[:-1], steps[:-1], strict=True))
    assert len(batches[-1]) <= batch_size
    for step in steps:
        np.testing.assert_array_equal(step.data[0][0], step.numbers)
        np.testing.assert_array_equal(step.data[1], np.ones(2))


@pytest.mark.usefixtures("small_blocks")
def test_a_file_within_one_window_is_trained_like_its_examples_in_any_order(tmp_path: Path):
    result = fit(mapped(tmp_path, X, Y), batch_size=50, epochs=40)
    np.testing.assert_allclose(result.params["w"], [1.0, -2.0, 0.5], atol=0.05)


@pytest.mark.usefixtures("small_blocks")
def test_validation_and_patience_over_files(tmp_path: Path):
    others = (X[:200], Y[:200])
    (tmp_path / "v").mkdir()
    expected = fit((X, Y), validation=others).validation_losses
    for validation in (mapped(tmp_path / "v", *others), others):
        found = fit(mapped(tmp_path, X, Y), validation=validation)
        np.testing.assert_allclose(found.validation_losses, expected, rtol=1e-12)
    table = sources(tmp_path)["parquet"]
    expected = fit((X, Y), validation=(X, Y)).validation_losses
    np.testing.assert_allclose(fit(table, validation=table).validation_losses, expected, rtol=1e-12)


@pytest.mark.usefixtures("small_blocks")
@pytest.mark.parametrize("kind", ["npy", "parquet"])
def test_a_training_goes_on_from_its_checkpoint_to_the_same_bits(kind: str, tmp_path: Path):
    given, path = sources(tmp_path)[kind], tmp_path / "run"
    options = {"batch_size": 90, "optimizer": optim.adam(0.01)}
    whole = fit(given, epochs=5, **options)
    fit(given, epochs=2, checkpoint=path, **options)
    rest = fit(given, epochs=5, checkpoint=path, resume=True, **options)
    assert rest.resumed == 2
    assert rest.losses == whole.losses
    np.testing.assert_array_equal(rest.params["w"], whole.params["w"])


@pytest.mark.usefixtures("small_blocks")
@pytest.mark.parametrize("kind", ["npy", "parquet"])
def test_a_sweep_over_files_gives_each_model_what_it_gets_alone(kind: str, tmp_path: Path):
    given = sources(tmp_path)[kind]
    options = {"batch_size": 100, "epochs": 2, "device": "interpret", "progress": False}
    swept = jg.sweep(line, START, given, grid={"seed": [1, 2, 3]}, **options)
    for model in swept:
        alone = jg.fit(line, START, given, seed=model.settings["seed"], **options)
        assert model.result is not None
        np.testing.assert_array_equal(model.result.params["w"], alone.params["w"])


# --- memory ----------------------------------------------------------------------------------------------------------------


BIG = 800_000                                             # rows of 8 numbers: 26 MB, or 51 MB in float64


@pytest.mark.parametrize("batch_size", [None, 20_000])
@pytest.mark.parametrize("dtype", [np.float64, np.float32])
def test_training_allocates_a_few_blocks_and_not_the_file(batch_size: int | None, dtype: type, tmp_path: Path,
                                                          monkeypatch: pytest.MonkeyPatch):
    """Also where the file's numbers are converted to a wider type, which for the whole file would be a copy of it."""
    monkeypatch.setattr(blocks, "BLOCK_BYTES", 1 << 18)
    monkeypatch.setattr(streams, "WINDOW_BYTES", 1 << 20)
    draw = np.random.default_rng(0)
    x, y = mapped(tmp_path, draw.normal(size=(BIG, 8)).astype(dtype), draw.integers(0, 2, BIG).astype(np.int8))

    def objective(w: Any, x: Any, y: Any) -> Any:
        return losses.binary_cross_entropy(w @ x, y)
    options = {"epochs": 2, "batch_size": batch_size, "progress": False, "validation": (x, y)}
    jg.fit(objective, np.zeros(8), (x[:100], y[:100]), **{**options, "validation": (x[:100], y[:100])})   # compiles
    tracemalloc.start()
    try:
        jg.fit(objective, np.zeros(8), (x, y), **options)
        peak = tracemalloc.get_traced_memory()[1]
    finally:
        tracemalloc.stop()
    assert peak < x.nbytes / 3
    assert peak < 8 << 20


@pytest.mark.skipif(not sys.platform.startswith("linux"), reason="RLIMIT_DATA counts a process's own memory on Linux")
def test_a_process_that_may_not_hold_the_file_trains_on_it(tmp_path: Path):
    """The file has 1 GB, all zeros and so in no block of the disk; the process may allocate 300 MB more than it has."""
    header = np.lib.format.open_memmap(tmp_path / "x.npy", mode="w+", dtype=np.float64, shape=(32_000_000, 4))
    size = header.nbytes
    del header
    np.lib.format.open_memmap(tmp_path / "y.npy", mode="w+", dtype=np.int8, shape=(32_000_000,)).flush()
    text = f"""
        import resource
        import numpy as np
        import jitgrad as jg
        from jitgrad import data, losses

        def objective(w, x, y):
            return losses.binary_cross_entropy(w @ x, y)
        jg.fit(objective, np.zeros(4), (np.zeros((9, 4)), np.zeros(9)), epochs=1, progress=False)
        held = int(next(line for line in open("/proc/self/status") if line.startswith("VmData")).split()[1]) << 10
        resource.setrlimit(resource.RLIMIT_DATA, (held + (300 << 20),) * 2)
        try:
            np.ones({size} // 8)
        except MemoryError:
            print("the file does not fit")
        result = jg.fit(objective, np.zeros(4), data.open_arrays("x.npy", "y.npy"), epochs=1, progress=False)
        print(f"{{result.losses[0]:.6f}}")
    """
    made = subprocess.run([sys.executable, "-c", textwrap.dedent(text)], cwd=tmp_path, capture_output=True, text=True)
    assert made.stdout.splitlines() == ["the file does not fit", f"{np.log(2):.6f}"], made.stderr


# --- errors ----------------------------------------------------------------------------------------------------------------


def test_files_that_cannot_be_used(tmp_path: Path):
    np.save(tmp_path / "x.npy", X)
    np.save(tmp_path / "y.npy", Y[:5])
    (tmp_path / "text.npy").write_text("no array")
    (tmp_path / "text.parquet").write_text("no table")
    (tmp_path / "text.arrow").write_text("no table")
    parquet.write_table(frame(), tmp_path / "t.parquet")
    parquet.write_table(frame()[:0], tmp_path / "empty.parquet")
    (tmp_path / "nothing").mkdir()
    cases: list[tuple[Callable[[], Any], type[Exception], str]] = [
        (lambda: fit(data.open_arrays(tmp_path / "x.npy", tmp_path / "y.npy")), ShapeError, "1000 examples but .* has 5"),
        (lambda: data.open_arrays(tmp_path / "gone.npy"), DataError, "Cannot read the file"),
        (lambda: data.open_arrays(tmp_path / "text.npy"), DataError, "no .npy file"),
        (lambda: data.open_table(tmp_path / "gone.parquet", "y"), DataError, "Cannot read the file"),
        (lambda: data.open_table(tmp_path / "text.parquet", "y"), DataError, "no Parquet or Arrow file"),
        (lambda: data.open_table(tmp_path / "text.arrow", "y"), DataError, "no Parquet or Arrow file"),
        (lambda: data.open_table(tmp_path / "nothing", "y"), DataError, "no table to open"),
        (lambda: data.open_table(tmp_path / "empty.parquet", "y"), DataError, "0 rows"),
        (lambda: data.open_table(tmp_path / "t.parquet", "z"), DataError, "no column 'z'.*\n.*\n.*a, b, c, y"),
        (lambda: data.open_table(tmp_path / "t.parquet", "y", features=["a", "q"]), DataError, "no column 'q'"),
        (lambda: data.open_table(tmp_path / "t.parquet", "y", features=["a", "y"]), DataError, "distinct columns"),
    ]
    for make, kind, words in cases:
        with pytest.raises(kind, match=words):
            make()


@pytest.mark.parametrize(("column", "kind", "words"), [
    ([1.0, float("nan"), 2.0], DataError, r"row\[1\] is nan"),
    ([1, None, 2], DataError, r"row\[1\] is nan"),
    (["a", "b", "c"], DtypeError, "column 'a'"),
])
def test_what_is_no_number_is_named_by_column_and_row(column: list[Any], kind: type[Exception], words: str, tmp_path: Path):
    parquet.write_table(pa.table({"a": column, "y": [0.0, 1.0, 2.0]}), tmp_path / "t.parquet")
    with pytest.raises(kind, match=words):
        data.open_table(tmp_path / "t.parquet", "y")


@pytest.mark.usefixtures("small_blocks")
def test_a_number_that_is_missing_later_ends_the_training_with_its_row(tmp_path: Path):
    values = Y.copy()
    values[700] = np.inf
    parquet.write_table(frame().set_column(3, "y", pa.array(values)), tmp_path / "t.parquet", row_group_size=64)
    with pytest.raises(DataError, match=r"column 'y', row\[700\] is inf"):
        fit(data.open_table(tmp_path / "t.parquet", "y"))
    (x, y) = mapped(tmp_path, X, values)
    with pytest.raises(DataError, match=r"data\[1\]\[700\] is inf"):
        fit((x, y))


@pytest.mark.parametrize(("options", "words"), [
    ({"validation": 0.2}, "picked from data that do not lie in memory"),
    ({"sample_weight": np.ones(N)}, "Weights cannot be added"),
    ({"average_every": 2, "batch_size": 10}, "Only partitions of Dask arrays"),
    ({"metrics": {"m": lambda params, x, y: 0.0}, "kind": "parquet"}, "not read as a whole"),
    ({"in_axes": (0, 0, 0), "kind": "parquet"}, "parameters have no batch axis|no batch axis 0"),
])
def test_what_files_cannot_do_is_refused(options: dict[str, Any], words: str, tmp_path: Path):
    given = sources(tmp_path)[options.pop("kind", "npy")]
    with pytest.raises((ArgumentError, ShapeError), match=words):
        fit(given, **options)
