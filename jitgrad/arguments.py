"""Arguments of a transformed function: pytrees of arrays → leaves, batch size, shapes and dtype, and back again."""

from __future__ import annotations

import dataclasses
import operator
from collections.abc import Callable, Sequence
from functools import partial
from typing import Any

import numpy as np
import numpy.typing as npt
import optree

from jitgrad import errors
from jitgrad.backends.device_arrays import DeviceArray, borrow
from jitgrad.compiler.program import Leaf
from jitgrad.value import Traced, Value

NAMESPACE = "jitgrad"
_KINDS = {"f": "real", "i": "int", "u": "int", "b": "bool"}
_REGISTERED: set[type] = set()

# Leaves whose class and shape say all that a call depends on; anything else is converted first.
PLAIN = frozenset({np.ndarray, np.float64, np.float32, int, float, bool, Value})


# (leaves, structure) of a pytree, where all leaves turn out to be PLAIN; `flatten` says it for any.
flatten_plain = partial(optree.tree_flatten, namespace=NAMESPACE)


def flatten(tree: Any) -> tuple[list[Any], Any]:
    """The leaves of a pytree and its structure. Dataclasses are registered when they are first seen."""
    leaves, structure = flatten_plain(tree)
    if PLAIN.issuperset(map(type, leaves)):
        return leaves, structure
    strange = {type(leaf) for leaf in leaves
               if dataclasses.is_dataclass(leaf) and type(leaf) not in _REGISTERED and not isinstance(leaf, type)}
    if not strange:
        return leaves, structure
    for cls in strange:
        _register(cls)
    return flatten(tree)


def _register(cls: type) -> None:
    names = tuple(f.name for f in dataclasses.fields(cls))

    def unflatten(_: Any, children: Sequence[Any]) -> Any:
        made: Any = object.__new__(cls)          # not __init__: it may convert or check what a tracer stands in for
        for name, child in zip(names, children, strict=True):
            object.__setattr__(made, name, child)
        return made
    optree.register_pytree_node(cls, lambda d: (tuple(getattr(d, n) for n in names), None, names), unflatten,
                                namespace=NAMESPACE)
    _REGISTERED.add(cls)


def key(leaves: Sequence[Any], structure: Any) -> Any:
    """What two calls must have in common to share their checks: structure, and each leaf's dtype and shape."""
    return (structure, *[(leaf.dtype, leaf.shape) if leaf.__class__ is np.ndarray else
                         leaf.key if leaf.__class__ is DeviceArray else leaf.__class__ for leaf in leaves])


def unflatten(structure: Any, leaves: Sequence[Any]) -> Any:
    """The pytree of a structure."""
    return optree.tree_unflatten(structure, leaves)


def unflattener(structure: Any) -> Callable[[list[Any]], Any]:
    """`unflatten` for one structure; a lone leaf, by far the most frequent, costs nothing."""
    if structure.is_leaf():
        return lambda leaves: leaves[0]
    return lambda leaves: unflatten(structure, leaves)


def paths(structure: Any, names: Sequence[str]) -> list[str]:
    """How each leaf of the tuple of arguments is written in Python: params['W1'], x[0].bias."""
    return [names[accessor.path[0]] + accessor[1:].codify("") for accessor in optree.treespec_accessors(structure)]


def as_array(leaf: Any, path: Callable[[], str]) -> npt.NDArray[Any] | DeviceArray:
    """A leaf as an array of numbers (an eager Value as its data), where it lies; raises DtypeError for anything else.

    A Value is a real number, as its gradient is, also where it holds an int: micrograd's biases begin as Value(0).
    """
    _refuse_traced(leaf, path)
    array = read_array(leaf, path)
    if array.dtype.kind not in _KINDS or (array.dtype.kind == "f" and array.dtype.itemsize not in (4, 8)):
        raise errors.DtypeError(errors.explain(
            f"argument {path()} has dtype {array.dtype}, which cannot be computed with.", None,
            "Pass float32, float64, integer or bool arrays (float16: convert with .astype('float32'))."))
    return array


