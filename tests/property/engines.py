"""One machine with every engine: runs a program on each and says what came of it.

There can be only one machine in a process, so its engines take turns on it.
"""

from __future__ import annotations

import os
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass

import pytest

from hartwood.isa.riscv import RISCV
from hartwood.machine.hart import Machine, Stop
from hartwood.mem.flat import FlatSpace
from property.programs import LIMIT, PAGE, WRITE, Start

ENGINES = ("reference", "interp", "jit", "stitch")
#: Exceptions after which a program is let go on; then the run is over.
MOST_STOPS = 40
#: More instructions than any program of ours has fuel for.
MOST_INSTRUCTIONS = 2_000_000


@dataclass(frozen=True)
class Moment:
    """A hart that stopped: why, and its registers."""

    cause: str
    address: int
    signal: tuple[int, int]
    pc: int
    instructions: int
    x: tuple[int, ...]
    f: tuple[int, ...]
    fcsr: int


@dataclass(frozen=True)
class Outcome:
    """Every exception of a run, and what it left in writable memory."""

    moments: tuple[Moment, ...]
    memory: tuple[tuple[int, bytes], ...]


class Engines:
    """A machine that is a reference, an interpreter or a translator, as it is told."""

    def __init__(self, mode: str = "interp") -> None:
        """With `mode` "jit" it translates by itself too, whatever gets hot."""
        self.space = FlatSpace()
        self.machine = Machine(self.space, mode)
        self.hart = self.machine.new_hart()
        state = self.hart.state
        self.unstitched = state.hot_threshold, type(state.hot)(*state.hot)

    def close(self) -> None:
        self.machine.close()
        self.space.close()

    def load(self, start: Start) -> None:
        """Bring memory and registers to the state before a run."""
        # Page by page: when all memory goes at once, the engine keeps what it made for later.
        self.machine.engine.code_changed(0, LIMIT - PAGE)
        if self.machine.engine.stitches:
            self.machine.engine.stitches.reset()
        self.space.reset()
        for area in start.areas:
            self.space.map(area.start, len(area.data), 3)
            self.space.write(area.start, area.data)
            self.space.protect(area.start, len(area.data), area.prot)
        self.prepare(start)

    def prepare(self, start: Start) -> None:
        """Bring the registers to the state before a run."""
        hart = self.hart
        for index in range(1, 32):
            hart.x[index] = start.x[index]
        for index in range(32):
            hart.f[index] = start.f[index]
        hart.pc, hart.fcsr = start.pc, start.fcsr
        hart.state.reserved_address = (1 << 64) - 1
        hart.instructions = 0
        hart.state.translated = 0

    def use(self, engine: str) -> None:
        """Let the hart run on one of `ENGINES`; for "stitch", all is stitched that control
        enters."""
        self.machine.mode = engine
        state = self.hart.state
        if engine == "stitch":
            self.machine.engine.stitch(state, 1)
        else:
            state.stitch, state.hot_threshold, state.hot = 0, *self.unstitched

    def run(
        self,
        start: Start,
        engine: str,
        *,
        entries: Iterable[int] = (),
        level: int = 2,
        budget: Callable[[], int] | None = None,
    ) -> Outcome:
        """Load and run; with "stitch", what control enters is stitched; with "jit", code at
        `entries` (all of them, by default) is translated. With "auto" it is up to the machine."""
        self.load(start)
        self.use(engine)
        if engine == "jit":
            self.machine.engine.translate(list(entries) or start.entries, level)
        moments = []
        while True:
            stop = self.hart.run(budget()) if budget else self.hart.run()
            if stop.cause == "slice":
                if self.hart.instructions > MOST_INSTRUCTIONS:
                    raise AssertionError(f"{engine} does not come to an end")
                continue
            moments.append(self.moment(stop))
            if self.hart.pc == start.end or len(moments) == MOST_STOPS:
                break
            if stop.cause == "fetch":
                self.hart.pc = start.resume
            else:
                low = self.space.read(self.hart.pc, 2)[0]
                self.hart.pc += 4 if low & 3 == 3 else 2
        memory = [
            (area.start, self.space.read(area.start, len(area.data)))
            for area in start.areas
            if area.prot & WRITE
        ]
        return Outcome(tuple(moments), tuple(memory))

    @property
    def translated(self) -> int:
        """Instructions that ran in translated code since `prepare`."""
        return int(self.hart.state.translated)

    def moment(self, stop: Stop) -> Moment:
        """The hart as it stands."""
        hart = self.hart
        signal = stop.signo, stop.code
        registers = tuple(hart.x), tuple(hart.f), hart.fcsr
        return Moment(stop.cause, stop.address, signal, hart.pc, hart.instructions, *registers)


def difference(ours: Outcome, theirs: Outcome) -> str:
    """Where two outcomes differ for the first time, or nothing."""
    if ours == theirs:
        return ""
    for number, (a, b) in enumerate(zip(ours.moments, theirs.moments, strict=False)):
        if a != b:
            lines = [f"stop {number}, {a.cause} at {a.pc:#x}:"]
            for name in ("cause", "address", "signal", "pc", "instructions", "fcsr"):
                if getattr(a, name) != getattr(b, name):
                    shown = [_show(getattr(m, name)) for m in (a, b)]
                    lines.append(f"  {name}: {shown[0]} instead of {shown[1]}")
            for kind, mine, other in (("x", a.x, b.x), ("f", a.f, b.f)):
                for index in range(32):
                    if mine[index] != other[index]:
                        lines.append(
                            f"  {kind}{index}: {mine[index]:#x} instead of {other[index]:#x}"
                        )
            return "\n".join(lines)
    if len(ours.moments) != len(theirs.moments):
        return f"{len(ours.moments)} stops instead of {len(theirs.moments)}"
    for (start, data), (_, expected) in zip(ours.memory, theirs.memory, strict=True):
        for at, (x, y) in enumerate(zip(data, expected, strict=True)):
            if x != y:
                return f"memory at {start + at:#x}: {x:#x} instead of {y:#x}"
    return "the outcomes differ in their areas"


def _show(value: object) -> str:
    return hex(value) if isinstance(value, int) else str(value)


def listing(start: Start, around: int, lines: int = 12) -> str:
    """Some of the program's code around an address."""
    area = start.areas[0]
    low = max(start.pc, around - 4 * lines)
    code = area.data[low - area.start : around + 4 * lines - area.start]
    return "\n".join(
        f"{'=>' if pc == around else '  '} {pc:#x}: {text}"
        for pc, _, text in RISCV.listing(code, low)
    )


def machine_of(folders: pytest.TempPathFactory, mode: str = "interp") -> Iterator[Engines]:
    """A machine for the tests of one module, with a code cache of this test run's own."""
    os.environ["HARTWOOD_CACHE"] = str(folders.getbasetemp() / "code")
    engines = Engines(mode)
    yield engines
    engines.close()
