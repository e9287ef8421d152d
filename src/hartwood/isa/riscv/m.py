"""M: multiplication and division (Unpriv. 12)."""

from __future__ import annotations

from hartwood.bits.words import Bits, Hart, Operand
from hartwood.isa.riscv.regs import RISCV

M = RISCV.extension("m")


# Multiplication (12.1)


@M.insn("0000001 rs2 rs1 000 rd 0110011", asm="mul {rd}, {rs1}, {rs2}")
def mul(h: Hart, rd: Operand, rs1: Operand, rs2: Operand) -> None:
    h.x[rd] = h.x[rs1] * h.x[rs2]


@M.insn("0000001 rs2 rs1 001 rd 0110011", asm="mulh {rd}, {rs1}, {rs2}")
def mulh(h: Hart, rd: Operand, rs1: Operand, rs2: Operand) -> None:
    h.x[rd] = h.x[rs1].mulh_s(h.x[rs2])


@M.insn("0000001 rs2 rs1 010 rd 0110011", asm="mulhsu {rd}, {rs1}, {rs2}")
def mulhsu(h: Hart, rd: Operand, rs1: Operand, rs2: Operand) -> None:
    h.x[rd] = h.x[rs1].mulh_su(h.x[rs2])


@M.insn("0000001 rs2 rs1 011 rd 0110011", asm="mulhu {rd}, {rs1}, {rs2}")
def mulhu(h: Hart, rd: Operand, rs1: Operand, rs2: Operand) -> None:
    h.x[rd] = h.x[rs1].mulh_u(h.x[rs2])


@M.insn("0000001 rs2 rs1 000 rd 0111011", asm="mulw {rd}, {rs1}, {rs2}")
def mulw(h: Hart, rd: Operand, rs1: Operand, rs2: Operand) -> None:
    h.x[rd] = (h.x[rs1] * h.x[rs2]).trunc(32).sext(64)


# Division (12.2) never traps; the words leave x/0 and INT_MIN/-1 undefined, so they are guarded.
def quotient_s(h: Hart, a: Bits, b: Bits) -> Bits:
    """Signed a / b: -1 where b is 0, and a where the quotient overflows (INT_MIN / -1)."""
    overflow = (a == 1 << a.width - 1) & (b == -1)
    return h.select(b == 0, -1, a.div_s(h.select((b == 0) | overflow, 1, b)))


def quotient_u(h: Hart, a: Bits, b: Bits) -> Bits:
    """Unsigned a / b: all ones where b is 0."""
    return h.select(b == 0, -1, a.div_u(h.select(b == 0, 1, b)))


def remainder_s(h: Hart, a: Bits, b: Bits) -> Bits:
    """Signed remainder: a where b is 0, and 0 where the quotient overflows."""
    overflow = (a == 1 << a.width - 1) & (b == -1)
    return h.select(b == 0, a, a.rem_s(h.select((b == 0) | overflow, 1, b)))


def remainder_u(h: Hart, a: Bits, b: Bits) -> Bits:
    """Unsigned remainder: a where b is 0."""
    return h.select(b == 0, a, a.rem_u(h.select(b == 0, 1, b)))


@M.insn("0000001 rs2 rs1 100 rd 0110011", asm="div {rd}, {rs1}, {rs2}")
def div(h: Hart, rd: Operand, rs1: Operand, rs2: Operand) -> None:
    h.x[rd] = quotient_s(h, h.x[rs1], h.x[rs2])


@M.insn("0000001 rs2 rs1 101 rd 0110011", asm="divu {rd}, {rs1}, {rs2}")
def divu(h: Hart, rd: Operand, rs1: Operand, rs2: Operand) -> None:
    h.x[rd] = quotient_u(h, h.x[rs1], h.x[rs2])


@M.insn("0000001 rs2 rs1 110 rd 0110011", asm="rem {rd}, {rs1}, {rs2}")
def rem(h: Hart, rd: Operand, rs1: Operand, rs2: Operand) -> None:
    h.x[rd] = remainder_s(h, h.x[rs1], h.x[rs2])


@M.insn("0000001 rs2 rs1 111 rd 0110011", asm="remu {rd}, {rs1}, {rs2}")
def remu(h: Hart, rd: Operand, rs1: Operand, rs2: Operand) -> None:
    h.x[rd] = remainder_u(h, h.x[rs1], h.x[rs2])


@M.insn("0000001 rs2 rs1 100 rd 0111011", asm="divw {rd}, {rs1}, {rs2}")
def divw(h: Hart, rd: Operand, rs1: Operand, rs2: Operand) -> None:
    h.x[rd] = quotient_s(h, h.x[rs1].trunc(32), h.x[rs2].trunc(32)).sext(64)


@M.insn("0000001 rs2 rs1 101 rd 0111011", asm="divuw {rd}, {rs1}, {rs2}")
def divuw(h: Hart, rd: Operand, rs1: Operand, rs2: Operand) -> None:
    """The unsigned 32-bit result is sign-extended."""
    h.x[rd] = quotient_u(h, h.x[rs1].trunc(32), h.x[rs2].trunc(32)).sext(64)


@M.insn("0000001 rs2 rs1 110 rd 0111011", asm="remw {rd}, {rs1}, {rs2}")
def remw(h: Hart, rd: Operand, rs1: Operand, rs2: Operand) -> None:
    h.x[rd] = remainder_s(h, h.x[rs1].trunc(32), h.x[rs2].trunc(32)).sext(64)


@M.insn("0000001 rs2 rs1 111 rd 0111011", asm="remuw {rd}, {rs1}, {rs2}")
def remuw(h: Hart, rd: Operand, rs1: Operand, rs2: Operand) -> None:
    """The unsigned 32-bit result is sign-extended."""
    h.x[rd] = remainder_u(h, h.x[rs1].trunc(32), h.x[rs2].trunc(32)).sext(64)
