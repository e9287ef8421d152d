"""All of floating point that only an x86-64 host understands: MXCSR, and conversions to integers.

SSE and FMA instructions detect tininess after rounding and set underflow only where the result is
inexact too, as RISC-V wants (Intel SDM volume 1, 4.9.1.5 and 11.5.2.5); all exceptions stay
masked, and denormals stay what they are (no DAZ, no FTZ).
"""

from __future__ import annotations

from collections.abc import Callable
from typing import ClassVar

from hartwood.bits.softfloat import FORMATS, RDN, RNE, RTZ, RUP
from hartwood.bits.ssa import Text
from hartwood.bits.ssa_float import DYN, KIND, HostFloat

#: MXCSR (SDM 1, figure 10-3): sticky flags, and the masks of all exceptions.
_FLAGS, _MASKS = 0x3F, 0x1F80
#: Its rounding control, and what that has to be for each mode.
_CONTROL_AT, _CONTROL = 13, {RNE: 0b00, RTZ: 0b11, RDN: 0b01, RUP: 0b10}
_CONTROL_MASK = 3 << _CONTROL_AT
_CONTROL_TABLE = sum(control << 2 * rm for rm, control in _CONTROL.items())
# Apart from invalid (bit 0 here, bit 4 there) and the denormal flag that RISC-V has not, the
# flags are in reverse order: a table of 16 nibbles turns either way into the other.
_REVERSED = sum(int(f"{n:04b}"[::-1], 2) << 4 * n for n in range(16))
# In the text it is a signed number, as LLVM prints one.
_TABLE = _REVERSED - (1 << 64 if _REVERSED >> 63 else 0)

#: Registers may be any the compiler likes; one more is needed by minimum and maximum.
_SPARE = "%xmm15"

# Functions for rare work keep every register, so that the code around is not laid out for them.
_RARE_CC, _FUSED_NAN = "preserve_allcc", "fused_nan"


def fflags_of(mxcsr: int) -> int:
    """The sticky flags of an MXCSR in the layout of `fflags`."""
    return (mxcsr & 1) << 4 | _REVERSED >> 4 * (mxcsr >> 2 & 15) & 15


def mxcsr_of(fflags: int, frm: int) -> int:
    """The MXCSR for these flags and rounding mode (0 to 7; RNE for what the host has not)."""
    flags = fflags >> 4 & 1 | (_REVERSED >> 4 * (fflags & 15) & 15) << 2
    return _MASKS | flags | _CONTROL.get(frm, 0) << _CONTROL_AT


