"""The life of machines: made, booted, kept, brought back, reset.

Selector: `snapshot_bench`. `snapshot/restore` is of 1 GiB of which 10 MB were written, which is a
part of it and takes longer than the restoring (`bench/restore.py` times that alone); `copied` is a
copy of all memory.
"""

from __future__ import annotations

import random
from collections.abc import Callable
from mmap import mmap
from typing import Any

import hartwood
from hartwood.isa.riscv.system import SYSTEM
from hartwood.lab import workload
from hartwood.lab.workloads import _programs

FAMILY = "snapshot_bench"
AT, SIZE, PAGE, DIRTY = 0x8000_0000, 1 << 30, 4096, 10_000_000 // 4096
#: A call into the host's kernel that drops a page table takes longer than this.
FASTEST = 1e-6


@workload(
    "snapshot/restore/{how}", unit="restores", component="memory", family=FAMILY,
    group="snapshot_restore", bound=FASTEST, gate=lambda how: how == "cow",
    why="a copy of all memory takes longer than a sample of the gate",
    params=[{"how": how} for how in ("cow", "copied")],
)  # fmt: skip
def restore(rng: random.Random, how: str) -> tuple[Callable[[], bytes], bytes]:
    """Pages are written, then all is as it was; gives a byte of each."""
    machine = hartwood.Machine("riscv64", deterministic=True)
    machine.mem.map(AT, SIZE)
    memory = machine.bus.ram.view(AT, SIZE)
    pages = slice(0, DIRTY * PAGE, PAGE)
    before, after = rng.randbytes(DIRTY), rng.randbytes(DIRTY)
    memory[pages] = before
    if how == "copied":
        kept = mmap(-1, SIZE)
        kept[:] = memory
    else:
        warm = machine.snapshot()

    def call() -> bytes:
        memory[pages] = after
        if how == "cow":
            machine.restore(warm)
        elif how == "copied":
            memory[:] = kept
        return bytes(memory[pages])

    return call, before


#: A kernel that writes a letter and has the firmware switch off (SBI 2.0, 10.1).
KERNEL = """li t0, 0x10000000; li t1, 75; sb t1, 0(t0)
    li a0, 0; li a1, 0; li a7, 0x53525354; li a6, 0; ecall"""
SMALL = 16 << 20


def _boot(rng: random.Random) -> tuple[Callable[[], object], object]:
    """A board is made, its kernel runs to where it switches off, and it is closed."""

    image = _programs.folder() / "kernel"
    image.write_bytes(SYSTEM.assemble(KERNEL, 0x8020_0000))

    def call() -> object:
        said: list[bytes] = []
        with hartwood.board.RiscvVirt(kernel=image, memory=SMALL) as board:
            board.uart.tx = said.append
            return board.run(seconds=10).reason, b"".join(said)

    return call, ("poweroff", b"K")


def _bare(rng: random.Random) -> tuple[Any, bytes, slice]:
    """A machine that has written to some pages of its memory: it, what, and where."""
    machine: Any = hartwood.Machine("riscv64", deterministic=True)
    machine.mem.map(AT, SMALL)
    marks, pages = rng.randbytes(256), slice(0, 256 * PAGE, PAGE)
    machine.bus.ram.view(AT, SMALL)[pages] = marks
    return machine, marks, pages


def _take(rng: random.Random) -> tuple[Callable[[], object], Callable[[object], None]]:
    """A snapshot of a machine that wrote to a page since the last one."""
    machine, marks, pages = _bare(rng)

    def call() -> object:
        machine.mem.write_u8(AT + 1, 1)
        return machine.snapshot()

    def verify(snapshot: object) -> None:
        machine.mem.fill(AT, SMALL, 0)
        machine.restore(snapshot)
        assert bytes(machine.bus.ram.view(AT, SMALL)[pages]) == marks

    return call, verify


def _reset(rng: random.Random) -> tuple[Callable[[], object], object]:
    """A machine runs an instruction, is stopped and reset."""
    machine, _, _ = _bare(rng)

    def call() -> object:
        machine.step()
        machine.stop()
        machine.reset()
        return machine.status, machine.pc

    return call, ("created", 0)


LIVES = {"boot": _boot, "snapshot": _take, "reset": _reset}


@workload(
    "life/{what}", unit="times", component="device", family=FAMILY, group="life", bound=FASTEST,
    gate=lambda what: what == "snapshot", why="makes machines: longer than a sample",
    params=[{"what": what} for what in LIVES],
)  # fmt: skip
def life(rng: random.Random, what: str) -> object:
    """One step of a machine's life."""
    return LIVES[what](rng)
