"""Zbb: basic bit manipulation (Unpriv. 28.4.2)."""

from __future__ import annotations

from hartwood.bits.words import Hart, Operand
from hartwood.isa.riscv.regs import RISCV

ZBB = RISCV.extension("zbb")

#: The low seven bits of every byte.
LOW = 0x7F7F_7F7F_7F7F_7F7F


# Logical with negate


@ZBB.insn("0100000 rs2 rs1 111 rd 0110011", asm="andn {rd}, {rs1}, {rs2}")
def andn(h: Hart, rd: Operand, rs1: Operand, rs2: Operand) -> None:
    h.x[rd] = h.x[rs1] & ~h.x[rs2]


@ZBB.insn("0100000 rs2 rs1 110 rd 0110011", asm="orn {rd}, {rs1}, {rs2}")
def orn(h: Hart, rd: Operand, rs1: Operand, rs2: Operand) -> None:
    h.x[rd] = h.x[rs1] | ~h.x[rs2]


@ZBB.insn("0100000 rs2 rs1 100 rd 0110011", asm="xnor {rd}, {rs1}, {rs2}")
def xnor(h: Hart, rd: Operand, rs1: Operand, rs2: Operand) -> None:
    h.x[rd] = ~(h.x[rs1] ^ h.x[rs2])


# Counting


@ZBB.insn("0110000 00000 rs1 001 rd 0010011", asm="clz {rd}, {rs1}")
def clz(h: Hart, rd: Operand, rs1: Operand) -> None:
    h.x[rd] = h.x[rs1].clz()


@ZBB.insn("0110000 00000 rs1 001 rd 0011011", asm="clzw {rd}, {rs1}")
def clzw(h: Hart, rd: Operand, rs1: Operand) -> None:
    h.x[rd] = h.x[rs1].trunc(32).clz().zext(64)


@ZBB.insn("0110000 00001 rs1 001 rd 0010011", asm="ctz {rd}, {rs1}")
def ctz(h: Hart, rd: Operand, rs1: Operand) -> None:
    h.x[rd] = h.x[rs1].ctz()


@ZBB.insn("0110000 00001 rs1 001 rd 0011011", asm="ctzw {rd}, {rs1}")
def ctzw(h: Hart, rd: Operand, rs1: Operand) -> None:
    h.x[rd] = h.x[rs1].trunc(32).ctz().zext(64)


@ZBB.insn("0110000 00010 rs1 001 rd 0010011", asm="cpop {rd}, {rs1}")
def cpop(h: Hart, rd: Operand, rs1: Operand) -> None:
    h.x[rd] = h.x[rs1].popcount()


@ZBB.insn("0110000 00010 rs1 001 rd 0011011", asm="cpopw {rd}, {rs1}")
def cpopw(h: Hart, rd: Operand, rs1: Operand) -> None:
    h.x[rd] = h.x[rs1].trunc(32).popcount().zext(64)


# Minimum and maximum


@ZBB.insn("0000101 rs2 rs1 110 rd 0110011", asm="max {rd}, {rs1}, {rs2}")
def max(h: Hart, rd: Operand, rs1: Operand, rs2: Operand) -> None:
    a, b = h.x[rs1], h.x[rs2]
    h.x[rd] = h.select(a.lt_s(b), b, a)


@ZBB.insn("0000101 rs2 rs1 111 rd 0110011", asm="maxu {rd}, {rs1}, {rs2}")
def maxu(h: Hart, rd: Operand, rs1: Operand, rs2: Operand) -> None:
    a, b = h.x[rs1], h.x[rs2]
    h.x[rd] = h.select(a.lt_u(b), b, a)


@ZBB.insn("0000101 rs2 rs1 100 rd 0110011", asm="min {rd}, {rs1}, {rs2}")
def min(h: Hart, rd: Operand, rs1: Operand, rs2: Operand) -> None:
    a, b = h.x[rs1], h.x[rs2]
    h.x[rd] = h.select(a.lt_s(b), a, b)


