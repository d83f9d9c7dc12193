"""Terms of a wide program as LLVM, for whatever an emitter's lanes are: CUDA's threads or the CPU's vectors of examples."""

from __future__ import annotations

from collections.abc import Sequence

from llvmlite import ir

from jitgrad.compiler.emit import Emitter
from jitgrad.compiler.graph import OPS
from jitgrad.compiler.wide import Term

ADD = OPS["add"]
NAN = float("nan")
# What a reduction begins with: the number that changes no other, signed zeros included.
NEUTRAL = {OPS["sum"]: -0.0, OPS["maximum"]: float("-inf"), OPS["minimum"]: float("inf")}


def operation(emitter: Emitter, term: Term, args: Sequence[ir.Value]) -> ir.Value:
    """A term's operation of the table on numbers; of a list, in its order."""
    op = term.op
    assert op is not None
    if op is OPS["take"]:
        found = emitter.constant(NAN)
        for position, value in enumerate(args[1:]):
            here = emitter.apply(OPS["eq"], [args[0], emitter.constant(float(position))])
            found = emitter.apply(OPS["where"], [here, value, found])
        return found
    two = ADD if op is OPS["sum"] else op
    if two.arity != 2:
        return emitter.apply(op, args)
    total = args[0]
    for a in args[1:]:
        total = emitter.apply(two, [total, a])
    return total


def inside(emitter: Emitter, index: ir.Value, width: int) -> ir.Value:
    """Whether an index is that of an element."""
    above = emitter.apply(OPS["le"], [emitter.constant(0.0), index])
    return emitter.apply(OPS["and"], [above, emitter.apply(OPS["lt"], [index, emitter.constant(width)])])
