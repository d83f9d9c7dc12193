"""JAX as a backend and as the referee: the loss graph node by node as JAX operations, differentiated by JAX itself.

Neither the tape nor a derivative rule of ours is used, so that agreement with it means something.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from functools import cache, cached_property
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import numpy.typing as npt

from jitgrad.compiler.graph import Op, live, spelling_graph
from jitgrad.compiler.program import Program, Results

Array = npt.NDArray[Any]


@cache
def lowered(op: Op) -> Callable[..., Any]:
    """The operation as JAX names it: "nn.relu", "lax.erf", else jax.numpy's; by its formula where JAX has no name."""
    if op.name == "sum":
        return lambda *terms: sum(terms[1:], terms[0])
    if op.name == "take":
        def take(index: Any, *rows: Any) -> Any:
            table = jnp.stack(rows)
            at = index.astype(int) if hasattr(index, "astype") else int(index)
            inside = (index >= 0) & (index < len(rows))
            return jnp.where(inside, table[jnp.clip(at, 0, len(rows) - 1)], jnp.nan)
        return take
    function: Any = jax if "." in op.jax else jnp
    for part in op.jax.split("."):
        function = getattr(function, part, None)
    if function is None:
        return _spelled(op)
    if not op.conditions:
        return function  # type: ignore[no-any-return]
    return lambda *args: function(*(a != 0 if k in op.conditions else a for k, a in enumerate(args)))


def _spelled(op: Op) -> Callable[..., Any]:
    """An operation that JAX has no name for, by the table's formula; JAX still differentiates it by itself."""
    rule = spelling_graph(op)

    def spelled(*args: Any) -> Any:
        return rule.evaluate(args, lambda n: jnp.asarray(n.payload, bool if n.kind == "bool" else args[0].dtype),
                             lambda op, xs: lowered(op)(*xs))[0]
    return spelled


# XLA compiles straight-line code in more than linear time; larger graphs run operation by operation.
COMPILED_NODES = 4_000


class JaxKernel:
    """A program lowered to JAX."""

    def __init__(self, program: Program):
        self.program = program
        self.nodes = live([program.failures, *program.values])

    def one_example(self, *leaves: Any) -> tuple[Any, Any]:
        """(values[0] or None, (failures, all values)) of one example, from arrays shaped (width,)."""
        program = self.program
        real = program.dtype
        env: dict[Any, Any] = {}
        number = {leaf.first: k for k, leaf in enumerate(program.leaves)}
        for n in self.nodes:
            if n.op.name == "input":
                leaf, element = program.leaf_of(n.payload)
                env[n] = leaves[number[leaf.first]][element]
            elif n.op.name == "constant":
                env[n] = jnp.asarray(n.payload, bool if n.kind == "bool" else real)
            else:
                args = [env[a] for a in n.args]
                if n.kind != "bool" and n.op.name not in ("where",):
                    args = [a.astype(real) if a.dtype == bool and k not in n.op.conditions else a
                            for k, a in enumerate(args)]
                env[n] = lowered(n.op)(*args)
        values = [env[n].astype(real) for n in program.values]
        return values[0] if values else None, (env[program.failures].astype(real), values)

    @cached_property
    def _batch(self) -> Callable[..., Any]:
        program = self.program
        axes = tuple(None if leaf.shared else 0 for leaf in program.leaves)

        def example(*leaves: Any) -> Any:
            if program.wrt:
                (_, (failed, values)), grads = jax.value_and_grad(self.one_example, tuple(program.wrt),
                                                                  has_aux=True)(*leaves)
            else:
                _, (failed, values) = self.one_example(*leaves)
                grads = ()
            if program.divisor is not None:
                grads = [g if program.leaves[k].shared else g / leaves[program.divisor][0]
                         for k, g in zip(program.wrt, grads, strict=True)]
            stacked = jnp.stack(values) if values else jnp.zeros(0, program.dtype)
            return (failed[None], stacked, *grads)

        def whole(*leaves: Any) -> Any:
            size = None if any(a == 0 for a in axes) else 1
            results = jax.vmap(example, axes, axis_size=size)(*leaves)
            return tuple(r.sum(axis=0) if reduced else r for r, reduced in zip(results, program.reduced, strict=True))
        return jax.jit(whole) if len(self.nodes) <= COMPILED_NODES else whole

    def __call__(self, shared: Array, batched: list[Array], n: int, out: Sequence[Array | None] = ()) -> Results:
        program, arrays = self.program, iter(batched)
        with jax.enable_x64(program.dtype == np.float64):
            leaves = []
            for leaf in program.leaves:
                if leaf.shared:
                    at = program.shared_offset[leaf.first]
                    leaves.append(jnp.asarray(shared[at:at + leaf.width]))
                else:
                    leaves.append(jnp.asarray(next(arrays)))
            results = self._batch(*leaves)
            found = [np.array(r) for r in results]      # copies: JAX's own arrays cannot be written to
        sums = [r for r, reduced in zip(found, program.reduced, strict=True) if reduced]
        return Results(np.concatenate(sums, dtype=np.float64),
                       [r for r, reduced in zip(found, program.reduced, strict=True) if not reduced])

    def as_text(self, form: str) -> str | None:
        """"jaxpr": what JAX was asked to run, for a batch of two."""
        if form != "jaxpr":
            return None
        program = self.program
        args = [jax.ShapeDtypeStruct((leaf.width,) if leaf.shared else (2, leaf.width), program.dtype)
                for leaf in program.leaves]
        with jax.enable_x64(program.dtype == np.float64):
            return str(jax.make_jaxpr(self._batch)(*args))
