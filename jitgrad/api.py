"""The transforms: value_and_grad, grad, jit, batch. JAX's vocabulary; functions are written for one example."""

from __future__ import annotations

import inspect
import threading
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import Any

import numpy as np
import numpy.typing as npt

from jitgrad import backends, debug, errors
from jitgrad.arguments import Axes, Bound, Signature, flatten, unflatten
from jitgrad.compiler.program import Program
from jitgrad.lowered import Lowered
from jitgrad.trace import Recorder
from jitgrad.value import Value, is_number

Argnums = int | Sequence[int]
_REDUCTIONS = ("mean", "sum", None)


@dataclass(frozen=True)
class _Recorded:
    """A function recorded for one signature."""

    program: Program
    captured: list[Value]
    result: Any                                    # structure of what the function returned
    shapes: list[tuple[int, ...]]                  # of each returned leaf
    kernels: dict[str, backends.Kernel]


class Transformed:
    """A function of one example, compiled for batches. Call it like the function; see `value_and_grad`."""

    def __init__(self, fun: Callable[..., Any], argnums: Argnums | None, in_axes: Any, reduce: str | None, device: str,
                 returns: str):
        if not callable(fun):
            raise errors.ArgumentError(f"expected a function of one example, got {fun!r}")
        if reduce not in _REDUCTIONS:
            raise errors.ArgumentError(f"reduce must be 'mean', 'sum' or None; got {reduce!r}")
        backends.check_name(device)
        self.fun, self.argnums, self.reduce, self.device, self.returns = fun, argnums, reduce, device, returns
        numbers = () if argnums is None else (argnums,) if isinstance(argnums, int) else tuple(argnums)
        self._numbers, self._axes = numbers, Axes(in_axes, numbers)
        self._recorded: dict[Signature, _Recorded] = {}
        self._lock = threading.RLock()
        self.__name__ = getattr(fun, "__name__", "function")
        self.__doc__ = fun.__doc__

    def __repr__(self) -> str:
        return f"<jitgrad.{self.returns} of {self.__name__}>"

    @cached_property
    def _signature(self) -> inspect.Signature | None:
        try:
            return inspect.signature(self.fun)
        except (TypeError, ValueError):
            return None

    def _bind(self, args: tuple[Any, ...], kwargs: dict[str, Any]) -> Bound:
        if self._signature is not None:
            call = self._signature.bind(*args, **kwargs)
            if call.kwargs:
                raise errors.ArgumentError(f"keyword-only arguments ({', '.join(call.kwargs)}) cannot be traced; "
                                           f"make them positional or close over them")
            args = call.args
        names = list(self._signature.parameters) if self._signature is not None else []
        names += [f"argument {k}" for k in range(len(names), len(args))]
        numbers = [k + len(args) if k < 0 else k for k in self._numbers]
        for k in numbers:
            if not 0 <= k < len(args):
                raise errors.ArgumentError(f"argnums names argument {k}, but {self.__name__} was called with "
                                           f"{len(args)} arguments")
        return Bound(args, Axes(self._axes.in_axes, numbers), names)

    def _record(self, bound: Bound) -> _Recorded:
        signature = bound.signature()
        with self._lock:
            found = self._recorded.get(signature)
            if found is None:
                found = self._recorded[signature] = self._trace(bound, signature)
            return found

    def _trace(self, bound: Bound, signature: Signature) -> _Recorded:
        leaves = bound.leaves(signature)
        recorder = Recorder(leaves)
        args = unflatten(bound.structure, [recorder.argument(leaf) for leaf in leaves])
        result = self.fun(*args)
        values, structure = flatten(result)
        arrays = [v if isinstance(v, np.ndarray) else np.array(v, object) for v in values]
        if self.returns != "jit":
            self._demand_scalar(result, values)
        nodes = [recorder.node(v) for a in arrays for v in a.reshape(-1)]
        if self.returns == "batch":
            wrt = list(range(len(leaves), len(recorder.leaves)))
        else:
            wrt = self._differentiated(bound)
        per_example = self.reduce is None and bound.n is not None
        program = Program(recorder.graph, recorder.leaves, nodes, recorder.checks, wrt, per_example, signature.dtype)
        return _Recorded(program, recorder.captured, structure, [a.shape for a in arrays], {})

    def _demand_scalar(self, result: Any, values: list[Any]) -> None:
        if isinstance(result, Value) or is_number(result) or (isinstance(result, np.ndarray) and result.shape == ()):
            return
        what = (f"an array of shape {result.shape}" if isinstance(result, np.ndarray)
                else "nothing" if result is None else f"a {type(result).__name__}")
        where = getattr(self.fun, "__code__", None)
        place = None if where is None else f"{where.co_filename}:{where.co_firstlineno}, {self.__name__}"
        raise errors.ShapeError(errors.explain(
            f"{self.__name__} must return one scalar, the loss of one example; it returned {what}.", place,
            "Return one number: index an array of one element ([0]), or sum up the terms."))

    def _differentiated(self, bound: Bound) -> list[int]:
        wrt = []
        for k, array in enumerate(bound.arrays):
            if self._owner(bound, k) in [n % len(bound.structure.children()) for n in self._numbers]:
                if array.dtype.kind != "f":
                    raise errors.DtypeError(errors.explain(
                        f"argument {bound.path(k)} has dtype {array.dtype} and cannot be differentiated.", None,
                        "Pass floating-point numbers (3.0 instead of 3), or leave it out of argnums."))
                wrt.append(k)
        return wrt

    @staticmethod
    def _owner(bound: Bound, leaf: int) -> int:
        for number, child in enumerate(bound.structure.children()):
            if leaf < child.num_leaves:
                return number
            leaf -= child.num_leaves
        raise AssertionError(leaf)

    def lower(self, *args: Any, **kwargs: Any) -> Lowered:
        """Everything that is generated for these arguments: `.as_text(form)`, `.cost_analysis()`. Nothing is run."""
        bound = self._bind(args, kwargs)
        recorded = self._record(bound)
        name, kernel = self._kernel(recorded, bound.n or 1)
        return Lowered(recorded.program, name, kernel)

    def _kernel(self, recorded: _Recorded, n: int) -> tuple[str, backends.Kernel]:
        work = n * len(recorded.program.graph.nodes)
        name = backends.resolve(self.device, work)
        with self._lock:
            kernel = recorded.kernels.get(name)
            if kernel is None:
                kernel = recorded.kernels[name] = backends.kernel(recorded.program, name)
        return name, kernel

    def __call__(self, *args: Any, **kwargs: Any) -> Any:
        bound = self._bind(args, kwargs)
        recorded = self._record(bound)
        program, n = recorded.program, bound.n or 1
        _, kernel = self._kernel(recorded, n)
        shared, batched = bound.packed(program.dtype, recorded.captured)
        results = kernel(shared, batched, n)
        if results[0][0] != 0:
            debug.blame_check(program, shared, batched, n)
        if debug.nans_are_errors():
            debug.blame_nan(program, shared, batched, n, results)
        return self._finish(recorded, bound, results, n)

    def _finish(self, recorded: _Recorded, bound: Bound, results: list[npt.NDArray[Any]], n: int) -> Any:
        program = recorded.program
        divide = n if self.reduce == "mean" else 1
        value = self._value(recorded, results[1], divide)
        if self.returns == "jit":
            return value
        grads = [self._gradient(program, bound, leaf, g, divide)
                 for leaf, g in zip(program.wrt, results[2:], strict=True)]
        if self.returns == "batch":
            return fused(value, recorded.captured, grads)
        structures = bound.structure.children()
        parts, at = {}, 0
        for number in sorted({k % len(structures) for k in self._numbers}):
            count = structures[number].num_leaves
            parts[number] = unflatten(structures[number], grads[at:at + count])
            at += count
        assert self.argnums is not None
        grad = (parts[self.argnums % len(structures)] if isinstance(self.argnums, int)
                else tuple(parts[k % len(structures)] for k in self.argnums))
        return grad if self.returns == "grad" else (value, grad)

    def _value(self, recorded: _Recorded, found: npt.NDArray[Any], divide: int) -> Any:
        dtype, per_example = recorded.program.dtype, recorded.program.per_example
        flat = found if per_example else (found / divide if divide != 1 else found).astype(dtype)
        parts, at = [], 0
        for shape in recorded.shapes:
            width = int(np.prod(shape, dtype=np.int64))
            part = flat[..., at:at + width]
            parts.append(np.ascontiguousarray(part).reshape(part.shape[:-1] + shape)[()])
            at += width
        return unflatten(recorded.result, parts)

    def _gradient(self, program: Program, bound: Bound, number: int, found: npt.NDArray[Any], divide: int) -> Any:
        leaf = program.leaves[number]
        if divide != 1:
            found = found / divide if leaf.shared else np.divide(found, divide, out=found)
        if number >= len(bound.arrays):                   # a closed-over Value
            return found[0]
        dtype = bound.arrays[number].dtype
        axis = bound.axes[number]
        if axis is None:
            lead = (len(found),) if program.per_example else ()
            return found.astype(dtype, copy=False).reshape(lead + leaf.shape)[()]
        rows = found.astype(dtype, copy=False).reshape((len(found), *leaf.shape))
        return rows if axis == 0 else np.moveaxis(rows, 0, axis)


