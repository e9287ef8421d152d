"""Zcb: more compressed forms (Unpriv. 27.4), of I, M, Zba and Zbb instructions."""

from __future__ import annotations

from hartwood.isa.riscv import i, m, zba, zbb
from hartwood.isa.riscv.regs import RISCV

ZCB = RISCV.extension("zcb")

# Loads and stores: the offset's bit 0 comes before its bit 1.
ZCB.alias("100 000 rs1' uimm[0|1] rd' 00", i.lbu, asm="c.lbu {rd'}, {uimm}({rs1'})")
ZCB.alias("100 001 rs1' 0 uimm[1] rd' 00", i.lhu, asm="c.lhu {rd'}, {uimm}({rs1'})")
ZCB.alias("100 001 rs1' 1 uimm[1] rd' 00", i.lh, asm="c.lh {rd'}, {uimm}({rs1'})")
ZCB.alias("100 010 rs1' uimm[0|1] rs2' 00", i.sb, asm="c.sb {rs2'}, {uimm}({rs1'})")
ZCB.alias("100 011 rs1' 0 uimm[1] rs2' 00", i.sh, asm="c.sh {rs2'}, {uimm}({rs1'})")

# Arithmetic on one register, and the product
ZCB.alias("100 111 rd'/rs1' 11 000 01", i.andi, asm="c.zext.b {rd'}", bind={"imm": 0xFF})
ZCB.alias("100 111 rd'/rs1' 11 001 01", zbb.sext_b, asm="c.sext.b {rd'}")
ZCB.alias("100 111 rd'/rs1' 11 010 01", zbb.zext_h, asm="c.zext.h {rd'}")
ZCB.alias("100 111 rd'/rs1' 11 011 01", zbb.sext_h, asm="c.sext.h {rd'}")
ZCB.alias("100 111 rd'/rs1' 11 100 01", zba.add_uw, asm="c.zext.w {rd'}", bind={"rs2": 0})
ZCB.alias("100 111 rd'/rs1' 11 101 01", i.xori, asm="c.not {rd'}", bind={"imm": -1})
ZCB.alias("100 111 rd'/rs1' 10 rs2' 01", m.mul, asm="c.mul {rd'}, {rs2'}")
