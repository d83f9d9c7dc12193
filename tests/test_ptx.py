"""What a GPU would be given, run by ptx_machine: every kind of kernel, its memory accesses and its barriers.

First the machine itself: that it computes, and that it stops at what is wrong.
"""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest

pytest.importorskip("numba_cuda", reason="numba-cuda is not installed", exc_type=ImportError)

import numba.cuda as cuda
from cuda_emulation import Device, emulated
from cuda_programs import PROGRAMS, ROWS, batch_for, network
from ptx_arithmetic import TYPES, arithmetic
from ptx_machine import Fault, launch
from ptx_memory import Memory
from referees import assert_close, assert_same_bits

import jitgrad as jg
from jitgrad import losses, optim
from jitgrad.backends import cuda_copies
from jitgrad.backends.cuda import CudaKernel
from jitgrad.backends.device_arrays import DeviceArray
from jitgrad.backends.interpret import InterpretKernel
from jitgrad.compiler import schedule

DTYPES = ("float32", "float64")
NEAR = {"float32": 1e-5, "float64": 1e-12}


# The machine.

HEADER = ".version 9.0\n.target sm_90a\n.address_size 64\n.shared .align 16 .b8 board[512];\n"


def run(body: str, threads: int = 64, size: int = 512, blocks: int = 1) -> Any:
    """A kernel of one pointer, with some registers; returns what it left of `size` bytes, as int32."""
    text = (HEADER + ".visible .entry test(.param .u64 test_param_0) {\n.reg .pred %p<9>;\n.reg .b32 %r<9>;\n"
            ".reg .f32 %f<9>;\n.reg .b64 %rd<9>;\nld.param.u64 %rd1, [test_param_0];\nmov.u32 %r1, %tid.x;\n"
            "mul.wide.u32 %rd2, %r1, 4;\n"
            "add.s64 %rd3, %rd1, %rd2;\nmov.u64 %rd4, board;\nadd.s64 %rd5, %rd4, %rd2;\n" + body + "\nret;\n}\n")
    memory = Memory(1 << 16)
    at = memory.allocate(size)
    memory.fill(at, np.zeros(size, np.uint8))
    launch(text, memory, (blocks, 1, 1), (threads, 1, 1), [np.int64(at)])
    return memory.view(at, size).view(np.int32).copy()


def test_threads_part_and_meet_again() -> None:
    found = run("setp.gt.u32 %p1, %r1, 40;\nmov.u32 %r2, 1;\n@%p1 bra up;\nmov.u32 %r2, 5;\nup:\nadd.s32 %r2, %r2, %r1;\n"
                "st.global.u32 [%rd3], %r2;", size=256)
    assert found.tolist() == [t + (1 if t > 40 else 5) for t in range(64)]


