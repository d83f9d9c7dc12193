"""Optimizers: pure functions from (gradients, state, parameters) to new parameters and new state.

An `Optimizer` works on any pytree of NumPy arrays, NumPy scalars and Python floats, keeps every leaf's type, shape and
dtype, and writes to none of its inputs:

    optimizer = optim.adam(1e-2)
    state = optimizer.init(params)
    value, grads = step(params, X, Y)
    params, state = optimizer.update(grads, state, params)

`g` is the gradient, `p` the parameter and `t` the step, counted from 1, in the formulas below.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Hashable, Sequence
from dataclasses import dataclass
from typing import Any, NamedTuple

import numpy as np

from jitgrad.arguments import flatten, unflatten
from jitgrad.errors import ArgumentError, DtypeError, ShapeError, explain

Tree = Any  # a pytree: its structure is the user's, so no narrower type is true of it
Leaf = Any  # np.ndarray, np.floating or float
Structure = Any  # optree's PyTreeSpec


@dataclass(frozen=True)
class Rule:
    """One element's update as a formula, from which NumPy's update and the compiled training step are both made.

    formula: (p, g, *averages, *scalars) -> (new p, *new averages), in plain arithmetic and `np.sqrt`
    averages: how many numbers an element keeps beside itself, all zero at first
    scalars: t -> the numbers that all elements share in step t, counted from 1
    kind: equal for rules whose formulas are the same, so that they are compiled once; None: equal to no other
    """

    formula: Callable[..., tuple[Any, ...]]
    averages: int
    scalars: Callable[[int], tuple[float, ...]]
    kind: Hashable = None


@dataclass(frozen=True)
class Optimizer:
    """Two pure functions; write your own with `Optimizer(init, update)`, or `elementwise(rule, description)`.

    init: params -> state, a pytree
    update: (grads, state, params) -> (new params, new state)
    description: how the optimizer was made, for error messages and reports
    rule: the same as one element's formula, if that is all there is to it; `fit` then lays all parameters out in one
        vector, and compiles the update
    """

    init: Callable[[Tree], Tree]
    update: Callable[[Tree, Tree, Tree], tuple[Tree, Tree]]
    description: str = "a custom optimizer"
    rule: Rule | None = None

    def __repr__(self) -> str:
        return self.description


class State(NamedTuple):
    """`step`: updates made so far; `averages`: for each number that an element keeps, a tree of arrays like params."""

    step: int
    averages: tuple[Tree, ...]


def elementwise(rule: Rule, description: str) -> Optimizer:
    """The optimizer of a rule."""
    def init(params: Tree) -> State:
        leaves, spec = _parameters(params)
        return State(0, tuple(_zeros(leaves, spec) for _ in range(rule.averages)))

    def update(grads: Tree, state: State, params: Tree) -> tuple[Tree, State]:
        leaves, spec = _parameters(params)
        gradients = _matching(grads, leaves, spec)
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
    return Optimizer(init, update, description, rule)


def sgd(
    learning_rate: float, momentum: float = 0.0, nesterov: bool = False, weight_decay: float = 0.0
) -> Optimizer:
    """Stochastic gradient descent (Sutskever et al. 2013, as in PyTorch: the learning rate is outside the velocity).

        g <- g + weight_decay * p
        v <- momentum * v + g                       v starts at zero
        p <- p - learning_rate * (g + momentum * v  if nesterov else  v)

    raises: ArgumentError for a hyper-parameter out of its range, or `nesterov` without momentum
    """
    _in_range("sgd", "learning_rate", learning_rate, 0.0, math.inf)
    _in_range("sgd", "momentum", momentum, 0.0, 1.0)
    _in_range("sgd", "weight_decay", weight_decay, 0.0, math.inf)
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

    rule = Rule(formula, 1 if momentum else 0, lambda t: (learning_rate, momentum, weight_decay),
                ("sgd", momentum > 0, nesterov, weight_decay > 0))
    return elementwise(rule, f"sgd({learning_rate!r}, momentum={momentum!r}, nesterov={nesterov!r}, "
                             f"weight_decay={weight_decay!r})")


def adam(learning_rate: float = 1e-3, b1: float = 0.9, b2: float = 0.999, eps: float = 1e-8) -> Optimizer:
    """Adam (Kingma & Ba 2015, algorithm 1, as in PyTorch).

        m <- b1 * m + (1 - b1) * g                  m and v start at zero
        v <- b2 * v + (1 - b2) * g * g
        p <- p - learning_rate * (m / (1 - b1**t)) / (sqrt(v / (1 - b2**t)) + eps)

    raises: ArgumentError for a hyper-parameter out of its range
    """
    description = f"adam({learning_rate!r}, b1={b1!r}, b2={b2!r}, eps={eps!r})"
    return _adam("adam", learning_rate, b1, b2, eps, 0.0, description)


def adamw(
    learning_rate: float = 1e-3, b1: float = 0.9, b2: float = 0.999, eps: float = 1e-8, weight_decay: float = 1e-2
) -> Optimizer:
    """Adam with decoupled weight decay (Loshchilov & Hutter 2019, algorithm 2, as in PyTorch).

    Adam's step, taken from (1 - learning_rate * weight_decay) * p instead of p; m and v do not see the decay.

    raises: ArgumentError for a hyper-parameter out of its range
    """
    _in_range("adamw", "weight_decay", weight_decay, 0.0, math.inf)
    description = f"adamw({learning_rate!r}, b1={b1!r}, b2={b2!r}, eps={eps!r}, weight_decay={weight_decay!r})"
    return _adam("adamw", learning_rate, b1, b2, eps, weight_decay, description)


def _adam(
    name: str, learning_rate: float, b1: float, b2: float, eps: float, weight_decay: float, description: str
) -> Optimizer:
    _in_range(name, "learning_rate", learning_rate, 0.0, math.inf)
    _in_range(name, "b1", b1, 0.0, 1.0)
    _in_range(name, "b2", b2, 0.0, 1.0)
    _in_range(name, "eps", eps, 0.0, math.inf)

    def formula(p: Any, g: Any, m: Any, v: Any, *scalars: Any) -> tuple[Any, ...]:
        keep_m, add_m, keep_v, add_v, small, step_size, keep = scalars
        m = keep_m * m + add_m * g
        v = keep_v * v + add_v * (g * g)
        # The formula's fraction times correction / correction: the scalars then cost two passes and not four.
        direction = m / (np.sqrt(v) + small) * step_size
        return (p * keep if weight_decay else p) - direction, m, v

    def scalars(t: int) -> tuple[float, ...]:
        correction = math.sqrt(1.0 - b2**t)
        return (b1, 1.0 - b1, b2, 1.0 - b2, eps * correction, learning_rate * correction / (1.0 - b1**t),
                1.0 - learning_rate * weight_decay)
    return elementwise(Rule(formula, 2, scalars, ("adam", weight_decay > 0)), description)


def _in_range(optimizer: str, name: str, number: float, low: float, high: float) -> None:
    """Raise ArgumentError unless low <= number < high."""
    if isinstance(number, bool) or not isinstance(number, (int, float, np.integer, np.floating)):
        raise ArgumentError(
            explain(
                f"{optimizer}'s {name} must be a number, not {type(number).__name__}.",
                f"{name}={number!r}",
                "Pass a Python float.",
            )
        )
    if not low <= number < high:
        limits = f"at least {low:g}" + ("" if math.isinf(high) else f" and below {high:g}")
        raise ArgumentError(
            explain(f"{optimizer}'s {name} is out of range.", f"{name}={number!r}", f"It must be {limits}, and finite.")
        )


def _parameters(params: Tree) -> tuple[list[Leaf], Structure]:
    """The leaves and structure of params; DtypeError names a leaf that is not a real floating-point number."""
    leaves, spec = flatten(params)
    for position, leaf in enumerate(leaves):
        if type(leaf) is float or getattr(getattr(leaf, "dtype", None), "kind", "") == "f":
            continue
        kind = str(leaf.dtype) if hasattr(leaf, "dtype") else type(leaf).__name__
        raise DtypeError(
            explain(
                f"A parameter has type {kind}, which cannot be trained.",
                leaf_path("params", spec, position),
                "Parameters are floats or floating-point NumPy arrays: write 0.0 for 0, or use array.astype(float).",
            )
        )
    return leaves, spec


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
