"""Pictures of expressions: what is drawn, and where the layout puts it."""

from __future__ import annotations

import random
import re
import stat
import xml.etree.ElementTree as ElementTree
from itertools import pairwise
from pathlib import Path

import numpy as np
import pytest

import jitgrad as jg
from jitgrad import Value, losses, nn
from jitgrad.drawing import Drawing
from jitgrad.errors import ArgumentError
from jitgrad.layout import Layout, layered

SVG = "{http://www.w3.org/2000/svg}"


def neuron(kept: list[Value] | None = None) -> Value:
    """The neuron of micrograd's lecture; a computed Value's label lives as long as the Value, here in `kept`."""
    x1, x2 = Value(2.0, label="x1"), Value(0.0, label="x2")
    w1, w2 = Value(-3.0, label="w1"), Value(1.0, label="w2")
    b = Value(6.8813735870195432, label="b")
    n = x1 * w1 + x2 * w2 + b
    n.label = "n"
    o = n.tanh()
    o.label = "o"
    o.backward()
    if kept is not None:
        kept.append(n)
    return o


def own(what: object, form: str | None = None) -> Drawing:
    return jg.draw(what, form, layout="own")


def texts(drawing: Drawing) -> list[tuple[str, ...]]:
    return [box.lines for box in drawing.boxes]


def operands(drawing: Drawing, *lines: str) -> list[tuple[str, ...]]:
    """What points to the box with these lines."""
    (number,) = [k for k, box in enumerate(drawing.boxes) if box.lines == lines]
    return [drawing.boxes[tail].lines for tail, head, _ in drawing.edges if head == number]


# --- eager Values -----------------------------------------------------------------------------------------------------


def test_every_number_has_its_label_data_and_gradient_and_operations_stand_between():
    kept: list[Value] = []
    drawing = own(neuron(kept))
    assert ("x1", "data 2", "grad -1.5") in texts(drawing)
    assert ("w2", "data 1", "grad 0") in texts(drawing)
    assert ("o", "data 0.7071", "grad 1") in texts(drawing)
    assert operands(drawing, "o", "data 0.7071", "grad 1") == [("tanh",)]
    assert operands(drawing, "tanh") == [("n", "data 0.8814", "grad 0.5")]
    # micrograd's picture: 10 numbers, 5 operations, an edge for each operand and one from each operation.
    assert sorted(box.kind for box in drawing.boxes) == ["leaf"] * 5 + ["operation"] * 5 + ["result"] + ["value"] * 4
    assert len(drawing.edges) == 9 + 5
    assert all(tail < head for tail, head, _ in drawing.edges)
    assert drawing.title == "o"


def test_drawing_is_no_decision_that_a_program_could_freeze(recwarn: pytest.WarningsRecorder):
    x = Value(2.0)
    y = x * x
    own(y)
    program = jg.compile(y * 3.0)
    x.data = 5.0
    assert program.forward() == 75.0
    assert not recwarn


def test_shared_values_are_one_box_and_a_square_has_two_edges():
    x = Value(3.0, label="x")
    drawing = own(x * x + x)
    assert [lines[0] for lines in texts(drawing)].count("x") == 1
    assert operands(drawing, "*") == [("x", "data 3", "grad 0")] * 2


def test_numbers_that_stand_in_an_operation():
    x = Value(4.0, label="x")
    drawing = own(2 ** x + x**-0.5 + jg.maximum(x, 1.5) + 7)
    lines = texts(drawing)
    for constant in ("2", "1.5", "7"):
        assert (constant,) in lines
    assert operands(drawing, "**-0.5") == [("x", "data 4", "grad 0")]
    assert operands(drawing, "**") == [("2",), ("x", "data 4", "grad 0")]
    (power,) = [k for k, box in enumerate(drawing.boxes) if box.lines == ("**",)]
    assert [text for _, head, text in drawing.edges if head == power] == ["1", "2"]  # the order matters
    (largest,) = [k for k, box in enumerate(drawing.boxes) if box.lines == ("maximum",)]
    assert [text for _, head, text in drawing.edges if head == largest] == ["", ""]


