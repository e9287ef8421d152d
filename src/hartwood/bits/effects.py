"""The meaning that records: what a definition reads, writes and may raise, found by running it.

Operand fields are opaque here and values carry only a width and where they come from, so one run
per variant covers every state; both sides of each select are evaluated. The laws of the house
that concern bodies (widths, opaque operands, trap before commit) are checked on the way.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import NoReturn

from hartwood.bits.words import ILLEGAL_INSTRUCTION, RegisterFile, SystemState
from hartwood.errors import LawError

#: In `Properties.causes`: which exception it is depends on the hart's state.
ANY_CAUSE = -1

#: An index into a register file: the name of the operand field, or a constant.
Index = str | int


@dataclass(frozen=True)
class Properties:
    """What one variant of an instruction does. Register sets hold operand field names."""

    x_reads: frozenset[Index] = frozenset()
    x_writes: frozenset[Index] = frozenset()
    f32_reads: frozenset[Index] = frozenset()
    f32_writes: frozenset[Index] = frozenset()
    f64_reads: frozenset[Index] = frozenset()
    f64_writes: frozenset[Index] = frozenset()
    #: Sizes in bytes of plain loads and stores, in order.
    loads: tuple[int, ...] = ()
    stores: tuple[int, ...] = ()
    #: Atomic accesses in order: "lr", "sc" or the operation of an AMO.
    atomics: tuple[str, ...] = ()
    #: Exception causes that the body itself can raise; faults of memory accesses come on top.
    causes: frozenset[int] = frozenset()
    #: "none", "branch", "jump" or "trap" (always raises).
    control: str = "none"
    #: What the target of a branch or jump depends on: "pc", field names, "x", "memory".
    target: frozenset[str] = frozenset()
    #: Operations on CSRs ("write", "set", "clear") and counters read.
    csr: frozenset[str] = frozenset()
    counters: frozenset[str] = frozenset()
    #: The rounding mode or exception flags take part.
    rounding: bool = False
    fence: bool = False
    fence_i: bool = False
    #: Translation, privilege or interrupts may be others afterwards.
    context: bool = False

    @property
    def accesses_memory(self) -> bool:
        """Some load, store or atomic, which may fault."""
        return bool(self.loads or self.stores or self.atomics)

    @property
    def may_trap(self) -> bool:
        """The instruction can raise an exception for some state."""
        return bool(self.causes or self.accesses_memory)

    @property
    def indirect(self) -> bool:
        """The target of the transfer is known only when running."""
        return bool(self.target & {"x", "f", "memory"})

    @property
    def ends_block(self) -> bool:
        """What follows in memory need not be what runs next, or may have been rewritten."""
        return self.control != "none" or self.fence_i or self.context

    @property
    def floating(self) -> bool:
        """Floating-point registers, flags or rounding take part."""
        registers = self.f32_reads | self.f32_writes | self.f64_reads | self.f64_writes
        return self.rounding or bool(registers)


@dataclass(eq=False, frozen=True)
class Field:
    """An opaque operand: it indexes a register file or stands where a number may stand."""

    name: str

    def _opaque(self, *_: object) -> NoReturn:
        raise LawError(
            f"operand {self.name} is opaque: index with it, combine it with a value that has a "
            "width (h.const gives it one), or declare it a variant"
        )

    __bool__ = __index__ = __int__ = __lt__ = __le__ = __gt__ = __ge__ = _opaque
    __neg__ = __invert__ = __abs__ = _opaque
    __eq__ = __ne__ = _opaque
    __hash__ = object.__hash__


class Trace:
    """A value of known `width` that came from `sources`; implements `Bits`."""

    __slots__ = ("_width", "sources")

    def __init__(self, width: int, sources: frozenset[str]) -> None:
        self._width = width
        self.sources = sources

    @property
    def width(self) -> int:
        """Number of bits."""
        return self._width

    def _with(self, other: object, width: int | None = None) -> Trace:
        if isinstance(other, Trace) and other._width != self._width:
            raise LawError(f"widths {self._width} and {other._width} meet in one operation")
        return Trace(width or self._width, self.sources | sources_of(other))

    def _compare(self, other: object) -> Trace:
        return self._with(other, 1)

    def _same(self) -> Trace:
        return self

    def _refuse(self, *_: object) -> NoReturn:
        raise LawError("a guest value has no truth, no order and no `>>`: use select, lt_u, shr_u")

    def sext(self, width: int) -> Trace:
        """Sign-extend."""
        return self.zext(width)

    def zext(self, width: int) -> Trace:
        """Zero-extend."""
        if width < self._width:
            raise LawError(f"extension from {self._width} to {width} bits")
        return Trace(width, self.sources)

    def trunc(self, width: int) -> Trace:
        """Low bits."""
        if width > self._width:
            raise LawError(f"truncation from {self._width} to {width} bits")
        return Trace(width, self.sources)

    __add__ = __radd__ = __sub__ = __rsub__ = __mul__ = _with
    __and__ = __rand__ = __or__ = __ror__ = __xor__ = __rxor__ = _with
    shl = shr_u = shr_s = rotl = rotr = _with
    div_s = div_u = rem_s = rem_u = mulh_s = mulh_u = mulh_su = _with
    __invert__ = __neg__ = clz = ctz = popcount = bswap = _same
    __eq__ = __ne__ = lt_s = lt_u = _compare  # type: ignore[assignment]
    __hash__ = None  # type: ignore[assignment]
    __bool__ = __index__ = __int__ = __lt__ = __le__ = __gt__ = __ge__ = _refuse
    __rshift__ = __lshift__ = __truediv__ = __floordiv__ = __mod__ = _refuse


def sources_of(value: object) -> frozenset[str]:
    """Where a value, operand or number comes from."""
    if isinstance(value, Trace):
        return value.sources
    if isinstance(value, Field):
        return frozenset({value.name})
    if isinstance(value, int):
        return frozenset()
    raise LawError(f"{value!r} is not a value")


class _File:
    """A register file that records which indices are read and written."""

    def __init__(self, hart: EffectsHart, name: str, width: int) -> None:
        self._hart, self._name, self._width = hart, name, width

    def __getitem__(self, index: object) -> Trace:
        if self._hart.wrote & ({self._name[0]}):
            self._hart.fail("reads a register after writing one of the same file")
        self._hart.note(f"{self._name}_reads", _index(index))
        return Trace(self._width, frozenset({self._name[0]}))

    def __setitem__(self, index: object, value: object) -> None:
        if isinstance(value, Trace) and value.width != self._width:
            self._hart.fail(f"writes {value.width} bits to a register of {self._width}")
        sources_of(value)
        self._hart.commit(f"writes {self._name}")
        self._hart.wrote.add(self._name[0])
        self._hart.note(f"{self._name}_writes", _index(index))


class _System:
    """Privileged state, which is read and written as one."""

    def __init__(self, hart: EffectsHart) -> None:
        self._hart = hart

    def __getitem__(self, name: str) -> Trace:
        self._hart.note("csr", "read")
        return Trace(64, frozenset({"csr"}))

    def __setitem__(self, name: str, value: object) -> None:
        if isinstance(value, Trace) and value.width != 64:
            self._hart.fail(f"writes {value.width} bits to {name}")
        sources_of(value)
        self._hart.note("csr", "write")
        self._hart.commit(f"writes {name}")


def _index(index: object) -> Index:
    if isinstance(index, Field):
        return index.name
    if isinstance(index, int):
        return index
    raise LawError("registers are indexed by operand fields")


class EffectsHart:
    """Implements `Hart` by recording; `properties()` sums the record up."""

    def __init__(self, name: str) -> None:
        self._name = name
        self._notes: dict[str, list[Index]] = {}
        self._control = "none"
        self._target: frozenset[str] = frozenset()
        self._committed = ""
        self._flags: set[str] = set()
        #: First letters of the register files written so far.
        self.wrote: set[str] = set()
        self.x: RegisterFile = _File(self, "x", 64)
        self.f64: RegisterFile = _File(self, "f64", 64)
        self.f32: RegisterFile = _File(self, "f32", 32)
        self.sys: SystemState = _System(self)

    # The record
    def fail(self, reason: str) -> NoReturn:
        """Raise `LawError` naming the instruction."""
        raise LawError(f"{self._name}: {reason}")

    def note(self, kind: str, what: Index) -> None:
        """Record one fact; any word after a control transfer is an error."""
        if self._control != "none":
            self.fail(f"does something after its control transfer ({self._control})")
        self._notes.setdefault(kind, []).append(what)

    def commit(self, what: str) -> None:
        """Record that architectural state changes here."""
        if not self._committed:
            self._committed = what

    def _may_trap(self, why: str) -> None:
        if self._committed:
            self.fail(f"may trap ({why}) after it {self._committed}: law 6, trap before commit")

    def _flag(self, name: str) -> None:
        self.note("flags", name)
        self._flags.add(name)

    def properties(self) -> Properties:
        """The sum of one run."""
        names = {kind: frozenset(found) for kind, found in self._notes.items()}
        strings = {kind: tuple(str(what) for what in found) for kind, found in self._notes.items()}
        sizes = {
            kind: tuple(int(what) for what in self._notes.get(kind, ()))
            for kind in ("loads", "stores", "causes")
        }
        none: frozenset[Index] = frozenset()
        return Properties(
            x_reads=names.get("x_reads", none),
            x_writes=names.get("x_writes", none),
            f32_reads=names.get("f32_reads", none),
            f32_writes=names.get("f32_writes", none),
            f64_reads=names.get("f64_reads", none),
            f64_writes=names.get("f64_writes", none),
            loads=sizes["loads"],
            stores=sizes["stores"],
            atomics=strings.get("atomics", ()),
            causes=frozenset(sizes["causes"]),
            control=self._control,
            target=self._target,
            csr=frozenset(strings.get("csr", ())),
            counters=frozenset(strings.get("counters", ())),
            rounding="rounding" in self._flags,
            fence="fence" in self._flags,
            fence_i="fence_i" in self._flags,
            context="context" in self._flags,
        )

    # Values
    @property
    def pc(self) -> Trace:
        """Address of this instruction."""
        return Trace(64, frozenset({"pc"}))

    @property
    def next_pc(self) -> Trace:
        """Address of the following instruction."""
        return Trace(64, frozenset({"pc"}))

    def select(self, condition: object, if_true: object, if_false: object) -> Trace:
        """Both sides take part."""
        if isinstance(condition, Trace) and condition.width != 1:
            self.fail(f"selects by a condition of {condition.width} bits")
        widths = {side.width for side in (if_true, if_false) if isinstance(side, Trace)} or {64}
        if len(widths) > 1:
            self.fail("selects between different widths")
        from_all = sources_of(condition) | sources_of(if_true) | sources_of(if_false)
        return Trace(widths.pop(), from_all)

    def const(self, value: object, width: int) -> Trace:
        """A number or operand with a width."""
        if isinstance(value, Trace) and value.width != width:
            self.fail(f"gives {value.width} bits the width {width}")
        return Trace(width, sources_of(value))

    # Control transfer
    def jump(self, target: object) -> None:
        """Records the transfer."""
        self._transfer("jump", target)

    def branch(self, condition: object, target: object) -> None:
        """Records the transfer."""
        if not isinstance(condition, Trace) or condition.width != 1:
            self.fail("branches on something that is not one bit")
        self._transfer("branch", target)

    def _transfer(self, kind: str, target: object) -> None:
        if not isinstance(target, Trace) or target.width != 64:
            self.fail("jumps to something that is not 64 bits wide")
        self.note("control", kind)
        self._control, self._target = kind, target.sources

    def trap(self, cause: object, tval: object = 0) -> None:
        """Records the cause; nothing may follow."""
        self.trap_if(Trace(1, frozenset()), cause, tval)
        self._control = "trap"

    def trap_if(self, condition: object, cause: object, tval: object = 0) -> None:
        """Records the cause."""
        if not isinstance(condition, Trace) or condition.width != 1:
            self.fail("traps on something that is not one bit")
        sources_of(tval)
        self._may_trap(f"cause {cause}")
        sources_of(cause)
        self.note("causes", cause if isinstance(cause, int) else ANY_CAUSE)

    # Memory
    def load(self, address: object, size: int) -> Trace:
        """Records a load."""
        return self._access("loads", size, address, size)

    def store(self, address: object, value: object) -> None:
        """Records a store."""
        size = self._size(value)
        self._access("stores", size, address, size)
        self.commit("stores")

    def load_reserved(self, address: object, size: int) -> Trace:
        """Records an atomic load."""
        return self._access("atomics", "lr", address, size)

    def store_conditional(self, address: object, value: object) -> Trace:
        """Records a conditional store."""
        self._access("atomics", "sc", address, self._size(value))
        self.commit("stores")
        return Trace(1, frozenset({"memory"}))

    def amo(self, op: str, address: object, value: object) -> Trace:
        """Records an atomic operation."""
        if op not in ("swap", "add", "and", "or", "xor", "min", "max", "minu", "maxu"):
            self.fail(f"uses the unknown atomic operation {op}")
        result = self._access("atomics", op, address, self._size(value))
        self.commit("stores")
        return result

    def _size(self, value: object) -> int:
        if not isinstance(value, Trace) or value.width not in (8, 16, 32, 64):
            self.fail("stores something that is not 8, 16, 32 or 64 bits wide")
        return value.width // 8

    def _access(self, kind: str, what: Index, address: object, size: int) -> Trace:
        if not isinstance(address, Trace) or address.width != 64 or size not in (1, 2, 4, 8):
            self.fail("accesses memory by an address that is not 64 bits or a size not of 1 to 8")
        self._may_trap("memory access")
        self.note(kind, what)
        return Trace(8 * size, frozenset({"memory"}))

    def fence(self) -> None:
        """Records a fence."""
        self._flag("fence")

    def fence_i(self) -> None:
        """Records an instruction fence."""
        self._flag("fence_i")

    # Control and status registers
    def csr_update(self, number: object, op: str, value: object, source: object) -> Trace:
        """Records the access; any CSR may be meant, so it may be an illegal one."""
        if op not in ("write", "set", "clear"):
            self.fail(f"updates a CSR by the unknown operation {op}")
        sources_of(number), sources_of(value), sources_of(source)
        self._may_trap("CSR access")
        self.note("csr", op)
        self.note("causes", ILLEGAL_INSTRUCTION)
        self.commit("writes a CSR")
        return Trace(64, frozenset({"csr"}))

    # Privileged architecture
    def context_changed(self) -> None:
        """Records the change."""
        self._flag("context")
        self.commit("changes its context")

    def fence_vma(self, address: object, every: object) -> None:
        """Records the change."""
        sources_of(address), sources_of(every)
        self.context_changed()

    def forget_translations(self, condition: object) -> None:
        """Records the change."""
        sources_of(condition)
        self.context_changed()

    def wait_for_interrupt(self) -> None:
        """Records the change."""
        self.context_changed()

    def zero_block(self, address: object) -> None:
        """Records a store."""
        self._access("stores", 8, address, 8)
        self.commit("stores")

    def load_physical(self, at: object, access: object, va: object) -> Trace:
        """Records that it may fault."""
        self._may_trap("page walk")
        return self._access("loads", 8, at, 8)

    def update_physical(
        self, condition: object, at: object, old: object, new: object, access: object, va: object
    ) -> Trace:
        """Accessed and dirty bits do not count as a commit (Priv. 12.3.1)."""
        self._may_trap("page walk")
        sources_of(condition), sources_of(at), sources_of(old), sources_of(new)
        return Trace(1, frozenset({"memory"}))

    def counter(self, name: str) -> Trace:
        """Records which counter is read."""
        self.note("counters", name)
        return Trace(64, frozenset({"counter"}))

    # Floating point
    def _state(self) -> Trace:
        self._flag("rounding")
        return Trace(64, frozenset({"csr"}))

    def _set_state(self, value: object) -> None:
        sources_of(value)
        self._flag("rounding")
        self.commit("writes a CSR")

    fflags = property(_state, _set_state)
    frm = property(_state, _set_state)

    def _float(self, rm: int | None, *operands: object, width: int | None = None) -> Trace:
        widths = {operand.width for operand in operands if isinstance(operand, Trace)}
        if len(widths) != 1 or not widths <= {32, 64}:
            self.fail("floating-point operands have to be of one width, 32 or 64")
        if rm == 7:
            self._may_trap("dynamic rounding mode")
            self.note("causes", ILLEGAL_INSTRUCTION)
        self._flag("rounding")
        self.commit("raises exception flags")
        return Trace(width or widths.pop(), frozenset().union(*map(sources_of, operands)))

    def fadd(self, a: object, b: object, rm: int) -> Trace:
        """Records an operation that rounds; so do the following ones."""
        return self._float(rm, a, b)

    fsub = fmul = fdiv = fadd

    def fsqrt(self, a: object, rm: int) -> Trace:
        """Square root."""
        return self._float(rm, a)

    def fma(self, a: object, b: object, c: object, rm: int) -> Trace:
        """Fused multiply-add."""
        return self._float(rm, a, b, c)

    def fmin(self, a: object, b: object) -> Trace:
        """Minimum or maximum."""
        return self._float(None, a, b)

    fmax = fmin

    def feq(self, a: object, b: object) -> Trace:
        """A comparison."""
        return self._float(None, a, b, width=1)

    flt = fle = feq

    def float_to_int(self, a: object, width: int, signed: bool, rm: int) -> Trace:
        """Conversion."""
        return self._float(rm, a, width=width)

    def int_to_float(self, a: object, signed: bool, width: int, rm: int) -> Trace:
        """Conversion."""
        return self._float(rm, a, width=width)

    def float_to_float(self, a: object, width: int, rm: int) -> Trace:
        """Conversion."""
        return self._float(rm, a, width=width)


def derive(
    name: str, body: Callable[..., object], fields: tuple[str, ...], variant: Mapping[str, int]
) -> Properties:
    """Run a definition for one variant and sum up what it does.

    `fields` are its operand fields; those in `variant` are numbers, the rest opaque. Raises
    `LawError` naming the instruction when the body breaks a law of the house.
    """
    hart = EffectsHart(name)
    operands = {field: variant.get(field, Field(field)) for field in fields}
    try:
        body(hart, **operands)
    except LawError as error:
        if str(error).startswith(f"{name}: "):
            raise
        raise LawError(f"{name}: {error}") from error
    except (AttributeError, TypeError) as error:
        raise LawError(f"{name}: uses something that is not a word of Hart or Bits: {error}") from (
            error
        )
    return hart.properties()
