"""Value: micrograd's eager scalar, and the tracer that stands in for it while a function is recorded.

Eager arithmetic is micrograd's, node for node: `-x` is `x * -1`, `a - b` is `a + (-b)`, `a / b` is `a * b**-1`; values
agree with it to the last bit. Unlike micrograd, operands are an ordered tuple (a set would lose `x * x`), nothing
recurses, and nothing raises outside a function's domain: it answers NaN or inf as IEEE 754 does.

A Value that the user makes is a leaf and holds its number. What arithmetic makes is a `Computed`, a place in a ledger
(ledger.py). The operators of a script's inner loops are written out here, for two operands of one ledger and for a leaf
beside one; everything else takes the general way, `apply`.
"""

from __future__ import annotations

import threading
from collections.abc import Callable, Iterable, Sequence
from typing import Any

import numpy as np

from jitgrad import errors, nans, operators
from jitgrad.compiler.graph import OPS, Node, Number, Op
from jitgrad.ledger import ADD, BY_CODE, CODE, GIVEN, HOOKED, MUL, SERIALS, Full, Ledger, current, hand_down, successor
from jitgrad.recording import Recording
from jitgrad.rules import derivative as derivative
from jitgrad.rules import reference as reference

_ADD, _MUL, _POW = OPS["add"], OPS["mul"], OPS["pow"]
_POW_CODE, _power = CODE[_POW], reference(_POW)
_RELU, _EXP, _LOG, _TANH = (CODE[OPS[name]] for name in ("relu", "exp", "log", "tanh"))
_NUMBERS = (int, float, np.number, np.bool_)

# How many functions are being recorded, or run with NaN as an error, in all threads. While any is, all operations take the
# general way.
_recordings = 0
_LOCK = threading.Lock()


def watch(change: int) -> None:
    """One more (1) or one less (-1) that wants to see every operation."""
    global _recordings
    with _LOCK:
        _recordings += change


RECORDING = Recording(watch)


class Value:
    """A scalar that remembers how it was made (micrograd's Value).

    data: the number; grad: the derivative of the last root `backward` was called on, summed over calls as in
    micrograd; _prev: the Values it was made from, in order; _op: the operation's symbol; label: a name for pictures.
    Other attributes may be set freely. `_backward()` hands the gradient on to what the Value was made from, no further; a
    function set in its place replaces the derivative rule, which is micrograd's way of adding an operation by hand.
    """

    __slots__ = ("__dict__", "__weakref__", "data", "grad")

    # What few Values have lies in __dict__.
    label = ""
    _op = ""
    _args: tuple[Any, ...] = ()
    _rule: Op | None = None
    _own: Callable[[], None] | None = None
    # A Value made by hand counts as a closed ledger: what it is made from is older, what it is used in is younger.
    _serial = 0
    _next: Any = None

    def __init__(self, data: Any, _children: Iterable[Any] = (), _op: str = "", label: str = ""):
        self.data = data if data.__class__ is float else _plain(data)
        self.grad: Any = 0
        if label:
            self.label = label
        if _op:
            self._op = _op
        if _children:
            self._args, self._serial = tuple(_children), next(SERIALS)

    @property
    def _prev(self) -> tuple[Value, ...]:
        return tuple(a for a in self._args if isinstance(a, Value))

    @property
    def _backward(self) -> Callable[[], None] | None:
        return self._own or (lambda: None)

    @_backward.setter
    def _backward(self, function: Callable[[], None] | None) -> None:
        self._own = function
        if not self._args:
            (HOOKED.discard if function is None else HOOKED.add)(self)

    def __repr__(self) -> str:
        return f"Value(data={self._number()}, grad={self.grad})"

    def _number(self) -> Any:
        """The number, where no decision of the user's depends on it."""
        return self.data

    def _set_number(self, number: Any) -> None:
        """Put a number that a program has computed anew."""
        self.data = number

    def _place(self) -> tuple[Any, int]:
        """What hands this Value's gradient on, and the entry there; itself, if it is no entry."""
        return self, 0

    # Arithmetic, as micrograd decomposes it.

    def __add__(self, other: Any) -> Any:
        if self.__class__ is Value:
            if other.__class__ is Value:
                return _of_leaf(_ADD, ADD, self.data + other.data, self, other)
            if other.__class__ is float or other.__class__ is int:
                return _of_leaf(_ADD, ADD, self.data + other, self, other)
        return _binary(_ADD, self, other)

    def __mul__(self, other: Any) -> Any:
        if self.__class__ is Value:
            if other.__class__ is Value:
                return _of_leaf(_MUL, MUL, self.data * other.data, self, other)
            if other.__class__ is float or other.__class__ is int:
                return _of_leaf(_MUL, MUL, self.data * other, self, other)
        return _binary(_MUL, self, other)

    def __radd__(self, other: Any) -> Any: return self + other
    def __rmul__(self, other: Any) -> Any: return self * other
    def __neg__(self) -> Any: return self * -1
    def __sub__(self, other: Any) -> Any: return NotImplemented if _foreign(other) else self + (-_plain(other))
    def __rsub__(self, other: Any) -> Any: return NotImplemented if _foreign(other) else other + (-self)
    def __truediv__(self, other: Any) -> Any: return NotImplemented if _foreign(other) else self * _inverse(other)
    def __rtruediv__(self, other: Any) -> Any: return NotImplemented if _foreign(other) else other * self**-1
    def __pos__(self) -> Any: return self

    def __pow__(self, other: Any) -> Any:
        return NotImplemented if _foreign(other) else apply(_POW, self, other)

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
        return True                        # as every object of micrograd's class is; a condition is another matter

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
    def conjugate(self) -> Any: return self                  # of a real number; NumPy's var, std and vdot ask for it

    def backward(self) -> None:
        """Add d(self)/d(v) to v.grad for every Value v this one depends on, starting from self.grad = 1."""
        hand_down(self)


