"""The referee: value and gradients against JAX's own differentiation in float64, and against central differences."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt

from jitgrad import errors
from jitgrad.api import Argnums, jit, value_and_grad
from jitgrad.arguments import as_array, flatten, paths, unflatten, whole_numbers
from jitgrad.backends.device_arrays import DeviceArray

Array = npt.NDArray[Any]

# Two float64 evaluations of one formula in different order agree to this, relative to the largest element compared; or to
# a part FLOOR of the largest of all, value and gradients, where a gradient is but what rounding left of larger terms.
AGREEMENT = 1e-10
FLOOR = 1e-5
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
    names = _gradient_paths(judge, wide, grads, argnums)
    ours, theirs = flatten(grads)[0], flatten(expected_grads)[0]
    floor = FLOOR * max(map(_largest, (expected, *theirs)))
    comparisons = [_compare("value", "JAX", np.asarray(value), np.asarray(expected), AGREEMENT, floor)]
    for path, a, b in zip(names, ours, theirs, strict=True):
        comparisons.append(_compare(path, "JAX", np.asarray(a), np.asarray(b), AGREEMENT, floor))
    if reduce is not None:
        comparisons += _differences(fun, wide, argnums, in_axes, reduce, list(zip(names, ours, strict=True)), floor, seed)
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
    numbers = whole_numbers(argnums)
    written = paths(bound.structure, bound.names)
    return [f"∂/∂{written[k]}" for n in numbers for k, owner in enumerate(bound.owners()) if owner == n % len(args)]


def _largest(numbers: Any) -> float:
    """The largest finite element."""
    sizes = np.abs(np.asarray(numbers, np.float64))
    return float(sizes[np.isfinite(sizes)].max(initial=0.0))


def _compare(path: str, referee: str, ours: Array, theirs: Array, tolerance: float, floor: float) -> Comparison:
    """The largest difference relative to the largest finite element, at least `floor`; equal infinities and NaNs agree."""
    a, b = np.atleast_1d(ours).astype(np.float64), np.atleast_1d(theirs).astype(np.float64)
    if a.shape != b.shape:
        raise errors.GradientError(f"{path}: jitgrad has shape {a.shape}, {referee} {b.shape}")
    if a.size == 0:
        return Comparison(path, referee, 0.0, tolerance, 0.0, 0.0)
    scale = max(_largest(b), floor)
    same = (a == b) | (np.isnan(a) & np.isnan(b))
    with np.errstate(invalid="ignore", divide="ignore", over="ignore"):
        error = np.where(same, 0.0, np.where(np.isfinite(a) & np.isfinite(b), np.abs(a - b) / scale, np.inf))
    worst = np.unravel_index(int(np.argmax(error)), error.shape)
    place = "" if a.size == 1 else f"[{', '.join(map(str, worst))}]"
    return Comparison(path + place, referee, float(error[worst]), tolerance, float(a[worst]), float(b[worst]))


def _differences(fun: Callable[..., Any], args: Sequence[Any], argnums: Argnums, in_axes: Any, reduce: str,
                 named: list[tuple[str, Any]], floor: float, seed: int) -> list[Comparison]:
    value = jit(fun, argnums, in_axes, reduce, "interpret")
    leaves, structure = flatten(list(args))
    numbers = whole_numbers(argnums)
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
            g = float(np.asarray(gradient).ravel()[e])
            nearest: list[float] = []
            # A number that is not near 1 may be small because that is its unit, or because it happens to be.
            for unit in dict.fromkeys((max(1.0, abs(float(flat[e]))), abs(float(flat[e])) or 1.0)):
                step = float(np.finfo(np.float64).eps) ** (1 / 3) * unit
                sides = []
                for sign in (1.0, -1.0):
                    moved = flat.copy()
                    moved[e] += sign * step
                    at = list(leaves)
                    at[place] = moved.reshape(np.shape(leaves[place]))[()]
                    sides.append((float(value(*unflatten(structure, at))) - here) / (sign * step))
                up, down = sides
                central = (up + down) / 2
                kink = abs(up - down) > 1e2 * DIFFERENCE * max(floor, abs(central))
                nearest.append(float(np.clip(g, min(up, down), max(up, down))) if kink else central)
            ours.append(g)
            theirs.append(min(nearest, key=lambda b: np.nan_to_num(abs(g - b), nan=np.inf)))
        found.append(_compare(path, "central differences", np.array(ours), np.array(theirs), DIFFERENCE, floor))
    return found
