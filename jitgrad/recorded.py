"""`compile`: a finished Value expression as a program, replayed with new numbers in its leaves.

The graph that Python's own loops unrolled is rolled into a few vector instructions; nothing is compiled for it. Leaves are
read at every call, so a training loop changes `p.data` and calls again.
"""

from __future__ import annotations

import gc
from collections.abc import Iterable, Iterator, Sequence
from contextlib import contextmanager, suppress
from functools import cached_property
from struct import Struct
from struct import error as StructError
from typing import Any, NoReturn

import numpy as np
import numpy.typing as npt

from jitgrad import backends, debug, errors, soundness
from jitgrad.compiler.flat import simplified
from jitgrad.compiler.program import FlatProgram, Leaf, Results
from jitgrad.lowered import Lowered
from jitgrad.summary import Summary
from jitgrad.value import Traced, Value

Array = npt.NDArray[Any]


def compile(root: Value | Sequence[Value], wrt: Iterable[Value] | None = None, device: str = "auto",
            dtype: npt.DTypeLike = np.float64) -> ValueProgram:
    """A program that computes `root` and its gradient again, from the numbers its leaves then hold.

    root: a finished Value, or several, whose sum is differentiated; wrt: the leaves whose .grad is set, default all;
    dtype: float32 or float64, what is computed in. Raises ArgumentError for a root that depends on no leaf, TraceError
    for a traced Value or one with a derivative of its own (`_backward`), which no compiler can read. Warns
    (StaleGraphWarning) where a number was read while the graph was built; a softmax's shift is computed at each call.
    """
    roots = [root] if isinstance(root, Value) else list(root) if isinstance(root, Sequence) else []
    if not roots or not all(isinstance(r, Value) for r in roots):
        raise errors.ArgumentError(f"compile() takes a finished Value or a list of them; got {root!r}")
    if any(isinstance(r, Traced) for r in roots):
        raise errors.TraceError(errors.explain("compile() inside a traced function.", errors.user_location(),
                                               "Return the loss; the function is being compiled already."))
    kind = np.dtype(dtype)
    if kind not in (np.float32, np.float64):
        raise errors.DtypeError(f"compile() computes in float32 or float64; got {kind}")
    with _collector_paused():
        return ValueProgram(roots, wrt, device, kind)


@contextmanager
def _collector_paused() -> Iterator[None]:
    """No garbage collection meanwhile: making a program makes no garbage, but has the user's many Values looked through."""
    running = gc.isenabled()
    gc.disable()
    try:
        yield
    finally:
        if running:
            gc.enable()


