"""`compile`: a finished Value expression as a program, replayed with new numbers in its leaves.

The graph that Python's own loops unrolled is rolled into a few vector instructions; nothing is compiled for it. Leaves are
read at every call, so a training loop changes `p.data` and calls again.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from functools import cached_property
from typing import Any

import numpy as np
import numpy.typing as npt

from jitgrad import backends, errors, soundness
from jitgrad.compiler.graph import OPS, Graph, Node
from jitgrad.compiler.program import Leaf, Program
from jitgrad.compiler.simplify import rewrite
from jitgrad.lowered import Lowered
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
    return ValueProgram(roots, wrt, device, kind)


class ValueProgram:
    """A recorded expression; see `compile`.

    leaves: the Values it reads at each call, in the order they were first used.
    """

    def __init__(self, roots: Sequence[Value], wrt: Iterable[Value] | None, device: str, dtype: np.dtype[Any]):
        self.roots, self.dtype, self._device = list(roots), dtype, backends.resolve(device, 0)
        self._graph = Graph(rewrite)
        self.leaves: list[Value] = []
        self._constants: list[float] = []
        self._structure = soundness.examine(self.roots)
        with self._structure.shifts():
            self._nodes = self._record()
        if not self.leaves:
            raise errors.ArgumentError("compile() needs an expression of at least one Value of the user's")
        self._slots = np.array([*self._leaf_slots, *self._constant_slots], np.int64)
        self._wrt = self._positions(self.leaves if wrt is None else list(wrt))

    def _record(self) -> list[Node]:
        """The roots' nodes. Leaves are slots; so are the numbers that operators made leaves of, which are data too."""
        graph, nodes = self._graph, {}
        self._leaf_slots: list[int] = []
        self._constant_slots: list[int] = []
        self.values = 0
        for root in self.roots:
            for v in root._topological():
                if id(v) in nodes:
                    continue
                self.values += 1
                if v._backward is not None:
                    raise errors.TraceError(errors.explain(
                        f"a Value with its own `_backward` ({v._op or v!r}) cannot be compiled.", errors.user_location(),
                        "Build the expression from jitgrad's operations."))
                if v._rule is None or v._rule is OPS["constant"]:
                    slot = len(self._leaf_slots) + len(self._constant_slots)
                    nodes[id(v)] = graph.input(slot)
                    if v._rule is None:
                        self._leaf_slots.append(slot)
                        self.leaves.append(v)
                    else:
                        self._constant_slots.append(slot)
                        self._constants.append(float(v.data))
                else:
                    args = [nodes[id(a)] if isinstance(a, Value) else a for a in v._args]
                    nodes[id(v)] = graph.add(v._rule, *args)
        return [nodes[id(root)] for root in self.roots]

    def _positions(self, wanted: Sequence[Value]) -> list[int]:
        place = {id(v): k for k, v in enumerate(self.leaves)}
        strange = [v for v in wanted if id(v) not in place]
        if strange:
            raise errors.ArgumentError(f"wrt names {strange[0]!r}, which is no leaf of the expression")
        return [place[id(v)] for v in wanted]

    def _program(self, wrt: list[int]) -> Program:
        total = self._nodes[0]
        for node in self._nodes[1:]:
            total = self._graph.add(OPS["add"], total, node)
        leaf = Leaf("leaves", (len(self._slots),), True, "real", 0)
        return Program(self._graph, [leaf], [total, *self._nodes], [], wrt, False, self.dtype)

    @cached_property
    def _forward(self) -> Any:
        return backends.kernel(self._program([]), self._device)

    @cached_property
    def _backward(self) -> Any:
        return backends.kernel(self._program([0]), self._device)

    def _vector(self, numbers: npt.ArrayLike) -> Array:
        vector = np.empty(len(self._slots), self.dtype)
        vector[self._slots[:len(self.leaves)]] = numbers
        vector[self._slots[len(self.leaves):]] = self._constants
        return vector

    def _read(self) -> Array:
        return self._vector([v.data for v in self.leaves])

    def _set(self, sums: Array) -> Any:
        data = sums[2:2 + len(self.roots)].tolist()
        for root, number in zip(self.roots, data, strict=True):
            root._set_number(number)
        return data[0] if len(data) == 1 else data

    def forward(self) -> Any:
        """Compute anew: sets the roots' .data from the leaves' and returns it (a list for several roots)."""
        self._structure.check(self.leaves)
        return self._set(self._forward(self._read(), [], 1).sums)

    def backward(self) -> Any:
        """Compute anew, with the gradient: sets the roots' .data and every leaf's .grad, and returns the former.

        Gradients are this call's; they do not add to what was there, with or without zero_grad().
        """
        self._structure.check(self.leaves)
        sums = self._backward(self._read(), [], 1).sums
        gradient = sums[2 + len(self.roots):][self._slots[:len(self.leaves)]].tolist()
        for k in self._wrt:
            self.leaves[k].grad = gradient[k]
        for root in self.roots:
            root.grad = 1
        return self._set(sums)

    def run(self, numbers: npt.ArrayLike) -> tuple[Any, Array]:
        """(value, gradient by the leaves of wrt) at these numbers for `leaves`; no Value is touched."""
        given = np.asarray(numbers, self.dtype)
        if given.shape != (len(self.leaves),):
            raise errors.ShapeError(f"run() takes one number a leaf, shape ({len(self.leaves)},); got {given.shape}")
        self._structure.check(self.leaves)
        sums = self._backward(self._vector(given), [], 1).sums
        values = sums[2:2 + len(self.roots)]
        gradient = sums[2 + len(self.roots):][self._slots[:len(self.leaves)]][self._wrt].astype(self.dtype)
        return (float(values[0]) if len(values) == 1 else values.copy()), gradient

    def lower(self) -> Lowered:
        """Everything that was generated; see `Lowered`."""
        return Lowered(self._backward.program, self._device, self._backward)

    def summary(self) -> str:
        """What became of the expression: Values, nodes, instructions and their kinds."""
        tape, _ = self._program([]).rolled
        both, _ = self._backward.program.rolled
        kinds: dict[str, int] = {}
        for i in both.instructions:
            kinds[i.op.name] = kinds.get(i.op.name, 0) + 1
        return "\n".join([
            f"{self.values:,} Values: {len(self.leaves):,} leaves, {len(self._constants):,} constants of operators, "
            f"{self.values - len(self._slots):,} operations",
            f"rolled into {len(tape.instructions)} instructions over {tape.size:,} rows; with the gradient "
            f"{len(both.instructions)} over {both.size:,}",
            "instructions: " + ", ".join(f"{count} {name}" for name, count in sorted(kinds.items()))])
