"""Emitted CUDA functions run on this machine's CPU: warps of 32 threads meet at every shuffle, a block's at its barriers."""

from __future__ import annotations

import ctypes
import os
import re
import subprocess
import sys
import threading
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import llvmlite.binding as llvm
import numpy as np
from llvmlite import ir

WARP = 32

# What LLVM knows only for NVIDIA, said for any CPU. A libdevice function is called by libm's name.
_RUNTIME = """
declare i32 @host_exchange(i32, i32)
declare i32 @host_thread()
declare void @host_meet(i32)
declare void @host_barrier()
define void @nv_prefetch(i64 %address) {
  ret void
}
define float @nv_max_f(float %x, float %y) {
  %larger = call float @llvm.maximum.f32(float %x, float %y)
  ret float %larger
}
define float @nv_min_f(float %x, float %y) {
  %smaller = call float @llvm.minimum.f32(float %x, float %y)
  ret float %smaller
}
declare float @llvm.maximum.f32(float, float)
declare float @llvm.minimum.f32(float, float)
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
             ("llvm.nvvm.bar.warp.sync", "host_meet"), ("llvm.nvvm.barrier0", "host_barrier"),
             ("llvm.nvvm.mul.rn.f", "nv_mul_f"), ("llvm.nvvm.mul.rn.d", "nv_mul_d"), ("__nv_", "")]
_ASSEMBLY = {"max.NaN.f32": "nv_max_f", "min.NaN.f32": "nv_min_f", "prefetch.global.L2": "nv_prefetch"}


class HostWarp:
    """The functions of an emitted module, called by all lanes of one warp at once, or by a block of several warps."""

    def __init__(self, module: ir.Module, threads: int = WARP):
        llvm.initialize_native_target()
        llvm.initialize_native_asmprinter()
        text = str(module).replace("define internal", "define").replace(" alwaysinline", "")
        text = re.sub(r'^target .*$', "", text, flags=re.MULTILINE)
        for theirs, ours in _SPELLING:
            text = text.replace(theirs, ours)
        for theirs, ours in _ASSEMBLY.items():
            text = re.sub(rf'asm (sideeffect)? *"{re.escape(theirs)} [^"]*", "[^"]*"', f"@{ours}", text)
        text = re.sub(r'^declare .*@"(nv_|host_).*$', "", text, flags=re.MULTILINE)
        self._threads = threads
        self._block = threading.Barrier(threads)
        self._warps = [threading.Barrier(WARP) for _ in range(threads // WARP)]
        self._board = [0] * threads
        self._lane = threading.local()
        self._callbacks = [ctypes.CFUNCTYPE(ctypes.c_int32, ctypes.c_int32, ctypes.c_int32)(self._exchange),
                           ctypes.CFUNCTYPE(ctypes.c_int32)(lambda: self._lane.number),
                           ctypes.CFUNCTYPE(None, ctypes.c_int32)(self._meet),
                           ctypes.CFUNCTYPE(None)(lambda: self._block.wait(300) and None)]
        names = ("host_exchange", "host_thread", "host_meet", "host_barrier")
        for name, callback in zip(names, self._callbacks, strict=True):
            llvm.add_symbol(name, ctypes.cast(callback, ctypes.c_void_p).value)
        machine = llvm.Target.from_default_triple().create_target_machine(opt=1)
        parsed = llvm.parse_assembly(text + _RUNTIME)
        parsed.verify()
        self._engine = llvm.create_mcjit_compiler(parsed, machine)
        self._engine.finalize_object()

    def _exchange(self, bits: int, partner: int) -> int:
        lane = self._lane.number
        self._board[lane] = bits
        self._warps[lane // WARP].wait(300)
        other = self._board[lane ^ partner]
        self._warps[lane // WARP].wait(300)
        return other

    def _meet(self, everyone: int) -> None:
        self._warps[self._lane.number // WARP].wait(300)

    def call_alone(self, name: str, kinds: Sequence[Any], given: Sequence[Any]) -> None:
        """Call a function in one thread, with arrays, 64-bit integers (kind int) and numbers of a dtype."""
        types = [ctypes.c_void_p if kind is np.ndarray else ctypes.c_int64 if kind is int else
                 np.ctypeslib.as_ctypes_type(kind) for kind in kinds]
        function = ctypes.CFUNCTYPE(None, *types)(self._engine.get_function_address(f"jitgrad_{name}"))
        function(*(a.ctypes.data if isinstance(a, np.ndarray) else a for a in given))

    def call(self, name: str, arguments: Callable[[int], list[Any]]) -> None:
        """Call a function in every thread; `arguments(thread)` are arrays, passed as pointers, and 64-bit integers."""
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
                for barrier in (self._block, *self._warps):
                    barrier.abort()
        threads = [threading.Thread(target=run, args=(lane,)) for lane in range(self._threads)]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
        if failures:
            raise failures[0]


def aligned(size: int, dtype: Any) -> Any:
    """Zeros at an address that 16-byte loads may use, as device memory's is."""
    room = np.zeros(size * np.dtype(dtype).itemsize + 16, np.uint8)
    return room[-room.ctypes.data % 16:][:size * np.dtype(dtype).itemsize].view(dtype)


def simulate(script: str) -> None:
    """Run a script of this folder in a process of its own, where numba simulates CUDA."""
    here = Path(__file__).parent
    environment = os.environ | {"NUMBA_ENABLE_CUDASIM": "1", "PYTHONPATH": os.pathsep.join([str(here.parent), str(here)])}
    done = subprocess.run([sys.executable, str(here / script)], env=environment, capture_output=True, text=True,
                          check=False, timeout=400)
    assert done.returncode == 0, done.stdout + done.stderr
