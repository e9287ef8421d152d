"""The reference meaning of system mode: definitions over Python integers, on a hart's own state.

It reads and writes CSRs for Python, executes what the native interpreter hands over, and whole
programs as an oracle.
"""

from __future__ import annotations

from typing import cast

from hartwood.bits.ints import Int, IntHart, Trap, amo_result
from hartwood.bits.words import NOWHERE, Bits, Operand, Value
from hartwood.errors import MemoryFault
from hartwood.isa.riscv import csr_machine, csr_supervisor, pmp, sv, trap
from hartwood.isa.riscv.system import MACHINE, SYSTEM, csr_allowed
from hartwood.jit.abi import State
from hartwood.jit.sysabi import SystemState
from hartwood.machine.reference import _Registers
from hartwood.mem.bus import Bus
from hartwood.mem.hostmem import PAGE

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable

#: Modules that register what `SYSTEM` holds.
DEFINITIONS = (csr_machine, csr_supervisor, pmp)
_U64 = (1 << 64) - 1
__all__ = ["SYSTEM", "SystemIntHart", "SystemReference"]


def _number(value: Value, width: int = 64) -> int:
    """The unsigned number that a value stands for."""
    return Int(0, width)._of(value)


class _System:
    """`Hart.sys` over the state that native code uses."""

    def __init__(self, state: SystemState) -> None:
        self._state = state

    def __getitem__(self, name: str) -> Int:
        return Int(getattr(self._state, name), 64)

    def __setitem__(self, name: str, value: Value) -> None:
        setattr(self._state, name, _number(value))


class SystemIntHart(IntHart):
    """`words.Hart` over a `SystemState` and a `Bus`; `context` is called when what is remembered
    elsewhere about the state is not true any more."""

    def __init__(
        self,
        state: SystemState,
        bus: Bus,
        counters: Callable[[str], int],
        context: Callable[[], None],
    ) -> None:
        self._physical = _Memory(self, bus)
        super().__init__(_Registers(cast("State", state)), self._physical, SYSTEM.csrs, counters)
        self.sys = _System(state)
        self._bus = bus
        self._context = context

    def context_changed(self) -> None:
        """See `words.Hart.context_changed`."""
        self._context()

    def fence_vma(self, address: Bits, every: Bits) -> None:
        """See `words.Hart.fence_vma`."""
        self._context()

    def forget_translations(self, condition: Bits) -> None:
        """See `words.Hart.forget_translations`."""
        self._context()

    def csr_update(self, number: Operand, op: str, value: Value, source: Operand) -> Bits:
        """See `words.Hart.csr_update`."""
        writes = op == "write" or _number(source) != 0
        csr_allowed(self, Int(0, 64) + number, Int(int(writes), 1))
        return super().csr_update(number, op, value, source)

    def load_physical(self, at: Bits, access: Bits, va: Bits) -> Int:
        """See `words.Hart.load_physical`."""
        where = _number(at)
        if where == NOWHERE:
            return Int(0, 64)
        if _number(pmp.allows(self, at, Int(1, 64), Int(1, 64)), 1):
            try:
                return Int(int.from_bytes(self._bus.ram.read(where, 8), "little"), 64)
            except MemoryFault:
                pass
        raise Trap(_number(sv.access_fault(self, access)), _number(va))

    def update_physical(
        self, condition: Bits, at: Bits, old: Bits, new: Bits, access: Bits, va: Bits
    ) -> Int:
        """See `words.Hart.update_physical`."""
        if _number(condition, 1):
            try:
                self._bus.ram.store(_number(at), _number(new).to_bytes(8, "little"))
            except MemoryFault:
                raise Trap(_number(sv.access_fault(self, access)), _number(va)) from None
        return Int(1, 1)

    def _protected(self) -> bool:
        """Whether some entry of PMP is on."""
        return bool(_number(self.sys["pmpcfg0"] | self.sys["pmpcfg2"]))

    def zero_block(self, address: Bits) -> None:
        """See `words.Hart.zero_block`; only memory has blocks."""
        at = self._physical.own(_number(address), 64)
        self._bus.ram.write(at, bytes(64))

    def translate(self, va: int, access: int) -> int:
        """The physical address for an access (`sv.FETCH`, `LOAD`, `STORE`). Raises `Trap`."""
        kind, at = Int(access, 64), Int(va, 64)
        mode = self.sys["mode"] if access == sv.FETCH else sv.data_mode(self)
        if _number(mode) == MACHINE and not self._protected():
            return va  # what the rest would find, at a hundredth of the time
        physical, _, _ = sv.walk(self, at, kind, mode)
        if not _number(pmp.allows(self, physical, kind, mode), 1):
            raise Trap(_number(sv.access_fault(self, kind)), va)
        return _number(physical)


