"""The interpreter of whole machines: the generator of `interp` over `isa.riscv.system`, with a
software TLB, native traps and a frame of its own.

Its banks are images of their own, "system-base" and so on; those other than the base reach what
they share through pointers in the state.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import TYPE_CHECKING

from hartwood.bits.ssa import Text, Val, constant
from hartwood.bits.words import ILLEGAL_INSTRUCTION
from hartwood.isa.insn import Insn
from hartwood.isa.riscv import csr_machine, csr_supervisor, pmp, trap
from hartwood.isa.riscv.system import MACHINE, SYSTEM, csr_allowed
from hartwood.jit import abi, host_x86, sysabi
from hartwood.jit.calling import HANDLER_CC, HANDLER_PARAMETERS
from hartwood.jit.compile import compile_image
from hartwood.jit.decoder import decoder_text
from hartwood.jit.interp import BANKS, HandlerHart, banks, numbering
from hartwood.jit.record import slots
from hartwood.jit.softmmu import SoftMemory, arrive, tail, transfer
from hartwood.jit.sysabi import CHUNK, field
from hartwood.jit.sysfunctions import SystemWords, functions, meaning
from hartwood.jit.words import NO_RESERVATION

if TYPE_CHECKING:
    from hartwood.jit.image import Image

#: Modules that register what `SYSTEM` holds.
DEFINITIONS = (csr_machine, csr_supervisor, pmp)
PREFIX = "system-"
#: In `attention`: only that the instruction before ran from a record of its own.
APART = 2

#: What banks share, in order of their places in the state: results and parameters of functions,
#: or nothing for handlers.
LINKS: dict[str, tuple[str, str] | None] = {
    "exception": None,
    "over": None,
    "fetch_miss": None,
    "leave": None,
    "reference": None,
    "wait": None,
    "load_slow": ("{i64, i1}", "ptr %s, i64 %va, i64 %size, i64 %budget"),
    "store_slow": ("i1", "ptr %s, i64 %va, i64 %size, i64 %budget, i64 %value, ptr %rec"),
    "atomic_slow": ("ptr", "ptr %s, i64 %va, i64 %size, ptr %rec"),
    "zero_slow": ("i1", "ptr %s, i64 %va, ptr %rec"),
    "settle": ("void", "ptr %s"),
    "flush": ("void", "ptr %s, i64 %va, i1 %every"),
}


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


def _handler_text(insn: Insn, variant: tuple[int, ...], name: str) -> str:
    text = Text()
    hart = SystemHart(text)
    operands: dict[str, Val | int] = dict(zip(insn.variants, variant, strict=True))
    p = SYSTEM.properties(insn, {k: v for k, v in operands.items() if isinstance(v, int)})
    hart.begin(p.floating, p.rounding or bool(p.f64_writes | p.f32_writes))
    for operand, slot in slots(SYSTEM, insn).items():
        operands[operand] = hart.operand(slot)
    insn.body(hart, **operands)
    hart.finish()
    return _function(name, text)


def _function(name: str, text: Text) -> str:
    return (
        f"define {HANDLER_CC} void @{name}({HANDLER_PARAMETERS}) #0 {{\nentry:\n{text.body()}\n}}"
    )


def _bank_text(bank: str) -> Iterator[str]:
    where = banks(SYSTEM)
    for (name, variant), number in numbering(SYSTEM).items():
        if where[name, variant] == bank:
            yield _handler_text(SYSTEM[name], variant, f"h_{number}")


# The frame: handlers that every bank reaches, and how Python comes in.
def _state_store(text: Text, name: str, value: str, kind: str = "i64") -> None:
    text.emit(f"store {kind} {value}, ptr {text.value(field(name))}")


def _state_load(text: Text, name: str, kind: str = "i64") -> str:
    return text.value(f"load {kind}, ptr {text.value(field(name))}")


def _away(text: Text, reason: int) -> None:
    """Return to Python."""
    _state_store(text, "reason", str(reason))
    tail(text, "@leave", "%pc", "%rec", "%budget")


def _leave() -> str:
    text = Text()
    _state_store(text, "pc", "%pc")
    _state_store(text, "budget", "%budget")
    text.emit("ret void")
    return _function("leave", text)


def _simple(name: str, reason: int) -> str:
    text = Text()
    _away(text, reason)
    return _function(name, text)


def _cross() -> str:
    """The record after a page's last: the next instruction is on another page."""
    text = Text()
    transfer(text, "%pc", "%budget")
    return _function("cross", text)


