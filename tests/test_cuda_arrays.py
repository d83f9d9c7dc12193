"""Device arrays of other libraries, device memory and its failures: on this machine's processor, with fakes of a GPU."""

from __future__ import annotations

import contextlib
import gc
import json
import time
import warnings
import weakref
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest

pytest.importorskip("numba_cuda", reason="numba-cuda is not installed", exc_type=ImportError)

from cuda_emulation import emulated
from cuda_host import simulate
from cuda_programs import PROGRAMS, batch_for
from referees import assert_same_bits

import jitgrad as jg
from jitgrad import backends, errors, losses
from jitgrad.backends import cuda as backend
from jitgrad.backends import cuda_copies, cuda_memory, device_arrays
from jitgrad.backends.device_arrays import CPU, DeviceArray

LIBRARIES = {"numpy": "numpy", "torch": "torch", "jax": "jax.numpy"}


@pytest.mark.slow
def test_calls_with_device_arrays_in_the_simulator() -> None:
    simulate("cuda_interop.py")


def on_this_processor(numbers: Any) -> DeviceArray:
    """A device array of a device that every library has."""
    return DeviceArray(numbers.ctypes.data, numbers.shape, numbers.dtype, numbers, strides=numbers.strides, platform=CPU)


@pytest.mark.parametrize("library", LIBRARIES)
def test_an_array_is_given_and_let_go_by_dlpack(library: str) -> None:
    module: Any = pytest.importorskip(LIBRARIES[library])
    numbers = np.arange(24, dtype=np.float32).reshape(2, 3, 4)
    given = module.from_dlpack(on_this_processor(numbers))
    assert_same_bits(np.asarray(given), numbers)
    assert library == "jax" or np.shares_memory(np.asarray(given), numbers)
    turned = module.from_dlpack(on_this_processor(numbers).moved(0, 2)) if library != "jax" else given.transpose(1, 2, 0)
    assert_same_bits(np.asarray(turned), np.moveaxis(numbers, 0, 2))
    del given, turned
    gc.collect()
    assert not device_arrays._given


def test_a_capsule_that_nobody_takes_lets_go() -> None:
    capsule = on_this_processor(np.ones(3)).__dlpack__()
    assert len(device_arrays._given) == 1
    del capsule
    assert not device_arrays._given


@pytest.mark.parametrize("library", LIBRARIES)
@pytest.mark.parametrize("dtype", ["float32", "int32", "bool"])
def test_an_array_is_taken_by_dlpack(library: str, dtype: str) -> None:
    module: Any = pytest.importorskip(LIBRARIES[library])
    numbers = np.array([[1, 0, 3], [4, 5, 6]], dtype)
    theirs = numbers if library == "numpy" else (module.from_dlpack if library == "torch" else module.asarray)(numbers)
    taken = device_arrays._by_dlpack(theirs.__dlpack__(), 0, "")
    assert (taken.shape, taken.dtype, taken.is_contiguous) == ((2, 3), np.dtype(dtype), True)
    taken.platform = CPU
    del theirs
    gc.collect()
    assert_same_bits(np.asarray(taken), numbers)


def test_what_lies_on_the_host_is_not_borrowed() -> None:
    class OnTheHost:
        def __dlpack_device__(self) -> tuple[int, int]:
            return 1, 0
    assert device_arrays.borrow(OnTheHost()) is None
    assert device_arrays.borrow(np.float32(1)) is None
    assert device_arrays.borrow([1.0]) is None


def test_numpy_does_not_read_device_memory_by_itself() -> None:
    array = DeviceArray(256, (3,), np.float32, None)
    assert not hasattr(array, "__array_interface__")
    assert array.__cuda_array_interface__["strides"] is None
    assert array.moved(0, 0).strides == (4,)
    assert not DeviceArray(256, (3, 2), np.float32, None).moved(0, 1).is_contiguous


