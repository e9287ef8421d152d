"""What is known where a block of a region begins, so that it need not be looked at again there.

Lifting a block tells what it does (`Outline`). What follows for other blocks is solved forward,
from the most that could be true down to what is on every way:

- An address that was accessed without a fault is inside the address space, and what is near it is
  that or a guard zone. A pointer that walks through an array is therefore compared with the limit
  on the way into the loop, and not in it.
- A floating-point result may stay raw (see `Val.raw`) until somebody looks at its bits, also where
  that is in another block, if it is an arithmetic result on every way there.
- The rounding mode is one that the host has, until a call or a write of `frm`.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field

from hartwood.bits.ssa_float import DYN
from hartwood.isa.insnset import InsnSet
from hartwood.jit.flow import Region, Step, inner_successors
from hartwood.jit.quiet import FFLAGS

#: Distances from an address inside, to the next of which they are rounded up, so that what grows
#: does so a few times only; and what a loop may rely on at its head.
_DISTANCES = (0, 1 << 6, 1 << 10, 1 << 14, 1 << 16)
_WALK = 1 << 14
#: What a floating-point register holds: an arithmetic result, with a NaN made canonical or not.
CANONICAL, RAW = 0, 1

#: By register: how far at most an integer one is from an address inside; which kind of arithmetic
#: result a floating-point one (counted from 0) holds. The greater of two is true of both.
Known = dict[int, int]
Solved = dict[int, Known]
After = Callable[[int, Known], Known]


@dataclass
class Outline:
    """What lifting a block told."""

    #: Integer register whose value at the block's beginning a name stands for.
    begins: dict[str, int] = field(default_factory=dict)
    #: Integer register -> name and offset from it, or a number, of what was written last.
    ends: dict[int, tuple[str, int] | int] = field(default_factory=dict)
    #: Name -> offsets from it that were accessed, in this order.
    points: dict[str, list[int]] = field(default_factory=dict)
    #: Floating-point register -> what was written last; None for neither `RAW` nor `CANONICAL`.
    floats: dict[int, int | None] = field(default_factory=dict)


class Facts:
    """Facts about the blocks of a region, by where they start. Without `outlines`, which there has
    to be one of for each block, only of the rounding mode."""

    def __init__(
        self, insns: InsnSet, region: Region, outlines: dict[int, Outline] | None = None
    ) -> None:
        self._insns, self._region = insns, region
        self._outlines = outlines or {}
        self._before: dict[int, list[int]] = {start: [] for start in region.blocks}
        for start, block in region.blocks.items():
            for goal in inner_successors(region, block):
                self._before[goal].append(start)
        self._heads = {s for s, before in self._before.items() if any(b >= s for b in before)}
        #: Whether any instruction rounds as `frm` says: then it is looked at where control enters.
        self.rounds = any(self._rounds(step) for b in region.blocks.values() for step in b.steps)
        sure = self._solve(self._sure_after, {}, entering={0: 0})
        #: Blocks that may begin with a rounding mode that the host has not.
        self.unsure = {start for start in region.blocks if not sure.get(start)}
        # By loop head: where a register is compared with the limit, and which may hold no NaN but
        # the canonical one, on the ways in that do not know.
        self._points: Solved = {}
        self._walks: Solved = {}
        self._results: Solved = {}
        self._near: Solved = {}
        self._floats: Solved = {}
        if outlines:
            self._points = {start: self._first_points(start) for start in self._heads}
            self._walks = {s: dict.fromkeys(at, _WALK) for s, at in self._points.items()}
            self._near = self._settle(self._near_after, self._walks)
            inner = self._solve(self._floats_after, {})
            self._results = {
                start: {r: RAW for r, kind in inner.get(start, {}).items() if kind == RAW}
                for start in self._heads
            }
            self._floats = self._settle(self._floats_after, self._results)

    def near(self, start: int) -> Known:
        """How far registers are from addresses inside, where a block begins."""
        return self._near.get(start, {})

    def raw(self, start: int) -> set[int]:
        """The floating-point registers that hold a raw result where a block begins."""
        return {r for r, kind in self._floats.get(start, {}).items() if kind == RAW}

    def to_compare(self, before: int | None, goal: int) -> Known:
        """Register -> offset: what has to be compared with the limit on the way to a block from
        another, or from outside the region."""
        wanted = self._walks.get(goal, {})
        lacking = self._lacking(self._near_after, self._near, before, wanted)
        return {register: self._points[goal][register] for register in sorted(lacking)}

    def to_be_result(self, before: int | None, goal: int) -> list[int]:
        """Floating-point registers that may hold no NaN but the canonical one on that way."""
        wanted = self._results.get(goal, {})
        return sorted(self._lacking(self._floats_after, self._floats, before, wanted))

    def _solve(self, after: After, wanted: Solved, entering: Known | None = None) -> Solved:
        """What is known on every way to each block, or what is `wanted` there, which is looked
        after on the ways that do not know. `after` gives what is known at the end of a block,
        given what is at its beginning; `entering` is known where control enters the region. With
        None it is as if control came to loop heads from inside the loop only."""
        found: Solved = {}
        work = list(self._region.entries)
        while work:
            start = work.pop()
            head = start in self._heads and entering is None
            come = [b for b in self._before[start] if b in found and (b >= start or not head)]
            ways = [after(b, found[b]) for b in come]
            if start in self._region.entries and not head:
                ways.append(entering or {})
            shared = set.intersection(*map(set, ways)) if ways else set[int]()
            known = {register: max(way[register] for way in ways) for register in shared}
            known |= wanted.get(start, {})
            if found.get(start) != known:
                found[start] = known
                work.extend(inner_successors(self._region, self._region.blocks[start]))
        return found

    def _lacking(self, after: After, known: Solved, before: int | None, wanted: Known) -> set[int]:
        """The registers of `wanted` that are not known to be so after a block."""
        if not wanted:
            return set()
        then = {} if before is None else after(before, known.get(before, {}))
        return {register for register, at in wanted.items() if then.get(register, at + 1) > at}

    def _settle(self, after: After, wanted: Solved) -> Solved:
        """Solve, and want no more than what is so on all ways round each loop."""
        while True:
            known, less = self._solve(after, wanted, {}), False
            for start, registers in wanted.items():
                for before in self._before[start]:
                    if before >= start:
                        for register in self._lacking(after, known, before, registers):
                            registers.pop(register, None)
                            less = True
            if not less:
                return known

    # The rounding mode: register 0 stands for it.
    def _rounds(self, step: Step) -> bool:
        insn = step.decoded.insn
        return self._insns.properties(insn, insn.variant(step.decoded.fields)).rounding

    def _sure_after(self, start: int, known: Known) -> Known:
        block = self._region.blocks[start]
        for step in block.steps:
            if step.decoded.fields.get("csr", FFLAGS) != FFLAGS:
                known = {}
            elif self._rounds(step) and step.decoded.fields.get("rm") == DYN:
                known = {0: 0}
        return {} if block.kind == "call" else known

    # Addresses.
    def _first_points(self, start: int) -> Known:
        """Registers that a block accesses as they are at its beginning, and where first."""
        outline = self._outlines[start]
        return {
            outline.begins[name]: offsets[0]
            for name, offsets in outline.points.items()
            if name in outline.begins and offsets and abs(offsets[0]) < _WALK
        }

    def _near_after(self, start: int, known: Known) -> Known:
        outline = self._outlines[start]
        if self._region.blocks[start].kind == "call":
            return {}
        values: dict[int, tuple[str, int] | int] = dict.fromkeys(known, ("", 0))
        values |= {register: (name, 0) for name, register in outline.begins.items()}
        found: Known = {}
        for register, value in (values | outline.ends).items():
            if isinstance(value, int):
                found[register] = 0
                continue
            name, offset = value
            ways = [abs(offset - at) for at in outline.points.get(name, ())]
            source = outline.begins.get(name) if name else register
            if source in known:
                ways.append(abs(offset) + known[source])
            if ways and min(ways) <= _DISTANCES[-1]:
                found[register] = next(d for d in _DISTANCES if min(ways) <= d)
        return found

    # Floating-point results.
    def _floats_after(self, start: int, known: Known) -> Known:
        if self._region.blocks[start].kind == "call":
            return {}
        after: dict[int, int | None] = {**known, **self._outlines[start].floats}
        return {register: kind for register, kind in after.items() if kind is not None}