def _fetch_miss() -> str:
    text = Text()
    rec = text.value("call ptr @reach(ptr %s, i64 %pc, i64 0)")
    bad = text.value(f"icmp eq ptr {rec}, null")
    text.emit(f"br i1 {bad}, label %fault, label %go, !prof !1")
    text.label("fault")
    tail(text, "@exception", "%pc", rec, "%budget")
    text.label("go")
    tail(text, text.value(f"load ptr, ptr {rec}"), "%pc", rec, "%budget")
    return _function("fetch_miss", text)


def _word(text: Text, record: str) -> tuple[str, str]:
    """The instruction word at `%pc`, whose record is `record`, as i32; and one bit: it straddles
    two pages. Where its second half cannot be fetched that is the exception."""
    host = text.value(f"call ptr @bytes_of(ptr %s, ptr {record})")
    low16 = text.value(f"load i16, ptr {host}, align 2")
    low = text.value(f"zext i16 {low16} to i32")
    is_long = text.value(f"icmp eq i32 {text.value(f'and i32 {low}, 3')}, 3")
    last = text.value("and i64 %pc, 4095")
    at_end = text.value(f"icmp eq i64 {last}, 4094")
    straddles = text.value(f"and i1 {is_long}, {at_end}")
    text.emit(f"br i1 {is_long}, label %long, label %short")
    text.label("short")
    text.emit("br label %ready")
    text.label("long")
    text.emit(f"br i1 {at_end}, label %other, label %same")
    text.label("same")
    near = text.value(f"getelementptr i8, ptr {host}, i64 2")
    text.emit("br label %second")
    text.label("other")
    there = text.value("add i64 %pc, 2")
    rec2 = text.value(f"call ptr @reach(ptr %s, i64 {there}, i64 0)")
    bad = text.value(f"icmp eq ptr {rec2}, null")
    text.emit(f"br i1 {bad}, label %fault, label %there, !prof !1")
    text.label("fault")
    tail(text, "@exception", "%pc", record, "%budget")
    text.label("there")
    far = text.value(f"call ptr @bytes_of(ptr %s, ptr {rec2})")
    text.emit("br label %second")
    text.label("second")
    where = text.value(f"phi ptr [{near}, %same], [{far}, %there]")
    high16 = text.value(f"load i16, ptr {where}, align 2")
    high = text.value(f"shl i32 {text.value(f'zext i16 {high16} to i32')}, 16")
    whole = text.value(f"or i32 {low}, {high}")
    text.emit("br label %ready")
    text.label("ready")
    word = text.value(f"phi i32 [{low}, %short], [{whole}, %second]")
    return word, straddles


def _decode_to(text: Text, word: str, record: str, *, locked: bool = False) -> str:
    """Decode into `record`; gives the handler. Its bank may be missing: then unlock and leave."""
    number = text.value(f"call i32 @decode_word(i32 {word}, ptr {record})")
    table = text.value(f"load ptr, ptr {text.value(field('handlers'))}")
    index = text.value(f"zext i32 {number} to i64")
    slot = text.value(f"getelementptr ptr, ptr {table}, i64 {index}")
    handler = text.value(f"load ptr, ptr {slot}")
    missing = text.value(f"icmp eq ptr {handler}, null")
    bank, known = text.fresh_label("bank"), text.fresh_label("known")
    text.emit(f"br i1 {missing}, label %{bank}, label %{known}, !prof !1")
    text.label(bank)
    _state_store(text, "tval", index)
    if locked:
        text.emit("call void @unlock(ptr %s)")
    _away(text, abi.BANK)
    text.label(known)
    return handler


def _apart(text: Text, word: str, after: str) -> None:
    """Run an instruction from the record of its own in the state, then the handler `after`. Its
    transfers must not look for records beside that one, so they are made to look around."""
    rec = text.value(field("step_record"))
    attention = text.value(field("attention"))
    text.value(f"atomicrmw or ptr {attention}, i32 {APART} seq_cst")
    handler = _decode_to(text, word, rec)
    wide = text.value(f"zext i32 {word} to i64")
    _state_store(text, "step_word", wide)
    for skip in (abi.RECORD, 2 * abi.RECORD):
        text.emit(f"store ptr @{after}, ptr {text.value(field('step_record', skip))}")
    tail(text, handler, "%pc", rec, "%budget")


