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

from jitgrad import backends, debug, errors
from jitgrad.arguments import Bound, unflattener
from jitgrad.backends.device_arrays import DeviceArray, contiguous
from jitgrad.compiler.program import Program, Results
from jitgrad.debug import Numbers
from jitgrad.value import Value

Array = npt.NDArray[Any]


def _exact_to(dtype: np.dtype[Any]) -> int:
    """All whole numbers up to this one are numbers of the dtype."""
    return 2 << int(np.finfo(dtype).nmant)


@dataclass(frozen=True)
class Recorded:
    """A function recorded for one signature."""

    program: Program
    captured: list[Value]
    result: Any                                    # structure of what the function returned
    shapes: list[tuple[int, ...]]                  # of each returned leaf
    kernels: dict[str, backends.Kernel]


class Part:
    """Where one array of the results is, and what becomes of it.

    example: number of the per-example result, None for a reduced one; start, stop: range within the sums, or within an
    example's row; shape: of the result; axis: where the batch axis goes.
    """

    def __init__(self, example: int | None, start: int, stop: int, shape: tuple[int, ...], axis: int,
                 dtype: np.dtype[Any], computed: np.dtype[Any]):
        self.example, self.shape, self.axis, self.dtype = example, shape, axis, dtype
        self.same_dtype, self.folds = dtype == computed, len(shape) > 1
        self.where: slice | int = slice(start, stop) if shape else start
        self.start, self._width = start, stop - start

    def is_written_as_it_is(self, width: int) -> bool:
        """Whether rows of that width are the result, but for their shape."""
        return self.same_dtype and self.axis == 0 and self._width == width

    def check_target(self, target: Any, name: str) -> None:
        """Raise unless `target` is an array that the result fits."""
        shape = list(self.shape)
        if self.axis:
            shape.insert(self.axis, shape.pop(0))
        if not isinstance(target, np.ndarray) or not target.flags.writeable:
            raise errors.ArgumentError(f"out= for {name} must be a writeable NumPy array; got "
                                       f"{'a read-only one' if isinstance(target, np.ndarray) else repr(target)}")
        if target.shape != tuple(shape):
            raise errors.ShapeError(f"out= for {name} must have shape {tuple(shape)}; got {target.shape}")
        if target.dtype != self.dtype:
            raise errors.DtypeError(f"out= for {name} must have dtype {self.dtype}; got {target.dtype}")

    def of_examples(self, rows: Array) -> Array:
        """The result, from per-example rows (n, width)."""
        if self._width != rows.shape[1]:
            rows = np.ascontiguousarray(rows[:, self.start:self.start + self._width])
        found = rows.astype(self.dtype, copy=False).reshape(self.shape)
        return found if self.axis == 0 else np.moveaxis(found, 0, self.axis)

    def rows_on_device(self, rows: DeviceArray) -> DeviceArray:
        """`of_examples` of an array in a GPU's memory: a view, of the dtype that was computed in."""
        itemsize = rows.dtype.itemsize
        strides = (rows.strides[0], *contiguous(self.shape[1:], itemsize))
        found = DeviceArray(rows.address + self.start * itemsize, self.shape, rows.dtype, rows.owner, rows.device, strides,
                            rows.library, rows.platform)
        return found if self.axis == 0 else found.moved(0, self.axis)


