"""The reference engine: definitions run over Python integers.

It executes single instructions that the native engines hand over (rounding modes without host
support, counters), and whole programs for `--engine reference`.
"""

from __future__ import annotations

import time

from hartwood.bits.ints import IntHart, Trap, amo_result
from hartwood.errors import MemoryFault
from hartwood.isa.riscv import RISCV
from hartwood.jit import abi
from hartwood.machine.floating import flags_of, mxcsr_of
from hartwood.mem.flat import FlatSpace
from hartwood.mem.regions import EXEC, PAGE, READ, WRITE

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable

#: Exception codes (Priv. table 3.7).
FETCH_FAULT, LOAD_FAULT, STORE_FAULT = 12, 13, 15


class SpaceMemory:
    """`ints.Memory` over a guest address space."""

    def __init__(self, space: FlatSpace) -> None:
        self._space = space

    def _check(self, address: int, size: int, access: int, cause: int) -> None:
        """Before anything is changed: an access that crosses into a page where it is not allowed
        has no effect on the first one, as on the host."""
        for at in (address, (address + size - 1) & -PAGE):
            region = self._space.regions.at(at) if at < abi.LIMIT else None
            if at >= address and (region is None or not region.prot & access):
                raise Trap(cause, at)

    def load(self, address: int, size: int, cause: int = LOAD_FAULT) -> int:
        """Read `size` bytes; raises `Trap` where the guest may not."""
        self._check(address, size, READ | WRITE | EXEC, cause)
        try:
            return int.from_bytes(self._space.read(address, size), "little")
        except MemoryFault as fault:
            raise Trap(cause, fault.address) from None

    def store(self, address: int, size: int, value: int) -> None:
        """Write `size` bytes; raises `Trap` where the guest may not."""
        self._check(address, size, WRITE, STORE_FAULT)
        try:
            self._space.write(address, value.to_bytes(size, "little"))
        except MemoryFault as fault:
            raise Trap(STORE_FAULT, fault.address) from None

    def amo(self, op: str, address: int, size: int, value: int) -> int:
        """Atomic as far as other Python threads go: the GIL is held. What faults is the store,
        as Priv. 3.1.15 has it."""
        old = self.load(address, size, STORE_FAULT)
        self.store(address, size, amo_result(op, old, value, size))
        return old

    def compare_exchange(self, address: int, size: int, expected: int, value: int) -> bool:
        """The same for a conditional store."""
        self._check(address, size, WRITE, STORE_FAULT)
        if self.load(address, size, STORE_FAULT) != expected:
            return False
        self.store(address, size, value)
        return True


class _Registers:
    """`ints.Registers` over the state that native code uses."""

    def __init__(self, state: abi.State) -> None:
        self._state = state
        self.x = state.x
        self.f = state.f

    @property
    def pc(self) -> int:
        return self._state.pc  # type: ignore[no-any-return]

    @pc.setter
    def pc(self, value: int) -> None:
        self._state.pc = value

    @property
    def fflags(self) -> int:
        return flags_of(self._state.mxcsr)

    @fflags.setter
    def fflags(self, value: int) -> None:
        self._state.mxcsr = mxcsr_of(value, self._state.frm)

    @property
    def frm(self) -> int:
        return self._state.frm  # type: ignore[no-any-return]

    @frm.setter
    def frm(self, value: int) -> None:
        flags = self.fflags
        self._state.frm = value
        self._state.frm_reserved = value > 3
        self._state.mxcsr = mxcsr_of(flags, value)

    @property
    def reservation(self) -> tuple[int, int, int] | None:
        word: int = self._state.reserved_address
        if word == (1 << 64) - 1:
            return None
        size = 4 if word & abi.RESERVED_WORD else 8
        return word & ~abi.RESERVED_WORD, size, self._state.reserved_value

    @reservation.setter
    def reservation(self, value: tuple[int, int, int] | None) -> None:
        state = self._state
        state.reserved_address = (1 << 64) - 1
        if value is not None:
            tag = abi.RESERVED_WORD if value[1] == 4 else 0
            state.reserved_address, state.reserved_value = value[0] | tag, value[2]


class _Hart(IntHart):
    """The reference meaning beside native engines, which remember code."""

    fence_code: Callable[[], None]

    def fence_i(self) -> None:
        """What was decoded or translated from code that is different now has to go."""
        self.fence_code()


class Reference:
    """Executes instructions of one hart by their definitions."""

    def __init__(self, space: FlatSpace, state: abi.State, fence_code: Callable[[], None]) -> None:
        """`fence_code` is called for every fence.i."""
        self._space = space
        self._state = state
        self._registers = _Registers(state)
        memory = SpaceMemory(space)
        self._hart = _Hart(self._registers, memory, RISCV.csrs, self._counter)
        self._hart.fence_code = fence_code

    def _counter(self, name: str) -> int:
        if name == "time":
            return time.clock_gettime_ns(time.CLOCK_MONOTONIC) // 100
        if name == "cycle":
            return time.perf_counter_ns()
        budget = self._state.budget
        budget -= (budget >> 63) << 64
        return int(self._state.instret + self._state.slice_budget - budget)

    def _fetch(self, pc: int) -> int:
        """The instruction word at `pc`; raises `Trap` where the guest may not execute."""
        word = 0
        for part in (0, 2):
            at = pc + part
            region = self._space.regions.at(at) if at < abi.LIMIT else None
            if region is None or not region.prot & EXEC:
                raise Trap(FETCH_FAULT, at)
            word |= int.from_bytes(self._space.read(at, 2), "little") << 8 * part
            if word & 3 != 3:
                break
        return word

    def step(self) -> int:
        """Execute the instruction at the pc; gives the reason to stop, or `abi.NONE`."""
        state = self._state
        try:
            decoded = RISCV.decode(self._fetch(state.pc))
            if decoded is None:
                return abi.ILLEGAL
            self._hart.step(decoded)
        except Trap as trap:
            state.cause, state.tval = trap.cause, trap.tval
            if trap.cause == FETCH_FAULT:
                return abi.FETCH
            if trap.cause == 2:
                return abi.ILLEGAL
            return abi.FAULT if trap.cause in (LOAD_FAULT, STORE_FAULT) else abi.TRAP
        state.budget -= 1
        return abi.NONE
