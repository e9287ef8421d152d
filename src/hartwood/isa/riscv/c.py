"""C: compressed forms of RV64GC (Unpriv. 26), each an encoding of its base instruction.

Values that the manual reserves are excluded; those it calls HINTs execute as what they encode,
which writes x0 or nothing.
"""

from __future__ import annotations

from hartwood.isa.insnset import nonzero, not_in
from hartwood.isa.riscv import d, i
from hartwood.isa.riscv.regs import RISCV

C = RISCV.extension("c")

# Quadrant 0 (26.8, table 34)
C.alias(
    "000 nzuimm[5:4|9:6|2|3] rd' 00",
    i.addi,
    asm="c.addi4spn {rd'}, sp, {nzuimm}",
    bind={"rs1": 2},
    where={"nzuimm": nonzero},
)
C.alias("001 uimm[5:3] rs1' uimm[7:6] rd' 00", d.fld, asm="c.fld {rd':f}, {uimm}({rs1'})")
C.alias("010 uimm[5:3] rs1' uimm[2|6] rd' 00", i.lw, asm="c.lw {rd'}, {uimm}({rs1'})")
C.alias("011 uimm[5:3] rs1' uimm[7:6] rd' 00", i.ld, asm="c.ld {rd'}, {uimm}({rs1'})")
C.alias("101 uimm[5:3] rs1' uimm[7:6] rs2' 00", d.fsd, asm="c.fsd {rs2':f}, {uimm}({rs1'})")
C.alias("110 uimm[5:3] rs1' uimm[2|6] rs2' 00", i.sw, asm="c.sw {rs2'}, {uimm}({rs1'})")
C.alias("111 uimm[5:3] rs1' uimm[7:6] rs2' 00", i.sd, asm="c.sd {rs2'}, {uimm}({rs1'})")

# Quadrant 1 (table 35)
C.alias("000 nzimm[5] rd/rs1 nzimm[4:0] 01", i.addi, asm="c.addi {rd}, {nzimm}")
C.alias("001 imm[5] rd/rs1 imm[4:0] 01", i.addiw, asm="c.addiw {rd}, {imm}", where={"rd": nonzero})
C.alias("010 imm[5] rd imm[4:0] 01", i.addi, asm="c.li {rd}, {imm}", bind={"rs1": 0})
C.alias(
    "011 nzimm[9] 00010 nzimm[4|6|8:7|5] 01",
    i.addi,
    asm="c.addi16sp sp, {nzimm}",
    bind={"rd": 2, "rs1": 2},
    where={"nzimm": nonzero},
)
C.alias(
    "011 nzimm[17] rd nzimm[16:12] 01",
    i.lui,
    asm="c.lui {rd}, {nzimm:upper}",
    where={"rd": not_in(2), "nzimm": nonzero},
)
C.alias("100 nzuimm[5] 00 rd'/rs1' nzuimm[4:0] 01", i.srli, asm="c.srli {rd'}, {nzuimm}")
C.alias("100 nzuimm[5] 01 rd'/rs1' nzuimm[4:0] 01", i.srai, asm="c.srai {rd'}, {nzuimm}")
C.alias("100 imm[5] 10 rd'/rs1' imm[4:0] 01", i.andi, asm="c.andi {rd'}, {imm}")
C.alias("100 0 11 rd'/rs1' 00 rs2' 01", i.sub, asm="c.sub {rd'}, {rs2'}")
C.alias("100 0 11 rd'/rs1' 01 rs2' 01", i.xor, asm="c.xor {rd'}, {rs2'}")
C.alias("100 0 11 rd'/rs1' 10 rs2' 01", i.or_, asm="c.or {rd'}, {rs2'}")
C.alias("100 0 11 rd'/rs1' 11 rs2' 01", i.and_, asm="c.and {rd'}, {rs2'}")
C.alias("100 1 11 rd'/rs1' 00 rs2' 01", i.subw, asm="c.subw {rd'}, {rs2'}")
C.alias("100 1 11 rd'/rs1' 01 rs2' 01", i.addw, asm="c.addw {rd'}, {rs2'}")
C.alias("101 imm[11|4|9:8|10|6|7|3:1|5] 01", i.jal, asm="c.j {imm:pc}", bind={"rd": 0})
C.alias(
    "110 imm[8|4:3] rs1' imm[7:6|2:1|5] 01", i.beq, asm="c.beqz {rs1'}, {imm:pc}", bind={"rs2": 0}
)
C.alias(
    "111 imm[8|4:3] rs1' imm[7:6|2:1|5] 01", i.bne, asm="c.bnez {rs1'}, {imm:pc}", bind={"rs2": 0}
)

# Quadrant 2 (table 36)
C.alias("000 nzuimm[5] rd/rs1 nzuimm[4:0] 10", i.slli, asm="c.slli {rd}, {nzuimm}")
C.alias("001 uimm[5] rd uimm[4:3|8:6] 10", d.fld, asm="c.fldsp {rd:f}, {uimm}(sp)", bind={"rs1": 2})
C.alias(
    "010 uimm[5] rd uimm[4:2|7:6] 10",
    i.lw,
    asm="c.lwsp {rd}, {uimm}(sp)",
    bind={"rs1": 2},
    where={"rd": nonzero},
)
C.alias(
    "011 uimm[5] rd uimm[4:3|8:6] 10",
    i.ld,
    asm="c.ldsp {rd}, {uimm}(sp)",
    bind={"rs1": 2},
    where={"rd": nonzero},
)
C.alias(
    "100 0 rs1 00000 10",
    i.jalr,
    asm="c.jr {rs1}",
    bind={"rd": 0, "imm": 0},
    where={"rs1": nonzero},
)
C.alias("100 0 rd rs2 10", i.add, asm="c.mv {rd}, {rs2}", bind={"rs1": 0}, where={"rs2": nonzero})
C.alias("100 1 00000 00000 10", i.ebreak, asm="c.ebreak")
C.alias(
    "100 1 rs1 00000 10",
    i.jalr,
    asm="c.jalr {rs1}",
    bind={"rd": 1, "imm": 0},
    where={"rs1": nonzero},
)
C.alias("100 1 rd/rs1 rs2 10", i.add, asm="c.add {rd}, {rs2}", where={"rs2": nonzero})
C.alias("101 uimm[5:3|8:6] rs2 10", d.fsd, asm="c.fsdsp {rs2:f}, {uimm}(sp)", bind={"rs1": 2})
C.alias("110 uimm[5:2|7:6] rs2 10", i.sw, asm="c.swsp {rs2}, {uimm}(sp)", bind={"rs1": 2})
C.alias("111 uimm[5:3|8:6] rs2 10", i.sd, asm="c.sdsp {rs2}, {uimm}(sp)", bind={"rs1": 2})
