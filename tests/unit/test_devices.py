"""Devices: what every one of them keeps to, and the registers of each."""

from __future__ import annotations

from collections.abc import Callable
from random import Random
from threading import Event, Thread
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from hartwood.dev.clint import Clint
from hartwood.dev.device import Device, DeviceError
from hartwood.dev.finisher import Finisher
from hartwood.dev.goldfish_rtc import GoldfishRtc
from hartwood.dev.plic import CONTEXTS, SOURCES, Plic
from hartwood.dev.uart16550 import Uart16550
from hartwood.dev.virtio.blk import VirtioBlk
from hartwood.dev.virtio.console import VirtioConsole
from hartwood.dev.virtio.fs9p import VirtioFs9p
from hartwood.dev.virtio.rng import VirtioRng

VIRTIO: list[type[Device]] = [VirtioBlk, VirtioConsole, VirtioRng, VirtioFs9p]
WIDTHS = (1, 2, 4, 8)


class Served:
    """A controller with a source that somebody watches, who notes what is served."""

    def __init__(self) -> None:
        self.plic, self.told = Plic(), list[bool]()
        self.plic.outputs[1] = lambda level: None
        self.plic.write(4 * 10, 4, 1)
        self.plic.write(0x2080, 4, 1 << 10)
        self.plic.watch(10, lambda: self.told.append(self.plic.serves(10)))

    def news(self) -> list[bool]:
        """What was told since it was asked last."""
        told, self.told[:] = list(self.told), []
        return told


class StillRtc(GoldfishRtc):
    """A clock that stands, so that two of them tell the same."""

    def __init__(self) -> None:
        super().__init__(wall=lambda: 10**18)


DEVICES: list[type[Device]] = [Clint, Finisher, Plic, StillRtc, Uart16550, *VIRTIO]


def offsets(device: type[Device], random: Random) -> int:
    """One that is likely to be a register."""
    if device is Plic:
        near = random.choice([0, 0x1000, 0x2000, 0x2080, 0x20_0000, 0x20_1004])
        return near + random.choice([0, 4, 4 * random.randrange(40)])
    if device in VIRTIO:
        return random.choice([4 * random.randrange(0x50), random.randrange(device.size)])
    if device is Clint:
        return random.choice([0, 0x4000, 0xBFF8]) + 4 * random.randrange(17)
    return random.randrange(min(device.size, 32))


def traffic(device: Device, random: Random, count: int = 60) -> list[int]:
    """Random loads and stores; what the loads gave."""
    seen = []
    for _ in range(count):
        at, width = offsets(type(device), random), random.choice(WIDTHS)
        if random.random() < 0.5:
            device.write(at, width, random.getrandbits(8 * width))
        else:
            seen.append(device.read(at, width))
    return seen


