"""The one machine of a worker process, and micro-guests on it.

The engine allows one machine in a process, so the benchmarks share it. It translates only when it
is told to, in the foreground: what runs in which tier is exact, and the same in every run.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence

from hartwood.isa.riscv import RISCV
from hartwood.lab import LabError
from hartwood.machine import Hart, Machine
from hartwood.mem import FlatSpace

PAGE = 4096
#: Where code and data of micro-guests go, each from here upwards.
CODE, DATA = 0x4000_0000, 0x8000_0000
RW, RX = 3, 5
A0 = 10
U64 = (1 << 64) - 1


class Guest:
    """Micro-guests of one process: programs and data areas by name, run on one hart."""

    def __init__(self) -> None:
        self.space = FlatSpace()
        self.machine = Machine(self.space, "interp")
        self.hart = self.machine.new_hart()
        self._programs: dict[tuple[str, int], int] = {}
        self._areas: dict[str, tuple[int, int]] = {}
        self._next = {"code": CODE, "data": DATA}

    def _place(self, kind: str, size: int) -> int:
        at = self._next[kind]
        # A page that is not mapped after each: what runs over its end is seen.
        self._next[kind] = at + (size + 2 * PAGE - 1 & -PAGE)
        return at

    def area(self, name: str, data: bytes, size: int = 0) -> int:
        """The address of `data` in guest memory, in an area that keeps its place by `name`."""
        size = max(size, len(data))
        if name not in self._areas:
            at = self._place("data", size)
            self.space.map(at, size, RW)
            self._areas[name] = at, size
        at, room = self._areas[name]
        if size > room:
            raise LabError(f"{name}: its area of guest memory was smaller before")
        self.space.write(at, data)
        return at

    def program(self, text: str, level: int, entries: Sequence[int] = (0,)) -> int:
        """The address of assembled code; `level` 0 interprets it, 1 and 2 are the translator's,
        which begins at each of `entries` (offsets: a function is a region of its own)."""
        engine = self.machine.engine
        if (text, level) not in self._programs:
            at = self._place("code", len(RISCV.assemble(text, CODE)))
            code = RISCV.assemble(text, at)
            self.space.map(at, len(code), RW)
            self.space.write(at, code)
            self.space.protect(at, len(code), RX)
            self._programs[text, level] = at
        at = self._programs[text, level]
        # What fills the code arena makes the engine drop translations.
        if level and not all(at + offset in engine.translations.at for offset in entries):
            engine.translate([at + offset for offset in entries], level)
        return at

    def runner(
        self,
        text: str,
        registers: Mapping[int, int],
        level: int = 2,
        entries: Sequence[int] = (0,),
    ) -> Callable[[], int]:
        """A call that sets registers, runs the program up to its ebreak, and gives a0."""
        pc, hart, x = self.program(text, level, entries), self.hart, self.hart.x
        given = tuple(registers.items())

        def call() -> int:
            for register, value in given:
                x[register] = value
            hart.pc = pc
            run_to_end(hart)
            return x[A0]

        return call

    def counters(self) -> dict[str, int]:
        """Work so far: instructions, those in translated code, regions installed."""
        stats = self.machine.stats()
        names = ("instructions", "translated", "regions")
        return {name: value for name in names if isinstance(value := stats[name], int)}


def run_to_end(hart: Hart) -> None:
    """Run a hart until its ebreak. Raises `LabError` for anything else that stops it."""
    while (stop := hart.run()).cause != "ebreak":
        if stop.cause != "slice":
            raise LabError(f"the micro-guest stopped at {hart.pc:#x}: {stop}")


_guest: Guest | None = None


def guest() -> Guest:
    """The machine of this process, made when it is first wanted."""
    global _guest
    if _guest is None:
        _guest = Guest()
    return _guest


def counters() -> dict[str, int]:
    """`Guest.counters` of this process's machine."""
    return guest().counters()
