"""Training on CUDA without a GPU: the emitted update runs on this CPU, the shells in the simulator, the whole compiles."""

from __future__ import annotations

import re
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
from llvmlite import ir

pytest.importorskip("numba_cuda", reason="numba-cuda is not installed", exc_type=ImportError)

import cuda_training
from cuda_emulation import emulated
from cuda_golden import assert_as_committed, assert_float32_alone
from cuda_host import HostWarp, simulate
from cuda_programs import PROGRAMS
from test_loop import OPTIMIZERS

import jitgrad as jg
from jitgrad import errors, loop, optim
from jitgrad.backends import cuda as backend
from jitgrad.backends import cuda_compiled, cuda_text
from jitgrad.backends.cuda import CudaKernel
from jitgrad.backends.cuda_training import Queued, Resident, Steps, aligned
from jitgrad.compiler import schedule
from jitgrad.compiler.emit_training import UpdateCode

DTYPES = ("float32", "float64")

needs_ptxas = pytest.mark.skipif(cuda_text.tool("ptxas") is None, reason="ptxas is not installed: jitgrad[test] has it")
without_gpu = pytest.mark.skipif(backend.problem() is None, reason="there is a GPU here")
needs_gpu = pytest.mark.skipif(backend.problem() is not None, reason=f"no GPU here: {backend.problem()}")


def update_of(optimizer: optim.Optimizer, dtype: str) -> Any:
    assert optimizer.rule is not None
    return loop.update_call(optimizer.rule, np.dtype(dtype), "interpret").program


def training(name: str, dtype: str, size: int, optimizer: optim.Optimizer | None = None) -> Steps:
    made = PROGRAMS[name](np.dtype(dtype))
    parameters = sum(made.leaves[k].width for k in made.wrt)
    return Steps(CudaKernel(made), update_of(optimizer or optim.adam(), dtype), parameters, size, True)


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("name", [name for name in OPTIMIZERS if "clipped" not in name])  # clipping is made from Python
def test_the_emitted_update_is_the_optimizers(name: str, dtype: str) -> None:
    optimizer, count, room, t = OPTIMIZERS[name](), 5, 8, 3
    code = UpdateCode(update_of(optimizer, dtype), count, room)
    module = ir.Module("jitgrad")
    code.update(module)
    draw = np.random.default_rng(0)
    numbers = draw.normal(size=(code.kept, count)).astype(dtype)
    numbers[1:] = abs(numbers[1:])                             # Adam's second average is of squares
    gradient = draw.normal(size=count).astype(dtype)
    old, new = (np.zeros(room + (code.kept - 1) * count, dtype) for _ in range(2))
    for start, row in zip(code.starts, numbers, strict=True):
        old[start:start + count] = row
    rule = optimizer.rule
    assert rule is not None
    row = rule.rows(t, 1)[0].astype(dtype)
    state = optim.State(t - 1, tuple(numbers[1:]))
    params, expected = optimizer.update(gradient, state, numbers[0])
    host, kinds = HostWarp(module), [np.ndarray, np.ndarray, np.ndarray, np.dtype(dtype), int]
    for j in range(count):
        host.call_alone("update", kinds, [row, old, new, float(gradient[j]), j])
    for start, wanted in zip(code.starts, (params, *expected.averages), strict=True):
        np.testing.assert_array_equal(new[start:start + count], wanted)


@pytest.mark.parametrize("name", OPTIMIZERS)
def test_a_rules_table_is_its_scalars(name: str) -> None:
    rule = OPTIMIZERS[name]().rule
    assert rule is not None
    for first, steps in ((1, 1), (1, 40), (7, 12), (1000, 3)):
        expected = np.array([rule.scalars(t) for t in range(first, first + steps)])
        np.testing.assert_array_equal(rule.rows(first, steps), expected)


# A block trains a model: sums over the warp, sums of each thread's own, and a batch that takes several trips of a block.
RESIDENT = {"mlp_2_16_16_1": 100, "mse": 1_000, "cross_entropy": 32}


