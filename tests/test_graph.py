"""The graph: nodes are interned by bits, and every rewrite computes the same number to the last bit."""

from __future__ import annotations

import itertools
import math
from collections.abc import Iterator
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from referees import assert_close, assert_same_bits

import jitgrad as jg
from jitgrad.compiler.graph import Graph, Node, bits, live
from jitgrad.compiler.ops import OPS
from jitgrad.compiler.simplify import REWRITES, Rewrite, rewrite

INF, NAN = math.inf, math.nan
TINY, HUGE = 5e-324, 1.7976931348623157e308
SPECIAL = (0.0, -0.0, 1.0, -1.0, 0.1, -3.7, 2.0**-126, TINY, -3e-310, HUGE, -1e200, 1e-45, 3e38, INF, -INF, NAN)
# Constants at which some rewrite applies, and its near misses.
CONSTANTS = (0.0, -0.0, 1.0, -1.0, 2.0, -2.0, 0.5, 4.0, 3.0, 0.1, 2.0**-119, 2.0**-130, 2.0**119, 2.0**125, 2.0**-1074,
             INF, -INF, NAN, 1, -1, 0, 2, True, False)

EVALUATORS: dict[str, Any] = {
    "add": np.add, "sub": np.subtract, "mul": np.multiply, "div": np.divide, "neg": np.negative, "pow": np.power,
    "lt": np.less, "le": np.less_equal, "eq": np.equal, "ne": np.not_equal, "where": np.where,
    "maximum": np.maximum, "minimum": np.minimum, "not": np.logical_not}


def evaluate(node: Node, inputs: list[Any], dtype: type) -> Any:
    """A node by NumPy at arrays of inputs, without any part of the compiler."""
    values: dict[Node, Any] = {}
    with np.errstate(all="ignore"):
        for n in live([node]):
            if n.op.name == "input":
                values[n] = inputs[n.payload]
            elif n.op.name == "constant":
                values[n] = np.full_like(inputs[0], n.payload, dtype=bool if n.kind == "bool" else dtype)
            else:
                args = [values[a] for a in n.args]
                if n.op.name == "where":
                    args[0] = args[0] != 0
                else:
                    args = [a.astype(dtype) if a.dtype == bool and n.op.name != "not" else a for a in args]
                values[n] = EVALUATORS[n.op.name](*args)
                if values[n].dtype != bool:
                    values[n] = values[n].astype(dtype)
    return values[node].astype(dtype)


def trees(graph: Graph, op: str) -> Iterator[tuple[Node, ...]]:
    """Operands for one operation: inputs, their negations, conditions, and constants (never constants alone)."""
    x, y = graph.input(0), graph.input(1)
    condition = graph.add(OPS["lt"], x, y)
    reals = [x, y, graph.add(OPS["neg"], x), graph.add(OPS["neg"], graph.add(OPS["neg"], y)), condition,
             *map(graph.constant, CONSTANTS)]
    firsts = [condition, x, graph.constant(True), graph.constant(False), graph.constant(NAN), graph.constant(-0.0)]
    arity = OPS[op].arity
    for operands in itertools.product(*[firsts if op == "where" and k == 0 else reals for k in range(arity)]):
        if not all(a.op.name == "constant" for a in operands) and (op != "pow" or operands[1].op.name == "constant"):
            yield operands


def copied(graph: Graph, node: Node) -> Node:
    """The same node of a graph with other rewrites."""
    if node.op.name == "input":
        return graph.input(node.payload)
    if node.op.name == "constant":
        return graph.constant(int(node.payload) if node.kind == "int" else node.payload)
    return graph.add(node.op, *(copied(graph, a) for a in node.args))


@pytest.fixture(scope="module")
def rewritten() -> dict[str, list[tuple[Node, Node]]]:
    """For each rewrite: all (unrewritten, rewritten) pairs of small expressions that it touched."""
    found: dict[str, list[tuple[Node, Node]]] = {}
    for op in REWRITES:
        plain = Graph()
        for operands in trees(plain, op):
            for candidate in REWRITES[op]:
                graph = Graph()                          # without rewrites below: one rewrite at a time
                result = candidate.rule(graph, *(copied(graph, a) for a in operands))
                if result is not None:
                    found.setdefault(f"{op}: {candidate.name}", []).append((plain.add(OPS[op], *operands), result))
                    break
    return found


