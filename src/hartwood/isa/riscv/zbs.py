"""Zbs: single bits (Unpriv. 28.4.4)."""

from __future__ import annotations

from hartwood.bits.words import Hart, Operand
from hartwood.isa.riscv.regs import RISCV

ZBS = RISCV.extension("zbs")


@ZBS.insn("0100100 rs2 rs1 001 rd 0110011", asm="bclr {rd}, {rs1}, {rs2}")
def bclr(h: Hart, rd: Operand, rs1: Operand, rs2: Operand) -> None:
    h.x[rd] = h.x[rs1] & ~h.const(1, 64).shl(h.x[rs2])


@ZBS.insn("010010 shamt[5:0] rs1 001 rd 0010011", asm="bclri {rd}, {rs1}, {shamt}")
def bclri(h: Hart, rd: Operand, rs1: Operand, shamt: Operand) -> None:
    h.x[rd] = h.x[rs1] & ~h.const(1, 64).shl(shamt)


@ZBS.insn("0100100 rs2 rs1 101 rd 0110011", asm="bext {rd}, {rs1}, {rs2}")
def bext(h: Hart, rd: Operand, rs1: Operand, rs2: Operand) -> None:
    h.x[rd] = h.x[rs1].shr_u(h.x[rs2]) & 1


@ZBS.insn("010010 shamt[5:0] rs1 101 rd 0010011", asm="bexti {rd}, {rs1}, {shamt}")
def bexti(h: Hart, rd: Operand, rs1: Operand, shamt: Operand) -> None:
    h.x[rd] = h.x[rs1].shr_u(shamt) & 1


@ZBS.insn("0110100 rs2 rs1 001 rd 0110011", asm="binv {rd}, {rs1}, {rs2}")
def binv(h: Hart, rd: Operand, rs1: Operand, rs2: Operand) -> None:
    h.x[rd] = h.x[rs1] ^ h.const(1, 64).shl(h.x[rs2])


@ZBS.insn("011010 shamt[5:0] rs1 001 rd 0010011", asm="binvi {rd}, {rs1}, {shamt}")
def binvi(h: Hart, rd: Operand, rs1: Operand, shamt: Operand) -> None:
    h.x[rd] = h.x[rs1] ^ h.const(1, 64).shl(shamt)


@ZBS.insn("0010100 rs2 rs1 001 rd 0110011", asm="bset {rd}, {rs1}, {rs2}")
def bset(h: Hart, rd: Operand, rs1: Operand, rs2: Operand) -> None:
    h.x[rd] = h.x[rs1] | h.const(1, 64).shl(h.x[rs2])


@ZBS.insn("001010 shamt[5:0] rs1 001 rd 0010011", asm="bseti {rd}, {rs1}, {shamt}")
def bseti(h: Hart, rd: Operand, rs1: Operand, shamt: Operand) -> None:
    h.x[rd] = h.x[rs1] | h.const(1, 64).shl(shamt)
