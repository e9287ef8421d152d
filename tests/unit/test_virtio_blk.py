"""The disk: every request of the specification, batches, and drivers that ask for nonsense."""

from __future__ import annotations

import errno
import struct
import threading
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from random import Random

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from hartwood.dev.ports import Request
from hartwood.dev.virtio.blk import (
    DISCARD,
    F_DISCARD,
    F_FLUSH,
    F_MQ,
    F_RO,
    F_WRITE_ZEROES,
    FLUSH,
    GET_ID,
    IN,
    IOERR,
    OK,
    OUT,
    UNSUPP,
    WRITE_ZEROES,
    VirtioBlk,
)
from unit.virtio_driver import BASE, MEMORY, Driver, memory, scribble

SIZE = 1 << 20


class MemoryDisk:
    """A disk in a bytearray that does requests at once, or on a thread, or when it is told to."""

    def __init__(self, sector: int = 512, readonly: bool = False) -> None:
        self.sector, self.readonly, self.serial = sector, readonly, "serial-0123456789-tail"
        self.data = bytearray(Random(1).randbytes(SIZE))
        self.size = SIZE
        self.seen: list[list[Request]] = []
        self.waiting: list[Request] | None = None
        self.error = 0
        self.zeroed: list[tuple[int, int, bool]] = []

    def submit(self, requests: Iterable[Request], /) -> None:
        batch = list(requests)
        self.seen.append(batch)
        if self.waiting is None:
            for request in batch:
                request.done(self.do(request))
        else:
            self.waiting += batch

    def do(self, request: Request) -> int:
        assert 0 <= request.at <= request.at + request.size <= SIZE
        assert request.at % self.sector == 0 == request.size % self.sector
        assert not (self.readonly and request.kind in ("write", "discard", "zero"))
        if self.error:
            return self.error
        at = request.at
        if request.kind in ("discard", "zero"):
            self.zeroed.append((at, request.size, request.may_unmap))
            self.data[at : at + request.size] = bytes(request.size)
        assert request.kind in ("read", "write") or not request.buffers
        for buffer in request.buffers:
            if request.kind == "read":
                buffer[:] = self.data[at : at + len(buffer)]
            else:
                self.data[at : at + len(buffer)] = buffer
            at += len(buffer)
        assert not request.buffers or at == request.at + request.size
        return 0


def made(disk: MemoryDisk | None = None, features: int | None = None, size: int = 16) -> Driver:
    disk = disk or MemoryDisk()
    driver = Driver(VirtioBlk(disk=disk, requests=disk), features=features, size=size)
    return driver


@pytest.fixture
def driver() -> Driver:
    return made()


def disk_of(driver: Driver) -> MemoryDisk:
    assert isinstance(driver.device, VirtioBlk)
    assert isinstance(driver.device.disk, MemoryDisk)
    return driver.device.disk


def header(kind: int, sector: int = 0) -> bytes:
    return struct.pack("<IIQ", kind, 0, sector)


def ask(
    driver: Driver, kind: int, sector: int, out: bytes = b"", into: int = 0
) -> tuple[int, bytes]:
    """One request: its status and its data."""
    parts = [header(kind, sector), *([out] if out else [])]
    *data, status = driver.ask(0, parts, [*([into] if into else []), 1])
    return status[0], b"".join(data)


# What it says of itself.
def config(driver: Driver) -> dict[str, int]:
    names = {
        "capacity": (0, 8), "seg_max": (12, 4), "blk_size": (20, 4), "physical": (24, 1),
        "min_io": (26, 2), "num_queues": (34, 2), "max_discard": (36, 4), "discard_seg": (40, 4),
        "discard_align": (44, 4), "max_zeroes": (48, 4), "zeroes_seg": (52, 4), "unmap": (56, 1),
    }  # fmt: skip
    return {name: driver.device.read(0x100 + at, size) for name, (at, size) in names.items()}