@pytest.mark.parametrize("kind", DEVICES)
class TestEveryDevice:
    def test_a_saved_state_is_all_there_is(self, kind: type[Device]) -> None:
        """After any traffic another device that loads the state behaves alike from there."""
        for seed in range(30):
            first, second, random = kind(), kind(), Random(seed)
            traffic(first, random)
            second.load(first.save())
            assert second.save() == first.save()
            assert traffic(first, Random(seed + 1)) == traffic(second, Random(seed + 1))

    def test_a_saved_state_does_not_change_afterwards(self, kind: type[Device]) -> None:
        device = kind()
        state = device.save()
        before = repr(state)
        traffic(device, Random(1), 300)
        assert repr(state) == before

    def test_a_reset_is_a_fresh_device(self, kind: type[Device]) -> None:
        device = kind()
        traffic(device, Random(2), 300)
        device.reset()
        assert device.save() == kind().save()

    def test_every_width_and_offset_answers(self, kind: type[Device]) -> None:
        device = kind()
        for at in [*range(64), *range(kind.size - 16, kind.size), 0x2000, 0x20_0004]:
            for width in WIDTHS:
                if at < kind.size:
                    assert 0 <= device.read(at, width) < 1 << 8 * width
                    device.write(at, width, (1 << 8 * width) - 1)

    def test_a_state_of_something_else_is_refused(self, kind: type[Device]) -> None:
        device = kind()
        traffic(device, Random(3))
        before = device.save()
        wrong: list[dict[str, object]] = [{**before, "more": 1}, {"other": 0}]
        for name, value in before.items():
            wrong.append({**before, name: "text"})
            if type(value) is int:
                wrong += [{**before, name: -1}, {**before, name: 1 << 100}, {**before, name: True}]
            if isinstance(value, bytearray):
                wrong += [{**before, name: bytearray(1 << 20)}, {**before, name: b""}]
            if isinstance(value, list):
                wrong += [{**before, name: [each, *value[1:]]} for each in (-1, 1 << 99, True)]
                wrong += [{**before, name: value[:-1]}, {**before, name: [*value[:-1], "x"]}]
        for state in wrong:
            with pytest.raises(DeviceError):
                device.load(state)
        assert device.save() == before

    def test_numbers_of_the_state_have_limits(self, kind: type[Device]) -> None:
        """The largest of each is taken, one more is not."""
        device = kind()
        for name, most in device._state().items():
            value: Any = device.save()[name]
            if type(value) is int or isinstance(value, list):
                assert most > 0, name
                for number in (most, most + 1):
                    new = number if not isinstance(value, list) else [number] * len(value)
                    if number == most:
                        device.load({**device.save(), name: new})
                    else:
                        with pytest.raises(DeviceError, match=name):
                            device.load({**device.save(), name: new})
                assert device.save()[name] == (
                    [most] * len(value) if isinstance(value, list) else most
                )

    def test_it_has_a_node(self, kind: type[Device]) -> None:
        assert kind.node.replace("_", "").isalnum()
        assert "reg" not in kind.properties

    def test_harts_access_it_one_at_a_time(self, kind: type[Device]) -> None:
        """From several threads at once: it answers, and its state is one that it can have."""
        device = kind()
        errors: list[BaseException] = []

        def accesses(seed: int) -> None:
            try:
                traffic(device, Random(seed), 400)
            except BaseException as error:
                errors.append(error)

        threads = [Thread(target=accesses, args=(seed,)) for seed in range(4)]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
        assert errors == []
        kind().load(device.save())


# The serial port.
class Port:
    """A serial port with its wires."""

    def __init__(self) -> None:
        self.level = False
        self.out = bytearray()
        self.uart = Uart16550()
        self.uart.irq = self._irq
        self.uart.tx = self.out.extend

    def _irq(self, level: bool) -> None:
        self.level = level

    def raised(self) -> bool:
        return self.level

    def put(self, at: int, value: int) -> None:
        self.uart.write(at, 1, value)

    def get(self, at: int) -> int:
        return self.uart.read(at, 1)


def test_what_is_written_is_sent() -> None:
    port = Port()
    for byte in b"hello":
        assert port.get(5) & 0x20
        port.put(0, byte)
    assert bytes(port.out) == b"hello"


def test_what_arrives_is_read_in_order() -> None:
    port = Port()
    assert port.get(5) & 1 == 0
    port.uart.feed(b"ab")
    assert [port.get(5) & 1, port.get(0), port.get(0), port.get(5) & 1] == [1, 97, 98, 0]
    assert port.get(0) == 0


def test_input_interrupts_while_there_is_some() -> None:
    port = Port()
    port.uart.feed(b"ab")
    assert not port.raised()  # not enabled
    port.put(1, 1)
    assert port.raised()
    assert port.get(2) & 0x0F == 4
    port.get(0)
    assert port.raised()
    port.get(0)
    assert not port.raised()
    assert port.get(2) & 0x0F == 1


def test_the_transmitter_interrupts_once_each_time() -> None:
    port = Port()
    port.put(1, 2)
    assert port.raised()
    assert port.get(2) & 0x0F == 2
    assert not port.raised()  # asking answers it
    assert port.get(2) & 0x0F == 1
    port.put(0, 65)
    assert port.raised()
    port.put(1, 0)
    assert not port.raised()


def test_input_comes_before_the_transmitter() -> None:
    port = Port()
    port.put(1, 3)
    port.uart.feed(b"x")
    assert port.get(2) & 0x0F == 4
    port.get(0)
    assert port.get(2) & 0x0F == 2


