"""The network card: frames both ways, buffers of any shape, and drivers that break the rules."""

from __future__ import annotations

import struct
from collections.abc import Callable
from random import Random

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from hartwood.dev.virtio.net import F_MAC, F_MRG_RXBUF, F_MTU, F_STATUS, VirtioNet
from unit.virtio_driver import F_EVENT_IDX, F_INDIRECT, Driver, scribble

RECEIVE, TRANSMIT = 0, 1
HEADER = 12
FRAME = bytes(range(256)) * 4


class Wire:
    """A network that keeps what is sent."""

    mac, mtu = b"\x02\0\0\0\0\x07", 9000

    def __init__(self) -> None:
        self.sent: list[bytes] = []
        self.resumed, self.closed = 0, False

    def send(self, frame: bytes, /) -> None:
        self.sent.append(frame)

    def attach(self, receive: Callable[[bytes], bool], /) -> None:
        self.receive = receive

    def resume(self) -> None:
        self.resumed += 1

    def close(self) -> None:
        self.closed = True


def card(features: int | None = None) -> tuple[Driver, Wire, VirtioNet]:
    device, wire = VirtioNet(), Wire()
    device.connect(wire)
    return Driver(device, features=features), wire, device


def test_the_configuration() -> None:
    driver, _, device = card()
    assert driver.get(0x08) == 1
    assert driver.offered() & 0xFFFFFF == 1 << F_MTU | 1 << F_MAC | 1 << F_MRG_RXBUF | 1 << F_STATUS
    read = bytes(device.read(0x100 + at, 1) for at in range(12))
    assert read == b"\x02\0\0\0\0\x07" + struct.pack("<HHH", 1, 1, 9000)


def test_pulling_the_cable() -> None:
    driver, wire, device = card()
    driver.acknowledge()
    generation = driver.get(0xFC)
    device.plug(False)
    assert driver.acknowledge() & 2
    assert driver.get(0xFC) != generation
    assert device.read(0x106, 2) == 0
    driver.ask(TRANSMIT, [bytes(HEADER) + FRAME])
    driver.chain(RECEIVE, [], [2000])
    assert wire.receive(FRAME)  # lost
    assert (wire.sent, driver.rings[RECEIVE].used()) == ([], [])
    device.plug(True)
    assert device.read(0x106, 2) == 1


@pytest.mark.parametrize(
    "parts",
    [[bytes(HEADER) + FRAME], [bytes(HEADER), FRAME], [bytes(5), bytes(7) + FRAME[:1], FRAME[1:]],
     [bytes(HEADER) + FRAME[:700], FRAME[700:701], FRAME[701:]]],
)  # fmt: skip
@pytest.mark.parametrize("indirect", [False, True])
def test_sending(parts: list[bytes], indirect: bool) -> None:
    driver, wire, _ = card()
    driver.chain(TRANSMIT, parts, indirect=indirect)
    driver.notify(TRANSMIT)
    assert wire.sent == [FRAME]
    assert driver.rings[TRANSMIT].used() == [(0, 0)]
    assert driver.level


@pytest.mark.parametrize("mergeable", [True, False])
def test_receiving_into_one_buffer(mergeable: bool) -> None:
    driver, wire, _ = card(F_EVENT_IDX | mergeable << F_MRG_RXBUF)
    (at,) = driver.chain(RECEIVE, [], [2000])
    assert wire.receive(FRAME)
    assert driver.rings[RECEIVE].used() == [(0, HEADER + len(FRAME))]
    assert driver.ram.read(at, HEADER + len(FRAME)) == bytes(10) + b"\1\0" + FRAME
    assert driver.level


def test_receiving_into_several() -> None:
    driver, wire, _ = card()
    places = [driver.chain(RECEIVE, [], [200, 212], first=first) for first in (0, 2, 4)]
    assert wire.receive(FRAME)
    assert driver.rings[RECEIVE].used() == [(0, 412), (2, 412), (4, 1036 - 824)]
    got = b"".join(
        driver.ram.read(at, size)
        for each in places
        for at, size in zip(each, (200, 212), strict=True)
    )
    assert got[:1036] == bytes(10) + b"\3\0" + FRAME


