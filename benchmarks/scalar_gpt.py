"""A scalar GPT in plain Python, as people write it on micrograd's class: what an unmodified script gains from `Value` alone.

python -m benchmarks.scalar_gpt [STEPS]

The model and the training loop are in the style of Karpathy's microgpt, on a list of first names: one layer, 16 wide, 4
heads, blocks of 8 letters, an Adam of its own. `run(Value, steps)` knows nothing of the class it is given. Each class trains
in a process of its own; times are the processor's, and the classes take turns.
"""

# ruff: noqa: B905, SIM905 (written as its readers write)

from __future__ import annotations

import math
import random
import statistics
import subprocess
import sys
import time
from typing import Any

NAMES = """
ada alan alice alma amir anna anton bella boris carl carla cleo dana david dora edgar edith elena emil emma erik
esther felix flora frank frida greta hana hugo ida igor ines irma ivan jana jonas julia karl katja klara lars lea leo
lina lisa lotte luis maja mara marek maria max mila mona nadia nils nina nora olga oskar otto paul petra rita robin
rosa ruth sara selma silas sofia stella sven tara theo tilda tom ursula vera viktor walter wanda xaver yara yuri zelda
zoe
""".split()


def run(Value: Any, steps: int, block: int = 8, width: int = 16) -> tuple[list[str], list[float]]:
    """Train on one name a step; the printed losses, and each step's seconds."""
    draw = random.Random(42)
    docs = list(NAMES)
    draw.shuffle(docs)
    letters = "abcdefghijklmnopqrstuvwxyz"
    end, vocabulary, heads = len(letters), len(letters) + 1, 4
    size = width // heads

    def matrix(rows: int, columns: int) -> list[list[Any]]:
        return [[Value(draw.gauss(0, 0.08)) for _ in range(columns)] for _ in range(rows)]

    state = {"wte": matrix(vocabulary, width), "wpe": matrix(block, width), "lm_head": matrix(vocabulary, width)}
    state |= {name: matrix(width, width) for name in ("wq", "wk", "wv", "wo")}
    state |= {"fc1": matrix(4 * width, width), "fc2": matrix(width, 4 * width)}
    params = [p for rows in state.values() for row in rows for p in row]

    def linear(x: list[Any], w: list[list[Any]]) -> list[Any]:
        return [sum(wi * xi for wi, xi in zip(wo, x)) for wo in w]

    def softmax(logits: list[Any]) -> list[Any]:
        largest = max(val.data for val in logits)
        exps = [(val - largest).exp() for val in logits]
        total = sum(exps)
        return [e / total for e in exps]

    def rmsnorm(x: list[Any]) -> list[Any]:
        scale = (sum(xi * xi for xi in x) / len(x) + 1e-5) ** -0.5
        return [xi * scale for xi in x]

    def gpt(token: int, position: int, keys: list[list[Any]], values: list[list[Any]]) -> list[Any]:
        x = rmsnorm([t + p for t, p in zip(state["wte"][token], state["wpe"][position])])
        residual = x
        x = rmsnorm(x)
        q = linear(x, state["wq"])
        keys.append(linear(x, state["wk"]))
        values.append(linear(x, state["wv"]))
        attended = []
        for h in range(0, width, size):
            logits = [sum(q[h + j] * k[h + j] for j in range(size)) / size**0.5 for k in keys]
            weights = softmax(logits)
            attended.extend(sum(w * v[h + j] for w, v in zip(weights, values)) for j in range(size))
        x = [a + b for a, b in zip(linear(attended, state["wo"]), residual)]
        residual = x
        hidden = [xi.relu() for xi in linear(rmsnorm(x), state["fc1"])]
        x = [a + b for a, b in zip(linear(hidden, state["fc2"]), residual)]
        return linear(x, state["lm_head"])

    m, v = [0.0] * len(params), [0.0] * len(params)
    losses, times = [], []
    for step in range(steps):
        start = time.thread_time()
        tokens = [end, *map(letters.index, docs[step % len(docs)]), end]
        n = min(block, len(tokens) - 1)
        keys: list[list[Any]] = []
        values: list[list[Any]] = []
        terms = []
        for position in range(n):
            probabilities = softmax(gpt(tokens[position], position, keys, values))
            terms.append(-probabilities[tokens[position + 1]].log())
        loss = (1 / n) * sum(terms)
        loss.backward()
        rate = 0.01 * (1 - step / 1000)
        for i, p in enumerate(params):
            m[i] = 0.85 * m[i] + 0.15 * p.grad
            v[i] = 0.99 * v[i] + 0.01 * p.grad ** 2
            p.data -= rate * (m[i] / (1 - 0.85 ** (step + 1))) / ((v[i] / (1 - 0.99 ** (step + 1))) ** 0.5 + 1e-8)
            p.grad = 0
        losses.append(f"{loss.data:.10f}")
        times.append(time.thread_time() - start)
    return losses, times