def test_the_divisor_hides_behind_its_bit() -> None:
    port = Port()
    port.put(3, 0x83)
    port.put(0, 0x12)
    port.put(1, 0x34)
    assert (port.get(0), port.get(1)) == (0x12, 0x34)
    port.put(3, 0x03)
    assert (port.get(0), port.get(1), bytes(port.out)) == (0, 0, b"")


def test_in_a_loop_what_is_sent_arrives() -> None:
    port = Port()
    port.put(4, 0x10)
    port.put(0, 77)
    assert (port.get(0), bytes(port.out)) == (77, b"")
    port.put(4, 0x1F)
    assert port.get(6) & 0xF0 == 0xF0


def test_emptying_the_fifo_loses_what_waits() -> None:
    port = Port()
    port.put(1, 1)
    port.uart.feed(b"lost")
    port.put(2, 3)
    assert not port.raised()
    assert port.get(5) & 1 == 0
    assert port.get(2) & 0xC0 == 0xC0  # FIFOs are on


def test_scratch_and_line_control_are_what_was_written() -> None:
    port = Port()
    port.put(7, 0x5A)
    port.put(3, 0x1B)
    assert (port.get(7), port.get(3)) == (0x5A, 0x1B)


def test_no_interrupt_is_lost_between_threads() -> None:
    """One thread feeds while another reads and masks: at rest the wire says what is there."""
    for _ in range(20):
        port, over = Port(), Event()
        port.put(1, 1)

        def feeds(port: Port = port, over: Event = over) -> None:
            for _ in range(300):
                port.uart.feed(b"x")
            over.set()

        feeder = Thread(target=feeds)
        feeder.start()
        read = 0
        while not over.is_set():
            port.put(1, 0)
            if port.get(5) & 1:
                port.get(0)
                read += 1
            port.put(1, 1)
        feeder.join()
        assert port.raised() == (read < 300)
        while port.raised():
            port.get(0)
            read += 1
        assert read == 300


def test_a_slow_reader_does_not_keep_the_registers() -> None:
    """While `tx` waits, input arrives and another hart reads."""
    port, entered, leave = Port(), Event(), Event()

    def slow(data: bytes) -> None:
        entered.set()
        assert leave.wait(30)

    port.uart.tx = slow
    sender = Thread(target=port.put, args=(0, 65))
    sender.start()
    assert entered.wait(30)
    reader = Thread(target=port.uart.feed, args=(b"in",))
    reader.start()
    reader.join(30)
    assert port.get(5) & 1
    leave.set()
    sender.join()


def test_firmware_takes_what_arrived_and_the_wire_falls() -> None:
    port = Port()
    port.put(1, 1)
    port.uart.feed(b"abc")
    assert port.uart.take(2) == b"ab"
    assert port.raised()
    assert (port.uart.take(9), port.raised()) == (b"c", False)


def test_input_is_bounded() -> None:
    port = Port()
    for _ in range(200):
        port.uart.feed(b"x" * 1000)
    assert len(port.uart.rx) == 1 << 16


@given(st.lists(st.binary(max_size=6)), st.binary(min_size=1, max_size=4))
def test_a_text_is_seen_however_it_is_cut(parts: list[bytes], text: bytes) -> None:
    port = Port()
    port.uart.send(b"before " + text)
    seen = port.uart.saw(text)
    for part in parts:
        port.uart.send(part)
    assert seen() == (text in b"".join(parts))


