"""The losses: textbook formulas, the same eagerly, recorded and through JAX; extreme inputs; wrong labels."""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from referees import BACKENDS, FLOAT64, OURS, assert_close, assert_same_bits, forced

import jitgrad as jg
from jitgrad import Value, errors, losses, nn

RANDOM = np.random.default_rng(2)
N = 11
P, T = RANDOM.normal(size=N), RANDOM.normal(size=N)
SIGNS, BITS = RANDOM.choice([-1.0, 1.0], N), RANDOM.choice([0.0, 1.0], N)
LOGITS, CLASSES = RANDOM.normal(size=(N, 4)) * 3, RANDOM.integers(0, 4, N)


def textbook_bce(z: Any, y: Any) -> Any:
    s = 1 / (1 + np.exp(-z))
    return -y * np.log(s) - (1 - y) * np.log(1 - s)


def textbook_huber(p: Any, t: Any, delta: float = 1.0) -> Any:
    e = np.abs(p - t)
    return np.where(e <= delta, 0.5 * e**2, delta * (e - 0.5 * delta))


# loss, arguments, its formula and the formula's derivative by the first argument, one row an example
CASES: dict[str, tuple[Callable[..., Any], tuple[Any, Any], Any, Any]] = {
    "mse": (losses.mse, (P, T), (P - T) ** 2, 2 * (P - T)),
    "hinge": (losses.hinge, (P, SIGNS), np.maximum(0, 1 - SIGNS * P), np.where(SIGNS * P < 1, -SIGNS, 0.0)),
    "binary_cross_entropy": (losses.binary_cross_entropy, (P, BITS), textbook_bce(P, BITS), 1 / (1 + np.exp(-P)) - BITS),
    "soft labels": (losses.binary_cross_entropy, (P, np.abs(np.tanh(T))), textbook_bce(P, np.abs(np.tanh(T))),
                    1 / (1 + np.exp(-P)) - np.abs(np.tanh(T))),
    "cross_entropy": (losses.cross_entropy, (LOGITS, CLASSES),
                      -np.log(np.exp(LOGITS)[range(N), CLASSES] / np.exp(LOGITS).sum(axis=1)),
                      np.exp(LOGITS) / np.exp(LOGITS).sum(axis=1, keepdims=True) - np.eye(4)[CLASSES]),
    "huber": (losses.huber, (P, T), textbook_huber(P, T), np.clip(P - T, -1, 1)),
    "huber 0.3": (lambda p, t, **k: losses.huber(p, t, 0.3, **k), (P, T), textbook_huber(P, T, 0.3),
                  np.clip(0.3 * np.sign(P - T), -abs(P - T), abs(P - T))),
}
each = pytest.mark.parametrize("name", CASES)


@each
@pytest.mark.parametrize("backend", BACKENDS)
def test_one_example_is_the_bare_term(name: str, backend: str) -> None:
    loss, args, formula, slope = CASES[name]
    with forced(backend) as device:
        value, grad = jg.value_and_grad(loss, 0, (0, 0), None, device)(*args)
    assert_close(value, formula, FLOAT64, name)
    assert_close(grad, slope, FLOAT64, name)


@each
def test_one_example_eagerly(name: str) -> None:
    loss, (first, second), formula, slope = CASES[name]
    for k in range(N):
        target = int(second[k]) if name == "cross_entropy" else float(second[k])
        leaf = [Value(v) for v in first[k].tolist()] if first.ndim == 2 else Value(float(first[k]))
        made = loss(leaf, target)
        made.backward()
        assert_close(made.data, formula[k], FLOAT64)
        assert_close([v.grad for v in leaf] if first.ndim == 2 else leaf.grad, slope[k], FLOAT64)
        plain = loss(first[k].tolist(), target)
        assert not isinstance(plain, Value)
        assert plain == made.data


