"""Emitted CUDA functions run on this machine's CPU: a warp is 32 threads that meet at every shuffle."""

from __future__ import annotations

import ctypes
import re
import threading
from collections.abc import Callable, Sequence
from typing import Any

import llvmlite.binding as llvm
import numpy as np
from llvmlite import ir

WARP = 32

# What LLVM knows only for NVIDIA, said for any CPU. A libdevice function is called by libm's name.
_RUNTIME = """
declare i32 @host_exchange(i32, i32)
declare i32 @host_thread()
define {i32, i1} @nv_shuffle(i32 %mask, i32 %mode, i32 %bits, i32 %partner, i32 %last) {
  %other = call i32 @host_exchange(i32 %bits, i32 %partner)
  %pair = insertvalue {i32, i1} undef, i32 %other, 0
  ret {i32, i1} %pair
}
define float @nv_mul_f(float %x, float %y) {
  %product = fmul float %x, %y
  ret float %product
}
define double @nv_mul_d(double %x, double %y) {
  %product = fmul double %x, %y
  ret double %product
}
"""
_SPELLING = [("llvm.nvvm.shfl.sync.i32", "nv_shuffle"), ("llvm.nvvm.read.ptx.sreg.tid.x", "host_thread"),
             ("llvm.nvvm.mul.rn.f", "nv_mul_f"), ("llvm.nvvm.mul.rn.d", "nv_mul_d"), ("__nv_", "")]


class HostWarp:
    """The functions of an emitted module, called by all lanes of one warp at once."""

    def __init__(self, module: ir.Module):
        llvm.initialize_native_target()
        llvm.initialize_native_asmprinter()
        text = str(module).replace("define internal", "define").replace(" alwaysinline", "")
        text = re.sub(r'^target .*$', "", text, flags=re.MULTILINE)
        for theirs, ours in _SPELLING:
            text = text.replace(theirs, ours)
        text = re.sub(r'^declare .*@"(nv_|host_).*$', "", text, flags=re.MULTILINE)
        self._barrier = threading.Barrier(WARP)
        self._board = [0] * WARP
        self._lane = threading.local()
        self._callbacks = [ctypes.CFUNCTYPE(ctypes.c_int32, ctypes.c_int32, ctypes.c_int32)(self._exchange),
                           ctypes.CFUNCTYPE(ctypes.c_int32)(lambda: self._lane.number)]
        for name, callback in zip(("host_exchange", "host_thread"), self._callbacks, strict=True):
            llvm.add_symbol(name, ctypes.cast(callback, ctypes.c_void_p).value)
        machine = llvm.Target.from_default_triple().create_target_machine(opt=1)
        parsed = llvm.parse_assembly(text + _RUNTIME)
        parsed.verify()
        self._engine = llvm.create_mcjit_compiler(parsed, machine)
        self._engine.finalize_object()

    def _exchange(self, bits: int, partner: int) -> int:
        lane = self._lane.number
        self._board[lane] = bits
        self._barrier.wait(60)
        other = self._board[lane ^ partner]
        self._barrier.wait(60)
        return other

    def call_alone(self, name: str, kinds: Sequence[Any], given: Sequence[Any]) -> None:
        """Call a function in one thread, with arrays, 64-bit integers (kind int) and numbers of a dtype."""
        types = [ctypes.c_void_p if kind is np.ndarray else ctypes.c_int64 if kind is int else
                 np.ctypeslib.as_ctypes_type(kind) for kind in kinds]
        function = ctypes.CFUNCTYPE(None, *types)(self._engine.get_function_address(f"jitgrad_{name}"))
        function(*(a.ctypes.data if isinstance(a, np.ndarray) else a for a in given))

    def call(self, name: str, arguments: Callable[[int], list[Any]]) -> None:
        """Call a function in every lane; `arguments(lane)` are arrays, passed as pointers, and 64-bit integers."""
        address = self._engine.get_function_address(f"jitgrad_{name}")
        failures: list[BaseException] = []

        def run(lane: int) -> None:
            self._lane.number = lane
            try:
                given = arguments(lane)
                kinds = [ctypes.c_void_p if isinstance(a, np.ndarray) else ctypes.c_int64 for a in given]
                ctypes.CFUNCTYPE(None, *kinds)(address)(*(a.ctypes.data if isinstance(a, np.ndarray) else a
                                                          for a in given))
            except BaseException as error:
                failures.append(error)
                self._barrier.abort()
        threads = [threading.Thread(target=run, args=(lane,)) for lane in range(WARP)]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
        if failures:
            raise failures[0]