@ZBB.insn("0000101 rs2 rs1 101 rd 0110011", asm="minu {rd}, {rs1}, {rs2}")
def minu(h: Hart, rd: Operand, rs1: Operand, rs2: Operand) -> None:
    a, b = h.x[rs1], h.x[rs2]
    h.x[rd] = h.select(a.lt_u(b), a, b)


# Extension


@ZBB.insn("0110000 00100 rs1 001 rd 0010011", asm="sext.b {rd}, {rs1}")
def sext_b(h: Hart, rd: Operand, rs1: Operand) -> None:
    h.x[rd] = h.x[rs1].trunc(8).sext(64)


@ZBB.insn("0110000 00101 rs1 001 rd 0010011", asm="sext.h {rd}, {rs1}")
def sext_h(h: Hart, rd: Operand, rs1: Operand) -> None:
    h.x[rd] = h.x[rs1].trunc(16).sext(64)


@ZBB.insn("0000100 00000 rs1 100 rd 0111011", asm="zext.h {rd}, {rs1}")
def zext_h(h: Hart, rd: Operand, rs1: Operand) -> None:
    h.x[rd] = h.x[rs1].trunc(16).zext(64)


# Rotation


@ZBB.insn("0110000 rs2 rs1 001 rd 0110011", asm="rol {rd}, {rs1}, {rs2}")
def rol(h: Hart, rd: Operand, rs1: Operand, rs2: Operand) -> None:
    h.x[rd] = h.x[rs1].rotl(h.x[rs2])


@ZBB.insn("0110000 rs2 rs1 101 rd 0110011", asm="ror {rd}, {rs1}, {rs2}")
def ror(h: Hart, rd: Operand, rs1: Operand, rs2: Operand) -> None:
    h.x[rd] = h.x[rs1].rotr(h.x[rs2])


@ZBB.insn("011000 shamt[5:0] rs1 101 rd 0010011", asm="rori {rd}, {rs1}, {shamt}")
def rori(h: Hart, rd: Operand, rs1: Operand, shamt: Operand) -> None:
    h.x[rd] = h.x[rs1].rotr(shamt)


@ZBB.insn("0110000 rs2 rs1 001 rd 0111011", asm="rolw {rd}, {rs1}, {rs2}")
def rolw(h: Hart, rd: Operand, rs1: Operand, rs2: Operand) -> None:
    h.x[rd] = h.x[rs1].trunc(32).rotl(h.x[rs2].trunc(32)).sext(64)


@ZBB.insn("0110000 rs2 rs1 101 rd 0111011", asm="rorw {rd}, {rs1}, {rs2}")
def rorw(h: Hart, rd: Operand, rs1: Operand, rs2: Operand) -> None:
    h.x[rd] = h.x[rs1].trunc(32).rotr(h.x[rs2].trunc(32)).sext(64)


@ZBB.insn("0110000 shamt[4:0] rs1 101 rd 0011011", asm="roriw {rd}, {rs1}, {shamt}")
def roriw(h: Hart, rd: Operand, rs1: Operand, shamt: Operand) -> None:
    h.x[rd] = h.x[rs1].trunc(32).rotr(shamt).sext(64)


# Bytes


@ZBB.insn("001010000111 rs1 101 rd 0010011", asm="orc.b {rd}, {rs1}")
def orc_b(h: Hart, rd: Operand, rs1: Operand) -> None:
    """Every byte that has a bit set becomes 0xff."""
    a = h.x[rs1]
    # The top bit of each byte that is not zero; a carry out of the low seven bits sets it.
    top = ((a & LOW) + LOW | a) & ~LOW
    h.x[rd] = (top - top.shr_u(7)) | top


@ZBB.insn("011010111000 rs1 101 rd 0010011", asm="rev8 {rd}, {rs1}")
def rev8(h: Hart, rd: Operand, rs1: Operand) -> None:
    h.x[rd] = h.x[rs1].bswap()
