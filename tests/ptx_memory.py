"""The memory of ptx_machine: flat, at this process's own addresses, and watched word by word."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np

Array = Any
WORD = 4                           # bytes that accesses are watched by


class Memory:
    """Some bytes: which of them are allocated and written, and who touched them last."""

    def __init__(self, size: int):
        self.bytes = np.full(size, 0xFF, np.uint8)
        offset = -self.bytes.ctypes.data % 256
        self.bytes = self.bytes[offset:size - 256 + offset]
        self.base = self.bytes.ctypes.data
        words = len(self.bytes) // WORD
        self.allocated = np.zeros(words, bool)
        self.written = np.zeros(words, bool)
        self.writer, self.reader = _Touched(words), _Touched(words)
        self.next = 256

    def allocate(self, size: int, alignment: int = 256) -> int:
        """The address of so many bytes, with a gap to what lies beside them."""
        at = self.next + -self.next % max(alignment, WORD)
        self.next = at + size + WORD * 4
        if self.next > len(self.bytes):
            raise MemoryError(f"the machine's {len(self.bytes):,} bytes are used up")
        self.allocated[at // WORD:-(-(at + size) // WORD)] = True
        return self.base + at

    def release(self, address: int, size: int) -> None:
        """What was there is gone."""
        first, last = (address - self.base) // WORD, -(-(address - self.base + size) // WORD)
        self.written[first:last] = False
        self.bytes[first * WORD:last * WORD] = 0xFF

    def view(self, address: int, size: int) -> Array:
        """The bytes there."""
        return self.bytes[address - self.base:address - self.base + size]

    def fill(self, address: int, numbers: Array) -> None:
        """Write from outside of any kernel."""
        given = np.ascontiguousarray(numbers).reshape(-1).view(np.uint8)
        self.view(address, len(given))[:] = given
        self.written[(address - self.base) // WORD:-(-(address - self.base + len(given)) // WORD)] = True


class _Touched:
    """Who touched each word last: block, thread (-1: several), warp (-1: several), and after which barriers."""

    def __init__(self, words: int):
        self.block, self.thread, self.warp, self.epoch, self.warp_epoch = (np.full(words, -9, np.int32) for _ in range(5))

    def forget(self) -> None:
        self.block[:] = -9

    def conflicts(self, at: Array, who: Who) -> Array:
        """Which of these words others touched, with no barrier since."""
        here, warp = self.block[at] == who.block, self.warp[at] == who.warp
        before = self.block[at] != -9
        own = here & (self.thread[at] == who.thread)
        after = here & ((self.epoch[at] != who.epoch) | (warp & (self.warp_epoch[at] != who.warp_epoch)))
        return before & ~own & ~after

    def note(self, at: Array, who: Who, shared: bool) -> None:
        """These words are touched; `shared`: with those that did so since the last barrier."""
        if shared:
            others = (self.block[at] != -9) & (self.block[at] != who.block)
            same = (self.block[at] == who.block) & (self.epoch[at] == who.epoch)
            elsewhere = same & (self.warp[at] != who.warp)
            beside = same & ~elsewhere & (self.warp_epoch[at] == who.warp_epoch) & (self.thread[at] != who.thread)
        self.block[at], self.thread[at], self.warp[at] = who.block, who.thread, who.warp
        self.epoch[at], self.warp_epoch[at] = who.epoch, who.warp_epoch
        if not shared:
            return
        # Of several threads in this very instruction the last one is noted.
        beside |= (self.thread[at] != who.thread) & (self.warp[at] == who.warp)
        elsewhere |= self.warp[at] != who.warp
        self.thread[at[beside | elsewhere]] = -1
        self.warp[at[elsewhere]] = -1
        self.block[at[others]] = -1


@dataclass
class Who:
    """Threads that touch memory."""

    block: int
    thread: Array
    warp: Array
    epoch: int
    warp_epoch: Array
