"""`jitgrad check` and `show`: how they find a function, and what they say of it."""

from __future__ import annotations

import json
import re
import sys
from pathlib import Path

import numpy as np
import pytest
from command import run

from jitgrad import discover
from jitgrad.errors import ArgumentError

pytestmark = pytest.mark.usefixtures("shell")

MODEL = """
import neighbour
import numpy as np
import jitgrad as jg
from jitgrad import losses

X, Y = np.random.default_rng(0).normal(size=(2, 6))
WEIGHTS = {"w": 0.5, "b": neighbour.BIAS}
example_args = (WEIGHTS, X, Y)


def objective(params, x, y):
    return losses.mse(jg.tanh(params["w"] * x) + params["b"], y)


def margin(params, x, label):
    return losses.hinge(params["w"] * x, label)


def margin_args():
    return WEIGHTS, X, np.sign(Y)


def listed(params, x):
    return params * x


listed_args = [1.0, X]


def failing(params):
    return params


def failing_args():
    return 1 // 0


def wobble(params, x, y):
    if x > 0:
        return x
    return y


_hidden = 3
"""

SCALARS = """
import jitgrad as jg
def smooth(a, b, c=2.0):
    return jg.exp(a) * jg.sin(b) + c
def variadic(*values):
    return values[0]
def slip(a): return a.exp() + a.nope
"""


@pytest.fixture
def model(shell: None) -> None:
    Path("models").mkdir()
    Path("models/model.py").write_text(MODEL)
    Path("models/neighbour.py").write_text("BIAS = 0.25\n")
    Path("scalars.py").write_text(SCALARS)


@pytest.mark.usefixtures("model")
def test_check_takes_its_arguments_from_the_file():
    text = run("check", "models/model.py:objective").stdout
    assert "models/model.py:objective agrees" in text
    assert "model.py: example_args" in text
    assert "params['w']" in text
    assert "margin_args" in run("check", "models/model.py:margin").stdout
    assert str(Path("models").absolute()) not in sys.path
    assert "model" not in sys.modules  # its own name stays free for others


@pytest.mark.usefixtures("model")
def test_check_makes_scalars_from_the_signature():
    record = json.loads(run("check", "scalars.py:smooth", "--json", "--seed", "3").stdout)
    assert record["ok"]
    assert record["target"] == "scalars.py:smooth"
    assert "8 random examples of 2 scalars" in record["arguments"]
    assert "a" in record["report"]
    assert "b" in record["report"]
    subject = discover.find("scalars.py:smooth", seed=3)
    assert (subject.argnums, subject.in_axes, len(subject.args)) == ((0, 1), (0, 0), 2)
    assert not np.array_equal(subject.args[0], discover.find("scalars.py:smooth", seed=4).args[0])


@pytest.mark.usefixtures("model")
def test_argnums_chooses_what_is_differentiated():
    assert discover.find("models/model.py:objective", (1, 2)).argnums == (1, 2)
    assert discover.find("scalars.py:smooth", (1,)).argnums == (1,)
    record = json.loads(run("check", "scalars.py:smooth", "--argnums", "1", "--device", "interpret", "--json").stdout)
    assert "∂/∂b" in record["report"]
    assert "∂/∂a" not in record["report"]
    assert "device interpret" in record["report"]


@pytest.mark.usefixtures("model")
def test_check_fails_with_1_when_the_referee_disagrees():
    from jitgrad.compiler.graph import OPS, vjp_graph

    sin = OPS["sin"]
    right = sin.vjp
    object.__setattr__(sin, "vjp", lambda g, out, x: (g * out,))  # frozen, and sin' is not sin
    vjp_graph.cache_clear()
    try:
        result = run("check", "scalars.py:smooth", status=1)
        record = json.loads(run("check", "scalars.py:smooth", "--json", status=1).stdout)
    finally:
        object.__setattr__(sin, "vjp", right)
        vjp_graph.cache_clear()
    assert result.stderr.startswith("GradientError")
    assert re.search(r"\bb\b", result.stderr)  # the argument of the sine
    assert (record["ok"], record["error"]["type"]) == (False, "GradientError")
    run("check", "scalars.py:smooth")


@pytest.mark.parametrize(
    ("target", "says"),
    [
        ("models/model.py", ["FILE:FUNCTION"]),
        (":objective", ["FILE:FUNCTION"]),
        ("absent.py:objective", ["no such file", "absent.py"]),
        ("models/model.py:objectiv", ["no function 'objectiv'", "objective, margin"]),
        ("models/model.py:X", ["no function 'X'"]),
        ("models/model.py:listed", ["listed_args must be a tuple", "not list"]),
        ("models/model.py:failing", ["ZeroDivisionError", "model.py:36:  return 1 // 0"]),
        ("models/model.py:wobble", ["TraceError", "model.py", "if x > 0"]),
        ("scalars.py:slip", ["AttributeError", "calling slip()", "scalars.py:7:  def slip(a): return a.exp() + a.nope"]),
        ("scalars.py:variadic", ["variadic_args"]),
        ("broken.py:f", ["SyntaxError", "broken.py"]),
        ("raises.py:f", ["KeyError", "raises.py:2:  {}['x']"]),
        ("text.txt:f", [".py"]),
    ],
)
@pytest.mark.usefixtures("model")
def test_check_says_what_is_wrong_with_its_target(target: str, says: list[str]):
    Path("broken.py").write_text("def f(:\n")
    Path("raises.py").write_text("import math\n{}['x']\n")
    Path("text.txt").write_text("f = 1\n")
    result = run("check", target, status=1)
    assert "Traceback" not in result.output
    for part in says:
        assert part in result.stderr


