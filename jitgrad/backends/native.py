"""LLVM modules → machine code of this CPU, in memory and on cache.

numba made LLVM of the shells ahead of time (kernels/ahead.py); they and the bodies they call are compiled here, by the
LLVM that numba brings, without passing through Python's types: about 0.1 ms an operation instead of 1.2. Machine code is
kept on disk under the hash of all that it depends on: the tape, the generator's sources, the CPU and the compiler's
version (compiler/identity.py, cache.py), so that a second process emits and compiles nothing. A process that computes on
the CPU never imports numba, which would take half its first second.
"""

from __future__ import annotations

import ctypes
import functools
import threading
import weakref
from collections.abc import Callable
from pathlib import Path
from typing import Any

import llvmlite
import llvmlite.binding as llvm
from llvmlite import ir

from jitgrad.compiler import cache
from jitgrad.compiler.identity import sources
from jitgrad.kernels import place

_LOCK = threading.RLock()                   # LLVM's global state is not thread-safe


@functools.cache
def _target() -> Any:
    llvm.initialize_native_target()
    llvm.initialize_native_asmprinter()
    return llvm.Target.from_default_triple()


# Constants and functions may lie anywhere in memory. The small model, which saves a tenth of the instructions and 3% of the
# time, ends the process where a large one has left no room near by.
_CODE_MODEL = "large"


def _new_machine() -> Any:
    return _target().create_target_machine(cpu=llvm.get_host_cpu_name(), features=_features(), opt=2, reloc="default",
                                           codemodel=_CODE_MODEL, jit=True)


@functools.cache
def _machine() -> Any:
    return _new_machine()


@functools.cache
def _features() -> str:
    features: str = llvm.get_host_cpu_features().flatten()
    return features


def _optimised(text: str) -> Any:
    machine = _machine()
    parsed = llvm.parse_assembly(text)
    parsed.triple, parsed.data_layout = llvm.get_process_triple(), str(machine.target_data)
    parsed.verify()
    # Vectors and blocks are emitted as such: what the higher levels look for is already there, and they take twice as long.
    passes = llvm.create_pass_builder(machine, llvm.create_pipeline_tuning_options(speed_level=1))
    passes.getModulePassManager().run(parsed, passes)
    return parsed


class Native:
    """The machine code of a module; `address(name)` of a function in it is good for the life of this object."""

    def __init__(self, make: Callable[[], ir.Module | str], key: str):
        self._make = make
        code = cache.load(key)
        if code is None:
            code = _machine().emit_object(_optimised(str(make())))
            cache.save(key, code)
        # The engine takes ownership of the machine that it is given.
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
            text: str = _machine().emit_assembly(_optimised(str(self._make())))
        return text


_loaded: weakref.WeakValueDictionary[str, Native] = weakref.WeakValueDictionary()


def native(make: Callable[[], ir.Module | str], *identity: str) -> Native:
    """The machine code of the module that `make` emits, compiled once for all that have this identity.

    identity: whatever the module depends on beside the sources of the generator.
    """
    key = cache.key(*identity, sources(), _CODE_MODEL, llvmlite.__version__, llvm.get_host_cpu_name(), _features())
    with _LOCK:
        found = _loaded.get(key)
        if found is None:
            found = _loaded[key] = Native(make, key)
        return found


@functools.cache
def _shells() -> Native:
    return native(Path(place.__file__).with_name("cpu_batch.ll").read_text, "shells")


def entry(name: str) -> int:
    """Where a shell of kernels/cpu_batch.py begins."""
    return _shells().address(f"jitgrad_{name}")


@functools.cache
def shell(name: str) -> Callable[[int], None]:
    """A shell of kernels/cpu_batch.py, as a function of its table's address. It lets other threads of Python run."""
    made: Callable[[int], None] = ctypes.CFUNCTYPE(None, ctypes.c_int64)(entry(name))
    return made
