"""Run by test_cuda.py in a process of its own under NUMBA_ENABLE_CUDASIM=1: shells against the interpreter.

The grids and the run of plain sums are made small, so that a few hundred examples take several trips and folds.
"""

from __future__ import annotations

import sys

import numpy as np
from cuda_programs import PROGRAMS, ROWS, batch_for, program
from referees import assert_close, assert_same_bits

from jitgrad.backends.cuda import CudaKernel, problem
from jitgrad.backends.interpret import InterpretKernel
from jitgrad.compiler import schedule, wide_schedule
from jitgrad.compiler.program import Program
from jitgrad.kernels import cuda_batch, cuda_tape


def check(made: Program, n: int, label: str) -> None:
    shared, batched = batch_for(made, n)
    kernel = CudaKernel(made)
    found, expected = (k(shared, batched, n) for k in (kernel, InterpretKernel(made)))
    if n == 33:
        assert_same_bits(kernel(shared, batched, n).sums, found.sums)
    assert_close(found.sums, expected.sums, 2e-6 if made.dtype == np.float32 else 1e-13, f"{label}, n={n}")
    for a, b in zip(found.examples, expected.examples, strict=True):
        assert_same_bits(a, b)
    print(f"{label}, n={n}: {kernel.plan.grid(n)} blocks", flush=True)


def check_compensation() -> None:
    """A warp's big term must not swallow a small one of a later fold, nor the block's sum what the warp kept."""
    made = program(lambda p, x: p[0] * x, np.ones(1, np.float32), np.ones(2, np.float32))
    x = np.zeros((2100, 1), np.float32)
    x[32], x[2080], x[0] = 2.0**30, 1.0, -2.0**30              # the second warp, its third trip, the first warp
    sums = CudaKernel(made)(np.ones(1, np.float32), [x], len(x)).sums
    assert_same_bits(sums, np.array([0.0, 1.0, 1.0]))
    x[5], x[70] = np.inf, -3.0e38
    assert_same_bits(CudaKernel(made)(np.ones(1, np.float32), [x], len(x)).sums, np.array([0.0, np.inf, np.inf]))


def check_rows() -> None:
    """Groups of lanes in a warp, of two warps, and a row walked in pieces; one multiprocessor, so trips are several."""
    wide_schedule.MULTIPROCESSORS, wide_schedule.BLOCK = 1, 64
    f, d = np.dtype(np.float32), np.dtype(np.float64)
    for n in (1, 2, 35):                                       # 35: four trips of four blocks of two, and a rest
        check(ROWS["cross_entropy"](f, 33), n, "cross_entropy of 33")
    check(ROWS["bias"](f, 130), 9, "bias of 130")
    check(ROWS["logistic"](d, 36), 18, "logistic of 36")
    check(ROWS["cosine"](f, 40), 19, "cosine of 40")
    wide_schedule.LONGEST = 4
    check(ROWS["cross_entropy an example"](f, 132), 7, "cross_entropy of 132, two warps")
    wide_schedule.LONGEST, wide_schedule.BLOCK, wide_schedule.CHUNK = 2, 16, 1
    check(ROWS["cross_entropy"](f, 301), 3, "cross_entropy of 301 in pieces")


def main() -> None:
    assert "simulator is not a device" in str(problem())
    schedule.LIGHT_BLOCKS = schedule.TILE_BLOCKS = schedule.FAR_BLOCKS = 2
    schedule.MULTIPROCESSORS, schedule.HEAVY_WARPS = 1, ((256, 4),)
    cuda_batch.FOLD = 2
    small = {"mlp": PROGRAMS["per_example"](np.float64), "batched": PROGRAMS["batched_parameters"](np.float32)}
    for name, made in small.items():
        for n in (1, 33):
            check(made, n, name)
    for n in (1, 31, 33, 2063):                                # 2,063: 1,024 a trip, so three trips and two folds
        check(PROGRAMS["hinge"](np.float32), n, "hinge")
    check_compensation()
    check(PROGRAMS["hinge"](np.float64), 131, "hinge")
    for n in (1, 32, 33, 131, 521):                            # 521: three trips of two blocks
        check(PROGRAMS["cross_entropy"](np.float32), n, "cross_entropy")
    check(PROGRAMS["without_a_batch"](np.float32), 1, "without_a_batch")
    check_rows()
    schedule.FUSED_LIMIT, schedule.TILE_THREADS, schedule.FAR_THREADS, cuda_tape.FOLD = -1, 8, 8, 2
    for n in (1, 67):                                          # 67: two trips of two blocks of 32
        check(PROGRAMS["cross_entropy"](np.float32), n, "cross_entropy by tape")
    check(PROGRAMS["mlp_2_16_16_1"](np.float32), 131, "mlp by tape")          # 131: three tiles of a block, two folds
    for name in ("attention", "recurrent"):
        check(PROGRAMS[name](np.float32), 33, f"{name} by tape")
    schedule.SHARED_MEMORY = 0
    check(PROGRAMS["per_example"](np.float64), 33, "per_example by tape, far")
    check(PROGRAMS["mlp_2_16_16_1"](np.float64), 67, "mlp by tape, far")


if __name__ == "__main__":
    sys.exit(main())
