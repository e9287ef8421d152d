"""Stitched code: where it lives, and the tables that the native stitcher works from.

Guest code is translated by copying stencils one after another with their holes filled in: see
`stencil` for what a stencil is and `stitcher` for the copying. This is the guest process's side: it
lays out what those two share and knows neither LLVM nor the definitions.
"""

from __future__ import annotations

import ctypes
import marshal
from struct import Struct

from hartwood.jit import abi
from hartwood.mem import hostmem

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Mapping

    from hartwood.jit.image import Image
    from hartwood.jit.sysabi import SystemState

#: The name of the bank that holds stencils and stitcher.
BANK = "stencils"
#: What the stitcher has to know of an instruction. STOP ends a unit.
STOP, PLAIN, BRANCH, JUMP, INDIRECT = range(5)
#: What fills a hole: first numbers, from LEAVE on places relative to the hole.
(BYTE, FIELD, PC, RECORD, FOLLOWING, COUNT, LEAVE, TAKEN, SPENT, ONCE, LEAP, POOL) = range(12)
#: Stencils that are no instruction's, numbered after those that are.
JOINTS = ("charge", "leave", "exit", "counted", "jump", "loop", "far")
#: And those that every unit jumps to, once, at the beginning of the area.
SHARED = ("to_over", "to_fetch", "to_once", "to_leap")

#: The table: one entry a handler number. Code address, holes address, code size, number of holes,
#: offset of the instruction that may fault (or ABSENT), kind, byte of the link register.
PIECE = Struct("<QQIIIBBH")
#: A hole: offset, what fills it, bytes, four details, addend.
HOLE = Struct("<IBBBBBBHi")
ABSENT = 0xFFFF_FFFF

#: The context that stitcher and Python share, in words: lock, where the next unit goes, where the
#: area ends, faults, how many of them fit, where their count is, table, `decode_word`, epoch of
#: the guest's code, number of the first joint, addresses of the shared parts, units so far, the
#: handlers of translated code, of records that nobody filled in yet, and of pages that are gone;
#: what an entry slot holds where there is no translation, and the same where code is stitched; and
#: of the code that is being stitched: the address that its stencils count from, where the record
#: of address 0 would be, where its byte would be.
CONTEXT = (
    "lock", "next", "end", "base", "faults", "room", "count", "table", "decode", "epoch",
    "joints", "to_over", "to_fetch", "to_once", "to_leap", "units",
    "region", "fresh", "gone", "unlinked", "stitched", "origin", "records", "bytes",
)  # fmt: skip
#: Bytes of code, of faults, and a unit's most bytes, which must be left.
AREA, FAULTS, UNIT = 32 << 20, 8 << 20, 32 << 10
#: Guest instructions that one unit may have.
LIMIT = 96
#: The handlers that stencils lead to, by the names of their holes.
HANDLERS = {
    "at_over": "unit_over", "at_fetch": "unit_fetch", "at_once": "unit_once", "at_exit": "unit_exit"
}  # fmt: skip
_FILES = {"x": abi.offset("x"), "f": abi.offset("f")}
_PLACES = {
    "leave": LEAVE, "taken": TAKEN, "spent": SPENT, "once": ONCE, "leap": LEAP, "pool": POOL,
    "pc": PC, "record": RECORD, "following": FOLLOWING, "count": COUNT,
}  # fmt: skip

#: As `stencil.cut` gives it: code, holes (offset, bytes or negative, name, addend), faults.
Stencil = tuple[bytes, list[tuple[int, int, str, int]], list[int]]


_READ_WRITE = hostmem.PROT_READ | hostmem.PROT_WRITE
_PRIVATE = hostmem.MAP_PRIVATE | hostmem.MAP_ANONYMOUS


def context_offset(name: str) -> int:
    """Byte offset of a word of the context."""
    return 8 * CONTEXT.index(name)


