"""Supervisor-level control and status registers (Priv. 12.1), and Sstc's timer (Priv. 14)."""

from __future__ import annotations

from hartwood.bits.words import Bits, Hart
from hartwood.isa.riscv import trap
from hartwood.isa.riscv.csr_machine import plain, set_status, vector
from hartwood.isa.riscv.system import (
    CBCFE,
    CBIE,
    CBZE,
    FIOM,
    FS,
    MACHINE,
    MXR,
    PRIVILEGED,
    SD,
    SIE,
    SPIE,
    SPP,
    STCE,
    SUM,
    SUPERVISOR,
    TVM,
    at_least,
    illegal_if,
    is_set,
)  # fmt: skip

SSTATUS = SIE | SPIE | SPP | FS | SUM | MXR
_UXL = 3 << 32
#: Interrupts that supervisor software may set itself (12.1.3).
SIP_BITS = 1 << trap.SSI
SENVCFG = FIOM | CBIE | CBCFE | CBZE


@PRIVILEGED.csr(0x100, "sstatus")
def sstatus(h: Hart) -> Bits:
    return h.sys["mstatus"] & (SSTATUS | _UXL | SD)


@sstatus.writer
def write_sstatus(h: Hart, value: Bits) -> None:
    h.forget_translations((value ^ h.sys["mstatus"]) & MXR != 0)
    set_status(h, value, SSTATUS)


@PRIVILEGED.csr(0x104, "sie")
def sie(h: Hart) -> Bits:
    return h.sys["mie"] & h.sys["mideleg"]


@sie.writer
def write_sie(h: Hart, value: Bits) -> None:
    mask = h.sys["mideleg"]
    h.sys["mie"] = h.sys["mie"] & ~mask | value & mask
    h.context_changed()


@PRIVILEGED.csr(0x144, "sip")
def sip(h: Hart) -> Bits:
    return trap.pending(h) & h.sys["mideleg"]


@sip.writer
def write_sip(h: Hart, value: Bits) -> None:
    mask = h.sys["mideleg"] & SIP_BITS
    h.sys["mip"] = h.sys["mip"] & ~mask | value & mask
    h.context_changed()


vector(0x105, "stvec")
plain(0x106, "scounteren", 0xFFFF_FFFF)
plain(0x140, "sscratch")
plain(0x141, "sepc", (1 << 64) - 2)
plain(0x142, "scause")
plain(0x143, "stval")


@PRIVILEGED.csr(0x10A, "senvcfg")
def senvcfg(h: Hart) -> Bits:
    return h.sys["senvcfg"]


@senvcfg.writer
def write_senvcfg(h: Hart, value: Bits) -> None:
    known = value & SENVCFG
    h.sys["senvcfg"] = h.select(value & CBIE == 2 << 4, known & ~CBIE, known)


@PRIVILEGED.csr(0x180, "satp")
def satp(h: Hart) -> Bits:
    """TVM keeps S-mode away from it (3.1.6.5)."""
    illegal_if(h, is_set(h.sys["mstatus"], TVM) & ~at_least(h, MACHINE))
    return h.sys["satp"]


@satp.writer
def write_satp(h: Hart, value: Bits) -> None:
    """A scheme that is not there means that nothing is written (12.1.11)."""
    scheme = value.shr_u(60)
    known = (scheme == 0) | (scheme == 8) | (scheme == 9) | (scheme == 10)
    old = h.sys["satp"]
    h.sys["satp"] = h.select(known, value, old)
    h.forget_translations(known & (value != old))


@PRIVILEGED.csr(0x14D, "stimecmp")
def stimecmp(h: Hart) -> Bits:
    """Below M it takes menvcfg.STCE and mcounteren.TM (14.1)."""
    allowed = is_set(h.sys["menvcfg"], STCE) & is_set(h.sys["mcounteren"], 2)
    illegal_if(h, ~at_least(h, MACHINE) & ~allowed)
    illegal_if(h, ~at_least(h, SUPERVISOR))
    return h.sys["stimecmp"]


@stimecmp.writer
def write_stimecmp(h: Hart, value: Bits) -> None:
    h.sys["stimecmp"] = value
    h.context_changed()
