"""Rolling: the tape computes what the graph says, bit for bit, in few instructions, however deep or irregular it is."""

from __future__ import annotations

import itertools
import random
import time
from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
from referees import BACKENDS, FLOAT64, OURS, assert_close, assert_same_bits, forced

import jitgrad as jg
from jitgrad.compiler.flat import flatten
from jitgrad.compiler.graph import Graph, Node
from jitgrad.compiler.ops import OPS
from jitgrad.compiler.roll import roll
from jitgrad.compiler.simplify import rewrite
from jitgrad.compiler.tape import Tape

# Operations whose result IEEE 754 fixes to the last bit, spelled again without the table.
EXACT: dict[str, Callable[..., Any]] = {
    "add": lambda x, y: x + y, "sub": lambda x, y: x - y, "mul": lambda x, y: x * y, "div": lambda x, y: x / y,
    "neg": lambda x: -x, "sqrt": np.sqrt, "abs": np.abs, "relu": lambda x: np.where(x < 0, 0.0, x),
    "maximum": lambda x, y: np.where(x > y, x, np.where(x <= y, y, x + y)),
    "where": lambda c, x, y: np.where(c != 0, x, y), "lt": lambda x, y: (x < y) * 1.0}
EXAMPLES = 3


def random_graph(seed: int, size: int, adds: float) -> tuple[Graph, list[Node]]:
    """Nodes of EXACT operations over 4 inputs and constants; a share `adds` of them continues a chain of sums."""
    draw = random.Random(seed)
    graph = Graph(rewrite)
    nodes = [graph.input(k) for k in range(4)] + [graph.constant(c) for c in (0.5, -0.0, 3.0)]
    while len(graph.nodes) < size:
        if draw.random() < adds:
            made = graph.add(OPS["add"], nodes[-1], draw.choice(nodes))
        else:
            op = OPS[draw.choice(list(EXACT))]
            made = graph.add(op, *(draw.choice(nodes[-60:]) for _ in range(op.arity)))
        nodes.append(made)
    return graph, nodes


def node_by_node(nodes: list[Node], inputs: Any) -> dict[Node, Any]:
    """Every node's number for each example, in creation order."""
    values: dict[Node, Any] = {}
    with np.errstate(all="ignore"):
        for n in nodes:
            if n.op.name == "input":
                values[n] = inputs[n.payload]
            elif n.op.name == "constant":
                values[n] = np.full(EXAMPLES, float(n.payload))
            else:
                values[n] = EXACT[n.op.name](*(values[a] for a in n.args))
    return values


def replay(tape: Tape, inputs: Any) -> Any:
    """The tape by the definition of an instruction, one row at a time."""
    v = np.full((tape.size, EXAMPLES), 12345.0)
    for row, slot in enumerate(tape.inputs):
        v[row] = inputs[slot]
    for row, value in tape.constants.items():
        v[row] = value
    written = set(range(len(tape.inputs))) | set(tape.constants)
    with np.errstate(all="ignore"):
        for i in tape.instructions:
            reads = {int(r) for rows in i.operands() for r in rows}
            assert reads <= written, f"{i.op} reads rows that are not there yet"
            for lane, row in enumerate(range(i.lo, i.hi)):
                if i.segments is None:
                    v[row] = EXACT[i.op.name](*(v[a[lane]] for a in i.args))
                else:
                    assert i.op.name == "sum"
                    first, *rest = i.segments.elements[i.segments.start[lane]:i.segments.start[lane + 1]]
                    total = v[first].copy()
                    for e in rest:
                        total = total + v[e]
                    v[row] = total
            written |= set(range(i.lo, i.hi))
    return v


@pytest.mark.parametrize("seed", range(12))
def test_the_tape_computes_what_the_graph_says(seed: int) -> None:
    graph, _ = random_graph(seed, 400, adds=0.6 if seed % 2 else 0.1)
    inputs = np.random.default_rng(seed).normal(size=(4, EXAMPLES)) * np.array([1.0, 1e8, 1e-8, 1.0])[:, None]
    inputs[seed % 4, 1] = (np.inf, np.nan, -0.0, 0.0)[seed % 4]
    outputs = random.Random(seed).sample(graph.nodes, 40) + graph.nodes[-1:]
    shared = {0, 3}
    tape, rows = roll(flatten(outputs), lambda slots: np.isin(slots, list(shared)))
    expected = node_by_node(graph.nodes, inputs)
    found = replay(tape, inputs)
    for node, row in zip(outputs, rows, strict=True):
        assert_same_bits(found[row], expected[node])


