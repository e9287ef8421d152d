"""Virtio over MMIO: registers, initialisation, resets, and what a broken driver does to itself."""

from __future__ import annotations

import threading
from collections.abc import Callable
from dataclasses import dataclass
from random import Random
from typing import ClassVar

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from hartwood.dev.device import DeviceError
from hartwood.dev.virtio.console import VirtioConsole
from hartwood.dev.virtio.mmio import VirtioMmio, Work
from hartwood.dev.virtio.queue import Queue
from hartwood.dev.virtio.rng import VirtioRng
from unit.virtio_driver import (
    ACKNOWLEDGE,
    BASE,
    DRIVER,
    DRIVER_OK,
    F_EVENT_IDX,
    F_INDIRECT,
    FEATURES_OK,
    NEEDS_RESET,
    VERSION_1,
    Driver,
    Ring,
    memory,
    scribble,
)

F_LOUD = 3


@dataclass
class Echo(VirtioMmio):
    """Sends back what it gets, on the second queue when the driver says so later."""

    device_id: ClassVar[int] = 77
    queue_count: ClassVar[int] = 2

    def __post_init__(self) -> None:
        super().__post_init__()
        self.later: list[Callable[[], None]] = []
        self.configured: list[tuple[int, int, int]] = []

    def features(self) -> int:
        return 1 << F_LOUD

    def config(self) -> bytes:
        return bytes(range(1, 11))

    def configure(self, offset: int, width: int, value: int) -> None:
        self.configured.append((offset, width, value))

    def serve(self, index: int, queue: Queue) -> Work | None:
        answers = []
        for chain in queue.chains():
            data = queue.gather(chain.readable)
            if self.negotiated(F_LOUD):
                data = data.upper()
            answers.append((chain.head, queue.scatter(chain.writable, data)))
        if index == 0 or not answers:
            self.give(queue, answers)
            return None

        def finish() -> None:
            with self.lock:
                self.give(queue, answers)
                self.end()

        self.begin(1)
        return lambda: self.later.append(finish)


@pytest.fixture
def driver() -> Driver:
    return Driver(Echo())


def echo(driver: Driver) -> Echo:
    assert isinstance(driver.device, Echo)
    return driver.device


# Registers.
def test_the_constant_ones(driver: Driver) -> None:
    assert [driver.get(at) for at in (0, 4, 8, 12)] == [0x74726976, 2, 77, 0x4857]
    assert driver.device.read(0, 4).to_bytes(4, "little") == b"virt"


def test_a_slot_without_a_device() -> None:
    empty = VirtioMmio()
    assert [empty.read(at, 4) for at in (0, 4, 8, 0x34, 0x44)] == [0x74726976, 2, 0, 0, 0]
    for at in range(0, 0x200, 4):
        empty.write(at, 4, 0xFFFF_FFFF)
        empty.read(at, 4)


def test_features_come_in_halves(driver: Driver) -> None:
    assert driver.offered() == VERSION_1 | F_INDIRECT | F_EVENT_IDX | 1 << F_LOUD
    for select in (2, 0xFFFF_FFFF):
        driver.put(0x14, select)
        assert driver.get(0x10) == 0


def test_control_registers_are_words(driver: Driver) -> None:
    for width in (1, 2, 8):
        assert driver.device.read(0, width) == 0
        driver.device.write(0x70, width, 0)
    assert driver.status == ACKNOWLEDGE | DRIVER | DRIVER_OK | FEATURES_OK
    assert driver.get(2) == 0


def test_the_configuration_is_bytes(driver: Driver) -> None:
    read = driver.device.read
    assert [read(0x100, 1), read(0x101, 1), read(0x102, 2), read(0x104, 4)] == [
        1, 2, 0x0403, 0x08070605,
    ]  # fmt: skip
    assert read(0x100, 8) == 0x0807060504030201
    assert (read(0x108, 4), read(0x10A, 4), read(0x1FC, 4)) == (0x0A09, 0, 0)
    driver.device.write(0x104, 2, 99)
    assert echo(driver).configured == [(4, 2, 99)]


def test_there_is_no_shared_memory(driver: Driver) -> None:
    for region in (0, 1):
        driver.put(0xAC, region)
        assert (driver.get(0xB0), driver.get(0xB4)) == (0xFFFF_FFFF, 0xFFFF_FFFF)