def test_conditions_and_special_numbers():
    x = Value(float("nan"))
    drawing = own(jg.where(x > 0, x, -0.0))
    assert any("data False" in lines for lines in texts(drawing))
    assert ("-0",) in texts(drawing)
    assert any("data nan" in lines for lines in texts(drawing))


def test_values_made_by_hand_and_whole_kernels_have_their_parents():
    a, b = Value(1.0, label="a"), Value(2.0, label="b")
    assert operands(own(Value(3.0, (a, b), "mine")), "mine") == [("a", "data 1", "grad 0"), ("b", "data 2", "grad 0")]
    assert len(own(Value(3.0, (a, b))).edges) == 2  # no operation, as micrograd draws it
    total = jg.batch(lambda x: (a * x - b) ** 2)(np.arange(4.0))
    assert {lines[0] for lines in operands(own(total), "fused")} == {"a", "b"}


def test_a_label_of_any_characters_is_well_formed():
    result = Value(1.0, label="a\x00<\ud800>ü\n\"") * 2.0
    result.label = "\x07"
    for drawing in (own(result), jg.draw(result)):
        words = "".join(ElementTree.fromstring(drawing.svg.encode()).itertext())
        assert 'a\N{REPLACEMENT CHARACTER}<\N{REPLACEMENT CHARACTER}>ü\N{REPLACEMENT CHARACTER}"' in words


def test_several_roots_share_a_picture():
    x = Value(1.0, label="x")
    p, q = x + 1, x * 2
    p.label, q.label = "p", "q"
    drawing = own([p, q])
    assert drawing.title == "p and q"
    assert [box.lines[0] for box in drawing.boxes if box.kind == "result"] == ["p", "q"]
    assert texts(own(np.array([p, q], object))) == texts(drawing)
    assert texts(own(x)) == [("x", "data 1", "grad 0")]


def test_a_large_expression_is_refused_with_the_way_out():
    w, total = Value(1.0), Value(0.0)
    for k in range(2000):
        total = total + (w * Value(k / 1000) - 1) ** 2
    with pytest.raises(ArgumentError, match=r"[\d,]+ Values.*limit=400(.|\n)*program\.summary\(\)"):
        own(total)
    program = jg.compile(total)  # what the message proposes
    assert len(own(program.lower(), "tape").boxes) < 30
    assert texts(jg.draw(program, "tape")) == texts(own(program.lower(), "tape"))
    with pytest.raises(ArgumentError, match="3 Values"):
        jg.draw(Value(1.0) * 2, limit=2)


# --- programs -----------------------------------------------------------------------------------------------------------


def objective(params: dict, x: np.ndarray, y: object) -> object:
    hidden = jg.tanh(params["W"] @ x + params["b"])
    return losses.mse(hidden[0] / hidden[1] - 0.25, y)


PARAMS = {"W": np.ones((2, 3)), "b": np.zeros(2)}
step = jg.value_and_grad(objective)
lowered = step.lower(PARAMS, np.ones((5, 3)), np.ones(5))


def test_a_programs_graph_names_its_arguments_and_lines():
    drawing = own(lowered)
    names = {box.lines[0]: box.kind for box in drawing.boxes}
    assert names["params['W'][1, 2]"] == names["params['b'][0]"] == "leaf"
    assert names["x[2]"] == names["y"] == "example"
    assert names["value"] == "result"
    assert any("test_draw.py" in box.note and "jg.tanh" in box.note for box in drawing.boxes if box.lines == ("tanh",))
    (division,) = [k for k, box in enumerate(drawing.boxes) if box.lines == ("/",)]
    assert [text for _, head, text in drawing.edges if head == division] == ["1", "2"]
    assert ("0.25",) in texts(drawing)
    with pytest.raises(ArgumentError, match=r"nodes(.|\n)*form='tape'"):
        jg.draw(lowered, limit=10)


def test_a_programs_tape_has_its_instructions_and_gradients():
    drawing = own(lowered, "tape")
    tape, _ = lowered.program.rolled
    kinds = [box.kind for box in drawing.boxes]
    assert kinds.count("operation") + kinds.count("derivative") == len(tape.instructions)
    assert kinds.count("derivative") == len(tape.instructions) - tape.derivatives > 0
    results = [box.lines[0] for box in drawing.boxes if box.kind == "result"]
    assert results == ["value", "d / d params['W']", "d / d params['b']"]
    assert ("params['W']", "2×3") in texts(drawing)
    assert ("y", "scalar") in texts(drawing)
    assert all(tail < head for tail, head, _ in drawing.edges)
    with pytest.raises(ArgumentError, match="instructions"):
        jg.draw(lowered, "tape", limit=3)


