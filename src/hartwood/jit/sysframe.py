"""The frame of system mode's interpreter: handlers that every bank reaches, decoding, interrupts
and exceptions, and how Python comes in."""

from __future__ import annotations

from hartwood.bits.ssa import Text, Val
from hartwood.bits.words import ILLEGAL_INSTRUCTION
from hartwood.isa.riscv import trap
from hartwood.isa.riscv.system import MACHINE, SYSTEM
from hartwood.jit import abi, host_x86, sysabi
from hartwood.jit.calling import HANDLER_CC, is_stitched
from hartwood.jit.softmmu import addend, arrive, counted, found, look, probe, tail, transfer
from hartwood.jit.sysabi import CHUNK, FETCH, field
from hartwood.jit.sysfunctions import functions, meaning
from hartwood.jit.system import SystemHart, function
from hartwood.jit.words import NO_RESERVATION

#: In `attention`: only that the instruction before ran from a record of its own.
APART = 2


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
    return function("leave", text)


def _simple(name: str, reason: int) -> str:
    text = Text()
    _away(text, reason)
    return function(name, text)


def _cross() -> str:
    """The record after a page's last: the next instruction is on another page."""
    text = Text()
    transfer(text, "%pc", "%budget")
    return function("cross", text)


def _fetch_miss() -> str:
    text = Text()
    rec = text.value("call ptr @reach(ptr %s, i64 %pc, i64 0)")
    bad = text.value(f"icmp eq ptr {rec}, null")
    text.emit(f"br i1 {bad}, label %fault, label %go, !prof !1")
    text.label("fault")
    tail(text, "@exception", "%pc", rec, "%budget")
    text.label("go")
    counted(text, "%pc", rec, "%budget")
    return function("fetch_miss", text)


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
    return function("decode", text)


def _hot() -> str:
    """A record that control came to often: stitch what is there, if that can be done."""
    text = Text()
    stitch = text.value(f"inttoptr i64 {_state_load(text, 'stitch')} to ptr")
    none = text.value(f"icmp eq ptr {stitch}, null")
    text.emit(f"br i1 {none}, label %go, label %try")
    text.label("try")
    context = text.value(f"inttoptr i64 {_state_load(text, 'stitch_context')} to ptr")
    text.value(f"call i64 {stitch}(ptr %s, ptr {context}, ptr %rec)")
    where = text.value(f"lshr i64 {text.value('ptrtoint ptr %rec to i64')}, 4")
    index = text.value(f"and i64 {where}, {abi.HOT_SLOTS - 1}")
    counter = text.value(f"getelementptr i32, ptr {text.value(field('hot'))}, i64 {index}")
    threshold = text.value(f"trunc i64 {_state_load(text, 'hot_threshold')} to i32")
    text.emit(f"store i32 {threshold}, ptr {counter}")
    text.emit("br label %go")
    text.label("go")
    tail(text, text.value("load ptr, ptr %rec"), "%pc", "%rec", "%budget")
    return function("hot", text)


def _unit_exit() -> str:
    """A way out of a stitched unit to a record that may be worth stitching."""
    text = Text()
    look(text, "%pc", "%budget")
    counted(text, "%pc", "%rec", "%budget")
    return function("unit_exit", text)


def _sample(text: Text, budget: str) -> None:
    """Go on at `%pc` and remember its record: one of the places where most time is spent."""
    record = found(text, "%pc", budget, "hit2", "miss2")
    count = _state_load(text, "sampled")
    _state_store(text, "sampled", text.value(f"add i64 {count}, 1"))
    index = text.value(f"and i64 {count}, {sysabi.SAMPLES - 1}")
    slot = text.value(f"getelementptr i64, ptr {text.value(field('samples'))}, i64 {index}")
    text.emit(f"store ptr {record}, ptr {slot}")
    counted(text, "%pc", record, budget)


def _leap() -> str:
    """Where regions go on: straight to code that is stitched or translated, else by way of what
    counts where control goes."""
    text = Text()
    look(text, "%pc", "%budget")
    record = found(text, "%pc", "%budget", "hit", "miss")
    handler = text.value(f"load ptr, ptr {record}")
    made = is_stitched(text, handler, f"load i64, ptr {text.value(field('area'))}")
    text.emit(f"br i1 {made}, label %fast, label %slow, !prof !0")
    text.label("fast")
    tail(text, handler, "%pc", record, "%budget")
    text.label("slow")
    counted(text, "%pc", record, "%budget")
    return function("leap", text)


