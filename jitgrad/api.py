"""The transforms: value_and_grad, grad, jit, batch. JAX's vocabulary; functions are written for one example."""

from __future__ import annotations

import inspect
import threading
from collections.abc import Callable, Sequence
from functools import cached_property, partial
from types import FunctionType
from typing import Any, NamedTuple
from weakref import WeakKeyDictionary

import numpy as np
import numpy.typing as npt

from jitgrad import backends, errors
from jitgrad.arguments import (
    PLAIN,
    Axes,
    Bound,
    Signature,
    as_array,
    flatten,
    flatten_plain,
    key,
    paths,
    unflatten,
    unflattener,
    whole_numbers,
)
from jitgrad.blocks import elsewhere
from jitgrad.calls import Call, Layout, Recorded, fused
from jitgrad.compiler.program import Leaf, Program
from jitgrad.debug import Numbers
from jitgrad.lowered import Lowered
from jitgrad.trace import Recorder, collecting_later
from jitgrad.value import Value, is_number

Argnums = int | Sequence[int]
_REDUCTIONS = ("mean", "sum", None)
_KEPT_CALLS = 1024                                 # argument shapes whose checks are remembered
_KEPT_RECORDINGS = 16                              # of one function that promises to be recorded once

_Recordings = dict[Signature, Recorded]
_PROMISED: WeakKeyDictionary[Callable[..., Any], dict[Any, tuple[Any, _Recordings]]] = WeakKeyDictionary()


def recorded_once(fun: Callable[..., Any]) -> Callable[..., Any]:
    """Promise that a function depends on its arguments alone, so that all of its transforms may share its recordings.

    Without it every transform records anew: the function may read numbers that have changed since.
    """
    _PROMISED[fun] = {}
    return fun


class Answer(NamedTuple):
    """What a user gets of (value, gradients by leaf), and the structure of what `out=` receives."""

    of: Callable[[Any, list[Any]], Any]
    structure: Any


