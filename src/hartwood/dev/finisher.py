"""SiFive's test finisher: a store ends the machine (the test device of their E31 cores)."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import ClassVar

from hartwood.dev.device import Device, Property, host, reg

_PASS, _FAIL, _RESET = 0x5555, 0x3333, 0x7777


@dataclass
class Finisher(Device):
    """`ended` hears "poweroff", "reset" or "fail <code>"."""

    compatible: ClassVar[str] = "sifive,test1"
    size: ClassVar[int] = 0x1000
    node: ClassVar[str] = "test"
    properties: ClassVar[Mapping[str, Property]] = {
        "compatible": [compatible, "sifive,test0", "syscon"]
    }
    ended: Callable[[str], None] = host()

    @reg(0)
    def finish(self, value: int) -> None:
        """What ends it, in the low half; a code above."""
        reasons = {_PASS: "poweroff", _RESET: "reset", _FAIL: f"fail {value >> 16 & 0xFFFF}"}
        reason = reasons.get(value & 0xFFFF)
        if reason:
            self.ended(reason)
