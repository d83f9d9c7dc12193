"""Losses: error as one scalar. For one example they are the bare term; for sequences, the textbook's mean (hinge: sum).

Every loss takes Values, numbers, arrays or lists, eager or traced. Labels are checked: now if they are numbers, at run
time, example by example, if they are traced.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np

from jitgrad import errors
from jitgrad import functions as F
from jitgrad.trace import require

_REDUCTIONS = ("mean", "sum", "none")
_softplus, _abs = F.PUBLIC["softplus"], F.PUBLIC["abs"]


def mse(prediction: Any, target: Any, reduction: str = "mean") -> Any:
    """Squared error (prediction - target)²; for sequences the mean squared error (1/n) Σ (y - ŷ)².

    prediction, target: real numbers, or sequences of one shape; returns a number (reduction "none": the shape).
    Raises ShapeError where the shapes differ.
    """
    return _reduce(lambda p, t, _: (p - t)**2, prediction, target, reduction)


def hinge(score: Any, label: Any, reduction: str = "sum") -> Any:
    """Hinge loss max(0, 1 - label · score) (Cortes & Vapnik 1995); for sequences the sum Σ max(0, 1 - yᵢ · ŷᵢ).

    score: real number, the model's margin; label: -1 or +1, anything else raises LabelError naming the value; or
    sequences of both. Zero with zero gradient once label · score >= 1.
    """
    def one(s: Any, y: Any, place: str) -> Any:
        require((y == 1) | (y == -1), y, "a hinge label must be -1 or +1; got {value}",
                "Map your classes to -1 and +1, for example with 2 * y - 1 for labels 0 and 1.", place)
        return F.PUBLIC["relu"](1.0 - y * s)
    return _reduce(one, score, label, reduction)


def binary_cross_entropy(logit: Any, label: Any, reduction: str = "mean") -> Any:
    """-label · ln σ(logit) - (1 - label) · ln(1 - σ(logit)), from the logit, stable for any size of it.

    logit: real number; label: 0 or 1, or a probability between, anything else raises LabelError; or sequences of both.
    """
    def one(z: Any, y: Any, place: str) -> Any:
        require((y >= 0) & (y <= 1), y, "a binary cross-entropy label must be between 0 and 1; got {value}",
                "Use 0 and 1 (for labels -1 and +1: (y + 1) / 2), or jg.losses.hinge for -1 and +1.", place)
        return y * _softplus(-z) + (1.0 - y) * _softplus(z)
    return _reduce(one, logit, label, reduction)


def cross_entropy(logits: Any, label: Any, reduction: str = "mean") -> Any:
    """Ln Σ exp(logits) - logits[label], shifted by the maximum: exact for logits of ±1e4.

    logits: a sequence of C real numbers; label: the class index 0 to C - 1, anything else raises LabelError; or n
    such sequences and n labels.
    """
    def one(z: Any, y: Any, place: str = "") -> Any:
        return F.logsumexp(z) - F.take_one(z, y, place)
    if not _is_sequence(label):
        _check_reduction(reduction)
        return one(logits, label)
    _same_length(logits, label)
    terms = [one(z, y, f"label {k}") for k, (z, y) in enumerate(zip(logits, label, strict=True))]
    return _finish(terms, reduction, (len(terms),), (logits, label))


def huber(prediction: Any, target: Any, delta: float = 1.0, reduction: str = "mean") -> Any:
    """Huber loss (Huber 1964): e²/2 where |e| <= delta, else delta · (|e| - delta/2), with e = prediction - target.

    prediction, target: real numbers, or sequences of one shape; delta: positive number, else ArgumentError.
    """
    if not delta > 0:
        raise errors.ArgumentError(f"huber's delta must be positive; got {delta!r}")

    def one(p: Any, t: Any, _: str) -> Any:
        size = _abs(p - t)
        return F.where(size <= delta, 0.5 * size * size, delta * (size - 0.5 * delta))
    return _reduce(one, prediction, target, reduction)


def _is_sequence(value: Any) -> bool:
    return isinstance(value, list | tuple) or (isinstance(value, np.ndarray) and value.ndim > 0)


def _check_reduction(reduction: str) -> None:
    if reduction not in _REDUCTIONS:
        raise errors.ArgumentError(f"reduction must be one of {', '.join(map(repr, _REDUCTIONS))}; got {reduction!r}")


def _same_length(first: Any, second: Any) -> None:
    if np.shape(F.objects(first))[:1] != np.shape(F.objects(second))[:1]:
        raise errors.ShapeError(errors.explain(
            f"predictions and targets differ in length: {np.shape(F.objects(first))} and "
            f"{np.shape(F.objects(second))}.", errors.user_location(), "Pass one target for each prediction."))


def _reduce(one: Callable[[Any, Any, str], Any], prediction: Any, target: Any, reduction: str) -> Any:
    """One example's loss, or of sequences their terms reduced; `one` is told what an error calls the label."""
    _check_reduction(reduction)
    if not (_is_sequence(prediction) or _is_sequence(target)):
        return one(prediction, target, "")
    first, second = F.objects(prediction), F.objects(target)
    if np.shape(first) != np.shape(second):
        raise errors.ShapeError(errors.explain(
            f"predictions and targets differ in shape: {np.shape(first)} and {np.shape(second)}.",
            errors.user_location(), "Pass one target for each prediction."))
    terms = [one(p, t, f"label {', '.join(map(str, place))}") for place, p, t in zip(
        np.ndindex(np.shape(first)), first.reshape(-1), second.reshape(-1), strict=True)]
    return _finish(terms, reduction, np.shape(first), (prediction, target))


def _finish(terms: list[Any], reduction: str, shape: tuple[int, ...], given: tuple[Any, Any]) -> Any:
    if not terms:
        raise errors.ShapeError(errors.explain("a loss of no examples has no value.", errors.user_location(),
                                               "Pass at least one prediction and target."))
    if reduction == "none":
        found = F.plain(F.objects(terms).reshape(shape))
        return found if any(isinstance(sequence, np.ndarray) for sequence in given) else found.tolist()
    total = sum(terms[1:], terms[0])
    return total if reduction == "sum" else total / len(terms)