@pytest.mark.parametrize("op", REWRITES)
def test_a_rewrite_is_tried_wherever_it_applies(op: str) -> None:
    """`operand`, which keeps a rule from being asked in vain, must not keep it from an expression it would rewrite."""
    plain, graph = Graph(), Graph(rewrite)
    for operands in trees(plain, op):
        applies = [r for r in REWRITES[op] if r.rule(Graph(), *(copied(Graph(), a) for a in operands)) is not None]
        for r in applies:
            assert r.operand is None or any(a.op.name == r.operand for a in operands), r.name
        args = tuple(copied(graph, a) for a in operands)
        assert (rewrite(graph, OPS[op], args) is not None) == any(
            r.rule(Graph(), *args) is not None for r in REWRITES[op]), args


ALL = [pytest.param(op, r, id=f"{op}: {r.name}") for op, rules in REWRITES.items() for r in rules]


@pytest.mark.parametrize("dtype", [np.float64, np.float32])
@pytest.mark.parametrize(("op", "candidate"), ALL)
def test_a_rewrite_is_exact(op: str, candidate: Rewrite, dtype: type, rewritten: Any) -> None:
    pairs = rewritten.get(f"{op}: {candidate.name}")
    assert pairs, "no expression of this test triggers the rewrite: extend `trees` or `CONSTANTS`"
    assert candidate.because
    random = np.random.default_rng(0).normal(size=(2, 200)) * 10.0 ** np.random.default_rng(1).integers(-30, 30, (2, 200))
    grid = np.array(list(itertools.product(SPECIAL, repeat=2))).T
    with np.errstate(all="ignore"):
        inputs = list(np.concatenate([grid, random], axis=1).astype(dtype))
    for plain, result in pairs:
        before, after = evaluate(plain, inputs, dtype), evaluate(result, inputs, dtype)
        text = f"{plain.op.name} {plain.args} became {result.op.name} {result.args}"
        if op == "pow":                                 # marked `accurate`: the library's pow may be an ulp off
            assert_close(after, before, 4 * np.finfo(dtype).eps, text)
            finite = np.isfinite(before)
            np.testing.assert_array_equal(np.signbit(after[finite]), np.signbit(before[finite]), text)
            with np.errstate(all="ignore"):
                ulps = np.abs(after[finite] - before[finite]) / np.spacing(np.abs(before[finite]))
            assert ulps.max() <= 1, text
            continue
        bad = ~(((before == after) & (np.signbit(before) == np.signbit(after))) | (np.isnan(before) & np.isnan(after)))
        assert not bad.any(), f"{text}: at {[i[bad][0] for i in inputs]} {before[bad][0]!r} became {after[bad][0]!r}"


