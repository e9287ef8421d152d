"""The console and the source of entropy."""

from __future__ import annotations

import os
import threading
from random import Random

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from hartwood.dev.virtio.console import F_EMERG_WRITE, F_SIZE, RECEIVE, TRANSMIT, VirtioConsole
from hartwood.dev.virtio.rng import VirtioRng
from unit.virtio_driver import BASE, MEMORY, Driver, scribble

ROOM = 1 << 16


class Terminal:
    """A console, its driver, and what came out."""

    def __init__(self, size: int = 16) -> None:
        self.out = bytearray()
        self.console = VirtioConsole(tx=self.out.extend)
        self.driver = Driver(self.console, size=size)

    def post(self, *sizes: int, first: int = 0) -> list[int]:
        """Buffers to receive into."""
        places = []
        for number, size in enumerate(sizes):
            places += self.driver.chain(RECEIVE, [], [size], first=first + number)
        self.driver.notify(RECEIVE)
        return places

    def received(self) -> list[tuple[int, int]]:
        return self.driver.rings[RECEIVE].used()


@pytest.fixture
def terminal() -> Terminal:
    return Terminal()


def test_what_the_guest_sends_comes_out(terminal: Terminal) -> None:
    driver = terminal.driver
    driver.chain(TRANSMIT, [b"hello, ", b"wor"])
    driver.chain(TRANSMIT, [b"ld"], first=4, indirect=True)
    driver.notify(TRANSMIT)
    assert terminal.out == b"hello, world"
    assert driver.rings[TRANSMIT].used() == [(0, 0), (4, 0)]
    assert driver.level


def test_input_waits_for_buffers(terminal: Terminal) -> None:
    terminal.console.feed(b"abcdefgh")
    (first, second) = terminal.post(3, 100)
    assert terminal.received() == [(0, 3), (1, 5)]
    ram = terminal.driver.ram
    assert ram.read(first, 3) + ram.read(second, 5) == b"abcdefgh"


def test_buffers_wait_for_input(terminal: Terminal) -> None:
    (first, second) = terminal.post(4, 4)
    assert terminal.received() == []
    assert terminal.driver.raised == 0
    terminal.console.feed(b"ab")
    assert terminal.received() == [(0, 2)]
    assert terminal.driver.raised == 1
    terminal.console.feed(b"cd")
    assert terminal.received() == [(1, 2)]
    assert terminal.driver.ram.read(first, 2) + terminal.driver.ram.read(second, 2) == b"abcd"


def test_the_driver_is_asked_for_more_buffers_when_there_are_none(terminal: Terminal) -> None:
    """avail_event says so: without it a driver would not notify."""
    ring = terminal.driver.rings[RECEIVE]
    terminal.post(1)
    terminal.console.feed(b"xyz")
    assert terminal.received() == [(0, 1)]
    assert ring.avail_event == ring.added == 1


def test_input_that_nobody_takes_is_bounded(terminal: Terminal) -> None:
    for _ in range(20):
        terminal.console.feed(bytes(10_000))
    assert len(terminal.console.rx) == ROOM


def test_input_before_there_is_a_driver_is_kept() -> None:
    console = VirtioConsole()
    console.feed(b"early")
    assert console.save()["rx"] == bytearray(b"early")
    terminal = Terminal()
    terminal.console.load({**terminal.console.save(), "rx": bytearray(b"early")})
    terminal.post(10)
    assert terminal.received() == [(0, 5)]


def test_a_reset_forgets_input_and_keeps_the_window(terminal: Terminal) -> None:
    terminal.console.resize(80, 25)
    terminal.console.feed(b"lost")
    terminal.driver.start()
    terminal.post(10)
    assert terminal.received() == []
    assert terminal.driver.get(0x100) == 25 << 16 | 80


def test_the_window(terminal: Terminal) -> None:
    driver = terminal.driver
    assert driver.offered() & (1 << F_SIZE | 1 << F_EMERG_WRITE) == 5
    before = driver.get(0xFC)
    assert [driver.device.read(0x100, 2), driver.device.read(0x102, 2), driver.get(0x104)] == [
        0,
        0,
        1,
    ]
    terminal.console.resize(132, 1 << 20)
    assert [driver.device.read(0x100, 2), driver.device.read(0x102, 2)] == [132, 0xFFFF]
    assert driver.get(0xFC) == before + 1
    assert driver.acknowledge() == 2


def test_a_character_of_an_emergency() -> None:
    """Works before a driver is there."""
    out = bytearray()
    console = VirtioConsole(tx=out.extend)
    console.write(0x108, 4, 0x1234_5641)
    console.write(0x100, 4, 0x41)  # the window's size cannot be written
    assert out == b"A"
    assert console.read(0x100, 4) == 0