_OPERANDS = (Value, *_NUMBERS)


class Computed(Value):
    """What arithmetic makes: a place in a ledger, which has the number, the operands and the gradient."""

    __slots__ = ("_index", "_ledger")

    _ledger: Ledger
    _index: int
    __init__ = object.__init__

    @property
    def data(self) -> Any:
        """The number. Reading it is noted: what is built from here on may depend on it."""
        self._ledger.note_read(self._index)
        return self._ledger.data[self._index]

    @data.setter
    def data(self, number: Any) -> None:
        self._ledger.assign(self._index, number)

    def _number(self) -> Any:
        return self._ledger.data[self._index]

    def _set_number(self, number: Any) -> None:
        self._ledger.data[self._index] = number

    def _place(self) -> tuple[Ledger, int]:
        return self._ledger, self._index

    @property
    def grad(self) -> Any:
        return self._ledger.grad(self._index)

    @grad.setter
    def grad(self, g: Any) -> None:
        self._ledger.set_grad(self._index, g)
        self._ledger.touched = True

    @property
    def _rule(self) -> Op:  # type: ignore[override]
        return self._ledger.rule(self._index)

    @property
    def _op(self) -> str:  # type: ignore[override]
        rule = self._rule
        power = self._args[1] if rule is OPS["pow"] else None
        return rule.symbol if power is None or isinstance(power, Value) else f"**{power}"

    @property
    def _args(self) -> tuple[Any, ...]:  # type: ignore[override]
        ledger, rule = self._ledger, self._rule
        shown = rule in (_ADD, _MUL)     # micrograd makes a leaf of a number beside + and *, and so a node of its graph
        return tuple(self._operand(ledger, i, shown) for i in ledger.operands(self._index))

    @classmethod
    def at(cls, ledger: Ledger, i: int) -> Computed:
        """The Value of an operation's entry."""
        made: Computed = cls()
        made._ledger, made._index = ledger, i
        return made

    @classmethod
    def _operand(cls, ledger: Ledger, i: int, shown: bool) -> Any:
        """The Value of an entry, the same at each call; a number as it is, or as a leaf where it is `shown`."""
        values = ledger.known(cls)
        v = values.get(i)
        if v is None and ledger.ops[i] == GIVEN:
            if not shown:
                return ledger.data[i]
            v = Value(ledger.data[i])
            v._rule = OPS["constant"]
        return values.setdefault(i, cls.at(ledger, i) if v is None else v)

    @property
    def _backward(self) -> Callable[[], None] | None:
        own = self._ledger.own.get(self._index)
        return self._hand_on if own is None else own[0]

    @_backward.setter
    def _backward(self, function: Callable[[], None] | None) -> None:
        self._ledger.replace_rule(self._index, function)

    def _hand_on(self) -> None:
        operands, rule = self._args, self._rule
        if rule.vjp is not None:
            handed = derivative(rule)(self.grad, self._number(), *map(number_of, operands))
            for a, g in zip(operands, handed, strict=True):
                if isinstance(a, Value):
                    a.grad += g

    def __reduce__(self) -> Any:
        return Computed.at, (self._ledger, self._index), self.__dict__ or None     # no read, and no assignment, of data

    def __bool__(self) -> bool:
        return bool(self.data) if self._rule.result == "bool" else True

    def __pow__(self, other: Any) -> Any:
        if _recordings or (other.__class__ is not int and other.__class__ is not float):
            return Value.__pow__(self, other)
        ledger, a = self._ledger, self._index
        try:
            data, b = ledger.data, ledger.given(other)
            i = next(ledger.ids)
            data[i] = _power(data[a], other)
            ledger.left[i] = a
            ledger.right[i] = b
            ledger.ops[i] = _POW_CODE
        except (IndexError, StopIteration, Full):
            return apply(_POW, self, other)
        made = Computed()
        made._ledger = ledger
        made._index = i
        return made

    def relu(self) -> Any: return _single(self, _RELU, OPS["relu"].value)
    def exp(self) -> Any: return _single(self, _EXP, OPS["exp"].value)
    def log(self) -> Any: return _single(self, _LOG, OPS["log"].value)
    def tanh(self) -> Any: return _single(self, _TANH, OPS["tanh"].value)