def read_array(leaf: Any, path: Callable[[], str]) -> npt.NDArray[Any] | DeviceArray:
    """A leaf as an array of any dtype, where it lies; raises DtypeError for what is none, DataError for masked elements."""
    if isinstance(leaf, Value):
        leaf = float(leaf.data) if isinstance(leaf.data, int) else leaf.data
    if missing := _masked(leaf):
        raise errors.DataError(errors.explain(
            f"argument {path()} is a masked array, of which {missing:,} elements are missing.", None,
            "Leave such examples out, pass array.filled(number), or the mask as an argument of its own: "
            "jg.where(mask, …, …)."))
    # Of a subclass (a memory map, a matrix) the plain array: what a call depends on is then its dtype and shape.
    array = np.asarray(leaf) if isinstance(leaf, np.ndarray) else borrow(leaf)
    if array is None:
        try:
            # The memory itself of whatever lets NumPy read it: PyTorch's CPU tensors, JAX's arrays, columns of frames.
            array = np.asarray(leaf)
        except (TypeError, ValueError, RuntimeError) as error:
            raise errors.DtypeError(errors.explain(
                f"argument {path()}, a {type(leaf).__name__}, cannot be read as an array of numbers: {error}", None,
                "Pass numbers in the CPU's memory. Of a PyTorch tensor: tensor.detach().cpu(), or take part in its graph "
                "with jitgrad.bridges.torch_function.")) from None
    return array


def _masked(leaf: Any) -> int:
    """How many elements of an array are missing; numpy.ma itself takes longer to import than all else that is done here."""
    if not any(cls.__name__ == "MaskedArray" and cls.__module__.startswith("numpy.ma") for cls in type(leaf).__mro__):
        return 0
    return int(np.broadcast_to(leaf.mask, leaf.shape).sum())


def _refuse_traced(leaf: Any, path: Callable[[], str]) -> None:
    """Raise TraceError for a value of a function that is being recorded: a kernel cannot be called for it."""
    objects = leaf.flat if isinstance(leaf, np.ndarray) and leaf.dtype.kind == "O" else [leaf]
    if any(isinstance(v, Traced) for v in objects):
        raise errors.TraceError(errors.explain(
            f"a transformed function was called inside a traced one: its argument {path()} has no number yet.",
            errors.user_location(), "Call the plain function instead. A gradient cannot be differentiated again."))


def whole_numbers(argnums: Any) -> tuple[int, ...]:
    """`argnums` as positions; raises ArgumentError for anything but a whole number or several."""
    try:
        return tuple(operator.index(k) for k in (argnums if isinstance(argnums, Sequence) else (argnums,)))
    except TypeError:
        raise errors.ArgumentError(f"argnums must be the position of an argument, or several; got {argnums!r}") from None


@dataclasses.dataclass(frozen=True)
class Signature:
    """What a program depends on: structure, axes, and for each leaf its example's shape, kind and dtype."""

    structure: Any
    axes: tuple[int | None, ...]
    leaves: tuple[tuple[tuple[int, ...], str, str], ...]

    @property
    def dtype(self) -> np.dtype[Any]:
        """What the program computes in: the widest floating dtype among the arrays; numbers of Python are weak."""
        strong = [np.dtype(d) for _, _, d in self.leaves if d]
        return np.result_type(*strong) if strong else np.dtype(np.float64)


class Axes:
    """`in_axes` made concrete: None for shared, an int for the batch axis, for each leaf of each argument."""

    def __init__(self, in_axes: Any, argnums: Sequence[int]):
        self.in_axes, self.argnums = in_axes, argnums

    def of(self, args: Sequence[Any], structure: Any) -> tuple[int | None, ...]:
        """The axis of every leaf of `args`."""
        if self.in_axes is None:
            prefix: Sequence[Any] = [None if k in self.argnums else 0 for k in range(len(args))]
        elif isinstance(self.in_axes, int | np.integer):
            prefix = [self.in_axes] * len(args)
        else:
            prefix = self.in_axes
        if len(prefix) != len(args):
            raise errors.ShapeError(errors.explain(
                f"in_axes has {len(prefix)} entries for {len(args)} arguments.", None,
                "Give one for each positional argument: None if it is shared by the batch, else its batch axis."))
        axes: list[Any] = []
        for one, arg in zip(prefix, args, strict=True):
            leaves, _ = flatten(arg)
            if one is None or isinstance(one, int):
                axes += [one] * len(leaves)
            else:
                axes += self._broadcast(one, arg)
        return tuple(None if axis is None else self._whole(axis) for axis in axes)

    @staticmethod
    def _whole(axis: Any) -> int:
        try:
            return operator.index(axis)
        except TypeError:
            raise errors.ShapeError(f"in_axes must hold None and whole numbers; got {axis!r}") from None

    @staticmethod
    def _broadcast(prefix: Any, arg: Any) -> list[Any]:
        # None is an axis in the prefix, and no leaf at all in the argument.
        def is_none(x: Any) -> bool:
            return x is None
        try:
            axes = optree.broadcast_prefix(prefix, arg, is_leaf=is_none, namespace=NAMESPACE)
            leaves = optree.tree_leaves(arg, is_leaf=is_none, namespace=NAMESPACE)
            return [axis for axis, leaf in zip(axes, leaves, strict=True) if leaf is not None]
        except ValueError as error:
            raise errors.ShapeError(errors.explain("in_axes does not fit the structure of its argument.", str(error),
                                                   "Give None, a whole number, or the same containers.")) from None


