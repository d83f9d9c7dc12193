"""Eager Values against micrograd: values bit for bit, gradients to 1e-12, the same names, draws and reprs.

`Engine` is micrograd's documented behaviour written anew: `-x` is `x * -1`, `a - b` is `a + (-b)`, `a / b` is
`a * b**-1`, powers by plain numbers, relu, gradients added up from 0 in reverse topological order.
"""

from __future__ import annotations

import math
import operator
import random
from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

import jitgrad as jg
from jitgrad import Value, nn

GRADIENTS = 1e-12


def plain(x: Any) -> Any:
    """NumPy's scalars as Python's numbers: micrograd's own answer for an integer of NumPy's would be an error."""
    return x.item() if isinstance(x, np.generic) else x


class Engine:
    """The reference."""

    def __init__(self, data: Any, parents: Any = (), rule: Any = None):
        self.data, self.grad, self.parents, self.rule = data, 0, parents, rule

    @staticmethod
    def of(x: Any) -> Any:
        return x if isinstance(x, Engine) else Engine(plain(x))

    def __add__(self, other: Any) -> Any:
        other = Engine.of(other)
        return Engine(self.data + other.data, (self, other), lambda g: (g, g))

    def __mul__(self, other: Any) -> Any:
        other = Engine.of(other)
        return Engine(self.data * other.data, (self, other), lambda g: (other.data * g, self.data * g))

    def __pow__(self, k: float) -> Any:
        return Engine(self.data**k, (self,), lambda g: ((k * self.data ** (k - 1)) * g if k else 0.0,))

    def relu(self) -> Any:
        out = 0 if self.data < 0 else self.data
        return Engine(out, (self,), lambda g: ((out > 0) * g,))

    def __neg__(self) -> Any: return self * -1
    def __radd__(self, other: Any) -> Any: return self + other
    def __sub__(self, other: Any) -> Any: return self + (-other)
    def __rsub__(self, other: Any) -> Any: return other + (-self)
    def __rmul__(self, other: Any) -> Any: return self * other
    def __truediv__(self, other: Any) -> Any: return self * plain(other)**-1
    def __rtruediv__(self, other: Any) -> Any: return other * self**-1

    def backward(self) -> None:
        order: list[Engine] = []
        seen: set[int] = set()

        def visit(v: Engine) -> None:
            if id(v) not in seen:
                seen.add(id(v))
                for p in v.parents:
                    visit(p)
                order.append(v)

        visit(self)
        self.grad = 1
        for v in reversed(order):
            for p, g in zip(v.parents, v.rule(v.grad) if v.rule else (), strict=True):
                p.grad += g


FORMS: list[Callable[[Any, Any, Any], Any]] = [
    lambda a, b, k: a + b, lambda a, b, k: a - b, lambda a, b, k: a * b, lambda a, b, k: -a, lambda a, b, k: a + k,
    lambda a, b, k: k + a, lambda a, b, k: a - k, lambda a, b, k: k - a, lambda a, b, k: a * k, lambda a, b, k: k * a,
    lambda a, b, k: a.relu(), lambda a, b, k: a / k]


def expression(make: Callable[[Any], Any], seed: int, size: int) -> tuple[list[Any], list[Any]]:
    """(leaves, every node) of a random expression in micrograd's vocabulary, the same for either class."""
    draw = random.Random(seed)
    leaves = [make(draw.choice([draw.uniform(-3, 3), draw.randint(-3, 3) or 2])) for _ in range(4)]
    nodes = list(leaves)
    for _ in range(size):
        a, b = draw.choice(nodes), draw.choice(nodes)
        k: Any = draw.choice([draw.uniform(0.5, 2), 2, -1, True, np.float64(0.3), np.int64(3)])
        form = draw.randrange(16)
        big = abs(a.data) > 1e3 or abs(b.data) > 1e3
        if big:
            made = a * 1e-3 + b * 0.001
        elif form == 12:
            made = a / b if abs(b.data) > 0.1 else a + b
        elif form == 13:
            made = k / a if abs(a.data) > 0.1 else a * k
        elif form == 14:
            made = a ** draw.choice([2, 3, 1, 0, 2.0]) if abs(a.data) < 10 else a * 0.5
        elif form == 15:
            made = sum([a, b, a])
        else:
            made = FORMS[form](a, b, k)
        nodes.append(made)
    return leaves, nodes