def test_a_queue_that_is_not_there(driver: Driver) -> None:
    for index in (2, 0xFFFF_FFFF):
        driver.put(0x30, index)
        assert (driver.get(0x34), driver.get(0x44)) == (0, 0)
        for at in (0x38, 0x44, 0x80, 0x84, 0x90, 0x94, 0xA0, 0xA4):
            driver.put(at, 1)
        driver.notify(index)
    assert not driver.broken
    assert driver.device.queue_ready == [1, 1]


# Initialisation (3.1.1).
def test_features_that_were_not_offered_are_refused() -> None:
    device = Echo()
    device.write(0x70, 4, ACKNOWLEDGE | DRIVER)
    for half, value in ((0, 1), (1, 1)):
        device.write(0x24, 4, half)
        device.write(0x20, 4, value)
    device.write(0x70, 4, ACKNOWLEDGE | DRIVER | FEATURES_OK)
    assert device.read(0x70, 4) == ACKNOWLEDGE | DRIVER
    device.write(0x70, 4, DRIVER_OK)  # and without features no driver runs
    assert device.read(0x70, 4) == ACKNOWLEDGE | DRIVER


def test_a_legacy_driver_is_refused() -> None:
    device = Echo()
    device.write(0x24, 4, 0)
    device.write(0x20, 4, 1 << F_LOUD)
    device.write(0x70, 4, FEATURES_OK)
    assert not device.read(0x70, 4) & FEATURES_OK


def test_features_stay_once_they_are_acknowledged(driver: Driver) -> None:
    before = driver.device.driver_features
    for half in (0, 1, 2):
        driver.put(0x24, half)
        driver.put(0x20, 0)
    assert driver.device.driver_features == before


def test_a_driver_takes_what_it_wants() -> None:
    assert Driver(Echo(), features=0).ask(0, [b"quiet"], [5]) == [b"quiet"]
    assert Driver(Echo(), features=1 << F_LOUD).ask(0, [b"loud"], [4]) == [b"LOUD"]


def test_status_bits_are_not_taken_back(driver: Driver) -> None:
    driver.put(0x70, ACKNOWLEDGE)
    assert driver.status == ACKNOWLEDGE | DRIVER | DRIVER_OK | FEATURES_OK
    driver.put(0x70, NEEDS_RESET)  # is the device's
    assert not driver.status & NEEDS_RESET
    driver.put(0x70, 0x80)
    assert driver.status & 0x80


def test_a_queue_does_not_change_while_it_is_ready(driver: Driver) -> None:
    driver.put(0x30, 0)
    before = driver.device.save()
    for at in (0x38, 0x80, 0x84, 0x90, 0x94, 0xA0, 0xA4):
        driver.put(at, 0x1234)
    assert driver.device.save() == before
    assert driver.ask(0, [b"a"], [1]) == [b"A"]


def test_nothing_is_served_before_the_driver_is_ready() -> None:
    driver = Driver(Echo())
    for status in (0, ACKNOWLEDGE, DRIVER):
        driver.put(0x70, status)
    driver.put(0x24, 1)
    driver.put(0x20, 1)
    driver.put(0x70, FEATURES_OK)
    ring = driver.rings[0] = driver.connect(0)
    (place,) = driver.chain(0, [b"early"], [5])
    driver.notify(0)
    assert ring.used() == []
    driver.put(0x70, DRIVER_OK)  # what waits is looked after now
    assert ring.used() == [(0, 5)]
    assert driver.ram.read(place, 5) == b"early"


def test_a_queue_is_ready_only_after_features() -> None:
    device = Echo()
    device.write(0x44, 4, 1)
    assert device.read(0x44, 4) == 0


