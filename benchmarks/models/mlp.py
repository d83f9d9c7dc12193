"""Multilayer perceptrons of ReLU layers: parameters, data, and value and gradient in float64."""

from __future__ import annotations

from itertools import pairwise

import numpy as np

from benchmarks.case import Array

Sizes = tuple[int, ...]
SMALL, WIDE, CLASSES, WIDER = (2, 16, 16, 1), (16, 64, 64, 1), (64, 128, 10), (256, 256, 256, 1)
BLOCK = 50_000                                     # examples that NumPy takes at a time
NEAR = 1e-5                                        # beyond any rounding error of a float32 pre-activation


def parameters(sizes: Sizes) -> dict[str, Array]:
    """Layer k: W{k} (outputs, inputs) and b{k} (outputs,), float32."""
    rng = np.random.default_rng(0)
    params: dict[str, Array] = {}
    for k, (inputs, outputs) in enumerate(pairwise(sizes), 1):
        params[f"W{k}"] = (rng.uniform(-1, 1, (outputs, inputs)) / np.sqrt(inputs)).astype(np.float32)
        params[f"b{k}"] = rng.uniform(-0.1, 0.1, outputs).astype(np.float32)
    return params


def data(sizes: Sizes, n: int) -> tuple[Array, Array]:
    """Inputs, and labels: -1 or +1 for one output (hinge loss), class numbers for several (cross-entropy).

    No example lies near a kink of the network of `parameters(sizes)`.
    """
    rng = np.random.default_rng(1)
    x = rng.standard_normal((n, sizes[0]), np.float32)
    y = (rng.integers(0, sizes[-1], n, np.int32) if sizes[-1] > 1
         else np.where(rng.random(n) < 0.5, -1, 1).astype(np.float32))
    params = parameters(sizes)
    for at in range(0, n, BLOCK):
        some, labels = x[at:at + BLOCK], y[at:at + BLOCK]
        near = np.arange(len(some))
        while len(near := near[_near_a_kink(params, some[near], labels[near])]):
            some[near] = rng.standard_normal((len(near), sizes[0]), np.float32)
    return x, y


def _near_a_kink(params: dict[str, Array], x: Array, y: Array) -> Array:
    """Which examples of a batch lie so near a kink of relu or hinge that rounding may decide on which side.

    There float32 rightly answers another gradient than float64. One such example in a million moves an element of the
    mean gradient by a thousandth.
    """
    near, depth = np.zeros(len(x), bool), len(params) // 2
    for k in range(1, depth + 1):
        z = x @ params[f"W{k}"].T + params[f"b{k}"]
        if k < depth:
            near |= np.abs(z).min(axis=1) < NEAR
            x = np.maximum(z, 0)
    if z.shape[1] == 1:
        near |= np.abs(1 - y * z[:, 0]) < NEAR
    return near


def in_float64(params: dict[str, Array], x: Array, y: Array) -> list[Array]:
    """Value and gradients of a ReLU network by NumPy, in the order of `params`."""
    totals = [np.zeros(()), *(np.zeros(p.shape) for p in params.values())]
    for at in range(0, len(x), BLOCK):
        for total, part in zip(totals, _sums(params, x[at:at + BLOCK], y[at:at + BLOCK]), strict=True):
            total += part
    return [total / len(x) for total in totals]


def _sums(params: dict[str, Array], x: Array, y: Array) -> list[Array]:
    wide = {name: p.astype(np.float64) for name, p in params.items()}
    depth, inputs = len(params) // 2, [x.astype(np.float64)]
    for k in range(1, depth + 1):
        z = inputs[-1] @ wide[f"W{k}"].T + wide[f"b{k}"]
        inputs.append(np.maximum(z, 0) if k < depth else z)
    scores = inputs[-1]
    if scores.shape[1] == 1:
        margin = 1 - y * scores[:, 0]
        value, delta = np.maximum(margin, 0).sum(), np.where(margin > 0, -y, 0.0)[:, None]
    else:
        rows = np.arange(len(y))
        shifted = scores - scores.max(axis=1, keepdims=True)
        powers = np.exp(shifted)
        value = (np.log(powers.sum(axis=1)) - shifted[rows, y]).sum()
        delta = powers / powers.sum(axis=1, keepdims=True)
        delta[rows, y] -= 1
    grads: dict[str, Array] = {}
    for k in range(depth, 0, -1):
        grads[f"W{k}"], grads[f"b{k}"] = delta.T @ inputs[k - 1], delta.sum(axis=0)
        delta = (delta @ wide[f"W{k}"]) * (inputs[k - 1] > 0)
    return [value, *(grads[name] for name in params)]