@pytest.mark.parametrize("seed", range(60))
def test_values_are_micrograds_bit_for_bit(seed: int) -> None:
    leaves, nodes = expression(Value, seed, 40)
    expected_leaves, expected = expression(Engine, seed, 40)
    for ours, theirs in zip(nodes, expected, strict=True):
        assert isinstance(ours, Value)
        assert ours.data == theirs.data or (ours.data != ours.data and theirs.data != theirs.data)
        assert math.copysign(1, ours.data) == math.copysign(1, theirs.data)
        assert isinstance(ours.data, int) == isinstance(theirs.data, int | np.integer), "ints stay ints"
    total, expected_total = sum(nodes), sum(expected)
    total.backward()
    expected_total.backward()
    for ours, theirs in zip([*leaves, *nodes], [*expected_leaves, *expected], strict=True):
        assert ours.grad == pytest.approx(theirs.grad, rel=GRADIENTS, abs=GRADIENTS)


def test_micrograds_own_example() -> None:
    def story(make: Callable[[Any], Any]) -> tuple[Any, Any, Any]:
        a, b = make(-4.0), make(2.0)
        c, d = a + b, a * b + b**3
        c += c + 1
        c += 1 + c + (-a)
        d += d * 2 + (b + a).relu()
        d += 3 * d + (b - a).relu()
        e = c - d
        f = e**2
        g = f / 2.0
        g += 10.0 / f
        g.backward()
        return a, b, g

    for ours, theirs in zip(story(Value), story(Engine), strict=True):
        assert ours.data == theirs.data
        assert ours.grad == pytest.approx(theirs.grad, rel=GRADIENTS)
    assert f"{story(Value)[2].data:.4f}" == "24.7041"
    assert f"{story(Value)[0].grad:.4f}" == "138.8338"


# The class.


def test_repr_operands_and_operation() -> None:
    a, b = Value(-4.0), Value(2, label="b")
    assert repr(a) == "Value(data=-4.0, grad=0)"
    assert (b.label, b.data, a.label) == ("b", 2, "")
    c = a + b
    assert (c._prev, c._op) == ((a, b), "+")
    assert (a * b)._op == "*"
    assert (a**3)._op == "**3"
    assert a.relu()._op == "ReLU"
    assert (-a)._op == "*"
    assert (a - b)._op == "+"
    assert (a / b)._op == "*"
    square = a * a
    assert square._prev == (a, a), "a set would lose one"
    square.backward()
    assert a.grad == -8.0
    five = a + 5
    assert [p.data for p in five._prev] == [-4.0, 5], "a number is a leaf of its own"
    assert a._prev == ()


def test_ints_stay_ints() -> None:
    a, b = Value(3), Value(4)
    made = (a * b + 2 - a) ** 2
    assert repr(made) == "Value(data=121, grad=0)"
    made.backward()
    assert (a.grad, b.grad) == (2 * 11 * 3, 2 * 11 * 3)
    assert repr(Value(-2).relu()) == "Value(data=0, grad=0)"
    assert repr(Value(True) + True) == "Value(data=2, grad=0)"


def test_numpy_scalars_on_either_side() -> None:
    for scalar in (np.float64(1.5), np.float32(1.5), np.int64(2), np.int8(2), np.uint8(2), np.bool_(True)):
        a = Value(3.0)
        for made, expected in [(a + scalar, 3 + scalar.item()), (scalar + a, 3 + scalar.item()),
                               (a - scalar, 3 - scalar.item()), (scalar - a, scalar.item() - 3),
                               (a * scalar, 3 * scalar.item()), (scalar * a, 3 * scalar.item()),
                               (a / scalar, 3 / scalar.item()), (scalar / a, scalar.item() * 3.0**-1),
                               (a**scalar, 3.0**scalar.item()), (scalar**a, float(scalar.item()) ** 3.0)]:
            assert isinstance(made, Value), (type(scalar), made)
            assert not isinstance(made.data, np.generic)
            assert made.data == expected
    assert type(Value(np.float64(2.0)).data) is float


def test_arrays_of_values() -> None:
    w, x = np.array([Value(1.0), Value(2.0)]), np.array([3.0, 4.0])
    made = w @ x + np.sum(w) + (w * 2)[1] + (Value(5.0) * x)[0]
    assert made.data == 11 + 3 + 4 + 15
    made.backward()
    assert [v.grad for v in w] == [4.0, 7.0]
    assert (x - Value(1.0)).dtype == object