@needs_ptxas
@pytest.mark.slow
@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("name", RESIDENT)
def test_resources_are_as_committed(name: str, dtype: str) -> None:
    made = training(name, dtype, RESIDENT[name]).form
    assert isinstance(made, Resident)
    text = made.ptx(backend.CC)
    found = cuda_text.hot_loop(cuda_text.sass(text)) if cuda_text.tool("nvdisasm") else None
    assert_as_committed(f"training {name} {dtype}", cuda_text.resources(text), found)
    if dtype == "float32":
        assert_float32_alone(text)
    # One before a step, two around its sums, one that asks whether all is finite; one before the first and after the last.
    assert len(re.findall(r"bar\.sync\s+0", text)) == 5
    assert text.count("bar.red") == 1


@needs_ptxas
@pytest.mark.parametrize("dtype", DTYPES)
def test_the_end_of_a_queued_step_compiles(dtype: str) -> None:
    made = training("mlp_2_16_16_1", dtype, 1_000_000).form
    assert isinstance(made, Queued)
    found = cuda_text.resources(made.ptx(backend.CC))
    assert found["spills"] == found["stack"] == 0
    assert found["registers"] <= 64


@needs_ptxas
@pytest.mark.slow
@pytest.mark.parametrize("capability", [(8, 0), (10, 0)], ids=["sm_80", "sm_100"])
@pytest.mark.parametrize("optimizer", [optim.sgd(0.1, momentum=0.9), optim.adamw()], ids=["momentum", "adamw"])
def test_training_compiles_for_other_gpus(optimizer: optim.Optimizer, capability: tuple[int, int]) -> None:
    text = training("mlp_2_16_16_1", "float32", 100, optimizer).form.ptx(capability)
    assert f".target sm_{capability[0]}{capability[1]}" in text
    assert_float32_alone(text)
    assert cuda_text.resources(text)["spills"] == 0


def test_a_block_or_a_queue_is_chosen_by_program_and_batch() -> None:
    chosen = {size: type(training("mlp_2_16_16_1", "float32", size).form) for size in (1, 100, 1_000, 5_000, 10**6)}
    assert chosen == {1: Resident, 100: Resident, 1_000: Resident, 5_000: Queued, 10**6: Queued}
    assert isinstance(training("tape_64_32_10", "float32", 32).form, Queued)
    assert isinstance(training("mse", "float32", 10_000).form, Resident)


@pytest.mark.parametrize(("size", "block"), [(1, 32), (32, 32), (33, 64), (100, 128), (200, 256), (10_000, 256)])
def test_a_block_is_as_large_as_its_batch_and_its_memory(size: int, block: int) -> None:
    tape = PROGRAMS["mse"](np.dtype("float32")).rolled[0]
    few, many = (SimpleNamespace(groups=groups, board_rows=0) for groups in (1, 11))
    plan = schedule.for_training(tape, np.dtype("float32"), lambda: few, 100, size)
    assert plan is not None
    assert (plan.block, plan.light, plan.unroll) == (block, False, 1)
    # Each warp's sums of 352 columns are 2.75 KiB beside 32 KiB of numbers and the block's sums: four warps of eight.
    crowded = schedule.for_training(tape, np.dtype("float64"), lambda: many, 4_096, 10_000)
    assert crowded is not None
    assert crowded.block == 128
    assert schedule.for_training(tape, np.dtype("float64"), lambda: many, 6_144, 10_000) is None


