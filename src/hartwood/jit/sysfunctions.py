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
from hartwood.jit import sysabi
from hartwood.jit.sysabi import CONTEXTS, RECORDS_PER_PAGE, TLB_ENTRIES, field
from hartwood.jit.words import NativeHart
from hartwood.mem.ram import HARTS_AT, LOCK_AT, REGIONS

#: What a walk gives where it has to begin again, in place of a cause.
AGAIN = 64
_CONTEXT = 3 * TLB_ENTRIES * 16
_TLBS = sysabi.offset("tlbs")


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
        where = text.value(f"call ptr @table(ptr %s, i64 {at.name})")
        missing = Val(text, 1, text.value(f"icmp eq ptr {where}, null"))
        self.trap_if(missing, meaning(sv.access_fault, self, access), va)
        return Val(text, 64, text.value(f"load atomic i64, ptr {where} monotonic, align 8"))

    def update_physical(self, condition: Val, at: Val, old: Val, new: Val) -> Val:
        """See `words.Hart.update_physical`."""
        text = self.text
        start, write, end = text.block, text.fresh_label("write"), text.fresh_label("wrote")
        names = at.name, old.name, new.name
        text.emit(f"br i1 {condition.name}, label %{write}, label %{end}")
        text.label(write)
        where = text.value(f"call ptr @table(ptr %s, i64 {names[0]})")
        line = f"cmpxchg ptr {where}, i64 {names[1]}, i64 {names[2]} seq_cst seq_cst, align 8"
        done = text.value(f"extractvalue {{i64, i1}} {text.value(line)}, 1")
        text.emit(f"br label %{end}")
        text.label(end)
        return Val(text, 1, text.value(f"phi i1 [true, %{start}], [{done}, %{write}]"))

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
    text.emit(f"ret i1 {meaning(pmp.allows, h, at, access, mode).name}")
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
        at = context * _CONTEXT + _TLBS
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


