"""The driver's side of virtio over MMIO, as the specification has it, for tests of devices."""

from __future__ import annotations

import struct
from collections.abc import Callable, Sequence
from contextlib import suppress
from random import Random

from hartwood.dev.virtio.mmio import VirtioMmio
from hartwood.errors import MemoryFault
from hartwood.mem.ram import Ram

BASE, MEMORY = 0x8000_0000, 1 << 20
ACKNOWLEDGE, DRIVER, DRIVER_OK, FEATURES_OK, NEEDS_RESET = 1, 2, 4, 8, 0x40
NEXT, WRITE, INDIRECT = 1, 2, 4
VERSION_1, F_INDIRECT, F_EVENT_IDX = 1 << 32, 1 << 28, 1 << 29


def memory() -> Ram:
    """A little memory, at the usual place."""
    ram = Ram(MEMORY)
    ram.map(BASE, MEMORY)
    return ram


class Ring:
    """One queue as a driver sees it, at `at`."""

    def __init__(self, ram: Ram, at: int, size: int) -> None:
        self.ram, self.size = ram, size
        self.descriptors = at
        self.driver = at + 16 * size
        self.device = self.driver + 6 + 2 * size + 3 & -4
        self.end = self.device + 6 + 8 * size
        self.added = self.seen = 0

    def word(self, at: int) -> int:
        return int.from_bytes(self.ram.read(at, 2), "little")

    def put_word(self, at: int, value: int) -> None:
        self.ram.write(at, struct.pack("<H", value & 0xFFFF))

    def describe(self, index: int, at: int, size: int, flags: int = 0, following: int = 0) -> None:
        """Write one descriptor."""
        packed = struct.pack("<QIHH", at, size, flags, following)
        self.ram.write(self.descriptors + 16 * index, packed)

    def offer(self, head: int) -> None:
        """Make a chain available."""
        self.put_word(self.driver + 4 + 2 * (self.added % self.size), head)
        self.added += 1
        self.put_word(self.driver + 2, self.added)

    @property
    def used_index(self) -> int:
        return self.word(self.device + 2)

    @property
    def avail_event(self) -> int:
        return self.word(self.device + 4 + 8 * self.size)

    def want_event(self, index: int) -> None:
        """used_event: interrupt me when so many are used."""
        self.put_word(self.driver + 4 + 2 * self.size, index)

    def used(self) -> list[tuple[int, int]]:
        """What was given back since the last time: (head, bytes written)."""
        found = []
        while self.seen & 0xFFFF != self.used_index:
            at = self.device + 4 + 8 * (self.seen % self.size)
            found.append(struct.unpack("<II", self.ram.read(at, 8)))
            self.seen += 1
        return found


