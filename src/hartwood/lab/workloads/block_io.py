"""Requests of a guest to a raw disk: merged by the queue, and each a call of its own (`naive`).

Selector: `block_io_bench`. Requests are done on the thread that is timed; what they read is in the
host's page cache, so that what is measured is ours and the kernel's, and no disk.
"""

from __future__ import annotations

import os
import random
import tempfile
from collections.abc import Callable, Iterator

from hartwood.lab import workload
from hartwood.storage import Queue, Raw, Request

FAMILY = GROUP = "block_io_bench"
SIZE, REQUESTS = 4 << 20, 256
SECTORS, ORDERS, DEPTHS = (512, 4096), ("sequential", "random"), (1, 2, 4, 8, 16, 32, 64)
#: What a request costs at least, in any language.
FASTEST = 2e-8
#: A naive call is the same at any depth, so two stand for all.
NAIVE_DEPTHS = (1, 32)
NOT_GATED = "sectors of 4096 at a depth of 32 stand for it in the gate"


def _disk(rng: random.Random, sector: int) -> tuple[Raw, bytes]:
    """A disk of random bytes, whose file has no name any more."""
    data = rng.randbytes(SIZE)
    number, path = tempfile.mkstemp(prefix="hartwood-block-")
    with open(number, "wb") as file:
        file.write(data)
    try:
        return Raw(path, sector=sector), data
    finally:
        os.unlink(path)


def _places(rng: random.Random, order: str, sector: int) -> list[int]:
    """Where each request begins: no sector twice."""
    first = rng.randrange(SIZE // sector - REQUESTS)
    if order == "random":
        return [at * sector for at in rng.sample(range(SIZE // sector), REQUESTS)]
    return [at * sector for at in range(first, first + REQUESTS)]


def _cases() -> Iterator[dict[str, object]]:
    for way, depths in (("merged", DEPTHS), ("naive", NAIVE_DEPTHS)):
        for order in ORDERS:
            for sector in SECTORS:
                yield from (
                    {"way": way, "order": order, "sector": sector, "depth": depth}
                    for depth in depths
                )


@workload(
    "block/read/{way}/{order}/{sector}/{depth}", unit="requests", per_call=REQUESTS,
    component="disk", family=FAMILY, group=GROUP, bound=FASTEST, params=_cases(),
    gate=lambda way, order, sector, depth: (way, sector, depth) == ("merged", 4096, 32),
    why=NOT_GATED,
)  # fmt: skip
def read(
    rng: random.Random, way: str, order: str, sector: int, depth: int
) -> tuple[Callable[[], list[int]], object]:
    """Reads of one sector, `depth` at a time."""
    disk, data = _disk(rng, sector)
    queue = Queue(disk, workers=0, batching=way == "merged")
    places = _places(rng, order, sector)
    buffers = [memoryview(bytearray(sector)) for _ in places]
    ended: list[int] = []
    requests = [
        Request("read", at, [buffer], sector, ended.append)
        for at, buffer in zip(places, buffers, strict=True)
    ]
    batches = [requests[at : at + depth] for at in range(0, REQUESTS, depth)]

    def call() -> list[int]:
        ended.clear()
        for batch in batches:
            queue.submit(batch)
        return ended

    def verify(answer: object) -> None:
        assert answer == [0] * REQUESTS
        for at, buffer in zip(places, buffers, strict=True):
            assert buffer == data[at : at + sector]

    return call, verify


@workload(
    "block/flush/{way}/{depth}", unit="requests", per_call=lambda way, depth: depth + 1,
    component="disk", family=FAMILY, group=GROUP, bound=FASTEST, clock="wall", gate=False,
    why="a flush takes what the host's disk takes: for the nightly",
    params=[{"way": way, "depth": depth} for way in ("merged", "naive") for depth in (1, 32)],
)  # fmt: skip
def flush(rng: random.Random, way: str, depth: int) -> tuple[Callable[[], list[int]], object]:
    """Sequential writes of 4 KiB and a flush after them."""
    disk, _ = _disk(rng, 4096)
    queue = Queue(disk, workers=0, batching=way == "merged")
    wanted, ended = rng.randbytes(4096 * depth), list[int]()
    view = memoryview(wanted)
    requests = [
        Request("write", at, [view[at : at + 4096]], 4096, ended.append)
        for at in range(0, len(wanted), 4096)
    ]
    requests.append(Request("flush", 0, [], 0, ended.append))

    def call() -> list[int]:
        ended.clear()
        queue.submit(requests)
        return ended

    def verify(answer: object) -> None:
        assert answer == [0] * (depth + 1)
        assert disk.read(0, len(wanted)) == wanted

    return call, verify