_BY_HAND = f"""
define i64 @retired(ptr %s, i64 %budget) #0 {{
  %goal = load i64, ptr $goal
  %n = sub i64 %goal, %budget
  ret i64 %n
}}
define i64 @now(ptr %s, i64 %budget) #0 {{
  %clock = load ptr, ptr $clock
  %offset = load i64, ptr $time_offset
  %counted = icmp eq ptr %clock, null
  br i1 %counted, label %count, label %ask
count:
  %n = call i64 @retired(ptr %s, i64 %budget)
  %ticks = udiv i64 %n, {sysabi.INSTRUCTIONS_PER_TICK}
  %t = add i64 %ticks, %offset
  ret i64 %t
ask:
  %status = call i32 %clock(i32 1, ptr $timespec)
  %seconds = load i64, ptr $timespec
  %at = getelementptr i8, ptr $timespec, i64 8
  %nano = load i64, ptr %at
  %whole = mul i64 %seconds, {sysabi.FREQUENCY}
  %part = udiv i64 %nano, {10**9 // sysabi.FREQUENCY}
  %sum = add i64 %whole, %part
  %t2 = add i64 %sum, %offset
  ret i64 %t2
}}
define ptr @ram(ptr %s, i64 %at) #0 {{
  %memory = load ptr, ptr $memory
  %first = load ptr, ptr $table
  br label %next
next:
  %i = phi i64 [0, %0], [%j, %more]
  %here = getelementptr i8, ptr %first, i64 %i
  %start = load i64, ptr %here
  %sizep = getelementptr i8, ptr %here, i64 8
  %size = load i64, ptr %sizep
  %off = sub i64 %at, %start
  %in = icmp ult i64 %off, %size
  br i1 %in, label %found, label %more
more:
  %j = add i64 %i, 24
  %end = icmp eq i64 %j, {REGIONS * 24}
  br i1 %end, label %none, label %next
none:
  ret ptr null
found:
  %deltap = getelementptr i8, ptr %here, i64 16
  %delta = load i64, ptr %deltap
  %inside = add i64 %delta, %off
  %host = getelementptr i8, ptr %memory, i64 %inside
  ret ptr %host
}}
define ptr @table(ptr %s, i64 %at) #0 {{
  %nowhere = icmp eq i64 %at, -1
  br i1 %nowhere, label %zero, label %look
zero:
  store i64 0, ptr $nothing
  ret ptr $nothing
look:
  %allowed = call i1 @protection(ptr %s, i64 %at, i64 1, i64 1)
  br i1 %allowed, label %go, label %none
go:
  %host = call ptr @ram(ptr %s, i64 %at)
  ret ptr %host
none:
  ret ptr null
}}
define void @flush(ptr %s, i64 %va, i1 %every) #0 {{
  %at = load i64, ptr $large_at
  %mask = load i64, ptr $large_mask
  %page = and i64 %va, -4096
  %other = xor i64 %page, %at
  %differ = and i64 %other, %mask
  %large = icmp eq i64 %differ, 0
  %all = or i1 %every, %large
  %tlbs = getelementptr i8, ptr %s, i64 {_TLBS}
  br i1 %all, label %clear, label %one
clear:
  %count = load i64, ptr $tlb_flushes
  %counted = add i64 %count, 1
  store i64 %counted, ptr $tlb_flushes
  store i64 1, ptr $large_at
  store i64 -1, ptr $large_mask
  br label %loop
loop:
  %i = phi i64 [0, %clear], [%j, %loop]
  %e = getelementptr i8, ptr %tlbs, i64 %i
  store i64 -1, ptr %e
  %j = add i64 %i, 16
  %done = icmp eq i64 %j, {CONTEXTS * _CONTEXT}
  br i1 %done, label %end, label %loop
one:
  %index = lshr i64 %page, 8
  %slot = and i64 %index, {(TLB_ENTRIES - 1) << 4}
  br label %loop1
loop1:
  %k = phi i64 [%slot, %one], [%l, %next1]
  %e1 = getelementptr i8, ptr %tlbs, i64 %k
  %tag = load i64, ptr %e1
  %same = icmp eq i64 %tag, %page
  br i1 %same, label %kill, label %next1
kill:
  store i64 -1, ptr %e1
  br label %next1
next1:
  %l = add i64 %k, {TLB_ENTRIES * 16}
  %past = icmp uge i64 %l, {CONTEXTS * _CONTEXT}
  br i1 %past, label %end, label %loop1
end:
  ret void
}}
define void @lock(ptr %s) #0 {{
  %table = load ptr, ptr $table
  %word = getelementptr i8, ptr %table, i64 {LOCK_AT}
  br label %try
try:
  %old = atomicrmw xchg ptr %word, i64 1 seq_cst
  %free = icmp eq i64 %old, 0
  br i1 %free, label %mine, label %try
mine:
  ret void
}}
define void @unlock(ptr %s) #0 {{
  %table = load ptr, ptr $table
  %word = getelementptr i8, ptr %table, i64 {LOCK_AT}
  store atomic i64 0, ptr %word seq_cst, align 8
  ret void
}}
define void @fence_code(ptr %s) #0 {{
  %table = load ptr, ptr $table
  %who = getelementptr i8, ptr %table, i64 {HARTS_AT + 8}
  %second = load ptr, ptr %who
  %alone = icmp eq ptr %second, null
  br i1 %alone, label %out, label %flush
flush:
  call void @flush(ptr %s, i64 0, i1 true)
  ret void
out:
  ret void
}}
define void @drop(ptr %s, i64 %tlb, i64 %shift, i64 %base) #0 {{
  %table = load ptr, ptr $table
  br label %hart
hart:
  %n = phi i64 [{HARTS_AT}, %0], [%n2, %after]
  %who = getelementptr i8, ptr %table, i64 %n
  %other = load volatile ptr, ptr %who
  %n2 = add i64 %n, 8
  %last = icmp eq ptr %other, null
  br i1 %last, label %out, label %there
there:
  %tlbs = getelementptr i8, ptr %other, i64 {_TLBS}
  br label %context
context:
  %c = phi i64 [%tlb, %there], [%d, %contextend]
  br label %loop
loop:
  %i = phi i64 [0, %context], [%j, %next]
  %at = add i64 %c, %i
  %e = getelementptr i8, ptr %tlbs, i64 %at
  %tag = load volatile i64, ptr %e
  %ap = getelementptr i8, ptr %e, i64 8
  %add = load volatile i64, ptr %ap
  %scaled = shl i64 %tag, %shift
  %target = add i64 %scaled, %add
  %same = icmp eq i64 %target, %base
  br i1 %same, label %kill, label %next
kill:
  store volatile i64 -1, ptr %e
  br label %next
next:
  %j = add i64 %i, 16
  %done = icmp eq i64 %j, {TLB_ENTRIES * 16}
  br i1 %done, label %contextend, label %loop
contextend:
  %d = add i64 %c, {_CONTEXT}
  %end = icmp uge i64 %d, {CONTEXTS * _CONTEXT}
  br i1 %end, label %after, label %context
after:
  br label %hart
out:
  ret void
}}
define void @page_in(ptr %s, i64 %page) #0 {{
  %all = load ptr, ptr $records
  %at = mul i64 %page, {RECORDS_PER_PAGE}
  %base = getelementptr i8, ptr %all, i64 %at
  call void @lock(ptr %s)
  br label %loop
loop:
  %i = phi i64 [0, %0], [%j, %loop]
  %rec = getelementptr i8, ptr %base, i64 %i
  store ptr @decode, ptr %rec
  %j = add i64 %i, 16
  %done = icmp eq i64 %j, 32768
  br i1 %done, label %last, label %loop
last:
  %c1 = getelementptr i8, ptr %base, i64 32768
  store ptr @cross, ptr %c1
  %c2 = getelementptr i8, ptr %base, i64 32784
  store ptr @cross, ptr %c2
  %flags = load ptr, ptr $flags
  %flag = getelementptr i8, ptr %flags, i64 %page
  store atomic i8 1, ptr %flag seq_cst, align 1
  fence seq_cst
  %memory = load i64, ptr $memory
  %off = shl i64 %page, 12
  %host = add i64 %memory, %off
  call void @drop(ptr %s, i64 {TLB_ENTRIES * 16}, i64 0, i64 %host)
  call void @unlock(ptr %s)
  ret void
}}
define void @wrote(ptr %s, ptr %host, i64 %size, ptr %rec) #0 {{
  %memory = load i64, ptr $memory
  %h = ptrtoint ptr %host to i64
  %off = sub i64 %h, %memory
  %page = lshr i64 %off, 12
  %flags = load ptr, ptr $flags
  %flag = getelementptr i8, ptr %flags, i64 %page
  %code = load i8, ptr %flag
  %plain = icmp eq i8 %code, 0
  br i1 %plain, label %out, label %discard
discard:
  call void @lock(ptr %s)
  %in = and i64 %off, 4095
  %slot = lshr i64 %in, 1
  %prev = sub i64 %slot, 1
  %neg = icmp slt i64 %prev, 0
  %from = select i1 %neg, i64 0, i64 %prev
  %lastb = add i64 %in, %size
  %lastb1 = sub i64 %lastb, 1
  %to = lshr i64 %lastb1, 1
  %all = load ptr, ptr $records
  %at = mul i64 %page, {RECORDS_PER_PAGE}
  %base = getelementptr i8, ptr %all, i64 %at
  br label %loop
loop:
  %i = phi i64 [%from, %discard], [%j, %loop]
  %ro = shl i64 %i, 4
  %r = getelementptr i8, ptr %base, i64 %ro
  store atomic ptr @decode, ptr %r release, align 8
  %j = add i64 %i, 1
  %done = icmp ugt i64 %j, %to
  br i1 %done, label %count, label %loop
count:
  %ri = ptrtoint ptr %rec to i64
  %bi = ptrtoint ptr %base to i64
  %dist = sub i64 %ri, %bi
  %own = icmp ult i64 %dist, {RECORDS_PER_PAGE}
  %few = icmp ult i8 %code, 17
  %stay = or i1 %own, %few
  br i1 %stay, label %keep, label %give
keep:
  %more = add i8 %code, 1
  %capped = select i1 %few, i8 %more, i8 %code
  store i8 %capped, ptr %flag
  call void @unlock(ptr %s)
  ret void
give:
  call void @drop(ptr %s, i64 {2 * TLB_ENTRIES * 16}, i64 3, i64 %bi)
  store atomic i8 0, ptr %flag seq_cst, align 1
  call void @unlock(ptr %s)
  ret void
out:
  ret void
}}
define ptr @reach(ptr %s, i64 %va, i64 %access) #0 {{
  %misses = load i64, ptr $tlb_misses
  %misses1 = add i64 %misses, 1
  store i64 %misses1, ptr $tlb_misses
  %fetch = icmp eq i64 %access, 0
  %own = load i64, ptr $mode
  %data = call i64 @data_mode(ptr %s)
  %mode = select i1 %fetch, i64 %own, i64 %data
  br label %again
again:
  %cause = call i64 @walk(ptr %s, i64 %va, i64 %access, i64 %mode)
  %retry = icmp eq i64 %cause, {AGAIN}
  br i1 %retry, label %again, label %walked
walked:
  %fault = icmp ne i64 %cause, 0
  br i1 %fault, label %failed, label %translated
denied:
  %twice = shl i64 %access, 1
  %three = add i64 %twice, 3
  %accessfault = select i1 %fetch, i64 1, i64 %three
  br label %failed
failed:
  %why = phi i64 [%cause, %walked], [%accessfault, %denied]
  store i64 %why, ptr $cause
  store i64 %va, ptr $tval
  ret ptr null
translated:
  %pa = load i64, ptr $physical
  %allowed = call i1 @protection(ptr %s, i64 %pa, i64 %access, i64 %mode)
  br i1 %allowed, label %there, label %denied
there:
  %host = call ptr @ram(ptr %s, i64 %pa)
  %none = icmp eq ptr %host, null
  br i1 %none, label %device, label %memory
device:
  br i1 %fetch, label %denied, label %io
io:
  ret ptr inttoptr (i64 1 to ptr)
memory:
  %span = load i64, ptr $span
  %big = icmp ugt i64 %span, 4095
  br i1 %big, label %large, label %fill
large:
  %oldat = load i64, ptr $large_at
  %oldmask = load i64, ptr $large_mask
  %mine = xor i64 %span, -1
  %fresh = icmp eq i64 %oldat, 1
  %at0 = and i64 %va, %mine
  %at = select i1 %fresh, i64 %at0, i64 %oldat
  %mask0 = and i64 %oldmask, %mine
  %differ0 = xor i64 %at, %va
  %differ = and i64 %differ0, %mask0
  %lead = call i64 @llvm.ctlz.i64(i64 %differ, i1 false)
  %lead1 = and i64 %lead, 63
  %low = lshr i64 -1, %lead1
  %same = icmp eq i64 %differ, 0
  %cut0 = xor i64 %low, -1
  %cut = select i1 %same, i64 -1, i64 %cut0
  %mask = and i64 %mask0, %cut
  %at1 = and i64 %at, %mask
  store i64 %at1, ptr $large_at
  store i64 %mask, ptr $large_mask
  br label %fill
fill:
  %base = load i64, ptr $memory
  %h = ptrtoint ptr %host to i64
  %off = sub i64 %h, %base
  %page = lshr i64 %off, 12
  %flags = load ptr, ptr $flags
  %flagp = getelementptr i8, ptr %flags, i64 %page
  %flag = load i8, ptr %flagp
  %vpage = and i64 %va, -4096
  %index = lshr i64 %va, 8
  %slot = and i64 %index, {(TLB_ENTRIES - 1) << 4}
  br i1 %fetch, label %code, label %plain
plain:
  %iswrite = icmp eq i64 %access, 2
  %iscode = icmp ne i8 %flag, 0
  %skip = and i1 %iswrite, %iscode
  br i1 %skip, label %nofill, label %tlbfill
nofill:
  ret ptr %host
tlbfill:
  %tlb = load ptr, ptr $tlb
  %which = select i1 %iswrite, i64 {TLB_ENTRIES * 16}, i64 0
  %where0 = add i64 %which, %slot
  %where = getelementptr i8, ptr %tlb, i64 %where0
  %hostpage = and i64 %h, -4096
  %add = sub i64 %hostpage, %vpage
  %addp = getelementptr i8, ptr %where, i64 8
  store volatile i64 -1, ptr %where
  store volatile i64 %add, ptr %addp
  store volatile i64 %vpage, ptr %where
  br i1 %iswrite, label %recheck, label %filled
recheck:
  fence seq_cst
  %flag2 = load volatile i8, ptr %flagp
  %became = icmp ne i8 %flag2, 0
  br i1 %became, label %undo, label %filled
undo:
  store volatile i64 -1, ptr %where
  ret ptr %host
filled:
  ret ptr %host
code:
  %fresh1 = icmp eq i8 %flag, 0
  br i1 %fresh1, label %begin, label %ready
begin:
  call void @page_in(ptr %s, i64 %page)
  br label %ready
ready:
  %records = load i64, ptr $records
  %rel = mul i64 %page, {RECORDS_PER_PAGE}
  %rbase = add i64 %records, %rel
  %vp8 = shl i64 %vpage, 3
  %radd = sub i64 %rbase, %vp8
  %ftlb = load ptr, ptr $tlb_fetch
  %fslot = add i64 %slot, {2 * TLB_ENTRIES * 16}
  %fwhere = getelementptr i8, ptr %ftlb, i64 %fslot
  store i64 %vpage, ptr %fwhere
  %faddp = getelementptr i8, ptr %fwhere, i64 8
  store i64 %radd, ptr %faddp
  %v8 = shl i64 %va, 3
  %rint = add i64 %v8, %radd
  %rptr = inttoptr i64 %rint to ptr
  ret ptr %rptr
}}
define ptr @bytes_of(ptr %s, ptr %rec) #0 {{
  %records = load i64, ptr $records
  %r = ptrtoint ptr %rec to i64
  %rel = sub i64 %r, %records
  %page = udiv i64 %rel, {RECORDS_PER_PAGE}
  %start = mul i64 %page, {RECORDS_PER_PAGE}
  %in = sub i64 %rel, %start
  %byte = lshr i64 %in, 3
  %off = shl i64 %page, 12
  %sum = add i64 %off, %byte
  %memory = load ptr, ptr $memory
  %host = getelementptr i8, ptr %memory, i64 %sum
  ret ptr %host
}}
define i64 @device(ptr %s, i1 %write, i64 %va, i64 %size, i64 %budget, i64 %value) #0 {{
  %mask = sub i64 %size, 1
  %low = and i64 %va, %mask
  %odd = icmp ne i64 %low, 0
  %mis = select i1 %write, i64 6, i64 4
  %acc = select i1 %write, i64 7, i64 5
  br i1 %odd, label %failed, label %call
call:
  store i32 0, ptr $io_fault
  store i64 %budget, ptr $budget
  call void asm sideeffect "stmxcsr \\240", "=*m"(ptr elementtype(i32) $mxcsr)
  call void asm sideeffect "ldmxcsr \\240", "*m"(ptr elementtype(i32) $host_mxcsr)
  %pa = load i64, ptr $physical
  br i1 %write, label %out, label %in
out:
  %wf = load ptr, ptr $io_write
  call void %wf(i64 %pa, i64 %size, i64 %value)
  br label %after
in:
  %rf = load ptr, ptr $io_read
  %got = call i64 %rf(i64 %pa, i64 %size)
  br label %after
after:
  %result = phi i64 [0, %out], [%got, %in]
  call void asm sideeffect "ldmxcsr \\240", "*m"(ptr elementtype(i32) $mxcsr)
  %bad = load i32, ptr $io_fault
  %isbad = icmp ne i32 %bad, 0
  br i1 %isbad, label %failed, label %good
good:
  ret i64 %result
failed:
  %why = phi i64 [%mis, %0], [%acc, %after]
  store i32 1, ptr $io_fault
  store i64 %why, ptr $cause
  store i64 %va, ptr $tval
  ret i64 0
}}
define {{i64, i1}} @load_slow(ptr %s, i64 %va, i64 %size, i64 %budget) #0 {{
  %more = sub i64 %size, 1
  %last = add i64 %va, %more
  %differ = xor i64 %va, %last
  %high = and i64 %differ, -4096
  %crosses = icmp ne i64 %high, 0
  %p = call ptr @reach(ptr %s, i64 %va, i64 1)
  %fault = icmp eq ptr %p, null
  br i1 %fault, label %failed, label %reached
failed:
  ret {{i64, i1}} zeroinitializer
reached:
  %isio = icmp eq ptr %p, inttoptr (i64 1 to ptr)
  br i1 %crosses, label %two, label %onepage
onepage:
  br i1 %isio, label %io, label %ram
io:
  %got = call i64 @device(ptr %s, i1 false, i64 %va, i64 %size, i64 %budget, i64 0)
  %bad = load i32, ptr $io_fault
  %isbad = icmp ne i32 %bad, 0
  br i1 %isbad, label %failed, label %result
ram:
  br label %bytes
two:
  %second = and i64 %last, -4096
  br i1 %isio, label %misaligned, label %two1
two1:
  %q = call ptr @reach(ptr %s, i64 %second, i64 1)
  %fault2 = icmp eq ptr %q, null
  br i1 %fault2, label %failed, label %two2
two2:
  %isio2 = icmp eq ptr %q, inttoptr (i64 1 to ptr)
  br i1 %isio2, label %misaligned, label %bytes
misaligned:
  store i64 4, ptr $cause
  store i64 %va, ptr $tval
  ret {{i64, i1}} zeroinitializer
bytes:
  %far = phi ptr [%p, %ram], [%q, %two2]
  %page = and i64 %va, -4096
  br label %loop
loop:
  %i = phi i64 [%more, %bytes], [%j, %loop]
  %acc = phi i64 [0, %bytes], [%acc2, %loop]
  %at = add i64 %va, %i
  %atpage = and i64 %at, -4096
  %near = icmp eq i64 %atpage, %page
  %inpage = and i64 %at, 4095
  %here = getelementptr i8, ptr %p, i64 %i
  %there = getelementptr i8, ptr %far, i64 %inpage
  %byte = select i1 %near, ptr %here, ptr %there
  %b = load i8, ptr %byte
  %wide = zext i8 %b to i64
  %up = shl i64 %acc, 8
  %acc2 = or i64 %up, %wide
  %j = sub i64 %i, 1
  %end = icmp slt i64 %j, 0
  br i1 %end, label %result, label %loop
result:
  %value = phi i64 [%got, %io], [%acc2, %loop]
  %r0 = insertvalue {{i64, i1}} poison, i64 %value, 0
  %r1 = insertvalue {{i64, i1}} %r0, i1 true, 1
  ret {{i64, i1}} %r1
}}
define i1 @store_slow(ptr %s, i64 %va, i64 %size, i64 %budget, i64 %value, ptr %rec) #0 {{
  %more = sub i64 %size, 1
  %last = add i64 %va, %more
  %differ = xor i64 %va, %last
  %high = and i64 %differ, -4096
  %crosses = icmp ne i64 %high, 0
  %p = call ptr @reach(ptr %s, i64 %va, i64 2)
  %fault = icmp eq ptr %p, null
  br i1 %fault, label %failed, label %reached
failed:
  ret i1 false
reached:
  %isio = icmp eq ptr %p, inttoptr (i64 1 to ptr)
  br i1 %crosses, label %two, label %onepage
onepage:
  br i1 %isio, label %io, label %ram
io:
  %got = call i64 @device(ptr %s, i1 true, i64 %va, i64 %size, i64 %budget, i64 %value)
  %bad = load i32, ptr $io_fault
  %isbad = icmp ne i32 %bad, 0
  br i1 %isbad, label %failed, label %done
done:
  ret i1 true
misaligned:
  store i64 6, ptr $cause
  store i64 %va, ptr $tval
  ret i1 false
ram:
  switch i64 %size, label %bytes [i64 8, label %s8 i64 4, label %s4 i64 2, label %s2]
s8:
  store volatile i64 %value, ptr %p, align 1
  br label %note
s4:
  %v4 = trunc i64 %value to i32
  store volatile i32 %v4, ptr %p, align 1
  br label %note
s2:
  %v2 = trunc i64 %value to i16
  store volatile i16 %v2, ptr %p, align 1
  br label %note
note:
  call void @wrote(ptr %s, ptr %p, i64 %size, ptr %rec)
  ret i1 true
two:
  %second = and i64 %last, -4096
  br i1 %isio, label %misaligned, label %two1
two1:
  %q = call ptr @reach(ptr %s, i64 %second, i64 2)
  %fault2 = icmp eq ptr %q, null
  br i1 %fault2, label %failed, label %two2
two2:
  %isio2 = icmp eq ptr %q, inttoptr (i64 1 to ptr)
  br i1 %isio2, label %misaligned, label %bytes
bytes:
  %far = phi ptr [%p, %ram], [%q, %two2]
  %page = and i64 %va, -4096
  br label %loop
loop:
  %i = phi i64 [0, %bytes], [%j, %loop]
  %rest = phi i64 [%value, %bytes], [%rest2, %loop]
  %at = add i64 %va, %i
  %atpage = and i64 %at, -4096
  %near = icmp eq i64 %atpage, %page
  %inpage = and i64 %at, 4095
  %here = getelementptr i8, ptr %p, i64 %i
  %there = getelementptr i8, ptr %far, i64 %inpage
  %byte = select i1 %near, ptr %here, ptr %there
  %b = trunc i64 %rest to i8
  store volatile i8 %b, ptr %byte
  call void @wrote(ptr %s, ptr %byte, i64 1, ptr %rec)
  %rest2 = lshr i64 %rest, 8
  %j = add i64 %i, 1
  %end = icmp eq i64 %j, %size
  br i1 %end, label %done, label %loop
}}
define ptr @atomic_slow(ptr %s, i64 %va, i64 %size, ptr %rec) #0 {{
  %p = call ptr @reach(ptr %s, i64 %va, i64 2)
  %fault = icmp eq ptr %p, null
  br i1 %fault, label %failed, label %reached
failed:
  ret ptr null
reached:
  %isio = icmp eq ptr %p, inttoptr (i64 1 to ptr)
  br i1 %isio, label %io, label %ram
io:
  store i64 7, ptr $cause
  store i64 %va, ptr $tval
  ret ptr null
ram:
  call void @wrote(ptr %s, ptr %p, i64 %size, ptr %rec)
  ret ptr %p
}}
define i1 @zero_slow(ptr %s, i64 %va, ptr %rec) #0 {{
  %p = call ptr @atomic_slow(ptr %s, i64 %va, i64 64, ptr %rec)
  %fault = icmp eq ptr %p, null
  br i1 %fault, label %failed, label %loop
failed:
  ret i1 false
loop:
  %i = phi i64 [0, %0], [%j, %loop]
  %at = getelementptr i8, ptr %p, i64 %i
  store volatile i64 0, ptr %at
  %j = add i64 %i, 8
  %end = icmp eq i64 %j, 64
  br i1 %end, label %done, label %loop
done:
  ret i1 true
}}
"""


def functions(insns: InsnSet) -> list[str]:
    """Text of all functions; `@decode` and `@cross` are handlers of the same module."""
    by_hand = expand(_BY_HAND)
    made = [_walk(insns), *_small(insns), _settle(insns), _csr_read(insns), _csr_write(insns)]
    return [by_hand, *made]