class Microgpt:
    """The fastest class of its kind in use: local derivatives kept in the node, slots, no closures."""

    __slots__ = ("children", "data", "grad", "local")

    def __init__(self, data: Any, children: tuple[Any, ...] = (), local: tuple[Any, ...] = ()):
        self.data = data
        self.grad: Any = 0
        self.children = children
        self.local = local

    def __add__(self, other: Any) -> Microgpt:
        other = other if isinstance(other, Microgpt) else Microgpt(other)
        return Microgpt(self.data + other.data, (self, other), (1, 1))

    def __mul__(self, other: Any) -> Microgpt:
        other = other if isinstance(other, Microgpt) else Microgpt(other)
        return Microgpt(self.data * other.data, (self, other), (other.data, self.data))

    def __pow__(self, k: float) -> Microgpt:
        return Microgpt(self.data**k, (self,), (k * self.data ** (k - 1),))

    def exp(self) -> Microgpt:
        e = math.exp(self.data)
        return Microgpt(e, (self,), (e,))

    def log(self) -> Microgpt: return Microgpt(math.log(self.data), (self,), (1 / self.data,))
    def relu(self) -> Microgpt: return Microgpt(max(0, self.data), (self,), (float(self.data > 0),))
    def __neg__(self) -> Microgpt: return self * -1
    def __radd__(self, other: Any) -> Microgpt: return self + other
    def __sub__(self, other: Any) -> Microgpt: return self + (-other)
    def __rsub__(self, other: Any) -> Microgpt: return other + (-self)
    def __rmul__(self, other: Any) -> Microgpt: return self * other
    def __truediv__(self, other: Any) -> Microgpt: return self * other**-1
    def __rtruediv__(self, other: Any) -> Microgpt: return other * self**-1

    def backward(self) -> None:
        order: list[Microgpt] = []
        seen = set()

        def visit(v: Microgpt) -> None:
            if v not in seen:
                seen.add(v)
                for child in v.children:
                    visit(child)
                order.append(v)

        visit(self)
        self.grad = 1
        for v in reversed(order):
            for child, local in zip(v.children, v.local):
                child.grad += local * v.grad


def micrograd() -> Any:
    """micrograd's own class with the two functions that it lacks."""
    from micrograd.engine import Value

    def unary(self: Any, number: float, slope: float, name: str) -> Any:
        out = Value(number, (self,), name)

        def _backward() -> None:
            self.grad += slope * out.grad

        out._backward = _backward
        return out

    Value.exp = lambda self: unary(self, math.exp(self.data), math.exp(self.data), "exp")
    Value.log = lambda self: unary(self, math.log(self.data), 1 / self.data, "log")
    return Value


def jitgrad() -> Any:
    from jitgrad import Value
    return Value


CLASSES = {"jitgrad": jitgrad, "microgpt": lambda: Microgpt, "micrograd": micrograd}


def main(steps: int = 40, rounds: int = 3) -> None:
    found: dict[str, list[tuple[float, float, str]]] = {name: [] for name in CLASSES}
    for _ in range(rounds):
        for name, results in found.items():
            done = subprocess.run([sys.executable, "-m", "benchmarks.scalar_gpt", "--class", name, str(steps)],
                                  capture_output=True, text=True, check=True)
            total, median, losses = done.stdout.split()
            results.append((float(total), float(median), losses))
    losses = {r[2] for results in found.values() for r in results}
    print(f"{steps} steps, {rounds} rounds; the printed losses are {'the same' if len(losses) == 1 else 'DIFFERENT'}")
    for name, results in found.items():
        total, median = (min(r[k] for r in results) for k in (0, 1))
        peer, middle = (min(r[k] for r in found["jitgrad"]) for k in (0, 1))
        print(f"{name:10} all steps {total:7.2f} s ({total / peer:5.1f}x)   median step {median * 1e3:7.1f} ms "
              f"({median / middle:5.1f}x)")


if __name__ == "__main__":
    if sys.argv[1:2] == ["--class"]:
        import threading
        threading.stack_size(512 << 20)
        sys.setrecursionlimit(1_000_000)               # the peers recurse

        def one() -> None:
            losses, times = run(CLASSES[sys.argv[2]](), int(sys.argv[3]))
            print(sum(times), statistics.median(times), ",".join(losses))

        thread = threading.Thread(target=one)
        thread.start()
        thread.join()
    else:
        main(*map(int, sys.argv[1:]))
