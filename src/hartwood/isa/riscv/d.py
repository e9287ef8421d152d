"""D: double-precision floating point (Unpriv. 22)."""

from __future__ import annotations

from hartwood.bits.words import Hart, Operand, RoundingMode
from hartwood.isa.riscv.f import ROUNDING, classify
from hartwood.isa.riscv.regs import RISCV

D = RISCV.extension("d")

SIGN = 1 << 63


# Loads and stores (22.3)


@D.insn("imm[11:0] rs1 011 rd 0000111", asm="fld {rd:f}, {imm}({rs1})")
def fld(h: Hart, rd: Operand, rs1: Operand, imm: Operand) -> None:
    h.f64[rd] = h.load(h.x[rs1] + imm, 8)


@D.insn("imm[11:5] rs2 rs1 011 imm[4:0] 0100111", asm="fsd {rs2:f}, {imm}({rs1})")
def fsd(h: Hart, rs1: Operand, rs2: Operand, imm: Operand) -> None:
    h.store(h.x[rs1] + imm, h.f64[rs2])


# Arithmetic (22.4)


@D.insn(
    "rs3 01 rs2 rs1 rm rd 1000011",
    asm="fmadd.d {rd:f}, {rs1:f}, {rs2:f}, {rs3:f}, {rm}",
    variants={"rm": ROUNDING},
)
def fmadd_d(
    h: Hart, rd: Operand, rs1: Operand, rs2: Operand, rs3: Operand, rm: RoundingMode
) -> None:
    h.f64[rd] = h.fma(h.f64[rs1], h.f64[rs2], h.f64[rs3], rm)


@D.insn(
    "rs3 01 rs2 rs1 rm rd 1000111",
    asm="fmsub.d {rd:f}, {rs1:f}, {rs2:f}, {rs3:f}, {rm}",
    variants={"rm": ROUNDING},
)
def fmsub_d(
    h: Hart, rd: Operand, rs1: Operand, rs2: Operand, rs3: Operand, rm: RoundingMode
) -> None:
    h.f64[rd] = h.fma(h.f64[rs1], h.f64[rs2], h.f64[rs3] ^ SIGN, rm)


@D.insn(
    "rs3 01 rs2 rs1 rm rd 1001011",
    asm="fnmsub.d {rd:f}, {rs1:f}, {rs2:f}, {rs3:f}, {rm}",
    variants={"rm": ROUNDING},
)
def fnmsub_d(
    h: Hart, rd: Operand, rs1: Operand, rs2: Operand, rs3: Operand, rm: RoundingMode
) -> None:
    """-(rs1 * rs2) + rs3: the product is negated, not the result."""
    h.f64[rd] = h.fma(h.f64[rs1] ^ SIGN, h.f64[rs2], h.f64[rs3], rm)


@D.insn(
    "rs3 01 rs2 rs1 rm rd 1001111",
    asm="fnmadd.d {rd:f}, {rs1:f}, {rs2:f}, {rs3:f}, {rm}",
    variants={"rm": ROUNDING},
)
def fnmadd_d(
    h: Hart, rd: Operand, rs1: Operand, rs2: Operand, rs3: Operand, rm: RoundingMode
) -> None:
    """-(rs1 * rs2) - rs3."""
    h.f64[rd] = h.fma(h.f64[rs1] ^ SIGN, h.f64[rs2], h.f64[rs3] ^ SIGN, rm)


@D.insn(
    "0000001 rs2 rs1 rm rd 1010011",
    asm="fadd.d {rd:f}, {rs1:f}, {rs2:f}, {rm}",
    variants={"rm": ROUNDING},
)
def fadd_d(h: Hart, rd: Operand, rs1: Operand, rs2: Operand, rm: RoundingMode) -> None:
    h.f64[rd] = h.fadd(h.f64[rs1], h.f64[rs2], rm)


@D.insn(
    "0000101 rs2 rs1 rm rd 1010011",
    asm="fsub.d {rd:f}, {rs1:f}, {rs2:f}, {rm}",
    variants={"rm": ROUNDING},
)
def fsub_d(h: Hart, rd: Operand, rs1: Operand, rs2: Operand, rm: RoundingMode) -> None:
    h.f64[rd] = h.fsub(h.f64[rs1], h.f64[rs2], rm)


@D.insn(
    "0001001 rs2 rs1 rm rd 1010011",
    asm="fmul.d {rd:f}, {rs1:f}, {rs2:f}, {rm}",
    variants={"rm": ROUNDING},
)
def fmul_d(h: Hart, rd: Operand, rs1: Operand, rs2: Operand, rm: RoundingMode) -> None:
    h.f64[rd] = h.fmul(h.f64[rs1], h.f64[rs2], rm)


