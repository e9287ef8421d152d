"""The firmware's side of the supervisor binary interface (RISC-V SBI specification 2.0).

Base, timer, inter-processor interrupts, remote fences, hart state, system reset and the debug
console; of the legacy calls the two of the console.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Protocol

from hartwood.board.harts import STOPPED, Harts
from hartwood.errors import MemoryFault
from hartwood.machine import Processor

SPECIFICATION, IMPLEMENTATION = 2 << 24, 0x4857
BASE, TIME, IPI, RFENCE, HSM, RESET, CONSOLE = (
    0x10, 0x54494D45, 0x735049, 0x52464E43, 0x48534D, 0x53525354, 0x4442434E,
)  # fmt: skip
_OLD_PUT, _OLD_GET = 1, 2
EXTENSIONS = frozenset((BASE, TIME, IPI, RFENCE, HSM, RESET, CONSOLE, _OLD_PUT, _OLD_GET))
SUCCESS, FAILED, NOT_SUPPORTED, INVALID, BAD_ADDRESS, ALREADY = 0, -1, -2, -3, -5, -6
#: Error and value of a call; None where the hart does not return from it.
Result = tuple[int, int] | None
#: Types of suspension (9.4): those of the specification, which keep registers or do not.
_RETENTIVE, _NON_RETENTIVE = 0, 0x8000_0000
#: Reset types and reasons of a vendor's own begin here (10, tables 11 and 12).
_OWN_TYPES = 0xF000_0000
_PLATFORM = range(0x1000_0000, 0x8000_0000)
_ALL = (1 << 64) - 1
#: Bytes that one call of the console moves at most.
_MOST = 1 << 16


class Host(Protocol):
    """What the firmware needs of the board."""

    harts: list[Processor]
    states: Harts

    def end(self, reason: str) -> None:
        """The machine ends."""
        ...

    def put(self, data: bytes) -> None:
        """Output of the debug console."""
        ...

    def get(self, most: int) -> bytes:
        """Its input, as much as there is."""
        ...


class Sbi:
    """Answers ecalls from S-mode; one for all harts of a board."""

    def __init__(self, board: Host) -> None:
        self._board = board
        self._calls: dict[int, Callable[[Processor, int, list[int]], Result]] = {
            BASE: self._base,
            TIME: self._time,
            IPI: self._ipi,
            RFENCE: self._fence,
            HSM: self._hsm,
            RESET: self._reset,
            CONSOLE: self._console,
        }

    def __call__(self, hart: Processor) -> None:
        """One call: arguments and results as chapter 3 has them."""
        extension, function = hart.a7, hart.a6
        arguments = [hart.a0, hart.a1, hart.a2, hart.a3, hart.a4]
        if extension == _OLD_PUT:
            self._board.put(bytes([arguments[0] & 0xFF]))
            hart.a0 = 0
        elif extension == _OLD_GET:
            data = self._board.get(1)
            hart.a0 = data[0] if data else _ALL
        else:
            call = self._calls.get(extension, self._unknown)
            result = call(hart, function, arguments)
            if result is not None:
                hart.a0, hart.a1 = result[0] & _ALL, result[1] & _ALL

    def _unknown(self, hart: Processor, function: int, a: list[int]) -> tuple[int, int]:
        return NOT_SUPPORTED, 0

    def _base(self, hart: Processor, function: int, a: list[int]) -> tuple[int, int]:
        answers = [SPECIFICATION, IMPLEMENTATION, 1, int(a[0] in EXTENSIONS), 0, 0, 0]
        if function >= len(answers):
            return NOT_SUPPORTED, 0
        return SUCCESS, answers[function]

    def _time(self, hart: Processor, function: int, a: list[int]) -> tuple[int, int]:
        if function:
            return NOT_SUPPORTED, 0
        hart.set_timer(a[0])
        return SUCCESS, 0

    def _named(self, mask: int, base: int) -> list[Processor] | None:
        """The harts of a mask; None where it names one that is not there (3.1)."""
        harts = self._board.harts
        if base == _ALL:
            return harts
        wanted = [base + bit for bit in range(64) if mask >> bit & 1]
        if any(number >= len(harts) for number in wanted):
            return None
        return [harts[number] for number in wanted]

    def _ipi(self, hart: Processor, function: int, a: list[int]) -> tuple[int, int]:
        if function:
            return NOT_SUPPORTED, 0
        harts = self._named(a[0], a[1])
        for other in harts or ():
            if self._board.states.state(self._board.harts.index(other)) != STOPPED:
                other.post(1)
        return (INVALID if harts is None else SUCCESS), 0

    def _fence(self, hart: Processor, function: int, a: list[int]) -> tuple[int, int]:
        if function > 2:  # there is no hypervisor
            return NOT_SUPPORTED, 0
        harts = self._named(a[0], a[1])
        for other in harts or ():
            if other is hart:
                other.flush_local()
            else:
                other.flush_remote()
        return (INVALID if harts is None else SUCCESS), 0

    def _hsm(self, hart: Processor, function: int, a: list[int]) -> Result:
        harts, states = self._board.harts, self._board.states
        if function == 1:
            states.stop(harts.index(hart))
            return None
        if function == 3:
            return self._suspend(hart, a[0] & 0xFFFF_FFFF, a[1], a[2])
        if function not in (0, 2):
            return NOT_SUPPORTED, 0
        if a[0] >= len(harts):
            return INVALID, 0
        if function == 2:
            return SUCCESS, states.state(a[0])
        if not self._in_memory(hart, a[1]):
            return BAD_ADDRESS, 0
        return (SUCCESS if states.start(a[0], a[1], a[2]) else ALREADY), 0

    def _suspend(self, hart: Processor, kind: int, resume: int, opaque: int) -> Result:
        """Any interrupt ends it; one that is over before it began is an early one (9.4)."""
        number = self._board.harts.index(hart)
        if kind not in (_RETENTIVE, _NON_RETENTIVE):
            platform = kind & ~_NON_RETENTIVE in _PLATFORM
            return (NOT_SUPPORTED if platform else INVALID), 0
        if kind == _NON_RETENTIVE and not self._in_memory(hart, resume):
            return BAD_ADDRESS, 0
        self._board.states.suspend(number)
        if kind == _RETENTIVE:
            return SUCCESS, 0
        hart.enter_supervisor(resume, number, opaque)
        return None

    @staticmethod
    def _in_memory(hart: Processor, at: int) -> bool:
        try:
            hart.bus.ram.find(at, 2)
        except MemoryFault:
            return False
        return True

    def _reset(self, hart: Processor, function: int, a: list[int]) -> Result:
        """A reason that tells of a failure makes one of whatever was asked for (10.1)."""
        kind, why = a[0] & 0xFFFF_FFFF, a[1] & 0xFFFF_FFFF
        if function or kind >= _OWN_TYPES or why >= _OWN_TYPES:
            return NOT_SUPPORTED, 0
        if kind > 2 or why > 1:
            return INVALID, 0
        self._board.end(f"fail {why}" if why else ("reset" if kind else "poweroff"))
        return None

    def _console(self, hart: Processor, function: int, a: list[int]) -> tuple[int, int]:
        if function == 2:
            self._board.put(bytes([a[0] & 0xFF]))
            return SUCCESS, 0
        size, at = min(a[0], _MOST), a[1] | a[2] << 64
        try:
            if function == 0:
                self._board.put(hart.bus.ram.read(at, size))
                return SUCCESS, size
            if function == 1:
                hart.bus.ram.find(at, size)
                data = self._board.get(size)
                hart.bus.ram.write(at, data)
                return SUCCESS, len(data)
        except MemoryFault:
            return INVALID, 0
        return NOT_SUPPORTED, 0