@pytest.mark.parametrize("capability", [(8, 0), (9, 0, "a"), (10, 0)], ids=["sm_80", "sm_90a", "sm_100"])
def test_the_small_kernels_compile(capability: Any) -> None:
    from numba import cuda, types
    f32, f64 = np.dtype("float32"), np.dtype("float64")
    where, real = types.Array(types.int64, 2, "C"), types.Array(types.float64, 1, "C")
    i = types.int64
    shells = [(cuda_copies._copy(np.dtype("int64"), f32), [i] * 10),
              (cuda_copies._gather(f32), [i, types.UniTuple(i, 3), where, i, i]),
              (cuda_copies._result(f32), [i, real, i, types.float64])]
    for shell, arguments in shells:
        text, _ = cuda.compile(shell.py_func, types.void(*arguments), cc=capability, device=False, abi="numba", output="ptx")
        assert "st.global.f32" in text or "st.f32" in text
    # A copy does no arithmetic on what it copies; a result is divided in float64 and rounded once.
    assert "div.rn.f64" in text
    assert "cvt.rn.f32.f64" in text
    assert cuda_copies._result(f64) is not cuda_copies._result(f32)


class Refused(Exception):
    code = 2


@pytest.fixture
def gpu(monkeypatch: pytest.MonkeyPatch) -> SimpleNamespace:
    """A machine that claims to have a GPU with 10 MB free, and refuses memory."""
    asked: list[int] = []

    def refuse(size: int, device: int) -> Any:
        asked.append(size)
        raise Refused

    @contextlib.contextmanager
    def on(device: int) -> Iterator[None]:
        yield
    monkeypatch.setattr(backend, "problem", lambda: None)
    monkeypatch.setattr(cuda_memory, "on", on)
    monkeypatch.setattr(cuda_memory, "_ask", refuse)
    monkeypatch.setattr(cuda_memory, "_room", lambda device: (10_000_000, 80_000_000_000))
    return SimpleNamespace(asked=asked)


def test_out_of_memory_says_what_was_asked_and_what_fits(gpu: SimpleNamespace) -> None:
    kernel = backend.CudaKernel(PROGRAMS["elementwise"](np.dtype("float32")))
    shared, batched = batch_for(kernel.program, 4_000_000)
    with pytest.raises(errors.DeviceError, match=r"(?s)no room for 16,000,000 bytes more, for a batch of 4,000,000 examples "
                       r"of 12 bytes: 10,000,000 of its 80,000,000,000 bytes are free.*about 600,000 examples fit"):
        kernel(shared, batched, 4_000_000)
    assert len(gpu.asked) == 2, "what is kept for later is given back, and then it is tried again"
    shared, batched = batch_for(kernel.program, 1_000)
    with pytest.raises(errors.DeviceError, match="Free device memory"):
        kernel(shared, batched, 1_000)


def test_memory_kept_for_later_makes_room(monkeypatch: pytest.MonkeyPatch) -> None:
    asked: list[int] = []

    def ask(size: int, device: int) -> Any:
        asked.append(size)
        if sum(len(blocks) for blocks in cuda_memory._free.values()):
            raise Refused
        return SimpleNamespace(__cuda_array_interface__={"data": (4096 * len(asked), False)})
    monkeypatch.setattr(cuda_memory, "_ask", ask)
    cuda_memory.release()
    first = cuda_memory.allocate((1000,), np.float32)
    address = first.address
    del first
    assert cuda_memory.allocate((1010,), np.float32).address == address, "the same memory again"
    assert asked == [4096]
    cuda_memory.allocate((5000,), np.float32)
    assert asked[1:] == [20480, 20480]
    cuda_memory.release()


def test_memory_goes_back_at_an_allocation_and_not_where_its_owner_ends(monkeypatch: pytest.MonkeyPatch) -> None:
    # There a CUDA context is current; where the garbage collector runs there may be none.
    back: list[int] = []

    class Memory:
        def __init__(self, size: int, device: int):
            self.size, self.__cuda_array_interface__ = size, {"data": (4096, False)}

        def __del__(self) -> None:
            back.append(self.size)
    monkeypatch.setattr(cuda_memory, "_ask", Memory)
    monkeypatch.setattr(cuda_memory, "KEPT", 8_192)
    cuda_memory.release()
    for size in (1_024, 4_096, 8_192):
        cuda_memory.allocate((size,), np.uint8)
    assert not back
    kept = cuda_memory.allocate((512,), np.uint8)
    assert back == [8_192], "the largest first, until the rest may stay"
    cuda_memory.release()
    assert sorted(back) == [1_024, 4_096, 8_192]
    del kept


