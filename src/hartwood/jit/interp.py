"""The native interpreter: one threaded handler per definition, as LLVM text.

Handlers come in banks so that a program which uses no floating point never waits for that part to
be compiled. Registers live in `State`; operands come from the pre-decoded record; every handler
ends by jumping to the handler of the next record.
"""

from __future__ import annotations

from collections.abc import Iterator

from hartwood.bits.softfloat import RNE, RTZ
from hartwood.bits.ssa import Text, Val, constant
from hartwood.bits.ssa_float import DYN
from hartwood.isa.insn import Insn
from hartwood.isa.insnset import InsnSet
from hartwood.jit import abi
from hartwood.jit.access import FlatMemory, load_pointer
from hartwood.jit.calling import HANDLER_CC, HANDLER_PARAMETERS, field, handler_tail
from hartwood.jit.record import IMMEDIATE, LENGTH, Slot, slots
from hartwood.jit.words import Memory, StateHart

#: Exception causes that report a memory access (Priv. 3.1.15).
LOAD_FAULT, STORE_FAULT = 13, 15

#: Extensions that every program uses.
_BASE = ("i", "m", "a", "f", "d", "zicsr", "zifencei", "privileged")

BANKS = ("base", "float", "rounded", "extra")


def numbering(insns: InsnSet) -> dict[tuple[str, tuple[int, ...]], int]:
    """The handler number of every (instruction, variant values); 0 is the illegal handler."""
    keys = ((insn.name, tuple(case.values())) for insn in insns.insns() for case in insn.cases())
    return {key: number for number, key in enumerate(keys, start=1)}


def banks(insns: InsnSet) -> dict[tuple[str, tuple[int, ...]], str]:
    """Which bank holds each handler, by (instruction, variant values).

    A program that only saves floating-point registers needs no arithmetic on them, and one that
    computes needs few of the static rounding modes: those of the conversions, which C uses.
    """
    result = {}
    for encoding in insns.encodings():
        if not encoding.plain:
            continue
        insn = encoding.insn
        for case in insn.cases():
            p = insns.properties(insn, case)
            bank = "base" if encoding.extension in _BASE else "extra"
            if p.rounding:
                static = case.get("rm", DYN) not in (DYN, RNE, RTZ) or (
                    case.get("rm", DYN) != DYN and not (p.x_reads or p.x_writes)
                )
                bank = "rounded" if static else "float"
            result[insn.name, tuple(case.values())] = bank
    return result


