"""RV64I: the base integer instruction set (Unpriv. 2, 4)."""

from __future__ import annotations

from hartwood.bits.words import Hart, Operand
from hartwood.isa.riscv.regs import CAUSE_BREAKPOINT, CAUSE_USER_ECALL, RISCV

I = RISCV.extension("i")  # noqa: E741 - the extension's own name


# Upper immediates and jumps (2.4.1, 2.5)
@I.insn("imm[31:12] rd 0110111", asm="lui {rd}, {imm:upper}")
def lui(h: Hart, rd: Operand, imm: Operand) -> None:
    h.x[rd] = imm


@I.insn("imm[31:12] rd 0010111", asm="auipc {rd}, {imm:upper}")
def auipc(h: Hart, rd: Operand, imm: Operand) -> None:
    h.x[rd] = h.pc + imm


@I.insn("imm[20|10:1|11|19:12] rd 1101111", asm="jal {rd}, {imm:pc}")
def jal(h: Hart, rd: Operand, imm: Operand) -> None:
    h.x[rd] = h.next_pc
    h.jump(h.pc + imm)


@I.insn("imm[11:0] rs1 000 rd 1100111", asm="jalr {rd}, {imm}({rs1})")
def jalr(h: Hart, rd: Operand, rs1: Operand, imm: Operand) -> None:
    """The target is read before rd is written, as they may be the same register."""
    target = (h.x[rs1] + imm) & ~1
    h.x[rd] = h.next_pc
    h.jump(target)


# Conditional branches (2.5.2)
@I.insn("imm[12|10:5] rs2 rs1 000 imm[4:1|11] 1100011", asm="beq {rs1}, {rs2}, {imm:pc}")
def beq(h: Hart, rs1: Operand, rs2: Operand, imm: Operand) -> None:
    h.branch(h.x[rs1] == h.x[rs2], h.pc + imm)


@I.insn("imm[12|10:5] rs2 rs1 001 imm[4:1|11] 1100011", asm="bne {rs1}, {rs2}, {imm:pc}")
def bne(h: Hart, rs1: Operand, rs2: Operand, imm: Operand) -> None:
    h.branch(h.x[rs1] != h.x[rs2], h.pc + imm)


@I.insn("imm[12|10:5] rs2 rs1 100 imm[4:1|11] 1100011", asm="blt {rs1}, {rs2}, {imm:pc}")
def blt(h: Hart, rs1: Operand, rs2: Operand, imm: Operand) -> None:
    h.branch(h.x[rs1].lt_s(h.x[rs2]), h.pc + imm)


@I.insn("imm[12|10:5] rs2 rs1 101 imm[4:1|11] 1100011", asm="bge {rs1}, {rs2}, {imm:pc}")
def bge(h: Hart, rs1: Operand, rs2: Operand, imm: Operand) -> None:
    h.branch(~h.x[rs1].lt_s(h.x[rs2]), h.pc + imm)


@I.insn("imm[12|10:5] rs2 rs1 110 imm[4:1|11] 1100011", asm="bltu {rs1}, {rs2}, {imm:pc}")
def bltu(h: Hart, rs1: Operand, rs2: Operand, imm: Operand) -> None:
    h.branch(h.x[rs1].lt_u(h.x[rs2]), h.pc + imm)


@I.insn("imm[12|10:5] rs2 rs1 111 imm[4:1|11] 1100011", asm="bgeu {rs1}, {rs2}, {imm:pc}")
def bgeu(h: Hart, rs1: Operand, rs2: Operand, imm: Operand) -> None:
    h.branch(~h.x[rs1].lt_u(h.x[rs2]), h.pc + imm)


# Loads and stores (2.6, 4.3)
@I.insn("imm[11:0] rs1 000 rd 0000011", asm="lb {rd}, {imm}({rs1})")
def lb(h: Hart, rd: Operand, rs1: Operand, imm: Operand) -> None:
    h.x[rd] = h.load(h.x[rs1] + imm, 1).sext(64)


@I.insn("imm[11:0] rs1 001 rd 0000011", asm="lh {rd}, {imm}({rs1})")
def lh(h: Hart, rd: Operand, rs1: Operand, imm: Operand) -> None:
    h.x[rd] = h.load(h.x[rs1] + imm, 2).sext(64)


