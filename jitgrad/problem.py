"""What a training minimises, and what is measured on its way: objective, weights, validation data, metrics."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping
from typing import Any

import numpy as np
import numpy.typing as npt

from jitgrad.api import Transformed, jit, value_and_grad
from jitgrad.arguments import flatten
from jitgrad.batches import Batches
from jitgrad.blocks import is_dask
from jitgrad.errors import ArgumentError, NonFiniteError, ShapeError, explain
from jitgrad.examples import Examples, check_finite
from jitgrad.loop import Loops
from jitgrad.metrics import Metric
from jitgrad.streams import Blocked, Mapped, Table

Tree = Any
Array = npt.NDArray[Any]
Data = tuple[Tree, ...] | Table
Draw = Callable[[np.random.Generator, int], Tree]


class Evaluation:
    """What is measured after an epoch: the objective as it is, without weights and penalties, and metrics."""

    def __init__(self, loss: Transformed | None, metrics: Mapping[str, Metric], examples: Examples):
        self._loss, self._metrics, self._examples = loss, metrics, examples

    def __bool__(self) -> bool:
        return self._loss is not None or bool(self._metrics)

    def of(self, params: Tree, epoch: int) -> tuple[float | None, dict[str, float]]:
        """The validation loss, None where there is none, and the metrics. Raises NonFiniteError for a loss that is."""
        loss = None if self._loss is None else self._examples.mean(self._loss, params)
        if loss is not None and not math.isfinite(loss):
            raise NonFiniteError(explain(f"The validation loss became {loss} after epoch {epoch}.", None,
                                         "The validation examples may lie far from the training's; standardise both alike."))
        return loss, {name: _number(name, self._examples.measure(metric, params)) for name, metric in self._metrics.items()}


class Problem:
    """An objective with its options; trainings that share a Problem compile it once.

    validation: as in `fit`
    raises: ArgumentError for an option that makes no sense
    """

    def __init__(self, objective: Callable[..., Any], *, in_axes: Any = None, reduce: str = "mean", device: str = "auto",
                 sample_weight: Any = None, class_weight: Any = None, validation: Any = None,
                 metrics: Mapping[str, Metric] | None = None, noise: Draw | None = None, client: Any = None):
        if reduce not in ("mean", "sum"):
            raise ArgumentError(
                explain("fit minimises one number, so reduce must be 'mean' or 'sum'.", f"reduce={reduce!r}",
                        "For one parameter set per example, batch params through in_axes and use reduce='sum'."))
        self.reduce = reduce
        self._in_axes, self._client = in_axes, client
        self._sample_weight, self._class_weight = sample_weight, class_weight
        self._weighted = sample_weight is not None or class_weight is not None
        self._validation, self._metrics = _checked(validation), _callables(metrics)
        if noise is not None and not callable(noise):
            raise ArgumentError(explain("noise must be a function (generator, examples) -> arrays.", f"noise={noise!r}",
                                        "For the Dropouts of a model pass noise=model.masks."))
        self.noise = noise
        with_noise = in_axes if noise is None else _extended(in_axes)
        weighted = _weighted(objective, before_noise=noise is not None) if self._weighted else objective
        step = value_and_grad(weighted, argnums=0, in_axes=_extended(with_noise) if self._weighted else with_noise,
                              reduce=reduce, device=device)
        self.loops = Loops(step, reduce == "mean")
        self._bare = jit(objective if noise is None else _without_noise(objective), in_axes=in_axes, reduce="mean",
                         device=device)
        self._loss = None if validation is None else self._bare

    @property
    def splits(self) -> bool:
        """Whether the seed decides which examples are trained on."""
        return isinstance(self._validation, float)

    def batches(self, params: Tree, data: Data) -> Examples:
        """The data, checked, with the examples' weights."""
        batches = self._examples(params, data, "data")
        if self._client is not None and isinstance(batches, Batches | Blocked):
            raise ArgumentError(explain("client says which Dask workers compute, and the data are no Dask arrays.", None,
                                        "Pass Dask arrays (dask.array.from_array, from_zarr, …), or leave client out."))
        if self.noise is not None and not isinstance(batches, Batches):
            raise ArgumentError(explain("Noise cannot be added to data that do not lie in memory.", "noise",
                                        "Make it one more argument of the objective, and keep it with the data."))
        if not self._weighted:
            return batches
        if not isinstance(batches, Batches):
            raise ArgumentError(explain("Weights cannot be added to data that do not lie in memory.", None,
                                        "Make them one more argument of the objective: def f(params, x, y, weight): …"))
        strong = [leaf.dtype for leaf in flatten((params, batches.whole()))[0]
                  if isinstance(leaf, np.ndarray | np.generic) and leaf.dtype.kind == "f"]
        # In the dtype that the objective is computed in: a wider one would be computed in from then on.
        weights = np.ones(batches.count, np.result_type(*strong) if strong else np.float64)
        if self._sample_weight is not None:
            weights *= _sample_weights(self._sample_weight, batches.count)
        if self._class_weight is not None:
            weights *= _class_weights(self._class_weight, batches.whole()[-1], batches.count)
        if not weights.any():
            raise ArgumentError(explain("Every example has a weight of 0.", "sample_weight, class_weight",
                                        "Some must weigh more: there is nothing to learn from."))
        return batches.joined(Batches(None, (weights,), None, "weights"))

    def _examples(self, params: Tree, data: Data, name: str) -> Examples:
        """The data by where they lie: in memory, in files, with Dask."""
        if isinstance(data, tuple):
            leaves = flatten(data)[0]
            if any(is_dask(leaf) for leaf in leaves):
                from jitgrad.partitions import Partitioned
                return Partitioned(self._bare, params, data, name, self._client)
            if any(isinstance(leaf, np.memmap) for leaf in leaves):
                return Mapped(params, data, self._in_axes, name)
        if isinstance(data, Table):
            return data.examples(params, self._in_axes)
        return Batches(params, data, self._in_axes, name)

    def split(self, params: Tree, batches: Examples, seed: int) -> tuple[Examples, Evaluation]:
        """The examples to train on, and what is measured after each epoch."""
        measured = batches
        if self._loss is not None and batches.batched_params:
            raise ArgumentError(explain("Parameters with a batch axis belong to their examples, and say nothing of others.",
                                        "validation", "Leave validation out."))
        if isinstance(self._validation, float):
            held = round(self._validation * batches.count)
            if not 0 < held < batches.count:
                raise ArgumentError(explain(
                    f"Of {batches.count} examples, validation={self._validation} would hold out {held}.", None,
                    "At least one example must be held out, and one be left."))
            # A stream of its own: the minibatches are the same whether examples are held out or chosen by the caller.
            order = np.random.default_rng([seed, 0x5EED]).permutation(batches.count)
            measured, batches = batches.part(np.sort(order[:held])), batches.part(np.sort(order[held:]))
        if self._weighted and isinstance(measured, Batches):
            measured = measured.apart()
        if self._validation is not None and not self.splits:
            given = len(self._validation) if isinstance(self._validation, tuple) else self._validation.arguments
            arguments = batches.arguments - self._weighted
            if given != arguments:
                raise ArgumentError(explain(f"validation has {given} arguments where data has {arguments}.",
                                            None, "Pass the same arguments for other examples: (X, Y)."))
            measured = self._examples(params, self._validation, "validation")
            if self._loss is not None and isinstance(measured, Batches):
                self._loss.layout((params, *measured.between(0, 1)))    # now: what does not fit costs no epoch
        return batches, Evaluation(self._loss, self._metrics, measured)


