"""Dask as the engine: one process's numbers to 1e-12, the same bits for any workers, and what happens when one is lost."""

from __future__ import annotations

import os
import pickle
import signal
import threading
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import dask
import dask.array as da
import distributed
import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

import jitgrad as jg
from jitgrad import Value, losses, optim, partitions
from jitgrad.arguments import flatten, unflatten
from jitgrad.distributed import Partitions, client_of, shipped, unshipped
from jitgrad.errors import (
    ArgumentError,
    DataError,
    DtypeError,
    JitgradError,
    LabelError,
    NonFiniteError,
    ShapeError,
    TraceError,
)

RNG = np.random.default_rng(3)
N = 1003
CHUNKS = (400, 3, 0, 500, 100)                            # uneven, and one that a selection has emptied
X = RNG.normal(size=(N, 3))
Y = X @ [1.0, -2.0, 0.5] + 0.1 * RNG.normal(size=N)
DX, DY = da.from_array(X, chunks=(CHUNKS, 3)), da.from_array(Y, chunks=(CHUNKS,))
PARAMS = {"W": RNG.normal(size=(4, 3)), "b": np.zeros(4), "v": RNG.normal(size=4), "c": 0.25}


def network(params: Any, x: Any, y: Any) -> Any:
    return losses.mse(params["v"] @ jg.tanh(params["W"] @ x + params["b"]) + params["c"], y)


@pytest.fixture(scope="module")
def inside() -> Iterator[distributed.Client]:
    """One worker with two threads, in this process."""
    with distributed.Client(processes=False, n_workers=1, threads_per_worker=2, dashboard_address="127.0.0.1:0",
                            set_as_default=False) as client:
        yield client


@pytest.fixture(scope="module")
def two() -> Iterator[distributed.Client]:
    """Two worker processes."""
    with distributed.Client(n_workers=2, threads_per_worker=1, dashboard_address="127.0.0.1:0",
                            set_as_default=False) as client:
        yield client


def leaves(tree: Any) -> list[Any]:
    found: list[Any] = flatten(tree)[0]
    return found


def assert_close(found: Any, expected: Any, tolerance: float = 1e-12) -> None:
    for one, other in zip(leaves(found), leaves(expected), strict=True):
        assert np.asarray(one).dtype == np.asarray(other).dtype
        np.testing.assert_allclose(one, other, rtol=tolerance, atol=tolerance)


def assert_equal(found: Any, expected: Any) -> None:
    for one, other in zip(leaves(found), leaves(expected), strict=True):
        np.testing.assert_array_equal(one, other)


def through(client: distributed.Client, step: Any, *args: Any) -> Any:
    return Partitions(step, args, client).call(step, args)


# --- calls -----------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("reduce", ["mean", "sum"])
@pytest.mark.parametrize("transform", [jg.value_and_grad, jg.grad, jg.jit])
def test_a_call_is_the_call_in_one_process(transform: Callable[..., Any], reduce: str, inside: distributed.Client):
    step = transform(network, reduce=reduce)
    with inside.as_current():
        assert_close(step(PARAMS, DX, DY), step(PARAMS, X, Y))


def test_the_bits_are_those_of_the_partitions_whoever_computes_them(inside: distributed.Client, two: distributed.Client):
    step = jg.value_and_grad(network)
    found = through(two, step, PARAMS, DX, DY)
    for _ in range(2):
        assert_equal(through(inside, step, PARAMS, DX, DY), found)
        assert_equal(through(two, step, PARAMS, DX, DY), found)


def test_many_partitions_are_folded_in_tasks_to_the_same_bits(inside: distributed.Client, monkeypatch: pytest.MonkeyPatch):
    step, dx, dy = jg.value_and_grad(network), DX.rechunk((25, 3)), DY.rechunk(25)
    found = through(inside, step, PARAMS, dx, dy)
    assert_close(found, step(PARAMS, X, Y))
    monkeypatch.setattr("jitgrad.distributed.FOLDED", 1 << 20)
    assert_equal(through(inside, step, PARAMS, dx, dy), found)


