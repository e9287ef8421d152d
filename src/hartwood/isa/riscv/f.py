"""F: single-precision floating point (Unpriv. 21)."""

from __future__ import annotations

from hartwood.bits.words import Bits, Hart, Operand, RoundingMode
from hartwood.isa.riscv.regs import RISCV

F = RISCV.extension("f")

#: Rounding modes that an instruction may name (Unpriv. table 30); 5 and 6 are reserved.
ROUNDING = (0, 1, 2, 3, 4, 7)
SIGN = 1 << 31


def classify(h: Hart, a: Bits, fraction_bits: int) -> Bits:
    """The one-hot class of a float (Unpriv. table 32), as 64 bits; raises no flag."""
    infinity = (1 << a.width - 1) - (1 << fraction_bits)
    magnitude = a.shl(1).shr_u(1)
    negative = a.shr_u(a.width - 1).trunc(1)
    # From the number line's end inwards: infinite, normal, subnormal, zero.
    position = h.select(magnitude == infinity, 0, 1)
    position = h.select(magnitude.lt_u(1 << fraction_bits), 2, position)
    position = h.select(magnitude == 0, 3, position)
    finite = h.const(1, 64).shl(h.select(negative, position, 7 - position))
    quiet = magnitude.shr_u(fraction_bits - 1).trunc(1)
    return h.select(
        h.const(infinity, a.width).lt_u(magnitude), h.select(quiet, 1 << 9, 1 << 8), finite
    )


# Loads and stores (21.5)


@F.insn("imm[11:0] rs1 010 rd 0000111", asm="flw {rd:f}, {imm}({rs1})")
def flw(h: Hart, rd: Operand, rs1: Operand, imm: Operand) -> None:
    h.f32[rd] = h.load(h.x[rs1] + imm, 4)


@F.insn("imm[11:5] rs2 rs1 010 imm[4:0] 0100111", asm="fsw {rs2:f}, {imm}({rs1})")
def fsw(h: Hart, rs1: Operand, rs2: Operand, imm: Operand) -> None:
    """The low half goes to memory as it is, NaN-boxed or not (21.2)."""
    h.store(h.x[rs1] + imm, h.f64[rs2].trunc(32))


# Arithmetic (21.6)


@F.insn(
    "rs3 00 rs2 rs1 rm rd 1000011",
    asm="fmadd.s {rd:f}, {rs1:f}, {rs2:f}, {rs3:f}, {rm}",
    variants={"rm": ROUNDING},
)
def fmadd_s(
    h: Hart, rd: Operand, rs1: Operand, rs2: Operand, rs3: Operand, rm: RoundingMode
) -> None:
    h.f32[rd] = h.fma(h.f32[rs1], h.f32[rs2], h.f32[rs3], rm)


@F.insn(
    "rs3 00 rs2 rs1 rm rd 1000111",
    asm="fmsub.s {rd:f}, {rs1:f}, {rs2:f}, {rs3:f}, {rm}",
    variants={"rm": ROUNDING},
)
def fmsub_s(
    h: Hart, rd: Operand, rs1: Operand, rs2: Operand, rs3: Operand, rm: RoundingMode
) -> None:
    h.f32[rd] = h.fma(h.f32[rs1], h.f32[rs2], h.f32[rs3] ^ SIGN, rm)


@F.insn(
    "rs3 00 rs2 rs1 rm rd 1001011",
    asm="fnmsub.s {rd:f}, {rs1:f}, {rs2:f}, {rs3:f}, {rm}",
    variants={"rm": ROUNDING},
)
def fnmsub_s(
    h: Hart, rd: Operand, rs1: Operand, rs2: Operand, rs3: Operand, rm: RoundingMode
) -> None:
    """-(rs1 * rs2) + rs3: the product is negated, not the result."""
    h.f32[rd] = h.fma(h.f32[rs1] ^ SIGN, h.f32[rs2], h.f32[rs3], rm)


@F.insn(
    "rs3 00 rs2 rs1 rm rd 1001111",
    asm="fnmadd.s {rd:f}, {rs1:f}, {rs2:f}, {rs3:f}, {rm}",
    variants={"rm": ROUNDING},
)
def fnmadd_s(
    h: Hart, rd: Operand, rs1: Operand, rs2: Operand, rs3: Operand, rm: RoundingMode
) -> None:
    """-(rs1 * rs2) - rs3."""
    h.f32[rd] = h.fma(h.f32[rs1] ^ SIGN, h.f32[rs2], h.f32[rs3] ^ SIGN, rm)


