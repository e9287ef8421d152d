"""The instruction set of a whole machine: the user's and the privileged (Priv. 3, 12).

User mode runs `RISCV`, which knows nothing of these; system mode runs `SYSTEM`.
"""

from __future__ import annotations

import hartwood.isa.riscv as user
from hartwood.bits.words import Bits, Hart, Operand
from hartwood.isa.riscv.regs import CAUSE_ILLEGAL_INSTRUCTION, CAUSE_USER_ECALL

# Privilege levels (Priv. table 1), as the state "mode" holds them.
USER, SUPERVISOR, MACHINE = 0, 1, 3

# Fields of mstatus (Priv. 3.1.6).
SIE, MIE, SPIE, MPIE, SPP = 1 << 1, 1 << 3, 1 << 5, 1 << 7, 1 << 8
MPP, FS, MPRV, SUM, MXR = 3 << 11, 3 << 13, 1 << 17, 1 << 18, 1 << 19
TVM, TW, TSR, SD = 1 << 20, 1 << 21, 1 << 22, 1 << 63
UXL_SXL_64 = 2 << 32 | 2 << 34

# Fields of menvcfg and senvcfg (Priv. 3.1.18).
FIOM, CBIE, CBCFE, CBZE = 1, 3 << 4, 1 << 6, 1 << 7
ADUE, PBMTE, STCE = 1 << 61, 1 << 62, 1 << 63

_OWN = ("ecall", "fflags", "frm", "fcsr", "cycle", "time", "instret")

#: What a hart with privilege levels executes.
SYSTEM = user.RISCV.subset(user.RISCV.extensions, without=_OWN)
PRIVILEGED = SYSTEM.extension("privileged")


def is_set(value: Bits, mask: int) -> Bits:
    """One bit: whether any bit of `mask` is set."""
    return value & mask != 0


def at_least(h: Hart, level: int) -> Bits:
    """One bit: the hart runs at this privilege level or a higher one."""
    return ~h.sys["mode"].lt_u(level)


def illegal_if(h: Hart, condition: Bits) -> None:
    """Raise an illegal-instruction exception where the condition holds."""
    h.trap_if(condition, CAUSE_ILLEGAL_INSTRUCTION)


def csr_allowed(h: Hart, number: Bits, writes: Bits) -> None:
    """The number of a CSR says the lowest level that may access it, and whether it is read-only
    (Priv. 2.1)."""
    read_only = (number.shr_u(10) == 3) & writes
    illegal_if(h, h.sys["mode"].lt_u(number.shr_u(8) & 3) | read_only)


def with_bits(value: Bits, mask: int, new: Bits) -> Bits:
    """`value` with the bits of `mask` from `new`."""
    return value & ~mask & (1 << 64) - 1 | new & mask


@PRIVILEGED.insn("000000000000 00000 000 00000 1110011", asm="ecall")
def ecall(h: Hart) -> None:
    """The cause tells the level: 8, 9 and 11 for U, S and M (Priv. 3.3.1)."""
    h.trap(h.sys["mode"] + CAUSE_USER_ECALL)


@PRIVILEGED.insn("001100000010 00000 000 00000 1110011", asm="mret")
def mret(h: Hart) -> None:
    """Back to mode MPP, MIE from MPIE; MPRV ends where that is not M (Priv. 3.1.6.1)."""
    illegal_if(h, ~at_least(h, MACHINE))
    status = h.sys["mstatus"]
    mode = status.shr_u(11) & 3
    kept = h.select(mode == MACHINE, status, status & ~MPRV)
    h.sys["mstatus"] = with_bits(kept | MPIE, MIE | MPP, kept.shr_u(4) & MIE)
    h.sys["mode"] = mode
    h.context_changed()
    h.jump(h.sys["mepc"])


