"""Optimizers against their papers' formulas written out for one number, and properties every optimizer has."""

from __future__ import annotations

import copy
import math
from typing import Any, NamedTuple

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from jitgrad import optim
from jitgrad.arguments import flatten
from jitgrad.errors import ArgumentError, DtypeError, ShapeError
from jitgrad.ravel import Raveled

REAL = st.floats(-10.0, 10.0, allow_subnormal=False)
GRADIENTS = st.lists(REAL, min_size=1, max_size=6)


def sgd_by_hand(p: float, gradients: list[float], lr: float, momentum: float, nesterov: bool, decay: float) -> float:
    """torch.optim.SGD's loop, with dampening 0, for one number."""
    buffer: float | None = None
    for g in gradients:
        g = g + decay * p
        if momentum:
            buffer = g if buffer is None else momentum * buffer + g
            g = g + momentum * buffer if nesterov else buffer
        p = p - lr * g
    return p


def adam_by_hand(p: float, gradients: list[float], lr: float, b1: float, b2: float, eps: float, decay: float) -> float:
    """Algorithm 2 of Loshchilov & Hutter, with the bias corrections where the paper has them, for one number."""
    m = v = 0.0
    for t, g in enumerate(gradients, 1):
        p = p - lr * decay * p
        m = b1 * m + (1 - b1) * g
        v = b2 * v + (1 - b2) * g**2
        p = p - lr * (m / (1 - b1**t)) / (math.sqrt(v / (1 - b2**t)) + eps)
    return p


def run(optimizer: optim.Optimizer, params: Any, gradients: list[Any]) -> Any:
    state = optimizer.init(params)
    for g in gradients:
        params, state = optimizer.update(g, state, params)
    return params


@given(
    REAL, GRADIENTS, st.floats(1e-4, 0.5), st.sampled_from([0.0, 0.5, 0.9]), st.booleans(), st.sampled_from([0.0, 0.1])
)
def test_sgd_is_pytorchs(p: float, gradients: list[float], lr: float, momentum: float, nesterov: bool, decay: float):
    nesterov = nesterov and momentum > 0
    found = run(optim.sgd(lr, momentum, nesterov, decay), p, gradients)
    assert found == pytest.approx(sgd_by_hand(p, gradients, lr, momentum, nesterov, decay), rel=1e-12, abs=1e-12)


@given(REAL, GRADIENTS, st.floats(1e-4, 0.5), st.sampled_from([0.0, 0.8, 0.9]), st.sampled_from([0.0, 0.99, 0.999]))
def test_adam_is_the_papers(p: float, gradients: list[float], lr: float, b1: float, b2: float):
    found = run(optim.adam(lr, b1, b2), p, gradients)
    assert found == pytest.approx(adam_by_hand(p, gradients, lr, b1, b2, 1e-8, 0.0), rel=1e-10, abs=1e-10)


@given(REAL, GRADIENTS, st.floats(1e-4, 0.5), st.sampled_from([0.0, 1e-2, 0.5]))
def test_adamw_decays_apart_from_the_gradient(p: float, gradients: list[float], lr: float, decay: float):
    found = run(optim.adamw(lr, weight_decay=decay), p, gradients)
    assert found == pytest.approx(adam_by_hand(p, gradients, lr, 0.9, 0.999, 1e-8, decay), rel=1e-10, abs=1e-10)


def test_adams_first_step_is_the_learning_rate_whatever_the_gradients_size():
    for g in (1e-3, 1.0, 1e6):
        assert run(optim.adam(0.25), 1.0, [g]) == pytest.approx(0.75, rel=1e-4)


def test_eps_is_added_outside_the_root():
    # Inside it, the steps would be 1 / sqrt(1.0001) and 2 / sqrt(2).
    assert run(optim.adam(1.0, eps=1e-4), 0.0, [1.0]) == pytest.approx(-1.0 / 1.0001, rel=1e-12)
    assert run(optim.adam(1.0, eps=1.0), 0.0, [1.0, 1.0]) == pytest.approx(-1.0, rel=1e-12)


class Layer(NamedTuple):
    weights: Any
    bias: Any


