"""The words an instruction may use: `Bits` are pure values, `Hart` are effects.

Every meaning (`ints`, `ssa`, `effects`) gives these two protocols its own sense; a definition
that keeps to them can be executed, translated, traced and analysed without being touched.
"""

from __future__ import annotations

from typing import Protocol, TypeAlias, runtime_checkable

#: A guest value: fixed width, no sign, no truth.
Value: TypeAlias = "Bits | int"
#: An operand field of the encoding. A number when translating, a run-time value inside the
#: native interpreter; a definition may only index with it or use it as a `Value`, where it takes
#: the width of the other operand just as an int does (signed fields sign-extend).
Operand: TypeAlias = "Bits | int"
#: A rounding mode field (`rm`): always a number, because it is a variant. 7 is dynamic.
RoundingMode: TypeAlias = int

#: Exception code that the words themselves raise (Priv. table 14): a CSR access that is not
#: allowed, a dynamic rounding mode while `frm` holds a reserved value.
ILLEGAL_INSTRUCTION = 2

#: The physical address of nothing: reading it gives zero.
NOWHERE = (1 << 64) - 1


@runtime_checkable
class Bits(Protocol):
    """A bit vector of a fixed `width`. Widths are never implicit: operands of one operation
    have the same width; a Python int takes the width of the other operand, modulo 2**width.

    `==` and `!=` give one-bit values; there is no `<`, `>>`, `/` and no truth, because those
    would hide a choice between signed and unsigned.
    """

    @property
    def width(self) -> int:
        """Number of bits: 1, 8, 16, 32, 64 or 128."""
        ...

    def __add__(self, other: Value) -> Bits: ...
    def __radd__(self, other: Value) -> Bits: ...
    def __sub__(self, other: Value) -> Bits: ...
    def __rsub__(self, other: Value) -> Bits: ...
    def __mul__(self, other: Value) -> Bits: ...
    def __and__(self, other: Value) -> Bits: ...
    def __rand__(self, other: Value) -> Bits: ...
    def __or__(self, other: Value) -> Bits: ...
    def __ror__(self, other: Value) -> Bits: ...
    def __xor__(self, other: Value) -> Bits: ...
    def __rxor__(self, other: Value) -> Bits: ...
    def __invert__(self) -> Bits: ...
    def __neg__(self) -> Bits: ...
    def __eq__(self, other: object) -> Bits: ...  # type: ignore[override]
    def __ne__(self, other: object) -> Bits: ...  # type: ignore[override]

    def lt_s(self, other: Value) -> Bits:
        """One bit: signed less-than."""
        ...

    def lt_u(self, other: Value) -> Bits:
        """One bit: unsigned less-than."""
        ...

    def shl(self, amount: Value) -> Bits:
        """Shift left; the amount is taken modulo the width, as RISC-V and AArch64 do."""
        ...

    def shr_u(self, amount: Value) -> Bits:
        """Logical shift right; amount modulo the width."""
        ...

    def shr_s(self, amount: Value) -> Bits:
        """Arithmetic shift right; amount modulo the width."""
        ...

    def rotl(self, amount: Value) -> Bits:
        """Rotate left; amount modulo the width."""
        ...

    def rotr(self, amount: Value) -> Bits:
        """Rotate right; amount modulo the width."""
        ...

    def div_s(self, other: Value) -> Bits:
        """Signed quotient, toward zero. Undefined for 0 and for INT_MIN / -1: guard with select."""
        ...

    def div_u(self, other: Value) -> Bits:
        """Unsigned quotient. Undefined for 0."""
        ...

    def rem_s(self, other: Value) -> Bits:
        """Signed remainder, sign of the dividend. Undefined for 0 and for INT_MIN / -1."""
        ...

    def rem_u(self, other: Value) -> Bits:
        """Unsigned remainder. Undefined for 0."""
        ...

    def mulh_s(self, other: Value) -> Bits:
        """High half of the signed product."""
        ...

    def mulh_u(self, other: Value) -> Bits:
        """High half of the unsigned product."""
        ...

    def mulh_su(self, other: Value) -> Bits:
        """High half of signed self times unsigned other."""
        ...

    def sext(self, width: int) -> Bits:
        """Sign-extend to `width` (at least the present width)."""
        ...

    def zext(self, width: int) -> Bits:
        """Zero-extend to `width` (at least the present width)."""
        ...

    def trunc(self, width: int) -> Bits:
        """The low `width` bits."""
        ...

    def clz(self) -> Bits:
        """Count of leading zeros; the width itself for zero."""
        ...

    def ctz(self) -> Bits:
        """Count of trailing zeros; the width itself for zero."""
        ...

    def popcount(self) -> Bits:
        """Count of one bits."""
        ...

    def bswap(self) -> Bits:
        """Bytes in reverse order."""
        ...


