"""Learning rates that change from step to step: functions t -> rate, with t counted from 1.

Any such function will do for an optimizer's `learning_rate`; the ones here also say how they were made:

    optim.adam(optim.cosine(1e-2, steps=1000, warmup=100))
    optim.sgd(optim.warmup(optim.step_decay(0.1, every=500), 50))
    optim.adam(lambda t: 1e-2 / t**0.5)
"""

from __future__ import annotations

import math
import operator
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import numpy as np

from jitgrad.errors import ArgumentError, explain


@dataclass(frozen=True)
class Schedule:
    """A function of the step, and the text it is shown as."""

    rate: Callable[[int], float]
    description: str

    def __call__(self, t: int) -> float:
        return self.rate(t)

    def __repr__(self) -> str:
        return self.description


def constant(rate: float) -> Schedule:
    """The same rate in every step: what a plain number means."""
    _rate("constant", "rate", rate)
    return Schedule(lambda t: rate, f"constant({rate!r})")


def cosine(rate: float, steps: int, warmup: int = 0, end: float = 0.0) -> Schedule:
    """Half a cosine from `rate` down to `end` (Loshchilov & Hutter 2017), after `warmup` steps of a linear rise.

        rate * t / warmup                                          t <= warmup
        end + (rate - end) * (1 + cos(pi * u)) / 2                 u = (t - 1 - warmup) / (steps - warmup)
        end                                                        t > steps

    steps: optimizer steps in all, the warm-up's included: epochs * ceil(examples / batch_size) for a whole `fit`
    raises: ArgumentError for a rate that is negative or not finite, or unless 0 <= warmup < steps
    """
    _rate("cosine", "rate", rate)
    _rate("cosine", "end", end)
    steps, warmup = _count("cosine", "steps", steps, 1), _count("cosine", "warmup", warmup, 0)
    if warmup >= steps:
        raise ArgumentError(explain("cosine's warm-up must be shorter than the whole.", f"warmup={warmup}, steps={steps}",
                                    "steps counts the warm-up's too."))
    length = steps - warmup

    def falling(t: int) -> float:
        return end + (rate - end) * (1.0 + math.cos(math.pi * min(1.0, (t - 1) / length))) / 2.0
    found = _warmed(falling, warmup) if warmup else falling
    return Schedule(found, f"cosine({rate!r}, steps={steps!r}, warmup={warmup!r}, end={end!r})")


def step_decay(rate: float, every: int, factor: float = 0.1) -> Schedule:
    """`rate`, multiplied by `factor` after every `every` steps: rate * factor**((t - 1) // every).

    raises: ArgumentError for a number that is negative or not finite, or unless every >= 1
    """
    _rate("step_decay", "rate", rate)
    _rate("step_decay", "factor", factor)
    every = _count("step_decay", "every", every, 1)
    return Schedule(lambda t: rate * factor**((t - 1) // every), f"step_decay({rate!r}, every={every!r}, factor={factor!r})")


def warmup(then: float | Callable[[int], float], steps: int) -> Schedule:
    """A linear rise over `steps` steps to the first rate of `then`, which follows: its step 1 is step `steps` + 1.

    then: a rate, or a schedule
    raises: ArgumentError unless steps >= 1
    """
    steps = _count("warmup", "steps", steps, 1)
    follows = as_schedule("warmup", then)
    return Schedule(_warmed(follows, steps), f"warmup({describe(then)}, {steps!r})")


def _warmed(then: Callable[[int], float], steps: int) -> Callable[[int], float]:
    return lambda t: then(1) * t / steps if t <= steps else then(t - steps)


def as_schedule(owner: str, rate: Any) -> Callable[[int], float]:
    """A rate or a schedule as a function that checks what it returns; ArgumentError for anything else, now or later."""
    if not callable(rate):
        _rate(owner, "learning_rate", rate)
        return lambda t: rate

    def checked(t: int) -> float:
        found = rate(t)
        if not (isinstance(found, float | int | np.floating) and 0.0 <= found < math.inf):
            raise ArgumentError(explain(
                f"{owner}'s learning_rate gave {found!r} for step {t}.", f"learning_rate={describe(rate)}",
                "A schedule takes the step, counted from 1, and returns a number of at least 0 and finite."))
        return float(found)
    checked(1)
    return checked


def describe(rate: Any) -> str:
    """A rate or a schedule as text: functions of the user's by their names."""
    return getattr(rate, "__qualname__", None) or repr(rate)


def in_range(owner: str, name: str, number: Any, low: float, high: float) -> None:
    """Raise ArgumentError unless low <= number < high."""
    if isinstance(number, bool) or not isinstance(number, (int, float, np.integer, np.floating)):
        raise ArgumentError(
            explain(
                f"{owner}'s {name} must be a number, not {type(number).__name__}.",
                f"{name}={number!r}",
                "Pass a Python float.",
            )
        )
    if not low <= number < high:
        limits = f"at least {low:g}" + ("" if math.isinf(high) else f" and below {high:g}")
        raise ArgumentError(
            explain(f"{owner}'s {name} is out of range.", f"{name}={number!r}", f"It must be {limits}, and finite.")
        )


def _rate(owner: str, name: str, number: Any) -> None:
    in_range(owner, name, number, 0.0, math.inf)


def _count(owner: str, name: str, number: Any, least: int) -> int:
    try:
        found = least - 1 if isinstance(number, bool) else operator.index(number)
    except TypeError:
        found = least - 1
    if found < least:
        raise ArgumentError(explain(f"{owner}'s {name} must be a whole number.", f"{name}={number!r}",
                                    f"It counts optimizer steps, and is at least {least}."))
    return found
