"""Regions of whole machines: from the code of one physical page to LLVM text.

A region is a handler, like a stitched unit: registers come from the state and go back there, and
its code knows where it is only by the pc that it is entered with. What an access needs beyond the
TLB's answer is done by the interpreter, except filling the TLB.
"""

from __future__ import annotations

import marshal
from typing import TYPE_CHECKING

from hartwood.bits.effects import Properties
from hartwood.bits.ssa import Text, Val
from hartwood.bits.words import ILLEGAL_INSTRUCTION
from hartwood.isa.riscv import csr_machine, trap
from hartwood.isa.riscv.system import SYSTEM
from hartwood.jit.calling import is_stitched
from hartwood.jit.compile import compile_image
from hartwood.jit.facts import Facts
from hartwood.jit.flow import Block, Explorer, FlowError, Region
from hartwood.jit.lift import RegionHart, transfer_target
from hartwood.jit.softmmu import NearMemory, addend, is_called, page_of, probe, record_of, tail
from hartwood.jit.sysabi import FETCH, READ, WRITE, field, link
from hartwood.jit.sysfunctions import SystemWords, meaning
from hartwood.jit.system import function
from hartwood.mem.hostmem import PAGE
from hartwood.mem.regiontable import HARTS_AT

if TYPE_CHECKING:
    from collections.abc import Callable

    from hartwood.isa.insn import Decoded
    from hartwood.jit.image import Image

#: Where the page is, for what is said of its addresses; and guest instructions of one region.
WINDOW, LIMIT = 1 << 16, 200
#: Pages that a region keeps in mind.
PAGES = 8
#: No page: no address is near it in any mode of translation (Priv. 12.4.1), nor is memory there.
_NO_PAGE = 1 << 62
#: fflags, frm and fcsr (Unpriv. 21.2): theirs are the only CSR instructions of a region.
FLOAT_CSRS = csr_machine.FLOATING


class RegionMemory(NearMemory):
    """Accesses that hit, or do so when the TLB was filled; others leave for the interpreter.

    `page_of` gives a number to those that will mostly stay on one page, or None: the region keeps
    what it has found out about their page, in variables that `declare` makes. That is as good as
    the TLB: whoever takes a translation away waits until each hart has left its region
    (`Processor._forget_map`). But another hart may make code of a page at any time; so stores
    remember theirs only where there is none.
    """

    def __init__(
        self, text: Text, fail: Callable[[], str], page_of: Callable[[Val, int], int | None]
    ) -> None:
        super().__init__(text, fail)
        self._page_of = page_of

    def declare(self) -> None:
        """Variables for pages: the page's address and what to add to it."""
        for number in range(PAGES):
            self._text.emit(f"%page{number}.v = alloca i64")
            self._text.emit(f"%add{number}.v = alloca i64")
            self._text.emit(f"store i64 {_NO_PAGE}, ptr %page{number}.v")

    def _near(self, address: Val, size: int, tlb: int) -> str:
        """See `NearMemory._near`."""
        text = self._text
        # Now: what it converts for the exit's sake must not be in the block of a miss, since what
        # comes after the access uses it again.
        fail = self._fail()
        number = self._page_of(address, tlb)
        hit, miss, end = (text.fresh_label(hint) for hint in ("hit", "miss", "end"))
        ways = [] if number is None else [self._recall(number, address, size, end)]
        last = text.value(f"add i64 {address.name}, {size - 1}") if size > 1 else address.name
        where = probe(text, address.name, last, tlb, hit, miss, "%tlb")
        text.label(hit)
        add = addend(text, where)
        ways.append((text.value(f"add i64 {address.name}, {add}"), hit))
        if number is not None:
            self._remember(number, address, add, tlb)
        text.emit(f"br label %{end}")
        text.label(miss)
        name = "fill_read" if tlb == READ else "fill_write"
        fill = text.value(f"load ptr, ptr {text.value(link(name))}")
        arguments = f"ptr %s, i64 {address.name}, i64 {last}"
        far = text.value(f"call preserve_mostcc i64 {fill}({arguments})")
        ways.append((far, miss))
        text.emit(
            f"br i1 {text.value(f'icmp ne i64 {far}, 0')}, label %{end}, label %{fail}, !prof !0"
        )
        text.label(end)
        arms = ", ".join(f"[{value}, %{label}]" for value, label in ways)
        return text.value(f"inttoptr i64 {text.value(f'phi i64 {arms}')} to ptr")

    def _recall(self, number: int, address: Val, size: int, end: str) -> tuple[str, str]:
        """Where all of an access is on the page that is remembered go to `end` with the host
        address, which is given with its block; else go on here."""
        text = self._text
        same, look = text.fresh_label("same"), text.fresh_label("look")
        page = text.value(f"load i64, ptr %page{number}.v")
        inside = text.value(f"sub i64 {address.name}, {page}")
        inside = text.value(f"icmp ult i64 {inside}, {PAGE - size + 1}")
        text.emit(f"br i1 {inside}, label %{same}, label %{look}, !prof !0")
        text.label(same)
        add = text.value(f"load i64, ptr %add{number}.v")
        host = text.value(f"add i64 {address.name}, {add}")
        text.emit(f"br label %{end}")
        text.label(look)
        return host, same

    def _remember(self, number: int, address: Val, add: str, tlb: int) -> None:
        """What the TLB has said of the page."""
        text, page = self._text, page_of(self._text, address.name)
        if tlb == WRITE:
            table = text.value(f"load ptr, ptr {text.value(field('table'))}")
            second = text.value(f"getelementptr i8, ptr {table}, i64 {HARTS_AT + 8}")
            second = text.value(f"load ptr, ptr {second}")
            alone = text.value(f"icmp eq ptr {second}, null")
            page = text.value(f"select i1 {alone}, i64 {page}, i64 {_NO_PAGE}")
        text.emit(f"store i64 {page}, ptr %page{number}.v")
        text.emit(f"store i64 {add}, ptr %add{number}.v")