def fused(value: Any, parents: Sequence[Value], grads: Sequence[Any]) -> Value:
    """One Value for a whole kernel: its parents are the parameters, its derivative is already known."""
    made = Value(value, parents, "fused")

    def backward() -> None:
        for parent, g in zip(parents, grads, strict=True):
            parent.grad += made.grad * float(g)
    made._backward = backward
    return made


def value_and_grad(fun: Callable[..., Any], argnums: Argnums = 0, in_axes: Any = None, reduce: str | None = "mean",
                   device: str = "auto") -> Transformed:
    """(value, gradient) of a function written for one example, over a batch, in one fused kernel.

    fun: takes pytrees (dicts, lists, tuples, dataclasses) of scalars and arrays, which arrive as Values and NumPy object
        arrays of Values; returns one scalar.
    argnums: which positional arguments to differentiate; the gradient has their structure, shapes and dtypes.
    in_axes: for each argument None (shared by the batch: its gradient is reduced) or the batch axis (its gradient has
        a row an example); a pytree of these for the leaves of an argument. Default: `argnums` shared, the others
        batched on axis 0.
    reduce: "mean" or "sum" over the batch; None gives per-example values (n, …) and per-example gradients.
    device: "auto", "cpu", "cuda", "interpret" or "jax"; JITGRAD_DEVICE stands in for "auto".

    The dtype follows the inputs (Python numbers are weak); the batch size may change from call to call at no cost.
    Raises ShapeError for batches that differ in size or are empty, DtypeError for data that are not numbers or for
    differentiating integers, TraceError where the function would freeze a number into the kernel, LabelError where a
    loss refuses a label.
    """
    return Transformed(fun, argnums, in_axes, reduce, device, "value_and_grad")


