"""Every CSR against QEMU: what each takes, which level may touch it, and what is not there."""

from __future__ import annotations

import random
from collections.abc import Callable
from pathlib import Path

import pytest

from hartwood.isa.riscv.system import SYSTEM
from hartwood.machine.sysreference import DEFINITIONS
from system.bare import image, number, program, records, run_ours, run_qemu

assert DEFINITIONS
#: Where QEMU 7.2 is of another mind, and why that is no mistake of ours.
DIFFERENT = {
    0x301: "misa: QEMU names no fewer extensions, but would let software switch them off",
    0x30A: "menvcfg: 7.2 has no ADUE",
    0x320: "mcountinhibit: may be hard-wired to zero (Priv. 3.1.12)",
    0x14D: "stimecmp: reads as zero in 7.2 until menvcfg.STCE is set",
    **{0xC00 + n: "hpmcounter: QEMU has sixteen" for n in range(19, 32)},
    **{0xB00 + n: "mhpmcounter: may be zero (Priv. 3.1.10)" for n in range(3, 32)},
    **{0x320 + n: "mhpmevent: may be zero (Priv. 3.1.10)" for n in range(3, 32)},
    0x306: "mcounteren: has 32 bits (Priv. 3.1.11)",
    0x106: "scounteren: the same",
    0x302: "medeleg: exceptions that do not exist here, such as those of hypervisors",
    0xB00: "mcycle: counts other things",
    0xB02: "minstret: counts other things",
    0xC00: "cycle: the same",
    0xC01: "time: the same",
    0xC02: "instret: the same",
    0x344: "mip: QEMU's own timer may be pending",
    0xF12: "marchid: QEMU's own",
    0xF13: "mimpid: QEMU's own",
    0xF11: "mvendorid: QEMU's own",
}
#: Bits that QEMU 7.2 keeps although nothing stands behind them.
LAX = {
    "mstatus": 0x600 | 0xF << 32 | 0xC0 << 32,  # vectors; the widths of S and U; hypervisor
    "sstatus": 0x600 | 0x3 << 32,
    "sepc": 1,
    "mepc": 1,
    "mideleg": ~0x222,
    "senvcfg": 3 << 4,  # a reserved value
    "sie": ~0x222,
    "sip": ~0x222,
}
_KEPT = 1 << 17 | 1 << 3 | 1 << 7 | 0x600
VALUES = [0, (1 << 64) - 1, 0x5555_5555_5555_5555, 0xAAAA_AAAA_AAAA_AAAA, 0x1234_5678_9ABC_DEF1]
#: Protection is of a grain of 4 KiB here and 4 bytes there, so it has a test of its own.
_PMP = {csr for csr in SYSTEM.csrs if 0x3A0 <= csr < 0x3F0}
#: Writing these ends the run: interrupts and protection of the machine that measures.
_OWN = {0x305, 0x340, 0x304}


def _case(csr: int, value: int) -> str:
    """Write, set and clear; the answers are mixed so that each counts."""
    name = SYSTEM.csrs[csr].name
    if csr in (0x100, 0x300):  # vectors would make the state dirty; MPP = 2 is no mode
        value &= ~_KEPT if value & 0x1800 != 0x1000 else ~(_KEPT | 0x1800)
    return f"""
    {number("t1", value)}
    addi a0, zero, 0
    csrrs t4, {name}, zero
    csrrw zero, {name}, t1
    csrrs a0, {name}, zero
    csrrw zero, {name}, t4
    """


def _updates(csr: int) -> str:
    name = SYSTEM.csrs[csr].name
    return f"""
    {number("t1", 0x0F0F_0000_0000_0902)}
    addi a0, zero, 0
    csrrs t4, {name}, zero
    csrrs t2, {name}, t1
    csrrc t3, {name}, t1
    csrrs a0, {name}, zero
    xor a0, a0, t3
    csrrw zero, {name}, t4
    """


