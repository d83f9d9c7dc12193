"""micrograd's neural networks, name for name: the same classes, parameters, order of random draws and reprs.

And jitgrad's own layers beside them, from layers.py. All are Modules, whose parameters are Values or arrays (module.py).
"""

from __future__ import annotations

import copy
import random
from collections.abc import Sequence
from typing import Any

import numpy as np

from jitgrad.functions import PUBLIC
from jitgrad.layers import (
    ACTIVATIONS,
    INITIALISERS,
    Dropout,
    Embedding,
    LayerNorm,
    Linear,
    Residual,
    SelfAttention,
    Sequential,
    gelu,
    silu,
)
from jitgrad.module import Module, Put
from jitgrad.value import Value

__all__ = ["ACTIVATIONS", "INITIALISERS", "MLP", "Dropout", "Embedding", "Layer", "LayerNorm", "Linear", "Module", "Neuron",
           "Residual", "SelfAttention", "Sequential", "gelu", "silu"]


class Neuron(Module):
    """relu(w · x + b), or w · x + b with nonlin=False; weights uniform in [-1, 1] from `random`, bias 0."""

    def __init__(self, nin: int, nonlin: bool = True):
        self.w = [Value(random.uniform(-1, 1)) for _ in range(nin)]
        self.b = Value(0)
        self.nonlin = nonlin

    def __call__(self, x: Sequence[Any]) -> Any:
        act = sum((wi * xi for wi, xi in zip(self.w, x, strict=False)), self.b)
        if not self.nonlin:
            return act
        return act.relu() if isinstance(act, Value) else PUBLIC["relu"](act)       # a number, where numbers are bound

    def parameters(self) -> list[Any]:
        """Weights, then the bias."""
        return [*self.w, self.b]

    def __repr__(self) -> str:
        return f"{'ReLU' if self.nonlin else 'Linear'}Neuron({len(self.w)})"


class Layer(Module):
    """`nout` neurons over the same inputs; a single neuron answers with its value instead of a list."""

    def __init__(self, nin: int, nout: int, **kwargs: Any):
        self.neurons = [Neuron(nin, **kwargs) for _ in range(nout)]

    def __call__(self, x: Sequence[Any]) -> Any:
        out = [n(x) for n in self.neurons]
        return out[0] if len(out) == 1 else out

    def parameters(self) -> list[Any]:
        """Neuron by neuron."""
        return [p for n in self.neurons for p in n.parameters()]

    def _replaced(self, prefix: str, put: Put) -> Any:
        """As arrays its neurons are rows: W (nout, nin) and b (nout,)."""
        made = copy.copy(self)
        weights = put(f"{prefix}W", np.array([n.w for n in self.neurons], object))
        biases = put(f"{prefix}b", np.array([n.b for n in self.neurons], object))
        made.neurons = [copy.copy(n) for n in self.neurons]
        for neuron, w, b in zip(made.neurons, weights, biases, strict=True):
            neuron.w, neuron.b = w, b
        return made

    def __repr__(self) -> str:
        return f"Layer of [{', '.join(str(n) for n in self.neurons)}]"


class MLP(Module):
    """Layers of ReLU neurons, the last one linear: MLP(2, [16, 16, 1])."""

    def __init__(self, nin: int, nouts: Sequence[int]):
        sizes = [nin, *nouts]
        self.layers = [Layer(sizes[i], sizes[i + 1], nonlin=i != len(nouts) - 1) for i in range(len(nouts))]

    def __call__(self, x: Sequence[Any]) -> Any:
        for layer in self.layers:
            x = layer(x)
        return x

    def parameters(self) -> list[Any]:
        """Layer by layer."""
        return [p for layer in self.layers for p in layer.parameters()]

    def __repr__(self) -> str:
        return f"MLP of [{', '.join(str(layer) for layer in self.layers)}]"
