"""A jitgrad step inside PyTorch and JAX: a function that their own autograd differentiates.

Value and gradient come from one kernel call; the framework's chain rule takes over from there, on both sides.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import numpy as np
import numpy.typing as npt

from jitgrad import errors
from jitgrad.api import Argnums, Transformed, jit, value_and_grad
from jitgrad.arguments import Axes, Bound, flatten, unflatten, whole_numbers

Array = npt.NDArray[Any]


class _Step:
    """Value and gradients of an objective, as flat lists of arrays."""

    def __init__(self, objective: Callable[..., Any], argnums: Argnums, in_axes: Any, reduce: str | None, device: str):
        self.numbers = whole_numbers(argnums)
        self.in_axes, self.name = in_axes, getattr(objective, "__name__", "function")
        self.with_gradient: Transformed = value_and_grad(objective, self.numbers, in_axes, reduce, device)
        self.alone: Transformed = jit(objective, self.numbers, in_axes, reduce, device)
        self.per_example = reduce is None

    def describe(self, args: Sequence[Any]) -> tuple[list[int], list[int | None], Bound]:
        """(which leaves of the arguments are differentiated, their batch axes, the arguments as jitgrad sees them)."""
        numbers = [k % len(args) for k in self.numbers]
        bound = Bound(args, Axes(self.in_axes, numbers), [f"argument {k}" for k in range(len(args))])
        wanted = [k for number in numbers for k, owner in enumerate(bound.owners()) if owner == number]
        return wanted, [bound.axes[k] for k in wanted], bound

    def value_and_gradients(self, args: Sequence[Any]) -> tuple[Any, list[Any]]:
        """The value, and the gradient of each leaf that is differentiated."""
        value, gradients = self.with_gradient(*args)
        return value, flatten(gradients)[0]

    def refuse(self, number: int) -> errors.ArgumentError:
        """The error for a leaf that the framework would differentiate and this step does not."""
        return errors.ArgumentError(errors.explain(
            f"{self.name} is differentiated by argument {', '.join(map(str, self.numbers))} alone, but argument {number} "
            f"asks for a gradient too.", f"argnums={self.numbers}", "Add it to argnums, or pass it detached."))


def torch_function(objective: Callable[..., Any], argnums: Argnums = 0, in_axes: Any = None,
                   reduce: str | None = "mean", device: str = "auto") -> Callable[..., Any]:
    """An objective written for one example, as a function of PyTorch tensors that `loss.backward()` goes through.

    objective, argnums, in_axes, reduce, device: as in `jg.value_and_grad`
    returns: a function of pytrees of CPU tensors (read without a copy) and numbers; it answers a tensor, () or, for
        reduce=None, (n,), of the dtype that is computed in. With no gradient asked for it computes the value alone.
    raises: ArgumentError where an argument outside `argnums` requires a gradient, and for create_graph=True; DtypeError
        for tensors on a GPU or of a dtype that NumPy does not know
    """
    import torch

    step = _Step(objective, argnums, in_axes, reduce, device)

    class JitgradStep(torch.autograd.Function):  # type: ignore[misc]
        @staticmethod
        def forward(ctx: Any, structure: Any, plain: list[Any], *tensors: Any) -> Any:
            args = unflatten(structure, plain)
            wanted, axes, bound = step.describe(args)
            owners = bound.owners()
            for k, needed in enumerate(ctx.needs_input_grad[2:]):
                if needed and k not in wanted:
                    raise step.refuse(owners[k])
            value, gradients = step.value_and_gradients(args)
            ctx.places, ctx.axes, ctx.count = wanted, axes, len(tensors)
            ctx.save_for_backward(*map(torch.as_tensor, gradients))
            return torch.as_tensor(np.asarray(value))

        @staticmethod
        def backward(ctx: Any, cotangent: Any) -> Any:
            if torch.is_grad_enabled():                     # create_graph=True: the result would silently lack a part
                raise errors.ArgumentError(errors.explain(
                    f"{step.name} is compiled with its gradient and has no second derivative.", "create_graph=True",
                    "Leave create_graph out, or write this part in PyTorch."))
            found: list[Any] = [None] * ctx.count
            for k, axis, gradient in zip(ctx.places, ctx.axes, ctx.saved_tensors, strict=True):
                if not ctx.needs_input_grad[2 + k]:
                    continue
                if not step.per_example:
                    found[k] = (cotangent * gradient).to(gradient.dtype)
                elif axis is None:
                    found[k] = torch.tensordot(cotangent.to(gradient.dtype), gradient, dims=1)
                else:
                    shape = [1] * gradient.ndim
                    shape[axis] = -1
                    found[k] = cotangent.reshape(shape).to(gradient.dtype) * gradient
            return None, None, *found

    def function(*args: Any) -> Any:
        leaves, structure = flatten(args)
        plain = [_numpy(leaf) if isinstance(leaf, torch.Tensor) else leaf for leaf in leaves]
        if torch.is_grad_enabled() and any(isinstance(leaf, torch.Tensor) and leaf.requires_grad for leaf in leaves):
            return JitgradStep.apply(structure, plain, *leaves)
        return torch.as_tensor(np.asarray(step.alone(*unflatten(structure, plain))))

    function.__name__ = function.__qualname__ = step.name
    function.__doc__ = objective.__doc__
    return function


def _numpy(tensor: Any) -> Array:
    """A CPU tensor's own memory."""
    try:
        array: Array = tensor.detach().numpy()
    except (TypeError, RuntimeError) as error:
        raise errors.DtypeError(errors.explain(
            f"a tensor of {tensor.dtype} on {tensor.device} cannot be read as a NumPy array: {error}", None,
            "Pass dense float32 or float64 tensors on the CPU: tensor.float().cpu().")) from None
    return array