# --- show -----------------------------------------------------------------------------------------------------------------


@pytest.mark.usefixtures("model")
def test_show_prints_graph_tape_cost_and_roofline():
    text = run("show", "models/model.py:objective", "--device", "interpret").stdout
    for part in ("lowered for interpret", "model.py: example_args", "params['w']", "one an example", "\ngraph (the loss:",
                 "\ntape (rolled up", "cost of one example", "roofline", "of the roof", "flops a byte"):  # fmt: skip
        assert part in text, part
    assert re.search(r"model\.py:\d+: ", text)  # the user's lines beside the nodes
    assert list(Path().glob("*.svg")) == []


@pytest.mark.usefixtures("model")
def test_show_prints_one_form_whole():
    import jitgrad as jg

    subject = discover.find("scalars.py:smooth")
    lowered = jg.value_and_grad(subject.function, subject.argnums, subject.in_axes).lower(*subject.args)
    for form in ("graph", "tape"):
        assert run("show", "scalars.py:smooth", "--form", form).stdout == lowered.as_text(form) + "\n"
    assert "define " in run("show", "scalars.py:smooth", "--form", "llvm", "--device", "cpu").stdout
    assert "jitgrad_body" in run("show", "scalars.py:smooth", "--form", "asm").stdout
    assert run("show", "scalars.py:smooth", "--form", "jaxpr").stdout.count("lambda")
    assert "has no form 'asm'" in run("show", "scalars.py:smooth", "--form", "asm", "--device", "interpret", status=1).output


@pytest.mark.usefixtures("model")
def test_show_compiles_for_a_gpu_that_is_not_there():
    pytest.importorskip("numba_cuda")
    assert ".target sm_" in run("show", "scalars.py:smooth", "--form", "ptx").stdout
    text = run("show", "scalars.py:smooth", "--device", "cuda").stdout
    assert "lowered for cuda" in text
    assert "state the machine's limits with --limits" in text
    stated = run("show", "scalars.py:smooth", "--device", "cuda", "--limits", "4.8e12,67e12", "--no-measure").stdout
    assert "4.8 TB/s" in stated
    assert "It took" not in stated


@pytest.mark.usefixtures("model")
def test_show_as_json():
    command = ("show", "models/model.py:objective", "--device", "interpret", "--limits", "1e10,1e11", "--json")
    record = json.loads(run(*command, "--form", "tape").stdout)
    assert record["ok"] is True
    assert record["cost"]["flops"] > 0
    assert record["tape"].startswith("rows 0:")
    assert {leaf["path"]: leaf["shared"] for leaf in record["leaves"]}["params['w']"] is True
    found = record["roofline"]
    assert found["bound"] in ("memory", "arithmetic")
    assert found["share"] == pytest.approx(found["floor_seconds"] / found["seconds"])
    assert found["flops_per_byte"] == pytest.approx(record["cost"]["flops"] / record["cost"]["bytes"])
    still = json.loads(run(*command, "--no-measure").stdout)
    assert still["roofline"]["seconds"] is None
    assert {**still, "roofline": None} == {**record, "roofline": None}
    assert json.loads(run(*command, "--limits", "fast", status=1).stdout)["ok"] is False


@pytest.mark.usefixtures("model")
def test_show_draws_the_tape():
    run("show", "scalars.py:smooth", "--device", "interpret", "--no-measure", "--draw", "tape.svg")
    assert Path("tape.svg").read_text(encoding="utf-8").startswith("<svg")
    assert ".svg, .html or .dot" in run("show", "scalars.py:smooth", "--draw", "tape.gif", status=1).output
    assert "no function 'nothing'" in run("show", "scalars.py:nothing", status=1).output
    assert "reduce must be" in run("show", "scalars.py:smooth", "--reduce", "max", status=1).output
    run("show", "scalars.py:smooth", "--reduce", "none", "--no-measure", "--draw", "tape.dot")
    assert "d / d a" in Path("tape.dot").read_text(encoding="utf-8")


def test_a_module_that_was_loaded_before_is_left_alone():
    Path("json.py").write_text("def f(x):\n    return x * x\n")
    with pytest.raises(ArgumentError, match="no function 'g'"):
        discover.find("json.py:g")
    assert sys.modules["json"] is json
