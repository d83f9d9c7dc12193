"""One kind of call: a recorded function, a kernel, and how arrays go in and results come out.

Everything that depends only on the arguments' structure, shapes and dtypes is worked out once; what is left for each
call is a handful of NumPy operations.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt

from jitgrad import backends, debug
from jitgrad.arguments import Bound, unflatten
from jitgrad.compiler.program import Program, Results
from jitgrad.value import Value

Array = npt.NDArray[Any]


@dataclass(frozen=True)
class Recorded:
    """A function recorded for one signature."""

    program: Program
    captured: list[Value]
    result: Any                                    # structure of what the function returned
    shapes: list[tuple[int, ...]]                  # of each returned leaf
    kernels: dict[str, backends.Kernel]


@dataclass(frozen=True)
class _Part:
    """Where one array of the results is, and what becomes of it."""

    example: int | None                            # number of the per-example result, None for a reduced one
    start: int                                     # range within the sums, or within an example's row
    stop: int
    shape: tuple[int, ...]                         # of the result
    axis: int                                      # where the batch axis goes
    dtype: np.dtype[Any]


class Call:
    """Call it with the leaves of the arguments; answers (value, gradients by leaf)."""

    def __init__(self, recorded: Recorded, kernel: backends.Kernel, bound: Bound, reduce: str | None):
        program = recorded.program
        self.program, self._kernel, self._recorded = program, kernel, recorded
        self.n = bound.n or 1
        self._divide = self.n if reduce == "mean" and self.n > 1 else 1
        self._shared = [k for k, axis in enumerate(bound.axes) if axis is None]
        self._batched = [(k, axis % bound.arrays[k].ndim) for k, axis in enumerate(bound.axes) if axis is not None]
        self._has_values = any(isinstance(leaf, Value) for leaf in bound.given)
        self._values, self._gradients = self._layout(bound)

    def _layout(self, bound: Bound) -> tuple[list[_Part], list[_Part]]:
        program, recorded = self.program, self._recorded
        lead = (self.n,) if program.per_example else ()
        at, examples = 1, 0                         # sums[0] counts failed checks
        values, gradients = [], []
        start = 0 if program.per_example else at
        for shape in recorded.shapes:
            stop = start + int(np.prod(shape, dtype=np.int64))
            values.append(_Part(0 if program.per_example else None, start, stop, lead + shape, 0, program.dtype))
            start = stop
        if program.per_example:
            examples = 1
        else:
            at = start
        for number in program.wrt:
            leaf = program.leaves[number]
            given = number < len(bound.arrays)
            dtype = bound.arrays[number].dtype if given else np.dtype(np.float64)
            axis = bound.axes[number] if given else None
            if leaf.shared and not program.per_example:
                gradients.append(_Part(None, at, at + leaf.width, leaf.shape, 0, dtype))
                at += leaf.width
            else:
                place = 0 if axis is None else axis % (len(leaf.shape) + 1)
                gradients.append(_Part(examples, 0, leaf.width, (self.n, *leaf.shape), place, dtype))
                examples += 1
        return values, gradients

    def pack(self, leaves: Sequence[Any]) -> tuple[Array, list[Array]]:
        """(all shared scalars in one vector, each batched leaf as a contiguous array (n, width))."""
        dtype = self.program.dtype
        if self._has_values:
            leaves = [leaf.data if isinstance(leaf, Value) else leaf for leaf in leaves]
        shared = [leaves[k] for k in self._shared]
        if self._recorded.captured:
            shared.append([v.data for v in self._recorded.captured])
        vector = np.concatenate(shared, axis=None, dtype=dtype, casting="unsafe") if shared else np.zeros(0, dtype)
        batched = []
        for k, axis in self._batched:
            array = leaves[k]
            if axis:
                array = np.moveaxis(array, axis, 0)
            if array.dtype != dtype or not array.flags.c_contiguous:
                array = np.ascontiguousarray(array, dtype)
            batched.append(array.reshape(self.n, -1) if array.size else array.reshape(self.n, 0))
        return vector, batched

    def __call__(self, leaves: Sequence[Any]) -> tuple[Any, list[Any]]:
        shared, batched = self.pack(leaves)
        results = self._kernel(shared, batched, self.n)
        if results.sums[0] != 0:
            debug.blame_check(self.program, shared, batched, self.n)
        if debug.nans_are_errors():
            debug.blame_nan(self.program, shared, batched, self.n, results)
        return self._finish(results)

    def _finish(self, results: Results) -> tuple[Any, list[Any]]:
        dtype = self.program.dtype
        sums = results.sums / self._divide if self._divide != 1 else results.sums
        # Rounded once, from the float64 sums to the program's dtype; a wider argument keeps the wider sums.
        rounded = sums.astype(dtype)

        def part(p: _Part) -> Any:
            if p.example is None:
                vector = rounded if p.dtype == dtype else sums.astype(p.dtype)
                return vector[p.start:p.stop].reshape(p.shape) if p.shape else vector[p.start]
            rows = results.examples[p.example]
            if p.stop - p.start != rows.shape[1]:
                rows = np.ascontiguousarray(rows[:, p.start:p.stop])
            found = rows.astype(p.dtype, copy=False).reshape(p.shape)
            return found if p.axis == 0 else np.moveaxis(found, 0, p.axis)

        if self._divide != 1:
            for p in self._gradients:
                if p.example is not None:
                    rows = results.examples[p.example]
                    np.divide(rows, self._divide, out=rows)
        values = [part(p) for p in self._values]
        return unflatten(self._recorded.result, values), [part(p) for p in self._gradients]


def fused(value: Any, parents: Sequence[Value], grads: Sequence[Any]) -> Value:
    """One Value for a whole kernel: its parents are the parameters, its derivative is already known."""
    made = Value(value, parents, "fused")

    def backward() -> None:
        for parent, g in zip(parents, grads, strict=True):
            parent.grad += made.grad * float(g)
    made._backward = backward
    return made

