"""Programs on another emulator: what it makes of them, in the form of our own outcomes."""

from __future__ import annotations

import subprocess
from collections.abc import Callable, Sequence
from dataclasses import replace
from pathlib import Path
from struct import Struct

from property.engines import MOST_STOPS, Moment, Outcome
from property.programs import WRITE, Start

SIGILL, SIGTRAP = 4, 5
_HEAD, _AREA = Struct("<5Q32Q32QQ"), Struct("<3Q")
_MOMENT = Struct("<5Q32Q32QQ")


def pack(start: Start) -> bytes:
    """A program as the oracle reads it."""
    places = start.pc, start.end, start.resume, MOST_STOPS, len(start.areas)
    parts = [_HEAD.pack(*places, *start.x, *start.f, start.fcsr)]
    parts += [_AREA.pack(area.start, len(area.data), area.prot) for area in start.areas]
    parts += [area.data for area in start.areas]
    return b"".join(parts)


def comparable(outcome: Outcome) -> Outcome:
    """An outcome without what the oracle cannot know: instruction counts, and the names of
    exceptions, which it has signals for."""
    signals = {"ebreak": SIGTRAP, "illegal": SIGILL}
    moments = []
    for moment in outcome.moments:
        if moment.cause in signals:
            moment = replace(moment, signal=(signals[moment.cause], 0), address=0)
        moments.append(replace(moment, cause="", instructions=0))
    return replace(outcome, moments=tuple(moments))


class ProgramOracle:
    """Runs batches of programs in the emulator."""

    def __init__(self, oracle: Callable[[str], str], folder: Path) -> None:
        program = folder / "program_oracle"
        source = Path(__file__).with_name("program_oracle.c")
        # gp and tp are the programs' own, so nothing may be addressed through them.
        options = ["-O2", "-static", "-fno-stack-protector", "-mno-relax", "-Wl,--no-relax"]
        compiler = oracle("riscv64-linux-gnu-gcc")
        subprocess.run([compiler, *options, "-o", str(program), str(source)], check=True)
        self._command = [oracle("qemu-riscv64"), "-cpu", "rv64", str(program)]
        self._folder = folder

    def run(self, starts: Sequence[Start]) -> list[Outcome]:
        source, target = self._folder / "programs", self._folder / "results"
        source.write_bytes(len(starts).to_bytes(8, "little") + b"".join(map(pack, starts)))
        subprocess.run([*self._command, str(source), str(target)], check=True, timeout=60)
        raw = memoryview(target.read_bytes())
        outcomes, at = [], 0
        for start in starts:
            moments, more = [], 1
            while more:
                more, signal, code, address, pc, *registers, fcsr = _MOMENT.unpack_from(raw, at)
                at += _MOMENT.size
                if signal in (SIGILL, SIGTRAP):
                    code = address = 0
                x, f = tuple(registers[:32]), tuple(registers[32:])
                moments.append(Moment("", address, (signal, code), pc, 0, x, f, fcsr))
            memory = []
            for area in start.areas:
                if area.prot & WRITE:
                    memory.append((area.start, bytes(raw[at : at + len(area.data)])))
                    at += len(area.data)
            outcomes.append(Outcome(tuple(moments), tuple(memory)))
        return outcomes
