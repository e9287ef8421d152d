"""Physical memory protection against QEMU: random entries of whole pages, every mode and access."""

from __future__ import annotations

import random
from collections.abc import Callable
from pathlib import Path

import pytest

from hartwood.machine.bare import Machine
from system.bare import RAM, image, number, program, records, run_ours, run_qemu

#: What is probed: pages beyond the program.
PROBED = RAM + 0x30_0000
_OFF, _TOR, _NAPOT = 0, 1 << 3, 3 << 3


def _entry(rng: random.Random) -> tuple[int, int]:
    """Configuration and address register; W without R is reserved."""
    kind = rng.choice([_OFF, _TOR, _NAPOT, _NAPOT])
    flags = rng.choice([0, 1, 3, 4, 5, 7])
    page = PROBED + 0x1000 * rng.randrange(16)
    if kind == _NAPOT:
        size = 0x1000 << rng.randrange(5)
        return kind | flags, ((page & -size) | size // 2 - 1) >> 2
    return kind | flags, page >> 2


def _case(rng: random.Random) -> str:
    """Eight entries and an access to one of sixteen pages from S or U, or from M."""
    lines, config = [], 0
    for index in range(8):
        flags, address = _entry(rng)
        config |= flags << 8 * index
        lines += [number("t0", address), f"csrrw zero, pmpaddr{index}, t0"]
    lines += [number("t0", config), "csrrw zero, pmpcfg0, t0"]
    mode = rng.choice([0, 1, 1, 3])
    at = PROBED + 0x1000 * rng.randrange(16) + 8 * rng.randrange(512)
    lines += [number("t0", 3 << 11), "csrrc zero, mstatus, t0", number("t1", at)]
    if rng.random() < 0.2 and mode != 3:
        # A fetch: what is there is not an instruction, so it traps in any case.
        lines += [
            number("t0", mode << 11),
            "csrrs zero, mstatus, t0",
            "csrrw zero, mepc, t1",
            "mret",
        ]
        return "\n".join(lines)
    access = rng.choice(["ld a0, 0(t1)", "sd zero, 0(t1)", "lbu a0, 0(t1)"])
    lines += [number("t0", mode << 11 | 1 << 17), "addi a0, zero, 55"]
    lines += ["csrrs zero, mstatus, t0", access, "lui t0, 0x20", "csrrc zero, mstatus, t0"]
    return "\n".join(lines)


@pytest.mark.parametrize("seed", range(3))
def test_random_entries(seed: int, oracle: Callable[[str], str], tmp_path: Path) -> None:
    rng = random.Random(seed)
    cases = [_case(rng) for _ in range(120)]
    data = image(program(cases))
    printed = run_ours(data)
    assert run_ours(data, "stitch") == printed
    ours = records(printed)
    theirs = records(run_qemu(oracle("qemu-system-riscv64"), tmp_path, data))
    wrong = [
        f"{case.splitlines()[-3:]} {[hex(w) for w in a]} {[hex(w) for w in b]}"
        for case, a, b in zip(cases, ours, theirs, strict=True)
        if a != b
    ]
    assert not wrong, "\n".join(wrong[:10])
    assert sum(len(case) == 5 for case in ours) in range(20, 110)  # some may and some may not
    few = image(program(cases[:12]))
    assert run_ours(few) == run_ours(few, "reference")


def test_the_grain_shows() -> None:
    """As software finds it out (Priv. 3.7.1.1): all ones, off; and no NA4."""
    cpu = Machine("riscv64")
    cpu.pmpaddr0 = (1 << 64) - 1
    assert cpu.pmpaddr0 == (1 << 54) - (1 << 10)
    cpu.pmpcfg0 = _NAPOT
    assert cpu.pmpaddr0 == (1 << 54) - 1
    cpu.pmpaddr0 = 0
    assert cpu.pmpaddr0 == 0x1FF
    cpu.pmpcfg0 = 2 << 3
    assert cpu.pmpcfg0 == _NAPOT
    cpu.close()


def test_locked_entries_stay() -> None:
    cpu = Machine("riscv64")
    cpu.pmpaddr0, cpu.pmpaddr1 = 0x1000, 0x2000_0000
    cpu.pmpcfg0 = (0x80 | _TOR | 1) << 8
    cpu.pmpcfg0, cpu.pmpaddr0, cpu.pmpaddr1 = 0x1F1F, 5 << 10, 6 << 10
    assert cpu.pmpcfg0 == (0x80 | _TOR | 1) << 8 | 0x1F
    assert (cpu.pmpaddr0 & -0x400, cpu.pmpaddr1) == (0x1000, 0x2000_0000)
    cpu.close()


def test_a_locked_entry_binds_machine_mode() -> None:
    cpu = Machine("riscv64")
    cpu.mem.map(RAM, 0x4000)
    cpu.mem[RAM : RAM + 4] = (0x0005_3583).to_bytes(4, "little")  # ld a1, 0(a0)
    cpu.mtvec = RAM + 0x1000
    for config, cause in ((_NAPOT, 0), (0x80 | _NAPOT, 5)):
        cpu.pmpaddr0, cpu.pmpcfg0 = RAM + 0x2000 >> 2 | 0x1FF, config
        cpu.pc, cpu.a0, cpu.mcause = RAM, RAM + 0x2000, 0
        cpu.step()
        assert cpu.mcause == cause
    cpu.close()