def test_arguments_may_be_chunked_in_any_way_or_lie_in_memory(inside: distributed.Client):
    step = jg.value_and_grad(network)
    expected = through(inside, step, PARAMS, DX, DY)
    for x, y in [(DX.rechunk((CHUNKS, 1)), DY.rechunk(10)), (DX, Y), (DX, da.from_array(Y, chunks=-1))]:
        assert_equal(through(inside, step, PARAMS, x, y), expected)
    along = jg.value_and_grad(network, in_axes=(None, 1, 0))
    assert_equal(through(inside, along, PARAMS, DX.T, DY), expected)


def test_labels_and_shared_arrays(inside: distributed.Client):
    def objective(w: Any, x: Any, label: Any, shift: Any) -> Any:
        return losses.cross_entropy(w @ x + shift, label)
    step = jg.value_and_grad(objective, in_axes=(None, 0, 0, None))
    w, labels, shift = RNG.normal(size=(5, 3)).astype(np.float32), RNG.integers(0, 5, N), np.arange(5, dtype=np.float32)
    expected = step(w, X.astype(np.float32), labels, shift)
    found = through(inside, step, w, DX.astype(np.float32), da.from_array(labels, chunks=99), da.from_array(shift))
    assert found[1].dtype == np.float32
    assert_close(found, expected, 2e-6)


def test_eager_values_are_parameters_too(inside: distributed.Client):
    step = jg.value_and_grad(lambda p, y: losses.mse(p["a"] * p["b"], y))
    params = {"a": Value(2.0), "b": np.float64(0.5)}
    assert_close(through(inside, step, params, DY), step(params, Y))


def test_predictions_are_dask_arrays_with_the_same_partitions(inside: distributed.Client):
    def predict(params: Any, x: Any) -> Any:
        hidden = jg.tanh(params["W"] @ x + params["b"])
        return {"score": params["v"] @ hidden, "hidden": hidden}
    forward = jg.jit(predict, reduce=None)
    with inside.as_current():
        found = forward(PARAMS, DX)
        assert found["hidden"].chunks == (tuple(size for size in CHUNKS if size), (4,))
        assert_equal({name: array.compute() for name, array in found.items()}, forward(PARAMS, X))


def test_a_function_is_recorded_once_in_a_worker(inside: distributed.Client):
    """The worker is this process, so the recordings can be seen."""
    recorded = []

    def objective(w: Any, x: Any, y: Any) -> Any:
        recorded.append(threading.current_thread())
        return (w @ x - y)**2
    step = jg.value_and_grad(objective)
    w = np.zeros(3)
    there = unshipped(shipped(step))
    assert unshipped(shipped(step)) is there is not step
    for _ in range(3):
        through(inside, step, w, DX, DY)
    assert len(there._recorded) == 1
    assert len(recorded) == 1                               # here; the worker has a copy of this list


def test_transforms_travel_without_what_was_compiled():
    step = jg.value_and_grad(network, reduce="sum")
    expected = step(PARAMS, X, Y)
    there = pickle.loads(pickle.dumps(step))
    assert there._calls == {}
    assert_equal(there(PARAMS, X, Y), expected)


def deadly(block: np.ndarray, flag: Path) -> np.ndarray:
    """A block that takes its worker along when it is read for the first time."""
    if not flag.exists():
        flag.touch()
        os.kill(os.getpid(), signal.SIGKILL)
    return block


def test_a_worker_that_is_lost_within_a_step_costs_time_and_no_bit(two: distributed.Client, tmp_path: Path):
    """The nanny starts another worker, and what was lost is computed again."""
    step, flag = jg.value_and_grad(network), tmp_path / "flag"
    expected = through(two, step, PARAMS, DX, DY)
    workers = set(two.run(os.getpid).values())
    assert_equal(through(two, step, PARAMS, DX.map_blocks(deadly, flag, dtype=float, meta=X[:0]), DY), expected)
    assert flag.exists()
    two.wait_for_workers(2)
    assert len(workers - set(two.run(os.getpid).values())) == 1