@pytest.mark.parametrize("index", [RECEIVE, TRANSMIT])
def test_buffers_of_the_wrong_direction(terminal: Terminal, index: int) -> None:
    terminal.console.feed(b"input")
    out, into = ([b"x"], []) if index == RECEIVE else ([], [4])
    terminal.driver.chain(index, out, into)
    terminal.driver.notify(index)
    assert terminal.driver.broken
    terminal.driver.start()
    terminal.driver.chain(TRANSMIT, [b"well"])
    terminal.driver.notify(TRANSMIT)
    assert terminal.out == b"well"


def test_a_buffer_that_is_too_large(terminal: Terminal) -> None:
    """A chain may name the same memory many times over; no console sends gigabytes."""
    ring = terminal.driver.rings[TRANSMIT]
    for index in range(16):
        ring.describe(index, BASE, MEMORY, 1 if index < 15 else 0, index + 1)
    ring.offer(0)
    terminal.driver.notify(TRANSMIT)
    assert terminal.driver.broken
    assert terminal.out == b""


def test_output_stays_in_order_between_threads(terminal: Terminal) -> None:
    """Two harts, each with its own buffers, notify at once: each buffer comes out whole."""
    terminal = Terminal(size=128)
    for number in range(64):
        terminal.driver.chain(TRANSMIT, [b"<%03d" % number, b">"], first=2 * number)
    threads = [threading.Thread(target=terminal.driver.notify, args=(TRANSMIT,)) for _ in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(10)
    assert terminal.out == b"".join(b"<%03d>" % number for number in range(64))


@settings(max_examples=50)
@given(st.lists(st.tuples(st.booleans(), st.integers(1, 40)), max_size=40))
def test_no_byte_is_lost_or_doubled(steps: list[tuple[bool, int]]) -> None:
    """Input and buffers of any sizes, in any order."""
    terminal, sent, got, places = Terminal(), b"", b"", dict[int, int]()
    random, free = Random(1), list(range(16))

    def collect() -> None:
        nonlocal got
        for head, written in terminal.received():
            got += terminal.driver.ram.read(places[head], written)
            free.append(head)

    for feed, size in steps:
        if feed:
            data = random.randbytes(size)
            sent += data
            terminal.console.feed(data)
        elif free:
            head = free.pop(0)
            (places[head],) = terminal.post(size, first=head)
        collect()
    assert got == sent[: len(got)]
    assert sent[len(got) :] == terminal.console.rx
    assert not terminal.console.rx or len(free) == 16


@settings(max_examples=50)
@given(seed=st.integers(0, 1 << 32))
def test_no_guest_breaks_more_than_its_console(seed: int) -> None:
    random, terminal = Random(seed), Terminal()
    for _ in range(60):
        scribble(terminal.driver, random)
        if random.random() < 0.2:
            terminal.console.feed(random.randbytes(random.randrange(100)))
    assert len(terminal.console.rx) <= ROOM
    terminal.out.clear()
    terminal.driver.size, terminal.driver.free = 8, BASE + 0x1000
    terminal.driver.start()
    terminal.driver.chain(TRANSMIT, [b"well"])
    terminal.driver.notify(TRANSMIT)
    assert terminal.out == b"well"


# Entropy.
def test_buffers_are_filled_with_noise() -> None:
    driver = Driver(VirtioRng())
    (first,) = driver.ask(0, [], [64])
    driver.chain(0, [], [16, 48], first=1)
    driver.notify(0)
    assert driver.rings[0].used() == [(1, 64)]
    assert len(set(first)) > 20  # 64 bytes with fewer values: once in 10^30


def test_the_noise_can_be_repeated() -> None:
    driver = Driver(VirtioRng(source=Random(7).randbytes))
    assert driver.ask(0, [], [8]) == [Random(7).randbytes(8)]


def test_the_default_is_the_hosts() -> None:
    assert VirtioRng().source is os.urandom


def test_a_large_buffer_gets_some() -> None:
    driver = Driver(VirtioRng())
    ring = driver.rings[0]
    ring.describe(0, BASE + 0x10000, MEMORY - 0x10000, 2)
    ring.offer(0)
    driver.notify(0)
    assert ring.used() == [(0, 1 << 16)]


def test_noise_is_not_read() -> None:
    driver = Driver(VirtioRng())
    driver.chain(0, [b"x"], [4])
    driver.notify(0)
    assert driver.broken