def grad(fun: Callable[..., Any], argnums: Argnums = 0, in_axes: Any = None, reduce: str | None = "mean",
         device: str = "auto") -> Transformed:
    """The gradient alone; see `value_and_grad`."""
    return Transformed(fun, argnums, in_axes, reduce, device, "grad")


def jit(fun: Callable[..., Any], argnums: Argnums = 0, in_axes: Any = None, reduce: str | None = "mean",
        device: str = "auto") -> Transformed:
    """The value alone, of a function that may return any pytree of scalars and arrays (predictions, say).

    `argnums` only says which arguments are shared by default; see `value_and_grad`.
    """
    made = Transformed(fun, argnums, in_axes, reduce, device, "jit")
    return made


def batch(fun: Callable[..., Any], in_axes: Any = 0, reduce: str | None = "mean", device: str = "auto") -> Transformed:
    """A loss closed over a model's Values, as one Value whose parents are those Values.

    Every argument of `fun` is batched on axis 0 by default. The result composes with eager Values, and its backward()
    adds to the parameters' .grad. Raises ArgumentError for reduce=None, since one Value is one number.
    """
    if reduce is None:
        raise errors.ArgumentError("batch() makes one Value, so reduce must be 'mean' or 'sum'; "
                                   "for per-example values use jg.jit(fun, reduce=None)")
    return Transformed(fun, None, in_axes, reduce, device, "batch")
