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
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any, NamedTuple

import numpy as np

from jitgrad.arguments import flatten, unflatten
from jitgrad.errors import ArgumentError, DtypeError, ShapeError, explain

Tree = Any  # a pytree: its structure is the user's, so no narrower type is true of it
Leaf = Any  # np.ndarray, np.floating or float
Structure = Any  # optree's PyTreeSpec


@dataclass(frozen=True)
class Optimizer:
    """Two pure functions; write your own with `Optimizer(init, update)`.

    init: params -> state, a pytree
    update: (grads, state, params) -> (new params, new state)
    description: how the optimizer was made, for error messages and reports
    elementwise: True promises that the new value of an element depends only on that element's own history, so that
        `fit` may lay all parameters out in one vector and update them with a handful of NumPy calls
    """

    init: Callable[[Tree], Tree]
    update: Callable[[Tree, Tree, Tree], tuple[Tree, Tree]]
    description: str = "a custom optimizer"
    elementwise: bool = False

    def __repr__(self) -> str:
        return self.description


class SgdState(NamedTuple):
    """`velocity`: a tree of arrays shaped like params; None without momentum."""

    velocity: Tree


class AdamState(NamedTuple):
    """`step` updates made so far; `mean` and `square`: running averages of g and g*g, trees of arrays like params."""

    step: int
    mean: Tree
    square: Tree


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

    def init(params: Tree) -> SgdState:
        leaves, spec = _parameters(params)
        return SgdState(_zeros(leaves, spec) if momentum else None)

    def update(grads: Tree, state: SgdState, params: Tree) -> tuple[Tree, SgdState]:
        leaves, spec = _parameters(params)
        gradients = _matching(grads, leaves, spec)
        velocities = spec.flatten_up_to(state.velocity) if momentum else []
        new: list[Leaf] = []
        for i, (leaf, g) in enumerate(zip(leaves, gradients, strict=True)):
            if weight_decay:
                g = g + weight_decay * leaf
            if momentum:
                velocities[i] = np.asarray(momentum * velocities[i] + g)
                g = g + momentum * velocities[i] if nesterov else velocities[i]
            new.append(_like(leaf, leaf - learning_rate * g))
        return unflatten(spec, new), SgdState(unflatten(spec, velocities) if momentum else None)

    description = f"sgd({learning_rate!r}, momentum={momentum!r}, nesterov={nesterov!r}, weight_decay={weight_decay!r})"
    return Optimizer(init, update, description, elementwise=True)


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

    def init(params: Tree) -> AdamState:
        leaves, spec = _parameters(params)
        return AdamState(0, _zeros(leaves, spec), _zeros(leaves, spec))

    def update(grads: Tree, state: AdamState, params: Tree) -> tuple[Tree, AdamState]:
        leaves, spec = _parameters(params)
        gradients = _matching(grads, leaves, spec)
        means = spec.flatten_up_to(state.mean)
        squares = spec.flatten_up_to(state.square)
        t = int(state.step) + 1
        correction = math.sqrt(1.0 - b2**t)
        step_size = learning_rate * correction / (1.0 - b1**t)
        keep = 1.0 - learning_rate * weight_decay
        new: list[Leaf] = []
        for i, (leaf, g) in enumerate(zip(leaves, gradients, strict=True)):
            means[i] = np.asarray(b1 * means[i] + (1.0 - b1) * g)
            squares[i] = np.asarray(b2 * squares[i] + (1.0 - b2) * (g * g))
            # The formula's fraction times correction / correction: the scalars then cost two passes and not four.
            direction = means[i] / (np.sqrt(squares[i]) + eps * correction)
            direction *= step_size
            new.append(_like(leaf, (leaf * keep if weight_decay else leaf) - direction))
        return unflatten(spec, new), AdamState(t, unflatten(spec, means), unflatten(spec, squares))

    return Optimizer(init, update, description, elementwise=True)


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
