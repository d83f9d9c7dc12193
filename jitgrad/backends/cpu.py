"""The CPU backend: numba's shells over a table of addresses, bodies emitted as LLVM vectors, chunks shared by threads."""

from __future__ import annotations

import ctypes
import threading
from collections.abc import Callable, Iterable, Sequence
from functools import cache, cached_property, lru_cache, partial
from itertools import groupby, pairwise
from typing import Any, NamedTuple

import numpy as np
import numpy.typing as npt
from llvmlite import ir

from jitgrad.backends import memory, threads
from jitgrad.backends.native import Native, native, shell
from jitgrad.compiler import schedule
from jitgrad.compiler.emit_cpu import fused_body, interpreter, movement, shared_slots
from jitgrad.compiler.emit_cpu_wide import wide_body
from jitgrad.compiler.identity import of_program, of_table
from jitgrad.compiler.products import Tables, is_scattered, tabulate
from jitgrad.compiler.program import Program, Results
from jitgrad.compiler.wide_rows import for_rows
from jitgrad.kernels import place

Array = npt.NDArray[Any]
Words = npt.NDArray[np.int64]

# Below this many scalar operations a thread costs more to wake than it saves.
PARALLEL_WORK = 200_000
# A thread takes up to PIECES pieces of a call, one when it is done with the other, of at least so many operations each: a
# core that is slow, or that others use, then has less of the work instead of holding up the call.
PIECE_WORK = 10_000_000
PIECES = 8

# Places of machine code in a call's table, and the functions that go there.
_MOVEMENT = {place.GATHER: "gather", place.TRANSPOSE: "transpose", place.SCATTER: "scatter", place.STREAM: "stream",
             place.TRANSPOSE_BACK: "transpose_back", place.FLUSH: "flush"}
_INTERPRETER = {place.FILL: "fill", place.PICK: "pick", place.STEP: "step", place.SUM_LISTS: "sum_lists",
                place.TAKES: "takes", place.DOT_ONE: "dot_one", place.DOT_BLOCK: "dot_block", place.PAIR: "pair",
                place.OUTER_ONE: "outer_one", place.OUTER_BLOCK: "outer_block", place.SUM_ROWS: "sum_rows",
                place.GATHERS: "gathers", place.SCATTER_SUMS: "scatter_sums"}
_LOCK = threading.RLock()


@cache
def _movement(dtype: np.dtype[Any], lanes: int) -> Native:
    return native(partial(movement, dtype, lanes), "movement", dtype.name, str(lanes))


@cache
def _interpreter(dtype: np.dtype[Any], lanes: int) -> Native:
    return native(partial(interpreter, dtype, lanes), "interpreter", dtype.name, str(lanes), of_table())


def address(array: Array) -> int:
    """Where a C-contiguous array's first number is."""
    # An array's interface, a dictionary made anew at each question, takes three times as long as its buffer.
    try:
        return ctypes.addressof(ctypes.c_char.from_buffer(array))  # type: ignore[arg-type]
    except (TypeError, ValueError):                                         # read-only, or without numbers
        found: int = array.__array_interface__["data"][0]
        return found


