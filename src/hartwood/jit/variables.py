"""Guest registers as variables of a region: plain values inside a block, `alloca`s that LLVM
promotes from block to block, and their homes in `State`, which exits bring up to date.
"""

from __future__ import annotations

from hartwood.bits.ssa import Text, Val, constant
from hartwood.isa.insnset import InsnSet
from hartwood.jit import abi
from hartwood.jit.calling import field
from hartwood.jit.facts import CANONICAL, RAW, Facts, Outline
from hartwood.jit.flow import F0, Block, Region, inner_successors
from hartwood.jit.words import NativeHart

#: The NaN that every operation produces (Unpriv. 21.2), as LLVM writes it.
CANONICAL_NAN = "0x7FF8000000000000"


def registers_of(mask: int) -> list[int]:
    """The registers of a mask; x0 is none."""
    return [r for r in range(1, 64) if mask >> r & 1]


def kind_of(register: int) -> str:
    """The LLVM type of a register's value."""
    return "i64" if register < F0 else "double"


def variable(register: int) -> str:
    """The `alloca` that holds a register between blocks."""
    return f"%x{register}" if register < F0 else f"%f{register - F0}"


def home(register: int) -> str:
    """Where the register lives in `State`."""
    return field("x", register) if register < F0 else field("f", register - F0)


def _number(index: Val | int) -> int:
    if isinstance(index, int):
        return index
    assert index.const is not None
    return index.const


