"""The transformer of examples/scalar_transformer.py: a model in scalars against the same model in JAX's matrices."""

from __future__ import annotations

import re
import runpy
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
from referees import FLOAT64, assert_trees_close, forced

import jitgrad as jg
from jitgrad.compiler import products
from jitgrad.compiler.program import Program

EXAMPLES = Path(__file__).resolve().parent.parent / "examples"
OPTIONS = ["--float64", "--steps", "2", "--batch", "5", "--width", "8", "--heads", "2", "--layers", "2"]


@pytest.fixture(scope="module")
def example() -> SimpleNamespace:
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("sys.argv", ["scalar_transformer.py", *OPTIONS])
        return SimpleNamespace(**runpy.run_path(str(EXAMPLES / "scalar_transformer.py")))


def matrices(params: Any, name: Any, length: Any, heads: int) -> Any:
    """The loss of one name, all letters at once: attention is a masked matrix."""
    import jax
    import jax.numpy as jnp

    def norm(x: Any) -> Any:
        return x * (jnp.mean(x * x, axis=-1, keepdims=True) + 1e-5) ** -0.5

    count, width = len(name) - 1, params["letter"].shape[1]
    x = norm(params["letter"][name[:-1]] + params["place"])
    before = jnp.tril(jnp.ones((count, count), bool))
    for layer in params["layers"]:
        h = norm(x)
        query, key, value = ((h @ layer[n].T).reshape(count, heads, -1) for n in ("query", "key", "value"))
        scores = jnp.einsum("thd,shd->hts", query, key) / np.sqrt(width / heads)
        weights = jax.nn.softmax(jnp.where(before, scores, -jnp.inf), axis=-1)
        x = x + jnp.einsum("hts,shd->thd", weights, value).reshape(count, width) @ layer["mix"].T
        x = x + jax.nn.relu(norm(x) @ layer["grow"].T) @ layer["shrink"].T
    logits = x @ params["out"].T
    terms = jax.nn.logsumexp(logits, axis=-1) - logits[jnp.arange(count), name[1:]]
    return jnp.where(jnp.arange(count) < length, terms, 0.0).sum() / length


def test_the_gradient_is_that_of_the_model_in_matrices(example: SimpleNamespace) -> None:
    import jax

    with jax.enable_x64(True):
        step = jax.jit(jax.value_and_grad(lambda p, names, lengths: jax.vmap(
            lambda name, length: matrices(p, name, length, example.heads))(names, lengths).mean()))
        data = example.tokens[:9], example.lengths[:9]
        expected = jax.tree.map(np.asarray, step(example.params, *data))
    assert_trees_close(jg.value_and_grad(example.loss, device="cpu")(example.params, *data), expected, FLOAT64)
    # Few examples by the definition, since NumPy takes its time.
    few = [a[:2] for a in data]
    found, defined = (jg.value_and_grad(example.loss, device=d)(example.params, *few) for d in ("cpu", "interpret"))
    assert_trees_close(found, defined, 1e-12)


def test_padding_contributes_nothing(example: SimpleNamespace) -> None:
    step = jg.value_and_grad(example.loss, device="cpu")
    short = np.flatnonzero(example.lengths <= 5)[:20]
    data = example.tokens[short], example.lengths[short]
    value, grads = step(example.params, *data)
    np.testing.assert_array_equal(grads["place"][5:], np.zeros_like(grads["place"][5:]))
    assert grads["place"][:5].all()
    padded = data[0].copy()
    padded[np.arange(padded.shape[1]) > data[1][:, None]] = 7
    value_padded, grads_padded = step(example.params, padded, data[1])
    assert value_padded == value
    assert_trees_close(grads_padded, grads, 0.0)


def test_it_rolls(example: SimpleNamespace) -> None:
    """Fifty thousand scalars in a few hundred instructions, and the matrices as blocks of four."""
    data = example.tokens[:3], example.lengths[:3]
    program: Program = jg.value_and_grad(example.loss, device="interpret").lower(example.params, *data).program
    tape, _ = program.rolled
    nodes = len(program.graph.nodes)
    assert nodes > 50_000
    assert len(tape.instructions) < 1000
    tables = products.tabulate(tape, program.reduced_rows, np.zeros(0, np.int32))
    in_blocks = sum(rows * n for rows, n, _ in tables.reductions if rows == 4)
    weights = sum(w.size for layer in example.params["layers"] for w in layer.values())
    letters = example.tokens.shape[1] - 1
    assert in_blocks >= weights * letters, "every weight at every letter"


def test_the_first_letter_sees_itself_alone(example: SimpleNamespace) -> None:
    """Causality: a letter's scores do not depend, by a single bit, on what follows it."""
    name = example.tokens[:1, :-1].copy()
    scores = jg.jit(example.logits, reduce=None, device="cpu")
    before = scores(example.params, name)
    name[0, 4:] = (name[0, 4:] + 3) % len(example.alphabet)
    after = scores(example.params, name)
    np.testing.assert_array_equal(before[:, :4], after[:, :4])
    assert (before[:, 4:] != after[:, 4:]).any()


def test_one_program_serves_both_backends_of_the_cpu_and_any_batch(example: SimpleNamespace) -> None:
    with forced("cpu-tape") as device:
        step = jg.value_and_grad(example.loss, device=device, reduce="sum")
        whole, _ = step(example.params, example.tokens[:70], example.lengths[:70])
        parts = [step(example.params, example.tokens[lo:hi], example.lengths[lo:hi])[0] for lo, hi in ((0, 1), (1, 70))]
    assert len(step._recorded) == 1
    assert whole == pytest.approx(sum(parts), rel=1e-12)


def test_the_list_of_names() -> None:
    text = (EXAMPLES / "data" / "names.txt").read_text(encoding="utf-8")
    names = text.split()
    assert text == "\n".join(names) + "\n"
    assert names == sorted(set(names))
    assert len(names) > 1000
    assert all(re.fullmatch("[a-z]{2,11}", name) for name in names)