def lines(rows: Iterable[Sequence[int]]) -> Words:
    """A shell's lines: five integers each, those left out being 0."""
    table = [[*row, *[0] * (place.LINE // 8 - len(row))] for row in rows]
    return np.array(table, np.int64).reshape(-1, place.LINE // 8)


def aligned(size: int, dtype: np.dtype[Any]) -> Array:
    """`size` numbers that begin where a vector may."""
    room = np.empty(size + schedule.VECTOR_BYTES // dtype.itemsize, dtype)
    skipped = -address(room) % schedule.VECTOR_BYTES // dtype.itemsize
    return room[skipped:skipped + size]


@lru_cache(1024)
def _bounds(n: int, plan: schedule.CpuSchedule) -> tuple[Words, int, int]:
    """Where the chunks of a batch begin, the address of these numbers, and how many chunks there are."""
    bounds = schedule.bounds(n, plan)
    return bounds, address(bounds), len(bounds) - 1


def _moves(columns: Sequence[tuple[int, int, int, int]], lanes: int, itemsize: int, blocks: Words | None) -> Words:
    """Lines that bring columns (array, element, stride, row) into rows, or back: neighbours together.

    blocks: for each row a number that those have in common which may go together, if not all may.
    A column alone that is contiguous is never copied by a straight-line body; a few are gathered as fast one by one.
    """
    found = []
    where = np.zeros(1 + max((row for *_, row in columns), default=0), np.int64) if blocks is None else blocks
    for _, group in groupby(enumerate(columns), lambda c: (c[1][0], c[1][1] - c[0], c[1][3] - c[0], where[c[1][3]])):
        run = [column for _, column in group]
        for together in [run] if len(run) > lanes // 4 else [[one] for one in run]:
            array, element, stride, row = together[0]
            found.append((array, element * itemsize, stride, len(together), row))
    return lines(found)


class Workspace:
    """A thread's own table and memory for a kernel's calls, kept from call to call."""

    def __init__(self, kernel: CpuKernel):
        tables, plan = kernel.tables, kernel.plan
        rows = kernel.rows * plan.tile
        beyond = kernel.sums * plan.lanes if tables is None else tables.w_size + plan.lanes  # partial sums, or w
        self.memory = aligned(rows + beyond + plan.lanes, kernel.program.dtype)
        self.memory[:] = 0                                  # what is left of earlier memory may be slow to compute with
        self.table = np.concatenate((kernel.template, np.zeros(kernel.moved + kernel.written, np.int64)))
        self.sums = np.zeros(kernel.sums)
        self.sums_address = address(self.sums)
        at, size = address(self.memory), kernel.program.dtype.itemsize
        self.address = address(self.table)
        table = self.table
        table[place.ROWS] = at
        table[place.ARRAYS] = self.address + 8 * kernel.arrays_at
        table[place.RESULTS] = self.address + 8 * kernel.results_at
        if tables is None:
            table[place.PARTIAL] = at + rows * size
            table[place.SOURCES] = self.address + 8 * len(kernel.template)
            table[place.TARGETS] = table[place.SOURCES] + 8 * kernel.moved
        else:
            self.memory[rows:rows + len(tables.constants)] = tables.constants
            table[place.W] = at + rows * size


class _CallTable(NamedTuple):
    """What a call puts into every thread's table: addresses, the tile, and whether results bypass the caches."""

    arrays: list[int]
    shared: int
    bounds: int
    tile: int
    streams: bool


class CpuKernel:
    """A program on the CPU; compiled by its first call, for any batch size."""

    def __init__(self, program: Program):
        self.program = program
        tape, _ = program.rolled
        self.wide, self.sums = for_rows(program), len(program.reduced_rows)
        line = schedule.is_fused(tape) and not is_scattered(tape, program.reduced_rows)
        self.tables: Tables | None = None if self.wide or line else self._tabulate()
        self.plan = self._schedule()
        number = {leaf.first: k for k, leaf in enumerate(program.batched)}
        places = [program.leaf_of(tape.inputs[r]) for r in np.flatnonzero(~tape.shared).tolist()]
        rows = range(len(places)) if self.tables is None else self.tables.in_rows
        columns = [(number[leaf.first], element, leaf.width, row)
                   for (leaf, element), row in zip(places, rows, strict=True)]
        widths = [len(rows) for rows in program.example_outputs]
        self._widths, itemsize = widths, program.dtype.itemsize
        self.moved, self.written = len(columns), sum(widths)
        self.rows, out_rows = self._rows()
        elements = [(k, element, width) for k, width in enumerate(widths) for element in range(width)]
        self.column_arrays = [array for array, *_ in columns]           # which batched leaf each column is of
        blocks = None if self.wide is None else self.wide.blocks()
        self._moves = _moves(columns, self.plan.lanes, itemsize, blocks)
        self._outs = _moves([(*element, row) for element, row in zip(elements, out_rows, strict=True)], self.plan.lanes,
                            itemsize, blocks)
        self._local = threading.local()
        self._operations = tape.operations()
        self.arrays_at = place.BODY_PLACES if self.tables is None else place.TAPE_PLACES
        self.results_at = self.arrays_at + len(program.batched)
        self._arrays_end = self.results_at + len(widths)

    def _schedule(self) -> schedule.CpuSchedule:
        if self.wide is not None:
            return schedule.for_rows(self.program.dtype, self.sums, self.wide.size)
        if self.tables is not None:
            return schedule.for_tape(self.program.dtype, self.sums, self.tables.v_size, self.tables.has_products)
        return schedule.for_line(self.program.dtype, self.sums)

    def _rows(self) -> tuple[int, Sequence[int]]:
        """How many rows a tile has, the inputs' first; and which of them are the per-example results."""
        if self.tables is not None:
            return self.tables.v_size, self.tables.out_rows
        if self.wide is not None:
            return self.wide.size, self.wide.out_rows
        return self.moved + self.written, range(self.moved, self.moved + self.written)

    def _tabulate(self) -> Tables:
        program = self.program
        examples = np.concatenate([*program.example_outputs, np.zeros(0, np.int32)])
        return tabulate(program.rolled[0], program.reduced_rows, examples.astype(np.int32))

    @cached_property
    def _body(self) -> Native:
        with _LOCK:
            how = "wide" if self.wide else str(schedule.is_inlined(self.program.rolled[0]))
            return native(self._emit, "body", of_program(self.program), str(self.plan), how)

    def _emit(self) -> ir.Module:
        module = ir.Module("jitgrad")
        if self.wide:
            wide_body(module, self.program, self.wide, self.plan)
        else:
            fused_body(module, self.program, self.plan)
        return module

    @cached_property
    def template(self) -> Words:
        """The table of a call, but for what depends on the call and the thread."""
        plan, dtype = self.plan, self.program.dtype
        table = np.zeros(self.results_at + len(self._widths), np.int64)
        table[place.LANES], table[place.TILE], table[place.SIZE] = plan.lanes, plan.tile, dtype.itemsize
        table[place.MOVES], table[place.MOVE_COUNT] = address(self._moves), len(self._moves)
        table[place.OUTS], table[place.OUT_COUNT] = address(self._outs), len(self._outs)
        table[place.SUM_COUNT] = self.sums
        table[place.FETCHES] = self.wide is not None
        table[place.FLUSH_AFTER] = schedule.FLUSH_TERMS
        with _LOCK:
            for at, name in _MOVEMENT.items():
                table[at] = _movement(dtype, plan.lanes).address(f"jitgrad_{name}")
            if self.tables is None:
                table[place.BODY] = self._body.address("jitgrad_body")
            else:
                for at, name in _INTERPRETER.items():
                    table[at] = _interpreter(dtype, plan.lanes).address(f"jitgrad_{name}")
                self._put_tables(table, self.tables)
        return table

    def _put_tables(self, table: Words, tables: Tables) -> None:
        slots = shared_slots(self.program.rolled[0], self.program)
        operands, shared = tables.operands, np.array([slots[row] for row in tables.shared], np.int32)
        parts = {place.SPREADS: lines(tables.spread), place.ONCE: lines(tables.once), place.LINES: lines(tables.lines),
                 place.REDUCTIONS: lines(tables.reductions)}
        self._kept = (operands, shared, parts)              # as long as their addresses are in use
        table[place.OPERANDS], table[place.SHARED_SLOTS] = address(operands), address(shared)
        table[place.SHARED_AT], table[place.SHARED_COUNT] = len(tables.constants), len(shared)
        for at, part in parts.items():
            table[at], table[at + 1] = address(part), len(part)         # every table is followed by its length

    @property
    def shell_name(self) -> str:
        """The shell that runs this program."""
        return "run_body" if self.tables is None else "run_tape"

    @cached_property
    def _shell(self) -> Callable[[int], None]:
        return shell(self.shell_name)

    def _workspace(self) -> Workspace:
        found: Workspace | None = getattr(self._local, "workspace", None)
        if found is None:
            found = self._local.workspace = Workspace(self)
        return found

    def __call__(self, shared: Array, batched: list[Array], n: int, out: Sequence[Array | None] = ()) -> Results:
        _bounds_alive, bounds, count = _bounds(n, self.plan)
        results = self._results(n, out) if self._widths else []
        call = _CallTable(
            [address(a) for a in (*batched, *results)], address(shared), bounds,
            self.plan.tile_for(n),
            sum(r.nbytes for r in results) >= schedule.STREAMED_BYTES)
        if count == 1:
            own = self._workspace()
            own.sums.fill(0)
            self._run(own, call, 0, 1, own.sums_address)
            return Results(own.sums.copy(), results)
        sums = np.zeros((count, self.sums))
        place_of_sums = address(sums) if self.sums else 0
        shares = min(count, threads.cores()) if n * self._operations >= PARALLEL_WORK else 1
        each = max(1, min(PIECES, n * self._operations // (shares * PIECE_WORK))) if shares > 1 else 1
        ends = np.linspace(0, count, min(count, shares * each) + 1).astype(int).tolist()
        pieces = iter(list(pairwise(ends)))                 # all threads take from it: a list iterator's step is one

        def work() -> None:
            for lo, hi in pieces:
                threads.still_wanted()
                self._run(None, call, lo, hi, place_of_sums)
        threads.together([work] * shares)
        return Results(sums.sum(axis=0), results)

    def _results(self, n: int, out: Sequence[Array | None]) -> list[Array]:
        given = out or [None] * len(self._widths)
        return [memory.empty((n, width), self.program.dtype) if ready is None else ready
                for ready, width in zip(given, self._widths, strict=True)]

    def _run(self, own: Workspace | None, call: _CallTable, lo: int, hi: int, sums: int) -> None:
        """Chunks lo to hi, on this thread."""
        own = own or self._workspace()
        table = own.table
        table[self.arrays_at:self._arrays_end] = call.arrays
        table[place.SHARED], table[place.BOUNDS], table[place.TILE] = call.shared, call.bounds, call.tile
        table[place.FIRST_CHUNK], table[place.LAST_CHUNK], table[place.SUMS] = lo, hi, sums
        table[place.STREAMING] = call.streams
        self._shell(own.address)

    def as_text(self, form: str) -> str | None:
        """"llvm": the emitted body (or the interpreter's step); "asm": the machine's code, compiling if need be."""
        if form == "llvm":
            return str(self._emit() if self.plan.fused else interpreter(self.program.dtype, self.plan.lanes))
        if form == "asm":
            code = self._body if self.plan.fused else _interpreter(self.program.dtype, self.plan.lanes)
            return code.assembly()
        return None