@F.insn(
    "0000000 rs2 rs1 rm rd 1010011",
    asm="fadd.s {rd:f}, {rs1:f}, {rs2:f}, {rm}",
    variants={"rm": ROUNDING},
)
def fadd_s(h: Hart, rd: Operand, rs1: Operand, rs2: Operand, rm: RoundingMode) -> None:
    h.f32[rd] = h.fadd(h.f32[rs1], h.f32[rs2], rm)


@F.insn(
    "0000100 rs2 rs1 rm rd 1010011",
    asm="fsub.s {rd:f}, {rs1:f}, {rs2:f}, {rm}",
    variants={"rm": ROUNDING},
)
def fsub_s(h: Hart, rd: Operand, rs1: Operand, rs2: Operand, rm: RoundingMode) -> None:
    h.f32[rd] = h.fsub(h.f32[rs1], h.f32[rs2], rm)


@F.insn(
    "0001000 rs2 rs1 rm rd 1010011",
    asm="fmul.s {rd:f}, {rs1:f}, {rs2:f}, {rm}",
    variants={"rm": ROUNDING},
)
def fmul_s(h: Hart, rd: Operand, rs1: Operand, rs2: Operand, rm: RoundingMode) -> None:
    h.f32[rd] = h.fmul(h.f32[rs1], h.f32[rs2], rm)


@F.insn(
    "0001100 rs2 rs1 rm rd 1010011",
    asm="fdiv.s {rd:f}, {rs1:f}, {rs2:f}, {rm}",
    variants={"rm": ROUNDING},
)
def fdiv_s(h: Hart, rd: Operand, rs1: Operand, rs2: Operand, rm: RoundingMode) -> None:
    h.f32[rd] = h.fdiv(h.f32[rs1], h.f32[rs2], rm)


@F.insn(
    "0101100 00000 rs1 rm rd 1010011",
    asm="fsqrt.s {rd:f}, {rs1:f}, {rm}",
    variants={"rm": ROUNDING},
)
def fsqrt_s(h: Hart, rd: Operand, rs1: Operand, rm: RoundingMode) -> None:
    h.f32[rd] = h.fsqrt(h.f32[rs1], rm)


@F.insn("0010100 rs2 rs1 000 rd 1010011", asm="fmin.s {rd:f}, {rs1:f}, {rs2:f}")
def fmin_s(h: Hart, rd: Operand, rs1: Operand, rs2: Operand) -> None:
    h.f32[rd] = h.fmin(h.f32[rs1], h.f32[rs2])


@F.insn("0010100 rs2 rs1 001 rd 1010011", asm="fmax.s {rd:f}, {rs1:f}, {rs2:f}")
def fmax_s(h: Hart, rd: Operand, rs1: Operand, rs2: Operand) -> None:
    h.f32[rd] = h.fmax(h.f32[rs1], h.f32[rs2])


# Sign injection, moves and conversions (21.7)


@F.insn("0010000 rs2 rs1 000 rd 1010011", asm="fsgnj.s {rd:f}, {rs1:f}, {rs2:f}")
def fsgnj_s(h: Hart, rd: Operand, rs1: Operand, rs2: Operand) -> None:
    h.f32[rd] = h.f32[rs1] & ~SIGN | h.f32[rs2] & SIGN


@F.insn("0010000 rs2 rs1 001 rd 1010011", asm="fsgnjn.s {rd:f}, {rs1:f}, {rs2:f}")
def fsgnjn_s(h: Hart, rd: Operand, rs1: Operand, rs2: Operand) -> None:
    h.f32[rd] = h.f32[rs1] & ~SIGN | ~h.f32[rs2] & SIGN


@F.insn("0010000 rs2 rs1 010 rd 1010011", asm="fsgnjx.s {rd:f}, {rs1:f}, {rs2:f}")
def fsgnjx_s(h: Hart, rd: Operand, rs1: Operand, rs2: Operand) -> None:
    h.f32[rd] = h.f32[rs1] & ~SIGN | (h.f32[rs1] ^ h.f32[rs2]) & SIGN


@F.insn(
    "1100000 00000 rs1 rm rd 1010011", asm="fcvt.w.s {rd}, {rs1:f}, {rm}", variants={"rm": ROUNDING}
)
def fcvt_w_s(h: Hart, rd: Operand, rs1: Operand, rm: RoundingMode) -> None:
    h.x[rd] = h.float_to_int(h.f32[rs1], 32, True, rm).sext(64)


