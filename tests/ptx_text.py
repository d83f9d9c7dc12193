"""PTX text as functions of instructions, and the memory that a module declares."""

from __future__ import annotations

import re
from dataclasses import dataclass, field
from functools import cache

from ptx_arithmetic import TYPES

_TOGETHER = ("shfl", "vote", "redux")


@dataclass
class Function:
    """A function's instructions in order; labels are places among them."""

    name: str
    parameters: list[str]
    returned: list[str]
    code: list[Instruction] = field(default_factory=list)
    labels: dict[str, int] = field(default_factory=dict)
    local: dict[str, int] = field(default_factory=dict)        # local memory: name -> bytes
    sizes: dict[str, int] = field(default_factory=dict)        # registers' bytes: %f for %f0, %f1, …


@dataclass
class Instruction:
    """`@guard opcode operands`."""

    opcode: str
    operands: list[str]
    guard: str = ""
    negated: bool = False

    def __post_init__(self) -> None:
        self.kind = self.opcode.split(".")[0]
        barrier = self.kind in ("bar", "barrier")
        # Who has to come together for it: the warp's threads, the block's, or nobody.
        self.scope = "warp" if self.kind in _TOGETHER or (barrier and "warp" in self.opcode) else "block" if barrier else ""

    def __str__(self) -> str:
        guard = f"@{'!' * self.negated}{self.guard} " if self.guard else ""
        return f"{guard}{self.opcode} {', '.join(self.operands)}"


@dataclass
class Module:
    """What a PTX text declares. memory: name -> (space, bytes, alignment, first numbers and their type)."""

    functions: dict[str, Function]
    entry: str
    memory: dict[str, tuple[str, int, int, tuple[str, list[int]]]]


_VARIABLE = re.compile(r"\.(global|shared|const|local)\s+\.align\s+(\d+)\s+\.(\w+)\s+(\w+)(?:\[(\d*)\])?"
                       r"(?:\s*=\s*\{(.*)\})?$", re.S)
_FUNCTION = re.compile(r"\.(entry|func)\b\s*(?:\((.*?)\)\s*)?([\w$]+)\s*\((.*?)\)", re.S)
_GUARD = re.compile(r"@(!?)(%\w+)\s+")
_SPLIT = re.compile(r",(?![^\[{(]*[\]})])")


def names(parameters: str | None) -> list[str]:
    """The names in a list of parameters."""
    return re.findall(r"([\w$]+)(?:\[\d+\])?\s*(?:,|$)", parameters or "")


@cache
def parse(text: str) -> Module:
    """A PTX module."""
    text = re.sub(r"//[^\n]*", "", text)
    module = Module({}, "", {})
    function: Function | None = None
    depth, at = 0, 0
    for found in re.finditer(r"[;{}]|[\w$]+:(?!:)", text):
        piece, end = text[at:found.start()].strip(), found.group()
        if end == "{" and (function is None or not piece):
            header = _FUNCTION.search(piece) if function is None else None
            if header:
                kind, returned, name, parameters = header.groups()
                function = module.functions[name] = Function(name, names(parameters), names(returned))
                module.entry = name if kind == "entry" else module.entry
            elif function is None:
                continue                                     # the braces of a variable's first numbers
            depth += 1
            at = found.end()
        elif end == "}" and function is not None and not piece:
            depth -= 1
            at = found.end()
            function = function if depth else None
        elif end.endswith(":") and function is not None and not piece:
            function.labels[end[:-1]] = len(function.code)
            at = found.end()
        elif end == ";":
            at = found.end()
            variable = _VARIABLE.search(piece)
            if variable:
                space, alignment, kind, name, count, first = variable.groups()
                size = TYPES[kind].itemsize * (1 if count is None else int(count or 0))     # []: left to the launch
                if space == "local" and function is not None:
                    function.local[name] = size
                else:
                    numbers = [int(x, 0) for x in first.split(",")] if first else []
                    module.memory[name] = space, size, int(alignment), (kind, numbers)
            elif function is not None and piece.startswith(".reg"):
                _, kind, declared = piece.split(None, 2)
                for name in declared.split(","):
                    function.sizes[name.strip().partition("<")[0]] = 0 if kind == ".pred" else TYPES[kind[1:]].itemsize
            elif function is not None and not piece.startswith("."):
                function.code.append(_instruction(piece))
    return module


def _instruction(text: str) -> Instruction:
    guard = _GUARD.match(text)
    rest = text[guard.end():] if guard else text
    opcode, _, operands = " ".join(rest.split()).partition(" ")
    split = [part.strip() for part in _SPLIT.split(operands)] if operands else []
    return Instruction(opcode, split, guard.group(2) if guard else "", bool(guard and guard.group(1)))