class Layout:
    """Where the results of a recorded function are in what a kernel computes, and what becomes of them.

    width: of the sums
    """

    width: int

    def __init__(self, recorded: Recorded, bound: Bound, reduce: str | None):
        self.program, self.recorded, self.structure = recorded.program, recorded, bound.structure
        self.n = bound.n or 1
        self._mean = reduce == "mean"
        self._values, self._gradients = self._layout(bound)
        self._unflatten = unflattener(recorded.result)

    @property
    def is_reduced(self) -> bool:
        """Whether all results are sums (or means) over the batch."""
        return all(self.program.reduced)

    def _layout(self, bound: Bound) -> tuple[list[Part], list[Part]]:
        program, recorded = self.program, self.recorded
        lead = (self.n,) if program.per_example else ()
        at, examples = 1, 0                         # sums[0] counts failed checks
        values, gradients = [], []
        start = 0 if program.per_example else at
        for shape in recorded.shapes:
            stop = start + int(np.prod(shape, dtype=np.int64))
            values.append(Part(0 if program.per_example else None, start, stop, lead + shape, 0, program.dtype,
                                program.dtype))
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
                gradients.append(Part(None, at, at + leaf.width, leaf.shape, 0, dtype, program.dtype))
                at += leaf.width
            else:
                place = 0 if axis is None else axis % (len(leaf.shape) + 1)
                gradients.append(Part(examples, 0, leaf.width, (self.n, *leaf.shape), place, dtype, program.dtype))
                examples += 1
        self.width = at
        return values, gradients

    def finish(self, results: Results, n: int) -> tuple[Any, list[Any]]:
        """(value, gradients by leaf) of what a kernel computed for n examples, in one call or in several."""
        values, gradients = self._parts(results, n)
        return self._unflatten(values), gradients

    def _parts(self, results: Results, n: int) -> tuple[list[Any], list[Any]]:
        sums = results.sums / n if self._mean and n > 1 else results.sums
        # Rounded once, from the float64 sums to the program's dtype; a wider argument keeps the wider sums.
        rounded = sums.astype(self.program.dtype)

        def part(p: Part) -> Any:
            if p.example is not None:
                return p.of_examples(results.examples[p.example])
            found = rounded[p.where] if p.same_dtype else sums[p.where].astype(p.dtype)
            return found.reshape(p.shape) if p.folds else found
        return [part(p) for p in self._values], [part(p) for p in self._gradients]