def _checked(validation: Any) -> Any:
    """None, a tuple of data, or a fraction as a float."""
    if validation is None or isinstance(validation, tuple | Table):
        return validation
    if isinstance(validation, float | np.floating) and 0.0 < validation < 1.0:
        return float(validation)
    shown = repr(validation) if isinstance(validation, int | float | np.generic) else f"a {type(validation).__name__}"
    raise ArgumentError(explain("validation must be a tuple of data, or the fraction of the examples to hold out.",
                                f"validation={shown}", "Write (X, Y), or for example 0.2."))


def _number(name: str, measured: Any) -> float:
    try:
        return float(measured)
    except (TypeError, ValueError):
        raise ArgumentError(explain(f"The metric {name!r} is no number.", f"it returned {measured!r}"[:300],
                                    "A metric takes (params, *data) and returns one number of all examples.")) from None


def _callables(metrics: Mapping[str, Metric] | None) -> dict[str, Metric]:
    if not isinstance(metrics, Mapping | None):
        raise ArgumentError(explain("metrics must be a dict, a name for each function.", f"metrics={metrics!r}"[:300],
                                    "Write for example metrics={'r2': jg.metrics.r2(predict)}."))
    found = dict(metrics or {})
    for name, metric in found.items():
        if not callable(metric):
            raise ArgumentError(explain(f"The metric {name!r} is not a function.", f"{name}: {metric!r}",
                                        "A metric takes (params, *data) and returns a number; see jg.metrics."))
    return found


