"""After a kernel has said that something is wrong: find the example and the user's line to blame, by interpreting."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator, Sequence
from typing import Any

import numpy as np
import numpy.typing as npt

from jitgrad import errors, nans
from jitgrad.backends.interpret import InterpretKernel, run_tape
from jitgrad.compiler.graph import OPS
from jitgrad.compiler.program import Program, Results
from jitgrad.compiler.tape import Tape
from jitgrad.value import watch

Array = npt.NDArray[Any]
Numbers = Sequence[int] | npt.NDArray[np.intp]            # what the examples of a batch are called in an error
_SEARCH = 4096                                            # examples interpreted at a time


@contextlib.contextmanager
def debug_nans() -> Iterator[None]:
    """Inside `with debug_nans():` a NaN in a value or gradient raises NonFiniteError at the line that made the first.

    Eager arithmetic raises as it makes one; its gradient, and a compiled expression, keep no lines and name the operation.
    """
    with nans_as_errors(True):
        yield


@contextlib.contextmanager
def nans_as_errors(wanted: bool) -> Iterator[None]:
    """`debug_nans`, if it is wanted: what is in force where a call is made goes with it to the worker that makes it."""
    token = nans.ARE_ERRORS.set(wanted)
    watch(int(wanted))
    try:
        yield
    finally:
        watch(-int(wanted))
        nans.ARE_ERRORS.reset(token)


def nans_are_errors() -> bool:
    """Whether debug_nans() is in force."""
    return nans.ARE_ERRORS.get()


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
    """Raise NonFiniteError for the operation that made the NaN of a result: its operands are numbers. See `blame_check`."""
    if not any(np.isnan(r).any() for r in (results.sums, *results.examples)):
        return
    names = range(n) if numbers is None else numbers
    tape, outputs = program.rolled
    wanted = np.concatenate(outputs)
    infinite: dict[int, dict[bool, int]] = {}                   # by place of the result: by sign, the first example
    for lo in range(0, n, _SEARCH):
        v = run_tape(tape, program, shared, batched, lo, min(lo + _SEARCH, n))
        bad = np.isnan(v[wanted])
        if bad.any():
            example = int(np.flatnonzero(bad.any(axis=0))[0])
            row = _maker(tape, v[:, example], int(wanted[np.flatnonzero(bad[:, example])[0]]))
            raise errors.NonFiniteError(_story(program, row, int(names[lo + example])))
        for place, example in zip(*np.nonzero(np.isinf(v[wanted])), strict=True):
            signs = infinite.setdefault(int(place), {})
            signs.setdefault(bool(v[wanted[place], example] > 0), lo + int(example))
    for signs in infinite.values():
        if len(signs) == 2:
            raise errors.NonFiniteError(errors.explain(
                f"the sum over the batch made the first NaN: a result is inf at example {int(names[signs[True]])} and -inf "
                f"at example {int(names[signs[False]])}.", None, "Keep the terms finite, for example with jg.clip."))


def _maker(tape: Tape, v: Array, row: int) -> int:
    """From a row that is NaN down to the one that made it; v: all rows of one example."""
    while tape.owner[row] >= 0:
        i = tape.instructions[tape.owner[row]]
        read = [a[row - i.lo] for a in i.args]
        if i.segments is not None:
            start, stop = i.segments.start[row - i.lo:row - i.lo + 2]
            read += i.segments.elements[start:stop].tolist()
        if i.op is OPS["where"]:                                # the branch not taken is not to blame
            read = [read[1] if v[read[0]] else read[2]]
        elif i.op is OPS["take"]:
            read = [read[1 + int(v[read[0]])]] if 0 <= v[read[0]] < len(read) - 1 else []
        nan = [r for r in read if np.isnan(v[r])]
        if not nan:
            break
        row = int(nan[0])
    return row


def _story(program: Program, row: int, example: int) -> str:
    tape, _ = program.rolled
    owner = int(tape.owner[row])
    batch = f", at example {example}" if program.batched else ""
    if owner < 0 and row < len(tape.inputs):
        leaf, element = program.leaf_of(tape.inputs[row])
        place = "" if leaf.shape == () else f"[{', '.join(map(str, np.unravel_index(element, leaf.shape)))}]"
        of = "" if leaf.shared else f" of example {example}"
        return errors.explain(f"the input {leaf.path}{place}{of} is NaN.", None, "Clean the data first.")
    if owner < 0:
        return errors.explain(f"a number that the function itself brings is NaN{batch}.", None,
                              "Look for math.nan, or for arithmetic on plain numbers that made one.")
    op = tape.instructions[owner].op.name
    if tape.derivatives is None or owner < tape.derivatives:
        return errors.explain(f"`{op}` made the first NaN{batch}.", tape.where.get(row),
                              "Keep its operands inside the function's domain, for example with jg.maximum.")
    rows = tape.derived.get(owner)
    derived = None if rows is None else int(rows[row - tape.instructions[owner].lo])
    whose = "" if derived is None else f" of `{tape.instructions[tape.owner[derived]].op.name}`"
    return errors.explain(f"the derivative{whose} made the first NaN, in `{op}`{batch}.",
                          None if derived is None else tape.where.get(derived),
                          "A value overflowed or left its domain on the way: look at the function's largest terms.")
