"""The table's rules as Python functions of numbers: what eager Values compute and differentiate by."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from functools import cache
from typing import Any

from jitgrad.compiler.graph import Node, Op, RuleGraph, spelling_graph, vjp_graph

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
