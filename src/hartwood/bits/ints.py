"""The reference meaning: Python ints. Slow, obvious, and the definition of what is right."""

from __future__ import annotations

from collections.abc import Callable, Mapping, MutableSequence
from dataclasses import dataclass, field
from typing import Protocol

from hartwood.bits import softfloat
from hartwood.bits.int_bits import Int
from hartwood.bits.words import (
    ILLEGAL_INSTRUCTION,
    Bits,
    Hart,
    Operand,
    RegisterFile,
    RoundingMode,
    SystemState,
    Value,
)
from hartwood.errors import Error, LawError

__all__ = [
    "Decoded", "Int", "IntHart", "Memory", "Registers", "State", "Trap", "amo_result",
]  # fmt: skip

#: The NaN that every operation produces, and the box around a 32-bit value (Unpriv. 20.2, 21.2).
_CANONICAL_NAN_32 = 0x7FC0_0000
_BOX = 0xFFFF_FFFF_0000_0000
_U64 = (1 << 64) - 1


class Trap(Error):
    """An exception of the guest, raised before its instruction changed anything. `cause` is the
    exception code, `tval` the address or value that goes with it."""

    def __init__(self, cause: int, tval: int = 0) -> None:
        super().__init__(f"trap: cause {cause}, tval {tval:#x}")
        self.cause = cause
        self.tval = tval


class Memory(Protocol):
    """What the reference needs of memory: little-endian accesses of `size` bytes at a guest
    address, values unsigned. A fault raises `Trap`."""

    def load(self, address: int, size: int) -> int:
        """Read; any alignment."""
        ...

    def store(self, address: int, size: int, value: int) -> None:
        """Write; any alignment."""
        ...

    def amo(self, op: str, address: int, size: int, value: int) -> int:
        """Atomically replace m by `amo_result(op, m, value, size)`; gives the old m."""
        ...

    def compare_exchange(self, address: int, size: int, expected: int, value: int) -> bool:
        """Atomically write where memory still holds `expected`; whether it did."""
        ...


class Registers(Protocol):
    """The architectural state of a hart. Values are unsigned; `x[0]` is neither read nor written.
    `reservation` is (address, size, loaded value) after a load-reserved."""

    x: MutableSequence[int]
    f: MutableSequence[int]
    pc: int
    fflags: int
    frm: int
    reservation: tuple[int, int, int] | None


@dataclass
class State:
    """`Registers` in plain lists."""

    x: MutableSequence[int] = field(default_factory=lambda: [0] * 32)
    f: MutableSequence[int] = field(default_factory=lambda: [0] * 32)
    pc: int = 0
    fflags: int = 0
    frm: int = 0
    reservation: tuple[int, int, int] | None = None


class Csr(Protocol):
    """A control and status register as its instruction set defines it."""

    def update(self, h: Hart, op: str, value: Value, source: Operand) -> Bits:
        """The meaning of `Hart.csr_update` for this register."""
        ...


class Definition(Protocol):
    """The part of an instruction definition that runs."""

    @property
    def body(self) -> Callable[..., None]:
        """The function over words."""
        ...


class Decoded(Protocol):
    """A decoded instruction."""

    @property
    def insn(self) -> Definition:
        """Its definition."""
        ...

    @property
    def fields(self) -> Mapping[str, int]:
        """Its operand fields."""
        ...

    @property
    def length(self) -> int:
        """Bytes it takes in memory."""
        ...


def amo_result(op: str, old: int, value: int, size: int) -> int:
    """What an atomic operation leaves in memory; `size` in bytes, everything unsigned."""
    m, v = Int(old, 8 * size), Int(value, 8 * size)
    if op in ("min", "max"):
        return (min if op == "min" else max)(m.signed, v.signed) & (1 << 8 * size) - 1
    if op in ("minu", "maxu"):
        return (min if op == "minu" else max)(m.value, v.value)
    results = {"swap": v, "add": m + v, "and": m & v, "or": m | v, "xor": m ^ v}
    return results[op].value


class _XFile:
    def __init__(self, state: Registers) -> None:
        self._state = state

    def __getitem__(self, index: Operand) -> Int:
        number = _number(index)
        return Int(self._state.x[number] if number else 0, 64)

    def __setitem__(self, index: Operand, value: Value) -> None:
        number = _number(index)
        if number:
            self._state.x[number] = _value(value, 64)


class _F64File:
    def __init__(self, state: Registers) -> None:
        self._state = state

    def __getitem__(self, index: Operand) -> Int:
        return Int(self._state.f[_number(index)], 64)

    def __setitem__(self, index: Operand, value: Value) -> None:
        self._state.f[_number(index)] = _value(value, 64)


class _F32File:
    def __init__(self, state: Registers) -> None:
        self._state = state

    def __getitem__(self, index: Operand) -> Int:
        pattern = self._state.f[_number(index)]
        return Int(pattern if pattern & _BOX == _BOX else _CANONICAL_NAN_32, 32)

    def __setitem__(self, index: Operand, value: Value) -> None:
        self._state.f[_number(index)] = _BOX | _value(value, 32)