def test_a_loop_of_its_own_length_for_every_thread() -> None:
    found = run("mov.u32 %r2, 0;\nmov.u32 %r3, 0;\nagain:\nadd.s32 %r3, %r3, %r2;\nadd.s32 %r2, %r2, 1;\n"
                "setp.le.u32 %p1, %r2, %r1;\n@%p1 bra again;\nst.global.u32 [%rd3], %r3;", size=256)
    assert found.tolist() == [t * (t + 1) // 2 for t in range(64)]


ROTATE = "sub.s32 %r4, 63, %r1;\nmul.wide.u32 %rd6, %r4, 4;\nadd.s64 %rd6, %rd4, %rd6;\nst.shared.u32 [%rd5], %r1;\n"


def test_a_barrier_hands_over() -> None:
    found = run(ROTATE + "bar.sync 0;\nld.shared.u32 %r2, [%rd6];\nst.global.u32 [%rd3], %r2;", size=256)
    assert found.tolist() == list(range(63, -1, -1))


def test_lanes_exchange() -> None:
    found = run("shfl.sync.bfly.b32 %r2|%p1, %r1, 5, 31, -1;\nst.global.u32 [%rd3], %r2;", size=256)
    assert found.tolist() == [t ^ 5 for t in range(64)]


@pytest.mark.parametrize(("body", "threads", "what"), [
    (ROTATE + "ld.shared.u32 %r2, [%rd6];", 64, "a race: thread .* has written"),
    (ROTATE + "bar.warp.sync -1;\nld.shared.u32 %r2, [%rd6];", 64, "a race"),
    (ROTATE + "bar.sync 0;\nld.shared.u32 %r2, [%rd6];\nst.shared.u32 [%rd5], %r2;", 64, "a race: thread .* has read"),
    ("st.global.u32 [%rd1], %r1;\nbar.sync 0;\nld.global.u32 %r2, [%rd1];\nst.global.u32 [%rd1], %r1;", 64, "a race"),
    ("setp.lt.u32 %p1, %r1, 32;\n@%p1 bra end;\nbar.sync 0;\nend:\nmov.u32 %r2, 0;\n@%p1 bra again;\nret;\nagain:\n"
     "bar.sync 0;\nbar.sync 0;", 64, "wait for each other"),
    ("setp.lt.u32 %p1, %r1, 5;\n@%p1 bra end;\nshfl.sync.bfly.b32 %r2, %r1, 1, 31, -1;\nbra out;\nend:\n"
     "bar.sync 0;\nout:\nmov.u32 %r2, 0;", 32, "wait for each other"),
    ("ld.shared.u32 %r2, [%rd5];", 32, "nobody has written"),
    ("ld.global.u32 %r2, [%rd3+512];", 32, "outside of what was allocated"),
    ("st.global.u32 [%rd3+-4], %r1;", 32, "outside of what was allocated"),
    ("ld.global.v2.u32 {%r2, %r3}, [%rd3];", 32, "no multiple of 8"),
    ("add.s32 %r2, %r3, 1;", 32, "read before it is written"),
    ("frobnicate.f32 %f1, %f2;", 32, "does not know frobnicate"),
])
def test_it_stops_at_what_is_wrong(body: str, threads: int, what: str) -> None:
    with pytest.raises(Fault, match=what):
        run(body, threads)


def test_blocks_may_not_rely_on_their_order() -> None:
    with pytest.raises(Fault, match="of block 1 touches what thread 0 of block 0 has written"):
        run("mov.u32 %r2, %ctaid.x;\nst.global.u32 [%rd3], %r2;\nld.global.u32 %r3, [%rd3];", 1, blocks=2)


INTEGERS = [0, 1, 2, 7, 31, 32, 33, 255, 2**31 - 1, 2**31, 2**32 - 1, 2**63 - 1, 2**63, 2**64 - 1]


def _int(x: int, kind: str) -> int:
    bits = int(kind[1:])
    x %= 1 << bits
    return x - (1 << bits) if kind[0] == "s" and x >> (bits - 1) else x


@pytest.mark.parametrize("kind", ["s32", "u32", "s64", "u64"])
@pytest.mark.parametrize("name", ["add", "sub", "mul.lo", "mul.hi", "min", "max", "div", "rem"])
def test_integers_are_as_the_manual_says(name: str, kind: str) -> None:
    function, _, result = arithmetic(f"{name}.{kind}")
    assert function is not None
    bits = int(kind[1:])
    wanted = {"add": lambda a, b: a + b, "sub": lambda a, b: a - b, "mul.lo": lambda a, b: a * b,
              "mul.hi": lambda a, b: a * b >> bits, "min": min, "max": max,
              "div": lambda a, b: abs(a) // abs(b) * (-1 if (a < 0) != (b < 0) else 1),
              "rem": lambda a, b: abs(a) % abs(b) * (-1 if a < 0 else 1)}[name]
    for x in INTEGERS:
        for y in INTEGERS:
            a, b = _int(x, kind), _int(y, kind)
            if name in ("div", "rem") and (b == 0 or (a, b) == (-(1 << (bits - 1)), -1)):
                continue
            with np.errstate(all="ignore"):
                found = function(np.array([a], TYPES[kind]), np.array([b], TYPES[kind]))
            assert int(np.asarray(found, TYPES[result])[0]) == _int(wanted(a, b), kind), (name, kind, a, b)


def test_a_float_becomes_an_integer_as_the_manual_says() -> None:
    x = np.array([2.5, -2.5, 1e30, -1e30, np.nan, np.inf, -0.0], np.float32)
    for opcode, wanted in {"cvt.rni.s32.f32": [2, -2, 2**31 - 1, -2**31, 0, 2**31 - 1, 0],
                           "cvt.rzi.u32.f32": [2, 0, 2**32 - 1, 0, 0, 2**32 - 1, 0]}.items():
        function, _, _ = arithmetic(opcode)
        assert function is not None
        assert function(x).tolist() == wanted


def test_a_fused_product_and_sum_is_rounded_once() -> None:
    function, _, _ = arithmetic("fma.rn.f64")
    assert function is not None
    a = np.array([1 + 2.0**-30, 3.0, np.inf, 1e200])
    c = np.array([-(1 + 2.0**-29), 0.1, 1.0, 1e300])
    with np.errstate(all="ignore"):
        found = function(a, a, c)
    assert_same_bits(found, [2.0**-60, 9.1, np.inf, np.inf])


# jitgrad's kernels.

CALLS = [(name, dtype) for name in PROGRAMS for dtype in DTYPES]


@pytest.mark.slow
@pytest.mark.parametrize(("name", "dtype"), CALLS)
def test_a_kernel_computes_its_program(name: str, dtype: str) -> None:
    made = PROGRAMS[name](np.dtype(dtype))
    kernel = CudaKernel(made)
    sizes = {"tape": (33,), "rows": (1, 5)}.get(name[:4], (1, 33, 700))
    for n in sizes if made.batched else (1,):
        shared, batched = batch_for(made, n)
        with emulated():
            found = kernel(shared, batched, n)
            again = kernel(shared, batched, n)
        kernel._held._kept.clear()
        expected = InterpretKernel(made)(shared, batched, n)
        assert_same_bits(again.sums, found.sums)
        assert_close(found.sums / n, expected.sums / n, NEAR[dtype], f"{name}, n={n}")
        for a, b in zip(found.examples, expected.examples, strict=True):
            assert_close(a, b, NEAR[dtype], f"{name}, n={n}")


# Lanes of one warp, of several; a row that is walked in pieces; sums of whole rows over the batch.
WIDE = [("cross_entropy", 33), ("cross_entropy", 1024), ("divergence", 130), ("layer norm", 36), ("bias", 1024)]


@pytest.mark.slow
@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize(("name", "width"), WIDE)
def test_a_kernel_of_long_rows_computes_its_program(name: str, width: int, dtype: str) -> None:
    made = ROWS[name](np.dtype(dtype), width)
    shared, batched = batch_for(made, 5)
    with emulated() as device:
        found = CudaKernel(made)(shared, batched, 5)
    assert "wide_shell" in device.launches[0][0]
    expected = InterpretKernel(made)(shared, batched, 5)
    assert_close(found.sums, expected.sums, NEAR[dtype], name)
    for a, b in zip(found.examples, expected.examples, strict=True):
        assert_close(a, b, NEAR[dtype], name)


def _moons(dtype: str) -> Any:
    fun, params = network((2, 8, 1), lambda out, y: losses.mse(out[0], y), dtype)
    rng = np.random.default_rng(1)
    return fun, params, (rng.normal(size=(40, 2)).astype(dtype), rng.choice([-1.0, 1.0], 40).astype(dtype))


@pytest.mark.slow
@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize(("form", "batch_size"), [("training_shell", None), ("training_shell", 16), ("step_shell", 16)])
def test_training_gives_what_the_cpu_gives(form: str, batch_size: int | None, dtype: str,
                                           monkeypatch: pytest.MonkeyPatch) -> None:
    if form == "step_shell":
        monkeypatch.setattr(schedule, "RESIDENT_WORK", 0)
    fun, params, data = _moons(dtype)
    options: dict[str, Any] = {"epochs": 3, "batch_size": batch_size, "progress": False, "optimizer": optim.sgd(0.1, 0.9)}
    with emulated() as device:
        found = jg.fit(fun, params, data, device="cuda", **options)
    assert form in device.launches[-1][0]
    expected = jg.fit(fun, params, data, device="cpu", **options)
    for name in params:
        assert_close(found.params[name], expected.params[name], NEAR[dtype], name)
    assert_close(found.losses, expected.losses, NEAR[dtype])


@pytest.mark.slow
def test_models_side_by_side_get_the_bits_that_each_gets_alone() -> None:
    fun, params, data = _moons("float32")
    options: dict[str, Any] = {"epochs": 2, "batch_size": 16, "progress": False, "device": "cuda"}
    with emulated() as device:
        together = jg.fit(fun, params, data, ensemble=3, **options)
        assert [grid for name, grid, _ in device.launches if "training_shell" in name] == [3]
        for seed in range(3):
            alone = jg.fit(fun, params, data, seed=seed, **options)
            for name in params:
                assert_same_bits(together[seed].result.params[name], alone.params[name])


@pytest.mark.slow
@pytest.mark.parametrize("limit", [schedule.FUSED_LIMIT, -1], ids=["straight", "tape"])
def test_users_calls_give_what_the_cpu_gives(limit: int, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(schedule, "FUSED_LIMIT", limit)
    fun, params = network((3, 4, 1), lambda out, y: losses.hinge(out[0], y), np.float32)
    rng = np.random.default_rng(1)
    X, Y = rng.normal(size=(70, 3)).astype(np.float32), rng.choice([-1.0, 1.0], 70).astype(np.float32)
    with emulated():
        value, grads = jg.value_and_grad(fun, device="cuda")(params, X, Y)
        with pytest.raises(jg.errors.LabelError, match="example 7"):
            jg.value_and_grad(fun, device="cuda")(params, X, np.where(np.arange(70) == 7, 3, Y))
    expected, wanted = jg.value_and_grad(fun, device="cpu")(params, X, Y)
    assert_close(value, expected, 1e-6)
    for name in params:
        assert_close(grads[name], wanted[name], 1e-6, name)


@pytest.mark.slow
@pytest.mark.parametrize(("source", "target"), [("int32", "float32"), ("float64", "float32"), ("uint8", "float64")])
def test_arrays_of_any_strides_are_copied(source: str, target: str) -> None:
    numbers = np.arange(2 * 3 * 4 * 5).reshape(2, 3, 4, 5).astype(source)
    with emulated() as device:
        given = _on(device, numbers).moved(0, 2).moved(3, 0)
        made = device.allocate(given.shape, target)
        cuda_copies.copy(made, given)
        assert_same_bits(device.download(made), np.moveaxis(np.moveaxis(numbers, 0, 2), 3, 0))


def _on(device: Device, numbers: Any) -> DeviceArray:
    made = device.allocate(numbers.shape, numbers.dtype)
    device.fill(made, numbers)
    return made


def test_a_kernel_with_a_barrier_too_few_is_found_out() -> None:
    @cuda.jit(lto=False)
    def reversed_block(x: Any) -> None:
        board, t = cuda.shared.array(64, np.int64), cuda.threadIdx.x
        board[t] = x[t]
        x[t] = board[63 - t]

    with emulated() as device:
        given = _on(device, np.arange(64))
        with pytest.raises(Fault, match="a race"):
            device.launch(reversed_block, 1, 64, given)
