"""A: atomic instructions (Unpriv. 13). Every one is sequentially consistent here, so that aq and
rl, which ask for less, may be ignored."""

from __future__ import annotations

from hartwood.bits.words import Hart, Operand
from hartwood.isa.insn import Body
from hartwood.isa.riscv.regs import CAUSE_LOAD_MISALIGNED, CAUSE_STORE_MISALIGNED, RISCV

A = RISCV.extension("a")


# Load-reserved and store-conditional (13.2). Addresses have to be naturally aligned (13.1).
@A.insn("00010 aq rl 00000 rs1 010 rd 0101111", asm="lr.w{aqrl} {rd}, ({rs1})")
def lr_w(h: Hart, rd: Operand, rs1: Operand, aq: Operand, rl: Operand) -> None:
    address = h.x[rs1]
    h.trap_if(address & 3 != 0, CAUSE_LOAD_MISALIGNED, address)
    h.x[rd] = h.load_reserved(address, 4).sext(64)


@A.insn("00010 aq rl 00000 rs1 011 rd 0101111", asm="lr.d{aqrl} {rd}, ({rs1})")
def lr_d(h: Hart, rd: Operand, rs1: Operand, aq: Operand, rl: Operand) -> None:
    address = h.x[rs1]
    h.trap_if(address & 7 != 0, CAUSE_LOAD_MISALIGNED, address)
    h.x[rd] = h.load_reserved(address, 8)


@A.insn("00011 aq rl rs2 rs1 010 rd 0101111", asm="sc.w{aqrl} {rd}, {rs2}, ({rs1})")
def sc_w(h: Hart, rd: Operand, rs1: Operand, rs2: Operand, aq: Operand, rl: Operand) -> None:
    """rd is 0 where the store happened."""
    address = h.x[rs1]
    h.trap_if(address & 3 != 0, CAUSE_STORE_MISALIGNED, address)
    h.x[rd] = (~h.store_conditional(address, h.x[rs2].trunc(32))).zext(64)


@A.insn("00011 aq rl rs2 rs1 011 rd 0101111", asm="sc.d{aqrl} {rd}, {rs2}, ({rs1})")
def sc_d(h: Hart, rd: Operand, rs1: Operand, rs2: Operand, aq: Operand, rl: Operand) -> None:
    """rd is 0 where the store happened."""
    address = h.x[rs1]
    h.trap_if(address & 7 != 0, CAUSE_STORE_MISALIGNED, address)
    h.x[rd] = (~h.store_conditional(address, h.x[rs2])).zext(64)


# Atomic memory operations (13.4): one body for each width, `op` is the word's name for it.
def _word(op: str) -> Body:
    def amo_w(h: Hart, rd: Operand, rs1: Operand, rs2: Operand, aq: Operand, rl: Operand) -> None:
        address = h.x[rs1]
        h.trap_if(address & 3 != 0, CAUSE_STORE_MISALIGNED, address)
        h.x[rd] = h.amo(op, address, h.x[rs2].trunc(32)).sext(64)

    return amo_w


def _double(op: str) -> Body:
    def amo_d(h: Hart, rd: Operand, rs1: Operand, rs2: Operand, aq: Operand, rl: Operand) -> None:
        address = h.x[rs1]
        h.trap_if(address & 7 != 0, CAUSE_STORE_MISALIGNED, address)
        h.x[rd] = h.amo(op, address, h.x[rs2])

    return amo_d


OPERATIONS = ("swap", "add", "xor", "and", "or", "min", "max", "minu", "maxu")
for _op, _row in zip(
    OPERATIONS,
    (
        "00001 aq rl rs2 rs1",
        "00000 aq rl rs2 rs1",
        "00100 aq rl rs2 rs1",
        "01100 aq rl rs2 rs1",
        "01000 aq rl rs2 rs1",
        "10000 aq rl rs2 rs1",
        "10100 aq rl rs2 rs1",
        "11000 aq rl rs2 rs1",
        "11100 aq rl rs2 rs1",
    ),
    strict=True,
):
    _asm = "{aqrl} {rd}, {rs2}, ({rs1})"
    A.insn(f"{_row} 010 rd 0101111", asm=f"amo{_op}.w{_asm}")(_word(_op))
    A.insn(f"{_row} 011 rd 0101111", asm=f"amo{_op}.d{_asm}")(_double(_op))
