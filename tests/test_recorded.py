"""jg.compile: a finished Value expression, rolled up and replayed, against the eager expression itself."""

from __future__ import annotations

import math
import random
import sys
from collections.abc import Callable
from typing import Any

import hypothesis.strategies as st
import numpy as np
import pytest
from hypothesis import given, settings

import jitgrad as jg
from jitgrad import Value, errors, ledger, nn, soundness

DEVICES = ["cpu", "interpret", "jax"]


def moons(count: int = 30, seed: int = 1) -> tuple[nn.MLP, Callable[[], Value]]:
    """micrograd's loss of a 2-8-8-1 network: unrolled, with a mean and a regulariser."""
    random.seed(seed)
    data = np.random.default_rng(seed)
    model = nn.MLP(2, [8, 8, 1])
    inputs, labels = data.normal(size=(count, 2)), np.sign(data.normal(size=count))

    def loss() -> Value:
        scores = [model(list(map(Value, row))) for row in inputs]
        terms = [(1 + -y * score).relu() for y, score in zip(labels, scores, strict=True)]
        return sum(terms) * (1.0 / count) + 1e-4 * sum(p * p for p in model.parameters())
    return model, loss


def eager_gradient(root: Value, leaves: list[Value]) -> list[float]:
    for leaf in leaves:
        leaf.grad = 0
    root.backward()
    return [leaf.grad for leaf in leaves]


@pytest.mark.parametrize("device", DEVICES)
def test_a_micrograd_loss_replays_to_the_last_bit(device: str) -> None:
    model, loss = moons(count=5 if device == "jax" else 30)
    root = loss()
    value, expected = root.data, eager_gradient(root, model.parameters())
    program = jg.compile(root, device=device)
    model.zero_grad()
    found = program.backward()
    assert found == pytest.approx(value, abs=1e-15) if device == "jax" else found == value
    assert [p.grad for p in model.parameters()] == pytest.approx(expected, abs=1e-12)


def test_leaves_are_read_at_each_call_and_gradients_do_not_add() -> None:
    model, loss = moons()
    program = jg.compile(loss())
    for _ in range(5):
        program.backward()
        for p in model.parameters():
            p.data -= 0.3 * p.grad
    fresh = loss()
    assert program.forward() == fresh.data
    expected = eager_gradient(fresh, model.parameters())
    program.backward()
    program.backward()
    assert [p.grad for p in model.parameters()] == pytest.approx(expected, abs=1e-12)


def test_it_rolls_into_a_few_instructions_whatever_the_number_of_examples() -> None:
    counts = []
    for count in (10, 40):
        program = jg.compile(moons(count)[1]())
        both = program._backward.program.rolled[0]
        counts.append((len(program._forward.program.rolled[0].instructions), len(both.instructions)))
    assert counts[0] == counts[1]
    assert counts[0][0] <= 16
    assert "rolled into 15 instructions" in program.summary()


def test_several_roots_share_one_program() -> None:
    a, b = Value(2.0), Value(-3.0)
    product, power = a * b, a**3
    program = jg.compile([product, power])
    a.data = 4.0
    assert program.forward() == [-12.0, 64.0]
    assert (product.data, power.data) == (-12.0, 64.0)
    program.backward()
    assert (a.grad, b.grad) == (-3.0 + 48.0, 4.0)


def test_wrt_and_run_touch_nothing_else() -> None:
    a, b = Value(2.0), Value(5.0)
    root = a * b + a
    program = jg.compile(root, wrt=[b])
    assert program.leaves == [a, b] or [id(v) for v in program.leaves] == [id(a), id(b)]
    value, gradient = program.run([10.0, 7.0])
    assert (value, gradient.tolist()) == (80.0, [10.0])
    assert (a.data, b.data, root.data) == (2.0, 5.0, 12.0)
    program.backward()
    assert (a.grad, b.grad) == (0, 2.0)


def test_numbers_of_the_users_own_are_data_and_share_one_structure() -> None:
    x = Value(0.5)
    one, other = (jg.compile((x * scale + shift).tanh()).lower() for scale, shift in ((2.0, 1.0), (3.0, 5.0)))
    assert one.as_text("tape") == other.as_text("tape")


@pytest.mark.parametrize("dtype", [np.float32, np.float64])
def test_the_dtype_is_what_is_computed_in(dtype: Any) -> None:
    x = Value(0.1)
    value, gradient = jg.compile(x * x * x, dtype=dtype).run([0.1])
    assert value == float(dtype(0.1) * dtype(0.1) * dtype(0.1))
    assert gradient.dtype == dtype