@pytest.mark.parametrize("backend", OURS)
@pytest.mark.parametrize("seed", range(3))
def test_backends_replay_the_tape_to_the_bit(seed: int, backend: str) -> None:
    graph, _ = random_graph(seed + 100, 300, adds=0.4)
    inputs = np.random.default_rng(seed).normal(size=(4, EXAMPLES))
    expected = node_by_node(graph.nodes, inputs)
    picked = [n for n in random.Random(seed).sample(graph.nodes, 30) if n.args]

    def again(*xs: Any) -> Any:
        env: dict[Node, Any] = {}
        for n in graph.nodes:
            env[n] = (xs[n.payload] if n.op.name == "input" else n.payload if n.op.name == "constant"
                      else jg.value.apply(n.op, *(env[a] for a in n.args)))
        return [env[n] for n in picked]

    with forced(backend) as device:
        found = jg.jit(again, in_axes=0, reduce=None, device=device)(*inputs)
    for node, values in zip(picked, found, strict=True):
        assert_same_bits(values, expected[node])


# Sums.


ADVERSARIAL = [1e16, 1.0, -1e16, 1.0, 3.0, 1e300, -1e300, 2.0**53, 1.0, 1.0, -(2.0**53), 1e-30, 0.1, 0.2, -0.3]


def folded(terms: Any) -> Any:
    total = terms[0]
    for t in terms[1:]:
        total = total + t
    return total


@pytest.mark.parametrize("backend", OURS)
def test_sums_keep_their_order(backend: str) -> None:
    """Any re-association of these terms gives other bits."""
    forms: dict[str, Callable[[Any], Any]] = {
        "builtin": lambda x: sum(x), "fold": folded, "numpy": lambda x: np.sum(x),
        "from the right": lambda x: folded_right(list(x)), "pairs": lambda x: (x[0] + x[1]) + (x[2] + x[3]),
        "half of a chain used twice": lambda x: folded(x) * folded(x[:6]),
        "same term twice": lambda x: folded([*x, *x]), "minus": lambda x: x[0] - x[1] - x[2] + x[3] - x[4]}

    def folded_right(x: Any) -> Any:
        return x[0] if len(x) == 1 else x[0] + folded_right(x[1:])

    data = np.array([ADVERSARIAL, ADVERSARIAL[::-1], ADVERSARIAL])
    assert folded(ADVERSARIAL) != folded(ADVERSARIAL[::-1])
    with forced(backend) as device:
        found = jg.jit(lambda x: {name: f(x) for name, f in forms.items()}, in_axes=0, reduce=None, device=device)(data)
    for name, f in forms.items():
        expected = [f(row.tolist()) if name != "numpy" else folded(row.tolist()) for row in data]
        assert_same_bits(found[name], expected)


# How much a program is.


def moons_loss(params: Any, x: Any, y: Any) -> Any:
    """A 2-16-16-1 hinge MLP as micrograd's loops write it."""
    for layer, (w, b) in enumerate(zip(params["w"], params["b"], strict=True)):
        out = []
        for row, bias in zip(w, b, strict=True):
            act = bias
            for wi, xi in zip(row, x, strict=True):
                act = act + wi * xi
            out.append(act.relu() if layer < 2 else act)
        x = out
    return (1 + -y * x[0]).relu()


def moons_loss_by_matrices(params: Any, x: Any, y: Any) -> Any:
    for layer, (w, b) in enumerate(zip(params["w"], params["b"], strict=True)):
        x = w @ x + b
        x = jg.relu(x) if layer < 2 else x
    return jg.relu(1 - y * x[0])


def moons_data() -> tuple[Any, Any, Any]:
    draw = np.random.default_rng(0)
    sizes = [2, 16, 16, 1]
    params = {"w": [draw.normal(size=(o, i)) for i, o in itertools.pairwise(sizes)],
              "b": [draw.normal(size=o) for o in sizes[1:]]}
    return params, draw.normal(size=(7, 2)), draw.choice([-1.0, 1.0], 7)


def test_an_mlp_of_loops_rolls_into_few_instructions() -> None:
    args = moons_data()
    loops, matrices = (jg.value_and_grad(f, device="interpret") for f in (moons_loss, moons_loss_by_matrices))
    counts = {}
    for name, step in {"loops": loops, "matrices": matrices}.items():
        lowered = step.lower(*args)
        counts[name] = lowered.cost_analysis()["instructions"]
        assert len(lowered.program.graph.nodes) > 600
    assert counts["loops"] == counts["matrices"] <= 30, counts
    found, expected = loops(*args), matrices(*args)
    assert_close(found[0], expected[0], FLOAT64)


def test_instructions_do_not_grow_with_the_number_of_examples_in_a_graph() -> None:
    """micrograd's whole-data-set loss: 100 copies of one expression are the instructions of one."""
    def whole(n: int) -> int:
        def loss(w: Any, data: Any) -> Any:
            return sum((1 + -data[k, 2] * jg.tanh(w[0] * data[k, 0] + w[1] * data[k, 1])).relu() for k in range(n)) / n

        step = jg.value_and_grad(loss, in_axes=(None, None), device="interpret")
        count: int = step.lower(np.ones(2), np.ones((n, 3))).cost_analysis()["instructions"]
        return count

    assert whole(200) == whole(3)


# Size and depth.


