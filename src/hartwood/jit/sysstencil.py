"""Stencils of whole machines: guest memory is behind the software TLB, and code may be mapped at
several addresses, so a unit knows where it is only by the pc that it is entered with.

That pc stays in its register through the unit; what an instruction knows is its distance from it.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from hartwood.bits.effects import Properties
from hartwood.bits.ssa import Text, Val
from hartwood.bits.words import ILLEGAL_INSTRUCTION
from hartwood.isa.insnset import InsnSet
from hartwood.isa.riscv import trap
from hartwood.isa.riscv.system import SYSTEM
from hartwood.jit import host_x86 as host
from hartwood.jit.calling import handler_tail, is_stitched
from hartwood.jit.softmmu import (
    NearMemory,
    addend,
    entry,
    is_called,
    page_of,
    probe,
    record_of,
)
from hartwood.jit.stencil import (
    Flavour,
    StencilHart,
    Way,
    charge,
    charged,
    hole,
    hole_value,
    jump,
    stencil_image,
)
from hartwood.jit.stitch import context_offset
from hartwood.jit.stitcher import stitcher_text
from hartwood.jit.stitchparts import Space, word
from hartwood.jit.sysabi import FETCH, RECORDS_PER_PAGE, field
from hartwood.jit.sysfunctions import SystemWords, meaning
from hartwood.mem.ram import STITCHED
from hartwood.mem.regiontable import LOCK_AT

if TYPE_CHECKING:
    from hartwood.jit.image import Image


class StencilMemory(NearMemory):
    """Accesses that hit; one that misses leaves for the interpreter."""

    def _near(self, address: Val, size: int, tlb: int) -> str:
        """See `NearMemory._near`."""
        text = self._text
        where = entry(text, address.name, tlb)
        last = text.value(f"add i64 {address.name}, {size - 1}") if size > 1 else address.name
        text.emit(host.leave_unless_equal(page_of(text, last), where, hole("leave")))
        at = text.value(f"add i64 {address.name}, {addend(text, where)}")
        return text.value(f"inttoptr i64 {at} to ptr")


class SystemStencilHart(SystemWords, StencilHart):
    """`words.Hart` for one stencil of system mode."""

    kept_pc = "%pc"

    def __init__(self, text: Text, insns: InsnSet) -> None:
        super().__init__(text, insns)
        self.memory = StencilMemory(text, lambda: "")
        self._dirty = False

    def begin(self, properties: Properties) -> None:
        """Floating-point instructions need mstatus.FS, and make it dirty (Priv. 3.1.6.6)."""
        super().begin(properties)
        p = properties
        if p.floating:
            self.trap_if(meaning(trap.floating_off, self), ILLEGAL_INSTRUCTION)
        self._dirty = p.rounding or bool(p.f64_writes | p.f32_writes)

    def finish(self) -> None:
        """See `StencilHart.finish`."""
        if self._dirty:
            meaning(trap.floating_dirty, self)
        super().finish()

    @staticmethod
    def place(text: Text, name: str) -> str:
        """See `StencilHart.place`."""
        return text.value(f"add i64 %pc, {hole_value(name)}")

    def load(self, address: Val, size: int) -> Val:
        """See `words.Hart.load`."""
        return self.memory.load(address, size)

    def store(self, address: Val, value: Val) -> None:
        """See `words.Hart.store`."""
        self.memory.store(address, value)

    def _leap(self, target: str, budget: str) -> None:
        _look(self.text, target, budget)
        _tail(self.text, *_leap(self.text, target, budget))
        self.ended = True


def _look(text: Text, pc: str, budget: str) -> None:
    """Leave where interrupts or requests have to be looked at, or the budget is spent."""
    attention = text.value(field("attention"))
    text.emit(host.leave_if_set(attention, pc, budget, hole("spent")))
    text.emit(host.leave_if_spent(budget, pc, hole("spent")))


def _leap(text: Text, target: str, budget: str) -> Way:
    """To a virtual address that may be on any page: straight into its unit if it has one, else by
    way of the interpreter, which counts where control goes."""
    hit, miss, fast, slow = (text.fresh_label(hint) for hint in ("hit", "miss", "fast", "slow"))
    where = probe(text, target, target, FETCH, hit, miss)
    text.label(hit)
    record = record_of(text, target, where)
    handler = text.value(f"load ptr, ptr {record}")
    stitched = is_stitched(text, handler, host.wide_hole(hole("area")))
    text.emit(f"br i1 {stitched}, label %{fast}, label %{slow}, !prof !0")
    text.label(fast)
    _tail(text, handler, target, record, budget)
    text.label(slow)
    _tail(text, text.value(host.wide_hole(hole("at_exit"), "ptr")), target, record, budget)
    text.label(miss)
    return text.value(host.wide_hole(hole("at_fetch"), "ptr")), target, "poison", budget


def _tail(text: Text, callee: str, pc: str, record: str, budget: str) -> None:
    for line in handler_tail(callee, pc, record, budget):
        text.emit(line)


# The pieces that are no instruction's.
def _pc(text: Text) -> str:
    return SystemStencilHart.place(text, "pc")


def _record(text: Text) -> str:
    return text.value(host.wide_hole(hole("record"), "ptr"))


def _leave(text: Text) -> Way:
    """The instruction at hand has to be interpreted."""
    return f"@{hole('once')}", _pc(text), "poison", charged(text)


def _exit(text: Text) -> Way:
    """On to another record of this page: to its handler, or another unit."""
    pc = _pc(text)
    _look(text, pc, "%budget")
    record = _record(text)
    return text.value(f"load ptr, ptr {record}"), pc, record, "%budget"


def _counted(text: Text) -> Way:
    """The same by way of the interpreter, which counts where control goes."""
    return text.value(host.wide_hole(hole("at_exit"), "ptr")), _pc(text), _record(text), "%budget"


def _loop(text: Text) -> Way:
    """Back to the beginning of the unit."""
    _look(text, "%pc", "%budget")
    return f"@{hole('taken')}", "%pc", "poison", "%budget"


def _far(text: Text) -> Way:
    """To another page."""
    return f"@{hole('leap')}", _pc(text), "poison", "%budget"


def _anywhere(text: Text) -> Way:
    """What those share, which is not in reach of the places that units leave through."""
    text.emit(f"br i1 {is_called(text, '%budget')}, label %over, label %go, !prof !1")
    text.label("over")
    _tail(text, text.value(host.wide_hole(hole("at_over"), "ptr")), "%pc", "poison", "%budget")
    text.label("go")
    return _leap(text, "%pc", "%budget")


def _stops(p: Properties) -> bool:
    return bool(p.fence_i or p.csr or p.counters or p.context or p.control == "trap")


MACHINE = Flavour(
    SystemStencilHart,
    _stops,
    {"charge": charge, "leave": _leave, "exit": _exit, "counted": _counted, "jump": jump,
     "loop": _loop, "far": _far},
    _anywhere,
)  # fmt: skip


SPACE = Space(
    half=f"""
