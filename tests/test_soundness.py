"""Recorded graphs that followed from a number: a softmax's shift is computed anew, anything else a warning with its line."""

from __future__ import annotations

import math
import random
import warnings
from collections.abc import Callable
from itertools import pairwise
from typing import Any

import pytest

import jitgrad as jg
from jitgrad import Value, errors, ledger, soundness

DEVICE = "interpret"


def numbers(count: int, seed: int = 0) -> list[Value]:
    draw = random.Random(seed)
    return [Value(draw.uniform(-2, 2)) for _ in range(count)]


def softmax(logits: list[Any]) -> list[Any]:
    """As everybody writes it."""
    m = max(v.data for v in logits)
    exps = [(v - m).exp() for v in logits]
    total = sum(exps)
    return [e / total for e in exps]


def logsumexp(logits: list[Any]) -> Any:
    m = max(v.data for v in logits)
    return sum((v - m).exp() for v in logits).log() + m


def attention(x: list[Any]) -> Any:
    """Two softmaxes, one of a single number, and a log of a probability."""
    alone = softmax([x[0] * x[1]])
    weights = softmax([a * b for a, b in pairwise(x)])
    mixed = sum(w * v for w, v in zip(weights, x, strict=False)) + alone[0]
    return -softmax([mixed * 3, mixed + x[2], x[0] * 1.0])[1].log()


def bigram(x: list[Any]) -> Any:
    """The logits are leaves."""
    return -softmax(x)[2].log()


def mixed(x: list[Any]) -> Any:
    """Some logits are leaves."""
    return softmax([x[0] * 2, x[1], x[2] + x[3], x[4]])[0] * 2


def twice(x: list[Any]) -> Any:
    return logsumexp([v * 2 for v in x]) + logsumexp([v * x[0] for v in x])