def test_a_training_that_is_recorded_anew_is_not_compiled_anew(monkeypatch: pytest.MonkeyPatch) -> None:
    one, again, other = (training("mse", "float32", size) for size in (32, 32, 64))
    assert isinstance(one.form, Resident)
    assert one.form is not again.form
    assert one.form.shell is again.form.shell
    assert one.form.shell is not other.form.shell
    assert training("mse", "float64", 32).form.shell is not one.form.shell
    assert training("mse", "float32", 32, optim.adamw()).form.shell is not one.form.shell
    assert training("mse", "float32", 32, optim.adam(0.5)).form.shell is one.form.shell
    monkeypatch.setattr(cuda_compiled, "MOST", 1)
    assert training("hinge", "float32", 32).form.shell is not None
    assert training("mse", "float32", 32).form.shell is not one.form.shell, "it was forgotten"


def test_a_queued_steps_examples_begin_where_a_vector_may() -> None:
    places, starts = aligned(np.arange(10, 30), np.array([(0, 7), (7, 7), (14, 6)]))
    assert starts == [0, 8, 16]
    assert [places[start] for start in starts] == [10, 17, 24]
    assert places[16:22].tolist() == [24, 25, 26, 27, 28, 29]
    assert len(places) % 4 == 0


@pytest.mark.slow
@pytest.mark.filterwarnings("ignore::RuntimeWarning")          # numbers that overflow are what some checks are about
@pytest.mark.parametrize("name", cuda_training.CHECKS)
def test_training_is_the_cpus(name: str) -> None:
    cuda_training.count_launches()
    with emulated():
        cuda_training.CHECKS[name]()


@pytest.mark.slow
def test_training_runs_in_the_simulator() -> None:
    simulate("cuda_training.py")


@without_gpu
@pytest.mark.parametrize("options", [{}, {"ensemble": 3}, {"batch_size": 2}, {"device": "cuda:1"}], ids=str)
def test_training_without_a_gpu_says_what_is_missing(options: dict[str, Any]) -> None:
    with pytest.raises(errors.DeviceError, match=r"(?s)cannot be launched here: .*device='auto'"):
        jg.fit(lambda w, x: (w * x - 1.0)**2, np.ones(()), (np.ones(5),), **{"device": "cuda", "progress": False} | options)


@needs_gpu
@pytest.mark.parametrize("dtype", [np.float32, np.float64])
@pytest.mark.parametrize("n", [100, 20_000])
def test_a_gpu_trains_as_the_cpu_does(dtype: type, n: int) -> None:
    draw = np.random.default_rng(0)
    x, params = draw.normal(size=(n, 3)).astype(dtype), draw.normal(size=4).astype(dtype)
    y = (x[:, 0] - x[:, 1]).astype(dtype)

    def objective(p: Any, x: Any, y: Any) -> Any:
        return jg.tanh(p[:3] @ x + p[3] - y) ** 2
    for batch_size in (None, n // 3):
        found, again, expected = (jg.fit(objective, params, (x, y), epochs=10, batch_size=batch_size, progress=False,
                                         device=device) for device in ("cuda", "cuda", "cpu"))
        tolerance = 1e-4 if dtype is np.float32 else 1e-10
        np.testing.assert_allclose(found.params, expected.params, rtol=tolerance, atol=tolerance)
        np.testing.assert_allclose(found.losses, expected.losses, rtol=tolerance)
        np.testing.assert_array_equal(found.params, again.params)


@needs_gpu
def test_a_gpu_trains_many_models_as_it_trains_each_alone() -> None:
    draw = np.random.default_rng(0)
    x = draw.normal(size=(50, 3)).astype(np.float32)
    options: dict[str, Any] = {"epochs": 20, "batch_size": 16, "progress": False, "device": "cuda"}

    def objective(p: Any, x: Any) -> Any:
        return jg.tanh(p @ x - x[0]) ** 2

    def start(seed: int) -> Any:
        return np.random.default_rng(seed).normal(size=3).astype(np.float32)
    for k, model in enumerate(jg.fit(objective, start, (x,), ensemble=300, **options)):
        if k % 50 == 0:
            alone = jg.fit(objective, start(k), (x,), seed=k, **options)
            np.testing.assert_array_equal(model.result.params, alone.params)
            assert model.result.losses == alone.losses