class X86Float(HostFloat):
    """Floating point on SSE4.1, AVX and FMA3."""

    FEATURES: ClassVar[tuple[str, ...]] = ("sse4.1", "avx", "fma")

    def __init__(
        self,
        text: Text,
        slot: Callable[[], str],
        frm: Callable[[], str],
        unlikely: str = ", !prof !1",
        *,
        outlined: bool = False,
    ) -> None:
        """`slot` and `frm` give operands that are good where they are asked for: a `ptr` to four
        bytes of memory that belong to this hart, since MXCSR only travels through memory; and the
        guest's `frm`, an i64, which saves the trip where the mode is the right one already.

        With `outlined`, rare work is a call of a function that the module has to define: see
        `outlined_functions`. It makes fused multiply-adds less than half as large, 2.5
        times as fast to compile, and just as fast to run."""
        super().__init__(text, unlikely)
        self._slot, self._frm, self._outlined = slot, frm, outlined

    # MXCSR. The assembler statements have side effects and no stated memory effects, so nothing
    # that raises or depends on flags moves across them.

    def _load(self, slot: str, value: str) -> None:
        self.text.emit(f"store i32 {value}, ptr {slot}")
        self.text.emit(
            f'call void asm sideeffect "vldmxcsr $0", "*m"(ptr elementtype(i32) {slot}) nounwind'
        )

    def _store(self, slot: str) -> str:
        self.text.emit(
            f'call void asm sideeffect "vstmxcsr $0", "=*m"(ptr elementtype(i32) {slot}) nounwind'
        )
        return self.text.value(f"load i32, ptr {slot}")

    def _replace(self, slot: str, old: str, mask: int, bits: str) -> None:
        """Load MXCSR with `old`, but `bits` where the mask is set."""
        kept = self.text.value(f"and i32 {old}, {~mask}")
        self._load(slot, self.text.value(f"or i32 {kept}, {bits}"))

    def _update(self, mask: int, bits: str) -> None:
        """Make MXCSR hold `bits` where the mask is set. Loading it drains the pipeline and
        guests mostly write what is there, so look first."""
        text, slot = self.text, self._slot()
        old = self._store(slot)
        present = text.value(f"and i32 {old}, {mask}")
        same = text.value(f"icmp eq i32 {present}, {bits}")
        change, on = text.fresh_label("change"), text.fresh_label("on")
        text.emit(f"br i1 {same}, label %{on}, label %{change}")
        text.label(change)
        self._replace(slot, old, mask, bits)
        text.emit(f"br label %{on}")
        text.label(on)

    def _reverse(self, nibble: str) -> str:
        """Four bits of an i64 in reverse order."""
        by = self.text.value(f"shl i64 {nibble}, 2")
        return self.text.value(f"lshr i64 {_TABLE}, {by}")

    def read_flags(self) -> str:
        """The sticky flags in the layout of `fflags`, an i64."""
        text = self.text
        word = text.value(f"zext i32 {self._store(self._slot())} to i64")
        shifted = text.value(f"lshr i64 {word}, 2")
        nibble = self._reverse(text.value(f"and i64 {shifted}, 15"))
        rest = text.value(f"and i64 {nibble}, 15")
        bit = text.value(f"and i64 {word}, 1")
        invalid = text.value(f"shl i64 {bit}, 4")
        return text.value(f"or i64 {rest}, {invalid}")

    def write_flags(self, value: str) -> None:
        """Make the low five bits of an i64 the sticky flags."""
        text = self.text
        nibble = self._reverse(text.value(f"and i64 {value}, 15"))
        rest = text.value(f"and i64 {nibble}, 15")
        shifted = text.value(f"shl i64 {rest}, 2")
        high = text.value(f"lshr i64 {value}, 4")
        invalid = text.value(f"and i64 {high}, 1")
        flags = text.value(f"or i64 {shifted}, {invalid}")
        narrow = text.value(f"trunc i64 {flags} to i32")
        self._update(_FLAGS, narrow)

    def write_mode(self, frm: str) -> None:
        """Make the rounding mode that of an i64 of 0 to 7; what the host has not is RNE."""
        text = self.text
        low = text.value(f"and i64 {frm}, 7")
        by = text.value(f"shl i64 {low}, 1")
        shifted = text.value(f"lshr i64 {_CONTROL_TABLE}, {by}")
        control = text.value(f"and i64 {shifted}, 3")
        placed = text.value(f"shl i64 {control}, {_CONTROL_AT}")
        narrow = text.value(f"trunc i64 {placed} to i32")
        self._update(_CONTROL_MASK, narrow)

    def _with_mode(self, rm: int, kind: str, operation: Callable[[], str]) -> str:
        text = self.text
        same = text.value(f"icmp eq i64 {self._frm()}, {rm}")
        plain, other, join = (text.fresh_label(hint) for hint in ("plain", "mode", "on"))
        text.emit(f"br i1 {same}, label %{plain}, label %{other}")
        text.label(plain)
        usual = operation()
        text.emit(f"br label %{join}")
        text.label(other)
        slot = self._slot()
        before = self._store(slot)
        self._replace(slot, before, _CONTROL_MASK, str(_CONTROL[rm] << _CONTROL_AT))
        result = operation()
        own = text.value(f"and i32 {before}, {_CONTROL_MASK}")
        self._replace(slot, self._store(slot), _CONTROL_MASK, own)
        text.emit(f"br label %{join}")
        text.label(join)
        return text.value(f"phi {kind} [{usual}, %{plain}], [{result}, %{other}]")

    # Operations.

    def _fused_nan(self, a: str, b: str, width: int) -> None:
        if self._outlined:
            operands = f"{KIND[width]} {a}, {KIND[width]} {b}"
            self.text.emit(f"call {_RARE_CC} void @{_FUSED_NAN}{width}({operands})")
            return
        # x86 does not raise invalid for inf * 0 + quiet NaN (SDM 1, 14.5.1); RISC-V does.
        text, kind = self.text, f"i{width}"
        sign, infinity = FORMATS[width].sign, FORMATS[width].infinity
        sizes = [text.value(f"and {kind} {self._bits(v, width)}, {sign - 1}") for v in (a, b)]
        zero = [text.value(f"icmp eq {kind} {size}, 0") for size in sizes]
        endless = [text.value(f"icmp eq {kind} {size}, {infinity}") for size in sizes]
        one = text.value(f"and i1 {zero[0]}, {endless[1]}")
        other = text.value(f"and i1 {endless[0]}, {zero[1]}")
        invalid = text.value(f"or i1 {one}, {other}")
        self._raise_invalid(text.value(f"select i1 {invalid}, double 0.0, double 1.0"))

    def _ordered_extreme(self, a: str, b: str, width: int, largest: bool) -> str:
        # VMINSD gives its second operand where both are zeros: done both ways round, the two
        # results differ in nothing but the sign of a zero.
        size = "s" if width == 32 else "d"
        pick, join = ("vmaxs", "vandp") if largest else ("vmins", "vorp")
        code = (
            f"{pick}{size} $2, $1, {_SPARE}\\0A {pick}{size} $1, $2, $0\\0A "
            f"{join}{size} {_SPARE}, $0, $0"
        )
        kind = KIND[width]
        # In assembler because LLVM would be free to move its own minimum to where operands may
        # be NaNs, for which the instruction raises invalid.
        clobber = f"~{{{_SPARE[1:]}}}"
        return self.text.value(
            f'call {kind} asm sideeffect "{code}", "=x,x,x,{clobber}"({kind} {a}, {kind} {b}) '
            "nounwind"
        )

    def _truncate(self, a: str, width: int, int_width: int, rm: int) -> str:
        """CVT(T)SD2SI with `rm` RTZ or DYN: what does not fit gives the lowest integer, and
        raises invalid alone (SDM 1, 4.8.3.10)."""
        truncating = "t" if rm == RTZ else ""
        insn = f"vcvt{truncating}s{'s' if width == 32 else 'd'}2si"
        kind = KIND[width]
        return self.text.value(
            f'call i{int_width} asm sideeffect "{insn} $1, $0", "=r,x"({kind} {a}) nounwind'
        )

    def to_int(self, a: str, width: int, int_width: int, signed: bool, rm: int = DYN) -> str:
        """Round to an integer of `int_width` bits, saturating; RTZ and DYN are short."""
        if not signed or rm not in (RTZ, DYN):
            return super().to_int(a, width, int_width, signed, rm)
        result = self._truncate(a, width, int_width, rm)
        kind, lowest = f"i{int_width}", -(1 << int_width - 1)
        suspect = self.text.value(f"icmp eq {kind} {result}, {lowest}")
        return self._rarely(
            suspect, kind, result, lambda: self._saturated(a, width, int_width, signed)
        )


def outlined_functions(module: str) -> list[str]:
    """Definitions of the functions that the text of `X86Float(outlined=True)` in `module` calls."""
    functions = []
    for width, kind in KIND.items():
        name = f"@{_FUSED_NAN}{width}"
        if f"{name}(" in module:
            text = Text()
            # This one asks for neither the slot nor the mode.
            X86Float(text, str, str)._fused_nan("%a", "%b", width)
            head = f"define internal {_RARE_CC} void {name}({kind} %a, {kind} %b)"
            attributes = "nounwind strictfp noinline cold"
            functions.append(f"{head} {attributes} {{\nentry:\n{text.body()}\n  ret void\n}}")
    return functions
