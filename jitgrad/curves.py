"""Least squares for many curves at once: the Levenberg-Marquardt step of ONE curve in scalar arithmetic, compiled.

A step reads a curve's parameters, damping and normal equations, solves for the next parameters, evaluates the formula
and its derivatives there, and keeps whichever parameters are better. Nothing in it is an array operation, so all of it,
the Cholesky solve included, is one kernel over the curves that have not converged yet.
"""

from __future__ import annotations

import inspect
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import cached_property, lru_cache
from typing import Any

import numpy as np
import numpy.typing as npt

from jitgrad import errors
from jitgrad.api import Transformed, jit
from jitgrad.compiler.identity import of_program
from jitgrad.derivatives import partials
from jitgrad.functions import PUBLIC, clip, objects

Array = npt.NDArray[Any]
Formula = Callable[..., Any]

BLOCK = 1 << 21                       # measurements fitted together: few calls, in bounded memory
FIRST_DAMPING, LEAST_DAMPING = 1e-3, 1e-12
_sqrt, _where, _abs, _maximum = (PUBLIC[name] for name in ("sqrt", "where", "abs", "maximum"))


@dataclass(frozen=True)
class Curves:
    """What was fitted, a row a curve: n curves of m points, p parameters.

    params: (n, p); covariance: (n, p, p), infinite where the data do not determine the parameters
    cost: (n,), half the sum of squared residuals, each divided by its sigma
    steps: (n,), evaluations of the formula after the first; converged: (n,) bools
    """

    params: Array
    covariance: Array
    cost: Array
    steps: Array
    converged: Array


def parameter_names(formula: Formula) -> list[str]:
    """The arguments of formula(x, a, b, …) after the first. Raises ArgumentError where they cannot be told."""
    try:
        arguments = list(inspect.signature(formula).parameters.values())
    except (TypeError, ValueError):
        arguments = []
    plain = (inspect.Parameter.POSITIONAL_ONLY, inspect.Parameter.POSITIONAL_OR_KEYWORD)
    if len(arguments) < 2 or any(a.kind not in plain for a in arguments):
        raise errors.ArgumentError(errors.explain(
            "A formula takes x and then each parameter by its name.", f"model={formula!r}",
            "Write for example: def decay(x, height, rate): return height * jg.exp(-rate * x)"))
    return [a.name for a in arguments[1:]]


