"""A machine with 1 GiB of memory that wrote to 10 MB of it goes back to where it was.

Selector: `snapshot_bench`. The writing is part of it, and where memory is copied on write takes
longer than the restoring (`bench/restore.py` times that alone); `copied` is a copy of all memory.
"""

from __future__ import annotations

import random
from collections.abc import Callable
from mmap import mmap

import hartwood
from hartwood.lab import workload

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