def test_an_argument_that_is_not_used_has_a_constant_gradient():
    unused = jg.value_and_grad(lambda p, x: p["a"] * x).lower({"a": 1.0, "b": 2.0}, np.ones(3))
    assert ("d / d p['b']", "constant") in texts(own(unused, "tape"))


def test_values_are_drawn_while_a_function_is_recorded():
    seen: list[Drawing] = []

    def spied(p: object, x: object) -> object:
        inner = jg.sin(p * x)  # type: ignore[operator]
        seen.append(own(inner))
        return inner + x

    jg.jit(spied)(2.0, np.ones(3))
    assert texts(seen[0]) == [("p",), ("x",), ("*",), ("sin",), ("value",)]
    with pytest.raises(ArgumentError, match="no eager ones"):
        jg.jit(lambda p: own([p, Value(1.0)]))(1.0)


@pytest.mark.parametrize("wrong", [1.0, "x", [], [Value(1.0), 2.0], step, None])
def test_what_cannot_be_drawn(wrong: object):
    with pytest.raises(ArgumentError, match=r"draw\(\) takes(.|\n)*step\.lower"):
        jg.draw(wrong)


def test_unknown_options():
    for options in ({"layout": "neato"}, {"form": "ptx"}):
        with pytest.raises(ArgumentError, match="must be"):
            jg.draw(Value(1.0), **options)
    with pytest.raises(ArgumentError, match="lowered program"):
        jg.draw(Value(1.0), "graph")


# --- files ----------------------------------------------------------------------------------------------------------------


def test_the_ending_decides_what_is_saved(tmp_path: Path):
    drawing = own(neuron())
    for ending, start in [("svg", "<svg "), ("html", "<!doctype html>"), ("dot", "digraph"), ("SVG", "<svg ")]:
        path = tmp_path / f"picture.{ending}"
        assert drawing.save(path) == str(path)
        assert path.read_text(encoding="utf-8").startswith(start)
    assert drawing.svg in drawing.html
    assert drawing._repr_svg_() == drawing.svg
    with pytest.raises(ArgumentError, match=r"\.svg, \.html or \.dot"):
        drawing.save(tmp_path / "picture.png")
    assert not (tmp_path / "picture.png").exists()


def test_the_svg_is_well_formed_complete_and_the_same_every_time():
    random.seed(1)
    result = nn.MLP(2, [3, 1])([Value(1.0, label="<&\"'>"), Value(2.0)])
    drawing = own(result)
    root = ElementTree.fromstring(drawing.svg)
    shown = ["".join(text.itertext()) for text in root.iter(f"{SVG}text")]
    assert shown == [line for box in drawing.boxes for line in box.lines]
    assert "<&\"'>" in shown
    paths = [path for path in root.iter(f"{SVG}path") if path.get("d", "").endswith("z")]
    assert len(paths) == len(drawing.edges)  # an arrow each
    assert drawing.svg == own(result).svg
    outside = re.findall(r"(?:href|src|url)\W", drawing.html)
    assert not outside


def test_dot_quotes_what_it_must():
    dot = own(Value(1.0, label='say "a\\b"') + 1).dot
    assert 'label="say \\"a\\\\b\\"\\ndata 1\\ngrad 0"' in dot
    assert dot.count("->") == 3
    assert dot.count("{") == dot.count("}") == 1


def program(folder: Path, text: str) -> None:
    """A `dot` that stands in for Graphviz's."""
    path = folder / "dot"
    path.write_text(f"#!/bin/sh\n{text}\n")
    path.chmod(path.stat().st_mode | stat.S_IXUSR)


