"""The referee: value and gradients against JAX's own differentiation in float64, and against central differences."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt

from jitgrad import errors
from jitgrad.api import Argnums, jit, value_and_grad
from jitgrad.arguments import as_array, flatten, paths, unflatten
from jitgrad.backends.device_arrays import DeviceArray

Array = npt.NDArray[Any]

# Two float64 evaluations of one formula in different order agree to this, relative to the largest element compared.
AGREEMENT = 1e-10
# Central differences of step ε^(1/3) are good to ε^(2/3), about 4e-11, times the third derivative.
DIFFERENCE = 1e-5
_PROBES = 64                                           # elements tried by differences in each argument


@dataclass(frozen=True)
class Comparison:
    """One quantity against one referee: the largest error relative to its scale, and the element that has it."""

    path: str
    referee: str
    error: float
    tolerance: float
    ours: float
    theirs: float

    @property
    def passed(self) -> bool:
        """Whether the error is within the tolerance; NaN is not."""
        return self.error <= self.tolerance

    def __str__(self) -> str:
        verdict = "ok" if self.passed else "WRONG"
        return (f"{verdict:<5} {self.path:<28} {self.referee:<20} error {self.error:.1e} (allowed {self.tolerance:.0e})"
                + ("" if self.passed else f": jitgrad {self.ours!r}, {self.referee} {self.theirs!r}"))


@dataclass(frozen=True)
class Report:
    """Every comparison made, the device that was checked, and the value."""

    device: str
    value: float | Array
    comparisons: tuple[Comparison, ...]

    @property
    def passed(self) -> bool:
        """Whether all comparisons are within tolerance."""
        return all(c.passed for c in self.comparisons)

    @property
    def worst(self) -> Comparison:
        """The comparison furthest beyond (or nearest to) its tolerance; NaN first."""
        return max(self.comparisons, key=lambda c: np.inf if np.isnan(c.error) else c.error / c.tolerance)

    def __str__(self) -> str:
        return "\n".join([f"device {self.device}, value {np.mean(self.value):.10g}", *map(str, self.comparisons)])


def check_grads(fun: Callable[..., Any], args: Sequence[Any], argnums: Argnums = 0, in_axes: Any = None,
                reduce: str | None = "mean", device: str = "auto", seed: int = 0) -> Report:
    """Compare value and every gradient of `fun` with JAX in float64 and with central differences.

    fun, args, argnums, in_axes, reduce, device: as for `value_and_grad(...)(*args)`; floating arguments are widened to
    float64. Gradients by differences are probed at up to 64 elements an argument, drawn by `seed`; at a kink the
    gradient must lie between the one-sided differences. Returns a Report; raises GradientError naming the worst
    element, DeviceError where JAX is not installed.
    """
    wide = _widened(args)
    value, grads = value_and_grad(fun, argnums, in_axes, reduce, device)(*wide)
    judge = value_and_grad(fun, argnums, in_axes, reduce, "jax")
    expected, expected_grads = judge(*wide)
    comparisons = [_compare("value", "JAX", np.asarray(value), np.asarray(expected), AGREEMENT)]
    names = _gradient_paths(judge, wide, grads, argnums)
    ours, theirs = flatten(grads)[0], flatten(expected_grads)[0]
    for path, a, b in zip(names, ours, theirs, strict=True):
        comparisons.append(_compare(path, "JAX", np.asarray(a), np.asarray(b), AGREEMENT))
    if reduce is not None:
        comparisons += _differences(fun, wide, argnums, in_axes, reduce, list(zip(names, ours, strict=True)), seed)
    report = Report(device, value, tuple(comparisons))
    if not report.passed:
        raise errors.GradientError(errors.explain(
            f"{report.worst.path} of {getattr(fun, '__name__', 'function')} disagrees with {report.worst.referee}.",
            str(report), "Rerun with device='interpret' to tell a kernel's error from a derivative rule's."))
    return report


def _widened(args: Sequence[Any]) -> list[Any]:
    leaves, structure = flatten(list(args))
    wide = []
    for k, leaf in enumerate(leaves):
        array = as_array(leaf, lambda k=k: paths(structure, [f"args[{n}]" for n in range(len(args))])[k])  # type: ignore[misc]
        array = array.copy_to_host() if isinstance(array, DeviceArray) else array
        wide.append(array.astype(np.float64) if array.dtype.kind == "f" else array)
    result: list[Any] = unflatten(structure, wide)
    return result


def _gradient_paths(step: Any, args: Sequence[Any], grads: Any, argnums: Argnums) -> list[str]:
    bound = step.bind(tuple(args))
    numbers = [argnums] if isinstance(argnums, int) else list(argnums)
    written = paths(bound.structure, bound.names)
    return [f"∂/∂{written[k]}" for n in numbers for k, owner in enumerate(bound.owners()) if owner == n % len(args)]


def _compare(path: str, referee: str, ours: Array, theirs: Array, tolerance: float) -> Comparison:
    """The largest difference relative to the largest finite element; equal infinities and NaNs agree."""
    a, b = np.atleast_1d(ours).astype(np.float64), np.atleast_1d(theirs).astype(np.float64)
    if a.shape != b.shape:
        raise errors.GradientError(f"{path}: jitgrad has shape {a.shape}, {referee} {b.shape}")
    if a.size == 0:
        return Comparison(path, referee, 0.0, tolerance, 0.0, 0.0)
    finite = np.isfinite(b)
    scale = max(1.0, float(np.abs(b[finite]).max(initial=0.0)))
    same = (a == b) | (np.isnan(a) & np.isnan(b))
    with np.errstate(invalid="ignore"):
        error = np.where(same, 0.0, np.where(np.isfinite(a) & finite, np.abs(a - b) / scale, np.inf))
    worst = np.unravel_index(int(np.argmax(error)), error.shape)
    place = "" if a.size == 1 else f"[{', '.join(map(str, worst))}]"
    return Comparison(path + place, referee, float(error[worst]), tolerance, float(a[worst]), float(b[worst]))


def _differences(fun: Callable[..., Any], args: Sequence[Any], argnums: Argnums, in_axes: Any, reduce: str,
                 named: list[tuple[str, Any]], seed: int) -> list[Comparison]:
    value = jit(fun, argnums, in_axes, reduce, "interpret")
    leaves, structure = flatten(list(args))
    numbers = [argnums] if isinstance(argnums, int) else list(argnums)
    bound = value.bind(tuple(args))
    places = [k for n in numbers for k, owner in enumerate(bound.owners()) if owner == n % len(args)]
    random = np.random.default_rng(seed)
    here = float(value(*args))
    found: list[Comparison] = []
    if not np.isfinite(here):
        return found                                   # a difference from infinity says nothing
    for (path, gradient), place in zip(named, places, strict=True):
        flat = np.asarray(leaves[place], np.float64).ravel()
        probes = random.permutation(flat.size)[:_PROBES]
        ours, theirs = [], []
        for e in np.sort(probes).tolist():
            step = np.finfo(np.float64).eps ** (1 / 3) * max(1.0, abs(flat[e]))
            sides = []
            for sign in (1.0, -1.0):
                moved = flat.copy()
                moved[e] += sign * step
                at = list(leaves)
                at[place] = moved.reshape(np.shape(leaves[place]))[()]
                sides.append((float(value(*unflatten(structure, at))) - here) / (sign * step))
            up, down = sides
            g = float(np.asarray(gradient).ravel()[e])
            central = (up + down) / 2
            kink = abs(up - down) > 1e2 * DIFFERENCE * max(1.0, abs(central))
            ours.append(g)
            theirs.append(float(np.clip(g, min(up, down), max(up, down))) if kink else central)
        found.append(_compare(path, "central differences", np.array(ours), np.array(theirs), DIFFERENCE))
    return found