class SystemRegionHart(RegionHart, SystemWords):
    """`words.Hart` for one region of system mode."""

    pinned = ()
    refused = "once"

    def __init__(self, text: Text, region: Region, facts: Facts | None = None) -> None:
        super().__init__(text, SYSTEM, region, facts)
        self._near_memory = RegionMemory(text, self._exit_here, self._page_of)
        self.memory = self._near_memory
        self._floats = self._dirties = False
        #: Numbers of pages by TLB and guest register, or place of the access.
        self._pages: dict[tuple[int, str, int], int] = {}

    def _page_of(self, address: Val, tlb: int) -> int | None:
        """A number for what a tight loop accesses: it will come there again, and mostly find the
        same page. What goes by one register shares one."""
        assert self._step is not None
        if self._block.start not in self.region.tight:
            return None
        register = self._begins.get(address.root or address.name)
        place = ("place", self._step.pc) if register is None else ("register", register)
        key = tlb, *place
        if key not in self._pages and len(self._pages) < PAGES:
            self._pages[key] = len(self._pages)
        return self._pages.get(key)

    @property
    def pc(self) -> Val:
        """Address of this instruction."""
        assert self._step is not None
        return self._address(self._step.pc)

    @property
    def next_pc(self) -> Val:
        """Address of the next instruction in memory."""
        assert self._step is not None
        return self._address(self._step.pc + self._step.decoded.length)

    def _address(self, pc: int) -> Val:
        return Val(self.text, 64, self.text.value(f"add i64 %delta, {pc}"))

    # Control.
    def _out(self, pc: int, *, interpreted: bool = False) -> list[str]:
        at = self.text.fresh()
        lines = [f"{at} = add i64 %delta, {pc}", f"store i64 {at}, ptr %pc.v"]
        return [*lines, f"br label %{'once' if interpreted else 'leave'}"]

    @property
    def inside(self) -> dict[str, list[tuple[int, int]]]:
        """Nothing: what is beside an address that was accessed may be on another page."""
        return {}

    def _may_go_round(self, lines: list[str]) -> list[str]:
        """Besides the budget: interrupts and requests."""
        where, word, quiet = (self.text.fresh() for _ in range(3))
        lines += [
            f"{where} = {field('attention')}",
            f"{word} = load volatile i32, ptr {where}",
            f"{quiet} = icmp eq i32 {word}, 0",
        ]
        return [*super()._may_go_round(lines), quiet]

    def _tail(self, goal: str) -> str:
        """Label of a block that goes on elsewhere."""
        label = self.text.fresh_label("tail")
        self.cold.append((label, ["TAIL", goal, "leave", *self._pay(), *self._state_lines()]))
        return label

    def emit_tail(self, goal: str, wild: str, lines: list[str]) -> None:
        """The body of such a block: through the record of a place on this page, else through the
        TLB of fetches; to `wild` where something else is to be done or nothing is translated."""
        text = self.text
        for line in lines:
            text.emit(line)
        known = not goal.startswith("%")
        pc = self._address(int(goal)).name if known else goal
        text.emit(f"store i64 {pc}, ptr %pc.v")
        budget = text.value("load i64, ptr %budget.v")
        go, made = text.fresh_label("go"), text.fresh_label("made")
        text.emit(f"br i1 {is_called(text, budget)}, label %{wild}, label %{go}, !prof !1")
        text.label(go)
        if known and WINDOW <= int(goal) < WINDOW + PAGE:
            record = text.value(f"add i64 %first, {8 * (int(goal) - WINDOW)}")
            record = text.value(f"inttoptr i64 {record} to ptr")
        else:
            hit = text.fresh_label("hit")
            where = probe(text, pc, pc, FETCH, hit, wild)
            text.label(hit)
            record = record_of(text, pc, where)
        handler = text.value(f"load ptr, ptr {record}")
        stitched = is_stitched(text, handler, f"load i64, ptr {text.value(field('area'))}")
        text.emit(f"br i1 {stitched}, label %{made}, label %{wild}, !prof !0")
        text.label(made)
        self._count(budget)
        tail(text, handler, pc, record, budget)

    def _call(self, goal: str) -> None:
        """What is called comes back by way of an entry."""
        self.text.emit(f"br label %{self._tail(goal)}")

    def jump(self, target: Val | int) -> None:
        """A return that goes on after a call of this region stays here."""
        text = self.text
        # In a register even where it is known: as a number it would be one of the window's.
        name = text.value(f"add i64 {self.const(target, 64).name}, 0")
        if self._block.kind != "return":
            super().jump(Val(text, 64, name))
            return
        self._flush()
        for back in self.region.returns:
            same = text.value(f"icmp eq i64 {name}, {self._address(back).name}")
            other = text.fresh_label("other")
            text.emit(f"br i1 {same}, label %{self._go(back)}, label %{other}")
            text.label(other)
        text.emit(f"br label %{self._tail(name)}")
        self._ended = True

    def block(self, block: Block) -> None:
        """See `RegionHart.block`."""
        self._floats = self._dirties = False
        super().block(block)

    def execute(self, properties: Properties, decoded: Decoded) -> None:
        """Floating-point instructions need mstatus.FS, and make it dirty (Priv. 3.1.6.6); nothing
        else in a region changes it."""
        p = properties
        if p.floating and not self._floats:
            self._floats = True
            self.trap_if(meaning(trap.floating_off, self), ILLEGAL_INSTRUCTION)
        super().execute(p, decoded)
        if p.rounding or p.f64_writes or p.f32_writes:
            self._dirty_floats()

    def csr_update(self, number: Val | int, op: str, value: Val | int, source: Val | int) -> Val:
        """The definition says what it needs and makes dirty, except where flags that were not
        touched are put back."""
        if self._quiet is not None:
            self._dirty_floats()
        return super().csr_update(number, op, value, source)

    def _dirty_floats(self) -> None:
        if not self._dirties:
            self._dirties = True
            meaning(trap.floating_dirty, self)

    # The region.
    def _count(self, budget: str) -> None:
        """Note what ran here: `budget` is what is left."""
        text = self.text
        where = text.value(field("translated"))
        total = text.value(f"load i64, ptr {where}")
        used = text.value(f"sub i64 %budget, {budget}")
        text.emit(f"store i64 {text.value(f'add i64 {total}, {used}')}, ptr {where}")

    def prologue(self) -> None:
        """Variables, and where control goes from here."""
        text = self.text
        text.emit("%pc.v = alloca i64")
        text.emit("%budget.v = alloca i64")
        text.emit("store i64 %budget, ptr %budget.v")
        text.emit("store i64 %pc, ptr %pc.v")
        text.emit(f"%tlb.at = {field('tlb')}")
        text.emit("%tlb = load ptr, ptr %tlb.at")
        text.emit(f"%begin = and i64 %pc, {-PAGE}")
        text.emit(f"%delta = sub i64 %begin, {WINDOW}")
        self.declare()
        self._near_memory.declare()
        inside = text.value(f"and i64 %pc, {PAGE - 1}")
        text.emit("%record = ptrtoint ptr %rec to i64")
        text.emit(f"%first = sub i64 %record, {text.value(f'shl i64 {inside}, 3')}")
        self._dispatch(inside, {entry: entry % PAGE for entry in self.region.entries})

    def epilogue(self) -> None:
        """The cold blocks, and the ways out: to another place, or to the interpreter."""
        text = self.text
        self.emit_cold()
        for label, handler in (("leave", "leap"), ("once", "unit_once")):
            text.label(label)
            budget = text.value("load i64, ptr %budget.v")
            self._count(budget)
            callee = text.value(f"load ptr, ptr {text.value(link(handler))}")
            tail(text, callee, text.value("load i64, ptr %pc.v"), "poison", budget)


