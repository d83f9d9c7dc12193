"""jg.batch and closed-over Values: a kernel is one Value, its parents the parameters as they are at each call."""

from __future__ import annotations

import random
from typing import Any

import numpy as np
import pytest
from referees import FLOAT64, OURS, assert_close, forced

import jitgrad as jg
from jitgrad import Value, errors, losses, nn

RANDOM = np.random.default_rng(4)
N = 13
X, Y = RANDOM.normal(size=(N, 2)), RANDOM.choice([-1.0, 1.0], N)
ours = pytest.mark.parametrize("backend", OURS)


def network() -> nn.MLP:
    random.seed(3)
    return nn.MLP(2, [4, 3, 1])


def micrograds_loop(model: nn.MLP, reduce: str = "mean") -> Any:
    """The same total, one example at a time, node by node."""
    total = sum((1 + -yi * model(xi)).relu() for xi, yi in zip(X.tolist(), Y.tolist(), strict=True))
    return total * (1.0 / N) if reduce == "mean" else total


@ours
@pytest.mark.parametrize("reduce", ["mean", "sum"])
def test_a_fused_loss_is_micrograds_loop(reduce: str, backend: str) -> None:
    eager, fused = network(), network()
    expected = micrograds_loop(eager, reduce) + 1e-2 * sum(p * p for p in eager.parameters())
    expected.backward()
    with forced(backend) as device:
        objective = jg.batch(lambda x, y: losses.hinge(fused(x), y), reduce=reduce, device=device)
        data_loss = objective(X, Y)
    assert type(data_loss) is Value
    assert set(data_loss._prev) == set(fused.parameters())
    total = data_loss + 1e-2 * sum(p * p for p in fused.parameters())
    total.backward()
    assert_close(total.data, expected.data, FLOAT64)
    assert_close([p.grad for p in fused.parameters()], [p.grad for p in eager.parameters()], FLOAT64)
    assert any(p.grad for p in fused.parameters())


@ours
def test_training_reads_the_parameters_anew(backend: str) -> None:
    """micrograd's loop: zero_grad, backward, step, with data changed under a step that is recorded once."""
    eager, fused = network(), network()
    recordings = []

    def one(x: Any, y: Any) -> Any:
        recordings.append(1)
        return losses.hinge(fused(x), y)

    with forced(backend) as device:
        objective = jg.batch(one, device=device)
        for _ in range(5):
            total, expected = objective(X, Y), micrograds_loop(eager)
            assert_close(total.data, expected.data, FLOAT64)
            for model, root in ((fused, total), (eager, expected)):
                model.zero_grad()
                root.backward()
                for p in model.parameters():
                    p.data -= 0.3 * p.grad
        fused.parameters()[0].data = 7                      # an int, as micrograd allows
        eager.parameters()[0].data = 7
        assert_close(objective(X, Y).data, micrograds_loop(eager).data, FLOAT64)
    assert len(recordings) == 1


@ours
def test_a_fused_value_composes_on_both_sides(backend: str) -> None:
    """It may be an operand of anything, twice, and its parents may be used elsewhere."""
    a, b = Value(0.7), Value(-1.2)
    x = X[:, 0]
    with forced(backend) as device:
        mean = jg.batch(lambda x: (a * x + b) ** 2, device=device)(x)
        second = jg.batch(lambda x: jg.tanh(a * x), device=device, reduce="sum")(x)
    root = mean * mean * a + second / 2.0 + jg.exp(b)
    root.backward()
    m, by_a, by_b = ((0.7 * x - 1.2) ** 2).mean(), (2 * (0.7 * x - 1.2) * x).mean(), (2 * (0.7 * x - 1.2)).mean()
    t = np.tanh(0.7 * x)
    assert_close(root.data, m**2 * 0.7 + t.sum() / 2 + np.exp(-1.2), FLOAT64)
    assert_close(a.grad, 2 * m * by_a * 0.7 + m**2 + ((1 - t**2) * x).sum() / 2, FLOAT64)
    assert_close(b.grad, 2 * m * by_b * 0.7 + np.exp(-1.2), FLOAT64)


def test_gradients_add_to_what_is_there() -> None:
    a = Value(2.0)
    a.grad = 10.0
    made = jg.batch(lambda x: a * x, device="interpret")(X[:, 0])
    made.backward()
    made.backward()
    assert_close(a.grad, 10.0 + 2 * X[:, 0].mean(), FLOAT64)


def test_an_argument_may_be_shared_and_a_mini_batch_may_change_size() -> None:
    w = Value(1.5)
    objective = jg.batch(lambda x, scale: w * x * scale, in_axes=(0, None), device="interpret")
    for n in (N, 1, 4):
        made = objective(X[:n, 0], 3.0)
        assert_close(made.data, 4.5 * X[:n, 0].mean(), FLOAT64)
        w.grad = 0
        made.backward()
        assert_close(w.grad, 3 * X[:n, 0].mean(), FLOAT64)


def test_a_loss_without_values_is_a_leaf() -> None:
    made = jg.batch(lambda x: x * x, device="interpret")(X[:, 0])
    assert made._prev == ()
    made.backward()
    assert_close(made.data, (X[:, 0] ** 2).mean(), FLOAT64)


