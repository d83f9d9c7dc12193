"""Derivatives inside a recording: of a traced value by traced inputs, as traced values that go on in the formula.

`value_and_grad` differentiates the whole function once it is recorded. A least-squares step needs the derivatives of each
prediction on the way, to multiply them with one another; the table's rules are applied to the graph's nodes for that.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from jitgrad.compiler.graph import Graph, Node, Op, live, vjp_graph
from jitgrad.value import Traced


def partials(outputs: Sequence[Any], inputs: Sequence[Traced]) -> list[list[Any]]:
    """∂output/∂input for each of `outputs` (a row each) by each of `inputs`: Traced, or 0.0 where there is no path.

    outputs: Traced values of one recording, or numbers; inputs: its arguments
    """
    recorder = inputs[0].recorder
    graph: Graph = recorder.graph
    wanted = [value.node for value in inputs]
    roots = [recorder.node(output) for output in outputs]
    active = set(wanted)                                    # nodes that depend on an input
    for node in live(roots):
        if node.op.vjp is not None and not active.isdisjoint(node.args):
            active.add(node)
    rows = []
    for root in roots:
        found = _pull_back(graph, root, active)
        rows.append([Traced(recorder, found[node]) if node in found else 0.0 for node in wanted])
    return rows


def _pull_back(graph: Graph, root: Node, active: set[Node]) -> dict[Node, Node]:
    """The cotangent of every active node that `root` depends on, the cotangent of `root` being 1."""
    found = {root: graph.constant(1.0)} if root in active else {}
    for node in _above(root, active):
        g = found.get(node)
        if g is None or not node.args:
            continue
        for target, contribution in _contributions(graph, node, g, active):
            known = found.get(target)
            found[target] = contribution if known is None else known + contribution
    return found


def _above(root: Node, active: set[Node]) -> list[Node]:
    """The active nodes that `root` depends on, itself included, each before its operands."""
    seen, waiting = {root} & active, [root] if root in active else []
    while waiting:
        for node in waiting.pop().args:
            if node in active and node not in seen:
                seen.add(node)
                waiting.append(node)
    return sorted(seen, key=lambda node: -node.index)       # operands are always the older nodes


def _contributions(graph: Graph, node: Node, g: Node, active: set[Node]) -> list[tuple[Node, Node]]:
    def apply(op: Op, args: list[Node]) -> Node:
        return graph.add(op, *args, where=node.where)

    def constant(n: Node) -> Node:
        return graph.constant(n.payload)

    made = []
    fixed = node.args[:node.op.arity]
    operands = tuple(k for k, arg in enumerate(fixed) if arg in active)
    if node.op.variadic:
        rule = vjp_graph(node.op, (0,))
        for position, element in enumerate(node.args[node.op.arity:]):
            if element in active:
                symbols = [g, node, *fixed, element, graph.constant(float(position))]
                made.append((element, rule.evaluate(symbols, constant, apply)[0]))
    elif operands:
        results = vjp_graph(node.op, operands).evaluate([g, node, *fixed], constant, apply)
        made = [(fixed[k], result) for k, result in zip(operands, results, strict=True)]
    return [(target, result) for target, result in made
            if not (result.op.name == "constant" and result.payload == 0.0)]       # no path through this operand