@D.insn(
    "0001101 rs2 rs1 rm rd 1010011",
    asm="fdiv.d {rd:f}, {rs1:f}, {rs2:f}, {rm}",
    variants={"rm": ROUNDING},
)
def fdiv_d(h: Hart, rd: Operand, rs1: Operand, rs2: Operand, rm: RoundingMode) -> None:
    h.f64[rd] = h.fdiv(h.f64[rs1], h.f64[rs2], rm)


@D.insn(
    "0101101 00000 rs1 rm rd 1010011",
    asm="fsqrt.d {rd:f}, {rs1:f}, {rm}",
    variants={"rm": ROUNDING},
)
def fsqrt_d(h: Hart, rd: Operand, rs1: Operand, rm: RoundingMode) -> None:
    h.f64[rd] = h.fsqrt(h.f64[rs1], rm)


@D.insn("0010101 rs2 rs1 000 rd 1010011", asm="fmin.d {rd:f}, {rs1:f}, {rs2:f}")
def fmin_d(h: Hart, rd: Operand, rs1: Operand, rs2: Operand) -> None:
    h.f64[rd] = h.fmin(h.f64[rs1], h.f64[rs2])


@D.insn("0010101 rs2 rs1 001 rd 1010011", asm="fmax.d {rd:f}, {rs1:f}, {rs2:f}")
def fmax_d(h: Hart, rd: Operand, rs1: Operand, rs2: Operand) -> None:
    h.f64[rd] = h.fmax(h.f64[rs1], h.f64[rs2])


# Sign injection, moves and conversions (22.5)


@D.insn("0010001 rs2 rs1 000 rd 1010011", asm="fsgnj.d {rd:f}, {rs1:f}, {rs2:f}")
def fsgnj_d(h: Hart, rd: Operand, rs1: Operand, rs2: Operand) -> None:
    h.f64[rd] = h.f64[rs1] & ~SIGN | h.f64[rs2] & SIGN


@D.insn("0010001 rs2 rs1 001 rd 1010011", asm="fsgnjn.d {rd:f}, {rs1:f}, {rs2:f}")
def fsgnjn_d(h: Hart, rd: Operand, rs1: Operand, rs2: Operand) -> None:
    h.f64[rd] = h.f64[rs1] & ~SIGN | ~h.f64[rs2] & SIGN


@D.insn("0010001 rs2 rs1 010 rd 1010011", asm="fsgnjx.d {rd:f}, {rs1:f}, {rs2:f}")
def fsgnjx_d(h: Hart, rd: Operand, rs1: Operand, rs2: Operand) -> None:
    h.f64[rd] = h.f64[rs1] & ~SIGN | (h.f64[rs1] ^ h.f64[rs2]) & SIGN


@D.insn(
    "0100000 00001 rs1 rm rd 1010011",
    asm="fcvt.s.d {rd:f}, {rs1:f}, {rm}",
    variants={"rm": ROUNDING},
)
def fcvt_s_d(h: Hart, rd: Operand, rs1: Operand, rm: RoundingMode) -> None:
    h.f32[rd] = h.float_to_float(h.f64[rs1], 32, rm)


@D.insn(
    "0100001 00000 rs1 rm rd 1010011",
    asm="fcvt.d.s {rd:f}, {rs1:f}, {rm:exact}",
    variants={"rm": ROUNDING},
)
def fcvt_d_s(h: Hart, rd: Operand, rs1: Operand, rm: RoundingMode) -> None:
    """Never rounds, though a reserved rounding mode is still illegal."""
    h.f64[rd] = h.float_to_float(h.f32[rs1], 64, rm)


@D.insn(
    "1100001 00000 rs1 rm rd 1010011", asm="fcvt.w.d {rd}, {rs1:f}, {rm}", variants={"rm": ROUNDING}
)
def fcvt_w_d(h: Hart, rd: Operand, rs1: Operand, rm: RoundingMode) -> None:
    h.x[rd] = h.float_to_int(h.f64[rs1], 32, True, rm).sext(64)


@D.insn(
    "1100001 00001 rs1 rm rd 1010011",
    asm="fcvt.wu.d {rd}, {rs1:f}, {rm}",
    variants={"rm": ROUNDING},
)
def fcvt_wu_d(h: Hart, rd: Operand, rs1: Operand, rm: RoundingMode) -> None:
    h.x[rd] = h.float_to_int(h.f64[rs1], 32, False, rm).sext(64)


