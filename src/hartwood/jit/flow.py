"""The shape of a region before it is translated: which instructions, which blocks, what is live.

A region is what control can reach from its entry without an indirect jump: calls are stepped
over, so that a region is most often a function, or a loop with what it contains.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field

from hartwood.bits.effects import Properties
from hartwood.errors import Error
from hartwood.isa.insn import Decoded
from hartwood.isa.insnset import InsnSet
from hartwood.jit.abi import LIMIT, PINNED

#: Registers that calls link through (Unpriv. 2.5.1, table 3).
LINK = (1, 5)

#: Bit of register f0 in a register mask; x0 is bit 0.
F0 = 32
#: All floating-point registers.
FLOATS = (1 << 64) - (1 << F0)
#: Instructions of a loop that is kept in host registers, at most; those of such a block, at least.
TIGHT, LONG = 60, 64
_PINNED_MASK = sum(1 << register for register in PINNED)


@dataclass(slots=True)
class Step:
    """One guest instruction of a block."""

    pc: int
    decoded: Decoded
    #: Registers read and written: bits 0..31 are x, 32..63 are f.
    reads: int
    writes: int
    #: Whether it can leave the block in its middle.
    exits: bool
    properties: Properties


@dataclass(slots=True)
class Block:
    """Straight-line guest code. `kind` says how it ends: "fall", "branch", "jump", "call",
    "indirect", "return" or "stop" (the interpreter takes over at `end`)."""

    start: int
    steps: list[Step] = field(default_factory=list)
    end: int = 0
    kind: str = "fall"
    target: int | None = None
    #: Where a call that is taken for a jump comes back to.
    back: int | None = None
    #: Registers that the block need not write home at once.
    lazy: int = 0
    #: Registers that may differ from what `State` holds, at the start.
    dirty: int = 0
    #: Registers that somebody may still read, at the start.
    live: int = 0

    @property
    def written(self) -> int:
        """Registers that the block writes."""
        mask = 0
        for step in self.steps:
            mask |= step.writes
        return mask


@dataclass(slots=True)
class Region:
    """Blocks by address, the first entry's first. Control may enter at any of `entries`: where
    it was asked for, and at loop heads, so that a long loop need not wait for the next call."""

    entries: list[int]
    blocks: dict[int, Block]
    #: Guest byte ranges (start, end) that the translation depends on.
    ranges: list[tuple[int, int]]
    #: Where calls that are taken for jumps come back to: a return may go on there.
    returns: list[int] = field(default_factory=list)
    #: Blocks of small loops (`tight_blocks`), in regions that keep registers there only.
    tight: set[int] = field(default_factory=set)

    @property
    def used(self) -> int:
        """Registers that the region reads or writes."""
        mask = 0
        for block in self.blocks.values():
            for step in block.steps:
                mask |= step.reads | step.writes
        return mask

    @property
    def size(self) -> int:
        """Guest instructions."""
        return sum(len(block.steps) for block in self.blocks.values())


class FlowError(Error):
    """Nothing at the entry can be translated."""


def _mask(names: frozenset[int | str], fields: dict[str, int], base: int) -> int:
    mask = 0
    for name in names:
        mask |= 1 << (base + (name if isinstance(name, int) else fields[name]))
    return mask


class Explorer:
    """Finds regions in guest code that `fetch(pc)` shows: 4 bytes, 2 at the end of what is
    known, or None."""

    def __init__(
        self,
        insns: InsnSet,
        fetch: Callable[[int], int | None],
        target_of: Callable[[Decoded, int], int | None],
        limit: int,
        executed: Callable[[int], bool] = lambda pc: True,
        stops: Callable[[Decoded, Properties], bool] = lambda decoded, p: False,
        *,
        returns: bool = False,
    ) -> None:
        """`executed` tells what ran so far: the rest is left to the interpreter, and so is an
        instruction that `stops`. A region ends before an address of `known`: what begins there is
        translated already. With `returns` control may also enter where a call comes back, and
        direct calls are jumps: what they call is of the region."""
        self._insns = insns
        self._fetch = fetch
        self._target_of = target_of
        self._limit = limit
        self._executed = executed
        self._stops = stops
        self._returns = returns
        self.known: set[int] = set()
        self._steps: dict[int, Step | None] = {}

    def step(self, pc: int) -> Step | None:
        """The instruction at `pc`, or None where there is none to be translated."""
        if pc not in self._steps:
            word = self._fetch(pc) if self._executed(pc) else None
            decoded = None if word is None else self._insns.decode(word)
            self._steps[pc] = None if decoded is None else self._analyse(pc, decoded)
        return self._steps[pc]

    def _analyse(self, pc: int, decoded: Decoded) -> Step | None:
        insn, fields = decoded.insn, decoded.fields
        p = self._insns.properties(insn, insn.variant(fields))
        if self._stops(decoded, p):
            return None
        reads = _mask(p.x_reads, fields, 0) | _mask(p.f64_reads | p.f32_reads, fields, F0)
        writes = _mask(p.x_writes, fields, 0) | _mask(p.f64_writes | p.f32_writes, fields, F0)
        exits = p.may_trap or bool(p.csr) or bool(p.counters) or p.rounding
        return Step(pc, decoded, reads & ~1, writes & ~1, exits, p)

    def _end(self, block: Block, step: Step) -> bool:
        """Whether `step` ends the block; sets its kind and target."""
        decoded = step.decoded
        p = self._insns.properties(decoded.insn, decoded.insn.variant(decoded.fields))
        if not p.ends_block:
            return False
        block.end = step.pc + decoded.length
        if p.control == "trap" or p.fence_i:
            block.steps.pop()
            block.kind, block.end = "stop", step.pc
            return True
        links = bool(step.writes)
        if p.control == "branch":
            block.kind = "branch"
        elif links and self._returns and not p.indirect:
            block.kind, block.back = "jump", block.end
        elif links:
            block.kind = "call"
        elif p.indirect:
            returns = step.reads and step.reads.bit_length() - 1 in LINK
            block.kind = "return" if returns else "indirect"
        else:
            block.kind = "jump"
        block.target = None if p.indirect else self._target_of(decoded, step.pc)
        return True

    def region(
        self, entry: int, *others: int, eager: bool = False, pinned: int = _PINNED_MASK
    ) -> Region:
        """The region that begins at `entry`, and at `others` as far as there is room. With
        `eager`, integer registers are written home at once, so they are never dirty, but for small
        loops and long blocks of regions with `returns`, which write them often; those of the
        mask `pinned` travel in host registers and are never written home. Raises `FlowError` where
        it would be empty."""
        leaders = self._leaders(entry, *others)
        blocks: dict[int, Block] = {}
        for start in sorted(leaders, key=lambda pc: (pc != entry, pc)):
            block = Block(start)
            pc = start
            while True:
                step = self.step(pc)
                if step is None:
                    block.kind, block.end = "stop", pc
                    break
                block.steps.append(step)
                if self._end(block, step):
                    break
                pc += step.decoded.length
                if pc in leaders or pc in self.known:
                    block.end = pc
                    break
            blocks[start] = block
        if not blocks[entry].steps:
            raise FlowError(f"nothing to translate at {entry:#x}")
        heads = {
            goal
            for block in blocks.values()
            for goal in self._successors(block)
            if goal <= block.start and goal in blocks and blocks[goal].steps and goal != entry
        }
        heads |= {each for each in others if each in blocks and blocks[each].steps}
        returns = sorted(b.back for b in blocks.values() if b.back is not None and b.back in blocks)
        if self._returns:
            heads |= {b.end for b in blocks.values() if b.kind == "call" and b.end in blocks}
            heads |= set(returns)
        heads.discard(entry)
        region = Region([entry, *sorted(heads)], blocks, self._ranges(blocks), returns)
        if eager and self._returns:
            region.tight = tight_blocks(region)
        for start, block in blocks.items():
            kept = start in region.tight or (self._returns and len(block.steps) >= LONG)
            block.lazy = FLOATS if eager and not kept else ~pinned
        _solve_dirty(region)
        _solve_live(region)
        return region

    def _leaders(self, *entries: int) -> set[int]:
        """Block starts, breadth first until the region is large enough; what was asked for is
        always visited."""
        leaders, seen, queue = set(entries), set[int](), list(entries)
        count, visited = 0, 0
        while queue and (count < self._limit or visited < len(entries)):
            pc = queue.pop(0)
            visited += 1
            block = Block(pc)
            while pc not in seen and (
                pc == block.start or (pc not in leaders and pc not in self.known)
            ):
                seen.add(pc)
                step = self.step(pc)
                if step is None:
                    break
                block.steps.append(step)
                count += 1
                if self._end(block, step):
                    for goal in self._successors(block):
                        if goal not in leaders and goal not in self.known and 0 <= goal < LIMIT:
                            leaders.add(goal)
                            queue.append(goal)
                    break
                pc += step.decoded.length
        # What nobody had time to visit is outside.
        if self._returns:
            seen = {pc for pc in seen if self.step(pc)}
        return leaders & seen

    def _successors(self, block: Block) -> list[int]:
        if block.kind == "branch":
            return [block.end] + ([block.target] if block.target is not None else [])
        if block.kind == "call":
            return [block.end]
        if block.kind == "jump" and block.target is not None:
            return [block.target] + ([block.back] if block.back is not None else [])
        return []

    @staticmethod
    def _ranges(blocks: dict[int, Block]) -> list[tuple[int, int]]:
        ranges: list[tuple[int, int]] = []
        for start, end in sorted((b.start, _last(b)) for b in blocks.values()):
            if ranges and start <= ranges[-1][1]:
                ranges[-1] = (ranges[-1][0], max(end, ranges[-1][1]))
            else:
                ranges.append((start, end))
        return ranges


def _last(block: Block) -> int:
    if not block.steps:
        return block.start
    step = block.steps[-1]
    return step.pc + step.decoded.length


def inner_successors(region: Region, block: Block) -> list[int]:
    """Addresses of the blocks that may follow inside the region."""
    goals = [block.end] if block.kind in ("fall", "branch", "call") else []
    if block.kind in ("branch", "jump") and block.target is not None:
        goals.append(block.target)
    if block.kind == "return":
        goals += region.returns
    return [goal for goal in goals if goal in region.blocks]


def tight_blocks(region: Region) -> set[int]:
    """The blocks of loops of few instructions without a call, by the address of their beginning."""
    tight: set[int] = set()
    for block in region.blocks.values():
        head = block.target if block.kind in ("branch", "jump") else None
        if head is None or head > block.start:
            continue
        loop = [b for at, b in region.blocks.items() if head <= at <= block.start]
        calls = any(b.kind not in ("branch", "fall", "jump") or b.back is not None for b in loop)
        if not calls and sum(len(b.steps) for b in loop) <= TIGHT:
            tight.update(each.start for each in loop)
    return tight


def _solve_dirty(region: Region) -> None:
    """Forward, union: what a path may have written since the entry or the last call."""
    work = list(region.blocks)
    while work:
        block = region.blocks[work.pop()]
        out = 0 if block.kind == "call" else block.dirty | block.written & block.lazy
        for goal in inner_successors(region, block):
            other = region.blocks[goal]
            if out & other.lazy & ~other.dirty:
                other.dirty |= out & other.lazy
                work.append(goal)


def _solve_live(region: Region) -> None:
    """Backward, union. An exit reads every dirty register: it writes them back."""
    before: dict[int, list[int]] = {start: [] for start in region.blocks}
    uses, defs = {}, {}
    for start, block in region.blocks.items():
        use = define = 0
        dirty = block.dirty
        for step in block.steps:
            if step.exits:
                use |= dirty & ~define
            use |= step.reads & ~define
            define |= step.writes
            dirty |= step.writes & block.lazy
        if block.kind != "fall" or block.end not in region.blocks:
            use |= block.dirty & ~define
        uses[start], defs[start] = use, define
        for goal in inner_successors(region, block):
            before[goal].append(start)
            # A budget exit on the edge writes back too, and so does what the next block does not
            # keep.
            if goal <= block.end:
                uses[start] |= block.dirty & ~define
            uses[start] |= block.dirty & ~region.blocks[goal].lazy & ~define
    work = list(region.blocks)
    while work:
        start = work.pop()
        block = region.blocks[start]
        live = uses[start]
        if block.kind != "call":
            for goal in inner_successors(region, block):
                live |= region.blocks[goal].live & ~defs[start]
        if live & ~block.live:
            block.live |= live
            work.extend(before[start])