# The interrupt controller.
class Wires:
    """A controller whose outputs are remembered."""

    def __init__(self) -> None:
        self.plic = Plic()
        self.out = [False] * 4
        for context in range(4):
            self.plic.outputs[context] = self._output(context)

    def _output(self, context: int) -> Callable[[bool], None]:
        def output(level: bool) -> None:
            self.out[context] = level

        return output

    def enable(self, context: int, *sources: int) -> None:
        for source in sources:
            at = 0x2000 + 0x80 * context + 4 * (source // 32)
            self.plic.write(at, 4, self.plic.read(at, 4) | 1 << source % 32)

    def priority(self, source: int, value: int) -> None:
        self.plic.write(4 * source, 4, value)

    def claim(self, context: int) -> int:
        return self.plic.read(0x20_0004 + 0x1000 * context, 4)

    def complete(self, context: int, source: int) -> None:
        self.plic.write(0x20_0004 + 0x1000 * context, 4, source)

    def threshold(self, context: int, value: int) -> None:
        self.plic.write(0x20_0000 + 0x1000 * context, 4, value)


def test_a_line_reaches_the_contexts_that_enable_it() -> None:
    wires = Wires()
    wires.priority(10, 1)
    wires.enable(1, 10)
    wires.enable(3, 10)
    wires.plic.line(10)(True)
    assert wires.out == [False, True, False, True]
    assert wires.plic.read(0x1000, 4) == 1 << 10
    assert wires.claim(0) == 0


def test_one_context_serves_an_interrupt() -> None:
    """Claimed, it is nobody else's; the level passes on again only after completion."""
    wires = Wires()
    wires.priority(10, 1)
    wires.enable(1, 10)
    wires.enable(3, 10)
    line = wires.plic.line(10)
    line(True)
    assert wires.claim(1) == 10
    assert wires.out == [False] * 4
    assert wires.claim(3) == 0
    wires.complete(1, 10)
    assert wires.out == [False, True, False, True]  # its wire is still high
    assert wires.claim(3) == 10
    line(False)
    wires.complete(3, 10)
    assert wires.out == [False] * 4


def test_the_highest_priority_and_then_the_lowest_number_comes_first() -> None:
    wires = Wires()
    for source, priority in ((5, 2), (7, 3), (40, 3), (3, 1)):
        wires.priority(source, priority)
        wires.enable(0, source)
        wires.plic.line(source)(True)
    assert [wires.claim(0) for _ in range(5)] == [7, 40, 5, 3, 0]


def test_what_is_not_above_the_threshold_waits() -> None:
    wires = Wires()
    wires.priority(9, 3)
    wires.enable(2, 9)
    wires.threshold(2, 3)
    wires.plic.line(9)(True)
    assert not wires.out[2]
    wires.threshold(2, 2)
    assert wires.out[2]


def test_who_asks_gets_what_is_pending_whatever_the_threshold() -> None:
    """A hart may poll with all notifications off (chapter 9)."""
    wires = Wires()
    wires.priority(9, 1)
    wires.enable(0, 9)
    wires.threshold(0, 7)
    wires.plic.line(9)(True)
    assert not wires.out[0]
    assert wires.claim(0) == 9


def test_completion_of_what_is_not_enabled_here_is_ignored() -> None:
    """Chapter 10; nor has it to be the context that claimed."""
    wires = Wires()
    wires.priority(10, 1)
    wires.enable(1, 10)
    wires.plic.line(10)(True)
    assert wires.claim(1) == 10
    wires.complete(0, 10)
    assert wires.claim(1) == 0
    wires.plic.write(0x2080, 4, 0)
    wires.complete(1, 10)
    wires.enable(1, 10)
    assert wires.claim(1) == 0  # it was masked while it was served, as Linux must not do
    wires.enable(3, 10)
    wires.complete(3, 10)
    assert wires.claim(1) == 10


def test_each_request_is_served_once_by_several_harts() -> None:
    """Four threads claim and complete while a fifth raises: each pulse is one claim, and in the
    end the outputs are what the registers say."""
    wires, over, wrong = Wires(), Event(), list[str]()
    serving, claims = [0] * SOURCES, [0] * 4
    for source in (5, 40, 70):
        wires.priority(source, 1)
        for context in range(4):
            wires.enable(context, source)

    def serves(context: int) -> None:
        while not over.is_set():
            source = wires.claim(context)
            if source:
                serving[source] += 1
                if serving[source] != 1:
                    wrong.append(f"{source} is served twice at once")
                claims[context] += 1
                serving[source] -= 1
                wires.complete(context, source)

    threads = [Thread(target=serves, args=(context,)) for context in range(4)]
    for thread in threads:
        thread.start()
    for number in range(2000):
        wires.plic.line((5, 40, 70)[number % 3])(bool(number // 3 % 2))
    for source in (5, 40, 70):
        wires.plic.line(source)(False)
    over.set()
    for thread in threads:
        thread.join()
    while source := wires.claim(0):
        wires.complete(0, source)
    assert wrong == []
    assert sum(claims) > 0
    assert wires.plic.served == 0
    assert wires.out == [False] * 4


def test_priority_zero_is_never() -> None:
    wires = Wires()
    wires.enable(0, 4)
    wires.plic.line(4)(True)
    assert not wires.out[0]
    wires.priority(4, 1)
    assert wires.out[0]


def test_a_request_stays_though_its_wire_falls() -> None:
    """Its handler will find nothing to do (chapter 5)."""
    wires = Wires()
    wires.priority(4, 1)
    wires.enable(0, 4)
    wires.plic.line(4)(True)
    wires.plic.line(4)(False)
    assert wires.out[0]
    assert [wires.claim(0), wires.claim(0)] == [4, 0]
    wires.complete(0, 4)
    assert not wires.out[0]


def test_there_is_no_source_zero() -> None:
    wires = Wires()
    wires.plic.write(0, 4, 7)
    wires.plic.write(0x2000, 4, 1)
    assert wires.plic.read(0, 4) == 0
    assert wires.plic.read(0x2000, 4) == 0
    wires.complete(0, 0)
    wires.complete(0, SOURCES + 5)
    assert wires.plic.served == 0


@given(st.integers(0, Plic.size - 1), st.integers(0, (1 << 64) - 1), st.sampled_from(WIDTHS))
def test_no_store_breaks_it(at: int, value: int, width: int) -> None:
    wires = Wires()
    wires.plic.line(10)(True)
    wires.plic.write(at, width, value & (1 << 8 * width) - 1)
    assert all(0 <= each < 8 for each in wires.plic.priority + wires.plic.threshold)
    assert len(wires.plic.enable) == CONTEXTS * SOURCES // 32
    assert 0 <= wires.claim(0) < SOURCES


# The finisher.
@pytest.mark.parametrize(
    ("value", "reason"),
    [(0x5555, "poweroff"), (0x7777, "reset"), (0x3333, "fail 0"), (0x0007_3333, "fail 7")],
)
def test_a_store_ends_the_machine(value: int, reason: str) -> None:
    heard: list[str] = []
    device = Finisher(ended=heard.append)
    device.write(0, 4, value)
    assert heard == [reason]


def test_other_stores_do_not_end_it() -> None:
    heard: list[str] = []
    device = Finisher(ended=heard.append)
    for at, value in ((0, 0), (0, 0x5554), (4, 0x5555), (0x800, 0x7777)):
        device.write(at, 4, value)
    assert heard == []


class TestWhoWatchesTheController:
    def test_is_told_around_a_service(self) -> None:
        """After a claim; before a completion, when the wire is to say what it is, and after it."""
        served = Served()
        served.plic.raise_line(10, True)
        assert served.news() == []
        assert served.plic.read(0x20_1004, 4) == 10
        assert served.news() == [True]
        served.plic.write(0x20_1004, 4, 10)
        assert served.news() == [True, False]
        assert served.plic.read(0x20_1004, 4) == 10  # the wire stayed up
        served.plic.raise_line(10, False)
        served.plic.write(0x20_1004, 4, 10)
        assert served.news() == [True, True, False]
        assert served.plic.read(0x20_1004, 4) == 0
        assert served.news() == []

    def test_is_told_what_another_state_serves(self) -> None:
        served = Served()
        before = served.plic.save()
        served.plic.raise_line(10, True)
        served.plic.read(0x20_1004, 4)
        state = served.plic.save()
        served.plic.load(before)
        served.plic.load(state)
        served.plic.reset()
        assert served.news() == [True, False, True, False]

    def test_hears_nothing_of_others(self) -> None:
        served = Served()
        served.plic.write(4 * 11, 4, 1)
        served.plic.write(0x2080, 4, 1 << 11)
        served.plic.raise_line(11, True)
        assert served.plic.read(0x20_1004, 4) == 11
        served.plic.write(0x20_1004, 4, 11)
        assert served.news() == []

    def test_a_completion_of_nothing_changes_nothing(self) -> None:
        served = Served()
        for value in (10, 0, 95, 96, 0xFFFF_FFFF):
            served.plic.write(0x20_1004, 4, value)
        assert served.news() == [False, False]
