"""The referee itself: it passes what is right, and names the worst element of what is wrong."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import replace
from typing import Any

import numpy as np
import pytest

import jitgrad as jg
from jitgrad import errors, losses, testing
from jitgrad.compiler import graph
from jitgrad.compiler.graph import OPS, Op

X = np.random.default_rng(0).normal(size=(20, 3))
Y = np.where(X[:, 0] > 0, 1, -1)
PARAMS = {"W": np.random.default_rng(1).normal(size=(4, 3)), "v": np.linspace(-1.0, 1.0, 4), "b": 0.1}


def objective(params: Any, x: Any, y: Any) -> Any:
    return losses.hinge(params["v"] @ jg.tanh(params["W"] @ x) + params["b"], y)


@pytest.fixture
def sabotage() -> Iterator[Any]:
    """Exchange an operation of the table for one with other fields, everywhere, until the test is over."""
    kept = dict(OPS)

    def forget() -> None:
        graph.vjp_graph.cache_clear()
        graph.spelling_graph.cache_clear()

    def exchange(name: str, **fields: Any) -> Op:
        op = OPS[name]
        for field, value in fields.items():
            object.__setattr__(op, field, value)
        forget()
        return op
    originals = {name: replace(op) for name, op in kept.items()}
    yield exchange
    for name, op in originals.items():
        for field in op.__dataclass_fields__:
            object.__setattr__(OPS[name], field, getattr(op, field))
    forget()


@pytest.mark.parametrize("device", ["cpu", "interpret"])
@pytest.mark.parametrize("reduce", ["mean", "sum", None])
def test_a_right_gradient_passes(device: str, reduce: str | None) -> None:
    report = jg.testing.check_grads(objective, (PARAMS, X, Y), reduce=reduce, device=device)
    assert report.passed
    referees = {c.referee for c in report.comparisons}
    assert referees == ({"JAX", "central differences"} if reduce else {"JAX"})
    paths = " ".join(c.path for c in report.comparisons)
    for name in ("value", "params['W']", "params['v']", "params['b']"):
        assert name in paths
    assert "WRONG" not in str(report)


def test_float32_arguments_are_judged_in_float64() -> None:
    narrow = {name: np.float32(p) for name, p in PARAMS.items()}
    assert jg.testing.check_grads(objective, (narrow, X.astype(np.float32), Y)).passed


def test_a_kink_is_no_disagreement() -> None:
    report = jg.testing.check_grads(lambda w, x: jg.relu(w * x) + jg.maximum(w, -w), (0.0, np.array([1.0, -2.0])))
    assert report.passed


@pytest.mark.parametrize(("name", "wrong"), [
    ("tanh", lambda g, out, x: (g * (1.0 - out),)),
    ("mul", lambda g, out, x, y: (g * y, g * x * 1.0000001)),
    ("relu", lambda g, out, x: (g,))])
def test_a_wrong_derivative_rule_is_caught_with_its_worst_element(sabotage: Any, name: str, wrong: Any) -> None:
    sabotage(name, vjp=wrong)
    with pytest.raises(errors.GradientError, match=r"∂/∂params.* disagrees with") as caught:
        jg.testing.check_grads(lambda params, x, y: objective(params, x, y) * 2.0 + jg.relu(params["b"] * x[0]),
                               (PARAMS, X, Y), device="interpret")
    assert "WRONG" in str(caught.value)
    assert "allowed" in str(caught.value)


def test_a_kernel_that_is_wrong_alone_is_caught(monkeypatch: pytest.MonkeyPatch) -> None:
    from jitgrad.backends.cpu import CpuKernel
    from jitgrad.compiler.program import Results
    right = CpuKernel.__call__

    def wrong(self: CpuKernel, *args: Any) -> Results:
        results = right(self, *args)
        results.sums[3] *= 1.0 + 1e-8                       # one element of one gradient, in the ninth digit
        return results
    monkeypatch.setattr(CpuKernel, "__call__", wrong)
    assert jg.testing.check_grads(objective, (PARAMS, X, Y), device="interpret").passed
    with pytest.raises(errors.GradientError, match=r"∂/∂params\['W'\]\[0, 0\]|∂/∂params\['W'\]\[0, 1\]"):
        jg.testing.check_grads(objective, (PARAMS, X, Y), device="cpu")


def test_a_wrong_value_is_caught(sabotage: Any) -> None:
    sabotage("exp", value=lambda x: 1.0, numpy="cosh")
    with pytest.raises(errors.GradientError, match="value"):
        jg.testing.check_grads(lambda w, x: jg.exp(w * x), (0.5, np.ones(3)), device="interpret")


def test_nan_is_a_disagreement_unless_both_have_it() -> None:
    assert testing._compare("p", "JAX", np.array([np.nan, 1.0]), np.array([np.nan, 1.0]), 1e-10).passed
    assert testing._compare("p", "JAX", np.array([np.inf]), np.array([np.inf]), 1e-10).passed
    for ours, theirs in ((np.nan, 1.0), (1.0, np.nan), (np.inf, -np.inf), (np.inf, 1.0)):
        found = testing._compare("p", "JAX", np.array([0.0, ours]), np.array([0.0, theirs]), 1e-10)
        assert not found.passed
        assert found.path == "p[1]"
