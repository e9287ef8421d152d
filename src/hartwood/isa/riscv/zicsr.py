"""Zicsr and Zicntr: control and status registers of user mode (Unpriv. 6, 7, 21.4)."""

from __future__ import annotations

from hartwood.bits.words import Bits, Hart, Operand
from hartwood.isa.riscv.regs import RISCV

ZICSR = RISCV.extension("zicsr")


# Instructions (6.1)
@ZICSR.insn("csr rs1 001 rd 1110011", asm="csrrw {rd}, {csr}, {rs1}")
def csrrw(h: Hart, rd: Operand, rs1: Operand, csr: Operand) -> None:
    h.x[rd] = h.csr_update(csr, "write", h.x[rs1], rs1)


@ZICSR.insn("csr rs1 010 rd 1110011", asm="csrrs {rd}, {csr}, {rs1}")
def csrrs(h: Hart, rd: Operand, rs1: Operand, csr: Operand) -> None:
    h.x[rd] = h.csr_update(csr, "set", h.x[rs1], rs1)


@ZICSR.insn("csr rs1 011 rd 1110011", asm="csrrc {rd}, {csr}, {rs1}")
def csrrc(h: Hart, rd: Operand, rs1: Operand, csr: Operand) -> None:
    h.x[rd] = h.csr_update(csr, "clear", h.x[rs1], rs1)


@ZICSR.insn("csr uimm 101 rd 1110011", asm="csrrwi {rd}, {csr}, {uimm}")
def csrrwi(h: Hart, rd: Operand, uimm: Operand, csr: Operand) -> None:
    h.x[rd] = h.csr_update(csr, "write", uimm, uimm)


@ZICSR.insn("csr uimm 110 rd 1110011", asm="csrrsi {rd}, {csr}, {uimm}")
def csrrsi(h: Hart, rd: Operand, uimm: Operand, csr: Operand) -> None:
    h.x[rd] = h.csr_update(csr, "set", uimm, uimm)


@ZICSR.insn("csr uimm 111 rd 1110011", asm="csrrci {rd}, {csr}, {uimm}")
def csrrci(h: Hart, rd: Operand, uimm: Operand, csr: Operand) -> None:
    h.x[rd] = h.csr_update(csr, "clear", uimm, uimm)


# Floating-point control and status (21.4)
@ZICSR.csr(0x001, "fflags")
def fflags(h: Hart) -> Bits:
    return h.fflags


@fflags.writer
def write_fflags(h: Hart, value: Bits) -> None:
    h.fflags = value


@ZICSR.csr(0x002, "frm")
def frm(h: Hart) -> Bits:
    return h.frm


@frm.writer
def write_frm(h: Hart, value: Bits) -> None:
    """Reserved modes may be written; it is their use that is illegal."""
    h.frm = value


@ZICSR.csr(0x003, "fcsr")
def fcsr(h: Hart) -> Bits:
    return h.frm.shl(5) | h.fflags


@fcsr.writer
def write_fcsr(h: Hart, value: Bits) -> None:
    h.fflags = value
    h.frm = value.shr_u(5)


# Counters (7.1)
@ZICSR.csr(0xC00, "cycle")
def cycle(h: Hart) -> Bits:
    return h.counter("cycle")


@ZICSR.csr(0xC01, "time")
def time(h: Hart) -> Bits:
    return h.counter("time")


@ZICSR.csr(0xC02, "instret")
def instret(h: Hart) -> Bits:
    return h.counter("instret")
