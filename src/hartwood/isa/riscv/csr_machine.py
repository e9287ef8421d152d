"""Machine-level control and status registers (Priv. 3.1), with the counters (3.1.10, Unpriv. 7)."""

from __future__ import annotations

import hartwood.isa.riscv as user
from hartwood.bits.words import Bits, Hart
from hartwood.isa.insn import Csr
from hartwood.isa.riscv import trap
from hartwood.isa.riscv.system import (
    ADUE,
    CBCFE,
    CBIE,
    CBZE,
    FIOM,
    FS,
    MACHINE,
    MIE,
    MPIE,
    MPP,
    MPRV,
    MXR,
    PBMTE,
    PRIVILEGED,
    SD,
    SIE,
    SPIE,
    SPP,
    STCE,
    SUM,
    SUPERVISOR,
    TSR,
    TVM,
    TW,
    at_least,
    illegal_if,
    is_set,
    with_bits,
)  # fmt: skip

_ALL = (1 << 64) - 1
#: RV64 with the extensions that misa has letters for (3.1.1).
MISA = 2 << 62 | sum(1 << ord(letter) - ord("A") for letter in "ACDFIMSU")
MSTATUS = SIE | MIE | SPIE | MPIE | SPP | FS | MPRV | SUM | MXR | TVM | TW | TSR
#: Exceptions and interrupts that can be delegated (3.1.8).
MEDELEG, MIDELEG, MIE_BITS = 0xB3FF, 0x222, 0xAAA
#: Interrupts that machine software may set itself (3.1.9).
MIP_BITS = 0x222
MENVCFG = FIOM | CBIE | CBCFE | CBZE | ADUE | PBMTE | STCE


def constant(number: int, name: str, value: int = 0) -> Csr:
    """A register that always reads the same; where its number is one that can be written, writes
    are ignored."""

    @PRIVILEGED.csr(number, name)
    def read(h: Hart) -> Bits:
        return h.const(value, 64)

    if number >> 10 != 3:
        read.writer(_ignore)
    return read


def _ignore(h: Hart, value: Bits) -> None:
    return None


def plain(number: int, name: str, mask: int = _ALL, *, context: bool = False) -> Csr:
    """A register that holds the bits of `mask`; `context`: it has a say in what happens next."""

    @PRIVILEGED.csr(number, name)
    def read(h: Hart) -> Bits:
        return h.sys[name]

    @read.writer
    def write(h: Hart, value: Bits) -> None:
        h.sys[name] = value & mask
        if context:
            h.context_changed()

    return read


def vector(number: int, name: str) -> Csr:
    """A trap vector: direct or vectored; other modes do not exist and change nothing (3.1.7)."""

    @PRIVILEGED.csr(number, name)
    def read(h: Hart) -> Bits:
        return h.sys[name]

    @read.writer
    def write(h: Hart, value: Bits) -> None:
        h.sys[name] = h.select(is_set(value, 2), h.sys[name], value)

    return read


for _number, _name in ((0xF11, "mvendorid"), (0xF12, "marchid"), (0xF13, "mimpid")):
    constant(_number, _name)
constant(0xF15, "mconfigptr")
constant(0x301, "misa", MISA)


@PRIVILEGED.csr(0xF14, "mhartid")
def mhartid(h: Hart) -> Bits:
    return h.sys["mhartid"]


@PRIVILEGED.csr(0x300, "mstatus")
def mstatus(h: Hart) -> Bits:
    return h.sys["mstatus"]


def set_status(h: Hart, value: Bits, mask: int) -> None:
    """Write the bits of `mask` to mstatus; SD says whether FS is dirty (3.1.6.6)."""
    new = with_bits(h.sys["mstatus"], mask, value)
    h.sys["mstatus"] = h.select(new & FS == FS, new | SD, new & ~SD)
    h.context_changed()


