"""What moves numbers about on the device: into a program's layout, and from its sums to results."""

from __future__ import annotations

from typing import Any

from numba import cuda

from jitgrad.kernels.cuda_batch import as_pointer, kernel

BLOCK = 256


def copy_shell(source_type: Any, target_type: Any) -> Any:
    """target[k] = element k, in C's order, of an array of up to four axes with strides; converted.

    d1 to d3: lengths of all axes but the first; s0 to s3: strides of all, in elements.
    """
    def run(target: Any, source: Any, size: int, d1: int, d2: int, d3: int, s0: int, s1: int, s2: int, s3: int) -> None:
        read, written = cuda.local.array(1, source_type), cuda.local.array(1, target_type)
        into, given = as_pointer(target, written), as_pointer(source, read)
        for k in range(cuda.grid(1), size, cuda.gridsize(1)):
            rest, c3 = k // d3, k % d3
            rest, c2 = rest // d2, rest % d2
            into[k] = target_type(given[rest // d1 * s0 + rest % d1 * s1 + c2 * s2 + c3 * s3])
    return kernel(run)


def gather_shell(real: Any) -> Any:
    """target[k] = source number where[0, k], there where[1, k], for k below `count`; 0 up to `size`."""
    def run(target: Any, sources: Any, where: Any, count: int, size: int) -> None:
        sample = cuda.local.array(1, real)
        into = as_pointer(target, sample)
        for k in range(cuda.grid(1), size, cuda.gridsize(1)):
            into[k] = as_pointer(sources[where[0, k]], sample)[where[1, k]] if k < count else real(0)
    return kernel(run)


def result_shell(real: Any) -> Any:
    """target[k] = sums[k] / divisor: float64 sums, rounded once."""
    def run(target: Any, sums: Any, count: int, divisor: float) -> None:
        into = as_pointer(target, cuda.local.array(1, real))
        for k in range(cuda.grid(1), count, cuda.gridsize(1)):
            into[k] = real(sums[k] / divisor)
    return kernel(run)


def rows_shell(real: Any) -> Any:
    """target[k] = row places[k] of source, `width` numbers each."""
    def run(target: Any, source: Any, places: Any, width: int) -> None:
        sample = cuda.local.array(1, real)
        into, given = as_pointer(target, sample), as_pointer(source, sample)
        for k in range(cuda.grid(1), places.size * width, cuda.gridsize(1)):
            into[k] = given[places[k // width] * width + k % width]
    return kernel(run)
