"""Metrics for `fit`, made from a prediction that is written for one example, as the objective is.

    def predict(params, x):
        return params["w"] @ x + params["b"]

    jg.fit(objective, params, (X, Y), metrics={"r2": jg.metrics.r2(predict)})

A metric is a function (params, *data) -> number over whole arrays; any such function will do. Those here run `predict`
in a fused kernel over all of the data but its last entry, which are the targets.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
import numpy.typing as npt

from jitgrad.api import jit
from jitgrad.arguments import flatten
from jitgrad.errors import ShapeError, explain

Array = npt.NDArray[Any]
_A_NUMBER = "Of several outputs, make a metric for each."
Metric = Callable[..., float]


def accuracy(predict: Callable[..., Any], in_axes: Any = None, device: str = "auto") -> Metric:
    """The share of examples whose class is predicted.

    predict: (params, *inputs) -> a score for each class, of which the largest decides, against labels 0, 1, 2, …; or one
        score, positive for the second of two classes, against labels 0 and 1 or -1 and +1
    in_axes, device: as in `jg.jit`, for params and the inputs
    """
    return _metric(predict, in_axes, device, accuracy_of)


def r2(predict: Callable[..., Any], in_axes: Any = None, device: str = "auto") -> Metric:
    """R², the share of the targets' variance that is predicted: 1 - Σ (target - prediction)² / Σ (target - mean)².

    predict: (params, *inputs) -> a number. NaN where all targets are equal.
    """
    return _metric(predict, in_axes, device, r2_of)


def rmse(predict: Callable[..., Any], in_axes: Any = None, device: str = "auto") -> Metric:
    """The root of the mean of (target - prediction)², in the target's unit.

    predict: (params, *inputs) -> a number
    """
    return _metric(predict, in_axes, device, rmse_of)


def accuracy_of(outputs: Array, labels: Array) -> float:
    """The accuracy of scores (n, classes) or (n, 1), by the rule of `accuracy`. Raises ShapeError."""
    labels = _one_each(labels, len(outputs), "Labels are class indices; of a row for each class, pass y.argmax(axis=1).")
    if outputs.shape[1] > 1:
        return float(np.mean(outputs.argmax(axis=1) == labels))
    return float(np.mean((outputs[:, 0] > 0) == (labels > 0)))


def r2_of(predictions: Array, targets: Array) -> float:
    """R² of predictions (n,) or (n, 1). Raises ShapeError."""
    targets = _one_each(targets, len(predictions), _A_NUMBER).astype(np.float64)
    variance = float(targets.var())
    return 1.0 - _mean_square(predictions, targets) / variance if variance > 0.0 else float("nan")


def rmse_of(predictions: Array, targets: Array) -> float:
    """Root mean squared error of predictions (n,) or (n, 1). Raises ShapeError."""
    return float(np.sqrt(_mean_square(predictions, targets)))


def _mean_square(predictions: Array, targets: Array) -> float:
    predictions, targets = (_one_each(numbers, len(predictions), _A_NUMBER) for numbers in (predictions, targets))
    return float(np.mean((predictions.astype(np.float64) - targets) ** 2))


def _one_each(numbers: Any, count: int, instead: str) -> Array:
    """(count,) numbers of (count,) or (count, 1): NumPy would make a table of a column beside a row."""
    array = np.asarray(numbers)
    if array.shape not in ((count,), (count, 1)):
        raise ShapeError(explain(f"A metric got shape {array.shape} where there is one for each of {count} examples.", None,
                                 instead))
    return array.reshape(count)


def _metric(predict: Callable[..., Any], in_axes: Any, device: str, of: Callable[[Array, Array], float]) -> Metric:
    forward = jit(predict, in_axes=in_axes, reduce=None, device=device)

    def metric(params: Any, *data: Any) -> float:
        *inputs, targets = data
        leaves, _ = flatten(forward(params, *inputs))
        columns = [np.asarray(leaf).reshape(len(leaf), -1) for leaf in leaves]
        return of(np.concatenate(columns, axis=1), targets)
    return metric