def test_a_deep_chain_and_a_wide_sum() -> None:
    x = Value(1.0)
    chain = x
    for k in range(3_000):
        chain = (chain * 0.999 + (0.01 if k % 2 else 0.02)).tanh() if k % 7 == 0 else chain * 1.0001
    wide = sum(Value(1.0 / (k + 1)) * x for k in range(20_000))
    for root in (chain, wide):
        value = root.data
        (expected,) = eager_gradient(root, [x])
        assert jg.compile(root).backward() == pytest.approx(value, rel=1e-14)
        assert x.grad == pytest.approx(expected, rel=1e-12)


def test_every_operation_of_eager_values_compiles() -> None:
    a, b = Value(0.7), Value(1.3)
    root = sum([jg.maximum(a, b), jg.minimum(a, 0.5), jg.where(a < b, a * b, a), jg.clip(b, 0.0, 1.0), a**b, 2**a, abs(-a),
                jg.softplus(a), jg.sigmoid(b), jg.erf(a), jg.sqrt(b), jg.sin(a), jg.cos(b), jg.exp(a), jg.log(b), a / b,
                jg.logsumexp([a, b, a * b]), jg.softmax([a, b])[0], jg.losses.huber(a, b), a - b, 3 - a, 1 / b,
                jg.losses.cross_entropy([a, b], 1), jg.losses.binary_cross_entropy(a, 1)])
    value, expected = root.data, eager_gradient(root, [a, b])
    for device in DEVICES:
        assert jg.compile(root, device=device).backward() == pytest.approx(value, rel=1e-13)
        assert [a.grad, b.grad] == pytest.approx(expected, rel=1e-12)


@pytest.mark.parametrize("numbers", [(0.0, math.inf), (math.nan, 1.0), (1e308, 1e308), (-0.0, 0.0)])
def test_special_numbers_flow_as_they_do_eagerly(numbers: tuple[float, float]) -> None:
    a, b = Value(0.5), Value(0.5)
    program = jg.compile(a * b + a.relu())
    a.data, b.data = numbers
    assert repr(program.backward()) == repr((a * b + a.relu()).data)


@given(st.integers(0, 10**6), st.integers(1, 6), st.integers(1, 5))
@settings(max_examples=40)
def test_random_loops_unrolled_by_hand(seed: int, examples: int, width: int) -> None:
    """Nested sums, maps, dots and ragged shapes, with shared and private leaves."""
    draw = random.Random(seed)
    shared = [Value(draw.uniform(-1, 1)) for _ in range(width)]
    maps: list[Callable[[Any], Any]] = [lambda v: v.tanh(), lambda v: v.relu(), lambda v: v * v, lambda v: v**3,
                                        lambda v: v.exp()]
    total: Any = 0
    leaves = list(shared)
    for _ in range(examples):
        own = [Value(draw.uniform(-1, 1)) for _ in range(draw.randint(1, width))]
        leaves += own
        inner = sum((w * x for w, x in zip(shared, own, strict=False)), draw.choice([0, shared[0], own[-1]]))
        total += draw.choice(maps)(inner) * draw.choice([1.0, 0.5, own[0]])
    root = total * (1.0 / examples) + 0.1 * sum(w * w for w in shared)
    value, expected = root.data, eager_gradient(root, leaves)
    program = jg.compile(root)
    assert program.backward() == pytest.approx(value, rel=1e-13, abs=1e-15)
    assert [v.grad for v in leaves] == pytest.approx(expected, rel=1e-12, abs=1e-13)


# Ledgers: how many there are, and where they end, is nobody's business.


