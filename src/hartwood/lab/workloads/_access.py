"""Micro-guests that read or write memory in a given width and order, and what must come of it."""

from __future__ import annotations

import random
from collections.abc import Callable
from dataclasses import dataclass

from hartwood.lab.workloads._guest import PAGE, U64, guest

WIDTHS = (1, 2, 4, 8)
LETTER = {1: "b", 2: "h", 4: "w", 8: "d"}
#: sequential, random (both aligned); each address odd; each access across two pages.
ORDERS = ("sequential", "random", "unaligned", "crossing")
COUNT = 4096  # accesses of one round
UNROLLED = 8
SPAN = 1 << 16  # bytes that random accesses fall into
CROSSED = 64  # pages that crossing accesses go through, again and again
#: Knuth's MMIX generator: cheap, and known to be without short cycles in its upper bits.
FACTOR, STEP = 6364136223846793005, 1442695040888963407
#: Reads a3 times the a2 times 64 bytes at a1, and adds them up in a0.
WALK = "; ".join(
    [
        "li a0, 0",
        "lap: mv t1, a1; mv t0, a2",
        "loop: addi t0, t0, -1",
        *(f"ld t2, {8 * i}(t1); add a0, a0, t2" for i in range(8)),
        "addi t1, t1, 64; bnez t0, loop; addi a3, a3, -1; bnez a3, lap; ebreak",
    ]
)


@dataclass(frozen=True)
class Pattern:
    """`rounds` times `COUNT` accesses of `width` bytes in one of `ORDERS`."""

    kind: str
    width: int
    order: str
    rounds: int

    @property
    def accesses(self) -> int:
        """Accesses of one call."""
        return self.rounds * COUNT

    @property
    def size(self) -> int:
        """Bytes of the area it stays in."""
        if self.order == "random":
            return SPAN
        return (CROSSED + 1) * PAGE if self.order == "crossing" else COUNT * self.width + 1

    def offsets(self) -> list[int]:
        """Where one round goes, relative to the area; random ones go on in the next round."""
        if self.order == "crossing":
            # The access straddles the boundary in the middle.
            return [(i % CROSSED + 1) * PAGE - self.width // 2 for i in range(COUNT)]
        first = 1 if self.order == "unaligned" else 0
        return [first + i * self.width for i in range(COUNT)]

    def text(self) -> str:
        """The program: a1 area, a2 rounds, a4 generator or value, a6 and a7 its constants; reads
        are added up in a0."""
        name = LETTER[self.width]
        load, store = f"l{name}" + ("u" if self.width < 8 else ""), f"s{name}"
        lines = []
        for i in range(UNROLLED):
            at = f"{i * self.width}(t1)"
            if self.order == "random":
                lines += ["mul a4, a4, a6", "add a4, a4, a7", "srli t1, a4, 48"]
                lines += [f"andi t1, t1, {-self.width}", "add t1, t1, a1"]
                at = "0(t1)"
            elif self.order == "crossing":
                lines.append("add t1, t1, a5")
                at = "0(t1)"
            if self.kind == "read":
                lines += [f"{load} t2, {at}", "add a0, a0, t2"]
            elif self.order == "random":
                lines.append(f"{store} a4, {at}")
            else:
                lines += ["add a4, a4, a7", f"{store} a4, {at}"]
        inner = CROSSED if self.order == "crossing" else COUNT
        if self.order in ("sequential", "unaligned"):
            lines.append(f"addi t1, t1, {UNROLLED * self.width}")
        laps = COUNT // inner
        body = "; ".join(lines)
        return (
            f"li a0, 0; lui a5, 1; round: li t4, {laps}; lap: mv t1, a1; li t0, {inner // UNROLLED}"
            f"; loop: {body}; addi t0, t0, -1; bnez t0, loop"
            "; addi t4, t4, -1; bnez t4, lap; addi a2, a2, -1; bnez a2, round; ebreak"
        )

    def prepare(
        self, name: str, rng: random.Random, level: int
    ) -> tuple[Callable[[], int], object]:
        """A call, and the answer to expect or the function that checks what it wrote."""
        here, data, seed = guest(), rng.randbytes(self.size), rng.getrandbits(64)
        area = here.area(name, data)
        first = {"unaligned": 1, "crossing": -self.width // 2}.get(self.order, 0)
        registers = {11: area + first, 12: self.rounds, 14: seed, 16: FACTOR, 17: STEP}
        if self.kind == "read":
            return here.runner(self.text(), registers, level), self._sum(data, seed)
        after = self._written(data, seed)

        def verify(answer: object) -> None:
            assert answer == 0, "writes add nothing up"
            found = here.space.read(area, len(after))
            wrong = next((i for i, byte in enumerate(after) if found[i] != byte), None)
            assert wrong is None, f"byte {wrong} of what was written is wrong"

        return here.runner(self.text(), registers, level), verify

    def _sequence(self, seed: int) -> list[tuple[int, int]]:
        """(offset, generator or value) of every access."""
        made, value = [], seed
        offsets = self.offsets()
        for _ in range(self.rounds):
            for offset in offsets:
                if self.order == "random":
                    value = value * FACTOR + STEP & U64
                    offset = value >> 48 & -self.width
                else:
                    value = value + STEP & U64
                made.append((offset, value))
        return made

    def _sum(self, data: bytes, seed: int) -> int:
        width = self.width
        if self.order != "random":
            once = sum(int.from_bytes(data[at : at + width], "little") for at in self.offsets())
            return once * self.rounds & U64
        places = (at for at, _ in self._sequence(seed))
        return sum(int.from_bytes(data[at : at + width], "little") for at in places) & U64

    def _written(self, data: bytes, seed: int) -> bytes:
        after, width = bytearray(data), self.width
        for at, value in self._sequence(seed):
            after[at : at + width] = value.to_bytes(8, "little")[:width]
        return bytes(after)


def patterns(kind: str) -> list[dict[str, int | str]]:
    """Every width in every order that it has: a byte is always aligned and in one page."""
    return [
        {"kind": kind, "width": width, "order": order, "bits": 8 * width}
        for width in WIDTHS
        for order in ORDERS
        if width > 1 or order in ("sequential", "random")
    ]


#: Why `in_gate` leaves some out.
STOOD_FOR = "other widths in the same order stand for it in the gate"


def in_gate(width: int, order: str, **_: object) -> bool:
    """Every width in order and at random, and words where they are awkward."""
    return width == 8 or order in ("sequential", "random")


def pattern(kind: str, width: int, order: str) -> Pattern:
    """The pattern with as many rounds as make a call some tens of microseconds."""
    return Pattern(kind, width, order, 4 if order in ("random", "crossing") else 16)