class ValueProgram:
    """A recorded expression; see `compile`.

    leaves: the Values it reads at each call, in the order in which arithmetic first used them.
    """

    def __init__(self, roots: Sequence[Value], wrt: Iterable[Value] | None, device: str, dtype: np.dtype[Any]):
        self.roots, self.dtype, self._device = list(roots), dtype, backends.resolve(device, 0)
        self._structure = soundness.examine(self.roots)
        walk = self._structure.walk()
        self.values, self.leaves, self._constants = walk.size, walk.leaves, walk.numbers
        if not self.leaves:
            raise errors.ArgumentError("compile() needs an expression of at least one Value of the user's")
        self._wrt = self._positions(self.leaves if wrt is None else list(wrt))
        # Slots: first the leaves to differentiate by, then the others, then the numbers of operators.
        wanted = dict.fromkeys(self._wrt)
        others = [k for k in range(len(self.leaves)) if k not in wanted]
        self._order = np.array([*wanted, *others], np.intp)
        self._wanted = [self.leaves[k] for k in wanted]
        self._read_in_order = [*self._wanted, *(self.leaves[k] for k in others)]
        self._gradient_of = {leaf: k for k, leaf in enumerate(wanted)}
        self._flat = simplified(walk.flat(self._order))
        widths = len(wanted), len(others), len(self._constants)
        self._arguments = [Leaf(name, (width,), True, "real", first) for name, width, first in zip(
            ("leaves", "other leaves", "constants"), widths, np.cumsum((0, *widths)).tolist(), strict=False)]
        self._numbers = np.zeros(sum(widths))
        self._numbers[len(self.leaves):] = self._constants
        self._pack = Struct(f"{len(self.leaves)}d").pack_into

    def _positions(self, wanted: Sequence[Value]) -> list[int]:
        place = {id(v): k for k, v in enumerate(self.leaves)}
        strange = [v for v in wanted if id(v) not in place]
        if strange:
            raise errors.ArgumentError(f"wrt names {strange[0]!r}, which is no leaf of the expression")
        return [place[id(v)] for v in wanted]

    def _kernel(self, wrt: list[int]) -> backends.Kernel:
        with _collector_paused():
            kernel = backends.kernel(FlatProgram(self._flat, self._arguments, wrt, self.dtype), self._device)
            kernel(self._numbers.astype(self.dtype), [], 1)                 # what is made by the first call is made now
        return kernel

    @cached_property
    def _forward(self) -> Any:
        return self._kernel([])

    @cached_property
    def _backward(self) -> Any:
        return self._kernel([0])

    def _read(self) -> Array:
        numbers = self._numbers.copy()
        try:
            self._pack(numbers.data, 0, *[v.data for v in self._read_in_order])  # half the time of an assignment by NumPy
        except StructError:
            self._refuse_leaf()
        return numbers if self.dtype == np.float64 else numbers.astype(self.dtype)

    def _refuse_leaf(self) -> NoReturn:
        """Raise DtypeError for the first leaf that holds no real number."""
        def is_number(leaf: Value) -> bool:
            with suppress(StructError):
                Struct("d").pack(leaf.data)
                return True
            return False
        k, leaf = next((k, leaf) for k, leaf in enumerate(self.leaves) if not is_number(leaf))
        raise errors.DtypeError(errors.explain(
            f"leaf {k}{f' ({leaf.label})' * bool(leaf.label)} of the program holds {leaf.data!r}, which is no real number.",
            errors.user_location(), "Assign a float to its .data."))

    def _sums(self, kernel: Any, numbers: Array) -> npt.NDArray[np.float64]:
        """What a kernel makes of the leaves' and the constants' numbers."""
        results: Results = kernel(numbers, [], 1)
        if debug.nans_are_errors():
            debug.blame_nan(kernel.program, numbers, [], 1, results)
        return results.sums

    def _set(self, values: list[float]) -> Any:
        for root, number in zip(self.roots, values[-len(self.roots):], strict=True):
            root._set_number(number)
        return values[-1] if len(self.roots) == 1 else values[-len(self.roots):]

    def forward(self) -> Any:
        """Compute anew: sets the roots' .data from the leaves' and returns it (a list for several roots)."""
        self._structure.check(self.leaves)
        return self._set(self._sums(self._forward, self._read()).tolist())

    def backward(self) -> Any:
        """Compute anew, with the gradient: sets the roots' .data and every leaf's .grad, and returns the former.

        Gradients are this call's; they do not add to what was there, with or without zero_grad().
        """
        self._structure.check(self.leaves)
        sums = self._sums(self._backward, self._read())
        first = len(sums) - len(self._wanted)
        for root in self.roots:
            root.grad = 1
        for leaf, number in zip(self._wanted, memoryview(sums.data)[first:], strict=True):      # a root may be one
            leaf.grad = number
        return self._set(sums[:first].tolist())

    def run(self, numbers: npt.ArrayLike) -> tuple[Any, Array]:
        """(value, gradient by the leaves of wrt) at these numbers for `leaves`; no Value is touched."""
        given = np.asarray(numbers, self.dtype)
        if given.shape != (len(self.leaves),):
            raise errors.ShapeError(f"run() takes one number a leaf, shape ({len(self.leaves)},); got {given.shape}")
        self._structure.check(self.leaves)
        vector = self._numbers.astype(self.dtype)
        vector[:len(given)] = given[self._order]
        sums = self._sums(self._backward, vector)
        gradient = sums[len(sums) - len(self._wanted):].astype(self.dtype)
        values = sums[:len(sums) - len(self._wanted)][-len(self.roots):]
        return (float(values[0]) if len(values) == 1 else values.copy(),
                gradient[[self._gradient_of[k] for k in self._wrt]])

    def lower(self) -> Lowered:
        """Everything that was generated; see `Lowered`."""
        return Lowered(self._backward.program, self._device, self._backward)

    def summary(self) -> Summary:
        """What became of the expression: text to print, and a picture in a notebook or to save; see `Summary`.

        Values, instructions and their kinds; batch axes, which are summands that are the same expression of different
        leaves; dense blocks (sums × elements, over sums side by side); how many operations run over runs of rows, which
        have operands that must be gathered, and which are done one by one since fewer than a vector of them are alike.
        """
        return Summary(self.values, len(self.leaves), len(self._constants), self._forward.program, self._backward.program)
