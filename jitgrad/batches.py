"""Training data checked once, before anything runs, and cut into minibatches."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from functools import cached_property, partial
from typing import Any

import numpy as np
import numpy.typing as npt

from jitgrad.api import Transformed
from jitgrad.arguments import Axes, flatten, refuse_masked, unflatten
from jitgrad.backends.device_arrays import DeviceArray, borrow, on_host
from jitgrad.blocks import between
from jitgrad.errors import ArgumentError, DataError, ShapeError, explain
from jitgrad.examples import FINITE_ADVICE, Examples, Step, Update, check_finite, check_kind
from jitgrad.optim import leaf_path

Tree = Any
Array = npt.NDArray[Any]


class Batches(Examples):
    """A tuple of data arguments and, for each of their arrays, the axis that counts the examples.

    data: tuple of pytrees of real arrays; a (nested) list of Python numbers counts as one array. What lies on a GPU stays
        there, and is not looked through for NaN
    params, in_axes: as in `fit`; only to tell which entries of in_axes belong to data
    name: what the caller calls data
    count: examples; batched_params: whether params have a batch axis too; example_bytes: of one example
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
        for position, leaf in enumerate(leaves):
            refuse_masked(leaf, partial(leaf_path, name, self._spec, position))
        self._arrays = [_array(leaf) for leaf in leaves]
        self._axes = axes[len(parameters) :]
        self.batched_params = any(axis is not None for axis in axes[: len(parameters)])
        for position, array in enumerate(self._arrays):
            path = leaf_path(name, self._spec, position)
            check_kind(array.dtype, path)
            if not isinstance(array, DeviceArray):
                check_finite(array, path, FINITE_ADVICE)
        self.count = self._common_length()
        self.example_bytes = sum(array.nbytes // self.count for array, axis in zip(self._arrays, self._axes, strict=True)
                                 if axis is not None)

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

    @property
    def arguments(self) -> int:  # type: ignore[override]
        """Of the objective, after params."""
        return len(self._spec.children())

    def axes(self) -> list[int | None]:
        """The axis that counts the examples, of each array of the data."""
        return list(self._axes)

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

    def joined(self, others: Batches) -> Batches:
        """The same examples with more arguments. Raises ShapeError unless there are as many."""
        if others.count != self.count:
            raise ShapeError(explain(f"{others._name} has {others.count} examples, and {self._name} {self.count}.", None,
                                     "It needs an entry for each example."))
        return self._of([*self._arrays, *others._arrays], (*self._axes, *others._axes), (*self.whole(), *others.whole()))

    def apart(self) -> Batches:
        """The same examples without the last argument."""
        return self._of(self._arrays[:-1], self._axes[:-1], self.whole()[:-1])

    def _of(self, arrays: list[Any], axes: Any, data: tuple[Tree, ...]) -> Batches:
        """Other arguments of these examples."""
        made = Batches.__new__(Batches)
        made.__dict__.update({name: value for name, value in self.__dict__.items() if name != "_on_host"})
        made._arrays, made._axes = arrays, axes
        _, made._spec = flatten(data)
        return made

    def kinds(self) -> list[tuple[str, list[int]]]:
        """The dtype and shape of every array, in a form that JSON keeps."""
        return [(array.dtype.str, list(array.shape)) for array in self._arrays]

    def whole(self) -> tuple[Tree, ...]:
        """All examples, in their order, as the caller's own arrays."""
        return self._unflatten(self._arrays)

    def measure(self, metric: Callable[..., Any], params: Tree) -> float:
        """A metric of the caller's own arrays; of those on a GPU, of copies in the host's memory."""
        return float(metric(params, *self._on_host))

    @cached_property
    def _on_host(self) -> tuple[Tree, ...]:
        return self._unflatten([on_host(array) for array in self._arrays])

    def mean(self, loss: Transformed, params: Tree) -> float:
        """The mean of a jit over all examples."""
        return float(on_host(loss(params, *self.whole())))

    def between(self, lo: int, hi: int) -> tuple[Tree, ...]:
        """Examples lo to hi, as views."""
        return self._unflatten([
            array if axis is None else array.between(axis % array.ndim, lo, hi) if isinstance(array, DeviceArray)
            else between(array, axis, lo, hi) for array, axis in zip(self._arrays, self._axes, strict=True)])

    def steps(self, step: Transformed, batch_size: int | None, generator: np.random.Generator) -> Iterator[Step]:
        """One epoch in a fresh random order, or as the examples lie; the last batch may be smaller."""
        if batch_size is None:
            yield Update(step, self.whole(), self.count, None)
            return
        order = generator.permutation(self.count)
        for start in range(0, self.count, batch_size):
            chosen = order[start : start + batch_size]
            # Gathered batch by batch and not once an epoch: the kernel then finds the copy still in the cache.
            yield Update(step, self.chosen(chosen), len(chosen), chosen)

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
        self.__dict__.update({name: value for name, value in whole.__dict__.items()
                              if name not in ("_arrays", "_on_host")})
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


class Noise:
    """Random arrays for every example, drawn anew for every epoch; see `fit`. An epoch's depend on it and the seed alone."""

    def __init__(self, draw: Callable[[np.random.Generator, int], Tree], seed: int) -> None:
        self._draw, self._seed = draw, seed

    def joined(self, batches: Batches, epoch: int) -> Batches:
        """The examples of an epoch, counted from 0, with its noise as their last argument."""
        generator = np.random.default_rng([self._seed, 0xD0_15E, epoch])
        return batches.joined(Batches(None, (self._draw(generator, batches.count),), None, "noise"))


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