def test_data_that_are_lost_with_a_worker_between_two_steps_are_made_again(two: distributed.Client):
    step = jg.value_and_grad(network)
    kept = Partitions(step, (PARAMS, DX, DY), two)
    kept.persist()
    expected = kept.call(step, (PARAMS, DX, DY))
    os.kill(next(iter(two.run(os.getpid).values())), signal.SIGKILL)
    assert_equal(kept.call(step, (PARAMS, DX, DY)), expected)
    two.wait_for_workers(2)


def test_without_a_client_a_cluster_inside_this_process_is_made_once():
    client = client_of(None)
    assert client is client_of(None)
    step = jg.value_and_grad(network)
    assert_close(step(PARAMS, DX, DY), step(PARAMS, X, Y))
    assert client.submit(os.getpid).result() == os.getpid()
    with pytest.raises(ValueError, match="No clients found"):
        distributed.default_client()                        # whoever asks Dask for a client does not get this one


# --- errors ----------------------------------------------------------------------------------------------------------------


def test_an_error_on_a_worker_has_the_users_line_and_the_examples_number(two: distributed.Client):
    labels = (Y > 0).astype(float)
    labels[777] = 3.0

    def objective(w: Any, x: Any, y: Any) -> Any:
        return losses.binary_cross_entropy(w @ x, y)
    place = r"test_distributed.py:\d+: +return losses.binary_cross_entropy"
    with pytest.raises(LabelError, match=rf"got 3 \(example 777 of.*\n +{place}"):
        through(two, jg.value_and_grad(objective), np.zeros(3), DX, da.from_array(labels, chunks=200))


def test_a_function_that_cannot_be_recorded_shows_the_users_line(two: distributed.Client):
    def objective(w: Any, x: Any, y: Any) -> Any:
        return x[0] if w @ x > 0 else y
    with pytest.raises(TraceError, match=r"test_distributed.py:\d+: +return x\[0\] if w @ x > 0 else y"):
        through(two, jg.value_and_grad(objective), np.zeros(3), DX, DY)


def test_what_goes_wrong_only_on_a_worker_keeps_its_line(two: distributed.Client):
    here = os.getpid()

    def objective(w: Any, x: Any, y: Any) -> Any:
        if os.getpid() != here:
            raise RuntimeError("not on a worker")
        return w @ x - y
    with pytest.raises(RuntimeError, match="not on a worker") as caught:
        through(two, jg.value_and_grad(objective), np.zeros(3), DX, DY)
    frames = [(Path(entry.path).name, entry.name) for entry in caught.traceback]
    assert (Path(__file__).name, "objective") in frames


def test_debug_nans_goes_along(two: distributed.Client):
    step = jg.value_and_grad(lambda w, x, y: jg.log(w @ x) * y)
    with jg.debug_nans(), pytest.raises(NonFiniteError, match="`log` made the first NaN, at example"):
        through(two, step, np.ones(3), DX, DY)


def frame() -> Any:
    return da.from_array(X)[da.from_array(Y) > 0]


def locked() -> Callable[..., Any]:
    lock = threading.Lock()
    return lambda w, x: (lock, w * x)[1]


