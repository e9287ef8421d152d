"""The software TLB in LLVM text: the only place where code of a whole machine touches memory.

An entry holds a page's virtual address and what to add to reach the host's memory. One compare
with the address of an access's last byte, in the entry of its first, tests page, validity,
permission and crossing. What misses calls the functions of `walker`.
"""

from __future__ import annotations

from collections.abc import Callable

from hartwood.bits.ssa import Text, Val
from hartwood.jit import abi, sysabi
from hartwood.jit.sysabi import FETCH, READ, TLB_ENTRIES, WRITE, field

#: LLVM's names for the operations of `Hart.amo`.
_RMW = {"swap": "xchg", "minu": "umin", "maxu": "umax"}
TLB_BYTES = TLB_ENTRIES * 16


def entry(text: Text, address: str, tlb: int, base: str = "") -> str:
    """Pointer to the entry for a virtual address; `tlb` is READ, WRITE or FETCH, `base` where the
    TLBs of the context are, if that is known."""
    which = field("tlb_fetch" if tlb == FETCH else "tlb")
    base = base or text.value(f"load ptr, ptr {text.value(which)}")
    index = text.value(f"lshr i64 {address}, 8")
    index = text.value(f"and i64 {index}, {(TLB_ENTRIES - 1) << 4}")
    where = text.value(f"getelementptr i8, ptr {base}, i64 {index}")
    return text.value(f"getelementptr i8, ptr {where}, i64 {tlb * TLB_BYTES}")


def page_of(text: Text, address: str) -> str:
    """The address of the page of an address."""
    return text.value(f"and i64 {address}, -4096")


def probe(
    text: Text, address: str, last: str, tlb: int, hit: str, miss: str, base: str = ""
) -> str:
    """Go to `hit` or `miss`; gives the pointer to the entry that hit."""
    where = entry(text, address, tlb, base)
    tag = text.value(f"load i64, ptr {where}")
    same = text.value(f"icmp eq i64 {tag}, {page_of(text, last)}")
    text.emit(f"br i1 {same}, label %{hit}, label %{miss}, !prof !0")
    return where


def addend(text: Text, where: str) -> str:
    """What the entry at `where` says to add."""
    return text.value(f"load i64, ptr {text.value(f'getelementptr i8, ptr {where}, i64 8')}")


def record_of(text: Text, pc: str, where: str) -> str:
    """Pointer to the record of a virtual address, from the entry of fetches that hit."""
    eight = text.value(f"shl i64 {pc}, 3")
    record = text.value(f"add i64 {eight}, {addend(text, where)}")
    return text.value(f"inttoptr i64 {record} to ptr")