@each
@pytest.mark.parametrize("reduction", [None, "mean", "sum", "none"])
def test_sequences_reduce(name: str, reduction: str | None) -> None:
    loss, (first, second), formula, slope = CASES[name]
    options = {} if reduction is None else {"reduction": reduction}
    textbook = "sum" if name == "hinge" else "mean"         # Σ max(0, 1 - y·ŷ), but (1/n) Σ (y - ŷ)² and the others
    reduction = reduction or textbook
    expected = {"sum": formula.sum(), "none": formula, "mean": formula.mean()}[reduction]
    for kind in (list, np.asarray):
        numbers = loss(kind(first.tolist()), kind(second.tolist()), **options)
        assert_close(numbers, expected, FLOAT64, f"{name}, {reduction}, of {kind.__name__}")
    leaves = [[Value(v) for v in row] if first.ndim == 2 else Value(row) for row in first.tolist()]
    made = loss(leaves, second.tolist(), **options)
    if reduction == "none":
        assert_close([m.data for m in made], formula, FLOAT64)
        return
    made.backward()
    assert_close(made.data, expected, FLOAT64)
    grads = [[v.grad for v in row] if first.ndim == 2 else row.grad for row in leaves]
    assert_close(grads, slope / (1 if reduction == "sum" else N), FLOAT64)
    with forced("interpret") as device:
        step = jg.value_and_grad(lambda a, b: loss(a, b, **options), in_axes=(None, None), device=device)
        value, grad = step(first, second)
    assert_close(value, expected, FLOAT64)
    assert_close(grad, slope / (1 if reduction == "sum" else N), FLOAT64)


@given(st.lists(st.tuples(st.floats(-50, 50), st.floats(-50, 50)), min_size=1, max_size=6))
def test_mse_is_the_mean_of_squares(pairs: list[tuple[float, float]]) -> None:
    p, t = np.array(pairs).T
    assert losses.mse(p, t) == pytest.approx(np.mean((p - t) ** 2), rel=1e-13, abs=1e-300)
    assert losses.mse(p, t) >= 0


# The two pseudo-code lines.


def squared_errors(predictions: Any, targets: Any) -> Any:
    return sum((pred - target) ** 2 for pred, target in zip(predictions, targets, strict=True))


def margins(scores: Any, labels: Any) -> Any:
    return sum((1 + -yi * scorei).relu() for yi, scorei in zip(labels, scores, strict=True))


@pytest.mark.parametrize(("loss", "targets", "formula", "slope"), [
    (squared_errors, T, ((P - T) ** 2).sum(), 2 * (P - T)),
    (margins, SIGNS, np.maximum(0, 1 - SIGNS * P).sum(), np.where(SIGNS * P < 1, -SIGNS, 0.0))],
    ids=["sum((pred - target)**2)", "sum((1 + -yi*scorei).relu())"])
def test_the_pseudo_code_lines(loss: Any, targets: Any, formula: float, slope: Any) -> None:
    leaves = [Value(p) for p in P.tolist()]
    eager = loss(leaves, targets.tolist())
    eager.backward()
    assert_close(eager.data, formula, FLOAT64)
    assert_close([v.grad for v in leaves], slope, FLOAT64)
    for backend in BACKENDS:
        with forced(backend) as device:
            value, grad = jg.value_and_grad(loss, in_axes=(None, None), device=device)(P, targets)
        assert_close(value, formula, FLOAT64, backend)
        assert_close(grad, slope, FLOAT64, backend)
        if backend in OURS:
            assert value == eager.data, "left to right, to the last bit"
    each_example = jg.value_and_grad(lambda p, t: loss([p], [t]), 0, (0, 0), "sum", "cpu")(P, targets)
    assert_close(each_example[0], formula, FLOAT64)
    assert_close(each_example[1], slope, FLOAT64)
    with jax.enable_x64(True):
        theirs = jax.value_and_grad(lambda p: sum((p - T) ** 2) if loss is squared_errors
                                    else sum(jax.nn.relu(1 + -targets * p)))(jnp.asarray(P))
    assert_close(theirs[0], formula, FLOAT64)
    assert_close(theirs[1], slope, FLOAT64)


