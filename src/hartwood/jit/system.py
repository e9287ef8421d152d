"""The interpreter of whole machines: the generator of `interp` over `isa.riscv.system`, with a
software TLB, native traps and a frame of its own (`sysframe`)."""

from __future__ import annotations

from hartwood.bits.ssa import Text, Val, constant
from hartwood.bits.words import ILLEGAL_INSTRUCTION
from hartwood.isa.insn import Insn
from hartwood.isa.riscv import trap
from hartwood.isa.riscv.system import SYSTEM, csr_allowed
from hartwood.jit.calling import HANDLER_CC, HANDLER_PARAMETERS
from hartwood.jit.interp import HandlerHart
from hartwood.jit.record import slots
from hartwood.jit.softmmu import SoftMemory, tail, transfer
from hartwood.jit.sysabi import field
from hartwood.jit.sysfunctions import SystemWords, meaning


class SystemHart(SystemWords, HandlerHart):
    """`words.Hart` inside a handler of system mode."""

    def __init__(self, text: Text, insns: object = SYSTEM) -> None:
        super().__init__(text, SYSTEM)
        self.memory = SoftMemory(text, self._exception)
        #: What follows may be translated otherwise: go there as after a jump.
        self._moved = False
        self._dirty = False

    def begin(self, floating: bool, changes: bool) -> None:
        """Floating-point instructions need mstatus.FS, and make it dirty (Priv. 3.1.6.6)."""
        if floating:
            self.trap_if(meaning(trap.floating_off, self), ILLEGAL_INSTRUCTION)
        self._dirty = changes

    def finish(self) -> None:
        """See `HandlerHart.finish`."""
        if self._dirty:
            meaning(trap.floating_dirty, self)
        super().finish()

    # Control.
    def go_on(self, pc: str, rec: str, budget: str) -> None:
        """See `HandlerHart.go_on`."""
        if self._moved:
            transfer(self.text, pc, budget)
        else:
            tail(self.text, self.text.value(f"load ptr, ptr {rec}"), pc, rec, budget)

    def transfer(self, target: str, budget: str) -> None:
        """See `HandlerHart.transfer`."""
        transfer(self.text, target, budget, near=not self._moved)

    def context_changed(self) -> None:
        """See `words.Hart.context_changed`."""
        super().context_changed()
        self._moved = True

    def wait_for_interrupt(self) -> None:
        """See `words.Hart.wait_for_interrupt`."""
        pc, rec, budget = self._successor()
        tail(self.text, "@wait", pc, rec, budget)
        self.ended = True

    def _raise(self, cause: str | None, tval: str) -> list[str]:
        text, lines = self.text, []
        for name, value in (("cause", cause), ("tval", tval)):
            if value is not None:
                where = text.fresh()
                lines += [f"{where} = {field(name)}", f"store i64 {value}, ptr {where}"]
        call = f"musttail call {HANDLER_CC} void @exception(ptr %s, i64 %pc, ptr %rec, i64 %budget)"
        return [*lines, call, "ret void"]

    def _exception(self) -> str:
        """The label of a block that takes the exception in the state."""
        label = self.text.fresh_label("raise")
        call = f"musttail call {HANDLER_CC} void @exception(ptr %s, i64 %pc, ptr %rec, i64 %budget)"
        self._cold.append((label, [call, "ret void"]))
        return label

    def trap(self, cause: Val | int, tval: Val | int = 0) -> None:
        """See `words.Hart.trap`."""
        names = (self.const(cause, 64).name, self.const(tval, 64).name)
        for line in self._raise(*names):
            self.text.emit(line)
        self.text.label(self.text.fresh_label("dead"))

    def trap_if(self, condition: Val, cause: Val | int, tval: Val | int = 0) -> None:
        """See `words.Hart.trap_if`."""
        text = self.text
        names = (self.const(cause, 64).name, self.const(tval, 64).name)
        bad, good = text.fresh_label("trap"), text.fresh_label("fine")
        self._cold.append((bad, self._raise(*names)))
        text.emit(f"br i1 {condition.name}, label %{bad}, label %{good}, !prof !1")
        text.label(good)

    def _leave(self, reason: int, cause: Val | int, tval: str, pc: str = "%pc") -> list[str]:
        """All that leaves from inside a body is what only the reference can do."""
        call = f"musttail call {HANDLER_CC} void @reference(ptr %s, i64 %pc, ptr %rec, i64 %budget)"
        return [call, "ret void"]

    # Memory and CSRs.
    def fence_i(self) -> None:
        """This hart sees stores to code at once (`@wrote`); what another hart made of a page
        since this one arrived there is seen by arriving again."""
        self.text.emit("call void @fence_code(ptr %s)")
        self._moved = True

    def zero_block(self, address: Val) -> None:
        """See `words.Hart.zero_block`."""
        ok = self.text.value(f"call i1 @zero_slow(ptr %s, i64 {address.name}, ptr %rec)")
        good = self.text.fresh_label("good")
        self.text.emit(f"br i1 {ok}, label %{good}, label %{self._exception()}, !prof !0")
        self.text.label(good)

    def csr_update(self, number: Val | int, op: str, value: Val | int, source: Val | int) -> Val:
        """See `words.Hart.csr_update`."""
        text, at = self.text, self.const(number, 64)
        writes = constant(text, 1, 1) if op == "write" else self.const(source, 64) != 0
        meaning(csr_allowed, self, at, writes)
        kind, name = "{i64, i64, i1}", at.name
        got = text.value(f"call {kind} @csr_read(ptr %s, i64 {name}, i64 %budget)")
        known = Val(text, 1, text.value(f"extractvalue {kind} {got}, 2"))
        self.trap_if(~known, ILLEGAL_INSTRUCTION)
        old = Val(text, 64, text.value(f"extractvalue {kind} {got}, 0"))
        base = Val(text, 64, text.value(f"extractvalue {kind} {got}, 1"))
        operand = self.const(value, 64)
        new = {"write": operand, "set": base | operand, "clear": base & ~operand}[op].name
        write, end = text.fresh_label("write"), text.fresh_label("end")
        text.emit(f"br i1 {writes.name}, label %{write}, label %{end}")
        text.label(write)
        text.emit(f"call void @csr_write(ptr %s, i64 {name}, i64 {new}, i64 %budget)")
        text.emit(f"br label %{end}")
        text.label(end)
        self._moved = True
        return old


def handler_text(insn: Insn, variant: tuple[int, ...], name: str) -> str:
    """LLVM text of the handler of one instruction variant."""
    text = Text()
    hart = SystemHart(text)
    operands: dict[str, Val | int] = dict(zip(insn.variants, variant, strict=True))
    p = SYSTEM.properties(insn, {k: v for k, v in operands.items() if isinstance(v, int)})
    hart.begin(p.floating, p.rounding or bool(p.f64_writes | p.f32_writes))
    for operand, slot in slots(SYSTEM, insn).items():
        operands[operand] = hart.operand(slot)
    insn.body(hart, **operands)
    hart.finish()
    return function(name, text)


def function(name: str, text: Text) -> str:
    """A handler from its body."""
    return (
        f"define {HANDLER_CC} void @{name}({HANDLER_PARAMETERS}) #0 {{\nentry:\n{text.body()}\n}}"
    )
