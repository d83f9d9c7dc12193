"""Training data checked once, before anything runs, and cut into minibatches."""

from __future__ import annotations

import copy
from collections.abc import Iterator
from functools import cached_property
from typing import Any

import numpy as np
import numpy.typing as npt

from jitgrad.arguments import Axes, flatten, unflatten
from jitgrad.backends.device_arrays import DeviceArray, borrow, on_host
from jitgrad.errors import ArgumentError, DataError, DtypeError, ShapeError, explain
from jitgrad.optim import leaf_path

Tree = Any
Array = npt.NDArray[Any]


class Batches:
    """A tuple of data arguments and, for each of their arrays, the axis that counts the examples.

    data: tuple of pytrees of real arrays; a (nested) list of Python numbers counts as one array. What lies on a GPU stays
        there, and is not looked through for NaN
    params, in_axes: as in `fit`; only to tell which entries of in_axes belong to data
    name: what the caller calls data
    count: examples; batched_params: whether params have a batch axis too
    raises: ArgumentError, ShapeError, DtypeError, DataError; each names the argument as `data[i]...`
    """

    def __init__(self, params: Tree, data: tuple[Tree, ...], in_axes: Any = None, name: str = "data") -> None:
        self._name = name
        if not isinstance(data, tuple):
            raise ArgumentError(
                explain(f"{name} must be a tuple of the objective's arguments after params, not {type(data).__name__}.",
                        None, "Write (X, Y), or (X,) for a single argument; the comma makes the tuple.")
            )
        trees = tuple(_lists_as_arrays(tree) for tree in data)
        parameters, _ = flatten(params)
        _, structure = flatten((params, *trees))
        axes = Axes(in_axes, (0,)).of((params, *trees), structure)
        leaves, self._spec = flatten(trees)
        self._arrays = [_array(leaf) for leaf in leaves]
        self._axes = axes[len(parameters) :]
        self.batched_params = any(axis is not None for axis in axes[: len(parameters)])
        for position, array in enumerate(self._arrays):
            _check_array(array, leaf_path(name, self._spec, position))
        self.count = self._common_length()

    def _common_length(self) -> int:
        lengths: list[tuple[str, int]] = []
        for position, (array, axis) in enumerate(zip(self._arrays, self._axes, strict=True)):
            if axis is None:
                continue
            path = leaf_path(self._name, self._spec, position)
            if not -array.ndim <= axis < array.ndim:
                raise ShapeError(
                    explain(f"An argument of shape {array.shape} has no axis {axis} to count examples along.", path,
                            "Give it a batch axis, or pass in_axes with None for what all examples share.")
                )
            lengths.append((path, array.shape[axis]))
        if not lengths:
            raise ShapeError(
                explain(f"No argument of {self._name} has a batch axis.", None,
                        "Pass at least one array of examples, as (X,).")
            )
        first_path, first = lengths[0]
        for path, length in lengths:
            if length != first:
                raise ShapeError(
                    explain(f"{first_path} has {first} examples but {path} has {length}.", path,
                            "Every batched argument needs the same number of examples.")
                )
        if first == 0:
            raise DataError(explain("The data is empty: it has 0 examples.", first_path, "Pass at least one example."))
        return first

    def part(self, examples: npt.NDArray[np.intp]) -> Batches:
        """These examples, at least one; they are copied when they are first asked for."""
        return _Part(self, examples)

    @property
    def origin(self) -> Batches:
        """The examples of which these are a part, at last."""
        return self

    @property
    def examples(self) -> npt.NDArray[np.intp]:
        """Which of the origin's examples these are."""
        return np.arange(self.count)

    def joined(self, array: Array) -> Batches:
        """The same examples with one more argument, (count,)."""
        made = copy.copy(self)
        made._arrays, made._axes = [*self._arrays, array], (*self._axes, 0)
        _, made._spec = flatten((*self.whole(), array))
        return made

    def kinds(self) -> list[tuple[str, list[int]]]:
        """The dtype and shape of every array, in a form that JSON keeps."""
        return [(array.dtype.str, list(array.shape)) for array in self._arrays]

    def whole(self) -> tuple[Tree, ...]:
        """All examples, in their order, as the caller's own arrays."""
        return self._unflatten(self._arrays)

    def on_host(self) -> tuple[Tree, ...]:
        """All examples in the host's memory."""
        return self._unflatten([on_host(array) for array in self._arrays])

    def first(self, size: int) -> tuple[Tree, ...]:
        """The first examples, as views."""
        return self._unflatten([
            array if axis is None else array.first(axis % array.ndim, size) if isinstance(array, DeviceArray)
            else array[(slice(None),) * (axis % array.ndim) + (slice(size),)]
            for array, axis in zip(self._arrays, self._axes, strict=True)])

    def shuffled(self, batch_size: int, generator: np.random.Generator) -> Iterator[tuple[int, tuple[Tree, ...]]]:
        """One epoch in a fresh random order: (examples in the batch, data); the last batch may be smaller."""
        order = generator.permutation(self.count)
        for start in range(0, self.count, batch_size):
            chosen = order[start : start + batch_size]
            # Gathered batch by batch and not once an epoch: the kernel then finds the copy still in the cache.
            yield len(chosen), self.chosen(chosen)

    def chosen(self, examples: npt.NDArray[np.intp] | None) -> tuple[Tree, ...]:
        """Copies of these examples; None: the caller's own arrays."""
        if examples is None:
            return self.whole()
        return self._unflatten(self._chosen(examples))

    def _chosen(self, examples: npt.NDArray[np.intp]) -> list[Any]:
        return [array if axis is None else _take(array, examples, axis % array.ndim)
                for array, axis in zip(self._arrays, self._axes, strict=True)]

    def _unflatten(self, leaves: list[Any]) -> tuple[Tree, ...]:
        data: tuple[Tree, ...] = unflatten(self._spec, leaves)
        return data


