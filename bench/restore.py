"""How long it takes to bring a machine of 1 GiB that wrote to 10 MB back to a snapshot, beside
copying all of its memory: `python -m bench.restore`. Only the restoring is timed, in turns.
"""

from __future__ import annotations

import statistics
import time
from mmap import mmap

import hartwood

AT, SIZE, PAGE, DIRTY, TIMES = 0x8000_0000, 1 << 30, 4096, 10_000_000 // 4096, 10


def measure() -> dict[str, list[float]]:
    """Milliseconds of each restore by how it was done and where the written pages lay."""
    found: dict[str, list[float]] = {}
    machine = hartwood.Machine("riscv64")
    machine.mem.map(AT, SIZE)
    memory = machine.bus.ram.view(AT, SIZE)
    memory[::PAGE] = b"\1" * (SIZE // PAGE)
    kept = mmap(-1, SIZE)
    kept[:] = memory
    warm = machine.snapshot()
    ways = {"copy-on-write": lambda: machine.restore(warm), "copied": lambda: put(memory, kept)}
    for _ in range(TIMES):
        for layout, step in (("together", PAGE), ("scattered", SIZE // DIRTY & -PAGE)):
            for way, restore in ways.items():
                machine.restore(warm)
                memory[0 : step * DIRTY : step] = b"\2" * DIRTY
                begin = time.perf_counter()
                restore()
                took = (time.perf_counter() - begin) * 1e3
                found.setdefault(f"{way}, {layout}", []).append(took)
                assert memory[0] == memory[step * (DIRTY - 1)] == 1
    machine.close()
    return found


def put(memory: memoryview, kept: mmap) -> None:
    """What there is without copy-on-write."""
    memory[:] = kept


if __name__ == "__main__":
    for name, times in measure().items():
        low, middle, high = min(times), statistics.median(times), max(times)
        print(f"{name}: {middle:.2f} ms (fastest {low:.2f}, slowest {high:.2f})")