class Transformed:
    """A function of one example, compiled for batches. Call it like the function; see `value_and_grad`."""

    def __init__(self, fun: Callable[..., Any], argnums: Argnums | None, in_axes: Any, reduce: str | None, device: str,
                 returns: str):
        if not callable(fun):
            raise errors.ArgumentError(f"expected a function of one example, got {fun!r}")
        if reduce not in _REDUCTIONS:
            raise errors.ArgumentError(f"reduce must be 'mean', 'sum' or None; got {reduce!r}")
        numbers = () if returns == "batch" else whole_numbers(argnums)
        self.fun, self.argnums, self.reduce, self.returns = fun, argnums, reduce, returns
        self.device = backends.check_name(device)
        self._numbers, self._in_axes = numbers, in_axes
        self._calls: dict[Any, tuple[Call, Answer]] = {}
        fresh: tuple[Any, _Recordings] = (threading.RLock(), {})
        self._shares = isinstance(fun, FunctionType) and fun in _PROMISED
        self._lock, self._recorded = (_PROMISED[fun].setdefault((numbers, repr(in_axes), reduce, returns), fresh)
                                      if self._shares else fresh)
        self.__name__ = getattr(fun, "__name__", "function")
        self.__doc__ = fun.__doc__

    def __repr__(self) -> str:
        return f"<jitgrad.{self.returns} of {self.__name__}>"

    def __reduce__(self) -> Any:
        # What was recorded and compiled stays behind: it is made again where it is needed.
        return Transformed, (self.fun, self.argnums, self._in_axes, self.reduce, self.device, self.returns)

    def __call__(self, *args: Any, out: Any = None, **kwargs: Any) -> Any:
        if kwargs:
            args = self._positional(args, kwargs)
        leaves, structure = flatten_plain(args)
        if not PLAIN.issuperset(map(type, leaves)):
            leaves, structure = flatten(args)
            engine = elsewhere(leaves)
            if engine is not None:
                return engine(self, args, out)
            leaves = self._arrays(leaves, structure)
        call, answer = self._call(leaves, structure)
        if out is None:
            return answer.of(*call(leaves))
        if self.returns == "batch":
            raise errors.ArgumentError("batch() makes one Value; there is nothing to write into out=")
        value, _ = call(leaves, self._out_leaves(out, answer.structure))
        return (value, out) if self.returns == "value_and_grad" else out

    def sums(self, args: tuple[Any, ...], numbers: Numbers | None = None) -> npt.NDArray[np.float64]:
        """The float64 sums over a batch of all that is reduced, end to end, not yet divided.

        args: in memory; numbers: by which an error names the examples, else 0, 1, …
        """
        leaves, structure = flatten(args)
        leaves = self._arrays(leaves, structure)
        return self._call(leaves, structure)[0].results(leaves, numbers=numbers).sums

    def layout(self, args: tuple[Any, ...]) -> tuple[Layout, Answer]:
        """How to finish the sums of batches like these, and what its user gets; no kernel is made."""
        bound = self.bind(args)
        with collecting_later():
            layout = Layout(self._record(bound), bound, self.reduce)
        return layout, self._answer(layout)

    def _arrays(self, leaves: list[Any], structure: Any) -> list[Any]:
        def path(k: int) -> str:
            return paths(structure, self._names(structure.num_children))[k]
        return [leaf if type(leaf) in PLAIN else as_array(leaf, partial(path, k)) for k, leaf in enumerate(leaves)]

    def _call(self, leaves: list[Any], structure: Any) -> tuple[Call, Answer]:
        kind = key(leaves, structure)
        found = self._calls.get(kind)
        if found is None:
            with collecting_later():
                call = self.prepare(*unflatten(structure, leaves))
                found = call, self._answer(call)
            if len(self._calls) >= _KEPT_CALLS:
                self._calls.clear()
            self._calls[kind] = found
        return found

    def lower(self, *args: Any, **kwargs: Any) -> Lowered:
        """Everything that is generated for these arguments: `.as_text(form)`, `.cost_analysis()`. Nothing is run."""
        bound = self.bind(self._positional(args, kwargs))
        with collecting_later():
            recorded = self._record(bound)
            name, kernel = self._kernel(recorded, bound)
        return Lowered(recorded.program, name, kernel)

    def _positional(self, args: tuple[Any, ...], kwargs: dict[str, Any]) -> tuple[Any, ...]:
        if self._signature is None:
            return args
        try:
            call = self._signature.bind(*args, **kwargs)
        except TypeError as error:
            raise errors.CallError(errors.explain(
                f"{self.__name__}({', '.join(self._signature.parameters)}) was called with {len(args) + len(kwargs)} "
                f"arguments: {error}.", None, "Pass what the function of one example takes, batched.")) from None
        if call.kwargs:
            raise errors.ArgumentError(f"keyword-only arguments ({', '.join(call.kwargs)}) cannot be traced; "
                                       f"make them positional or close over them")
        return call.args

    @cached_property
    def _signature(self) -> inspect.Signature | None:
        try:
            return inspect.signature(self.fun)
        except (TypeError, ValueError):
            return None

    def _names(self, count: int) -> list[str]:
        names = list(self._signature.parameters) if self._signature is not None else []
        return names + [f"argument {k}" for k in range(len(names), count)]

    def bind(self, args: tuple[Any, ...]) -> Bound:
        """The arguments of a call, checked."""
        args = self._positional(args, {})
        for k in self._numbers:
            if not -len(args) <= k < len(args):
                raise errors.ArgumentError(f"argnums names argument {k}, but {self.__name__} was called with "
                                           f"{len(args)} arguments")
        bound = Bound(args, Axes(self._in_axes, [k % len(args) for k in self._numbers]), self._names(len(args)))
        if self.returns == "batch" and any(isinstance(leaf, Value) for leaf in bound.given):
            place = next(k for k, leaf in enumerate(bound.given) if isinstance(leaf, Value))
            raise errors.ArgumentError(errors.explain(
                f"argument {bound.path(place)} of a batch() is a Value, which its gradient would not reach.", None,
                "Close over it: what the function reads besides its arguments is differentiated."))
        return bound

    def prepare(self, *args: Any) -> Call:
        """The call of these arguments: everything that depends only on their structure, shapes and dtypes."""
        bound = self.bind(args)
        with collecting_later():
            recorded = self._record(bound)
            _, kernel = self._kernel(recorded, bound)
        if bound.on is None:
            return Call(recorded, kernel, bound, self.reduce)
        from jitgrad.device_calls import DeviceCall
        return DeviceCall(recorded, kernel, bound, self.reduce, to_host=self.returns == "batch")

    def _answer(self, layout: Layout) -> Answer:
        recorded = layout.recorded
        if self.returns == "jit":
            return Answer(lambda value, _: value, recorded.result)
        if self.returns == "batch":
            return Answer(lambda value, grads: fused(value, recorded.captured, grads), None)
        structure, assemble = self._assembler(layout.structure)
        if self.returns == "grad":
            return Answer(lambda _, grads: assemble(grads), structure)
        return Answer(lambda value, grads: (value, assemble(grads)), structure)

    def _out_leaves(self, out: Any, structure: Any) -> list[Any]:
        leaves, given = flatten(out)
        if given != structure:
            raise errors.ArgumentError(f"out= must have the structure of what it receives, {structure}; got {given}")
        return leaves

    def _assembler(self, arguments: Any) -> tuple[Any, Callable[[list[Any]], Any]]:
        """The structure that argnums asks for, and from the gradients of leaves, in order, to it."""
        structures = arguments.children()
        numbers = [k % len(structures) for k in self._numbers]
        if not isinstance(self.argnums, Sequence):
            return structures[numbers[0]], unflattener(structures[numbers[0]])
        ranges, at = {}, 0
        for number in sorted(set(numbers)):
            ranges[number] = (at, at + structures[number].num_leaves)
            at = ranges[number][1]
        parts = [(structures[k], *ranges[k]) for k in numbers]
        _, whole = flatten(tuple(unflatten(structure, [0.0] * structure.num_leaves) for structure, _, _ in parts))
        return whole, lambda grads: tuple(unflatten(structure, grads[lo:hi]) for structure, lo, hi in parts)

    def _record(self, bound: Bound) -> Recorded:
        signature = bound.signature()
        with self._lock:
            found = self._recorded.get(signature)
            if found is None:
                if self._shares and len(self._recorded) >= _KEPT_RECORDINGS:
                    del self._recorded[next(iter(self._recorded))]
                found = self._recorded[signature] = self._trace(bound, signature)
            return found

    def _trace(self, bound: Bound, signature: Signature) -> Recorded:
        leaves = bound.leaves(signature)
        recorder = Recorder(leaves)
        args = unflatten(bound.structure, [recorder.argument(leaf) for leaf in leaves])
        result = recorder.run(self.fun, args)
        values, structure = flatten(result)
        arrays = [v if isinstance(v, np.ndarray) else np.array(v, object) for v in values]
        if self.returns != "jit":
            self._demand_scalar(result)
        nodes = [recorder.node(v) for a in arrays for v in a.reshape(-1)]
        wrt = (list(range(len(leaves), len(recorder.leaves))) if self.returns == "batch"
               else self._differentiated(bound))
        per_example = self.reduce is None and bound.n is not None
        divisor = None
        if self.reduce == "mean" and any(not recorder.leaves[k].shared for k in wrt):
            divisor = len(recorder.leaves)
            recorder.leaves.append(Leaf("the batch size", (), True, "real", sum(leaf.width for leaf in recorder.leaves)))
        program = Program(recorder.graph, recorder.leaves, nodes, recorder.checks, wrt, per_example, signature.dtype,
                          divisor)
        recorder.close()
        return Recorded(program, recorder.captured, structure, [a.shape for a in arrays], {})

    def _demand_scalar(self, result: Any) -> None:
        if isinstance(result, Value) or is_number(result) or (isinstance(result, np.ndarray) and result.shape == ()):
            return
        what = (f"an array of shape {result.shape}" if isinstance(result, np.ndarray)
                else "nothing" if result is None else f"a {type(result).__name__}")
        code = getattr(self.fun, "__code__", None)
        place = None if code is None else f"{code.co_filename}:{code.co_firstlineno}, {self.__name__}"
        raise errors.ShapeError(errors.explain(
            f"{self.__name__} must return one scalar, the loss of one example; it returned {what}.", place,
            "Return one number: index an array of one element ([0]), or sum up the terms."))

    def _differentiated(self, bound: Bound) -> list[int]:
        numbers = {k % len(bound.structure.children()) for k in self._numbers}
        wrt = [k for k, owner in enumerate(bound.owners()) if owner in numbers]
        if self.returns == "jit":
            return []
        for k in wrt:
            dtype = bound.arrays[k].dtype
            if dtype.kind != "f":
                raise errors.DtypeError(errors.explain(
                    f"argument {bound.path(k)} has dtype {dtype} and cannot be differentiated.", None,
                    "Pass floating-point numbers (3.0 instead of 3), or leave it out of argnums."))
        return wrt

    def _kernel(self, recorded: Recorded, bound: Bound) -> tuple[str, backends.Kernel]:
        name = backends.resolve(self.device, (bound.n or 1) * len(recorded.program.graph.nodes), bound.on)
        with self._lock:
            kernel = recorded.kernels.get(name)
            if kernel is None:
                kernel = recorded.kernels[name] = backends.kernel(recorded.program, name)
        return name, kernel


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
    device: "auto", "cpu", "cuda" ("cuda:1" for the second GPU), "interpret" or "jax"; JITGRAD_DEVICE stands in for "auto".

    Arguments may be arrays in a GPU's memory (CuPy, PyTorch, JAX, numba: whatever has the CUDA Array Interface or DLPack).
    They are read where they lie, and the results stay on that GPU, as arrays of the first such argument's library.

    Batched arguments may be Dask arrays or memory maps (numpy.load(path, mmap_mode="r")), of any size: values and gradients
    that are reduced are added up block by block, by Dask's workers or in this process; see `jitgrad.blocks`.

    The result takes `out=`, arrays in the gradient's structure (of a jit, the result's) to write into instead of new
    ones: where a gradient has a row an example, fresh memory can cost more than the gradient.

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
    return Transformed(fun, argnums, in_axes, reduce, device, "jit")


def batch(fun: Callable[..., Any], in_axes: Any = 0, reduce: str | None = "mean", device: str = "auto") -> Transformed:
    """A loss closed over a model's Values, as one Value whose parents are those Values.

    Every argument of `fun` is batched on axis 0 by default. The result composes with eager Values, and its backward()
    adds to the parameters' .grad. Raises ArgumentError for reduce=None, since one Value is one number.
    """
    if reduce is None:
        raise errors.ArgumentError("batch() makes one Value, so reduce must be 'mean' or 'sum'; "
                                   "for per-example values use jg.jit(fun, reduce=None)")
    return Transformed(fun, None, in_axes, reduce, device, "batch")