def test_memory_in_a_reference_cycle_goes_back_once(monkeypatch: pytest.MonkeyPatch) -> None:
    # The garbage collector calls finalizers by weak reference, numba's, before it calls any `__del__`.
    back: list[int] = []

    class Memory:
        def __init__(self, size: int, device: int):
            self.__cuda_array_interface__ = {"data": (4096, False)}
            weakref.finalize(self, back.append, size)
    monkeypatch.setattr(cuda_memory, "_ask", Memory)
    cuda_memory.release()
    cycle: list[Any] = [cuda_memory.allocate((1_024,), np.uint8)]
    cycle.append(cycle)
    del cycle
    gc.collect()
    assert not back, "it is kept for the next"
    again = cuda_memory.allocate((1_024,), np.uint8)
    cuda_memory.release()
    assert not back
    del again
    cuda_memory.release()
    assert back == [1_024]


@pytest.mark.parametrize("failure", cuda_memory.FAILURES)
@pytest.mark.parametrize("where", ["launch", "upload", "download"])
def test_a_fault_is_an_error_of_jitgrad(where: str, failure: type[Exception], monkeypatch: pytest.MonkeyPatch) -> None:
    def fail(*_: Any, **__: Any) -> Any:
        raise failure("CUDA_ERROR_ILLEGAL_ADDRESS")
    kernel = backend.CudaKernel(PROGRAMS["elementwise"](np.dtype("float32")))
    with emulated():
        there = cuda_memory.upload(np.ones(3))
        monkeypatch.setattr(*{"launch": (backend, "launch"), "upload": (cuda_memory, "fill"),
                              "download": (cuda_memory, "download")}[where], fail)
        with pytest.raises(errors.DeviceError, match=r"(?s)the GPU failed: CUDA_ERROR_ILLEGAL_ADDRESS.*start another"):
            _ = there.copy_to_host() if where == "download" else kernel(*batch_for(kernel.program, 10), 10)


def test_the_first_of_several_failures_is_told() -> None:
    # After a fault everything fails, leaving the context too.
    numbas, of_core = cuda_memory.FAILURES
    with pytest.raises(errors.DeviceError, match="the GPU failed: the launch"), cuda_memory.translated():
        try:
            raise of_core("the launch")
        finally:
            raise numbas("cuCtxPopCurrent")


def test_memory_for_no_batch_is_missed_by_its_own_name() -> None:
    told = r"(?s)no room for 512 bytes more: 3 of its 9 bytes are free.*Free device"
    with pytest.raises(errors.DeviceError, match=told), cuda_memory.translated():
        raise cuda_memory.OutOfMemory(512, 3, 9)


def test_threads_that_launch_leave_the_filters_of_warnings_as_they_are() -> None:
    class Slow:
        def __getitem__(self, how: Any) -> Any:
            warnings.warn("a small grid", stacklevel=1)
            time.sleep(0.001)
            return lambda *args: args
    before = list(warnings.filters)
    with ThreadPoolExecutor(4) as pool:
        assert list(pool.map(lambda k: cuda_copies.launch(Slow(), k, 32), range(16))) == [None] * 16
    assert warnings.filters == before


def test_a_driver_without_libnvvm_is_told_apart_from_none(monkeypatch: pytest.MonkeyPatch) -> None:
    def search() -> bool:
        raise RuntimeError("Failure finding 'libnvvm.so'\nin these folders:\n/usr/lib")
    monkeypatch.setattr(cuda_memory, "_process", [])
    monkeypatch.setattr(backend.cuda, "is_available", search)
    monkeypatch.setattr(backend.cuda, "cuda_error", lambda: None)
    told = backend.problem()
    assert told is not None
    for part in ("libNVVM", "(Failure finding 'libnvvm.so')", "CUDA_HOME"):
        assert part in told
    monkeypatch.setattr(backend.cuda, "is_available", lambda: False)
    monkeypatch.setattr(backend.cuda, "cuda_error", lambda: "no\n  driver")
    assert backend.problem() == "no usable GPU or driver was found (no driver)"


def test_threads_wait_for_the_driver_that_one_of_them_starts(monkeypatch: pytest.MonkeyPatch) -> None:
    started: list[str] = []

    def as_numba_does() -> bool:
        if not started:
            started.append("begun")
            time.sleep(0.05)
            started.append("ready")
        return True
    monkeypatch.setattr(cuda_memory, "_process", [])
    monkeypatch.setattr(backend.cuda, "is_available", as_numba_does)
    with ThreadPoolExecutor(4) as pool:
        assert list(pool.map(lambda _: (backend.problem(), started[-1]), range(4))) == [(None, "ready")] * 4


