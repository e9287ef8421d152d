"""How many system calls a driver's requests cost: its device, the queue and a file, as in a board.

The promise is at most 40 for 1,000 sequential requests of 4 KiB at a queue depth of 32.
"""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from random import Random

import pytest

from hartwood.dev.virtio.blk import IN, OUT, VirtioBlk
from hartwood.mem.ram import Ram
from hartwood.storage import Queue, Raw
from unit.test_virtio_blk import header
from unit.virtio_driver import BASE, NEXT, WRITE, Driver, memory

BLOCK, SIZE = 4096, 8 << 20
_HEADERS, _STATUS, _DATA = BASE + 0x1_0000, BASE + 0x2_0000, BASE + 0x4_0000


class Sequential:
    """A driver that makes `depth` requests known by one notification, and waits for them."""

    def __init__(self, device: VirtioBlk, queue: Queue, depth: int, ram: Ram) -> None:
        self.queue = queue
        self.driver = Driver(device, ram, size=128, queues=1)
        self.depth, self.ring = depth, self.driver.rings[0]

    def turn(self, kind: int, blocks: list[int]) -> None:
        """Ask for blocks of the disk, to or from as many of memory, and wait for all of them."""
        ram, way = self.driver.ram, WRITE if kind == IN else 0
        for slot, block in enumerate(blocks):
            at = _HEADERS + 16 * slot
            ram.write(at, header(kind, block * BLOCK // 512))
            self.ring.describe(3 * slot, at, 16, NEXT, 3 * slot + 1)
            data = _DATA + BLOCK * slot
            self.ring.describe(3 * slot + 1, data, BLOCK, NEXT | way, 3 * slot + 2)
            self.ring.describe(3 * slot + 2, _STATUS + slot, 1, WRITE)
            ram.write(_STATUS + slot, b"\xff")
            self.ring.offer(3 * slot)
        self.driver.notify(0)
        self.queue.drain()
        assert len(self.ring.used()) == len(blocks)
        assert ram.read(_STATUS, len(blocks)) == bytes(len(blocks))

    def data(self, count: int) -> memoryview:
        return self.driver.ram.view(_DATA, BLOCK * count)


@pytest.fixture
def image(tmp_path: Path) -> Raw:
    path = tmp_path / "disk"
    path.write_bytes(Random(1).randbytes(SIZE))
    return Raw(str(path), sector=4096)


def calls(image: Raw, kind: int, order: Callable[[int], int], depth: int, batching: bool) -> float:
    """System calls for 1,000 requests; what is read and written is right."""
    queue, device = Queue(image, batching=batching), VirtioBlk()
    device.disk = image
    device.requests = queue  # type: ignore[assignment]
    sequential = Sequential(device, queue, depth, memory())
    whole, before = Path(image.path).read_bytes(), image.file.calls
    turns = 1024 // depth
    for turn in range(turns):
        blocks = [order(turn * depth + each) for each in range(depth)]
        data = sequential.data(depth)
        if kind == OUT:
            data[:] = b"".join(block.to_bytes(2, "little") * (BLOCK // 2) for block in blocks)
        sequential.turn(kind, blocks)
        if kind == IN:
            wanted = b"".join(whole[block * BLOCK : (block + 1) * BLOCK] for block in blocks)
            assert data == wanted
        data.release()
    made = image.file.calls - before
    queue.close()
    image.close()
    if kind == OUT:
        written = Path(image.path).read_bytes()
        for number in range(turns * depth):
            block = order(number)
            assert written[block * BLOCK :][:BLOCK] == block.to_bytes(2, "little") * (BLOCK // 2)
    return 1000 * made / (turns * depth)


@pytest.mark.parametrize("kind", [IN, OUT], ids=["read", "write"])
def test_sequential_requests_of_a_queue_are_few_calls(image: Raw, kind: int) -> None:
    assert calls(image, kind, lambda number: number, 32, batching=True) <= 40


@pytest.mark.parametrize("kind", [IN, OUT], ids=["read", "write"])
def test_one_at_a_time_each_is_a_call(image: Raw, kind: int) -> None:
    assert calls(image, kind, lambda number: number, 32, batching=False) == 1000


def test_a_queue_of_one_has_nothing_to_merge(image: Raw) -> None:
    assert calls(image, IN, lambda number: number, 1, batching=True) == 1000


def test_neighbours_are_found_in_any_order_of_a_batch(image: Raw) -> None:
    assert calls(image, IN, lambda number: number ^ 31, 32, batching=True) <= 40


def test_what_is_apart_stays_apart(image: Raw) -> None:
    assert calls(image, IN, lambda number: number * 2 % 2048, 32, batching=True) == 1000