@F.insn(
    "1100000 00001 rs1 rm rd 1010011",
    asm="fcvt.wu.s {rd}, {rs1:f}, {rm}",
    variants={"rm": ROUNDING},
)
def fcvt_wu_s(h: Hart, rd: Operand, rs1: Operand, rm: RoundingMode) -> None:
    """The 32-bit result is sign-extended although it is unsigned (21.7)."""
    h.x[rd] = h.float_to_int(h.f32[rs1], 32, False, rm).sext(64)


@F.insn(
    "1100000 00010 rs1 rm rd 1010011", asm="fcvt.l.s {rd}, {rs1:f}, {rm}", variants={"rm": ROUNDING}
)
def fcvt_l_s(h: Hart, rd: Operand, rs1: Operand, rm: RoundingMode) -> None:
    h.x[rd] = h.float_to_int(h.f32[rs1], 64, True, rm)


@F.insn(
    "1100000 00011 rs1 rm rd 1010011",
    asm="fcvt.lu.s {rd}, {rs1:f}, {rm}",
    variants={"rm": ROUNDING},
)
def fcvt_lu_s(h: Hart, rd: Operand, rs1: Operand, rm: RoundingMode) -> None:
    h.x[rd] = h.float_to_int(h.f32[rs1], 64, False, rm)


@F.insn(
    "1101000 00000 rs1 rm rd 1010011", asm="fcvt.s.w {rd:f}, {rs1}, {rm}", variants={"rm": ROUNDING}
)
def fcvt_s_w(h: Hart, rd: Operand, rs1: Operand, rm: RoundingMode) -> None:
    h.f32[rd] = h.int_to_float(h.x[rs1].trunc(32), True, 32, rm)


@F.insn(
    "1101000 00001 rs1 rm rd 1010011",
    asm="fcvt.s.wu {rd:f}, {rs1}, {rm}",
    variants={"rm": ROUNDING},
)
def fcvt_s_wu(h: Hart, rd: Operand, rs1: Operand, rm: RoundingMode) -> None:
    h.f32[rd] = h.int_to_float(h.x[rs1].trunc(32), False, 32, rm)


@F.insn(
    "1101000 00010 rs1 rm rd 1010011", asm="fcvt.s.l {rd:f}, {rs1}, {rm}", variants={"rm": ROUNDING}
)
def fcvt_s_l(h: Hart, rd: Operand, rs1: Operand, rm: RoundingMode) -> None:
    h.f32[rd] = h.int_to_float(h.x[rs1], True, 32, rm)


@F.insn(
    "1101000 00011 rs1 rm rd 1010011",
    asm="fcvt.s.lu {rd:f}, {rs1}, {rm}",
    variants={"rm": ROUNDING},
)
def fcvt_s_lu(h: Hart, rd: Operand, rs1: Operand, rm: RoundingMode) -> None:
    h.f32[rd] = h.int_to_float(h.x[rs1], False, 32, rm)


@F.insn("1110000 00000 rs1 000 rd 1010011", asm="fmv.x.w {rd}, {rs1:f}")
def fmv_x_w(h: Hart, rd: Operand, rs1: Operand) -> None:
    h.x[rd] = h.f64[rs1].trunc(32).sext(64)


@F.insn("1111000 00000 rs1 000 rd 1010011", asm="fmv.w.x {rd:f}, {rs1}")
def fmv_w_x(h: Hart, rd: Operand, rs1: Operand) -> None:
    h.f32[rd] = h.x[rs1].trunc(32)


# Comparison and classification (21.8, 21.9)


@F.insn("1010000 rs2 rs1 010 rd 1010011", asm="feq.s {rd}, {rs1:f}, {rs2:f}")
def feq_s(h: Hart, rd: Operand, rs1: Operand, rs2: Operand) -> None:
    h.x[rd] = h.feq(h.f32[rs1], h.f32[rs2]).zext(64)


@F.insn("1010000 rs2 rs1 001 rd 1010011", asm="flt.s {rd}, {rs1:f}, {rs2:f}")
def flt_s(h: Hart, rd: Operand, rs1: Operand, rs2: Operand) -> None:
    h.x[rd] = h.flt(h.f32[rs1], h.f32[rs2]).zext(64)


@F.insn("1010000 rs2 rs1 000 rd 1010011", asm="fle.s {rd}, {rs1:f}, {rs2:f}")
def fle_s(h: Hart, rd: Operand, rs1: Operand, rs2: Operand) -> None:
    h.x[rd] = h.fle(h.f32[rs1], h.f32[rs2]).zext(64)


@F.insn("1110000 00000 rs1 001 rd 1010011", asm="fclass.s {rd}, {rs1:f}")
def fclass_s(h: Hart, rd: Operand, rs1: Operand) -> None:
    h.x[rd] = classify(h, h.f32[rs1], 23)