def test_a_batch_is_one_number() -> None:
    with pytest.raises(errors.ArgumentError, match="reduce=None"):
        jg.batch(lambda x: x, reduce=None)
    with pytest.raises(errors.ShapeError, match="one scalar"):
        jg.batch(lambda x: [x, x], device="interpret")(X)


# Values closed over by the other transforms.


@ours
def test_closed_over_values_are_read_at_each_call(backend: str) -> None:
    scale, offset = Value(2.0, label="scale"), Value(1)
    with forced(backend) as device:
        step = jg.value_and_grad(lambda w, x: (w * scale + offset) * x, device=device)
        predict = jg.jit(lambda x: scale * x + offset, in_axes=0, reduce=None, device=device)
        for s, o in [(2.0, 1), (-3.5, 0.25), (0.0, 4)]:
            scale.data, offset.data = s, o
            value, grad = step(5.0, X[:, 0])
            assert_close(value, ((5.0 * s + o) * X[:, 0]).mean(), FLOAT64)
            assert_close(grad, (s * X[:, 0]).mean(), FLOAT64)
            assert_close(predict(X[:, 0]), s * X[:, 0] + o, FLOAT64)
    assert scale.grad == 0, "value_and_grad differentiates its arguments alone"


def test_values_as_arguments() -> None:
    """A list of Values is a pytree of numbers; they are read, not captured."""
    params = [Value(1.0), Value(2.0)]
    step = jg.value_and_grad(lambda p, x: p[0] * x + p[1], device="interpret")
    value, grads = step(params, X[:, 0])
    assert_close(value, (X[:, 0] + 2).mean(), FLOAT64)
    assert_close(grads, [X[:, 0].mean(), 1.0], FLOAT64)
    params[1].data = 5.0
    assert_close(step(params, X[:, 0])[0], (X[:, 0] + 5).mean(), FLOAT64)


def test_mixed_eager_and_traced_operands() -> None:
    w = Value(0.5)

    def loss(x: Any) -> Any:
        eager_only = w * 2.0 + 1.0                          # an expression of Values alone, made while recording
        picked = jg.where(x > w, x - w, w / x)
        return picked + eager_only * x + np.sum(np.array([w, x, 1.0], object)) + (w < x) * 1.0

    x = np.abs(X[:, 0]) + 0.1
    found = jg.jit(loss, in_axes=0, reduce=None, device="interpret")(x)
    assert_close(found, np.where(x > 0.5, x - 0.5, 0.5 / x) + 2 * x + 0.5 + x + 1 + (x > 0.5), FLOAT64)


def test_an_expression_of_captured_values_is_not_frozen() -> None:
    """w * 2 inside the function is computed from w as it is at the call, and differentiated."""
    w = Value(0.5)

    def one(x: Any) -> Any:
        doubled = w * 2.0
        doubled += w - w
        return jg.exp(doubled / 1) * x

    objective = jg.batch(one, device="interpret")
    for data in (0.5, -1.0):
        w.data, w.grad = data, 0
        made = objective(X[:, 0])
        made.backward()
        assert_close(made.data, np.exp(2 * data) * X[:, 0].mean(), FLOAT64)
        assert_close(w.grad, 2 * np.exp(2 * data) * X[:, 0].mean(), FLOAT64)
    assert objective(X[:, 0])._prev == (w,), "numbers beside w are constants, not parents"


def test_a_regulariser_inside_the_loss() -> None:
    eager, fused = network(), network()
    objective = jg.batch(lambda x, y: losses.hinge(fused(x), y) + 0.1 * sum(p * p for p in fused.parameters()),
                         device="cpu")
    for _ in range(3):
        expected = micrograds_loop(eager) + 0.1 * sum(p * p for p in eager.parameters())
        total = objective(X, Y)
        assert_close(total.data, expected.data, FLOAT64)
        for model, root in ((fused, total), (eager, expected)):
            model.zero_grad()
            root.backward()
            for p in model.parameters():
                p.data -= 0.1 * p.grad
        assert_close([p.grad for p in fused.parameters()], [p.grad for p in eager.parameters()], FLOAT64)


def test_a_derived_value_made_outside_is_a_parameter_of_its_own() -> None:
    """Scaled initial weights (Value * number) are trained as they are, not through the number they were made from."""
    w = Value(2.0) * 0.5
    objective = jg.batch(lambda x: w * x, device="interpret")
    made = objective(X[:, 0])
    made.backward()
    assert_close(w.grad, X[:, 0].mean(), FLOAT64)
    w.data = 3.0
    assert_close(objective(X[:, 0]).data, 3 * X[:, 0].mean(), FLOAT64)


def test_a_branch_on_a_closed_over_value_is_an_error() -> None:
    w = Value(1.0)
    for wrong in (lambda x: x if w > 0 else -x, lambda x: x * max(w, Value(2.0)), lambda x: x * float(w)):
        with pytest.raises(errors.TraceError, match=r"test_batch.py:\d+"):
            jg.batch(wrong, device="interpret")(X[:, 0])
    assert (w > 0).data is True, "eager again once the recording is over"
    assert float(w * 2) == 2.0