class Driver:
    """A device with a well-behaved driver; the tests misbehave through its parts."""

    def __init__(
        self, device: VirtioMmio, ram: Ram | None = None, features: int | None = None,
        size: int = 16, queues: int | None = None,
    ) -> None:  # fmt: skip
        self.device, self.ram = device, ram or memory()
        device.ram = self.ram
        device.irq = self._line
        self.level, self.raised = False, 0
        self.free = BASE + 0x1000
        self.rings: list[Ring] = []
        self.size = size
        self.queues = device.queue_count if queues is None else queues
        self.start(features)

    def _line(self, level: bool) -> None:
        self.raised += level and not self.level
        self.level = level

    def put(self, offset: int, value: int) -> None:
        self.device.write(offset, 4, value)

    def get(self, offset: int) -> int:
        return self.device.read(offset, 4)

    def offered(self) -> int:
        """The device's features."""
        halves = []
        for half in (0, 1):
            self.put(0x14, half)
            halves.append(self.get(0x10))
        return halves[0] | halves[1] << 32

    def start(self, features: int | None = None) -> None:
        """The initialisation of 3.1.1; all features unless told which."""
        for status in (0, ACKNOWLEDGE, DRIVER):
            self.put(0x70, status)
        self.features = self.offered() if features is None else features | VERSION_1
        for half in (0, 1):
            self.put(0x24, half)
            self.put(0x20, self.features >> 32 * half & 0xFFFF_FFFF)
        self.put(0x70, FEATURES_OK)
        assert self.status & FEATURES_OK
        self.rings = [self.connect(index) for index in range(self.queues)]
        self.put(0x70, DRIVER_OK)

    def connect(self, index: int) -> Ring:
        """Set a queue up."""
        at = self.room(26 * self.size + 32)
        ring = Ring(self.ram, at, self.size)
        self.ram.write(at, bytes(ring.end - at))
        self.put(0x30, index)
        self.put(0x38, self.size)
        for offset, at in ((0x80, ring.descriptors), (0x90, ring.driver), (0xA0, ring.device)):
            self.put(offset, at & 0xFFFF_FFFF)
            self.put(offset + 4, at >> 32)
        self.put(0x44, 1)
        return ring

    @property
    def status(self) -> int:
        return self.get(0x70)

    @property
    def broken(self) -> bool:
        """The device needs a reset and has said so by an interrupt."""
        broken = bool(self.status & NEEDS_RESET)
        assert not broken or (self.level and self.get(0x60) & 2)
        return broken

    def acknowledge(self) -> int:
        """What the interrupt was about; the line falls."""
        why = self.get(0x60)
        self.put(0x64, why)
        return why

    def room(self, size: int) -> int:
        """Memory of the driver's own."""
        at, self.free = self.free, self.free + size + 15 & -16
        assert self.free <= BASE + MEMORY
        return at

    def chain(
        self, queue: int, out: Sequence[bytes], into: Sequence[int] = (), *, first: int = 0,
        indirect: bool = False,
    ) -> list[int]:  # fmt: skip
        """Offer a buffer from descriptor `first` on; the addresses of the parts written into."""
        ring = self.rings[queue]
        parts = [(self.room(len(data)), len(data), 0) for data in out]
        for (at, _, _), data in zip(parts, out, strict=True):
            self.ram.write(at, data)
        parts += [(self.room(size), size, WRITE) for size in into]
        last = len(parts) - 1
        if indirect:
            table = self.room(16 * len(parts))
            for index, (at, size, flags) in enumerate(parts):
                more = (NEXT if index < last else 0) | flags
                entry = struct.pack("<QIHH", at, size, more, index + 1)
                self.ram.write(table + 16 * index, entry)
            ring.describe(first, table, 16 * len(parts), INDIRECT)
        else:
            for index, (at, size, flags) in enumerate(parts):
                more = (NEXT if index < last else 0) | flags
                ring.describe(first + index, at, size, more, first + index + 1)
        ring.offer(first)
        return [at for at, _, flags in parts if flags]

    def notify(self, queue: int) -> None:
        self.put(0x50, queue)

    def ask(self, queue: int, out: Sequence[bytes], into: Sequence[int] = ()) -> list[bytes]:
        """One buffer there and back: what was written into it."""
        places = self.chain(queue, out, into)
        self.notify(queue)
        ((head, _),) = self.rings[queue].used()
        assert head == 0
        return [self.ram.read(at, size) for at, size in zip(places, into, strict=True)]


def scribble(driver: Driver, random: Random) -> None:
    """One thing that a hostile guest does: to the registers, or to the rings."""
    ring = random.choice(driver.rings) if driver.rings else None
    what = random.randrange(8)
    if what == 0:
        driver.device.write(4 * random.randrange(0x80), 4, _number(random))
    elif what == 1:
        driver.device.read(random.randrange(0x200), random.choice([1, 2, 4, 8]))
    elif what == 2:
        width = random.choice([1, 2, 4, 8])
        driver.device.write(random.randrange(0x200), width, random.getrandbits(8 * width))
    elif what == 3 and random.random() < 0.3:
        with suppress(AssertionError):
            driver.start(random.choice([None, 0, F_INDIRECT]))
    elif ring is not None:
        _spoil(driver, ring, random)
    driver.notify(random.randrange(driver.device.queue_count + 1))


def _number(random: Random) -> int:
    return random.choice([0, 1, 2, 15, 0xFFFF_FFFF, BASE, random.getrandbits(32)])


def _spoil(driver: Driver, ring: Ring, random: Random) -> None:
    if driver.free > BASE + MEMORY - 0x8000:
        driver.free = BASE + 0x8000
    places: list[Callable[[], int]] = [
        lambda: driver.room(random.randrange(1, 600)),
        lambda: ring.descriptors, lambda: ring.device,
        lambda: BASE + MEMORY - 8, lambda: 0x1000_0000, lambda: random.getrandbits(64),
    ]  # fmt: skip
    for _ in range(random.randrange(1, 4)):
        at = places[0]() if random.random() < 0.8 else random.choice(places)()
        size = random.choice([1, 8, 16, 24, 512, 4096, 0, 0xFFFF_FFFF, random.randrange(600)])
        ring.describe(
            random.randrange(ring.size), at, size, random.choice([0, 1, 2, 3, 4, 5, 7]),
            random.choice([0, 1, 2, 3, ring.size, random.getrandbits(16)]),
        )  # fmt: skip
        with suppress(MemoryFault):
            driver.ram.write(at, struct.pack("<IIQ", random.choice([0, 1, 4, 8, 11, 13]), 0, 3))
    if random.random() < 0.1:
        ring.put_word(ring.driver + 2, random.getrandbits(16))
    for _ in range(random.randrange(3)):
        ring.offer(random.randrange(ring.size + (random.random() < 0.1)))
