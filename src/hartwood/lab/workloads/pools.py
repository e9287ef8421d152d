"""Pools against what they would save: an item from Python, from malloc, from mmap each time.

Selector: `memory_pool_bench`. Counters of a call: `allocations` is what had to be made anew,
`pages` what its buffers lie on (locality), `gaps` the bytes between them (fragmentation).
"""

from __future__ import annotations

import ctypes
import random
from array import array
from collections.abc import Callable
from mmap import mmap
from typing import Any

from hartwood.lab import workload
from hartwood.mem import AsyncBufferPool, MemoryPool, PageTableEntryPool, TlbEntryPool

FAMILY = "memory_pool_bench"
KIB, PAGE = 1024, 4096
#: Buffers that are held at a time: `single` from a pool made for it, `reuse` from one that is warm.
HELD = {"single": 1, "reuse": 1, "batch-10": 10, "batch-50": 50, "batch-100": 100}
CASES = [("reuse", 1), ("reuse", 64), *((pattern, 4) for pattern in HELD)]
NOT_GATED = "pool/reuse/64KiB/pool stands for it in the gate; the other ways are to compare with"
#: A look-up in a list takes longer.
FASTEST = 1e-8

#: What all calls of this process did.
_counts = {"allocations": 0, "pages": 0, "gaps": 0}


def counters() -> dict[str, int]:
    """What all calls so far have made and used."""
    return dict(_counts)


def _ways(way: str, size: int, capacity: int) -> tuple[Callable[[], Any], Callable[[Any], object]]:
    """How a buffer is had, and how it is given back, which is nothing to do without a pool."""
    if way == "plain":
        return lambda: memoryview(bytearray(size)), lambda _: None
    if way == "mapped":
        return lambda: memoryview(mmap(-1, size)), lambda _: None
    pool = AsyncBufferPool(capacity=capacity, size=size)
    return pool.acquire, pool.release


def _layout(buffers: list[memoryview]) -> tuple[int, int]:
    """Pages that buffers lie on, and the bytes between the first and the last that are none's."""
    ranges = []
    for buffer in buffers:
        at = ctypes.addressof(ctypes.c_char.from_buffer(buffer))
        ranges.append((at, at + len(buffer)))
    pages = {page for at, end in ranges for page in range(at // PAGE, (end - 1) // PAGE + 1)}
    span = max(end for _, end in ranges) - min(at for at, _ in ranges)
    return len(pages), span - sum(map(len, buffers))


@workload(
    "pool/{pattern}/{size}KiB/{way}", unit="buffers",
    per_call=lambda pattern, size, way: HELD[pattern], component="pool", family=FAMILY,
    group="pool_buffers", bound=FASTEST, why=NOT_GATED,
    gate=lambda pattern, size, way: (pattern, size, way) == ("reuse", 64, "pool"),
    params=[
        {"pattern": pattern, "size": size, "way": way}
        for pattern, size in CASES
        for way in ("pool", "plain", "mapped")
    ],
)  # fmt: skip
def buffers(
    rng: random.Random, pattern: str, size: int, way: str
) -> tuple[Callable[[], bytes], bytes]:
    """Buffers are had, written to on each page, read, and given back."""
    held, length = HELD[pattern], size * KIB
    last = (length - 1) & -PAGE
    marks = rng.randbytes(held)
    places = slice(0, length, PAGE)
    inks = [bytes([mark]) * -(-length // PAGE) for mark in marks]
    warm = _ways(way, length, held)
    first = [warm[0]() for _ in range(held)]
    pages, gaps = _layout(first)
    for buffer in first:
        warm[1](buffer)
    first.clear()
    fresh = way != "pool" or pattern == "single"

    def call() -> bytes:
        acquire, release = _ways(way, length, held) if pattern == "single" else warm
        mine = []
        for ink in inks:
            buffer = acquire()
            buffer[places] = ink
            mine.append(buffer)
        seen = bytes([buffer[last] for buffer in mine])
        if way == "pool":
            for buffer in mine:
                release(buffer)
        _counts["pages"] += pages
        _counts["gaps"] += gaps
        _counts["allocations"] += held * fresh
        return seen

    return call, marks


buffers.counters(counters)

_EMPTY = array("Q", [(1 << 64) - 1]) * 512
#: A pool, what is written to its items, and how an item is had without it.
ITEMS: dict[str, tuple[Callable[[], MemoryPool[Any]], Callable[[], Any]]] = {
    "tlb": (lambda: TlbEntryPool(capacity=1), lambda: array("Q", _EMPTY)),
    "page-table": (lambda: PageTableEntryPool(capacity=1), lambda: memoryview(bytearray(PAGE))),
}


@workload(
    "pool/{what}/{way}", unit="items", component="pool", family=FAMILY, group="pool_items",
    bound=FASTEST, gate=lambda what, way: (what, way) == ("tlb", "pool"),
    why="pool/tlb/pool stands for it in the gate",
    params=[{"what": what, "way": way} for what in ITEMS for way in ("pool", "plain")],
)  # fmt: skip
def items(rng: random.Random, what: str, way: str) -> tuple[Callable[[], object], object]:
    """One item is had and given back; a TLB and a page of a table come empty each time."""
    make_pool, make = ITEMS[what]
    pool = make_pool()
    acquire = pool.acquire if way == "pool" else make
    dirty = {"tlb": slice(0, 2), "page-table": slice(0, 8)}[what]
    ink: object = array("Q", [rng.getrandbits(60)] * 2) if what == "tlb" else bytes([1] * 8)

    def call() -> object:
        item = acquire()
        before = item[0]
        item[dirty] = ink
        if way == "pool":
            pool.release(item)
        _counts["allocations"] += way != "pool"
        return before

    return call, {"tlb": (1 << 64) - 1}.get(what, 0)


items.counters(counters)
