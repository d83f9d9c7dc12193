"""Plain scalar code: as it stands with another Value class, and recorded once by jg.compile and replayed."""

from __future__ import annotations

import re
import time
from collections.abc import Callable, Iterator
from typing import Any

import numpy as np

from benchmarks.case import Array, Case, Contestant, Run, Setup
from benchmarks.cases.processes import process
from benchmarks.models import scalar_gpt
from benchmarks.models.demo import DECAY, demo_in_float64, loss_of, model_of, network_by_scalars, numbers_of
from benchmarks.models.mlp import SMALL

NODES, NODES_AN_EXAMPLE = 1_018, 678               # of micrograd's demo, in Values: the regulariser's, and an example's


def _replayed(n: int) -> Contestant:
    def make() -> Run:
        import jitgrad as jg
        model = model_of("jitgrad.nn", SMALL)
        loss = loss_of(model, SMALL, n, DECAY)
        program = jg.compile(loss, wrt=model.parameters())

        def replay() -> Any:
            program.backward()
            return loss, model
        return replay
    return Contestant("jitgrad", "compile(loss), replayed", make, numbers_of)


def _demo(n: int, replayed: bool) -> Setup:
    ours = _replayed(n) if replayed else network_by_scalars("jitgrad", "jitgrad.nn", SMALL, n, DECAY)
    return Setup((ours, network_by_scalars("micrograd", "micrograd.nn", SMALL, n, DECAY)),
                 demo_in_float64(SMALL, n, DECAY), 1e-6)


FIRST_RUN = """
import time, numpy as np, jitgrad as jg
from benchmarks.models.demo import DECAY, loss_of, model_of, numbers_of
from benchmarks.models.mlp import SMALL
model = model_of("jitgrad.nn", SMALL)
loss = loss_of(model, SMALL, {n}, DECAY)
began = time.perf_counter()
jg.compile(loss, wrt=model.parameters()).backward()
taken = time.perf_counter() - began
print(taken, *(x for a in numbers_of((loss, model)) for x in np.ravel(a)))
"""


def first_run(n: int, filled: bool) -> Setup:
    """Timed inside new processes: from the finished expression to the first replayed gradient."""
    def figures(text: str) -> list[Array]:
        return [np.array(text.split()[1:], np.float64)]
    expected = np.concatenate([np.ravel(a) for a in demo_in_float64(SMALL, n, DECAY)])
    return Setup((Contestant("jitgrad", "compile(loss).backward()", process(FIRST_RUN.format(n=n), filled), figures,
                             reading=lambda text: float(text.split()[0]), fresh=not filled),), (expected,), 1e-6)


def rolling(nodes: int) -> Setup:
    """From a finished expression to its tape with gradient: reading the Values, the graph, rolling, the gradient."""
    n = max(1, round((nodes - NODES) / NODES_AN_EXAMPLE))

    def make() -> Run:
        import jitgrad as jg
        model = model_of("jitgrad.nn", SMALL)
        loss = loss_of(model, SMALL, n, DECAY)

        def run() -> Any:
            began = time.perf_counter()
            program = jg.compile(loss, wrt=model.parameters())
            program.lower()
            return time.perf_counter() - began, program, loss, model
        return run

    def numbers(result: Any) -> list[Array]:
        _, program, loss, model = result
        program.backward()
        return numbers_of((loss, model))
    return Setup((Contestant("jitgrad", "compile(loss).lower()", make, numbers, reading=lambda r: float(r[0]), fresh=True),),
                 demo_in_float64(SMALL, n, DECAY), 1e-6, NODES + NODES_AN_EXAMPLE * n)


def instructions(program: Any) -> float:
    """Of the loss alone, without its gradient: the first count that the summary states."""
    found = re.search(r"([\d,]+) instructions", program.summary())
    if found is None:
        raise RuntimeError(f"summary() no longer counts instructions: {program.summary()!r}")
    return float(found[1].replace(",", ""))


def demo_instructions(n: int) -> Setup:
    def make() -> Run:
        import jitgrad as jg
        model = model_of("jitgrad.nn", SMALL)
        loss = loss_of(model, SMALL, n, DECAY)
        program = jg.compile(loss, wrt=model.parameters())

        def run() -> Any:
            program.backward()
            return program, loss, model
        return run
    return Setup((Contestant("jitgrad", "compile(loss).summary()", make, lambda r: numbers_of(r[1:]),
                             reading=lambda r: instructions(r[0]), fresh=True),), demo_in_float64(SMALL, n, DECAY), 1e-6)


