"""Dropout, and the noise that `fit` draws for it: what is dropped is data."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
from referees import assert_trees_close

import jitgrad as jg
from jitgrad import losses, nn, optim
from jitgrad.errors import ArgumentError, ShapeError


def dropped(p: float = 0.3) -> Any:
    return nn.Sequential(nn.Linear(2, 8, "tanh", seed=0), nn.Dropout(8, p), nn.Linear(8, 1, seed=1))


MODEL = dropped()
X = np.random.default_rng(3).normal(size=(45, 2))
Y = X[:, 0] * X[:, 1]


def objective(params: Any, x: Any, y: Any, masks: Any) -> Any:
    return losses.mse(MODEL.bind(params, masks)(x)[0], y)


def quick(**options: Any) -> Any:
    options = {"noise": MODEL.masks, "epochs": 6, "batch_size": 10, "progress": False, **options}
    return jg.fit(objective, MODEL.arrays(), (X, Y), **options)


def test_dropout_is_never_silently_left_out() -> None:
    for model in (MODEL, MODEL.bind(MODEL.arrays())):
        with pytest.raises(ArgumentError, match=r"without being told whether this is training(.|\n)*noise=model.masks"):
            model(X[0])
    with pytest.raises(TypeError, match="masks"):
        jg.fit(objective, MODEL.arrays(), (X, Y), progress=False)
    with pytest.raises(ArgumentError, match=r"There is no mask for layers\.1\.keep"):
        MODEL.bind(None, {})
    with pytest.raises(ShapeError, match=r"layers\.1\.keep has shape \(1, 8\)"):
        MODEL.bind(None, MODEL.masks(np.random.default_rng(0), 1))


def test_masks_are_reproducible_and_as_frequent_as_they_should_be() -> None:
    (name, drawn), = dropped(0.3).masks(np.random.default_rng(0), 5000).items()
    assert (name, drawn.shape, drawn.dtype) == ("layers.1.keep", (5000, 8), bool)
    assert drawn.mean() == pytest.approx(0.7, abs=5 * np.sqrt(0.21 / drawn.size))
    np.testing.assert_array_equal(drawn, dropped(0.3).masks(np.random.default_rng(0), 5000)[name])
    assert nn.Dropout(3, 0.0).masks(np.random.default_rng(0), 1000)["keep"].all()
    assert nn.MLP(2, [1]).masks(np.random.default_rng(0), 7) == {}


def test_what_is_dropped_is_nothing_even_of_an_infinity() -> None:
    layer = nn.Dropout(2, 0.5)
    step = jg.value_and_grad(lambda x, keep: sum(layer.bind(None, {"keep": keep})(x)), in_axes=(0, 0), reduce=None)
    value, grads = step(np.array([[np.inf, 3.0], [1.0, np.nan]]), np.array([[False, True], [True, False]]))
    assert value.tolist() == [6.0, 2.0]
    assert grads.tolist() == [[0.0, 2.0], [2.0, 0.0]]


def test_each_epochs_noise_is_the_seeds_and_the_epochs(tmp_path: Path) -> None:
    calls: list[dict[str, Any]] = []

    def noise(generator: np.random.Generator, examples: int) -> Any:
        calls.append(MODEL.masks(generator, examples))
        return calls[-1]
    whole = quick(noise=noise)
    assert len(calls) == 6
    assert len({call["layers.1.keep"].tobytes() for call in calls}) == 6
    assert quick().losses == whole.losses
    assert quick(noise=noise, seed=1).losses != whole.losses
    assert len({call["layers.1.keep"].tobytes() for call in calls}) == 12, "another seed, other noise"
    by_hand = quick(optimizer=optim.Optimizer(optim.adam(1e-2).init, optim.adam(1e-2).update))  # from Python, step by step
    assert by_hand.losses == whole.losses
    quick(epochs=4, checkpoint=tmp_path / "run.safetensors")
    rest = quick(checkpoint=tmp_path / "run.safetensors", resume=True)
    assert (rest.resumed, rest.losses) == (4, whole.losses)
    assert_trees_close(rest.params, whole.params, 0.0)
    both = jg.fit(objective, lambda seed: MODEL.arrays(), (X, Y), noise=MODEL.masks, epochs=6, batch_size=10, ensemble=2,
                  progress=False)
    assert both[0].result.losses == whole.losses
    assert both[1].result.losses == quick(seed=1).losses


@pytest.mark.parametrize("batch_size", [None, 10])
@pytest.mark.parametrize("device", ["cpu", "interpret"])
def test_a_training_with_noise_is_the_loop_written_out(batch_size: int | None, device: str) -> None:
    """Minibatches as without noise, each example with its own mask."""
    weights = np.linspace(0.5, 1.5, len(X))
    result = quick(batch_size=batch_size, device=device, sample_weight=weights, epochs=3, validation=(X[:9], Y[:9]))
    step = jg.value_and_grad(lambda p, x, y, m, w: w * objective(p, x, y, m), device="interpret")
    optimizer, params = optim.adam(1e-2), MODEL.arrays()
    state, shuffles = optimizer.init(params), np.random.default_rng(0)
    for epoch in range(3):
        masks = MODEL.masks(np.random.default_rng([0, 0xD015E, epoch]), len(X))
        order = np.arange(len(X)) if batch_size is None else shuffles.permutation(len(X))
        for start in range(0, len(X), batch_size or len(X)):
            rows = order[start:start + (batch_size or len(X))]
            _, grads = step(params, X[rows], Y[rows], {n: m[rows] for n, m in masks.items()}, weights[rows])
            params, state = optimizer.update(grads, state, params)
    assert_trees_close(result.params, params, 1e-12)
    evaluated = jg.jit(lambda p, x, y: objective(p, x, y, None))(params, X[:9], Y[:9])
    assert result.validation_losses[-1] == pytest.approx(float(evaluated), rel=1e-12)


def test_noise_of_any_kind() -> None:
    """Two arrays in a tuple; and a held-out part that draws none."""
    def objective(params: Any, x: Any, y: Any, noise: Any) -> Any:
        shift, scale = (0.0, 1.0) if noise is None else noise
        return losses.mse((params["w"] @ x) * scale + shift, y)
    sizes = []

    def noise(generator: np.random.Generator, examples: int) -> Any:
        sizes.append(examples)
        return generator.normal(size=examples), generator.uniform(0.5, 1.5, examples)
    result = jg.fit(objective, {"w": np.zeros(2)}, (X, Y), noise=noise, validation=0.2, epochs=2, progress=False)
    assert sizes == [36, 36]
    assert len(result.validation_losses) == 2


@pytest.mark.parametrize(("noise", "kind", "says"), [
    (0.5, ArgumentError, r"noise must be a function(.|\n)*noise=model\.masks"),
    (lambda generator, n: generator.random((n - 1, 3)), ShapeError, "noise has 44 examples, and data 45"),
    (lambda generator, n: np.full(n, np.nan), jg.errors.DataError, r"noise\[0\]\[0\] is nan"),
])
def test_noise_that_makes_no_sense(noise: Any, kind: type[Exception], says: str) -> None:
    with pytest.raises(kind, match=says):
        quick(noise=noise)
