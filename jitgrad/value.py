"""Value: micrograd's eager scalar, and the tracer that stands in for it while a function is recorded.

Eager arithmetic is micrograd's, node for node: `-x` is `x * -1`, `a - b` is `a + (-b)`, `a / b` is `a * b**-1`; values
agree with it to the last bit. Unlike micrograd, operands are an ordered tuple (a set would lose `x * x`), nothing
recurses, and nothing raises outside a function's domain: it answers NaN or inf as IEEE 754 does.
"""

from __future__ import annotations

import threading
from collections.abc import Callable, Iterable, Sequence
from functools import cache
from typing import Any

import numpy as np

from jitgrad import errors
from jitgrad.compiler.graph import OPS, Node, Number, Op, RuleGraph, spelling_graph, vjp_graph

_INLINE = {"add": "{} + {}", "sub": "{} - {}", "mul": "{} * {}", "neg": "-{}", "lt": "{} < {}", "le": "{} <= {}",
           "eq": "{} == {}", "where": "{1} if {0} else {2}"}


def _python(rule: RuleGraph, symbols: Sequence[str]) -> Callable[..., tuple[Any, ...]]:
    """A rule as a Python function of numbers: the derivative the kernels use is also the eager one."""
    scope: dict[str, Any] = {}
    names: dict[Node, str] = {}
    lines = []
    for n in rule.nodes:
        if n.op.name == "input":
            names[n] = symbols[n.payload]
        elif n.op.name == "constant":
            names[n] = f"c{n.index}"
            scope[names[n]] = n.payload
        else:
            names[n] = f"v{n.index}"
            form = _INLINE.get(n.op.name)
            if form is None:
                scope[f"f_{n.op.name}"] = reference(n.op)
                form = f"f_{n.op.name}({', '.join('{}' for _ in n.args)})"
            lines.append(f"    {names[n]} = {form.format(*(names[a] for a in n.args))}")
    results = ", ".join(names[r] for r in rule.results)
    exec("\n".join([f"def rule({', '.join(symbols)}):", *lines, f"    return ({results},)"]), scope)
    made: Callable[..., tuple[Any, ...]] = scope["rule"]
    return made


@cache
def reference(op: Op) -> Callable[..., Any]:
    """The operation on Python numbers: the table's `value`, or its spelling by other operations."""
    if op.value is not None:
        return op.value
    spelled = _python(spelling_graph(op), [f"x{k}" for k in range(op.arity)])
    return lambda *args: spelled(*args)[0]


@cache
def derivative(op: Op) -> Callable[..., tuple[Any, ...]]:
    """(g, out, *args) -> a cotangent for each argument, on Python numbers."""
    return _python(vjp_graph(op, tuple(range(op.arity))), ["g", "out", *(f"x{k}" for k in range(op.arity))])


class _Recording(threading.local):
    """The recorder of the function that this thread is recording, or None."""

    recorder: Any = None


RECORDING = _Recording()


