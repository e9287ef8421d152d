"""Golden rows: what an instruction does, written down; the same rows are run by every engine.

    div x7, x6, x3 | b3 43 33 02
        x6=-7      x3=2   => x7=-3
        x6=INT_MIN x3=-1  => x7=INT_MIN

Left of `=>` stands the state before: registers, `fflags`, `frm`, `pc` (0x10000 unless told) and
memory as `mem[0x2000]=value:size`; other registers hold a filler that is not zero, so that writing
0 shows. Right of it stands what has changed; anything that is not named there has to be as before,
with pc moved to the next instruction. `=> trap CAUSE` (and `TVAL`) means that an exception leaves
everything as it was. Values are integers (also INT_MIN, INT_MAX and sums with pc), doubles (1.5,
inf, nan) or NaN-boxed singles (1.5f, nanf).
"""

from __future__ import annotations

import re
import struct
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path

INSNS = Path(__file__).parent.parent / "insns"
U64 = (1 << 64) - 1
PC = 0x10000
FILLER = 0x0BAD_CAFE_0000_0000
_NAMES = {"INT_MIN": -(1 << 63), "INT_MAX": (1 << 63) - 1}
_MEMORY = re.compile(r"mem\[(\w+)\]")


@dataclass
class Snapshot:
    """An architectural state; memory as address: bytes."""

    pc: int = PC
    x: list[int] = field(default_factory=lambda: [0, *range(FILLER + 1, FILLER + 32)])
    f: list[int] = field(default_factory=lambda: list(range(FILLER + 32, FILLER + 64)))
    fflags: int = 0
    frm: int = 0
    memory: dict[int, bytes] = field(default_factory=dict)

    def copy(self) -> Snapshot:
        """An independent copy."""
        x, f, memory = list(self.x), list(self.f), dict(self.memory)
        return Snapshot(self.pc, x, f, self.fflags, self.frm, memory)

    def set(self, name: str, text: str) -> None:
        """Assign one `name=text` of a row."""
        place = _MEMORY.fullmatch(name)
        if place:
            number, _, size = text.partition(":")
            raw = value(number, self.pc).to_bytes(8, "little")[: int(size or 8)]
            self.memory[int(place[1], 0)] = raw
        elif name in ("fflags", "frm", "pc"):
            setattr(self, name, value(text, self.pc))
        elif name[0] in "xf" and name[1:].isdecimal():
            (self.x if name[0] == "x" else self.f)[int(name[1:])] = value(text, self.pc)
        else:
            raise ValueError(f"golden rows know no {name}")


@dataclass
class Golden:
    """One case: `code` at `before.pc` leaves `after`, or raises `trap` (cause, tval)."""

    asm: str
    code: bytes
    before: Snapshot
    after: Snapshot
    trap: tuple[int, int] | None
    where: str

    @property
    def name(self) -> str:
        """The instruction's spelling."""
        return self.asm.split()[0]


def value(text: str, pc: int) -> int:
    """An unsigned 64-bit value."""
    if text.startswith("pc"):
        return pc + int(text[2:] or "0", 0) & U64
    if text in _NAMES:
        return _NAMES[text] & U64
    if not text.startswith("0x"):
        if text in ("nan", "nanf"):
            return 0x7FF8 << 48 if text == "nan" else U64 << 32 & U64 | 0x7FC0_0000
        if text.endswith("f") and text.lstrip("-") != "inf":
            raw = struct.pack("<f", float(text[:-1])) + b"\xff" * 4
            return int.from_bytes(raw, "little")
        if not text.lstrip("-").isdecimal():
            return int.from_bytes(struct.pack("<d", float(text)), "little")
    return int(text, 0) & U64


def parse(text: str, origin: str) -> Iterator[Golden]:
    """The cases of a file's text."""
    asm, code = "", b""
    for number, line in enumerate(text.splitlines(), 1):
        line = line.partition("#")[0].rstrip()
        if not line:
            continue
        if not line.startswith(" "):
            asm, _, digits = (part.strip() for part in line.partition("|"))
            code = bytes.fromhex(digits)
            continue
        left, _, right = line.partition("=>")
        before = Snapshot()
        # pc first: other values may refer to it.
        for assignment in sorted(left.split(), key=lambda part: not part.startswith("pc=")):
            before.set(*assignment.split("=", 1))
        after, trap = before.copy(), None
        words = right.split()
        if words[:1] == ["trap"]:
            trap = (int(words[1]), value(words[2], before.pc) if len(words) > 2 else 0)
        else:
            for assignment in words:
                name, _, result = assignment.partition("=")
                if name == "pc":
                    continue
                after.set(name, result)
            jumps = [word.partition("=")[2] for word in words if word.startswith("pc=")]
            after.pc = value(jumps[0], before.pc) if jumps else before.pc + len(code)
        yield Golden(asm, code, before, after, trap, f"{origin}:{number}")


def load(isa: str = "riscv64") -> list[Golden]:
    """Every case for an architecture."""
    files = sorted((INSNS / isa).glob("*.ins"))
    return [case for file in files for case in parse(file.read_text(), file.name)]