CASES: list[tuple[Callable[[], Any], type[JitgradError], str]] = [
    (lambda: jg.value_and_grad(network)(PARAMS, DX, DY[:-1]), ShapeError, "x has 1003, y has 1002"),
    (lambda: jg.value_and_grad(network)(PARAMS, frame(), DY), ArgumentError, "compute_chunk_sizes"),
    (lambda: jg.value_and_grad(network)(PARAMS, dask.delayed(X), DY), ArgumentError, "of Dask's is no array"),
    (lambda: jg.value_and_grad(network)(PARAMS, DX.astype(complex), DY), DtypeError, "complex128"),
    (lambda: jg.value_and_grad(network, reduce=None)(PARAMS, DX, DY), ArgumentError, "only sums and means"),
    (lambda: jg.value_and_grad(network)(PARAMS, DX, DY, out=PARAMS), ArgumentError, "out= takes"),
    (lambda: jg.batch(lambda x: x[0])(DX), ArgumentError, "workers do not have this process's Values"),
    (lambda: jg.jit(lambda w, x: w @ x, in_axes=(None, 0))(da.from_array(PARAMS["v"]), np.ones((5, 4))), ShapeError,
     "Only arguments that the batch shares"),
    (lambda: jg.value_and_grad(locked())(1.0, DY), ArgumentError, "cannot be sent"),
    (lambda: fit((X, Y), client=object()), ArgumentError, "the data are no Dask arrays"),
    (lambda: fit((DX, DY), client=object()), ArgumentError, "must be a distributed.Client"),
    (lambda: fit((DX, DY), average_every=2), ArgumentError, "average_every counts minibatches"),
    (lambda: fit((DX, DY), average_every=0, batch_size=10), ArgumentError, "average_every must be a positive int"),
    (lambda: fit((DX, DY), average_every=2, batch_size=10), ArgumentError, "A partition has 3 examples and an epoch 101"),
    (lambda: fit((DX, DY), validation=0.2), ArgumentError, "picked from data that do not lie in memory"),
    (lambda: fit((DX, DY), sample_weight=np.ones(N)), ArgumentError, "Weights cannot be added"),
    (lambda: fit((DX, DY), ensemble=2, client=object()), ArgumentError, "An ensemble is trained in this process"),
    (lambda: fit((DX, da.where(da.arange(N, chunks=(CHUNKS,)) == 900, np.inf, DY))), DataError, r"data\[1\]\[900\] is inf"),
    (lambda: fit((DX, DY.astype(complex))), DtypeError, "complex128"),
    (lambda: jg.fit(lambda p, x: (p - x)**2, Y, (DY,), in_axes=(0, 0), reduce="sum"), ArgumentError, "batch axis cannot be"),
]


@pytest.mark.parametrize(("call", "kind", "words"), CASES, ids=[words for *_, words in CASES])
def test_what_cannot_be_done_is_refused(call: Callable[[], Any], kind: type[JitgradError], words: str,
                                        inside: distributed.Client):
    with inside.as_current(), pytest.raises(kind, match=words):
        call()


# --- training --------------------------------------------------------------------------------------------------------------


def fit(data: Any, **options: Any) -> Any:
    return jg.fit(network, PARAMS, data, **{"optimizer": optim.adam(0.01), "epochs": 3, "progress": False, **options})


def predicted(params: Any, x: Any) -> Any:
    return params["v"] @ jg.tanh(params["W"] @ x + params["b"]) + params["c"]


def test_full_batches_are_those_of_one_process(two: distributed.Client):
    others = (DX[:200], DY[:200])
    metrics = {"r2": jg.metrics.r2(predicted)}
    found = fit((DX, DY), client=two, validation=others, patience=5, metrics=metrics)
    expected = fit((X, Y), validation=(X[:200], Y[:200]), patience=5, metrics=metrics)
    for one, other in zip(found.history, expected.history, strict=True):
        assert one.metrics["r2"] == pytest.approx(other.metrics["r2"], rel=1e-12)
    assert_close(found.params, expected.params)
    np.testing.assert_allclose(found.losses, expected.losses, rtol=1e-12)
    np.testing.assert_allclose(found.validation_losses, expected.validation_losses, rtol=1e-12)


def test_validation_may_lie_in_memory(inside: distributed.Client):
    others = (X[:200], Y[:200])
    found = fit((DX, DY), client=inside, validation=others, metrics={"r2": jg.metrics.r2(predicted)})
    expected = fit((X, Y), validation=others, metrics={"r2": jg.metrics.r2(predicted)})
    np.testing.assert_allclose(found.validation_losses, expected.validation_losses, rtol=1e-12)