# (our program, NumPy's where it is spelled otherwise)
NEAR_MISSES: dict[str, tuple[Any, ...]] = {
    "x * 0": (lambda x, y: x * 0.0,), "x * -0": (lambda x, y: x * -0.0,), "x * nan": (lambda x, y: x * NAN,),
    "x + 0.0": (lambda x, y: x + 0.0,), "0.0 + x": (lambda x, y: 0.0 + x,),
    "0.0 - x": (lambda x, y: 0.0 - x,), "-0.0 - x": (lambda x, y: -0.0 - x,), "x - -0.0": (lambda x, y: x - -0.0,),
    "x - x": (lambda x, y: x - x,), "-(x - y)": (lambda x, y: -(x - y),), "x + y - y": (lambda x, y: x + y - y,),
    "x / x": (lambda x, y: x / x,), "0 / x": (lambda x, y: 0.0 / x,), "x / 3": (lambda x, y: x / 3.0,),
    "x / 0": (lambda x, y: x / 0.0,), "x / inf": (lambda x, y: x / INF,), "x / tiny": (lambda x, y: x / TINY,),
    "x / 2**-130": (lambda x, y: x / 2.0**-130,), "x * y / y": (lambda x, y: x * y / y,),
    "x**0.5": (lambda x, y: x**0.5, lambda x, y: np.power(x, np.full_like(x, 0.5))),
    "x**3": (lambda x, y: x**3.0,), "x**-2": (lambda x, y: x**-2.0,), "1**x": (lambda x, y: 1.0**x,),
    "(x + 1) + 1": (lambda x, y: (x + 1.0) + 1.0,), "(x * 3) * 3": (lambda x, y: (x * 3.0) * 3.0,),
    "2*x + 2*y": (lambda x, y: 2.0 * x + 2.0 * y,), "x == x": (lambda x, y: x == x,),
    "maximum(x, y)": (lambda x, y: jg.maximum(x, y), np.maximum),
    "sqrt(x * x)": (lambda x, y: jg.sqrt(x * x), lambda x, y: np.sqrt(x * x)),
    "log(exp(x))": (lambda x, y: jg.log(jg.exp(x)), lambda x, y: np.log(np.exp(x))),
    "where(c, x, 0)": (lambda x, y: jg.where(x < y, x, 0.0), lambda x, y: np.where(x < y, x, 0.0)),
    "where(c, -0, 0)": (lambda x, y: jg.where(x < 0, -0.0, 0.0), lambda x, y: np.where(x < 0, -0.0, 0.0)),
}


@pytest.mark.parametrize("name", NEAR_MISSES)
def test_what_only_looks_exact_is_left_alone(name: str) -> None:
    """Recorded and run at special values, each is what IEEE arithmetic says."""
    ours, numpys = NEAR_MISSES[name][0], NEAR_MISSES[name][-1]
    x, y = np.array(list(itertools.product(SPECIAL, repeat=2))).T.copy()
    found = jg.jit(ours, in_axes=0, reduce=None, device="interpret")(x, y)
    with np.errstate(all="ignore"):
        expected = np.asarray(numpys(x, y), float)
    if name == "maximum(x, y)":                         # of the two zeros either may be the larger
        expected, found = expected + 0.0, found + 0.0
    assert_same_bits(found, expected)


# Interning.


def test_equal_nodes_are_one_node() -> None:
    graph = Graph(rewrite)
    x, y = graph.input(0), graph.input(1)
    assert graph.input(0) is x
    assert x is not y
    assert graph.add(OPS["add"], x, y) is graph.add(OPS["add"], x, y)
    assert graph.add(OPS["sub"], x, y) is not graph.add(OPS["sub"], y, x)
    assert graph.add(OPS["mul"], x, 3.0) is graph.add(OPS["mul"], x, graph.constant(3.0))
    assert [n.index for n in graph.nodes] == list(range(len(graph.nodes)))


def test_constants_are_told_apart_by_their_bits() -> None:
    graph = Graph(rewrite)
    assert graph.constant(0.0) is not graph.constant(-0.0)
    assert math.copysign(1.0, graph.constant(-0.0).payload) == -1.0
    assert graph.constant(NAN) is graph.constant(float("nan"))
    assert graph.constant(0.1 + 0.2) is not graph.constant(0.3)
    assert graph.constant(np.float64(0.1)) is graph.constant(0.1)
    assert graph.constant(True) is not graph.constant(1.0)
    assert (graph.constant(1).kind, graph.constant(1.0).kind, graph.constant(True).kind) == ("int", "real", "bool")
    x = graph.input(0)
    assert graph.add(OPS["pow"], x, NAN) is graph.add(OPS["pow"], x, NAN)
    assert graph.add(OPS["pow"], 0.0, x) is not graph.add(OPS["pow"], -0.0, x)


@given(st.floats(), st.floats())
def test_bits_are_an_identity(x: float, y: float) -> None:
    same = (x == y and math.copysign(1, x) == math.copysign(1, y)) or (x != x and y != y and bits(x) == bits(y))
    assert (bits(x) == bits(y)) == same


@given(st.sampled_from([op for op in OPS.values() if op.value is not None and not op.variadic]),
       st.lists(st.floats() | st.sampled_from(SPECIAL), min_size=3, max_size=3))
