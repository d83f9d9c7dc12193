"""Value-exact rewrites, tried on every node before it is made.

Each is named and says why IEEE 754 allows it for every number, NaN, infinity and signed zero included (a NaN's payload
and sign bit aside). `x * 0 -> 0` and `x + 0.0 -> x` are not here: the first is wrong for NaN and infinity, the second
for -0.0. Two rules marked `accurate` replace a library call by the correctly rounded operation it approximates.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass
from functools import cache, partial

from jitgrad.compiler.graph import OPS, Graph, Node, Number, Op, bits

Rewriter = Callable[..., Node | None]


@dataclass(frozen=True)
class Rewrite:
    """A named rewrite of one operation: `rule(graph, *args)` answers an equal node, or None where it does not apply.

    operand: the operation that one of the operands must be made by, where there is one: most nodes have no such operand,
    and their recording is not held up by rules that cannot apply.
    """

    op: str
    name: str
    because: str
    rule: Rewriter
    operand: str | None


REWRITES: dict[str, list[Rewrite]] = {}


def exact(op: str, name: str, because: str, operand: str | None = "constant") -> Callable[[Rewriter], Rewriter]:
    """Register a rewrite of nodes of `op`."""
    def register(rule: Rewriter) -> Rewriter:
        REWRITES.setdefault(op, []).append(Rewrite(op, name, because, rule, operand))
        return rule
    return register


accurate = exact


@cache
def _rules(op: Op) -> dict[Op | None, list[Rewriter]]:
    """The rules for `op`, by what must have made one of its operands; None for those that need nothing."""
    found: dict[Op | None, list[Rewriter]] = {}
    if op.value is not None and op.arity and not op.variadic:
        found[OPS["constant"]] = [partial(_fold, op.value)]
    for one in REWRITES.get(op.name, ()):
        found.setdefault(None if one.operand is None else OPS[one.operand], []).append(one.rule)
    return found


def _fold(value: Callable[..., Number], graph: Graph, *args: Node) -> Node | None:
    """A function of constants, by the table's own reference value, in float64."""
    if all(a.op.name == "constant" for a in args):
        return graph.constant(value(*[a.payload for a in args]))
    return None


def rewrite(graph: Graph, op: Op, args: tuple[Node, ...]) -> Node | None:
    """An existing or simpler node equal to op(*args), or None."""
    rules = _rules(op)
    for a in args:
        if a.op in rules:
            break
    else:
        if None not in rules:
            return None                                 # most nodes
    for needed in (*[a.op for a in args], None):
        for rule in rules.get(needed, ()):
            found = rule(graph, *args)
            if found is not None:
                return found
    return None


def _is(node: Node, value: float) -> bool:
    return node.op.name == "constant" and node.kind != "bool" and bits(node.payload) == bits(value)


@exact("mul", "x * 1 -> x", because="multiplication by one is exact")
def _mul_one(graph: Graph, x: Node, y: Node) -> Node | None:
    return x if _is(y, 1.0) else y if _is(x, 1.0) else None


@exact("mul", "x * -1 -> -x", because="multiplication by minus one flips the sign bit and nothing else")
def _mul_minus_one(graph: Graph, x: Node, y: Node) -> Node | None:
    return graph.add(OPS["neg"], x) if _is(y, -1.0) else graph.add(OPS["neg"], y) if _is(x, -1.0) else None


@exact("div", "x / 2**k -> x * 2**-k", because="both round the same real number, and 2**-k is a float")
def _div_power_of_two(graph: Graph, x: Node, y: Node) -> Node | None:
    if y.op.name != "constant" or not math.isfinite(y.payload) or abs(math.frexp(y.payload)[0]) != 0.5:
        return None
    # float32 programs share the graph, so the reciprocal must be a normal float32 too.
    return graph.add(OPS["mul"], x, 1.0 / y.payload) if 2.0**-120 < abs(y.payload) < 2.0**120 else None


@exact("add", "x + -0.0 -> x", because="-0.0 is the neutral element of IEEE addition; 0.0 is not")
def _add_minus_zero(graph: Graph, x: Node, y: Node) -> Node | None:
    return x if _is(y, -0.0) else y if _is(x, -0.0) else None


@exact("add", "x + -y -> x - y", because="IEEE subtraction is defined as adding the negation", operand="neg")
def _add_negated(graph: Graph, x: Node, y: Node) -> Node | None:
    if y.op.name == "neg":
        return graph.add(OPS["sub"], x, y.args[0])
    return graph.add(OPS["sub"], y, x.args[0]) if x.op.name == "neg" else None


@exact("sub", "x - 0.0 -> x", because="x + -0.0 is x")
def _sub_zero(graph: Graph, x: Node, y: Node) -> Node | None:
    return x if _is(y, 0.0) else None


@exact("sub", "x - -y -> x + y", because="IEEE subtraction is defined as adding the negation", operand="neg")
def _sub_negated(graph: Graph, x: Node, y: Node) -> Node | None:
    return graph.add(OPS["add"], x, y.args[0]) if y.op.name == "neg" else None


@exact("neg", "-(-x) -> x", because="the sign bit is flipped twice", operand="neg")
def _neg_neg(graph: Graph, x: Node) -> Node | None:
    return x.args[0] if x.op.name == "neg" else None


@exact("pow", "x ** 0 -> 1, x ** 1 -> x", because="C and IEEE 754 define pow so, for NaN too")
def _pow_trivial(graph: Graph, x: Node, y: Node) -> Node | None:
    return graph.constant(1.0) if _is(y, 0.0) else x if _is(y, 1.0) else None


@accurate("pow", "x ** 2 -> x * x", because="one correctly rounded product; pow is at best as near")
def _pow_square(graph: Graph, x: Node, y: Node) -> Node | None:
    return graph.add(OPS["mul"], x, x) if _is(y, 2.0) else None


@accurate("pow", "x ** -1 -> 1 / x", because="one correctly rounded quotient; pow is at best as near")
def _pow_reciprocal(graph: Graph, x: Node, y: Node) -> Node | None:
    return graph.add(OPS["div"], 1.0, x) if _is(y, -1.0) else None


@exact("where", "where(c, x, x) -> x; where(True, x, y) -> x", because="there is nothing to choose", operand=None)
def _where_decided(graph: Graph, c: Node, x: Node, y: Node) -> Node | None:
    if x is y:
        return x
    return None if c.op.name != "constant" else x if c.payload else y


@exact("maximum", "maximum(x, x) -> x", because="x is the larger of itself, NaN included", operand=None)
@exact("minimum", "minimum(x, x) -> x", because="x is the smaller of itself, NaN included", operand=None)
def _extremum_of_one(graph: Graph, x: Node, y: Node) -> Node | None:
    return x if x is y else None
