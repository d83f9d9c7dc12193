"""LLVM modules → machine code of this CPU, in memory and on cache.

numba compiles the shells; the bodies they call are compiled here, by the LLVM that numba brings, without passing
through Python's types: about 0.1 ms an operation instead of 1.2. Machine code is kept on disk under the hash of its LLVM
text, the CPU and the compiler's version (cache.py), so that a second process compiles nothing.
"""

from __future__ import annotations

import functools
import threading
from typing import Any

import llvmlite
import llvmlite.binding as llvm
from llvmlite import ir

from jitgrad.compiler import cache

_LOCK = threading.RLock()                   # LLVM's global state is not thread-safe


@functools.cache
def _machine() -> Any:
    return _new_machine()


@functools.cache
def _initialise() -> None:
    llvm.initialize_native_target()
    llvm.initialize_native_asmprinter()


@functools.cache
def _features() -> str:
    features: str = llvm.get_host_cpu_features().flatten()
    return features


def _optimised(module: ir.Module) -> Any:
    machine = _machine()
    module.triple, module.data_layout = llvm.get_process_triple(), str(machine.target_data)
    parsed = llvm.parse_assembly(str(module))
    parsed.verify()
    # Vectors and blocks are emitted as such: what the higher levels look for is already there, and they take twice as long.
    passes = llvm.create_pass_builder(machine, llvm.create_pipeline_tuning_options(speed_level=1))
    passes.getModulePassManager().run(parsed, passes)
    return parsed


class Native:
    """The machine code of a module; `address(name)` of a function in it is good for the life of this object."""

    def __init__(self, module: ir.Module):
        self._module = module
        with _LOCK:
            key = cache.key(str(module), llvmlite.__version__, llvm.get_host_cpu_name(), _features())
            code = cache.load(key)
            if code is None:
                code = _machine().emit_object(_optimised(module))
                cache.save(key, code)
            self._engine = llvm.create_mcjit_compiler(llvm.parse_assembly(""), _new_machine())
            self._engine.add_object_file(llvm.ObjectFileRef.from_data(code))
            self._engine.finalize_object()

    def address(self, name: str) -> int:
        """Where a function begins."""
        address: int = self._engine.get_function_address(name)
        if not address:
            raise RuntimeError(f"the compiled module has no function {name!r}")
        return address

    def assembly(self) -> str:
        """The machine code as assembly text."""
        with _LOCK:
            text: str = _machine().emit_assembly(_optimised(self._module))
        return text


def _new_machine() -> Any:
    # MCJIT takes ownership of the machine it is given.
    _initialise()
    target = llvm.Target.from_default_triple()
    return target.create_target_machine(cpu=llvm.get_host_cpu_name(), features=_features(), opt=2, reloc="default",
                                        codemodel="jitdefault", jit=True)