@D.insn(
    "1100001 00010 rs1 rm rd 1010011", asm="fcvt.l.d {rd}, {rs1:f}, {rm}", variants={"rm": ROUNDING}
)
def fcvt_l_d(h: Hart, rd: Operand, rs1: Operand, rm: RoundingMode) -> None:
    h.x[rd] = h.float_to_int(h.f64[rs1], 64, True, rm)


@D.insn(
    "1100001 00011 rs1 rm rd 1010011",
    asm="fcvt.lu.d {rd}, {rs1:f}, {rm}",
    variants={"rm": ROUNDING},
)
def fcvt_lu_d(h: Hart, rd: Operand, rs1: Operand, rm: RoundingMode) -> None:
    h.x[rd] = h.float_to_int(h.f64[rs1], 64, False, rm)


@D.insn(
    "1101001 00000 rs1 rm rd 1010011",
    asm="fcvt.d.w {rd:f}, {rs1}, {rm:exact}",
    variants={"rm": ROUNDING},
)
def fcvt_d_w(h: Hart, rd: Operand, rs1: Operand, rm: RoundingMode) -> None:
    """Never rounds, though a reserved rounding mode is still illegal."""
    h.f64[rd] = h.int_to_float(h.x[rs1].trunc(32), True, 64, rm)


@D.insn(
    "1101001 00001 rs1 rm rd 1010011",
    asm="fcvt.d.wu {rd:f}, {rs1}, {rm:exact}",
    variants={"rm": ROUNDING},
)
def fcvt_d_wu(h: Hart, rd: Operand, rs1: Operand, rm: RoundingMode) -> None:
    h.f64[rd] = h.int_to_float(h.x[rs1].trunc(32), False, 64, rm)


@D.insn(
    "1101001 00010 rs1 rm rd 1010011", asm="fcvt.d.l {rd:f}, {rs1}, {rm}", variants={"rm": ROUNDING}
)
def fcvt_d_l(h: Hart, rd: Operand, rs1: Operand, rm: RoundingMode) -> None:
    h.f64[rd] = h.int_to_float(h.x[rs1], True, 64, rm)


@D.insn(
    "1101001 00011 rs1 rm rd 1010011",
    asm="fcvt.d.lu {rd:f}, {rs1}, {rm}",
    variants={"rm": ROUNDING},
)
def fcvt_d_lu(h: Hart, rd: Operand, rs1: Operand, rm: RoundingMode) -> None:
    h.f64[rd] = h.int_to_float(h.x[rs1], False, 64, rm)


@D.insn("1110001 00000 rs1 000 rd 1010011", asm="fmv.x.d {rd}, {rs1:f}")
def fmv_x_d(h: Hart, rd: Operand, rs1: Operand) -> None:
    h.x[rd] = h.f64[rs1]


@D.insn("1111001 00000 rs1 000 rd 1010011", asm="fmv.d.x {rd:f}, {rs1}")
def fmv_d_x(h: Hart, rd: Operand, rs1: Operand) -> None:
    h.f64[rd] = h.x[rs1]


# Comparison and classification (22.6, 22.7)


@D.insn("1010001 rs2 rs1 010 rd 1010011", asm="feq.d {rd}, {rs1:f}, {rs2:f}")
def feq_d(h: Hart, rd: Operand, rs1: Operand, rs2: Operand) -> None:
    h.x[rd] = h.feq(h.f64[rs1], h.f64[rs2]).zext(64)


@D.insn("1010001 rs2 rs1 001 rd 1010011", asm="flt.d {rd}, {rs1:f}, {rs2:f}")
def flt_d(h: Hart, rd: Operand, rs1: Operand, rs2: Operand) -> None:
    h.x[rd] = h.flt(h.f64[rs1], h.f64[rs2]).zext(64)


@D.insn("1010001 rs2 rs1 000 rd 1010011", asm="fle.d {rd}, {rs1:f}, {rs2:f}")
def fle_d(h: Hart, rd: Operand, rs1: Operand, rs2: Operand) -> None:
    h.x[rd] = h.fle(h.f64[rs1], h.f64[rs2]).zext(64)


@D.insn("1110001 00000 rs1 001 rd 1010011", asm="fclass.d {rd}, {rs1:f}")
def fclass_d(h: Hart, rd: Operand, rs1: Operand) -> None:
    h.x[rd] = classify(h, h.f64[rs1], 52)
