"""Whether a NaN is an error, as it is inside `debug_nans`; and the errors of eager arithmetic, which knows where it is."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from contextvars import ContextVar
from typing import Any

from jitgrad import errors
from jitgrad.compiler.graph import Op

ARE_ERRORS: ContextVar[bool] = ContextVar("jitgrad_debug_nans", default=False)


def is_nan(number: Any) -> bool:
    """Whether a number is NaN; a Value may hold anything."""
    return isinstance(number, float) and number != number


def demand_number(op: Op, number: Any, operands: Sequence[Any]) -> None:
    """Raise NonFiniteError, at the user's line, where an operation's result is NaN."""
    if is_nan(number):
        shown = ", ".join(map(repr, operands))
        what = "was given" if any(map(is_nan, operands)) else "made"
        raise errors.NonFiniteError(errors.explain(f"`{op.name}` of {shown} {what} the first NaN.", errors.user_location(),
                                                   "Keep its operands inside the function's domain, for example with "
                                                   "jg.maximum."))


def demand_derivatives(op: Op | None, derivative: Callable[..., Sequence[Any]] | None, g: Any,
                       operands: Sequence[Any]) -> None:
    """Raise NonFiniteError where a gradient that has arrived is NaN, or becomes it in what is handed on.

    op: what it has arrived at, None for a leaf; derivative: from g to what each operand is handed, if there is one
    """
    name, shown = ("a leaf", "") if op is None else (f"`{op.name}`", f" of {', '.join(map(repr, operands))}")
    what = ""
    if is_nan(g):
        what = f"the derivatives that arrived at {name}{shown} add up to the first NaN."
    elif derivative is not None and any(map(is_nan, derivative(g))):
        what = f"the derivative of {name}{shown} made the first NaN."
    if what:
        raise errors.NonFiniteError(errors.explain(what, errors.user_location(), "A value overflowed or left its domain on "
                                                   "the way: look at the largest terms."))
