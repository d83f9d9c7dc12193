"""Where things are in the table that a CPU shell is given (kernels/cpu_batch.py): places of 64-bit integers."""

from __future__ import annotations

# What every shell reads. ARRAYS and RESULTS are tables of addresses; MOVES and OUTS tables of lines. STREAMING is 1 where
# results are too large for the caches, FETCHES where a body asks for memory ahead of its use.
(LANES, TILE, SIZE, SHARED, ARRAYS, RESULTS, MOVES, MOVE_COUNT, OUTS, OUT_COUNT, BOUNDS, FIRST_CHUNK, LAST_CHUNK, SUMS,
 SUM_COUNT, ROWS, PARTIAL, GATHER, TRANSPOSE, SCATTER, STREAM, TRANSPOSE_BACK, STREAMING, FLUSH, FLUSH_AFTER,
 FETCHES) = range(26)
# A straight-line body and its tables of addresses.
BODY, SOURCES, TARGETS, BODY_PLACES = range(26, 30)
# A tape's tables, as jitgrad/compiler/products.py makes them, and the interpreter's code.
(W, SHARED_SLOTS, SHARED_AT, SHARED_COUNT, SPREADS, SPREAD_COUNT, ONCE, ONCE_COUNT, LINES, LINE_COUNT, REDUCTIONS,
 REDUCTION_COUNT, OPERANDS, FILL, PICK, STEP, SUM_LISTS, TAKES, DOT_ONE, DOT_BLOCK, PAIR, OUTER_ONE, OUTER_BLOCK,
 SUM_ROWS, GATHERS, SCATTER_SUMS, TAPE_PLACES) = range(26, 53)

# Many training steps in one call: RUN is the shell of the loss and its gradient, CALL its table; STEP_LINES say
# (first chunk, last chunk, tile, divisor of the sums) of each step, COPIES (target, source, numbers). UPDATED is where the
# update's own sums go, which nobody reads. CLIP is 0 where a gradient may be of any length, and NORM the bits of the
# greatest it may have.
(CALL, RUN, SETTLE, UPDATE, FINITE, COPY, STEP_LINES, STEP_COUNT, SCALARS, SCALAR_BYTES, STEP_SUMS, GRADIENT, INPUTS,
 OUTPUTS, UPDATED, PARAMETERS, NEW, COPIES, COPY_COUNT, LOSSES, STATUS, DONE, CLIP, NORM, STEPS_PLACES) = range(25)

# A gradient's squares are added up in so many float64 sums, element k into sum k % SQUARES, and these one after the other:
# in NumPy (optim.py) and in machine code (steps.py) alike, so that both find the same length.
SQUARES = 8

LINE = 5 * 8                        # bytes of a line: five integers