def test_what_finds_no_buffer_waits_and_takes_none() -> None:
    driver, wire, device = card()
    assert not wire.receive(FRAME)
    driver.chain(RECEIVE, [], [500])
    assert not wire.receive(FRAME)
    assert driver.rings[RECEIVE].used() == []
    # The driver is asked to say when the next one comes, not the one that is there already.
    assert driver.rings[RECEIVE].avail_event == 1
    resumed = wire.resumed
    driver.chain(RECEIVE, [], [600], first=1)
    driver.notify(RECEIVE)
    assert wire.resumed == resumed + 1
    assert wire.receive(FRAME)
    assert [head for head, _ in driver.rings[RECEIVE].used()] == [0, 1]
    assert device.trouble == ""


def test_a_frame_that_an_old_driver_has_no_room_for_is_lost() -> None:
    driver, wire, _ = card(0)
    driver.chain(RECEIVE, [], [500])
    assert wire.receive(FRAME)
    assert driver.rings[RECEIVE].used() == []
    assert wire.receive(FRAME[:400])
    assert driver.rings[RECEIVE].used() == [(0, 412)]


def test_without_a_driver_frames_are_lost() -> None:
    device, wire = VirtioNet(), Wire()
    device.connect(wire)
    assert wire.receive(FRAME)
    driver = Driver(device)
    driver.put(0x70, 0)
    assert wire.receive(FRAME)


def test_a_card_that_is_not_connected() -> None:
    driver = Driver(VirtioNet())
    driver.ask(TRANSMIT, [bytes(HEADER) + FRAME])
    driver.notify(RECEIVE)
    assert not driver.broken


def test_the_network_ends_with_its_card() -> None:
    _, wire, device = card()
    device.close()
    assert wire.closed


@pytest.mark.parametrize(
    ("out", "into"),
    [([bytes(11)], []), ([bytes(HEADER)], [10]), ([], [100]), ([bytes(HEADER + 0x10012)], [])],
)
def test_what_cannot_be_sent(out: list[bytes], into: list[int]) -> None:
    driver, wire, _ = card()
    driver.chain(TRANSMIT, out, into)
    driver.notify(TRANSMIT)
    assert driver.broken
    assert wire.sent == []


@pytest.mark.parametrize(("out", "into"), [([bytes(4)], [2000]), ([], [11]), ([b"x"], [])])
def test_what_cannot_be_received_into(out: list[bytes], into: list[int]) -> None:
    driver, wire, _ = card()
    driver.chain(RECEIVE, out, into)
    assert wire.receive(FRAME)
    assert driver.broken
    assert wire.receive(FRAME)


def test_a_buffer_outside_memory_breaks_the_driver_and_not_the_wire() -> None:
    driver, wire, _ = card()
    driver.rings[RECEIVE].describe(0, 0x1000, 2000, 2)
    driver.rings[RECEIVE].offer(0)
    assert wire.receive(FRAME)
    assert driver.broken


@given(
    st.lists(st.integers(HEADER, 700), min_size=1, max_size=12),
    st.lists(st.integers(14, 1500), min_size=1, max_size=6), st.integers(0, 3),
)  # fmt: skip
def test_frames_come_whole_and_in_order(buffers: list[int], sizes: list[int], ring: int) -> None:
    """Whatever the buffers, what is taken is what was sent, and what is refused takes nothing."""
    features = (F_EVENT_IDX if ring & 1 else 0) | (F_INDIRECT if ring & 2 else 0)
    driver, wire, _ = card(features | 1 << F_MRG_RXBUF)
    places = [
        driver.chain(RECEIVE, [], [size], first=index)[0] for index, size in enumerate(buffers)
    ]
    frames = [bytes([number + 1]) * size for number, size in enumerate(sizes)]
    left = list(buffers)
    for frame in frames:
        fits = sum(left) >= HEADER + len(frame)
        assert wire.receive(frame) == fits
        used = driver.rings[RECEIVE].used()
        if not fits:
            assert used == []
            continue
        data = b"".join(driver.ram.read(places[head], size) for head, size in used)
        assert data == bytes(10) + struct.pack("<H", len(used)) + frame
        assert [size for _, size in used[:-1]] == left[: len(used) - 1]
        del left[: len(used)]


@given(st.integers(0, 1 << 32))
@settings(max_examples=60)
def test_hostile_drivers(seed: int) -> None:
    random = Random(seed)
    driver, wire, device = card(random.choice([None, 0, F_INDIRECT]))
    for _ in range(60):
        scribble(driver, random)
        assert wire.receive(FRAME[: random.randrange(len(FRAME))]) in (True, False)
        assert all(len(frame) <= 0x10011 for frame in wire.sent)
    driver.start()
    driver.ask(TRANSMIT, [bytes(HEADER) + FRAME])
    assert wire.sent[-1] == FRAME
    assert not device.trouble or not driver.broken