@pytest.mark.parametrize(
    ("at", "value", "trouble"),
    [
        (0x38, 3, "a queue of 3 descriptors"),
        (0x38, 0, "a queue of 0 descriptors"),
        (0x38, 512, "a queue of 512 descriptors"),
        (0x38, 0xFFFF_FFFF, "a queue of 4294967295 descriptors"),
        (0x80, 8, "not aligned"),
        (0x84, 0xFFFF_FFFF, "cannot read"),
        (0xA0, 0x1000_0000, "cannot read"),
    ],
)
def test_a_queue_that_cannot_be(driver: Driver, at: int, value: int, trouble: str) -> None:
    driver.put(0x30, 1)
    driver.put(0x44, 0)
    driver.put(at, value)
    driver.put(0x44, 1)
    assert driver.broken
    assert trouble in driver.device.trouble
    driver.start()
    assert driver.ask(0, [b"again"], [5]) == [b"AGAIN"]


# Interrupts.
def test_an_interrupt_is_up_until_it_is_acknowledged(driver: Driver) -> None:
    driver.ask(0, [b"x"], [1])
    assert (driver.level, driver.get(0x60)) == (True, 1)
    echo(driver).changed()
    assert driver.get(0x60) == 3
    driver.put(0x64, 1)
    assert (driver.level, driver.get(0x60)) == (True, 2)
    driver.put(0x64, 0xFFFF_FFFF)
    assert (driver.level, driver.get(0x60)) == (False, 0)


def test_a_driver_that_wants_none_gets_none() -> None:
    driver = Driver(Echo(), features=0)
    ring = driver.rings[0]
    ring.put_word(ring.driver, 1)
    assert driver.ask(0, [b"x"], [1]) == [b"x"]
    assert not driver.level


def test_a_batch_is_one_interrupt(driver: Driver) -> None:
    driver.rings[0].want_event(2)
    for first in (0, 2, 4):
        driver.chain(0, [b"x"], [1], first=first)
    driver.notify(0)
    assert [head for head, _ in driver.rings[0].used()] == [0, 2, 4]
    assert driver.raised == 1


def test_a_change_of_configuration_counts(driver: Driver) -> None:
    before = driver.get(0xFC)
    echo(driver).changed()
    assert driver.get(0xFC) == before + 1
    driver.put(0x70, 0)
    echo(driver).changed()  # nobody to tell
    assert not driver.level


# A driver that breaks the rules.
def test_it_needs_a_reset_and_the_device_stays_silent(driver: Driver) -> None:
    ring = driver.rings[0]
    ring.offer(500)
    driver.notify(0)
    assert driver.broken
    assert driver.device.trouble == "descriptor 500 of 16"
    driver.acknowledge()
    driver.chain(1, [b"x"], [1])
    driver.notify(1)
    assert (driver.rings[1].used(), driver.level) == ([], False)
    driver.start()
    assert driver.status == ACKNOWLEDGE | DRIVER | FEATURES_OK | DRIVER_OK
    assert driver.ask(0, [b"x"], [1]) == [b"X"]


@pytest.mark.parametrize("at", [0x1000_0000, 0, BASE - 1, (1 << 64) - 1])
def test_buffers_outside_memory(driver: Driver, at: int) -> None:
    """Device space is not memory either: no device reaches another, or itself."""
    for flags in (0, 2):
        driver.start()
        driver.rings[0].describe(0, at, 4, flags)
        driver.rings[0].offer(0)
        driver.notify(0)
        if flags:
            assert not driver.broken  # nothing was there to be written
        else:
            assert driver.broken


# Operations that end later.
@pytest.fixture
def waiting(driver: Driver) -> Driver:
    """A driver that waits for its buffer."""
    driver.chain(1, [b"later"], [5])
    driver.notify(1)
    assert driver.rings[1].used() == []
    return driver


def test_what_ends_later_interrupts_then(waiting: Driver) -> None:
    assert waiting.raised == 0
    echo(waiting).later.pop()()
    assert waiting.raised == 1
    assert waiting.rings[1].used() == [(0, 5)]


def meanwhile(driver: Driver, action: Callable[[], object]) -> None:
    """Run `action`, which has to wait for what is under way, and end that while it waits."""
    done = threading.Event()

    def act() -> None:
        action()
        done.set()

    thread = threading.Thread(target=act)
    thread.start()
    assert not done.wait(0.05)
    echo(driver).later.pop()()
    thread.join(10)
    assert done.is_set()


def test_a_reset_waits_for_what_is_under_way(waiting: Driver) -> None:
    """Or a disk would go on writing to memory that is somebody else's by then."""
    ring = waiting.rings[1]
    meanwhile(waiting, lambda: waiting.put(0x70, 0))
    assert waiting.status == 0
    assert (ring.used(), waiting.level) == ([], False)


