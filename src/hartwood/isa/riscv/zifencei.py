"""Zifencei: instruction-fetch fence (Unpriv. 5)."""

from __future__ import annotations

from hartwood.bits.words import Hart, Operand
from hartwood.isa.riscv.regs import RISCV

ZIFENCEI = RISCV.extension("zifencei")


@ZIFENCEI.insn("imm[11:0] rs1 001 rd 0001111", asm="fence.i")
def fence_i(h: Hart, imm: Operand, rs1: Operand, rd: Operand) -> None:
    """The fields are reserved for finer fences and have to be ignored."""
    h.fence_i()