class HandlerHart(StateHart):
    """`words.Hart` inside one interpreter handler."""

    def __init__(self, text: Text, insns: InsnSet) -> None:
        super().__init__(text, insns)
        self.memory: Memory = FlatMemory(text, self._slow)
        self.ended = False
        self._cold: list[tuple[str, list[str]]] = []
        self._pc = Val(text, 64, "%pc")
        self._next: tuple[str, str, str] | None = None

    # Operands and registers.
    def operand(self, slot: Slot) -> Val:
        """An operand field, as a 64-bit value."""
        text = self.text
        if slot.byte is not None:
            where = text.value(f"getelementptr i8, ptr %rec, i64 {slot.byte}")
            byte = text.value(f"load i8, ptr {where}")
            return Val(text, 64, text.value(f"zext i8 {byte} to i64"))
        where = text.value(f"getelementptr i8, ptr %rec, i64 {IMMEDIATE}")
        word = text.value(f"load i32, ptr {where}")
        if slot.width < 32:
            word = text.value(f"shl i32 {word}, {32 - slot.width - slot.lo}")
            shift = "ashr" if slot.signed else "lshr"
            word = text.value(f"{shift} i32 {word}, {32 - slot.width}")
        extend = "sext" if slot.signed else "zext"
        return Val(text, 64, text.value(f"{extend} i32 {word} to i64"))

    def register(self, file: str, index: Val | int) -> str:
        text = self.text
        base = text.value(field(file))
        number = index if isinstance(index, int) else index.name
        return text.value(f"getelementptr i64, ptr {base}, i64 {number}")

    # Control.
    def go_on(self, pc: str, rec: str, budget: str) -> None:
        """Continue with the record of the instruction that follows in memory."""
        dispatch(self.text, pc, rec, budget)

    def transfer(self, target: str, budget: str) -> None:
        """Continue at a guest address."""
        transfer(self.text, target, budget)

    @property
    def pc(self) -> Val:
        """Address of this instruction."""
        return self._pc

    def _successor(self) -> tuple[str, str, str]:
        """pc, record and budget of the instruction that follows in memory."""
        if self._next is None:
            text = self.text
            where = text.value(f"getelementptr i8, ptr %rec, i64 {LENGTH}")
            length = text.value(f"load i8, ptr {where}")
            length = text.value(f"zext i8 {length} to i64")
            pc = text.value(f"add i64 %pc, {length}")
            step = text.value(f"shl i64 {length}, 3")
            rec = text.value(f"getelementptr i8, ptr %rec, i64 {step}")
            self._next = pc, rec, text.value("add i64 %budget, -1")
        return self._next

    @property
    def next_pc(self) -> Val:
        """Address of the instruction that follows in memory."""
        return Val(self.text, 64, self._successor()[0])

    def finish(self) -> None:
        """Continue with the next record, unless the body already left; then the cold blocks."""
        if not self.ended:
            pc, rec, budget = self._successor()
            self.go_on(pc, rec, budget)
        for label, lines in self._cold:
            self.text.label(label)
            for line in lines:
                self.text.emit(line)

    def jump(self, target: Val | int) -> None:
        budget = self._successor()[2]
        where = target if isinstance(target, Val) else constant(self.text, target, 64)
        self.transfer(where.name, budget)
        self.ended = True

    def branch(self, condition: Val, target: Val | int) -> None:
        text = self.text
        pc, rec, budget = self._successor()
        goal = target if isinstance(target, Val) else constant(text, target, 64)
        taken, straight = text.fresh_label("taken"), text.fresh_label("straight")
        name = goal.name
        text.emit(f"br i1 {condition.name}, label %{taken}, label %{straight}")
        text.label(taken)
        self.transfer(name, budget)
        text.label(straight)
        self.go_on(pc, rec, budget)
        self.ended = True

    def _leave(self, reason: int, cause: Val | int, tval: str, pc: str = "%pc") -> list[str]:
        name = cause.name if isinstance(cause, Val) else str(cause)
        return leave(self.text, reason, name, tval, pc, "%budget")

    def trap(self, cause: Val | int, tval: Val | int = 0) -> None:
        value = tval if isinstance(tval, Val) else constant(self.text, tval, 64)
        reason = abi.ILLEGAL if isinstance(cause, int) and cause == 2 else abi.TRAP
        for line in self._leave(reason, cause, value.name):
            self.text.emit(line)
        self.text.label(self.text.fresh_label("dead"))

    def trap_if(self, condition: Val, cause: Val | int, tval: Val | int = 0) -> None:
        text = self.text
        value = tval if isinstance(tval, Val) else constant(text, tval, 64)
        bad, good = text.fresh_label("trap"), text.fresh_label("fine")
        reason = abi.ILLEGAL if isinstance(cause, int) and cause == 2 else abi.TRAP
        self._cold.append((bad, self._leave(reason, cause, value.name)))
        text.emit(f"br i1 {condition.name}, label %{bad}, label %{good}, !prof !1")
        text.label(good)

    def only_reference(self) -> None:
        """This instruction needs the reference meaning: hand it to Python."""
        for line in self._leave(abi.REFERENCE, 0, "0"):
            self.text.emit(line)
        self.text.label(self.text.fresh_label("dead"))

    def only_reference_if(self, condition: str) -> None:
        """The same where an i1 operand holds."""
        text = self.text
        bad, good = text.fresh_label("soft"), text.fresh_label("hard")
        self._cold.append((bad, self._leave(abi.REFERENCE, 0, "0")))
        text.emit(f"br i1 {condition}, label %{bad}, label %{good}, !prof !1")
        text.label(good)

    def _slow(self, address: Val, is_store: bool) -> str:
        label = self.text.fresh_label("fault")
        cause = STORE_FAULT if is_store else LOAD_FAULT
        self._cold.append((label, self._leave(abi.FAULT, cause, address.name)))
        return label


