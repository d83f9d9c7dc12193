"""`+` and `*` of computed Values, where the inner loops of a script spend their time.

`computed + other`, where other is computed too, a leaf or a number, and `leaf + computed`, for which Python asks the
subclass first. Everything else goes the general way, value.py's `apply`. The methods are written from one text, as those
of dataclasses are: to share their lines by calls would take a third of the time.
"""

from __future__ import annotations

from typing import Any

from jitgrad.compiler.graph import OPS
from jitgrad.ledger import CODE

_OPERATOR = """
def __{name}__(self, other):
    ledger, kind = self._ledger, other.__class__
    if _recordings:
        return _binary(OP, self, other)
    try:
        data, a = ledger.data, self._index
        if kind is Computed:
            if other._ledger is not ledger:
                return apply(OP, self, other)
            b = other._index
            y = data[b]
        elif kind is Value:
            b = ledger.places.get(other)
            if b is None:
                b = ledger.enrol(other)
            y = other.data
        elif kind is float or kind is int:
            b, y = ledger.given(other), other
        else:
            return _binary(OP, self, other)
        i = next(ledger.ids)
        data[i] = data[a] {sign} y
        ledger.left[i] = a
        ledger.right[i] = b
        ledger.ops[i] = {code}
    except (IndexError, StopIteration, Full):
        return apply(OP, self, other)
    made = Computed()
    made._ledger = ledger
    made._index = i
    return made

def __r{name}__(self, other):
    if other.__class__ is not Value:
        return Value.__{name}__(other, self) if isinstance(other, Value) else self {sign} other
    if _recordings:
        return apply(OP, other, self)
    ledger = self._ledger
    try:
        data, a = ledger.data, self._index
        b = ledger.places.get(other)
        if b is None:
            b = ledger.enrol(other)
        i = next(ledger.ids)
        data[i] = other.data {sign} data[a]
        ledger.left[i] = b
        ledger.right[i] = a
        ledger.ops[i] = {code}
    except (IndexError, StopIteration, Full):
        return apply(OP, other, self)
    made = Computed()
    made._ledger = ledger
    made._index = i
    return made
"""


def write(kind: type, scope: dict[str, Any]) -> None:
    """Give the class of computed Values its operators; scope: value.py's names."""
    for name, sign in (("add", "+"), ("mul", "*")):
        text = _OPERATOR.format(name=name, sign=sign, code=CODE[OPS[name]]).replace("OP", f"_{name.upper()}")
        methods: dict[str, Any] = {}
        exec(compile(text, __file__, "exec"), scope, methods)
        for method in methods.values():
            setattr(kind, method.__name__, method)