def test_a_network_over_a_data_set_eagerly_and_fused() -> None:
    model = nn.MLP(2, [3, 1])
    x, y = RANDOM.normal(size=(N, 2)), SIGNS
    eager = sum((1 + -yi * model(xi)).relu() for xi, yi in zip(x.tolist(), y.tolist(), strict=True)) / N
    eager.backward()
    expected = [p.grad for p in model.parameters()]
    for backend in OURS:
        model.zero_grad()
        with forced(backend) as device:
            fused = jg.batch(lambda x, y: losses.hinge(model(x), y), device=device)(x, y)
        fused.backward()
        assert_close(fused.data, eager.data, FLOAT64)
        assert_close([p.grad for p in model.parameters()], expected, FLOAT64)


# Extremes.


@pytest.mark.parametrize("backend", ["eager", *BACKENDS])
def test_logits_of_ten_thousand(backend: str) -> None:
    def run(loss: Any, first: Any, second: Any) -> tuple[Any, Any]:
        if backend != "eager":
            with forced(backend) as device:
                return jg.value_and_grad(loss, 0, (0, 0), None, device)(np.array(first), np.array(second))
        made = [[Value(v) for v in row] if isinstance(row, list) else Value(row) for row in first]
        out = [loss(m, t) for m, t in zip(made, second, strict=True)]
        for o in out:
            o.backward()
        return [o.data for o in out], [[v.grad for v in m] if isinstance(m, list) else m.grad for m in made]

    value, grad = run(losses.cross_entropy, [[1e4, -1e4, 0.0], [1e4, -1e4, 0.0], [-1e4, -1e4, -1e4], [1e4, 1e4, 1e4]],
                      [0, 1, 2, 0])
    assert_close(value, [0.0, 2e4, math.log(3), math.log(3)], FLOAT64)
    assert_close(grad, [[0, 0, 0], [1, -1, 0], [1 / 3, 1 / 3, -2 / 3], [-2 / 3, 1 / 3, 1 / 3]], FLOAT64)
    value, grad = run(losses.binary_cross_entropy, [1e4, 1e4, -1e4, -1e4, 800.0, 0.0], [1.0, 0.0, 0.0, 1.0, 0.0, 0.5])
    assert_close(value, [0.0, 1e4, 0.0, 1e4, 800.0, math.log(2)], FLOAT64)
    assert_close(grad, [0.0, 1.0, 0.0, -1.0, 1.0, 0.0], FLOAT64)
    value, grad = run(losses.hinge, [1e4, 1e4, 1.0, -1.0], [1.0, -1.0, 1.0, -1.0])
    assert_close(value, [0.0, 1e4 + 1, 0.0, 0.0], FLOAT64)
    assert_close(grad, [0.0, 1.0, 0.0, 0.0], FLOAT64)
    value, grad = run(losses.huber, [1e200, 0.0, 1.0, -1.0], [0.0, 0.0, 0.0, 0.0])
    assert_close(value, [1e200, 0.0, 0.5, 0.5], FLOAT64)
    assert_close(grad, [1.0, 0.0, 1.0, -1.0], FLOAT64)


@pytest.mark.parametrize("backend", ["eager", *OURS])
def test_infinite_and_nan_logits(backend: str) -> None:
    rows = [[math.inf, 0.0], [-math.inf, 0.0], [0.0, -math.inf], [math.nan, 0.0], [math.inf, math.inf]]
    labels = [1, 1, 1, 0, 0]

    def both(z: Any, k: Any) -> Any:
        return losses.cross_entropy(z, k)

    if backend == "eager":
        found = [both(row, k) for row, k in zip(rows, labels, strict=True)]
    else:
        with forced(backend) as device:
            found = jg.jit(both, in_axes=0, reduce=None, device=device)(np.array(rows), np.array(labels))
    assert_same_bits([found[0], found[1], found[2]], [math.inf, 0.0, math.inf])
    assert math.isnan(found[3])
    assert not math.isfinite(found[4])
    assert math.isnan(losses.binary_cross_entropy(math.nan, 1))
    assert losses.hinge(-math.inf, 1) == math.inf
    assert losses.hinge(math.inf, 1) == 0.0
    assert losses.mse(math.inf, 0.0) == math.inf