@pytest.mark.parametrize("backend", ["cpu", "interpret"])
def test_a_chain_of_50000_additions(backend: str) -> None:
    started = time.process_time()

    def chain(w: Any, x: Any) -> Any:
        total = w
        for _ in range(25_000):
            total = total + x
            total = total + w
        return total

    value, grad = jg.value_and_grad(chain, device=backend)(2.0, np.array([1.0, 3.0]))
    assert value == 2.0 * 25_001 + 2.0 * 25_000
    assert grad == 25_001
    assert time.process_time() - started < 20


@pytest.mark.parametrize("backend", ["cpu", "interpret"])
def test_a_deep_chain_that_does_not_dissolve(backend: str) -> None:
    def chain(w: Any, x: Any) -> Any:
        total = x
        for _ in range(2_000):
            total = jg.sin(total) * w
        return total

    value, grad = jg.value_and_grad(chain, device=backend)(1.001, np.array([0.5, 0.7]))

    def by_hand(x: float) -> tuple[float, float]:
        slope = 0.0
        for _ in range(2_000):
            x, slope = np.sin(x) * 1.001, np.sin(x) + 1.001 * np.cos(x) * slope
        return x, slope

    expected = np.mean([by_hand(0.5), by_hand(0.7)], axis=0)
    assert_close(value, expected[0], FLOAT64)
    assert_close(grad, expected[1], 1e-8)


def irregular(operations: int, seed: int) -> Callable[[Any, Any], Any]:
    """A loss over w (8,) and x (8,) with no structure to find; every number stays within [-3, 3]."""
    def loss(w: Any, x: Any) -> Any:
        draw = random.Random(seed)
        nodes = [*w, *x]
        made = 0
        while made < operations:
            a, b = draw.choice(nodes), draw.choice(nodes[-200:])
            form = draw.randrange(6)
            nodes.append((jg.sin(a + b), jg.tanh(a * b), 0.5 * a - b * 0.25, jg.where(a < b, 0.5 * a, -b),
                          jg.maximum(a, b) / 1.5, a / (1.0 + b * b))[form])
            made += (2, 2, 3, 4, 2, 3)[form]
        return sum(nodes[-50:]) / 50

    return loss


DATA = np.random.default_rng(5).normal(size=8), np.random.default_rng(6).normal(size=(5, 8))


def test_a_large_irregular_graph_is_harmless() -> None:
    started = time.process_time()
    step = jg.value_and_grad(irregular(20_000, 1), device="cpu")
    value, grad = step(*DATA)
    assert time.process_time() - started < 30
    expected_value, expected_grad = jg.value_and_grad(irregular(20_000, 1), device="interpret")(*DATA)
    assert_close(value, expected_value, FLOAT64)
    assert_close(grad, expected_grad, FLOAT64)
    assert np.abs(grad).max() > 1e-6


def test_an_irregular_graph_against_jax() -> None:
    value, grad = jg.value_and_grad(irregular(400, 2), device="cpu")(*DATA)
    expected_value, expected_grad = jg.value_and_grad(irregular(400, 2), device="jax")(*DATA)
    assert_close(value, expected_value, FLOAT64)
    assert_close(grad, expected_grad, FLOAT64)


# Gradients of gathers.


@pytest.mark.parametrize("backend", BACKENDS)
def test_fan_out_and_unused_inputs(backend: str) -> None:
    def loss(params: Any, x: Any) -> Any:
        w = params["many"]
        total = params["once"] * x[0] + params["shift"]
        for k in range(1, 301):
            total = total + (w * x[0] if k % 3 else w * w) / k
        return total + 0.0 * jg.stop_gradient(params["stopped"] * x[1])

    params = {"many": 1.5, "once": 2.0, "shift": 1.0, "stopped": 4.0, "unused": 7.0, "array": np.ones((2, 3))}
    x = np.array([[2.0, 5.0], [-1.0, 6.0], [0.5, 7.0]])
    with forced(backend) as device:
        value, grads = jg.value_and_grad(loss, device=device)(params, x)
        per_example = jg.value_and_grad(loss, in_axes=0, reduce=None, device=device)(
            {k: np.broadcast_to(v, (3, *np.shape(v))).copy() for k, v in params.items()}, x)[1]
    terms, squares = sum(1 / k for k in range(1, 301) if k % 3), sum(1 / k for k in range(1, 301) if k % 3 == 0)
    many = terms * x[:, 0] + squares * 2 * 1.5
    assert_close(value, (2.0 * x[:, 0] + 1.0 + 1.5 * terms * x[:, 0] + 2.25 * squares).mean(), FLOAT64)
    assert_close(grads["many"], many.mean(), FLOAT64)
    assert_close(per_example["many"], many, FLOAT64)
    assert_close(grads["once"], x[:, 0].mean(), FLOAT64)
    assert_same_bits([grads["shift"], grads["stopped"], grads["unused"]], [1.0, 0.0, 0.0])
    assert_same_bits(grads["array"], np.zeros((2, 3)))
    assert_same_bits(per_example["unused"], np.zeros(3))
    assert per_example["array"].shape == (3, 2, 3)
