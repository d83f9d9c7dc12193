"""Compiles the shells of cpu_batch.py ahead of time: numba's LLVM, kept as kernels/cpu_batch.ll beside them.

    python -m jitgrad.kernels.ahead           # write the file anew, after a change of cpu_batch.py

numba needs a second to import and to compile its first function, a quarter of that time for SciPy alone where it is
installed. The shells handle addresses and integers only, so what numba makes of them is the same on every 64-bit
machine, and is loaded as text. A test makes it anew and compares.
"""

from __future__ import annotations

import os
import re
from pathlib import Path
from typing import Any

TEXT = Path(__file__).with_suffix("").with_name("cpu_batch.ll")
_HEADER = "; Made by `python -m jitgrad.kernels.ahead` from kernels/cpu_batch.py with numba {}; do not edit.\n"
# What numba generates must not depend on the machine at hand.
_SETTINGS = {"NUMBA_CPU_NAME": "generic", "NUMBA_CPU_FEATURES": "", "NUMBA_OPT": "2", "NUMBA_LOOP_VECTORIZE": "0",
             "NUMBA_SLP_VECTORIZE": "0"}


def generate() -> str:
    """The text of cpu_batch.ll. Call it in a process that has not imported numba yet."""
    os.environ.update(_SETTINGS)
    import llvmlite.binding as llvm
    import numba

    from jitgrad.kernels import cpu_batch
    parts = [_HEADER.format(numba.__version__)]
    for function in cpu_batch.SHELLS:
        compiled = numba.cfunc("void(int64)", error_model="numpy")(function)
        parts.append(_shell(llvm.parse_assembly(compiled.inspect_llvm()), function.__name__))
    return "\n".join([*parts, *sorted(_DECLARATIONS)]) + "\n"


_DECLARATIONS = {"declare i64 @llvm.smin.i64(i64, i64)"}

# numba's functions return a status and take a place for the result and one for an exception; these have neither.
_ENTRY = """define void @jitgrad_{name}(i64 %call) {{
  %result = alloca ptr
  %exception = alloca ptr
  call i32 @{name}(ptr %result, ptr %exception, i64 %call)
  ret void
}}
"""


def _shell(module: Any, name: str) -> str:
    """The functions that one shell consists of, under plain names."""
    import llvmlite.binding as llvm
    names = {f.name: re.sub(r"^_ZN.*?cpu_batch\d+(.*?)B\dv\d.*", r"\1", f.name) for f in module.functions
             if not f.is_declaration and f.name.startswith("_ZN") and "cpu_batch" in f.name}
    for f in module.functions:
        if not f.is_declaration and names.get(f.name) != name:
            f.linkage = "internal"                  # wrappers for Python's sake among them, which nothing calls
    machine = llvm.Target.from_default_triple().create_target_machine()
    manager = llvm.create_new_module_pass_manager()
    manager.add_global_dead_code_eliminate_pass()
    manager.run(module, llvm.create_pass_builder(machine, llvm.create_pipeline_tuning_options(speed_level=0)))
    text = "\n\n".join(str(f).strip() for f in module.functions if not f.is_declaration)
    for mangled, plain in names.items():
        text = text.replace(mangled, plain if plain == name else f"{name}.{plain}")
    text = re.sub(r" #\d+|, ![\w.]+ !\d+", "", text)         # attributes and metadata, which stand outside functions
    return text.replace("define internal fastcc", "define internal") + "\n\n" + _ENTRY.format(name=name)


if __name__ == "__main__":
    TEXT.write_text(generate())