def _number(index: Operand) -> int:
    """An operand of the reference is always a number."""
    if not isinstance(index, int):
        raise LawError(f"{index!r} is not an operand field")
    return index


def _value(value: Value, width: int) -> int:
    """The unsigned number that a value of `width` bits stands for."""
    return Int(0, width)._of(value)


def _bits(value: Value) -> Int:
    if not isinstance(value, Int):
        raise LawError(f"{value!r} has no width")
    return value


class IntHart:
    """Implements `Hart` over a `Registers` and a `Memory`.

    `csrs` maps numbers to the instruction set's CSR definitions; `counters` gives the value of
    "cycle", "time" and "instret".
    """

    x: RegisterFile
    f64: RegisterFile
    f32: RegisterFile
    #: Only a hart with privilege levels has one, and the words that go with it.
    sys: SystemState

    def __init__(
        self,
        state: Registers,
        memory: Memory,
        csrs: Mapping[int, Csr] | None = None,
        counters: Callable[[str], int] = lambda name: 0,
    ) -> None:
        self.state = state
        self.memory = memory
        self._csrs = csrs or {}
        self._counters = counters
        self._length = 4
        self._target = 0
        self.x, self.f64, self.f32 = _XFile(state), _F64File(state), _F32File(state)

    def step(self, decoded: Decoded) -> None:
        """Execute one instruction at `state.pc` and move the pc on.

        Raises `Trap` with the state untouched when the instruction raises an exception.
        """
        self._length = decoded.length
        self._target = self.state.pc + decoded.length & _U64
        decoded.insn.body(self, **decoded.fields)
        self.state.pc = self._target

    @property
    def pc(self) -> Int:
        """Address of this instruction."""
        return Int(self.state.pc, 64)

    @property
    def next_pc(self) -> Int:
        """Address of the following instruction."""
        return Int(self.state.pc + self._length, 64)

    def select(self, condition: Value, if_true: Value, if_false: Value) -> Int:
        """One of two values."""
        widths = [side.width for side in (if_true, if_false) if isinstance(side, Int)]
        width = widths[0] if widths else 64
        chosen = if_true if _value(condition, 1) else if_false
        if len(set(widths)) > 1:
            raise LawError(f"widths {widths[0]} and {widths[1]} meet in one select")
        return Int(_value(chosen, width), width)

    def const(self, value: Value, width: int) -> Int:
        """A number with a width."""
        return Int(_value(value, width), width)

    def jump(self, target: Value) -> None:
        """Continue at `target`."""
        self._target = _value(target, 64)

    def branch(self, condition: Bits, target: Value) -> None:
        """Continue at `target` where the condition holds."""
        if _value(condition, 1):
            self._target = _value(target, 64)

    def trap(self, cause: Value, tval: Value = 0) -> None:
        """Raise `Trap`."""
        raise Trap(_value(cause, 64), _value(tval, 64))

    def trap_if(self, condition: Bits, cause: Value, tval: Value = 0) -> None:
        """Raise `Trap` where the condition holds."""
        if _value(condition, 1):
            self.trap(cause, tval)

    def load(self, address: Bits, size: int) -> Int:
        """Read memory."""
        return Int(self.memory.load(_value(address, 64), size), 8 * size)

    def store(self, address: Bits, value: Bits) -> None:
        """Write memory."""
        self.memory.store(_value(address, 64), value.width // 8, _bits(value).value)

    def load_reserved(self, address: Bits, size: int) -> Int:
        """Read memory and remember what was there."""
        at = _value(address, 64)
        value = self.memory.load(at, size)
        self.state.reservation = (at, size, value)
        return Int(value, 8 * size)

    def store_conditional(self, address: Bits, value: Bits) -> Int:
        """Write where memory still holds what the reservation saw.

        Like most emulators this takes memory that went from A to B and back to A for unchanged.
        """
        at, size = _value(address, 64), value.width // 8
        reservation, self.state.reservation = self.state.reservation, None
        if reservation is None or reservation[:2] != (at, size):
            return Int(0, 1)
        stored = self.memory.compare_exchange(at, size, reservation[2], _bits(value).value)
        return Int(stored, 1)

    def amo(self, op: str, address: Bits, value: Bits) -> Int:
        """Read, compute, write at once."""
        old = self.memory.amo(op, _value(address, 64), value.width // 8, _bits(value).value)
        return Int(old, value.width)

    def fence(self) -> None:
        """Python's own memory accesses are ordered already."""

    def fence_i(self) -> None:
        """The reference fetches every instruction afresh."""

    def csr_update(self, number: Operand, op: str, value: Value, source: Operand) -> Bits:
        """Update a CSR by its definition, or trap where there is none."""
        csr = self._csrs.get(_number(number))
        if csr is None:
            raise Trap(ILLEGAL_INSTRUCTION)
        return csr.update(self, op, value, source)

    def context_changed(self) -> None:
        """Nothing is remembered here."""

    def fence_vma(self, address: Bits, every: Bits) -> None:
        """Nothing is remembered here."""

    def forget_translations(self, condition: Bits) -> None:
        """Nothing is remembered here."""

    def wait_for_interrupt(self) -> None:
        """It may take no time (Priv. 3.3.3)."""

    def zero_block(self, address: Bits) -> None:
        """Eight stores; the block lies in one page, so the first one tells."""
        for at in range(0, 64, 8):
            self.store(address + at, Int(0, 64))

    def load_physical(self, at: Bits, access: Bits, va: Bits) -> Int:
        """A hart without privilege levels has no page tables."""
        raise LawError("only a hart with privilege levels walks page tables")

    def update_physical(
        self, condition: Bits, at: Bits, old: Bits, new: Bits, access: Bits, va: Bits
    ) -> Int:
        """See `load_physical`."""
        raise LawError("only a hart with privilege levels walks page tables")

    def counter(self, name: str) -> Int:
        """Read a counter."""
        return Int(self._counters(name), 64)

    @property
    def fflags(self) -> Int:
        """Accrued exception flags."""
        return Int(self.state.fflags, 64)

    @fflags.setter
    def fflags(self, value: Value) -> None:
        self.state.fflags = _value(value, 64) & 31

    @property
    def frm(self) -> Int:
        """Dynamic rounding mode."""
        return Int(self.state.frm, 64)

    @frm.setter
    def frm(self, value: Value) -> None:
        self.state.frm = _value(value, 64) & 7

    def _rounding(self, rm: RoundingMode) -> int:
        mode = self.state.frm if rm == 7 else rm
        if mode > 4:
            raise Trap(ILLEGAL_INSTRUCTION)
        return mode

    def _accrue(self, result: tuple[int, int], width: int) -> Int:
        value, flags = result
        self.state.fflags |= flags
        return Int(value, width)

    def _two(
        self, operation: Callable[[int, int, int, int], tuple[int, int]], rm: int, a: Bits, b: Bits
    ) -> Int:
        return self._accrue(
            operation(_bits(a).value, _value(b, a.width), a.width, self._rounding(rm)), a.width
        )

    def fadd(self, a: Bits, b: Bits, rm: RoundingMode) -> Int:
        """Sum."""
        return self._two(softfloat.add, rm, a, b)

    def fsub(self, a: Bits, b: Bits, rm: RoundingMode) -> Int:
        """Difference."""
        return self._two(softfloat.sub, rm, a, b)

    def fmul(self, a: Bits, b: Bits, rm: RoundingMode) -> Int:
        """Product."""
        return self._two(softfloat.mul, rm, a, b)

    def fdiv(self, a: Bits, b: Bits, rm: RoundingMode) -> Int:
        """Quotient."""
        return self._two(softfloat.div, rm, a, b)

    def fsqrt(self, a: Bits, rm: RoundingMode) -> Int:
        """Square root."""
        mode = self._rounding(rm)
        return self._accrue(softfloat.sqrt(_bits(a).value, a.width, mode), a.width)

    def fma(self, a: Bits, b: Bits, c: Bits, rm: RoundingMode) -> Int:
        """Fused multiply-add."""
        mode, width = self._rounding(rm), a.width
        result = softfloat.fma(_bits(a).value, _value(b, width), _value(c, width), width, mode)
        return self._accrue(result, width)

    def _exact(
        self, operation: Callable[[int, int, int], tuple[int, int]], a: Bits, b: Bits, width: int
    ) -> Int:
        return self._accrue(operation(_bits(a).value, _value(b, a.width), a.width), width)

    def fmin(self, a: Bits, b: Bits) -> Int:
        """Minimum."""
        return self._exact(softfloat.minimum, a, b, a.width)

    def fmax(self, a: Bits, b: Bits) -> Int:
        """Maximum."""
        return self._exact(softfloat.maximum, a, b, a.width)

    def feq(self, a: Bits, b: Bits) -> Int:
        """Equal."""
        return self._exact(softfloat.eq, a, b, 1)

    def flt(self, a: Bits, b: Bits) -> Int:
        """Less than."""
        return self._exact(softfloat.lt, a, b, 1)

    def fle(self, a: Bits, b: Bits) -> Int:
        """Less than or equal."""
        return self._exact(softfloat.le, a, b, 1)

    def float_to_int(self, a: Bits, width: int, signed: bool, rm: RoundingMode) -> Int:
        """Round to an integer."""
        mode = self._rounding(rm)
        return self._accrue(softfloat.to_int(_bits(a).value, a.width, width, signed, mode), width)

    def int_to_float(self, a: Bits, signed: bool, width: int, rm: RoundingMode) -> Int:
        """Convert an integer."""
        mode = self._rounding(rm)
        return self._accrue(softfloat.from_int(_bits(a).value, a.width, signed, width, mode), width)

    def float_to_float(self, a: Bits, width: int, rm: RoundingMode) -> Int:
        """Convert between formats."""
        mode = self._rounding(rm)
        return self._accrue(softfloat.convert(_bits(a).value, a.width, width, mode), width)