def _facts(region: Region) -> Facts | None:
    """What is known across blocks, where small loops round: lifting twice is nothing to that."""
    small = (region.blocks[start] for start in region.tight)
    if not any(step.properties.rounding for block in small for step in block.steps):
        return None
    scout = SystemRegionHart(Text(), region)
    for block in region.blocks.values():
        scout.block(block)
    return Facts(SYSTEM, region, scout.outlines)


def _region_text(region: Region) -> str:
    text = Text()
    hart = SystemRegionHart(text, region, _facts(region))
    hart.prologue()
    for block in region.blocks.values():
        hart.block(block)
    hart.epilogue()
    return function("region", text)


def stops(decoded: Decoded, p: Properties) -> bool:
    """Whether an instruction is the interpreter's: it may change what the region relies on."""
    if decoded.fields.get("csr") in FLOAT_CSRS:
        return False
    return bool(p.fence_i or p.csr or p.counters or p.context or p.control == "trap")


def region_image(page: bytes, entries: list[int]) -> Image | None:
    """Translate what begins at the offsets `entries` of a page. The image's meta is marshalled: the
    offsets where control may enter, and the ranges of the page that it depends on."""

    def fetch(pc: int) -> int | None:
        at = pc - WINDOW
        if not 0 <= at < PAGE:
            return None
        word = int.from_bytes(page[at : at + 4], "little")
        return word if at + (4 if word & 3 == 3 else 2) <= PAGE else None

    def target(decoded: Decoded, pc: int) -> int | None:
        return transfer_target(SYSTEM, decoded, pc)

    explorer = Explorer(SYSTEM, fetch, target, LIMIT, stops=stops, returns=True)
    wanted = [WINDOW + at for at in entries if explorer.step(WINDOW + at)]
    if not wanted:
        return None
    try:
        region = explorer.region(*wanted, eager=True, pinned=0)
    except FlowError:
        return None
    places = [entry - WINDOW for entry in region.entries]
    ranges = [(start - WINDOW, end - WINDOW) for start, end in region.ranges]
    return compile_image([_region_text(region)], 2, marshal.dumps((places, ranges)))