def _decode() -> str:
    """The handler of a record that nobody filled in yet. What straddles two pages depends on
    the mapping of the second and is decoded each time."""
    text = Text()
    word, straddles = _word(text, "%rec")
    text.emit(f"br i1 {straddles}, label %apart, label %within, !prof !1")
    text.label("apart")
    _apart(text, word, "cross")
    text.label("within")
    # Locked, so that the record is of the word in memory now, or the one that writes it waits.
    text.emit("call void @lock(ptr %s)")
    host = text.value("call ptr @bytes_of(ptr %s, ptr %rec)")
    low16 = text.value(f"load volatile i16, ptr {host}, align 2")
    low = text.value(f"zext i16 {low16} to i32")
    short = text.value(f"icmp ne i32 {text.value(f'and i32 {low}, 3')}, 3")
    near = text.value(f"getelementptr i8, ptr {host}, i64 2")
    # Where it is short the half after it is not looked at, but has to be there.
    where = text.value(f"select i1 {short}, ptr {host}, ptr {near}")
    high16 = text.value(f"load volatile i16, ptr {where}, align 2")
    high = text.value(f"shl i32 {text.value(f'zext i16 {high16} to i32')}, 16")
    word = text.value(f"or i32 {low}, {high}")
    handler = _decode_to(text, word, "%rec", locked=True)
    # Release: a hart that sees this handler sees its operands.
    text.emit(f"store atomic ptr {handler}, ptr %rec release, align 8")
    text.emit("call void @unlock(ptr %s)")
    tail(text, handler, "%pc", "%rec", "%budget")
    return _function("decode", text)


def _once() -> str:
    """One instruction, or an interrupt that comes before it."""
    text = Text()
    text.emit("call void @flush(ptr %s, i64 0, i1 true)")
    posted = text.value(f"atomicrmw xchg ptr {text.value(field('posted'))}, i32 0 seq_cst")
    posted = text.value(f"zext i32 {posted} to i64")
    _state_store(text, "mip", text.value(f"or i64 {_state_load(text, 'mip')}, {posted}"))
    text.emit(f"store atomic i32 0, ptr {text.value(field('flush_asked'))} seq_cst, align 4")
    cause = text.value("call i64 @poll(ptr %s, i64 %budget)")
    due = text.value(f"icmp ne i64 {cause}, 0")
    text.emit(f"br i1 {due}, label %due, label %go")
    text.label("due")
    # Nothing retires.
    _state_store(text, "goal", text.value(f"add i64 {_state_load(text, 'goal')}, -1"))
    _state_store(text, "cause", cause)
    _state_store(text, "tval", "0")
    tail(text, "@interrupted", "%pc", "null", "0")
    text.label("go")
    rec = text.value("call ptr @reach(ptr %s, i64 %pc, i64 0)")
    bad = text.value(f"icmp eq ptr {rec}, null")
    text.emit(f"br i1 {bad}, label %nowhere, label %fetch, !prof !1")
    text.label("nowhere")
    tail(text, "@exception", "%pc", "null", "%budget")
    text.label("fetch")
    word, _ = _word(text, rec)
    _apart(text, word, "stepped")
    return _function("once", text)