def _single(x: Computed, code: int, compute: Any) -> Any:
    """An operation of one operand."""
    if _recordings:
        return apply(BY_CODE[code], x)
    ledger, a = x._ledger, x._index
    try:
        data = ledger.data
        i = next(ledger.ids)
        data[i] = compute(data[a])
        ledger.left[i] = a
        ledger.ops[i] = code
    except (IndexError, StopIteration):
        return apply(BY_CODE[code], x)
    made = Computed()
    made._ledger = ledger
    made._index = i
    return made


operators.write(Computed, globals())


def _foreign(other: Any) -> bool:
    return not isinstance(other, _OPERANDS)


def _inverse(other: Any) -> Any:
    return other**-1 if isinstance(other, Value) else reference(_POW)(_plain(other), -1)


def _plain(number: Any) -> Any:
    """A NumPy scalar as Python's number: float32 arithmetic, or an integer's powers, would not be micrograd's."""
    return number.item() if isinstance(number, np.generic) else number


def _binary(op: Op, x: Value, y: Any) -> Any:
    return NotImplemented if _foreign(y) else apply(op, x, y)


def _of_leaf(op: Op, code: int, number: Any, x: Value, y: Any) -> Any:
    """A sum or a product of a leaf and a leaf or a number."""
    if _recordings:
        return apply(op, x, y)
    ledger = current()
    try:
        a = ledger.places.get(x)
        if a is None:
            a = ledger.enrol(x)
        b = ledger.places.get(y) if y.__class__ is Value else ledger.given(y)
        if b is None:
            b = ledger.enrol(y)
        i = next(ledger.ids)
        ledger.data[i] = number
        ledger.left[i] = a
        ledger.right[i] = b
        ledger.ops[i] = code
    except (IndexError, StopIteration, Full):
        return apply(op, x, y)
    made = Computed()
    made._ledger = ledger
    made._index = i
    return made


def _compare(name: str, x: Value, y: Any, swap: bool = False) -> Any:
    if _foreign(y):
        return NotImplemented
    return apply(OPS[name], y, x) if swap else apply(OPS[name], x, y)


def apply(op: Op, *args: Any) -> Any:
    """One operation on Values and numbers: eager, or recorded where an argument is traced or a function is recorded."""
    for a in args:
        if isinstance(a, Traced):
            return a.recorder.apply(op, args)
        if isinstance(a, np.generic):
            return apply(op, *map(_plain, args))
    if _recordings and RECORDING.recorder is not None:
        return RECORDING.recorder.apply(op, args)     # of closed-over Values alone; its number would be frozen
    operands = [number_of(a) for a in args]
    number = reference(op)(*operands)
    if _recordings and nans.ARE_ERRORS.get():
        nans.demand_number(op, number, operands)
    while True:
        ledger = _ledger_for(args)
        try:
            i = ledger.enter(CODE[op], number, [_place(ledger, a) for a in args])
        except Full:
            continue
        return Computed.at(ledger, i)


def _ledger_for(args: Sequence[Any]) -> Ledger:
    """The ledger of the youngest operand, or that one's successor: so imports point to older ledgers."""
    youngest = max((a._place()[0] for a in args if isinstance(a, Value)), key=lambda holder: holder._serial)
    return successor(youngest) if youngest._serial else current()


def _place(ledger: Ledger, a: Any) -> int:
    """The entry of an operand, made if need be."""
    if isinstance(a, Computed):
        return a._index if a._ledger is ledger else ledger.imported(a)
    return ledger.place(a) if isinstance(a, Value) else ledger.given(a)


_ADD, _SUB, _MUL, _DIV = (OPS[name] for name in ("add", "sub", "mul", "div"))


class Traced(Value):
    """The stand-in for a Value while a function is recorded: it has a node of the graph instead of a number."""

    __slots__ = ("node", "recorder")

    def __init__(self, recorder: Any, node: Node):
        self.recorder, self.node = recorder, node

    def __repr__(self) -> str:
        return f"Traced({self.node!r})"

    # A copy of what does not change, in whatever structure it stands.

    def __copy__(self) -> Any: return self
    def __deepcopy__(self, memo: Any) -> Any: return self

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
    def data(self) -> Any:  # type: ignore[override]
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
                      "branch outside the compiled function. Arrays are compared by np.greater(a, b, dtype=object).")

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
    return isinstance(value, _NUMBERS)


def number_of(value: Any) -> Number:
    """The plain number of an eager Value or a number."""
    return value._number() if isinstance(value, Value) else value  # type: ignore[no-any-return]
