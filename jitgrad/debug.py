"""After a kernel has said that something is wrong: find the example and the user's line to blame, by interpreting."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator, Sequence
from contextvars import ContextVar
from typing import Any

import numpy as np
import numpy.typing as npt

from jitgrad import errors
from jitgrad.backends.interpret import InterpretKernel, run_tape
from jitgrad.compiler.program import Program, Results

Array = npt.NDArray[Any]
Numbers = Sequence[int] | npt.NDArray[np.intp]            # what the examples of a batch are called in an error
_NANS: ContextVar[bool] = ContextVar("jitgrad_debug_nans", default=False)
_SEARCH = 4096                                            # examples interpreted at a time


@contextlib.contextmanager
def debug_nans() -> Iterator[None]:
    """Inside `with debug_nans():` a NaN in a value or gradient raises NonFiniteError at the line that made the first."""
    with nans_as_errors(True):
        yield


@contextlib.contextmanager
def nans_as_errors(wanted: bool) -> Iterator[None]:
    """`debug_nans`, if it is wanted: what is in force where a call is made goes with it to the worker that makes it."""
    token = _NANS.set(wanted)
    try:
        yield
    finally:
        _NANS.reset(token)


def nans_are_errors() -> bool:
    """Whether debug_nans() is in force."""
    return _NANS.get()


def blame_check(program: Program, shared: Array, batched: list[Array], n: int,
                numbers: Numbers | None = None) -> None:
    """Raise the error of the first check that fails, naming the first example that fails it.

    numbers: what the n examples are called; None: 0, 1, …
    """
    for check in program.checks:
        one = Program(program.graph, program.leaves, [check.holds, check.shown], [], [], True, program.dtype)
        (found,) = InterpretKernel(one)(shared, batched, n).examples
        bad = np.flatnonzero(found[:, 0] == 0)
        if len(bad):
            example = int((range(n) if numbers is None else numbers)[int(bad[0])]) if program.batched else None
            raise check.explain(example, float(found[bad[0], 1]))
    raise AssertionError("a kernel counted a failed check that the interpreter does not see")


def blame_nan(program: Program, shared: Array, batched: list[Array], n: int, results: Results,
              numbers: Numbers | None = None) -> None:
    """Raise NonFiniteError for the first operation whose operands are numbers and whose result is NaN; see `blame_check`."""
    if not any(np.isnan(r).any() for r in (results.sums, *results.examples)):
        return
    tape, _ = program.rolled
    for lo in range(0, n, _SEARCH):
        v = run_tape(tape, program, shared, batched, lo, min(lo + _SEARCH, n))
        bad = np.isnan(v).any(axis=1)
        if not bad.any():
            continue
        row = int(np.flatnonzero(bad)[0])
        example = lo + int(np.flatnonzero(np.isnan(v[row]))[0])
        raise errors.NonFiniteError(_story(program, row, int((range(n) if numbers is None else numbers)[example])))


def _story(program: Program, row: int, example: int) -> str:
    tape, _ = program.rolled
    owner = int(tape.owner[row])
    if owner < 0 and row < len(tape.inputs):
        leaf, element = program.leaf_of(tape.inputs[row])
        place = "" if leaf.shape == () else f"[{', '.join(map(str, np.unravel_index(element, leaf.shape)))}]"
        batch = "" if leaf.shared else f" of example {example}"
        return errors.explain(f"the input {leaf.path}{place}{batch} is NaN.", None, "Clean the data first.")
    op = tape.instructions[owner].op.name if owner >= 0 else "constant"
    where = tape.where.get(row)
    if where is None:
        return errors.explain(f"the derivative made the first NaN, in `{op}`, at example {example}.", None,
                              "A value overflowed or left its domain on the way: look at the function's largest terms.")
    return errors.explain(f"`{op}` made the first NaN, at example {example}.", str(where),
                          "Keep its operands inside the function's domain, for example with jg.maximum.")