class RegisterFile(Protocol):
    """Registers indexed by an operand field. Reading x0 gives 0 and writing it does nothing."""

    def __getitem__(self, index: Operand) -> Bits: ...
    def __setitem__(self, index: Operand, value: Value) -> None: ...


class SystemState(Protocol):
    """Privileged state by name, 64 bits each."""

    def __getitem__(self, name: str) -> Bits: ...
    def __setitem__(self, name: str, value: Value) -> None: ...


class Hart(Protocol):
    """A hardware thread as one instruction sees it."""

    #: Integer registers, 64 bits each.
    x: RegisterFile
    #: Floating-point registers as 64-bit patterns.
    f64: RegisterFile
    #: The same registers as 32-bit patterns: a read of a value that is not NaN-boxed gives the
    #: canonical NaN, a write boxes (Unpriv. 21.2).
    f32: RegisterFile

    @property
    def pc(self) -> Bits:
        """Address of this instruction."""
        ...

    @property
    def next_pc(self) -> Bits:
        """Address of the instruction that follows this one in memory."""
        ...

    def select(self, condition: Value, if_true: Value, if_false: Value) -> Bits:
        """`if_true` where the one-bit condition holds; both sides are evaluated. At least one
        side must be a `Bits`, or the width is 64."""
        ...

    def const(self, value: Value, width: int) -> Bits:
        """A number or an operand field as `Bits` of `width` bits (modulo 2**width); a value that
        has this width already stays as it is."""
        ...

    # Control transfer: at most one per instruction, the last word of the body.
    def jump(self, target: Value) -> None:
        """Continue at `target`."""
        ...

    def branch(self, condition: Bits, target: Value) -> None:
        """Continue at `target` where the condition holds, else at `next_pc`."""
        ...

    def trap(self, cause: Value, tval: Value = 0) -> None:
        """Raise exception `cause` at this instruction; nothing after it takes effect."""
        ...

    def trap_if(self, condition: Bits, cause: Value, tval: Value = 0) -> None:
        """Raise exception `cause` where the condition holds."""
        ...

    # Memory. An access that faults traps precisely at this instruction.
    def load(self, address: Bits, size: int) -> Bits:
        """`size` bytes (1, 2, 4, 8), little-endian, any alignment; result is 8*size bits wide."""
        ...

    def store(self, address: Bits, value: Bits) -> None:
        """Store the value; its width (8 to 64) is the size of the access."""
        ...

    def load_reserved(self, address: Bits, size: int) -> Bits:
        """Atomic load that registers a reservation (Unpriv. 14.2). Aligned, size 4 or 8."""
        ...

    def store_conditional(self, address: Bits, value: Bits) -> Bits:
        """One bit: 1 where the store happened (note: SC's rd is the inverse)."""
        ...

    def amo(self, op: str, address: Bits, value: Bits) -> Bits:
        """Atomically replace memory m by op(m, value); gives the old m. `op` is one of swap add
        and or xor min max minu maxu. Sequentially consistent, aligned, 32 or 64 bits."""
        ...

    def fence(self) -> None:
        """Order all earlier memory accesses before all later ones."""
        ...

    def fence_i(self) -> None:
        """Make earlier stores visible to later instruction fetches of this hart."""
        ...

    # Control and status registers.
    def csr_update(self, number: Operand, op: str, value: Value, source: Operand) -> Bits:
        """Give the old 64-bit value of CSR `number` and write it: `op` is "write" (value), "set"
        (old | value) or "clear" (old & ~value). A set or clear whose `source` field is zero does
        not write at all, so that it may name a read-only CSR (Unpriv. 6.1). No such CSR, or a
        write to a read-only one, traps as an illegal instruction before anything is written."""
        ...

    def counter(self, name: str) -> Bits:
        """The 64-bit counter "cycle", "time" or "instret" (Unpriv. 7.1)."""
        ...

    # Privileged architecture: only definitions of system mode use these.
    #: The hart's privileged state, 64 bits each, by name ("mode", "mstatus", "satp", ...).
    sys: SystemState

    def context_changed(self) -> None:
        """Privileged state was written: what follows sees other translation or interrupts."""
        ...

    def fence_vma(self, address: Bits, every: Bits) -> None:
        """Forget translations of the page of `address`, or all where the one-bit `every` holds."""
        ...

    def forget_translations(self, condition: Bits) -> None:
        """Forget all translations where a one-bit condition holds."""
        ...

    def wait_for_interrupt(self) -> None:
        """This instruction need not end before an interrupt is pending (Priv. 3.3.3)."""
        ...

    def zero_block(self, address: Bits) -> None:
        """Store 64 zero bytes at an address that is a multiple of 64."""
        ...

    def load_physical(self, at: Bits, access: Bits, va: Bits) -> Bits:
        """Eight bytes at a guest-physical address, as the hart's page walker reads them. Where
        there is no memory the access (0 fetch, 1 load, 2 store) to `va` raises an access fault;
        `NOWHERE` reads as zero."""
        ...

    def update_physical(
        self, condition: Bits, at: Bits, old: Bits, new: Bits, access: Bits, va: Bits
    ) -> Bits:
        """Where the condition holds, atomically replace `old` by `new`. One bit: 0 where memory
        held something else, and the walk has to begin again. Read-only memory raises an access
        fault, as `load_physical` does."""
        ...

    # Floating point. Widths come from the operands (32 or 64); results are canonical NaNs where
    # the manual says so; exception flags accumulate in `fflags`. A dynamic `rm` (7) uses `frm`
    # and traps as an illegal instruction where frm holds a reserved value.
    # As attributes, `fflags` (5 bits) and `frm` (3 bits) read as 64-bit values; a write keeps the
    # low 5 or 3 bits.
    @property
    def fflags(self) -> Bits:
        """Accrued exception flags."""
        ...

    @fflags.setter
    def fflags(self, value: Value) -> None: ...

    @property
    def frm(self) -> Bits:
        """Dynamic rounding mode."""
        ...

    @frm.setter
    def frm(self, value: Value) -> None: ...

    def fadd(self, a: Bits, b: Bits, rm: RoundingMode) -> Bits:
        """a + b."""
        ...

    def fsub(self, a: Bits, b: Bits, rm: RoundingMode) -> Bits:
        """a - b."""
        ...

    def fmul(self, a: Bits, b: Bits, rm: RoundingMode) -> Bits:
        """a * b."""
        ...

    def fdiv(self, a: Bits, b: Bits, rm: RoundingMode) -> Bits:
        """a / b."""
        ...

    def fsqrt(self, a: Bits, rm: RoundingMode) -> Bits:
        """The square root of a."""
        ...

    def fma(self, a: Bits, b: Bits, c: Bits, rm: RoundingMode) -> Bits:
        """a*b + c with one rounding."""
        ...

    def fmin(self, a: Bits, b: Bits) -> Bits:
        """IEEE 754-2019 minimumNumber: -0 below +0, one NaN is ignored, sNaN raises NV."""
        ...

    def fmax(self, a: Bits, b: Bits) -> Bits:
        """IEEE 754-2019 maximumNumber."""
        ...

    def feq(self, a: Bits, b: Bits) -> Bits:
        """One bit, quiet: only a signalling NaN raises NV."""
        ...

    def flt(self, a: Bits, b: Bits) -> Bits:
        """One bit, signalling: any NaN raises NV."""
        ...

    def fle(self, a: Bits, b: Bits) -> Bits:
        """One bit, signalling."""
        ...

    def float_to_int(self, a: Bits, width: int, signed: bool, rm: RoundingMode) -> Bits:
        """Round to an integer of `width` bits, saturating with NV; NaN gives the largest."""
        ...

    def int_to_float(self, a: Bits, signed: bool, width: int, rm: RoundingMode) -> Bits:
        """Convert an integer to a float of `width` bits."""
        ...

    def float_to_float(self, a: Bits, width: int, rm: RoundingMode) -> Bits:
        """Convert between 32 and 64 bits."""
        ...
