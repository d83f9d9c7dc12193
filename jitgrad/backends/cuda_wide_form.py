"""How a program of wide examples runs on CUDA; `compiler/wide.py` says which those are."""

from __future__ import annotations

from functools import cached_property
from typing import Any

import numpy as np
import numpy.typing as npt
from llvmlite import ir
from numba import from_dtype, types

from jitgrad.backends.cuda_forms import INT, Held, SharedNumbers, address, hole, shared_numbers
from jitgrad.backends.device_arrays import DeviceArray
from jitgrad.compiler.emit_cuda import Layout
from jitgrad.compiler.emit_cuda_wide import WideCode
from jitgrad.compiler.wide import find_wide
from jitgrad.compiler.wide_schedule import for_wide
from jitgrad.kernels import cuda_wide
from jitgrad.kernels.cuda_batch import SIMULATED

Array = npt.NDArray[Any]


class WideForm:
    """A program whose examples lie across lanes; see `cuda_wide.wide_shell`."""

    def __init__(self, layout: Layout, code: WideCode):
        self.layout, self.code, self.plan = layout, code, code.plan
        self.columns, self.block = len(layout.columns), (code.plan.block,)
        self.places = layout.column_of.astype(np.int64)
        count = len(layout.in_widths) + len(layout.out_widths)
        self.signature = types.void(INT, INT, types.UniTuple(INT, max(1, count)), INT)

    @cached_property
    def kernel(self) -> Any:
        code, plan, pieces = self.code, self.plan, self.layout.pieces
        if SIMULATED:
            from jitgrad.backends.cuda_wide_simulator import wide_holes
            holes = wide_holes(code)
        else:
            holes = (hole(1, code.clear), hole(7, code.body), hole(4, code.finish))
        return cuda_wide.wide_shell(*holes, from_dtype(self.layout.dtype), code.slots * pieces, code.board,
                                    self.columns * pieces, plan.lanes, plan.block, plan.residents)

    def emit(self, module: ir.Module) -> None:
        """Everything emitted for this program."""
        for function in (self.code.clear, self.code.body, self.code.finish):
            function(module)

    def arguments(self, held: Held, part: DeviceArray, shared: Array | SharedNumbers, arrays: list[DeviceArray],
                  blocks: int, n: int) -> list[Any]:
        slots = self.code.numbers
        numbers = shared_numbers(held, self.layout, shared, slots, max(4, len(slots)))
        return [address(part), address(numbers), tuple(map(address, arrays)) or (0,), n]


def wide_form(layout: Layout) -> WideForm | None:
    """The form of a program whose examples are wide; None of any other."""
    wide = find_wide(layout.program)
    plan = None if wide is None else for_wide(wide, np.dtype(layout.dtype), layout.pieces)
    if wide is None or plan is None:
        return None
    layout.sum_in(wide.columns)
    return WideForm(layout, WideCode(layout, wide, plan))
