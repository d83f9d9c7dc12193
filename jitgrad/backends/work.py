"""What a training asks of a backend: steps for one model, or the same steps for many."""

from __future__ import annotations

from typing import Any, NamedTuple

import numpy as np
import numpy.typing as npt


class Work(NamedTuple):
    """Steps to be made in one call: for each line the same ones, of its own examples and with its own scalars.

    lines: (models that take part, 3), of each its number, its row of the order and its row of the scalars
    steps: (steps, 2), of each the first example within the order, and how many
    order: (rows, …), which examples; None: all of them in every step, as they lie
    scalars: (rows, steps, width) float64, what the parameters share in an update
    norms: (rows,) float64, of each row of scalars the greatest length of a gradient, inf for any
    """

    lines: npt.NDArray[np.intp]
    steps: npt.NDArray[np.intp]
    order: npt.NDArray[Any] | None
    scalars: npt.NDArray[np.float64]
    norms: npt.NDArray[np.float64]


class Outcome(NamedTuple):
    """Of each line: steps made; why no more (0: there is no reason); losses, (lines, steps), a failing step's included."""

    made: npt.NDArray[Any]
    why: npt.NDArray[Any]
    losses: npt.NDArray[np.float64]
