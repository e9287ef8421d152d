"""Floating point as LLVM text for the host's FPU: the operations of `softfloat`, at full speed.

Floats are LLVM values of type `double` or `float`, integers `iN`, so that nothing travels between
register files unless the guest moves it. While generated code runs, the host's own status word
holds the guest's sticky flags, and its rounding mode where the host has it: every operation is a
constrained intrinsic that is strict about exceptions and rounds dynamically (LLVM Language
Reference, "Constrained Floating-Point Intrinsics"), which becomes the plain host instruction. The
enclosing function needs the attribute `strictfp`.

`HostFloat` is what all hosts share; `X86Float` is all that is particular to x86-64.
"""

from __future__ import annotations

import struct
from abc import ABC, abstractmethod
from collections.abc import Callable, Mapping
from typing import ClassVar

from hartwood.bits.softfloat import FORMATS, RDN, RMM, RNE, RTZ, RUP, FloatError
from hartwood.bits.ssa import Text

#: The `rm` field that means "as `frm` says" (Unpriv. 20.2).
DYN = 7

KIND = {32: "float", 64: "double"}
_STRICT = 'metadata !"fpexcept.strict"'
_ROUND = 'metadata !"round.dynamic"'
# The canonical NaN; LLVM writes a float as the double of the same value.
_NAN = "0x7FF8000000000000"
# The float whose 32 bits are all ones.
_ONES = "0xFFFFFFFFE0000000"


class NotOnHost(FloatError):
    """The host's FPU has no such rounding mode: the reference has to do this operation."""


class HostUnsupported(FloatError):
    """The processor lacks instructions that the generated text needs."""


def on_host(rm: int) -> bool:
    """Whether operations that round can be translated with this `rm` field. `DYN` can, as long
    as `frm` holds one of 0 to 3: what is translated with it has to check."""
    return rm in (RNE, RTZ, RDN, RUP, DYN)


def _number(value: float) -> str:
    return f"0x{struct.unpack('<Q', struct.pack('<d', value))[0]:016X}"