def jax_function(objective: Callable[..., Any], argnums: Argnums = 0, in_axes: Any = None,
                 reduce: str | None = "mean", device: str = "auto") -> Callable[..., Any]:
    """An objective written for one example, as a function of JAX arrays that jax.grad, jax.jit and jax.vmap take.

    objective, argnums, in_axes, reduce, device: as in `jg.value_and_grad`
    returns: a function of pytrees of arrays and numbers; it answers an array, () or, for reduce=None, (n,). The kernel
        is called back from JAX's program (jax.pure_callback): on a GPU or TPU the arguments travel to the host and back.
        Reverse mode only, and once. jax.vmap calls it once for each entry.
    raises: ArgumentError where JAX differentiates it by a floating-point argument outside `argnums`
    """
    import jax
    import jax.numpy as jnp
    from jax.custom_derivatives import SymbolicZero

    step = _Step(objective, argnums, in_axes, reduce, device)

    tree = jax.tree

    def blank(leaf: Any) -> Any:
        """A leaf's shape and dtype as an array that takes no memory; a number of Python stays one."""
        return np.broadcast_to(np.zeros((), leaf.dtype), leaf.shape) if hasattr(leaf, "dtype") else leaf

    def shapes(args: Any) -> tuple[Any, list[Any]]:
        wanted, _, bound = step.describe(tree.map(blank, args))
        dtype = bound.signature().dtype
        n = bound.n or 1
        value = jax.ShapeDtypeStruct((n,) if step.per_example else (), dtype)
        gradients = []
        for k in wanted:
            shape = bound.arrays[k].shape
            each = step.per_example and bound.axes[k] is None
            gradients.append(jax.ShapeDtypeStruct((n, *shape) if each else shape, bound.arrays[k].dtype))
        return value, gradients

    def value_alone(*args: Any) -> Any:
        value, _ = shapes(args)

        def call(*args: Any) -> Any:
            return np.asarray(step.alone(*tree.map(np.asarray, args)), value.dtype)
        return jax.pure_callback(call, value, *args, vmap_method="sequential")

    def value_and_gradients(*args: Any) -> Any:
        expected = shapes(args)

        def call(*args: Any) -> Any:
            value, gradients = step.value_and_gradients(tree.map(np.asarray, args))
            return (np.asarray(value, expected[0].dtype),
                    [np.asarray(g, e.dtype) for g, e in zip(gradients, expected[1], strict=True)])
        return jax.pure_callback(call, expected, *args, vmap_method="sequential")

    @jax.custom_vjp  # type: ignore[untyped-decorator]
    def function(*args: Any) -> Any:
        return value_alone(*args)

    def forward(*args: Any) -> Any:
        leaves = tree.leaves(args)
        args = tree.map(lambda leaf: leaf.value, args)
        wanted, _, bound = step.describe(tree.map(blank, args))
        for k, (leaf, owner) in enumerate(zip(leaves, bound.owners(), strict=True)):
            if leaf.perturbed and k not in wanted and jnp.issubdtype(jnp.result_type(leaf.value), jnp.floating):
                raise step.refuse(owner)
        value, gradients = value_and_gradients(*args)
        return value, (args, gradients)

    def backward(kept: Any, cotangent: Any) -> Any:
        args, gradients = kept
        leaves, structure = tree.flatten(args)
        wanted, axes, _ = step.describe(tree.map(blank, args))
        # Integers have cotangents of a type without numbers; floating-point arguments that are not differentiated, zero.
        found: list[Any] = [jnp.zeros_like(leaf) if jnp.issubdtype(jnp.result_type(leaf), jnp.floating)
                            else np.zeros(np.shape(leaf), jax.dtypes.float0) for leaf in leaves]
        if isinstance(cotangent, SymbolicZero):
            return tuple(tree.unflatten(structure, found))
        for k, axis, gradient in zip(wanted, axes, gradients, strict=True):
            g = cotangent.astype(gradient.dtype)
            if step.per_example:
                shape = [1] * gradient.ndim
                shape[0 if axis is None else axis] = -1
                product = g.reshape(shape) * gradient
                found[k] = product.sum(axis=0) if axis is None else product
            else:
                found[k] = g * gradient
        return tuple(tree.unflatten(structure, found))

    function.defvjp(forward, backward, symbolic_zeros=True)
    function.__name__ = function.__qualname__ = step.name
    return function  # type: ignore[no-any-return]