def test_float32_logits_keep_their_small_probabilities() -> None:
    z = np.array([30.0, -30.0, 60.0], np.float32)
    value, grad = jg.value_and_grad(losses.binary_cross_entropy, 0, (0, 0), None, "cpu")(z, np.array([1, 0, 1]))
    assert value.dtype == np.float32
    np.testing.assert_allclose(value, np.log1p(np.exp(-np.abs(z.astype(float)))), rtol=1e-5)
    np.testing.assert_allclose(np.abs(grad), np.exp(-np.abs(z.astype(float))), rtol=1e-5)


# Labels. (Traced and eager: the value and where it is.)


WRONG: dict[str, tuple[Any, Any, Any, str]] = {
    "hinge 0": (losses.hinge, [0.5, 0.5, 0.5], [1.0, -1.0, 0.0], "must be -1 or .1; got 0"),
    "hinge nan": (losses.hinge, [0.5, 0.5, 0.5], [1.0, -1.0, math.nan], "got nan"),
    "hinge 2": (losses.hinge, [0.5, 0.5, 0.5], [1, -1, 2], "got 2"),
    "bce -1": (losses.binary_cross_entropy, [0.5, 0.5, 0.5], [1.0, 0.0, -1.0], "between 0 and 1; got -1"),
    "bce 1.5": (losses.binary_cross_entropy, [0.5, 0.5, 0.5], [1.0, 0.0, 1.5], "got 1.5"),
    "class 4": (losses.cross_entropy, [[0.1] * 4] * 3, [0, 3, 4], "from 0 to 3; got 4"),
    "class -1": (losses.cross_entropy, [[0.1] * 4] * 3, [0, 3, -1], "from 0 to 3; got -1"),
}


@pytest.mark.parametrize("name", WRONG)
@pytest.mark.parametrize("backend", BACKENDS)
def test_a_wrong_label_is_named_with_its_example(name: str, backend: str) -> None:
    loss, first, labels, complaint = WRONG[name]
    with forced(backend) as device:
        step = jg.value_and_grad(loss, 0, (0, 0), "mean", device)
        with pytest.raises(errors.LabelError, match=rf"{complaint} \(example 2 of the batch\)"):
            step(np.array(first), np.array(labels))
        right = np.array([labels[0]] * 3)
        assert np.isfinite(step(np.array(first), right)[0]), "the step is as good as before"


@pytest.mark.parametrize("name", WRONG)
def test_a_wrong_label_is_named_eagerly(name: str) -> None:
    loss, first, labels, complaint = WRONG[name]
    with pytest.raises(errors.LabelError, match=complaint):
        loss(first[2], labels[2])
    with pytest.raises(errors.LabelError, match=rf"{complaint} \(label 2\)"):
        loss([Value(v) for v in first] if not isinstance(first[0], list) else first, labels)
    with pytest.raises(errors.LabelError, match=r"test_losses.py:\d+:.*loss\("):
        loss(first[2], labels[2])


@pytest.mark.parametrize("name", WRONG)
def test_a_wrong_label_is_named_in_a_sequence_of_an_example(name: str) -> None:
    loss, first, labels, complaint = WRONG[name]
    step = jg.value_and_grad(loss, 0, (0, 0), device="interpret")
    with pytest.raises(errors.LabelError, match=rf"{complaint} \(label 2 of example 1 of the batch\)"):
        step(np.array([first] * 2), np.array([labels[:1] * 3, labels]))


