"""Training steps on CUDA that never leave the device: batch, loss, gradient, update, the next batch.

`training_shell`: a block trains a model. Parameters and what the optimizer keeps of them lie in the block's shared memory
from the first step to the last; thousands of models are as many blocks. `step_shell`: the end of one step of a large batch,
whose loss and gradient the program's own kernels have left in device memory.

Both keep two copies of a model's numbers and go over to the new one when all of it is known to be finite, so that a step
that fails changes nothing. Why a step is not made: as in kernels/steps.py.
"""

from __future__ import annotations

from typing import Any

from numba import cuda, types

from jitgrad.kernels import cuda_batch
from jitgrad.kernels.cuda_batch import SIMULATED, VECTOR, WARP, kernel
from jitgrad.kernels.steps import CHECK_FAILED, LOSS_NOT_FINITE, PARAMETERS_NOT_FINITE

if SIMULATED:
    def from_place(numbers: Any, start: int) -> Any:
        """An array's numbers from `start` on."""
        return numbers[start:]
else:
    from numba.cuda.extending import intrinsic

    @intrinsic
    def from_place(typingctx: Any, numbers: Any, start: Any) -> Any:
        """An array's numbers from `start` on, as a pointer: a slice would bring its bounds along, in registers."""
        kind = types.CPointer(numbers.dtype)

        def codegen(context: Any, builder: Any, signature: Any, args: Any) -> Any:
            array = context.make_array(signature.args[0])(context, builder, args[0])
            return builder.gep(array.data, [args[1]])
        return kind(numbers, types.int64), codegen