class _Memory:
    """`ints.Memory` behind page tables."""

    def __init__(self, hart: SystemIntHart, bus: Bus) -> None:
        self._hart, self._bus = hart, bus

    def _pieces(self, va: int, size: int, access: int) -> list[tuple[int, int]]:
        """Physical address and size of what lies on each page; every page is asked first."""
        split = min(size, PAGE - va % PAGE)
        pieces = [(self._hart.translate(va, access), split)]
        if split < size:
            second = va + split & _U64
            pieces.append((self._hart.translate(second, access), size - split))
        for at, length in pieces:
            try:
                self._bus.ram.find(at, length, "store" if access == sv.STORE else "read")
            except MemoryFault:
                if len(pieces) > 1 or va % size:
                    raise Trap(5 if access == sv.LOAD else 7, va) from None
        return pieces

    def load(self, address: int, size: int) -> int:
        """Read."""
        data = b""
        for at, length in self._pieces(address, size, sv.LOAD):
            try:
                data += self._bus.ram.read(at, length)
            except MemoryFault:
                try:
                    return self._bus.load(at, length)
                except MemoryFault:
                    raise Trap(5, address) from None
        return int.from_bytes(data, "little")

    def store(self, address: int, size: int, value: int) -> None:
        """Write."""
        data = value.to_bytes(size, "little")
        for at, length in self._pieces(address, size, sv.STORE):
            try:
                self._bus.ram.store(at, data[:length])
            except MemoryFault:
                try:
                    self._bus.store(at, length, value)
                except MemoryFault:
                    raise Trap(7, address) from None
            data = data[length:]

    def own(self, address: int, size: int) -> int:
        """The physical address of an atomic access, which only memory answers."""
        at = self._hart.translate(address, sv.STORE)
        try:
            self._bus.ram.find(at, size, "store")
        except MemoryFault:
            raise Trap(7, address) from None
        return at

    def amo(self, op: str, address: int, size: int, value: int) -> int:
        """Read, compute, write."""
        at = self.own(address, size)
        old = int.from_bytes(self._bus.ram.read(at, size), "little")
        self._bus.ram.write(at, amo_result(op, old, value, size).to_bytes(size, "little"))
        return old

    def compare_exchange(self, address: int, size: int, expected: int, value: int) -> bool:
        """Write where memory holds what is expected."""
        at = self.own(address, size)
        if int.from_bytes(self._bus.ram.read(at, size), "little") != expected:
            return False
        self._bus.ram.write(at, value.to_bytes(size, "little"))
        return True


class SystemReference:
    """Executes instructions of one hart by their definitions."""

    def __init__(self, hart: SystemIntHart, state: SystemState, bus: Bus) -> None:
        self._hart, self._state, self._bus = hart, state, bus

    def _fetch(self, pc: int) -> int:
        """The instruction word. Raises `Trap`."""
        word = 0
        for half in (0, 1):
            at = self._hart.translate(pc + 2 * half & _U64, sv.FETCH)
            try:
                word |= int.from_bytes(self._bus.ram.read(at, 2), "little") << 16 * half
            except MemoryFault:
                raise Trap(1, pc + 2 * half & _U64) from None
            if word & 3 != 3:
                break
        return word

    def _take(self, cause: int, tval: int) -> None:
        trap.take(self._hart, Int(cause, 64), Int(tval, 64))
        self._state.pc = self._hart._target
        self._state.reserved_address = _U64

    def step(self) -> bool:
        """One instruction, exception or interrupt; whether an instruction retired."""
        hart, state = self._hart, self._state
        state.mip |= state.posted
        state.posted = 0
        due = _number(trap.interrupt(hart, trap.pending(hart)))
        if due:
            self._take(due, 0)
            return False
        word = 0
        try:
            word = self._fetch(state.pc)
            self.execute(word)
        except Trap as raised:
            illegal = raised.cause == 2
            self._take(raised.cause, word if illegal else raised.tval)
            return False
        return True

    def execute(self, word: int) -> None:
        """The instruction `word` at the hart's pc. Raises `Trap` with nothing changed."""
        decoded = SYSTEM.decode(word)
        if decoded is None:
            raise Trap(2)
        p = SYSTEM.properties(decoded.insn, decoded.fields)
        if p.floating and _number(trap.floating_off(self._hart), 1):
            raise Trap(2)
        self._hart.step(decoded)
        if p.rounding or p.f64_writes or p.f32_writes:
            trap.floating_dirty(self._hart)