class HostFloat(ABC):
    """Appends floating-point operations to a text; every method gives the name of its result.

    The methods are those of `softfloat` with LLVM operands for numbers and without flags, which
    accumulate in the host's status word. `rm` is the field of the instruction: for a static mode
    the host's is changed around the operation, so that costs. `NotOnHost` is raised where `rm`
    is RMM and the operation rounds to a float.

    With `raw` a NaN result is not made canonical. Such a value may be an operand of any method
    here, but has to go through `canonical` before its bits are seen (stored, moved, sign-injected
    or written back). All methods may open new blocks.
    """

    #: LLVM's names of the processor features that the text needs.
    FEATURES: ClassVar[tuple[str, ...]] = ()

    def __init__(self, text: Text, unlikely: str = ", !prof !1") -> None:
        """`unlikely` is appended to a branch whose first target is the rare one."""
        self.text = text
        self._unlikely = unlikely

    @classmethod
    def require(cls, features: Mapping[str, bool]) -> None:
        """Check the host's features (LLVM's names), or raise `HostUnsupported`."""
        missing = [name for name in cls.FEATURES if not features.get(name)]
        if missing:
            raise HostUnsupported(f"this processor lacks {', '.join(missing)}")

    # What differs between hosts.

    @abstractmethod
    def read_flags(self) -> str:
        """The sticky flags in the layout of `fflags`, an i64."""

    @abstractmethod
    def write_flags(self, value: str) -> None:
        """Make the low five bits of an i64 the sticky flags."""

    @abstractmethod
    def write_mode(self, frm: str) -> None:
        """Make the rounding mode that of an i64 of 0 to 7; what the host has not is RNE."""

    @abstractmethod
    def _with_mode(self, rm: int, kind: str, operation: Callable[[], str]) -> str:
        """Do an operation with a static rounding mode, keeping the flags it raises. `operation`
        emits one call, of type `kind`; it may be asked for more than once."""

    @abstractmethod
    def _ordered_extreme(self, a: str, b: str, width: int, largest: bool) -> str:
        """Minimum or maximum of two operands that are not NaNs; -0 is below +0. No flags."""

    @abstractmethod
    def _fused_nan(self, a: str, b: str, width: int) -> None:
        """Do what has to be done where a fused multiply-add of `a` and `b` gave a NaN."""

    # Text.

    def _strict(self, name: str, suffix: str, result: str, operands: str, *words: str) -> str:
        """Call a constrained intrinsic. `words` are its metadata but for the last."""
        arguments = ", ".join((operands, *words, _STRICT))
        callee = f"@llvm.experimental.constrained.{name}.{suffix}"
        return self.text.value(f"call {result} {callee}({arguments}) strictfp")

    def _same(self, name: str, width: int, operands: tuple[str, ...], *words: str) -> str:
        """The same with operands and result of one float type."""
        kind = KIND[width]
        typed = ", ".join(f"{kind} {operand}" for operand in operands)
        return self._strict(name, f"f{width}", kind, typed, *words)

    def _compare(self, predicate: str, a: str, b: str, width: int, signalling: bool) -> str:
        kind = KIND[width]
        name = "fcmps" if signalling else "fcmp"
        operands = f"{kind} {a}, {kind} {b}"
        return self._strict(name, f"f{width}", "i1", operands, f'metadata !"{predicate}"')

    def _rarely(self, condition: str, kind: str, usual: str, rare: Callable[[], str]) -> str:
        """`usual`, but what `rare` emits where the condition holds. A branch that is predicted
        costs no latency, where a select would put a compare into every chain of operations."""
        text = self.text
        cold, join = text.fresh_label("rare"), text.fresh_label("on")
        before = text.block
        text.emit(f"br i1 {condition}, label %{cold}, label %{join}{self._unlikely}")
        text.label(cold)
        other = rare()
        after = text.block
        text.emit(f"br label %{join}")
        text.label(join)
        return text.value(f"phi {kind} [{usual}, %{before}], [{other}, %{after}]")

    def _opaque(self, value: str, width: int) -> str:
        """The value, by a path that LLVM does not look through. It folds exact operations on
        constants even where it does not know the rounding mode, but 1 - 1 is -0 rounding down.
        No instruction is left of this, nor any time that could be measured."""
        kind = KIND[width]
        return self.text.value(f"call {kind} @llvm.arithmetic.fence.f{width}({kind} {value})")

    def _is_nan(self, value: str, width: int) -> str:
        # An ordinary compare, which LLVM may move: for a value that is no signalling NaN (or
        # whose NV is raised anyhow) it raises nothing.
        return self.text.value(f"fcmp uno {KIND[width]} {value}, {value}")

    def canonical(self, value: str, width: int) -> str:
        """The value, or the canonical NaN where it is a NaN."""
        return self._rarely(self._is_nan(value, width), KIND[width], value, lambda: _NAN)

    def _raise_invalid(self, unless: str = "0.0") -> None:
        """Raise NV, but not where the double `unless` is 1."""
        self._same("fdiv", 64, ("0.0", unless), _ROUND)

    def _bits(self, value: str, width: int) -> str:
        return self.text.value(f"bitcast {KIND[width]} {value} to i{width}")

    # NaN boxes.

    def box(self, value: str) -> str:
        """A float as a register of 64 bits, a double: the upper half all ones (Unpriv. 21.2)."""
        text = self.text
        # In floats throughout: an i32 would make the trip to an integer register and back.
        box = f"<2 x float> <float poison, float {_ONES}>"
        pair = text.value(f"insertelement {box}, float {value}, i64 0")
        return text.value(f"bitcast <2 x float> {pair} to double")

    def unbox(self, register: str) -> str:
        """The float in a register of 64 bits, or the canonical NaN where it is not boxed."""
        text = self.text
        pair = text.value(f"bitcast double {register} to <2 x i32>")
        high = text.value(f"extractelement <2 x i32> {pair}, i64 1")
        floats = text.value(f"bitcast double {register} to <2 x float>")
        low = text.value(f"extractelement <2 x float> {floats}, i64 0")
        unboxed = text.value(f"icmp ne i32 {high}, -1")
        return self._rarely(unboxed, "float", low, lambda: _NAN)

    # Arithmetic.

    def _rounded(self, rm: int, kind: str, operation: Callable[[], str]) -> str:
        if not on_host(rm):
            raise NotOnHost(f"the host's FPU has no rounding mode {rm}")
        return operation() if rm == DYN else self._with_mode(rm, kind, operation)

    def _arithmetic(
        self, name: str, operands: tuple[str, ...], width: int, rm: int, raw: bool
    ) -> str:
        kind = KIND[width]
        result = self._rounded(rm, kind, lambda: self._same(name, width, operands, _ROUND))
        return result if raw else self.canonical(result, width)

    def add(self, a: str, b: str, width: int, rm: int = DYN, *, raw: bool = False) -> str:
        """a + b."""
        return self._arithmetic("fadd", (a, self._opaque(b, width)), width, rm, raw)

    def sub(self, a: str, b: str, width: int, rm: int = DYN, *, raw: bool = False) -> str:
        """a - b."""
        return self._arithmetic("fsub", (a, self._opaque(b, width)), width, rm, raw)

    def mul(self, a: str, b: str, width: int, rm: int = DYN, *, raw: bool = False) -> str:
        """a * b."""
        return self._arithmetic("fmul", (a, b), width, rm, raw)

    def div(self, a: str, b: str, width: int, rm: int = DYN, *, raw: bool = False) -> str:
        """a / b."""
        return self._arithmetic("fdiv", (a, b), width, rm, raw)

    def sqrt(self, a: str, width: int, rm: int = DYN, *, raw: bool = False) -> str:
        """The square root of a."""
        return self._arithmetic("sqrt", (a,), width, rm, raw)

    def fma(self, a: str, b: str, c: str, width: int, rm: int = DYN) -> str:
        """a * b + c with one rounding; never raw, because NaNs are looked at anyhow."""
        kind, operands = KIND[width], (a, b, self._opaque(c, width))
        result = self._rounded(rm, kind, lambda: self._same("fma", width, operands, _ROUND))

        def rare() -> str:
            self._fused_nan(a, b, width)
            return _NAN

        return self._rarely(self._is_nan(result, width), kind, result, rare)

    def eq(self, a: str, b: str, width: int) -> str:
        """An i1: a == b, quiet."""
        return self._compare("oeq", a, b, width, signalling=False)

    def lt(self, a: str, b: str, width: int) -> str:
        """An i1: a < b, signalling."""
        return self._compare("olt", a, b, width, signalling=True)

    def le(self, a: str, b: str, width: int) -> str:
        """An i1: a <= b, signalling."""
        return self._compare("ole", a, b, width, signalling=True)

    def quietly(
        self, operation: Callable[[str, str, int], str], a: str, b: str, width: int, flags: str
    ) -> str:
        """The comparison `operation` without a trace: `flags`, an i64, is what the sticky flags
        were before. Only a NaN can have changed them."""
        text = self.text
        result = operation(a, b, width)
        unordered = text.value(f"fcmp uno {KIND[width]} {a}, {b}")
        restore, on = text.fresh_label("restore"), text.fresh_label("on")
        text.emit(f"br i1 {unordered}, label %{restore}, label %{on}{self._unlikely}")
        text.label(restore)
        self.write_flags(flags)
        text.emit(f"br label %{on}")
        text.label(on)
        return result

    def minimum(self, a: str, b: str, width: int) -> str:
        """IEEE 754-2019 minimumNumber."""
        return self._extreme(a, b, width, largest=False)

    def maximum(self, a: str, b: str, width: int) -> str:
        """IEEE 754-2019 maximumNumber."""
        return self._extreme(a, b, width, largest=True)

    def _extreme(self, a: str, b: str, width: int, largest: bool) -> str:
        text, kind = self.text, KIND[width]
        # The quiet comparison raises NV for signalling NaNs alone, as the operation must.
        unordered = self._compare("uno", a, b, width, signalling=False)
        nan, plain, join = (text.fresh_label(hint) for hint in ("nan", "plain", "on"))
        text.emit(f"br i1 {unordered}, label %{nan}, label %{plain}{self._unlikely}")
        text.label(nan)
        a_nan, b_nan = self._is_nan(a, width), self._is_nan(b, width)
        other = text.value(f"select i1 {b_nan}, {kind} {_NAN}, {kind} {b}")
        odd = text.value(f"select i1 {a_nan}, {kind} {other}, {kind} {a}")
        text.emit(f"br label %{join}")
        text.label(plain)
        usual = self._ordered_extreme(a, b, width, largest)
        text.emit(f"br label %{join}")
        text.label(join)
        return text.value(f"phi {kind} [{usual}, %{plain}], [{odd}, %{nan}]")

    # Conversions.

    def convert(
        self, a: str, from_width: int, to_width: int, rm: int = DYN, *, raw: bool = False
    ) -> str:
        """Convert between formats."""
        kind, suffix = KIND[to_width], f"f{to_width}.f{from_width}"
        operand = f"{KIND[from_width]} {a}"
        if from_width < to_width:  # exact
            result = self._strict("fpext", suffix, kind, operand)
        else:
            result = self._rounded(
                rm, kind, lambda: self._strict("fptrunc", suffix, kind, operand, _ROUND)
            )
        return result if raw else self.canonical(result, to_width)

    def from_int(self, value: str, int_width: int, signed: bool, width: int, rm: int = DYN) -> str:
        """Convert an integer of `int_width` bits to a float."""
        text, kind = self.text, KIND[width]

        def convert(operand: str, size: int, mode: int) -> str:
            typed = f"i{size} {operand}"
            return self._rounded(
                mode, kind, lambda: self._strict("sitofp", f"f{width}.i{size}", kind, typed, _ROUND)
            )

        if int_width == 32:
            mode = DYN if width == 64 else rm  # exact in binary64
            if signed:
                return convert(value, 32, mode)
            return convert(text.value(f"zext i32 {value} to i64"), 64, mode)
        if signed:
            return convert(value, 64, rm)
        # Beyond 2**63: half of it, with the lost bit kept as a sticky one below the precision.
        large = text.value(f"icmp slt i64 {value}, 0")
        half, odd = text.value(f"lshr i64 {value}, 1"), text.value(f"and i64 {value}, 1")
        halved = text.value(f"or i64 {half}, {odd}")
        small = convert(text.value(f"select i1 {large}, i64 {halved}, i64 {value}"), 64, rm)
        double = self._same("fadd", width, (small, small), _ROUND)  # exact
        return text.value(f"select i1 {large}, {kind} {double}, {kind} {small}")

    def _integral(self, a: str, width: int, rm: int) -> str:
        """Round to an integral float without raising NX."""
        names = {RNE: "roundeven", RTZ: "trunc", RDN: "floor", RUP: "ceil"}
        if rm in names:
            return self._same(names[rm], width, (a,))
        if rm == DYN:
            return self._same("nearbyint", width, (a,), _ROUND)
        if rm != RMM:
            raise NotOnHost(f"there is no rounding mode {rm}")
        # RMM: away from zero where at least a half was cut off. All exact: whoever has a
        # fraction is small enough, and infinities and NaNs raise NV in any case.
        text, kind = self.text, KIND[width]
        cut = self._same("trunc", width, (a,))
        rest = self._same("fsub", width, (a, cut), _ROUND)
        size = text.value(f"call {kind} @llvm.fabs.f{width}({kind} {rest})")
        up = self._compare("oge", size, "0.5", width, signalling=False)
        step = text.value(f"select i1 {up}, {kind} 1.0, {kind} 0.0")
        copysign = f"@llvm.copysign.f{width}"
        step = text.value(f"call {kind} {copysign}({kind} {step}, {kind} {a})")
        return self._same("fadd", width, (cut, step), _ROUND)

    def _raise_inexact(self, a: str, width: int) -> None:
        """Raise NX where `a` is not integral."""
        self._same("rint", width, (a,), _ROUND)

    def _to_signed(self, a: str, width: int, int_width: int) -> str:
        """Convert an integral float that fits."""
        suffix = f"i{int_width}.f{width}"
        return self._strict("fptosi", suffix, f"i{int_width}", f"{KIND[width]} {a}")

    def _saturated(self, a: str, width: int, int_width: int, signed: bool) -> str:
        """The result for an operand out of range or NaN (Unpriv. 20.7), no flags."""
        text, fmt = self.text, FORMATS[width]
        lowest, highest = (-(1 << int_width - 1), (1 << int_width - 1) - 1) if signed else (0, -1)
        # From -0 to -infinity, and not the NaNs beyond.
        offset = text.value(f"sub i{width} {self._bits(a, width)}, {fmt.sign}")
        low = text.value(f"icmp ule i{width} {offset}, {fmt.infinity}")
        return text.value(f"select i1 {low}, i{int_width} {lowest}, i{int_width} {highest}")

    def to_int(self, a: str, width: int, int_width: int, signed: bool, rm: int = DYN) -> str:
        """Round to an integer of `int_width` bits, saturating; RMM works here."""
        text, kind = self.text, f"i{int_width}"
        integral = self._integral(a, width, rm)
        lowest, limit = (-(2.0 ** (int_width - 1)), 2.0 ** (int_width - 1))
        if not signed:
            lowest, limit = 0.0, 2.0**int_width
        # -0 is not below 0.
        above = self._compare("oge", integral, _number(lowest), width, signalling=False)
        below = self._compare("olt", integral, _number(limit), width, signalling=False)
        fits = text.value(f"and i1 {above}, {below}")
        bad = text.value(f"xor i1 {fits}, true")
        out, inside, join = (text.fresh_label(hint) for hint in ("out", "fits", "on"))
        text.emit(f"br i1 {bad}, label %{out}, label %{inside}{self._unlikely}")
        text.label(out)
        self._raise_invalid()
        saturated = self._saturated(a, width, int_width, signed)
        text.emit(f"br label %{join}")
        text.label(inside)
        self._raise_inexact(a, width)
        if signed:
            result = self._to_signed(integral, width, int_width)
        elif int_width < 64:
            wide = self._to_signed(integral, width, 64)
            result = text.value(f"trunc i64 {wide} to {kind}")
        else:
            # Subtract 2**63, exactly, from what has it.
            large = self._compare("oge", integral, _number(2.0**63), width, signalling=False)
            part = f"{KIND[width]} {_number(2.0**63)}, {KIND[width]} 0.0"
            offset = text.value(f"select i1 {large}, {part}")
            small = self._to_signed(
                self._same("fsub", width, (integral, offset), _ROUND), width, 64
            )
            top = text.value(f"select i1 {large}, i64 {-(1 << 63)}, i64 0")
            result = text.value(f"xor i64 {small}, {top}")
        text.emit(f"br label %{join}")
        text.label(join)
        return text.value(f"phi {kind} [{saturated}, %{out}], [{result}, %{inside}]")