class Solver:
    """The compiled pieces for one formula; arguments that change from fit to fit are data, so nothing is recorded anew."""

    def __init__(self, formula: Formula, names: Sequence[str]):
        self.formula, self.names = formula, list(names)

    @cached_property
    def _upper(self) -> list[tuple[int, int]]:
        p = len(self.names)
        return [(i, j) for i in range(p) for j in range(i, p)]

    def predictions(self, x: Any, theta: Sequence[Any], points: int) -> list[Any]:
        """The formula at every point, for one curve."""
        found = objects(self.formula(x, *theta))
        try:
            return list(np.broadcast_to(np.asarray(found, object), (points,)))
        except ValueError:
            raise errors.ShapeError(errors.explain(
                f"The formula answers shape {np.shape(found)} where a curve has {points} points.",
                f"model={self.formula!r}", "Return one number for each point of x.")) from None

    def _equations(self, theta: Any, x: Any, y: Any, weight: Any) -> tuple[Any, Any, Any]:
        """(cost, gradient, upper triangle of JᵀJ) of one curve."""
        predicted = self.predictions(x, theta, len(y))
        residuals = [(f - t) * w for f, t, w in zip(predicted, y, weight, strict=True)]
        slopes = partials(residuals, list(theta))
        cost = 0.5 * _sum([r * r for r in residuals])
        gradient = [_sum([row[i] * r for row, r in zip(slopes, residuals, strict=True)]) for i in range(len(theta))]
        normal = [_sum([row[i] * row[j] for row in slopes]) for i, j in self._upper]
        return cost, np.array(gradient, object), np.array(normal, object)

    @cached_property
    def start(self) -> Transformed:
        """(theta, x, y, weight) -> (cost, gradient, normal)."""
        return jit(self._equations, in_axes=(0, None, 0, None), reduce=None)

    @cached_property
    def step(self) -> Transformed:
        """(theta, damping, cost, gradient, normal, x, y, weight, low, high, tolerances) -> the first five, and done."""
        return jit(self._step, in_axes=(0, 0, 0, 0, 0, None, 0, None, None, None, None), reduce=None)

    def _step(self, theta: Any, damping: Any, cost: Any, gradient: Any, normal: Any, x: Any, y: Any, weight: Any,
              low: Any, high: Any, tolerances: Any) -> Any:
        # A parameter at its bound that wants to go further stays there, and the others move as if it were a constant.
        held = [(t <= lo) & (g > 0.0) | (t >= hi) & (g < 0.0)
                for t, lo, hi, g in zip(theta, low, high, gradient, strict=True)]
        matrix: dict[tuple[int, int], Any] = {}
        for (i, j), entry in zip(self._upper, normal, strict=True):
            if i == j:
                # A parameter that changes nothing here has a zero on the diagonal.
                scale = _where(entry > 0.0, entry, 1.0)
                matrix[i, i] = _where(held[i], 1.0, entry + damping * scale)
            else:
                matrix[i, j] = _where(held[i] | held[j], 0.0, entry)
        downhill = [_where(h, 0.0, -g) for h, g in zip(held, gradient, strict=True)]
        move = solve(matrix, downhill)
        new = np.array([clip(t + d, lo, hi) for t, d, lo, hi in zip(theta, move, low, high, strict=True)], object)
        moved = [a - b for a, b in zip(new, theta, strict=True)]
        new_cost, new_gradient, new_normal = self._equations(new, x, y, weight)
        # What the quadratic model of the cost promised for the move that was made, cut short at bounds or not.
        slope = _sum([g * d for g, d in zip(gradient, moved, strict=True)])
        bend = _sum([(0.5 if i == j else 1.0) * entry * (moved[i] * moved[j])
                     for (i, j), entry in zip(self._upper, normal, strict=True)])
        promised, gained = -(slope + bend), cost - new_cost
        better = gained >= 0.0                                          # false for a NaN
        ratio = gained / promised
        factor = _where(ratio > 0.75, 0.1, _where(ratio < 0.25, 4.0, 1.0))
        new_damping = _maximum(damping * _where(better, _where(promised > 0.0, factor, 1.0), 10.0), LEAST_DAMPING)
        ftol, xtol = tolerances
        small = [_abs(d) <= xtol * (_abs(t) + xtol) for d, t in zip(moved, theta, strict=True)]
        still = small[0]
        for one in small[1:]:
            still = still & one
        settled = (_abs(gained) <= ftol * cost) & (promised <= ftol * cost)
        # Strong damping makes any step small: that is being stuck.
        done = (damping <= 1.0) & (settled | still)

        def choose(a: Any, b: Any) -> Any:
            return np.array([_where(better, u, v) for u, v in zip(a, b, strict=True)], object)
        return (choose(new, theta), new_damping, _where(better, new_cost, cost), choose(new_gradient, gradient),
                choose(new_normal, normal), _where(done, 1.0, 0.0))

    @cached_property
    def covariance(self) -> Transformed:
        """(normal equations, s²) -> s² (JᵀJ)⁻¹, (p, p); infinite where JᵀJ has no inverse."""
        def invert(normal: Any, variance: Any) -> Any:
            matrix = dict(zip(self._upper, normal, strict=True))
            p = len(self.names)
            columns = [solve(matrix, [1.0 if i == j else 0.0 for i in range(p)]) for j in range(p)]
            # A NaN or an infinity anywhere makes the sum of the diagonal, whose terms are positive, NaN or infinite.
            exists = variance * _sum([columns[j][j] for j in range(p)]) < np.inf
            return np.array([[_where(exists, variance * columns[max(i, j)][min(i, j)], np.inf) for i in range(p)]
                             for j in range(p)], object)
        return jit(invert, in_axes=(0, 0), reduce=None)

    @cached_property
    def evaluate(self) -> Transformed:
        """(theta, x, zeros of a curve's shape) -> the formula's values (n, m)."""
        return jit(lambda theta, x, blank: np.array(self.predictions(x, list(theta), len(blank)), object),
                   in_axes=(0, None, None), reduce=None)

    def fit(self, x: Array, curves: Array, first: Array, low: Array, high: Array, sigma: Array, absolute: bool,
            ftol: float, xtol: float, most: int) -> Curves:
        """Fit every row of `curves` (n, m) from `first` (n, p) within [low, high]; see `JitCurveFitter`."""
        n, m = curves.shape
        p = len(self.names)
        params, cost = np.empty((n, p)), np.empty(n)
        normal, steps, converged = np.empty((n, len(self._upper))), np.zeros(n, np.intp), np.zeros(n, bool)
        shared = (low, high, np.array([ftol, xtol]))
        weight = 1.0 / sigma
        block = max(1, BLOCK // m)
        for at in range(0, n, block):
            part = slice(at, at + block)
            y = np.ascontiguousarray(curves[part], np.float64)
            theta = np.clip(np.ascontiguousarray(first[part], np.float64), low, high)
            state = [theta, np.full(len(y), FIRST_DAMPING), *self.start(theta, x, y, weight)]
            where = np.arange(at, at + len(y))
            for step in range(1, most + 1):
                *state, done = self.step(*state, x, y, weight, *shared)
                finished = done != 0.0
                if step == most:
                    steps[where] = most
                    converged[where] = finished
                    finished = np.ones(len(where), bool)
                elif finished.any():
                    steps[where[finished]] = step
                    converged[where[finished]] = True
                else:
                    continue
                rows = where[finished]
                params[rows], cost[rows], normal[rows] = state[0][finished], state[2][finished], state[4][finished]
                going = ~finished
                where, y, state = where[going], y[going], [array[going] for array in state]
                if not len(where):
                    break
        converged &= np.isfinite(cost)
        variance = np.ones(n) if absolute else 2.0 * cost / (m - p) if m > p else np.full(n, np.inf)
        return Curves(params, self.covariance(normal, variance), cost, steps, converged)


def _sum(terms: Sequence[Any]) -> Any:
    return sum(terms[1:], terms[0])


def solve(matrix: dict[tuple[int, int], Any], right: Sequence[Any]) -> list[Any]:
    """The solution of a symmetric positive definite system by Cholesky's method, in scalars; NaN where it is neither.

    matrix: its upper triangle by (row, column), row <= column; right: the p numbers on the right-hand side
    """
    p = len(right)
    root: dict[tuple[int, int], Any] = {}
    inverse: list[Any] = []
    for i in range(p):
        for j in range(i, p):
            rest = _sum([matrix[i, j], *(-(root[k, i] * root[k, j]) for k in range(i))])
            if i == j:
                root[i, i] = _sqrt(rest)
                inverse.append(1.0 / root[i, i])
            else:
                root[i, j] = rest * inverse[i]
    half: list[Any] = []
    for i in range(p):
        half.append(_sum([right[i], *(-(root[k, i] * half[k]) for k in range(i))]) * inverse[i])
    found: list[Any] = [None] * p
    for i in reversed(range(p)):
        found[i] = _sum([half[i], *(-(root[i, k] * found[k]) for k in range(i + 1, p))]) * inverse[i]
    return found


def solver(formula: Formula, x: Array, points: int) -> Solver:
    """The solver of a formula over so many points: that of an earlier call, if the formula still says the same.

    It may read numbers that have changed since. To record the formula and compare takes a thousandth of a second, to record
    all pieces anew fifty times that.
    """
    names = tuple(parameter_names(formula))
    layout, _ = Solver(formula, names).evaluate.layout((np.ones((1, len(names))), x, np.zeros(points)))
    found = _known(names, of_program(layout.program), tuple(map(id, layout.recorded.captured)))
    found.formula = formula                                 # what is not recorded yet will be from this one
    return found


@lru_cache(maxsize=32)
def _known(names: tuple[str, ...], program: str, captured: tuple[int, ...]) -> Solver:
    return Solver(None, names)  # type: ignore[arg-type]