def leave(text: Text, reason: int, cause: str, tval: str, pc: str, budget: str) -> list[str]:
    """Lines that return to Python with a reason. Not emitted yet: they often go to a cold block."""
    lines = []
    for name, value in (("reason", str(reason)), ("cause", cause), ("tval", tval)):
        where = text.fresh()
        lines += [f"{where} = {field(name)}", f"store i64 {value}, ptr {where}"]
    return lines + handler_tail("@leave", pc, "%rec", budget)


def dispatch(text: Text, pc: str, rec: str, budget: str) -> None:
    """Continue at a record. Its page may not be there yet: then it is a fetch fault."""
    away = text.fresh_label("fetch")
    address = text.value(f"ptrtoint ptr {rec} to i64")
    handler = load_pointer(text, address, away)
    for line in handler_tail(handler, pc, rec, budget):
        text.emit(line)
    text.label(away)
    for line in handler_tail("@fetch", pc, rec, budget):
        text.emit(line)


def transfer(text: Text, target: str, budget: str) -> None:
    """Continue at a guest address: count it, test the budget, find the record."""
    over, go, hot, cool = (text.fresh_label(h) for h in ("over", "go", "hot", "cool"))
    outside = text.value(f"icmp uge i64 {target}, {abi.LIMIT}")
    spent = text.value(f"icmp sle i64 {budget}, 0")
    odd = text.value(f"or i1 {outside}, {spent}")
    text.emit(f"br i1 {odd}, label %{over}, label %{go}, !prof !1")
    text.label(go)
    half = text.value(f"lshr i64 {target}, 1")
    index = text.value(f"and i64 {half}, {abi.HOT_SLOTS - 1}")
    base = text.value(field("hot"))
    counter = text.value(f"getelementptr i32, ptr {base}, i64 {index}")
    count = text.value(f"load i32, ptr {counter}")
    count = text.value(f"add i32 {count}, -1")
    text.emit(f"store i32 {count}, ptr {counter}")
    is_hot = text.value(f"icmp eq i32 {count}, 0")
    text.emit(f"br i1 {is_hot}, label %{hot}, label %{cool}, !prof !1")
    text.label(cool)
    offset = text.value(f"shl i64 {target}, 3")
    address = text.value(f"add i64 {offset}, {abi.SHADOW}")
    dispatch(text, target, text.value(f"inttoptr i64 {address} to ptr"), budget)
    text.label(hot)
    for line in handler_tail("@hot", target, "%rec", budget):
        text.emit(line)
    text.label(over)
    for line in handler_tail("@over", target, "%rec", budget):
        text.emit(line)


def _function(name: str, text: Text, parameters: str = HANDLER_PARAMETERS) -> str:
    body = text.body()
    return f"define {HANDLER_CC} void @{name}({parameters}) #0 {{\nentry:\n{body}\n}}"


def handler_text(insns: InsnSet, insn: Insn, variant: tuple[int, ...], name: str) -> str:
    """LLVM text of the handler of one instruction variant."""
    text = Text()
    hart = HandlerHart(text, insns)
    operands: dict[str, Val | int] = dict(zip(insn.variants, variant, strict=True))
    for operand, slot in slots(insns, insn).items():
        operands[operand] = hart.operand(slot)
    insn.body(hart, **operands)
    hart.finish()
    return _function(name, text)


def bank_text(insns: InsnSet, bank: str) -> Iterator[str]:
    """LLVM text of every handler of a bank; each is exported as `h_<number>`."""
    where = banks(insns)
    for (name, variant), number in numbering(insns).items():
        if where[name, variant] == bank:
            yield handler_text(insns, insns[name], variant, f"h_{number}")