class Value:
    """A scalar that remembers how it was made (micrograd's Value).

    data: the number; grad: the derivative of the last root `backward` was called on, summed over calls as in
    micrograd; _prev: the Values it was made from, in order; _op: the operation's symbol; label: a name for pictures.
    Other attributes may be set freely. A `_backward` function set on a Value replaces its derivative rule, which is
    micrograd's way of adding an operation by hand.
    """

    __slots__ = ("__dict__", "__weakref__", "_args", "_backward", "_op", "_rule", "data", "grad", "label")

    def __init__(self, data: Any, _children: Iterable[Any] = (), _op: str = "", label: str = ""):
        self.data = _plain(data)
        self.grad: Any = 0
        self._args: tuple[Any, ...] = tuple(_children)
        self._op, self.label = _op, label
        self._rule: Op | None = None
        self._backward: Callable[[], None] | None = None

    @property
    def _prev(self) -> tuple[Value, ...]:
        return tuple(a for a in self._args if isinstance(a, Value))

    def __repr__(self) -> str:
        return f"Value(data={self.data}, grad={self.grad})"

    # Arithmetic, as micrograd decomposes it.

    def __add__(self, other: Any) -> Any: return _binary("add", self, other)
    def __radd__(self, other: Any) -> Any: return self + other
    def __mul__(self, other: Any) -> Any: return _binary("mul", self, other)
    def __rmul__(self, other: Any) -> Any: return self * other
    def __neg__(self) -> Any: return self * -1
    def __sub__(self, other: Any) -> Any: return NotImplemented if _foreign(other) else self + (-_plain(other))
    def __rsub__(self, other: Any) -> Any: return NotImplemented if _foreign(other) else other + (-self)
    def __truediv__(self, other: Any) -> Any: return NotImplemented if _foreign(other) else self * _inverse(other)
    def __rtruediv__(self, other: Any) -> Any: return NotImplemented if _foreign(other) else other * self**-1
    def __pos__(self) -> Any: return self

    def __pow__(self, other: Any) -> Any:
        if _foreign(other):
            return NotImplemented
        made = apply(OPS["pow"], self, other)
        if made.__class__ is Value and not isinstance(other, Value):
            made._op = f"**{other}"
        return made

    def __rpow__(self, other: Any) -> Any: return NotImplemented if _foreign(other) else apply(OPS["pow"], other, self)
    def __abs__(self) -> Any: return apply(OPS["abs"], self)

    # Comparisons give a condition, for `where`; bool() of it is an ordinary truth value, unless traced.

    def __lt__(self, other: Any) -> Any: return _compare("lt", self, other)
    def __le__(self, other: Any) -> Any: return _compare("le", self, other)
    def __gt__(self, other: Any) -> Any: return _compare("lt", self, other, swap=True)
    def __ge__(self, other: Any) -> Any: return _compare("le", self, other, swap=True)
    def __eq__(self, other: object) -> Any: return _compare("eq", self, other)
    def __ne__(self, other: object) -> Any: return _compare("ne", self, other)
    def __and__(self, other: Any) -> Any: return _compare("and", self, other)
    def __rand__(self, other: Any) -> Any: return _compare("and", self, other, swap=True)
    def __or__(self, other: Any) -> Any: return _compare("or", self, other)
    def __ror__(self, other: Any) -> Any: return _compare("or", self, other, swap=True)
    def __invert__(self) -> Any: return apply(OPS["not"], self)
    __hash__ = object.__hash__

    def __bool__(self) -> bool:
        # A condition is as true as its data; a number is true, as every object of micrograd's class is.
        return bool(self.data) if self._rule is not None and self._rule.result == "bool" else True

    def __float__(self) -> float:
        if RECORDING.recorder is not None:
            raise _frozen_float()
        return float(self.data)

    # Methods that NumPy's ufuncs look for on the elements of an object array, and micrograd's relu.

    def relu(self) -> Any: return apply(OPS["relu"], self)
    def exp(self) -> Any: return apply(OPS["exp"], self)
    def log(self) -> Any: return apply(OPS["log"], self)
    def log1p(self) -> Any: return apply(OPS["log1p"], self)
    def tanh(self) -> Any: return apply(OPS["tanh"], self)
    def sigmoid(self) -> Any: return apply(OPS["sigmoid"], self)
    def softplus(self) -> Any: return apply(OPS["softplus"], self)
    def sqrt(self) -> Any: return apply(OPS["sqrt"], self)
    def sin(self) -> Any: return apply(OPS["sin"], self)
    def cos(self) -> Any: return apply(OPS["cos"], self)
    def erf(self) -> Any: return apply(OPS["erf"], self)

    def backward(self) -> None:
        """Add d(self)/d(v) to v.grad for every Value v this one depends on, starting from self.grad = 1."""
        order = self._topological()
        self.grad = 1
        for v in reversed(order):
            if v._backward is not None:
                v._backward()
            elif v._rule is not None and v._rule.vjp is not None:
                numbers = [a.data if isinstance(a, Value) else a for a in v._args]
                for a, g in zip(v._args, derivative(v._rule)(v.grad, v.data, *numbers), strict=True):
                    if isinstance(a, Value):
                        a.grad += g

    def _topological(self) -> list[Value]:
        """Every Value below this one, operands first. An explicit stack: a loop of user code can be any depth."""
        order: list[Value] = []
        seen = {id(self)}
        stack: list[tuple[Value, Any]] = [(self, iter(self._args))]
        while stack:
            v, rest = stack[-1]
            for a in rest:
                if isinstance(a, Value) and id(a) not in seen:
                    seen.add(id(a))
                    stack.append((a, iter(a._args)))
                    break
            else:
                order.append(v)
                stack.pop()
        return order


def _foreign(other: Any) -> bool:
    return not isinstance(other, Value | int | float | np.number | np.bool_)


def _inverse(other: Any) -> Any:
    return other**-1 if isinstance(other, Value) else reference(OPS["pow"])(_plain(other), -1)


def _plain(number: Any) -> Any:
    """A NumPy scalar as Python's number: float32 arithmetic, or an integer's powers, would not be micrograd's."""
    return number.item() if isinstance(number, np.generic) else number


def _binary(name: str, x: Value, y: Any) -> Any:
    if not isinstance(y, Value):
        if _foreign(y):
            return NotImplemented
        if x.__class__ is Value and RECORDING.recorder is None:
            y = Value(y)                   # micrograd makes a leaf of a number, and so a node of its graph
            y._rule = OPS["constant"]
    return apply(OPS[name], x, y)


