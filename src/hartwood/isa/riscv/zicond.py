"""Zicond: integer conditional operations (Unpriv. 11)."""

from __future__ import annotations

from hartwood.bits.words import Hart, Operand
from hartwood.isa.riscv.regs import RISCV

ZICOND = RISCV.extension("zicond")


@ZICOND.insn("0000111 rs2 rs1 101 rd 0110011", asm="czero.eqz {rd}, {rs1}, {rs2}")
def czero_eqz(h: Hart, rd: Operand, rs1: Operand, rs2: Operand) -> None:
    h.x[rd] = h.select(h.x[rs2] == 0, 0, h.x[rs1])


@ZICOND.insn("0000111 rs2 rs1 111 rd 0110011", asm="czero.nez {rd}, {rs1}, {rs2}")
def czero_nez(h: Hart, rd: Operand, rs1: Operand, rs2: Operand) -> None:
    h.x[rd] = h.select(h.x[rs2] == 0, h.x[rs1], 0)
