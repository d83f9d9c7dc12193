"""Optimizers: pure functions from (gradients, state, parameters) to new parameters and new state.

An `Optimizer` works on any pytree of NumPy arrays, NumPy scalars and Python floats, keeps every leaf's type, shape and
dtype, and writes to none of its inputs:

    optimizer = optim.adam(1e-2)
    state = optimizer.init(params)
    value, grads = step(params, X, Y)
    params, state = optimizer.update(grads, state, params)

`g` is the gradient, `p` the parameter and `t` the step, counted from 1, in the formulas below. A learning rate is a
number, or a function of t such as `cosine(1e-2, steps=1000, warmup=100)`; see `jitgrad.schedules`.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Hashable, Sequence
from dataclasses import dataclass, replace
from functools import lru_cache
from typing import Any, NamedTuple

import numpy as np
import numpy.typing as npt

from jitgrad.arguments import flatten, unflatten
from jitgrad.errors import ArgumentError, DtypeError, ShapeError, explain
from jitgrad.functions import sign
from jitgrad.kernels.place import SQUARES
from jitgrad.schedules import Schedule as Schedule
from jitgrad.schedules import as_schedule, describe, in_range
from jitgrad.schedules import constant as constant
from jitgrad.schedules import cosine as cosine
from jitgrad.schedules import step_decay as step_decay
from jitgrad.schedules import warmup as warmup
from jitgrad.value import Value

Tree = Any  # a pytree: its structure is the user's, so no narrower type is true of it
Leaf = Any  # np.ndarray, np.floating or float
Structure = Any  # optree's PyTreeSpec
Rate = float | Callable[[int], float]
Table = npt.NDArray[np.float64]


@dataclass(frozen=True)
class Rule:
    """One element's update as a formula, from which NumPy's update and the compiled training step are both made.

    formula: (p, g, *averages, *scalars) -> (new p, *new averages), in plain arithmetic and `np.sqrt`
    averages: how many numbers an element keeps beside itself, all zero at first
    scalars: t -> the numbers that all elements share in step t, counted from 1
    kind: equal for rules whose formulas are the same, so that they are compiled once; None: equal to no other
    table: (t, steps) -> the same numbers of steps t, t + 1, …, (steps, count) float64 and to the last bit, where that is
        faster than one by one
    norm: the greatest length of the gradient over all parameters: a longer one is `shortened` before the formula sees it
    """

    formula: Callable[..., tuple[Any, ...]]
    averages: int
    scalars: Callable[[int], tuple[float, ...]]
    kind: Hashable = None
    table: Callable[[int, int], Table] | None = None
    norm: float = math.inf

    @property
    def clips(self) -> bool:
        """Whether a gradient may be too long."""
        return self.norm < math.inf

    def rows(self, first: int, steps: int) -> Table:
        """The scalars of `steps` steps from number `first` on, a row each."""
        if self.table is not None:
            return self.table(first, steps)
        return np.array([self.scalars(t) for t in range(first, first + steps)], np.float64)


@dataclass(frozen=True)
class Optimizer:
    """Two pure functions; write your own with `Optimizer(init, update)`, or `elementwise(rule, description)`.

    init: params -> state, a pytree
    update: (grads, state, params) -> (new params, new state)
    description: how the optimizer was made, for error messages and reports
    rule: the same as one element's formula, if that is all there is to it; `fit` then compiles the update
    any_layout: the update is the same however the elements are laid out in arrays; `fit` then lays the parameters out in
        one vector per dtype
    """

    init: Callable[[Tree], Tree]
    update: Callable[[Tree, Tree, Tree], tuple[Tree, Tree]]
    description: str = "a custom optimizer"
    rule: Rule | None = None
    any_layout: bool = False

    def __repr__(self) -> str:
        return self.description


class State(NamedTuple):
    """`step`: updates made so far; `averages`: for each number that an element keeps, a tree of arrays like params."""

    step: int
    averages: tuple[Tree, ...]


def elementwise(rule: Rule, description: str) -> Optimizer:
    """The optimizer of a rule."""
    def init(params: Tree) -> State:
        leaves, spec = parameters(params)
        return State(0, tuple(_zeros(leaves, spec) for _ in range(rule.averages)))

    def update(grads: Tree, state: State, params: Tree) -> tuple[Tree, State]:
        leaves, spec = parameters(params)
        gradients = shortened(_matching(grads, leaves, spec), rule.norm)
        averages = [spec.flatten_up_to(tree) for tree in state.averages]
        t = int(state.step) + 1
        scalars = rule.scalars(t)
        new: list[list[Leaf]] = [[] for _ in range(1 + rule.averages)]
        for i, (leaf, g) in enumerate(zip(leaves, gradients, strict=True)):
            found = rule.formula(leaf, g, *(kept[i] for kept in averages), *scalars)
            new[0].append(_like(leaf, found[0]))
            for kept, number in zip(new[1:], found[1:], strict=True):
                kept.append(np.asarray(number))
        return unflatten(spec, new[0]), State(t, tuple(unflatten(spec, kept) for kept in new[1:]))
    return Optimizer(init, update, description, rule, any_layout=True)


def sgd(
    learning_rate: Rate, momentum: float = 0.0, nesterov: bool = False, weight_decay: float = 0.0
) -> Optimizer:
    """Stochastic gradient descent (Sutskever et al. 2013, as in PyTorch: the learning rate is outside the velocity).

        g <- g + weight_decay * p
        v <- momentum * v + g                       v starts at zero
        p <- p - learning_rate * (g + momentum * v  if nesterov else  v)

    raises: ArgumentError for a hyper-parameter out of its range, or `nesterov` without momentum
    """
    rate_of = as_schedule("sgd", learning_rate)
    in_range("sgd", "momentum", momentum, 0.0, 1.0)
    in_range("sgd", "weight_decay", weight_decay, 0.0, math.inf)
    if nesterov and momentum == 0.0:
        raise ArgumentError(
            explain("sgd(nesterov=True) has no meaning without momentum.", None, "Pass momentum, for example 0.9.")
        )

    def formula(p: Any, g: Any, *rest: Any) -> tuple[Any, ...]:
        *velocity, rate, factor, decay = rest
        if weight_decay:
            g = g + decay * p
        if not momentum:
            return (p - rate * g,)
        v = factor * velocity[0] + g
        return p - rate * (g + factor * v if nesterov else v), v

    def table(t: int, steps: int) -> Table:
        rates = _rates(learning_rate, rate_of, t, steps)
        return _columns(rates, rates, momentum, weight_decay)
    rule = Rule(formula, 1 if momentum else 0, lambda t: (rate_of(t), momentum, weight_decay),
                ("sgd", momentum > 0, nesterov, weight_decay > 0), table)
    return elementwise(rule, f"sgd({describe(learning_rate)}, momentum={momentum!r}, nesterov={nesterov!r}, "
                             f"weight_decay={weight_decay!r})")


def adam(learning_rate: Rate = 1e-3, b1: float = 0.9, b2: float = 0.999, eps: float = 1e-8) -> Optimizer:
    """Adam (Kingma & Ba 2015, algorithm 1, as in PyTorch).

        m <- b1 * m + (1 - b1) * g                  m and v start at zero
        v <- b2 * v + (1 - b2) * g * g
        p <- p - learning_rate * (m / (1 - b1**t)) / (sqrt(v / (1 - b2**t)) + eps)

    raises: ArgumentError for a hyper-parameter out of its range
    """
    description = f"adam({describe(learning_rate)}, b1={b1!r}, b2={b2!r}, eps={eps!r})"
    return _adam("adam", learning_rate, b1, b2, eps, 0.0, description)


def adamw(
    learning_rate: Rate = 1e-3, b1: float = 0.9, b2: float = 0.999, eps: float = 1e-8, weight_decay: float = 1e-2
) -> Optimizer:
    """Adam with decoupled weight decay (Loshchilov & Hutter 2019, algorithm 2, as in PyTorch).

    Adam's step, taken from (1 - learning_rate * weight_decay) * p instead of p; m and v do not see the decay.

    raises: ArgumentError for a hyper-parameter out of its range
    """
    in_range("adamw", "weight_decay", weight_decay, 0.0, math.inf)
    description = f"adamw({describe(learning_rate)}, b1={b1!r}, b2={b2!r}, eps={eps!r}, weight_decay={weight_decay!r})"
    return _adam("adamw", learning_rate, b1, b2, eps, weight_decay, description)


def _adam(
    name: str, learning_rate: Rate, b1: float, b2: float, eps: float, weight_decay: float, description: str
) -> Optimizer:
    rate_of = as_schedule(name, learning_rate)
    in_range(name, "b1", b1, 0.0, 1.0)
    in_range(name, "b2", b2, 0.0, 1.0)
    in_range(name, "eps", eps, 0.0, math.inf)

    def formula(p: Any, g: Any, m: Any, v: Any, *scalars: Any) -> tuple[Any, ...]:
        keep_m, add_m, keep_v, add_v, small, step_size, keep = scalars
        m = keep_m * m + add_m * g
        v = keep_v * v + add_v * (g * g)
        # The formula's fraction times correction / correction: the scalars then cost two passes and not four.
        direction = m / (np.sqrt(v) + small) * step_size
        return (p * keep if weight_decay else p) - direction, m, v

    def scalars(t: int) -> tuple[float, ...]:
        correction, rate = math.sqrt(1.0 - b2**t), rate_of(t)
        return (b1, 1.0 - b1, b2, 1.0 - b2, eps * correction, rate * correction / (1.0 - b1**t), 1.0 - rate * weight_decay)

    def table(t: int, steps: int) -> Table:
        (correction, first), rates = _corrections(b1, b2, t, steps), _rates(learning_rate, rate_of, t, steps)
        return _columns(rates, b1, 1.0 - b1, b2, 1.0 - b2, eps * correction, rates * correction / first,
                        1.0 - rates * weight_decay)
    return elementwise(Rule(formula, 2, scalars, ("adam", weight_decay > 0), table), description)


def _rates(learning_rate: Rate, rate_of: Callable[[int], float], t: int, steps: int) -> Table:
    """The rates of steps t, t + 1, …; a number needs no asking."""
    if not callable(learning_rate):
        return np.full(steps, float(learning_rate))
    return np.array([rate_of(k) for k in range(t, t + steps)], np.float64)


@lru_cache(64)
def _corrections(b1: float, b2: float, t: int, steps: int) -> tuple[Table, Table]:
    """sqrt(1 - b2**t) and 1 - b1**t of steps t, t + 1, …; Python's power, of which NumPy's may differ in the last bit."""
    numbers = range(t, t + steps)
    return np.array([math.sqrt(1.0 - b2**k) for k in numbers]), np.array([1.0 - b1**k for k in numbers])


def _columns(rates: Table, *columns: Any) -> Table:
    """These columns, of which some are one number, each with a row for each of the rates."""
    table = np.empty((len(rates), len(columns)))
    for k, column in enumerate(columns):
        table[:, k] = column
    return table


def penalised(optimizer: Optimizer, l1: float = 0.0, l2: float = 0.0) -> Optimizer:
    """The same optimizer for the loss + l1 * sum |p| + l2 * sum p**2, the sums over all parameters.

        g <- g + l1 * sign(p) + 2 * l2 * p          sign(0) = 0

    The penalty's gradient is part of the update: losses that are reported are without it. (`adamw` and `sgd` have a
    weight decay of their own; adamw's is decoupled from the gradient and so differs from l2.)
    raises: ArgumentError for a penalty that is negative or not finite
    """
    in_range("penalised", "l1", l1, 0.0, math.inf)
    in_range("penalised", "l2", l2, 0.0, math.inf)
    if not l1 and not l2:
        return optimizer
    description = f"penalised({optimizer}, l1={l1!r}, l2={l2!r})"

    def steeper(p: Any, g: Any, slope: Any, twice: Any) -> Any:
        if l1:
            # NumPy's own for its arrays: jitgrad's goes through them number by number.
            g = g + slope * (sign(p) if isinstance(p, Value) else np.sign(p))
        return g + twice * p if l2 else g

    inner = optimizer.rule
    if inner is None or inner.clips:                        # what is clipped is the gradient with its penalty
        def change(grads: Sequence[Leaf], params: Sequence[Leaf]) -> list[Leaf]:
            return [steeper(p, g, l1, 2.0 * l2) for p, g in zip(params, grads, strict=True)]
        return _after(change, optimizer, description)
    known = inner

    def formula(p: Any, g: Any, *rest: Any) -> tuple[Any, ...]:
        *rest, slope, twice = rest  # type: ignore[assignment]
        return known.formula(p, steeper(p, g, slope, twice), *rest)
    kind = None if known.kind is None else ("penalised", known.kind, l1 > 0, l2 > 0)

    def table(t: int, steps: int) -> Table:
        return np.concatenate([known.rows(t, steps), np.full((steps, 2), (l1, 2.0 * l2))], axis=1)
    return elementwise(Rule(formula, known.averages, lambda t: (*known.scalars(t), l1, 2.0 * l2), kind, table), description)


def clipped(optimizer: Optimizer, norm: float) -> Optimizer:
    """The same optimizer with gradients whose length, over all parameters together, is at most `norm`.

        g <- g * norm / max(norm, sqrt(sum g**2))

    raises: ArgumentError unless norm is positive and finite
    """
    in_range("clipped", "norm", norm, math.ulp(0.0), math.inf)
    description, inner = f"clipped({optimizer}, {norm!r})", optimizer.rule
    if inner is None or inner.clips:
        return _after(lambda grads, _: shortened(grads, norm), optimizer, description)
    return elementwise(replace(inner, norm=float(norm)), description)


def shortened(grads: Sequence[Leaf], norm: float) -> Sequence[Leaf]:
    """The same gradients if their length over all elements, sqrt(sum g**2), is at most `norm`, else norm / length of each.

    A NaN or an infinity among them is for the caller to find. The sum is float64, in the order that `kernels.place.SQUARES`
    says, so that the compiled loop (`kernels.steps.clip`) finds the same bits.
    """
    count = sum(map(np.size, grads))
    if norm == math.inf or not count:
        return grads
    elements = np.zeros(-(-count // SQUARES) * SQUARES)
    np.concatenate(grads, axis=None, out=elements[:count])
    # In units of the largest, so that squares of large numbers do not overflow; of 0 and infinity, NaN is the length.
    with np.errstate(all="ignore"):
        largest = np.abs(elements).max()
        rows = np.square(elements / largest).reshape(-1, SQUARES)
        length = np.sqrt(np.add.accumulate(np.add.accumulate(rows)[-1])[-1])
        limit = norm / largest
        return [g * float(limit / length) for g in grads] if length > limit else grads


def _after(change: Callable[[Sequence[Leaf], Sequence[Leaf]], Sequence[Leaf]], optimizer: Optimizer,
           description: str) -> Optimizer:
    """The optimizer with its gradients changed first: leaves of (grads, params) -> leaves of new grads."""
    def update(grads: Tree, state: Tree, params: Tree) -> tuple[Tree, Tree]:
        leaves, spec = parameters(params)
        new = change(_matching(grads, leaves, spec), leaves)
        return optimizer.update(unflatten(spec, new), state, params)
    return Optimizer(optimizer.init, update, description, any_layout=optimizer.any_layout)


def parameters(params: Tree) -> tuple[list[Leaf], Structure]:
    """The leaves and structure of params; DtypeError names a leaf that is not a real floating-point number."""
    leaves, spec = flatten(params)
    check_parameters(leaves, spec)
    return leaves, spec


def check_parameters(leaves: Sequence[Leaf], spec: Structure) -> None:
    """Raise DtypeError for a leaf that is not a real floating-point number."""
    for position, leaf in enumerate(leaves):
        if type(leaf) is float or (isinstance(leaf, np.ndarray | np.generic) and leaf.dtype.kind == "f"):
            continue
        kind = str(leaf.dtype) if isinstance(leaf, np.ndarray | np.generic) else type(leaf).__name__
        raise DtypeError(
            explain(
                f"A parameter has type {kind}, which cannot be trained.",
                leaf_path("params", spec, position),
                "Parameters are floats or floating-point NumPy arrays: write 0.0 for 0, or use array.astype(float), or "
                "np.asarray(array) for another library's.",
            )
        )


def _zeros(leaves: Sequence[Leaf], spec: Structure) -> Tree:
    return unflatten(spec, [np.zeros(np.shape(leaf), getattr(leaf, "dtype", np.float64)) for leaf in leaves])


def _matching(grads: Tree, leaves: Sequence[Leaf], spec: Structure) -> list[Leaf]:
    """The leaves of grads; ShapeError unless they have the structure and shapes of the parameters."""
    gradients, found = flatten(grads)
    if found != spec:
        raise ShapeError(
            explain("The gradients do not have the structure of params.", f"{found} is not {spec}",
                    "Pass the gradients that value_and_grad returned for these params.")
        )
    for position, (leaf, g) in enumerate(zip(leaves, gradients, strict=True)):
        # Unequal shapes would otherwise broadcast and silently grow the parameter.
        if np.shape(g) != np.shape(leaf):
            raise ShapeError(
                explain(
                    f"A gradient has shape {np.shape(g)} where its parameter has shape {np.shape(leaf)}.",
                    leaf_path("grads", spec, position),
                    "Pass the gradients that value_and_grad returned for these params.",
                )
            )
    return gradients


def _like(leaf: Leaf, new: Leaf) -> Leaf:
    """`new` as the type and dtype of `leaf`: a Python float stays one, a 0-d array does not decay to a scalar."""
    if type(leaf) is float:
        return float(new)
    if isinstance(leaf, np.generic):
        return leaf.dtype.type(new)
    return np.asarray(new, dtype=leaf.dtype)


def leaf_path(root: str, spec: Structure, position: int) -> str:
    """How a user writes the leaf at `position`, for example `params['layers'][0]`."""
    path: str = spec.accessors()[position].codify(root)
    return path
