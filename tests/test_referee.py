"""The referee itself: it passes what is right, and whatever is made wrong it refuses, naming the worst element."""

from __future__ import annotations

import dataclasses
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import numpy as np
import pytest
from referees import BACKENDS

import jitgrad as jg
from jitgrad import backends, errors, losses
from jitgrad import value as eager
from jitgrad.compiler import graph
from jitgrad.compiler.ops import OPS
from jitgrad.testing import check_grads

RANDOM = np.random.default_rng(8)
PARAMS = {"W": RANDOM.normal(size=(3, 2)), "b": [RANDOM.normal(size=3), 0.5]}
X, Y = RANDOM.normal(size=(7, 2)), RANDOM.choice([-1.0, 1.0], 7)


def network(params: Any, x: Any, y: Any) -> Any:
    hidden = jg.tanh(params["W"] @ x + params["b"][0])
    return (np.sum(hidden) * params["b"][1] - y) ** 2


@contextmanager
def sabotaged(name: str, **changes: Any) -> Iterator[None]:
    """Inside, an operation of the table has other fields; nothing of it stays behind in a cache."""
    op = OPS[name]
    before = {field: getattr(op, field) for field in changes}
    caches = [graph.vjp_graph, graph.spelling_graph, eager.reference, eager.derivative]

    def put(fields: dict[str, Any]) -> None:
        for field, value in fields.items():
            object.__setattr__(op, field, value)
        for cached in caches:
            cached.cache_clear()

    put(changes)
    try:
        yield
    finally:
        put(before)


@pytest.mark.parametrize("device", ["interpret", "cpu"])
def test_right_functions_pass(device: str) -> None:
    report = check_grads(network, (PARAMS, X, Y), device=device)
    assert report.passed
    assert report.device == device
    assert report.value == pytest.approx(jg.jit(network, in_axes=(None, 0, 0), device="interpret")(PARAMS, X, Y))
    paths = {c.path.split("[")[0] for c in report.comparisons}
    assert {"value", "∂/∂params"} <= paths
    assert {c.referee for c in report.comparisons} == {"JAX", "central differences"}
    text = str(report)
    assert "∂/∂params['W']" in text
    assert "∂/∂params['b'][1]" in text
    assert "WRONG" not in text
    assert report.worst.error <= report.worst.tolerance


def test_options_are_value_and_grads() -> None:
    for argnums, in_axes, reduce in [(1, None, "sum"), ((0, 1), (None, 0, 0), "mean"), (-1, None, "mean"),
                                     (0, None, None), (0, (None, 1, 0), "sum"), ((2, 0), None, "sum")]:
        x = X.T if in_axes == (None, 1, 0) else X
        if in_axes is None and argnums != 0:                # differentiated arguments are shared by default
            in_axes = (None, 0, 0)
        assert check_grads(network, (PARAMS, x, Y), argnums, in_axes, reduce, "interpret").passed
    narrow = {"W": PARAMS["W"].astype(np.float32), "b": [PARAMS["b"][0].astype(np.float32), 0.5]}
    assert check_grads(network, (narrow, X.astype(np.float32), Y), device="interpret").passed, "widened to float64"
    classes = np.array([0, 1, 2, 0, 1, 2, 0])
    assert check_grads(lambda w, x, k: losses.cross_entropy(w @ x, k), (PARAMS["W"], X, classes), device="interpret").passed


def test_kinks_and_infinities_are_not_mistaken_for_errors() -> None:
    x = np.array([-1.0, 0.0, 0.5])
    report = check_grads(lambda w, x: jg.relu(w * x) + jg.maximum(w, 1.0), (1.0, x), device="interpret")
    assert report.passed, str(report)
    assert check_grads(lambda w, x: w * jg.log(x + 1.0), (2.0, x), device="interpret").passed, "-inf on both sides"


def test_a_nan_that_jax_shares_is_still_refused() -> None:
    """The branch not taken divides 0 by 0 in the derivative: JAX does the same, and the slope is a plain 4 / 3."""
    with pytest.raises(errors.GradientError, match=r"central differences(.|\n)*jitgrad nan, central differences 1\.333"):
        check_grads(lambda w, x: jg.where(x > 0, w / x, w), (2.0, np.array([-1.0, 0.0, 0.5])), device="interpret")


@pytest.mark.parametrize("device", ["interpret", "cpu"])
def test_a_wrong_derivative_rule_is_refused(device: str) -> None:
    with sabotaged("tanh", vjp=lambda g, out, x: (g * (1.0 - out),)), pytest.raises(errors.GradientError) as caught:
        check_grads(network, (PARAMS, X, Y), device=device)
    text = str(caught.value)
    assert text.startswith("∂/∂params[")
    assert "of network disagrees with JAX" in text.splitlines()[0]
    assert isinstance(caught.value, AssertionError)
    wrong = [line for line in text.splitlines() if line.strip().startswith("WRONG")]
    assert any("∂/∂params['W']" in line and "JAX" in line for line in wrong)
    assert any("central differences" in line for line in wrong), "both referees see it"
    assert not any(" value " in line for line in wrong), "the value is right"
    assert "interpret" in text.splitlines()[-1]
    assert check_grads(network, (PARAMS, X, Y), device=device).passed, "the sabotage is over"


def test_the_worst_element_is_named() -> None:
    """Only the derivative of one element is wrong, by a known amount."""
    with sabotaged("sin", vjp=lambda g, out, x: (g * OPS["cos"](x) + 0.25,)), pytest.raises(errors.GradientError) as caught:
        check_grads(lambda p, x: p["a"][0] * x + jg.sin(p["a"][1] * 2.0) + p["c"],
                    ({"a": np.array([1.0, 0.3]), "c": 2.0}, Y), device="interpret")
    assert str(caught.value).startswith("∂/∂p['a'][1] of <lambda> disagrees with JAX")
    ours, theirs = 2 * np.cos(0.6) + 0.5, 2 * np.cos(0.6)
    line = next(t for t in str(caught.value).splitlines() if "WRONG" in t)
    assert f"jitgrad {str(ours)[:12]}" in line
    assert f"JAX {str(theirs)[:12]}" in line