define internal i32 @half(ptr %ctx, i64 %at) #0 {{{word("bytes")}
  %where.i = add i64 %bytes, %at
  %where = inttoptr i64 %where.i to ptr
  %value = load volatile i16, ptr %where, align 2
  %wide = zext i16 %value to i32
  ret i32 %wide
}}
""",
    handler=lambda record, gone: f"load i64, ptr {record}\n  br label %there",
    reaches="""
define internal i1 @reaches(i64 %goal, i64 %pc0) #0 {
  %differ = xor i64 %goal, %pc0
  %same = icmp ult i64 %differ, 4096
  ret i1 %same
}
""",
    away="far",
    untried=True,
    begins=f"""
  %origin.at = getelementptr i8, ptr %ctx, i64 {context_offset("origin")}
  store i64 %pc0, ptr %origin.at""",
)

#: `i64 @stitch(state, context, record)`. Addresses are those within the page. The memory's lock
#: keeps what is read and what is linked together: whoever writes to the page discards after it.
_STITCH = f"""
define i64 @stitch(ptr %s, ptr %ctx, i64 %rec) #0 {{
  %table.at = {field("table")}
  %table = load ptr, ptr %table.at
  %lock = getelementptr i8, ptr %table, i64 {LOCK_AT}
  br label %try
try:
  %held = atomicrmw xchg ptr %lock, i64 1 seq_cst
  %free = icmp eq i64 %held, 0
  br i1 %free, label %mine, label %try
mine:
  %all.at = {field("records")}
  %all = load i64, ptr %all.at
  %off = sub i64 %rec, %all
  %page = udiv i64 %off, {RECORDS_PER_PAGE}
  %from = mul i64 %page, {RECORDS_PER_PAGE}
  %base = add i64 %all, %from
  %in = sub i64 %off, %from
  %pc = lshr i64 %in, 3
  %memory.at = {field("memory")}
  %memory = load i64, ptr %memory.at
  %far = shl i64 %page, 12
  %host = add i64 %memory, %far
  %records.at = getelementptr i8, ptr %ctx, i64 {context_offset("records")}
  store i64 %base, ptr %records.at
  %bytes.at = getelementptr i8, ptr %ctx, i64 {context_offset("bytes")}
  store i64 %host, ptr %bytes.at
  %flags.at = {field("flags")}
  %flags = load ptr, ptr %flags.at
  %flag = getelementptr i8, ptr %flags, i64 %page
  %code = load i8, ptr %flag
  ; The page may have been given up meanwhile.
  %gone = icmp eq i8 %code, 0
  br i1 %gone, label %end, label %go
go:
  %mark = or i8 %code, {STITCHED}
  store i8 %mark, ptr %flag
  %made = call i64 @all(ptr %ctx, i64 %pc)
  br label %end
end:
  %unit = phi i64 [0, %mine], [%made, %go]
  store atomic i64 0, ptr %lock seq_cst, align 8
  ret i64 %unit
}}
"""


def stencils() -> Image:
    """The image of the bank of stencils."""
    return stencil_image(SYSTEM, MACHINE, stitcher_text(SPACE, _STITCH))
