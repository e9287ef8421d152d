"""How long it takes to bring a machine of 1 GiB that wrote to 10 MB back to a snapshot, beside
copying all of its memory: `python -m bench.restore`. Only the restoring is timed, in turns.
"""

from __future__ import annotations

import statistics
import time
from mmap import mmap

import hartwood

AT, SIZE, PAGE, DIRTY = 0x8000_0000, 1 << 30, 4096, 10_000_000 // 4096
#: Turns, and those of them in which all memory is copied too, which takes its time.
TIMES, COPIES = 40, 10


def machine() -> tuple[hartwood.Machine, memoryview]:
    """A machine whose memory is all in use."""
    made = hartwood.Machine("riscv64")
    made.mem.map(AT, SIZE)
    memory = made.bus.ram.view(AT, SIZE)
    memory[::PAGE] = b"\1" * (SIZE // PAGE)
    return made, memory


def measure() -> dict[str, list[float]]:
    """Milliseconds of each restore by how it was done and where the written pages lay."""
    found: dict[str, list[float]] = {}
    (shared, memory), (plain, copy) = machine(), machine()
    warm, kept = shared.snapshot(), mmap(-1, SIZE)
    kept[:] = copy

    def put() -> None:
        copy[:] = kept

    def back() -> None:
        shared.restore(warm)

    ways = (("copy-on-write", memory, back, TIMES), ("copied", copy, put, COPIES))
    for turn in range(TIMES):
        for layout, step in (("together", PAGE), ("scattered", SIZE // DIRTY & -PAGE)):
            for way, written, restore, times in ways:
                if turn < times:
                    written[0 : step * DIRTY : step] = b"\2" * DIRTY
                    begin = time.perf_counter()
                    restore()
                    took = (time.perf_counter() - begin) * 1e3
                    found.setdefault(f"{way}, {layout}", []).append(took)
                    assert written[0] == written[step * (DIRTY - 1)] == 1
    shared.close()
    plain.close()
    return found


if __name__ == "__main__":
    for name, times in measure().items():
        low, middle, high = min(times), statistics.median(times), max(times)
        print(f"{name}: {middle:.2f} ms (fastest {low:.2f}, slowest {high:.2f})")