@I.insn("imm[11:0] rs1 010 rd 0000011", asm="lw {rd}, {imm}({rs1})")
def lw(h: Hart, rd: Operand, rs1: Operand, imm: Operand) -> None:
    h.x[rd] = h.load(h.x[rs1] + imm, 4).sext(64)


@I.insn("imm[11:0] rs1 011 rd 0000011", asm="ld {rd}, {imm}({rs1})")
def ld(h: Hart, rd: Operand, rs1: Operand, imm: Operand) -> None:
    h.x[rd] = h.load(h.x[rs1] + imm, 8)


@I.insn("imm[11:0] rs1 100 rd 0000011", asm="lbu {rd}, {imm}({rs1})")
def lbu(h: Hart, rd: Operand, rs1: Operand, imm: Operand) -> None:
    h.x[rd] = h.load(h.x[rs1] + imm, 1).zext(64)


@I.insn("imm[11:0] rs1 101 rd 0000011", asm="lhu {rd}, {imm}({rs1})")
def lhu(h: Hart, rd: Operand, rs1: Operand, imm: Operand) -> None:
    h.x[rd] = h.load(h.x[rs1] + imm, 2).zext(64)


@I.insn("imm[11:0] rs1 110 rd 0000011", asm="lwu {rd}, {imm}({rs1})")
def lwu(h: Hart, rd: Operand, rs1: Operand, imm: Operand) -> None:
    h.x[rd] = h.load(h.x[rs1] + imm, 4).zext(64)


@I.insn("imm[11:5] rs2 rs1 000 imm[4:0] 0100011", asm="sb {rs2}, {imm}({rs1})")
def sb(h: Hart, rs1: Operand, rs2: Operand, imm: Operand) -> None:
    h.store(h.x[rs1] + imm, h.x[rs2].trunc(8))


@I.insn("imm[11:5] rs2 rs1 001 imm[4:0] 0100011", asm="sh {rs2}, {imm}({rs1})")
def sh(h: Hart, rs1: Operand, rs2: Operand, imm: Operand) -> None:
    h.store(h.x[rs1] + imm, h.x[rs2].trunc(16))


@I.insn("imm[11:5] rs2 rs1 010 imm[4:0] 0100011", asm="sw {rs2}, {imm}({rs1})")
def sw(h: Hart, rs1: Operand, rs2: Operand, imm: Operand) -> None:
    h.store(h.x[rs1] + imm, h.x[rs2].trunc(32))


@I.insn("imm[11:5] rs2 rs1 011 imm[4:0] 0100011", asm="sd {rs2}, {imm}({rs1})")
def sd(h: Hart, rs1: Operand, rs2: Operand, imm: Operand) -> None:
    h.store(h.x[rs1] + imm, h.x[rs2])


# Register-immediate operations (2.4.1, 4.2.1)
@I.insn("imm[11:0] rs1 000 rd 0010011", asm="addi {rd}, {rs1}, {imm}")
def addi(h: Hart, rd: Operand, rs1: Operand, imm: Operand) -> None:
    h.x[rd] = h.x[rs1] + imm


@I.insn("imm[11:0] rs1 010 rd 0010011", asm="slti {rd}, {rs1}, {imm}")
def slti(h: Hart, rd: Operand, rs1: Operand, imm: Operand) -> None:
    h.x[rd] = h.x[rs1].lt_s(imm).zext(64)


@I.insn("imm[11:0] rs1 011 rd 0010011", asm="sltiu {rd}, {rs1}, {imm}")
def sltiu(h: Hart, rd: Operand, rs1: Operand, imm: Operand) -> None:
    h.x[rd] = h.x[rs1].lt_u(imm).zext(64)


@I.insn("imm[11:0] rs1 100 rd 0010011", asm="xori {rd}, {rs1}, {imm}")
def xori(h: Hart, rd: Operand, rs1: Operand, imm: Operand) -> None:
    h.x[rd] = h.x[rs1] ^ imm


@I.insn("imm[11:0] rs1 110 rd 0010011", asm="ori {rd}, {rs1}, {imm}")
def ori(h: Hart, rd: Operand, rs1: Operand, imm: Operand) -> None:
    h.x[rd] = h.x[rs1] | imm