@pytest.mark.parametrize("options", [{}, {"batch_size": 250}, {"batch_size": 400, "average_every": 2}], ids=str)
def test_a_training_has_the_bits_of_its_partitions(options: dict[str, Any], inside: distributed.Client,
                                                   two: distributed.Client):
    data = (DX, DY)
    one, other = fit(data, client=inside, **options), fit(data, client=two, **options)
    assert_equal(one.params, other.params)
    assert one.losses == other.losses
    assert one.losses[-1] < one.losses[0]
    assert one.steps == 3 * (-(-N // options["batch_size"]) if options else 1)


def shares(seed: int, steps: int) -> list[list[np.ndarray]]:
    """By the rule in the module's head: of each step, the examples of each partition, numbered over all."""
    firsts = [0, 400, 403, 903]
    orders = [first + np.random.default_rng([seed, first]).permutation(size)
              for first, size in zip(firsts, [400, 3, 500, 100], strict=True)]
    return [[order[[j for j in range(len(order)) if (first + j) % steps == s]]
             for first, order in zip(firsts, orders, strict=True)] for s in range(steps)]


@given(st.lists(st.integers(0, 40), min_size=1, max_size=6).filter(any), st.integers(1, 50), st.integers(0, 9))
def test_every_example_is_dealt_once_and_steps_differ_by_one(sizes: list[int], batch_size: int, seed: int):
    count = sum(sizes)
    steps = -(-count // batch_size)
    met, dealt = [], []
    for s in range(steps):
        deal = partitions._Deal(seed, s, steps, count)
        rows = [sum(sizes[:p]) + deal.of(sum(sizes[:p]), size) for p, size in enumerate(sizes)]
        met += np.concatenate(rows).tolist()
        dealt.append(sum(map(len, rows)))
        assert dealt[-1] == deal.size <= batch_size
    assert sorted(met) == list(range(count))
    assert max(dealt) - min(dealt) <= 1


@pytest.mark.parametrize("reduce", ["mean", "sum"])
def test_minibatches_are_dealt_from_the_partitions(reduce: str, inside: distributed.Client):
    """The same training by hand."""
    rate = 0.1 if reduce == "mean" else 0.0005
    step, stepper = jg.value_and_grad(network, reduce=reduce), optim.sgd(rate, momentum=0.5)
    generator, params, state, met = np.random.default_rng(8), PARAMS, stepper.init(PARAMS), []
    for _ in range(2):
        for parts in shares(int(generator.integers(1 << 62)), 11):
            rows = np.concatenate(parts)
            assert len(rows) in (91, 92)
            _, grads = step(params, X[rows], Y[rows])
            params, state = stepper.update(grads, state, params)
            met.append(rows)
    np.testing.assert_array_equal(np.sort(np.concatenate(met[:11])), np.arange(N))
    found = fit((DX, DY), client=inside, optimizer=stepper, batch_size=95, epochs=2, seed=8, reduce=reduce)
    assert found.steps == 22
    assert_close(found.params, params)


@pytest.mark.parametrize("reduce", ["mean", "sum"])
def test_averaging_is_the_weighted_mean_of_replicas(reduce: str, inside: distributed.Client):
    """Two partitions and two rounds of two steps, by hand; Adam's averages and its count of steps go along."""
    chunks, steps = (600, 403), 4
    dx, dy = DX.rechunk((chunks, 3)), DY.rechunk((chunks,))
    step, stepper = jg.value_and_grad(network, reduce=reduce), optim.adam(0.05)
    seed = int(np.random.default_rng(8).integers(1 << 62))
    params, state = PARAMS, stepper.init(PARAMS)
    for first_step in (0, 2):
        replicas = []
        for first, size in zip((0, 600), chunks, strict=True):
            order, mine, own, met = np.random.default_rng([seed, first]).permutation(size), params, state, 0
            for s in (first_step, first_step + 1):
                rows = first + order[[j for j in range(size) if (first + j) % steps == s]]
                _, grads = step(mine, X[rows], Y[rows])
                whole = len(range(s, N, steps))
                if reduce == "sum":
                    grads = {name: g * (whole / len(rows)) for name, g in grads.items()}
                mine, own = stepper.update(grads, own, mine)
                met += len(rows)
            replicas.append((met, mine, own.averages))
        weights = [met for met, *_ in replicas]
        trees = [flatten(tree) for tree in ((mine, averages) for _, mine, averages in replicas)]
        mixed = [np.average([np.asarray(a), np.asarray(b)], axis=0, weights=weights)
                 for a, b in zip(trees[0][0], trees[1][0], strict=True)]
        params, averages = unflatten(trees[0][1], mixed)
        state = optim.State(state.step + 2, averages)
    found = fit((dx, dy), client=inside, optimizer=stepper, batch_size=-(-N // steps), epochs=1, seed=8, reduce=reduce,
                average_every=2)
    for name in PARAMS:
        np.testing.assert_allclose(found.params[name], params[name], rtol=1e-9)


def test_averaging_every_step_of_plain_descent_is_a_step_of_the_whole_batch(inside: distributed.Client):
    chunks = (600, 403)
    data = (DX.rechunk((chunks, 3)), DY.rechunk((chunks,)))
    options = {"client": inside, "batch_size": 100, "optimizer": optim.sgd(0.05)}
    apart, together = fit(data, average_every=1, **options), fit(data, **options)
    assert_close(apart.params, together.params, 1e-11)


def test_a_checkpoint_goes_on_to_the_same_bits_and_knows_its_partitions(inside: distributed.Client, tmp_path: Any):
    data = (DX.rechunk(((600, 403), 3)), DY.rechunk(((600, 403),)))
    options = {"client": inside, "batch_size": 100, "average_every": 3}
    whole = fit(data, epochs=4, **options)
    fit(data, epochs=2, checkpoint=tmp_path / "run", **options)
    rest = fit(data, epochs=4, checkpoint=tmp_path / "run", resume=True, **options)
    assert rest.resumed == 2
    assert rest.losses == whole.losses
    assert_equal(rest.params, whole.params)
    with pytest.raises(JitgradError, match="partitions"):
        fit((DX, DY), epochs=4, checkpoint=tmp_path / "run", resume=True, **{**options, "average_every": None})


def test_a_replica_that_diverges_says_at_which_step(inside: distributed.Client):
    data = (DX.rechunk(((600, 403), 3)), DY.rechunk(((600, 403),)))
    with pytest.raises(NonFiniteError, match=r"epoch \d+, step \d+ of 4"):
        fit(data, client=inside, optimizer=optim.sgd(1e200), batch_size=251, average_every=2, epochs=5)


READ = []


def hundred(number: Any) -> Any:
    """A block of the data, read from somewhere; the worker is this process."""
    READ.append(int(number[0]))
    return X[100 * int(number[0]):100 * int(number[0]) + 100]


def test_data_larger_than_half_of_the_workers_memory_are_read_anew_in_every_step(inside: distributed.Client,
                                                                                 monkeypatch: pytest.MonkeyPatch):
    x = da.arange(10, chunks=1).map_blocks(hundred, chunks=((100,) * 10, 3), new_axis=1, dtype=float)
    y = da.from_array(Y[:1000], chunks=100)
    expected = fit((X[:1000], Y[:1000]), epochs=4)
    kept = fit((x, y), client=inside, epochs=4)
    once = len(READ)
    monkeypatch.setattr(Partitions, "memory", lambda _: 10_000)
    streamed = fit((x, y), client=inside, epochs=4)
    assert_equal(streamed.params, kept.params)
    assert_close(streamed.params, expected.params)
    # A check of the numbers and four steps read ten chunks each, unless a task still holds some of the step before.
    assert len(READ) - once > 20 >= once
