"""The gradient of eager Values as machine code: a ledger's entries, backwards, by the table's derivative rules.

A ledger's lists are Python's. They are read where they lie, through CPython's C interface, at 3 to 5 ns a number; copied
into arrays first, a number takes 20 to 30.
"""

from __future__ import annotations

import ctypes
from array import array
from functools import cache
from typing import Any

import llvmlite.binding as llvm
import numpy as np
from llvmlite import ir

from jitgrad.backends.native import Native, native
from jitgrad.compiler.emit import I32, I64, Emitter, emit_switch
from jitgrad.compiler.graph import OPS, Op, vjp_graph
from jitgrad.compiler.identity import of_derivatives

I8, DOUBLE = ir.IntType(8), ir.DoubleType()
OBJECT = I8.as_pointer()
_NAME = "jitgrad_ledger_backward"
_WHERE = OPS["where"]                        # the one operation with a third operand
_INTERFACE = {"PyList_GetItem": ir.FunctionType(OBJECT, [OBJECT, I64]),
              "PyFloat_AsDouble": ir.FunctionType(DOUBLE, [OBJECT]),
              "PyLong_AsSsize_t": ir.FunctionType(I64, [OBJECT]), "PyErr_Occurred": ir.FunctionType(OBJECT, [])}


class _Writer:
    """Emits `i64 backward(ops, left, right, third, data, grads, mark, top)`, which answers -1, or the entry at fault."""

    def __init__(self) -> None:
        self.module = ir.Module("jitgrad_ledger")
        kinds = [OBJECT, OBJECT, OBJECT, I32.as_pointer(), OBJECT, DOUBLE.as_pointer(), OBJECT, I64]
        self.function = ir.Function(self.module, ir.FunctionType(I64, kinds), _NAME)
        self.c = {name: ir.Function(self.module, kind, name) for name, kind in _INTERFACE.items()}
        self.ops, self.left, self.right, self.third, self.data, self.grads, self.mark, top = self.function.args
        self.builder = builder = ir.IRBuilder(self.function.append_basic_block("entry"))
        self.emitter = Emitter(builder, np.dtype(np.float64), 1, "cpu")
        head, body, live, after, done, self.fault = (
            self.function.append_basic_block(name) for name in ("head", "body", "live", "next", "done", "fault"))
        entry = builder.block
        builder.branch(head)
        builder.position_at_end(head)
        self.i = i = builder.phi(I64)
        i.add_incoming(top, entry)
        builder.cbranch(builder.icmp_signed(">=", i, ir.Constant(I64, 0)), body, done)
        builder.position_at_end(body)
        marked = builder.load(builder.gep(self.mark, [i]))
        builder.cbranch(builder.icmp_unsigned("!=", marked, ir.Constant(I8, 0)), live, after)
        builder.position_at_end(live)
        self.g = builder.load(builder.gep(self.grads, [i]))
        emit_switch(self.emitter, self.whole(self.ops, i), self.hand_on)
        builder.branch(after)
        builder.position_at_end(after)
        i.add_incoming(builder.sub(i, ir.Constant(I64, 1)), after)
        builder.branch(head)
        builder.position_at_end(done)
        builder.ret(ir.Constant(I64, -1))
        builder.position_at_end(self.fault)
        builder.ret(i)

    def whole(self, entries: ir.Value, i: ir.Value) -> ir.Value:
        item = self.builder.call(self.c["PyList_GetItem"], [entries, i])
        return self.builder.call(self.c["PyLong_AsSsize_t"], [item])

    def number(self, i: ir.Value) -> ir.Value:
        """An entry's number as a double; leaves for the fault where it is none."""
        builder = self.builder
        x = builder.call(self.c["PyFloat_AsDouble"], [builder.call(self.c["PyList_GetItem"], [self.data, i])])
        odd, fine = (self.function.append_basic_block(name) for name in ("odd", "fine"))
        builder.cbranch(builder.fcmp_ordered("==", x, ir.Constant(DOUBLE, -1.0)), odd, fine)
        builder.position_at_end(odd)
        error = builder.call(self.c["PyErr_Occurred"], [])
        builder.cbranch(builder.icmp_unsigned("==", error, ir.Constant(OBJECT, None)), fine, self.fault)
        builder.position_at_end(fine)
        return x

    def hand_on(self, op: Op) -> None:
        """Add to the operands' gradients what `op`'s rule makes of entry i's."""
        if op.vjp is None:
            return
        builder, emitter = self.builder, self.emitter
        entries = [self.whole(entries, self.i) for entries in (self.left, self.right)[:op.arity]]
        if op is _WHERE:
            entries.append(builder.sext(builder.load(builder.gep(self.third, [self.i])), I64))
        rule = vjp_graph(op, tuple(range(op.arity)))
        read = {n.payload for n in rule.nodes if n.op.name == "input"}
        zero = emitter.constant(0.0)
        symbols = [self.g, *(self.number(e) if k in read else zero for k, e in enumerate([self.i, *entries], 1))]
        results = rule.evaluate(symbols, lambda n: emitter.constant(n.payload, n.kind == "bool"), emitter.apply)
        for entry, result in zip(entries, results, strict=True):
            at = builder.gep(self.grads, [entry])
            builder.store(builder.fadd(builder.load(at), emitter.number(result)), at)
            builder.store(ir.Constant(I8, 1), builder.gep(self.mark, [entry]))


@cache
def _compiled() -> tuple[Native, Any]:
    for name in _INTERFACE:
        llvm.add_symbol(name, ctypes.cast(getattr(ctypes.pythonapi, name), ctypes.c_void_p).value)
    code = native(lambda: _Writer().module, "eager", of_derivatives())
    # PYFUNCTYPE holds the interpreter's lock during the call, and raises what the C interface has raised.
    o, p = ctypes.py_object, ctypes.c_void_p
    return code, ctypes.PYFUNCTYPE(ctypes.c_int64, o, o, o, p, o, p, p, ctypes.c_int64)(code.address(_NAME))


def backward(ledger: Any, top: int, grads: array[float], mark: bytearray) -> bool:
    """Hand gradients on from entry `top` down to 0, wherever `mark` is not 0; False if an operand is no number of C's.

    grads: an array of float64, one an entry; mark: a byte an entry. Both are changed.
    """
    third = np.zeros(top + 1 if ledger.third else 1, np.int32)
    for i, entry in ledger.third.items():
        if i <= top:
            third[i] = entry
    run = _compiled()[1]
    marks = (ctypes.c_char * len(mark)).from_buffer(mark)
    try:
        run(ledger.ops, ledger.left, ledger.right, third.ctypes.data, ledger.data, grads.buffer_info()[0],
            ctypes.addressof(marks), top)
    except (TypeError, OverflowError):
        return False
    return True
