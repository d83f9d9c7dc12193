"""What the CUDA toolkit says about a kernel's PTX, on any machine: resources, machine code, what its hot loop is made of."""

from __future__ import annotations

import re
import shutil
import subprocess
import tempfile
from collections.abc import Iterator
from functools import cache, lru_cache
from pathlib import Path
from typing import Any

from jitgrad import errors

RESOURCES = {"registers": r"Used (\d+) registers", "spills": r"(\d+) bytes spill stores",
             "stack": r"(\d+) bytes stack frame", "shared_memory": r"(\d+) bytes smem"}

# What an instruction of machine code is counted as, by its name up to the first dot; every one is an instruction.
KINDS = {"loads": r"LDG", "stores": r"STG", "shared": r"LDS|STS", "local": r"LDL|STL", "shuffles": r"SHFL",
         "float32": r"FADD|FMUL|FFMA|FSETP|FSEL|FMNMX|FSET|MUFU|FCHK|FADD2|FMUL2|FFMA2",
         "float64": r"DADD|DMUL|DFMA|DSETP|DMNMX|DSET", "calls": r"CALL"}


@cache
def tool(name: str) -> str | None:
    """Where a program of the CUDA toolkit is: in a wheel, in a toolkit, or on PATH."""
    from cuda import pathfinder
    return pathfinder.find_nvidia_binary_utility(name) or shutil.which(name)


def resources(ptx: str) -> dict[str, Any]:
    """registers, spills and stack (bytes a thread), shared_memory (bytes a block), by ptxas; None without it."""
    ptxas = tool("ptxas")
    if ptxas is None:
        return dict.fromkeys(RESOURCES)
    said, _ = _assembled(ptxas, ptx)
    found = [re.search(pattern, said) for pattern in RESOURCES.values()]
    return {name: int(match[1]) if match else 0 for name, match in zip(RESOURCES, found, strict=True)}


@lru_cache(8)
def _assembled(ptxas: str, ptx: str) -> tuple[str, bytes]:
    """What ptxas says about a kernel, and the kernel it makes; kept for whoever asks for both."""
    architecture = re.search(r"^\.target (\w+)", ptx, re.MULTILINE)
    assert architecture is not None
    with tempfile.TemporaryDirectory() as folder:
        (Path(folder) / "kernel.ptx").write_text(ptx, encoding="utf-8")
        done = subprocess.run([ptxas, "-v", f"--gpu-name={architecture[1]}", "kernel.ptx", "-o", "kernel.cubin"],
                              cwd=folder, capture_output=True, text=True, check=False)
        if done.returncode:
            raise errors.DeviceError(errors.explain("ptxas refused a generated kernel.", None, done.stderr.strip()))
        return done.stderr, (Path(folder) / "kernel.cubin").read_bytes()


def sass(ptx: str) -> str:
    """The machine code that ptxas makes, as nvdisasm writes it; raises DeviceError where either is missing."""
    tools = {name: tool(name) for name in ("ptxas", "nvdisasm")}
    for name, path in tools.items():
        if path is None:
            raise errors.DeviceError(errors.explain(
                f"as_text('sass') needs {name}, which is not on this machine.", None,
                "Install it with: pip install 'jitgrad[cuda]' nvidia-cuda-nvcc, or put a CUDA toolkit on PATH."))
    _, cubin = _assembled(str(tools["ptxas"]), ptx)
    with tempfile.TemporaryDirectory() as folder:
        (Path(folder) / "kernel.cubin").write_bytes(cubin)
        done = subprocess.run([str(tools["nvdisasm"]), "-c", "kernel.cubin"], cwd=folder, capture_output=True, text=True,
                              check=True)
    return done.stdout


def hot_loop(machine_code: str) -> dict[str, int]:
    """How many instructions of each of KINDS one trip of the kernel's loop over examples has; {} without a loop.

    That is the one with most arithmetic among those that read device memory. A loop is what lies between a label and a
    branch back to it, without the loops within. Subroutines that it calls (a division's rare cases) are not part of it,
    the path of a batch's last few examples is. What stands behind the kernel's end (a warp whose threads have parted) comes
    back into a loop, and closes none.
    """
    lines = list(_instructions(machine_code))
    places = {label: at for at, (label, _) in enumerate(lines) if label}
    ends: dict[int, int] = {}
    for at, (_, text) in enumerate(lines):
        target = re.search(r"\bBRA\b.*\((\.L\w+)\)", text)
        first = places.get(target[1], at + 1) if target is not None else at + 1
        if first < at and not any(text == "EXIT" for _, text in lines[first:at]):
            ends[first] = at
    # Of an instruction the innermost loop: the one that begins last of those around it.
    owner = [max((first for first, last in ends.items() if first <= at <= last), default=-1) for at in range(len(lines))]
    counts = [_count([text for at, (label, text) in enumerate(lines) if owner[at] == first and not label])
              for first in ends]
    return max(counts, key=lambda c: (c["loads"] > 0, c["float32"] + c["float64"], c["instructions"]), default={})


def _count(instructions: list[str]) -> dict[str, int]:
    names = [re.split(r"[ .]", re.sub(r"^@\S+\s+", "", text))[0] for text in instructions]
    return {"instructions": len(names)} | {kind: sum(bool(re.fullmatch(pattern, name)) for name in names)
                                           for kind, pattern in KINDS.items()}


def _instructions(machine_code: str) -> Iterator[tuple[str, str]]:
    """(label, "") or ("", instruction), line by line."""
    for line in machine_code.splitlines():
        label = re.match(r"(\.L\w+):", line)
        if label is not None:
            yield label[1], ""
            continue
        instruction = re.match(r"\s*/\*[0-9a-f]{4,}\*/\s+((?:@!?U?P\w+\s+)?[A-Z].*?)\s*;", line)
        if instruction is not None:
            yield "", instruction[1]
