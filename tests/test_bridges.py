"""A jitgrad step inside PyTorch and JAX gives the values and gradients of the same formula written in them."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pytest

import jitgrad as jg
from jitgrad.bridges import jax_function, torch_function
from jitgrad.errors import ArgumentError, DtypeError


def network(params: Any, x: Any, y: Any) -> Any:
    hidden = jg.tanh(params["W"] @ x + params["b"])
    return jg.losses.mse(params["v"] @ hidden, y)


def problem(n: int = 50) -> tuple[dict[str, Any], Any, Any]:
    rng = np.random.default_rng(0)
    params = {"W": rng.normal(size=(8, 2)), "b": rng.normal(size=8), "v": rng.normal(size=8)}
    return params, rng.normal(size=(n, 2)), rng.normal(size=n)


@pytest.fixture(name="torch")
def _torch() -> Any:
    return pytest.importorskip("torch")


def tensors(torch: Any, params: Any) -> Any:
    return {name: torch.tensor(array, requires_grad=True) for name, array in params.items()}


def terms_in_torch(torch: Any, params: Any, x: Any, y: Any) -> Any:
    return (torch.tanh(x @ params["W"].T + params["b"]) @ params["v"] - y) ** 2


@pytest.mark.parametrize("reduce", ["mean", "sum"])
def test_torch_backward_goes_through(torch: Any, reduce: str) -> None:
    params, X, Y = problem()
    ours, theirs = tensors(torch, params), tensors(torch, params)
    x, y = torch.tensor(X), torch.tensor(Y)
    step = torch_function(network, reduce=reduce)
    # Before and after the step there is more of PyTorch's graph.
    loss = 3.0 * step({**ours, "v": 2.0 * ours["v"]}, x, y) ** 2
    terms = terms_in_torch(torch, {**theirs, "v": 2.0 * theirs["v"]}, x, y)
    expected = 3.0 * (terms.mean() if reduce == "mean" else terms.sum()) ** 2
    torch.testing.assert_close(loss, expected, rtol=1e-12, atol=0.0)
    loss.backward()
    expected.backward()
    for name in params:
        torch.testing.assert_close(ours[name].grad, theirs[name].grad, rtol=1e-10, atol=1e-12)


def test_torch_per_example(torch: Any) -> None:
    params, X, Y = problem()
    ours, theirs = tensors(torch, params), tensors(torch, params)
    x, other = (torch.tensor(X.T.copy(), requires_grad=True) for _ in range(2))
    y, weight = torch.tensor(Y), torch.arange(50.0, dtype=torch.float64)
    values = torch_function(network, argnums=(0, 1), in_axes=(None, 1, 0), reduce=None)(ours, x, y)
    expected = terms_in_torch(torch, theirs, other.T, y)
    torch.testing.assert_close(values, expected, rtol=1e-12, atol=0.0)
    (weight * values).sum().backward()
    (weight * expected).sum().backward()
    for name in params:
        torch.testing.assert_close(ours[name].grad, theirs[name].grad, rtol=1e-10, atol=1e-12)
    torch.testing.assert_close(x.grad, other.grad, rtol=1e-10, atol=1e-12)


def test_torch_trains_a_model_of_both(torch: Any) -> None:
    """A PyTorch layer below, jitgrad's per-example loss above, PyTorch's optimizer around."""
    torch.manual_seed(0)
    inputs, label = torch.randn(64, 3), torch.arange(64) % 2 * 2 - 1
    layer = torch.nn.Linear(3, 1)
    hinge = torch_function(lambda score, y: jg.losses.hinge(score[0], y), argnums=0, in_axes=(0, 0))
    optimizer = torch.optim.SGD(layer.parameters(), 0.1)
    for _ in range(3):
        optimizer.zero_grad()
        loss = hinge(layer(inputs), label)
        loss.backward()
        scores = layer(inputs)[:, 0]
        expected = torch.autograd.grad(torch.relu(1.0 - label * scores).mean(), layer.weight)[0]
        torch.testing.assert_close(layer.weight.grad, expected)
        assert loss.dtype == torch.float32
        optimizer.step()


def test_torch_computes_the_value_alone_where_no_gradient_is_asked_for(torch: Any) -> None:
    params, X, Y = problem()
    value = torch_function(network)(params, torch.tensor(X), Y)
    assert not value.requires_grad
    with torch.no_grad():
        again = torch_function(network)(tensors(torch, params), X, Y)
    assert not again.requires_grad
    assert float(value) == float(again) == jg.jit(network)(params, X, Y)


def test_torch_refuses_what_it_would_not_differentiate(torch: Any) -> None:
    params, X, Y = problem()
    with pytest.raises(ArgumentError, match=r"differentiated by argument 0 alone, but argument 1"):
        torch_function(network)(tensors(torch, params), torch.tensor(X, requires_grad=True), Y)
    with pytest.raises(DtypeError, match="bfloat16 on cpu"):
        torch_function(network)(params, torch.tensor(X).bfloat16(), Y)
    own = tensors(torch, params)
    loss = torch_function(network)(own, torch.tensor(X), torch.tensor(Y))
    with pytest.raises(ArgumentError, match="no second derivative"):
        torch.autograd.grad(loss, own["b"], create_graph=True)


# JAX.


@pytest.fixture
def _float64() -> Iterator[None]:
    with jax.enable_x64(True):
        yield


def terms_in_jax(params: Any, x: Any, y: Any) -> Any:
    return (jnp.tanh(x @ params["W"].T + params["b"]) @ params["v"] - y) ** 2


def assert_same(found: Any, expected: Any, rtol: float = 1e-10) -> None:
    assert jax.tree.structure(found) == jax.tree.structure(expected)
    for a, b in zip(jax.tree.leaves(found), jax.tree.leaves(expected), strict=True):
        assert a.dtype == b.dtype
        np.testing.assert_allclose(a, b, rtol=rtol, atol=1e-12)


@pytest.mark.usefixtures("_float64")
@pytest.mark.parametrize("compiled", [False, True], ids=["eager", "jitted"])
@pytest.mark.parametrize("reduce", ["mean", "sum"])
def test_jax_gradients_go_through(reduce: str, compiled: bool) -> None:
    params, X, Y = jax.tree.map(jnp.asarray, problem())
    step = jax_function(network, reduce=reduce)

    def ours(p: Any) -> Any:
        return 3.0 * step({**p, "v": 2.0 * p["v"]}, X, Y) ** 2

    def theirs(p: Any) -> Any:
        return 3.0 * getattr(jnp, reduce)(terms_in_jax({**p, "v": 2.0 * p["v"]}, X, Y)) ** 2

    wrap = jax.jit if compiled else lambda f: f
    assert_same(wrap(ours)(params), theirs(params))
    assert_same(wrap(jax.value_and_grad(ours))(params), jax.value_and_grad(theirs)(params))


@pytest.mark.usefixtures("_float64")
def test_jax_per_example() -> None:
    params, X, Y = jax.tree.map(jnp.asarray, problem())
    weight = jnp.arange(50.0)
    step = jax_function(network, argnums=(0, 1), in_axes=(None, 1, 0), reduce=None)
    assert_same(jax.jit(step)(params, X.T, Y), terms_in_jax(params, X, Y))
    found = jax.grad(lambda p, x: jnp.sum(weight * step(p, x, Y)), argnums=(0, 1))(params, X.T)
    expected = jax.grad(lambda p, x: jnp.sum(weight * terms_in_jax(p, x.T, Y)), argnums=(0, 1))(params, X.T)
    assert_same(found, expected)


@pytest.mark.usefixtures("_float64")
def test_jax_vmap() -> None:
    params, X, Y = jax.tree.map(jnp.asarray, problem(5))
    step = jax_function(network)
    each = jax.vmap(jax.value_and_grad(lambda p, x, y: step(p, x[None], y[None])), in_axes=(None, 0, 0))
    expected = jax.vmap(jax.value_and_grad(lambda p, x, y: terms_in_jax(p, x, y)), in_axes=(None, 0, 0))
    assert_same(each(params, X, Y), expected(params, X, Y))


def test_jax_in_float32_with_integer_labels() -> None:
    rng = np.random.default_rng(0)
    W, X = jnp.asarray(rng.normal(size=(3, 4)), jnp.float32), jnp.asarray(rng.normal(size=(30, 4)), jnp.float32)
    label = jnp.arange(30) % 3
    step = jax_function(lambda W, x, y: jg.losses.cross_entropy(W @ x, y))

    def theirs(W: Any) -> Any:
        return -jnp.take_along_axis(jax.nn.log_softmax(X @ W.T), label[:, None], axis=1).mean()

    found = jax.jit(jax.value_and_grad(lambda W: step(W, X, label)))(W)
    assert_same(found, jax.value_and_grad(theirs)(W), rtol=1e-5)


def test_jax_refuses_what_it_would_not_differentiate() -> None:
    params, X, Y = jax.tree.map(lambda a: jnp.asarray(a, jnp.float32), problem())
    step = jax_function(network)
    with pytest.raises(ArgumentError, match=r"differentiated by argument 0 alone, but argument 1"):
        jax.grad(lambda x: step(params, x, Y))(X)
    assert jnp.isfinite(jax.grad(lambda p: step(p, jax.lax.stop_gradient(X), Y))(params)["b"]).all()


# Arrays of others as arguments.


def test_torch_and_jax_arrays_are_read_where_they_lie(torch: Any) -> None:
    params, X, Y = problem()
    expected = jg.value_and_grad(network)(params, X, Y)
    with jax.enable_x64(True):
        jax_args = jax.tree.map(jnp.asarray, (params, X, Y))
    for args in (({k: torch.tensor(v) for k, v in params.items()}, torch.tensor(X), torch.tensor(Y)), jax_args):
        value, grads = jg.value_and_grad(network)(*args)
        assert value == expected[0]
        for name in params:
            np.testing.assert_array_equal(grads[name], expected[1][name])
    from jitgrad.arguments import as_array
    tensor = torch.tensor(X)
    assert np.shares_memory(as_array(tensor, lambda: "x"), tensor.numpy())


def test_tensors_that_cannot_be_read_are_explained(torch: Any) -> None:
    params, X, Y = problem()
    with pytest.raises(DtypeError, match=r"argument params\['W'\], a Tensor, cannot be read[^.]*requires grad"):
        jg.value_and_grad(network)(tensors(torch, params), X, Y)
    with pytest.raises(DtypeError, match=r"argument x, a Tensor, cannot be read as an array of numbers: .*BFloat16"):
        jg.value_and_grad(network)(params, torch.tensor(X).bfloat16(), Y)
