"""The CPU's micro-kernels that move numbers, the shells made ahead of time, and the team of threads."""

from __future__ import annotations

import ctypes
import subprocess
import sys
import threading
from functools import partial
from importlib.metadata import version
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

import jitgrad as jg
from jitgrad.backends import memory, threads
from jitgrad.backends.cpu import address, aligned
from jitgrad.backends.native import Native, native
from jitgrad.compiler.emit_cpu import interpreter, movement

TEXT = Path(__file__).resolve().parent.parent / "kernels" / "cpu_batch.ll"
DTYPES = (np.float32, np.float64)
_CODE: dict[Any, Native] = {}


def run(dtype: Any, name: str, *arguments: int) -> None:
    """Call a micro-kernel with six integers."""
    dtype, lanes = np.dtype(dtype), 64 // np.dtype(dtype).itemsize
    for made in (movement, interpreter):
        if (made, dtype) not in _CODE:
            _CODE[made, dtype] = native(partial(made, dtype, lanes), f"test {made.__name__}", dtype.name)
    code = _CODE[movement if name in ("transpose", "transpose_back", "gather", "scatter") else interpreter, dtype]
    ctypes.CFUNCTYPE(None, *[ctypes.c_int64] * 6)(code.address(f"jitgrad_{name}"))(
        *arguments, *[0] * (6 - len(arguments)))


def numbers(size: int, dtype: Any) -> Any:
    return np.random.default_rng(size).normal(size=size).astype(dtype)


