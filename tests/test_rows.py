"""Rolling over examples: loops unrolled by hand give back their values to the last bit, their gradients, and their axes."""

from __future__ import annotations

import gc
import itertools
import random
import sys
import threading
import tracemalloc
from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from typing import Any

import hypothesis.strategies as st
import numpy as np
import pytest
from hypothesis import given, settings
from referees import assert_same_bits
from test_roll import node_by_node, random_graph

import jitgrad as jg
from jitgrad import Value
from jitgrad.compiler import schedule
from jitgrad.compiler.flat import Flat
from jitgrad.compiler.grad import differentiate
from jitgrad.compiler.roll import roll
from jitgrad.compiler.rows import RowTables, tabulate_rows
from jitgrad.recorded import ValueProgram
from jitgrad.soundness import examine

# Operations that IEEE 754 fixes to the last bit, so that eager Python and the kernels have to agree.
MAPS: dict[str, Callable[[Any], Any]] = {
    "relu": lambda v: v.relu(), "abs": abs, "square": lambda v: v * v, "minus": lambda v: -v, "half": lambda v: v * 0.5,
    "clip": lambda v: jg.maximum(v, 0.25), "where": lambda v: jg.where(v < 0.5, v, v * v)}


@dataclass(frozen=True)
class Loop:
    """A loss as Python's loops write it."""

    examples: int
    width: int                 # features of an example
    hidden: tuple[int, ...]
    bias: str                  # "first", "last" or "none": where a neuron adds it
    maps: tuple[str, ...]
    ragged: int                # how many lengths there are
    table: int                 # rows of a table of which each example reads one; 0 for none
    nested: int                # examples a batch, added up on its own; 0 for no batches
    style: str                 # how summands are added: "sum", "+=", "from the first"
    mean: bool
    regulariser: bool
    second: bool               # another loss of the same examples, added
    seed: int = 0

    def build(self, examples: int | None = None) -> tuple[Value, list[Value]]:
        """The root, and all leaves."""
        n = self.examples if examples is None else examples
        draw = random.Random(self.seed)
        leaves: list[Value] = []

        def leaf() -> Value:
            leaves.append(Value(draw.uniform(-1.0, 1.0)))
            return leaves[-1]

        sizes = [self.width, *self.hidden]
        layers = [[([leaf() for _ in range(i)], leaf()) for _ in range(o)] for i, o in itertools.pairwise(sizes)]
        last = [leaf() for _ in range(sizes[-1])]
        table = [[leaf() for _ in range(self.width)] for _ in range(self.table)]

        def neuron(weights: list[Value], bias: Value, x: list[Any]) -> Any:
            products = [w * xi for w, xi in zip(weights, x, strict=False)]
            return (sum(products, bias) if self.bias == "first" else sum(products) + bias if self.bias == "last" else
                    sum(products))

        def added(terms: list[Any]) -> Any:
            if self.style == "sum":
                return sum(terms)
            total = 0 if self.style == "+=" else terms[0]
            for t in terms if self.style == "+=" else terms[1:]:
                total = total + t
            return total

        losses, others = [], []
        for k in range(n):
            x: list[Any] = [leaf() for _ in range(max(1, self.width - k % self.ragged))]
            if table:
                x = [a + b for a, b in zip(x, table[(k * 7 + k // 3) % self.table], strict=False)]
            label = leaf()
            for number, layer in enumerate(layers):
                act = MAPS[self.maps[number % len(self.maps)]]
                x = [act(neuron(w, b, x)) for w, b in layer]
            score = sum(w * xi for w, xi in zip(last, x, strict=False))
            losses.append(MAPS[self.maps[-1]](score * draw.uniform(0.5, 2.0) + label))
            others.append((score - label) * (score - label))
        if self.nested:
            root = added([added(losses[k:k + self.nested]) * 0.25 for k in range(0, n, self.nested)])
        else:
            root = added(losses)
        root = root * (1.0 / n) if self.mean else root
        if self.second:
            root = root + added(others)
        if self.regulariser:
            root = root + 1e-2 * sum(p * p for w, b in (one for layer in layers for one in layer) for p in [*w, b])
        return root * 1.0, leaves


loops = st.builds(
    Loop, examples=st.integers(1, 40), width=st.integers(1, 9), hidden=st.lists(st.integers(1, 10), max_size=2).map(tuple),
    bias=st.sampled_from(["first", "last", "none"]),
    maps=st.lists(st.sampled_from(sorted(MAPS)), min_size=1, max_size=3).map(tuple),
    ragged=st.integers(1, 3), table=st.integers(0, 5), nested=st.sampled_from([0, 0, 3, 9]),
    style=st.sampled_from(["sum", "+=", "from the first"]), mean=st.booleans(), regulariser=st.booleans(),
    second=st.booleans(), seed=st.integers(0, 10**6))


def eager_gradient(root: Value, leaves: list[Value]) -> list[float]:
    for leaf in leaves:
        leaf.grad = 0
    root.backward()
    return [leaf.grad for leaf in leaves]


def agrees(root: Value, leaves: list[Value]) -> ValueProgram:
    """Compile; the value is the eager one to the last bit, and so are the gradients up to rounding."""
    value, expected = root.data, np.array(eager_gradient(root, leaves))
    program = jg.compile(root, device="cpu")
    for leaf in leaves:
        leaf.grad = 0
    assert_same_bits(program.backward(), value)
    assert_same_bits(program.forward(), value)
    found = np.array([leaf.grad for leaf in leaves])
    assert np.abs(found - expected).max() <= 1e-12 * max(1.0, np.abs(expected).max())
    return program


def tables_of(program: ValueProgram) -> RowTables:
    tables: RowTables = program._backward.tables
    return tables


def instructions(program: ValueProgram) -> tuple[int, int]:
    return (len(program._forward.program.rolled[0].instructions), len(program._backward.program.rolled[0].instructions))


@given(loops)
@settings(max_examples=120)
def test_random_loops_give_back_what_they_compute(loop: Loop) -> None:
    agrees(*loop.build())


@given(loops)
@settings(max_examples=25)
def test_instructions_do_not_grow_with_the_examples(loop: Loop) -> None:
    period = 6 * max(loop.nested, 1)               # of raggedness and batches
    few, many = (instructions(jg.compile(loop.build(n)[0], device="cpu")) for n in (2 * period, 5 * period))
    assert many[0] <= few[0]
    assert many[1] <= few[1]


def tangled(seed: int) -> tuple[Value, list[Value]]:
    """Members of one random template over leaves of their own, shared ones, and the last member's rows; some deviate."""
    draw = random.Random(seed)
    count, deviation = draw.choice([3, 9, 17, 40]), draw.choice([0.0, 0.0, 0.1])
    shared: list[Any] = [Value(draw.uniform(-1, 1)) for _ in range(draw.randint(1, 6))]
    leaves = list(shared)
    shared += [MAPS[draw.choice(sorted(MAPS))](draw.choice(shared) * draw.choice(shared)) for _ in range(draw.randint(0, 4))]
    template = [draw.randrange(10**9) for _ in range(draw.randint(1, 5))]
    own_leaves, kept = draw.randint(0, 3), [draw.choice(shared)]
    terms = []
    for _ in range(count):
        own = [Value(draw.uniform(-1, 1)) for _ in range(own_leaves)]
        leaves += own
        pool = [*shared, *own, kept[-1]]
        for code in template:
            pick = random.Random(code if draw.random() >= deviation else draw.randrange(10**9))
            factor = [pick.randrange(len(pool)) for _ in range(16)]
            if pick.random() < 0.6:
                elements = [pool[factor[2 * e]] * pool[factor[2 * e + 1]] if pick.random() < 0.7 else pool[factor[2 * e]]
                            for e in range(pick.randint(2, 8))]
                made = sum(elements[1:], elements[0])
            else:
                made = MAPS[pick.choice(sorted(MAPS))](pool[factor[0]])
            pool.append(made * 0.25 if pick.random() < 0.3 else made)
        # What is carried over is bounded, so that no number grows without end.
        kept.append(jg.maximum(jg.minimum(pool[-1], 0.5), -0.5) if draw.random() < 0.2 else kept[-1])
        terms.append(pool[-1])
    return sum(terms) * 1.0, leaves  # type: ignore[return-value]


@given(st.integers(0, 10**6))
@settings(max_examples=150)
def test_tangles_give_back_what_they_compute(seed: int) -> None:
    agrees(*tangled(seed))


@pytest.mark.parametrize("dtype", [np.float32, np.float64])
@pytest.mark.parametrize("seed", range(8))
def test_any_graph_without_a_batch_runs_to_the_bit(seed: int, dtype: Any) -> None:
    graph, _ = random_graph(seed + 200, 350, adds=0.5 if seed % 2 else 0.1)
    inputs = np.random.default_rng(seed).normal(size=(4, 1)).astype(dtype).astype(np.float64)
    inputs[seed % 4] = (1.0, np.inf, np.nan, -0.0)[seed // 2]
    picked = [n for n in random.Random(seed).sample(graph.nodes, 60) if n.args]

    def again(*xs: Any) -> Any:
        env: dict[Any, Any] = {}
        for n in graph.nodes:
            env[n] = (xs[n.payload] if n.op.name == "input" else n.payload if n.op.name == "constant"
                      else jg.value.apply(n.op, *(env[a] for a in n.args)))
        return [env[n] for n in picked]

    run = [jg.jit(again, in_axes=(None,) * 4, reduce="sum", device=device) for device in ("cpu", "interpret")]
    cpu, interpret = (np.array(f(*inputs[:, 0].astype(dtype))) for f in run)
    assert_same_bits(cpu + 0.0, interpret)                  # NumPy adds each to 0.0, which loses the sign of -0.0
    if dtype == np.float64:
        expected = node_by_node(graph.nodes, np.repeat(inputs, 3, axis=1))
        assert_same_bits(cpu, [expected[n][0] for n in picked])


# Axes.


def axis_lengths(program: ValueProgram) -> list[int]:
    axes = tables_of(program).axes
    member = np.unique(axes.member[axes.member > 0])
    return sorted((n for n in np.bincount(axes.group[member]).tolist() if n), reverse=True)


def example(k: int, weights: list[Value]) -> tuple[Any, list[Value]]:
    draw = random.Random(k)
    x, y = [Value(draw.uniform(-1, 1)) for _ in weights], Value(draw.uniform(-1, 1))
    return (sum(w * xi for w, xi in zip(weights, x, strict=True)).relu() - y) * 0.5, [*x, y]


def a_sum(change: Callable[[int, Any, list[Value], list[Value]], Any], count: int = 20) -> tuple[Value, list[Value]]:
    """A sum of alike summands, of which `change` may make another."""
    weights = [Value(0.1 * (k + 1)) for k in range(3)]
    total, leaves = 0, list(weights)
    for k in range(count):
        term, own = example(k, weights)
        total = total + change(k, term, own, weights)
        leaves += own
    return total * 1.0, leaves  # type: ignore[return-value]


def test_alike_summands_are_one_axis() -> None:
    program = agrees(*a_sum(lambda k, term, own, weights: term))
    assert axis_lengths(program) == [20]
    assert tables_of(program).dense[1, 4, 20] == 1             # 0 + w0 x0 + w1 x1 + w2 x2, for 20 examples at once
    assert "batch axis: 20 alike summands, each with 4 leaves and 2 constants of its own" in program.summary()
    assert "shared: 3 leaves" in program.summary()


NEAR_MISSES: dict[str, tuple[Callable[[int, Any, list[Value], list[Value]], Any], list[int]]] = {
    "another operation": (lambda k, t, own, w: abs(t) if k == 7 else -t, [19]),
    "one operation more": (lambda k, t, own, w: t * own[0] if k == 7 else t, [19]),
    "another order of operands": (lambda k, t, own, w: jg.where(own[0] < own[1], t, own[2]) if k != 7 else
                                  jg.where(own[0] < own[1], own[2], t), [19]),
    "another exponent": (lambda k, t, own, w: t ** (3 if k == 7 else 2), [19]),
    "another constant is data": (lambda k, t, own, w: t * (5.0 if k == 7 else 3.0), [20]),
    "a leaf of its own where others share": (lambda k, t, own, w: t * (own[0] if k == 7 else w[0]), [20]),
    "two kinds": (lambda k, t, own, w: t.relu() if k % 2 else t * t, [10, 10]),
    "too few alike": (lambda k, t, own, w: sum([t] * (k % 10 + 1)), []),
}


@pytest.mark.parametrize("name", NEAR_MISSES)
def test_what_differs_is_not_merged(name: str) -> None:
    change, lengths = NEAR_MISSES[name]
    assert axis_lengths(agrees(*a_sum(change))) == lengths


def test_only_the_number_of_an_operator_differs_and_the_kernel_is_the_same() -> None:
    one, other = (jg.compile(a_sum(lambda k, t, own, w, c=c: t * c)[0]).lower().as_text("tape") for c in (2.0, 3.0))
    assert one == other


@pytest.mark.parametrize("summed", [False, True])
@pytest.mark.parametrize("plain", [0, 10, 30])
def test_products_of_shared_leaves_are_no_run(plain: int, summed: bool) -> None:
    """Sums of one length, the first of which have a plain leaf where the others have a product that is always the same."""
    p, q, r = Value(0.7), Value(-1.3), Value(2.1)
    own = [[Value(0.01 * k + e) for e in range(2)] for k in range(30)]
    a, b = p * 3.0, abs(q)                                  # computed, so that they lie behind the machine's number 1
    sums = [sum([x, y * b], r if k < plain else a * b) for k, (x, y) in enumerate(own)]
    if summed:
        root = sum((one * one).relu() for one in sums) * 1.0
    else:
        root = sums[0]
        for one in sums[1:]:
            root = root * (one * 0.1 + 1.0)
    agrees(root, [p, q, r, *(v for pair in own for v in pair)])


def test_products_of_a_lone_layer_are_no_axis() -> None:
    """Else each weight would be a column of its own, where a dense layer wants the weights of an input side by side."""
    draw = random.Random(3)
    x = [Value(draw.uniform(-1, 1)) for _ in range(12)]
    rows = [[Value(draw.uniform(-1, 1)) for _ in x] for _ in range(24)]
    hidden = [sum(w * xi for w, xi in zip(row, x, strict=True)).relu() for row in rows]
    product: Any = 1.0
    for h in hidden:
        product = product * (h + 1.0)
    program = agrees(product, [*x, *(w for row in rows for w in row)])
    assert axis_lengths(program) == []
    assert tables_of(program).dense[1, 13, 24] == 1


def test_batches_of_batches_and_several_roots() -> None:
    weights = [Value(0.3), Value(-0.7)]
    batches = [sum(example(10 * b + k, weights)[0] for k in range(9)) * (1 / 9) for b in range(3)]
    root = sum(batches) * (1 / 3)
    value = root.data
    program = jg.compile([root, *batches], device="cpu")
    assert axis_lengths(program) == [9, 9, 9]
    found = program.forward()
    assert_same_bits(found, [value, *(b.data for b in batches)])


def test_a_dense_network_runs_over_runs() -> None:
    loop = Loop(40, 6, (8, 8), "first", ("relu",), 1, 0, 0, "sum", True, True, False)
    program = agrees(*loop.build())
    tables = tables_of(program)
    assert axis_lengths(program) == [40]
    assert {(8, 7, 40), (8, 9, 40)} <= set(tables.dense)
    assert tables.work["runs"] > 20 * (tables.work["gathered"] + tables.work["one by one"])


# Cost.


def calls_of(work: Callable[[], Any]) -> tuple[Any, int]:
    """What `work` answers, and how many functions are called meanwhile, of Python and of C."""
    count = 0

    def note(frame: Any, event: str, argument: Any) -> None:
        nonlocal count
        count += event in ("call", "c_call")
    before, collects = sys.getprofile(), gc.isenabled()
    gc.disable()                                                # other tests' garbage may call a great deal as it goes
    sys.setprofile(note)
    try:
        answer = work()
    finally:
        sys.setprofile(before)
        if collects:
            gc.enable()
    return answer, count


def walk(root: Value) -> Flat:
    made = examine([root]).walk()
    return made.flat(np.arange(len(made.leaves)))


def roll_up(flat: Flat) -> None:
    tape, rows = roll(flat, lambda slots: np.ones(len(slots), bool))
    gradient = differentiate(tape, int(rows[1]), np.arange(len(tape.inputs), dtype=np.int32))
    tabulate_rows(tape, np.concatenate((rows, gradient)), schedule.VECTOR_BYTES // 8)


def test_the_cost_is_linear_and_the_memory_bounded() -> None:
    """Counted, not timed: a walk calls a function a leaf; rolling calls the same number however many Values there are."""
    walked, rolled, memory, sizes = [], [], [], []
    for examples in (32, 128):
        root, _ = Loop(examples, 4, (8,), "first", ("relu",), 1, 0, 0, "sum", True, True, False).build()
        roll_up(walk(root))                                 # rules are traced once, whoever asks first
        flat, calls = calls_of(partial(walk, root))
        walked.append(calls)
        rolled.append(calls_of(partial(roll_up, flat))[1])
        tracemalloc.start()
        roll_up(walk(root))
        memory.append(tracemalloc.get_traced_memory()[1])
        tracemalloc.stop()
        sizes.append(len(flat.code))
    assert walked[1] / sizes[1] <= 1.1 * walked[0] / sizes[0] < 0.25
    assert rolled[1] < 1.1 * rolled[0]
    assert memory[1] / sizes[1] < 1_000


def test_threads_share_a_program() -> None:
    loop = Loop(20, 3, (4,), "first", ("relu",), 1, 0, 0, "sum", True, False, False)
    program = jg.compile(loop.build()[0], device="cpu")
    numbers = np.array([leaf.data for leaf in program.leaves])
    expected = [program.run(numbers * k) for k in range(1, 5)]
    wrong: list[int] = []

    def work(k: int) -> None:
        for _ in range(200):
            value, gradient = program.run(numbers * (k + 1))
            if value != expected[k][0] or (gradient != expected[k][1]).any():
                wrong.append(k)
    threads = [threading.Thread(target=work, args=(k,)) for k in range(4)]
    for t in threads:
        t.start()
    for t in threads:
        t.join()
    assert not wrong


def test_one_roll_for_traced_functions_and_for_values() -> None:
    """The same expression, traced and recorded, is the same instructions."""
    def loss(w: Any, x: Any) -> Any:
        return sum((w[0] * x[k, 0] + w[1] * x[k, 1]).relu() for k in range(10))

    w, x = np.ones(2), np.arange(20.0).reshape(10, 2)
    traced = jg.jit(loss, in_axes=(None, None), reduce="sum", device="cpu").lower(w, x).program
    values = [Value(v) for v in w], np.array([[Value(v) for v in row] for row in x])
    recorded = jg.compile(loss(*values))._forward.program
    kinds = [[(i.op.name, i.hi - i.lo) for i in p.rolled[0].instructions] for p in (traced, recorded)]
    assert kinds[0] == kinds[1]