@pytest.fixture(params=["one ledger", "ledgers of 40"])
def ledgers(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> None:
    ledger.current().close()
    if request.param != "one ledger":
        monkeypatch.setattr(ledger, "_INDICES", list(range(40)))
        monkeypatch.setattr(ledger, "LIMIT", 40)


@pytest.mark.usefixtures("ledgers")
@pytest.mark.parametrize("loss", [attention, bigram, mixed, twice])
def test_the_shift_of_a_softmax_follows_the_numbers(loss: Callable[[list[Any]], Any]) -> None:
    x = numbers(6)
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        program = jg.compile(loss(x), device=DEVICE)
    assert program._structure._shifts
    draw = random.Random(1)
    for scale in (1.0, 3.0, 800.0):
        for v in x:
            v.data = scale * draw.uniform(-1, 1)      # 800: exp of a shift that stayed behind would overflow
        fresh = loss(x)
        for v in x:
            v.grad = 0
        fresh.backward()
        expected = [v.grad for v in x]
        # NumPy's exp differs from the C library's in the last place.
        assert program.backward() == pytest.approx(fresh.data, rel=1e-13, nan_ok=True)
        assert [v.grad for v in x] == pytest.approx(expected, rel=1e-12, abs=1e-12, nan_ok=True)


@pytest.mark.parametrize("loss", [attention, bigram, mixed, twice])
def test_wherever_ledgers_end_it_follows_or_says_so(loss: Callable[[list[Any]], Any],
                                                      monkeypatch: pytest.MonkeyPatch) -> None:
    ledger.current().close()
    followed = 0
    for size in range(6, 80):
        monkeypatch.setattr(ledger, "_INDICES", list(range(size)))
        monkeypatch.setattr(ledger, "LIMIT", size)
        x = numbers(6)
        with warnings.catch_warnings(record=True) as caught:
            warnings.simplefilter("always")
            program = jg.compile(loss(x), device=DEVICE)
        draw = random.Random(size)
        for v in x:
            v.data = draw.uniform(-1, 1)
        if not caught:
            followed += 1
            assert program.forward() == pytest.approx(loss(x)._number(), rel=1e-13), size
    assert followed > 60


def test_the_graph_itself_is_left_as_it_was() -> None:
    x = numbers(3)
    logits = [v * 2 for v in x]
    m = max(v.data for v in logits)
    shifted = logits[0] - m
    root = shifted.exp() + sum((v - m).exp() for v in logits[1:])
    program = jg.compile(root, device=DEVICE)
    assert program._structure._shifts
    assert shifted._prev[1].data == -m
    assert shifted._prev[1]._prev == ()
    root.backward()
    assert x[0].grad == pytest.approx(2 * math.exp(2 * x[0].data - m))


def test_a_whole_number_used_otherwise_is_not_taken_for_the_maximum() -> None:
    """The largest logit is 1.0 by chance; the program cannot tell which 1.0 was meant, and says so."""
    x = [Value(0.5), Value(0.25)]

    def loss() -> Any:
        logits = [v * 2 for v in x]
        m = max(v.data for v in logits)
        return sum((v - m).exp() for v in logits).log() * 1.0
    with pytest.warns(errors.StaleGraphWarning, match="m = max"):
        program = jg.compile(loss(), device=DEVICE)
    x[0].data = 3.0
    assert program.forward() == pytest.approx(math.log(1 + math.exp(0.5 - 6)) + 5, rel=1e-12)


def test_numbers_taken_from_leaves_are_no_shift_unless_largest() -> None:
    """(w - 1).exp() of leaves that are 1, of leaves none of which is the number, and of leaves that merely begin with it."""
    for start, taken in ((1.0, 1.0), (0.5, 0.75), (0.7, 0.7)):
        w = [Value(start), Value(start)]
        program = jg.compile(sum((v - taken).exp() for v in w), device=DEVICE)
        w[0].data = w[1].data = 3.0
        assert program.forward() == pytest.approx(2 * math.exp(3.0 - taken), rel=1e-12)


# Of leaves, e = exp(x - m) for the largest x: what any m would give, and what depends on it.
CANCELS: dict[str, Callable[[list[Any], list[Any], float], Any]] = {
    "softmax": lambda x, e, m: (e[0] / sum(e)) ** 2,
    "log-sum-exp": lambda x, e, m: m + sum(e).log(),
    "cross-entropy": lambda x, e, m: sum(e).log() - (x[1] - m),
    "entropy": lambda x, e, m: -sum((v / sum(e)) * (v / sum(e)).log() for v in e),
    "ratios": lambda x, e, m: (e[0] * e[1] / (e[2] * e[2])).log() * 3 + (e[0] / e[1]) ** 0.5,
    "largest probability": lambda x, e, m: jg.maximum(e[0], e[1]) / sum(abs(v) for v in e).relu(),
    "constant denominator": lambda x, e, m: e[0] / jg.stop_gradient(sum(e)) * jg.where(x[0] < 5.0, e[1], e[0]) / sum(e),
}
DEPENDS: dict[str, Callable[[list[Any], list[Any], float], Any]] = {
    "sum": lambda x, e, m: sum(e),
    "clipped": lambda x, e, m: (sum(e) - 100.0).relu(),            # and yet 0 for any m nearby
    "a leaf that is 0": lambda x, e, m: sum(e, Value(0.0)).log() - (x[1] - m),
    "a number more": lambda x, e, m: e[0] / (sum(e) + 1e-3),
    "a logarithm more": lambda x, e, m: sum(e).log(),
    "not all have it": lambda x, e, m: e[0] / (sum(e) + x[0]),
    "compared": lambda x, e, m: jg.where(e[0] < 0.3, e[1], e[2]) / sum(e),
    "another function": lambda x, e, m: sum(e).tanh() / sum(e).tanh(),
    "to a power of its own": lambda x, e, m: e[0] ** e[1] / sum(e),
}


@pytest.mark.usefixtures("ledgers")
@pytest.mark.parametrize("name", [*CANCELS, *DEPENDS])
def test_a_shift_of_leaves_is_taken_up_where_it_cancels(name: str) -> None:
    """Their reads are not noted: 0.7 may be the largest leaf, or a number that a leaf happens to begin with."""
    x = [Value(v) for v in (0.7, 0.2, -0.4)]

    def loss(m: float) -> Any:
        return (CANCELS | DEPENDS)[name](x, [(v - m).exp() for v in x], m)

    with warnings.catch_warnings():
        warnings.simplefilter("error")
        program = jg.compile(loss(0.7), device=DEVICE)
    assert bool(program._structure._shifts) == (name in CANCELS)
    for numbers in ((0.7, 0.2, -0.4), (3.0, -1.0, 4.5), (-2.0, -3.0, -2.5)):
        for v, number in zip(x, numbers, strict=True):
            v.data, v.grad = number, 0
        fresh = loss(0.7)
        fresh.backward()
        expected = [v.grad for v in x]
        assert program.backward() == pytest.approx(fresh.data, rel=1e-12), "whichever was meant"
        assert [v.grad for v in x] == pytest.approx(expected, rel=1e-11, abs=1e-12)


# What is not understood is reported.


def by_data(x: list[Any]) -> Any:
    h = x[0] * x[1]
    return h * 3 if h.data > 0 else -h                              # here


def by_comparison(x: list[Any]) -> Any:
    return x[0] * x[2] if x[0] * 2 < x[1] else x[1] * x[2]          # here


def by_comparing_leaves(x: list[Any]) -> Any:
    return x[0] * x[2] if x[0] < x[1] else x[1] * x[2]              # here


def by_largest(x: list[Any]) -> Any:
    return max([v * 2 for v in x]) * x[0]                           # here


def by_float(x: list[Any]) -> Any:
    return x[0] * float(x[1] * x[2])                                # here


def by_math(x: list[Any]) -> Any:
    return x[0] * math.floor(float(x[0] + x[2]))                    # here


def by_a_scale(x: list[Any]) -> Any:
    h = [v * 2 for v in x]
    return sum(h) * (1 / max(v.data for v in h))                    # here


def by_an_index(x: list[Any]) -> Any:
    return jg.take([x[0], x[1] * x[2]], (x[1] * 0 + 1)) * x[2]      # here


@pytest.mark.parametrize("loss", [by_data, by_comparison, by_comparing_leaves, by_largest, by_float, by_math, by_a_scale,
                                  by_an_index])
def test_a_decision_is_reported_with_its_line(loss: Callable[[list[Any]], Any]) -> None:
    root = loss(numbers(3))
    with pytest.warns(errors.StaleGraphWarning) as caught:
        jg.compile(root, device=DEVICE)
    assert len(caught) == 1
    assert "# here" in str(caught[0].message)
    assert "test_soundness.py:" in str(caught[0].message)
    assert caught[0].filename == __file__, "the call of compile is shown too"


def test_reading_what_nothing_follows_from_is_no_matter() -> None:
    x = numbers(4)
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        loss = sum(v * v for v in x)
        print(loss.data, loss)                                      # after it was finished
        jg.compile(loss, device=DEVICE)
        h = x[0] * 2
        repr(h)
        jg.compile(jg.where(h > 0, h, -h) + jg.softmax([h, x[1]])[0] + jg.losses.cross_entropy([h, x[2]], 1), device=DEVICE)
    for _ in range(3):                                              # a loop of training that prints
        loss = sum(v * v for v in x)
        loss.backward()
        print(loss.data)
        with warnings.catch_warnings():
            warnings.simplefilter("error")
            jg.compile(loss, device=DEVICE)


def printed(x: list[Any]) -> Any:
    h = x[0] * x[1]
    print(f"{h.data:.3f}", float(h))
    assert h.data < 10
    return h * 3


def after_an_earlier_loss(x: list[Any]) -> Any:
    losses = []
    for _ in range(3):
        loss = sum(v * v for v in x) * (1 / 3)
        losses.append(loss.data)
    before = loss.data
    again = float(loss)
    assert (before, again) == (losses[0], losses[0])
    return sum(v * v for v in x) * 0.5


def beside_the_same_number(x: list[Any]) -> Any:
    """What was read is 0.5, of a graph of other leaves; the 0.5 below is nobody's."""
    half = max((Value(1.0) * 0.5).data, 0.0)
    return (x[0] * 0.5 + x[1]) * 0.5 if half > 0 else None


@pytest.mark.parametrize("loss", [printed, after_an_earlier_loss, beside_the_same_number])
def test_what_ordinary_scripts_read_is_no_matter(loss: Callable[[list[Any]], Any]) -> None:
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        jg.compile(loss(numbers(3)), device=DEVICE)


def kept_and_used(x: list[Any]) -> Any:
    h = x[0] * x[1]
    number = h.data                                                 # here
    return h * 3 if number > 0 else -h


def kept_from_elsewhere(x: list[Any]) -> Any:
    scale = (Value(0.1) / 3).data                                   # here
    return x[0] * x[1] * scale


def a_condition_kept(x: list[Any]) -> Any:
    flag = (x[0] * 2 < x[1]).data                                   # here
    return x[0] * x[2] if flag else x[1] * x[2]


def before_it_was_begun(x: list[Any]) -> Any:
    k = math.floor(float(x[0] + x[2]))                              # here
    return x[0] * k


@pytest.mark.parametrize("loss", [kept_and_used, kept_from_elsewhere, a_condition_kept, before_it_was_begun])
def test_a_number_that_was_kept_is_reported(loss: Callable[[list[Any]], Any]) -> None:
    test_a_decision_is_reported_with_its_line(loss)


def test_without_the_source_every_read_counts() -> None:
    scope: dict[str, Any] = {"x": numbers(2)}
    exec(compile("h = x[0] * x[1]\nassert h.data < 9\nroot = h * 3", "nowhere", "exec"), scope)
    with pytest.warns(errors.StaleGraphWarning, match="nowhere:2"):
        jg.compile(scope["root"], device=DEVICE)


def test_reads_are_bounded() -> None:
    h = Value(1.0) * 2
    for _ in range(1000):
        assert h.data == 2.0
    assert len(h._ledger.reads) == 1


# Changes of structure.


def test_changes_after_compile_raise() -> None:
    x = numbers(2)
    h = x[0] * x[1]
    root = h.exp()
    program = jg.compile(root, device=DEVICE)
    x[0].data = 0.5
    program.backward()
    root.data = 3.0                                                 # overwritten by the next call
    program.forward()
    other = x[0] * 3
    other._backward = lambda: None                                  # no part of the program
    program.forward()
    h._backward = lambda: None
    with pytest.raises(errors.TraceError, match="after it was compiled"):
        program.forward()
    h._backward = None
    program.backward()
    h.data = 7.0
    with pytest.raises(errors.TraceError, match="assigned"):
        program.run([0.1, 0.2])
    with pytest.raises(AttributeError):
        root._prev = (x[0],)


def test_a_leaf_that_gets_a_rule_of_its_own_raises() -> None:
    x = numbers(2)
    program = jg.compile(x[0] * x[1], device=DEVICE)
    program.forward()
    x[1]._backward = lambda: None
    with pytest.raises(errors.TraceError, match="after it was compiled"):
        program.backward()
    x[1]._backward = None
    program.backward()


def test_an_assigned_number_cannot_be_compiled() -> None:
    x = numbers(2)
    h = x[0] * x[1]
    h.data = 1.0
    with pytest.raises(errors.TraceError, match="assigned"):
        jg.compile(h + x[0], device=DEVICE)


def test_programs_of_programs_roots() -> None:
    """A program puts new numbers into its roots; that is not the user's assignment."""
    x = numbers(2)
    first = x[0] * x[1]
    program = jg.compile(first, device=DEVICE)
    x[0].data = 0.25
    program.backward()
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        assert jg.compile(first * 2, device=DEVICE).forward() == 2 * (0.25 * x[1].data)
    assert first.data == 0.25 * x[1].data


def test_examining_is_linear() -> None:
    """3,000 softmaxes: every read finds its shift without looking at the others."""
    x = numbers(4)
    root = sum(softmax([x[0] * (k / 7), x[1] * 2, x[2] * x[3]])[0] for k in range(3_000))
    structure = soundness.examine([root])
    assert sum(map(len, structure._shifts.values())) == 9_000