def _compare(name: str, x: Value, y: Any, swap: bool = False) -> Any:
    if _foreign(y):
        return NotImplemented
    return apply(OPS[name], y, x) if swap else apply(OPS[name], x, y)


def apply(op: Op, *args: Any) -> Any:
    """One operation on Values and numbers: eager, or recorded where an argument is traced or a function is recorded."""
    numbers = []
    for a in args:
        if isinstance(a, Value):
            if isinstance(a, Traced):
                return a.recorder.apply(op, args)
            numbers.append(a.data)
        elif isinstance(a, np.generic):
            return apply(op, *map(_plain, args))
        else:
            numbers.append(a)
    if RECORDING.recorder is not None:     # of closed-over Values alone; its number would be frozen into the kernel
        return RECORDING.recorder.apply(op, args)
    made = Value(reference(op)(*numbers), args, op.symbol)
    made._rule = op
    return made


_ADD, _SUB, _MUL, _DIV = (OPS[name] for name in ("add", "sub", "mul", "div"))


class Traced(Value):
    """The stand-in for a Value while a function is recorded: it has a node of the graph instead of a number."""

    __slots__ = ("node", "recorder")

    def __init__(self, recorder: Any, node: Node):
        self.recorder, self.node = recorder, node

    def __repr__(self) -> str:
        return f"Traced({self.node!r})"

    # Recorded arithmetic needs no detours: a kernel negates, subtracts and divides.

    def __add__(self, other: Any) -> Any: return self.recorder.binary(_ADD, self, other)
    def __radd__(self, other: Any) -> Any: return self.recorder.binary(_ADD, other, self)
    def __mul__(self, other: Any) -> Any: return self.recorder.binary(_MUL, self, other)
    def __rmul__(self, other: Any) -> Any: return self.recorder.binary(_MUL, other, self)
    def __neg__(self) -> Any: return apply(OPS["neg"], self)
    def __sub__(self, other: Any) -> Any: return self.recorder.binary(_SUB, self, other)
    def __rsub__(self, other: Any) -> Any: return self.recorder.binary(_SUB, other, self)
    def __truediv__(self, other: Any) -> Any: return self.recorder.binary(_DIV, self, other)
    def __rtruediv__(self, other: Any) -> Any: return self.recorder.binary(_DIV, other, self)

    # Subclass methods are tried first from the right, so a mixed `eager < traced` must mean the same from here.
    __lt__, __le__, __gt__, __ge__ = Value.__lt__, Value.__le__, Value.__gt__, Value.__ge__
    __eq__, __ne__, __hash__ = Value.__eq__, Value.__ne__, object.__hash__

    @property
    def data(self) -> Any:
        raise _frozen("`.data` of a traced value", "There is no number yet: the function is being recorded. Compute "
                      "with the value itself; for a softmax's shift use jg.softmax or jg.logsumexp.")

    @property
    def grad(self) -> Any:
        raise _frozen("`.grad` of a traced value", "Gradients come back from jg.value_and_grad or jg.grad.")

    def backward(self) -> None:
        """Not while recording."""
        raise _frozen("`.backward()` on a traced value", "Return the loss; jg.value_and_grad differentiates it.")

    def __bool__(self) -> bool:
        raise _frozen("`if`, `and`, `max()` or `bool()` on a traced value would freeze one branch into the kernel.",
                      "Use jg.where(condition, a, b), jg.maximum or jg.minimum, & and | for conditions, or move the "
                      "branch outside the compiled function.")

    def __float__(self) -> float:
        raise _frozen_float()

    def __int__(self) -> int:
        raise _frozen("`int()` on a traced value would freeze a number into the kernel.",
                      "Pass whole numbers as integer arguments, and read rows with jg.take(rows, index).")

    def __index__(self) -> int:
        raise _frozen("a traced value used as an index would freeze one row into the kernel.",
                      "Use jg.take(rows, index).")


def _frozen(what: str, instead: str) -> errors.TraceError:
    return errors.TraceError(errors.explain(what, errors.user_location(), instead))


def _frozen_float() -> errors.TraceError:
    return _frozen("`float()` (or a function of `math`) on a traced value would freeze a number into the kernel.",
                   "Use jitgrad's functions: jg.exp, jg.log, jg.sqrt, …")


def is_number(value: Any) -> bool:
    """Whether a plain Python or NumPy number."""
    return isinstance(value, int | float | np.number | np.bool_)


def number_of(value: Any) -> Number:
    """The plain number of an eager Value or a number."""
    return value.data if isinstance(value, Value) else value  # type: ignore[no-any-return]