class Bound:
    """The arguments of one call, checked: arrays, batch axes, the batch size (None where nothing is batched)."""

    def __init__(self, args: Sequence[Any], axes: Axes, names: Sequence[str]):
        given, structure = flatten(tuple(args))
        self.given = given
        self.names, self.structure = names, structure
        self.axes = axes.of(args, structure)
        self.arrays = [as_array(leaf, lambda k=k: self.path(k)) for k, leaf in enumerate(given)]  # type: ignore[misc]
        self.weak = [isinstance(leaf, int | float | Value) and not isinstance(leaf, np.generic) for leaf in given]
        self.n = self._batch_size()
        self.on = self._gpu()

    def path(self, leaf: int) -> str:
        """How a leaf is written in Python."""
        return paths(self.structure, self.names)[leaf]

    def owners(self) -> list[int]:
        """For each leaf, the number of the positional argument it belongs to."""
        return [number for number, child in enumerate(self.structure.children()) for _ in range(child.num_leaves)]

    def _gpu(self) -> int | None:
        """The number of the GPU on which arguments lie; None where all lie on the host."""
        gpus = {array.device: k for k, array in enumerate(self.arrays) if isinstance(array, DeviceArray)}
        if len(gpus) > 1:
            found = ", ".join(f"{self.path(k)} on cuda:{number}" for number, k in gpus.items())
            raise errors.DeviceError(errors.explain(f"the arguments lie on several GPUs: {found}.", None,
                                                    "Copy them to one of them."))
        return next(iter(gpus), None)

    def _batch_size(self) -> int | None:
        sizes: dict[int, int] = {}
        for k, (array, axis) in enumerate(zip(self.arrays, self.axes, strict=True)):
            if axis is None:
                continue
            if not -array.ndim <= axis < array.ndim:
                raise errors.ShapeError(errors.explain(
                    f"argument {self.path(k)} has shape {array.shape} and so no batch axis {axis}.", None,
                    "Pass an array with one entry an example (np.asarray(list of numbers)), or give None for it in "
                    "in_axes if the whole batch shares it."))
            sizes.setdefault(array.shape[axis], k)
        if not sizes:
            return None
        if len(sizes) > 1:
            found = ", ".join(f"{self.path(k)} has {n}" for n, k in sizes.items())
            raise errors.ShapeError(errors.explain(f"batch sizes differ: {found} examples.", None,
                                                   "Give every batched argument the same number of examples."))
        (n,) = sizes
        if n == 0:
            raise errors.ShapeError(errors.explain("the batch is empty.", f"argument {self.path(sizes[0])}",
                                                   "Pass at least one example."))
        return n

    def signature(self) -> Signature:
        """What has to be recorded anew when it changes."""
        leaves = []
        for array, axis, weak in zip(self.arrays, self.axes, self.weak, strict=True):
            shape = list(array.shape)
            if axis is not None:
                del shape[axis]
            strong = array.dtype.name if array.dtype.kind == "f" and not weak else ""
            leaves.append((tuple(shape), _KINDS[array.dtype.kind], strong))
        return Signature(self.structure, self.axes, tuple(leaves))

    def leaves(self, signature: Signature) -> list[Leaf]:
        """Leaves with their slots, in order."""
        made: list[Leaf] = []
        slot = 0
        for path, (shape, kind, _), axis in zip(paths(self.structure, self.names), signature.leaves, self.axes,
                                               strict=True):
            made.append(Leaf(path, shape, axis is None, kind, slot))
            slot += made[-1].width
        return made