@mstatus.writer
def write_mstatus(h: Hart, value: Bits) -> None:
    """MPP keeps its value where the new one is no mode. MXR has a say in what a TLB holds."""
    old = h.sys["mstatus"]
    mpp = h.select(value & MPP == 2 << 11, old, value) & MPP
    h.forget_translations((value ^ old) & MXR != 0)
    set_status(h, value & ~MPP | mpp, MSTATUS | MPP)


vector(0x305, "mtvec")
plain(0x302, "medeleg", MEDELEG)
plain(0x303, "mideleg", MIDELEG, context=True)
plain(0x304, "mie", MIE_BITS, context=True)
plain(0x306, "mcounteren", 0xFFFF_FFFF)
plain(0x340, "mscratch")
plain(0x341, "mepc", _ALL - 1)
plain(0x342, "mcause")
plain(0x343, "mtval")
constant(0x320, "mcountinhibit")


@PRIVILEGED.csr(0x344, "mip")
def mip(h: Hart) -> Bits:
    return trap.pending(h)


def _mip_base(h: Hart) -> Bits:
    """Lines from outside do not take part in a read-modify-write (3.1.9)."""
    return h.sys["mip"]


mip.base = _mip_base


@mip.writer
def write_mip(h: Hart, value: Bits) -> None:
    h.sys["mip"] = value & MIP_BITS
    h.context_changed()


@PRIVILEGED.csr(0x30A, "menvcfg")
def menvcfg(h: Hart) -> Bits:
    return h.sys["menvcfg"]


@menvcfg.writer
def write_menvcfg(h: Hart, value: Bits) -> None:
    """CBIE has a reserved value, which reads as zero. Some of it has a say in translation."""
    known = value & MENVCFG
    h.sys["menvcfg"] = h.select(value & CBIE == 2 << 4, known & ~CBIE, known)
    h.forget_translations(h.const(1, 1))


# Counters. Reads below M need mcounteren's leave, U-mode scounteren's as well (3.1.11, 12.1.5).
def _counter(number: int, name: str, index: int) -> None:
    @PRIVILEGED.csr(number, name)
    def read(h: Hart) -> Bits:
        m, s = is_set(h.sys["mcounteren"], 1 << index), is_set(h.sys["scounteren"], 1 << index)
        illegal_if(h, ~at_least(h, MACHINE) & ~m | ~at_least(h, SUPERVISOR) & ~s)
        if index >= 3:
            return h.const(0, 64)
        count = h.counter(name)
        return count if index == 1 else count + h.sys[f"m{name}"]


for _index, _name in enumerate(("cycle", "time", "instret")):
    _counter(0xC00 + _index, _name, _index)


def _machine_counter(number: int, name: str) -> None:
    """`h.sys` holds what is to be added to the count of the hart."""

    @PRIVILEGED.csr(number, "m" + name)
    def read(h: Hart) -> Bits:
        return h.counter(name) + h.sys["m" + name]

    @read.writer
    def write(h: Hart, value: Bits) -> None:
        h.sys["m" + name] = value - h.counter(name) - 1


_machine_counter(0xB00, "cycle")
_machine_counter(0xB02, "instret")
for _index in range(3, 32):  # Zihpm: they count nothing
    _counter(0xC00 + _index, f"hpmcounter{_index}", _index)
    constant(0xB00 + _index, f"mhpmcounter{_index}")
    constant(0x320 + _index, f"mhpmevent{_index}")


#: The floating-point registers of user level, where mstatus.FS allows them (3.1.6.6).
FLOATING = (0x001, 0x002, 0x003)


def _floating(original: Csr) -> None:
    @PRIVILEGED.csr(original.number, original.name)
    def read(h: Hart) -> Bits:
        illegal_if(h, trap.floating_off(h))
        return original.read(h)

    @read.writer
    def write(h: Hart, value: Bits) -> None:
        assert original.write is not None
        original.write(h, value)
        trap.floating_dirty(h)


for _number in FLOATING:
    _floating(user.RISCV.csrs[_number])