# A GPT of 4,192 parameters, a scalar at a time: one step over seven tokens, and a whole training script.

NAME = "tobias"                                    # six letters: seven tokens are predicted


def _gpt(peer: str, how: str, kind: Callable[[], Any], recorded: bool,
         reading: Callable[[Any], float] | None = None) -> Contestant:
    def make() -> Run:
        p, tokens = scalar_gpt.model(kind()), scalar_gpt.spelled(NAME)
        parameters = [x for rows in p.values() for row in rows for x in row]

        def step() -> Any:
            loss = scalar_gpt.loss_of(p, tokens, shifted=False)
            for x in parameters:
                x.grad = 0
            loss.backward()
            return loss, p, None
        if not recorded:
            return step
        import jitgrad as jg
        loss = scalar_gpt.loss_of(p, tokens, shifted=False)
        program = jg.compile(loss)

        def replay() -> Any:
            program.backward()
            return loss, p, program
        return replay

    def numbers(result: Any) -> list[Array]:
        loss, p, _ = result
        return [np.array(loss.data), *(np.array([[x.grad for x in row] for row in rows]) for rows in p.values())]
    return Contestant(peer, how, make, numbers, reading=reading, fresh=not recorded)


def _jitgrad_value() -> Any:
    import jitgrad as jg
    return jg.Value


def gpt_in_float64() -> tuple[Array, ...]:
    loss, grads = scalar_gpt.in_float64({name: np.array(rows) for name, rows in scalar_gpt.numbers().items()},
                                        scalar_gpt.spelled(NAME))
    return (np.array(loss), *grads.values())


def gpt_step(_: int) -> Setup:
    return Setup((_gpt("jitgrad", "compile(loss), replayed", _jitgrad_value, True),
                  _gpt("Python", "a scalar at a time", lambda: scalar_gpt.Value, False)), gpt_in_float64(), 1e-9)


def gpt_instructions(_: int) -> Setup:
    return Setup((_gpt("jitgrad", "compile(loss).summary()", _jitgrad_value, True, lambda r: instructions(r[2])),),
                 gpt_in_float64(), 1e-9)


def gpt_script(steps: int) -> Setup:
    """The whole script in new processes. All that differs is the module that Value comes from."""
    module = "benchmarks.models.scalar_gpt"
    code = f"import runpy, sys; sys.argv[1:] = '{{}}', '{steps}'; runpy.run_module('{module}', run_name='__main__')"

    def printed(text: str) -> list[Array]:
        return [np.array(text.split(), np.float64)]
    return Setup((Contestant("jitgrad", "jitgrad's Value", process(code.format("jitgrad"), True), printed, fresh=True),
                  Contestant("Python", "its own Value", process(code.format(module), True), printed, fresh=True)),
                 (np.array(scalar_gpt.losses_in_float64(steps)),), 1e-9)


def cases() -> Iterator[Case]:
    yield Case("micrograd-script/100", "micrograd's demo, only the import changed, N = 100", lambda n: _demo(n, False),
               100, 10, headline=True)
    yield Case("micrograd-replay/100", "the same loss recorded once by `jg.compile`, replayed", lambda n: _demo(n, True),
               100, 10, headline=True)
    for state in ("empty", "filled"):
        yield Case(f"micrograd-first/{state}", f"the same: rolling, compilation and first run, caches {state}",
                   lambda n, filled=state == "filled": first_run(n, filled), 100, 10)
    yield Case("gpt-script", "a scalar GPT in plain Python, 20 steps, only its Value class replaced", gpt_script,
               20, 1, headline=True)
    yield Case("gpt-replay", "one step of it over 7 tokens, recorded once, replayed", gpt_step, headline=True)
    for nodes, short in ((10_000, "10k"), (100_000, "100k"), (1_000_000, "1M")):
        yield Case(f"rolling/{short}", f"an expression of {nodes:,} Values made a program", rolling, nodes, 1_000)
    yield Case("instructions/micrograd", "instructions that micrograd's demo rolls into", demo_instructions, 100, 10,
               unit="instructions")
    yield Case("instructions/gpt", "instructions that the GPT's step rolls into", gpt_instructions, unit="instructions")
