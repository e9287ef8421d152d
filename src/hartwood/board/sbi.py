"""The firmware's side of the supervisor binary interface (RISC-V SBI specification 2.0).

Base, timer, inter-processor interrupts, remote fences, hart state, system reset and the debug
console; of the legacy calls the two of the console.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Protocol

from hartwood.errors import MemoryFault
from hartwood.machine import Processor

SPECIFICATION, IMPLEMENTATION = 2 << 24, 0x4857
BASE, TIME, IPI, RFENCE, HSM, RESET, CONSOLE = (
    0x10, 0x54494D45, 0x735049, 0x52464E43, 0x48534D, 0x53525354, 0x4442434E,
)  # fmt: skip
_OLD_PUT, _OLD_GET = 1, 2
EXTENSIONS = frozenset((BASE, TIME, IPI, RFENCE, HSM, RESET, CONSOLE, _OLD_PUT, _OLD_GET))
SUCCESS, FAILED, NOT_SUPPORTED, INVALID, ALREADY = 0, -1, -2, -3, -6
_ALL = (1 << 64) - 1
#: Bytes that one call of the console moves at most.
_MOST = 1 << 16


class Host(Protocol):
    """What the firmware needs of the board."""

    harts: list[Processor]

    def start(self, number: int, entry: int, opaque: int) -> int:
        """Start a hart; an SBI error."""
        ...

    def stop(self, number: int) -> None:
        """The hart that calls stops."""
        ...

    def state(self, number: int) -> int:
        """0 where a hart runs, 1 where it is stopped (9.4)."""
        ...

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
        self._calls: dict[int, Callable[[Processor, int, list[int]], tuple[int, int]]] = {
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
            error, value = call(hart, function, arguments)
            hart.a0, hart.a1 = error & _ALL, value & _ALL

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
        harts = self._named(a[0], a[1])
        if function:
            return NOT_SUPPORTED, 0
        for other in harts or ():
            other.post(1)
        return (INVALID if harts is None else SUCCESS), 0

    def _fence(self, hart: Processor, function: int, a: list[int]) -> tuple[int, int]:
        harts = self._named(a[0], a[1])
        if function > 2:  # there is no hypervisor
            return NOT_SUPPORTED, 0
        for other in harts or ():
            if other is hart:
                other.flush_local()
            else:
                other.flush_remote()
        return (INVALID if harts is None else SUCCESS), 0

    def _hsm(self, hart: Processor, function: int, a: list[int]) -> tuple[int, int]:
        board = self._board
        if function == 1:
            board.stop(board.harts.index(hart))
            return SUCCESS, 0
        if function not in (0, 2):
            return NOT_SUPPORTED, 0
        if a[0] >= len(board.harts):
            return INVALID, 0
        if function == 2:
            return SUCCESS, board.state(a[0])
        return board.start(a[0], a[1], a[2]), 0

    def _reset(self, hart: Processor, function: int, a: list[int]) -> tuple[int, int]:
        kind, why = a[0] & 0xFFFF_FFFF, a[1] & 0xFFFF_FFFF
        if function or kind > 2:
            return (INVALID if not function else NOT_SUPPORTED), 0
        if kind == 0:
            self._board.end("poweroff" if why == 0 else f"fail {why}")
        else:
            self._board.end("reset")
        return SUCCESS, 0

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
