"""Module: something with parameters, which are Values of its own or arrays that are bound in their place."""

from __future__ import annotations

import copy
from collections.abc import Callable, Mapping
from typing import Any, NamedTuple

import numpy as np
import numpy.typing as npt

from jitgrad import errors
from jitgrad.value import Value

Array = npt.NDArray[Any]
Put = Callable[[str, Any], Any]


class Mask(NamedTuple):
    """Stands in a Module's attribute for a bool array that each example brings with it: True is kept.

    p: how probably an element is False; shape: of one example's array
    """

    p: float
    shape: tuple[int, ...]


class Module:
    """Something with parameters: the Values among its attributes, arrays and lists of them, and those of Modules in it.

    `__call__` is written once and serves two ways. Called as it is, a model computes with its Values, as in micrograd.
    `bind` makes the same model with arrays in the place of Values: inside a function that jitgrad records, the traced
    parameters. The names of the arrays are the attributes' with dots between, as in PyTorch's state_dict: "layers.0.W".
    """

    def zero_grad(self) -> None:
        """Set every parameter's gradient to 0."""
        for p in self.parameters():
            p.grad = 0

    def parameters(self) -> list[Any]:
        """The Values to be trained."""
        return [value for values in self._arrays().values() for value in values.flat]

    def arrays(self, dtype: npt.DTypeLike = np.float64) -> dict[str, Array]:
        """The parameters' numbers as new arrays by name, a pytree for `jg.fit` and `jg.value_and_grad`.

        dtype: float64 or float32
        raises: ArgumentError for a Value that stands in two places, since each would be trained for itself
        """
        found: dict[str, Array] = {}
        owner: dict[int, str] = {}
        for name, values in self._arrays().items():
            for value in values.flat:
                if owner.setdefault(id(value), name) != name:
                    raise errors.ArgumentError(errors.explain(
                        f"{owner[id(value)]} and {name} share a Value, but as arrays each would be trained for itself.",
                        None, "Keep the parameter in one place, and use it from there."))
            found[name] = np.array([value.data for value in values.flat], dtype).reshape(values.shape)
        return found

    def bind(self, params: Mapping[str, Any] | None = None, masks: Any = ...) -> Any:
        """The same model with these parameters; the model itself stays as it is.

        params: arrays of numbers or of traced Values, by the names and with the shapes of `arrays`; None: its own Values
        masks: for its Dropouts one example's arrays of `masks`, to train with; None: drop nothing, to evaluate; left out:
            a Dropout that is called raises ArgumentError
        raises: ArgumentError for names that the model lacks or has besides, ShapeError for shapes that differ
        """
        if params is not None:
            _check_names(self._arrays(), params)

        def put(name: str, place: Any) -> Any:
            if isinstance(place, Mask):
                return place if masks is ... else masks if masks is None else _found(masks, name, place.shape)
            return place if params is None else _found(params, name, place.shape)
        return self._replaced("", put)

    def load(self, params: Mapping[str, Any]) -> None:
        """Write numbers into the Values: `arrays` backwards, bit for bit. Raises as `bind`."""
        own = self._arrays()
        _check_names(own, params)
        numbers = {name: np.asarray(_found(params, name, values.shape), np.float64) for name, values in own.items()}
        for name, values in own.items():
            for value, number in zip(values.flat, numbers[name].flat, strict=True):
                value.data = float(number)

    def masks(self, generator: np.random.Generator, examples: int) -> dict[str, Array]:
        """What its Dropouts keep, drawn anew for each example: bool arrays (examples, ...) by name; the `noise` of `fit`."""
        return {name: generator.random((examples, *place.shape), np.float32) >= place.p
                for name, place in self._places().items() if isinstance(place, Mask)}

    def _arrays(self) -> dict[str, Any]:
        """Its parameters as arrays of Values, by name."""
        return {name: place for name, place in self._places().items() if not isinstance(place, Mask)}

    def _places(self) -> dict[str, Any]:
        found: dict[str, Any] = {}
        self._replaced("", found.setdefault)
        return found

    def _replaced(self, prefix: str, put: Put) -> Any:
        """A copy in which put(name, place) stands for each array of Values and each Mask."""
        made = copy.copy(self)
        for name, part in vars(self).items():
            setattr(made, name, _replaced(part, prefix + name, put))
        return made


def _replaced(part: Any, name: str, put: Put) -> Any:
    """An attribute with its places filled; one that has none as it is."""
    if isinstance(part, Module):
        return part._replaced(f"{name}.", put)
    if isinstance(part, Mask):
        return put(name, part)
    values = _as_values(part)
    if values is not None:
        return put(name, values)
    inner: dict[Any, Any] = part if isinstance(part, dict) else dict(enumerate(part)) if type(part) in (list, tuple) else {}
    made = {key: _replaced(found, f"{name}.{key}", put) for key, found in inner.items()}
    if all(made[key] is inner[key] for key in made):
        return part
    return made if isinstance(part, dict) else type(part)(made.values())


def _as_values(part: Any) -> Any:
    """A Value, an array of them or a list, however nested, as an array of Values; None for anything else."""
    if not isinstance(part, Value | list | tuple) and not (isinstance(part, np.ndarray) and part.dtype.kind == "O"):
        return None
    try:
        array = np.array(part, object)
    except ValueError:                                 # a list of arrays that do not fit together
        return None
    return array if array.size and all(isinstance(value, Value) for value in array.flat) else None


def _check_names(own: Mapping[str, Any], params: Any) -> None:
    given = set(params) if isinstance(params, Mapping) else {f"a {type(params).__name__} instead of a dict"}
    different = [f"{what}: {', '.join(sorted(names))}" for what, names in
                 (("missing", set(own) - given), ("unknown", given - set(own))) if names]
    if different:
        raise errors.ArgumentError(errors.explain(f"These are not the model's parameters; {'; '.join(different)}.",
                                                  errors.user_location(), "model.arrays() makes a dict of them."))


def _found(arrays: Any, name: str, shape: tuple[int, ...]) -> Any:
    """The array of a name."""
    if not isinstance(arrays, Mapping) or name not in arrays:
        raise errors.ArgumentError(errors.explain(f"There is no mask for {name}.", errors.user_location(),
                                                  "model.masks(generator, examples) draws one for each Dropout."))
    if np.shape(arrays[name]) != shape:
        raise errors.ShapeError(errors.explain(f"{name} has shape {np.shape(arrays[name])} where the model has {shape}.",
                                               errors.user_location(), "Bind the arrays of a model built alike."))
    return arrays[name]
