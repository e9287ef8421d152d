"""What is behind a TLB miss, a CSR and a change of context: LLVM functions made from definitions.

Text of our own uses `$name` for a pointer to a field of the state; the walk, protection, CSRs and
interrupts are the definitions of `isa.riscv`, run under `FunctionHart`.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Iterator
from typing import cast

from hartwood.bits.ssa import Text, Val, constant
from hartwood.isa.insnset import InsnSet
from hartwood.isa.riscv import pmp, sv, trap
from hartwood.isa.riscv.system import SUM
from hartwood.jit import codepages, slowpath, tlbtext
from hartwood.jit.sysabi import CONTEXTS, field
from hartwood.jit.tlbtext import AGAIN, CONTEXT, TLBS
from hartwood.jit.words import NativeHart


class SysFile:
    """`Hart.sys` in the state."""

    def __init__(self, hart: NativeHart) -> None:
        self._hart = hart

    def __getitem__(self, name: str) -> Val:
        text = self._hart.text
        return Val(text, 64, text.value(f"load i64, ptr {text.value(field(name))}"))

    def __setitem__(self, name: str, value: Val | int) -> None:
        text = self._hart.text
        word = self._hart.const(value, 64)
        name_of = word.name
        text.emit(f"store i64 {name_of}, ptr {text.value(field(name))}")


def meaning(definition: Callable[..., object], *arguments: object) -> Val:
    """The value that a definition gives as text."""
    return cast("Val", definition(*arguments))


class SystemWords(NativeHart):
    """The words of privileged state, the same in functions and in handlers."""

    def __init__(self, text: Text, insns: InsnSet) -> None:
        super().__init__(text, insns)
        self.sys = SysFile(self)

    def counter(self, name: str) -> Val:
        """See `words.Hart.counter`."""
        function = "now" if name == "time" else "retired"
        return Val(self.text, 64, self.text.value(f"call i64 @{function}(ptr %s, i64 %budget)"))

    def context_changed(self) -> None:
        """See `words.Hart.context_changed`."""
        self.text.emit("call void @settle(ptr %s)")

    def fence_vma(self, address: Val, every: Val) -> None:
        """See `words.Hart.fence_vma`."""
        name, bit = address.name, every.name
        self.text.emit(f"call void @flush(ptr %s, i64 {name}, i1 {bit})")
        self.context_changed()

    def forget_translations(self, condition: Val) -> None:
        """See `words.Hart.forget_translations`."""
        text, name = self.text, condition.name
        forget, keep = text.fresh_label("forget"), text.fresh_label("keep")
        text.emit(f"br i1 {name}, label %{forget}, label %{keep}, !prof !1")
        text.label(forget)
        text.emit("call void @flush(ptr %s, i64 0, i1 true)")
        text.emit(f"br label %{keep}")
        text.label(keep)


class FunctionHart(SystemWords):
    """A definition as a plain function; an exception runs `failed`, where CAUSE stands
    for the cause."""

    def __init__(self, text: Text, insns: InsnSet, failed: str = "") -> None:
        super().__init__(text, insns)
        self._failed = failed
        self._cold: list[tuple[str, str]] = []

    def trap_if(self, condition: Val, cause: Val | int, tval: Val | int = 0) -> None:
        """Return early."""
        text = self.text
        bad, good = text.fresh_label("bad"), text.fresh_label("good")
        name = cause.name if isinstance(cause, Val) else str(cause)
        self._cold.append((bad, self._failed.replace("CAUSE", name)))
        text.emit(f"br i1 {condition.name}, label %{bad}, label %{good}, !prof !1")
        text.label(good)

    def load_physical(self, at: Val, access: Val, va: Val) -> Val:
        """See `words.Hart.load_physical`."""
        text = self.text
        where = text.value(f"call ptr @table(ptr %s, i64 {at.name}, i64 1)")
        missing = Val(text, 1, text.value(f"icmp eq ptr {where}, null"))
        self.trap_if(missing, meaning(sv.access_fault, self, access), va)
        return Val(text, 64, text.value(f"load atomic i64, ptr {where} monotonic, align 8"))

    def update_physical(
        self, condition: Val, at: Val, old: Val, new: Val, access: Val, va: Val
    ) -> Val:
        """See `words.Hart.update_physical`."""
        text = self.text
        start, write, end = text.block, text.fresh_label("write"), text.fresh_label("wrote")
        names = at.name, old.name, new.name
        text.emit(f"br i1 {condition.name}, label %{write}, label %{end}")
        text.label(write)
        where = text.value(f"call ptr @table(ptr %s, i64 {names[0]}, i64 2)")
        missing = Val(text, 1, text.value(f"icmp eq ptr {where}, null"))
        self.trap_if(missing, meaning(sv.access_fault, self, access), va)
        line = f"cmpxchg ptr {where}, i64 {names[1]}, i64 {names[2]} seq_cst seq_cst, align 8"
        done = text.value(f"extractvalue {{i64, i1}} {text.value(line)}, 1")
        stored = text.block
        text.emit(f"br label %{end}")
        text.label(end)
        return Val(text, 1, text.value(f"phi i1 [true, %{start}], [{done}, %{stored}]"))

    def function(self, head: str) -> str:
        """The finished text."""
        for label, line in self._cold:
            self.text.label(label)
            self.text.emit(line)
        return f"define {head} #0 {{\nentry:\n{self.text.body()}\n}}"


def _walk(insns: InsnSet) -> str:
    """i64 @walk(s, va, access, mode): the cause, 0 where `physical` and `span` are the answer."""
    text = Text()
    h = FunctionHart(text, insns, "ret i64 CAUSE")
    va, access, mode = (Val(text, 64, f"%{name}") for name in ("va", "access", "mode"))
    walk: Callable[..., object] = sv.walk
    physical, span, done = cast("tuple[Val, Val, Val]", walk(h, va, access, mode))
    for name, value in (("physical", physical), ("span", span)):
        text.emit(f"store i64 {value.name}, ptr {text.value(field(name))}")
    text.emit(f"ret i64 {h.select(done, 0, AGAIN).name}")
    return h.function("i64 @walk(ptr %s, i64 %va, i64 %access, i64 %mode)")


def _small(insns: InsnSet) -> Iterator[str]:
    """Protection, the mode of data accesses, interrupts."""
    text = Text()
    h = FunctionHart(text, insns)
    at, access, mode = (Val(text, 64, f"%{name}") for name in ("at", "access", "mode"))
    for entry in range(pmp.ENTRIES):  # mostly one of the first ones matches
        decides: Callable[..., object] = pmp.decides
        matches, verdict = cast("tuple[Val, Val]", decides(h, entry, at, access, mode))
        found, other = text.fresh_label("found"), text.fresh_label("other")
        text.emit(f"br i1 {matches.name}, label %{found}, label %{other}")
        text.label(found)
        text.emit(f"ret i1 {verdict.name}")
        text.label(other)
    text.emit(f"ret i1 {meaning(pmp.unmatched, mode).name}")
    yield h.function("i1 @protection(ptr %s, i64 %at, i64 %access, i64 %mode)")
    text = Text()
    h = FunctionHart(text, insns)
    text.emit(f"ret i64 {meaning(sv.data_mode, h).name}")
    yield h.function("i64 @data_mode(ptr %s)")
    text = Text()
    h = FunctionHart(text, insns)
    mip = meaning(trap.pending, h)
    timers = mip & (1 << trap.STI | 1 << trap.MTI)
    text.emit(f"store i64 {timers.name}, ptr {text.value(field('timers'))}")
    text.emit(f"ret i64 {meaning(trap.interrupt, h, mip).name}")
    yield h.function("i64 @poll(ptr %s, i64 %budget)")
    text = Text()
    h = FunctionHart(text, insns)
    on = meaning(trap.pending, h) & h.sys["mie"]
    text.emit(f"ret i1 {(on != 0).name}")
    yield h.function("i1 @wakes(ptr %s, i64 %budget)")


def _settle(insns: InsnSet) -> str:
    """void @settle(s): which TLBs count now, and whether an interrupt may be due."""
    text = Text()
    h = FunctionHart(text, insns)
    data, mode = Val(text, 64, text.value("call i64 @data_mode(ptr %s)")), h.sys["mode"]
    with_sum = (h.sys["mstatus"] & SUM != 0).zext(64)
    for name, level, of_s in (
        ("tlb", data, with_sum + 1),
        ("tlb_fetch", mode, constant(text, 1, 64)),
    ):
        context = h.select(level == 3, 0, h.select(level == 1, of_s, CONTEXTS - 1))
        at = context * CONTEXT + TLBS
        pointer = text.value(f"getelementptr i8, ptr %s, i64 {at.name}")
        text.emit(f"store ptr {pointer}, ptr {text.value(field(name))}")
    known = h.sys["mip"] | h.sys["lines"] | h.sys["timers"]
    due = meaning(trap.interrupt, h, known) != 0
    text.emit(f"br i1 {due.name}, label %due, label %end, !prof !1")
    text.label("due")
    text.emit(f"store i32 1, ptr {text.value(field('attention'))}")
    text.emit("br label %end")
    text.label("end")
    text.emit("ret void")
    return h.function("void @settle(ptr %s)")


def _csr_read(insns: InsnSet) -> str:
    """{i64, i64, i1} @csr_read(s, number, budget): what is read, what a set or clear starts from,
    and whether there is such a register and it may be read."""
    kind, text = "{i64, i64, i1}", Text()
    h = FunctionHart(text, insns, f"ret {kind} zeroinitializer")
    labels = {number: text.fresh_label("csr") for number in insns.csrs}
    arms = " ".join(f"i64 {number}, label %{label}" for number, label in labels.items())
    text.emit(f"switch i64 %number, label %none [{arms}]")
    text.label("none")
    text.emit(f"ret {kind} zeroinitializer")
    for number, label in labels.items():
        text.label(label)
        csr = insns.csrs[number]
        old = meaning(csr.read, h).name
        base = old if csr.base is csr.read else meaning(csr.base, h).name
        pair = text.value(f"insertvalue {kind} poison, i64 {old}, 0")
        pair = text.value(f"insertvalue {kind} {pair}, i64 {base}, 1")
        text.emit(f"ret {kind} {text.value(f'insertvalue {kind} {pair}, i1 true, 2')}")
    return h.function(f"{kind} @csr_read(ptr %s, i64 %number, i64 %budget)")


def _csr_write(insns: InsnSet) -> str:
    """void @csr_write(s, number, value, budget), after `@csr_read`."""
    text = Text()
    h = FunctionHart(text, insns, "unreachable")
    writers = {number: csr.write for number, csr in insns.csrs.items() if csr.write}
    labels = {number: text.fresh_label("csr") for number in writers}
    arms = " ".join(f"i64 {number}, label %{label}" for number, label in labels.items())
    text.emit(f"switch i64 %number, label %none [{arms}]")
    text.label("none")
    text.emit("ret void")
    for number, label in labels.items():
        text.label(label)
        write: Callable[..., None] = writers[number]
        write(h, Val(text, 64, "%value"))
        text.emit("ret void")
    return h.function("void @csr_write(ptr %s, i64 %number, i64 %value, i64 %budget)")


_FIELD = re.compile(r"\$(\w+)")


def expand(text: str) -> str:
    """Replace each `$name` by a pointer to the field, computed on the line before."""
    lines, count = [], 0
    for line in text.splitlines():
        for name in _FIELD.findall(line):
            count += 1
            lines.append(f"  %field{count} = {field(name)}")
            line = line.replace(f"${name}", f"%field{count}", 1)
        lines.append(line)
    return "\n".join(lines)


def functions(insns: InsnSet) -> list[str]:
    """Text of all functions; `@decode` and `@cross` are handlers of the same module."""
    by_hand = expand(tlbtext.TEXT + codepages.TEXT + slowpath.TEXT)
    made = [_walk(insns), *_small(insns), _settle(insns), _csr_read(insns), _csr_write(insns)]
    return [by_hand, *made]