class Call(Layout):
    """Call it with the leaves of the arguments; answers (value, gradients by leaf).

    out: arrays to write the gradients into, or the values of a program without gradients.
    """

    def __init__(self, recorded: Recorded, kernel: backends.Kernel, bound: Bound, reduce: str | None):
        super().__init__(recorded, bound, reduce)
        self.kernel = kernel
        self._shared = [k for k, axis in enumerate(bound.axes) if axis is None]
        self._batched = [(k, axis % bound.arrays[k].ndim, self.program.leaves[k].width)
                         for k, axis in enumerate(bound.axes) if axis is not None]
        self._has_values = any(isinstance(leaf, Value) for leaf in bound.given)
        # Integers that may have more digits than the program's numbers.
        self._counted = {k for k, array in enumerate(bound.arrays) if isinstance(array, np.ndarray)
                         and array.dtype.kind in "iu" and np.iinfo(array.dtype).max > _exact_to(self.program.dtype)}

    def pack(self, leaves: Sequence[Any]) -> tuple[Array, list[Array]]:
        """(all shared scalars in one vector, each batched leaf as a contiguous array (n, width))."""
        if self._has_values:
            leaves = [leaf.data if isinstance(leaf, Value) else leaf for leaf in leaves]
        return self.shared(leaves), self.rows(leaves)

    def shared(self, leaves: Sequence[Any]) -> Array:
        """All shared scalars in one vector."""
        dtype = self.program.dtype
        for k in self._counted.intersection(self._shared):
            self._demand_exact(k, leaves[k])
        shared = [leaves[k] for k in self._shared]
        if self.recorded.captured:
            shared.append([v.data for v in self.recorded.captured])
        if self.program.divisor is not None:
            shared.append(self.n)
        return np.concatenate(shared, axis=None, dtype=dtype, casting="unsafe") if shared else np.zeros(0, dtype)

    def rows(self, leaves: Sequence[Any]) -> list[Array]:
        """Each batched leaf as a contiguous array (n, width) of the program's dtype, for any number of examples."""
        dtype, batched = self.program.dtype, []
        for k, axis, width in self._batched:
            array = leaves[k]
            if k in self._counted:
                self._demand_exact(k, array)
            if axis:
                array = np.moveaxis(array, axis, 0)
            if array.dtype is not dtype or not array.flags.c_contiguous:
                array = np.ascontiguousarray(array, dtype)
            batched.append(array if array.ndim == 2 else array.reshape((len(array), width)))
        return batched

    def _demand_exact(self, k: int, given: Any) -> None:
        """Raise DtypeError for an integer that the program's dtype would round."""
        array, limit = np.asarray(given), _exact_to(self.program.dtype)
        # Numbers of which none is negative are no larger than their bits together: one pass instead of two.
        if 0 <= np.bitwise_or.reduce(array, axis=None) <= limit or -limit <= array.min() <= array.max() <= limit:
            return
        large = array[(array < -limit) | (array > limit)]
        rounded = large[abs(large // (large & -large)) > limit]          # what is left of a number without its factors 2
        if len(rounded):
            path, dtype = self.program.leaves[k].path, self.program.dtype
            raise errors.DtypeError(errors.explain(
                f"argument {path} holds {rounded[0]}, an integer that {dtype} would round.", None,
                "Convert it to float64, which the whole call then computes in, or subtract an offset first."
                if dtype == np.float32 else "Subtract an offset first, or split it into two numbers."))

    def __call__(self, leaves: Sequence[Any], out: Sequence[Any] | None = None) -> tuple[Any, list[Any]]:
        if out is None:
            return self.finish(self.results(leaves), self.n)
        values, gradients = self._parts(self.results(leaves, self._offer(leaves, out)), self.n)
        _fill(out, gradients or values)
        return self._unflatten(values), gradients

    def results(self, leaves: Sequence[Any], offered: Sequence[Array | None] = (),
                numbers: Numbers | None = None) -> Results:
        """What the kernel computes, sums not yet divided; numbers: by which an error names the examples, else 0, 1, …"""
        shared, batched = self.pack(leaves)
        results = self.kernel(shared, batched, self.n, offered)
        if results.sums[0] != 0:
            debug.blame_check(self.program, shared, batched, self.n, numbers)
        if debug.nans_are_errors():
            debug.blame_nan(self.program, shared, batched, self.n, results, numbers)
        return results

    def _offer(self, leaves: Sequence[Any], out: Sequence[Any]) -> list[Array | None]:
        """The user's arrays for results, checked; for each per-example result the one a kernel may write as it is."""
        program, parts = self.program, self._gradients or self._values
        names = ([f"the gradient by {program.leaves[k].path}" for k in program.wrt] if self._gradients
                 else [f"result {k}" for k in range(len(parts))])
        widths = [len(rows) for rows in program.example_outputs]
        offered: list[Array | None] = [None] * len(widths)
        for target, p, name in zip(out, parts, names, strict=True):
            p.check_target(target, name)
            if any(np.may_share_memory(target, leaf) for leaf in leaves if isinstance(leaf, np.ndarray)):
                raise errors.ArgumentError(f"out= for {name} lies in the memory of an argument; give it memory of its own")
            if p.example is not None and p.is_written_as_it_is(widths[p.example]) and target.flags.c_contiguous:
                offered[p.example] = target.reshape(self.n, widths[p.example])
        return offered


def _fill(out: Sequence[Array], found: Sequence[Any]) -> None:
    """Put results where the user wants them, unless the kernel has."""
    for target, result in zip(out, found, strict=True):
        if not np.may_share_memory(target, result):
            target[...] = result


def fused(value: Any, parents: Sequence[Value], grads: Sequence[Any]) -> Value:
    """One Value for a whole kernel: its parents are the parameters, its derivative is already known."""
    made = Value(value, parents, "fused")

    def backward() -> None:
        for parent, g in zip(parents, grads, strict=True):
            parent.grad += made.grad * float(g)
    made._backward = backward
    return made

