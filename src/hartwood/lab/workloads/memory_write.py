"""Writes of guest memory, as translated code and as Python make them: widths, order, alignment.

Selector: `memory_write_bench`. Every benchmark reads back what it wrote.
"""

from __future__ import annotations

import random
import threading
from collections.abc import Callable

from hartwood.lab import workload
from hartwood.lab.workloads import _access as access
from hartwood.lab.workloads._guest import U64, counters, guest

FAMILY = "memory_write_bench"
MIB = 1 << 20
#: One or two stores a cycle, as for loads.
FASTEST_STORE = 5e-11


def writes(width: int, order: str, **_: object) -> int:
    """Accesses of one call."""
    return access.pattern("write", width, order).accesses


@workload(
    "write/u{bits}/{order}", unit="writes", per_call=writes, component="execute", family=FAMILY,
    group="memory_write_sizes", bound=FASTEST_STORE, params=access.patterns("write"),
    gate=access.in_gate, why=access.STOOD_FOR,
)  # fmt: skip
def write_sizes(
    rng: random.Random, kind: str, width: int, order: str, bits: int
) -> tuple[Callable[[], int], object]:
    """Translated stores."""
    pattern = access.pattern(kind, width, order)
    return pattern.prepare(f"write/u{bits}/{order}", rng, level=2)


write_sizes.counters(counters)


@workload(
    "write/u64/interpreted", unit="writes", per_call=access.COUNT, component="execute",
    family=FAMILY, group="memory_write_sizes", bound=FASTEST_STORE,
)  # fmt: skip
def write_interpreted(rng: random.Random) -> tuple[Callable[[], int], object]:
    """The same stores, one handler an instruction."""
    pattern = access.Pattern("write", 8, "sequential", 1)
    return pattern.prepare("write/u64/interpreted", rng, level=0)


write_interpreted.counters(counters)

FILL = "; ".join(
    [
        "mv t1, a1; mv t0, a2",
        "loop: addi t0, t0, -1",
        *(f"sd a3, {8 * i}(t1)" for i in range(8)),
        "addi t1, t1, 64; bnez t0, loop; mv a0, t1; ebreak",
    ]
)


@workload(
    "write/throughput/1MiB", unit="bytes", per_call=MIB, component="execute", family=FAMILY,
    group="write_throughput", bound=FASTEST_STORE / 8,
)  # fmt: skip
def throughput(rng: random.Random) -> tuple[Callable[[], int], object]:
    """A mebibyte in translated 8-byte stores."""
    area, value = guest().area("write/throughput", bytes(MIB)), rng.getrandbits(64)

    def verify(end: object) -> None:
        assert end == area + MIB
        assert guest().space.read(area, MIB) == value.to_bytes(8, "little") * (MIB // 8)

    return guest().runner(FILL, {11: area, 12: MIB // 64, 13: value}), verify


throughput.counters(counters)

PYTHON_WRITES = 20
NAIVE = "the naive way is there to be compared with, nobody defends its speed"


@workload(
    "write/python/{way}", unit="writes", per_call=PYTHON_WRITES, component="memory", family=FAMILY,
    group="memory_write_python", bound=1e-8, instructions=True,
    gate=lambda way: way != "locked-bytes", why=NAIVE,
    params=[{"way": way} for way in ("u64", "bytes", "view", "locked-bytes")],
)  # fmt: skip
def write_python(rng: random.Random, way: str) -> tuple[Callable[[], int], object]:
    """8-byte words at random places as Python code of ours writes them; `locked-bytes` is the
    naive way, byte by byte, each under a lock."""
    space, size = guest().space, access.SPAN
    area = guest().area(f"write/python/{way}", rng.randbytes(size))
    slots = rng.sample(range(size // 8), PYTHON_WRITES)
    words = [(area + 8 * slot, rng.getrandbits(64)) for slot in slots]
    raw = [(at, value.to_bytes(8, "little")) for at, value in words]
    lock, view = threading.Lock(), space.view(area, size, write=True).cast("Q")

    def by_number() -> int:
        for at, value in words:
            space.write_u64(at, value)
        return len(words)

    def by_bytes() -> int:
        for at, data in raw:
            space.write(at, data)
        return len(raw)

    def by_view() -> int:
        for slot, (_, value) in zip(slots, words, strict=True):
            view[slot] = value
        return len(words)

    def by_locked_bytes() -> int:
        for at, data in raw:
            for i in range(8):
                with lock:
                    space.write(at + i, data[i : i + 1])
        return len(raw)

    ways = {"u64": by_number, "bytes": by_bytes, "view": by_view, "locked-bytes": by_locked_bytes}

    def verify(count: object) -> None:
        assert count == PYTHON_WRITES
        assert [space.read_u64(at) for at, _ in words] == [value & U64 for _, value in words]

    return ways[way], verify