@settings(max_examples=60, deadline=None)
@given(dtype=st.sampled_from(DTYPES), stride=st.integers(1, 40), count=st.integers(1, 150), data=st.data())
def test_transpose(dtype: Any, stride: int, count: int, data: st.DataObject) -> None:
    lanes = 64 // np.dtype(dtype).itemsize
    columns = data.draw(st.integers(1, stride))
    first = data.draw(st.integers(0, stride - columns))
    source = numbers(count * stride, dtype)                 # ends with the last example: nothing may be read beyond
    tile = lanes * -(-count // lanes)
    rows = np.full((columns + 1, tile), 9, dtype)
    run(dtype, "transpose", address(rows), address(source) + first * source.itemsize, stride, count, tile, columns)
    expected = source.reshape(count, stride)[:, first:first + columns].T
    assert np.array_equal(rows[:columns, :count], expected)
    assert (rows[columns] == 9).all()


@settings(max_examples=60, deadline=None)
@given(dtype=st.sampled_from(DTYPES), stride=st.integers(1, 40), count=st.integers(1, 150), data=st.data())
def test_transpose_back(dtype: Any, stride: int, count: int, data: st.DataObject) -> None:
    lanes = 64 // np.dtype(dtype).itemsize
    columns = data.draw(st.integers(1, stride))
    first = data.draw(st.integers(0, stride - columns))
    tile = lanes * -(-count // lanes)
    rows = numbers(columns * tile, dtype).reshape(columns, tile)
    target = np.full(count * stride, 9, dtype)
    run(dtype, "transpose_back", address(rows), address(target) + first * target.itemsize, stride, count, tile, columns)
    expected = np.full((count, stride), 9, dtype)
    expected[:, first:first + columns] = rows[:, :count].T
    assert np.array_equal(target.reshape(count, stride), expected)


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize(("stride", "count"), [(1, 1), (1, 70), (3, 70), (17, 5)])
def test_gather_and_scatter(dtype: Any, stride: int, count: int) -> None:
    source, row = numbers(count * stride, dtype), np.zeros(count, dtype)
    run(dtype, "gather", address(row), address(source), stride, count)
    assert np.array_equal(row, source[::stride])
    target = np.zeros(count * stride, dtype)
    run(dtype, "scatter", address(row), address(target), stride, count)
    assert np.array_equal(target[::stride], row)
    target[::stride] = 0
    assert not target.any()


@pytest.mark.parametrize("dtype", DTYPES)
def test_fill_pick_sums_and_takes(dtype: Any) -> None:
    lanes = 64 // np.dtype(dtype).itemsize
    tile = 2 * lanes
    row, number = np.zeros(tile, dtype), np.array([2.5], dtype)
    run(dtype, "fill", address(row), address(number), tile)
    assert (row == 2.5).all()
    picked, places = np.zeros(3, dtype), np.array([4, 0, 4], np.int32)
    source = numbers(5, dtype)
    run(dtype, "pick", address(picked), address(source), address(places), 3)
    assert np.array_equal(picked, source[places])

    v = aligned(8 * tile, np.dtype(dtype)).reshape(8, tile)
    v[:] = numbers(8 * tile, dtype).reshape(8, tile)
    lists = np.array([99, 4, 6, 9, 0, 1, 2, 3, 1], np.int32)      # two lists, from the operand 1 on: rows 0 1, rows 2 3 1
    run(dtype, "sum_lists", address(v), address(lists), 1, 4, 2, tile)
    assert np.array_equal(v[4], v[0] + v[1])
    assert np.array_equal(v[5], v[2] + v[3] + v[1])

    v[6, :5] = [0, 1, 2, -1, np.nan]
    v[6, 5:] = 1
    operands = np.array([6, 3, 5, 2, 3], np.int32)                # index row 6, one list: rows 2 3
    run(dtype, "takes", address(v), address(operands), 0, 7, 1, tile)
    assert np.array_equal(v[7, :2], [v[2, 0], v[3, 1]])
    assert np.isnan(v[7, 2:5]).all()
    assert np.array_equal(v[7, 5:], v[3, 5:])


@pytest.mark.parametrize("dtype", DTYPES)
def test_gathers_and_scattered_sums(dtype: Any) -> None:
    lanes = 64 // np.dtype(dtype).itemsize
    tile = 2 * lanes
    v = aligned(4 * tile, np.dtype(dtype)).reshape(4, tile)
    v[:] = numbers(4 * tile, dtype).reshape(4, tile)
    w = numbers(6, dtype)
    v[0, :7] = [0, 2, 1, -1, 3, np.nan, 1.5]
    v[0, 7:] = 2
    operands = np.array([0, 0, 5, 8, 10, 4, 1, 5, 0, 3], np.int32)         # index row 0 twice, lists w4 w1 w5 and w0 w3
    run(dtype, "gathers", address(v), address(w), address(operands), 2, 2, tile)
    assert v[2, [0, 1, 2]].tolist() == w[[4, 5, 1]].tolist()
    assert v[3, [0, 2]].tolist() == w[[0, 3]].tolist()
    assert np.isnan(v[2, 3:6]).all()
    assert np.isnan(v[3, [1, 3, 4, 5, 7]]).all()

    sums = np.zeros(4)
    places = np.array([0, 1, 3, -1, 2], np.int32)                          # index row 0, row 1; sums 3, none, 2
    run(dtype, "scatter_sums", address(v), address(places), address(sums), 3, tile, tile - 1)
    expected = np.zeros(4)
    expected[3] = v[1, 0]                                                  # -1, 3, NaN and 1.5 are nobody's, 1 nobody wants
    for example in (1, *range(7, tile - 1)):
        expected[2] += v[1, example]
    assert np.array_equal(sums, expected)


def test_the_shells_are_what_numba_makes_of_them_today() -> None:
    text = TEXT.read_text()
    if f"numba {version('numba')};" not in text or sys.version_info[:2] != (3, 11):
        pytest.skip("made with another numba, or by another Python's compiler")
    made = subprocess.run([sys.executable, "-c", "from jitgrad.kernels import ahead; print(ahead.generate(), end='')"],
                          capture_output=True, text=True, check=True).stdout
    assert made == text, "kernels/cpu_batch.py has changed: run python -m jitgrad.kernels.ahead"


def test_a_process_that_computes_on_the_cpu_does_not_import_numba() -> None:
    program = ("import sys, numpy as np, jitgrad as jg\n"
               "print(jg.value_and_grad(lambda w, x: w * x, device='cpu')(2.0, np.ones(3))[0], 'numba' in sys.modules)")
    told = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=True).stdout
    assert told.split() == ["2.0", "False"]


def test_a_team_does_all_the_work_at_once_and_passes_errors_on() -> None:
    done: list[int] = []
    meeting = threading.Barrier(3, timeout=30)

    def meet(number: int) -> None:
        meeting.wait()                                      # only if all three are at work at the same time
        done.append(number)
    threads.together([lambda k=k: meet(k) for k in range(3)])  # type: ignore[misc]
    assert sorted(done) == [0, 1, 2]

    def fail() -> None:
        raise ValueError("lost")
    for works in ([fail, lambda: done.append(3)], [lambda: done.append(3), fail]):
        with pytest.raises(ValueError, match="lost"):
            threads.together(works)
    threads.together([lambda: done.append(4)] * 2)
    assert done[3:] in ([3, 3, 4, 4], [3, 4, 4])            # a work that had not begun when its call failed need not begin


def test_a_team_at_work_for_one_thread_does_not_hold_up_another() -> None:
    inside, done = threading.Event(), threading.Event()

    def busy() -> None:
        inside.set()
        assert done.wait(30)
    one = threading.Thread(target=threads.together, args=([busy, busy],))
    one.start()
    assert inside.wait(30)
    seen: list[int] = []
    threads.together([lambda: seen.append(1), lambda: seen.append(2)])
    assert seen == [1, 2]
    done.set()
    one.join()


def test_memory_of_large_results_is_used_again_when_no_view_is_left() -> None:
    memory.release()
    shape = (300, 1000)
    first = memory.empty(shape, np.dtype(np.float64))
    assert first.shape == shape
    assert first.flags.writeable
    place = address(first)
    assert place % memory.ALIGNMENT == 0
    first[:] = 1.0
    view = first[5:, ::2].T
    del first
    second = memory.empty(shape, np.dtype(np.float64))
    second[:] = 2.0
    assert address(second) != place
    assert (view == 1.0).all()
    del view
    assert address(memory.empty(shape, np.dtype(np.float64))) == place
    assert memory.release() == second.nbytes + memory.ALIGNMENT
    assert memory.release() == 0


def test_memory_kept_is_bounded() -> None:
    memory.release()
    half = memory.LIMIT // 2 + 1
    for _ in range(2):
        arrays = [memory.empty((half + k,), np.dtype(np.uint8)) for k in range(3)]
        del arrays
    assert 0 < memory.release() <= memory.LIMIT
    assert memory.empty((10,), np.dtype(np.float32)).base is None


def test_results_are_not_overwritten_by_later_calls() -> None:
    p, y = np.random.default_rng(0).normal(size=(2, 400_000))
    step = jg.grad(lambda p, y: (p - y) ** 2, in_axes=(0, 0), reduce="sum", device="cpu")
    first = step(p, y)
    kept = first.copy()
    for k in range(3):
        step(p + k, y)
    assert np.array_equal(first, kept)