@pytest.mark.parametrize(("limit", "width"), [(6, 4), (5, 8)])
def test_examples_beyond_32_bits_are_taken_with_64(limit: int, width: int, monkeypatch: pytest.MonkeyPatch) -> None:
    # As many as that are 8 GiB: a smaller limit stands in.
    places, rows, numbers = [], cuda_copies.rows, np.arange(12.0).reshape(6, 2)

    def seen(source: Any, where: DeviceArray) -> DeviceArray:
        places.append(where.dtype.itemsize)
        return rows(source, where)
    monkeypatch.setattr(cuda_copies, "INT32", limit)
    monkeypatch.setattr(cuda_copies, "rows", seen)
    with emulated():
        found = cuda_copies.take(cuda_memory.upload(numbers), np.array([5, 0, 2]), 0)
        assert_same_bits(cuda_memory.download(found), numbers[[5, 0, 2]])
    assert places == [width]


def test_training_on_more_examples_than_32_bits_can_count_is_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(cuda_copies, "INT32", 9)
    with emulated(), pytest.raises(errors.ShapeError, match="at most 9 examples at once; there are 10"):
        jg.fit(lambda w, x: losses.mse(w * x, 1.0), np.ones(()), (np.ones(10),), epochs=1, device="cuda", progress=False)


def test_a_forked_process_is_refused_and_told_why(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(cuda_memory, "_process", [1])
    assert "forked from one that had already used CUDA (pid 1)" in str(backend.problem())
    monkeypatch.setattr(backends, "_cuda_problem", {1: None})
    monkeypatch.setattr(backends, "_has_driver", lambda: True)
    monkeypatch.setattr(backends, "GPU_WORK", 0)
    assert jg.value_and_grad(lambda w, x: w * x).lower(1.0, np.ones(3)).device == "cpu"
    step = jg.value_and_grad(lambda w, x: losses.mse(w * x, 1.0), device="cuda")
    with pytest.raises(errors.DeviceError, match=r"(?s)forked.*get_context\('spawn'\)"):
        step(2.0, np.ones(3))


def test_a_second_gpu_is_named_cuda_1(monkeypatch: pytest.MonkeyPatch) -> None:
    step = jg.value_and_grad(lambda w, x: losses.mse(w * x, 1.0), device="cuda:1")
    lowered = step.lower(2.0, np.ones(3))
    assert lowered.device == "cuda:1"
    assert lowered.kernel.device == 1  # type: ignore[attr-defined]
    assert backends.check_name("cuda:0") == "cuda"
    assert backends.resolve("auto", 1, on=1) == "cuda:1"
    for wrong in ("cuda:", "cuda:x", "cuda1", "cpu:1"):
        with pytest.raises(errors.DeviceError, match="there is no device"):
            backends.check_name(wrong)
    with pytest.raises(errors.DeviceError, match=r"lies on the GPU \(cuda:1\), and device 'cuda' computes elsewhere"):
        backends.resolve("cuda", 1, on=1)
    monkeypatch.setattr(backend, "problem", lambda: None)
    monkeypatch.setattr(cuda_memory, "cuda", SimpleNamespace(gpus=[contextlib.nullcontext()]))
    with pytest.raises(errors.DeviceError, match=r"(?s)no device 'cuda:1'; this machine has 1 GPU\..*Choose from: cuda:0"):
        step(2.0, np.ones(3))


@pytest.mark.slow
def test_the_gpu_report_runs_on_the_ptx_machine(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """All of it but the clocks: the checks are real ones, of tiny batches."""
    monkeypatch.syspath_prepend(Path(__file__).parent.parent)
    from benchmarks import gpu
    monkeypatch.setattr(gpu, "prepare", lambda *_: None)       # numba would take it for this process's simulator from now on
    monkeypatch.setenv("JITGRAD_DEVICE", "cuda")
    path = tmp_path / "gpu.json"
    with emulated(1 << 24):
        assert not gpu.main(["--simulate", "--seed", "1", "--json", str(path), "--picture", str(tmp_path / "gpu.svg")])
    report = json.loads(path.read_text(encoding="utf-8"))
    assert report["failures"] == []
    assert {e["name"].split(",")[0] for e in report["kernels"]} == {
        "mse", "hinge", "bce", "network 2-16-16-1", "softmax cross-entropy"}
    assert all(e["error"] < 2e-4 for e in report["kernels"])
    assert len(report["right"]) == 2 + 5               # the operations in both precisions
    assert len(report["training"]) == 3
    assert "<svg" in (tmp_path / "gpu.svg").read_text(encoding="utf-8")