def test_stopping_a_queue_waits_too(waiting: Driver) -> None:
    waiting.put(0x30, 1)
    meanwhile(waiting, lambda: waiting.put(0x44, 0))
    assert waiting.get(0x44) == 0
    assert waiting.rings[1].used() == []
    waiting.rings[1] = waiting.connect(1)
    waiting.chain(1, [b"again"], [5])
    waiting.notify(1)
    echo(waiting).later.pop()()
    assert waiting.rings[1].used() == [(0, 5)]


def test_quiet_is_when_nothing_is_under_way(waiting: Driver) -> None:
    meanwhile(waiting, waiting.device.quiesce)
    waiting.device.quiesce()
    assert waiting.rings[1].used() == [(0, 5)]


def test_what_ends_in_a_broken_device_is_not_given_back(waiting: Driver) -> None:
    waiting.rings[0].offer(99)
    waiting.notify(0)
    assert waiting.broken
    echo(waiting).later.pop()()
    assert waiting.rings[1].used() == []
    waiting.put(0x70, 0)
    assert waiting.status == 0


# Saved states.
def test_a_saved_device_goes_on_where_it_was(driver: Driver) -> None:
    for _ in range(20):
        driver.ask(0, [b"x"], [1])
    state = driver.device.save()
    other = Driver(Echo(), ram=driver.ram)
    driver.put(0x70, 0)
    driver.device = other.device
    driver.ram.write(driver.rings[0].driver + 2, driver.rings[0].added.to_bytes(2, "little"))
    other.device.load(state)
    assert other.level
    driver.device.irq = driver._line
    assert driver.ask(0, [b"abc"], [3]) == [b"ABC"]


def test_a_state_that_cannot_be_breaks_only_the_device(driver: Driver) -> None:
    good = driver.device.save()
    for name, values in {
        "queue_num": [3, 0], "queue_desc": [1 << 40, 8], "queue_device": [(1 << 64) - 4, 0],
    }.items():  # fmt: skip
        driver.device.load({**good, name: values})
        assert driver.device.status & NEEDS_RESET
    with pytest.raises(DeviceError):
        driver.device.load({**good, "queue_num": [16]})
    driver.device.load(good)
    assert driver.ask(0, [b"x"], [1]) == [b"X"]


# Noise.
@pytest.mark.parametrize("kind", [Echo, VirtioRng, VirtioConsole])
@settings(max_examples=60)
@given(seed=st.integers(0, 1 << 32))
def test_no_guest_breaks_more_than_its_device(kind: type[VirtioMmio], seed: int) -> None:
    random, device = Random(seed), kind()
    driver = Driver(device, size=random.choice([1, 4, 16]))
    for _ in range(60):
        scribble(driver, random)
        if isinstance(device, Echo):
            while device.later:
                device.later.pop()()
        assert 0 <= device.read(0x70, 4) < 0x100
    device.load(device.save())
    driver.start()
    if isinstance(device, Echo):
        driver.rings = [Ring(driver.ram, BASE + 0x4000, driver.size), *driver.rings[1:]]
        driver.free, driver.size = BASE + 0x8000, 4
        driver.start()
        assert driver.ask(0, [b"well"], [4]) == [b"WELL"]
    device.reset()
    fresh = kind()
    assert device.save() == fresh.save()


def test_many_threads_and_one_device() -> None:
    """Harts that notify, read and write at once; every buffer comes back once."""
    driver = Driver(Echo(), ram=memory(), size=256)
    ring = driver.rings[0]
    for head in range(0, 256, 2):
        driver.chain(0, [b"%04d" % head], [4], first=head)
    stop = threading.Event()

    def hart() -> None:
        while not stop.is_set():
            driver.device.read(0x60, 4)
            driver.device.write(0x64, 4, 1)

    threads = [threading.Thread(target=hart) for _ in range(2)]
    threads += [threading.Thread(target=driver.notify, args=(0,)) for _ in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads[2:]:
        thread.join(10)
    stop.set()
    for thread in threads[:2]:
        thread.join(10)
    assert ring.used() == [(head, 4) for head in range(0, 256, 2)]
