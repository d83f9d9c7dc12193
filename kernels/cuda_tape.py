"""A tape on CUDA that is too large for one straight line: its lines, run over tiles of examples. Compiled once a dtype.

A block has a tile of 1 << shift vectors of examples and runs line after line over its rows, all threads on one line. Where
they fit, a tile's rows lie in shared memory. Sums over the batch are added up plainly for FOLD tiles, then join the
block's compensated sums; see kernels/cuda_batch.py for how blocks are added up. Lines: see compiler/cuda_tables.py.
"""

from __future__ import annotations

from typing import Any

import numpy as np
from numba import cuda

from jitgrad.kernels.cuda_batch import VECTOR, as_pointer, kernel
from jitgrad.kernels.cuda_lines import DENSE, OUTER, PAIR, PLAIN, SUM, THIN

FOLD = 16                          # tiles that are added up plainly


def tape_shell(holes: Any, real: Any, near: bool, threads: int, itemsize: int) -> Any:
    """The shell that runs a tape's lines; holes: the functions of compiler/emit_tile.py, by name.

    near: rows lie in shared memory, of which the launch gives a block as much as they need, else in `scratch`.
    part: pieces · columns numbers a block, as in `cuda_batch`; acc: columns numbers a block; w, packed: numbers that all
    examples share, and those of dense layers as they are read; inputs, outputs: a line (array, width, column, row) each;
    spread: (row, place in w); rows: a tile's; columns: sums; n: examples.
    """
    step, dense, thin, pair, outer, plain = (holes[k] for k in ("step", "dense", "thin", "pair", "outer", "plain"))
    count, compensated = 16 // itemsize, itemsize == 4
    bits = count.bit_length() - 1

    def run(part: Any, acc: Any, scratch: Any, w: Any, packed: Any, arrays: Any, inputs: Any, outputs: Any, spread: Any,
            table: Any, operands: Any, rows: int, columns: int, shift: int, n: int) -> None:
        thread, block = cuda.threadIdx.x, cuda.blockIdx.x
        size, wide = count << shift, bits + shift       # examples, 1 << wide
        stride, within = size + count, size - 1
        if near:
            v = cuda.shared.array(0, real, VECTOR)
            base = np.int64(0)
        else:
            v = scratch
            base = np.int64(block) * rows * stride
        first, pieces = np.int64(block) * columns, 1
        if compensated:
            pieces = 2
        for c in range(thread, columns, threads):
            acc[first + c] = 0
        mine = first * pieces
        for c in range(thread, columns * pieces, threads):
            part[mine + c] = 0
        for k in range(thread, spread.shape[0] * size, threads):
            v[base + spread[k >> wide, 0] * stride + (k & within)] = w[spread[k >> wide, 1]]
        tiles, at, waiting = (n + size - 1) // size, np.int64(block), 0
        while at < tiles:
            begin = at * size
            exist = min(np.int64(size), n - begin)
            for k in range(thread, inputs.shape[0] * size, threads):
                c, example = k >> wide, k & within
                source = as_pointer(arrays[inputs[c, 0]], v)
                v[base + inputs[c, 3] * stride + example] = source[min(begin + example, n - 1) * inputs[c, 1] + inputs[c, 2]]
            cuda.syncthreads()
            for t in range(table.shape[0]):
                kind, lo, m, length = table[t, 0], table[t, 1], table[t, 2], table[t, 3]
                p, b, joined = table[t, 4], table[t, 5], table[t, 6]
                if kind >= 0:
                    step(v, base, w, operands, kind, lo, m, p, shift, thread, threads)
                elif kind == DENSE:
                    dense(v, base, packed, operands, lo, m, length, p, b, joined, shift, thread, threads)
                elif kind == THIN:
                    thin(v, base, packed, operands, lo, m, length, p, b, joined, shift, thread, threads)
                elif kind == OUTER:
                    outer(v, base, operands, acc, first, m, length, p, b, exist, shift, thread, threads)
                elif kind == PLAIN:
                    plain(v, base, operands, acc, first, m, p, exist, shift, thread, threads)
                elif kind == PAIR:
                    pair(v, base, w, operands, lo, m, length, p, joined, shift, thread, threads)
                elif kind == SUM:
                    for k in range(thread, m * size, threads):
                        j, place = k >> wide, base + (k & within)
                        start, stop = operands[p + j], operands[p + j + 1]
                        row = operands[start]
                        total = w[~row] if row < 0 else v[place + row * stride]
                        for e in range(start + 1, stop):
                            row = operands[e]
                            total += w[~row] if row < 0 else v[place + row * stride]
                        v[place + (lo + j) * stride] = total
                else:
                    for k in range(thread, m * size, threads):
                        j, place = k >> wide, base + (k & within)
                        row = operands[p + j]
                        here = w[~row] if row < 0 else v[place + row * stride]
                        start, stop = operands[p + m + j], operands[p + m + j + 1]
                        found = real(np.nan)
                        if here >= 0 and here < real(stop - start):        # a float32 beside an int64 is a float64
                            row = operands[start + np.int64(here)]
                            found = w[~row] if row < 0 else v[place + row * stride]
                        v[place + (lo + j) * stride] = found
                cuda.syncthreads()
            for k in range(thread, outputs.shape[0] * size, threads):
                c, example = k >> wide, k & within
                if example < exist:
                    target = as_pointer(arrays[outputs[c, 0]], v)
                    target[(begin + example) * outputs[c, 1] + outputs[c, 2]] = v[base + outputs[c, 3] * stride + example]
            at += cuda.gridDim.x
            waiting += 1
            if waiting == FOLD or at >= tiles:
                waiting = 0
                for c in range(thread, columns, threads):
                    total, other = part[mine + c], acc[first + c]
                    both = total + other
                    part[mine + c] = both
                    if compensated:
                        of_other = both - total
                        part[mine + columns + c] += (total - (both - of_other)) + (other - of_other)
                    acc[first + c] = 0
            cuda.syncthreads()
        if compensated:
            for c in range(thread, columns, threads):
                total = part[mine + c]
                # What was computed as the rounding error of an infinite sum is NaN.
                if total - total != 0:
                    part[mine + columns + c] = 0
    return kernel(run)
