"""Registers of the core-local interruptor and of the real-time clock."""

from __future__ import annotations

import time
from threading import Event

import pytest
from hypothesis import given
from hypothesis import strategies as st

from hartwood.dev.clint import Clint
from hartwood.dev.device import Line
from hartwood.dev.goldfish_rtc import GoldfishRtc

U64 = (1 << 64) - 1


# The core-local interruptor.
class Harts:
    """What is wired to one, for two harts."""

    def __init__(self) -> None:
        self.now = 1000
        self.timers: dict[int, int] = {}
        self.soft = [False, False]
        self.clint = Clint(
            clock=lambda: self.now, set_clock=self._set_clock, set_timer=self.timers.__setitem__
        )
        for number in range(2):
            self.clint.outputs[2 * number] = self._wire(number)

    def _set_clock(self, now: int) -> None:
        self.now = now

    def _wire(self, number: int) -> Line:
        def wire(level: bool) -> None:
            self.soft[number] = level

        return wire


def test_a_software_interrupt_is_one_bit_of_a_hart() -> None:
    harts = Harts()
    harts.clint.write(4, 4, 0xFFFF_FFFF)
    assert harts.soft == [False, True]
    assert [harts.clint.read(4 * number, 4) for number in range(3)] == [0, 1, 0]
    harts.clint.write(4, 4, 0xFFFF_FFFE)
    assert harts.soft == [False, False]


def test_a_hart_that_is_not_there_hears_nothing() -> None:
    harts = Harts()
    harts.clint.write(4 * 7, 4, 1)
    harts.clint.write(0x4000 + 8 * 7, 8, 5)
    harts.clint.write(0x4000 + 8 * 8, 8, 5)
    harts.clint.write(4 * 8, 4, 1)
    assert harts.soft == [False, False]
    assert harts.clint.read(4 * 8, 4) == harts.clint.read(0x4000 + 8 * 8, 8) == 0


def test_the_timer_is_the_harts_own() -> None:
    """Whole, and by halves, as RV32 code writes it."""
    harts = Harts()
    harts.clint.write(0x4008, 8, 0x1_2345_6789)
    assert harts.timers == {1: 0x1_2345_6789}
    harts.clint.write(0x400C, 4, 7)
    assert harts.timers[1] == 0x7_2345_6789
    harts.clint.write(0x4008, 4, 9)
    assert harts.timers[1] == 0x7_0000_0009
    assert harts.clint.read(0x4008, 8) == 0x7_0000_0009
    assert (harts.clint.read(0x4008, 4), harts.clint.read(0x400C, 4)) == (9, 7)


def test_time_is_read_and_set() -> None:
    harts = Harts()
    harts.now = 0x5_0000_0006
    assert harts.clint.read(0xBFF8, 8) == 0x5_0000_0006
    assert (harts.clint.read(0xBFF8, 4), harts.clint.read(0xBFFC, 4)) == (6, 5)
    harts.clint.write(0xBFFC, 4, 1)
    assert harts.now == 0x1_0000_0006
    harts.clint.write(0xBFF8, 8, U64)
    assert harts.now == U64


@pytest.mark.parametrize(
    ("at", "width"), [(0, 1), (0, 2), (2, 4), (4, 8), (0xBFF9, 4), (0x4004, 8)]
)
def test_other_accesses_do_nothing(at: int, width: int) -> None:
    harts = Harts()
    before = harts.clint.save()
    harts.clint.write(at, width, (1 << 8 * width) - 1)
    if (at, width) != (4, 8):
        assert harts.clint.save() == before
    assert harts.now == 1000
    assert harts.clint.read(at, width) == 0 or (at, width) == (4, 8)


def test_a_restored_state_is_wired_again() -> None:
    first, second = Harts(), Harts()
    first.clint.write(0, 4, 1)
    first.clint.write(0x4000, 8, 77)
    second.clint.load(first.clint.save())
    assert second.soft == [True, False]
    assert second.timers[0] == 77
    second.clint.reset()
    assert second.soft == [False, False]
    assert second.timers[0] == U64


@given(st.integers(0, Clint.size - 8), st.sampled_from([1, 2, 4, 8]), st.integers(0, U64))
def test_no_store_breaks_the_interruptor(at: int, width: int, value: int) -> None:
    harts = Harts()
    harts.clint.write(at, width, value & (1 << 8 * width) - 1)
    assert 0 <= harts.clint.read(at, width) < 1 << 8 * width
    Clint().load(harts.clint.save())
    assert 0 <= harts.now <= U64


