"""What generated code depends on, as texts to file it under: the program's tape, and the sources of the generator.

Hashing a tape takes a hundredth of the time of emitting it, so a program that was compiled before, by this process or
another, is found without being emitted again.
"""

from __future__ import annotations

import hashlib
import struct
from functools import cache
from pathlib import Path

import numpy as np

from jitgrad.compiler.cache import key
from jitgrad.compiler.graph import OPS, Op, RuleGraph, spelling_graph, vjp_graph
from jitgrad.compiler.program import Program
from jitgrad.kernels import place


@cache
def sources() -> str:
    """Equal for installations that emit the same code for the same tape."""
    digest = hashlib.sha256()
    for folder in (Path(__file__).parent, Path(place.__file__).parent):
        for path in sorted((*folder.glob("*.py"), *folder.glob("*.ll"))):
            content = path.read_bytes()
            digest.update(f"{path.name} {len(content)} ".encode() + content)
    return digest.hexdigest()


def _text(rule: RuleGraph) -> str:
    parts = [f"{n.op.name} {n.payload!r}" if not n.args else f"{_spelled(n.op)}{[a.index for a in n.args]}"
             for n in rule.nodes]
    return f"({'; '.join(parts)})->{[r.index for r in rule.results]}"


@cache
def _spelled(op: Op) -> str:
    """An operation down to what it is emitted as: tests and users may add some of their own."""
    how = _text(spelling_graph(op)) if callable(op.spelling) else op.spelling
    return f"{op.name}={how}{sorted(op.conditions)}"


def of_table() -> str:
    """Equal for tables of the same operations: what an interpreter of any tape is made of."""
    return key(*map(_spelled, OPS.values()))


def of_derivatives() -> str:
    """Equal for tables of the same operations with the same derivatives."""
    return key(of_table(), *(_text(vjp_graph(op, tuple(range(op.arity)))) for op in OPS.values()
                             if op.vjp is not None and op.arity and not op.variadic))


def of_program(program: Program) -> str:
    """Equal for programs that are computed by the same code."""
    tape, _ = program.rolled
    digest = hashlib.sha256()

    def add(*parts: bytes) -> None:
        for part in parts:
            digest.update(struct.pack("<q", len(part)) + part)
    slots = np.array(tape.inputs, np.int64)
    places = np.where(tape.shared, program.shared_places(slots), -1) if len(slots) else slots
    add(program.dtype.str.encode(), places.tobytes(), tape.boolean.tobytes())
    for row, value in tape.constants.items():
        add(struct.pack("<qd", row, value))
    for i in tape.instructions:
        add(_spelled(i.op).encode(), struct.pack("<qq", i.lo, i.hi), *(a.tobytes() for a in i.args))
        if i.segments is not None:
            add(i.segments.start.tobytes(), i.segments.elements.tobytes())
    add(program.reduced_rows.tobytes(), *(rows.tobytes() for rows in program.example_outputs))
    return digest.hexdigest()
