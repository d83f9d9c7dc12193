"""Calls whose arguments lie on a GPU: nothing passes through the host, and results stay there.

Of the arguments that lie on the host too, the shared ones travel in one copy, batched ones in one each. Where a function
checks its arguments (labels), one number is read back, and so waited for; else nothing is. A tape that is run line by line
works out on the host what follows from shared numbers alone, and so reads the parameters back where there is such a thing.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np

from jitgrad import backends, debug, errors
from jitgrad.arguments import Bound
from jitgrad.backends.device_arrays import DeviceArray, to_library
from jitgrad.calls import Call, Part, Recorded
from jitgrad.compiler.program import Results
from jitgrad.debug import Numbers
from jitgrad.value import Value

GATHERED = 256                     # leaves that one launch gathers, as its arguments; more are copied one by one


class DeviceCall(Call):
    """As `Call`, with device arrays among the leaves; answers device arrays, of the first such leaf's library.

    to_host: answer numbers and NumPy arrays instead.
    """

    def __init__(self, recorded: Recorded, kernel: backends.Kernel, bound: Bound, reduce: str | None, to_host: bool):
        super().__init__(recorded, kernel, bound, reduce)
        assert bound.on is not None
        self.gpu, self._to_host = bound.on, to_host
        self._library = next(a.library for a in bound.arrays if isinstance(a, DeviceArray))

    def __call__(self, leaves: Sequence[Any], out: Sequence[Any] | None = None) -> tuple[Any, list[Any]]:
        # Not at the top: numba comes with the first kernel.
        from jitgrad.backends import cuda_copies, cuda_memory
        if out is not None:
            raise errors.ArgumentError("out= takes NumPy arrays; results of arguments on the GPU are new arrays there")
        with cuda_memory.on(self.gpu):
            divisor = self.n if self._mean else 1
            found = self._computed(leaves, None, divisor)
            reduced = {self.program.dtype: found.rounded}

            def result(p: Part) -> Any:
                if p.example is not None:
                    made = p.rows_on_device(found.examples[p.example])
                    made = cuda_copies.packed(made, p.dtype)
                else:
                    if p.dtype not in reduced:
                        reduced[p.dtype] = cuda_copies.results(found.sums, p.dtype, divisor)
                    made = reduced[p.dtype].part(p.start, p.shape)
                return made.copy_to_host() if self._to_host else to_library(made, self._library)
            return self._unflatten([result(p) for p in self._values]), [result(p) for p in self._gradients]

    def results(self, leaves: Sequence[Any], offered: Sequence[Any] = (), numbers: Numbers | None = None) -> Results:
        """What the kernel computes, copied to the host."""
        from jitgrad.backends import cuda_memory
        with cuda_memory.on(self.gpu):
            return _on_host(self._computed(leaves, numbers))

    def _computed(self, leaves: Sequence[Any], numbers: Numbers | None, divisor: int = 1) -> Any:
        from jitgrad.backends.cuda import CudaKernel
        assert isinstance(self.kernel, CudaKernel)
        leaves = [leaf.data if isinstance(leaf, Value) else leaf for leaf in leaves]
        found = self.kernel.on_device(self._numbers(leaves), self.rows_on_device(leaves), self.n, divisor)
        self._look_for_failures(leaves, found, numbers)
        return found

    def rows_on_device(self, leaves: Sequence[Any]) -> list[DeviceArray]:
        """`rows` on the GPU: what lies there as a program reads it is not copied."""
        from jitgrad.backends import cuda_copies, cuda_memory

        def rows(leaf: Any, axis: int, width: int) -> DeviceArray:
            shape = leaf.shape[axis], width
            if isinstance(leaf, DeviceArray):
                return cuda_copies.packed(leaf.moved(axis, 0), self.program.dtype).reshaped(shape)
            host = np.ascontiguousarray(np.moveaxis(leaf, axis, 0), self.program.dtype)
            return cuda_memory.upload(host.reshape(shape), self.gpu)
        return [rows(leaves[k], axis, width) for k, axis, width in self._batched]

    def _numbers(self, leaves: Sequence[Any]) -> Any:
        """All shared numbers: a NumPy vector where all lie on the host, else what is there and a vector of the others."""
        from jitgrad.backends import cuda_copies, cuda_memory
        from jitgrad.backends.cuda_forms import SharedNumbers
        program, offsets = self.program, self.program.shared_offset
        there = {offsets[program.leaves[k].first]: cuda_copies.packed(leaves[k], program.dtype)
                 for k in self._shared if isinstance(leaves[k], DeviceArray)}
        if sum(leaf.size for leaf in there.values()) == program.shared_size > 0 and len(there) <= GATHERED:
            return SharedNumbers(there, None)
        vector = self.shared([np.zeros(leaf.shape) if isinstance(leaf, DeviceArray) else leaf for leaf in leaves])
        if not there:
            return vector
        uploaded = cuda_memory.upload(vector, self.gpu)
        if len(there) > GATHERED:
            for start, leaf in there.items():
                cuda_copies.copy(uploaded.part(start, (leaf.size,)), leaf)
            there = {}
        return SharedNumbers(there, uploaded)

    def _look_for_failures(self, leaves: Sequence[Any], found: Any, numbers: Numbers | None) -> None:
        wants_nans = debug.nans_are_errors()
        if not self.program.checks and not wants_nans:
            return
        if not wants_nans and found.sums.part(0, (1,)).copy_to_host()[0] == 0:
            return
        host = [leaf.copy_to_host() if isinstance(leaf, DeviceArray) else leaf for leaf in leaves]
        shared, batched = self.pack(host)
        found_sums = found.sums.copy_to_host()
        if found_sums[0] != 0:
            debug.blame_check(self.program, shared, batched, self.n, numbers)
        if wants_nans:
            debug.blame_nan(self.program, shared, batched, self.n, _on_host(found), numbers)


def _on_host(found: Any) -> Results:
    return Results(found.sums.copy_to_host(), [a.copy_to_host() for a in found.examples])