def training_shell(clear: Any, body: Any, fold: Any, update: Any, real: Any, slots: int, columns: int,
                   board_size: int, room: int, count: int, stride: int, width: int, block: int, pieces: int,
                   mean: bool) -> Any:
    """The shell in which block b makes the steps of model live[b, 0].

    clear, body, fold, board_size: as for `cuda_batch.fused_shell`, of one example a thread; body takes any example,
        wherever it lies, and `room` numbers in its own order
    update(row, old, new, g, j): new numbers of parameter j, of the old ones and its gradient g
    count: parameters; width: numbers that a step's update shares

    A copy of a model's numbers has `stride` of them, whole vectors: what examples share, of which the first `count` are the
    parameters, then the averages. The second copy follows the first.
    state: (models, stride), such copies, changed by the steps that are made; live: a line (model, row of order, row of
    scalars) for each block; lines: a step's (first, size) within the order; order: rows that say which examples, read if
    `ordered`, else they are taken as they lie; scalars: (rows, steps, width); places: the column of each reduced result;
    losses: (blocks, steps); status: a block's (steps made, why not the next); read: which of a copy's numbers the body
    reads, in its order; examples: how many there are.

    A sum over the block's warps is carried with its rounding errors, rounded to `real` and, of a mean, divided in it.
    Four barriers a step; every thread comes to each of them, because all decide by the same shared numbers.
    """
    size_of_tile, warps = columns * pieces, block // WARP
    tiles_size, compensated, both, shared_width = size_of_tile * warps, pieces == 2, 2 * stride, max(1, width)
    plain = cuda_batch.FOLD * block                            # examples

    def run(state: Any, live: Any, lines: Any, order: Any, ordered: int, scalars: Any, places: Any,
            losses: Any, status: Any, read: Any, addresses: Any, examples: int) -> None:
        acc = cuda.local.array(slots, real)
        tiles = cuda.shared.array(tiles_size, real)
        numbers = cuda.shared.array(both, real, VECTOR)
        board = cuda.shared.array(board_size, real, VECTOR)
        held = cuda.shared.array(room, real, VECTOR)
        sums = cuda.shared.array(columns, real)
        row = cuda.shared.array(shared_width, real)
        thread, slot = cuda.threadIdx.x, cuda.blockIdx.x
        model, ordering, sharing, tile = live[slot, 0], live[slot, 1], live[slot, 2], thread // WARP * size_of_tile
        for k in range(thread, stride, block):
            numbers[k] = state[model, k]
            numbers[stride + k] = state[model, k]              # what is no parameter's stays in both
        for k in range(thread, tiles_size, block):
            tiles[k] = 0
        for k in range(thread, board_size, block):
            board[k] = 0                                       # a tile reads a little beyond what was written
        clear(acc)
        cuda.syncthreads()
        half, made, why = 0, 0, 0
        done, first, size = 0, lines[0, 0], lines[0, 1]
        while made < lines.shape[0]:                           # a trip over `block` examples; steps have one or more
            old, new = from_place(numbers, half), from_place(numbers, stride - half)
            if done == 0:
                for k in range(thread, room, block):
                    held[k] = old[read[min(k, read.size - 1)]]
                cuda.syncthreads()
            for k in range(thread, width, block):
                row[k] = scalars[sharing, made, k]
            example = examples                                 # none
            if done + thread < size:
                example = order[ordering, first + done + thread] if ordered else first + done + thread
            body(acc, board, held, example, examples, addresses)
            done += block
            if done % plain == 0 or done >= size:
                fold(acc, tiles, tile)
            if done < size:
                continue
            cuda.syncthreads()
            for c in range(thread, columns, block):
                total, error = tiles[c], real(0)
                tiles[c] = 0
                if compensated:
                    error = tiles[columns + c]
                    tiles[columns + c] = 0
                for warp in range(1, warps):
                    place = warp * size_of_tile + c
                    other = tiles[place]
                    together = total + other
                    tiles[place] = 0
                    if compensated:
                        of_other = together - total
                        error += tiles[place + columns] + ((total - (together - of_other)) + (other - of_other))
                        tiles[place + columns] = 0
                    total = together
                if compensated and total - total == 0:         # the rounding error of an infinite sum is NaN
                    total += error
                sums[c] = total
            cuda.syncthreads()
            divisor = real(size) if mean else real(1)
            loss = sums[places[1]] / divisor
            if thread == 0:
                losses[slot, made] = loss
            if sums[places[0]] != 0:
                why = CHECK_FAILED
            elif loss - loss != 0:
                why = LOSS_NOT_FINITE
            else:
                wrong = 0
                for j in range(thread, count, block):
                    update(row, old, new, sums[places[2 + j]] / divisor, j)
                    if new[j] - new[j] != 0:
                        wrong = 1
                if cuda.syncthreads_or(wrong):
                    why = PARAMETERS_NOT_FINITE
            if why != 0:
                break
            half = stride - half
            made, done = made + 1, 0
            if made < lines.shape[0]:
                first, size = lines[made, 0], lines[made, 1]
        cuda.syncthreads()
        for k in range(thread, stride, block):
            state[model, k] = numbers[half + k]
        if thread == 0:
            status[slot, 0] = made
            status[slot, 1] = why
    return kernel(run)


def step_shell(update: Any, real: Any, count: int, stride: int, block: int, mean: bool) -> Any:
    """The shell, for one block, that ends a step: sums to gradient, update, and whether the step is made.

    numbers, fresh: the two copies of a model's numbers, in device memory; sums: the results, in float64, rounded once;
    status: (steps made, why not the next), so that steps queued behind one that failed do nothing; scalars: (steps, width),
    losses: (steps,), of which the step takes its own; size: examples.
    """
    def run(numbers: Any, fresh: Any, sums: Any, scalars: Any, losses: Any, status: Any, size: int) -> None:
        thread, made, why = cuda.threadIdx.x, status[0], status[1]
        cuda.syncthreads()                                     # all have read the status before one writes it
        if why == 0:
            divisor = float(size) if mean else 1.0
            loss = real(sums[1] / divisor)
            if sums[0] != 0:
                why = CHECK_FAILED
            elif loss - loss != 0:
                why = LOSS_NOT_FINITE
            else:
                row, wrong = scalars[made], 0
                for j in range(thread, count, block):
                    update(row, numbers, fresh, real(sums[2 + j] / divisor), j)
                    if fresh[j] - fresh[j] != 0:
                        wrong = 1
                if cuda.syncthreads_or(wrong):
                    why = PARAMETERS_NOT_FINITE
                else:
                    for k in range(thread, stride, block):
                        numbers[k] = fresh[k]
            if thread == 0:
                losses[made] = loss
                status[0] = made if why else made + 1
                status[1] = why
    return kernel(run)