# The real-time clock.
class Clock:
    """One whose wall clock is ours, and its wire."""

    def __init__(self, wall: int = 0x1234_5678_9ABC_DEF0) -> None:
        self.wall, self.level, self.rang = wall, False, Event()
        self.rtc = GoldfishRtc(wall=lambda: self.wall)
        self.rtc.irq = self._irq

    def _irq(self, level: bool) -> None:
        self.level = level
        if level:
            self.rang.set()

    def time(self) -> int:
        low = self.rtc.read(0, 4)
        return self.rtc.read(4, 4) << 32 | low

    def set_alarm(self, when: int) -> None:
        self.rtc.write(0x0C, 4, when >> 32)
        self.rtc.write(0x08, 4, when & 0xFFFF_FFFF)


def test_the_time_is_the_walls() -> None:
    clock = Clock()
    assert clock.time() == clock.wall
    before = time.time_ns()
    rtc = GoldfishRtc()
    low = rtc.read(0, 4)
    assert before <= rtc.read(4, 4) << 32 | low <= time.time_ns()


def test_the_high_half_belongs_to_the_low_one_that_was_read() -> None:
    clock = Clock(0x1_FFFF_FFFF)
    low = clock.rtc.read(0, 4)
    clock.wall += 1
    assert (clock.rtc.read(4, 4), low) == (1, 0xFFFF_FFFF)
    assert clock.time() == 0x2_0000_0000


def test_the_guest_sets_its_own_time() -> None:
    """High half first, as Linux does; it runs on from there."""
    clock = Clock()
    clock.rtc.write(4, 4, 0x55)
    clock.rtc.write(0, 4, 0x66)
    assert clock.time() == 0x55_0000_0066
    clock.wall += 1_000_000
    assert clock.time() == 0x55_0000_0066 + 1_000_000


def test_an_alarm_that_is_over_rings_at_once() -> None:
    clock = Clock()
    clock.rtc.write(0x10, 4, 1)
    clock.set_alarm(clock.wall - 1)
    assert clock.level
    assert clock.rtc.read(0x18, 4) == 0
    clock.rtc.write(0x1C, 4, 1)
    assert not clock.level


def test_an_alarm_rings_when_it_is_time() -> None:
    clock = Clock()
    clock.rtc.write(0x10, 4, 1)
    clock.set_alarm(clock.wall + 20_000_000)
    assert (clock.level, clock.rtc.read(0x18, 4)) == (False, 1)
    clock.wall += 20_000_000
    assert clock.rang.wait(30)
    assert clock.rtc.read(0x18, 4) == 0
    clock.rtc.close()


def test_an_alarm_looks_at_the_clock_before_it_rings() -> None:
    """The wall clock was set back meanwhile: it is not time yet."""
    clock = Clock()
    clock.rtc.write(0x10, 4, 1)
    clock.set_alarm(clock.wall + 1_000_000)
    assert not clock.rang.wait(0.3)
    assert clock.rtc.read(0x18, 4) == 1
    clock.rtc.close()


def test_an_alarm_is_cleared() -> None:
    clock = Clock()
    clock.set_alarm(clock.wall + 10**12)
    assert clock.rtc.read(8, 4) | clock.rtc.read(0x0C, 4) << 32 == clock.wall + 10**12
    clock.rtc.write(0x14, 4, 0)
    assert clock.rtc.read(0x18, 4) == 0
    clock.wall += 2 * 10**12
    clock.rtc.settle()
    assert not clock.rtc.pending


def test_what_is_not_enabled_interrupts_when_it_is() -> None:
    clock = Clock()
    clock.set_alarm(0)
    assert not clock.level
    clock.rtc.write(0x10, 4, 0xFFFF_FFFF)
    assert (clock.level, clock.rtc.read(0x10, 4)) == (True, 1)


def test_a_restored_alarm_rings() -> None:
    first, second = Clock(), Clock()
    first.rtc.write(0x10, 4, 1)
    first.set_alarm(first.wall + 10**12)
    second.wall = first.wall + 2 * 10**12
    second.rtc.load(first.rtc.save())
    assert second.level
    first.rtc.close()
    second.rtc.reset()
    assert not second.level


def test_an_alarm_in_centuries_does_no_harm() -> None:
    clock = Clock()
    clock.set_alarm(U64)
    assert clock.rtc.read(0x18, 4) == 1
    clock.rtc.close()