def test_a_foreign_operand_is_pythons_own_error() -> None:
    for wrong in ("2", None, [1.0], 1j):
        for name in ("add", "mul", "sub", "truediv", "pow"):
            with pytest.raises(TypeError):
                getattr(operator, name)(Value(1.0), wrong)


def test_gradients_add_up_over_calls() -> None:
    a = Value(3.0)
    (a * 2).backward()
    (a * a).backward()
    assert a.grad == 8.0
    root = a * 1.0
    mid = root * 2
    mid.backward()
    first = a.grad
    mid.backward()  # the interior gradients were not cleared either: micrograd adds 2, then 2 + 2
    theirs = Engine(3.0)
    theirs.grad = 8.0
    again = (theirs * 1.0) * 2
    again.backward()
    assert first == theirs.grad
    again.backward()
    assert a.grad == theirs.grad
    assert mid.grad == 1


def test_in_place_operators_make_new_nodes() -> None:
    a = Value(2.0)
    b = a
    b += 3
    b *= a
    b -= 1
    b /= 2
    b **= 2
    assert (a.data, b.data) == (2.0, 20.25)
    b.backward()
    assert a.grad == pytest.approx(2 * 4.5 * (2 * 2 + 3) / 2, rel=1e-15)


def test_attributes_hash_and_sets() -> None:
    a, b = Value(1.0), Value(1.0)
    a.note = "kept"
    assert a.note == "kept"
    a.data = 7.0
    assert (a + b).data == 8.0
    a.grad = 5.0
    assert len({a, b, a}) == 2
    assert {a: "x"}[a] == "x"
    assert hash(a) != hash(b)


def test_a_backward_function_of_the_users_own() -> None:
    """micrograd's way to add an operation by hand."""
    x = Value(0.5)
    out = Value(math.atan(x.data), (x,), "atan")

    def backward() -> None:
        x.grad += out.grad / (1 + x.data**2)

    out._backward = backward
    (out * 3).backward()
    assert x.grad == pytest.approx(3 / 1.25)
    assert out._prev == (x,)


def test_backpropagation_by_hand() -> None:
    """As micrograd's lecture does it: node by node, and by a loop over a sorted graph."""
    x1, x2, w1, w2, b = (Value(v) for v in (2.0, 0.0, -3.0, 1.0, 6.75))
    s = x1 * w1 + x2 * w2
    n = (s + b) * 2
    o = n.relu() ** 3
    o.grad = 1.0
    o._backward()
    assert o._prev
    (r,) = o._prev
    r._backward()
    n._backward()
    b._backward()
    assert (n.grad, b.grad, x1.grad) == (3 * 1.5**2, 0, 0), "no further than its own operands"

    x = Value(3.0)
    y = x * x + 2 * x - x / 4
    z = (y - x) * y
    order: list[Any] = []
    seen: set[Any] = set()

    def build(v: Any) -> None:
        if v not in seen:
            seen.add(v)
            for child in v._prev:
                build(child)
            order.append(v)
    build(z)
    z.grad = 1.0
    for v in reversed(order):
        v._backward()
    assert x.grad == (2 * 3 + 1.75 - 1) * 14.25 + 11.25 * (2 * 3 + 1.75)
    z.backward()
    assert z.grad == 1


def test_a_subclass_with_operations_of_its_own() -> None:
    class Mine(Value):
        def cubed(self) -> Any:
            return self * self * self

    x = Mine(2.0, label="x")
    y = x.cubed() + x - 1
    y.backward()
    assert (y.data, x.grad) == (9.0, 13.0)
    assert jg.compile(y, device="interpret").backward() == 9.0


def test_conditions_of_values() -> None:
    a, b = Value(1.0), Value(2.0)
    assert a < b
    assert not a > b
    assert a <= 1
    assert (a >= 1.5).data is False
    assert bool(a == 1.0)
    assert (a != Value(1.0)).data is False
    assert bool((a < b) & (b < 3)) is True
    assert bool((a > b) | ~(b < 3)) is False
    assert bool(Value(0.0)), "a number is true as any object is"
    assert max(a, b) is b
    assert min([b, a]) is a
    assert sorted([b, a])[0] is a
    picked = jg.where(a < b, a * 3, b)
    picked.backward()
    assert (picked.data, a.grad, b.grad) == (3.0, 3.0, 0.0)
    assert float(b) == 2.0