class _Part(Batches):
    """Some of other examples."""

    def __init__(self, whole: Batches, examples: npt.NDArray[np.intp]):
        self.__dict__.update({name: value for name, value in whole.__dict__.items() if name != "_arrays"})
        self._whole, self._numbers, self.count = whole, examples, len(examples)

    @cached_property
    def _arrays(self) -> list[Any]:  # type: ignore[override]
        return self._whole._chosen(self._numbers)

    @property
    def origin(self) -> Batches:
        return self._whole.origin

    @property
    def examples(self) -> npt.NDArray[np.intp]:
        return self._whole.examples[self._numbers]


def _array(leaf: Any) -> Array | DeviceArray:
    found = None if isinstance(leaf, np.ndarray) else borrow(leaf)
    return np.asarray(leaf) if found is None else found


def _take(array: Array | DeviceArray, examples: npt.NDArray[np.intp], axis: int) -> Array | DeviceArray:
    if not isinstance(array, DeviceArray):
        return array.take(examples, axis)
    from jitgrad.backends import cuda_copies
    return cuda_copies.take(array, examples, axis)


def check_finite(array: Array, path: str, advice: str) -> None:
    """Raise DataError naming the first NaN or infinity of a real array, its index and how many there are."""
    if array.dtype.kind != "f":
        return
    finite = np.isfinite(array)
    if finite.all():
        return
    index = tuple(int(i) for i in np.unravel_index(int(np.argmin(finite)), array.shape))
    bad = int(finite.size - np.count_nonzero(finite))
    where = f"{path}[{', '.join(map(str, index))}]" if index else path
    others = "" if bad == 1 else f" ({bad} of its {array.size} elements are NaN or infinite)"
    raise DataError(explain(f"{where} is {array[index]}{others}.", where, advice))


def _check_array(array: Array | DeviceArray, path: str) -> None:
    kind = array.dtype.kind
    if kind not in "fiub" or (kind == "f" and array.dtype.itemsize not in (4, 8)):
        names = {"U": "text", "S": "bytes", "O": "Python objects", "c": "complex numbers", "M": "dates"}
        what = names.get(kind, "other numbers")
        raise DtypeError(
            explain(f"Training data must be float32, float64, integers or bools; this argument holds {what} "
                    f"(dtype {array.dtype}).", path,
                    "Convert it, for example class names to integers 0, 1, 2, ... with numpy.unique.")
        )
    if not isinstance(array, DeviceArray):
        check_finite(array, path, "Remove or fill such examples first, for example X[np.isfinite(X).all(axis=1)].")


def _lists_as_arrays(tree: Tree) -> Tree:
    """A list of numbers, however nested, as one array: as a pytree its leaves would have no axis to batch."""
    if not isinstance(tree, list):
        return tree
    if not all(isinstance(leaf, (bool, int, float, complex, str, np.generic)) for leaf in flatten(tree)[0]):
        return tree
    try:
        return np.asarray(tree)
    except ValueError as error:
        raise ShapeError(
            explain(f"A list of data is ragged: {error}.", None, "Give every example the same shape.")
        ) from None