@pytest.mark.parametrize("label", [0.5, 1.7, math.nan, math.inf, Value(0.5), np.float64(1.5)])
def test_a_class_between_classes_is_no_class(label: Any) -> None:
    number = label.data if isinstance(label, Value) else label
    for call in (lambda: losses.cross_entropy([Value(1.0), 2.0], label), lambda: jg.take([1.0, 2.0], label)):
        with pytest.raises(errors.LabelError, match=f"whole number from 0 to 1; got {number!s}"):
            call()
    with pytest.raises(errors.LabelError, match=rf"got {number!s} \(label 1\)"):
        losses.cross_entropy([[1.0, 2.0]] * 2, [0, label])
    with pytest.raises(errors.LabelError, match=rf"got {number!s} \(index 1\)"):
        jg.take([1.0, 2.0], [0, label])
    first, *others = (losses.cross_entropy([1.0, 2.0], whole) for whole in (1, 1.0, True))
    assert others == [first] * 2


def test_a_label_that_is_nearly_right_is_shown_whole() -> None:
    with pytest.raises(errors.LabelError, match=r"got 1\.0000001"):
        losses.hinge(0.5, 1.0000001)


def test_terms_come_in_what_the_sequences_were() -> None:
    for kind, terms in ((list, losses.mse([[1, 2], [3, 4]], [[0, 0], [0, 0]], "none")),
                        (np.ndarray, losses.mse(np.array([[1, 2], [3, 4]]), [[0, 0], [0, 0]], "none"))):
        assert type(terms) is kind
        assert np.asarray(terms).dtype == np.float64
        np.testing.assert_array_equal(terms, [[1, 4], [9, 16]])
    assert type(losses.cross_entropy(np.ones((2, 3)), np.array([0, 1]), "none")) is np.ndarray
    assert [type(v) for v in losses.hinge([Value(1.0), Value(2.0)], [1, -1], "none")] == [type(Value(1.0) * 1)] * 2


def test_softmax_and_logsumexp_answer_in_what_they_were_given() -> None:
    for x in ([1.0, 2.0], [[1.0, 2.0], [3.0, 4.0]], np.ones(2), np.ones((3, 2))):
        probabilities, total = jg.softmax(x), jg.logsumexp(x)
        assert type(probabilities) is type(x)
        assert np.shape(probabilities) == np.shape(x)
        assert np.asarray(probabilities).dtype == np.float64
        np.testing.assert_allclose(np.sum(probabilities, axis=-1), np.ones(np.shape(x)[:-1]))
        assert type(total) is (float if np.ndim(x) == 1 else type(x))
        np.testing.assert_allclose(total, np.log(np.sum(np.exp(x), axis=-1)))


def test_a_label_out_of_a_long_batch_is_found() -> None:
    labels = np.ones(20_000)
    labels[17_321] = 3.0
    with pytest.raises(errors.LabelError, match=r"got 3 \(example 17321 of"):
        jg.value_and_grad(losses.hinge, 0, (0, 0), device="cpu")(np.zeros(20_000), labels)


def test_wrong_shapes_and_options() -> None:
    with pytest.raises(errors.ShapeError, match=r"\(3,\) and \(2,\)"):
        losses.mse([1.0, 2.0, 3.0], [1.0, 2.0])
    with pytest.raises(errors.ShapeError, match=r"shape"):
        losses.hinge([1.0, 2.0], 1)
    with pytest.raises(errors.ShapeError):
        losses.cross_entropy([[1.0, 2.0]], [0, 1])
    with pytest.raises(errors.ShapeError, match="no examples"):
        losses.mse([], [])
    for loss in (losses.mse, losses.hinge, losses.huber, losses.binary_cross_entropy):
        with pytest.raises(errors.ArgumentError, match="'average'"):
            loss([1.0], [1.0], reduction="average")
    with pytest.raises(errors.ArgumentError, match="'average'"):
        losses.cross_entropy([1.0, 2.0], 0, reduction="average")
    for delta in (0.0, -1.0, math.nan):
        with pytest.raises(errors.ArgumentError, match="delta"):
            losses.huber(1.0, 2.0, delta)