class SoftMemory:
    """Guest memory behind a TLB. `fail` gives the label of the block that takes the exception
    that a slow path has put into the state."""

    def __init__(self, text: Text, fail: Callable[[], str]) -> None:
        self._text = text
        self._fail = fail

    def new_block(self) -> None:
        """Nothing is remembered between accesses."""

    def _probe(self, address: Val, size: int, tlb: int) -> tuple[str, str, str]:
        """The block of a hit begins; gives the host pointer and the labels of miss and end."""
        text = self._text
        hit, miss, end = (text.fresh_label(hint) for hint in ("hit", "miss", "end"))
        last = text.value(f"add i64 {address.name}, {size - 1}") if size > 1 else address.name
        where = probe(text, address.name, last, tlb, hit, miss)
        text.label(hit)
        host = text.value(f"add i64 {address.name}, {addend(text, where)}")
        return text.value(f"inttoptr i64 {host} to ptr"), miss, end

    def _check(self, ok: str) -> None:
        text, good = self._text, self._text.fresh_label("good")
        text.emit(f"br i1 {ok}, label %{good}, label %{self._fail()}, !prof !0")
        text.label(good)

    def load(self, address: Val, size: int) -> Val:
        """`size` bytes, as 8*size bits."""
        text, kind = self._text, f"i{8 * size}"
        pointer, miss, end = self._probe(address, size, READ)
        near = text.value(f"load volatile {kind}, ptr {pointer}, align 1")
        hit = text.block
        text.emit(f"br label %{end}")
        text.label(miss)
        arguments = f"ptr %s, i64 {address.name}, i64 {size}, i64 %budget"
        both = text.value(f"call {{i64, i1}} @load_slow({arguments})")
        self._check(text.value(f"extractvalue {{i64, i1}} {both}, 1"))
        far = text.value(f"extractvalue {{i64, i1}} {both}, 0")
        if size < 8:
            far = text.value(f"trunc i64 {far} to {kind}")
        slow = text.block
        text.emit(f"br label %{end}")
        text.label(end)
        phi = text.value(f"phi {kind} [{near}, %{hit}], [{far}, %{slow}]")
        return Val(text, 8 * size, phi)

    def store(self, address: Val, value: Val) -> None:
        """Store all bits of `value`."""
        text, size, name = self._text, value.width // 8, value.name
        pointer, miss, end = self._probe(address, size, WRITE)
        text.emit(f"store volatile i{value.width} {name}, ptr {pointer}, align 1")
        text.emit(f"br label %{end}")
        text.label(miss)
        wide = name if size == 8 else text.value(f"zext i{value.width} {name} to i64")
        arguments = f"ptr %s, i64 {address.name}, i64 {size}, i64 %budget, i64 {wide}, ptr %rec"
        self._check(text.value(f"call i1 @store_slow({arguments})"))
        text.emit(f"br label %{end}")
        text.label(end)

    def _writable(self, address: Val, size: int) -> str:
        """A host pointer for an aligned access that also writes."""
        text = self._text
        near, miss, end = self._probe(address, size, WRITE)
        hit = text.block
        text.emit(f"br label %{end}")
        text.label(miss)
        arguments = f"ptr %s, i64 {address.name}, i64 {size}, ptr %rec"
        far = text.value(f"call ptr @atomic_slow({arguments})")
        self._check(text.value(f"icmp ne ptr {far}, null"))
        slow = text.block
        text.emit(f"br label %{end}")
        text.label(end)
        return text.value(f"phi ptr [{near}, %{hit}], [{far}, %{slow}]")

    def amo(self, op: str, address: Val, value: Val) -> Val:
        """Atomic read-modify-write, sequentially consistent."""
        text, size = self._text, value.width // 8
        name, kind = value.name, f"i{value.width}"
        pointer = self._writable(address, size)
        line = f"atomicrmw {_RMW.get(op, op)} ptr {pointer}, {kind} {name} seq_cst, align {size}"
        return Val(text, value.width, text.value(line))

    def compare_exchange(self, address: Val, expected: Val, value: Val) -> Val:
        """Store `value` if memory holds `expected`, atomically; one bit tells."""
        text, kind = self._text, f"i{value.width}"
        old, new = expected.name, value.name
        pointer = self._writable(address, value.width // 8)
        line = f"cmpxchg ptr {pointer}, {kind} {old}, {kind} {new} seq_cst seq_cst"
        pair = text.value(f"{line}, align {value.width // 8}")
        return Val(text, 1, text.value(f"extractvalue {{{kind}, i1}} {pair}, 1"))


class NearMemory(SoftMemory):
    """Accesses that the code goes on without where they miss."""

    def _near(self, address: Val, size: int, tlb: int) -> str:
        """The host pointer; where there is none control has gone elsewhere."""
        raise NotImplementedError

    def load(self, address: Val, size: int) -> Val:
        """See `SoftMemory.load`."""
        pointer = self._near(address, size, READ)
        line = f"load volatile i{8 * size}, ptr {pointer}, align 1"
        return Val(self._text, 8 * size, self._text.value(line))

    def store(self, address: Val, value: Val) -> None:
        """See `SoftMemory.store`."""
        name = value.name
        pointer = self._near(address, value.width // 8, WRITE)
        self._text.emit(f"store volatile i{value.width} {name}, ptr {pointer}, align 1")

    def _writable(self, address: Val, size: int) -> str:
        return self._near(address, size, WRITE)


def is_called(text: Text, budget: str) -> str:
    """Whether a transfer has to look first: at interrupts, requests, what is left to run. An i1."""
    attention = text.value(f"load volatile i32, ptr {text.value(field('attention'))}")
    called = text.value(f"icmp ne i32 {attention}, 0")
    spent = text.value(f"icmp sle i64 {budget}, 0")
    return text.value(f"or i1 {called}, {spent}")


def look(text: Text, pc: str, budget: str) -> None:
    """Before control goes to `pc`: look whether anything else is to be done."""
    over, go = text.fresh_label("over"), text.fresh_label("go")
    text.emit(f"br i1 {is_called(text, budget)}, label %{over}, label %{go}, !prof !1")
    text.label(over)
    tail(text, "@over", pc, "null", budget)
    text.label(go)


def transfer(text: Text, target: str, budget: str, *, near: bool = False) -> None:
    """Continue at a virtual address: look whether anything else is to be done, then find the
    record through the TLB of fetches or, with `near`, beside `%rec` where it is on the same page.
    """
    hit, miss = text.fresh_label("hit"), text.fresh_label("miss")
    look(text, target, budget)
    if near:
        same, far = text.fresh_label("same"), text.fresh_label("far")
        differ = text.value(f"xor i64 {target}, %pc")
        close = text.value(f"icmp ult i64 {differ}, 4096")
        text.emit(f"br i1 {close}, label %{same}, label %{far}, !prof !0")
        text.label(same)
        distance = text.value(f"shl i64 {text.value(f'sub i64 {target}, %pc')}, 3")
        counted(text, target, text.value(f"getelementptr i8, ptr %rec, i64 {distance}"), budget)
        text.label(far)
    arrive(text, target, budget, hit, miss)


def arrive(text: Text, target: str, budget: str, hit: str, miss: str) -> None:
    """The same without the look."""
    counted(text, target, found(text, target, budget, hit, miss), budget)


def found(text: Text, target: str, budget: str, hit: str, miss: str) -> str:
    """The record of a virtual address, in the block `hit`; a miss is dealt with elsewhere."""
    where = probe(text, target, target, FETCH, hit, miss)
    text.label(miss)
    tail(text, "@fetch_miss", target, "null", budget)
    text.label(hit)
    return record_of(text, target, where)


def counted(text: Text, pc: str, record: str, budget: str) -> None:
    """Continue at a record; if that happened often enough, by way of `@hot`."""
    hot, cool = text.fresh_label("hot"), text.fresh_label("cool")
    where = text.value(f"ptrtoint ptr {record} to i64")
    index = text.value(f"and i64 {text.value(f'lshr i64 {where}, 4')}, {abi.HOT_SLOTS - 1}")
    counter = text.value(f"getelementptr i32, ptr {text.value(field('hot'))}, i64 {index}")
    left = text.value(f"add i32 {text.value(f'load i32, ptr {counter}')}, -1")
    text.emit(f"store i32 {left}, ptr {counter}")
    spent = text.value(f"icmp eq i32 {left}, 0")
    text.emit(f"br i1 {spent}, label %{hot}, label %{cool}, !prof !1")
    text.label(hot)
    tail(text, "@hot", pc, record, budget)
    text.label(cool)
    tail(text, text.value(f"load ptr, ptr {record}"), pc, record, budget)


def tail(text: Text, callee: str, pc: str, record: str, budget: str) -> None:
    """Continue in another handler."""
    arguments = f"ptr %s, i64 {pc}, ptr {record}, i64 {budget}"
    text.emit(f"musttail call preserve_nonecc void {callee}({arguments})")
    text.emit("ret void")


assert sysabi.TLB_ENTRIES & (TLB_ENTRIES - 1) == 0
