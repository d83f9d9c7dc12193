"""A tiny GPT written a scalar at a time in plain Python, and the same in NumPy with its gradient by hand.

`python -m benchmarks.models.scalar_gpt MODULE STEPS` trains it with the class `Value` of a module and prints the losses.
The script knows nothing about jitgrad: only the class it is given differs. 16 numbers a token, one layer of 4 heads, 4,192
parameters.
"""

from __future__ import annotations

import importlib
import math
import random
import sys
from itertools import pairwise
from typing import Any

import numpy as np

WIDTH, HEADS, LONGEST, LETTERS = 16, 4, 16, 27     # 26 letters, and the mark that begins and ends a name
MARK = 26
NAMES = ("elena", "marcus", "ivy", "tobias", "noor", "quentin", "ada", "felix", "june", "viktor")


class Value:
    """A scalar and its derivative, as pure-Python scripts have it: parents, and the slope by each of them."""

    __slots__ = ("_parents", "_slopes", "data", "grad")

    def __init__(self, data: float, parents: tuple[Value, ...] = (), slopes: tuple[float, ...] = ()):
        self.data, self.grad, self._parents, self._slopes = data, 0.0, parents, slopes

    def __add__(self, other: Any) -> Value:
        other = other if isinstance(other, Value) else Value(other)
        return Value(self.data + other.data, (self, other), (1.0, 1.0))

    def __mul__(self, other: Any) -> Value:
        other = other if isinstance(other, Value) else Value(other)
        return Value(self.data * other.data, (self, other), (other.data, self.data))

    def __pow__(self, power: float) -> Value:
        return Value(self.data**power, (self,), (power * self.data**(power - 1),))

    def exp(self) -> Value:
        result = math.exp(self.data)
        return Value(result, (self,), (result,))

    def log(self) -> Value:
        return Value(math.log(self.data), (self,), (1 / self.data,))

    def relu(self) -> Value:
        return Value(max(0.0, self.data), (self,), (float(self.data > 0),))

    def __neg__(self) -> Value: return self * -1
    def __sub__(self, other: Any) -> Value: return self + -other
    def __rsub__(self, other: Any) -> Value: return -self + other
    def __truediv__(self, other: Any) -> Value: return self * other**-1
    def __rtruediv__(self, other: Any) -> Value: return self**-1 * other
    __radd__, __rmul__ = __add__, __mul__

    def backward(self) -> None:
        """Add this value's derivative by each of its ancestors to their `grad`."""
        order: list[Value] = []
        begun: set[Value] = set()
        finished: set[Value] = set()
        stack = [self]
        while stack:
            node = stack[-1]
            if node in begun:
                stack.pop()
                if node not in finished:
                    finished.add(node)
                    order.append(node)
            else:
                begun.add(node)
                stack.extend(p for p in node._parents if p not in begun)
        self.grad = 1.0
        for node in reversed(order):
            for parent, slope in zip(node._parents, node._slopes, strict=True):
                parent.grad += slope * node.grad


SHAPES = {"tokens": (LETTERS, WIDTH), "places": (LONGEST, WIDTH), "query": (WIDTH, WIDTH), "key": (WIDTH, WIDTH),
          "value": (WIDTH, WIDTH), "mix": (WIDTH, WIDTH), "grow": (4 * WIDTH, WIDTH), "shrink": (WIDTH, 4 * WIDTH),
          "head": (LETTERS, WIDTH)}


def numbers() -> dict[str, list[list[float]]]:
    """The parameters to begin with."""
    draw = random.Random(42)
    return {name: [[draw.gauss(0, 0.08) for _ in range(columns)] for _ in range(rows)]
            for name, (rows, columns) in SHAPES.items()}


def model(kind: Any) -> dict[str, list[list[Any]]]:
    """The parameters as Values of a class."""
    return {name: [[kind(x) for x in row] for row in rows] for name, rows in numbers().items()}


def spelled(name: str) -> list[int]:
    return [MARK, *(ord(letter) - ord("a") for letter in name), MARK]


# The script: one example, one scalar at a time.

def linear(x: list[Any], w: list[list[Any]]) -> list[Any]:
    return [sum(wi * xi for wi, xi in zip(row, x, strict=True)) for row in w]


def normalised(x: list[Any]) -> list[Any]:
    scale = (sum(xi * xi for xi in x) / len(x) + 1e-5)**-0.5
    return [xi * scale for xi in x]


def softmax(logits: list[Any], shifted: bool) -> list[Any]:
    largest = max(z.data for z in logits) if shifted else 0
    powers = [(z - largest).exp() if shifted else z.exp() for z in logits]
    total = sum(powers)
    return [p / total for p in powers]


def loss_of(p: dict[str, list[list[Any]]], tokens: list[int], shifted: bool = True) -> Any:
    """Mean cross-entropy of each next token. shifted: softmax subtracts the largest logit, read from `.data`."""
    keys: list[list[Any]] = []
    values: list[list[Any]] = []
    losses, size = [], WIDTH // HEADS
    for place, (token, following) in enumerate(pairwise(tokens)):
        x = normalised([a + b for a, b in zip(p["tokens"][token], p["places"][place], strict=True)])
        before, x = x, normalised(x)
        query = linear(x, p["query"])
        keys.append(linear(x, p["key"]))
        values.append(linear(x, p["value"]))
        attended = []
        for lo in range(0, WIDTH, size):
            scores = [sum(query[lo + j] * k[lo + j] for j in range(size)) / size**0.5 for k in keys]
            weights = softmax(scores, shifted)
            attended += [sum(w * v[lo + j] for w, v in zip(weights, values, strict=True)) for j in range(size)]
        x = [a + b for a, b in zip(linear(attended, p["mix"]), before, strict=True)]
        before, x = x, normalised(x)
        x = linear([z.relu() for z in linear(x, p["grow"])], p["shrink"])
        x = [a + b for a, b in zip(x, before, strict=True)]
        losses.append(-softmax(linear(x, p["head"]), shifted)[following].log())
    return sum(losses) / len(losses)