@pytest.mark.parametrize(("sector", "exponent"), [(512, 3), (4096, 0)])
def test_the_configuration(sector: int, exponent: int) -> None:
    assert config(made(MemoryDisk(sector))) == {
        "capacity": SIZE // 512, "seg_max": 126, "blk_size": sector, "physical": exponent,
        "min_io": 4096 // sector, "num_queues": 4, "max_discard": 1 << 22, "discard_seg": 1,
        "discard_align": sector // 512, "max_zeroes": 1 << 22, "zeroes_seg": 1, "unmap": 1,
    }  # fmt: skip


def test_features() -> None:
    def bits(readonly: bool) -> set[int]:
        offered = made(MemoryDisk(readonly=readonly)).offered()
        return {bit for bit in range(24) if offered >> bit & 1}

    assert bits(False) == {2, 6, 9, 10, 12, 13, 14}
    assert bits(True) == {2, 5, 6, 9, 10, 12}
    assert F_RO == 5
    assert F_MQ == 12


def test_without_a_disk_there_is_a_disk_of_nothing() -> None:
    driver = Driver(VirtioBlk())
    assert config(driver)["capacity"] == 0
    assert ask(driver, IN, 0, into=512)[0] == IOERR
    assert ask(driver, GET_ID, 0, into=20) == (OK, bytes(20))
    assert ask(driver, FLUSH, 0)[0] == IOERR