@PRIVILEGED.insn("000100000010 00000 000 00000 1110011", asm="sret")
def sret(h: Hart) -> None:
    """Back to mode SPP, SIE from SPIE; TSR forbids it to S-mode (Priv. 3.1.6.6)."""
    status = h.sys["mstatus"]
    illegal_if(h, ~at_least(h, SUPERVISOR))
    illegal_if(h, is_set(status, TSR) & (h.sys["mode"] == SUPERVISOR))
    kept = status & ~MPRV
    h.sys["mstatus"] = with_bits(kept | SPIE, SIE | SPP, kept.shr_u(4) & SIE)
    h.sys["mode"] = status.shr_u(8) & 1
    h.context_changed()
    h.jump(h.sys["sepc"])


@PRIVILEGED.insn("000100000101 00000 000 00000 1110011", asm="wfi")
def wfi(h: Hart) -> None:
    """TW makes it illegal below M; U-mode may not wait where there is S (Priv. 3.3.3)."""
    tw = is_set(h.sys["mstatus"], TW) & ~at_least(h, MACHINE)
    illegal_if(h, tw | ~at_least(h, SUPERVISOR))
    h.wait_for_interrupt()


def _fence(h: Hart, address: Bits, every: Bits) -> None:
    """Address spaces are not told apart, so one that is named makes no difference."""
    tvm = is_set(h.sys["mstatus"], TVM) & (h.sys["mode"] == SUPERVISOR)
    illegal_if(h, tvm | ~at_least(h, SUPERVISOR))
    h.fence_vma(address, every)


@PRIVILEGED.insn("0001001 rs2 rs1 000 00000 1110011", asm="sfence.vma {rs1}, {rs2}")
def sfence_vma(h: Hart, rs1: Operand, rs2: Operand) -> None:
    """rs1 = x0 means every address (Priv. 12.2.1)."""
    _fence(h, h.x[rs1], h.const(rs1, 64) == 0)


# Svinval (Priv. 9): the same in three parts.
@PRIVILEGED.insn("0001011 rs2 rs1 000 00000 1110011", asm="sinval.vma {rs1}, {rs2}")
def sinval_vma(h: Hart, rs1: Operand, rs2: Operand) -> None:
    _fence(h, h.x[rs1], h.const(rs1, 64) == 0)


@PRIVILEGED.insn("000110000000 00000 000 00000 1110011", asm="sfence.w.inval")
def sfence_w_inval(h: Hart) -> None:
    illegal_if(h, ~at_least(h, SUPERVISOR))


@PRIVILEGED.insn("000110000001 00000 000 00000 1110011", asm="sfence.inval.ir")
def sfence_inval_ir(h: Hart) -> None:
    illegal_if(h, ~at_least(h, SUPERVISOR))


# Cache blocks of 64 bytes (CMO 2). Prefetches are hints in the space of ORI.
def _allowed(h: Hart, mask: int) -> None:
    """A level below M needs menvcfg's leave, U-mode senvcfg's as well."""
    m, s = is_set(h.sys["menvcfg"], mask), is_set(h.sys["senvcfg"], mask)
    illegal_if(h, ~at_least(h, MACHINE) & ~m | ~at_least(h, SUPERVISOR) & ~s)


@PRIVILEGED.insn("000000000100 rs1 010 00000 0001111", asm="cbo.zero ({rs1})")
def cbo_zero(h: Hart, rs1: Operand) -> None:
    _allowed(h, CBZE)
    h.zero_block(h.x[rs1] & ~63)


def _clean(h: Hart, rs1: Operand, mask: int) -> None:
    """Memory is coherent, so nothing happens but what the access itself may raise."""
    _allowed(h, mask)
    h.load(h.x[rs1] & ~63, 1)


@PRIVILEGED.insn("000000000000 rs1 010 00000 0001111", asm="cbo.inval ({rs1})")
def cbo_inval(h: Hart, rs1: Operand) -> None:
    _clean(h, rs1, CBIE)


@PRIVILEGED.insn("000000000001 rs1 010 00000 0001111", asm="cbo.clean ({rs1})")
def cbo_clean(h: Hart, rs1: Operand) -> None:
    _clean(h, rs1, CBCFE)


@PRIVILEGED.insn("000000000010 rs1 010 00000 0001111", asm="cbo.flush ({rs1})")
def cbo_flush(h: Hart, rs1: Operand) -> None:
    _clean(h, rs1, CBCFE)
