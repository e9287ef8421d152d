"""Debian's kernel on the processor alone: to user space and off again."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import pytest

from hartwood.guests.catalog import GUESTS
from system.small_board import SmallBoard


@pytest.mark.parametrize(("harts", "mmu"), [(1, "sv57"), (2, "sv39")])
def test_linux_runs_a_command_and_powers_off(
    harts: int, mmu: str, guest: Callable[[str], Path]
) -> None:
    kernel, initrd = GUESTS["debian-riscv64"].paths(guest("debian-riscv64"))
    levels = "" if mmu == "sv57" else "no5lvl no4lvl"
    command = "uname -m; grep -c processor /proc/cpuinfo; grep mmu /proc/cpuinfo; false"
    append = f"quiet console=ttyS0 {levels} -- {command}"
    board = SmallBoard(kernel, initrd, append, harts, mmu)
    # Its port has no divisor latch, so what the driver sets for 9600 baud is printed.
    lines = board.run(100).replace("\x18", "").splitlines()
    assert board.off.is_set(), lines[-20:]
    assert "riscv64" in lines
    assert str(harts) in lines
    assert any(line.startswith("mmu") and line.endswith(mmu) for line in lines), lines
    assert "hartwood: status 1" in lines
    first = board.harts[0]
    assert first.instructions > 200_000_000
    assert first.stats()["tlb_misses"] != 0
    board.bus.ram.close()