class VariableHart(NativeHart):
    """The part of `lift.RegionHart` that is about registers."""

    raw_floats = True
    #: Guest registers that travel in host registers between regions.
    pinned: tuple[int, ...] = abi.PINNED

    def __init__(self, text: Text, insns: InsnSet, region: Region, facts: Facts | None) -> None:
        super().__init__(text, insns)
        self.facts = facts or Facts(insns, region)
        self.region = region
        #: What each block did, once it is lifted.
        self.outlines: dict[int, Outline] = {}
        self._values: dict[int, Val] = {}
        self._narrow: dict[int, Val] = {}
        self._written: set[int] = set()
        self._block = Block(0)
        self._begins: dict[str, int] = {}
        #: Floating-point registers whose variables hold a raw result now.
        self._raw: set[int] = set()

    @property
    def inside(self) -> dict[str, list[tuple[int, int]]]:
        """What is known of addresses (see `access.FlatMemory`)."""
        return {}

    def declare(self) -> None:
        """A variable for each register in use."""
        for register in sorted(set(registers_of(self.region.used)) | set(self.pinned)):
            self.text.emit(f"{variable(register)} = alloca {kind_of(register)}")

    def _read(self, register: int) -> Val:
        if register not in self._values:
            name = self.text.value(f"load {kind_of(register)}, ptr {variable(register)}")
            self._values[register] = self._begin(register, name)
        return self._values[register]

    def _begin(self, register: int, name: str) -> Val:
        """What a register holds at the beginning of the block."""
        if register < F0:
            self._begins[name] = register
            near = self.facts.near(self._block.start).get(register)
            if near is not None:
                self.inside[name] = [(0, near)]
            return Val(self.text, 64, name)
        if register - F0 not in self._raw:
            return Val(self.text, 64, fp=name)
        value = Val(self.text, 64)
        value.raw, value.canonical = name, lambda raw: self._float.canonical(raw, 64)
        return value

    def _write(self, register: int, value: Val) -> None:
        self._values[register] = value
        self._written.add(register)
        self._narrow.pop(register, None)
        if not self._block.lazy >> register & 1 and register not in self.pinned:
            self.text.emit(f"store i64 {value.name}, ptr {self.text.value(home(register))}")

    def read_x(self, index: Val | int) -> Val:
        number = _number(index)
        return self._read(number) if number else constant(self.text, 0, 64)

    def write_x(self, index: Val | int, value: Val) -> None:
        number = _number(index)
        if number:
            self._write(number, value)

    def read_f(self, index: Val | int) -> Val:
        return self._read(F0 + _number(index))

    def write_f(self, index: Val | int, value: Val) -> None:
        self._write(F0 + _number(index), value)

    def _read_f32(self, index: Val | int) -> Val:
        register = F0 + _number(index)
        if register not in self._narrow:
            self._narrow[register] = super()._read_f32(index)
        return self._narrow[register]

    def _write_f32(self, index: Val | int, value: Val) -> None:
        super()._write_f32(index, value)
        self._narrow[F0 + _number(index)] = value

    def _save_lines(self, mask: int) -> list[str]:
        """Lines that bring `State` up to date for the registers of `mask`, and the variables of
        the pinned ones, from what this block knows."""
        lines: list[str] = []
        fresh = self.text.fresh
        for register in registers_of(mask):
            value = self._values.get(register)
            if register in self._written and value is not None:
                name = value.name if register < F0 else self._settled(value, lines)
            else:
                name = self._variable_line(register, lines)
            where = fresh()
            lines.append(f"{where} = {home(register)}")
            lines.append(f"store {kind_of(register)} {name}, ptr {where}")
        for register in sorted(self._written & set(self.pinned)):
            lines.append(f"store i64 {self._values[register].name}, ptr {variable(register)}")
        return lines

    def _settled(self, value: Val, lines: list[str]) -> str:
        """A floating-point value for a cold block; a raw one is made canonical there."""
        if value.fp is not None or value.raw is None:
            return value.float_name
        return self._canonical_line(value.raw, lines)

    def _canonical_line(self, raw: str, lines: list[str]) -> str:
        is_nan, name = self.text.fresh(), self.text.fresh()
        lines.append(f"{is_nan} = fcmp uno double {raw}, {raw}")
        lines.append(f"{name} = select i1 {is_nan}, double {CANONICAL_NAN}, double {raw}")
        return name

    def _variable_line(self, register: int, lines: list[str]) -> str:
        """The content of a register's variable, for its home."""
        name = self.text.fresh()
        lines.append(f"{name} = load {kind_of(register)}, ptr {variable(register)}")
        return self._canonical_line(name, lines) if register - F0 in self._raw else name

    def _dirty(self) -> int:
        """Registers that `State` does not have the value of."""
        mask = 0
        for register in self._written:
            mask |= 1 << register
        return self._block.dirty | mask & self._block.lazy

    def _flush(self) -> None:
        """Bring the variables up to date at the end of a block. A raw result stays one where all
        who come next in the region know."""
        self.outlines[self._block.start] = self._outline()
        goals = [] if self._block.kind == "call" else inner_successors(self.region, self._block)
        kept = self._raw.union(*map(self.facts.raw, goals))
        for goal in goals:
            kept &= self.facts.raw(goal)
        stale = {F0 + register for register in self._raw - kept} - self._written
        for register in sorted(self._written | stale):
            value = self._read(register)
            if register < F0:
                name = value.name
            elif register - F0 in kept and goals and value.raw is not None and value.fp is None:
                name = value.raw
            else:
                name = value.float_name
            self.text.emit(f"store {kind_of(register)} {name}, ptr {variable(register)}")
        self._raw = kept if goals else self._raw - {r - F0 for r in self._written}

    def _outline(self) -> Outline:
        """What the block did."""
        told = Outline(self._begins)
        told.points = {n: [at for at, by in p if not by] for n, p in self.inside.items()}
        for register in self._written:
            value = self._values[register]
            if register >= F0:
                clean = value.raw is not None or value.const == 0
                is_raw = value.raw is not None and value.fp is None
                told.floats[register - F0] = (RAW if is_raw else CANONICAL) if clean else None
            elif value.const is not None and value.const < abi.LIMIT:
                told.ends[register] = value.const
            else:
                told.ends[register] = value.root or value.name, value.offset
        return told

    def _state_lines(self, kept: int = 0) -> list[str]:
        """Write back from the variables, which are up to date, all but the registers of a mask."""
        lines: list[str] = []
        for register in registers_of(self._dirty() & ~kept):
            name, where = self._variable_line(register, lines), self.text.fresh()
            lines.append(f"{where} = {home(register)}")
            lines.append(f"store {kind_of(register)} {name}, ptr {where}")
        return lines

    def _load_homes(self, mask: int) -> None:
        """Load registers that are not pinned from `State` into their variables."""
        text = self.text
        for register in registers_of(mask):
            if register in self.pinned:
                continue
            name = text.value(f"load {kind_of(register)}, ptr {text.value(home(register))}")
            text.emit(f"store {kind_of(register)} {name}, ptr {variable(register)}")