@I.insn("imm[11:0] rs1 111 rd 0010011", asm="andi {rd}, {rs1}, {imm}")
def andi(h: Hart, rd: Operand, rs1: Operand, imm: Operand) -> None:
    h.x[rd] = h.x[rs1] & imm


@I.insn("000000 shamt[5:0] rs1 001 rd 0010011", asm="slli {rd}, {rs1}, {shamt}")
def slli(h: Hart, rd: Operand, rs1: Operand, shamt: Operand) -> None:
    h.x[rd] = h.x[rs1].shl(shamt)


@I.insn("000000 shamt[5:0] rs1 101 rd 0010011", asm="srli {rd}, {rs1}, {shamt}")
def srli(h: Hart, rd: Operand, rs1: Operand, shamt: Operand) -> None:
    h.x[rd] = h.x[rs1].shr_u(shamt)


@I.insn("010000 shamt[5:0] rs1 101 rd 0010011", asm="srai {rd}, {rs1}, {shamt}")
def srai(h: Hart, rd: Operand, rs1: Operand, shamt: Operand) -> None:
    h.x[rd] = h.x[rs1].shr_s(shamt)


@I.insn("imm[11:0] rs1 000 rd 0011011", asm="addiw {rd}, {rs1}, {imm}")
def addiw(h: Hart, rd: Operand, rs1: Operand, imm: Operand) -> None:
    h.x[rd] = (h.x[rs1] + imm).trunc(32).sext(64)


@I.insn("0000000 shamt[4:0] rs1 001 rd 0011011", asm="slliw {rd}, {rs1}, {shamt}")
def slliw(h: Hart, rd: Operand, rs1: Operand, shamt: Operand) -> None:
    h.x[rd] = h.x[rs1].trunc(32).shl(shamt).sext(64)


@I.insn("0000000 shamt[4:0] rs1 101 rd 0011011", asm="srliw {rd}, {rs1}, {shamt}")
def srliw(h: Hart, rd: Operand, rs1: Operand, shamt: Operand) -> None:
    h.x[rd] = h.x[rs1].trunc(32).shr_u(shamt).sext(64)


@I.insn("0100000 shamt[4:0] rs1 101 rd 0011011", asm="sraiw {rd}, {rs1}, {shamt}")
def sraiw(h: Hart, rd: Operand, rs1: Operand, shamt: Operand) -> None:
    h.x[rd] = h.x[rs1].trunc(32).shr_s(shamt).sext(64)


# Register-register operations (2.4.2, 4.2.2)
@I.insn("0000000 rs2 rs1 000 rd 0110011", asm="add {rd}, {rs1}, {rs2}")
def add(h: Hart, rd: Operand, rs1: Operand, rs2: Operand) -> None:
    h.x[rd] = h.x[rs1] + h.x[rs2]


@I.insn("0100000 rs2 rs1 000 rd 0110011", asm="sub {rd}, {rs1}, {rs2}")
def sub(h: Hart, rd: Operand, rs1: Operand, rs2: Operand) -> None:
    h.x[rd] = h.x[rs1] - h.x[rs2]


@I.insn("0000000 rs2 rs1 001 rd 0110011", asm="sll {rd}, {rs1}, {rs2}")
def sll(h: Hart, rd: Operand, rs1: Operand, rs2: Operand) -> None:
    h.x[rd] = h.x[rs1].shl(h.x[rs2])


@I.insn("0000000 rs2 rs1 010 rd 0110011", asm="slt {rd}, {rs1}, {rs2}")
def slt(h: Hart, rd: Operand, rs1: Operand, rs2: Operand) -> None:
    h.x[rd] = h.x[rs1].lt_s(h.x[rs2]).zext(64)


@I.insn("0000000 rs2 rs1 011 rd 0110011", asm="sltu {rd}, {rs1}, {rs2}")
def sltu(h: Hart, rd: Operand, rs1: Operand, rs2: Operand) -> None:
    h.x[rd] = h.x[rs1].lt_u(h.x[rs2]).zext(64)