def test_graphviz_draws_where_it_is_installed(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setenv("PATH", str(tmp_path), prepend=":")
    program(tmp_path, 'test "$1" = -Tsvg || exit 3\necho "<?xml ?><!DOCTYPE svg><svg>"\ncat\necho "</svg>"')
    drawing = jg.draw(neuron())
    assert drawing.layout == "graphviz"
    assert drawing.svg.split() == f"<svg>\n{drawing.dot}\n</svg>".split()
    assert jg.draw(neuron(), layout="own").svg.startswith("<svg xmlns")
    program(tmp_path, 'echo "no such plugin" >&2; exit 1')
    with pytest.raises(ArgumentError, match=r"no such plugin(.|\n)*layout='own'"):
        jg.draw(neuron()).save(tmp_path / "picture.svg")
    assert not (tmp_path / "picture.svg").exists()


def test_without_graphviz_the_layout_is_ours(monkeypatch: pytest.MonkeyPatch, tmp_path: Path):
    monkeypatch.setenv("PATH", str(tmp_path))
    assert jg.draw(neuron()).layout == "own"


# --- the layout -----------------------------------------------------------------------------------------------------------


def apart(found: Layout, sizes: list[tuple[float, float]]) -> None:
    """No two boxes touch, all are inside, every edge runs from its tail rightwards to its head."""
    boxes = [(x - w / 2, y - h / 2, x + w / 2, y + h / 2) for (x, y), (w, h) in zip(found.centres, sizes, strict=True)]
    for k, (left, top, right, bottom) in enumerate(boxes):
        assert -1e-9 <= left < right <= found.width + 1e-9
        assert -1e-9 <= top < bottom <= found.height + 1e-9
        for other in boxes[:k]:
            assert right <= other[0] or other[2] <= left or bottom <= other[1] or other[3] <= top


@pytest.mark.parametrize("seed", range(20))
def test_boxes_do_not_touch_and_edges_go_to_the_right(seed: int):
    draw = random.Random(seed)
    count = draw.randint(1, 60)
    sizes = [(draw.uniform(10, 90), draw.uniform(10, 50)) for _ in range(count)]
    edges = [(draw.randrange(head), head) for head in range(1, count) for _ in range(draw.randint(0, 3))]
    found = layered(sizes, edges)
    apart(found, sizes)
    assert found == layered(sizes, edges)
    for (tail, head), route in zip(edges, found.routes, strict=True):
        assert all(a[0] <= b[0] + 1e-9 for a, b in pairwise(route))
        assert route[0] == (found.centres[tail][0] + sizes[tail][0] / 2, found.centres[tail][1])
        assert route[-1][0] == pytest.approx(found.centres[head][0] - sizes[head][0] / 2)
        assert abs(route[-1][1] - found.centres[head][1]) < sizes[head][1] / 2


def test_an_edge_passes_no_box_on_its_way():
    random.seed(2)
    sizes = [(40.0, 20.0)] * 40
    edges = [(random.randrange(head), head) for head in range(1, 40) for _ in range(2)]
    found = layered(sizes, edges)
    for (tail, head), route in zip(edges, found.routes, strict=True):
        for (x, y), (x1, y1) in pairwise(route):
            if y != y1:
                continue                    # between layers there are no boxes
            for k, (cx, cy) in enumerate(found.centres):
                if k not in (tail, head):
                    assert x1 <= cx - 20 or cx + 20 <= x or abs(y - cy) > 10


def test_a_tree_is_drawn_without_crossings():
    # A complete binary tree, leaves first, in an order that crosses everywhere.
    edges = [(k, 16 + (k * 5) % 8) for k in range(16)] + [(16 + k, 24 + (k * 3) % 4) for k in range(8)]
    edges += [(24 + k, 28 + k % 2) for k in range(4)] + [(28, 30), (29, 30)]
    found = layered([(10.0, 10.0)] * 31, edges)
    for tail, head in edges:
        for tail2, head2 in edges:
            (x, y), (x2, y2) = found.centres[tail], found.centres[tail2]
            if x == x2 and y < y2:
                assert found.centres[head][1] <= found.centres[head2][1]


def test_a_chain_is_a_straight_line_and_nothing_is_nothing():
    found = layered([(10.0, 10.0), (30.0, 30.0), (20.0, 10.0)], [(0, 1), (1, 2)])
    assert {y for _, y in found.centres} == {15.0}
    assert all(y == 15.0 for route in found.routes for _, y in route)
    assert layered([], []) == Layout(0.0, 0.0, [], [])
