"""Reads of guest memory, as translated code and as Python see them: widths, order, alignment.

Selectors: `memory_read_bench`; groups memory_read_sizes, sequential_u64_reads, read_throughput.
"""

from __future__ import annotations

import random
import threading
from collections.abc import Callable

from hartwood.lab import workload
from hartwood.lab.workloads import _access as access
from hartwood.lab.workloads._guest import U64, counters, guest

FAMILY = "memory_read_bench"
MIB = 1 << 20
#: A load port takes one or two a cycle, and no processor of today has more than 6 GHz.
FASTEST_LOAD = 5e-11


def reads(width: int, order: str, **_: object) -> int:
    """Accesses of one call."""
    return access.pattern("read", width, order).accesses


@workload(
    "read/u{bits}/{order}", unit="reads", per_call=reads, component="execute", family=FAMILY,
    group="memory_read_sizes", bound=FASTEST_LOAD, params=access.patterns("read"),
    gate=access.in_gate, why=access.STOOD_FOR,
)  # fmt: skip
def read_sizes(
    rng: random.Random, kind: str, width: int, order: str, bits: int
) -> tuple[Callable[[], int], object]:
    """Translated loads."""
    pattern = access.pattern(kind, width, order)
    return pattern.prepare(f"read/u{bits}/{order}", rng, level=2)


read_sizes.counters(counters)


@workload(
    "read/u64/interpreted", unit="reads", per_call=access.COUNT, component="execute",
    family=FAMILY, group="memory_read_sizes", bound=FASTEST_LOAD,
)  # fmt: skip
def read_interpreted(rng: random.Random) -> tuple[Callable[[], int], object]:
    """The same loads, one handler an instruction."""
    return access.Pattern("read", 8, "sequential", 1).prepare("read/u64/interpreted", rng, level=0)


read_interpreted.counters(counters)


IN_ORDER = 65536  # accesses of one call


@workload(
    "read/u64/in-order/{count}", unit="reads", per_call=IN_ORDER,
    component="execute", family=FAMILY, group="sequential_u64_reads", bound=FASTEST_LOAD,
    params=[{"count": count} for count in (64, 1024, 16384)],
    gate=lambda count: count == 16384, why="read/u64/sequential stands for it in the gate",
)  # fmt: skip
def in_order(rng: random.Random, count: int) -> tuple[Callable[[], int], int]:
    """8-byte loads over working sets of the first cache, the second, and beyond."""
    data = rng.randbytes(8 * count)
    area = guest().area(f"in-order/{count}", data)
    laps = IN_ORDER // count
    return guest().runner(access.WALK, {11: area, 12: count // 8, 13: laps}), laps * _sum(
        data
    ) & U64


def _sum(data: bytes) -> int:
    return sum(memoryview(data).cast("Q").tolist())


in_order.counters(counters)


@workload(
    "read/throughput/1MiB", unit="bytes", per_call=MIB, component="execute", family=FAMILY,
    group="read_throughput", bound=FASTEST_LOAD / 8,
)  # fmt: skip
def throughput(rng: random.Random) -> tuple[Callable[[], int], int]:
    """A mebibyte in translated 8-byte loads."""
    data = rng.randbytes(MIB)
    area = guest().area("throughput", data)
    return guest().runner(access.WALK, {11: area, 12: MIB // 64, 13: 1}), _sum(data) & U64


throughput.counters(counters)

PYTHON_READS = 20
NAIVE = "the naive way is there to be compared with, nobody defends its speed"


@workload(
    "read/python/{way}", unit="reads", per_call=PYTHON_READS, component="memory", family=FAMILY,
    group="memory_read_python", bound=1e-8, instructions=True,
    gate=lambda way: way != "locked-bytes", why=NAIVE,
    params=[{"way": way} for way in ("u64", "bytes", "view", "locked-bytes")],
)  # fmt: skip
def read_python(rng: random.Random, way: str) -> tuple[Callable[[], int], int]:
    """Words at random places as Python code of ours reads them. `locked-bytes` is the naive way
    that the others are measured against: byte by byte, each under a lock."""
    data, space = rng.randbytes(access.SPAN), guest().space
    area = guest().area(f"python/{way}", data)
    offsets = [rng.randrange(access.SPAN // 8) * 8 for _ in range(PYTHON_READS)]
    places = [area + offset for offset in offsets]
    lock, view = threading.Lock(), space.view(area, access.SPAN).cast("Q")

    def byte(at: int) -> int:
        with lock:
            return space.read(at, 1)[0]

    calls: dict[str, Callable[[], int]] = {
        "u64": lambda: sum(space.read_u64(at) for at in places),
        "bytes": lambda: sum(int.from_bytes(space.read(at, 8), "little") for at in places),
        "view": lambda: sum(view[offset >> 3] for offset in offsets),
        "locked-bytes": lambda: sum(byte(at + i) << 8 * i for at in places for i in range(8)),
    }
    words = (data[offset : offset + 8] for offset in offsets)
    return calls[way], sum(int.from_bytes(word, "little") for word in words)