# Requests (5.2.6).
def test_what_is_written_is_read(driver: Driver) -> None:
    data = Random(2).randbytes(1024)
    assert ask(driver, OUT, 7, out=data) == (OK, b"")
    assert disk_of(driver).data[7 * 512 : 9 * 512] == data
    assert ask(driver, IN, 8, into=512) == (OK, data[512:])
    assert ask(driver, IN, SIZE // 512 - 1, into=512) == (OK, bytes(disk_of(driver).data[-512:]))


def test_the_disk_gets_the_memory_itself(driver: Driver) -> None:
    places = driver.chain(0, [header(IN)], [512, 1536, 1])
    driver.notify(0)
    ((request,),) = disk_of(driver).seen
    assert [len(buffer) for buffer in request.buffers] == [512, 1536]
    driver.ram.write(places[0], b"over there")
    assert bytes(request.buffers[0][:10]) == b"over there"
    assert driver.rings[0].used() == [(0, 2049)]


@pytest.mark.parametrize(
    ("out", "into"), [([5, 11], [512, 1]), ([16], [100, 413]), ([1] * 8 + [8], [513])]
)
def test_framing_is_the_drivers(driver: Driver, out: list[int], into: list[int]) -> None:
    """Header, data and status may be cut anywhere (2.7.4.1)."""
    whole, parts = header(IN, 3), []
    for size in out:
        parts.append(whole[:size])
        whole = whole[size:]
    written = b"".join(driver.ask(0, parts, into))
    assert written == bytes(disk_of(driver).data[3 * 512 : 4 * 512]) + b"\0"


def test_indirect_descriptors(driver: Driver) -> None:
    places = driver.chain(0, [header(IN, 1)], [512, 1], indirect=True, first=5)
    driver.notify(0)
    assert driver.rings[0].used() == [(5, 513)]
    assert driver.ram.read(places[0], 512) == disk_of(driver).data[512:1024]


def test_the_serial_number(driver: Driver) -> None:
    assert ask(driver, GET_ID, 0, into=20) == (OK, b"serial-0123456789-ta")
    disk_of(driver).serial = "short"
    assert ask(driver, GET_ID, 0, into=20) == (OK, b"short".ljust(20, b"\0"))
    assert ask(driver, GET_ID, 0, into=8) == (OK, b"short\0\0\0")
    assert ask(driver, GET_ID, 0)[0] == IOERR


def test_flush(driver: Driver) -> None:
    assert ask(driver, FLUSH, 0) == (OK, b"")
    assert [request.kind for batch in disk_of(driver).seen for request in batch] == ["flush"]
    assert ask(driver, FLUSH, 0, out=b"data")[0] == IOERR


def extent(sector: int, count: int, flags: int = 0) -> bytes:
    return struct.pack("<QII", sector, count, flags)


@pytest.mark.parametrize("kind", [DISCARD, WRITE_ZEROES])
def test_ranges(driver: Driver, kind: int) -> None:
    assert ask(driver, kind, 0, out=extent(4, 3)) == (OK, b"")
    assert disk_of(driver).zeroed == [(2048, 1536, False)]
    assert disk_of(driver).data[2048:3584] == bytes(1536)
    assert any(disk_of(driver).data[3584:4096])
    for wrong in (extent(0, 0), extent(SIZE // 512, 1), extent((1 << 64) - 1, 1), b"short"):
        assert ask(driver, kind, 0, out=wrong)[0] == IOERR
    assert ask(driver, kind, 0, out=extent(0, 1) * 2)[0] == IOERR  # more than max_..._seg
    assert ask(driver, kind, 0, out=extent(0, (1 << 32) - 1))[0] == IOERR
    assert ask(driver, kind, 0, out=extent(0, 1), into=512)[0] == IOERR
    assert ask(driver, kind, 0, out=extent(0, 1, flags=2))[0] == UNSUPP
    assert len(disk_of(driver).zeroed) == 1


def test_only_zeroes_may_unmap(driver: Driver) -> None:
    assert ask(driver, DISCARD, 0, out=extent(0, 1, flags=1))[0] == UNSUPP
    assert ask(driver, WRITE_ZEROES, 0, out=extent(0, 1, flags=1))[0] == OK
    assert disk_of(driver).zeroed == [(0, 512, True)]


@pytest.mark.parametrize(
    ("kind", "out", "feature"),
    [(FLUSH, b"", F_FLUSH), (DISCARD, extent(0, 1), F_DISCARD),
     (WRITE_ZEROES, extent(0, 1), F_WRITE_ZEROES)],
)  # fmt: skip
def test_what_was_not_negotiated_is_not_done(kind: int, out: bytes, feature: int) -> None:
    assert ask(made(features=0), kind, 0, out=out)[0] == UNSUPP
    assert ask(made(features=1 << feature), kind, 0, out=out)[0] == OK


@pytest.mark.parametrize("kind", [2, 3, 10, 14, 15, 0x8000_0000, 0xFFFF_FFFF])
def test_requests_that_nobody_knows(driver: Driver, kind: int) -> None:
    assert ask(driver, kind, 0, into=512)[0] == UNSUPP
    assert not driver.broken


@pytest.mark.parametrize(
    ("kind", "sector", "out", "into"),
    [
        (IN, SIZE // 512, 0, 512), (IN, SIZE // 512 - 1, 0, 1024), (IN, (1 << 64) - 1, 0, 512),
        (IN, 0, 0, 511), (IN, 0, 0, 0), (IN, 0, 512, 512), (IN, 1 << 55, 0, 512),
        (OUT, SIZE // 512, 512, 0), (OUT, 0, 100, 0), (OUT, 0, 0, 0), (OUT, 0, 512, 512),
        (OUT, (1 << 64) - 1, 512, 0),
    ],
)  # fmt: skip
def test_requests_that_cannot_be(
    driver: Driver, kind: int, sector: int, out: int, into: int
) -> None:
    assert ask(driver, kind, sector, out=bytes(out), into=into)[0] == IOERR
    assert disk_of(driver).seen == []


def test_sectors_of_4096_are_whole() -> None:
    driver = made(MemoryDisk(4096))
    assert ask(driver, IN, 8, into=4096) == (OK, bytes(disk_of(driver).data[4096:8192]))
    for sector, size in ((1, 4096), (8, 512), (4, 4096)):
        assert ask(driver, IN, sector, into=size)[0] == IOERR
        assert ask(driver, OUT, sector, out=bytes(size))[0] == IOERR
    assert ask(driver, WRITE_ZEROES, 0, out=extent(8, 7))[0] == IOERR
    assert ask(driver, WRITE_ZEROES, 0, out=extent(8, 8))[0] == OK


def test_what_is_read_only_is_not_written() -> None:
    driver = made(MemoryDisk(readonly=True))
    before = bytes(disk_of(driver).data)
    assert ask(driver, OUT, 0, out=bytes(512))[0] == IOERR
    assert ask(driver, DISCARD, 0, out=extent(0, 1))[0] == UNSUPP
    assert ask(driver, WRITE_ZEROES, 0, out=extent(0, 1))[0] == UNSUPP
    assert ask(driver, IN, 0, into=512) == (OK, before[:512])
    assert disk_of(driver).data == before


@pytest.mark.parametrize(
    ("number", "status"),
    [(errno.EIO, IOERR), (errno.ENOSPC, IOERR), (errno.EOPNOTSUPP, UNSUPP)],
)
def test_errors_of_the_disk_are_the_drivers(driver: Driver, number: int, status: int) -> None:
    disk_of(driver).error = number
    driver.chain(0, [header(IN)], [512, 1])
    driver.notify(0)
    assert driver.rings[0].used() == [(0, 0)]  # nothing that it could rely on was written
    assert ask(driver, OUT, 0, out=bytes(512))[0] == status
    assert not driver.broken


# Malformed chains.
@pytest.mark.parametrize(
    ("out", "into"), [([b"x" * 15], [1]), ([], [512]), ([header(OUT), bytes(512)], [])]
)
def test_a_request_without_header_or_status(
    driver: Driver, out: list[bytes], into: list[int]
) -> None:
    driver.chain(0, out, into)
    driver.notify(0)
    assert driver.broken
    assert driver.rings[0].used() == []


@pytest.mark.parametrize("index", [0, 1, 2])
@pytest.mark.parametrize("at", [0x1000_1000, BASE + MEMORY - 8, (1 << 64) - 512])
def test_buffers_outside_memory(driver: Driver, index: int, at: int) -> None:
    """Wherever they are in a request, the disk is not asked, and the device lives on."""
    driver.chain(0, [header(IN)], [512, 1])
    size, flags = [(16, 1), (512, 3), (200, 2)][index]
    driver.rings[0].describe(index, at, size, flags, index + 1)
    driver.notify(0)
    assert driver.broken
    assert disk_of(driver).seen == []
    driver.start()
    assert ask(driver, IN, 0, into=512)[0] == OK


def test_good_requests_before_a_bad_one_do_not_hang_the_device(driver: Driver) -> None:
    driver.chain(0, [header(IN)], [512, 1])
    driver.chain(0, [b"short"], [1], first=8)
    driver.notify(0)
    assert driver.broken
    driver.device.quiesce()  # nothing is under way
    assert driver.rings[0].used() == []


# Batches, and disks that take their time.
def test_a_batch_goes_and_comes_back_together() -> None:
    disk = MemoryDisk()
    disk.waiting = []
    driver = made(disk, size=32)
    driver.rings[0].want_event(0)
    for number in range(8):
        driver.chain(0, [header(IN, number)], [512, 1], first=3 * number)
    driver.notify(0)
    assert [len(batch) for batch in disk.seen] == [8]
    for request in reversed(disk.waiting[1:]):
        request.done(disk.do(request))
        assert driver.rings[0].used_index == 0
    disk.waiting[0].done(disk.do(disk.waiting[0]))
    assert [written for _, written in driver.rings[0].used()] == [513] * 8
    assert driver.raised == 1


def test_what_needs_no_disk_is_part_of_the_batch(driver: Driver) -> None:
    disk = disk_of(driver)
    disk.waiting = []
    driver.chain(0, [header(GET_ID)], [20, 1])
    driver.chain(0, [header(99)], [1], first=4)
    driver.notify(0)
    assert driver.rings[0].used() == [(0, 21), (4, 1)]
    assert disk.seen == []


def test_batches_are_bounded() -> None:
    """What is slow does not hold everything up."""
    disk = MemoryDisk()
    disk.waiting = []
    driver = made(disk, size=256)
    for number in range(80):
        driver.chain(0, [header(FLUSH)], [1], first=2 * number)
    driver.notify(0)
    for request in disk.waiting[:64]:
        request.done(0)
    assert len(driver.rings[0].used()) == 64
    for request in disk.waiting[64:]:
        request.done(0)
    assert len(driver.rings[0].used()) == 16


def test_queues_do_not_wait_for_each_other() -> None:
    disk = MemoryDisk()
    disk.waiting = []
    driver = made(disk)
    for queue in range(4):
        driver.chain(queue, [header(IN, queue)], [512, 1])
        driver.notify(queue)
    for queue in (2, 0, 3, 1):
        request = disk.waiting[queue]
        request.done(disk.do(request))
        assert driver.rings[queue].used() == [(0, 513)]


@contextmanager
def worker(disk: MemoryDisk) -> Iterator[None]:
    """A thread that does what waits."""
    stop = threading.Event()
    disk.waiting = []

    def work() -> None:
        while not stop.is_set() or disk.waiting:
            if disk.waiting:
                request = disk.waiting.pop(0)
                request.done(disk.do(request))

    thread = threading.Thread(target=work)
    thread.start()
    try:
        yield
    finally:
        stop.set()
        thread.join(10)


def test_requests_that_end_on_another_thread(driver: Driver) -> None:
    disk, random = disk_of(driver), Random(3)
    with worker(disk):
        for _ in range(50):
            data = random.randbytes(512)
            sector = random.randrange(SIZE // 512)
            places = driver.chain(0, [header(OUT, sector), data], [1])
            driver.ram.write(places[0], b"\xff")
            driver.notify(0)
            driver.device.quiesce()
            assert driver.rings[0].used() == [(0, 1)]
            assert driver.ram.read(places[0], 1) == b"\0"
            assert disk.data[512 * sector : 512 * (sector + 1)] == data


def test_a_reset_in_the_middle(driver: Driver) -> None:
    """It waits for the disk; what was asked is done, and nobody hears of it."""
    disk = disk_of(driver)
    with worker(disk):
        for round_ in range(20):
            ring = driver.rings[0]
            for number in range(5):
                driver.chain(0, [header(OUT, number), bytes([round_]) * 512], [1], first=3 * number)
            driver.notify(0)
            driver.put(0x70, 0)
            assert driver.device.busy == 0
            assert ring.used_index in (0, 5)
            driver.free = BASE + 0x1000
            driver.start()
    assert disk.data[: 5 * 512] == bytes([19]) * 5 * 512


def test_a_machine_that_is_closed_under_a_request(driver: Driver) -> None:
    disk = disk_of(driver)
    disk.waiting = []
    driver.chain(0, [header(IN)], [512, 1])
    driver.notify(0)
    driver.ram.close()
    for request in disk.waiting:
        request.done(disk.do(request))
    driver.device.quiesce()
    assert driver.device.trouble


# Noise.
@settings(max_examples=80)
@given(seed=st.integers(0, 1 << 32), sector=st.sampled_from([512, 4096]))
def test_no_guest_breaks_more_than_its_disk(seed: int, sector: int) -> None:
    random, disk = Random(seed), MemoryDisk(sector)
    driver = made(disk, size=random.choice([4, 16]))
    for _ in range(80):
        if random.random() < 0.3 and driver.free < BASE + MEMORY - 0x4000:
            kind = random.choice([IN, OUT, FLUSH, GET_ID, DISCARD, WRITE_ZEROES])
            parts = [header(kind, random.randrange(4096)), bytes(random.choice([16, 512, 4096]))]
            driver.chain(0, parts[: random.randrange(1, 3)], [random.choice([20, 512]), 1])
            driver.notify(0)
        else:
            scribble(driver, random)
    driver.device.quiesce()
    driver.free = BASE + 0x1000
    driver.start()
    assert ask(driver, IN, 0, into=4096) == (OK, bytes(disk.data[:4096]))


def test_two_disks_share_a_memory() -> None:
    ram = memory()
    disks = [MemoryDisk(), MemoryDisk(4096)]
    drivers = [Driver(VirtioBlk(disk=disk, requests=disk), ram) for disk in disks]
    drivers[1].free = BASE + 0x40000
    drivers[1].start()
    for driver, disk in zip(drivers, disks, strict=True):
        assert ask(driver, IN, 0, into=4096) == (OK, bytes(disk.data[:4096]))
