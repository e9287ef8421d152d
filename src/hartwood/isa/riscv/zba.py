"""Zba: address generation (Unpriv. 28.4.1)."""

from __future__ import annotations

from hartwood.bits.words import Hart, Operand
from hartwood.isa.riscv.regs import RISCV

ZBA = RISCV.extension("zba")


@ZBA.insn("0010000 rs2 rs1 010 rd 0110011", asm="sh1add {rd}, {rs1}, {rs2}")
def sh1add(h: Hart, rd: Operand, rs1: Operand, rs2: Operand) -> None:
    h.x[rd] = h.x[rs1].shl(1) + h.x[rs2]


@ZBA.insn("0010000 rs2 rs1 100 rd 0110011", asm="sh2add {rd}, {rs1}, {rs2}")
def sh2add(h: Hart, rd: Operand, rs1: Operand, rs2: Operand) -> None:
    h.x[rd] = h.x[rs1].shl(2) + h.x[rs2]


@ZBA.insn("0010000 rs2 rs1 110 rd 0110011", asm="sh3add {rd}, {rs1}, {rs2}")
def sh3add(h: Hart, rd: Operand, rs1: Operand, rs2: Operand) -> None:
    h.x[rd] = h.x[rs1].shl(3) + h.x[rs2]


@ZBA.insn("0000100 rs2 rs1 000 rd 0111011", asm="add.uw {rd}, {rs1}, {rs2}")
def add_uw(h: Hart, rd: Operand, rs1: Operand, rs2: Operand) -> None:
    h.x[rd] = h.x[rs1].trunc(32).zext(64) + h.x[rs2]


@ZBA.insn("0010000 rs2 rs1 010 rd 0111011", asm="sh1add.uw {rd}, {rs1}, {rs2}")
def sh1add_uw(h: Hart, rd: Operand, rs1: Operand, rs2: Operand) -> None:
    h.x[rd] = h.x[rs1].trunc(32).zext(64).shl(1) + h.x[rs2]


@ZBA.insn("0010000 rs2 rs1 100 rd 0111011", asm="sh2add.uw {rd}, {rs1}, {rs2}")
def sh2add_uw(h: Hart, rd: Operand, rs1: Operand, rs2: Operand) -> None:
    h.x[rd] = h.x[rs1].trunc(32).zext(64).shl(2) + h.x[rs2]


@ZBA.insn("0010000 rs2 rs1 110 rd 0111011", asm="sh3add.uw {rd}, {rs1}, {rs2}")
def sh3add_uw(h: Hart, rd: Operand, rs1: Operand, rs2: Operand) -> None:
    h.x[rd] = h.x[rs1].trunc(32).zext(64).shl(3) + h.x[rs2]


@ZBA.insn("000010 shamt[5:0] rs1 001 rd 0011011", asm="slli.uw {rd}, {rs1}, {shamt}")
def slli_uw(h: Hart, rd: Operand, rs1: Operand, shamt: Operand) -> None:
    h.x[rd] = h.x[rs1].trunc(32).zext(64).shl(shamt)