ALL = {
    "sgd": optim.sgd(0.1),
    "momentum": optim.sgd(0.1, momentum=0.9, weight_decay=0.01),
    "nesterov": optim.sgd(0.1, momentum=0.9, nesterov=True),
    "adam": optim.adam(0.1),
    "adamw": optim.adamw(0.1),
}
EVERY = pytest.mark.parametrize("optimizer", ALL.values(), ids=ALL)


def mixed_tree() -> Any:
    generator = np.random.default_rng(3)
    return {
        "a": [Layer(generator.normal(size=(3, 2)).astype(np.float32), generator.normal(size=3)), 0.5],
        "scalar": np.float32(1.5),
        "zero_d": np.array(2.0, np.float32),
        "none": None,
        "fortran": np.asfortranarray(generator.normal(size=(2, 3))),
        "empty": np.zeros((0, 4)),
    }


def leaves(tree: Any) -> list[Any]:
    layer = tree["a"][0]
    return [layer.weights, layer.bias, tree["a"][1], tree["scalar"], tree["zero_d"], tree["fortran"], tree["empty"]]


@EVERY
def test_every_leaf_keeps_its_type_shape_and_dtype(optimizer: optim.Optimizer):
    before = mixed_tree()
    after = run(optimizer, mixed_tree(), [mixed_tree(), mixed_tree()])
    assert isinstance(after["a"][0], Layer)
    assert after["none"] is None
    for old, new in zip(leaves(before), leaves(after), strict=True):
        assert type(new) is type(old)
        if not isinstance(old, float):
            assert (new.shape, new.dtype) == (old.shape, old.dtype)
        assert not np.size(old) or not np.array_equal(new, old)


@EVERY
def test_wider_gradients_do_not_widen_the_parameters(optimizer: optim.Optimizer):
    params = {"w": np.ones(3, np.float32), "s": np.float32(1.0), "z": np.ones((), np.float32)}
    found = run(optimizer, params, [{"w": np.ones(3), "s": np.float64(1.0), "z": np.ones(())}] * 2)
    assert {leaf.dtype for leaf in found.values()} == {np.dtype(np.float32)}


@EVERY
def test_inputs_are_not_written_to(optimizer: optim.Optimizer):
    params, grads = mixed_tree(), mixed_tree()
    for tree in (params, grads):
        for leaf in leaves(tree):
            if isinstance(leaf, np.ndarray):
                leaf.flags.writeable = False
    state = optimizer.init(params)
    first = optimizer.update(grads, state, params)
    again = optimizer.update(grads, state, params)  # the old state still means what it meant
    for one, other in zip(leaves(first[0]), leaves(again[0]), strict=True):
        np.testing.assert_array_equal(one, other)
    for old, new in zip(leaves(params), leaves(first[0]), strict=True):
        assert not np.shares_memory(old, new)


@EVERY
def test_a_tree_and_its_raveled_vectors_take_the_same_steps(optimizer: optim.Optimizer):
    assert optimizer.rule is not None
    params, layout = mixed_tree(), Raveled.of(*flatten(mixed_tree()))
    grads = [mixed_tree(), mixed_tree()]
    tree = run(optimizer, params, grads)
    vectors = run(optimizer, layout.ravel(params), [layout.ravel(g) for g in grads])
    for one, other in zip(leaves(tree), leaves(layout.unravel(vectors)), strict=True):
        assert type(one) is type(other)
        np.testing.assert_array_equal(one, other)


@EVERY
@pytest.mark.parametrize("dtype", [np.float32, np.float64])
def test_a_quadratic_is_minimised(optimizer: optim.Optimizer, dtype: type):
    params = {"x": np.array([3.0, -2.0], dtype), "y": np.array(1.0, dtype)}
    state = optimizer.init(params)
    for _ in range(400):
        grads = {"x": 2 * (params["x"] - np.array([1.0, 2.0], dtype)), "y": np.asarray(params["y"] + 1)}
        params, state = optimizer.update(grads, state, params)
    tolerance = 0.02 if optimizer in (ALL["momentum"], ALL["adamw"]) else 1e-3  # decay moves the minimum
    np.testing.assert_allclose(params["x"], [1.0, 2.0], atol=tolerance)
    np.testing.assert_allclose(params["y"], -1.0, atol=tolerance)


