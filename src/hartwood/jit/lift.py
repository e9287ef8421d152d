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
from hartwood.jit.flow import F0, FLOATS, Block, Region, Step, inner_successors
from hartwood.jit.quiet import quiet_windows
from hartwood.jit.words import NativeHart

#: The NaN that every operation produces (Unpriv. 21.2), as LLVM writes it.
CANONICAL_NAN = "0x7FF8000000000000"


def _registers(mask: int) -> list[int]:
    return [r for r in range(1, 64) if mask >> r & 1]


def _kind(register: int) -> str:
    return "i64" if register < F0 else "double"


def _variable(register: int) -> str:
    return f"%x{register}" if register < F0 else f"%f{register - F0}"


def _home(register: int) -> str:
    """Where the register lives in `State`."""
    return field("x", register) if register < F0 else field("f", register - F0)


class RegionHart(NativeHart):
    """`words.Hart` for the instructions of one region, one block at a time."""

    raw_floats = True
    #: Guest registers that travel in host registers between regions.
    pinned: tuple[int, ...] = abi.PINNED

    def __init__(self, text: Text, insns: InsnSet, region: Region, eager: bool) -> None:
        super().__init__(text, insns)
        self.memory = FlatMemory(text, lambda address, is_store: self._exit_here(), "%limit")
        self.region = region
        self.eager = eager
        self.cold: list[tuple[str, list[str]]] = []
        self._values: dict[int, Val] = {}
        self._narrow: dict[int, Val] = {}
        self._written: set[int] = set()
        self._block = Block(0)
        self._step: Step | None = None
        self._retired = 0
        self._budget = ""
        self._ended = False
        self._here: str | None = None
        self._rounding_known = False
        self._quiet: int | None = None

    # Registers.
    def _read(self, register: int) -> Val:
        if register not in self._values:
            kind = _kind(register)
            name = self.text.value(f"load {kind}, ptr {_variable(register)}")
            value = Val(self.text, 64, name) if kind == "i64" else Val(self.text, 64, fp=name)
            self._values[register] = value
        return self._values[register]

    def _write(self, register: int, value: Val) -> None:
        self._values[register] = value
        self._written.add(register)
        self._narrow.pop(register, None)
        if self.eager and register < F0 and register not in self.pinned:
            self.text.emit(f"store i64 {value.name}, ptr {self.text.value(_home(register))}")

    def read_x(self, index: Val | int) -> Val:
        number = _number(index)
        return self._read(number) if number else constant(self.text, 0, 64)

    def write_x(self, index: Val | int, value: Val) -> None:
        number = _number(index)
        if number:
            self._write(number, value)

    def read_f(self, index: Val | int) -> Val:
        return self._read(F0 + _number(index))

    def write_f(self, index: Val | int, value: Val) -> None:
        self._write(F0 + _number(index), value)

    def _read_f32(self, index: Val | int) -> Val:
        register = F0 + _number(index)
        if register not in self._narrow:
            self._narrow[register] = super()._read_f32(index)
        return self._narrow[register]

    def _write_f32(self, index: Val | int, value: Val) -> None:
        super()._write_f32(index, value)
        self._narrow[F0 + _number(index)] = value

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
        self._budget = self.text.value(f"sub i64 {before}, {len(block.steps)}")
        self.text.emit(f"store i64 {self._budget}, ptr %budget.v")

    def _save_lines(self, mask: int) -> list[str]:
        """Lines that bring `State` up to date for the registers of `mask`, and the variables of
        the pinned ones, from what this block knows."""
        lines: list[str] = []
        fresh = self.text.fresh
        for register in _registers(mask):
            value = self._values.get(register)
            if register in self._written and value is not None:
                name = value.name if register < F0 else self._settled(value, lines)
            else:
                name = fresh()
                lines.append(f"{name} = load {_kind(register)}, ptr {_variable(register)}")
            where = fresh()
            lines.append(f"{where} = {_home(register)}")
            lines.append(f"store {_kind(register)} {name}, ptr {where}")
        for register in sorted(self._written & set(self.pinned)):
            lines.append(f"store i64 {self._values[register].name}, ptr {_variable(register)}")
        return lines

    def _settled(self, value: Val, lines: list[str]) -> str:
        """A floating-point value for a cold block; a raw one is made canonical there."""
        if value.fp is not None or value.raw is None:
            return value.float_name
        is_nan, name = self.text.fresh(), self.text.fresh()
        lines.append(f"{is_nan} = fcmp uno double {value.raw}, {value.raw}")
        lines.append(f"{name} = select i1 {is_nan}, double {CANONICAL_NAN}, double {value.raw}")
        return name

    def _dirty(self) -> int:
        """Registers that `State` does not have the value of."""
        mask = 0
        for register in self._written:
            mask |= 1 << register
        pinned = sum(1 << register for register in self.pinned)
        return self._block.dirty | mask & (FLOATS if self.eager else ~pinned)

    def _exit_here(self) -> str:
        """Label of a cold block that lets the interpreter go on at the instruction at hand, one
        block for all its reasons."""
        assert self._step is not None
        if self._here is None:
            self._here, left = self.text.fresh_label("exit"), self.text.fresh()
            lines = [
                f"{left} = add i64 {self._budget}, {len(self._block.steps) - self._retired}",
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
    def _flush(self) -> None:
        """Bring the variables up to date at the end of a block."""
        for register in sorted(self._written):
            value = self._values[register]
            name = value.name if register < F0 else value.float_name
            self.text.emit(f"store {_kind(register)} {name}, ptr {_variable(register)}")

    def _go(self, goal: int) -> str:
        """Label that continues at guest address `goal` after this block. The variables are up to
        date and the budget is charged."""
        if goal not in self.region.blocks:
            return self._tail(str(goal))
        if goal > self._block.start:
            return f"b{goal:x}"
        label = self.text.fresh_label("back")
        over = self.text.fresh_label("over")
        lines, spent = self._spent()
        lines.append(f"br i1 {spent}, label %{over}, label %b{goal:x}, !prof !1")
        self.cold.append((label, lines))
        self.cold.append((over, [*self._state_lines(), *self._out(goal)]))
        return label

    def _spent(self) -> tuple[list[str], str]:
        """Lines that find out whether a loop has to be left, and the i1 that says so."""
        left, spent = self.text.fresh(), self.text.fresh()
        return [f"{left} = load i64, ptr %budget.v", f"{spent} = icmp slt i64 {left}, 0"], spent

    def _state_lines(self) -> list[str]:
        """Write back from the variables, which are up to date."""
        lines = []
        for register in _registers(self._dirty()):
            name, where = self.text.fresh(), self.text.fresh()
            lines.append(f"{name} = load {_kind(register)}, ptr {_variable(register)}")
            lines.append(f"{where} = {_home(register)}")
            lines.append(f"store {_kind(register)} {name}, ptr {where}")
        return lines

    def _tail(self, goal: str) -> str:
        """Label of a block that continues in another region, found through its entry slot."""
        label, wild = self.text.fresh_label("tail"), self.text.fresh_label("wild")
        self.cold.append((label, ["TAIL", goal, wild, *self._state_lines()]))
        return label

    def emit_tail(self, goal: str, wild: str, lines: list[str]) -> None:
        """The body of such a block."""
        text = self.text
        for line in lines:
            text.emit(line)
        text.emit(f"store i64 {goal}, ptr %pc.v")
        code = self._entry(goal, wild)
        pinned = [text.value(f"load i64, ptr {_variable(r)}") for r in abi.PINNED]
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

    def _entry(self, goal: str, wild: str) -> str:
        """The code pointer for a guest address; `wild` where its page has none."""
        text = self.text
        if goal.startswith("%"):
            inside, ok = text.value(f"icmp ult i64 {goal}, {abi.LIMIT}"), text.fresh_label("in")
            text.emit(f"br i1 {inside}, label %{ok}, label %{wild}, !prof !0")
            text.label(ok)
            offset = text.value(f"shl i64 {goal}, 2")
            slot = text.value(f"add i64 {offset}, {abi.ENTRIES}")
        elif int(goal) < abi.LIMIT:
            slot = str(abi.ENTRIES + int(goal) * 4)
        else:
            text.emit(f"br label %{wild}")
            text.label(text.fresh_label("never"))
            return "null"
        return load_pointer(text, slot, wild)

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
        stack = text.value("call i64 @llvm.read_register.i64(metadata !2)")
        limit = text.value(f"load i64, ptr {text.value(field('stack_limit'))}")
        room = text.value(f"icmp ugt i64 {stack}, {limit}")
        text.emit(f"br i1 {room}, label %{deep}, label %{wild}, !prof !0")
        text.label(deep)
        code = self._entry(goal, wild)
        pinned = [text.value(f"load i64, ptr {_variable(r)}") for r in abi.PINNED]
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
            text.emit(f"store i64 {word}, ptr {_variable(register)}")
        text.emit(f"store i64 {left}, ptr %budget.v")
        follower = self.region.blocks.get(self._block.end)
        if follower is None:
            text.emit(f"store i64 {back}, ptr %pc.v")
            text.emit("br label %leave")
            return
        self._load_homes(follower.live)
        text.emit(f"br label %b{follower.start:x}")

    def _load_homes(self, mask: int) -> None:
        """Load registers that are not pinned from `State` into their variables."""
        text = self.text
        for register in _registers(mask):
            if register in self.pinned:
                continue
            name = text.value(f"load {_kind(register)}, ptr {text.value(_home(register))}")
            text.emit(f"store {_kind(register)} {name}, ptr {_variable(register)}")

    # The region.
    def prologue(self) -> None:
        """Variables, and the entry's budget test."""
        text = self.text
        text.emit("%pc.v = alloca i64")
        text.emit("%budget.v = alloca i64")
        text.emit("store i64 %budget, ptr %budget.v")
        # In memory, because a comparison can take it from there and no instruction holds 2**38.
        text.emit(f"%limit.at = {field('limit')}")
        text.emit("%limit = load i64, ptr %limit.at, !invariant.load !3")
        self._declare()
        for index, register in enumerate(abi.PINNED):
            text.emit(f"store i64 %p{index}, ptr {_variable(register)}")
        odd = text.value("or i64 %pc, 1")
        text.emit(f"store i64 {odd}, ptr %pc.v")
        spent = text.value("icmp slt i64 %budget, 0")
        text.emit(f"br i1 {spent}, label %leave, label %go, !prof !1")
        text.label("go")
        self._enter("%pc", {entry: entry for entry in self.region.entries})

    def _declare(self) -> None:
        """A variable for each register in use."""
        for register in sorted(set(_registers(self.region.used)) | set(self.pinned)):
            self.text.emit(f"{_variable(register)} = alloca {_kind(register)}")

    def _enter(self, key: str, entries: dict[int, int]) -> None:
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
            text.emit(f"br label %b{entry:x}")

    def block(self, block: Block) -> None:
        """Translate one block."""
        self._values.clear()
        self._narrow.clear()
        self._written.clear()
        self.memory.new_block()
        self._block, self._ended = block, False
        self._rounding_known = False
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

    def epilogue(self) -> None:
        """The cold blocks and the one that returns."""
        text = self.text
        while self.cold:
            label, lines = self.cold.pop(0)
            text.label(label)
            if lines and lines[0] == "TAIL":
                self.emit_tail(lines[1], lines[2], lines[3:])
                continue
            for line in lines:
                text.emit(line)
        text.label("leave")
        words = [text.value("load i64, ptr %pc.v"), text.value("load i64, ptr %budget.v")]
        words += [text.value(f"load i64, ptr {_variable(r)}") for r in abi.PINNED]
        region_return(text, words)


def _number(index: Val | int) -> int:
    if isinstance(index, int):
        return index
    assert index.const is not None
    return index.const


def region_name(entry: int) -> str:
    """The symbol of the region that begins at `entry`."""
    return f"r_{entry:x}"


def region_text(insns: InsnSet, region: Region, *, eager: bool = False) -> str:
    """LLVM text of one region. With `eager`, for a region that `Explorer` found so, registers are
    written home at once: faster to compile, because exits have nothing to write back, and slower
    to run."""
    text = Text()
    hart = RegionHart(text, insns, region, eager)
    hart.prologue()
    for block in region.blocks.values():
        hart.block(block)
    hart.epilogue()
    head = (
        f"define {REGION_CC} {REGION_RESULT} @{region_name(region.entries[0])}({REGION_PARAMETERS})"
    )
    return f"{head} #0 {{\nentry:\n{text.body()}\n}}"


class _Probe(NativeHart):
    """Finds where a direct transfer goes, by running it with everything else unknown."""

    def __init__(self, insns: InsnSet, step_pc: int, length: int) -> None:
        super().__init__(Text(), insns)
        self._at, self._length = step_pc, length
        self.target: int | None = None

    def read_x(self, index: Val | int) -> Val:
        return Val(self.text, 64, "undef")

    def write_x(self, index: Val | int, value: Val) -> None:
        """Nothing is remembered."""

    @property
    def pc(self) -> Val:
        """Address of the transfer."""
        return constant(self.text, self._at, 64)

    @property
    def next_pc(self) -> Val:
        """Address after it."""
        return constant(self.text, self._at + self._length, 64)

    def jump(self, target: Val | int) -> None:
        """Note the target."""
        self.target = target if isinstance(target, int) else target.const

    def branch(self, condition: Val, target: Val | int) -> None:
        """Note the target."""
        self.jump(target)


def transfer_target(insns: InsnSet, decoded: Decoded, pc: int) -> int | None:
    """Where a direct jump or branch at `pc` goes, or None."""
    probe = _Probe(insns, pc, decoded.length)
    decoded.insn.body(probe, **decoded.fields)
    return probe.target


__all__ = ["RegionHart", "inner_successors", "region_name", "region_text", "transfer_target"]