def test_a_chain_of_200000_nodes() -> None:
    x = Value(1.0)
    y = x
    for k in range(100_000):
        y = y * 1.0 + (x if k % 1000 == 0 else 0.0)
    y.backward()
    assert y.data == 101.0
    assert x.grad == 101.0
    del y  # and freed without recursion


@given(st.floats(allow_nan=True), st.floats(allow_nan=True))
def test_eager_arithmetic_never_raises(x: float, y: float) -> None:
    for name in ("add", "sub", "mul", "truediv", "pow"):
        made = getattr(operator, name)(Value(x), Value(y))
        made.backward()
        assert isinstance(made.data, float | int)
    for function in (jg.exp, jg.log, jg.sqrt, jg.tanh, jg.sigmoid, jg.softplus, jg.sin, jg.cos, jg.erf, jg.log1p, abs):
        function(Value(x)).backward()


def test_functions_have_micrograds_derivative_and_method() -> None:
    for name in ("exp", "log", "tanh", "sigmoid", "softplus", "sqrt", "sin", "cos", "erf", "relu", "log1p"):
        method, function = Value(0.7), Value(0.7)
        ours, theirs = getattr(method, name)(), getattr(jg, name)(function)
        ours.backward()
        theirs.backward()
        assert ours.data == theirs.data
        assert method.grad == function.grad != 0


# nn.


def parameters_by_hand(nin: int, nouts: list[int]) -> list[float]:
    """micrograd's order of draws: neuron by neuron, its weights, then a bias of 0 that is not drawn."""
    sizes, drawn = [nin, *nouts], []
    for i in range(len(nouts)):
        for _ in range(sizes[i + 1]):
            drawn += [random.uniform(-1, 1) for _ in range(sizes[i])] + [0]
    return drawn


def test_a_network_draws_and_prints_as_micrograds() -> None:
    random.seed(1337)
    model = nn.MLP(3, [4, 2, 1])
    after = random.random()
    random.seed(1337)
    assert [p.data for p in model.parameters()] == parameters_by_hand(3, [4, 2, 1])
    assert random.random() == after
    assert repr(model) == (
        "MLP of [Layer of [ReLUNeuron(3), ReLUNeuron(3), ReLUNeuron(3), ReLUNeuron(3)], "
        "Layer of [ReLUNeuron(4), ReLUNeuron(4)], Layer of [LinearNeuron(2)]]")
    assert isinstance(model, nn.Module)
    assert len(model.parameters()) == 3 * 4 + 4 + 4 * 2 + 2 + 2 + 1
    assert model.parameters()[-1] is model.layers[-1].neurons[0].b
    assert isinstance(model([1.0, 2.0, 3.0]), Value), "a single output is not in a list"
    assert len(model.layers[0]([1.0, 2.0, 3.0])) == 4


def test_a_network_computes_and_learns_as_micrograds() -> None:
    random.seed(5)
    model = nn.MLP(2, [5, 1])
    numbers = [p.data for p in model.parameters()]
    theirs = [Engine(d) for d in numbers]

    def forward(x: list[float]) -> Any:
        hidden = [sum((w * xi for w, xi in zip(theirs[3 * j:3 * j + 2], x, strict=True)), theirs[3 * j + 2]).relu()
                  for j in range(5)]
        return sum((w * h for w, h in zip(theirs[15:20], hidden, strict=True)), theirs[20])

    data = [([0.5, -1.0], 1), ([2.0, 0.3], -1), ([-0.4, 0.9], 1)]
    for _ in range(3):
        loss = sum((1 + -y * model(x)).relu() for x, y in data) * (1.0 / 3) + 1e-4 * sum(p * p for p in model.parameters())
        expected = sum((1 + -y * forward(x)).relu() for x, y in data) * (1.0 / 3) + 1e-4 * sum(p * p for p in theirs)
        assert loss.data == expected.data
        model.zero_grad()
        assert all(p.grad == 0 for p in model.parameters())
        for p in theirs:
            p.grad = 0
        loss.backward()
        expected.backward()
        for p, q in zip(model.parameters(), theirs, strict=True):
            assert p.grad == pytest.approx(q.grad, rel=GRADIENTS, abs=GRADIENTS)
            q.grad = p.grad
            p.data -= 0.1 * p.grad
            q.data -= 0.1 * q.grad
