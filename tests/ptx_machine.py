"""A machine that runs PTX on this CPU: what a GPU would be given, executed and watched, without a GPU.

A block's threads are the elements of NumPy arrays, one array a register. Threads that stand at the same instruction execute
it together; of several places the lowest goes first, which brings branches together again. Blocks run one after the other.

It stops at what would go wrong on a GPU, or only might: an address outside of what was allocated, or misaligned for its
instruction; a number that nobody has written; a barrier that not all threads reach; two threads at one word of memory, one
of them writing, with no barrier in between.

Semantics: NVIDIA, Parallel Thread Execution ISA 9.0. Approximate instructions (`ex2.approx`) are computed accurately, and
`fma` of float64 with an error of up to one unit in the last place.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Sequence
from typing import Any

import numpy as np
from ptx_arithmetic import TYPES, arithmetic, unsigned
from ptx_memory import WORD, Memory, Who
from ptx_text import Function, Instruction, Module, names, parse

Array = Any
WARP = 32


class Fault(Exception):
    """What a GPU would do wrong, with the instruction."""


class Block:
    """The threads of one block, their registers and how far they are."""

    def __init__(self, module: Module, memory: Memory, grid: tuple[int, int, int], shape: tuple[int, int, int], number: int,
                 arguments: Sequence[Any], symbols: dict[str, int], shared: int):
        self.module, self.memory, self.symbols, self.number = module, memory, symbols, number
        self.threads = int(np.prod(shape))
        index = np.arange(self.threads)
        tid = (index % shape[0], index // shape[0] % shape[1], index // shape[0] // shape[1])
        place = (number % grid[0], number // grid[0] % grid[1], number // grid[0] // grid[1])
        self.special: dict[str, Array] = {"%laneid": (index % WARP).astype(np.uint32), "WARP_SZ": np.uint32(WARP),
                                          "%dynamic_smem_size": np.uint32(shared)}
        for axis, letter in enumerate("xyz"):
            self.special |= {f"%tid.{letter}": tid[axis].astype(np.uint32), f"%ntid.{letter}": np.uint32(shape[axis]),
                             f"%ctaid.{letter}": np.uint32(place[axis]), f"%nctaid.{letter}": np.uint32(grid[axis])}
        self.registers: dict[str, Array] = {}
        self.sizes: dict[str, int] = {}
        self.parameters: dict[str, Array] = {}
        for name, value in zip(module.functions[module.entry].parameters, arguments, strict=True):
            row = np.frombuffer(np.asarray(value).tobytes(), np.uint8)
            self.parameters[name] = np.broadcast_to(row, (self.threads, len(row)))
        self.carry = np.zeros(self.threads, np.uint64)
        self.epoch, self.warp_epoch = 0, np.zeros(-(-self.threads // WARP), np.int32)
        self.lane, self.warp = index % WARP, (index // WARP).astype(np.int32)
        self.index = index.astype(np.int32)
        self.executed = 0                                   # instructions, by all threads together

    def run(self, name: str, active: Array) -> None:
        """A function's instructions, by the active threads, to their end."""
        function = self.module.functions[name]
        for local, size in function.local.items():
            if (name, local) not in self.symbols:
                stride = -(-size // 16) * 16 + 16
                first = self.memory.allocate(stride * self.threads, 16)
                self.symbols[name, local] = first           # type: ignore[index]
            stride = -(-size // 16) * 16 + 16
            first = self.symbols[name, local]               # type: ignore[index]
            self.memory.release(first, stride * self.threads)
            self.special[local] = (first + stride * self.index.astype(np.uint64)).astype(np.uint64)
        caller, self.registers, self.sizes = (self.registers, self.sizes), {}, function.sizes
        pc = np.zeros(self.threads, np.int64)
        live, parked = active.copy(), np.zeros(self.threads, bool)
        while live.any():
            ready = live & ~parked
            if ready.any():
                self._advance(function, pc, live, ready, parked)
            else:
                self._release(function, pc, live, parked)
        self.registers, self.sizes = caller

    def _advance(self, function: Function, pc: Array, live: Array, ready: Array, parked: Array) -> None:
        """The threads that are furthest behind, until they meet others, part, or wait."""
        code = function.code
        at = int(pc[ready].min())
        mask = ready & (pc == at)
        others = pc[ready & ~mask]
        until = int(others.min()) if len(others) else len(code)
        count = int(mask.sum())
        while True:
            instruction = code[at]
            kind = instruction.kind
            self.executed += count
            going = mask
            if instruction.guard:
                going = mask & (self.registers[instruction.guard] != instruction.negated)
            try:
                if kind == "bra":
                    taken = int(going.sum())
                    target = function.labels[instruction.operands[0]]
                    if 0 < taken < count:
                        pc[mask], pc[going] = at + 1, target
                        return
                    at = target if taken else at + 1
                elif kind in ("ret", "exit"):
                    live[going] = False
                    if going.sum() == count:
                        return
                    pc[mask] = at + 1
                    return
                elif instruction.scope == "block":
                    if not (mask == live).all():
                        pc[mask], parked[mask] = at, True
                        return
                    self._barrier(instruction, mask)
                    at += 1
                elif instruction.scope == "warp":
                    if (np.isin(self.warp, self.warp[mask]) & live & ~mask).any():
                        pc[mask], parked[mask] = at, True
                        return
                    self._together(instruction, going)
                    at += 1
                else:
                    if going.any():
                        self._execute(instruction, going)
                    at += 1
            except Fault as fault:
                raise Fault(f"{fault}\n  in block {self.number}: {instruction}") from None
            if at >= until:
                pc[mask] = at
                return

    def _release(self, function: Function, pc: Array, live: Array, parked: Array) -> None:
        """All wait: let those go on that wait for each other."""
        waiting = live & parked
        for at in np.unique(pc[waiting]):
            instruction = function.code[at]
            here = waiting & (pc == at)
            if instruction.scope == "warp":
                whole = here & np.array([bool((here[self.warp == w] == live[self.warp == w]).all()) for w in self.warp])
                if whole.any():
                    self._together(instruction, whole)
                    pc[whole], parked[whole] = at + 1, False
                    return
            elif (here == live).all():
                self._barrier(instruction, here)
                pc[here], parked[here] = at + 1, False
                return
        places = [f"{int((waiting & (pc == at)).sum())} threads at {function.code[at]}" for at in np.unique(pc[waiting])]
        raise Fault(f"in block {self.number} all wait for each other: " + "; ".join(places))

    def _barrier(self, instruction: Instruction, mask: Array) -> None:
        """All threads of the block have come; of `bar.red` each learns what any or all of them said."""
        *target, number, said = instruction.operands if len(instruction.operands) == 3 else (*instruction.operands, "")
        if number != "0" or bool(target) != ("red" in instruction.opcode):
            raise Fault("the machine knows barrier 0 of all threads alone")
        self.epoch += 1
        self.warp_epoch += 1
        if target:
            values = np.broadcast_to(self.read(said.lstrip("!"), "pred"), self.threads) != said.startswith("!")
            found = values[mask].any() if ".or." in instruction.opcode else values[mask].all()
            self.write(target[0], np.bool_(found), mask)

    # --- operands ---

    def read(self, operand: str, kind: str) -> Array:
        """An operand as numbers of a PTX type, an array or one for all threads."""
        dtype = TYPES[kind]
        if operand in self.special or self._size(operand) is not None:
            found = self.special.get(operand)
            if found is None:
                found = self.registers.get(operand)
                if found is None:
                    raise Fault(f"register {operand} is read before it is written")
            if found.dtype == np.bool_ or kind == "pred":
                return found
            return _resized(found, dtype)
        if operand in self.symbols:
            return np.uint64(self.symbols[operand])
        if operand[:2] in ("0f", "0F", "0d", "0D"):
            real = TYPES["f32" if len(operand) == 10 else "f64"]
            return np.array(int(operand[2:], 16), unsigned(real)).view(real)
        number = int(operand, 0)
        width = 8 * max(dtype.itemsize, 1)
        return np.bool_(number) if kind == "pred" else np.array(number & ((1 << width) - 1), unsigned(dtype)).view(dtype)

    def _size(self, name: str) -> int | None:
        """Bytes of a register, declared by itself or as one of %f<9>, which are %f0 to %f8; None if it is none."""
        return self.sizes.get(name, self.sizes.get(name.rstrip("0123456789")))

    def write(self, name: str, value: Array, mask: Array) -> None:
        """Numbers into a register, of the threads in the mask."""
        if name == "_":
            return
        size = self._size(name)
        value = np.broadcast_to(value, self.threads)
        if size:
            value = _resized(value, np.dtype(f"i{size}" if value.dtype.kind == "i" else f"u{size}")).view(f"u{size}")
        known = self.registers.get(name)
        if known is None:
            known = self.registers[name] = np.zeros(self.threads, value.dtype)
        np.copyto(known, value, where=mask)

    # --- instructions ---

    def _execute(self, instruction: Instruction, mask: Array) -> None:
        parts = instruction.opcode.split(".")
        special = _SPECIAL.get(parts[0])
        if special:
            special(self, parts, instruction.operands, mask)
            return
        compute, kinds, result = arithmetic(instruction.opcode)
        target, *operands = instruction.operands
        if compute is None:
            raise Fault(f"the machine does not know {instruction.opcode}")
        values = [self.read(x, kind) for x, kind in zip(operands, kinds, strict=False)]
        with np.errstate(all="ignore"):
            if "cc" in parts or parts[0] in ("addc", "subc", "madc"):
                found, carry = compute(*values, self.carry)
                if "cc" in parts:
                    np.copyto(self.carry, np.broadcast_to(carry, self.threads).astype(np.uint64), where=mask)
            else:
                found = compute(*values)
        self.write(target, np.asarray(found, TYPES[result]) if result != "pred" else np.asarray(found, np.bool_), mask)

    def move(self, parts: list[str], operands: list[str], mask: Array) -> None:
        """mov, of one number, or between a vector of registers and one twice as wide."""
        target, source = operands
        kind = parts[-1]
        if source.startswith("{"):
            pieces = [x.strip() for x in source[1:-1].split(",")]
            bits = 8 * TYPES[kind].itemsize // len(pieces)
            total = np.zeros(self.threads, unsigned(TYPES[kind]))
            for k, piece in enumerate(pieces):
                part = np.broadcast_to(self.read(piece, f"b{bits}"), self.threads).astype(total.dtype)
                total |= part << total.dtype.type(k * bits)
            self.write(target, total, mask)
        elif target.startswith("{"):
            pieces = [x.strip() for x in target[1:-1].split(",")]
            bits = 8 * TYPES[kind].itemsize // len(pieces)
            whole = np.array(np.broadcast_to(self.read(source, kind), self.threads)).view(unsigned(TYPES[kind]))
            for k, piece in enumerate(pieces):
                self.write(piece, (whole >> whole.dtype.type(k * bits)).astype(f"u{bits // 8}"), mask)
        else:
            value = np.asarray(self.read(source, kind))
            self.write(target, value if kind == "pred" else np.broadcast_to(value, self.threads).copy(), mask)

    def _address(self, operand: str) -> tuple[str, Array]:
        inner = operand.strip("[]").replace(" ", "")
        name, sign, offset = re.match(r"([^+]+)(\+?)(-?\d+)?$", inner).groups()     # type: ignore[union-attr]
        shift = int(offset) if sign else 0
        if name in self.parameters:
            return name, shift
        if name in self.special or self._size(name) is not None:
            base = np.broadcast_to(self.read(name, "u64"), self.threads)
        else:
            base = np.full(self.threads, self.symbols[name], np.uint64)
        return "", base.astype(np.int64) + shift

    def access(self, parts: list[str], operands: list[str], mask: Array) -> None:
        """ld and st: vectors of registers from or to memory."""
        kind, store = parts[-1], parts[0] == "st"
        dtype = TYPES[kind]
        place, registers = (operands[0], operands[1]) if store else (operands[1], operands[0])
        names = [x.strip() for x in registers.strip("{}").split(",")]
        if "param" in parts:
            self._parameter(place, names, dtype, kind, store, mask)
            return
        _, address = self._address(place)
        at = address[mask] - self.memory.base
        size = dtype.itemsize * len(names)
        local = "local" in parts
        if (at % size).any():
            raise Fault(f"address {hex(int(at[at % size != 0][0] + self.memory.base))} is no multiple of {size}")
        words = ((at[:, None] + np.arange(0, size, WORD)) // WORD).reshape(-1)
        if ((words < 0) | (words >= len(self.memory.allocated))).any() or not self.memory.allocated[words].all():
            raise Fault("an address outside of what was allocated")
        numbers = self.memory.bytes.view(unsigned(dtype))
        where = at[:, None] // dtype.itemsize + np.arange(len(names))
        if store:
            values = [np.broadcast_to(self.read(name, kind), self.threads)[mask] for name in names]
            stored = np.stack(values, axis=1).view(unsigned(dtype))
            if not local:
                # Who writes the number that is there already harms nobody.
                changed = np.repeat(numbers[where] != stored, max(1, dtype.itemsize // WORD), axis=1).reshape(-1)
                self._watch(words, mask, size, changed)
            numbers[where] = stored
            self.memory.written[words] = True
            return
        if not local:
            self._watch(words, mask, size, None)
        if not self.memory.written[words].all():
            raise Fault("a number is read that nobody has written")
        for k, name in enumerate(names):
            found = np.zeros(self.threads, unsigned(dtype))
            found[mask] = numbers[where[:, k]]
            self.write(name, found.view(dtype), mask)

    def _watch(self, words: Array, mask: Array, size: int, changed: Array | None) -> None:
        """Stop at a race of a load (changed is None), or of a store that changes some of the words."""
        each = max(1, size // WORD)
        if size < WORD:
            return                                          # bytes side by side are not told apart
        who = Who(self.number, np.repeat(self.index[mask], each), np.repeat(self.warp[mask], each), self.epoch,
                   np.repeat(self.warp_epoch[self.warp[mask]], each))
        memory = self.memory
        wrong = memory.writer.conflicts(words, who)
        if changed is not None:
            wrong = (wrong | memory.reader.conflicts(words, who)) & changed
        if wrong.any():
            k = int(np.flatnonzero(wrong)[0])
            by = memory.writer if memory.writer.conflicts(words, who)[k] else memory.reader
            w = words[k]
            raise Fault(f"a race: thread {who.thread[k]} of block {who.block} touches what thread {by.thread[w]} of block "
                        f"{by.block[w]} has {'written' if by is memory.writer else 'read'}, with no barrier in between")
        (memory.reader if changed is None else memory.writer).note(words, who, shared=changed is None)

    def _parameter(self, place: str, names: list[str], dtype: Array, kind: str, store: bool, mask: Array) -> None:
        inner = place.strip("[]").replace(" ", "")
        name, _, offset = inner.partition("+")
        start = int(offset or 0)
        for k, register in enumerate(names):
            first = start + k * dtype.itemsize
            if not store:
                row = self.parameters[name][:, first:first + dtype.itemsize]
                self.write(register, np.ascontiguousarray(row).view(dtype)[:, 0], mask)
                continue
            known = self.parameters.get(name)
            if known is None or known.shape[1] < first + dtype.itemsize:
                grown = np.zeros((self.threads, first + dtype.itemsize), np.uint8)
                if known is not None:
                    grown[:, :known.shape[1]] = known
                known = self.parameters[name] = grown
            value = np.ascontiguousarray(np.broadcast_to(self.read(register, kind), self.threads))
            known[:, first:first + dtype.itemsize] = value.view(np.uint8).reshape(self.threads, -1)

    def call(self, parts: list[str], operands: list[str], mask: Array) -> None:
        """A function of this module: its parameters are copies, and so are its results."""
        returned = names(operands[0].strip("()")) if operands[0].startswith("(") else []
        name = operands[len(returned) > 0]
        rest = operands[1 + bool(returned):]
        given = names(rest[0].strip("()")) if rest else []
        callee = self.module.functions[name]
        for theirs, ours in zip(callee.parameters, given, strict=True):
            self.parameters[theirs] = self.parameters[ours].copy()
        self.run(name, mask)
        for ours, theirs in zip(returned, callee.returned, strict=True):
            self.parameters[ours] = self.parameters[theirs].copy()

    def _together(self, instruction: Instruction, mask: Array) -> None:
        """An instruction of whole warps, by the threads in the mask."""
        parts, operands = instruction.opcode.split("."), instruction.operands
        if instruction.kind in ("bar", "barrier"):
            self.warp_epoch[np.unique(self.warp[mask])] += 1
            return
        if parts[0] == "vote" or parts[0] == "redux":
            raise Fault(f"the machine does not know {instruction.opcode}")
        target, source, by, clamp = operands[:4]
        target, _, predicate = target.partition("|")
        value = np.broadcast_to(self.read(source, "b32"), self.threads)
        amount = np.broadcast_to(self.read(by, "u32"), self.threads).astype(np.int64)
        control = int(np.asarray(self.read(clamp, "u32")).reshape(-1)[0])
        section, last = control >> 8 & 31, control & 31
        first = self.lane & section
        most = first | (last & ~section)
        lane = {"bfly": self.lane ^ amount, "up": self.lane - amount, "down": self.lane + amount,
                "idx": first | (amount & ~section)}[parts[2]]
        inside = lane >= most if parts[2] == "up" else lane <= most
        lane = np.where(inside, lane, self.lane)
        source_thread = self.warp.astype(np.int64) * WARP + lane
        if (~mask[np.minimum(source_thread, self.threads - 1)] & mask).any():
            raise Fault("a lane asks another that does not take part")
        # Exchanges also order what the lanes did before: each has `.sync`.
        self.write(target, value[np.minimum(source_thread, self.threads - 1)], mask)
        if predicate:
            self.write(predicate, inside, mask)


def _nothing(block: Block, parts: list[str], operands: list[str], mask: Array) -> None:
    """Fences and prefetches: memory is already in order."""


def _convert_address(block: Block, parts: list[str], operands: list[str], mask: Array) -> None:
    block.write(operands[0], np.broadcast_to(block.read(operands[1], "u64"), block.threads).astype(np.uint64), mask)


_SPECIAL: dict[str, Callable[..., None]] = {
    "mov": Block.move, "ld": Block.access, "ldu": Block.access, "st": Block.access, "call": Block.call,
    "cvta": _convert_address, "membar": _nothing, "fence": _nothing, "prefetch": _nothing,
}


def _resized(value: Array, dtype: Any) -> Array:
    """The same bits, cut or extended to a type of another width."""
    if value.dtype.itemsize == dtype.itemsize:
        return value.view(dtype) if value.ndim == 0 or value.flags.c_contiguous else value.copy().view(dtype)
    if value.dtype.kind == "f":
        value = np.ascontiguousarray(value).view(unsigned(value.dtype))
    wide = np.dtype(f"{'i' if value.dtype.kind == 'i' else 'u'}{dtype.itemsize}")
    return value.astype(wide).view(dtype)


def launch(text: str, memory: Memory, grid: tuple[int, int, int], block: tuple[int, int, int],
           arguments: Sequence[Any], shared: int = 0) -> int:
    """Run a module's kernel; returns how many instructions threads executed.

    arguments: numbers of the right widths; shared: bytes of the block's memory whose size the module leaves open
    """
    module = parse(text)
    start = memory.next
    symbols: dict[str, int] = {}
    memory.writer.forget()
    memory.reader.forget()
    sizes = {name: size or shared for name, (_, size, _, _) in module.memory.items()}
    for name, (_, _, alignment, (kind, numbers)) in module.memory.items():
        symbols[name] = memory.allocate(sizes[name], max(16, alignment))
        if numbers:
            memory.fill(symbols[name], np.array(numbers).astype(TYPES[kind]))
    executed = 0
    for number in range(int(np.prod(grid))):
        for name, (space, *_) in module.memory.items():
            if space == "shared":
                memory.release(symbols[name], sizes[name])
                _forget(memory, symbols[name], sizes[name])
        running = Block(module, memory, grid, block, number, arguments, symbols, shared)
        running.run(module.entry, np.ones(running.threads, bool))
        executed += running.executed
    memory.allocated[start // WORD:memory.next // WORD] = False
    memory.next = start
    return executed


def _forget(memory: Memory, address: int, size: int) -> None:
    first, last = (address - memory.base) // WORD, -(-(address - memory.base + size) // WORD)
    for touched in (memory.writer, memory.reader):
        touched.block[first:last] = -9

