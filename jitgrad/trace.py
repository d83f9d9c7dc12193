"""Recording: a function of Values and arrays becomes a graph.

A recorder owns the graph of one function for one structure of arguments. Eager Values the function closes over become
shared inputs, read anew at each call, so that a model's parameters may change between calls.
"""

from __future__ import annotations

import gc
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from sys import _getframe
from typing import Any

import numpy as np

from jitgrad import errors
from jitgrad.compiler.graph import Graph, Node, Op
from jitgrad.compiler.program import Check, Leaf
from jitgrad.compiler.simplify import rewrite
from jitgrad.value import RECORDING, Traced, Value, is_number, number_of


@contextmanager
def collecting_later() -> Iterator[None]:
    """Python's garbage collector waits while a graph is recorded and compiled.

    Nearly all that is made lives on, and to look through it again and again takes longer than to make it.
    """
    if not gc.isenabled():
        yield
        return
    gc.disable()
    try:
        yield
    finally:
        gc.enable()


class Recorder:
    """Records one function. `leaves` grow by the closed-over Values, in the order they are first used.

    Once `close` was called nothing is recorded any more: what is kept of a recording's values is of no use.
    """

    def __init__(self, leaves: Sequence[Leaf]):
        self.graph = Graph(rewrite)
        self.leaves = list(leaves)
        self.captured: list[Value] = []
        self.checks: list[Check] = []
        self._captured_nodes: dict[int, Node] = {}
        self._slots = sum(leaf.width for leaf in leaves)
        self._locations = errors.Locations()

    def run(self, function: Callable[..., Any], args: Sequence[Any]) -> Any:
        """Call the function; until it returns, this thread's arithmetic on Values is recorded here."""
        outer, RECORDING.recorder = RECORDING.recorder, self
        try:
            with self._locations.entered():
                return function(*args)
        finally:
            RECORDING.recorder = outer

    def argument(self, leaf: Leaf) -> Any:
        """The traced stand-in of an argument: a Traced scalar, or an object array of them."""
        scalars = [Traced(self, self.graph.input(leaf.first + e, leaf.kind)) for e in range(leaf.width)]
        if leaf.shape == ():
            return scalars[0]
        array = np.empty(leaf.width, object)
        array[:] = scalars
        return array.reshape(leaf.shape)

    def apply(self, op: Op, args: Sequence[Any]) -> Traced:
        """Record one operation."""
        return Traced(self, self.graph.make(op, tuple([self.node(a) for a in args]), self._locations.of(_getframe(1))))

    def binary(self, op: Op, x: Any, y: Any) -> Any:
        """`apply` for the operators of Traced, whose operands are mostly Traced: as little work as possible."""
        if x.__class__ is y.__class__ and x.recorder is y.recorder is self:
            args = x.node, y.node
        elif all(isinstance(a, Value) or is_number(a) for a in (x, y)):
            args = self.node(x), self.node(y)
        else:
            return NotImplemented                  # an array, say, which knows itself what to do
        return Traced(self, self.graph.make(op, args, self._locations.of(_getframe(2))))

    def node(self, value: Any) -> Node:
        """The node of a traced value, a number, or an eager Value (which it captures)."""
        if value.__class__ is Traced:
            if value.recorder is not self:
                raise _kept()
            return value.node
        if isinstance(value, Value):
            return self._capture(value)
        try:
            return self.graph.lift(value)
        except TypeError:
            raise errors.TraceError(errors.explain(
                f"a {type(value).__name__} cannot take part in scalar arithmetic.", errors.user_location(),
                "Use numbers, Values and arrays of them.")) from None

    def _capture(self, value: Value) -> Node:
        node = self._captured_nodes.get(id(value))
        if node is None:
            name = value.label or f"closed-over Value {len(self.captured)}"
            self.leaves.append(Leaf(name, (), True, "real", self._slots))
            node = self._captured_nodes[id(value)] = self.graph.input(self._slots)
            self.captured.append(value)
            self._slots += 1
        return node

    def close(self) -> None:
        """The graph is complete: what would enter more into it is an error."""
        self.graph = _Closed()

    def check(self, holds: Any, shown: Any, explain: Callable[[int | None, float], Exception]) -> None:
        """Demand a condition of every example at run time."""
        self.checks.append(Check(self.node(holds), self.node(shown), explain))


class _Closed(Graph):
    """Stands for the graph of a recording that is over."""

    def __init__(self) -> None: pass
    def make(self, *args: Any) -> Node: raise _kept()
    def input(self, *args: Any) -> Node: raise _kept()
    def lift(self, *args: Any) -> Node: raise _kept()


def _kept() -> errors.TraceError:
    return errors.TraceError(errors.explain(
        "a traced value was kept from an earlier recording and used after it.", errors.user_location(),
        "Return what you need from the function instead of storing it outside."))


def require(holds: Any, shown: Any, what: str, instead: str, place: str = "",
            kind: type[errors.JitgradError] = errors.LabelError) -> None:
    """Demand that a condition holds: now if it is eager, of every example at run time if it is traced.

    what: the complaint, "{value}" in it standing for the number of `shown` that broke it.
    place: which of a sequence it is: "label 3"
    """
    where = errors.user_location()

    def explain(example: int | None, value: float) -> Exception:
        places = [place] * bool(place) + ([] if example is None else [f"example {example} of the batch"])
        named = f" ({' of '.join(places)})" if places else ""
        shown_value = repr(int(value) if value.is_integer() else value)
        return kind(errors.explain(what.format(value=shown_value) + named, None if where is None else str(where),
                                   instead))
    if isinstance(holds, Traced):
        holds.recorder.check(holds, shown, explain)
    elif not number_of(holds):
        raise explain(None, float(number_of(shown)))
