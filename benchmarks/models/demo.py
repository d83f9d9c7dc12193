"""micrograd's demo in its own words: a 2-16-16-1 network, hinge loss over the examples, and a regulariser."""

from __future__ import annotations

import importlib
import random
from typing import Any

import numpy as np

from benchmarks.case import Array, Contestant, Run
from benchmarks.models.mlp import Sizes, data, in_float64, parameters

DECAY = 1e-4


def model_of(module: str, sizes: Sizes) -> Any:
    """The network of `parameters(sizes)` in a module's own MLP class."""
    params = parameters(sizes)
    random.seed(0)
    model = importlib.import_module(module).MLP(sizes[0], list(sizes[1:]))
    for k, layer in enumerate(model.layers, 1):
        for neuron, row, b in zip(layer.neurons, params[f"W{k}"].tolist(), params[f"b{k}"].tolist(), strict=True):
            neuron.b.data = b
            for w, number in zip(neuron.w, row, strict=True):
                w.data = number
    return model


def loss_of(model: Any, sizes: Sizes, n: int, decay: float) -> Any:
    """As the demo has it. decay: of the regulariser, 0 for none."""
    x, y = data(sizes, n)
    inputs, labels = x.tolist(), y.tolist()
    scores = [model(xi) for xi in inputs]
    losses = [(1 + -yi * score).relu() for yi, score in zip(labels, scores, strict=True)]
    data_loss = sum(losses) * (1.0 / len(losses))
    return data_loss + decay * sum(p * p for p in model.parameters()) if decay else data_loss


def numbers_of(result: tuple[Any, Any]) -> list[Array]:
    """Value and gradients of (loss, model), in the order of `parameters`."""
    loss, model = result
    found = [np.array(loss.data, np.float64)]
    for layer in model.layers:
        found += [np.array([[w.grad for w in neuron.w] for neuron in layer.neurons], np.float64),
                  np.array([neuron.b.grad for neuron in layer.neurons], np.float64)]
    return found


def demo_in_float64(sizes: Sizes, n: int, decay: float) -> tuple[Array, ...]:
    params = parameters(sizes)
    value, *grads = in_float64(params, *data(sizes, n))
    wide = [p.astype(np.float64) for p in params.values()]
    return (value + decay * sum(np.sum(p * p) for p in wide),
            *(g + 2 * decay * p for g, p in zip(grads, wide, strict=True)))


def network_by_scalars(peer: str, module: str, sizes: Sizes, n: int, decay: float = 0.0) -> Contestant:
    """Loss, zero_grad and backward, in micrograd's own words."""
    def make() -> Run:
        model = model_of(module, sizes)

        def step() -> Any:
            loss = loss_of(model, sizes, n, decay)
            model.zero_grad()
            loss.backward()
            return loss, model
        return step
    return Contestant(peer, "a scalar at a time", make, numbers_of, fresh=True)
