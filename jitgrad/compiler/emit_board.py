"""LLVM for the warp's board in shared memory: numbers of 32 threads laid side by side, and what the lanes sum of them.

A row of the board has a number of each of the warp's examples, and 16 bytes more, so that neighbouring rows begin in
different banks. Lanes read four floats of a row at a time; see `batch_sums` for which lane makes which sums. There is no
scalar program that a sum over the batch has to agree with, so products are added by fused multiply-adds.
"""

from __future__ import annotations

from collections.abc import Callable

from llvmlite import ir

from jitgrad.compiler.batch_sums import VECTOR_BYTES, WARP, Job, board_stride
from jitgrad.compiler.emit import I32, I64, Emitter, counting
from jitgrad.compiler.emit_warp import Warp


class Board:
    """A warp's board of `members` examples a thread: example member + members · lane is in column that is its number."""

    def __init__(self, emitter: Emitter, warp: Warp, base: ir.Value, members: int):
        self.one = Emitter(emitter.builder, emitter.dtype, 1, emitter.target)
        self.emitter, self.warp, self.base, self.members = emitter, warp, base, members
        self.count = VECTOR_BYTES // emitter.dtype.itemsize
        self.stride = board_stride(members, emitter.dtype.itemsize)
        b = emitter.builder
        self.mine = b.gep(base, [b.mul(warp.lane, ir.Constant(I32, members))])

    def write(self, row: int, value: ir.Value) -> None:
        """This thread's numbers of a row."""
        b = self.emitter.builder
        place = b.gep(self.mine, [ir.Constant(I32, row * self.stride)])
        b.store(value, b.bitcast(place, ir.PointerType(value.type, place.type.addrspace)),
                align=self.members * self.emitter.dtype.itemsize)

    def clear(self, rows: int, exists: list[ir.Value]) -> None:
        """Zeros where an example does not exist, in rows below `rows`."""
        b = self.emitter.builder
        with b.if_then(b.not_(exists[-1]), likely=False), counting(b, ir.Constant(I64, rows), rolled=True) as row:
            place = b.gep(self.mine, [b.mul(b.trunc(row, I32), ir.Constant(I32, self.stride))])
            for member, is_there in enumerate(exists):
                at = b.gep(place, [ir.Constant(I32, member)])
                b.store(b.select(is_there, b.load(at), self.one.constant(0.0)), at)

    def add(self, job: Job, accumulator: Callable[[int], ir.Value]) -> None:
        """accumulator(slot) += this lane's part of the job, over the warp's examples."""
        b, count = self.emitter.builder, self.count
        tile = b.and_(self.warp.lane, ir.Constant(I32, job.tiles - 1))
        share = b.lshr(self.warp.lane, ir.Constant(I32, job.tiles.bit_length() - 1))
        row, column = self._divided(tile, job.column_tiles)
        beyond = ir.Constant(I32, job.row_tiles - 1)
        row = b.select(b.icmp_unsigned("<", row, beyond), row, beyond)
        examples = WARP // job.share                     # of 32 that this lane reads
        first = b.mul(share, ir.Constant(I32, examples))
        a, c = (self._row(of, at, first) for of, at in ((job.a, row), (job.b, column)))
        slots = [accumulator(job.slot + k) for k in range(job.slots)]
        with counting(b, ir.Constant(I64, self.members), rolled=True) as chunk:
            # Of every 32 examples this lane's, `count` at a time, all of them from one address on.
            at = b.mul(b.trunc(chunk, I32), ir.Constant(I32, WARP))
            here_a, here_c = b.gep(a, [at]), b.gep(c, [at])
            for k in range(0, examples, count):
                left = [self._load(here_a, row * job.row_tiles * self.stride + k) for row in range(job.rows)]
                right = [self._load(here_c, column * job.column_tiles * self.stride + k) for column in range(job.columns)]
                for number, slot in enumerate(slots):
                    total = b.load(slot)
                    if not job.b[1]:
                        total = b.fadd(total, self._tree(left[number]))
                    else:
                        x, y = left[number // job.columns], right[number % job.columns]
                        for one, other in zip(x, y, strict=True):
                            total = self.one.multiply_add(one, other, total)
                    b.store(total, slot)

    def _divided(self, value: ir.Value, by: int) -> tuple[ir.Value, ir.Value]:
        b, divisor = self.emitter.builder, ir.Constant(I32, by)
        return b.udiv(value, divisor), b.urem(value, divisor)

    def _row(self, of: tuple[int, int], row: ir.Value, first: ir.Value) -> ir.Value:
        b = self.emitter.builder
        place = b.mul(b.add(row, ir.Constant(I32, of[0])), ir.Constant(I32, self.stride))
        return b.gep(self.base, [b.add(place, first)])

    def _load(self, base: ir.Value, at: int) -> list[ir.Value]:
        """`count` numbers from base[at] on."""
        b = self.emitter.builder
        place = b.gep(base, [ir.Constant(I32, at)])
        vector = ir.PointerType(ir.VectorType(self.one.real, self.count), place.type.addrspace)
        loaded = b.load(b.bitcast(place, vector), align=VECTOR_BYTES)
        return [b.extract_element(loaded, ir.Constant(I32, k)) for k in range(self.count)]

    def _tree(self, values: list[ir.Value]) -> ir.Value:
        while len(values) > 1:
            values = [self.emitter.builder.fadd(x, y) for x, y in zip(values[::2], values[1::2], strict=True)]
        return values[0]