@I.insn("0000000 rs2 rs1 100 rd 0110011", asm="xor {rd}, {rs1}, {rs2}")
def xor(h: Hart, rd: Operand, rs1: Operand, rs2: Operand) -> None:
    h.x[rd] = h.x[rs1] ^ h.x[rs2]


@I.insn("0000000 rs2 rs1 101 rd 0110011", asm="srl {rd}, {rs1}, {rs2}")
def srl(h: Hart, rd: Operand, rs1: Operand, rs2: Operand) -> None:
    h.x[rd] = h.x[rs1].shr_u(h.x[rs2])


@I.insn("0100000 rs2 rs1 101 rd 0110011", asm="sra {rd}, {rs1}, {rs2}")
def sra(h: Hart, rd: Operand, rs1: Operand, rs2: Operand) -> None:
    h.x[rd] = h.x[rs1].shr_s(h.x[rs2])


@I.insn("0000000 rs2 rs1 110 rd 0110011", asm="or {rd}, {rs1}, {rs2}")
def or_(h: Hart, rd: Operand, rs1: Operand, rs2: Operand) -> None:
    h.x[rd] = h.x[rs1] | h.x[rs2]


@I.insn("0000000 rs2 rs1 111 rd 0110011", asm="and {rd}, {rs1}, {rs2}")
def and_(h: Hart, rd: Operand, rs1: Operand, rs2: Operand) -> None:
    h.x[rd] = h.x[rs1] & h.x[rs2]


@I.insn("0000000 rs2 rs1 000 rd 0111011", asm="addw {rd}, {rs1}, {rs2}")
def addw(h: Hart, rd: Operand, rs1: Operand, rs2: Operand) -> None:
    h.x[rd] = (h.x[rs1] + h.x[rs2]).trunc(32).sext(64)


@I.insn("0100000 rs2 rs1 000 rd 0111011", asm="subw {rd}, {rs1}, {rs2}")
def subw(h: Hart, rd: Operand, rs1: Operand, rs2: Operand) -> None:
    h.x[rd] = (h.x[rs1] - h.x[rs2]).trunc(32).sext(64)


@I.insn("0000000 rs2 rs1 001 rd 0111011", asm="sllw {rd}, {rs1}, {rs2}")
def sllw(h: Hart, rd: Operand, rs1: Operand, rs2: Operand) -> None:
    h.x[rd] = h.x[rs1].trunc(32).shl(h.x[rs2].trunc(32)).sext(64)


@I.insn("0000000 rs2 rs1 101 rd 0111011", asm="srlw {rd}, {rs1}, {rs2}")
def srlw(h: Hart, rd: Operand, rs1: Operand, rs2: Operand) -> None:
    h.x[rd] = h.x[rs1].trunc(32).shr_u(h.x[rs2].trunc(32)).sext(64)


@I.insn("0100000 rs2 rs1 101 rd 0111011", asm="sraw {rd}, {rs1}, {rs2}")
def sraw(h: Hart, rd: Operand, rs1: Operand, rs2: Operand) -> None:
    h.x[rd] = h.x[rs1].trunc(32).shr_s(h.x[rs2].trunc(32)).sext(64)


# Memory ordering and environment (2.7, 2.8)
@I.insn("fm pred succ rs1 000 rd 0001111", asm="fence {pred}, {succ}")
def fence(h: Hart, fm: Operand, pred: Operand, succ: Operand, rs1: Operand, rd: Operand) -> None:
    """Every fence orders everything: stronger than asked for is allowed, and reserved forms have
    to be treated as plain fences (2.7)."""
    h.fence()


@I.insn("000000000000 00000 000 00000 1110011", asm="ecall")
def ecall(h: Hart) -> None:
    h.trap(CAUSE_USER_ECALL)


@I.insn("000000000001 00000 000 00000 1110011", asm="ebreak")
def ebreak(h: Hart) -> None:
    """The trap value is the address of the instruction (Priv. 3.1.16)."""
    h.trap(CAUSE_BREAKPOINT, h.pc)


RISCV.name_idiom("fence.tso", "fence", fm=8, pred=3, succ=3)
# Zihintpause: a hint in the space of FENCE, which takes no time here.
RISCV.name_idiom("pause", "fence", pred=1)
