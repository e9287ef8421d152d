"""From a region of guest code to LLVM text.

Guest registers are `alloca`s that LLVM promotes; inside a block they are plain values. Control
leaves through one block that returns the pinned registers; what is not pinned and may have
changed is written back first, so the hart's state is complete at every exit.
"""

from __future__ import annotations

from collections.abc import Callable

from hartwood.bits.effects import Properties
from hartwood.bits.ssa import Text, Val, constant
from hartwood.isa.insn import Decoded
from hartwood.isa.insnset import InsnSet
from hartwood.jit import abi
from hartwood.jit.access import FlatMemory, load_pointer
from hartwood.jit.calling import (
    REGION_CC,
    REGION_PARAMETERS,
    REGION_RESULT,
    field,
    region_arguments,
    region_return,
    region_words,
)
from hartwood.jit.facts import Facts
from hartwood.jit.flow import F0, Block, Region, Step, inner_successors
from hartwood.jit.quiet import FFLAGS, quiet_windows
from hartwood.jit.target import transfer_target
from hartwood.jit.variables import (
    CANONICAL_NAN,
    VariableHart,
    variable,
)

#: The bits of the positive infinity: above them, but for the sign, are NaNs.
_INFINITY = 0x7FF0 << 48


class RegionHart(VariableHart):
    """`words.Hart` for the instructions of one region, one block at a time."""

    #: The block that an entry goes to whose block relies on what does not hold.
    refused = "leave"

    def __init__(
        self, text: Text, insns: InsnSet, region: Region, facts: Facts | None = None
    ) -> None:
        super().__init__(text, insns, region, facts)
        self._flat = FlatMemory(text, lambda address, is_store: self._exit_here(), "%limit")
        self.memory = self._flat
        self.cold: list[tuple[str, list[str]]] = []
        self._step: Step | None = None
        self._retired = 0
        self._budget, self._due = "", 0
        self._ended = False
        self._here: str | None = None
        self._rounding_known = False
        self._quiet: int | None = None

    @property
    def inside(self) -> dict[str, list[tuple[int, int]]]:
        """See `VariableHart.inside`."""
        return self._flat.inside

    # Where control is.
    @property
    def pc(self) -> Val:
        """Address of this instruction: known."""
        assert self._step is not None
        return constant(self.text, self._step.pc, 64)

    @property
    def next_pc(self) -> Val:
        """Address of the next instruction in memory: known."""
        assert self._step is not None
        return constant(self.text, self._step.pc + self._step.decoded.length, 64)

    def _charge(self, block: Block) -> None:
        """Take the whole block off the budget at its beginning: an exit in its middle gives back
        what did not run. One subtraction and one use make a plain loop counter for LLVM."""
        before = self.text.value("load i64, ptr %budget.v")
        size = len(block.steps)
        closes = any(goal <= block.start for goal in inner_successors(self.region, block))
        if closes and block.kind == "branch":
            # Each way out pays for itself: paying before them, LLVM would charge what leaves the
            # loop from before this block, and the loop would keep two numbers.
            self._budget, self._due = before, size
            return
        self._budget, self._due = self.text.value(f"sub i64 {before}, {size}"), 0
        self.text.emit(f"store i64 {self._budget}, ptr %budget.v")

    def _pay(self) -> list[str]:
        """Lines that take off the budget what is due on a way out of the block."""
        if not self._due:
            return []
        left = self.text.fresh()
        return [
            f"{left} = sub i64 {self._budget}, {self._due}",
            f"store i64 {left}, ptr %budget.v",
        ]

    def _exit_here(self) -> str:
        """Label of a cold block that lets the interpreter go on at the instruction at hand, one
        block for all its reasons."""
        assert self._step is not None
        if self._here is None:
            self._here, left = self.text.fresh_label("exit"), self.text.fresh()
            kept = len(self._block.steps) - self._due - self._retired
            lines = [
                f"{left} = add i64 {self._budget}, {kept}",
                *self._save_lines(self._dirty()),
                f"store i64 {left}, ptr %budget.v",
                *self._out(self._step.pc, interpreted=True),
            ]
            self.cold.append((self._here, lines))
        return self._here

    def _out(self, pc: int, *, interpreted: bool = False) -> list[str]:
        """Lines that leave with control at guest address `pc`; `interpreted`: where the
        instruction there could not be done here."""
        return [f"store i64 {pc | 1}, ptr %pc.v", "br label %leave"]

    def dynamic_rounding(self) -> None:
        """Once a block: what changes `frm` ends it."""
        if not self._rounding_known:
            super().dynamic_rounding()
            self._rounding_known = True

    def csr_update(self, number: Val | int, op: str, value: Val | int, source: Val | int) -> Val:
        if self._quiet is not None:  # nothing was raised, so there is nothing to put back
            return constant(self.text, 0, 64)
        if number != FFLAGS:
            self._rounding_known = False
        return super().csr_update(number, op, value, source)

    def _compare(self, operation: Callable[[str, str, int], str], a: Val, b: Val) -> Val:
        if self._quiet is None:
            return super()._compare(operation, a, b)
        flags = self._read(self._quiet)
        names = a.raw_name, b.raw_name
        return Val(self.text, 1, self._float.quietly(operation, *names, a.width, flags.name))

    # Leaving early.
    def trap(self, cause: int, tval: Val | int = 0) -> None:
        self.only_reference()

    def trap_if(self, condition: Val, cause: int, tval: Val | int = 0) -> None:
        if condition.const == 0:
            return
        self.only_reference_if(condition.name)

    def only_reference(self) -> None:
        """This instruction is the interpreter's business."""
        self.text.emit(f"br label %{self._exit_here()}")
        self.text.label(self.text.fresh_label("dead"))

    def only_reference_if(self, condition: str) -> None:
        """The same where an i1 operand holds."""
        good = self.text.fresh_label("fine")
        self.text.emit(f"br i1 {condition}, label %{self._exit_here()}, label %{good}, !prof !1")
        self.text.label(good)

    # Control transfer.
    def _go(self, goal: int) -> str:
        """Label that continues at guest address `goal` after this block. The variables are up to
        date and the budget is charged."""
        if goal not in self.region.blocks:
            return self._tail(str(goal))
        lines = self._pay()
        if self._block.kind != "call":  # after one, everything is at home
            lines += self._state_lines(self.region.blocks[goal].lazy)
        holds = self._conditions(self._block.start, goal, lines)
        if goal > self._block.start and not holds:
            if not lines:
                return f"b{goal:x}"
            way = self.text.fresh_label("way")
            self.cold.append((way, [*lines, f"br label %b{goal:x}"]))
            return way
        back, over = self.text.fresh_label("back"), self.text.fresh_label("over")
        if goal <= self._block.start:
            holds += self._may_go_round(lines)
        good = self._all(holds, lines)
        lines.append(f"br i1 {good}, label %b{goal:x}, label %{over}, !prof !0")
        # After a call everything is at home.
        saved = [] if self._block.kind == "call" else self._state_lines()
        self.cold += [
            (back, lines),
            (over, [*saved, *self._out(goal)]),
        ]
        return back

    def _may_go_round(self, lines: list[str]) -> list[str]:
        """What has to hold for a loop to go on: i1 names, and the lines before them."""
        left, paid = self.text.fresh(), self.text.fresh()
        lines += [f"{left} = load i64, ptr %budget.v", f"{paid} = icmp sge i64 {left}, 0"]
        return [paid]

    def _conditions(self, before: int | None, goal: int, lines: list[str]) -> list[str]:
        """What the block `goal` relies on and is not known on the way from another block or from
        outside: i1 names, and the lines before them."""
        holds, fresh = [], self.text.fresh
        for register, offset in self.facts.to_compare(before, goal).items():
            base, address, below = fresh(), fresh(), fresh()
            lines += [
                f"{base} = load i64, ptr {variable(register)}",
                f"{address} = add i64 {base}, {offset}",
                f"{below} = icmp ult i64 {address}, %limit",
            ]
            holds.append(below)
        for register in self.facts.to_be_result(before, goal):
            if self.region.blocks[goal].live >> (F0 + register) & 1:
                holds.append(self._is_result(f"%f{register}", lines))
        return holds

    def _is_result(self, variable: str, lines: list[str]) -> str:
        """Whether a variable holds no NaN but the canonical one, as an i1."""
        bits, magnitude, number, usual, good = (self.text.fresh() for _ in range(5))
        # As an integer: comparing a signalling NaN would raise NV.
        lines += [
            f"{bits} = load i64, ptr {variable}",
            f"{magnitude} = shl i64 {bits}, 1",
            f"{number} = icmp ule i64 {magnitude}, {_INFINITY << 1}",
            f"{usual} = icmp eq i64 {bits}, {int(CANONICAL_NAN, 16)}",
            f"{good} = or i1 {number}, {usual}",
        ]
        return good

    def _all(self, holds: list[str], lines: list[str]) -> str:
        """The conjunction of i1 names, at least one."""
        good = holds[0]
        for hold in holds[1:]:
            both = self.text.fresh()
            lines.append(f"{both} = and i1 {good}, {hold}")
            good = both
        return good

    def _tail(self, goal: str) -> str:
        """Label of a block that continues in another region, found through its entry slot."""
        label, wild = self.text.fresh_label("tail"), self.text.fresh_label("wild")
        self.cold.append((label, ["TAIL", goal, wild, *self._pay(), *self._state_lines()]))
        return label

    def emit_tail(self, goal: str, wild: str, lines: list[str]) -> None:
        """The body of such a block."""
        text = self.text
        for line in lines:
            text.emit(line)
        text.emit(f"store i64 {goal}, ptr %pc.v")
        code = self._entry(goal, wild)
        pinned = [text.value(f"load i64, ptr {variable(r)}") for r in abi.PINNED]
        budget = text.value("load i64, ptr %budget.v")
        arguments = region_arguments(goal, budget, pinned)
        result = text.value(f"musttail call {REGION_CC} {REGION_RESULT} {code}({arguments})")
        text.emit(f"ret {REGION_RESULT} {result}")
        text.label(wild)
        self._leave_odd(goal)

    def _leave_odd(self, goal: str) -> None:
        """Leave with bit 0 set: the goal's page has no entries yet."""
        odd = self.text.value(f"or i64 {goal}, 1")
        self.text.emit(f"store i64 {odd}, ptr %pc.v")
        self.text.emit("br label %leave")

    def _slot(self, goal: str, wild: str) -> str:
        """The address of the code pointer for a guest address; `wild` where that is none."""
        text = self.text
        if goal.startswith("%"):
            inside, ok = text.value(f"icmp ult i64 {goal}, %limit"), text.fresh_label("in")
            text.emit(f"br i1 {inside}, label %{ok}, label %{wild}, !prof !0")
            text.label(ok)
            offset = text.value(f"shl i64 {goal}, 2")
            return text.value(f"add i64 {offset}, {abi.ENTRIES}")
        if int(goal) < abi.LIMIT:
            return str(abi.ENTRIES + int(goal) * 4)
        text.emit(f"br label %{wild}")
        text.label(text.fresh_label("never"))
        return "0"

    def _entry(self, goal: str, wild: str) -> str:
        """The code pointer for a guest address; `wild` where its page has none."""
        return load_pointer(self.text, self._slot(goal, wild), wild)

    def branch(self, condition: Val, target: Val | int) -> None:
        goal = self._block.target
        assert goal is not None
        name = condition.name
        self._flush()
        taken, straight = self._go(goal), self._go(self._block.end)
        self.text.emit(f"br i1 {name}, label %{taken}, label %{straight}")
        self._ended = True

    def jump(self, target: Val | int) -> None:
        where = target if isinstance(target, Val) else constant(self.text, target, 64)
        kind = self._block.kind
        name = where.name
        self._flush()
        if kind == "call":
            self._call(name)
        elif kind == "jump" and self._block.target is not None:
            self.text.emit(f"br label %{self._go(self._block.target)}")
        elif kind == "return":
            for line in self._state_lines():
                self.text.emit(line)
            self.text.emit(f"store i64 {name}, ptr %pc.v")
            self.text.emit("br label %leave")
        else:
            self.text.emit(f"br label %{self._tail(name)}")
        self._ended = True

    def _call(self, goal: str) -> None:
        """A guest call is a host call; what comes back tells whether it returned to us."""
        text = self.text
        for line in self._state_lines():
            text.emit(line)
        wild, deep = text.fresh_label("wild"), text.fresh_label("deep")
        # First this, since LLVM makes one condition of two that are next to each other.
        slot = self._slot(goal, wild)
        stack = text.value("call i64 @llvm.read_register.i64(metadata !2)")
        limit = text.value(f"load i64, ptr {text.value(field('stack_limit'))}")
        room = text.value(f"icmp ugt i64 {stack}, {limit}")
        text.emit(f"br i1 {room}, label %{deep}, label %{wild}, !prof !0")
        text.label(deep)
        code = load_pointer(text, slot, wild)
        pinned = [text.value(f"load i64, ptr {variable(r)}") for r in abi.PINNED]
        budget = text.value("load i64, ptr %budget.v")
        arguments = region_arguments(goal, budget, pinned)
        result = text.value(f"call {REGION_CC} {REGION_RESULT} {code}({arguments})")
        back, left, *pinned = region_words(text, result)
        expected = text.value(f"icmp eq i64 {back}, {self._block.end}")
        here, away = text.fresh_label("returned"), text.fresh_label("unwind")
        text.emit(f"br i1 {expected}, label %{here}, label %{away}, !prof !0")
        self.cold.append((away, [f"ret {REGION_RESULT} {result}"]))
        odd = text.fresh()
        self.cold.append(
            (
                wild,
                [f"{odd} = or i64 {goal}, 1", f"store i64 {odd}, ptr %pc.v", "br label %leave"],
            )
        )
        text.label(here)
        for register, word in zip(abi.PINNED, pinned, strict=True):
            text.emit(f"store i64 {word}, ptr {variable(register)}")
        text.emit(f"store i64 {left}, ptr %budget.v")
        follower = self.region.blocks.get(self._block.end)
        if follower is None:
            text.emit(f"store i64 {back}, ptr %pc.v")
            text.emit("br label %leave")
            return
        self._load_homes(follower.live)
        text.emit(f"br label %{self._go(follower.start)}")

    # The region.
    def prologue(self) -> None:
        """Variables, and the entry's budget test."""
        text = self.text
        text.emit("%pc.v = alloca i64")
        text.emit("%budget.v = alloca i64")
        text.emit("store i64 %budget, ptr %budget.v")
        # In memory, because a comparison can take it from there and no instruction holds 2**38.
        text.emit(f"%limit.at = {field('limit')}")
        text.emit("%limit = load i64, ptr %limit.at, !invariant.load !3, !range !5")
        self.declare()
        for index, register in enumerate(abi.PINNED):
            text.emit(f"store i64 %p{index}, ptr {variable(register)}")
        odd = text.value("or i64 %pc, 1")
        text.emit(f"store i64 {odd}, ptr %pc.v")
        spent = text.value("icmp slt i64 %budget, 0")
        text.emit(f"br i1 {spent}, label %leave, label %go, !prof !1")
        text.label("go")
        self._dispatch("%pc", {entry: entry for entry in self.region.entries})

    def _dispatch(self, key: str, entries: dict[int, int]) -> None:
        """Go to the entry whose number in `entries` is that of the i64 operand `key`."""
        text, (first, *others) = self.text, self.region.entries
        if others:
            is_first = text.value(f"icmp eq i64 {key}, {entries[first]}")
            text.emit(f"br i1 {is_first}, label %e{first:x}, label %choose, !prof !0")
            text.label("choose")
            arms = " ".join(f"i64 {entries[entry]}, label %e{entry:x}" for entry in others)
            text.emit(f"switch i64 {key}, label %leave [{arms}]")
        else:
            text.emit(f"br label %e{first:x}")
        for entry in self.region.entries:
            text.label(f"e{entry:x}")
            self._load_homes(self.region.blocks[entry].live)
            self._enter(entry)

    def _enter(self, entry: int) -> None:
        """From outside to a block, if what it relies on holds; else the interpreter goes on."""
        text, lines = self.text, list[str]()
        holds = self._conditions(None, entry, lines)
        if self.facts.rounds:
            where, reserved, usual = (text.fresh() for _ in range(3))
            lines.append(f"{where} = {field('frm_reserved')}")
            lines.append(f"{reserved} = load i64, ptr {where}")
            lines.append(f"{usual} = icmp eq i64 {reserved}, 0")
            holds.append(usual)
        if holds:
            good = self._all(holds, lines)
            lines.append(f"br i1 {good}, label %b{entry:x}, label %{self.refused}, !prof !0")
        else:
            lines.append(f"br label %b{entry:x}")
        for line in lines:
            text.emit(line)

    def block(self, block: Block) -> None:
        """Translate one block."""
        self._values.clear()
        self._narrow.clear()
        self._written.clear()
        self.memory.new_block()
        self._begins = {}
        self._block, self._ended = block, False
        self._raw = self.facts.raw(block.start)
        self._rounding_known = block.start not in self.facts.unsure
        self.text.label(f"b{block.start:x}")
        self._charge(block)
        quiet = quiet_windows(self.insns, block.steps)
        for count, step in enumerate(block.steps):
            self._step, self._retired, self._here = step, count, None
            self._quiet = quiet.get(count)
            self.execute(step.properties, step.decoded)
            if self._ended:
                return
        self._flush()
        if block.kind == "stop":
            for line in self._state_lines():
                self.text.emit(line)
            for line in self._out(block.end):
                self.text.emit(line)
        else:
            self.text.emit(f"br label %{self._go(block.end)}")

    def execute(self, properties: Properties, decoded: Decoded) -> None:
        """Translate one instruction."""
        decoded.insn.body(self, **decoded.fields)

    def emit_cold(self) -> None:
        """The cold blocks."""
        while self.cold:
            label, lines = self.cold.pop(0)
            self.text.label(label)
            if lines and lines[0] == "TAIL":
                self.emit_tail(lines[1], lines[2], lines[3:])
                continue
            for line in lines:
                self.text.emit(line)

    def epilogue(self) -> None:
        """The cold blocks and the one that returns."""
        text = self.text
        self.emit_cold()
        text.label("leave")
        words = [text.value("load i64, ptr %pc.v"), text.value("load i64, ptr %budget.v")]
        words += [text.value(f"load i64, ptr {variable(r)}") for r in abi.PINNED]
        region_return(text, words)


def region_name(entry: int) -> str:
    """The symbol of the region that begins at `entry`."""
    return f"r_{entry:x}"


def region_text(insns: InsnSet, region: Region, *, eager: bool = False) -> str:
    """LLVM text of one region. With `eager`, for a region that `Explorer` found so, where registers
    are written home at once, nothing is found out across blocks either: faster to compile, because
    exits have nothing to write back, and slower to run."""
    text, facts = Text(), None
    if not eager:
        scout = RegionHart(Text(), insns, region)
        for block in region.blocks.values():
            scout.block(block)
        facts = Facts(insns, region, scout.outlines)
    hart = RegionHart(text, insns, region, facts)
    hart.prologue()
    for block in region.blocks.values():
        hart.block(block)
    hart.epilogue()
    head = (
        f"define {REGION_CC} {REGION_RESULT} @{region_name(region.entries[0])}({REGION_PARAMETERS})"
    )
    return f"{head} #0 {{\nentry:\n{text.body()}\n}}"


__all__ = ["RegionHart", "inner_successors", "region_name", "region_text", "transfer_target"]
