"""Physical memory protection: sixteen entries of a grain of 4 KiB (Priv. 3.7).

The grain is that of translation, so that whether a page may be accessed has one answer.
"""

from __future__ import annotations

from hartwood.bits.words import Bits, Hart
from hartwood.isa.riscv.system import MACHINE, PRIVILEGED

ENTRIES = 16
ADDRESS = (1 << 54) - 1
_R, _W, _A, _L = 1, 2, 3 << 3, 1 << 7
_TOR, _NAPOT = 1 << 3, 3 << 3
#: Low bits of an address register that the grain takes (3.7.1.1, G = 10).
_GRAIN = (1 << 10) - 1


def _config(h: Hart, entry: int) -> Bits:
    return h.sys[f"pmpcfg{entry // 8 * 2}"].shr_u(entry % 8 * 8) & 0xFF


def decides(h: Hart, entry: int, at: Bits, access: Bits, mode: Bits) -> tuple[Bits, Bits]:
    """One bit: an entry matches a physical address; and one: it then allows the access (0 fetch,
    1 load, 2 store) from `mode` (3.7.1)."""
    word = at.shr_u(2)
    # X, R and W are bits 2, 0 and 1 of an entry.
    wanted = h.select(access == 0, h.const(4, 64), access)
    config, address = _config(h, entry), h.sys[f"pmpaddr{entry}"]
    below = h.sys[f"pmpaddr{entry - 1}"] & ~_GRAIN if entry else h.const(0, 64)
    ones = address | _GRAIN >> 1
    in_napot = (word ^ ones) & ~(ones ^ ones + 1) == 0
    in_tor = ~word.lt_u(below) & word.lt_u(address & ~_GRAIN)
    kind = config & _A
    matches = (kind == _NAPOT) & in_napot | (kind == _TOR) & in_tor
    free = (mode == MACHINE) & (config & _L == 0)
    return matches, free | (config & wanted != 0)


def unmatched(mode: Bits) -> Bits:
    """One bit: what no entry matches is allowed, as to M (3.7.1.3)."""
    return mode == MACHINE


def allows(h: Hart, at: Bits, access: Bits, mode: Bits) -> Bits:
    """One bit: the first entry that matches allows the access."""
    allowed = unmatched(mode)
    for entry in reversed(range(ENTRIES)):
        matches, verdict = decides(h, entry, at, access, mode)
        allowed = h.select(matches, verdict, allowed)
    return allowed


def _written(h: Hart, old: Bits, new: Bits) -> Bits:
    """One byte of configuration: locked ones stay, W without R and NA4, which the grain
    excludes, do not exist."""
    value = new & 0x9F
    value = h.select(value & (_R | _W) == _W, value & ~_W, value)
    value = h.select(value & _A == 2 << 3, value & ~_A | old & _A, value)
    return h.select(old & _L != 0, old, value)


def _config_csr(number: int) -> None:
    name = f"pmpcfg{number}"

    @PRIVILEGED.csr(0x3A0 + number, name)
    def read(h: Hart) -> Bits:
        return h.sys[name]

    @read.writer
    def write(h: Hart, value: Bits) -> None:
        old, total = h.sys[name], h.const(0, 64)
        for shift in range(0, 64, 8):
            byte = _written(h, old.shr_u(shift) & 0xFF, value.shr_u(shift) & 0xFF)
            total = total | byte.shl(shift)
        h.sys[name] = total
        h.forget_translations(h.const(1, 1))


def _address_csr(entry: int) -> None:
    name = f"pmpaddr{entry}"

    @PRIVILEGED.csr(0x3B0 + entry, name)
    def read(h: Hart) -> Bits:
        """The grain shows: ones in NAPOT mode, zeros otherwise."""
        value = h.sys[name]
        napot = _config(h, entry) & _A == _NAPOT
        return h.select(napot, value | _GRAIN >> 1, value & ~_GRAIN)

    @read.writer
    def write(h: Hart, value: Bits) -> None:
        locked = _config(h, entry) & _L != 0
        if entry + 1 < ENTRIES:
            above = _config(h, entry + 1)
            locked = locked | (above & (_L | _A) == _L | _TOR)
        h.sys[name] = h.select(locked, h.sys[name], value & ADDRESS)
        h.forget_translations(h.const(1, 1))


for _number in (0, 2):
    _config_csr(_number)
for _entry in range(ENTRIES):
    _address_csr(_entry)