def test_constants_fold_by_the_reference_value(op: Any, numbers: list[float]) -> None:
    graph = Graph(rewrite)
    folded = graph.add(op, *map(graph.constant, numbers[:op.arity]))
    assert folded.op.name == "constant"
    expected = float(op.value(*numbers[:op.arity]))
    assert bits(float(folded.payload)) == bits(expected) or (expected != expected and folded.payload != folded.payload)


def test_only_what_outputs_need_is_live() -> None:
    graph = Graph(rewrite)
    x, y = graph.input(0), graph.input(1)
    wanted, unwanted = graph.add(OPS["exp"], x), graph.add(OPS["log"], y)
    assert live([wanted]) == [x, wanted]
    assert unwanted in live([unwanted])
    assert live([]) == []


def test_a_deep_graph_needs_no_recursion() -> None:
    graph = Graph(rewrite)
    node = graph.input(0)
    for _ in range(100_000):
        node = graph.add(OPS["sin"], node)
    assert len(live([node])) == 100_001
    assert graph.text([("value", node)]).count("\n") == 100_001


# Printing and places.


def test_the_printer() -> None:
    graph = Graph(rewrite)
    x = graph.input(0)
    total = graph.add(OPS["add"], graph.add(OPS["mul"], x, -0.0), 2.5)
    assert graph.text([("value", total)]) == "%0 = input 0\n%2 = mul %0, -0.0\n%4 = add %2, 2.5\nreturn value = %4"


def test_a_node_remembers_the_users_line() -> None:
    def loss(w: Any, x: Any) -> Any:
        inner = jg.tanh(w * x)  # first line
        return (
            inner
            - jg.exp(x)  # second line
        )

    text = jg.value_and_grad(loss, device="interpret").lower(2.0, np.ones(3)).as_text("graph")
    lines = text.splitlines()
    first = loss.__code__.co_firstlineno + 1
    assert any("mul" in line and f"test_graph.py:{first}:" in line and line.endswith("# first line") for line in lines)
    assert any("tanh" in line and f"test_graph.py:{first}:" in line for line in lines)
    assert any("exp" in line and f"test_graph.py:{first + 3}:" in line for line in lines)


def test_what_a_rewrite_makes_stands_on_the_line_it_rewrites() -> None:
    def loss(w: Any, x: Any) -> Any:
        return ((w + -x)**2  # a difference, squared
                + x**-1)  # a reciprocal

    text = jg.value_and_grad(loss, device="interpret").lower(2.0, np.ones(3)).as_text("graph")
    for op, line in ("sub", "a difference, squared"), ("mul", "a difference, squared"), ("div", "a reciprocal"):
        assert any(f" = {op} " in shown and shown.endswith(f"# {line}") for shown in text.splitlines()), text


def helper(w: Any, x: Any) -> Any:
    return w * x  # in a helper


def test_one_line_and_many_lines_of_one_function_are_told_apart() -> None:
    """Places are remembered by code object and instruction: here two on a line, a loop, and a function called twice."""
    def loss(w: Any, x: Any) -> Any:
        total = helper(w[0], x) - helper(w[1], x)  # calls
        for k in range(2, 5):
            total = total + w[k] * x  # the loop
        return total / w[5]  # the end

    text = jg.value_and_grad(loss, device="interpret").lower(np.ones(6), np.ones(3)).as_text("graph")
    found = [(line.split()[2], line.rpartition("# ")[2]) for line in text.splitlines() if "test_graph.py:" in line]
    assert found == [("mul", "in a helper"), ("mul", "in a helper"), ("sub", "calls"), *[
        ("mul", "the loop"), ("add", "the loop")] * 3, ("div", "the end")]


def test_a_line_inside_numpy_is_the_users_line() -> None:
    def loss(w: Any, x: Any) -> Any:
        return np.sum(w * x) + (w @ x)  # here

    text = jg.value_and_grad(loss, device="interpret").lower(np.ones(3), np.ones((2, 3))).as_text("graph")
    computed = [line for line in text.splitlines() if " = mul " in line or " = add " in line]
    assert computed
    assert all("test_graph.py:" in line and line.endswith("# here") for line in computed)