def _over() -> str:
    """A transfer that has to look first: at interrupts, requests to stop, what is left to run."""
    text = Text()
    called = text.value(f"atomicrmw xchg ptr {text.value(field('attention'))}, i32 0 seq_cst")
    apart = text.value(f"icmp eq i32 {called}, {APART}")
    enough = text.value("icmp sgt i64 %budget, 0")
    nothing = text.value(f"and i1 {apart}, {enough}")
    text.emit(f"br i1 {nothing}, label %nothing, label %something")
    text.label("nothing")
    arrive(text, "%pc", "%budget", "hit0", "miss0")
    text.label("something")
    posted = text.value(f"atomicrmw xchg ptr {text.value(field('posted'))}, i32 0 seq_cst")
    posted = text.value(f"zext i32 {posted} to i64")
    _state_store(text, "mip", text.value(f"or i64 {_state_load(text, 'mip')}, {posted}"))
    asked = text.value(f"load volatile i32, ptr {text.value(field('flush_asked'))}")
    flush = text.value(f"icmp ne i32 {asked}, 0")
    text.emit(f"br i1 {flush}, label %flush, label %look, !prof !1")
    text.label("flush")
    text.emit("call void @flush(ptr %s, i64 0, i1 true)")
    # Only now: whoever asked waits for it.
    text.emit(f"store atomic i32 0, ptr {text.value(field('flush_asked'))} seq_cst, align 4")
    text.emit("br label %look")
    text.label("look")
    cause = text.value("call i64 @poll(ptr %s, i64 %budget)")
    due = text.value(f"icmp ne i64 {cause}, 0")
    text.emit(f"br i1 {due}, label %due, label %quiet, !prof !1")
    text.label("due")
    _state_store(text, "cause", cause)
    _state_store(text, "tval", "0")
    tail(text, "@interrupted", "%pc", "null", "%budget")
    text.label("quiet")
    stop = text.value(f"load volatile i32, ptr {text.value(field('stop'))}")
    stopped = text.value(f"icmp ne i32 {stop}, 0")
    text.emit(f"br i1 {stopped}, label %away, label %on, !prof !1")
    text.label("on")
    spent = text.value("icmp sle i64 %budget, 0")
    text.emit(f"br i1 {spent}, label %refill, label %go")
    text.label("go")
    arrive(text, "%pc", "%budget", "hit1", "miss1")
    text.label("refill")
    left = _state_load(text, "left")
    none = text.value(f"icmp eq i64 {left}, 0")
    text.emit(f"br i1 {none}, label %away, label %more, !prof !1")
    text.label("more")
    small = text.value(f"icmp ult i64 {left}, {CHUNK}")
    chunk = text.value(f"select i1 {small}, i64 {left}, i64 {CHUNK}")
    _state_store(text, "left", text.value(f"sub i64 {left}, {chunk}"))
    goal = text.value(f"add i64 {_state_load(text, 'goal')}, {chunk}")
    _state_store(text, "goal", goal)
    arrive(text, "%pc", text.value(f"add i64 %budget, {chunk}"), "hit2", "miss2")
    text.label("away")
    _away(text, abi.SLICE)
    return _function("over", text)


def _take(name: str, *, counted: bool) -> str:
    """Enter the trap handler with the cause and value in the state. An instruction that raises an
    exception does not retire, but takes its time all the same, or a hart could spin for ever."""
    text = Text()
    hart = SystemHart(text)
    cause = Val(text, 64, _state_load(text, "cause"))
    tval = Val(text, 64, _state_load(text, "tval"))
    budget = "%budget"
    if counted:
        budget = text.value("add i64 %budget, -1")
        goal = text.value(f"add i64 {_state_load(text, 'goal')}, -1")
        _state_store(text, "goal", goal)
    _state_store(text, "reserved_address", str(NO_RESERVATION), "i64")
    hart._next = ("%pc", "%rec", budget)
    meaning(trap.take, hart, cause, tval)
    hart.finish()
    return _function(name, text)


def _exception() -> str:
    """An exception at `%pc`: a supervisor's call may be for Python, an illegal instruction shows
    its word in tval, and a hart whose machine-mode handler cannot be fetched is locked up."""
    text = Text()
    cause, calls = _state_load(text, "cause"), _state_load(text, "supervisor_calls")
    nine = text.value(f"icmp eq i64 {cause}, 9")
    wanted = text.value(f"icmp ne i64 {calls}, 0")
    both = text.value(f"and i1 {nine}, {wanted}")
    text.emit(f"br i1 {both}, label %python, label %native, !prof !1")
    text.label("python")
    _away(text, abi.TRAP)
    text.label("native")
    text.emit(f"switch i64 {cause}, label %take [i64 2, label %illegal i64 1, label %fetch]")
    text.label("illegal")
    word = text.value("call i64 @word_of(ptr %s, ptr %rec)")
    _state_store(text, "tval", word)
    text.emit("br label %take")
    text.label("fetch")
    mode, vector = _state_load(text, "mode"), _state_load(text, "mtvec")
    in_m = text.value(f"icmp eq i64 {mode}, {MACHINE}")
    handler = text.value(f"and i64 {vector}, -4")
    again = text.value(f"icmp eq i64 {handler}, %pc")
    locked = text.value(f"and i1 {in_m}, {again}")
    text.emit(f"br i1 {locked}, label %lockup, label %take")
    text.label("lockup")
    _away(text, sysabi.LOCKUP)
    text.label("take")
    tail(text, "@excepted", "%pc", "%rec", "%budget")
    return _function("exception", text)


