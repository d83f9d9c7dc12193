"""What a training takes its steps from: examples in memory, in files or in Dask's partitions, behind one interface."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable, Iterator
from typing import TYPE_CHECKING, Any, Protocol

import numpy as np
import numpy.typing as npt

from jitgrad.api import Transformed
from jitgrad.arguments import flatten, unflatten
from jitgrad.backends.device_arrays import on_host
from jitgrad.debug import Numbers
from jitgrad.errors import ArgumentError, DataError, DtypeError, LabelError, NonFiniteError, explain

if TYPE_CHECKING:
    from jitgrad.trainer import Trainer

Tree = Any
Array = npt.NDArray[Any]

_CHECKED = 1 << 20                  # numbers looked at together


class Step(Protocol):
    """Part of an epoch: one update of the parameters, or several."""

    def make(self, trainer: Trainer, when: Callable[[int], str]) -> list[tuple[int, float]]:
        """Bring the trainer on; (examples, loss) of each update. when: names the n-th update from here on in an error."""


class Examples(ABC):
    """The examples of a training.

    count: how many; arguments: of the objective after params; batched_params: whether the parameters have a batch axis too
    """

    count: int
    arguments: int
    batched_params = False

    @abstractmethod
    def kinds(self) -> list[tuple[str, list[int]]]:
        """What must be equal in a training that goes on with these examples, in a form that JSON keeps."""

    @abstractmethod
    def measure(self, metric: Callable[..., Any], params: Tree) -> Any:
        """metric(params, *data) of whole arrays."""

    @abstractmethod
    def mean(self, loss: Transformed, params: Tree) -> float:
        """The mean of `loss`, a jit of (params, *example), over all examples."""

    @abstractmethod
    def steps(self, step: Transformed, batch_size: int | None, generator: np.random.Generator) -> Iterator[Step]:
        """The steps of one epoch, in an order that the generator decides; it is left where the next epoch goes on.

        step: value_and_grad of (params, *example); batch_size: None for all examples in one step
        """

    def rounds(self, step: Transformed, batch_size: int | None, generator: np.random.Generator,
               average_every: int) -> Iterator[Step]:
        """As `steps`, each made by replicas apart that are averaged every so many updates; see `fit`."""
        raise ArgumentError(explain("Only partitions of Dask arrays are trained apart and averaged.",
                                    f"average_every={average_every}", "Leave average_every out, or pass Dask arrays."))

    def part(self, examples: npt.NDArray[np.intp]) -> Examples:
        """Copies of these examples, at least one."""
        raise ArgumentError(explain("Examples cannot be picked from data that do not lie in memory.", None,
                                    "Keep them apart: validation=(X, y) takes the same kinds of data."))


class Update:
    """A step of these examples, which lie in memory. numbers: what an error calls them; None: 0, 1, …"""

    def __init__(self, step: Transformed, data: tuple[Tree, ...], size: int, numbers: Numbers | None):
        self._step, self.data, self.size, self.numbers = step, data, size, numbers

    def make(self, trainer: Trainer, when: Callable[[int], str]) -> list[tuple[int, float]]:
        """One update."""
        args = (trainer.now.params, *self.data)
        try:
            value, grads = self._step(*args)
            if not isinstance(value, np.ndarray | np.generic | float):
                leaves, spec = flatten(grads)              # the examples lie on a GPU, and so do the results
                value, grads = on_host(value), unflatten(spec, [on_host(leaf) for leaf in leaves])
        except (LabelError, NonFiniteError):
            if self.numbers is not None:               # the same again, to be told which of the caller's examples it is
                self._step.sums(args, self.numbers)
            raise
        trainer.update(float(value), grads, when(0))
        return [(self.size, float(value))]


class GradientUpdate:
    """A step whose value and gradient come from elsewhere."""

    def __init__(self, gradient: Callable[[Tree], tuple[Any, Tree]], size: int):
        self._gradient, self._size = gradient, size

    def make(self, trainer: Trainer, when: Callable[[int], str]) -> list[tuple[int, float]]:
        """One update."""
        value, grads = self._gradient(trainer.now.params)
        trainer.update(float(value), grads, when(0))
        return [(self._size, float(value))]


def check_finite(array: Array, path: str, advice: str, first: int = 0) -> None:
    """Raise DataError naming the first NaN or infinity of a real array, its index and how many there are.

    first: what is added to an index along axis 0. A piece is looked at at a time: the array may be larger than memory.
    """
    if array.dtype.kind != "f":
        return
    rows = max(1, _CHECKED // max(1, array.size // max(1, len(array)))) if array.ndim else 1
    bad, where = 0, ""
    for lo in range(0, len(array), rows) if array.ndim else [0]:
        piece = array[lo:lo + rows] if array.ndim else array
        finite = np.isfinite(piece)
        if finite.all():
            continue
        if not bad:
            index = [int(i) for i in np.unravel_index(int(np.argmin(finite)), piece.shape)]
            found = piece[tuple(index)]
            where = f"{path}[{', '.join(map(str, [first + lo + index[0], *index[1:]]))}]" if index else path
        bad += int(finite.size - np.count_nonzero(finite))
    if bad:
        others = "" if bad == 1 else f" ({bad} of its {array.size} elements are NaN or infinite)"
        raise DataError(explain(f"{where} is {found}{others}.", where, advice))


def check_kind(dtype: np.dtype[Any], path: str) -> None:
    """Raise DtypeError for data that cannot be trained on."""
    if dtype.kind in "iub" or (dtype.kind == "f" and dtype.itemsize in (4, 8)):
        return
    names = {"U": "text", "S": "bytes", "O": "Python objects", "c": "complex numbers", "M": "dates"}
    what = names.get(dtype.kind, "other numbers")
    raise DtypeError(
        explain(f"Training data must be float32, float64, integers or bools; this argument holds {what} "
                f"(dtype {dtype}).", path,
                "Convert it, for example class names to integers 0, 1, 2, ... with numpy.unique.")
    )


FINITE_ADVICE = "Remove or fill such examples first, for example X[np.isfinite(X).all(axis=1)]."