@pytest.mark.parametrize(
    ("make", "name"),
    [
        (lambda: optim.sgd(-0.1), "learning_rate=-0.1"),
        (lambda: optim.sgd(math.inf), "learning_rate=inf"),
        (lambda: optim.sgd(math.nan), "learning_rate=nan"),
        (lambda: optim.sgd("fast"), "learning_rate='fast'"),  # type: ignore[arg-type]
        (lambda: optim.sgd(True), "learning_rate=True"),
        (lambda: optim.sgd(0.1, momentum=1.0), "momentum=1.0"),
        (lambda: optim.sgd(0.1, weight_decay=-1.0), "weight_decay=-1.0"),
        (lambda: optim.sgd(0.1, nesterov=True), "without momentum"),
        (lambda: optim.adam(-1.0), "learning_rate=-1.0"),
        (lambda: optim.adam(b1=1.0), "b1=1.0"),
        (lambda: optim.adam(b2=-0.5), "b2=-0.5"),
        (lambda: optim.adam(eps=-1e-8), "eps=-1e-08"),
        (lambda: optim.adamw(weight_decay=-1e-2), "weight_decay=-0.01"),
    ],
)
def test_a_wrong_hyper_parameter_is_named(make: Any, name: str):
    with pytest.raises(ArgumentError) as caught:
        make()
    assert name in str(caught.value)


@EVERY
@pytest.mark.parametrize(
    ("leaf", "kind"),
    [(1, "int"), (np.arange(3), "int64"), (np.array(["a"]), "<U1"), (1j, "complex"), (np.array([True]), "bool")],
)
def test_a_parameter_that_is_no_real_number_is_named(optimizer: optim.Optimizer, leaf: Any, kind: str):
    with pytest.raises(DtypeError, match=r"params\['layers'\]\[1\]") as caught:
        optimizer.init({"layers": [1.0, leaf]})
    assert kind in str(caught.value)


@EVERY
def test_gradients_of_another_shape_or_structure_are_refused(optimizer: optim.Optimizer):
    params = {"w": np.zeros(3), "b": 0.0}
    state = optimizer.init(params)
    with pytest.raises(ShapeError, match=r"grads\['w'\]"):
        optimizer.update({"w": np.zeros((2, 3)), "b": 0.0}, state, params)  # it would broadcast
    with pytest.raises(ShapeError, match="structure"):
        optimizer.update({"w": np.zeros(3)}, state, params)


def test_an_optimizer_prints_as_it_was_made():
    assert repr(optim.adam(0.01)) == "adam(0.01, b1=0.9, b2=0.999, eps=1e-08)"
    assert eval(repr(optim.sgd(0.1, 0.9)), {"sgd": optim.sgd}).description == repr(optim.sgd(0.1, 0.9))


TREES = st.recursive(
    st.one_of(
        st.floats(-1e3, 1e3),
        st.tuples(st.sampled_from(["f4", "f8"]), st.lists(st.integers(0, 3), max_size=3)).map(
            lambda made: np.arange(math.prod(made[1]), dtype=made[0]).reshape(made[1]) + 0.5
        ),
        st.sampled_from([np.float32(0.25), np.float64(-1.5)]),
    ),
    lambda inner: st.one_of(
        st.lists(inner, max_size=3),
        st.dictionaries(st.sampled_from("abc"), inner, max_size=3),
        st.tuples(inner, inner).map(lambda pair: Layer(*pair)),
    ),
    max_leaves=8,
)


@settings(max_examples=200)
@given(TREES)
def test_raveling_and_unraveling_give_the_tree_back(tree: Any):
    layout = Raveled.of(*flatten(tree))
    vectors = layout.ravel(tree)
    assert all(vector.ndim == 1 for vector in vectors)

    def same(one: Any, other: Any) -> None:
        assert type(one) is type(other)
        if isinstance(one, dict):
            assert one.keys() == other.keys()
            for key in one:
                same(one[key], other[key])
        elif isinstance(one, list | tuple):
            assert len(one) == len(other)
            for pair in zip(one, other, strict=True):
                same(*pair)
        else:
            assert getattr(one, "dtype", None) == getattr(other, "dtype", None)
            np.testing.assert_array_equal(one, other)

    before = copy.deepcopy(tree)
    same(before, layout.unravel(vectors))
    for vector in vectors:
        vector += 1.0  # a copy: the tree must not move
    same(before, tree)
