"""Traps: which interrupt comes first, where a trap goes, what it writes (Priv. 3.1, 12.1)."""

from __future__ import annotations

from hartwood.bits.words import Bits, Hart
from hartwood.isa.riscv.system import (
    FS,
    MACHINE,
    MIE,
    MPIE,
    MPP,
    SD,
    SIE,
    SPIE,
    SPP,
    STCE,
    SUPERVISOR,
    at_least,
    is_set,
    with_bits,
)  # fmt: skip

#: Bit of a cause that says interrupt.
INTERRUPT = 1 << 63

# Interrupt numbers (Priv. table 14), highest priority first (3.1.9).
PRIORITY = (11, 3, 7, 9, 1, 5)
SSI, MSI, STI, MTI, SEI, MEI = 1, 3, 5, 7, 9, 11


def pending(h: Hart) -> Bits:
    """The value of mip: what software set, the lines from outside, and the timers."""
    now = h.counter("time")
    timer = h.select(~now.lt_u(h.sys["mtimecmp"]), 1 << MTI, 0)
    stce = is_set(h.sys["menvcfg"], STCE)
    due = h.select(~now.lt_u(h.sys["stimecmp"]), 1 << STI, 0)
    soft = h.sys["mip"]
    with_timer = h.select(stce, soft & ~(1 << STI) | due, soft)
    return with_timer | h.sys["lines"] | timer


def interrupt(h: Hart, mip: Bits) -> Bits:
    """The cause of the interrupt to take now, zero for none (3.1.9, 12.1.3)."""
    mode, status, deleg = h.sys["mode"], h.sys["mstatus"], h.sys["mideleg"]
    on = mip & h.sys["mie"]
    for_m = (mode != MACHINE) | is_set(status, MIE)
    for_s = mode.lt_u(SUPERVISOR) | (mode == SUPERVISOR) & is_set(status, SIE)
    m = h.select(for_m, on & ~deleg, 0)
    s = h.select(for_s, on & deleg, 0)
    chosen = h.select(m != 0, m, s)
    cause = h.const(0, 64)
    for number in reversed(PRIORITY):
        cause = h.select(is_set(chosen, 1 << number), INTERRUPT | number, cause)
    return cause


def take(h: Hart, cause: Bits, tval: Bits) -> None:
    """Enter the handler of the mode that the trap is delegated to (3.1.8, 12.1.1)."""
    mode, status = h.sys["mode"], h.sys["mstatus"]
    asynchronous = is_set(cause, INTERRUPT)
    deleg = h.select(asynchronous, h.sys["mideleg"], h.sys["medeleg"])
    to_s = ~at_least(h, MACHINE) & (deleg.shr_u(cause) & 1 != 0)
    for name, value in (("epc", h.pc), ("cause", cause), ("tval", tval)):
        h.sys["s" + name] = h.select(to_s, value, h.sys["s" + name])
        h.sys["m" + name] = h.select(to_s, h.sys["m" + name], value)
    in_s = with_bits(status, SIE | SPIE | SPP, (status & SIE).shl(4) | mode.shl(8))
    in_m = with_bits(status, MIE | MPIE | MPP, (status & MIE).shl(4) | mode.shl(11))
    h.sys["mstatus"] = h.select(to_s, in_s, in_m)
    h.sys["mode"] = h.select(to_s, h.const(SUPERVISOR, 64), MACHINE)
    vector = h.select(to_s, h.sys["stvec"], h.sys["mtvec"])
    offset = h.select(asynchronous & (vector & 1 != 0), cause.shl(2), 0)
    h.context_changed()
    h.jump((vector & ~3) + offset)


def floating_off(h: Hart) -> Bits:
    """One bit: mstatus.FS says that floating-point instructions are illegal (3.1.6.6)."""
    return h.sys["mstatus"] & FS == 0


def floating_dirty(h: Hart) -> None:
    """Floating-point state changes: FS is dirty, and so is the sum of all, SD."""
    h.sys["mstatus"] = h.sys["mstatus"] | FS | SD
