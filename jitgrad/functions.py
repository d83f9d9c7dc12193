"""jg.exp … jg.take: the operations of the table on a Value, a number, an array, or a list of them.

Lists answer with lists, arrays with arrays; two arguments broadcast as in NumPy. Every elementwise operation of the
table is a function here, made from its paragraph.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import numpy as np

from jitgrad import errors
from jitgrad.compiler.graph import OPS, Op
from jitgrad.trace import require
from jitgrad.value import Traced, Value, apply, reference


def _scalar(op: Op, *args: Any) -> Any:
    for a in args:
        if isinstance(a, Value):
            return apply(op, *args)
    return reference(op)(*(a.item() if isinstance(a, np.generic) else a for a in args))


def elementwise(op: Op) -> Callable[..., Any]:
    """The public function of an operation of fixed arity."""
    broadcast = np.frompyfunc(lambda *args: _scalar(op, *args), op.arity, 1)

    def function(*args: Any) -> Any:
        if len(args) != op.arity:
            raise TypeError(f"{op.name}() takes {op.arity} argument{'s' if op.arity > 1 else ''}, got {len(args)}")
        if any(isinstance(a, np.ndarray) for a in args):
            return plain(broadcast(*args))
        if any(isinstance(a, list | tuple) for a in args):
            return plain(broadcast(*(objects(a) for a in args))).tolist()
        return _scalar(op, *args)

    function.__name__ = function.__qualname__ = op.name
    function.__doc__ = f"{op.doc}. Takes Values, numbers, arrays or lists of them."
    return function


def plain(result: Any) -> Any:
    """An object array of nothing but numbers as a numeric one."""
    if isinstance(result, np.ndarray) and not any(isinstance(v, Value) for v in result.flat):
        return result.astype(bool if all(isinstance(v, bool) for v in result.flat) else np.float64)
    return result


def objects(values: Any) -> Any:
    """A list (of lists) of Values and numbers as an object array; anything else as it is."""
    return np.array(values, dtype=object) if isinstance(values, list | tuple) else values


PUBLIC = {name: elementwise(op) for name, op in OPS.items()
          if op.arity and not op.variadic and op.result != "bool"}
maximum, minimum, where, exp, log = (PUBLIC[n] for n in ("maximum", "minimum", "where", "exp", "log"))
stop_gradient = PUBLIC["stop_gradient"]


def __getattr__(name: str) -> Any:
    """jitgrad.functions.tanh and the others."""
    if name in PUBLIC:
        return PUBLIC[name]
    raise AttributeError(f"module 'jitgrad.functions' has no attribute {name!r}")


def clip(x: Any, low: Any, high: Any) -> Any:
    """minimum(maximum(x, low), high); at a bound the gradient is split in half, as in JAX."""
    return minimum(maximum(x, low), high)


def _along_last(function: Callable[[list[Any]], Any], x: Any) -> Any:
    array = objects(x)
    if not isinstance(array, np.ndarray) or array.ndim == 0:
        raise errors.ShapeError(errors.explain("expected a list or an array, got a single value.",
                                               errors.user_location(), "Pass the whole list of values."))
    if array.shape[-1] == 0:
        raise errors.ShapeError(errors.explain("expected at least one value, got none.", errors.user_location(),
                                               "Pass a list or array with at least one value along its last axis."))
    rows = [function(list(r)) for r in array.reshape(-1, array.shape[-1])]
    found = plain(objects(rows).reshape(array.shape[:-1] + np.shape(rows[0])))
    return found if isinstance(x, np.ndarray) and found.ndim else found.tolist()


def _largest(values: Sequence[Any]) -> Any:
    """The maximum by a balanced tree: depth log n, so that a wide maximum rolls into few instructions."""
    while len(values) > 1:
        paired = [maximum(a, b) for a, b in zip(values[::2], values[1::2], strict=False)]
        values = paired + list(values[len(paired) * 2:])
    return values[0]


def _shift(values: Sequence[Any]) -> Any:
    """The largest value, held constant; 0 where it is infinite, since inf - inf has no value."""
    largest = stop_gradient(_largest(values))
    return where(PUBLIC["abs"](largest) < np.inf, largest, 0.0)


def logsumexp(x: Any) -> Any:
    """Log Σ exp(xᵢ) along the last axis, shifted by the maximum: exact for logits of ±1e4.

    x: list or array (..., n) of Values or numbers; returns (...), a list for a list. Raises ShapeError for a single value or
    none.
    """
    def one(values: list[Any]) -> Any:
        shift = _shift(values)
        return shift + log(sum((exp(v - shift) for v in values[1:]), exp(values[0] - shift)))
    return _along_last(one, x)


def softmax(x: Any) -> Any:
    """exp(xᵢ) / Σ exp(xⱼ) along the last axis, shifted by the maximum.

    x: list or array (..., n) of Values or numbers; returns the same shape, a list for a list.
    """
    def one(values: list[Any]) -> list[Any]:
        shift = _shift(values)
        powers = [exp(v - shift) for v in values]
        total = sum(powers[1:], powers[0])
        return [p / total for p in powers]
    return _along_last(one, x)


def take(rows: Any, index: Any) -> Any:
    """The row of `rows` at a whole-number index: an embedding, or the logit of the target class.

    rows: list or array (n, ...) of Values or numbers; index: an int, an integer argument of the traced function, or a
    list or array of them (..., each answering a row); returns rows.shape[1:] an index. The gradient adds to the row
    that was read. Raises LabelError, at run time where the index is traced, for an index outside 0 to n - 1.
    """
    if isinstance(index, list | tuple | np.ndarray):
        indices = objects(index)
        picked = [take_one(rows, i, f"index {k}") for k, i in enumerate(indices.reshape(-1))]
        return objects(picked).reshape(indices.shape + np.shape(rows)[1:])
    return take_one(rows, index)


def take_one(rows: Any, index: Any, place: str = "") -> Any:
    """`take` by one index; place: what an error calls it, where it is one of a list."""
    n = len(rows)
    if n == 0:
        raise errors.ShapeError(errors.explain("take() from no rows.", errors.user_location(),
                                               "Pass a list or array with at least one row."))
    if isinstance(index, Traced) and index.node.kind == "real":
        raise errors.TraceError(errors.explain("take() by a real number.", errors.user_location(),
                                               "Pass the index as an integer argument (an array of an integer dtype)."))
    if isinstance(index, Value) and not isinstance(index, Traced):
        index = index.data                             # a read, from which the graph follows
    traced = isinstance(index, Traced)
    require((index >= 0) & (index < n) if traced else 0 <= index < n and index % 1 == 0, index,
            f"an index must be a whole number from 0 to {n - 1}; got {{value}}",
            "Check the class indices, and that the rows are as many as the classes.", place)
    if not traced:
        return rows[int(index)]
    table = objects(rows) if isinstance(rows, list | tuple) else rows
    if table.ndim == 1:
        return apply(OPS["take"], index, *table)
    columns = table.reshape(n, -1).T
    return objects([apply(OPS["take"], index, *column) for column in columns]).reshape(table.shape[1:])