def rate(step: int, steps: int) -> float:
    return 0.01 * (1 - step / steps)


def train(kind: Any, steps: int) -> list[float]:
    """Adam, one name a step; the losses."""
    p = model(kind)
    parameters = [x for rows in p.values() for row in rows for x in row]
    first, second, losses = [0.0] * len(parameters), [0.0] * len(parameters), []
    for step in range(steps):
        loss = loss_of(p, spelled(NAMES[step % len(NAMES)]))
        loss.backward()
        for i, x in enumerate(parameters):
            first[i] = 0.85 * first[i] + 0.15 * x.grad
            second[i] = 0.99 * second[i] + 0.01 * x.grad**2
            x.data -= (rate(step, steps) * (first[i] / (1 - 0.85**(step + 1)))
                       / ((second[i] / (1 - 0.99**(step + 1)))**0.5 + 1e-8))
            x.grad = 0
        losses.append(loss.data)
    return losses


# The same in NumPy, float64, whole arrays; the derivatives are written out.

Arrays = dict[str, Any]


def in_float64(p: Arrays, tokens: list[int]) -> tuple[float, Arrays]:
    """(loss, gradients by name) of `loss_of`."""
    given, wanted = np.array(tokens[:-1]), np.array(tokens[1:])
    t, size = len(given), WIDTH // HEADS

    def norm(x: Any) -> tuple[Any, Any]:
        scale = (np.mean(x * x, axis=1, keepdims=True) + 1e-5)**-0.5
        return x * scale, scale

    def norm_slope(g: Any, x: Any, scale: Any) -> Any:
        return scale * g - x * scale**3 * np.mean(g * x, axis=1, keepdims=True)

    def heads(x: Any) -> Any:
        return x.reshape(t, HEADS, size).transpose(1, 0, 2)

    def joined(x: Any) -> Any:
        return x.transpose(1, 0, 2).reshape(t, WIDTH)

    embedded = p["tokens"][given] + p["places"][:t]
    x0, scale0 = norm(embedded)
    x1, scale1 = norm(x0)
    q, k, v = (heads(x1 @ p[name].T) for name in ("query", "key", "value"))
    scores = q @ k.transpose(0, 2, 1) / size**0.5
    powers = np.tril(np.exp(scores))
    weights = powers / powers.sum(axis=2, keepdims=True)
    attended = joined(weights @ v)
    x2 = attended @ p["mix"].T + x0
    x3, scale3 = norm(x2)
    grown = x3 @ p["grow"].T
    kept = np.maximum(grown, 0)
    x4 = kept @ p["shrink"].T + x2
    logits = x4 @ p["head"].T
    chances = np.exp(logits)
    chances /= chances.sum(axis=1, keepdims=True)
    loss = -np.mean(np.log(chances[np.arange(t), wanted]))

    g: Arrays = {}
    by_logits = chances.copy()
    by_logits[np.arange(t), wanted] -= 1
    by_logits /= t
    g["head"], by_x4 = by_logits.T @ x4, by_logits @ p["head"]
    g["shrink"], by_kept = by_x4.T @ kept, by_x4 @ p["shrink"]
    by_grown = by_kept * (grown > 0)
    g["grow"] = by_grown.T @ x3
    by_x2 = by_x4 + norm_slope(by_grown @ p["grow"], x2, scale3)
    g["mix"], by_attended = by_x2.T @ attended, heads(by_x2 @ p["mix"])
    by_weights, by_v = by_attended @ v.transpose(0, 2, 1), weights.transpose(0, 2, 1) @ by_attended
    by_scores = weights * (by_weights - (by_weights * weights).sum(axis=2, keepdims=True)) / size**0.5
    by_q, by_k = by_scores @ k, by_scores.transpose(0, 2, 1) @ q
    by_x1 = np.zeros((t, WIDTH))
    for name, by in (("query", by_q), ("key", by_k), ("value", by_v)):
        g[name] = joined(by).T @ x1
        by_x1 += joined(by) @ p[name]
    by_embedded = norm_slope(by_x2 + norm_slope(by_x1, x0, scale1), embedded, scale0)
    g["tokens"], g["places"] = np.zeros(SHAPES["tokens"]), np.zeros(SHAPES["places"])
    np.add.at(g["tokens"], given, by_embedded)
    g["places"][:t] = by_embedded
    return float(loss), {name: g[name] for name in SHAPES}


def losses_in_float64(steps: int) -> list[float]:
    """What `train` should print."""
    p = {name: np.array(rows) for name, rows in numbers().items()}
    first, second = ({name: np.zeros(shape) for name, shape in SHAPES.items()} for _ in range(2))
    losses = []
    for step in range(steps):
        loss, gradient = in_float64(p, spelled(NAMES[step % len(NAMES)]))
        losses.append(loss)
        for name, g in gradient.items():
            first[name] = 0.85 * first[name] + 0.15 * g
            second[name] = 0.99 * second[name] + 0.01 * g**2
            p[name] = p[name] - (rate(step, steps) * (first[name] / (1 - 0.85**(step + 1)))
                                 / (np.sqrt(second[name] / (1 - 0.99**(step + 1))) + 1e-8))
    return losses


if __name__ == "__main__":
    print(*train(importlib.import_module(sys.argv[1]).Value, int(sys.argv[2])), sep="\n")