@pytest.fixture(params=[7, 40, 10**5])
def small(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> int:
    """Ledgers that are full after so many entries, at most as many as there are."""
    size: int = min(request.param, ledger.LIMIT)
    ledger.current().close()
    monkeypatch.setattr(ledger, "_INDICES", list(range(size)))
    monkeypatch.setattr(ledger, "LIMIT", size)
    return size


@pytest.mark.parametrize("seed", range(10))
def test_any_expression_wherever_its_ledgers_end(seed: int, small: int) -> None:
    """Roots in the middle and at the end of a tangle, numbers everywhere, parts that no root needs."""
    draw = random.Random(seed)
    leaves = [Value(draw.uniform(0.5, 1.5)) for _ in range(8)]
    made: list[Any] = list(leaves)
    for _ in range(120):
        a, b = draw.choice(made), draw.choice(made[-10:])
        made.append(draw.choice([
            lambda a, b: a * 0.5 + b * 0.5, lambda a, b: (a - b).tanh(), lambda a, b: (a * a + 1)**-0.5,
            lambda a, b: jg.where((a < b) & (b < 3), a, b * 0.25), lambda a, b: jg.minimum(a / (b * b + 1), 2.0),
            lambda a, b: jg.where(a <= 1.0, True, b < 1.0) * a, lambda a, b: a.relu() + 0.1])(a, b))
    roots = [made[60], made[-1], made[60]]
    values = [root._number() for root in roots]
    expected = eager_gradient(sum(roots), leaves)
    program = jg.compile(roots)
    used = [id(leaf) for leaf in program.leaves]
    assert len(set(used)) == len(used)
    for leaf in leaves:
        leaf.grad = 0
    assert program.backward() == pytest.approx(values, rel=1e-13)
    assert [leaf.grad for leaf in leaves] == pytest.approx(expected, rel=1e-11, abs=1e-12)


def test_leaves_are_in_the_order_of_their_first_use() -> None:
    x = [Value(float(k)) for k in range(6)]
    inner = x[3] * x[1] + x[5]
    for _ in range(2):
        program = jg.compile((inner * x[0] + x[3]) * 2)
        assert [x.index(v) for v in program.leaves] == [3, 1, 5, 0]
        assert [x.index(v) for v in jg.compile(inner).leaves] == [3, 1, 5]
        assert program.run([2.0, 3.0, 4.0, 5.0])[0] == (10 * 5 + 2) * 2


def test_leaves_made_by_hand_and_roots_that_are_leaves() -> None:
    x, y = Value(2.0), Value(3.0)
    product = x * y
    made = Value(7.0, (product, x), "made")                    # hands nothing on: it is read, as every leaf is
    program = jg.compile(made * y + 1)
    made.data = 10.0
    assert program.backward() == 31.0
    assert (made.grad, x.grad, y.grad) == (3.0, 0.0, 10.0)
    chain: Any = made
    for _ in range(2_000):
        chain = Value(1.0, (chain, chain), "made")             # each twice: seen once
    assert jg.compile(chain).backward() == 1.0
    assert (chain.grad, made.grad) == (1, 0.0)
    assert jg.compile([x, x * 2]).backward() == [2.0, 4.0]
    assert x.grad == 3.0
    assert jg.compile(x).backward() == 2.0


def test_numbers_that_operations_take_are_told_apart_by_their_bits() -> None:
    x = Value(4.0)
    root = (jg.maximum(x * 0, 0.0) + jg.maximum(x * 0, -0.0) + x**0.5 + x**-1 + x**2 + x**2.0 + jg.where(x < 5, x, math.nan)
            + jg.where(x < 5, True, False))
    program = jg.compile(root)
    constants = program._flat.payload[program._flat.of("constant")]
    assert len(constants) < 12
    assert program.backward() == root.data
    copysigns = [jg.compile(jg.where(x < 5, zero, x)).forward() for zero in (0.0, -0.0)]
    assert [math.copysign(1, c) for c in copysigns] == [1, -1]


def test_a_million_values_are_read_without_making_one() -> None:
    """16 ledgers or more; functions are called for their leaves and imports alone, 1,000 in each."""
    x = [Value(0.5 + k / 1000) for k in range(1000)]
    total: Any = x[0]
    for k in range(200_000):
        total = (total * x[k % 1000] + 0.001) * 0.999
    calls = 0

    def note(frame: Any, event: str, argument: Any) -> None:
        nonlocal calls
        calls += event == "call"
    before = sys.getprofile()
    sys.setprofile(note)
    try:
        walk = soundness.examine([total]).walk()
        flat = walk.flat(np.arange(len(walk.leaves)))
    finally:
        sys.setprofile(before)
    assert walk.size == 1000 + 5 * 200_000
    assert len(flat.code) == walk.size + 1
    assert calls < 30_000


def test_bad_input_is_named() -> None:
    x = Value(1.0)
    with pytest.raises(errors.ArgumentError, match="finished Value"):
        jg.compile(3.0)
    with pytest.raises(errors.ArgumentError, match="no leaf"):
        jg.compile(x * 2, wrt=[Value(1.0)])
    with pytest.raises(errors.DtypeError, match="float32 or float64"):
        jg.compile(x * 2, dtype=np.int32)
    with pytest.raises(errors.ShapeError, match="one number a leaf"):
        jg.compile(x * 2).run([1.0, 2.0])
    with pytest.raises(errors.DeviceError, match="no device"):
        jg.compile(x * 2, device="gpu")
    own = Value(2.0, (x,), "mine")
    own._backward = lambda: None
    with pytest.raises(errors.TraceError, match=r"test_recorded\.py"):
        jg.compile(own * 2)
    with pytest.raises(errors.TraceError, match="inside a traced function"):
        jg.value_and_grad(lambda w: jg.compile(w * 2))(1.0)


@pytest.mark.parametrize("number", [None, "2.0", 1j, np.ones(2), 10**400],
                         ids=["nothing", "text", "complex", "array", "too large"])
def test_a_leaf_that_holds_no_number_is_named(number: Any) -> None:
    x, w = Value(1.0), Value(2.0, label="w")
    program = jg.compile(x * w, device="interpret")
    w.data = number
    for call in (program.forward, program.backward):
        with pytest.raises(errors.DtypeError, match=r"leaf 1 \(w\) of the program holds(.|\n)*test_recorded.py:\d+:"):
            call()
    w.data = np.float32(3.0)
    assert program.backward() == 3.0
