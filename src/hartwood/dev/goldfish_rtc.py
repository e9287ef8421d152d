"""The real-time clock of Android's emulator (goldfish: GOLDFISH-VIRTUAL-HARDWARE.TXT, section X;
Linux's drivers/rtc/rtc-goldfish.c): nanoseconds since 1970, and an alarm."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import ClassVar

from hartwood.dev.device import Device, reg, state

_U64, _LOW = (1 << 64) - 1, (1 << 32) - 1
#: Seconds that a thread waits for an alarm at most, before it looks again.
_WAIT = 3600.0


@dataclass
class GoldfishRtc(Device):
    """`wall` is the host's clock in nanoseconds; the guest may set its own, which differs from it
    by `offset`."""

    compatible: ClassVar[str] = "google,goldfish-rtc"
    size: ClassVar[int] = 0x1000
    node: ClassVar[str] = "rtc"
    wall: Callable[[], int] = field(default=time.time_ns, metadata={"host": True}, repr=False)
    offset: int = state(most=_U64)
    #: The high half of the time, as it was when the low one was read.
    high: int = state(most=_LOW)
    alarm: int = state(most=_U64)
    waiting: bool = False
    pending: bool = False
    enabled: bool = False
    _timer: threading.Timer | None = field(
        default=None, metadata={"host": True}, repr=False, compare=False
    )

    def now(self) -> int:
        """The guest's time."""
        return self.wall() + self.offset & _U64

    def settle(self) -> None:
        """See `Device.settle`; a thread waits for the alarm."""
        if self.waiting and self.now() >= self.alarm:
            self.waiting, self.pending = False, True
        self.irq(self.pending and self.enabled)
        self.close()
        if self.waiting:
            seconds = min((self.alarm - self.now()) / 1e9, _WAIT)
            self._timer = threading.Timer(max(seconds, 0), self._due)
            self._timer.daemon = True
            self._timer.start()

    def _due(self) -> None:
        with self.lock:
            self.settle()

    def close(self) -> None:
        """See `Device.close`."""
        if self._timer is not None:
            self._timer.cancel()
        self._timer = None

    @reg(0)
    def time_low(self) -> int:
        """The time's low half; the high one is kept for the next read."""
        now = self.now()
        self.high = now >> 32
        return now & _LOW

    @reg(0)
    def set_time_low(self, value: int) -> None:
        """The low half of a new time; the high one was written before."""
        self._set(self.now() & ~_LOW | value & _LOW)

    @reg(4)
    def time_high(self) -> int:
        """The time's high half."""
        return self.high

    @reg(4)
    def set_time_high(self, value: int) -> None:
        """The high half of a new time."""
        self._set(self.now() & _LOW | (value & _LOW) << 32)

    def _set(self, now: int) -> None:
        self.offset = now - self.wall() & _U64
        self.settle()

    @reg(8)
    def alarm_low(self) -> int:
        """When it rings, low half."""
        return self.alarm & _LOW

    @reg(8)
    def set_alarm_low(self, value: int) -> None:
        """Sets the alarm; its high half was written before."""
        self.alarm = self.alarm & ~_LOW | value & _LOW
        self.waiting = True
        self.settle()

    @reg(0x0C)
    def alarm_high(self) -> int:
        """When it rings, high half."""
        return self.alarm >> 32

    @reg(0x0C)
    def set_alarm_high(self, value: int) -> None:
        """For the next alarm."""
        self.alarm = self.alarm & _LOW | (value & _LOW) << 32

    @reg(0x10)
    def irq_enabled(self) -> int:
        """Whether the alarm interrupts."""
        return self.enabled

    @reg(0x10)
    def enable_irq(self, value: int) -> None:
        """Whether the alarm interrupts."""
        self.enabled = bool(value & 1)
        self.settle()

    @reg(0x14)
    def clear_alarm(self, value: int) -> None:
        """No alarm any more."""
        self.waiting = False
        self.settle()

    @reg(0x18)
    def alarm_status(self) -> int:
        """Whether an alarm is set."""
        return self.waiting

    @reg(0x1C)
    def clear_interrupt(self, value: int) -> None:
        """The interrupt was seen."""
        self.pending = False
        self.settle()