def test_a_small_error_is_refused() -> None:
    """A relative error of 1e-8, which a plot or a training run would never show."""
    with sabotaged("exp", vjp=lambda g, out, x: (g * out * 1.00000001,)), pytest.raises(errors.GradientError):
        check_grads(lambda w, x: jg.exp(w * x), (0.7, Y), device="interpret")


@pytest.mark.parametrize("unit", [1e-15, 1.0, 1e12])
def test_the_unit_of_the_loss_does_not_matter(unit: float) -> None:
    """A wrong derivative is as wrong where all numbers are small, and a right one right."""
    def loss(w: Any, x: Any) -> Any:
        return unit * (jg.tanh(w * x) + jg.relu(w * x - 1.0))

    assert check_grads(loss, (0.7, Y), device="interpret").passed
    assert check_grads(loss, (1.0 / Y[0], Y[:1]), device="interpret").passed, "at the kink"
    with sabotaged("tanh", vjp=lambda g, out, x: (g * (1.0 - out),)), pytest.raises(errors.GradientError) as caught:
        check_grads(loss, (0.7, Y), device="interpret")
    assert str(caught.value).count("WRONG") == 2, "both referees see it"


def test_the_unit_of_a_parameter_does_not_matter() -> None:
    for w in (1e-9, 1e9):
        assert check_grads(lambda w, x, c=w: jg.exp(w / c * x), (w, Y), device="interpret").passed
    assert check_grads(lambda w, x: (w - x) ** 2, (1e-12, Y), device="interpret").passed, "it only happens to be small"


@pytest.mark.parametrize("name", ["mul", "relu", "where", "div", "log", "maximum", "take"])
def test_a_missing_factor_is_refused_in_any_operation(name: str) -> None:
    right = OPS[name].vjp

    def halved(*args: Any) -> Any:
        return tuple(0.5 * c for c in right(*args))

    def loss(w: Any, x: Any, k: Any) -> Any:
        picked = jg.take([w[0] * x, w[1] / (2.0 + x), jg.relu(w[2] * x + 1.5)], k)
        return jg.where(x > 0, jg.log(picked * picked + 0.5), jg.maximum(picked, w[0])) + 0.1 * picked

    args = np.array([0.4, -0.7, 1.1]), Y * 0.8, np.array([0, 1, 2, 2, 1, 0, 1])
    assert check_grads(loss, args, device="interpret").passed
    with sabotaged(name, vjp=halved), pytest.raises(errors.GradientError):
        check_grads(loss, args, device="interpret")


@dataclasses.dataclass
class WrongKernel:
    """A right kernel whose results are touched on the way out."""

    kernel: Any
    touch: Any

    def __call__(self, *args: Any) -> Any:
        return self.touch(self.kernel(*args))

    def as_text(self, form: str) -> str | None:
        return None


def test_a_wrong_kernel_is_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    """Derivative rules are right here: one sum of the kernel is off by a millionth."""
    make = backends.kernel

    def touched(place: int) -> Any:
        def touch(results: Any) -> Any:
            results.sums[place] *= 1.000001
            return results
        return lambda program, name: WrongKernel(make(program, name), touch) if name == "cpu" else make(program, name)

    monkeypatch.setattr(backends, "kernel", touched(1))
    with pytest.raises(errors.GradientError, match="value of network disagrees with JAX"):
        check_grads(network, (PARAMS, X, Y), device="cpu")
    monkeypatch.setattr(backends, "kernel", touched(2 + 4))
    with pytest.raises(errors.GradientError, match=r"∂/∂params\['W'\]\[2, 0\] of network disagrees with"):
        check_grads(network, (PARAMS, X, Y), device="cpu")
    assert check_grads(network, (PARAMS, X, Y), device="interpret").passed, "as the advice says: the kernel's error"


def test_nan_is_wrong_unless_both_say_so() -> None:
    with sabotaged("tanh", vjp=lambda g, out, x: (g * float("nan"),)), pytest.raises(errors.GradientError):
        check_grads(network, (PARAMS, X, Y), device="interpret")
    with sabotaged("tanh", vjp=lambda g, out, x: (g * float("inf"),)), pytest.raises(errors.GradientError):
        check_grads(network, (PARAMS, X, Y), device="interpret")


def test_a_wrong_value_is_refused_by_jax() -> None:
    with sabotaged("sigmoid", spelling=lambda x: 1.0 / (1.0 + OPS["exp"](-1.0001 * x))):
        backends.interpret.vectorised.cache_clear()
        try:
            with pytest.raises(errors.GradientError, match=r"disagrees with JAX(.|\n)*WRONG value"):
                check_grads(lambda w, x: jg.sigmoid(w * x), (0.5, Y), device="interpret")
        finally:
            backends.interpret.vectorised.cache_clear()


def test_bad_arguments_are_named() -> None:
    with pytest.raises(errors.DtypeError, match=r"args\[0\]\['W'\]"):
        check_grads(network, ({"W": np.array(["a"])}, X, Y), device="interpret")
    with pytest.raises(errors.ShapeError, match="batch sizes differ"):
        check_grads(network, (PARAMS, X, Y[:2]), device="interpret")


@pytest.mark.parametrize("backend", [b for b in BACKENDS if b != "cpu-tape"])
def test_every_device_can_be_checked(backend: str) -> None:
    assert check_grads(network, (PARAMS, X, Y), device=backend).device == backend
