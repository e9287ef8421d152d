"""The core-local interruptor: software and timer interrupts of M-mode (SiFive E31 manual, chapter
9; the same map as MSWI and MTIMER of RISC-V ACLINT 1.0)."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import ClassVar

from hartwood.dev.device import Device, Property, host, state, unwired

#: Harts that have registers here.
HARTS = 8
_MTIMECMP, _MTIME, _U64 = 0x4000, 0xBFF8, (1 << 64) - 1


def _never() -> int:
    return 0


@dataclass
class Clint(Device):
    """mtime is the harts' own counter, and each compares it with its mtimecmp itself: `clock` and
    `set_clock` are the way to the one, `set_timer(hart, when)` to the other."""

    compatible: ClassVar[str] = "riscv,clint0"
    size: ClassVar[int] = 0x1_0000
    node: ClassVar[str] = "clint"
    properties: ClassVar[Mapping[str, Property]] = {"compatible": ["sifive,clint0", compatible]}
    hart_interrupts: ClassVar[tuple[int, ...]] = (3, 7)
    clock: Callable[[], int] = field(default=_never, metadata={"host": True}, repr=False)
    set_clock: Callable[[int], None] = host()
    set_timer: Callable[[int, int], None] = field(
        default=lambda hart, when: None, metadata={"host": True}, repr=False, compare=False
    )
    msip: list[int] = state(most=1, count=HARTS)
    mtimecmp: list[int] = state(_U64, most=_U64, count=HARTS)

    def read(self, offset: int, width: int) -> int:
        """A load of a word, or of both halves of a timer's register."""
        at = offset & ~7 if offset >= _MTIMECMP else offset
        if width not in (4, 8) or offset % width:
            return 0
        with self.lock:
            return self._register(at) >> 8 * (offset - at) & (1 << 8 * width) - 1

    def _register(self, at: int) -> int:
        if at == _MTIME:
            return self.clock()
        if at < 4 * HARTS:
            return self.msip[at // 4]
        return self.mtimecmp[self._timer(at)] if self._timer(at) < HARTS else 0

    @staticmethod
    def _timer(at: int) -> int:
        return (at - _MTIMECMP) // 8 if at >= _MTIMECMP else HARTS

    def write(self, offset: int, width: int, value: int) -> None:
        """A store; of a word, to one half of a timer's register."""
        if width not in (4, 8) or offset % width:
            return
        at = offset & ~7 if offset >= _MTIMECMP else offset
        mask = (1 << 8 * width) - 1 << 8 * (offset - at)
        with self.lock:
            new = self._register(at) & ~mask | value << 8 * (offset - at) & mask
            timer = self._timer(at)
            if at == _MTIME:
                self.set_clock(new & _U64)
            elif at < 4 * HARTS:
                self.msip[at // 4] = value & 1
                self.outputs.get(2 * (at // 4), unwired)(bool(value & 1))
            elif timer < HARTS:
                self.mtimecmp[timer] = new
                self.set_timer(timer, new)

    def settle(self) -> None:
        """See `Device.settle`."""
        for hart in range(HARTS):
            self.outputs.get(2 * hart, unwired)(bool(self.msip[hart]))
            self.set_timer(hart, self.mtimecmp[hart])
