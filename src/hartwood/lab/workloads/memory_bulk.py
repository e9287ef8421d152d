"""Blocks of guest memory, 256 bytes to 64 MiB: copied by a guest, read, written and seen by Python.

Selector: `memory_bulk_bench`.
"""

from __future__ import annotations

import random
from collections.abc import Callable
from zlib import crc32

from hartwood.lab import workload
from hartwood.lab.workloads._guest import counters, guest

FAMILY = "memory_bulk_bench"
SIZES = {"256B": 256, "4KiB": 4 << 10, "16KiB": 16 << 10, "1MiB": 1 << 20, "64MiB": 64 << 20}
NOT_GATED = "4 KiB and 1 MiB stand for it; 64 MiB takes longer than a sample of the gate"
#: What a processor moves in a cycle, at most: two vectors of 64 bytes at 6 GHz.
FASTEST_BYTE = 1 / (128 * 6e9)
COPY = "; ".join(
    [
        "lap: mv t1, a1; mv t3, a3; mv t0, a2",
        "loop: addi t0, t0, -1",
        *(f"ld t2, {8 * i}(t1); sd t2, {8 * i}(t3)" for i in range(8)),
        "addi t1, t1, 64; addi t3, t3, 64; bnez t0, loop",
        "addi a4, a4, -1; bnez a4, lap; mv a0, t3; ebreak",
    ]
)
BYTEWISE = "; ".join(
    [
        "mv t1, a1; mv t3, a3; mv t0, a2",
        "loop: lbu t2, 0(t1); sb t2, 0(t3); addi t1, t1, 1; addi t3, t3, 1",
        "addi t0, t0, -1; bnez t0, loop; mv a0, t3; ebreak",
    ]
)


def _areas(rng: random.Random, name: str, size: int) -> tuple[bytes, int, int]:
    """Random bytes, where they are in the guest, and where as many zeros are. The large ones
    share their areas: they are never measured at the same time."""
    data = rng.randbytes(size)
    key = name if size <= 1 << 20 else "large"
    return data, guest().area(f"{key}/from", data), guest().area(f"{key}/to", b"\0", size)


def _laps(size: str) -> int:
    """Guests copy small blocks again and again, or the way into the guest would be measured."""
    return max(1, (256 << 10) // SIZES[size])


def _copied(data: bytes, to: int) -> Callable[[object], None]:
    def verify(end: object) -> None:
        assert end == to + len(data)
        assert guest().space.read(to, len(data)) == data

    return verify


def guest_copy(rng: random.Random, size: str) -> tuple[Callable[[], int], object]:
    """A copy loop of 8-byte words, translated."""
    data, source, to = _areas(rng, f"bulk/copy/{size}", SIZES[size])
    registers = {11: source, 12: SIZES[size] // 64, 13: to, 14: _laps(size)}
    return guest().runner(COPY, registers), _copied(data, to)


def guest_bytes(rng: random.Random, size: str) -> tuple[Callable[[], int], object]:
    """A copy loop of bytes, translated: what an unoptimised memcpy does."""
    data, source, to = _areas(rng, f"bulk/bytes/{size}", SIZES[size])
    return guest().runner(BYTEWISE, {11: source, 12: len(data), 13: to}), _copied(data, to)


def python_read(rng: random.Random, size: str) -> tuple[Callable[[], bytes], object]:
    """A copy out of the guest."""
    data, source, _ = _areas(rng, f"bulk/read/{size}", SIZES[size])
    return lambda: guest().space.read(source, len(data)), data


def python_write(rng: random.Random, size: str) -> tuple[Callable[[], int], object]:
    """A copy into the guest."""
    data, _, to = _areas(rng, f"bulk/write/{size}", SIZES[size])

    def call() -> int:
        guest().space.write(to, data)
        return to + len(data)

    return call, _copied(data, to)


def python_view(rng: random.Random, size: str) -> tuple[Callable[[], memoryview], object]:
    """A view of guest memory: no copy, so its time should not depend on the size."""
    data, source, _ = _areas(rng, f"bulk/view/{size}", SIZES[size])

    def verify(view: object) -> None:
        assert isinstance(view, memoryview)
        assert crc32(view) == crc32(data)

    return lambda: guest().space.view(source, len(data)), verify


def _gated(size: str) -> bool:
    return size in ("4KiB", "1MiB")


for _way, _setup, _names in (
    ("guest-copy", guest_copy, tuple(SIZES)),
    ("guest-bytes", guest_bytes, ("4KiB",)),
    ("read", python_read, tuple(SIZES)),
    ("write", python_write, tuple(SIZES)),
    ("view", python_view, ("4KiB", "64MiB")),
):
    _guests = _way.startswith("guest")
    _made = workload(
        f"bulk/{_way}/{{size}}", unit="bytes", family=FAMILY, group="memory_bulk",
        component="execute" if _guests else "memory",
        per_call=lambda size, way=_way: SIZES[size] * (_laps(size) if way == "guest-copy" else 1),
        # A view moves no byte at all.
        bound=0.0 if _way == "view" else FASTEST_BYTE, gate=_gated, why=NOT_GATED,
        params=[{"size": name} for name in _names], instructions=not _guests,
    )(_setup)  # fmt: skip
    if _guests:
        _made.counters(counters)