class Stitches:
    """The area of stitched code of one process, and the context of its stitcher.

    `area` is what `CodeArena.claim` gave for `faults`, a table of its own; `entries` are addresses
    in the interpreter's base bank, by name, and `handlers` those that stencils lead to. The
    last `spare` bytes of the area are somebody else's.
    """

    def __init__(
        self,
        image: Image,
        area: tuple[int, int],
        faults: int,
        entries: Mapping[str, int],
        handlers: Mapping[str, str] = HANDLERS,
        spare: int = 0,
    ) -> None:
        stencils, numbers, first, pool = marshal.loads(image.meta)
        base, count = area
        self._shared = {hole: entries[name] for hole, name in handlers.items()}
        self._shared["area"] = base
        self._base = base
        self._room = hostmem.view(base, AREA)
        self._used = 0
        self._count = hostmem.view(count, 8).cast("Q")
        self._place(pool)
        code = self._place(image.code)
        self.function = code + image.entries["stitch"]
        word = ctypes.c_uint64
        self._call = ctypes.CFUNCTYPE(word, word, word, word)(self.function)
        pairs = [(code - base + at, code - base + to) for at, to in image.fault_pairs]
        table = hostmem.view(faults, FAULTS).cast("I")
        for index, pair in enumerate(pairs):
            table[2 * index], table[2 * index + 1] = pair
        self._count[0] = self._least = len(pairs)
        places = {}
        for name in SHARED:
            ready, left = self._prefilled(*stencils[name][:2])
            assert not left, f"nobody fills {left} in {name}"
            places[name] = self._place(ready)
        pieces = {number: (stencils[name], *rest) for number, (name, *rest) in numbers.items()}
        pieces |= {first + at: (stencils[name], PLAIN, 0) for at, name in enumerate(JOINTS)}
        self._first = base + self._used
        self.at = hostmem.mmap(0, 4096, _READ_WRITE, _PRIVATE)
        self._words = hostmem.view(self.at, 8 * len(CONTEXT)).cast("Q")
        values = {
            "next": self._first, "end": base + AREA - spare - UNIT, "base": base, "faults": faults,
            "room": FAULTS // 8 - 2 * LIMIT, "count": count, "joints": first, **places,
            "table": self._lay_out(pieces, first + len(JOINTS)),
            "decode": entries["decode_word"], "region": entries.get("enter_region", 0),
            "fresh": entries["decode"], "gone": entries.get("refetch", 0),
            "unlinked": entries.get("no_region", 0),
            "stitched": entries.get("no_region_stitched", 0), "records": abi.SHADOW,
        }  # fmt: skip
        for name, value in values.items():
            self._words[CONTEXT.index(name)] = value

    def _place(self, data: bytes | memoryview) -> int:
        """Put something that stays at the beginning of the area; gives its address."""
        at = self._used
        self._room[at : at + len(data)] = data
        self._used = at + len(data) + 63 & -64
        return self._base + at

    def _prefilled(
        self, code: bytes, holes: list[tuple[int, int, str, int]]
    ) -> tuple[bytes, list[tuple[int, ...]]]:
        """A stencil with what is known now, and the rest of its holes for the table."""
        ready = bytearray(code)
        left: list[tuple[int, ...]] = []
        for offset, size, name, addend in holes:
            parts = name.split("_")
            if name in self._shared:
                ready[offset : offset + 8] = self._shared[name].to_bytes(8, "little")
            elif name == "next":
                ready[offset : offset + 4] = (len(code) - offset + addend).to_bytes(4, "little")
            elif name in _PLACES:
                left.append((offset, _PLACES[name], abs(size), 0, 0, 0, 0, 0, addend))
            else:
                base = addend + _FILES.get(parts[0], 0)
                scale = 3 if parts[0] in _FILES else 0
                if "byte" in parts:
                    left.append((offset, BYTE, size, int(parts[-1]), 0, 0, scale, 0, base))
                else:
                    left.append((offset, FIELD, size, *map(int, parts[-3:]), scale, 0, base))
        return bytes(ready), left

    def _lay_out(self, entries: dict[int, tuple[Stencil, int, int]], count: int) -> int:
        """The table in memory of its own; gives its address."""
        pieces, blob = {}, bytearray()
        for number, ((code, holes, faults), kind, link) in entries.items():
            ready, left = self._prefilled(code, holes)
            code_at = len(blob)
            blob += ready + bytes(16 + -len(ready) % 16)
            holes_at = len(blob)
            for hole in left:
                blob += HOLE.pack(*hole)
            blob += bytes(-len(blob) % 16)
            pieces[number] = code_at, holes_at, len(ready), len(left), faults, kind, link
        size = count * PIECE.size
        at = hostmem.mmap(0, size + len(blob) + 4096 & -4096, _READ_WRITE, _PRIVATE)
        memory = hostmem.view(at, size + len(blob))
        for number, (code_at, holes_at, length, many, faults, kind, link) in pieces.items():
            fault = faults[0] if faults else ABSENT
            memory[number * PIECE.size : (number + 1) * PIECE.size] = PIECE.pack(
                at + size + code_at, at + size + holes_at, length, many, fault, kind, link, 0
            )
        memory[size:] = blob
        return at

    def unit(self, pc: int) -> int:
        """Stitch at a guest address, now; its record has to be decoded. Gives where the unit is, or
        0 where there is nothing to be stitched."""
        return self._call(0, self.at, pc)  # type: ignore[no-any-return]

    def enable(self, state: abi.State | SystemState, threshold: int) -> None:
        """Let a hart stitch what control enters `threshold` times, from now on."""
        state.stitch_context, state.stitch = self.at, self.function
        state.hot_threshold = threshold
        state.hot = (ctypes.c_uint32 * abi.HOT_SLOTS)(*[threshold] * abi.HOT_SLOTS)

    @property
    def units(self) -> int:
        """Units made so far."""
        return self._words[CONTEXT.index("units")]

    @property
    def full(self) -> bool:
        """Nothing more is stitched until `reset`."""
        return self._words[1] >= self._words[2] or self._count[0] >= FAULTS // 8 - 2 * LIMIT

    def holds(self, address: int) -> bool:
        """Whether a host address is that of stitched code."""
        return 0 <= address - self._words[3] < AREA

    def begin_change(self) -> None:
        """Records are about to be discarded: what is being stitched now, by other threads, will not
        be linked, and nothing is begun."""
        self._words[CONTEXT.index("epoch")] |= 1

    def end_change(self) -> None:
        """It is done."""
        self._words[CONTEXT.index("epoch")] += 1

    def reset(self) -> None:
        """Forget every unit. Nothing may lead to one any more."""
        self._words[1] = self._first
        self._count[0] = self._least

    def after_fork_in_child(self) -> None:
        """A thread that is not here may have been stitching."""
        self._words[0] = 0