def _extended(in_axes: Any) -> Any:
    """`in_axes` with one more argument, batched along axis 0."""
    if in_axes is None or in_axes == 0:
        return in_axes
    if isinstance(in_axes, int):
        raise ArgumentError(explain("Weights and noise lie along axis 0, and one in_axes for all arguments says otherwise.",
                                    f"in_axes={in_axes}", "Give in_axes an entry for each argument."))
    return (*in_axes, 0)


def _without_noise(objective: Callable[..., Any]) -> Callable[..., Any]:
    """The objective as it is when nothing is dropped: with None in the place of its last argument."""
    def noiseless(params: Tree, *example: Any) -> Any:
        return objective(params, *example, None)
    noiseless.__name__ = getattr(objective, "__name__", "objective")
    return noiseless


def _weighted(objective: Callable[..., Any], before_noise: bool) -> Callable[..., Any]:
    def weighted(params: Tree, *example: Any) -> Any:
        arguments = list(example)
        weight = arguments.pop(-2 if before_noise else -1)
        return weight * objective(params, *arguments)
    # For errors; not functools.wraps, with which it would have the objective's signature, one argument too few.
    weighted.__name__ = getattr(objective, "__name__", "objective")
    return weighted


def _sample_weights(given: Any, count: int) -> Array:
    weights = np.asarray(given)
    if weights.shape != (count,) or weights.dtype.kind not in "fiub":
        raise ShapeError(explain(
            f"sample_weight has dtype {weights.dtype} and shape {weights.shape} for {count} examples.", None,
            "Pass one number for each example."))
    check_finite(weights, "sample_weight", "A weight of 0 leaves an example out.")
    if weights.min() < 0 or not weights.any():
        raise ArgumentError(explain("Sample weights must be at least 0, and not all 0.",
                                    f"the least is {weights.min()}", "A weight of 0 leaves an example out."))
    return weights


def _class_weights(given: Any, labels: Any, count: int) -> Array:
    """The weight of each example's class; the labels are the last argument of data."""
    if not isinstance(labels, np.ndarray) or labels.shape != (count,):
        raise ArgumentError(explain("class_weight needs a label for each example, as the last argument of data.",
                                    f"data[-1] is {getattr(labels, 'shape', type(labels).__name__)}",
                                    "Pass sample_weight, one weight for each example, instead."))
    classes, indices, counts = np.unique(labels, return_inverse=True, return_counts=True)
    if isinstance(given, str) and given == "balanced":
        return np.asarray(count / (len(classes) * counts))[indices]
    missing = [label for label in classes.tolist() if not isinstance(given, Mapping) or label not in given]
    weights = [] if missing else [given[label] for label in classes.tolist()]
    if missing or not all(isinstance(w, int | float | np.number) and 0 <= w < math.inf for w in weights):
        raise ArgumentError(explain(
            "class_weight must be 'balanced', or give every class a weight of at least 0.", f"class_weight={given!r}",
            f"The classes are {', '.join(map(str, classes.tolist()[:20]))}; write for example {{{classes[0]}: 2.0, …}}."))
    return np.array(weights, np.float64)[indices]