def _differ(oracle: Callable[[str], str], folder: Path, cases: dict[str, str]) -> list[str]:
    """Cases where QEMU and we differ. The reference, which is slow, has to agree with us in
    every thirtieth."""
    data = image(program(cases.values()))
    printed = run_ours(data)
    assert run_ours(data, "stitch") == printed
    ours = records(printed)
    theirs = records(run_qemu(oracle("qemu-system-riscv64"), folder, data))
    few = image(program(list(cases.values())[::30]))
    assert run_ours(few) == run_ours(few, "reference")
    assert len(ours) == len(cases)
    return [
        f"{name}: {[hex(w) for w in a]} {[hex(w) for w in b]}"
        for name, a, b in zip(cases, ours, theirs, strict=True)
        if [w & ~LAX.get(name.split()[0], 0) for w in a]
        != [w & ~LAX.get(name.split()[0], 0) for w in b]
    ]


@pytest.mark.parametrize("group", range(4))
def test_what_each_register_takes(group: int, oracle: Callable[[str], str], tmp_path: Path) -> None:
    chosen = sorted(set(SYSTEM.csrs) - set(DIFFERENT) - _PMP - _OWN)[group::4]
    cases = {
        f"{SYSTEM.csrs[csr].name} = {value:#x}": _case(csr, value)
        for csr in chosen
        for value in VALUES
    }
    cases |= {f"{SYSTEM.csrs[csr].name} updated": _updates(csr) for csr in chosen}
    assert not _differ(oracle, tmp_path, cases)


def test_what_is_not_there_or_not_allowed(oracle: Callable[[str], str], tmp_path: Path) -> None:
    """Every other number there is, read from M; and every register of ours from S and U."""
    rng = random.Random(7)
    strange = [csr for csr in range(4096) if csr not in SYSTEM.csrs and csr >> 8 & 3 != 2]
    # Triggers and smaller extensions that QEMU has and we have not.
    strange = [csr for csr in strange if not (0x7A0 <= csr < 0x7C0 or csr in _QEMU_ONLY)]
    cases = {hex(csr): _read(csr) for csr in rng.sample(strange, 60)}
    assert not _differ(oracle, tmp_path, cases)


#: State enables, advanced interrupts, entropy and custom registers.
_QEMU_ONLY = {
    *range(0x30C, 0x320), *range(0x10C, 0x110), 0x15, 0x7B0, *range(0x3B0 + 16, 0x3F0),
    *range(0x3A0, 0x3B0), *range(0x322, 0x340), 0x747, 0x757, 0x5A8, 0x308, 0x309, 0x350, 0x351,
    0x35C, 0x150, 0x151, 0x15C, 0xFB0, 0xDB0, *range(0x100, 0x1FF), *range(0x8, 0x10), 0xDA0,
}  # fmt: skip


def _read(csr: int) -> str:
    word = csr << 20 | 2 << 12 | 10 << 7 | 0x73  # csrrs a0, csr, zero
    return f"addi a0, zero, 77\n.word {word:#x}"


def _below(csr: int, level: int) -> str:
    """Read from S or U: mret to the instruction, whose trap or whose ecall comes back."""
    word = csr << 20 | 2 << 12 | 10 << 7 | 0x73
    mpp = {0: "csrrc zero, mstatus, t1", 1: "csrrc zero, mstatus, t1\ncsrrs zero, mstatus, t2"}
    return f"""
    {number("t3", (1 << 54) - 1)}
    csrrw zero, pmpaddr0, t3
    addi t3, zero, 31
    csrrw zero, pmpcfg0, t3
    lui t1, 2
    addiw t1, t1, -2048
    lui t2, 1
    addiw t2, t2, -2048
    {mpp[level]}
    auipc t3, 0
    addi t3, t3, 20
    csrrw zero, mepc, t3
    addi a0, zero, 99
    mret
    .word {word:#x}
    ecall
    """


@pytest.mark.parametrize("level", [0, 1])
def test_lower_levels_are_kept_out(
    level: int, oracle: Callable[[str], str], tmp_path: Path
) -> None:
    chosen = [csr for csr in sorted(SYSTEM.csrs) if csr not in DIFFERENT and csr not in _OWN]
    # A counter that may not be read traps in both.
    chosen = [csr for csr in chosen if csr >> 8 != 0xB and csr >> 8 != 0xC]
    cases = {SYSTEM.csrs[csr].name: _below(csr, level) for csr in chosen}
    assert not _differ(oracle, tmp_path, cases)