def _word_of() -> str:
    """i64 @word_of(s, rec): the instruction word of a record that was decoded."""
    text = Text()
    own = text.value(field("step_record"))
    apart = text.value(f"icmp eq ptr %rec, {own}")
    text.emit(f"br i1 {apart}, label %kept, label %memory")
    text.label("kept")
    text.emit(f"ret i64 {_state_load(text, 'step_word')}")
    text.label("memory")
    host = text.value("call ptr @bytes_of(ptr %s, ptr %rec)")
    low = text.value(f"zext i16 {text.value(f'load i16, ptr {host}, align 2')} to i64")
    is_long = text.value(f"icmp eq i64 {text.value(f'and i64 {low}, 3')}, 3")
    text.emit(f"br i1 {is_long}, label %long, label %short")
    text.label("short")
    text.emit(f"ret i64 {low}")
    text.label("long")
    more = text.value(f"getelementptr i8, ptr {host}, i64 2")
    high = text.value(f"zext i16 {text.value(f'load i16, ptr {more}, align 2')} to i64")
    high = text.value(f"shl i64 {high}, 16")
    text.emit(f"ret i64 {text.value(f'or i64 {low}, {high}')}")
    return f"define i64 @word_of(ptr %s, ptr %rec) #0 {{\nentry:\n{text.body()}\n}}"


def _reference() -> str:
    """Leave for an instruction that only the reference can do, with its word."""
    text = Text()
    _state_store(text, "step_word", text.value("call i64 @word_of(ptr %s, ptr %rec)"))
    _away(text, abi.REFERENCE)
    return _function("reference", text)


def _wait() -> str:
    """After a WFI: go on where an interrupt is pending, enabled or not, else leave."""
    text = Text()
    ready = text.value("call i1 @wakes(ptr %s, i64 %budget)")
    text.emit(f"br i1 {ready}, label %on, label %sleep")
    text.label("sleep")
    _away(text, sysabi.WAIT)
    text.label("on")
    transfer(text, "%pc", "%budget")
    return _function("wait", text)


def _illegal() -> str:
    text = Text()
    hart = SystemHart(text)
    hart.trap(ILLEGAL_INSTRUCTION)
    text.emit("unreachable")
    return _function("h_0", text)


def _outer(name: str, first: str) -> str:
    """A C function that runs handler `first` with the guest's floating-point control word."""
    text = Text()
    own, guest = text.value(field("host_mxcsr")), text.value(field("mxcsr"))
    text.emit(host_x86.store_mxcsr(own))
    text.emit(host_x86.load_mxcsr(guest))
    running = text.value(field("running"))
    text.emit(f"store atomic i32 1, ptr {running} seq_cst, align 4")
    pc, budget = _state_load(text, "pc"), _state_load(text, "budget")
    rec = text.value(field("step_record"))
    text.emit(f"call {HANDLER_CC} void @{first}(ptr %s, i64 {pc}, ptr {rec}, i64 {budget})")
    text.emit(f"store atomic i32 0, ptr {running} seq_cst, align 4")
    text.emit(host_x86.store_mxcsr(guest))
    text.emit(host_x86.load_mxcsr(own))
    text.emit("ret void")
    return f"define void @{name}(ptr %s) #0 {{\nentry:\n{text.body()}\n}}"


def _frame() -> list[str]:
    return [
        *functions(SYSTEM), _leave(), _simple("stepped", abi.SLICE), _cross(), _fetch_miss(),
        _decode(), _once(), _over(), _take("interrupted", counted=False),
        _take("excepted", counted=True), _exception(), _word_of(), _reference(), _wait(),
        _illegal(), _outer("run", "over"), _outer("step", "once"), _outer("throw", "exception"),
    ]  # fmt: skip


def _links() -> Iterator[str]:
    """In a bank other than the base: go where the state says."""
    for place, (name, signature) in enumerate(LINKS.items()):
        text = Text()
        callee = text.value(f"load ptr, ptr {text.value(field('links', 8 * place))}")
        if signature is None:
            tail(text, callee, "%pc", "%rec", "%budget")
            yield _function(name, text).replace("define ", "define internal ", 1)
            continue
        result, parameters = signature
        call = f"call {result} {callee}({parameters})"
        if result == "void":
            text.emit(call)
            text.emit("ret void")
        else:
            text.emit(f"ret {result} {text.value(call)}")
        head = f"define internal {result} @{name}({parameters}) #0"
        yield f"{head} {{\nentry:\n{text.body()}\n}}"


def system_image(name: str) -> Image:
    """The image of a bank of system mode; see `worker.bank_image` for its meta."""
    bank = name.removeprefix(PREFIX)
    texts = list(_bank_text(bank))
    meta = b""
    if bank == "base":
        numbers, where = numbering(SYSTEM), banks(SYSTEM)
        meta = bytes([0, *(BANKS.index(where[key]) for key in numbers)])
        texts += [decoder_text(SYSTEM, numbers), *_frame()]
    else:
        texts += _links()
    return compile_image(texts, 1, meta)
