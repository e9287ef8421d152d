"""Page tables: Sv39, Sv48 and Sv57 with Svnapot, Svpbmt and Svadu (Priv. 12.3 to 12.6, 8 to 11)."""

from __future__ import annotations

from hartwood.bits.words import NOWHERE, Bits, Hart
from hartwood.isa.riscv.system import (
    ADUE,
    MACHINE,
    MPP,
    MPRV,
    MXR,
    PBMTE,
    SUM,
    SUPERVISOR,
    USER,
    is_set,
)  # fmt: skip

FETCH, LOAD, STORE = 0, 1, 2

# Bits of an entry (12.4.1, 9, 10).
V, R, W, X, U, A, D = 1, 2, 4, 8, 16, 64, 128
PBMT, N, RESERVED = 3 << 61, 1 << 63, 0x7F << 54
PPN = (1 << 44) - 1


def page_fault(h: Hart, access: Bits) -> Bits:
    """The cause: 12, 13 or 15 (Priv. table 14)."""
    return h.select(access == STORE, h.const(15, 64), access + 12)


def access_fault(h: Hart, access: Bits) -> Bits:
    """The cause: 1, 5 or 7."""
    return h.select(access == FETCH, h.const(1, 64), access + access + 3)


def data_mode(h: Hart) -> Bits:
    """The privilege level of loads and stores: MPRV borrows that of MPP (3.1.6.3)."""
    status, mode = h.sys["mstatus"], h.sys["mode"]
    return h.select(is_set(status, MPRV), status.shr_u(11) & (MPP >> 11), mode)


def walk(h: Hart, va: Bits, access: Bits, mode: Bits) -> tuple[Bits, Bits, Bits]:
    """Translate `va` for an access from privilege level `mode` (12.3.2): the physical address, the
    bytes of the page that maps it less one, and one bit that is 0 where the walk has to begin
    again. Raises page faults, and access faults where a table is not in memory."""
    satp = h.sys["satp"]
    scheme = satp.shr_u(60)
    bare = (mode == MACHINE) | (scheme == 0)
    levels = scheme - 5  # 8 is Sv39, with three
    fault = page_fault(h, access)
    unused = h.const(25, 64) - (levels - 3) * 9
    h.trap_if(~bare & (va.shl(unused).shr_s(unused) != va), fault, va)
    root = (satp & PPN).shl(12)
    table, pte_at, pte = root, root, h.const(0, 64)
    span, looking = h.const(0, 64), ~bare
    for level in range(4, -1, -1):
        here = looking & h.const(level, 64).lt_u(levels)
        index = va.shr_u(12 + 9 * level) & 0x1FF
        at = h.select(here, table + index.shl(3), pte_at)
        # Where nothing is to be read the walk looks again at what it read, or nowhere.
        entry = h.load_physical(h.select(bare, h.const(NOWHERE, 64), at), access, va)
        leaf = is_set(entry, R | X)
        pbmt = (entry & PBMT == PBMT) | is_set(entry, PBMT) & ~is_set(h.sys["menvcfg"], PBMTE)
        pointer = is_set(entry, A | D | U | N | PBMT) | h.const(level == 0, 1)
        bad = ~is_set(entry, V) | (entry & (R | W) == W) | is_set(entry, RESERVED) | pbmt
        h.trap_if(here & (bad | ~leaf & pointer), fault, va)
        pte, pte_at = h.select(here, entry, pte), at
        span = h.select(here, h.const((4096 << 9 * level) - 1, 64), span)
        table = h.select(here & ~leaf, (entry.shr_u(10) & PPN).shl(12), table)
        looking = looking & ~(here & leaf)
    physical = (pte.shr_u(10) & PPN).shl(12)
    napot = is_set(pte, N)
    wrong = napot & ((span != 4095) | (physical & 0xF000 != 0x8000))
    span = h.select(napot, h.const(0xFFFF, 64), span)
    physical = h.select(napot, physical & ~0xFFFF, physical)
    wrong = wrong | is_set(pte, U) & (mode == SUPERVISOR) & (
        (access == FETCH) | ~is_set(h.sys["mstatus"], SUM)
    )
    wrong = wrong | ~is_set(pte, U) & (mode == USER) | (physical & span != 0)
    readable = is_set(pte, R) | is_set(h.sys["mstatus"], MXR) & is_set(pte, X)
    wrong = wrong | (access == LOAD) & ~readable | (access == STORE) & ~is_set(pte, W)
    wrong = wrong | (access == FETCH) & ~is_set(pte, X)
    marked = pte | A | h.select(access == STORE, h.const(D, 64), 0)
    stale = marked != pte
    h.trap_if(~bare & (wrong | stale & ~is_set(h.sys["menvcfg"], ADUE)), fault, va)
    done = h.update_physical(~bare & stale, pte_at, pte, marked, access, va)
    span = h.select(bare, h.const(4095, 64), span)
    return h.select(bare, va, physical | va & span), span, done
