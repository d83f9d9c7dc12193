"""The living definition: a tape run by NumPy over the batch, one instruction at a time. Slow, plain, never compiled."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from functools import cache
from typing import Any

import numpy as np
import numpy.typing as npt

from jitgrad.compiler.graph import OPS, Op, spelling_graph
from jitgrad.compiler.program import Program, Results
from jitgrad.compiler.tape import Instruction, Tape

Array = npt.NDArray[Any]

CHUNK_BYTES = 64 << 20              # rows held at once


@cache
def vectorised(op: Op) -> Callable[..., Array]:
    """The operation on arrays: NumPy's own, or the table's spelling by other operations, or its reference value."""
    if callable(op.spelling):
        rule = spelling_graph(op)

        def spelled(*args: Array) -> Array:
            real = args[0].dtype.type
            result: Array = rule.evaluate(args, lambda n: real(n.payload), lambda op, xs: vectorised(op)(*xs))[0]
            return result
        return spelled
    function = getattr(np, op.numpy, None)
    if function is None:
        elementwise: Any = np.frompyfunc(op.value, op.arity, 1)  # type: ignore[arg-type]

        def function(*args: Array) -> Array:
            result: Array = elementwise(*args).astype(args[-1].dtype)
            return result
    if not op.conditions:
        return function
    return lambda *args: function(*(a != 0 if k in op.conditions else a for k, a in enumerate(args)))


def run_instruction(i: Instruction, v: Array) -> None:
    """Compute rows lo to hi of `v` (rows, examples)."""
    if i.segments is None:
        v[i.lo:i.hi] = vectorised(i.op)(*(v[a] for a in i.args))
        return
    start, elements = i.segments.start, i.segments.elements
    if i.op is OPS["sum"]:
        # One term of every list at a time, so that each list is added in its own order.
        counts = np.diff(start)
        out = v[elements[start[:-1]]]
        for position in range(1, int(counts.max())):
            more = np.flatnonzero(counts > position)
            out[more] += v[elements[start[more] + position]]
        v[i.lo:i.hi] = out
        return
    for j, row in enumerate(range(i.lo, i.hi)):
        rows, index = v[elements[start[j]:start[j + 1]]], v[i.args[0][j]]
        inside = (index >= 0) & (index < len(rows))
        at = np.where(inside, index, 0).astype(np.int64)
        v[row] = np.where(inside, rows[at, np.arange(v.shape[1])], np.nan)


def run_tape(tape: Tape, program: Program, shared: Array, batched: list[Array], lo: int, hi: int) -> Array:
    """Every row of the tape for examples lo to hi: an array (rows, hi - lo)."""
    v = np.empty((tape.size, hi - lo), program.dtype)
    number = {leaf.first: k for k, leaf in enumerate(program.batched)}
    for row, slot in enumerate(tape.inputs):
        leaf, element = program.leaf_of(slot)
        if leaf.shared:
            v[row] = shared[program.shared_offset[leaf.first] + element]
        else:
            v[row] = batched[number[leaf.first]][lo:hi, element]
    for row, value in tape.constants.items():
        v[row] = value
    with np.errstate(all="ignore"):
        for i in tape.instructions:
            run_instruction(i, v)
    return v


class InterpretKernel:
    """A program run by NumPy."""

    def __init__(self, program: Program):
        self.program = program

    def __call__(self, shared: Array, batched: list[Array], n: int, out: Sequence[Array | None] = ()) -> Results:
        program = self.program
        tape, _ = program.rolled
        rows, parts = program.reduced_rows, program.example_outputs
        results = [np.empty((n, len(r)), program.dtype) for r in parts]
        step = max(1, CHUNK_BYTES // (tape.size * program.dtype.itemsize))
        sums = np.zeros(len(rows))
        for lo in range(0, n, step):
            hi = min(lo + step, n)
            v = run_tape(tape, program, shared, batched, lo, hi)
            with np.errstate(all="ignore"):
                sums += v[rows].sum(axis=1, dtype=np.float64)
            for result, r in zip(results, parts, strict=True):
                result[lo:hi] = v[r].T
        return Results(sums, results)

    def as_text(self, form: str) -> str | None:
        """Nothing is generated here: the tape is the program."""
        return None