def _unit_once() -> str:
    """An instruction of a unit that needs the interpreter. Its record may be the unit's by now, so
    that it is decoded again; it transfers nowhere, and lies within a page."""
    text = Text()
    where = probe(text, "%pc", "%pc", FETCH, "hit", "miss")
    text.label("hit")
    near = text.value(f"add i64 {text.value('shl i64 %pc, 3')}, {addend(text, where)}")
    text.emit("br label %found")
    text.label("miss")
    far = text.value("call i64 @reach(ptr %s, i64 %pc, i64 0)")
    text.emit("br label %found")
    text.label("found")
    at = text.value(f"phi i64 [{near}, %hit], [{far}, %miss]")
    gone = text.value(f"icmp eq i64 {at}, 0")
    text.emit(f"br i1 {gone}, label %fault, label %go, !prof !1")
    text.label("fault")  # another hart has taken the page away meanwhile
    tail(text, "@exception", "%pc", "null", "%budget")
    text.label("go")
    here = text.value(f"inttoptr i64 {at} to ptr")
    word = text.value(f"call i64 @word_of(ptr %s, ptr {here})")
    record = text.value(field("step_record"))
    _state_store(text, "step_word", word)
    handler = _decode_to(text, text.value(f"trunc i64 {word} to i32"), record)
    for skip in (abi.RECORD, 2 * abi.RECORD):
        text.emit(f"store ptr @cross, ptr {text.value(field('step_record', skip))}")
    tail(text, handler, "%pc", record, "%budget")
    return function("unit_once", text)


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
    return function("once", text)


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
    _sample(text, text.value(f"add i64 %budget, {chunk}"))
    text.label("away")
    _away(text, abi.SLICE)
    return function("over", text)


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
    return function(name, text)


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
    return function("exception", text)


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
    return function("reference", text)


def _wait() -> str:
    """After a WFI: go on where an interrupt is pending, enabled or not, else leave."""
    text = Text()
    ready = text.value("call i1 @wakes(ptr %s, i64 %budget)")
    text.emit(f"br i1 {ready}, label %on, label %sleep")
    text.label("sleep")
    _away(text, sysabi.WAIT)
    text.label("on")
    transfer(text, "%pc", "%budget")
    return function("wait", text)


def _illegal() -> str:
    text = Text()
    hart = SystemHart(text)
    hart.trap(ILLEGAL_INSTRUCTION)
    text.emit("unreachable")
    return function("h_0", text)


def _outer(name: str, first: str) -> str:
    """A C function that runs handler `first` with the guest's floating-point control word."""
    text = Text()
    _call(text, first)
    text.emit("ret void")
    return f"define void @{name}(ptr %s) #0 {{\nentry:\n{text.body()}\n}}"


def _steps() -> str:
    """A C function that takes `left` single steps, or as many as come before the pc is `until` or
    before something that Python has to know. What a step does not retire it gives back, but for a
    trap."""
    text = Text()
    text.emit("br label %again")
    text.label("again")
    retired = text.value(f"sub i64 {_state_load(text, 'goal')}, {_state_load(text, 'budget')}")
    _state_store(text, "goal", text.value(f"add i64 {retired}, 1"))
    _state_store(text, "budget", "1")
    before = _state_load(text, "left")
    _state_store(text, "left", "0")
    _call(text, "once")
    left = text.value(f"add i64 {before}, {_state_load(text, 'budget')}")
    left = text.value(f"sub i64 {left}, 1")
    _state_store(text, "left", left)
    stop = text.value(f"load volatile i32, ptr {text.value(field('stop'))}")
    holds = [
        f"icmp eq i64 {_state_load(text, 'reason')}, {abi.SLICE}",
        f"icmp eq i32 {stop}, 0",
        f"icmp sgt i64 {left}, 0",
        f"icmp ne i64 {_state_load(text, 'pc')}, {_state_load(text, 'until')}",
    ]
    more = "true"
    for hold in holds:
        more = text.value(f"and i1 {more}, {text.value(hold)}")
    text.emit(f"br i1 {more}, label %again, label %end")
    text.label("end")
    text.emit("ret void")
    return f"define void @step(ptr %s) #0 {{\nentry:\n{text.body()}\n}}"


def _call(text: Text, first: str) -> None:
    """Run a handler and what follows, with the guest's floating-point control word."""
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


def frame() -> list[str]:
    """Text of all of it; `@decode_word` and the handlers are in the same module."""
    return [
        *functions(SYSTEM), _leave(), _simple("stepped", abi.SLICE), _cross(), _fetch_miss(),
        _decode(), _hot(), _unit_exit(), _leap(), _unit_once(), _once(), _over(),
        _take("interrupted", counted=False), _take("excepted", counted=True), _exception(),
        _word_of(), _reference(), _wait(), _illegal(),
        _outer("run", "over"), _outer("throw", "exception"), _steps(),
    ]  # fmt: skip
